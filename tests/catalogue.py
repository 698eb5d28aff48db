"""The instances that the laws run over: groups, representations, bases, bundles, operators.

A new group, type or base enters here and is then held to every law.
"""

from dataclasses import dataclass

import pytest
import torch

import fieldsym as fs

groups = fs.groups

# What "exact" means: errors relative to the norm of the output.
EXACT = {torch.float32: 2e-6, torch.float64: 1e-12}

OBLONG = fs.Torus((2.0, 3.0))
SQUARE = fs.Torus((1.5, 1.5))

FINITE = [
    groups.trivial(1),
    groups.trivial(2),
    groups.reflections(1),
    groups.reflections(2),
    groups.reflections(3),
    *(groups.cyclic(n) for n in (1, 2, 3, 4, 6)),
    *(groups.dihedral(n) for n in (1, 2, 3, 4, 6)),
    groups.cyclic(4, dim=3),
    groups.dihedral(4, dim=3, axes=(1, 2)),
    groups.octahedral(),
    groups.octahedral(reflections=False),
]
CONTINUOUS = [
    *(groups.translations(d) for d in (1, 2, 3)),
    *(f(d) for f in (groups.so, groups.o, groups.se, groups.e) for d in (2, 3)),
]
GROUPS = FINITE + CONTINUOUS

REPRESENTATIONS = [
    (1, "scalar p + 2 pseudoscalar w + vector u"),
    (2, "scalar p + pseudoscalar w + vector u + axial vector b"),
    (2, "2 symmetric tensor s + symmetric traceless tensor t + trivial"),
    (3, "scalar p + pseudoscalar w + 2 vector u + axial vector b"),
    (3, "symmetric tensor s + 2 symmetric traceless tensor t"),
    (2, "2 d2q9 populations f + vector u"),
    (3, "pseudoscalar w + d3q19 populations f"),
]

BASES = {
    "torus 1-D": (fs.Torus((2.0,)), (16,)),
    "torus odd": (fs.Torus((2.0,), origin=(-0.7,)), (15,)),
    "torus node": (OBLONG, (16, 24)),
    "torus cell": (fs.Torus((2.0, 3.0), location="cell", origin=(1.0, -2.0)), (15, 24)),
    "staggered": (fs.Torus((2.0, 3.0), location=("node", "cell")), (16, 21)),
    "channel": (fs.Box((2.0, 3.0), periodic=(True, False), location="cell"), (16, 21)),
    "endpoints": (fs.Box((2.0, 3.0), location="node"), (9, 14)),
    "mixed": (fs.Box((2.0, 3.0), periodic=(True, False), location=("cell", "node")), (10, 13)),
    "torus 3-D": (fs.Torus((1.0, 2.0, 1.5)), (6, 8, 7)),
    "square node": (SQUARE, (12, 12)),
    "square odd": (SQUARE, (13, 13)),
    "square cell": (fs.Torus((1.5, 1.5), location="cell"), (12, 12)),
    "square endpoints": (fs.Box((1.5, 1.5), location="node"), (11, 11)),
    "cube": (fs.Torus((1.0, 1.0, 1.0)), (6, 6, 6)),
    "cube odd cell": (fs.Torus((1.0, 1.0, 1.0), location="cell"), (5, 5, 5)),
}


def bases():
    """Parameters (base, grid) for every base."""
    return [pytest.param(*value, id=key) for key, value in BASES.items()]


def largest_group(base, grid):
    """The largest point group that acts on a base and grid."""
    whole = {1: groups.reflections(1), 2: groups.dihedral(4), 3: groups.octahedral()}[base.dim]
    return whole.acting_on(base, grid)


def permutes_axes(group):
    """Whether a finite group permutes the axes up to sign, as populations of a lattice need it."""
    entries = [abs(g.matrix) for g in group.elements]
    return group.is_finite and all(((m < 1e-9) | (m > 1 - 1e-9)).all() for m in entries)


FIBRES = {
    1: "scalar p + pseudoscalar w + vector u",
    2: "scalar p + pseudoscalar w + vector u + axial vector b + symmetric tensor s"
    " + symmetric traceless tensor t",
    3: "scalar p + pseudoscalar w + vector u + axial vector b + symmetric tensor s"
    " + symmetric traceless tensor t",
}


@dataclass(frozen=True)
class Case:
    """A group, a base it acts on, grids (even, odd), modes, and the fields to map between."""

    group: fs.Group
    base: fs.Torus
    grids: tuple[tuple[int, ...], ...]
    n_modes: tuple[int, ...]
    source: str
    target: str

    def __repr__(self):
        return f"{self.group.name}: {self.source} to {self.target}"

    def bundles(self):
        return (
            fs.Bundle(self.base, self.source, self.group),
            fs.Bundle(self.base, self.target, self.group),
        )


PLANE_TYPES = [
    ("scalar p + vector u", "pseudoscalar w + vector u + symmetric tensor s"),
    ("symmetric tensor s + pseudoscalar w", "symmetric traceless tensor t + 2 scalar p"),
    ("regular r + axial vector b", "regular r + vector u"),
]
RECTANGLES = (OBLONG, ((12, 16), (11, 15)), (5, 7))
SQUARES = (SQUARE, ((12, 12), (13, 13)), (7, 7))
LINE_TYPES = [
    ("scalar p + vector u", "pseudoscalar w + regular r"),
    ("pseudoscalar w", "2 scalar p"),
]
SPACE_TYPES = [
    ("scalar p + vector u", "pseudoscalar w + axial vector b + symmetric tensor s"),
    ("symmetric traceless tensor t", "vector u + symmetric traceless tensor t"),
]
POPULATION_TYPES = ("d2q9 populations f + scalar p", "vector u + 2 d2q9 populations f")
SPACE_POPULATION_TYPES = ("d3q19 populations f", "vector u + d3q19 populations f")
CUBE = (fs.Torus((1.0, 1.0, 1.0)), ((6, 6, 6), (7, 7, 7)), (5, 5, 5))
BRICK = (fs.Torus((1.0, 1.0, 2.0)), ((6, 6, 8), (7, 7, 5)), (5, 5, 3))
CUBOID = (fs.Torus((1.0, 1.5, 2.0)), ((6, 5, 8), (7, 6, 5)), (3, 5, 3))

CASES = [
    *(
        Case(group, *where, *types)
        for group, where in (
            (groups.trivial(2), RECTANGLES),
            (groups.cyclic(2), RECTANGLES),
            (groups.dihedral(1), RECTANGLES),
            (groups.dihedral(2), RECTANGLES),
            (groups.reflections(2), RECTANGLES),
            (groups.cyclic(2), SQUARES),
            (groups.cyclic(4), SQUARES),
            (groups.dihedral(4), SQUARES),
        )
        for types in PLANE_TYPES
    ),
    *(
        Case(group, fs.Torus((2.0,)), ((16,), (15,)), (7,), *types)
        for group in (groups.trivial(1), groups.reflections(1))
        for types in LINE_TYPES
    ),
    *(
        Case(group, *where, *types)
        for group, where in (
            (groups.octahedral(), CUBE),
            (groups.octahedral(reflections=False), CUBE),
            (groups.dihedral(4, dim=3), BRICK),
            (groups.cyclic(4, dim=3), BRICK),
            (groups.reflections(3), CUBOID),
            (groups.dihedral(1, dim=3, axes=(1, 2)), CUBOID),
        )
        for types in SPACE_TYPES
    ),
    *(
        Case(group, *where, *POPULATION_TYPES)
        for group, where in (
            (groups.dihedral(1), RECTANGLES),
            (groups.dihedral(2), RECTANGLES),
            (groups.cyclic(4), SQUARES),
            (groups.dihedral(4), SQUARES),
        )
    ),
    Case(groups.octahedral(), CUBE[0], CUBE[1][:1], CUBE[2], *SPACE_POPULATION_TYPES),
]


def cases(*, space=True):
    """Parameters ``case`` for the equivariant layers; without the 3-D ones if asked."""
    chosen = [c for c in CASES if space or c.base.dim < 3]
    return [pytest.param(c, id=repr(c)) for c in chosen]


def rep(text, dim, group=None):
    return fs.Representation(text, dim, group)
