"""The steerable operator: exact on the lattice, other angles up to aliasing, refusals."""

import copy
import io
import math
import pickle

import broken
import laws
import pytest
import torch
import turned
from catalogue import EXACT, OBLONG, SQUARE, groups
from torch import nn

import fieldsym as fs

FLOW = fs.Bundle(OBLONG, "scalar p + vector u")
WHIRL = fs.Bundle(OBLONG, "pseudoscalar w + symmetric tensor s")
SQUARE_FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
SQUARE_WHIRL = fs.Bundle(SQUARE, "pseudoscalar w + symmetric tensor s")


def small(source=FLOW, target=WHIRL, group=None, n_modes=(5, 7), **options):
    options = {"hidden_channels": 16, "n_layers": 2, "degree": 6} | options
    return fs.SteerableFNO(source, target, group=group or groups.o(2), n_modes=n_modes, **options)


def shake(model):
    """Random scales and biases, which start at one and zero."""
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.ndim == 1):
            p.add_(0.3 * torch.randn_like(p))
    return model


OPTIONS = [
    {},
    {"norm": "instance_norm"},
    {"radial": "bspline"},
    {"taper": False, "non_linearity": torch.tanh},
    {"hidden": "4 scalar + 2 vector + pseudoscalar", "n_layers": 1},
    {"hidden": "6 scalar"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_maps_the_box_to_itself_is_exact(options, dtype):
    for group, finite in ((groups.o(2), groups.dihedral(4)), (groups.se(2), groups.cyclic(4))):
        model = shake(small(SQUARE_FLOW, SQUARE_WHIRL, group, (7, 7), **options)).to(dtype)
        for grid in ((12, 12), (13, 13)):
            laws.assert_equivariant(
                model, finite, SQUARE_FLOW, SQUARE_WHIRL, grid, dtype, EXACT[dtype]
            )  # fmt: skip
            laws.assert_translates(model, SQUARE_FLOW, grid, dtype, EXACT[dtype])
    model = shake(small(**options)).to(dtype)
    laws.assert_equivariant(model, groups.dihedral(2), FLOW, WHIRL, (12, 15), dtype, EXACT[dtype])
    laws.assert_translates(model, FLOW, (12, 15), dtype, EXACT[dtype])


PATHS = [
    ("scalar p", "vector u"),
    ("pseudoscalar w", "pseudoscalar w"),
    ("pseudoscalar w", "scalar p"),
    ("vector u", "symmetric traceless tensor t"),
    ("axial vector b", "scalar p"),
    ("symmetric tensor s", "axial vector b"),
]


@pytest.mark.parametrize(("source", "target"), PATHS)
@pytest.mark.parametrize("group", [groups.so(2), groups.o(2)], ids=str)
def test_every_parameter_learns_on_every_path(source, target, group):
    source, target = fs.Bundle(SQUARE, source), fs.Bundle(SQUARE, target)
    finite = groups.dihedral(4) if group.components else groups.cyclic(4)
    for norm in (None, "instance_norm"):
        model = small(source, target, group, (5, 5), norm=norm).double()
        laws.assert_all_learn(model, laws.noise(source, (9, 10)))
    laws.assert_equivariant(model, finite, source, target, (10, 10), torch.float64, 1e-12)


class ReluAfter(nn.Module):
    """A function on every component."""

    def __init__(self, gate):
        super().__init__()
        self.gate, self.rep_in = gate, gate.rep_in

    def forward(self, x):
        return torch.relu(self.gate(x))


def with_pseudoscalars_as_scalars(model):
    wrong = fs.Bundle(SQUARE, "scalar w + symmetric tensor s")
    model.projection = small(SQUARE_FLOW, wrong, n_modes=(5, 5)).double().projection


def with_a_weight_per_mode(model):
    conv = model.layers[0].mix.convolution
    conv.radial_0 = conv.radial_0 * torch.rand_like(conv.radial_0)


def with_a_function_per_component(model):
    model.layers[0].gate = ReluAfter(model.layers[0].gate)


def without_a_factor_i(model):
    """Odd fields taken for even ones: ik becomes k, and the kernel complex."""
    conv = model.layers[0].mix.convolution
    conv.odd_in = torch.zeros_like(conv.odd_in)


@pytest.mark.parametrize(
    "change",
    [
        with_pseudoscalars_as_scalars,
        with_a_weight_per_mode,
        with_a_function_per_component,
        without_a_factor_i,
    ],
)
def test_saboteurs_fail_the_symmetry(change):
    model = small(SQUARE_FLOW, SQUARE_WHIRL, n_modes=(5, 5)).double()
    change(model)
    with pytest.raises(AssertionError, match="exceeds"):
        laws.assert_equivariant(
            model, groups.dihedral(4), SQUARE_FLOW, SQUARE_WHIRL, (10, 10), torch.float64, 1e-3
        )


def test_translations_fail_with_a_grid_embedding():
    with pytest.raises(AssertionError):
        laws.assert_translates(
            broken.GridEmbedding(small(), FLOW), FLOW, (12, 16), torch.float32, 1e-3
        )


# Generic angles -----------------------------------------------------------------------------------

UNIT = fs.Torus((1.0, 1.0))
PRESSURE = fs.Bundle(UNIT, "scalar p + vector u")
WIND = fs.Bundle(UNIT, "pseudoscalar w + vector u")


def angle_error(model, scale, grid=(80, 80)):
    """Rotation by 30° of a localised field of some amplitude."""
    a = turned.rotation(math.pi / 6)
    return turned.turning_error(
        lambda u: model(scale * u), a, PRESSURE, WIND, grid, width=0.035
    )  # fmt: skip


def test_generic_angles_up_to_what_the_nonlinearity_makes():
    """The floor is aliasing: it falls with the amplitude, and a wrong type stays far above it."""
    torch.manual_seed(1)
    model = small(PRESSURE, WIND, groups.so(2), (63, 63), n_layers=1).double()
    gentle, strong = (angle_error(model, scale) for scale in (0.1, 1.0))
    assert gentle < 1e-6
    assert gentle < strong < 1e-2
    wrong = fs.Bundle(UNIT, "3 scalar p"), fs.Bundle(UNIT, "3 scalar p")
    other = small(*wrong, groups.so(2), (63, 63), n_layers=1).double()
    assert angle_error(other, 0.1) > 0.1


# Refusals -----------------------------------------------------------------------------------------

CHANNEL = fs.Bundle(fs.Box((2.0, 3.0), periodic=(True, False)), "scalar p")
LINE = fs.Bundle(fs.Torus((1.0,)), "scalar p")
POPULATIONS = fs.Bundle(SQUARE, fs.Representation("regular", 2, groups.cyclic(4)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"group": groups.dihedral(4)}, fs.GroupError, "Use FNO with group=dihedral"),
        ({"group": groups.translations(2)}, fs.GroupError, "another group"),
        ({"group": groups.so(3)}, fs.GroupError, "on a 2-D base"),
        ({"group": None}, fs.GroupError, "group is a Group"),
        ({"in_bundle": CHANNEL, "out_bundle": CHANNEL}, fs.GroupError, "axis y is not periodic"),
        ({"in_bundle": LINE, "out_bundle": LINE}, fs.GroupError, "In 1-D use FNO"),
        ({"group": "o(2)"}, fs.GroupError, r"group is a Group.* got 'o\(2\)'"),
        ({"in_bundle": "vector u"}, fs.BundleError, "SteerableFNO needs a Bundle.* got 'vector u'"),
        ({"out_bundle": None}, fs.BundleError, "SteerableFNO needs a Bundle.* got None"),
        ({"n_modes": 9.0}, fs.GridError, "an odd whole number"),
        ({"n_layers": 2.5}, fs.BundleError, "whole number n_layers ≥ 1; got 2.5"),
        ({"hidden": 8}, fs.RepresentationError, "hidden is text such as .* got 8"),
        ({"hidden": fs.Representation("scalar", 3)}, fs.RepresentationError, "on a 2-D base; got"),
        ({"n_modes": 8}, fs.GridError, "Use 7 or 9"),
        ({"n_modes": (5, 1)}, fs.GridError, "at least 3 modes"),
        ({"out_bundle": SQUARE_FLOW}, fs.BundleError, "bundles on one base"),
        ({"in_bundle": POPULATIONS, "out_bundle": POPULATIONS}, fs.RepresentationError,
         "a finite group permutes"),
        ({"hidden": "2 vector"}, fs.RepresentationError, "at least one scalar"),
        ({"hidden": "2 spinor"}, fs.RepresentationError, "Expected terms"),
        ({"hidden_channels": 3}, fs.RepresentationError, "channels at least"),
        ({"n_layers": 0}, fs.BundleError, "n_layers ≥ 1"),
        ({"norm": "batch_norm"}, fs.GroupError, "norm is one of"),
        ({"radial": "bessel"}, fs.GridError, "radial is one of"),
        ({"degree": 3}, fs.GridError, "angular orders up to 4"),
    ],
)  # fmt: skip
def test_refusals(change, error, message):
    options = {"in_bundle": FLOW, "out_bundle": WHIRL, "group": groups.o(2), "n_modes": (5, 7),
               "hidden_channels": 16}  # fmt: skip
    options |= change
    with pytest.raises(error, match=message):
        fs.SteerableFNO(options.pop("in_bundle"), options.pop("out_bundle"), **options)


def test_refuses_sections_that_do_not_fit():
    model = small()
    with pytest.raises(fs.BundleError, match="SteerableFNO expects sections"):
        model(torch.zeros(1, 4, 12, 16))
    with pytest.raises(fs.BundleError, match=r"SteerableFNO holds torch.float32 parameters"):
        model(torch.zeros(1, 3, 12, 16, dtype=torch.float64))
    with pytest.raises(fs.GridError, match="needs more points"):
        model(torch.zeros(1, 3, 12, 6))


# Shapes, precision, saving, transforms ------------------------------------------------------------


def test_shapes_batches_and_defaults():
    model = small()
    u = torch.randn(2, 3, 3, 12, 16)
    y = model(u)
    assert y.shape == (2, 3, 4, 12, 16)
    assert torch.allclose(model(u[1, 2]), y[1, 2], atol=1e-5)
    wide = fs.SteerableFNO(SQUARE_FLOW, SQUARE_FLOW, group=groups.o(2), n_layers=1)
    assert wide.n_modes == (17, 17)
    assert wide.hidden.channels == 64


def test_a_linear_operator_gives_the_same_values_at_any_resolution():
    model = small(hidden="8 scalar", non_linearity=torch.nn.Identity()).double()
    laws.assert_same_at_any_resolution(model, FLOW, (16, 24), 2, 1e-12)


def test_double_precision_is_reached_after_construction():
    model = small(SQUARE_FLOW, SQUARE_WHIRL, n_modes=(5, 5))
    u = laws.noise(SQUARE_FLOW, (12, 12))
    single = model(u.float()).double()
    double = model.double()(u)
    assert 1e-9 < laws.relative(single - double, double) < 1e-5
    laws.assert_equivariant(
        model, groups.dihedral(4), SQUARE_FLOW, SQUARE_WHIRL, (12, 12), torch.float64, 1e-12
    )


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


def test_repr_says_what_it_is():
    text = repr(small())
    for part in ("SteerableFNO(", "scalar p + vector u", "Torus(2, 3)", "group=o(2)", "n_modes=",
                 "SteerableConv(", "radial='zernike'", "SchurMap("):  # fmt: skip
        assert part in text


def test_training_keeps_the_symmetry():
    model = small(SQUARE_FLOW, SQUARE_WHIRL, groups.o(2), (9, 9))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    u = fs.testing.random_section(SQUARE_FLOW, (12, 12), batch=4, dtype=torch.float32)
    slope = SQUARE.gradient(u[:, 1:])
    curl = slope[:, 1:, 0] - slope[:, :1, 1]
    shear = slope[:, 0, 1] + slope[:, 1, 0]
    target = torch.cat([curl, slope[:, 0, :1], slope[:, 1, 1:], shear[:, None] / 2], 1)
    target = target / target.std()
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = (model(u) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    laws.assert_equivariant(
        model, groups.dihedral(4), SQUARE_FLOW, SQUARE_WHIRL, (12, 12), torch.float32, 2e-6
    )


@pytest.mark.parametrize("norm", [None, "instance_norm"])
def test_jvp_matches_central_differences(norm):
    model = small(norm=norm).double()
    u, v = laws.noise(FLOW, (12, 16)), laws.noise(FLOW, (12, 16))
    value, pushed = torch.func.jvp(model, (u,), (v,))
    assert torch.allclose(value, model(u))
    slope = (model(u + 1e-5 * v) - model(u - 1e-5 * v)) / 2e-5
    laws.assert_close(pushed, slope, 1e-8)
    torch.func.jvp(model, (u,), (v,))[1].square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_vmap_over_a_batch_axis_is_a_loop():
    model = small().double()
    u = laws.noise(FLOW, (12, 16), batch=3)
    assert torch.allclose(torch.vmap(model)(u), model(u), atol=1e-12)
    many = torch.vmap(lambda v: torch.func.jvp(model, (u[0],), (v,))[1])(u)
    each = torch.stack([torch.func.jvp(model, (u[0],), (v,))[1] for v in u])
    assert torch.allclose(many, each, atol=1e-12)


def test_compiles_into_one_graph():
    model = small(n_modes=(3, 3), n_layers=1, hidden="2 scalar + vector", degree=3)
    u = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    value = compiled(u)
    assert torch.allclose(value, model(u), atol=1e-5)
    value.square().sum().backward()
    first = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(u).square().sum().backward()
    assert all(
        torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4)
        for a, p in zip(first, model.parameters(), strict=True)
    )
    torch.compiler.reset()
