"""Which entries of a weight a finite symmetry ties together.

The weight of an equivariant layer obeys W(g s) = ρ_out(g) W(s) ρ_in(g)⁻¹ at its sites s: samples of
a kernel or Fourier modes, where real fields add W(−k) = conj W(k). For fields that a group permutes
up to sign (all but traceless tensors in space), every entry is plus or minus one free number or
zero, so a weight is one gather. Entries carry codes: ±(f + 1) for the f-th free number, 0 for zero.

>>> import numpy as np, fieldsym as fs
>>> mirror = fs.groups.reflections(1)
>>> moves = kernel_moves(mirror, np.array([[-1], [0], [1]]))
>>> table = pair_table(fs.Representation("scalar", 1).kind_rho, ("scalar", "scalar"), moves, 1)
>>> table.code[0, 0, :, 0, 0].tolist()                       # an even kernel has two free numbers
[1, 2, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fieldsym.errors import RepresentationError
from fieldsym.group import Element, Group
from fieldsym.operators.intertwiner import Equation, allowed_maps

Array = np.ndarray
Rho = Callable[[str, Element], Array]
OUTSIDE = -1


@dataclass(frozen=True, eq=False)
class Move:
    """Where an element takes the sites, and which weights it conjugates on the way."""

    g: Element
    target: Array  # (sites,), OUTSIDE where the image is no site
    conjugate: Array  # (sites,) bool


@dataclass(frozen=True, eq=False)
class Table:
    """Entries of a weight (out, in, sites, parts, terms) as codes of free numbers.

    ``values`` are the coefficients of the terms, None where all are one.
    """

    code: Array
    values: Array | None
    free: int


def is_signed_permutation(matrix: Array) -> bool:
    """Whether a square matrix permutes coordinates up to sign."""
    rounded = np.abs(np.rint(matrix))
    return bool(
        np.abs(np.abs(matrix) - rounded).max() < 1e-9
        and (rounded.sum(0) == 1).all()
        and (rounded.sum(1) == 1).all()
    )


def kernel_moves(group: Group, sites: Array) -> list[Move]:
    """Moves of the samples of a kernel, (sites, dim) offsets from its centre."""
    index = {tuple(s): i for i, s in enumerate(sites.tolist())}
    real = np.zeros(len(sites), dtype=bool)
    images = ((g, np.rint(sites @ g.matrix.T).astype(int)) for g in group.elements)
    return [
        Move(g, np.array([index.get(tuple(s), OUTSIDE) for s in image.tolist()]), real)
        for g, image in images
    ]


def mode_moves(group: Group, modes: Array) -> list[Move]:
    """Moves of the modes of a half spectrum, last component ≥ 0.

    Where that is zero both of k and −k are stored, so each element gives two moves; or, as in our
    own FNO, one of them throughout, which then stands for both.
    """
    index = {tuple(k): (i, False) for i, k in enumerate(modes.tolist())}
    if all(k[::-1] >= [0] * len(k) for k in modes.tolist()):  # a half set
        index |= {tuple(k): (i, True) for i, k in enumerate((-modes).tolist()) if any(k)}
    moves = []
    for g in group.elements:
        image = np.rint(modes @ g.matrix.T).astype(int)
        for flip in (1, -1):
            sign = np.where(image[:, -1] == 0, flip, np.sign(image[:, -1]))
            stored = (image * sign[:, None]).tolist()
            found = [index.get(tuple(k), (OUTSIDE, False)) for k in stored]
            target, partner = map(np.array, zip(*found, strict=True))
            moves.append(Move(g, target, (sign < 0) != partner))
    return moves


def multiplicity(modes: Array) -> Array:
    """How often the weight of each mode occurs in a layer: twice where it stands for −k too.

    Examples
    --------
    >>> multiplicity(np.array([[-1, 0], [0, 0], [1, 0], [0, 1]]))
    array([1., 1., 1., 2.])
    """
    stored = set(map(tuple, modes.tolist()))
    return np.array([2.0 - (tuple(-c for c in k) in stored) for k in modes.tolist()])


def pair_table(
    rho: Rho,
    kinds: tuple[str, str],
    moves: Sequence[Move],
    parts: int,
    *,
    diagonal: bool = False,
) -> Table:
    """The table of one copy of a kind to one copy of another.

    Parameters
    ----------
    rho : ρ(g) of one copy of a kind
    kinds : of the output and of the input
    parts : 1 for real weights, 2 for complex ones
    diagonal : whether the layer multiplies every channel by a number of its own

    Raises
    ------
    RepresentationError   if it is diagonal and the group mixes the channels.
    """
    pairs = [(rho(kinds[0], m.g), rho(kinds[1], m.g)) for m in moves]
    if all(is_signed_permutation(matrix) for pair in pairs for matrix in pair):
        return _gathered(pairs, moves, parts, diagonal)
    if diagonal:
        raise RepresentationError(
            f"A layer that multiplies every channel by a number of its own cannot act on a "
            f"{kinds[0]}, whose components the group mixes. Give other hidden types."
        )
    return _combined(pairs, moves, parts)


def _signed(matrix: Array) -> tuple[Array, Array]:
    """Column j of a signed permutation goes to row ``row[j]`` with ``sign[j]``."""
    row = np.abs(matrix).argmax(0)
    return row, np.rint(matrix[row, np.arange(len(row))]).astype(int)


def _gathered(
    pairs: Sequence[tuple[Array, Array]], moves: Sequence[Move], parts: int, diagonal: bool
) -> Table:
    """One free number per orbit of entries, none where the signs on the orbit contradict."""
    sites = len(moves[0].target)
    shape = (len(pairs[0][0]), 1 if diagonal else len(pairs[0][1]), sites, parts)
    entry = np.arange(np.prod(shape)).reshape(shape)
    leader, sign = entry.copy(), np.ones(shape, dtype=int)
    dead = np.zeros(shape, dtype=bool)
    for (left, right), move in zip(pairs, moves, strict=True):
        (row, row_sign), (column, column_sign) = _signed(left), _signed(right)
        if diagonal:
            column, column_sign, row_sign = np.zeros(1, int), np.ones(1, int), np.ones_like(row)
        image = entry[np.ix_(row, column, np.maximum(move.target, 0), np.arange(parts))]
        factor = np.multiply.outer(row_sign, column_sign)[:, :, None, None] * np.ones(shape, int)
        if parts == 2:
            factor[..., 1] *= np.where(move.conjugate, -1, 1)
        dead |= ((image == entry) & (factor < 0)) | (move.target == OUTSIDE)[:, None]
        better = image < leader
        leader, sign = np.where(better, image, leader), np.where(better, factor, sign)
    free, number = np.unique(leader[~dead], return_inverse=True)
    code = np.zeros(shape, dtype=int)
    code[~dead] = sign[~dead] * (number + 1)
    return Table(code[..., None], None, len(free))


def _combined(pairs: Sequence[tuple[Array, Array]], moves: Sequence[Move], parts: int) -> Table:
    """For other matrices: a basis at the first site of every orbit, moved to the rest of it."""
    sites = len(moves[0].target)
    shape = (len(pairs[0][0]), len(pairs[0][1]))
    images = np.stack([m.target for m in moves])
    done = (images == OUTSIDE).any(0)
    blocks = []
    for first in range(sites):
        if done[first]:
            continue
        ways = [(*p, bool(m.conjugate[first])) for p, m in zip(pairs, moves, strict=True)]
        equations = [
            Equation(left, np.linalg.inv(right), conjugate)
            for (left, right, conjugate), move in zip(ways, moves, strict=True)
            if move.target[first] == first and not (move.g.is_identity and not conjugate)
        ]
        basis = allowed_maps(equations, shape, parts)
        block = np.zeros((len(basis), *shape, sites, parts))
        for (left, right, conjugate), site in zip(ways, images[:, first], strict=True):
            moved = left @ basis @ np.linalg.inv(right)
            moved[:, 1:] *= -1 if conjugate else 1
            block[..., site, :] = np.moveaxis(moved, 1, -1)
            done[site] = True
        blocks.append(block)
    return _as_terms(np.concatenate(blocks), (*shape, sites, parts))


def _as_terms(basis: Array, shape: tuple[int, ...]) -> Table:
    """The nonzero coefficients of every entry, padded to the longest."""
    used = np.abs(basis) > 1e-12
    terms = max(int(used.sum(0).max(initial=0)), 1)
    order = np.argsort(~used, axis=0, kind="stable")[:terms]
    values = np.take_along_axis(np.where(used, basis, 0.0), order, 0)
    code = np.where(np.take_along_axis(used, order, 0), order + 1, 0)
    if terms > len(basis):  # no free number at all
        code, values = np.zeros((terms, *shape), int), np.zeros((terms, *shape))
    return Table(np.moveaxis(code, 0, -1), np.moveaxis(values, 0, -1), len(basis))


def whole_table(
    rho: Rho,
    out: Sequence[str],
    inside: Sequence[str],
    moves: Sequence[Move],
    parts: int,
    *,
    diagonal: bool = False,
) -> Table:
    """The table of all channels: that of each pair of kinds, once per pair of copies.

    Parameters
    ----------
    out, inside : kinds of the copies, in the order of the channels
    """
    known: dict[tuple[str, str], Table] = {}
    rows, free = [], 0
    for kind_out in out:
        row = []
        for kind_in in (kind_out,) if diagonal else inside:
            pair = (kind_out, kind_in)
            if pair not in known:
                known[pair] = pair_table(rho, pair, moves, parts, diagonal=diagonal)
            row.append(_shifted(known[pair], free))
            free += known[pair].free
        rows.append(row)
    plain = all(t.values is None for t in known.values())
    terms = max(t.code.shape[-1] for t in known.values())
    code = _assembled([[_padded(t.code, terms) for t in row] for row in rows])
    values = [[_padded(_values(t), terms) for t in row] for row in rows]
    return Table(code, None if plain else _assembled(values), free)


def _shifted(table: Table, free: int) -> Table:
    return Table(table.code + np.sign(table.code) * free, table.values, table.free)


def _values(table: Table) -> Array:
    return np.ones(table.code.shape) if table.values is None else table.values


def _padded(array: Array, terms: int) -> Array:
    return np.pad(array, [(0, 0)] * 4 + [(0, terms - array.shape[-1])])


def _assembled(rows: Sequence[Sequence[Array]]) -> Array:
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)
