"""Steerable convolutions in the plane: dimensions, symbols, closed forms, all angles."""

import math
from unittest.mock import patch

import laws
import numpy as np
import pytest
import torch
import turned
from catalogue import EXACT, OBLONG, SQUARE, groups

import fieldsym as fs
from fieldsym.operators import symbol as symbol_module
from fieldsym.operators.harmonics import equivariant_harmonics, steerable_dimension
from fieldsym.operators.radial import Radial
from fieldsym.operators.steerable import SteerableConv

TYPES = (
    "2 scalar p + pseudoscalar w + vector u + axial vector b + symmetric tensor s"
    " + symmetric traceless tensor t"
)
FULL = fs.Representation(TYPES, 2)
S, P, V, A, T = (
    fs.Representation(text, 2)
    for text in ("scalar", "pseudoscalar", "vector", "axial vector", "symmetric traceless tensor")
)
GENERIC = [turned.rotation(a) for a in (0.5, 2.2)]
MIRROR = np.diag([1.0, -1.0])


def conv(rep_in, rep_out, group=None, lengths=(1.5, 1.5), n_modes=(9, 9), **options):
    layer = SteerableConv(rep_in, rep_out, group or groups.so(2), lengths, n_modes, **options)
    return layer.double()


def wavevectors(layer, count=40):
    return layer.cutoff * torch.rand(count, len(layer.lengths), dtype=torch.float64) / 1.5


# Dimensions and closed forms of the harmonics -----------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "rotations", "full"),
    [
        (S, S, 1, 1), (S, P, 1, 0), (P, P, 1, 1), (S, V, 2, 1), (V, S, 2, 1), (P, V, 2, 1),
        (S, T, 2, 1), (V, P, 2, 1), (T, P, 2, 1), (V, V, 4, 2), (V, T, 4, 2), (T, V, 4, 2),
        (T, T, 4, 2), (V, A, 4, 2),
    ],
    ids=str,
)  # fmt: skip
def test_dimensions_of_the_table(source, target, rotations, full):
    kinds = (str(target), str(source))
    assert steerable_dimension(*kinds, 2, False) == rotations
    assert steerable_dimension(*kinds, 2, True) == full
    for group, count in ((groups.so(2), rotations), (groups.o(2), full)):
        layer = conv(source, target, group, radial="bspline", degree=4)
        assert layer.free_dimension == 3 * count


def test_dimensions_of_mixed_types():
    """63 (SO) and 33 (O) for (s, p, v, s, t) → (v, s), three radial functions each."""
    source = fs.Representation(
        "scalar + pseudoscalar + vector + scalar + symmetric traceless tensor", 2
    )
    target = fs.Representation("vector + scalar", 2)
    for group, count in ((groups.so(2), 63), (groups.o(2), 33)):
        assert conv(source, target, group, radial="bspline", degree=4).free_dimension == count


def test_radial_functions_are_counted_by_degree():
    """floor((D − n)/2) + 1 of order n: 8 for a pair of scalars at D = 14."""
    assert conv(S, S, degree=14).free_dimension == 8
    assert conv(S, V, groups.o(2), degree=14).free_dimension == 7
    assert conv(V, V, groups.o(2), degree=7).free_dimension == 4 + 3


def _spin_block(n, sign, phi):
    """Rot(nφ) or Ref(nφ) and its version turned by 90°."""
    c, s = np.cos(n * phi), np.sin(n * phi)
    block = np.array([[c, -s], [s, c]]) if sign > 0 else np.array([[c, s], [s, -c]])
    return np.moveaxis(block, -1, 0)


def closed_form(m_in, m_out, reflections, phi):
    """The table of multiplier blocks between the spins m > 0, at unit radius."""
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    blocks = [_spin_block(m_out - m_in, 1, phi), _spin_block(m_out + m_in, -1, phi)]
    return blocks if reflections else blocks + [b @ quarter for b in blocks]


@pytest.mark.parametrize("reflections", [False, True])
@pytest.mark.parametrize(("m_in", "m_out"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_harmonics_span_the_closed_forms(m_in, m_out, reflections):
    kinds = {1: "vector", 2: "symmetric traceless tensor"}
    phi = np.linspace(0.1, 6.0, 17)
    k = np.stack([np.cos(phi), np.sin(phi)], 1)
    found = equivariant_harmonics(kinds[m_out], kinds[m_in], 2, reflections)
    ours = np.concatenate([np.moveaxis(y(k), 1, 0).reshape(len(y.coefficients), -1) for y in found])
    theirs = np.reshape(closed_form(m_in, m_out, reflections, phi), (len(ours), -1))
    assert np.linalg.matrix_rank(ours, 1e-9) == len(ours)
    assert np.linalg.matrix_rank(np.concatenate([ours, theirs]), 1e-9) == len(ours)
    # without m_out + m_in half of them are missing
    dropped = [y for y in found if y.order <= abs(m_out - m_in)]
    assert sum(len(y.coefficients) for y in dropped) == len(ours) // 2


def test_harmonics_have_unit_mean_square():
    phi = 2 * np.pi * np.arange(64) / 64
    k = np.stack([np.cos(phi), np.sin(phi)], 1)
    for source, target in ((V, V), (T, V), (S, T), (T, T)):
        for y in equivariant_harmonics(str(target), str(source), 2, False):
            assert np.allclose(np.square(y(k)).mean((0, 2, 3)), 1)


# Radial functions ---------------------------------------------------------------------------------


def test_radial_polynomials_are_zernike():
    r = np.linspace(0, 1, 9)
    k = np.stack([r, 0 * r], 1)
    family = Radial("zernike", 6, 2, taper=False)
    known = {
        0: [r**0, 2 * r**2 - 1, 6 * r**4 - 6 * r**2 + 1],
        1: [r, 3 * r**3 - 2 * r],
        2: [r**2, 4 * r**4 - 3 * r**2],
    }
    for n, polynomials in known.items():
        ours = family(n, k) * r[:, None] ** n
        for j, want in enumerate(polynomials):
            assert np.allclose(ours[:, j] / ours[-1, j], want, atol=1e-13)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("taper", [False, True])
def test_radial_polynomials_are_orthogonal(dim, taper):
    nodes, weights = np.polynomial.legendre.leggauss(200)
    r = (nodes + 1) / 2
    k = np.stack([r] + [0 * r] * (dim - 1), 1)
    family = Radial("zernike", 9, dim, taper=taper)
    measure = weights * r ** (dim - 1)
    unit = (family(0, k)[:, 0] ** 2 * measure).sum()
    for n in (0, 1, 4):
        b = family(n, k) * r[:, None] ** n
        assert np.allclose(b.T @ (measure[:, None] * b) / unit, np.eye(family.count(n)), atol=1e-11)


def test_the_taper_is_the_stated_one():
    r = np.linspace(0, 1.2, 13)
    k = np.stack([0.6 * r, 0.8 * r], 1)
    want = np.where(r <= 1 + 1e-9, np.exp(-((r / 0.65) ** 8) / 2), 0)
    for family in ("zernike", "bspline"):
        assert np.allclose(Radial(family, 4, 2, taper=True)(0, k).sum(1) if family == "bspline"
                           else Radial(family, 4, 2)(0, k)[:, 0], want, atol=1e-14)  # fmt: skip


@pytest.mark.parametrize("degree", [0, 2, 4, 6, 12])
def test_splines_sum_to_one_and_are_local(degree):
    k = np.stack([np.linspace(0, 1, 41), np.zeros(41)], 1)
    b = Radial("bspline", degree, 2)(3, k)
    assert b.shape == (41, degree // 2 + 1)
    assert np.allclose(b.sum(1), 1)
    assert (b >= 0).all()
    assert ((b > 0).sum(1) <= 4).all()
    assert np.linalg.matrix_rank(b) == b.shape[1]


# Symbols ------------------------------------------------------------------------------------------


def turning_defect(symbol, k, a, rep_in, rep_out):
    """Largest entry of R(Ak) − ρ_out(A) R(k) ρ_in(A)⁻¹, relative to the largest of R."""
    g = fs.Element(a)
    into, out = rep_in.rho(g).to(torch.complex128), rep_out.rho(g).to(torch.complex128)
    r, moved = symbol(k), symbol(k @ torch.from_numpy(a).T)
    return float((moved - out @ r @ into.inverse()).abs().max() / r.abs().max())


def lie_defect(symbol, k, xi, rep_in, rep_out, sign=1.0):
    """Largest entry of R dρ_in − dρ_out R − (ξᵀk)·∇R by central differences in k."""
    into, out = (rep.drho(xi).to(torch.complex128) * sign for rep in (rep_in, rep_out))
    step = 1e-4 * (k @ torch.from_numpy(xi.matrix))
    slope = (symbol(k + step) - symbol(k - step)) / 2e-4
    r = symbol(k)
    return float((r @ into - out @ r - slope).abs().max() / r.abs().max())


FAMILIES = [{}, {"taper": False}, {"radial": "bspline"}, {"radial": "bspline", "taper": True}]


@pytest.mark.parametrize("options", FAMILIES, ids=str)
@pytest.mark.parametrize("group", [groups.so(2), groups.o(2), groups.e(2)], ids=str)
def test_symbols_turn_with_the_fibres(group, options):
    layer = conv(FULL, FULL, group, (1.0, 1.7), (9, 13), **options)
    k, xi = wavevectors(layer), groups.so(2).generators[0]
    for a in GENERIC:
        assert turning_defect(layer.multiplier, k, a, FULL, FULL) < 1e-11
        assert turning_defect(layer.multiplier, k, a @ MIRROR, FULL, FULL) < 1e-11 or (
            group.name == "so(2)"
        )
    assert lie_defect(layer.multiplier, k, xi, FULL, FULL) < 1e-5
    assert lie_defect(layer.multiplier, k, xi, FULL, FULL, sign=-1.0) > 0.1


def test_symbols_turn_in_the_right_sense():
    """Vectors to vectors would not tell the senses apart, scalars to vectors do."""
    layer = conv(S, V)
    k, a = wavevectors(layer), GENERIC[0]
    assert turning_defect(layer.multiplier, k, a, S, V) < 1e-12
    assert turning_defect(lambda q: layer.multiplier(q.flip(1)), k, a, S, V) > 0.1


def test_a_pseudoscalar_is_no_scalar():
    layer = conv(P, V, groups.o(2))
    k = wavevectors(layer)
    assert turning_defect(layer.multiplier, k, GENERIC[0] @ MIRROR, P, V) < 1e-12
    assert turning_defect(layer.multiplier, k, GENERIC[0] @ MIRROR, S, V) > 0.1
    rotations_only = conv(P, V, groups.so(2))
    assert turning_defect(rotations_only.multiplier, k, MIRROR, P, V) > 0.1


@pytest.mark.parametrize("options", FAMILIES, ids=str)
def test_kernels_are_real(options):
    layer = conv(FULL, FULL, **options)
    k = wavevectors(layer)
    r, partner = layer.multiplier(k), layer.multiplier(-k)
    assert (partner - r.conj()).abs().max() < 1e-13 * r.abs().max()
    assert (1j * partner - (1j * r).conj()).abs().max() > 0.1 * r.abs().max()  # a factor i lost


def test_at_rest_only_order_zero_is_left():
    for options in FAMILIES:
        layer = conv(FULL, FULL, groups.o(2), **options)
        r = layer.multiplier(torch.zeros(1, 2, dtype=torch.float64))[0]
        for a in GENERIC:
            rho = FULL.rho(fs.Element(a)).to(torch.complex128)
            assert torch.allclose(rho @ r, r @ rho, atol=1e-13)
        assert r.imag.abs().max() == 0


GRIDS = [((9, 9), (12, 12)), ((9, 9), (9, 9)), ((7, 13), (8, 15)), ((5, 9), (16, 21))]


@pytest.mark.parametrize(("n_modes", "grid"), GRIDS, ids=str)
@pytest.mark.parametrize("options", [{}, {"radial": "bspline"}], ids=str)
def test_values_are_those_of_the_symbol(n_modes, grid, options, dtype):
    """Against a plain FFT with R(k) at physical wavenumbers; nothing outside the disc."""
    base = fs.Torus((1.5, 2.5))
    for group in (groups.so(2), groups.o(2)):
        layer = conv(FULL, V, group, base.lengths, n_modes, **options).to(dtype)

        def symbol(k, layer=layer):
            return layer.multiplier(k)

        u = torch.randn(2, FULL.channels, *grid, dtype=dtype)
        want = laws.convolution(symbol, base, grid)(u.double())
        laws.assert_close(layer(u).double(), want, EXACT[dtype])


# Closed forms -------------------------------------------------------------------------------------


def _i(k):
    return 1j * k


def gradient(k):
    return _i(k)[:, :, None]


def divergence(k):
    return _i(k)[:, None, :]


def curl(k):
    return torch.stack([-_i(k)[:, 1], _i(k)[:, 0]], 1)[:, None, :]


def rotated_gradient(k):
    return torch.stack([_i(k)[:, 1], -_i(k)[:, 0]], 1)[:, :, None]


def laplacian(k):
    return -k.square().sum(1)[:, None, None] * torch.eye(2, dtype=torch.complex128)


def strain(k):
    """v ↦ (∇v + ∇vᵀ)/2 as xx, yy, xy."""
    x, y = _i(k).unbind(1)
    o = torch.zeros_like(x)
    return torch.stack([torch.stack(r, 1) for r in ((x, o), (o, y), (y / 2, x / 2))], 1)


def leray(k):
    """The projector on divergence-free fields, 1 − kkᵀ/|k|²; its mean is half the identity here."""
    r2 = k.square().sum(1)[:, None, None]
    outer = k[:, :, None] * k[:, None, :]
    one = torch.eye(2, dtype=torch.float64)
    return torch.where(r2 > 0, one - outer / r2.clamp_min(1e-9), one / 2)


TENSOR = fs.Representation("symmetric tensor", 2)
POLYNOMIAL = [
    (S, V, gradient), (V, S, divergence), (V, P, curl), (P, V, rotated_gradient),
    (V, V, laplacian), (V, TENSOR, strain),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "symbol"), POLYNOMIAL)
def test_differential_operators_are_in_the_space(source, target, symbol):
    """With reflections too, on an oblong box; applied to fields inside the disc."""
    base = fs.Torus((1.0, 1.5))
    layer = conv(source, target, groups.o(2), base.lengths, (9, 13), degree=4, taper=False)
    assert turned.fit(layer, symbol) < 1e-12
    u = fs.testing.random_section(fs.Bundle(base, source), (14, 18), kmax=2)
    laws.assert_close(layer(u), laws.convolution(symbol, base, (14, 18))(u), 1e-11)


def test_the_leray_projector_needs_splines_and_all_orders():
    assert turned.fit(conv(V, V, groups.o(2), radial="bspline", degree=6), leray) < 1e-12
    assert turned.fit(conv(V, V, groups.o(2), degree=8, taper=False), leray) > 1e-2

    def without_the_sum(*key):
        return tuple(y for y in equivariant_harmonics(*key) if y.order == 0)

    with patch.object(symbol_module, "equivariant_harmonics", without_the_sum):
        half = conv(V, V, groups.o(2), radial="bspline", degree=6)
    assert half.free_dimension == 4  # four splines; with order 2 there are eight weights
    assert turned.fit(half, leray) > 0.5


# Exact and generic rotations ----------------------------------------------------------------------


def assert_exact(layer, group, base, rep, grid, dtype):
    bundle = fs.Bundle(base, rep)
    laws.assert_equivariant(layer.to(dtype), group, bundle, bundle, grid, dtype, EXACT[dtype])
    laws.assert_translates(layer, bundle, grid, dtype, EXACT[dtype])


@pytest.mark.parametrize("grid", [(12, 12), (13, 13)])
@pytest.mark.parametrize("options", FAMILIES, ids=str)
def test_lattice_rotations_are_exact(grid, options, dtype):
    for group, finite in ((groups.o(2), groups.dihedral(4)), (groups.so(2), groups.cyclic(4))):
        layer = conv(FULL, FULL, group, SQUARE.lengths, **options)
        assert_exact(layer, finite, SQUARE, FULL, grid, dtype)
    layer = conv(FULL, FULL, groups.o(2), OBLONG.lengths, (7, 11), **options)
    assert_exact(layer, groups.dihedral(2), OBLONG, FULL, (12, 15), dtype)


def test_rotations_alone_leave_reflections_broken():
    layer = conv(FULL, FULL, groups.so(2), SQUARE.lengths)
    with pytest.raises(AssertionError):
        assert_exact(layer, groups.dihedral(4), SQUARE, FULL, (12, 12), torch.float64)


PATHS = [(S, S), (S, V), (V, V), (V, T), (T, T), (P, V)]
UNIT = fs.Torus((1.0, 1.0))


def angle_errors(paths, grid=(64, 64), n_modes=(39, 39), base=UNIT, lengths=None, **options):
    """Errors of a rotation by 30° for pairs of types; 39 modes taper at K = 12 waves."""
    a = turned.rotation(math.pi / 6)
    return [
        turned.turning_error(
            conv(source, target, groups.so(2), lengths or base.lengths, n_modes, **options),
            a, fs.Bundle(base, source), fs.Bundle(base, target), grid,
        )
        for source, target in paths
    ]  # fmt: skip


def test_the_measure_itself_is_exact():
    bundle = fs.Bundle(UNIT, "scalar + vector + symmetric traceless tensor")
    assert turned.turning_error(lambda u: u, turned.rotation(0.5), bundle, bundle, (64, 64)) < 1e-12


def test_generic_angles_with_the_analytic_profile():
    assert max(angle_errors(PATHS)) < 1e-6


def test_generic_angles_with_sharp_or_singular_symbols():
    """An edge inside the spectrum and symbols that are singular at k = 0 lose the digits."""
    assert all(1e-4 < e < 5e-2 for e in angle_errors(PATHS, n_modes=(25, 25), taper=False))
    assert all(5e-4 < e < 0.5 for e in angle_errors(PATHS, radial="bspline"))


def test_unequal_lengths_are_isotropic_in_physical_space():
    """A rotation by 30° on a 1 × 1.5 box, grids of unequal spacing; not so with k in indices."""
    base, options = fs.Torus((1.0, 1.5)), {"n_modes": (39, 57), "grid": (60, 72)}
    assert max(angle_errors(PATHS[1:3], base=base, **options)) < 1e-6
    assert min(angle_errors(PATHS[1:3], base=base, lengths=(1.0, 1.0), **options)) > 1e-2


def test_the_disc_is_the_largest_inside_the_kept_modes():
    layer = conv(S, S, lengths=(1.0, 2.0), n_modes=(9, 13), radial="bspline")
    assert math.isclose(layer.cutoff, 6 * math.pi)  # 6 modes of the longer axis, 3 of the other
    assert layer.n_modes == (7, 13)
    edge = layer.cutoff * torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    inside, outside = layer.multiplier(edge), layer.multiplier(1.01 * edge)
    assert inside.abs().min() > 0
    assert outside.abs().max() == 0


# Precision, torch.func, errors --------------------------------------------------------------------


def test_casting_to_single_precision_and_back_costs_the_weights_alone():
    layer = conv(FULL, FULL, groups.o(2))
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(p.float().double())
    u = torch.randn(1, FULL.channels, 12, 12, dtype=torch.float64)
    want = layer(u)
    assert torch.equal(layer.float().double()(u), want)


def test_weights_start_at_the_variance_of_neuraloperator():
    rep = fs.Representation("12 scalar + 6 vector + 4 symmetric traceless tensor", 2)
    layer = conv(rep, rep, radial="zernike", taper=False, n_modes=(15, 15))
    k = turned.spectrum_points(layer)
    r = layer.multiplier(k[k.norm(dim=1) <= layer.cutoff])
    assert float(r.abs().square().mean()) == pytest.approx(2 / 64, rel=0.15)


def test_every_weight_learns():
    for group in (groups.so(2), groups.o(2)):
        laws.assert_all_learn(
            conv(FULL, FULL, group), torch.randn(2, FULL.channels, 10, 11).double()
        )


def test_a_map_that_the_symmetry_forbids_is_zero():
    layer = conv(S, P, groups.o(2))
    assert layer.free_dimension == 0
    assert torch.equal(layer(torch.ones(1, 1, 10, 10).double()), torch.zeros(1, 1, 10, 10).double())


def test_jvp_and_vmap():
    layer = conv(FULL, V)
    u, v = torch.randn(2, 2, FULL.channels, 10, 11, dtype=torch.float64)
    laws.assert_close(torch.func.jvp(layer, (u,), (v,))[1], layer(v), 1e-13)
    laws.assert_close(torch.vmap(lambda one: layer(one[None])[0])(u), layer(u), 1e-13)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"group": groups.dihedral(4)}, fs.GroupError, "the finite dihedral"),
        ({"group": groups.translations(2)}, fs.GroupError, "another group"),
        ({"group": groups.so(3)}, fs.GroupError, "acts in 3-D, on a 2-D base"),
        ({"group": "so(2)"}, fs.GroupError, "group is a Group"),
        ({"n_modes": (8, 9)}, fs.GridError, "Use 7 or 9"),
        ({"n_modes": (1, 9)}, fs.GridError, "at least 3 modes per axis"),
        ({"n_modes": (9,)}, fs.GridError, "one number per axis"),
        *[({"lengths": wrong}, fs.GridError, "lengths are the periods of the torus, positive and")
          for wrong in ((0.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), 1.0, "ab", ())],
        ({"n_modes": 8}, fs.GridError, "Use 7 or 9"),
        ({"n_modes": (9.0, 9)}, fs.GridError, r"an odd whole number.* got \(9.0, 9\)"),
        ({"n_modes": "9"}, fs.GridError, "an odd whole number.* got '9'"),
        ({"rep_in": fs.Representation("vector u", 3), "rep_out": fs.Representation("vector", 3)},
         fs.RepresentationError, "needs fields on a 2-D base; got 'vector u' on a 3-D one"),
        ({"rep_out": fs.Representation("vector u", 3)}, fs.RepresentationError, "on one base"),
        ({"rep_in": "vector u"}, fs.RepresentationError, "SteerableConv needs a Rep.* 'vector u'"),
        ({"rep_out": fs.Bundle(UNIT, "scalar")}, fs.RepresentationError, r"got Bundle\(Torus"),
        ({"radial": "bessel"}, fs.GridError, "radial is one of"),
        ({"degree": 1}, fs.GridError, "angular orders up to 2"),
        ({"degree": -1}, fs.GridError, "a whole number"),
        ({"degree": 2.5}, fs.GridError, "a whole number"),
        ({"rep_in": fs.Representation("regular", 2, groups.cyclic(4))},
         fs.RepresentationError, "rotations by every angle"),
    ],
)  # fmt: skip
def test_errors(change, error, message):
    options = {"rep_in": V, "rep_out": V, "group": groups.o(2), "lengths": (1.0, 1.0),
               "n_modes": (9, 9)}  # fmt: skip
    with pytest.raises(error, match=message):
        SteerableConv(**(options | change))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 3, 12, 12).double(), torch.zeros(2, 12, 12).double(), torch.zeros(1, 2, 12, 12),
     torch.zeros(1, 2, 12, 12, 12).double(), torch.zeros(1, 2, 12, 12, dtype=torch.int64), [[0.0]]],
    ids=["channels", "no batch", "single", "another axis", "whole numbers", "a list"],
)  # fmt: skip
def test_what_is_no_field_is_refused(wrong):
    with pytest.raises(fs.BundleError, match=r"SteerableConv expects fields 'vector.*, 2, \*grid"):
        conv(V, V)(wrong)


def test_one_number_of_modes_is_meant_for_all_axes():
    one, each = (
        SteerableConv(V, S, groups.o(2), (1.0, 1.5), modes) for modes in (9, (9, 9))
    )  # fmt: skip
    each.load_state_dict(one.state_dict())
    u = torch.randn(2, 2, 12, 15)
    assert one.n_modes == each.n_modes
    assert torch.equal(one(u), each(u))


def test_a_coarse_grid_is_refused():
    with pytest.raises(fs.GridError, match="needs more points than the grid"):
        conv(S, S)(torch.zeros(1, 1, 8, 12).double())
