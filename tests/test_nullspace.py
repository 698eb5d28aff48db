"""The weights a symmetry leaves free: dimensions, values, and layers built from them."""

import itertools
import math

import laws
import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.utils import parametrize

import fieldsym as fs
from fieldsym.operators.constraints import (
    BiasConstraint,
    KernelConstraint,
    PointwiseConstraint,
    SpectralConstraint,
)
from fieldsym.operators.integral_constraint import IntegralConstraint
from fieldsym.operators.intertwiner import Equation, allowed_maps
from fieldsym.operators.nullspace import NullSpaceWeight, null_basis, project
from fieldsym.operators.nullspace_solvers import (
    Conditions,
    iterative_basis,
    orbit_basis,
    svd_basis,
)

groups = fs.groups
D2, D4 = groups.dihedral(2), groups.dihedral(4)
SO2, O2 = groups.so(2), groups.o(2)
METHODS = ("closed", "svd", "iterative")
MIXED = "scalar p + pseudoscalar w + vector u + symmetric tensor s"


def rep(text, dim=2, group=None):
    return fs.Representation(text, dim, group)


def pair(constraint, source, target, *args, dim=2, **options):
    return constraint(rep(source, dim), rep(target, dim), *args, **options)


def projector(basis):
    rows = basis.flatten(1)
    return rows.mT @ rows


def assert_same_span(one, two, tol=1e-10):
    assert one.shape == two.shape
    assert (projector(one) - projector(two)).abs().max() < tol


def contains(basis, weight):
    return float((project(weight, basis) - weight).abs().max() / weight.abs().max()) < 1e-12


def character(representation, g):
    return float(representation.rho(g).trace())


def burnside(group, source, target, points):
    """(1/|G|) Σ_g #Fix(g) χ_out(g) χ_in(g), the fixed points counted one by one."""
    total = 0.0
    for g in group.elements:
        matrix = np.rint(g.matrix).astype(int)
        fixed = sum(points.same(matrix @ k, k) for k in points)
        total += fixed * character(source, g) * character(target, g)
    return round(total / group.order)


class Lattice(list):
    """Points of Z_N, or of a box about zero where nothing wraps."""

    def __init__(self, sizes, wraps):
        super().__init__(
            np.array(k) for k in itertools.product(*(range(-(n // 2), (n + 1) // 2) for n in sizes))
        )
        self.sizes, self.wraps = np.array(sizes), wraps

    def same(self, a, b):
        return bool(((a - b) % self.sizes == 0).all() if self.wraps else (a == b).all())


# Dimensions ---------------------------------------------------------------------------------------

SPECTRAL = [  # real dimensions on Z_N², theory by characters and rank of the group average
    ("scalar a", "scalar b", 15, 10),
    ("scalar a", "vector b", 15, 12),
    ("vector a", "vector b", 34, 25),
    ("pseudoscalar a", "scalar b", 3, 3),
    (MIXED, "vector u + symmetric tensor s", 287, 218),
]


@pytest.mark.parametrize("half", [True, False], ids=["half", "full"])
@pytest.mark.parametrize(("source", "target", "even", "odd"), SPECTRAL)
def test_spectral_dimensions(source, target, even, odd, half):
    for n, expected in ((8, even), (7, odd)):
        constraint = pair(SpectralConstraint, source, target, (n, n), half=half)
        assert len(null_basis(constraint, D4)) == expected
        assert expected == burnside(D4, constraint.rep_in, constraint.rep_out, Lattice((n, n), 1))


@pytest.mark.parametrize(
    ("group", "source", "target", "modes"),
    [
        (groups.trivial(2), "scalar p", "vector u", (4, 5)),
        (groups.cyclic(2), "vector u", "scalar p", (5, 4)),
        (groups.dihedral(1), "pseudoscalar w", "vector u", (5, 6)),
        (D2, "vector u", "vector v + pseudoscalar w", (6, 3)),
        (groups.cyclic(4), "symmetric traceless tensor t", "vector u + scalar p", (6, 6)),
        (groups.reflections(1), "scalar p + pseudoscalar w", "vector u", (6,)),
        (groups.octahedral(), "scalar p", "vector u", (4, 4, 4)),
        (groups.octahedral(reflections=False), "vector u", "pseudoscalar w", (3, 3, 3)),
    ],
)
def test_lattice_dimensions_follow_from_characters(group, source, target, modes):
    spectral = pair(SpectralConstraint, source, target, modes, dim=group.dim)
    ends = spectral.rep_in, spectral.rep_out
    assert len(null_basis(spectral, group)) == burnside(group, *ends, Lattice(modes, True))
    size = tuple(n | 1 for n in modes)
    kernel = pair(KernelConstraint, source, target, size, dim=group.dim)
    assert len(null_basis(kernel, group)) == burnside(group, *ends, Lattice(size, False))
    point = pair(PointwiseConstraint, source, target, dim=group.dim)
    one = (1,) * group.dim
    assert len(null_basis(point, group)) == burnside(group, *ends, Lattice(one, False))


KINDS = ["scalar", "pseudoscalar", "vector", "axial vector", "symmetric tensor",
         "symmetric traceless tensor"]  # fmt: skip
POINTWISE = {  # in 2-D the axial vector is a vector turned by 90°, a tensor is a trace and spin 2
    "so(2)": [[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0], [0, 0, 2, 2, 0, 0], [0, 0, 2, 2, 0, 0],
              [1, 1, 0, 0, 3, 2], [0, 0, 0, 0, 2, 2]],
    "o(2)": [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0],
             [1, 0, 0, 0, 2, 1], [0, 0, 0, 0, 1, 1]],
    "so(3)": [[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0],
              [1, 1, 0, 0, 2, 1], [0, 0, 0, 0, 1, 1]],
    "o(3)": [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0],
             [1, 0, 0, 0, 2, 1], [0, 0, 0, 0, 1, 1]],
}  # fmt: skip
SAME = {"so(2)": SO2, "o(2)": O2, "so(3)": groups.so(3), "o(3)": groups.o(3)}


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("method", [None, "iterative"])
def test_pointwise_dimensions_of_continuous_groups(name, method):
    group = SAME[name]
    for (i, source), (j, target) in itertools.product(enumerate(KINDS), repeat=2):
        constraint = pair(PointwiseConstraint, source, target, dim=group.dim)
        assert len(null_basis(constraint, group, method=method)) == POINTWISE[name][i][j]
    for i, kind in enumerate(KINDS):
        bias = BiasConstraint(rep(kind, group.dim))
        assert len(null_basis(bias, group, method=method)) == POINTWISE[name][0][i]


@pytest.mark.parametrize("dim", [2, 3])
def test_translations_move_no_fibre(dim):
    text = "scalar p + 2 vector u"
    for constraint in (
        PointwiseConstraint(rep(text, dim), rep(text, dim)),
        KernelConstraint(rep(text, dim), rep("scalar p", dim), (3,) * dim),
        SpectralConstraint(rep("scalar p", dim), rep("vector u", dim), (3, 4, 3)[:dim]),
    ):
        free = null_basis(constraint, groups.translations(dim))
        assert_same_span(free, null_basis(constraint, groups.trivial(dim)))
    point = PointwiseConstraint(rep(text, dim), rep(text, dim))
    for outer, inner in ((groups.se, groups.so), (groups.e, groups.o)):
        assert_same_span(null_basis(point, outer(dim)), null_basis(point, inner(dim)))


def test_components_of_products_count():
    point = PointwiseConstraint(rep("vector u"), rep("vector u"))
    product = groups.translations(2) * groups.cyclic(4)
    assert_same_span(null_basis(point, product), null_basis(point, groups.cyclic(4)))
    # given by its generating elements alone: a shift has no finite order on the plane
    shifts = fs.Group("shifts", 1, (), (fs.Element(np.eye(1), np.array([0.5])),))
    line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
    assert len(null_basis(IntegralConstraint(line, line, (4,)), shifts)) == 4


# Values -------------------------------------------------------------------------------------------


def test_values_of_pointwise_maps():
    one, turn = torch.eye(2).double(), torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    mirror = torch.diag(torch.tensor([1.0, -1.0])).double()
    wind = PointwiseConstraint(rep("vector u"), rep("vector u"))
    assert_same_span(null_basis(wind, SO2), torch.stack([one, turn]) / 2**0.5)
    assert_same_span(null_basis(wind, O2), one[None] / 2**0.5)
    assert_same_span(null_basis(wind, groups.dihedral(1)),
                     torch.stack([one + mirror, one - mirror]) / 2)  # fmt: skip
    axial = pair(PointwiseConstraint, "vector u", "axial vector b")
    assert_same_span(null_basis(axial, O2), turn[None] / 2**0.5)
    stress = pair(PointwiseConstraint, "symmetric tensor s", "symmetric tensor s", dim=3)
    trace = torch.tensor([1.0, 1, 1, 0, 0, 0]).double()
    for group in (groups.so(3), groups.e(3)):
        basis = null_basis(stress, group)
        assert contains(basis, torch.eye(6).double())
        assert contains(basis, torch.outer(trace, trace))
    bias = null_basis(BiasConstraint(rep("vector u + symmetric tensor s", 3)), groups.so(3))
    assert contains(bias, torch.cat([torch.zeros(3).double(), trace]))


def test_values_of_kernels():
    """Gradient, divergence and Laplacian stencils are what isotropy allows."""
    edge = torch.tensor([-1.0, 0.0, 1.0]).double()
    smooth = torch.tensor([1.0, 2.0, 1.0]).double()
    sobel = torch.stack([torch.outer(edge, smooth), torch.outer(smooth, edge)])
    laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).double()
    curl = torch.stack([-sobel[1], sobel[0]])[None]
    for source, target, dimension, stencil in (
        ("scalar p", "vector u", 2, sobel[:, None]),
        ("vector u", "scalar p", 2, sobel[None]),
        ("vector u", "pseudoscalar w", 2, curl),
        ("scalar p", "scalar q", 3, laplace[None, None]),
    ):
        basis = null_basis(pair(KernelConstraint, source, target, (3, 3)), D4)
        assert len(basis) == dimension
        assert contains(basis, stencil)
    wrong = null_basis(pair(KernelConstraint, "vector u", "scalar w", (3, 3)), D4)
    assert not contains(wrong, curl)


def test_values_of_multipliers():
    """i k, the Leray projector 1 − k kᵀ/k² and −k² on a half spectrum with its mean."""
    k = torch.stack(torch.meshgrid(torch.arange(-3.0, 4), torch.arange(0.0, 4), indexing="ij"))
    k = k.double()
    zero = torch.zeros_like(k)
    gradient = torch.stack([zero, k], -1)[:, None]
    outer = k[:, None] * k[None] / k.square().sum(0).clamp_min(1)
    leray = torch.eye(2).double()[..., None, None] - outer
    basis = null_basis(pair(SpectralConstraint, "scalar p", "vector u", (7, 7)), D4)
    assert contains(basis, gradient)
    assert not contains(basis, gradient.flip(-1))
    basis = null_basis(pair(SpectralConstraint, "vector u", "vector v", (7, 7)), D4)
    assert contains(basis, torch.stack([leray, torch.zeros_like(leray)], -1))


@pytest.mark.parametrize("group", [groups.cyclic(3), groups.cyclic(4), D4, groups.dihedral(6)],
                         ids=str)  # fmt: skip
def test_closed_forms_are_the_group_averages(group):
    text = "2 vector u + symmetric traceless tensor t + scalar p + 2 regular"
    source, target = rep(text, 2, group), rep("vector u + regular", 2, group)
    equations = [
        Equation(target.rho(g).numpy(), source.rho(g.inverse).numpy()) for g in group.elements
    ]
    shape = target.channels, source.channels
    average = torch.from_numpy(allowed_maps(equations, shape, 1))[:, 0]
    rows = torch.linalg.qr(average.flatten(1).mT).Q.mT.view(-1, *shape)
    for method in METHODS:
        found = null_basis(PointwiseConstraint(source, target), group, method=method)
        assert_same_span(found, rows)


def test_the_layer_of_the_operators_lies_in_the_null_space():
    """The multiplier read off by impulses, and as many free numbers."""
    for group, modes, grid in ((D4, (5, 5), (8, 8)), (D2, (5, 7), (9, 12)),
                               (groups.cyclic(4), (5, 5), (7, 7))):  # fmt: skip
        source, target = rep("scalar p + vector u"), rep("vector u + pseudoscalar w")
        layer = fs.operators.spectral.SpectralConv(source, target, group, modes).double()
        impulses = torch.zeros(3, 3, *grid, dtype=torch.float64)
        impulses[range(3), range(3), 0, 0] = 1
        with torch.no_grad():
            response = torch.fft.fftn(layer(impulses), dim=(-2, -1)).transpose(0, 1)
        response = response.roll(tuple(n // 2 for n in modes), (-2, -1))
        response = response[..., : modes[0], modes[1] // 2 : modes[1]]
        basis = null_basis(SpectralConstraint(source, target, modes), group)
        assert (project(torch.view_as_real(response), basis)
                - torch.view_as_real(response)).abs().max() < 1e-12  # fmt: skip
        assert len(basis) == sum(p.numel() for p in layer.parameters())


# Methods ------------------------------------------------------------------------------------------

CASES = [
    (pair(PointwiseConstraint, MIXED, "vector u + symmetric tensor s"), D4),
    (pair(PointwiseConstraint, "2 vector u", "symmetric traceless tensor t + vector u"),
     groups.cyclic(3)),
    (pair(KernelConstraint, "scalar p + vector u", "vector u", (3, 5)), D2),
    (pair(KernelConstraint, "vector u", "symmetric tensor s", (3, 3)), D4),
    (pair(KernelConstraint, "vector u", "symmetric traceless tensor t", (3, 3, 1), dim=3),
     groups.dihedral(4, dim=3)),
    (pair(KernelConstraint, "scalar p", "symmetric traceless tensor t", (3, 3, 3), dim=3),
     groups.octahedral()),
    (pair(SpectralConstraint, "scalar p", "vector u", (5, 6)), D2),
    (pair(SpectralConstraint, "vector u", "vector u", (6, 6), half=False), groups.cyclic(4)),
    (BiasConstraint(rep("pseudoscalar w + symmetric tensor s + scalar p")), groups.dihedral(3)),
]  # fmt: skip


@pytest.mark.parametrize(("constraint", "group"), CASES, ids=str)
def test_all_methods_span_the_same_space(constraint, group):
    found = [null_basis(constraint, group, method="svd")]
    found.append(null_basis(constraint, group, method="iterative"))
    found.append(null_basis(constraint, group))
    for basis in found:
        assert basis.dtype == torch.float64
        assert basis.shape[1:] == constraint.shape
        assert_same_span(basis, found[0])
        gram = basis.flatten(1) @ basis.flatten(1).mT
        assert (gram - torch.eye(len(basis))).abs().max() < 1e-12


@pytest.mark.parametrize("group", [SO2, O2, groups.so(3), groups.e(3)], ids=str)
@pytest.mark.parametrize("method", ["svd", "iterative"])
def test_continuous_groups_hold_at_generic_angles(group, method):
    text = "scalar p + 2 vector u + symmetric tensor s + symmetric traceless tensor t"
    source, target = rep(text, group.dim), rep(text + " + pseudoscalar w", group.dim)
    basis = null_basis(PointwiseConstraint(source, target), group, method=method)
    weight = torch.einsum("n...,n->...", basis, torch.randn(len(basis)).double())
    g = group.exp([0.3, -0.7, 0.4, 0.9, 0.2, -1.1][: len(group.generators)])
    for moved in (g, *(g @ h for h in group.components)):
        laws.assert_close(target.rho(moved) @ weight, weight @ source.rho(moved), 1e-12)


def test_units_of_generators_do_not_matter():
    about_x, about_y, _ = groups.so(3).generators
    slow = fs.Generator("slow", about_y.matrix * 1e-8, about_y.shift)
    wind = pair(PointwiseConstraint, "vector u", "symmetric tensor s + vector v", dim=3)
    for method in ("svd", "iterative"):
        found = null_basis(wind, fs.Group("so(3)", 3, (about_x, slow)), method=method)
        assert_same_span(found, null_basis(wind, groups.so(3)))


def test_gradients_that_are_off_or_recorded_do_not_matter():
    wind = PointwiseConstraint(rep("vector u"), rep("vector u"))
    for method in ("svd", "iterative"):
        with torch.no_grad():
            silent = null_basis(wind, O2, method=method)
        assert_same_span(silent, null_basis(wind, O2, method=method))
        assert not silent.requires_grad
        assert not null_basis(wind, O2, method=method).requires_grad


def test_masked_entries_and_tied_ones():
    """Zeros, copies, and what only combinations satisfy, which is no matter of copying."""
    mask = torch.tensor([1.0, 0, 1, 1, 0])
    half = 0.5**0.5
    masked = Conditions((5,), (), (lambda w: w * mask, lambda w: w[..., [0, 1, 3, 2, 4]]))
    expected = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, half, half, 0]]).double()
    for solve in (orbit_basis, svd_basis, iterative_basis):
        assert_same_span(solve(masked), expected, 1e-7)
    turned = Conditions(
        (2,), (), (lambda w: w @ torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=w.dtype),)
    )
    assert orbit_basis(turned) is None
    for solve in (svd_basis, iterative_basis):
        assert contains(solve(turned), torch.tensor([2.0, 1.0]))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
def test_conditions_that_are_rounding_allow_everything(n):
    noise = 1e-16 * torch.randn(n, n, dtype=torch.float64)
    conditions = Conditions((n,), (lambda w: w @ noise,), ())
    for solve in (svd_basis, iterative_basis):
        assert_same_span(solve(conditions), torch.eye(n).double())


@pytest.mark.parametrize("decades", [3, 5])
def test_small_singular_values_are_not_zero(decades):
    turn = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64)).Q
    scale = torch.logspace(0, -decades, 37).double()
    conditions = Conditions((40,), (lambda w: w @ turn[:, :37] * scale,), ())
    for solve in (svd_basis, iterative_basis):
        assert_same_span(solve(conditions), turn[:, 37:].mT)


def test_large_weights_are_projected(monkeypatch):
    monkeypatch.setattr("fieldsym.operators.nullspace.DENSE", 50)
    wind = pair(PointwiseConstraint, "6 vector u", "8 vector u")
    dense = null_basis(wind, SO2, method="svd")
    assert len(dense) == 96
    monkeypatch.delattr("fieldsym.operators.nullspace.svd_basis")
    assert_same_span(null_basis(wind, SO2), dense)


def test_the_bases_of_one_symmetry_are_sparse():
    """What the conditions do not couple stays apart: gathered, not multiplied."""
    constraint = pair(SpectralConstraint, "scalar p + vector u", "vector u", (6, 6))
    for method in ("closed", "svd"):
        basis = null_basis(constraint, D4, method=method)
        assert NullSpaceWeight(basis).gathers
    assert ((basis != 0).flatten(1).sum(0) <= 4).all()


# Layers built from the basis are equivariant ------------------------------------------------------


def combine(basis):
    return torch.einsum("n...,n->...", basis, torch.randn(len(basis), dtype=torch.float64))


def convolve(weight):
    """Cross-correlation with circular padding, as in torch.nn.Conv2d."""
    pads = [n // 2 for n in reversed(weight.shape[2:]) for _ in range(2)]

    def layer(u):
        return functional.conv2d(functional.pad(u, pads, mode="circular"), weight)

    return layer


def multiply(weight, n_modes):
    """Fourier multiplier by rfftn, from a half spectrum."""

    def layer(u):
        grid = u.shape[-2:]
        rows = (torch.arange(n_modes[0]) - n_modes[0] // 2) % grid[0]
        spectrum = torch.fft.rfftn(u, dim=(-2, -1))
        kept = spectrum[..., rows, : n_modes[1] // 2 + 1]
        mixed = torch.einsum("oikl,bikl->bokl", torch.view_as_complex(weight), kept)
        out = spectrum.new_zeros(len(u), len(weight), *spectrum.shape[-2:])
        out[..., rows, : n_modes[1] // 2 + 1] = mixed
        return torch.fft.irfftn(out, s=grid, dim=(-2, -1))

    return layer


SQUARE, OBLONG = fs.Torus((1.5, 1.5)), fs.Torus((2.0, 3.0))
GEOMETRIES = [
    (D4, SQUARE, (9, 9), (5, 5)), (D4, SQUARE, (8, 8), (3, 3)),
    (groups.cyclic(4), SQUARE, (8, 8), (5, 5)),
    (D2, OBLONG, (8, 11), (3, 5)), (groups.dihedral(1), OBLONG, (9, 12), (5, 3)),
]  # fmt: skip
ENDS = [("scalar p", "vector u"), ("vector u", "scalar p + pseudoscalar w"),
        ("scalar p + vector u", "symmetric tensor s + vector u")]  # fmt: skip


@pytest.mark.parametrize(("group", "base", "grid", "size"), GEOMETRIES)
@pytest.mark.parametrize(("source", "target"), ENDS)
def test_layers_are_equivariant(group, base, grid, size, source, target):
    one, two = fs.Bundle(base, source), fs.Bundle(base, target)
    ends = one.representation, two.representation
    layers = [
        convolve(combine(null_basis(KernelConstraint(*ends, size), group))),
        multiply(combine(null_basis(SpectralConstraint(*ends, size), group)), size),
        multiply(combine(null_basis(SpectralConstraint(*ends, grid), group)), grid),
    ]
    for layer in layers:
        laws.assert_equivariant(layer, group, one, two, grid, torch.float64, 1e-12)
        laws.assert_translates(layer, one, grid, torch.float64, 1e-12)


def integrate(weight, base, grid):
    """∫ κ(x, y) u(y) dy by quadrature."""
    points = math.prod(grid)
    flat = weight.reshape(*weight.shape[:2], points, points)
    measure = base.weights(grid).flatten()

    def layer(u):
        value = torch.einsum("oixy,y,biy->box", flat, measure, u.flatten(2))
        return value.view(len(u), -1, *grid)

    return layer


@pytest.mark.parametrize(
    ("base", "group", "grid"),
    [
        (fs.Box((1.5, 1.5), location="node"), D4, (5, 5)),
        (fs.Box((2.0, 3.0), location="cell"), D2, (3, 4)),
        (fs.Torus((1.5, 1.5)), groups.cyclic(4), (4, 4)),
        (fs.Torus((1.5, 1.5), location="cell"), groups.translations(2) * D4, (3, 3)),
    ],
    ids=str,
)
def test_integral_kernels_are_equivariant(base, group, grid):
    one, two = fs.Bundle(base, "scalar p"), fs.Bundle(base, "vector u")
    basis = null_basis(IntegralConstraint(one, two, grid), group)
    layer = integrate(combine(basis), base, grid)
    point = group if group.is_finite else D4
    laws.assert_equivariant(layer, point, one, two, grid, torch.float64, 1e-12)
    if not group.is_finite:
        fs.testing.assert_equivariant(layer, D4, one, two, grid)  # shifts by one cell too
        kernel = KernelConstraint(one.representation, two.representation, grid)
        assert len(basis) == len(null_basis(kernel, D4))


# What move and lie say ----------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), ENDS)
def test_move_is_the_weight_of_the_moved_layer(source, target):
    """K_g F = g⁻¹ F g on fields, for weights without any symmetry."""
    one, two = fs.Bundle(SQUARE, source), fs.Bundle(SQUARE, target)
    ends, grid = (one.representation, two.representation), (5, 5)
    spectral = SpectralConstraint(*ends, (5, 5))
    layers = [
        (KernelConstraint(*ends, (3, 3)), convolve),
        (spectral, lambda w: multiply(w.contiguous(), (5, 5))),
        (IntegralConstraint(one, two, grid), lambda w: integrate(w, SQUARE, grid)),
        (PointwiseConstraint(*ends), lambda w: lambda u: torch.einsum("oi,bixy->boxy", w, u)),
    ]
    u = laws.noise(one, grid)
    for (constraint, layer), g in itertools.product(layers, D4.elements):
        weight = torch.randn(constraint.shape, dtype=torch.float64)
        if constraint is spectral:  # of a real layer
            weight = (weight + spectral.fixed(weight)) / 2
        moved = fs.act(g.inverse, layer(weight)(fs.act(g, u, one)), two)
        laws.assert_close(layer(constraint.move(g, weight))(u), moved, 1e-12)
    bias = torch.randn(two.channels, 1, 1, dtype=torch.float64)
    for g in D4.elements:
        moved = fs.act(g.inverse, bias.expand(-1, 5, 5), two)
        got = BiasConstraint(ends[1]).move(g, bias[:, 0, 0])[:, None, None].expand(-1, 5, 5)
        laws.assert_close(got, moved, 1e-12)


@pytest.mark.parametrize("group", [SO2, groups.so(3)], ids=str)
def test_lie_is_the_derivative_of_move(group):
    one, two = rep("vector u + scalar p", group.dim), rep("symmetric tensor s", group.dim)
    for constraint in (
        PointwiseConstraint(one, two),
        BiasConstraint(two),
        Quadratic(one, one, two),
    ):
        weight = torch.randn(2, *constraint.shape, dtype=torch.float64)
        for xi in group.generators:
            step = [group.exp(fs.Generator("", xi.matrix * t, xi.shift)) for t in (1e-5, -1e-5)]
            forth, back = (constraint.move(g, weight) for g in step)
            laws.assert_close(constraint.lie(xi, weight), (forth - back) / 2e-5, 1e-8)


def test_lie_of_a_kernel_along_a_translation_is_the_derivative_of_move():
    one, two = fs.Bundle(OBLONG, "scalar p"), fs.Bundle(OBLONG, "vector u")
    constraint = IntegralConstraint(one, two, (5, 7))
    k = torch.tensor([1, 2, 2, -3])  # of x and y, both axes
    axes = torch.meshgrid(*(torch.arange(n) / n for n in (5, 7, 5, 7)), indexing="ij")
    phase = 2 * math.pi * sum(int(m) * x for m, x in zip(k, axes, strict=True))
    for axis, xi in enumerate(groups.translations(2).generators):
        speed = 2 * math.pi * float(k[axis] + k[axis + 2]) / OBLONG.lengths[axis]
        found = constraint.lie(xi, phase.sin().double().expand(constraint.shape))
        assert (found - speed * phase.cos()).abs().max() < 1e-4


# A user's own layers ------------------------------------------------------------------------------


class Quadratic:
    """y_o = Σ W_oij u_i v_j at every point: a bilinear map of two fields."""

    def __init__(self, one, two, out):
        self.ends = one, two, out
        self.shape = (out.channels, one.channels, two.channels)

    def lie(self, xi, weight):
        one, two, out = (r.drho(xi) for r in self.ends)
        return (
            torch.einsum("...oij,ik->...okj", weight, one)
            + torch.einsum("...oij,jk->...oik", weight, two)
            - torch.einsum("qo,...oij->...qij", out, weight)
        )

    def move(self, g, weight):
        one, two = (r.rho(g) for r in self.ends[:2])
        out = self.ends[2].rho(g.inverse)
        return torch.einsum("qo,...oij,ik,jl->...qkl", out, weight, one, two)


@pytest.mark.parametrize("method", [None, "svd", "iterative"])
def test_bilinear_maps_are_the_products_of_vector_calculus(method):
    u, p, b = rep("vector u", 3), rep("scalar p", 3), rep("axial vector b", 3)
    epsilon = torch.zeros(3, 3, 3, dtype=torch.float64)
    for i, j, k in itertools.permutations(range(3)):
        epsilon[i, j, k] = np.linalg.det(np.eye(3)[[i, j, k]])
    for group, target, expected in (
        (groups.so(3), u, epsilon), (groups.o(3), b, epsilon),
        (groups.o(3), p, torch.eye(3, dtype=torch.float64)[None]),
    ):  # fmt: skip
        basis = null_basis(Quadratic(u, u, target), group, method=method)
        assert_same_span(basis, expected[None] / expected.norm())
    assert len(null_basis(Quadratic(u, u, u), groups.o(3), method=method)) == 0


class Steerable:
    """R(φ) = Σ_n W_oin Y_n(φ), the angular part of a multiplier; Y = 1, cos φ, sin φ, …"""

    orders = 4

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.shape = (target.channels, source.channels, 2 * self.orders + 1)

    def lie(self, xi, weight):
        """∂_φ R + R dρ_in − dρ_out R for the rotation of the plane."""
        slope = torch.zeros_like(weight)
        for n in range(1, self.orders + 1):
            cos, sin = weight[..., 2 * n - 1], weight[..., 2 * n]
            slope[..., 2 * n - 1], slope[..., 2 * n] = n * sin, -n * cos
        right = torch.einsum("...oin,ij->...ojn", weight, self.source.drho(xi))
        return slope + right - torch.einsum("po,...oin->...pin", self.target.drho(xi), weight)

    def move(self, g, weight):
        """Of the reflection φ → −φ."""
        sign = torch.tensor([1.0] + [1.0, -1.0] * self.orders).to(weight)
        left, right = self.target.rho(g.inverse), self.source.rho(g)
        return torch.einsum("po,...oin,ij->...pjn", left, weight * sign, right)


@pytest.mark.parametrize(
    ("source", "target", "so2", "o2"),
    [
        ("scalar p", "scalar q", 1, 1),
        ("scalar p", "pseudoscalar w", 1, 0),
        ("scalar p", "vector u", 2, 1),
        ("symmetric traceless tensor t", "scalar p", 2, 1),
        ("pseudoscalar w", "vector u", 2, 1),
        ("vector u", "vector v", 4, 2),
        ("symmetric traceless tensor t", "vector u", 4, 2),
        ("scalar p + pseudoscalar w + vector u + scalar q + symmetric traceless tensor t",
         "vector v + scalar r", 21, 11),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["svd", "iterative"])
def test_steerable_multipliers_have_the_known_dimensions(source, target, so2, o2, method):
    own = Steerable(rep(source), rep(target))
    assert len(null_basis(own, SO2, method=method)) == so2
    assert len(null_basis(own, O2, method=method)) == o2


def test_the_leray_projector_is_steerable():
    own = Steerable(rep("vector u"), rep("vector v"))
    leray = torch.zeros(own.shape, dtype=torch.float64)  # 1 − k kᵀ/k²
    leray[..., 0] = torch.eye(2) / 2
    leray[..., 3] = torch.tensor([[-0.5, 0.0], [0.0, 0.5]])
    leray[..., 4] = torch.tensor([[0.0, -0.5], [-0.5, 0.0]])
    assert contains(null_basis(own, O2), leray)
    leray[..., 4] *= -1
    assert not contains(null_basis(own, O2), leray)


class Volterra:
    """y_o(x) = Σ W_oij[a, b] u_i(x + a) u_j(x + b) over a stencil; entries with a ≠ b beyond one
    step of each other are masked."""

    stencil = tuple(itertools.product((-1, 0, 1), repeat=2))

    def __init__(self, source, target):
        self.source, self.target = source, target
        n = len(self.stencil)
        self.shape = (target.channels, source.channels, source.channels, n, n)
        a = np.array(self.stencil)
        self.mask = torch.from_numpy(np.abs(a[:, None] - a[None]).sum(-1) <= 1).double()

    def lie(self, xi, weight):
        raise AssertionError("a finite group has no generators")

    def fixed(self, weight):
        return weight * self.mask

    def move(self, g, weight):
        images = [tuple(int(c) for c in np.rint(g.matrix @ a)) for a in self.stencil]
        order = [self.stencil.index(a) for a in images]
        moved = weight[..., order, :][..., order]
        into, out = self.source.rho(g), self.target.rho(g.inverse)
        return torch.einsum("qo,...oijab,ik,jl->...qklab", out, moved, into, into)

    def layer(self, weight):
        def apply(u):
            shifted = torch.stack([u.roll((-a, -b), (-2, -1)) for a, b in self.stencil], 2)
            return torch.einsum("oijab,niaxy,njbxy->noxy", weight, shifted, shifted)

        return apply


@pytest.mark.parametrize("method", METHODS)
def test_a_bilinear_stencil_of_ones_own(method):
    one, two = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "vector u")
    own = Volterra(one.representation, two.representation)
    basis = null_basis(own, D4, method=method)
    weight = combine(basis)
    assert (weight * (1 - own.mask)).abs().max() < 1e-14
    assert_same_span(basis, null_basis(own, D4, method="svd"))
    laws.assert_equivariant(own.layer(weight), D4, one, two, (7, 7), torch.float64, 1e-12)
    advection = torch.zeros(own.shape, dtype=torch.float64)  # p ∂p, the difference taken centrally
    for a, b in itertools.product(range(9), repeat=2):
        step = np.array(own.stencil[b])
        if a == 4 and np.abs(step).sum() == 1:
            advection[:, 0, 0, a, b] = torch.from_numpy(step)
    assert contains(basis, advection)


def test_a_closed_form_of_ones_own():
    class Known(Quadratic):
        def closed_form(self, group):
            return torch.eye(3)[None, None] / 3**0.5

    u, p = rep("vector u", 3), rep("scalar p", 3)
    dot = null_basis(Known(u, u, p), groups.o(3), method="closed")
    assert_same_span(dot, null_basis(Quadratic(u, u, p), groups.o(3)), 1e-6)


# Saboteurs ----------------------------------------------------------------------------------------


class WrongSign(PointwiseConstraint):
    """W dρ_in + dρ_out W."""

    def lie(self, xi, weight):
        return weight @ self.rep_in.drho(xi) + self.rep_out.drho(xi) @ weight


class Transposed(KernelConstraint):
    """ρ_out(g) W_{gj} ρ_in(g)⁻¹: fibres turn the other way."""

    def move(self, g, weight):
        turned = super().move(g, weight)
        for _ in range(2):
            turned = torch.einsum("op,...pqxy->...oqxy", self.rep_out.rho(g), turned)
            turned = torch.einsum("...oqxy,qi->...oixy", turned, self.rep_in.rho(g.inverse))
        return turned


class Unmixed(KernelConstraint):
    """W_{gj}: components moved like scalars."""

    def move(self, g, weight):
        whole = f"{self.rep_in.channels} scalar", f"{self.rep_out.channels} scalar"
        return pair(KernelConstraint, *whole, self.size).move(g, weight)


@pytest.mark.parametrize("broken", [Transposed, Unmixed])
def test_broken_moves_give_layers_without_the_symmetry(broken):
    one, two = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "vector u")
    basis = null_basis(broken(one.representation, two.representation, (3, 3)), D4)
    layer = convolve(combine(basis))
    with pytest.raises(AssertionError):
        laws.assert_equivariant(layer, D4, one, two, (8, 8), torch.float64, 1e-3)


def test_a_wrong_sign_is_seen():
    source = rep("vector u + symmetric tensor s")
    wrong = null_basis(WrongSign(source, source), SO2)
    g = SO2.exp([0.7])
    weight = combine(wrong)
    assert (source.rho(g) @ weight - weight @ source.rho(g)).abs().max() > 0.1


def test_a_dropped_component_is_seen():
    wind = rep("vector u")
    weight = combine(
        null_basis(PointwiseConstraint(wind, wind), fs.Group("o(2)", 2, SO2.generators))
    )
    mirror = O2.components[0]
    assert (wind.rho(mirror) @ weight - weight @ wind.rho(mirror)).abs().max() > 0.1


# Projection and parametrisation -------------------------------------------------------------------


def test_project_is_the_nearest_allowed_weight(dtype):
    constraint = pair(KernelConstraint, "scalar p", "vector u", (3, 3))
    basis = null_basis(constraint, D4)
    weight = torch.randn(4, 2, *constraint.shape, dtype=dtype)
    near = project(weight, basis)
    assert near.dtype == dtype
    assert near.shape == weight.shape
    assert torch.allclose(project(near, basis), near, atol=1e-6)
    average = sum(constraint.move(g, weight) for g in D4.elements) / 8
    assert torch.allclose(near, average, atol=1e-6)


BASES = [
    null_basis(pair(KernelConstraint, "scalar p", "vector u", (3, 3)), D4),
    null_basis(pair(PointwiseConstraint, "2 vector u", "3 vector u"), SO2, method="iterative"),
    null_basis(pair(PointwiseConstraint, "2 symmetric tensor s", "3 vector u + scalar p"), SO2),
]


@pytest.mark.parametrize("basis", BASES, ids=["gathered", "dense", "mixed"])
def test_the_parametrisation_is_the_basis(basis, dtype):
    module = NullSpaceWeight(basis)
    z = torch.randn(len(basis), dtype=dtype)
    expected = torch.einsum("n...,n->...", basis, z.double())
    exact = 1e-14 if dtype == torch.float64 else 1e-6
    assert (module(z) - expected).abs().max() < exact
    assert module(z).dtype == dtype
    assert (module.right_inverse(module(z)) - z).abs().max() < exact
    weight = torch.randn(basis.shape[1:], dtype=dtype)
    assert (module(module.right_inverse(weight)) - project(weight, basis)).abs().max() < exact
    pushed = torch.func.jvp(module, (z,), (z,))[1]
    assert torch.allclose(pushed, module(z))
    many = torch.randn(3, len(basis), dtype=dtype)
    assert torch.allclose(torch.vmap(module)(many), torch.stack([module(m) for m in many]))
    # orthonormal: the gradient of |W|²/2 is z
    leaf = z.clone().requires_grad_()
    (module(leaf).square().sum() / 2).backward()
    assert (leaf.grad - z).abs().max() < 10 * exact


def test_gathered_or_multiplied():
    assert [NullSpaceWeight(basis).gathers for basis in BASES] == [True, False, True]


@pytest.mark.parametrize("basis", BASES, ids=["gathered", "dense", "mixed"])
def test_precision_survives_a_cast_to_single_and_back(basis):
    module = NullSpaceWeight(basis)
    z = torch.randn(len(basis), dtype=torch.float64)
    before = module(z)
    assert torch.equal(module.float().double()(z), before)
    assert module.state_dict() == {}


def test_tied_entries_are_equal_to_the_last_bit(dtype):
    module = NullSpaceWeight(null_basis(pair(KernelConstraint, "scalar p", "scalar q", (3, 3)), D4))
    weight = module(torch.randn(3, dtype=dtype))
    assert torch.equal(weight, weight.flip(-1))
    assert torch.equal(weight, weight.mT)


def test_a_layer_of_torch_is_trained_inside_the_null_space(dtype):
    one, two = fs.Bundle(SQUARE, "scalar p + vector u"), fs.Bundle(SQUARE, "vector u")
    layer = torch.nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular", bias=False, dtype=dtype)
    basis = null_basis(KernelConstraint(one.representation, two.representation, (3, 3)), D4)
    nearest = project(layer.weight.detach(), basis)
    parametrize.register_parametrization(layer, "weight", NullSpaceWeight(basis))
    assert (layer.weight - nearest).abs().max() < 1e-6
    bound = 1e-12 if dtype == torch.float64 else 2e-6
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    u = laws.noise(one, (8, 8), dtype)
    for _ in range(3):
        optimiser.zero_grad()
        (layer(u) - u[:, 1:]).square().mean().backward()
        assert (layer.parametrizations.weight.original.grad != 0).all()
        optimiser.step()
        laws.assert_equivariant(layer, D4, one, two, (8, 8), dtype, bound)
    parametrize.remove_parametrizations(layer, "weight")
    laws.assert_equivariant(layer, D4, one, two, (8, 8), dtype, bound)


def test_nothing_allowed_is_a_weight_of_zeros(dtype):
    empty = null_basis(pair(PointwiseConstraint, "pseudoscalar w", "scalar p"), D4)
    module = NullSpaceWeight(empty)
    assert torch.equal(module(torch.zeros(0, dtype=dtype)), torch.zeros(1, 1, dtype=dtype))
    assert module.right_inverse(torch.ones(1, 1, dtype=dtype)).shape == (0,)
    assert (project(torch.ones(1, 1, dtype=dtype), empty) == 0).all()


@pytest.mark.parametrize("basis", BASES, ids=["gathered", "dense", "mixed"])
def test_compiles_into_one_graph(basis):
    module = NullSpaceWeight(basis)
    z = torch.randn(len(basis))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(z), module(z))
    torch.compiler.reset()


# Errors -------------------------------------------------------------------------------------------


class Rounded(PointwiseConstraint):
    """Matrices in single precision."""

    def lie(self, xi, weight):
        return super().lie(xi, weight) + 1e-8 * weight


@pytest.mark.parametrize("method", ["svd", "iterative"])
def test_no_gap_is_an_error(method):
    wind = rep("vector u")
    with pytest.raises(fs.GroupError, match=r"clear|steps of conjugate gradients"):
        null_basis(Rounded(wind, wind), SO2, method=method)


def test_the_error_lists_the_singular_values():
    wind = rep("vector u")
    with pytest.raises(fs.GroupError, match=r"above 1e-06\); got 1\.0e-08, 1\.0e-08\."):
        null_basis(Rounded(wind, wind), SO2, method="svd")


EVERY = [None, "closed", "svd", "iterative"]


def changed(where, change):
    """A pointwise or spectral constraint one map of which is changed."""
    parent = SpectralConstraint if where == "fixed" else PointwiseConstraint

    def broken(self, *args):
        return change(getattr(parent, where)(self, *args), args[-1])

    kind = type("Broken", (parent,), {where: broken})
    options = ((3, 3),) if where == "fixed" else ()
    return kind(rep("vector u"), rep("vector u"), *options)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize(
    ("where", "name"),
    [("lie", "lie of Broken along rotation xy"), ("move", "move of Broken under r"),
     ("fixed", "fixed of Broken")],
)  # fmt: skip
def test_maps_that_are_no_linear_action_are_named(where, name, method):
    group = SO2 if where == "lie" else D4
    cases = {
        "gives numbers that are not finite": lambda value, w: value * math.nan,
        "must be linear": lambda value, w: value + 1.0,
        r"must be linear.*absolute values": lambda value, w: value.abs() + w.abs(),
    }
    for message, change in cases.items():
        with pytest.raises(fs.GroupError, match=f"{name}.*{message}"):
            null_basis(changed(where, change), group, method=method)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("factor", [1.5, 1.0001, 0.0])
def test_moves_that_scale_are_no_group_action(factor, method):
    scaled = changed("move", lambda value, w: factor * value)
    for group in (D4, groups.o(2)):
        with pytest.raises(fs.GroupError, match=r"move of Broken under .* is no group action: app"):
            null_basis(scaled, group, method=method)


def test_elements_of_any_order_and_fixed_maps_are_checked_without_false_alarms():
    wind, p = rep("vector u"), rep("scalar p")
    for n in (1, 5, 7, 12):
        assert len(null_basis(PointwiseConstraint(wind, wind), groups.cyclic(n))) == (
            4 if n == 1 else 2
        )
    for half in (True, False):
        assert len(null_basis(SpectralConstraint(p, wind, (5, 5), half=half), D4)) == 6
        assert len(null_basis(SpectralConstraint(p, wind, (6, 6), half=half), D4)) == 8


def test_groups_and_representations_of_another_kind_are_refused():
    wind = rep("vector u")
    with pytest.raises(fs.GroupError, match=r"null_basis needs a Group.* got 'so\(2\)'"):
        null_basis(PointwiseConstraint(wind, wind), "so(2)")
    for of in (PointwiseConstraint(wind, wind), KernelConstraint(wind, wind, (3, 3)),
               SpectralConstraint(wind, wind, (3, 3)), BiasConstraint(wind)):  # fmt: skip
        for group in (groups.octahedral(), groups.trivial(3), groups.translations(3)):
            if of.shape[2:] and group.name == "trivial":
                continue
            with pytest.raises(fs.RepresentationError, match=r"on a 2-D base; .* acts in 3-D"):
                null_basis(of, group)
    with pytest.raises(fs.RepresentationError, match=r"PointwiseConstraint needs a Rep.* 'vector'"):
        PointwiseConstraint(wind, "vector")
    with pytest.raises(fs.RepresentationError, match=r"KernelConstraint maps between .* on one"):
        KernelConstraint(wind, fs.Representation("vector u", 3), (3, 3))


@pytest.mark.parametrize("method", METHODS)
def test_another_shape_is_an_error(method):
    class Summed(KernelConstraint):
        def move(self, g, weight):
            return super().move(g, weight).sum(-1, keepdim=True)

    with pytest.raises(fs.RepresentationError, match=r"3\) came back as \(\d+, 2, 1, 3, 1\)"):
        null_basis(pair(Summed, "scalar p", "vector u", (3, 3)), D4, method=method)


def test_errors_of_methods():
    wind = PointwiseConstraint(rep("vector u"), rep("vector u"))
    with pytest.raises(fs.GroupError, match="method is one of closed, svd, iterative or None; got"):
        null_basis(wind, D4, method="qr")
    with pytest.raises(
        fs.GroupError, match="No closed form is known for PointwiseConstraint under"
    ):
        null_basis(wind, SO2, method="closed")

    class Wrong(PointwiseConstraint):
        def closed_form(self, group):
            return torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])

    class Long(PointwiseConstraint):
        def closed_form(self, group):
            return torch.eye(2)[None]

    for broken in (Wrong, Long):
        with pytest.raises(fs.GroupError, match=r"must be an orthonormal basis .* residual of"):
            null_basis(broken(rep("vector u"), rep("vector u")), D4)


def test_errors_of_constraints():
    p, u = rep("scalar p"), rep("vector u")
    with pytest.raises(fs.GridError, match=r"odd sizes.* got \(3, 4\). Use \(3, 5\)"):
        KernelConstraint(p, u, (3, 4))
    with pytest.raises(fs.GridError, match="A kernel of fields on a 2-D base needs 2 positive"):
        KernelConstraint(p, u, (3,))
    with pytest.raises(fs.GridError, match="A multiplier of fields on a 2-D base needs 2 positive"):
        SpectralConstraint(p, u, (3, 0))
    with pytest.raises(
        fs.GroupError, match="does not act on a lattice of 3 × 5 points: it exchang"
    ):
        null_basis(KernelConstraint(p, u, (3, 5)), D4)
    with pytest.raises(fs.GroupError, match="it does not map the axes to the axes"):
        null_basis(SpectralConstraint(p, u, (5, 5)), groups.cyclic(3))
    with pytest.raises(fs.GroupError, match="rotation xy does not act on a lattice of weights"):
        null_basis(KernelConstraint(p, u, (3, 3)), groups.se(2))
    with pytest.raises(fs.RepresentationError, match="representation on a 2-D base"):
        null_basis(PointwiseConstraint(p, u), groups.so(3))


def test_errors_of_integral_kernels():
    one, other = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(OBLONG, "scalar p")
    with pytest.raises(fs.BundleError, match="between bundles on one base"):
        IntegralConstraint(one, other, (4, 4))
    with pytest.raises(fs.GridError, match="needs a grid of 2 sizes"):
        IntegralConstraint(one, one, (4,))
    for group, grid in ((groups.translations(2), (4, 3)), (SO2, (3, 3))):
        with pytest.raises(fs.GroupError, match="does not act exactly on kernels over"):
            null_basis(IntegralConstraint(one, one, grid), group)
    with pytest.raises(fs.GroupError, match=r"does not carry the \(3, 3\) samples of"):
        null_basis(IntegralConstraint(one, one, (3, 3)), groups.cyclic(3))


def test_errors_of_the_parametrisation():
    with pytest.raises(fs.RepresentationError, match="needs an orthonormal basis"):
        NullSpaceWeight(torch.ones(1, 2, 2))
    module = NullSpaceWeight(BASES[0])
    with pytest.raises(
        fs.RepresentationError, match=r"weights of shape \(2, 1, 3, 3\); got \(3,\)"
    ):
        module.right_inverse(torch.zeros(3))
