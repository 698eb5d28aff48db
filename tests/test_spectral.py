"""Spectral convolutions and pointwise maps: symmetry, free dimensions, dense oracle, modes."""

import itertools

import broken
import laws
import numpy as np
import pytest
import torch
from catalogue import EXACT, FINITE, OBLONG, SQUARE, Case, cases, groups, rep

import fieldsym as fs
from fieldsym.operators.intertwiner import Equation, allowed_maps
from fieldsym.operators.modes import half_set, mode_orbits
from fieldsym.operators.pointwise import Pointwise
from fieldsym.operators.spectral import SpectralConv, TruncatedFourier

D4 = groups.dihedral(4)
MIXED = "scalar p + pseudoscalar w + vector u + symmetric tensor s"


def convolution(case):
    source, target = (b.representation for b in case.bundles())
    return SpectralConv(source, target, case.group, case.n_modes)


@pytest.mark.parametrize("case", cases())
def test_exact_symmetry(case, dtype):
    layer = convolution(case).to(dtype)
    source, target = case.bundles()
    for grid in case.grids:
        laws.assert_equivariant(layer, case.group, source, target, grid, dtype, EXACT[dtype])
        laws.assert_translates(layer, source, grid, dtype, EXACT[dtype])


@pytest.mark.parametrize("case", cases())
def test_free_dimension_is_the_character_formula(case):
    laws.assert_dimension(convolution(case), case.group)


@pytest.mark.parametrize(
    ("source", "target", "count"),
    [
        ("scalar", "scalar", 10),
        ("scalar", "vector", 12),
        ("vector", "vector", 25),
        ("pseudoscalar", "scalar", 3),
        (MIXED, "vector + symmetric tensor", 218),
    ],
)
def test_known_free_dimensions(source, target, count):
    layer = SpectralConv(rep(source, 2), rep(target, 2), D4, (7, 7))
    assert layer.free_dimension == count
    assert laws.expected_dimension(D4, (7, 7), layer.rep_in, layer.rep_out) == count


@pytest.mark.parametrize("case", cases())
def test_values_of_the_dense_multiplier(case, dtype):
    tol = {torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    for grid in case.grids:
        laws.assert_dense(convolution(case), case.group, grid, dtype, tol)


@pytest.mark.parametrize(
    ("group", "base", "modes", "grid"),
    [
        (groups.reflections(1), fs.Torus((2.0,)), (7,), (16,)),
        (groups.trivial(2), OBLONG, (5, 7), (16, 24)),
        (groups.dihedral(1), OBLONG, (5, 7), (15, 21)),
        (D4, SQUARE, (5, 5), (16, 16)),
        (groups.reflections(3), fs.Torus((1.0, 2.0, 1.5)), (5, 5, 5), (6, 8, 7)),
    ],
    ids=str,
)
def test_values_do_not_depend_on_resolution(group, base, modes, grid):
    bundle = fs.Bundle(base, "scalar p + vector u")
    layer = SpectralConv(bundle.representation, bundle.representation, group, modes).double()
    laws.assert_same_at_any_resolution(layer, bundle, grid, 2, 1e-13)
    laws.assert_same_at_any_resolution(layer, bundle, grid, 3, 1e-13)
    with pytest.raises(AssertionError):
        laws.assert_same_at_any_resolution(broken.UnnormalisedModes(layer), bundle, grid, 2, 1e-3)


def test_saboteurs_fail_the_symmetry():
    args = (rep(MIXED, 2), rep("vector u + symmetric tensor s", 2))
    source, target = (fs.Bundle(SQUARE, r) for r in args)
    d1 = groups.dihedral(1)
    for group, layer in (
        (D4, broken.conv_without_stabilisers(*args, D4, (7, 7))),
        (D4, broken.EvenModes(*args, D4, (7, 7))),
        (d1, broken.EvenModes(*args, groups.cyclic(2), (7, 7))),
        (d1, broken.conv_without_stabilisers(*args, d1, (7, 7))),
        (D4, SpectralConv(*args, groups.cyclic(4), (7, 7))),
        (D4, SpectralConv(rep("7 scalar", 2), rep("5 scalar", 2), D4, (7, 7))),
    ):
        with pytest.raises(AssertionError):
            laws.assert_equivariant(layer, group, source, target, (12, 12), torch.float32, 1e-3)


def test_saboteurs_fail_the_oracle_and_the_count():
    args = (rep(MIXED, 2), rep("vector u + symmetric tensor s", 2), groups.dihedral(1), (5, 7))
    for make in (broken.ConvWithoutPartners, broken.conv_without_conjugation):
        layer = make(*args)
        with pytest.raises(AssertionError):
            laws.assert_dense(layer, args[2], (12, 16), torch.float64, 1e-3)
    with pytest.raises(AssertionError):
        laws.assert_dimension(broken.conv_without_stabilisers(*args), args[2])
    with pytest.raises(AssertionError):
        laws.assert_dense(broken.conv_without_stabilisers(*args), args[2], (12, 16),
                          torch.float64, 1e-3)  # fmt: skip


def test_translations_fail_with_a_grid_embedding():
    bundle = fs.Bundle(OBLONG, "scalar p")
    layer = SpectralConv(bundle.representation, bundle.representation, groups.trivial(2), (5, 7))
    with pytest.raises(AssertionError):
        laws.assert_translates(
            broken.GridEmbedding(layer, bundle), bundle, (12, 16), torch.float32, 1e-3
        )


def test_a_single_wave_meets_its_matrix():
    """cos(k·x) comes out as |R| cos(k·x + arg R), for the R(k) that is stored."""
    layer = SpectralConv(rep("scalar", 2), rep("scalar", 2), groups.trivial(2), (5, 7)).double()
    r = laws.dense_multiplier(layer, groups.trivial(2))
    x, y = fs.Torus((1.0, 1.0)).coordinates((16, 24))
    for k in ((1, 0), (-2, 3), (2, 3), (0, 2)):
        phase = 2 * np.pi * (k[0] * x + k[1] * y)
        z = r[k][0, 0]
        want = z.abs() * torch.cos(phase + z.angle())
        assert torch.allclose(layer(torch.cos(phase)[None, None])[0, 0], want, atol=1e-13)


def test_initial_size_is_that_of_neuraloperator():
    """E|R|² = 2 / (in + out) per entry where nothing is tied."""
    source, target = rep("24 scalar", 2), rep("8 scalar", 2)
    layer = SpectralConv(source, target, groups.trivial(2), (7, 9))
    r = torch.stack(list(laws.dense_multiplier(layer, groups.trivial(2)).values()))
    assert float(r.abs().square().mean()) == pytest.approx(2 / 32, rel=0.05)


# Transforms and modes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "modes"),
    [((16,), (7,)), ((15,), (15,)), ((16, 24), (5, 7)), ((9, 7), (9, 7)), ((6, 8, 7), (5, 7, 3))],
)
def test_truncated_transform_is_the_fft(grid, modes, dtype):
    tol = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    u = torch.randn(2, 3, *grid, dtype=dtype)
    fourier = TruncatedFourier(grid, modes, u)
    got = fourier.forward(u)
    axes = tuple(range(2, u.ndim))
    full = torch.fft.rfftn(u.double(), dim=axes, norm="forward")
    for axis, (n, m) in enumerate(zip(grid, modes, strict=True)):
        last = axis == len(grid) - 1
        k = torch.arange(0 if last else -(m // 2), m // 2 + 1) % n
        full = full.index_select(axis + 2, k)
    got = torch.complex(got.select(-2, 0), got.select(-2, 1)).movedim((-1, -2), (0, 1))
    assert (got - full).abs().max() < tol


@pytest.mark.parametrize(
    ("grid", "modes"), [((16,), (7,)), ((16, 24), (5, 7)), ((6, 8, 7), (5, 7, 3))]
)
def test_truncated_transform_leads_back(grid, modes):
    base = fs.Torus((1.0,) * len(grid))
    u = fs.testing.random_section(fs.Bundle(base, "2 scalar"), grid, kmax=min(modes) // 2)
    fourier = TruncatedFourier(grid, modes, u)
    z = fourier.forward(u).clone()
    # the half set with its partners counted: twice, but not k = 0 nor the other half of the plane
    half = set(half_set(modes))
    cut = [m // 2 for m in modes]
    for index in np.ndindex(*z.shape[: len(modes)]):
        k = (*(int(i - c) for i, c in zip(index[:-1], cut[:-1], strict=True)), index[-1])
        z[index] *= 0 if k not in half else 2 if any(k) else 1
    assert torch.allclose(fourier.inverse(z), u, atol=1e-13)


@pytest.mark.parametrize("group", [g for g in FINITE if "3)" not in g.name and "6)" not in g.name],
                         ids=repr)  # fmt: skip
def test_orbits_cover_the_half_set_once(group):
    modes = {1: (9,), 2: (7, 7), 3: (5, 5, 5)}[group.dim]
    covered = [tuple(k) for t in mode_orbits(group, modes) for k in t.modes.reshape(-1, group.dim)]
    assert sorted(map(tuple, np.array(covered).tolist())) == sorted(half_set(modes))
    for t in mode_orbits(group, modes):
        for orbit in t.modes:
            for mode, (g, conjugate) in zip(orbit, t.moves, strict=True):
                moved = group.elements[g].matrix @ orbit[0] * (-1 if conjugate else 1)
                assert np.array_equal(moved, mode)


def test_half_set_holds_one_of_each_pair():
    for modes in ((5,), (3, 5), (3, 5, 3)):
        half = half_set(modes)
        both = {*half, *(tuple(-c for c in k) for k in half)}
        assert sorted(both) == laws.modes_of(modes)
        assert len(half) == (len(both) + 1) // 2


# Pointwise maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases())
def test_pointwise_maps_commute(case, dtype):
    source, target = case.bundles()
    layer = Pointwise(source.representation, target.representation, case.group).to(dtype)
    grid = case.grids[0]
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()  # biases start at zero
    value = layer(laws.noise(source, grid, dtype))
    if value.abs().max() == 0:
        assert not list(layer.parameters())
        return
    laws.assert_equivariant(layer, case.group, source, target, grid, dtype, EXACT[dtype])


@pytest.mark.parametrize("case", cases())
def test_pointwise_dimension_is_the_character_formula(case):
    source, target = (b.representation for b in case.bundles())
    layer = Pointwise(source, target, case.group)
    weights = sum(p.numel() for p in layer.weight.parameters())
    biases = sum(p.numel() for p in layer.bias.parameters()) if layer.bias else 0
    elements = case.group.elements
    both = [float(target.rho(g).trace() * source.rho(g).trace()) for g in elements]
    alone = [float(target.rho(g).trace()) for g in elements]
    assert weights == round(sum(both) / len(elements))
    assert biases == round(sum(alone) / len(elements))


def test_pointwise_is_every_commuting_map():
    """The allowed maps span the null space of W ρ(g) − ρ(g) W, found by singular values."""
    for group, (source, target) in itertools.product(
        (D4, groups.cyclic(3), groups.dihedral(6)),
        [("vector u", "vector u"), ("symmetric tensor s", "symmetric tensor s + scalar p")],
    ):
        a, b = rep(source, 2), rep(target, 2)
        rows = [
            np.kron(np.eye(b.channels), a.rho(g).numpy().T)
            - np.kron(b.rho(g).numpy(), np.eye(a.channels))
            for g in group.elements
        ]
        zero = (np.linalg.svd(np.concatenate(rows))[1] < 1e-9).sum()
        layer = Pointwise(a, b, group, bias=False)
        assert sum(p.numel() for p in layer.parameters()) == zero
        w = layer.weight().detach()[0, 0].double()
        for g in group.elements:
            assert (w @ a.rho(g) - b.rho(g) @ w).abs().max() < 1e-6


def test_the_two_constructions_agree():
    """Shared weights and the null space span the same maps, where both apply."""
    v = rep("vector u", 2)
    equations = [Equation(v.rho(g).numpy(), v.rho(g.inverse).numpy()) for g in D4.elements[1:]]
    shared = allowed_maps(equations, (2, 2), parts=1)
    half = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
    turned = [Equation(half @ e.left @ half.T, half @ e.right @ half.T) for e in equations]
    general = allowed_maps(turned, (2, 2), parts=1)
    assert len(shared) == len(general) == 1
    assert np.allclose(half.T @ general[0, 0] @ half, general[0, 0][0, 0] * np.eye(2))
    conjugate = [Equation(np.eye(1), np.eye(1), conjugate=True)]
    assert allowed_maps(conjugate, (1, 1), parts=2).tolist() == [[[[1.0]], [[0.0]]]]
    mirrored = [Equation(-np.eye(1), np.eye(1), conjugate=True)]
    assert allowed_maps(mirrored, (1, 1), parts=2).tolist() == [[[[0.0]], [[1.0]]]]


def test_a_forbidden_map_is_zero_in_every_precision(dtype):
    d1 = groups.dihedral(1)
    layer = Pointwise(rep("pseudoscalar w", 2), rep("scalar p", 2), d1).to(dtype)
    x = torch.randn(2, 1, 6, 8, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert torch.allclose(y, y[:1, :, :1, :1].expand_as(y))  # the bias of a scalar remains
    assert layer.bias is not None
    back = Pointwise(rep("scalar p", 2), rep("pseudoscalar w", 2), d1).to(dtype)
    assert back.bias is None
    assert torch.equal(back(x), torch.zeros_like(x))


def test_precision_survives_a_round_trip_through_single():
    """A layer that was float32 for a while still reaches double precision."""
    case = next(
        c for c in (p.values[0] for p in cases())
        if c.group.name == "octahedral()" and "traceless" in c.source
    )  # fmt: skip
    assert isinstance(case, Case)
    source, target = case.bundles()
    for make in (convolution, lambda c: Pointwise(
        source.representation, target.representation, c.group
    )):  # fmt: skip
        layer = make(case).float().double()
        laws.assert_equivariant(layer, case.group, source, target, (6, 6, 6), torch.float64, 1e-12)
