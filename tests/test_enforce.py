"""Enforce on neuraloperator: exact, trained, released into untouched classes, or refused."""

import copy
import itertools
from dataclasses import replace
from unittest.mock import patch

import laws
import numpy as np
import pytest
import torch
from catalogue import OBLONG, SQUARE, groups
from torch.func import functional_call

import fieldsym as fs
from fieldsym.operators import adopt_neuralop, adopt_tables, adopt_tie

neuralop = pytest.importorskip("neuralop")
from neuralop.layers.normalization_layers import AdaIN  # noqa: E402
from neuralop.layers.spectral_convolution import SpectralConv  # noqa: E402
from neuralop.models import FNO, TFNO, UNO  # noqa: E402

D4, D2 = groups.dihedral(4), groups.dihedral(2)
FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
WHIRL = fs.Bundle(SQUARE, "pseudoscalar w + vector u + symmetric tensor s")
RECTANGLE = fs.Bundle(OBLONG, "pseudoscalar w + vector u")
LINE = fs.Bundle(fs.Torus((2.0,)), "scalar p + vector u")
CUBE = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "scalar p + vector u")
TOLERANCE = 2e-6


def make(source=FLOW, target=None, kind=FNO, **options):
    target = source if target is None else target
    options = {
        "n_modes": (5,) * source.base.dim,
        "hidden_channels": 16,
        "n_layers": 2,
        "positional_embedding": None,
    } | options
    return kind(in_channels=source.channels, out_channels=target.channels, **options)


def assert_exact(model, group, source, target, grid):
    laws.assert_equivariant(model, group, source, target, grid, torch.float32, TOLERANCE)
    laws.assert_translates(model, source, grid, torch.float32, TOLERANCE)


def assert_learns(model, u):
    model(u).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


CASES = {
    "D4": (D4, FLOW, WHIRL, (12, 12), {}),
    "C4": (groups.cyclic(4), FLOW, WHIRL, (10, 10), {"n_layers": 1}),
    "D2 on a rectangle": (D2, RECTANGLE, RECTANGLE, (10, 14), {"n_modes": (5, 7)}),
    "reality alone": (groups.trivial(2), RECTANGLE, RECTANGLE, (10, 14), {"n_modes": (5, 7)}),
    "with translations": (groups.translations(2) * D4, FLOW, FLOW, (12, 12), {}),
    "1-D, odd grid": (groups.reflections(1), LINE, LINE, (13,), {}),
    "3-D": (
        *(groups.octahedral(reflections=False), CUBE, CUBE, (6, 6, 6)),
        {"n_modes": (3, 3, 3), "hidden_channels": 24, "n_layers": 1},
    ),
    "left-over channels": (D4, FLOW, FLOW, (12, 12), {"hidden_channels": 20}),
    "gates and linear skips": (
        *(D4, FLOW, WHIRL, (12, 12)),
        {"fno_skip": "soft-gating", "channel_mlp_skip": "linear"},
    ),
    "identity skips": (
        D4,
        FLOW,
        FLOW,
        (12, 12),
        {"fno_skip": "identity", "channel_mlp_skip": None},
    ),
    "no MLP, linear lifting": (
        *(D4, FLOW, FLOW, (12, 12)),
        {"use_channel_mlp": False, "lifting_channel_ratio": 0},
    ),
    "instance norm": (D4, FLOW, FLOW, (12, 12), {"norm": "instance_norm"}),
    "group norm": (D4, FLOW, WHIRL, (12, 12), {"norm": "group_norm"}),
    "preactivation": (D4, FLOW, FLOW, (12, 12), {"preactivation": True, "stabilizer": "tanh"}),
    "separable": (D4, FLOW, FLOW, (12, 12), {"separable": True}),
    "incremental": (D4, FLOW, FLOW, (12, 12), {"max_n_modes": (9, 9)}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_exact_trainable_and_released(case):
    group, source, target, grid, options = case
    model = make(source, target, **options)
    before = sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())
    assert fs.enforce(model, group, source, target) is model
    assert sum(p.numel() for p in model.parameters()) < before
    points = group if group.elements else D4
    assert_exact(model, points, source, target, grid)
    u = laws.noise(source, grid, torch.float32)
    assert_learns(model, u)
    value = model(u)
    assert fs.release(model) is model
    assert torch.equal(model(u), value)
    fresh = make(source, target, **options)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(u), value)


@pytest.mark.parametrize("implementation", ["factorized", "reconstructed"])
def test_tucker_weights_become_dense(implementation):
    options = {"rank": 0.3, "implementation": implementation}
    model = fs.enforce(make(kind=TFNO, **options), D4, FLOW, FLOW)
    assert_exact(model, D4, FLOW, FLOW, (12, 12))
    u = laws.noise(FLOW, (12, 12), torch.float32)
    assert_learns(model, u)
    value = model(u)
    fresh = make()
    fresh.load_state_dict(fs.release(model).state_dict())
    assert torch.equal(model(u), value)
    assert torch.equal(fresh(u), value)
    other = make(kind=TFNO, **options)
    assert "fno_blocks.convs.0.weight" in fs.project_(other, D4, FLOW, FLOW)
    assert_exact(other, D4, FLOW, FLOW, (12, 12))


def multiplier(weight, cut):
    """R(k) of a stored half spectrum, as the inverse real transform reads it."""
    full = {}
    for kx, ky in itertools.product(range(-cut, cut + 1), repeat=2):
        one, other = (weight[:, :, s * kx + cut, abs(ky)].mT for s in (1, -1))
        if ky == 0:
            full[kx, ky] = (one + other.conj()) / 2
        else:
            full[kx, ky] = one if ky > 0 else other.conj()
    return full


def reynolds(full, group, left, right):
    """Mean of ρ_out(g) R(g⁻¹k) ρ_in(g)⁻¹."""
    return {
        k: sum(
            left(g) @ full[tuple(int(c) for c in np.rint(g.inverse.matrix @ k))] @ right(g.inverse)
            for g in group.elements
        )
        / group.order
        for k in full
    }


@pytest.mark.parametrize("group", [groups.cyclic(4), D4, groups.dihedral(1)], ids=repr)
def test_spectral_weights_are_the_mean_over_the_group(group):
    """Against a dense average of the whole multiplier, with the types of scalars and vectors."""
    conv = SpectralConv(3, 5, (7, 7))
    whirl = fs.Bundle(SQUARE, "pseudoscalar w + 2 vector u")
    weight = conv.weight.to_tensor().detach().to(torch.complex128)
    left, right = (
        lambda g, rep=b.representation: rep.rho(g).to(torch.complex128) for b in (whirl, FLOW)
    )
    want = reynolds(multiplier(weight, 3), group, left, right)
    removed = fs.project_(conv, group, FLOW, whirl)
    got = multiplier(conv.weight.to_tensor().detach().to(torch.complex128), 3)
    for k, matrix in want.items():
        assert (got[k] - matrix).abs().max() < 1e-6
    stored = conv.weight.to_tensor().detach()
    assert removed["weight"] == pytest.approx(float((stored - weight).norm() / weight.norm()))
    column = stored[:, :, :, 0]
    assert torch.equal(column, column.flip(2).conj())


def test_a_scalar_network_that_is_symmetric_stays_what_it_was():
    scalar = fs.Bundle(SQUARE, "scalar p")
    model = make(scalar, n_layers=1)
    fs.project_(model, D4, scalar, scalar)
    u = laws.noise(scalar, (12, 12), torch.float32)
    value = model(u)
    again = fs.project_(model, D4, scalar, scalar)
    assert max(again.values()) < 1e-7
    assert torch.allclose(model(u), value, atol=1e-6)
    fs.enforce(model, D4, scalar, scalar)
    assert torch.allclose(model(u), value, atol=1e-6)


def test_projection_keeps_the_parameters_themselves():
    model = make()
    before = dict(model.named_parameters())
    removed = fs.project_(model, D4, FLOW, FLOW)
    assert dict(model.named_parameters()) == before
    assert not adopt_tie.constrained(model)
    assert set(removed) == {n.removesuffix(".tensor") for n in before}
    assert all(0 <= r <= 1 for r in removed.values())
    assert_exact(model, D4, FLOW, FLOW, (12, 12))


def test_stays_exact_in_training():
    model = fs.enforce(make(FLOW, WHIRL), D4, FLOW, WHIRL)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    u, target = laws.noise(FLOW, (12, 12), torch.float32), laws.noise(WHIRL, (12, 12))
    losses = []
    for _ in range(3):
        loss = (model(u) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert_exact(model, D4, FLOW, WHIRL, (14, 14))
    projected = copy.deepcopy(model)
    fs.release(projected)
    assert max(fs.project_(projected, D4, FLOW, WHIRL).values()) < 1e-6


def test_frozen_parameters_stay_frozen():
    model = make(n_layers=1)
    for p in model.lifting.parameters():
        p.requires_grad_(False)
    fs.enforce(model, D4, FLOW, FLOW)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert len(frozen) == 4
    fs.release(model)
    assert sum(not p.requires_grad for p in model.parameters()) == 4
    assert not list(model.buffers())


def test_copies_and_checkpoints():
    model = fs.enforce(make(), D4, FLOW, FLOW)
    u = laws.noise(FLOW, (12, 12), torch.float32)
    value = model(u)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(u), value)
    fs.release(twin)  # must leave the original alone
    assert torch.equal(model(u), value)
    other = fs.enforce(make(), D4, FLOW, FLOW)
    assert not torch.equal(other(u), value)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(u), value)


def test_functional_calls_and_derivatives():
    model = fs.enforce(make(n_layers=1), D4, FLOW, FLOW)
    u, v = (laws.noise(FLOW, (8, 8), torch.float32) for _ in range(2))
    parameters = dict(model.named_parameters())
    assert torch.equal(functional_call(model, parameters, (u,)), model(u))
    double = {name: 2 * p.detach() for name, p in parameters.items()}
    assert not torch.allclose(functional_call(model, double, (u,)), model(u))
    _, pushed = torch.func.jvp(model, (u,), (v,))
    slope = (model(u + 1e-2 * v) - model(u - 1e-2 * v)) / 2e-2
    laws.assert_close(pushed, slope, 2e-3)
    g = D4.elements[3]
    _, moved = torch.func.jvp(model, (fs.act(g, u, FLOW),), (fs.act(g, v, FLOW),))
    laws.assert_close(moved, fs.act(g, pushed, FLOW), 1e-5)
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}
    _, along = torch.func.jvp(lambda p: functional_call(model, p, (u,)), (parameters,), (tangents,))
    laws.assert_close(fs.act(g, along, FLOW), torch.func.jvp(
        lambda p: functional_call(model, p, (fs.act(g, u, FLOW),)), (parameters,), (tangents,)
    )[1], 1e-5)  # fmt: skip


def test_assigned_weights_are_projected():
    model = fs.enforce(make(n_layers=1), D4, FLOW, FLOW)
    conv = model.fno_blocks.convs[0]
    conv.weight = torch.randn_like(conv.weight)
    assert_exact(model, D4, FLOW, FLOW, (12, 12))


def test_hidden_types_are_chosen():
    names = {"lifting.fcs.0": "8 scalar + 3 regular", "lifting": "regular + 8 scalar"}
    model = fs.enforce(make(), D4, FLOW, FLOW, hidden=names)
    assert_exact(model, D4, FLOW, FLOW, (12, 12))
    assert model.lifting.fcs[0].parametrizations.bias.original0.numel() == 8 + 3
    assert model.fno_blocks.channel_mlp[1].fcs[1].parametrizations.bias.original0.numel() == 1 + 8
    scalars = fs.Bundle(SQUARE, "2 scalar p")
    model = fs.enforce(make(scalars, norm="batch_norm"), D4, scalars, scalars, hidden="scalar")
    assert_exact(model.eval(), D4, scalars, scalars, (12, 12))
    pairs = fs.enforce(make(hidden_channels=32), D4, FLOW, FLOW, hidden="16 scalar + 2 regular")
    assert_exact(pairs, D4, FLOW, FLOW, (12, 12))


# Grids --------------------------------------------------------------------------------------------


def test_grids_on_which_upstream_fails():
    model = fs.enforce(make(), D4, FLOW, FLOW)
    with pytest.raises(fs.GridError, match=r"met a grid of \(13, 13\) points.*odd axes wrongly"):
        model(torch.zeros(1, 3, 13, 13))
    with pytest.raises(fs.GridError, match=r"keeps \(5, 5\) modes and met a grid of \(4, 4\)"):
        model(torch.zeros(1, 3, 4, 4))
    model.fno_blocks.n_modes = (4, 4)
    with pytest.raises(fs.GridError, match=r"n_modes=4.*Use 3 or 5"):
        model(torch.zeros(1, 3, 12, 12))
    model.fno_blocks.n_modes = (5, 5)
    fs.release(model)
    assert model(torch.zeros(1, 3, 13, 13)).shape == (1, 3, 13, 13)


class RepairedConv(SpectralConv):
    """The inverse shift that #688 put in the place of the forward one, for odd grids."""

    def forward(self, x, output_shape=None):
        shift = torch.fft.fftshift
        calls = iter([shift, torch.fft.ifftshift])
        with patch.object(torch.fft, "fftshift", lambda *a, **k: next(calls)(*a, **k)):
            return super().forward(x, output_shape)


def test_the_fault_is_found_by_behaviour():
    conv = SpectralConv(2, 2, (5, 5))
    assert adopt_neuralop.has_odd_fault(conv)
    assert not adopt_neuralop.has_odd_fault(SpectralConv(2, 2, (5,)))
    with patch.object(adopt_neuralop, "_spectral_class", lambda conv: RepairedConv):
        assert not adopt_neuralop.has_odd_fault(conv)
        model = fs.enforce(make(conv_module=RepairedConv), D4, FLOW, FLOW)
    assert_exact(model, D4, FLOW, FLOW, (13, 13))


def test_fewer_modes_at_run_time():
    model = fs.enforce(make(max_n_modes=(9, 9), n_modes=(9, 9)), D4, FLOW, FLOW)
    for modes in ((3, 3), (5, 5), (9, 9)):
        model.n_modes = modes
        assert_exact(model, D4, FLOW, FLOW, (12, 12))


# Refusals -----------------------------------------------------------------------------------------


REFUSED = [
    ({"positional_embedding": "grid"}, fs.GroupError, "coordinates as channels"),
    ({"domain_padding": 0.25}, fs.GroupError, "zeros around the domain"),
    ({"norm": "batch_norm"}, fs.GroupError, "statistics of every channel"),
    ({"n_modes": (6, 6)}, fs.GridError, r"keeps the mode −3 without \+3.*Use 5 or 7"),
    ({"max_n_modes": (8, 8)}, fs.GridError, "max_n_modes=8"),
    ({"n_modes": (5, 7)}, fs.GridError, "exchanges the axes x and y"),
    ({"resolution_scaling_factor": [2, 0.5]}, fs.GroupError, "changes the resolution"),
    ({"complex_data": True}, fs.GroupError, "complex_data=True"),
    ({"channel_mlp_dropout": 0.1}, fs.GroupError, r"dropout.0 is a Dropout with p=0.1"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda o: str(o))
def test_refusals(options, error, message):
    model = make(n_layers=2, **options)
    with pytest.raises(error, match=message):
        fs.enforce(model, D4, FLOW, FLOW)
    assert not adopt_tie.constrained(model)


def test_refuses_a_bare_layer_by_its_role():
    conv = SpectralConv(3, 3, (4, 4))
    with pytest.raises(fs.GridError, match=r"^The module itself has n_modes=4"):
        fs.enforce(conv, D4, FLOW, FLOW)
    with pytest.raises(fs.GroupError, match=r"^The module itself transforms 1 axes"):
        fs.enforce(SpectralConv(3, 3, (5,)), D4, FLOW, FLOW)
    conv = fs.enforce(SpectralConv(3, 3, (5, 5)), D4, FLOW, FLOW)
    with pytest.raises(fs.GridError, match=r"^The module itself met a grid"):
        conv(torch.zeros(1, 3, 13, 13))


def test_refuses_what_resamples_or_embeds():
    uno = UNO(
        in_channels=3, out_channels=3, hidden_channels=8, positional_embedding=None, n_layers=3,
        uno_out_channels=[8, 8, 8], uno_n_modes=[[5, 5]] * 3,
        uno_scalings=[[1, 1], [0.5, 0.5], [2, 2]], channel_mlp_skip="linear",
    )  # fmt: skip
    with pytest.raises(fs.GroupError, match="changes the resolution inside"):
        fs.enforce(uno, D4, FLOW, FLOW)
    with pytest.raises(fs.GroupError, match="AdaIN: its scales come from an embedding"):
        fs.enforce(AdaIN(4, 3), D4, FLOW, FLOW)


def test_refuses_groups_bundles_and_types_that_do_not_fit():
    model = make()
    state = copy.deepcopy({k: v for k, v in model.state_dict().items() if k != "_metadata"})
    with pytest.raises(fs.GroupError, match="Enforce the finite subgroup"):
        fs.enforce(model, groups.so(2), FLOW, FLOW)
    with pytest.raises(fs.GroupError, match="The largest subgroup that acts is"):
        fs.enforce(model, D4, RECTANGLE, RECTANGLE)
    with pytest.raises(fs.BundleError, match="Input and output have one base"):
        fs.enforce(model, D2, FLOW, RECTANGLE)
    with pytest.raises(fs.BundleError, match="does not accept sections of"):
        fs.enforce(model, D4, WHIRL, FLOW)
    with pytest.raises(fs.BundleError, match="3 channels where the bundle has 6"):
        fs.enforce(model, D4, FLOW, WHIRL)
    with pytest.raises(fs.RepresentationError, match="no whole number of it"):
        fs.enforce(model, D4, FLOW, FLOW, hidden="8 scalar + regular")
    with pytest.raises(fs.GroupError, match=r"gelu in lifting bends every channel of.*hidden=\{"):
        fs.enforce(model, D4, FLOW, FLOW, hidden="4 scalar + 6 vector")
    with pytest.raises(fs.RepresentationError, match="hidden names 'nothing'"):
        fs.enforce(model, D4, FLOW, FLOW, hidden={"nothing": "regular"})
    with pytest.raises(fs.RepresentationError, match="lifting cannot be 'regular'"):
        fs.enforce(model, D4, FLOW, FLOW, hidden={"lifting": "regular"})
    with pytest.raises(fs.RepresentationError, match=r"projection.* cannot make 'scalar . vector'"):
        fs.enforce(model, D4, FLOW, FLOW, hidden="scalar")
    with pytest.raises(fs.RepresentationError, match="regular blocks of cyclic"):
        fs.enforce(model, D4, FLOW, FLOW, hidden=fs.Representation("regular", 2, groups.cyclic(4)))
    for name, value in model.state_dict().items():
        assert name == "_metadata" or torch.equal(value, state[name])
    assert not adopt_tie.constrained(model)
    fs.enforce(model, D4, FLOW, FLOW)
    for again in (fs.enforce, fs.project_):
        with pytest.raises(fs.GroupError, match="already enforced"):
            again(model, D4, FLOW, FLOW)
    fs.release(model)
    with pytest.raises(fs.GroupError, match="not enforced"):
        fs.release(model)


# Saboteurs ----------------------------------------------------------------------------------------


def without_conjugation(group, modes):
    """R(−k) = R(k)."""
    moves = adopt_tables.mode_moves(group, modes)
    return [replace(m, conjugate=np.zeros_like(m.conjugate)) for m in moves]


def with_inverse(group, modes):
    """R(g⁻¹k) = ρ R(k) ρ⁻¹: quarter turns in the wrong sense."""
    moves = adopt_tables.mode_moves(group, modes)
    elements = {g.key: g for g in group.elements}
    return [replace(m, g=elements[m.g.inverse.key]) for m in moves]


@pytest.mark.parametrize("moves", [without_conjugation, with_inverse])
def test_wrong_weights_are_measured_and_undone(moves):
    model = make(n_layers=1)
    u = laws.noise(FLOW, (12, 12), torch.float32)
    value, before = model(u), dict(model.named_parameters())
    with (
        patch.object(adopt_tie, "mode_moves", moves),
        pytest.raises(fs.GroupError, match=r"first output that breaks.*fno_blocks.convs.0 \("),
    ):
        fs.enforce(model, groups.cyclic(4), FLOW, FLOW)
    assert torch.equal(model(u), value)
    assert dict(model.named_parameters()) == before


PRESSURE, VELOCITY = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "vector u")


def test_an_output_that_is_a_small_difference_is_not_taken_for_broken():
    # vectors of a scalar are differences of features, and tiny before training
    torch.manual_seed(0)
    model = make(PRESSURE, VELOCITY, n_modes=(9, 9), hidden_channels=8)
    group = groups.cyclic(4)
    fs.enforce(model, group, PRESSURE, VELOCITY)
    x = laws.noise(PRESSURE, (16, 16), torch.float32)
    for g in group.elements[1:]:
        error = model(fs.act(g, x, PRESSURE)) - fs.act(g, model(x), VELOCITY)
        assert error.abs().max() < 1e-6  # the features are of size one
    with (
        patch.object(adopt_tie, "mode_moves", with_inverse),
        pytest.raises(fs.GroupError, match="first output that breaks"),
    ):
        fs.enforce(make(PRESSURE, VELOCITY, hidden_channels=8), group, PRESSURE, VELOCITY)


def test_an_output_of_nothing_but_rounding_is_refused():
    with pytest.raises(fs.GroupError, match="carry nothing from 'scalar p' to 'vector u'"):
        fs.enforce(
            make(PRESSURE, VELOCITY, hidden_channels=4), groups.cyclic(4), PRESSURE, VELOCITY
        )


class Leaning(FNO):
    """A hundredth of a sum along x beside the output."""

    def forward(self, x, **options):
        y = super().forward(x, **options)
        return y + 1e-2 * y.cumsum(-1)


def test_a_small_break_of_a_small_output_is_refused():
    with pytest.raises(fs.GroupError, match="does not commute"):
        fs.enforce(make(PRESSURE, VELOCITY, kind=Leaning), D4, PRESSURE, VELOCITY)


class Summed(torch.nn.Module):
    """A faint output of features that a sum along x has broken."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular")
        self.last = torch.nn.Conv2d(8, 1, 1)
        with torch.no_grad():
            self.last.weight *= 1e-8
            self.last.bias.zero_()

    def forward(self, x):
        return self.last(self.first(x).cumsum(-1))


def test_a_faint_output_is_no_excuse():
    with pytest.raises(fs.GroupError, match="does not commute"):
        fs.enforce(Summed(), D4, PRESSURE, PRESSURE)


def test_the_laws_fail_without_enforcement():
    with pytest.raises(AssertionError):
        assert_exact(make(), D4, FLOW, FLOW, (12, 12))
    model = fs.enforce(make(), D4, FLOW, FLOW)
    with torch.no_grad():
        fs.release(model).fno_blocks.convs[0].bias[0] += 1.0
    with pytest.raises(AssertionError):
        assert_exact(model, D4, FLOW, FLOW, (12, 12))


def test_double_precision_is_that_of_the_upstream_buffer():
    """Its spectra are complex64 whatever the parameters are: single precision at least."""
    model = fs.enforce(make(), D4, FLOW, FLOW).double()
    laws.assert_equivariant(model, D4, FLOW, FLOW, (12, 12), torch.float64, TOLERANCE)
