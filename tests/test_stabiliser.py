"""What a held field leaves of a group: constants, fields, the published table, held inputs."""

import copy
import itertools
import pickle
from unittest.mock import patch

import laws
import numpy as np
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, groups

import fieldsym as fs

D4 = groups.dihedral(4)
UNIT = fs.Torus((1.0, 1.0))
VORTICITY = fs.Bundle(UNIT, "pseudoscalar w")
PLANAR = D4 * groups.translations(2)


def bundle(text, dim):
    return fs.Bundle(fs.Torus((1.0,) * dim), text)


def names(group):
    return [xi.name for xi in group.generators], [g.name for g in group.components]


# Constants ----------------------------------------------------------------------------------------

GRAVITY = [0.0, 0.0, -9.8]
STRAIN = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
CONSTANTS = [
    (groups.so(3), GRAVITY, None, ["rotation xy"], 0),
    (groups.o(3), GRAVITY, None, ["rotation xy"], 1),
    (groups.e(3), GRAVITY, None,
     ["translation x", "translation y", "translation z", "rotation xy"], 1),
    (groups.so(3), [0.0, 0.6, 0.8], None, ["0.6 rotation zx + 0.8 rotation xy"], 0),
    (groups.o(3), [1.0, -2.0, 2.0], None,
     ["0.3333 rotation yz − 0.6667 rotation zx + 0.6667 rotation xy"], 1),
    (groups.so(3), [0.0, 0.0, 0.0], None, ["rotation yz", "rotation zx", "rotation xy"], 0),
    (groups.o(3), [0.0, 0.0, 2.0], "axial vector b", ["rotation xy"], 1),
    (groups.o(3), [3.0], "pseudoscalar f", ["rotation yz", "rotation zx", "rotation xy"], 0),
    (groups.o(3), STRAIN, "symmetric tensor s", [], 7),
    (groups.so(3), STRAIN, "symmetric tensor s", [], 3),
    (groups.so(3), [2.0, 2.0, 5.0, 0.0, 0.0, 0.0], "symmetric tensor s", ["rotation xy"], 1),
    (groups.o(3), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0], "vector g + vector b", [], 1),
    (groups.so(2), [0.3, -1.0], None, [], 0),
    (groups.o(2), [0.3, -1.0], None, [], 1),
    (groups.o(2), [1.2], "pseudoscalar f", ["rotation xy"], 0),
    (groups.o(2), [1.0, 0.4], "symmetric traceless tensor s", [], 3),
    (groups.so(2), [1.0, 0.4], "symmetric traceless tensor s", [], 1),
    (groups.translations(2), [0.3, -1.0], None, ["translation x", "translation y"], 0),
]  # fmt: skip


def assert_fixes(group, f, rep, tol=1e-9):
    """Generators give dρ(ξ) f = 0, elements and components ρ(g) f = f."""
    f = torch.tensor(f, dtype=torch.float64)
    for xi in group.generators:
        assert (rep.drho(xi) @ f).norm() <= tol * f.norm(), xi.name
    for g in (*group.components, *group.elements):
        assert (rep.rho(g) @ f - f).norm() <= tol * f.norm(), g.name


@pytest.mark.parametrize(("group", "f", "text", "generators", "components"), CONSTANTS)
def test_constants(group, f, text, generators, components):
    of = None if text is None else bundle(text, group.dim)
    kept = group.stabiliser(f, of)
    rep = fs.Representation(text or "vector", group.dim)
    assert_fixes(kept, f, rep)
    assert names(kept)[0] == generators
    assert len(kept.components) == components
    if kept.is_finite:
        laws.assert_axioms(kept.elements)
    assert kept.name.startswith("stabiliser of ")
    assert kept.name.endswith(f" in {group.name}")


def test_the_name_says_what_is_fixed():
    kept = groups.so(3).stabiliser(GRAVITY)
    assert repr(kept) == "stabiliser of (0, 0, -9.8) in so(3)"
    assert repr(groups.o(2).stabiliser([0.5], bundle("pseudoscalar f", 2))) == (
        "stabiliser of pseudoscalar f = (0.5) in o(2)"
    )
    assert repr(PLANAR.stabiliser(torch.zeros(1, 4, 4), VORTICITY)) == (
        "stabiliser of a field 'pseudoscalar w' in dihedral(4) × translations(2)"
    )


def test_reflections_through_planes_that_hold_gravity_stay():
    """The mirror that o(3) is given with turns gravity round; another one is found."""
    up, slanted = groups.o(3).stabiliser(GRAVITY), groups.o(3).stabiliser([1.0, -2.0, 2.0])
    assert names(up)[1] == ["reflection y → −y"]
    for kept in (up, slanted):
        mirror = kept.components[0].matrix
        assert np.linalg.det(mirror) == pytest.approx(-1)
        assert np.allclose(mirror @ mirror.T, np.eye(3))
    assert np.allclose(slanted.components[0].matrix @ [1, -2, 2], [1, -2, 2])


@pytest.mark.parametrize("group", [D4, groups.cyclic(6), groups.octahedral()])
def test_finite_groups_keep_what_fixes(group):
    cases = {
        2: [("vector", [1.0, 0.0]), ("vector", [1.0, 1.0]), ("pseudoscalar", [2.0]),
            ("symmetric tensor", [1.0, 2.0, 0.0]), ("axial vector", [0.0, 1.0])],
        3: [("vector", GRAVITY), ("axial vector", GRAVITY), ("symmetric tensor", STRAIN)],
    }  # fmt: skip
    for text, f in cases[group.dim]:
        rep = fs.Representation(text, group.dim)
        kept = group.stabiliser(f, bundle(text, group.dim))
        want = [g.name for g in group.elements
                if np.allclose(rep.rho(g).numpy() @ np.array(f), f)]  # fmt: skip
        assert [g.name for g in kept.elements] == want
        laws.assert_axioms(kept.elements)


def test_orders_of_stabilisers_of_gravity_in_the_cube():
    assert groups.octahedral().stabiliser(GRAVITY).order == 8
    assert groups.octahedral(reflections=False).stabiliser(GRAVITY).order == 4
    assert D4.stabiliser([0.0, -1.0]).elements[1].name == "reflection x → −x"
    assert D4.stabiliser([1.5], bundle("pseudoscalar f", 2)).order == 4


def test_without_the_fibre_everything_would_stay():
    """The saboteur: fibres that no generator turns, and fibres that no element turns."""
    zero = lambda self, xi: torch.zeros(self.channels, self.channels, dtype=torch.float64)  # noqa: E731
    with patch.object(fs.Representation, "drho", zero):
        kept = groups.so(3).stabiliser(GRAVITY)
    assert len(kept.generators) == 3
    with pytest.raises(AssertionError, match="rotation yz"):
        assert_fixes(kept, GRAVITY, fs.Representation("vector", 3))
    one = lambda self, g: torch.eye(self.channels, dtype=torch.float64)  # noqa: E731
    with patch.object(fs.Representation, "rho", one):
        kept = D4.stabiliser([1.0, 0.0])
    with pytest.raises(AssertionError, match="rotation 90°"):
        assert_fixes(kept, [1.0, 0.0], fs.Representation("vector", 2))


# Fields -------------------------------------------------------------------------------------------


def waves(base, grid):
    return [2 * torch.pi * x / n for x, n in zip(base.coordinates(grid), base.lengths, strict=True)]


def brute_force(group, f, of):
    """Every element of the group times every shift by whole cells that leaves f as it is."""
    base, grid = of.base, of.grid(f)
    found = set()
    for g in (fs.Element(np.eye(base.dim)), *group.components):
        for cells in itertools.product(*map(range, grid)):
            step = np.array(cells) * base.spacing(grid)
            moved = fs.Element(g.matrix, step)
            if (fs.act(moved, f, of) - f).norm() < 1e-8 * f.norm().clamp_min(1e-300):
                found.add((_key(g.matrix), cells))
    return found


def _key(matrix):
    return tuple(np.rint(matrix).astype(int).ravel())


def expand(kept, of, grid):
    """The shifts by whole cells and point maps that a stabiliser stands for."""
    base = of.base
    found = set()
    free = [(0,) * base.dim]
    if kept.generators:  # every whole-cell shift within the span, by least squares
        span = np.stack([xi.shift for xi in kept.generators], 1)
        free = []
        for cells in itertools.product(*map(range, grid)):
            b = np.array(cells) * base.spacing(grid)
            for wrap in itertools.product(range(-3, 4), repeat=base.dim):
                v = b + np.array(wrap) * base.lengths
                if np.abs(v - span @ np.linalg.lstsq(span, v, rcond=None)[0]).max() < 1e-9:
                    free.append(cells)
                    break
    for g in (fs.Element(np.eye(base.dim)), *kept.components):
        cells = np.rint(g.shift / base.spacing(grid)).astype(int)
        for step in free:
            found.add((_key(g.matrix), tuple((cells + step) % grid)))
    return found


def field_cases():
    x, y = waves(SQUARE, (8, 8))
    a, b = waves(OBLONG, (6, 8))
    zero = 0 * x
    scalar, pseudo, wind = (
        fs.Bundle(SQUARE, t) for t in ("scalar p", "pseudoscalar w", "vector u")
    )
    tensor = fs.Bundle(SQUARE, "symmetric tensor s")
    planar = D4 * groups.translations(2)
    oblong = groups.reflections(2) * groups.translations(2)
    checks = (-1.0) ** torch.arange(8)[:, None] * (-1.0) ** torch.arange(8)[None, :]
    return {
        "cosines": (planar, torch.cos(2 * x) + torch.cos(2 * y), scalar),
        "pseudoscalar": (planar, torch.cos(2 * x) + torch.cos(2 * y), pseudo),
        "slanted": (planar, torch.cos(x + y) + torch.sin(x + y), pseudo),
        "steep": (planar, torch.cos(x + 2 * y), scalar),
        "stripes": (planar, torch.cos(2 * y), scalar),
        "mean": (planar, 3 + torch.cos(x) * torch.cos(y), pseudo),
        "constant": (planar, 3 + zero, pseudo),
        "nothing": (planar, zero, pseudo),
        "checks": (planar, checks.double(), scalar),
        "shear": (planar, torch.stack([torch.sin(y), zero]), wind),
        "cells": (planar, torch.stack([-torch.sin(y), torch.sin(x)]), wind),
        "strain": (planar, torch.stack([torch.cos(x), -torch.cos(y), zero + 0.3]), tensor),
        "any": (planar, torch.randn(2, 8, 8, dtype=torch.float64), wind),
        "oblong": (oblong, torch.cos(a) * torch.sin(b), fs.Bundle(OBLONG, "scalar p")),
        "along x": (groups.reflections(2) * groups.translations(2, axes=[0]),
                    torch.cos(2 * a) + torch.cos(b), fs.Bundle(OBLONG, "scalar p")),
        "along y": (groups.translations(2, axes=[1]), torch.cos(2 * a) + 0 * b,
                    fs.Bundle(OBLONG, "scalar p")),
    }  # fmt: skip


@pytest.mark.parametrize("case", field_cases())
def test_fields_against_every_shift_and_element(case):
    group, f, of = field_cases()[case]
    f = f if f.ndim == 3 else f[None]
    kept, grid = group.stabiliser(f, of), of.grid(f)
    want = brute_force(group, f, of)
    axes = [xi.shift for xi in group.generators]
    if len(axes) < 2:  # shifts along the other axis are not offered
        blocked = int(np.flatnonzero(axes[0] == 0)[0])
        want = {(point, cells) for point, cells in want if cells[blocked] == 0}
    assert expand(kept, of, grid) == want
    if kept.is_finite:
        laws.assert_axioms(kept.elements, *modulo(kept))
        assert (np.sort(kept.table, 0) == np.arange(kept.order)[:, None]).all()


def modulo(group):
    """Products and inverses with shifts counted modulo the torus."""
    return (
        lambda g, h: group.elements[group.index(g @ h)],
        lambda g: group.elements[group.index(g.inverse)],
    )


def test_fields_in_space_on_a_line_in_a_channel_and_in_single_precision():
    cube = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "vector u")
    x, y, z = waves(cube.base, (6, 6, 6))
    beltrami = torch.stack([torch.sin(z) + torch.cos(y), torch.sin(x) + torch.cos(z),
                            torch.sin(y) + torch.cos(x)])  # fmt: skip
    turns = groups.octahedral(reflections=False) * groups.translations(3)
    kept = turns.stabiliser(beltrami, cube)  # the flow of Arnold, Beltrami and Childress, A = B = C
    assert not kept.generators
    assert kept.order == 12  # its quarter turns come with quarter-box shifts: no whole cells of six
    x, y, z = waves(cube.base, (8, 8, 8))
    beltrami = torch.stack([torch.sin(z) + torch.cos(y), torch.sin(x) + torch.cos(z),
                            torch.sin(y) + torch.cos(x)])  # fmt: skip
    for f in (beltrami, beltrami.float()):
        assert turns.stabiliser(f, cube).order == 24
    line = fs.Bundle(fs.Torus((2.0,)), "vector u")
    (x,) = waves(line.base, (12,))
    kept = (groups.reflections(1) * groups.translations(1)).stabiliser(torch.sin(2 * x)[None], line)
    assert names(kept)[1] == ["shift (1)", "reflection x → −x", "reflection x → −x + shift (1)"]
    channel = fs.Bundle(fs.Box((2.0, 3.0), (True, False)), "scalar p")
    x, y = channel.base.coordinates((8, 9), centred=True)
    group = groups.reflections(2) * groups.translations(2, axes=[0])
    kept = group.stabiliser((torch.cos(torch.pi * x) + y**2)[None], channel)
    assert [g.name for g in kept.elements] == [
        "identity", "reflection x → −x", "reflection y → −y", "rotation 180°"
    ]  # fmt: skip
    assert names(group.stabiliser((0 * x + y**2)[None], channel))[0] == ["translation x"]


def test_finite_groups_and_several_fields():
    x, y = waves(UNIT, (12, 12))
    p = fs.Bundle(UNIT, "scalar p")
    f = (torch.cos(x) + torch.cos(y))[None]
    assert D4.stabiliser(f, p).order == 8
    assert [g.name for g in D4.stabiliser(f, VORTICITY).elements] == [
        g.name for g in groups.cyclic(4).elements
    ]
    both = PLANAR.stabiliser(torch.cos(2 * x)[None], p).stabiliser(torch.cos(y)[None], p)
    assert not both.generators
    assert both.order == 8
    upright = PLANAR.stabiliser([0.0, -1.0]).stabiliser(torch.cos(x)[None], p)
    assert names(upright) == (["translation y"], ["reflection x → −x"])


# The published table ------------------------------------------------------------------------------


def forcing(name, n=24):
    return fs.simulate.navier_stokes(UNIT, 0.1, forcing=name).source((n, n))


def shifts_of(kept, point):
    return {
        tuple(round(float(s), 9) for s in g.shift)
        for g in (fs.Element(np.eye(2)), *kept.components)
        if fs.Element(g.matrix).name == point
    }


def test_no_forcing_keeps_everything():
    kept = PLANAR.stabiliser(forcing("none"), VORTICITY)
    assert names(kept)[0] == ["translation x", "translation y"]
    assert {g.name for g in kept.components} == {g.name for g in D4.elements[1:]}


def test_cosines_keep_quarter_turns_half_shifts_and_shifted_reflections():
    """NS-Sym: cyclic(4), (1/2, 0), (0, 1/2); reflections only with (1/4, 1/4)."""
    kept = PLANAR.stabiliser(forcing("cos4"), VORTICITY)
    assert kept.order == 32
    half, quarter = (0.0, 0.5), (0.25, 0.75)
    for g in D4.elements:
        offsets = half if np.linalg.det(g.matrix) > 0 else quarter
        assert shifts_of(kept, g.name) == set(itertools.product(offsets, repeat=2))
    assert D4.stabiliser(forcing("cos4"), VORTICITY).order == 4
    assert (groups.trivial(2) * kept).order == 32  # shifts still count modulo the box
    assert kept.subgroup("half shifts", kept.elements[1:3]).order == 4


def test_sine_and_cosine_keep_one_direction():
    """NS: shifts along (1, −1), the half turn with a quarter shift of x + y, the transposition of a
    pseudoscalar with half a box; no quarter turn."""
    kept = PLANAR.stabiliser(forcing("sin+cos"), VORTICITY)
    assert names(kept)[0] == ["0.7071 translation x − 0.7071 translation y"]
    assert {fs.Element(g.matrix).name for g in kept.components} == {
        "rotation 180°", "reflection x ↔ y", "reflection x ↔ −y"
    }  # fmt: skip
    along = {name: {sum(s) % 1 for s in shifts_of(kept, name)} for name in
             ("rotation 180°", "reflection x ↔ y", "reflection x ↔ −y")}  # fmt: skip
    assert along == {
        "rotation 180°": {0.25},
        "reflection x ↔ y": {0.5},
        "reflection x ↔ −y": {0.75},
    }
    assert D4.stabiliser(forcing("sin+cos"), VORTICITY).order == 1
    as_scalar = PLANAR.stabiliser(forcing("sin+cos"), fs.Bundle(UNIT, "scalar f"))
    assert shifts_of(as_scalar, "reflection x ↔ y") == {(0.0, 0.0)}


@pytest.mark.parametrize("name", ["none", "cos4", "sin+cos"])
def test_the_solver_has_the_symmetries_of_its_forcing_and_no_others(name):
    flow = fs.simulate.navier_stokes(UNIT, 1.0, viscosity=1e-2, forcing=name, dt=0.05)
    w = fs.simulate.random_vorticity(UNIT, (24, 24))
    kept = PLANAR.stabiliser(forcing(name), VORTICITY)
    shared = [g for g in kept.components if g.shift.max() <= 0.5] + [
        kept.exp(fs.Generator("", 0.11 * xi.matrix, 0.11 * xi.shift)) for xi in kept.generators
    ]
    errors = [float(fs.finite_defect(flow, g, w, VORTICITY, VORTICITY)) for g in shared]
    assert max(errors) < 1e-10
    lost = [
        g for g in D4.elements if (fs.act(g, forcing(name), VORTICITY) - forcing(name)).norm() > 1
    ]
    assert len(lost) == {"none": 0, "cos4": 4, "sin+cos": 7}[name]
    for g in [*lost, *([] if name == "none" else [fs.Element(np.eye(2), [0.25, 0.0])])]:
        assert float(fs.finite_defect(flow, g, w, VORTICITY, VORTICITY)) > 0.1


def test_shifts_that_are_no_whole_cells_are_not_seen():
    """On 25 points half a box is 12.5 cells: what is left is the point group, and no more."""
    x, y = waves(UNIT, (25, 25))
    f = (torch.cos(2 * x) + torch.cos(2 * y))[None]
    kept = PLANAR.stabiliser(f, VORTICITY)
    assert [g.name for g in kept.elements] == [g.name for g in groups.cyclic(4).elements]


def test_single_precision_of_a_stored_forcing():
    kept = PLANAR.stabiliser(forcing("cos4").float(), VORTICITY)
    assert kept.order == 32
    rough = forcing("cos4") + 1e-4 * torch.randn(1, 24, 24)
    assert PLANAR.stabiliser(rough, VORTICITY).order == 1


def test_an_average_over_a_stabiliser_is_equivariant_under_it():
    """A group with shifts is a finite group like any other."""
    kept = PLANAR.stabiliser(forcing("cos4", 8), VORTICITY)
    plain = fs.FNO(VORTICITY, VORTICITY, n_modes=5, hidden_channels=4, n_layers=1).double()
    ramp = torch.linspace(0, 1, 8, dtype=torch.float64)
    average = fs.frames.GroupAverage(lambda w: plain(w) * ramp, kept, VORTICITY, VORTICITY)
    laws.assert_equivariant(average, kept, VORTICITY, VORTICITY, (8, 8), torch.float64, 1e-12)


# Held inputs --------------------------------------------------------------------------------------

WHIRL = fs.Bundle(SQUARE, "pseudoscalar w + vector g")
ALONE = fs.Bundle(SQUARE, "pseudoscalar w")


def network(source, target, group=D4, **options):
    options = {"n_modes": 5, "hidden_channels": 8, "n_layers": 2} | options
    return fs.FNO(source, target, group=group, **options)


@pytest.mark.parametrize("n", [12, 13])
def test_gravity_leaves_its_stabiliser(n, dtype):
    """Joint action: all of D4, to rounding. Gravity held: the stabiliser, and no other element."""
    model = network(WHIRL, ALONE).to(dtype)
    tol = 5 * EXACT[dtype]
    fs.testing.assert_equivariant(model, D4, WHIRL, ALONE, (n, n), dtype=dtype, tol=tol)
    held = fs.HeldField(model, {"g": [0.0, -9.8]})
    assert held.in_bundle == ALONE == held.out_bundle
    assert [g.name for g in held.group.elements] == ["identity", "reflection x → −x"]
    w = fs.testing.random_section(ALONE, (n, n), dtype=dtype, batch=2)
    values = {g.name: float(fs.finite_defect(held, g, w, ALONE, ALONE).max()) for g in D4.elements}
    for name, error in values.items():
        if name in ("identity", "reflection x → −x"):
            assert error < tol
        else:
            assert error > 1e-3, values
    fs.testing.assert_equivariant(held, held.group, ALONE, ALONE, (n, n), dtype=dtype, tol=1e-5)


def test_held_values_reach_the_operator_in_order():
    both = fs.Bundle(OBLONG, "vector g + scalar p + pseudoscalar f + vector u")
    seen = []
    base = OBLONG.coordinates((6, 8))[1:]
    held = fs.HeldField(
        lambda u: seen.append(u) or u[..., 2:3, :, :], {"f": base, "g": [1.0, -2.0]}, both,
        fs.Bundle(OBLONG, "scalar p"), group=groups.dihedral(2),
    )  # fmt: skip
    assert str(held.in_bundle.representation) == "scalar p + vector u"
    u = laws.noise(held.in_bundle, (6, 8))
    want = torch.cat([torch.ones(2, 1, 6, 8), -2 * torch.ones(2, 1, 6, 8), u[:, :1],
                      base.expand(2, -1, -1, -1), u[:, 1:]], 1)  # fmt: skip
    assert torch.equal(held(u), u[:, :1])
    assert torch.equal(seen[0], want)
    assert torch.equal(held(u[0]), u[0, :1])
    assert torch.equal(seen[1], want[0])
    assert held.group.order == 1


def test_the_coriolis_parameter_is_a_pseudoscalar():
    """Constant: rotations stay. Odd about the equator: the mirror y → −y alone stays."""
    both = fs.Bundle(SQUARE, "vector u + pseudoscalar f")
    wind = fs.Bundle(SQUARE, "vector u")
    model = network(both, wind).double()
    u = fs.testing.random_section(wind, (12, 12), batch=2)
    turning = fs.HeldField(model, {"f": [1.4]})
    assert [g.name for g in turning.group.elements] == [g.name for g in groups.cyclic(4).elements]
    fs.testing.assert_equivariant(turning, turning.group, wind, wind, (12, 12), u=u, tol=1e-12)
    mirror = next(g for g in D4.elements if g.name == "reflection y → −y")
    assert float(fs.finite_defect(turning, mirror, u, wind, wind).max()) > 1e-3
    _, y = waves(SQUARE, (12, 12))
    beta = fs.HeldField(model, {"f": torch.sin(y)[None]})
    assert [g.name for g in beta.group.elements] == ["identity", "reflection y → −y"]
    fs.testing.assert_equivariant(
        beta, beta.group, wind, wind, (12, 12), u=u, tol=1e-12, translations=False
    )
    as_scalar = fs.HeldField(model, {"f": torch.cos(y)[None]}, group=D4)
    assert "reflection y → −y" not in [g.name for g in as_scalar.group.elements]


@pytest.mark.parametrize(("name", "order"), [("cos4", 32), ("sin+cos", None)])
def test_a_held_forcing_leaves_the_symmetries_of_the_flow(name, order):
    both = fs.Bundle(UNIT, "pseudoscalar w + pseudoscalar f")
    model = network(both, VORTICITY).double()
    held = fs.HeldField(model, {"f": 10 * forcing(name, 12)}, group=PLANAR)
    w = fs.testing.random_section(VORTICITY, (12, 12), batch=1)
    whole = [g for g in held.group.components if order is None or g.shift.max() <= 0.5]
    if order is None:
        along = held.group.generators[0].shift * np.sqrt(2) / 12
        whole.append(fs.Element(np.eye(2), along))
    else:
        assert held.group.order == order
    for g in whole:
        assert float(fs.finite_defect(held, g, w, VORTICITY, VORTICITY)) < 1e-12, g.name
    for g in (D4.elements[2], fs.Element(np.eye(2), [1 / 12, 0.0])):
        assert float(fs.finite_defect(held, g, w, VORTICITY, VORTICITY)) > 1e-3


def test_a_stabiliser_without_the_fibre_is_too_large():
    """The saboteur: gravity taken for two scalars promises symmetries that are not there."""
    model = network(WHIRL, ALONE).double()
    held = fs.HeldField(model, {"g": [0.0, -9.8]})
    wrong = D4.stabiliser([0.0, -9.8], fs.Bundle(SQUARE, "2 scalar g"))
    assert wrong.order == 8
    with pytest.raises(AssertionError, match=r"not equivariant under"):
        fs.testing.assert_equivariant(held, wrong, ALONE, ALONE, (12, 12), tol=1e-3)


def test_held_fields_are_saved_moved_and_transformed():
    model = network(WHIRL, ALONE, n_layers=1).double()
    held = fs.HeldField(model, {"g": torch.tensor([0.3, -1.0])})
    w, v = (fs.testing.random_section(ALONE, (8, 8), batch=2, seed=s) for s in (0, 1))
    value, pushed = torch.func.jvp(held, (w,), (v,))
    laws.assert_close(pushed, (held(w + 1e-5 * v) - held(w - 1e-5 * v)) / 2e-5, 1e-7)
    laws.assert_close(torch.vmap(lambda w: held(w[None])[0])(w), value, 1e-13)
    value.square().mean().backward()
    assert all(p.grad is not None for p in held.parameters())
    assert torch.equal(held.state_dict()["held_g"], torch.tensor([0.3, -1.0]))
    for twin in (copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        assert torch.equal(twin(w), held(w))
    small = fs.HeldField(
        lambda u: u[:, :1] * u[:, 1:2] + u[:, 2:], {"g": [1.0, -1.0]}, WHIRL, ALONE
    )
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(w), small(w), atol=1e-12)
    torch.compiler.reset()
    single = held.float()
    assert single(w.float()).dtype == torch.float32
    assert "held: g" in repr(held)


def test_an_operator_without_a_group_holds_all_the_same():
    p = fs.Bundle(SQUARE, "scalar p")
    held = fs.HeldField(lambda u: u[:, :1] * u[:, 2:], {"f": [2.0]},
                        fs.Bundle(SQUARE, "scalar p + scalar q + scalar f"), p)  # fmt: skip
    assert held.group is None
    assert torch.equal(held(torch.ones(1, 2, 4, 4)), 2 * torch.ones(1, 1, 4, 4))


# Errors -------------------------------------------------------------------------------------------

MODEL = network(WHIRL, ALONE, n_layers=1)


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (fs.BundleError, r"A constant 'vector' in 3 dimensions has 3 components; got 2",
         lambda: groups.so(3).stabiliser([0.0, 1.0])),
        (fs.GroupError, r"so\(3\) acts in 3 dimensions; pseudoscalar w lives in 2",
         lambda: groups.so(3).stabiliser([1.0], VORTICITY)),
        (fs.BundleError, r"A stabiliser needs a finite field",
         lambda: groups.so(2).stabiliser([float("nan"), 1.0])),
        (fs.BundleError, r"stabiliser takes real numbers.* got 'g'", lambda: D4.stabiliser("g")),
        (fs.BundleError, r"stabiliser takes real numbers.* got \[\[1.0\], \[1.0, 2.0\]\]",
         lambda: D4.stabiliser([[1.0], [1.0, 2.0]])),
        (fs.BundleError, r"stabiliser takes real numbers.* got torch.complex128",
         lambda: D4.stabiliser(torch.zeros(2, dtype=torch.complex128))),
        (fs.BundleError, r"stabiliser needs a Bundle.* got 'vector'",
         lambda: D4.stabiliser([1.0, 0.0], "vector")),
        (fs.BundleError, r"takes the held fields by name.* got 'g'",
         lambda: fs.HeldField(MODEL, "g")),
        (fs.BundleError, r"The held field 'g' takes real numbers.* got 'up'",
         lambda: fs.HeldField(MODEL, {"g": "up"})),
        (fs.GroupError, r"HeldField needs a Group.* got 'd4'",
         lambda: fs.HeldField(MODEL, {"g": [0.0, 1.0]}, group="d4")),
        (fs.BundleError, r"HeldField needs an operator .* got 3",
         lambda: fs.HeldField(3, {"g": [0.0, 1.0]})),
        (fs.BundleError, r"shape \(1, 8, 8\) needs its bundle",
         lambda: D4.stabiliser(torch.zeros(1, 8, 8))),
        (fs.BundleError, r"one field \(channel, \*grid\); got shape \(3, 1, 8, 8\)",
         lambda: D4.stabiliser(torch.zeros(3, 1, 8, 8), VORTICITY)),
        (fs.BundleError, r"stabiliser expects sections of 'pseudoscalar w'",
         lambda: D4.stabiliser(torch.zeros(2, 8, 8), VORTICITY)),
        (fs.GroupError, r"dihedral\(4\) does not act on .* 8 × 10 points",
         lambda: D4.stabiliser(torch.zeros(1, 8, 10), VORTICITY)),
        (fs.GroupError, r"so\(2\) does not act on Torus\(1, 1\).*rotation xy turns or stretches",
         lambda: groups.so(2).stabiliser(torch.zeros(1, 8, 8), VORTICITY)),
        (fs.BundleError, r"HeldField reads the in_bundle of the operator, which has none",
         lambda: fs.HeldField(torch.sin, {"g": [1.0]})),
        (fs.BundleError, r"holds some of the blocks \('w', 'g'\) and leaves some; got h",
         lambda: fs.HeldField(MODEL, {"h": [1.0]})),
        (fs.BundleError, r"and leaves some; got w, g",
         lambda: fs.HeldField(MODEL, {"w": [1.0], "g": [1.0, 2.0]})),
        (fs.BundleError, r"leaves some; got none", lambda: fs.HeldField(MODEL, {})),
        (fs.BundleError, r"'g' is a constant of 2 numbers or a field \(2, \*grid\) .* \(3,\)",
         lambda: fs.HeldField(MODEL, {"g": [1.0, 2.0, 3.0]})),
        (fs.GridError, r"The held field 'g' has 8 × 8 points; got a state with 12 × 12",
         lambda: fs.HeldField(MODEL, {"g": torch.zeros(2, 8, 8)})(torch.zeros(1, 1, 12, 12))),
        (fs.BundleError, r"sections of 'pseudoscalar w' on Torus\(1.5, 1.5\)",
         lambda: fs.HeldField(MODEL, {"g": [0.0, 1.0]})(torch.zeros(1, 3, 12, 12))),
    ],
)  # fmt: skip
def test_errors(error, match, make):
    with pytest.raises(error, match=match):
        make()
