"""Groups: axioms, exponentials, brackets, products, subgroups, names."""

import itertools
import math

import laws
import numpy as np
import pytest
from catalogue import CONTINUOUS, FINITE, GROUPS, OBLONG, SQUARE

import fieldsym as fs

groups = fs.groups
ids = {"ids": repr}


@pytest.mark.parametrize("group", FINITE, **ids)
def test_axioms(group):
    laws.assert_axioms(group.elements)
    assert group.order == len(group.elements)
    assert group.is_finite
    assert {g.key for g in group.components} == {g.key for g in group.elements[1:]}


@pytest.mark.parametrize("group", FINITE, **ids)
def test_table_multiplies(group):
    table = group.table
    for i, j in itertools.product(range(min(group.order, 12)), repeat=2):
        assert group.elements[table[i, j]].key == (group.elements[i] @ group.elements[j]).key
    assert all(sorted(row) == list(range(group.order)) for row in table)


def test_axioms_fail_for_broken_groups():
    d4 = groups.dihedral(4)
    with pytest.raises(AssertionError):
        laws.assert_axioms(d4.elements[:3])
    with pytest.raises(AssertionError):
        laws.assert_axioms(d4.elements, invert=lambda g: g)
    with pytest.raises(AssertionError):
        laws.assert_axioms(d4.elements, multiply=lambda g, h: fs.Element(2 * g.matrix @ h.matrix))


@pytest.mark.parametrize(
    ("group", "order"),
    [
        (groups.cyclic(6), 6),
        (groups.dihedral(4), 8),
        (groups.reflections(3), 8),
        (groups.octahedral(), 48),
        (groups.octahedral(reflections=False), 24),
        (groups.dihedral(4, dim=3), 8),
        (groups.cyclic(2) * groups.dihedral(1), 4),
        (groups.cyclic(4) * groups.dihedral(1), 8),
        (groups.reflections(3) * groups.cyclic(4, dim=3), 16),
    ],
    ids=lambda v: str(v),
)
def test_orders(group, order):
    assert group.order == order
    laws.assert_axioms(group.elements)


@pytest.mark.parametrize("group", CONTINUOUS, **ids)
def test_exponential_solves_its_equation(group):
    x = np.array([0.3, -0.7, 0.2])[: group.dim]
    for xi in group.generators:
        t, h = 0.8, 1e-5
        at = [
            (g.matrix @ x + g.shift) for g in (laws.flow(group, xi, s) for s in (t - h, t, t + h))
        ]
        slope = (at[2] - at[0]) / (2 * h)
        assert np.allclose(slope, xi.matrix @ at[1] + xi.shift, atol=1e-9)
        assert (laws.flow(group, xi, 0.3) @ laws.flow(group, xi, 0.5)).key == laws.flow(
            group, xi, 0.8
        ).key


def test_exponentials_have_closed_forms():
    a = 0.37
    turn = groups.so(2).exp([a])
    want = [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]
    assert np.allclose(turn.matrix, want, atol=1e-15)
    about_z = groups.so(3).exp([0, 0, a]).matrix
    assert np.allclose(about_z[:2, :2], turn.matrix, atol=1e-15)
    about_x = groups.so(3).exp([a, 0, 0]).matrix
    assert np.allclose(about_x[1:, 1:], turn.matrix, atol=1e-15)
    v = np.array([0.3, 0.7, -0.4])
    assert np.allclose(groups.so(3).exp(v).matrix @ v, v, atol=1e-15)
    assert np.allclose(groups.translations(2).exp([0.5, -2.0]).shift, [0.5, -2.0])
    screw = groups.se(2).exp([1.0, 0.0, math.pi / 2])
    assert np.allclose(screw.shift, [2 / math.pi, 2 / math.pi])  # a quarter of a circle


def test_brackets_close_with_the_known_structure_constants():
    for group in CONTINUOUS:
        basis = np.stack([np.column_stack([x.matrix, x.shift]).ravel() for x in group.generators])
        for xi, eta in itertools.product(group.generators, repeat=2):
            b = group.bracket(xi, eta)
            inside = np.column_stack([b.matrix, b.shift]).ravel()
            rest = inside - np.linalg.lstsq(basis.T, inside, rcond=None)[0] @ basis
            assert np.abs(rest).max() < 1e-14
    x, y, z = groups.so(3).generators
    assert np.array_equal(fs.Group.bracket(x, y).matrix, z.matrix)
    tx, ty, r = groups.se(2).generators
    assert np.array_equal(fs.Group.bracket(r, tx).shift, ty.shift)
    assert np.array_equal(fs.Group.bracket(r, ty).shift, -tx.shift)


def test_bracket_is_the_second_order_of_the_commutator():
    group, t = groups.se(2), 1e-4
    for xi, eta in itertools.permutations(group.generators, 2):
        g, h = laws.flow(group, xi, t), laws.flow(group, eta, t)
        loop = g @ h @ g.inverse @ h.inverse
        b = group.bracket(xi, eta)
        assert np.allclose((loop.matrix - np.eye(2)) / t**2, b.matrix, atol=1e-3)
        assert np.allclose(loop.shift / t**2, b.shift, atol=1e-3)


@pytest.mark.parametrize("group", GROUPS, **ids)
def test_components_have_distinct_determinants_or_are_elements(group):
    if group.generators and group.components:
        assert [round(np.linalg.det(g.matrix)) for g in group.components] == [-1]


def test_names():
    assert groups.dihedral(4).elements[0].name == "identity"
    assert {g.name for g in groups.dihedral(4).elements} == {
        "identity", "rotation 90°", "rotation 180°", "rotation 270°", "reflection x → −x",
        "reflection y → −y", "reflection x ↔ y", "reflection x ↔ −y",
    }  # fmt: skip
    names = [g.name for g in groups.octahedral().elements]
    assert len(set(names)) == 48
    assert {"inversion", "reflection z → −z", "rotation 90° (0,0,1)"} <= set(names)
    assert "roto-reflection 90° (0,0,1)" not in names[:1]
    assert fs.Element(np.eye(2), [0.25, 0]).name == "shift (0.25, 0)"
    assert fs.Element(-np.eye(2), [0.25, 0]).name == "rotation 180° + shift (0.25, 0)"
    assert fs.Element(2 * np.eye(2)).name == "affine map"
    assert groups.dihedral(3).elements[-1].name.startswith("reflection in the line at")
    assert [x.name for x in groups.so(3).generators] == [
        "rotation yz",
        "rotation zx",
        "rotation xy",
    ]
    assert groups.e(2).generators[0].name == "translation x"
    assert repr(groups.dihedral(4, dim=3, axes=(1, 2))) == "dihedral(4, dim=3, axes=(1, 2))"
    assert repr(groups.octahedral().elements[0]) == "Element(identity)"


@pytest.mark.parametrize(
    ("group", "base", "grid", "name"),
    [
        (groups.dihedral(4), fs.Torus((1.0, 1.0)), (64, 96), "dihedral(2)"),
        (groups.dihedral(4), fs.Torus((1.0, 2.0)), None, "dihedral(2)"),
        (groups.dihedral(4), SQUARE, (64, 64), "dihedral(4)"),
        (groups.cyclic(4), OBLONG, None, "cyclic(2)"),
        (groups.cyclic(3), SQUARE, None, "trivial"),
        (groups.cyclic(6), SQUARE, None, "cyclic(2)"),
        (groups.dihedral(6), SQUARE, None, "dihedral(2)"),
        (groups.dihedral(4), fs.Box((1.0, 1.0), periodic=(True, False)), None, "dihedral(2)"),
        (groups.dihedral(4), fs.Torus((1.0, 1.0), location=("node", "cell")), None, "dihedral(2)"),
        (groups.octahedral(), fs.Torus((1.0, 1.0, 2.0)), None,
         "the subgroup of octahedral() of order 16"),
        (groups.octahedral(), fs.Torus((1.0, 2.0, 3.0)), None, "reflections(3)"),
    ],
)  # fmt: skip
def test_largest_subgroup_that_acts(group, base, grid, name):
    largest = group.acting_on(base, grid)
    assert largest.name.replace("reflections(2)", "dihedral(2)") == name
    laws.assert_axioms(largest.elements)


def test_subgroup_is_generated():
    d4 = groups.dihedral(4)
    turns = d4.subgroup("turns", [d4.elements[1]])
    assert turns.order in (2, 4)
    assert repr(turns) == "turns"
    assert groups.dihedral(4).subgroup("all", d4.elements[1:]).order == 8


def test_elements_compare_by_what_they_do():
    quarter = groups.cyclic(4).elements[1]
    assert quarter.key == groups.so(2).exp([math.pi / 2]).key
    assert (quarter.inverse @ quarter).is_identity
    assert not quarter.is_identity
    assert fs.Element(-0.0 * np.eye(2) + np.eye(2)).key == fs.Element(np.eye(2)).key


@pytest.mark.parametrize("group", GROUPS, **ids)
def test_names_lead_back_to_the_group(group):
    again = groups.named(group.name, group.dim)
    assert again.name == group.name
    assert {g.key for g in again.elements} == {g.key for g in group.elements}
    assert [x.name for x in again.generators] == [x.name for x in group.generators]


def test_texts_of_products():
    assert groups.named("none", 3).order == 1
    assert groups.named("translations * cyclic(4)", 2).name == "translations(2) × cyclic(4)"
    assert groups.named("cyclic(2) × dihedral(1)", 2).order == 4
