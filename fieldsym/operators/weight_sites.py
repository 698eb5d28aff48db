"""The sites of weights: where elements and generators take modes, samples and coordinates.

A multiplier R(k) of real fields is stored at some modes, R(−k) = conj R(k) and zero beyond them;
with rows for one of k and −k, weighted by √2, squares of rows sum to the squared norm over all
modes. Every action on the sites is a sparse real matrix, made once.

>>> import fieldsym as fs
>>> turn, = fs.groups.so(2).generators
>>> lattice = ModeSites(np.array([[0, 0], [1, 0], [-1, 1], [0, 1], [1, 1]]), (1.0, 1.0))
>>> R = torch.ones(5, 2, 1, 1)                                            # R = 1 + i, but for k = 0
>>> lattice.derivative(turn)(R).shape[0], lattice.moved(Element(np.eye(2)))(R).square().sum()
(13, tensor(17.))

To add one: a class with the methods of :class:`fieldsym.operators.weight_kernels.KernelSites`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldsym.group import Element, Generator
from fieldsym.operators.lattice import images
from fieldsym.operators.modes import half_set

Array = np.ndarray
Entries = Iterator[tuple[Array, Array, Array, Array]]  # rows, sites, factors, conjugated


class SiteMap:
    """A sparse real-linear map of (sites, parts, …) to (rows, parts, …).

    Parameters
    ----------
    shape : (rows, sites, parts)
    entries : pieces (rows, sites, factors, whether the site is conjugated)
    """

    def __init__(self, shape: tuple[int, int, int], entries: Entries) -> None:
        rows, sites, self.parts = shape
        index, values = [], []
        for row, site, factor, conjugate in entries:
            for part in range(self.parts):
                index.append(np.stack([row * self.parts + part, site * self.parts + part]))
                values.append(factor * (np.where(conjugate, -1.0, 1.0) if part else 1.0))
        table = torch.sparse_coo_tensor(
            torch.from_numpy(np.concatenate(index, 1)), torch.from_numpy(np.concatenate(values)),
            (rows * self.parts, sites * self.parts), check_invariants=False,
        )  # fmt: skip
        self._tables = table.coalesce(), table.t().coalesce()

    def __call__(self, w: Tensor, *, back: bool = False) -> Tensor:
        """(sites, parts, out, in) to (rows, parts, out, in), or the transpose of that."""
        if self._tables[0].dtype != w.dtype or self._tables[0].device != w.device:
            self._tables = self._tables[0].to(w), self._tables[1].to(w)
        image = torch.sparse.mm(self._tables[back], w.flatten(0, 1).flatten(1))
        return image.view(-1, self.parts, *w.shape[2:])


class ModeSites:
    """The modes at which a multiplier of real fields is stored, and R at any other mode.

    Parameters
    ----------
    sites : (sites, dim) whole numbers: one of k and −k, or both of them where the last is 0, of
        which fields see ½ (R(k) + conj R(−k)) then
    lengths : periods
    elements : whose images of the sites the rows hold too

    Rows are one of k and −k for all modes within one step of a site or its image.
    """

    def __init__(
        self, sites: Array, lengths: Sequence[float], elements: Sequence[Element] = ()
    ) -> None:
        self.sites, self.lengths = sites, np.array(lengths)
        self.reach = np.abs(sites).max(0)
        self.position = np.full(2 * self.reach + 1, -1)
        self.position[tuple((sites + self.reach).T)] = np.arange(len(sites))
        both = (self._stored(-sites) >= 0) & sites.any(1)
        self.paired = bool(both.any())
        turned = [np.rint(np.abs(g.matrix)).astype(int).T @ self.reach for g in elements]
        hull = np.max([self.reach, *turned], axis=0)
        self.rows = np.array(half_set(2 * hull + 3))
        self.weights = np.where(self.rows.any(1), math.sqrt(2), 1.0)

    def _stored(self, points: Array) -> Array:
        """Index of a stored mode, −1 where there is none."""
        inside = (np.abs(points) <= self.reach).all(1)
        index = tuple(np.where(inside[:, None], points + self.reach, 0).T)
        return np.where(inside, self.position[index], -1)

    def _at(self, points: Array, factors: Array) -> Entries:
        """R at one mode per row, times a factor."""
        shared = (self.paired & (points[:, -1] == 0)) | ~points.any(1)
        for conjugate in (False, True):
            found = self._stored(-points if conjugate else points)
            rows = np.flatnonzero((found >= 0) & (factors != 0))
            half = np.where(shared, 0.5, 1.0)[rows]
            yield rows, found[rows], factors[rows] * half, np.full(len(rows), conjugate)

    def _map(self, entries: Entries) -> SiteMap:
        return SiteMap((len(self.rows), len(self.sites), 2), entries)

    def whole(self) -> SiteMap:
        """R itself."""
        return self._map(self._at(self.rows, self.weights))

    def moved(self, g: Element) -> SiteMap:
        """R(g k)."""
        points = images(g, (1,) * g.dim, self.rows)  # their box may change its shape
        return self._map(self._at(np.rint(points).astype(int), self.weights))

    def derivative(self, xi: Generator) -> SiteMap:
        """−(ξᵀk)·∇_k R by centred differences."""
        return self._map(self._differences(xi))

    def back(self, g: Element, kept: Array) -> SiteMap:
        """R(g k) at the stored sites, zero at those that are not kept."""
        points = np.rint(images(g, (1,) * g.dim, self.sites)).astype(int)
        shape = (len(self.sites), len(self.sites), 2)
        return SiteMap(shape, self._at(points, kept.astype(float)))

    def closed(self, elements: Sequence[Element]) -> Array:
        """Which sites have all their images, and the partners that fields see, among the sites."""
        kept = np.ones(len(self.sites), dtype=bool)
        for g in elements:
            points = np.rint(images(g, (1,) * g.dim, self.sites)).astype(int)
            one, other = self._stored(points) >= 0, self._stored(-points) >= 0
            kept &= np.where(self.paired & (points[:, -1] == 0), one & other, one | other)
        return kept

    def images(self, g: Element) -> tuple[Array, Array]:
        """Where a site goes, to one of k and −k throughout, and the signs of its parts."""
        points = np.rint(images(g, (1,) * g.dim, self.sites)).astype(int)
        flip = _is_second(points)
        found = self._stored(np.where(flip[:, None], -points, points))
        other = self._stored(np.where(flip[:, None], points, -points))
        conjugate = np.where(found < 0, ~flip, flip)
        sign = np.stack([np.ones(len(found)), np.where(conjugate, -1.0, 1.0)], 1)
        return np.where(found < 0, other, found), sign

    @property
    def measure(self) -> Array:
        """How often (site, part) counts: k for −k too, and k = 0 is real."""
        count = np.where(self.paired & _is_second(self.sites), 0.0, 2.0)
        count = np.where(self.sites.any(1), count, 1.0)
        return np.stack([count, count * self.sites.any(1)], 1)

    def _differences(self, xi: Generator) -> Entries:
        step = 2 * np.pi / self.lengths
        slopes = (self.rows * step) @ xi.matrix
        for axis, one in enumerate(np.eye(len(step), dtype=int)):
            factors = self.weights * slopes[:, axis] / (2 * step[axis])
            yield from self._at(self.rows + one, -factors)
            yield from self._at(self.rows - one, factors)


def _is_second(points: Array) -> Array:
    """Of k and −k the one whose last component that is not zero is negative."""
    rank = np.sign(points) @ 3 ** np.arange(points.shape[1])
    return rank < 0


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The position 2 x/L along some axes as a fibre, in homogeneous form (all axes, 1)."""

    axes: tuple[int, ...]
    lengths: tuple[float, ...]

    def inside(self) -> Tensor:
        """From the axes that a map acts on to all, (axes, dim + 1)."""
        return torch.eye(len(self.lengths) + 1, dtype=torch.float64)[list(self.axes)]

    def _block(self, matrix: Array, shift: Array, last: float) -> Tensor:
        scale = 2 / np.array(self.lengths)
        top = np.column_stack([scale[:, None] * matrix / scale, scale * shift])
        return torch.from_numpy(np.vstack([top, [*np.zeros(len(scale)), last]]))

    def rho(self, g: Element) -> Tensor:
        """The affine map of the position."""
        return self._block(g.matrix, g.shift, 1.0)

    def drho(self, xi: Generator) -> Tensor:
        """Its derivative H_ξ."""
        return self._block(xi.matrix, xi.shift, 0.0)
