"""The typed FNO: exact symmetry at random weights, options, precision, transforms of torch."""

import copy
import io
import itertools
import pickle

import broken
import laws
import numpy as np
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, cases, groups
from torch.nn import functional

import fieldsym as fs

D4, D2, D1 = groups.dihedral(4), groups.dihedral(2), groups.dihedral(1)
FLOW = fs.Bundle(OBLONG, "scalar p + vector u")
WHIRL = fs.Bundle(OBLONG, "pseudoscalar w + symmetric tensor s")
SQUARE_FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
SQUARE_WHIRL = fs.Bundle(SQUARE, "pseudoscalar w + vector u")


def width(group, copies=2):
    return copies * group.order


def small(source=FLOW, target=WHIRL, group=D2, modes=(5, 7), **options):
    options = {"hidden_channels": width(group), "n_layers": 2} | options
    return fs.FNO(source, target, group=group, n_modes=modes, **options)


def shake(model):
    """Random scales, shifts and gates, which start at one and zero."""
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.ndim == 1):
            p.add_(0.5 * torch.rand_like(p))
    return model


# Symmetry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases())
def test_exact_symmetry(case, dtype):
    source, target = case.bundles()
    copies = 1 if case.group.order > 8 else 2
    model = small(source, target, case.group, case.n_modes,
                  hidden_channels=width(case.group, copies)).to(dtype)  # fmt: skip
    for grid in case.grids:
        laws.assert_equivariant(model, case.group, source, target, grid, dtype, EXACT[dtype])
        laws.assert_translates(model, source, grid, dtype, EXACT[dtype])


OPTIONS = [
    {"norm": "instance_norm"},
    {"norm": "group_norm", "fno_skip": "identity"},
    {"norm": "instance_norm", "channel_mlp_skip": "linear", "fno_skip": "soft-gating"},
    {"use_channel_mlp": False, "fno_skip": None},
    {"channel_mlp_skip": None, "channel_mlp_expansion": 2.0},
    {"channel_mlp_skip": "identity", "non_linearity": torch.sin},
    {"lifting_channel_ratio": 0, "projection_channel_ratio": 0, "non_linearity": functional.relu},
    {"n_layers": 1, "norm": "group_norm", "channel_mlp_skip": "identity"},
]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items())
)
def test_options_keep_the_symmetry(options, dtype):
    for source, target, group, modes, grid in (
        (FLOW, WHIRL, D2, (5, 7), (12, 16)),
        (SQUARE_FLOW, SQUARE_WHIRL, D4, (5, 5), (12, 12)),
    ):
        model = shake(small(source, target, group, modes, **options)).to(dtype)
        laws.assert_equivariant(model, group, source, target, grid, dtype, EXACT[dtype])
        laws.assert_translates(model, source, grid, dtype, EXACT[dtype])


CHANNELS = [
    (fs.Box((2.0, 3.0), periodic=(True, False)), groups.reflections(2), (12, 15)),
    (fs.Box((2.0, 3.0), periodic=(False, True), location="node"), groups.reflections(2), (11, 16)),
    (fs.Box((1.5, 1.5)), D4, (12, 12)),
    (fs.Box((1.5, 1.5), location="node"), D4, (13, 13)),
    (fs.Box((2.0,)), groups.reflections(1), (16,)),
    (fs.Box((1.0, 2.0, 1.5), periodic=(True, False, True)), groups.reflections(3), (6, 9, 7)),
]


@pytest.mark.parametrize("text", ["pseudoscalar w", "vector u", "symmetric traceless tensor t"])
@pytest.mark.parametrize(
    "options", [{}, {"use_channel_mlp": False}, {"norm": "group_norm"}], ids=str
)
def test_deep_operators_without_a_mean(text, options, dtype):
    """Outputs that no constant can reach are small differences of features: the hard case."""
    bundle = fs.Bundle(SQUARE, text)
    model = small(bundle, bundle, D4, (7, 7), hidden_channels=32, n_layers=4, **options).to(dtype)
    laws.assert_equivariant(model, D4, bundle, bundle, (16, 16), dtype, EXACT[dtype])


@pytest.mark.parametrize(("base", "group", "grid"), CHANNELS, ids=str)
def test_non_periodic_axes(base, group, grid, dtype):
    """Position and padding keep the symmetry, and see where the walls are."""
    bundle = fs.Bundle(base, "scalar p + vector u")
    model = small(bundle, bundle, group, (5,) * base.dim).to(dtype)
    laws.assert_equivariant(model, group, bundle, bundle, grid, dtype, EXACT[dtype])
    laws.assert_translates(model, bundle, grid, dtype, EXACT[dtype])
    wall = base.periodic.index(False) - base.dim
    u = laws.noise(bundle, grid, dtype)
    assert laws.relative(model(u.roll(1, wall)) - model(u).roll(1, wall), model(u)) > 1e-3


def test_without_a_group_it_has_translations_alone():
    model = fs.FNO(FLOW, FLOW, n_modes=(5, 7), hidden_channels=6, n_layers=2)
    assert model.group.order == 1
    laws.assert_translates(model, FLOW, (12, 16), torch.float32, 2e-6)
    with pytest.raises(AssertionError):
        laws.assert_equivariant(model, D1, FLOW, FLOW, (12, 16), torch.float32, 1e-2)


@pytest.mark.parametrize(
    "make",
    [broken.fno_with_per_channel_norm, broken.fno_without_parity, broken.fno_on_components],
)
def test_saboteurs_fail_the_symmetry(make):
    model = make(
        SQUARE_FLOW, SQUARE_WHIRL, group=D4, n_modes=(5, 5), hidden_channels=16, n_layers=2
    )
    with pytest.raises(AssertionError):
        laws.assert_equivariant(model, D4, SQUARE_FLOW, SQUARE_WHIRL, (12, 12), torch.float32, 1e-3)


def test_the_wrong_sense_of_rotation_shows_on_scalar_to_vector_paths():
    p, v = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "vector u")
    model = small(p, v, D4, (5, 5)).double()
    u, g = laws.noise(p, (12, 12)), groups.cyclic(4).elements[1]
    good = fs.act(g, model(u), v)
    assert laws.relative(model(fs.act(g, u, p)) - good, good) < 1e-12
    assert laws.relative(model(fs.act(g, u, p)) - fs.act(g.inverse, model(u), v), good) > 0.5


def test_translations_fail_with_a_grid_embedding():
    with pytest.raises(AssertionError):
        laws.assert_translates(
            broken.GridEmbedding(small(), FLOW), FLOW, (12, 16), torch.float32, 1e-3
        )


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "base", "modes", "grid"),
    [
        (groups.trivial(2), OBLONG, (5, 7), (12, 16)),
        (groups.cyclic(2), OBLONG, (5, 7), (12, 16)),
        (D1, OBLONG, (5, 7), (12, 16)),
        (D2, OBLONG, (5, 7), (12, 16)),
        (groups.cyclic(4), SQUARE, (5, 5), (12, 12)),
        (D4, SQUARE, (5, 5), (12, 12)),
        (groups.reflections(1), fs.Torus((2.0,)), (5,), (12,)),
        (groups.reflections(2), fs.Box((2.0, 3.0), (True, False)), (5, 7), (12, 16)),
        (groups.octahedral(reflections=False), fs.Torus((1.0,) * 3), (3, 3, 3), (6, 6, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("norm", [None, "instance_norm", "group_norm"])
def test_every_parameter_learns(group, base, modes, grid, norm):
    bundle = fs.Bundle(base, "scalar p + vector u")
    skips = [
        ("linear", "soft-gating"),
        ("soft-gating", "linear"),
        ("identity", None),
        (None, "identity"),
    ]
    for (one, two), copies in itertools.product(skips, (1, 2)):
        if base.dim == 3 and (one, copies) != (None, 1):
            continue
        model = small(bundle, bundle, group, modes, norm=norm, fno_skip=one, channel_mlp_skip=two,
                      hidden_channels=width(group, copies))  # fmt: skip
        laws.assert_all_learn(model.double(), laws.noise(bundle, grid))


@pytest.mark.parametrize("norm", [None, "instance_norm", "group_norm"])
@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize(
    ("group", "source", "target", "ratio"),
    [(groups.cyclic(2), "pseudoscalar w", "vector u", 2), (D2, "scalar p", "vector u", 0)],
    ids=["mean of an invariant input", "constants that a vector output cannot hear"],
)
def test_no_parameter_is_made_that_could_never_learn(group, source, target, ratio, mlp, norm):
    torus = fs.Torus((2.0, 3.0))
    into, out = fs.Bundle(torus, source), fs.Bundle(torus, target)
    model = small(into, out, group, (5, 7), norm=norm, use_channel_mlp=mlp, hidden_channels=8,
                  projection_channel_ratio=ratio).double()  # fmt: skip
    laws.assert_all_learn(model, laws.noise(into, (12, 15)))


def test_a_bias_in_front_of_a_norm_sleeps():
    model = broken.fno_with_sleeping_bias(
        FLOW, FLOW, group=D2, n_modes=(5, 7), hidden_channels=8, n_layers=2
    )
    with pytest.raises(AssertionError, match=r"mlp\.second\.bias"):
        laws.assert_all_learn(model.double(), laws.noise(FLOW, (12, 16)))


def test_training_keeps_the_symmetry():
    model = small(SQUARE_FLOW, SQUARE_WHIRL, D4, (5, 5))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    u = fs.testing.random_section(SQUARE_FLOW, (12, 12), batch=4, dtype=torch.float32)
    slope = SQUARE.gradient(u[:, 1:])
    target = torch.cat([slope[:, 1:, 0] - slope[:, :1, 1], u[:, 1:] * u[:, :1]], 1)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = (model(u) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    laws.assert_equivariant(model, D4, SQUARE_FLOW, SQUARE_WHIRL, (12, 12), torch.float32, 2e-6)


def test_gradient_matches_finite_differences():
    model = small(n_layers=1).double()
    u = laws.noise(FLOW, (8, 10))
    functional_call = torch.func.functional_call
    names = {n: p.detach() for n, p in model.named_parameters()}
    direction = {n: torch.randn_like(p) for n, p in names.items()}

    def at(t):
        return functional_call(model, {n: p + t * direction[n] for n, p in names.items()}, (u,))

    t = 1e-5
    slope = ((at(t) - at(-t)) / (2 * t)).square().sum()
    _, pushed = torch.func.jvp(at, (torch.zeros((), dtype=torch.float64),),
                               (torch.ones((), dtype=torch.float64),))  # fmt: skip
    assert float(pushed.square().sum() / slope) == pytest.approx(1, abs=1e-7)


# Resolution, precision, saving --------------------------------------------------------------------


def test_a_linear_operator_gives_the_same_values_at_any_resolution():
    model = small(non_linearity=torch.nn.Identity()).double()
    laws.assert_same_at_any_resolution(model, FLOW, (16, 24), 2, 1e-12)
    with pytest.raises(AssertionError):
        laws.assert_same_at_any_resolution(broken.UnnormalisedModes(model), FLOW, (16, 24), 2, 1e-2)


def test_a_smooth_operator_converges_with_resolution():
    model = small(non_linearity=torch.tanh).double()
    values = []
    for factor in (1, 2, 4):
        u = fs.testing.random_section(FLOW, (16 * factor, 24 * factor), kmax=2)
        values.append(model(u)[..., ::factor, ::factor])
    first, second = (laws.relative(v - values[2], values[2]) for v in values[:2])
    assert second < 1e-3 * first < 1e-3


def test_double_precision_is_reached_after_construction():
    model = small(SQUARE_FLOW, SQUARE_WHIRL, D4, (5, 5))
    u = laws.noise(SQUARE_FLOW, (12, 12))
    single = model(u.float()).double()
    double = model.double()(u)
    assert double.dtype == torch.float64
    assert 1e-9 < laws.relative(single - double, double) < 1e-5
    laws.assert_equivariant(model, D4, SQUARE_FLOW, SQUARE_WHIRL, (12, 12), torch.float64, 1e-12)


def test_saving_and_copying():
    model = shake(small(norm="instance_norm"))
    u = laws.noise(FLOW, (12, 16), torch.float32)
    state = model.state_dict()
    assert set(state) == {name for name, _ in model.named_parameters()}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = small(norm="instance_norm")
    assert not torch.equal(other(u), model(u))
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(u), model(u))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(twin(u), model(u))


def test_repr_says_what_it_is():
    text = repr(small())
    for part in (
        "FNO(", "scalar p + vector u", "pseudoscalar w + symmetric tensor s", "Torus(2, 3)",
        "dihedral(2)", "n_modes=(5, 7)", "2 regular", "SpectralConv(",
    ):  # fmt: skip
        assert part in text


def test_shapes_and_batches():
    model = small()
    u = torch.randn(2, 3, 3, 12, 16)
    y = model(u)
    assert y.shape == (2, 3, 4, 12, 16)
    assert torch.allclose(model(u[1, 2]), y[1, 2], atol=1e-6)
    assert torch.allclose(model(u.transpose(-1, -2).contiguous().transpose(-1, -2)), y)
    one = fs.FNO(FLOW, WHIRL, n_modes=5, hidden_channels=4, n_layers=1)
    assert one.n_modes == (5, 5)


def test_rank_of_the_symmetry_is_paid_in_parameters():
    """At one width a group of order n divides the spectral weights by about n."""
    free = [
        sum(p.numel() for p in small(SQUARE_FLOW, SQUARE_FLOW, g, (9, 9), hidden_channels=16)
            .layers.parameters())
        for g in (groups.trivial(2), groups.cyclic(2), groups.cyclic(4), D4)
    ]  # fmt: skip
    for one, other in itertools.pairwise(free):
        assert 1.9 < one / other < 2.1


# torch.func and torch.compile ---------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "instance_norm"])
def test_jvp_matches_central_differences(norm):
    model = small(norm=norm).double()
    u, v = laws.noise(FLOW, (12, 16)), laws.noise(FLOW, (12, 16))
    value, pushed = torch.func.jvp(model, (u,), (v,))
    assert torch.allclose(value, model(u))
    slope = (model(u + 1e-5 * v) - model(u - 1e-5 * v)) / 2e-5
    laws.assert_close(pushed, slope, 1e-8)
    _, twice = torch.autograd.functional.jvp(model, u, v)  # by two backward passes
    laws.assert_close(pushed, twice, 1e-13)


def test_vmap_over_a_batch_axis_is_a_loop():
    model = small().double()
    u, tangents = laws.noise(FLOW, (12, 16), batch=3), laws.noise(FLOW, (12, 16), batch=3)
    assert torch.allclose(torch.vmap(model)(u), model(u), atol=1e-13)
    many = torch.vmap(lambda v: torch.func.jvp(model, (u[0],), (v,))[1])(tangents)
    each = torch.stack([torch.func.jvp(model, (u[0],), (v,))[1] for v in tangents])
    assert torch.allclose(many, each, atol=1e-13)


def test_penalties_on_jvps_are_differentiable():
    model = small(n_layers=1).double()
    u, v = laws.noise(FLOW, (8, 10)), laws.noise(FLOW, (8, 10))
    torch.func.jvp(model, (u,), (v,))[1].square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert next(model.layers[0].convolution.parameters()).grad.abs().max() > 0


def test_compiles_into_one_graph():
    model = small(SQUARE_FLOW, SQUARE_WHIRL, D4, (3, 3), n_layers=1, hidden_channels=8)
    u = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    value = compiled(u)
    assert torch.allclose(value, model(u), atol=1e-6)
    value.square().sum().backward()
    first = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(u).square().sum().backward()
    assert all(
        torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4)
        for a, p in zip(first, model.parameters(), strict=True)
    )
    channel = fs.Bundle(fs.Box((2.0, 3.0), (True, False)), "scalar p + vector u")
    other = small(channel, channel, D1, (3, 3), n_layers=1)
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(u), other(u), atol=1e-6)
    torch.compiler.reset()


def test_generated_code_gives_the_same_values():
    if not torch._inductor.cpp_builder.get_cpp_compiler():
        pytest.skip("no C++ compiler")
    v = fs.Representation("1 regular", 2, D1)
    conv = fs.operators.spectral.SpectralConv(v, v, D1, (3, 3))
    x = torch.randn(1, 2, 6, 8)
    assert torch.allclose(torch.compile(conv, fullgraph=True)(x), conv(x), atol=1e-6)
    torch.compiler.reset()


def test_group_convolution_is_what_regular_features_are():
    """One layer C4 → C4 against the formula: R_{ij}(k) is a group convolution."""
    c4 = groups.cyclic(4)
    r = fs.Representation("regular", 2, c4)
    layer = fs.operators.spectral.SpectralConv(r, r, c4, (5, 5)).double()
    multiplier = laws.dense_multiplier(layer, c4)
    table = c4.table
    for k, matrix in multiplier.items():
        for g, element in enumerate(c4.elements):
            moved = tuple(int(c) for c in np.rint(element.matrix @ k))
            for i, j in itertools.product(range(4), repeat=2):
                one, other = multiplier[moved][table[g, i], table[g, j]], matrix[i, j]
                assert abs(complex(one - other)) < 1e-6


def test_refuses_another_dtype():
    w = fs.Bundle(fs.Torus((2.0, 3.0)), "pseudoscalar w")
    model = fs.FNO(w, w, n_modes=5, hidden_channels=8, n_layers=1)
    with pytest.raises(fs.BundleError, match=r"FNO holds torch.float32 parameters; got a section"):
        model(torch.zeros(1, 1, 16, 24, dtype=torch.float64))
