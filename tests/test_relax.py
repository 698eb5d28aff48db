"""Relax: our own FNO adopted, residuals orthogonal to what is tied, trained, released, refused."""

import copy
import math
from unittest.mock import patch

import laws
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, groups
from test_enforce_nets import BlockConv, Mix, block_net, conv
from torch import nn
from torch.func import functional_call, jvp

import fieldsym as fs
from fieldsym.operators import adopt, adopt_tables, adopt_tie, relaxed
from fieldsym.operators.constraints import PointwiseConstraint
from fieldsym.symmetry.promote_relax import relax, residual_parameters, residual_share
from fieldsym.symmetry.promote_weights import WeightGram

neuralop = pytest.importorskip("neuralop")

D4, D2, C4 = groups.dihedral(4), groups.dihedral(2), groups.cyclic(4)
FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
PRESSURE, WIND = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "vector u")
RECTANGLE = fs.Bundle(OBLONG, "pseudoscalar w + vector u")
CHANNEL = fs.Bundle(fs.Box((2.0, 3.0), periodic=(True, False)), "scalar p + vector u")
LINE = fs.Bundle(fs.Torus((2.0,)), "scalar p + vector u")
CUBE = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "scalar p + symmetric traceless tensor t")


def ours(source=FLOW, target=None, **options):
    options = {"n_modes": (5,) * source.base.dim, "hidden_channels": 16, "n_layers": 2} | options
    return fs.FNO(source, source if target is None else target, **options)


def theirs(source=FLOW, kind="FNO", **options):
    options = {"n_modes": (5, 5), "hidden_channels": 16, "n_layers": 2} | options
    return getattr(neuralop.models, kind)(
        in_channels=source.channels,
        out_channels=source.channels,
        positional_embedding=None,
        **options,
    )


def cast(model, dtype):
    """In a precision; complex weights, and what meets them, stay single."""
    return model if any(p.is_complex() for p in model.parameters()) else model.to(dtype)


def widen(model):
    """Random numbers in every parameter: initial biases are zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("model", [ours, theirs])
def test_the_weights_of_a_relaxed_module_are_read(model):
    """The penalty sees what the two paths add up to; symmetric weights cost nothing."""
    model = widen(model())
    gram = WeightGram(copy.deepcopy(model), D4, FLOW, FLOW)
    wanted = torch.stack([*gram()[1], gram()[2]])
    relax(model, D4, FLOW, FLOW)
    found = WeightGram(model, D4, FLOW, FLOW)()
    assert torch.allclose(torch.stack([*found[1], found[2]]), wanted, rtol=1e-5)
    found[1].sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    fs.release(model)
    relax(model, D4, FLOW, FLOW, symmetric=True)
    assert WeightGram(model, D4, FLOW, FLOW)()[1].abs().max() < 1e-4


# Our own FNO is adopted ---------------------------------------------------------------------------

ADOPTED = {
    "D4": (D4, FLOW, None, (12, 12), {}),
    "scalar to vector, C4, odd": (C4, PRESSURE, WIND, (11, 11), {}),
    "rectangle": (D2, RECTANGLE, None, (16, 24), {"n_modes": (5, 7)}),
    "translations too": (groups.translations(2) * D4, FLOW, None, (12, 12), {}),
    "grid as input": (
        *(groups.translations(2) * D4, FLOW, None, (12, 12)),
        {"positional_embedding": "grid"},
    ),
    "channel": (D2, CHANNEL, None, (10, 13), {"n_modes": (5, 7), "positional_embedding": "grid"}),
    "1-D": (groups.reflections(1), LINE, None, (13,), {}),
    "norm": (D4, FLOW, None, (12, 12), {"norm": "instance_norm"}),
    "group norm": (D4, FLOW, None, (12, 12), {"norm": "group_norm", "n_layers": 1}),
    "linear ends, gates": (
        *(D4, FLOW, None, (12, 12)),
        {
            **{"lifting_channel_ratio": 0, "projection_channel_ratio": 0},
            **{"fno_skip": "soft-gating", "positional_embedding": "grid"},
        },
    ),
    "left-over channels": (D4, FLOW, None, (12, 12), {"hidden_channels": 20}),
}


@pytest.mark.parametrize("case", ADOPTED.values(), ids=ADOPTED.keys())
def test_an_fno_is_enforced_exactly_and_released(case, dtype):
    group, source, target, grid, options = case
    target = target or source
    model = widen(ours(source, target, **options)).to(dtype)
    fresh = copy.deepcopy(model)
    assert fs.enforce(model, group, source, target) is model
    widen(model)
    points = group if group.elements else D4
    # a vector has no mean that rounding could hide behind
    tolerance = EXACT[dtype] * (10 if target is WIND else 1)
    laws.assert_equivariant(model, points, source, target, grid, dtype, tolerance)
    if all(source.base.periodic):
        u = laws.noise(source, grid, dtype)
        shifted = model(u.roll(3, -1))
        laws.assert_close(shifted, model(u).roll(3, -1), tolerance)
    u = laws.noise(source, grid, dtype)
    value = model(u)
    fresh.load_state_dict(fs.release(model).state_dict())
    assert torch.equal(fresh(u), value)


@pytest.mark.parametrize("options", [{}, {"norm": "group_norm"}, {"use_channel_mlp": False}])
def test_an_enforced_fno_has_as_many_numbers_as_one_that_was_built_so(options):
    built = ours(group=D4, **options)
    found = fs.enforce(ours(**options), D4, FLOW, FLOW)
    assert [sum(p.numel() for p in m.parameters()) for m in (found,)] == [
        sum(p.numel() for p in built.parameters())
    ]


def assert_convolution_is_the_mean(group, bundle, n_modes, grid):
    """The projected convolution is the mean of g⁻¹ F g: its nearest equivariant operator."""
    order = group.order
    model = ours(bundle, n_modes=n_modes, hidden_channels=2 * order, n_layers=1).double()
    before = copy.deepcopy(model.layers[0].convolution)
    fs.project_(model, group, bundle, bundle)
    hidden = fs.Bundle(bundle.base, fs.Representation("2 regular", bundle.base.dim, group))
    u = laws.noise(hidden, grid)
    mean = sum(fs.act(g.inverse, before(fs.act(g, u, hidden)), hidden) for g in group.elements)
    laws.assert_close(model.layers[0].convolution(u), mean / order, 1e-12)


MEANS = [
    (D4, FLOW, (5, 5), (8, 8)),
    (C4, FLOW, (5, 5), (9, 9)),
    (D2, RECTANGLE, (5, 7), (8, 12)),
    (groups.dihedral(1), RECTANGLE, (5, 3), (9, 8)),
    (groups.reflections(1), LINE, (7,), (9,)),
]


@pytest.mark.parametrize("case", MEANS, ids=str)
def test_projected_convolutions_are_the_mean_over_the_group(case):
    assert_convolution_is_the_mean(*case)


def broken_multiplicity(modes):
    """Forgets that a stored mode stands for its partner −k."""
    return torch.ones(len(modes), dtype=torch.float64).numpy()


def test_the_mean_needs_the_partners():
    """A real field on columns k and rows k alike: all but k = 0 count twice."""
    broken = adopt_tables.multiplicity
    assert broken(torch.tensor([[0, 0], [1, 0], [-1, 1], [0, 1]]).numpy()).tolist() == [1, 2, 2, 2]
    net = block_net(FLOW, FLOW, (4, 4), 16, True).double()
    conv_before = copy.deepcopy(net[1])
    hidden = fs.Bundle(SQUARE, fs.Representation("2 regular", 2, D4))
    u = 0.0 * laws.noise(hidden, (8, 8))
    x, y = SQUARE.coordinates((8, 8), centred=True) * (2 * math.pi / SQUARE.lengths[0])
    u = u + (x.cos() + 2 * y.cos()) * torch.randn(2, 16, 1, 1, dtype=u.dtype)

    def assert_mean(layer):
        mean = sum(
            fs.act(g.inverse, conv_before(fs.act(g, u, hidden)), hidden) for g in D4.elements
        )
        laws.assert_close(layer(u), mean / D4.order, 1e-12)

    right, wrong = copy.deepcopy(net), copy.deepcopy(net)
    fs.project_(right, D4, FLOW, FLOW)
    assert_mean(right[1])
    with patch.object(adopt_tie, "multiplicity", broken_multiplicity):
        fs.project_(wrong, D4, FLOW, FLOW)
    with pytest.raises(AssertionError):
        assert_mean(wrong[1])


def broken_moves(group, modes):
    """A half set whose partners −k are not conjugated."""
    return [
        adopt_tables.Move(m.g, m.target, m.conjugate & False)
        for m in adopt_tables.mode_moves(group, modes)
    ]


def test_wrong_ties_are_measured_and_undone():
    model = ours(n_layers=1).double()
    state = copy.deepcopy(model.state_dict())
    with (
        patch.object(adopt_tie, "mode_moves", broken_moves),
        pytest.raises(fs.GroupError, match="does not commute with"),
    ):
        relax(model, C4, FLOW, FLOW)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


# Relaxed weights ----------------------------------------------------------------------------------

RELAXED = {
    "FNO": (D4, FLOW, (12, 12), ours, torch.float64),
    "FNO, single": (D4, FLOW, (12, 12), ours, torch.float32),
    "rectangle": (
        *(D2, RECTANGLE, (10, 14)),
        lambda: ours(RECTANGLE, n_modes=(5, 7), norm="group_norm"),
        torch.float64,
    ),
    "grid as input": (
        *(groups.translations(2) * C4, FLOW, (12, 12)),
        lambda: ours(positional_embedding="grid"),
        torch.float64,
    ),
    "neuraloperator": (D4, FLOW, (12, 12), theirs, torch.float32),
    "convolutions": (
        *(D4, FLOW, (8, 8)),
        lambda: nn.Sequential(conv(3, 16), nn.GELU(), conv(16, 3)),
        torch.float64,
    ),
    "blocks": (D4, FLOW, (12, 12), lambda: block_net(FLOW, FLOW, (4, 4), 16, True), torch.float32),
    "complex blocks": (
        *(D2, RECTANGLE, (10, 13)),
        lambda: block_net(RECTANGLE, RECTANGLE, (3, 4), 8, False),
        torch.float32,
    ),
    "mixed channels": (
        *(groups.octahedral(reflections=False), CUBE, (4, 4, 4)),
        lambda: nn.Sequential(conv(6, 24, 1, 3), nn.GELU(), conv(24, 6, 1, 3)),
        torch.float64,
    ),
}
MIXED = ("mixed channels",)  # there D is added as it is


def zeroed(model):
    """A copy without residuals."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in residual_parameters(twin):
            p.zero_()
    return twin


def stirred(model):
    """A copy with random residuals."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in residual_parameters(twin):
            p.copy_(0.1 * torch.randn_like(p))
    return twin


@pytest.mark.parametrize("name", RELAXED)
def test_relaxing_changes_nothing_and_without_residuals_is_exact(name):
    group, bundle, grid, make, dtype = RELAXED[name]
    model = cast(widen(make()), dtype)
    plain, enforced, tied = (copy.deepcopy(model) for _ in range(3))
    assert relax(model, group, bundle, bundle) is model
    u = laws.noise(bundle, grid, dtype)
    laws.assert_close(model(u), plain(u), 0.5 * EXACT[dtype])
    points = group if group.elements else C4
    with pytest.raises(AssertionError):
        laws.assert_equivariant(model, points, bundle, bundle, grid, dtype, 1e-3)
    still = zeroed(model)
    laws.assert_equivariant(still, points, bundle, bundle, grid, dtype, EXACT[dtype])
    fs.enforce(enforced, group, bundle, bundle)
    assert torch.equal(still(u), enforced(u))
    relax(tied, group, bundle, bundle, symmetric=True)
    assert torch.equal(tied(u), enforced(u))
    assert not any(residual_share(tied).values())
    removed = fs.project_(plain, group, bundle, bundle)
    assert residual_share(model) == pytest.approx(removed, abs=1e-6)


@pytest.mark.parametrize("name", RELAXED)
def test_every_parameter_learns_and_release_gives_plain_weights(name):
    group, bundle, grid, make, dtype = RELAXED[name]
    model = cast(make(), dtype)
    fresh = copy.deepcopy(model)
    model = stirred(relax(model, group, bundle, bundle))
    u = laws.noise(bundle, grid, dtype)
    value = model(u)
    value.square().sum().backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert p.grad.abs().max() > 0, parameter
    assert torch.equal(fs.release(model)(u), value)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(u), value)


@pytest.mark.parametrize("name", [name for name in RELAXED if name not in MIXED])
def test_residuals_are_orthogonal_to_what_is_tied(name):
    group, bundle, _, make, dtype = RELAXED[name]
    model = stirred(relax(cast(make(), dtype), group, bundle, bundle))
    assert_orthogonal(model, group, bundle, dtype)


def assert_orthogonal(model, group, bundle, dtype):
    """Projecting the released weights leaves the tied part, whatever the residuals are."""
    tied, whole = fs.release(zeroed(model)), fs.release(copy.deepcopy(model))
    removed = fs.project_(whole, group, bundle, bundle)
    assert max(removed.values()) > 0.01
    want = tied.state_dict()
    for name, value in whole.named_parameters():
        assert torch.allclose(value, want[name], atol=5 * EXACT[dtype]), name


class BrokenResidual(relaxed.Residual):
    """Adds D as it is."""

    def forward(self, weight):
        return weight + self.dense


def test_a_residual_that_is_not_projected_fails():
    with patch.object(relaxed, "Residual", BrokenResidual):
        model = stirred(relax(ours().double(), D4, FLOW, FLOW))
    with pytest.raises(AssertionError):
        assert_orthogonal(model, D4, FLOW, torch.float64)


def test_registered_layers_are_relaxed(dtype):
    adopt.register(Mix, lambda layer, i, o: {"matrix": PointwiseConstraint(i, o)})
    try:
        model = nn.Sequential(Mix(3, 16), nn.GELU(), Mix(16, 3)).to(dtype)
        plain = copy.deepcopy(model)
        relax(model, D4, FLOW, FLOW)
        u = laws.noise(FLOW, (8, 8), dtype)
        laws.assert_close(model(u), plain(u), EXACT[dtype])
        laws.assert_equivariant(zeroed(model), D4, FLOW, FLOW, (8, 8), dtype, EXACT[dtype])
        removed = fs.project_(plain, D4, FLOW, FLOW)
        assert residual_share(model) == pytest.approx(removed, rel=1e-5)
    finally:
        adopt._REGISTERED.pop(Mix)


def test_tucker_weights_become_dense():
    model = theirs(kind="TFNO", factorization="Tucker", rank=0.5, implementation="reconstructed")
    u = laws.noise(FLOW, (12, 12), torch.float32)
    value = model(u).detach()
    relax(model, D4, FLOW, FLOW)
    laws.assert_close(model(u), value, 2e-6)
    laws.assert_equivariant(zeroed(model), D4, FLOW, FLOW, (12, 12), torch.float32, 2e-6)
    dense = theirs()
    dense.load_state_dict(fs.release(model).state_dict())
    assert torch.equal(dense(u), model(u))


@pytest.mark.parametrize("make", [ours, theirs, lambda: block_net(FLOW, FLOW, (4, 4), 16, False)])
def test_copies_and_checkpoints(make):
    model = stirred(relax(make(), D4, FLOW, FLOW))
    u = laws.noise(FLOW, (12, 12), torch.float32)
    value = model(u)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in residual_parameters(twin):
            p.mul_(2.0)
    changed = twin(u)
    assert torch.equal(model(u), value)
    laws.assert_close(fs.release(twin)(u), changed, 0.0)
    assert torch.equal(model(u), value)
    other = relax(make(), D4, FLOW, FLOW)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(u), value)


def test_functional_calls_and_derivatives():
    model = stirred(relax(ours().double(), D4, FLOW, FLOW))
    state = {name: p.detach() for name, p in model.named_parameters()}
    u, v = laws.noise(FLOW, (12, 12)), laws.noise(FLOW, (12, 12))
    assert torch.equal(functional_call(model, state, (u,)), model(u))
    way = {name: torch.randn_like(p) for name, p in state.items()}
    _, slope = jvp(lambda s: functional_call(model, s, (u,)), (state,), (way,))
    h = 1e-5
    ends = [
        functional_call(model, {n: p + t * way[n] for n, p in state.items()}, (u,)) for t in (h, -h)
    ]
    laws.assert_close((ends[0] - ends[1]) / (2 * h), slope, 1e-6)
    value, slopes = model.push_forward(u, v[None])
    laws.assert_close(value, model(u), 1e-12)
    laws.assert_close(slopes[0], jvp(model, (u,), (v,))[1], 1e-12)


def test_frozen_parameters_stay_frozen():
    model = ours()
    model.layers[0].convolution.requires_grad_(False)
    relax(model, D4, FLOW, FLOW)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert len(frozen) == 4  # free numbers and residual of k = 0 and of the rest
    assert all(name.startswith("layers.0.convolution") for name in frozen)


def test_coordinates_belong_to_the_residual():
    """Only the residual of the lifting knows where it is."""
    group = groups.translations(2) * D4
    model = relax(ours(positional_embedding="grid").double(), group, FLOW, FLOW)
    lifting = zeroed(model).lifting.first.weight.matrices[0, 0]
    assert not lifting[:, 3:].any()
    assert lifting[:, :3].abs().min() > 0
    assert model.lifting.first.weight.matrices[0, 0, :, 3:].abs().min() > 0


def test_the_exact_norms_of_the_weights_see_the_residuals_alone():
    """A second derivation of what is symmetric: Lie derivatives and images of the weights."""
    group = groups.translations(2) * D4
    model = ours(positional_embedding="grid", n_layers=1).double()
    model = widen(relax(model, group, FLOW, FLOW, symmetric=True))
    gram, images, size = WeightGram(zeroed(model), group, FLOW, FLOW, None)()
    assert max(gram.abs().max(), images.max()) < 1e-12 * size
    gram, images, size = WeightGram(model, group, FLOW, FLOW, None)()
    assert min(gram.diagonal().min(), images.min()) > 1e-3 * size
    images.sum().backward()
    residual = {id(p) for p in residual_parameters(model)}
    for name, p in model.named_parameters():
        slope = 0.0 if p.grad is None else float(p.grad.norm())
        assert (slope > 1e-9) == (id(p) in residual), name


def test_a_large_decay_leads_to_the_symmetric_solution():
    """On symmetric data: shares fall with a decay on the residuals, and stay without one."""
    heat = fs.simulate.heat_flow(SQUARE, time=0.01)
    u = laws.noise(PRESSURE, (8, 8), batch=2)
    u = torch.cat([fs.act(g, u, PRESSURE) for g in D4.elements])
    start = ours(PRESSURE, n_modes=3, hidden_channels=8, n_layers=1).double()

    def trained(decay):
        model = relax(copy.deepcopy(start), D4, PRESSURE, PRESSURE)
        residual = residual_parameters(model)
        others = [p for p in model.parameters() if all(p is not r for r in residual)]
        optimiser = torch.optim.AdamW(
            [{"params": others}, {"params": residual, "weight_decay": decay}],
            0.01,
            weight_decay=0.0,
        )
        losses = []
        for _ in range(40):
            optimiser.zero_grad()
            losses.append((model(u) - heat(u)).square().mean())
            losses[-1].backward()
            optimiser.step()
        return model, float(losses[-1].detach() / losses[0].detach())

    (kept, fell), (free, _) = trained(60.0), trained(0.0)
    assert fell < 0.2
    shares = [[s for n, s in residual_share(m).items() if "bias" not in n] for m in (kept, free)]
    assert sum(shares[0]) < 0.1 * sum(shares[1])  # Adam leaves entries of about 1 / decay
    turn = D4.elements[1]
    error, control = (
        laws.relative(m(fs.act(turn, u, PRESSURE)) - fs.act(turn, m(u), PRESSURE), m(u))
        for m in (kept, free)
    )
    assert error < 0.1 * control


# Refusals -----------------------------------------------------------------------------------------

REFUSED = {
    "built for a group": (
        lambda: (ours(group=C4), D4, FLOW, FLOW),
        {},
        (fs.GroupError, r"built for cyclic\(4\), and its weights are tied already"),
    ),
    "other bundles": (
        lambda: (ours(), D4, FLOW, fs.Bundle(SQUARE, "3 scalar")),
        {},
        (fs.BundleError, "bundle_out is the bundle that the FNO was built with.*3 scalar"),
    ),
    "a dictionary": (
        lambda: (ours(), D4, FLOW, FLOW),
        {"hidden": {"lifting": "2 regular"}},
        (fs.RepresentationError, "All features inside an FNO have one type"),
    ),
    "no whole number": (
        lambda: (ours(hidden_channels=20), D4, FLOW, FLOW),
        {"hidden": "regular"},
        (fs.RepresentationError, "no whole number"),
    ),
    "bent vectors": (
        lambda: (ours(), D4, FLOW, FLOW),
        {"hidden": "8 vector"},
        (fs.GroupError, "bend every channel of '8 vector' by itself"),
    ),
    "scalars alone": (
        lambda: (ours(), D4, FLOW, FLOW),
        {"hidden": "scalar"},
        (fs.RepresentationError, "cannot make"),
    ),
    "exchanged axes": (
        lambda: (ours(n_modes=(5, 7)), D4, FLOW, FLOW),
        {},
        (fs.GridError, r"n_modes \(5, 7\), but dihedral\(4\) exchanges the axes"),
    ),
    "continuous rotations": (
        lambda: (ours(), groups.so(2), FLOW, FLOW),
        {},
        (fs.GroupError, "rotation"),
    ),
    "twice": (
        lambda: (relax(ours(), D4, FLOW, FLOW), D4, FLOW, FLOW),
        {},
        (fs.GroupError, "already enforced"),
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refusals(case):
    arguments, options, (error, message) = case
    with pytest.raises(error, match=message):
        relax(*arguments(), **options)


@pytest.mark.parametrize("ask", [residual_parameters, residual_share])
def test_only_relaxed_modules_have_residuals(ask):
    with pytest.raises(fs.GroupError, match=r"not relaxed.*Call fs\.relax"):
        ask(fs.enforce(ours(), D4, FLOW, FLOW))
    with pytest.raises(fs.GroupError, match=r"module is an nn\.Module"):
        ask(BlockConv)
