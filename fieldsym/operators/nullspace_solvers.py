"""Three ways to the null space of a stack of linear conditions on a weight.

Conditions that copy entries of the weight up to sign need no arithmetic: one free number per
orbit. Otherwise singular values, of every block of entries that the conditions couple; or, for
weights too large to form a matrix, random weights projected by conjugate gradients.

>>> import torch
>>> swap = Conditions((2,), (), (lambda w: w.flip(-1),))
>>> orbit_basis(swap), svd_basis(swap), iterative_basis(swap).abs()
(tensor([[0.7071, 0.7071]], dtype=torch.float64),
 tensor([[0.7071, 0.7071]], dtype=torch.float64),
 tensor([[0.7071, 0.7071]], dtype=torch.float64))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldsym.errors import GroupError, RepresentationError

Map = Callable[[Tensor], Tensor]

NULL, CLEAR = 1e-10, 1e-6  # singular values over the largest: zero below, no clear gap in between
NOTHING = 1e-12  # conditions smaller than this are rounding: every weight is allowed
ROUNDING = 1e-14  # entries of a map of order one below this are none
CHUNK = 256  # weights the conditions are applied to at once
PROBES = 16  # random weights of the first round
STEPS = 2000  # of conjugate gradients


@dataclass(frozen=True, eq=False)
class Conditions:
    """All that a weight must satisfy, as one linear map from flat weights to residuals.

    Parameters
    ----------
    shape : of the weight
    derivatives : linear maps that are zero on allowed weights
    moves : linear maps that leave allowed weights alone
    """

    shape: tuple[int, ...]
    derivatives: tuple[Map, ...]
    moves: tuple[Map, ...]

    @property
    def size(self) -> int:
        """Number of entries of the weight."""
        return math.prod(self.shape)

    def __call__(self, rows: Tensor) -> Tensor:
        """Residuals (batch, any) of flat weights (batch, size).

        Raises
        ------
        GroupError   if they are not finite.
        """
        weight = rows.reshape(-1, *self.shape)
        parts = [derivative(weight).flatten(1) for derivative in self.derivatives]
        parts += [(kept_shape(move, weight) - weight).flatten(1) for move in self.moves]
        residual = torch.cat(parts, 1).double() if parts else rows.new_zeros(len(rows), 0)
        if not residual.isfinite().all():
            raise GroupError("lie or move of the constraint gives numbers that are not finite.")
        return residual


def kept_shape(move: Map, weight: Tensor) -> Tensor:
    """The image of a weight under a map that must not change its shape."""
    moved = move(weight)
    if moved.shape != weight.shape:
        raise RepresentationError(
            "move and fixed of a constraint take weights (*batch, *shape) to the same shape; "
            f"{tuple(weight.shape)} came back as {tuple(moved.shape)}."
        )
    return moved


def orbit_basis(conditions: Conditions) -> Tensor | None:
    """One basis weight per orbit of entries, where all conditions copy entries up to sign.

    Whether they do is read off a random weight with entries that all differ: no matrix is formed.

    Returns
    -------
    Tensor (dimension, size) with disjoint supports, or None where a condition combines entries
    """
    n = conditions.size
    links = []
    probe = _distinct_entries(n, seed=0).view(1, *conditions.shape)
    if any(derivative(probe).abs().sum() > 0 for derivative in conditions.derivatives):
        return None
    for move in conditions.moves:
        found = _copied_from(move, conditions.shape)
        if found is None:
            return None
        links.append(found)
    source = torch.stack([s for s, _ in links] or [torch.arange(n)])
    flipped = torch.stack([f for _, f in links] or [torch.zeros(n, dtype=torch.long)])
    # nodes are the entries i and their negatives n + i
    here = torch.arange(n).expand_as(source)
    one = torch.stack([here, source + n * flipped]).flatten(1)
    two = torch.stack([here + n, source + n * (1 - flipped)]).flatten(1)
    label = _connected(2 * n, torch.cat([one, two], 1))
    plus, minus = label[:n], label[n:]
    free = torch.nonzero(plus != minus)[:, 0]  # the others equal minus themselves
    _, row, count = torch.minimum(plus, minus)[free].unique(return_inverse=True, return_counts=True)
    basis = torch.zeros(len(count), n, dtype=torch.float64)
    sign = torch.where(plus < minus, 1.0, -1.0)[free].double()
    basis[row, free] = sign / count[row].double().sqrt()
    return basis


def _distinct_entries(n: int, seed: int) -> Tensor:
    """Numbers in (1, 2) that differ by at least 1/2n, in random order."""
    source = torch.Generator().manual_seed(seed)
    steps = torch.arange(n) + 0.25 + 0.5 * torch.rand(n, generator=source, dtype=torch.float64)
    return 1 + (steps / n)[torch.randperm(n, generator=source)]


def _copied_from(move: Map, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """Which entry every entry of the image copies and whether it changes sign, if they all do.

    An entry that becomes zero copies minus itself: the weight that stays as it is has none there.
    What is found on one random weight must hold on a second one.
    """
    first, second = (_distinct_entries(math.prod(shape), seed) for seed in (0, 1))
    image, again = (kept_shape(move, w.view(1, *shape)).double().flatten() for w in (first, second))
    ordered, order = first.sort()
    nearest = torch.searchsorted((ordered[1:] + ordered[:-1]) / 2, image.abs())
    source, sign = order[nearest], image.sign()
    errors = image - sign * first[source], again - sign * second[source]
    if any(error.abs().max() > 1e-12 for error in errors):
        return None
    here = torch.arange(len(first))
    return torch.where(sign == 0, here, source), (sign <= 0).long()


def _connected(nodes: int, edges: Tensor) -> Tensor:
    """The smallest node of the connected component of every node; edges (2, number)."""
    label = torch.arange(nodes)
    while True:
        low = label[edges].amin(0)
        new = label.scatter_reduce(0, edges[0], low, "amin")
        new = new.scatter_reduce(0, edges[1], low, "amin")
        new = new[new]
        if torch.equal(new, label):
            return label
        label = new


# Singular values ----------------------------------------------------------------------------------


def svd_basis(conditions: Conditions) -> Tensor:
    """Null space of every block of unknowns that the conditions couple, and all of them at once."""
    row, column, value = _assemble(conditions)
    n = conditions.size
    label = _connected(n + int(row.max() + 1 if len(row) else 0), torch.stack([column, n + row]))
    order = label[column].argsort(stable=True)
    owner, count = label[column][order].unique(return_counts=True)
    entries = dict(zip(owner.tolist(), order.split(count.tolist()), strict=True))
    members = label[:n].argsort(stable=True)
    leaders, sizes = label[:n].unique(return_counts=True)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for leader, block in zip(leaders.tolist(), members.split(sizes.tolist()), strict=True):
        inside = entries.get(leader, order[:0])
        rows, local_row = row[inside].unique(return_inverse=True)
        matrix = torch.zeros(len(rows), len(block), dtype=torch.float64)
        matrix[local_row, torch.searchsorted(block, column[inside])] = value[inside]
        found.append((block, *_right_vectors(matrix)))
    cut = _gap(torch.cat([values for _, values, _ in found]))
    dimension = sum(int((values <= cut).sum()) for _, values, _ in found)
    basis, start = torch.zeros(dimension, n, dtype=torch.float64), 0
    for block, values, vectors in found:
        kept = vectors[values <= cut]
        basis[start : start + len(kept), block] = kept
        start += len(kept)
    return basis


def _assemble(conditions: Conditions) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix of the conditions as (row, column, value), a few columns at a time."""
    rows, columns, values = [], [], []
    for start in range(0, conditions.size, CHUNK):
        stop = min(start + CHUNK, conditions.size)
        units = torch.zeros(stop - start, conditions.size, dtype=torch.float64)
        units[range(stop - start), range(start, stop)] = 1.0
        residual = conditions(units)
        which, where = (residual.abs() > ROUNDING).nonzero(as_tuple=True)
        rows.append(where)
        columns.append(which + start)
        values.append(residual[which, where])
    return torch.cat(rows), torch.cat(columns), torch.cat(values)


def _right_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """All right singular vectors, as rows, with their singular values."""
    columns = matrix.shape[1]
    if len(matrix) > columns:
        matrix = torch.linalg.qr(matrix, mode="r").R
    if not len(matrix):
        return torch.zeros(columns).double(), torch.eye(columns, dtype=torch.float64)
    _, values, vectors = torch.linalg.svd(matrix)
    return torch.cat([values, values.new_zeros(columns - len(values))]), vectors


def _gap(values: Tensor) -> float:
    """The size up to which singular values are zero.

    Raises
    ------
    GroupError   if some are neither clearly zero nor clearly not.
    """
    values = values.sort().values
    largest = float(values[-1]) if len(values) else 0.0
    if largest < NOTHING:
        return largest
    unclear = values[(values > NULL * largest) & (values < CLEAR * largest)]
    if len(unclear):
        near = ", ".join(f"{v:.1e}" for v in unclear[:8].tolist())
        raise GroupError(
            f"The conditions on the weight need singular values that are zero (below {NULL:.0e} of "
            f"the largest, {largest:.1e}) or clearly not (above {CLEAR:.0e}); got {near}. The "
            "group does not act exactly here, or lie or move computes in single precision: use "
            "exact matrices in float64."
        )
    return NULL * largest


# Conjugate gradients ------------------------------------------------------------------------------


def iterative_basis(conditions: Conditions) -> Tensor:
    """Random weights projected on the null space, more of them until no new direction comes.

    The conjugate gradients of |A y − A x|², begun at y = 0, lead to the part of x outside the null
    space in as many steps as A has distinct singular values; x − y is the part inside.

    Returns
    -------
    Tensor (dimension, size)

    Raises
    ------
    GroupError   if conjugate gradients do not converge or the rank has no clear gap.
    """
    source = torch.Generator().manual_seed(0)
    n, count = conditions.size, PROBES
    basis = torch.zeros(0, n, dtype=torch.float64)
    while True:
        probes = torch.randn(count, n, generator=source, dtype=torch.float64) / math.sqrt(n)
        inside = _inside(conditions, probes - probes @ basis.mT @ basis)
        inside = inside - inside @ basis.mT @ basis
        _, values, vectors = torch.linalg.svd(inside, full_matrices=False)
        new = vectors[values > _gap(torch.cat([values, values.new_ones(1)]))]
        basis = torch.linalg.qr(torch.cat([basis, new]).mT).Q.mT
        if len(new) < count:
            return basis
        count *= 2


def _inside(conditions: Conditions, x: Tensor) -> Tensor:
    """The part of every row in the null space: x − y, y from least squares A y = A x."""
    transposed = torch.func.vjp(conditions, x)[1]
    y, rest = torch.zeros_like(x), conditions(x)
    step = slope = transposed(rest)[0]
    largest = rest.norm(dim=1).max()
    if largest < NOTHING:
        return x
    for _ in range(STEPS):
        if rest.norm(dim=1).max() <= 1e-14 * largest:
            return x - y
        moved = conditions(step)
        length = _ratio(slope, moved)
        y, rest = y + length * step, rest - length * moved
        before, slope = slope, transposed(rest)[0]
        step = slope + _ratio(slope, before) * step
    raise GroupError(
        f"The weights that the conditions allow were not found in {STEPS} steps of conjugate "
        "gradients: some conditions are nearly, but not exactly, met. The group does not act "
        "exactly here, or lie or move computes in single precision: use exact matrices in float64."
    )


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """|top|² / |bottom|² of every row, zero where a row has converged."""
    tops, bottoms = (rows.square().sum(1, keepdim=True) for rows in (top, bottom))
    return torch.where(bottoms > 0, tops / bottoms, 0.0)
