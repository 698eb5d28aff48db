"""Velocity sets of the lattice-Boltzmann method: velocities, weights and moments.

A field of populations f_i(x) holds, at every point, the density of particles that move with the
velocity c_i, one cell or one diagonal per step (none for i = 0). A map that permutes the axes up to
sign permutes the velocities, and with them the populations: (g·f)_i(x) = f_j(g⁻¹x) with
c_i = A c_j. Sums against the velocities are fields of the usual types: the density ρ = Σ f_i a
scalar, the momentum ρu = Σ c_i f_i a vector, the momentum flux Σ c_i c_i f_i a symmetric tensor.

>>> import fieldsym as fs
>>> f = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
>>> f.channels, velocity_set(f).velocities[:5].tolist()
(9, [[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]])

To add one: enter its velocities and the integer ratios of its weights in ``VELOCITY_SETS``; the
type ``"d3q27 populations"`` then exists by itself.

References
----------
Qian, d'Humières & Lallemand 1992, Europhys. Lett. 17, 479, table 1; velocities in the order of
Krüger et al. 2017, The Lattice Boltzmann Method, tables 3.3 and 3.5.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import BundleError, RepresentationError

if TYPE_CHECKING:
    from fieldsym.bundle import Bundle

Array = np.ndarray
SOUND_SQUARED = 1 / 3  # of the speed of sound, in cells² per step²


@dataclass(frozen=True, eq=False)
class VelocitySet:
    """The velocities of a lattice, in cells per step, and their weights.

    Parameters
    ----------
    name : such as "D2Q9"
    velocities : (size, dim) integers
    shares : (size,) integers, the weights in units of 1 / ``shares.sum()``

    Examples
    --------
    >>> D2Q9.shares.tolist(), int(D2Q9.shares.sum())        # 4/9, 1/9 and 1/36
    ([16, 4, 4, 4, 4, 1, 1, 1, 1], 36)
    """

    name: str
    velocities: Array
    shares: Array

    def __repr__(self) -> str:
        return self.name

    @property
    def words(self) -> str:
        """The type of its populations in the grammar of representations."""
        return f"{self.name.lower()} populations"

    @property
    def dim(self) -> int:
        """Dimension of the base."""
        return self.velocities.shape[1]

    @property
    def size(self) -> int:
        """Number of velocities."""
        return len(self.velocities)

    @cached_property
    def conserved(self) -> Tensor:
        """Rows of density and momentum, float64 (1 + dim, size): 1 and the components of c_i.

        They are orthogonal, and made of integers, so that no cast to another precision hurts them.
        """
        return torch.from_numpy(np.vstack([np.ones(self.size), self.velocities.T]))

    @cached_property
    def stress(self) -> Tensor:
        """Rows of the momentum flux, float64: products of two components of c_i, stored as xx, yy,
        xy or xx, yy, zz, xy, xz, yz."""
        axes = range(self.dim)
        pairs = [(a, a) for a in axes] + list(itertools.combinations(axes, 2))
        return torch.from_numpy(
            np.array([self.velocities[:, a] * self.velocities[:, b] for a, b in pairs], float)
        )

    def weights(self, like: Tensor) -> Tensor:
        """The weights w_i, (size,), in the precision and on the device of a tensor."""
        return torch.as_tensor(self.shares, dtype=like.dtype, device=like.device) / int(
            self.shares.sum()
        )

    def permutation(self, matrix: Array) -> Array:
        """ρ of a map that permutes the axes up to sign: (size, size), 1 where c_i = A c_j.

        Raises
        ------
        RepresentationError   if the map does not permute the velocities.

        Examples
        --------
        >>> import fieldsym as fs
        >>> quarter = fs.groups.cyclic(4).elements[1]
        >>> D2Q9.permutation(quarter.matrix).argmax(0).tolist()   # 1, along x, becomes 2, along y
        [0, 2, 3, 4, 1, 6, 7, 8, 5]
        """
        if not self.admits(matrix):
            raise RepresentationError(
                f"The {self.words} are moved by maps that permute the axes up to sign, such as "
                f"those of {self.largest}; got the matrix {np.round(matrix, 4).tolist()}, which "
                f"does not carry the {self.size} velocities to each other."
            )
        return self._carried(matrix).astype(float)

    def admits(self, matrix: Array) -> bool:
        """Whether a map permutes the velocities."""
        found = self._carried(matrix)
        return bool((found.sum(0) == 1).all() and (found.sum(1) == 1).all())

    def _carried(self, matrix: Array) -> Array:
        """Where c_i = A c_j."""
        c = self.velocities.T
        return np.abs((matrix @ c)[:, None, :] - c[:, :, None]).max(0) < 1e-9

    def derivative(self, matrix: Array) -> Array:
        """dρ of a generator: zero for a translation.

        Raises
        ------
        RepresentationError   if the generator turns or stretches: no small rotation permutes the
            velocities.
        """
        if np.any(matrix):
            raise RepresentationError(
                f"The {self.words} have no dρ: no rotation by a small angle carries the "
                f"{self.size} velocities to each other. Use a finite group such as "
                f"{self.largest}, or the density, momentum and momentum flux of the populations, "
                "which are a scalar, a vector and a symmetric tensor."
            )
        return np.zeros((self.size, self.size))

    @property
    def largest(self) -> str:
        """The largest group that permutes the velocities, as the catalogue writes it."""
        return "dihedral(4)" if self.dim == 2 else "octahedral()"


_PLANE = [(0, 0), (1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1)]
_SPACE = [
    (0, 0, 0),
    (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1),
    (1, 1, 0), (-1, -1, 0), (1, 0, 1), (-1, 0, -1), (0, 1, 1), (0, -1, -1),
    (1, -1, 0), (-1, 1, 0), (1, 0, -1), (-1, 0, 1), (0, 1, -1), (0, -1, 1),
]  # fmt: skip
D2Q9 = VelocitySet("D2Q9", np.array(_PLANE), np.array([16] + 4 * [4] + 4 * [1]))
D3Q19 = VelocitySet("D3Q19", np.array(_SPACE), np.array([12] + 6 * [2] + 12 * [1]))
VELOCITY_SETS = {lattice.words: lattice for lattice in (D2Q9, D3Q19)}


def velocity_set(bundle: Bundle) -> VelocitySet:
    """The velocities of a bundle that holds the populations of one lattice and nothing else.

    Parameters
    ----------
    bundle : Bundle, such as ``Bundle(base, "d2q9 populations f")``

    Raises
    ------
    BundleError   if the bundle holds anything else, or several copies.
    """
    kinds = [block.kind for block in bundle.blocks for _ in range(block.copies)]
    if len(kinds) != 1 or kinds[0] not in VELOCITY_SETS:
        known = " or ".join(f"'{lattice.words} f' in {lattice.dim}-D"
                            for lattice in VELOCITY_SETS.values())  # fmt: skip
        raise BundleError(
            f"Expected the populations of one lattice: {known}; got {bundle}. Give the other "
            "fields a bundle of their own."
        )
    return VELOCITY_SETS[kinds[0]]


def moments(f: Tensor, rows: Tensor, dim: int) -> Tensor:
    """Sums of populations against rows such as ``lattice.conserved`` and ``lattice.stress``.

    Parameters
    ----------
    f : Tensor (*batch, size, *grid)
    rows : Tensor (count, size)
    dim : number of grid axes

    Returns
    -------
    Tensor (*batch, count, *grid)

    Examples
    --------
    >>> import torch
    >>> rest = D2Q9.weights(torch.zeros(())).view(9, 1, 1).expand(9, 4, 6)
    >>> moments(rest, D2Q9.conserved, 2)[:, 0, 0].tolist()  # density one, no momentum
    [1.0, 0.0, 0.0]
    >>> moments(rest, D2Q9.stress, 2)[:, 0, 0]              # pressure: a third of the density
    tensor([0.3333, 0.3333, 0.0000])
    """
    grid = f.shape[f.ndim - dim :]
    return (rows.to(f) @ f.flatten(-dim)).unflatten(-1, grid)
