"""What an evaluation moves fields by: the rows of its table, and the group it averages over.

>>> import fieldsym as fs
>>> base, group = fs.Torus((1.0, 1.0)), fs.groups.cyclic(2) * fs.groups.translations(2)
>>> for row in element_rows(group, base, (16, 16))[:4]:
...     print(row.label, "|", row.kind)
rotation 180° | point
shift 5 cells along x | shift
shift 5 cells along y | shift
shift 1/2 cell along x | fractional shift

To add a row: extend ``element_rows``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fieldsym.action import action_method
from fieldsym.bundle import Bundle
from fieldsym.errors import GridError, GroupError
from fieldsym.group import AXES, Element, Generator, Group, require_group, trivial, wrap
from fieldsym.manifold import Manifold, Region

KINDS = ("point", "shift", "fractional shift", "rotation")
ANGLES = (30.0, 45.0)  # degrees: rotations that are not maps of the lattice


@dataclass(frozen=True)
class Row:
    """One finite element: its label, its kind, and whether it needs a window.

    ``kind`` is "point" (an element of the finite part), "shift" (whole cells), "fractional shift"
    or "rotation" (by an angle that is no map of the lattice; windowed).
    """

    label: str
    element: Element
    kind: str

    @property
    def windowed(self) -> bool:
        """Whether fields are windowed before they are moved."""
        return self.kind == "rotation"

    def method(self, bundle: Bundle, grid: Sequence[int]) -> str:
        """How fields are moved: "exact" or "spectral"."""
        return action_method(self.element, bundle, grid)


def finite_part(group: Group, base: Manifold, grid: Sequence[int]) -> Group:
    """The finite group that is averaged over: all components, and lattice turns of rotations.

    Examples
    --------
    >>> import fieldsym as fs
    >>> finite_part(fs.groups.e(2), fs.Torus((1.0, 1.0)), (8, 8)).order
    8
    >>> finite_part(fs.groups.translations(2), fs.Torus((1.0, 1.0)), (8, 8)).order
    1
    """
    turns = (lattice_turn(xi, base, grid) for xi in group.generators if xi.matrix.any())
    extra = tuple(turn for turn in turns if turn is not None)
    points = Group(group.name, group.dim, (), (*group.components, *extra), periods=group.periods)
    elements = tuple(sorted((trivial(group.dim) * points).elements, key=_reading_order))
    name = group.name if group.is_finite else f"the finite part of {group.name}"
    return Group(name, group.dim, (), elements[1:], elements, group.periods)


# The identity, rotations by their angle, then reflections.
def _reading_order(g: Element) -> tuple[bool, float]:
    angle = math.atan2(g.matrix[-1, 0], g.matrix[0, 0]) if g.dim == 2 else -np.trace(g.matrix)
    return bool(np.linalg.det(g.matrix) < 0), angle % (2 * math.pi) if g.dim == 2 else angle


def lattice_turn(xi: Generator, base: Manifold, grid: Sequence[int]) -> Element | None:
    """The quarter turn along a generator of rotations, or the half turn, where it acts."""
    if not _is_rotation(xi):
        return None
    for angle in (90.0, 180.0):
        turn = turned(xi, angle)
        turn = Element(np.rint(turn.matrix))
        if base.admits(turn, grid):
            return turn
    return None


def turned(xi: Generator, degrees: float) -> Element:
    """The rotation by an angle along a generator."""
    return trivial(xi.dim).exp(Generator(xi.name, math.radians(degrees) * xi.matrix, 0 * xi.shift))


def _is_rotation(xi: Generator) -> bool:
    return bool(xi.matrix.any() and np.allclose(xi.matrix, -xi.matrix.T) and not xi.shift.any())


def element_rows(group: Group, base: Manifold, grid: Sequence[int]) -> list[Row]:
    """The elements that are measured: the finite part, shifts, rotations by generic angles."""
    part = finite_part(group, base, grid)
    rows = [Row(g.name, g, "point") for g in part.elements if not g.is_identity]
    for xi in group.generators:
        if not xi.matrix.any():
            rows += _shift_rows(xi, base, grid)
        elif _is_rotation(xi):
            rows += [Row(g.name, g, "rotation") for g in (turned(xi, a) for a in ANGLES)]
    distinct = {row.element.key: row for row in rows}.values()
    return sorted(distinct, key=lambda row: KINDS.index(row.kind))


def _shift_rows(xi: Generator, base: Manifold, grid: Sequence[int]) -> list[Row]:
    moved = [int(i) for i in np.flatnonzero(xi.shift)]
    axes, cells = " ".join(AXES[i] for i in moved), whole_cells([grid[i] for i in moved])
    steps = ((cells, f"{cells} cell{'s' * (cells > 1)}"), (0.5, "1/2 cell"), (0.3, "0.3 cell"))
    return [
        Row(
            f"shift {text} along {axes}",
            Element(np.eye(base.dim), step * np.array(base.spacing(grid)) * np.sign(xi.shift)),
            "shift" if step == cells else "fractional shift",
        )
        for step, text in steps
    ]


def whole_cells(points: Sequence[int]) -> int:
    """A prime near a quarter of the shortest axis that divides the number of points of none.

    An operator that works in patches of s points commutes with shifts by multiples of s. As s
    divides the number of points, no prime that does not is such a multiple, for s > 1.

    Examples
    --------
    >>> [whole_cells([n]) for n in (4, 15, 16, 24, 32, 36, 60, 64)]
    [3, 7, 5, 7, 7, 11, 17, 17]
    """
    shortest = min(points)
    primes = (
        p
        for p in range(3, shortest)
        if all(n % p for n in points) and all(p % d for d in range(2, math.isqrt(p) + 1))
    )
    return min(primes, key=lambda p: (abs(4 * p - shortest), -p), default=1)


def wrong_action(g: Element, base: Manifold) -> tuple[Element, float]:
    """An element and a sign: an action on the output that is not that of g, as a control.

    The inverse where that is another map. Where it is not (mirrors, half turns), g with the
    opposite parity: pseudo types without their sign, others with one, vectors reversed.

    Examples
    --------
    >>> import fieldsym as fs
    >>> base, quarter = fs.Torus((1.0, 1.0)), fs.groups.cyclic(4).elements[1]
    >>> wrong_action(quarter, base), wrong_action(quarter @ quarter, base)
    ((Element(rotation 270°), 1.0), (Element(rotation 180°), -1.0))
    """
    return (g, -1.0) if wrap(g @ g, base.lengths).is_identity else (g.inverse, 1.0)


def check_group(
    group: Group, base: Manifold, grid: Sequence[int], region: Region | None = None
) -> None:
    """Raise ``GroupError`` unless the group acts, rotations and the like inside a region."""
    if require_group(group, "evaluate").dim != base.dim:
        group.check(base, grid)
    turns = [xi for xi in group.generators if xi.matrix.any()]
    if turns and region is None:
        radius = 0.4 * min(base.lengths)
        raise GroupError(
            f"{group.name} does not act on {base}: {turns[0].name} turns or stretches it out of "
            f"itself. Measure it inside a region, region=base.disk({radius:g}) (on the command "
            f"line: --radius {radius:g}), or evaluate a finite subgroup such as dihedral(4)."
        )
    if region is not None and region.base != base:
        raise GridError(f"The region is a part of {region.base}; the fields live on {base}.")
    shifts = tuple(xi for xi in group.generators if not xi.matrix.any())
    replace(group, generators=shifts).check(base, grid)
    finite_part(group, base, grid).check(base, grid)
