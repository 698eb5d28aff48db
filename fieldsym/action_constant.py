"""The elements of a group that fix a constant: gravity, a mean strain, the Coriolis parameter.

The Lie algebra of the stabiliser is the null space of ξ ↦ dρ(ξ) f. Its further components are found
by Gauss–Newton steps on the group, g ↦ exp(δ) g with dρ(δ) ρ(g) f = f − ρ(g) f, from seeded starts
in every component of the group; two solutions are the same component where g⁻¹ g' is an
exponential of the algebra found.

>>> import fieldsym as fs
>>> fs.groups.o(3).stabiliser([0.0, 0.0, -9.8]).components
(Element(reflection y → −y),)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from fieldsym.action import _lattice_points
from fieldsym.group import Element, Generator, Group, closure, snap
from fieldsym.representation import Representation

Array = np.ndarray
STARTS, STEPS = 24, 40
SAME = 1e-7  # matrices closer than this are one


def combine(group: Group, null: Array) -> tuple[Generator, ...]:
    """Generators that span some combinations (coefficient, how many) of those of a group.

    Combinations are made as sparse as elimination makes them, of unit size each.

    Examples
    --------
    >>> import fieldsym as fs
    >>> [xi.name for xi in combine(fs.groups.so(3), np.array([[0.6], [0.8], [0.0]]))]
    ['0.6 rotation yz + 0.8 rotation zx']
    """
    return tuple(_combination(group, row) for row in _echelon(null.T))


def null_space(matrix: Array, tol: float) -> Array:
    """Orthonormal basis (column, dimension) of the vectors that a matrix takes to zero."""
    if not matrix.size:
        return np.eye(matrix.shape[1])
    square = np.linalg.qr(matrix, mode="r") if len(matrix) > matrix.shape[1] else matrix
    _, s, vh = np.linalg.svd(square)
    rank = int((s > tol * max(1.0, float(s.max()))).sum())
    return vh[rank:].T


def constant_stabiliser(
    group: Group, value: Tensor, representation: Representation, tol: float
) -> tuple[tuple[Generator, ...], tuple[Element, ...]]:
    """Generators, and one element of every component, of {g : ρ(g) f = f}."""
    f = value.numpy() / max(float(value.norm()), 1e-300)

    def rest(g: Element) -> Array:
        return representation.rho(g).numpy() @ f - f

    if group.is_finite:
        return (), tuple(g for g in group.elements if np.abs(rest(g)).max() <= tol)
    slopes = [representation.drho(xi).numpy() @ f for xi in group.generators]
    generators = combine(group, null_space(np.stack(slopes, 1), tol))
    found = [Element(np.eye(group.dim))]
    for start in (Element(np.eye(group.dim)), *group.components):
        for g in _solutions(group, start, f, representation, tol):
            if not any(_connected(h.inverse @ g, generators) for h in found):
                found.append(_plain(g, generators, lambda p: np.abs(rest(p)).max() <= tol))
    # what several starts missed, products find
    return generators, tuple(found) if generators else closure(found, group.dim)


# Elements of the component of ``start`` that fix f; a solution may come several times.
def _solutions(
    group: Group, start: Element, f: Array, representation: Representation, tol: float
) -> Iterator[Element]:
    turning = tuple(xi for xi in group.generators if xi.matrix.any())
    part = Group(group.name, group.dim, turning)
    drho = [representation.drho(xi).numpy() for xi in turning]

    def slope(g: Element) -> tuple[Array, Array]:
        moved = representation.rho(g).numpy() @ f
        return moved - f, np.array([a @ moved for a in drho]).reshape(-1, len(f)).T

    random = np.random.default_rng(0)
    for count in range(STARTS if turning else 1):
        g = start
        if turning and count:
            g = part.exp(list(random.uniform(-np.pi, np.pi, len(turning)))) @ start
        g, error = _descend(part, g, slope)
        if error <= tol:
            yield Element(snap(g.matrix), g.shift)


# Gauss–Newton steps on a group, of size 1 at most.
def _descend(
    group: Group, g: Element, slope: Callable[[Element], tuple[Array, Array]]
) -> tuple[Element, float]:
    for _ in range(STEPS if group.generators else 0):
        rest, jacobian = slope(g)
        if np.abs(rest).max() < 1e-15:
            break
        step = -np.linalg.lstsq(jacobian, rest, rcond=1e-9)[0]
        if np.abs(step).max() < 1e-15:
            break
        g = group.exp(list(step / max(1.0, float(np.abs(step).max())))) @ g
    return g, float(np.abs(slope(g)[0]).max())


# Whether a map is an exponential of the algebra that some generators span (up to its shift).
def _connected(r: Element, generators: tuple[Generator, ...]) -> bool:
    turning = tuple(xi for xi in generators if xi.matrix.any())
    part = Group("", r.dim, turning)

    def slope(s: Element) -> tuple[Array, Array]:
        columns = [(xi.matrix @ s.matrix).ravel() for xi in turning]
        return (s.matrix - r.matrix).ravel(), np.array(columns).reshape(-1, r.dim**2).T

    random = np.random.default_rng(1)
    for count in range(6 if turning else 1):
        start = random.uniform(-np.pi, np.pi, len(turning)) * (count > 0)
        if _descend(part, part.exp(list(start)), slope)[1] < SAME:
            return True
    return False


# A map of axes to axes from the same component, where there is one: the simplest first.
def _plain(
    g: Element, generators: tuple[Generator, ...], fixes: Callable[[Element], bool]
) -> Element:
    points = sorted(
        _lattice_points(g.dim), key=lambda p: float(np.abs(p.matrix - np.eye(g.dim)).sum())
    )
    for p in points:
        if fixes(p) and _connected(g.inverse @ p, generators):
            return Element(p.matrix, g.shift)
    return g


# Rows of a reduced echelon form, of unit size.
def _echelon(rows: Array) -> Array:
    rows, done = rows.copy(), 0
    for column in range(rows.shape[1] if len(rows) else 0):
        pivot = done + int(np.abs(rows[done:, column]).argmax()) if done < len(rows) else done
        if done == len(rows) or abs(rows[pivot, column]) < SAME:
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= rows[others, column, None] * rows[done]
        done += 1
    rows = np.where(np.abs(rows) < SAME, 0.0, rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if len(rows) else rows


def _combination(group: Group, row: Array) -> Generator:
    used = [(c, xi) for c, xi in zip(row, group.generators, strict=True) if c]
    if len(used) == 1:
        return used[0][1]
    text = " ".join(f"{'−' if c < 0 else '+'} {abs(c):.4g} {xi.name}" for c, xi in used)
    matrix = sum((c * xi.matrix for c, xi in used), np.zeros((group.dim, group.dim)))
    shift = sum((c * xi.shift for c, xi in used), np.zeros(group.dim))
    return Generator(text.removeprefix("+ "), matrix, shift)
