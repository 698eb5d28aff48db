"""The action on sections: homomorphism, index maps, shifts, rotations, generators, covariance."""

import math

import broken
import laws
import numpy as np
import pytest
import torch
from catalogue import FIBRES, OBLONG, SQUARE, bases, largest_group

import fieldsym as fs

groups = fs.groups
D4, SO2, SE2 = groups.dihedral(4), groups.so(2), groups.se(2)
PLANE = fs.Bundle(SQUARE, FIBRES[2])
WIDE = fs.Bundle(fs.Torus((1.0, 1.2)), FIBRES[2])  # for generic angles: unequal lengths and sizes
WIDE_GRID = (64, 72)
SPACE = fs.Bundle(fs.Torus((1.0, 1.0, 1.1)), "scalar p + axial vector b + symmetric tensor s")
SPACE_GRID = (30, 32, 36)
VECTOR = fs.Bundle(SQUARE, "vector u")


def shift(a, u, bundle):
    return fs.act(fs.Element(np.eye(bundle.base.dim), a), u, bundle)


# Exact maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "grid"), bases())
def test_lattice_maps_compose_to_the_last_bit(base, grid, dtype):
    group = largest_group(base, grid)
    assert group.order > 1
    # only the stored zz = −xx − yy of a traceless tensor rounds
    tol = (base.dim == 3) * {torch.float32: 3e-7, torch.float64: 1e-15}[dtype]
    some = group.elements if group.order < 10 else group.elements[:: group.order // 8]
    laws.assert_action(fs.act, some, fs.Bundle(base, FIBRES[base.dim]), grid, dtype, tol)


@pytest.mark.parametrize(("base", "grid"), bases())
def test_lattice_maps_follow_the_coordinates(base, grid):
    group = largest_group(base, grid)
    bundle = fs.Bundle(base, FIBRES[base.dim])
    laws.assert_index_formula(fs.act, group.elements, bundle, grid)
    cells = np.array(base.spacing(grid)) * np.array(base.periodic) * [2, -3, 1][: base.dim]
    moves = [fs.Element(g.matrix, cells) for g in group.elements[::3]]
    laws.assert_index_formula(fs.act, moves, bundle, grid)


def test_quarter_turn_of_nodes_is_rot90_and_a_roll():
    u = torch.randn(3, 12, 12)
    quarter = groups.cyclic(4).elements[1]
    moved = fs.act(quarter, u, fs.Bundle(SQUARE, "3 scalar"))
    assert torch.equal(moved, torch.rot90(u, 1, (-2, -1)).roll(1, -2))
    cells = fs.Bundle(fs.Torus((1.5, 1.5), location="cell"), "3 scalar")
    assert torch.equal(fs.act(quarter, u, cells), torch.rot90(u, 1, (-2, -1)))


@pytest.mark.parametrize(
    "act",
    [broken.act_with_inverse_fibre, broken.act_with_inverse_points, broken.act_on_components,
     broken.act_without_parity, broken.act_about_wrong_centre],
)  # fmt: skip
def test_saboteurs_fail_the_index_formula(act):
    with pytest.raises(AssertionError):
        laws.assert_index_formula(act, D4.elements, PLANE, (8, 8))


@pytest.mark.parametrize("act", [broken.act_with_inverse_fibre, broken.act_with_inverse_points])
def test_saboteurs_fail_the_homomorphism(act):
    with pytest.raises(AssertionError):
        laws.assert_action(act, D4.elements, VECTOR, (8, 8), tol=1e-12)


def test_a_forcing_tells_the_centres_apart():
    """0.1 (cos 4πx + cos 4πy) at 64²: invariant about nodes, 13.9 % off under array rot90."""
    base = fs.Torus((1.0, 1.0))
    x, y = base.coordinates((64, 64))
    forcing = 0.1 * (torch.cos(4 * math.pi * x) + torch.cos(4 * math.pi * y))[None]
    p, quarter = fs.Bundle(base, "scalar p"), groups.cyclic(4).elements[1]
    assert laws.relative(fs.act(quarter, forcing, p) - forcing, forcing) < 1e-14
    off = laws.relative(broken.act_about_wrong_centre(quarter, forcing, p) - forcing, forcing)
    assert off == pytest.approx(0.139, abs=1e-3)


# Covariance: scalar to vector paths ---------------------------------------------------------------


@pytest.mark.parametrize(("base", "grid"), [p for p in bases() if all(p.values[0].periodic)])
def test_gradient_is_covariant(base, grid):
    laws.assert_gradient_covariant(fs.act, largest_group(base, grid), base, grid, 1e-13)


@pytest.mark.parametrize(("base", "grid"), [(SQUARE, (12, 12)), (OBLONG, (16, 24))])
def test_curl_is_covariant(base, grid):
    laws.assert_curl_covariant(fs.act, largest_group(base, grid), base, grid, 1e-13)


@pytest.mark.parametrize(
    "act",
    [broken.act_with_inverse_fibre, broken.act_with_inverse_points, broken.act_on_components],
)
def test_saboteurs_fail_gradient_covariance(act):
    with pytest.raises(AssertionError):
        laws.assert_gradient_covariant(act, D4, SQUARE, (12, 12), 1e-12)


@pytest.mark.parametrize("act", [broken.act_without_parity, broken.act_on_components])
def test_saboteurs_fail_curl_covariance(act):
    with pytest.raises(AssertionError):
        laws.assert_curl_covariant(act, D4, SQUARE, (12, 12), 1e-12)


# Shifts -------------------------------------------------------------------------------------------

SHIFTED = [(OBLONG, (16, 24)), (OBLONG, (15, 24)), (fs.Torus((2.0,)), (16,)),
           (fs.Torus((1.0, 2.0, 1.5)), (6, 8, 7))]  # fmt: skip


@pytest.mark.parametrize(("base", "grid"), SHIFTED)
def test_shifts_are_a_group_and_agree_with_roll(base, grid, dtype):
    tol = {torch.float32: 2e-6, torch.float64: 1e-13}[dtype]
    bundle = fs.Bundle(base, "2 scalar")
    laws.assert_shifts(shift, bundle, grid, dtype, tol)
    laws.assert_rough_shifts(shift, bundle, grid, dtype, tol)


def test_shifts_move_waves():
    x, y = OBLONG.coordinates((16, 24))
    p = fs.Bundle(OBLONG, "scalar p")

    def field(dx, dy):
        return torch.cos(3 * math.pi * (x - dx) - 2 * math.pi / 3 * 5 * (y - dy) + 0.4)[None]

    assert torch.allclose(shift([0.123, -0.71], field(0, 0), p), field(0.123, -0.71), atol=1e-13)


def test_shifts_commute_with_the_square(dtype):
    tol = {torch.float32: 2e-6, torch.float64: 1e-13}[dtype]
    for grid in ((12, 12), (13, 13)):
        laws.assert_shifts_turn(fs.act, D4, PLANE, grid, dtype, tol)


def test_saboteurs_fail_the_shift_laws():
    bundle = fs.Bundle(SQUARE, "scalar p")

    def act(g, u, b):
        moved = broken.shift_with_nyquist(g.shift, u, b) if g.shift.any() else u
        return fs.act(fs.Element(g.matrix), moved, b)

    with pytest.raises(AssertionError):
        laws.assert_rough_shifts(broken.shift_with_nyquist, bundle, (12, 12), torch.float64, 1e-9)
    with pytest.raises(AssertionError):
        laws.assert_shifts_turn(act, D4, bundle, (12, 12), torch.float64, 1e-9)
    for wrong in (
        lambda a, u, b: shift(-np.array(a), u, b),
        lambda a, u, b: shift(np.array(a)[::-1], u, b),
    ):
        with pytest.raises(AssertionError):
            laws.assert_shifts(wrong, fs.Bundle(OBLONG, "scalar p"), (16, 24), torch.float64, 1e-9)


# Rotations by any angle ---------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [1, 17, 44, 61, 90.5, 133, -170])
def test_rotations_of_the_plane(degrees):
    turn = SO2.exp([math.radians(degrees)])
    mirror = turn @ D4.elements[-1]
    for bundle, grid in ((WIDE, WIDE_GRID), (PLANE, (64, 64)), (PLANE, (65, 65))):
        laws.assert_moves_analytic(fs.act, turn, bundle, grid, 1e-9, width=0.055)
    laws.assert_moves_analytic(fs.act, mirror, PLANE, (64, 64), 1e-9, width=0.055)


def test_rotations_in_single_precision():
    for degrees in (17, 30, -100):
        turn = SO2.exp([math.radians(degrees)])
        laws.assert_moves_analytic(fs.act, turn, WIDE, WIDE_GRID, 1e-6, torch.float32)


def test_rotations_on_cells_and_ends():
    turn = SO2.exp([0.6])
    for base in (
        fs.Torus((1.0, 1.2), location="cell"),
        fs.Box((1.0, 1.2), location="node"),
        fs.Torus((1.0, 1.2), location=("node", "cell"), origin=(5.0, -1.0)),
    ):
        bundle = fs.Bundle(base, "scalar p + vector u")
        laws.assert_moves_analytic(fs.act, turn, bundle, WIDE_GRID, 1e-9, width=0.055)


TURNS = [[0.3, 0.7, -0.4], [2.0, -1.0, 0.5], [0.0, math.pi / 2 - 1e-3, 0.0], [0.9, 2.9, 0.1]]


@pytest.mark.parametrize("vector", TURNS, ids=str)
def test_rotations_of_space(vector):
    turn = groups.so(3).exp(vector)
    laws.assert_moves_analytic(fs.act, turn, SPACE, SPACE_GRID, 3e-6, width=0.075)
    mirror = turn @ fs.Element(-np.eye(3))
    p = fs.Bundle(SPACE.base, "pseudoscalar w")
    laws.assert_moves_analytic(fs.act, mirror, p, SPACE_GRID, 3e-6, width=0.075)


def test_rotation_of_space_through_the_pole_of_its_angles():
    """R_xy(0.5) R_zx(90°) on a brick, where no lattice map comes near: both outer angles merge."""
    turn = groups.so(3).exp([0, 0, 0.5]) @ groups.cyclic(4, dim=3, axes=(2, 0)).elements[1]
    p = fs.Bundle(fs.Torus((1.0, 1.05, 1.1)), "scalar p + vector u")
    laws.assert_moves_analytic(fs.act, turn, p, SPACE_GRID, 1e-5, width=0.075)


def test_rotations_compose():
    a, b = SO2.exp([math.radians(17)]), SO2.exp([math.radians(13)])
    laws.assert_composes(fs.act, a, b, WIDE, WIDE_GRID, 1e-9, width=0.055)
    laws.assert_composes(fs.act, a, a.inverse, WIDE, WIDE_GRID, 1e-9, width=0.055)
    moved = SE2.exp([0.05, -0.03, 0.4])
    laws.assert_composes(fs.act, moved, moved, WIDE, WIDE_GRID, 1e-7, width=0.055)
    c, d = groups.so(3).exp(TURNS[0]), groups.so(3).exp([-0.2, 0.4, 0.6])
    laws.assert_composes(fs.act, c, d, SPACE, SPACE_GRID, 1e-5, width=0.075)


@pytest.mark.parametrize(
    "act", [broken.act_with_inverse_fibre, broken.act_with_inverse_points, broken.act_on_components]
)
def test_saboteurs_fail_on_generic_angles(act):
    a, b = SO2.exp([math.radians(17)]), SO2.exp([math.radians(13)])
    with pytest.raises(AssertionError):
        laws.assert_moves_analytic(act, a, WIDE, WIDE_GRID, 1e-3)
    with pytest.raises(AssertionError):  # three-shear of an array that is not localised
        laws.assert_composes(fs.act, a, b, WIDE, WIDE_GRID, 1e-3, width=0.4)


def test_methods_are_named():
    quarter, turn = groups.cyclic(4).elements[1], SO2.exp([0.3])
    cell = fs.Element(np.eye(2), [1.5 / 12, 0])
    half = fs.Element(np.eye(2), [1.5 / 24, 0])
    names = [fs.action_method(g, VECTOR, (12, 12)) for g in (quarter, turn, cell, half)]
    assert names == ["exact", "spectral", "exact", "spectral"]
    assert fs.action_method(cell @ quarter, VECTOR, (12, 12)) == "exact"


def test_actions_are_differentiable():
    """jvp of the orbit at zero is ξ·u up to the step: the action is linear and smooth in u."""
    u, v = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    g = SE2.exp([0.05, 0.02, 0.3])
    _, pushed = torch.func.jvp(lambda w: fs.act(g, w, VECTOR), (u,), (v,))
    assert torch.allclose(pushed, fs.act(g, v, VECTOR), atol=1e-12)


# Generators ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", [PLANE, WIDE], ids=["square", "wide"])
def test_the_generator_is_the_derivative_of_the_action(bundle):
    laws.assert_generates(fs.act, fs.act_infinitesimal, SE2, bundle, WIDE_GRID, width=0.055)


def test_the_generator_in_space():
    laws.assert_generates(
        fs.act, fs.act_infinitesimal, groups.se(3), SPACE, SPACE_GRID, 3e-5, width=0.075
    )


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_generators_have_closed_forms(dtype, tol):
    """Rotation, stretch and shear of a Gaussian times a constant vector, differentiated by hand."""
    base, grid = WIDE.base, WIDE_GRID
    x = base.coordinates(grid, centred=True)
    c = torch.tensor([0.04, -0.06], dtype=torch.float64).view(2, 1, 1)
    s2, direction = 0.003, torch.tensor([1.0, -0.5], dtype=torch.float64).view(2, 1, 1)
    drift = torch.tensor([0.2, -0.1], dtype=torch.float64).view(2, 1, 1)
    bell = torch.exp(-(x - c).square().sum(0) / (2 * s2))
    v = fs.Bundle(base, "vector u")
    for matrix in (
        [[0, -1], [1, 0]],
        [[1, 0], [0, 1]],
        [[0, 1], [0, 0]],
        [[0.3, -0.2], [0.9, 1.1]],
    ):
        a = torch.tensor(matrix, dtype=torch.float64)
        xi = fs.Generator("candidate", a.numpy(), np.array([0.2, -0.1]))
        speed = torch.einsum("ij,jxy->ixy", a, x) + drift
        transport = (speed * (x - c)).sum(0) / s2 * bell * direction
        want = torch.einsum("ij,jxy->ixy", a, bell * direction) + transport
        got = fs.act_infinitesimal(xi, (bell * direction).to(dtype), v)
        laws.assert_close(got.double(), want, tol)


def test_generators_commute_to_their_brackets():
    laws.assert_brackets(fs.act_infinitesimal, SE2.generators, WIDE, WIDE_GRID, 1e-8, width=0.05)
    stretch = fs.Generator("stretch", np.diag([1.0, 0.3]), np.zeros(2))
    shear = fs.Generator("shear", np.array([[0.0, 1.0], [0.0, 0.0]]), np.zeros(2))
    bundle = fs.Bundle(WIDE.base, "scalar p + vector u + symmetric tensor s")
    laws.assert_brackets(
        fs.act_infinitesimal, [stretch, shear, *SE2.generators], bundle, WIDE_GRID, 1e-8, width=0.05
    )
    laws.assert_brackets(
        fs.act_infinitesimal, groups.so(3).generators, SPACE, SPACE_GRID, 1e-3, width=0.075
    )


@pytest.mark.parametrize(
    "infinitesimal",
    [broken.infinitesimal_with_wrong_sign, broken.infinitesimal_without_fibre,
     broken.infinitesimal_with_right_action],
)  # fmt: skip
def test_saboteurs_fail_as_generators(infinitesimal):
    v = fs.Bundle(WIDE.base, "vector u")
    with pytest.raises(AssertionError):
        laws.assert_generates(fs.act, infinitesimal, SO2, v, WIDE_GRID, 1e-3)


def test_saboteurs_fail_the_bracket():
    p, v = fs.Bundle(WIDE.base, "scalar p"), fs.Bundle(WIDE.base, "vector u")
    with pytest.raises(AssertionError):  # +X·∇ is the generator of the right action
        laws.assert_brackets(
            broken.infinitesimal_with_right_action, SE2.generators, p, WIDE_GRID, 1e-3
        )
    shear, stretch = (
        fs.Generator("a", np.array(m), np.zeros(2))
        for m in ([[0.0, 1], [0, 0]], [[1.0, 0], [0, 0]])
    )
    with pytest.raises(AssertionError):
        laws.assert_brackets(
            broken.infinitesimal_with_wrong_sign, [shear, stretch], v, WIDE_GRID, 1e-3
        )


def test_batches_and_types_pass_through(dtype):
    u = torch.randn(2, 3, PLANE.channels, 12, 12, dtype=dtype)
    for g in (D4.elements[3], SE2.exp([0.1, 0.0, 0.3])):
        moved = fs.act(g, u, PLANE)
        assert moved.dtype == dtype
        assert torch.equal(moved[1, 2], fs.act(g, u[1, 2], PLANE))
    xi = SO2.generators[0]
    moved = fs.act_infinitesimal(xi, u, PLANE)
    assert moved.dtype == dtype
    assert torch.allclose(moved[1, 2], fs.act_infinitesimal(xi, u[1, 2], PLANE))
