"""The samples of a convolution kernel: where elements take them, and their exact Lie derivative.

A kernel W_s at offsets x_s from its centre is the multiplier K(k) = Σ_s W_s exp(i k·x_s) of the
fields that a grid of spacing h holds, |k_a| ≤ π/h_a. A generator ξ moves it by

    L_ξ K = Σ_s W_s (−i kᵀ ξ x_s) exp(i k·x_s) + K dρ_in − dρ_out K,

which is no finite kernel. Squares are means over those wavenumbers, in which the exp(i k·x_s) are
orthonormal. They separate into means of 1, k and k² times exp(i k m h) along one axis: of sinc(m)
and its derivatives. So the rows, exp(i k·x_s) and what i k_a exp(i k·x_s) holds besides, are
finitely many, and their squares exact.

>>> import fieldsym as fs
>>> turn, = fs.groups.so(2).generators
>>> row = KernelSites(np.array([[-1, 0], [0, 0], [1, 0]]), generators=[turn])
>>> W = torch.tensor([0.0, 5.0, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
>>> turned = row.derivative(turn)(W)                              # −i k_y exp(i k_x)
>>> turned.square().sum().item() / (np.pi**2 / 3)                 # the mean of k_y²
1.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fieldsym.group import Element, Generator
from fieldsym.operators.lattice import images
from fieldsym.operators.weight_sites import SiteMap

Array = np.ndarray
DEPENDENT = 1e-13  # smallest square of what slopes hold besides, relative to the largest


class Slopes:
    """The functions i k exp(i k s) on |k| ≤ π by the exp(i k s) and others orthonormal to these.

    Parameters
    ----------
    steps : (n,) whole numbers s

    Attributes
    ----------
    inside, outside : Array (n, n), products of exp(i k s), and of the others, with i k exp(i k s)
    back : Array (n, n), which brings what is left of i k exp(i k s) to the others
    """

    def __init__(self, steps: Array) -> None:
        apart = steps[None] - steps[:, None]
        sign, one = np.where(apart % 2, -1.0, 1.0), np.where(apart, apart, 1)
        self.inside = np.where(apart, sign / one, 0.0)  # means of i k exp(i k m), and of k² exp(…)
        squares = np.where(apart, 2 * sign / one**2, np.pi**2 / 3)
        values, vectors = np.linalg.eigh(squares - self.inside.T @ self.inside)
        sizes = np.sqrt(values.clip(DEPENDENT * values[-1]))
        self.outside = sizes[:, None] * vectors.T
        self.back = vectors / sizes


class KernelSites:
    """The samples of a kernel, and how generators and elements move them.

    Parameters
    ----------
    sites : (sites, dim) whole offsets from the centre
    dilation : samples between them
    cell : sides of a cell of the grid, of which only the ratios count; None for equal ones
    generators : whose derivatives are taken; without one the rows are the sites
    """

    def __init__(
        self,
        sites: Array,
        dilation: Sequence[int] | int = 1,
        cell: Sequence[float] | None = None,
        generators: Sequence[Generator] = (),
    ) -> None:
        self.sites, self.steps = sites, sites * np.array(dilation)
        self.cell = np.array([1.0] * sites.shape[1] if cell is None else cell)
        self.turned = any(xi.matrix.any() for xi in generators)
        self._index = {tuple(s): i for i, s in enumerate(sites.tolist())}

    @cached_property
    def _slopes(self) -> list[Slopes]:
        """By axis: kernels are boxes, where the others of one axis are orthogonal to the next's."""
        return [Slopes(np.unique(line)) for line in self.steps.T]

    def _boxed(self, matrix: Array, axis: int) -> Array:
        """A matrix along one axis as one on all samples, which run through a box."""
        sizes = [len(np.unique(line)) for line in self.steps.T]
        before, after = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
        return np.kron(np.kron(np.eye(before), matrix), np.eye(after))

    @property
    def count(self) -> int:
        """Number of rows: the sites, and what derivatives need besides along each axis."""
        return len(self.sites) * (1 + self.turned * self.sites.shape[1])

    def whole(self) -> SiteMap:
        """W itself."""
        return self.moved(Element(np.eye(self.sites.shape[1])))

    def moved(self, g: Element) -> SiteMap:
        """W(g j)."""
        return self._moved(g, self.count)

    def back(self, g: Element, kept: Array) -> SiteMap:
        """W(g j) at the sites; a kernel has all its images."""
        return self._moved(g, len(self.sites))

    def _moved(self, g: Element, count: int) -> SiteMap:
        goal = np.rint(images(g, (1,) * g.dim, self.sites)).astype(int).tolist()
        pairs = [(i, self._index[tuple(s)]) for i, s in enumerate(goal) if tuple(s) in self._index]
        rows, found = np.array(pairs).T
        one = np.ones(len(rows))
        return SiteMap((count, len(self.sites), 1), iter([(rows, found, one, one < 0)]))

    def derivative(self, xi: Generator) -> SiteMap:
        """−(ξ x_s)·i k of every sample."""
        speed = self.speed(xi).T
        tables = [
            [-self._boxed(part, axis) * speed[axis] for part in (slopes.inside, slopes.outside)]
            for axis, slopes in enumerate(self._slopes)
        ]
        table = np.concatenate([sum(t[0] for t in tables), *(t[1] for t in tables)])
        rows, sites = np.nonzero(table)
        one = np.ones(len(rows))
        entries = iter([(rows, sites, table[rows, sites], one < 0)])
        return SiteMap((self.count, len(self.sites), 1), entries)

    def speed(self, xi: Generator) -> Array:
        """ξ x_s, (sites, dim), in cells."""
        return self.steps @ (xi.matrix * self.cell / self.cell[:, None]).T

    def seen(self, u: Tensor) -> Tensor:
        """What the rows see of a field (batch, channel, *grid): (batch, channel, *grid, rows)."""
        waves, seen = self._shifted(u), []
        for axis, slopes in enumerate(self._slopes if self.turned else ()):
            inside, back = (
                torch.from_numpy(self._boxed(part, axis)).to(u)
                for part in (slopes.inside, slopes.back)
            )
            seen.append((self._shifted(_slope(u, axis + 2)) - waves @ inside) @ back)
        return torch.cat([waves, *seen], -1)

    def _shifted(self, u: Tensor) -> Tensor:
        axes = tuple(range(2, u.ndim))
        return torch.stack([u.roll(tuple((-s).tolist()), axes) for s in self.steps], -1)

    def images(self, g: Element) -> tuple[Array, Array]:
        """Where a sample goes, and its sign."""
        goal = np.rint(images(g, (1,) * g.dim, self.sites)).astype(int).tolist()
        return np.array([self._index[tuple(s)] for s in goal]), self.measure

    @property
    def measure(self) -> Array:
        """Every sample counts once."""
        return np.ones((len(self.sites), 1))

    def closed(self, elements: Sequence[Element]) -> Array:
        """All samples."""
        return np.ones(len(self.sites), dtype=bool)


def _slope(u: Tensor, axis: int) -> Tensor:
    """∂u along an axis per cell, zero for the shortest wave."""
    n = u.shape[axis]
    k = 2 * np.pi * torch.fft.rfftfreq(n, dtype=u.dtype, device=u.device)
    k = torch.where(2 * torch.arange(len(k), device=u.device) < n, k, 0)
    spectrum = torch.fft.rfft(u, dim=axis).movedim(axis, -1) * (1j * k)
    return torch.fft.irfft(spectrum.movedim(-1, axis), n=n, dim=axis)
