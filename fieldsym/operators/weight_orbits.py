"""‖K_g W − W‖ of all elements of a group at once, from one Gram matrix.

Where a group permutes the entries of a weight up to sign, they fall into orbits. Let X hold one
orbit per row, column b being K_b W at its first entry. Since K_b K_g = K_gb and K is an isometry,

    ‖K_g W − W‖² = Σ_b ‖X_gb − X_b‖²,     ‖W‖² = Σ_b ‖X_b‖²,

all of them sums of entries of XᵀX: one pass over the weight instead of one per element. Squares are
differences of sums in float64, exact to 1e-8 ‖W‖, so this is for weights in single precision.

>>> import numpy as np, fieldsym as fs
>>> mirror = fs.groups.reflections(1).elements[1]
>>> fibres = np.array([0]), np.array([0]), np.ones(1), np.ones(1)
>>> still, swap = (Moves(np.array(s), np.ones((3, 1)), *fibres) for s in ([0, 1, 2], [2, 1, 0]))
>>> orbits = Orbits([mirror], [still, swap], np.ones((3, 1)))
>>> x = orbits.rows(torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1, 1))
>>> orbits.squares(x)                                                     # size, then the mirror
tensor([21., 18.], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldsym.group import Element
from fieldsym.operators.adopt_tables import is_signed_permutation
from fieldsym.operators.weight_sites import SiteMap

Array = np.ndarray
PIECE = 2**15  # numbers of a column that are in float64 at a time


@dataclass(frozen=True, eq=False)
class Moves:
    """(K_g W)[s, p, o, i] as ± W[site[s], p, row[o], column[i]]."""

    site: Array
    site_sign: Array  # (sites, parts)
    row: Array
    column: Array
    row_sign: Array
    column_sign: Array


def signed(matrix: Tensor, axis: int) -> tuple[Array, Array] | None:
    """Where each row (or column) of a signed permutation has its ±1; None if it is none."""
    array = matrix.numpy()
    if not is_signed_permutation(array):
        return None
    found = np.abs(array).argmax(axis)
    return found, np.rint(array.sum(axis))


def inner_products(columns: Sequence[Tensor], device: torch.device) -> Tensor:
    """Gram matrix of columns in float64, a piece at a time."""
    gram = torch.zeros((len(columns),) * 2, dtype=torch.float64, device=device)
    flat = [c.reshape(-1) for c in columns]
    for start in range(0, len(flat[0]) if flat else 0, PIECE):
        piece = torch.stack([c[start : start + PIECE] for c in flat]).double()
        gram += piece @ piece.mT
    return gram


class Orbits:
    """Squares of one weight under the elements of a group, and their gradient.

    Parameters
    ----------
    elements : all but the identity
    moves : what the identity and each of them do to the entries; what they never read counts
        nothing
    measure : how often each (site, part) counts
    visible : what fields see of the entries, None for all of them
    """

    def __init__(
        self,
        elements: Sequence[Element],
        moves: Sequence[Moves],
        measure: Array,
        visible: SiteMap | None = None,
    ) -> None:
        self.visible = visible
        self.measure = torch.from_numpy(np.ascontiguousarray(measure.ravel()))
        self.tables: tuple[Tensor, ...] = ()
        self.forms = _forms(elements)
        if elements:
            self.tables = self._tabulate(*_images(moves, measure.shape))

    def _tabulate(self, images: Array, signs: Array) -> tuple[Tensor, ...]:
        """Where X reads, its factors, where its transpose reads, and the factors of that."""
        entries = np.arange(images.shape[1])
        first = np.flatnonzero(images.min(0) == entries)
        fixed = (images[:, first] == first).sum(0)  # size of the stabiliser
        count = np.repeat(self.measure.numpy(), len(entries) // len(self.measure))[first]
        index, factor = images[:, first].T, signs[:, first].T * np.sqrt(count / fixed)[:, None]
        where = np.zeros(len(entries), dtype=np.int64)
        where[index.ravel()] = np.arange(index.size)
        back = factor.ravel()[where] * np.bincount(index.ravel(), minlength=len(entries))
        tables = index.ravel().astype(np.int32), factor.ravel(), where.astype(np.int32), back
        return tuple(map(torch.from_numpy, tables))

    def _at(self, w: Tensor) -> None:
        """Move the tables to a weight."""
        if self.measure.device != w.device or self.measure.dtype != w.dtype:
            self.measure, self.forms = self.measure.to(w), self.forms.to(w.device)
            self.tables = tuple(t.to(w) if t.is_floating_point() else t.to(w.device)
                                for t in self.tables)  # fmt: skip

    def rows(self, w: Tensor) -> Tensor:
        """X, (orbits, columns), of (sites, parts, out, in) or of several such below each other."""
        self._at(w)
        w = w if self.visible is None else self.visible(w)
        if not self.tables:
            return w
        flat = w.reshape(-1, len(self.tables[2]))
        return (flat.index_select(1, self.tables[0]) * self.tables[1]).view(-1, len(self.forms))

    def squares(self, x: Tensor) -> Tensor:
        """‖W‖² and ‖K_g W − W‖² of its rows."""
        if not self.tables:
            norms = torch.linalg.vector_norm(x.flatten(2), dim=2).double().square()
            return (norms.view(-1, len(self.measure)) * self.measure).sum()[None]
        gram = torch.zeros_like(self.forms[0])
        for piece in x.split(PIECE):
            exact = piece.double()
            gram += exact.mT @ exact
        return (self.forms * gram).sum((1, 2)).clamp_min(0)

    def gradient(self, x: Tensor, shape: torch.Size, weights: Tensor) -> Tensor:
        """Of Σ weights · squares, with respect to W of a shape."""
        form = 2 * torch.tensordot(weights, self.forms, 1).to(x)
        if self.tables:
            where, back = self.tables[2:]
            image = (x @ form).view(-1, len(self.tables[0])).index_select(1, where) * back
        else:
            image = x.reshape(-1, len(self.measure), x[0, 0].numel()) * (form * self.measure).mT
        image = image.view(shape)
        return image if self.visible is None else self.visible(image, back=True)


def _images(moves: Sequence[Moves], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """For every move: where each entry reads and its sign."""
    size = len(moves[0].row), len(moves[0].column)
    entry = np.arange(np.prod(shape) * np.prod(size)).reshape(*shape, *size)
    images, signs = [], []
    for m in moves:
        moved = entry[m.site][:, :, m.row][..., m.column]
        sign = m.site_sign[:, :, None, None] * np.multiply.outer(m.row_sign, m.column_sign)
        images.append(moved.ravel())
        signs.append(sign.astype(np.int8).ravel())
    return np.stack(images), np.stack(signs)


def products(elements: Sequence[Element]) -> list[list[int]] | None:
    """Numbers of g b for every element g, the identity being 0; None if they are no group."""
    if not elements:
        return []
    group = [Element(np.eye(elements[0].dim)), *elements]
    number = {g.key: i for i, g in enumerate(group)}
    table = [[number.get((g @ b).key, -1) for b in group] for g in elements]
    return None if any(-1 in row for row in table) else table


def _forms(elements: Sequence[Element]) -> Tensor:
    """Matrices A with ⟨A, XᵀX⟩ the squares: 1, and 2 − P_g − P_gᵀ."""
    one = np.eye(len(elements) + 1)
    forms = [one]
    for row in products(elements) or ():
        moved = one[row]
        forms.append(2 * one - moved - moved.T)
    return torch.from_numpy(np.stack(forms))
