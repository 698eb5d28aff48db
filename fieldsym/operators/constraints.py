"""How the weights of common linear layers move under a group.

The layer F goes to K_g F = g⁻¹ F g, with L_ξ its derivative at the identity, so a pointwise weight
goes to ρ_out(g)⁻¹ W ρ_in(g) and L_ξ W = W dρ_in(ξ) − dρ_out(ξ) W. Translations are built into
convolutions and move no fibre.

>>> import fieldsym as fs
>>> from fieldsym.operators.nullspace import null_basis
>>> p, wind = fs.Representation("scalar p", 2), fs.Representation("vector u", 2)
>>> edge = null_basis(KernelConstraint(p, wind, (3, 1)), fs.groups.reflections(2))
>>> edge[:, :, 0, :, 0]                             # a difference of neighbours along x, towards x
tensor([[[ 0.7071,  0.0000, -0.7071],
         [ 0.0000,  0.0000,  0.0000]]], dtype=torch.float64)

To add one: write ``shape``, ``lie`` and ``move``; :func:`~fieldsym.operators.nullspace.null_basis`
does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import GridError
from fieldsym.group import Element, Generator, Group
from fieldsym.operators.intertwiner import Equation, allowed_maps
from fieldsym.operators.lattice import (
    check_acts,
    check_pair,
    check_sizes,
    images,
    lattice_lie,
    on_fibres,
    points,
)
from fieldsym.representation import Representation

Array = np.ndarray


@dataclass(frozen=True)
class PointwiseConstraint:
    """Of a matrix between fibres, the same at every point; weight (out, in).

    Parameters
    ----------
    rep_in, rep_out : Representation

    Examples
    --------
    >>> import fieldsym as fs
    >>> from fieldsym.operators.nullspace import null_basis
    >>> wind = fs.Representation("vector u", 2)
    >>> null_basis(PointwiseConstraint(wind, wind), fs.groups.so(2)).shape      # a 1 + b J
    torch.Size([2, 2, 2])
    """

    rep_in: Representation
    rep_out: Representation

    def __post_init__(self) -> None:
        check_pair("PointwiseConstraint", self.rep_in, self.rep_out)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in)."""
        return self.rep_out.channels, self.rep_in.channels

    def lie(self, xi: Generator, weight: Tensor) -> Tensor:
        """W dρ_in(ξ) − dρ_out(ξ) W."""
        drho_out, drho_in = (r.drho(xi).to(weight) for r in (self.rep_out, self.rep_in))
        return weight @ drho_in - drho_out @ weight

    def move(self, g: Element, weight: Tensor) -> Tensor:
        """ρ_out(g)⁻¹ W ρ_in(g)."""
        return self.rep_out.rho(g.inverse).to(weight) @ weight @ self.rep_in.rho(g).to(weight)

    def closed_form(self, group: Group) -> Tensor | None:
        """One matrix per pair of fields and equivariant map between their types; finite groups."""
        if not group.elements:
            return None
        check_acts(self.rep_in, group)
        rows, top = [], 0
        for out_block in self.rep_out.blocks:
            left = 0
            for in_block in self.rep_in.blocks:
                maps = self._maps(group, out_block.kind, in_block.kind)
                for i, j in np.ndindex(out_block.copies, in_block.copies):
                    rows.append(self._placed(maps, top, left, i, j))
                left += in_block.size
            top += out_block.size
        return torch.cat(rows)

    def _maps(self, group: Group, out_kind: str, in_kind: str) -> Tensor:
        """Orthonormal basis of the equivariant maps between two types, (dimension, out, in)."""
        equations = [
            Equation(self.rep_out.kind_rho(out_kind, g), self.rep_in.kind_rho(in_kind, g.inverse))
            for g in group.elements
        ]
        shape = len(equations[0].left), len(equations[0].right)
        basis = torch.from_numpy(allowed_maps(equations, shape, parts=1))[:, 0]
        return torch.linalg.qr(basis.flatten(1).mT).Q.mT.view(basis.shape)

    def _placed(self, maps: Tensor, top: int, left: int, i: int, j: int) -> Tensor:
        """The maps between two types at the place of a pair of copies."""
        height, width = maps.shape[1:]
        rows = torch.zeros(len(maps), *self.shape, dtype=torch.float64)
        y, x = top + i * height, left + j * width
        rows[:, y : y + height, x : x + width] = maps
        return rows


@dataclass(frozen=True)
class BiasConstraint:
    """Of a constant that is added to every fibre; weight (channels,).

    Examples
    --------
    >>> import fieldsym as fs
    >>> from fieldsym.operators.nullspace import null_basis
    >>> stress = fs.Representation("vector u + symmetric tensor s", 2)
    >>> null_basis(BiasConstraint(stress), fs.groups.so(2))               # the trace: xx + yy
    tensor([[0.0000, 0.0000, 0.7071, 0.7071, 0.0000]], dtype=torch.float64)
    """

    rep: Representation

    def __post_init__(self) -> None:
        check_pair("BiasConstraint", self.rep, self.rep)

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels,)."""
        return (self.rep.channels,)

    def lie(self, xi: Generator, weight: Tensor) -> Tensor:
        """−dρ(ξ) b."""
        return -weight @ self.rep.drho(xi).to(weight).mT

    def move(self, g: Element, weight: Tensor) -> Tensor:
        """ρ(g)⁻¹ b."""
        return weight @ self.rep.rho(g.inverse).to(weight).mT

    def closed_form(self, group: Group) -> Tensor | None:
        """That of a pointwise map from one scalar."""
        scalar = Representation("scalar", self.rep.dim)
        basis = PointwiseConstraint(scalar, self.rep).closed_form(group)
        return None if basis is None else basis[:, :, 0]


@dataclass(frozen=True)
class KernelConstraint:
    """Of a convolution kernel, (W u)(x) = Σ_j W_j u(x + j), as in ``torch.nn.Conv1d`` to ``3d``.

    Weight (out, in, *size). Elements act as W_j → ρ_out(g)⁻¹ W_{gj} ρ_in(g); the layer pads so that
    x is the central sample, circularly on a torus, and its stride is one.

    Parameters
    ----------
    rep_in, rep_out : Representation
    size : odd numbers of samples, one per axis

    Raises
    ------
    GridError    if a size is even, or there is not one per axis.
    GroupError   if an element does not carry the samples to each other.

    Examples
    --------
    >>> import fieldsym as fs
    >>> from fieldsym.operators.nullspace import null_basis
    >>> p = fs.Representation("scalar p", 2)
    >>> null_basis(KernelConstraint(p, p, (3, 3)), fs.groups.dihedral(4)).shape
    torch.Size([3, 1, 1, 3, 3])
    """

    rep_in: Representation
    rep_out: Representation
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        check_pair("KernelConstraint", self.rep_in, self.rep_out)
        check_sizes("A kernel", "samples", self.size, self.rep_in)
        if any(n % 2 == 0 for n in self.size):
            raise GridError(
                f"A kernel needs odd sizes, so that one sample is its centre; got {self.size}. Use "
                f"{tuple(n + 1 - n % 2 for n in self.size)}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in, *size)."""
        return self.rep_out.channels, self.rep_in.channels, *self.size

    def lie(self, xi: Generator, weight: Tensor) -> Tensor:
        """Zero along translations; nothing else continuous acts on a lattice."""
        check_acts(self.rep_in, xi)
        return lattice_lie(xi, weight)

    def move(self, g: Element, weight: Tensor) -> Tensor:
        """ρ_out(g)⁻¹ W_{gj} ρ_in(g)."""
        check_acts(self.rep_in, g)
        centre = np.array(self.size) // 2
        moved_to = images(g, self.size, points(self.size) - centre) + centre
        source = torch.from_numpy(np.ravel_multi_index(tuple(moved_to.T), self.size))
        moved = weight.flatten(-len(self.size))[..., source.to(weight.device)]
        return on_fibres(self.rep_in, self.rep_out, g, moved).reshape(weight.shape)


@dataclass(frozen=True)
class SpectralConstraint:
    """Of a Fourier multiplier between real fields; weight (out, in, *modes, 2).

    Frequencies run from −K to K, on the last axis of a half spectrum from 0 to K. The weights obey
    R(−k) = conj R(k), and elements act as R(k) → ρ_out(g)⁻¹ R(gk) ρ_in(g).

    Parameters
    ----------
    rep_in, rep_out : Representation
    n_modes : numbers of frequencies. An odd one keeps −K..K; an even one is the whole spectrum of
        as many samples, −n/2 to n/2 − 1, where n/2 and −n/2 are the same
    half : whether R is stored for one of k and −k, 0 ≤ k ≤ K along the last axis

    Raises
    ------
    GridError    if there is not one number of modes per axis.
    GroupError   if an element does not carry the modes to each other.

    Examples
    --------
    >>> import fieldsym as fs
    >>> from fieldsym.operators.nullspace import null_basis
    >>> p, wind = fs.Representation("scalar p", 2), fs.Representation("vector u", 2)
    >>> null_basis(SpectralConstraint(p, wind, (8, 8)), fs.groups.dihedral(4)).shape
    torch.Size([15, 2, 1, 8, 5, 2])
    """

    rep_in: Representation
    rep_out: Representation
    n_modes: tuple[int, ...]
    half: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        check_pair("SpectralConstraint", self.rep_in, self.rep_out)
        check_sizes("A multiplier", "frequencies", self.n_modes, self.rep_in)

    @property
    def _stored(self) -> tuple[int, ...]:
        last = self.n_modes[-1]
        return (*self.n_modes[:-1], last // 2 + 1 if self.half else last)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in, *modes, 2), the last axis real and imaginary part."""
        return self.rep_out.channels, self.rep_in.channels, *self._stored, 2

    def lie(self, xi: Generator, weight: Tensor) -> Tensor:
        """Zero along translations; nothing else continuous acts on a lattice."""
        check_acts(self.rep_in, xi)
        return lattice_lie(xi, weight)

    def move(self, g: Element, weight: Tensor) -> Tensor:
        """ρ_out(g)⁻¹ R(gk) ρ_in(g)."""
        check_acts(self.rep_in, g)
        moved = self._at(images(g, self.n_modes, self._modes()), weight)
        fibres = on_fibres(self.rep_in, self.rep_out, g, moved.flatten(-2))
        return fibres.reshape(weight.shape)

    def fixed(self, weight: Tensor) -> Tensor:
        """conj R(−k), which for real fields is R(k)."""
        partner = self._at(-self._modes(), weight).reshape(weight.shape)
        return partner * _conjugate(partner)

    def _modes(self) -> Array:
        """Frequencies of the stored weights, (number, dim)."""
        start = [n // 2 for n in self.n_modes]
        if self.half:
            start[-1] = 0
        return points(self._stored) - np.array(start)

    def _at(self, modes: Array, weight: Tensor) -> Tensor:
        """R at some frequencies, (*batch, out, in, number, 2); conj R(−k) where k is not stored."""
        sizes = np.array(self.n_modes)
        absent = self.half & (modes[:, -1] % sizes[-1] > sizes[-1] // 2)
        held = np.where(absent[:, None], -modes, modes)
        index = (held + sizes // 2) % sizes
        if self.half:
            index[:, -1] = held[:, -1] % sizes[-1]
        source = torch.from_numpy(np.ravel_multi_index(tuple(index.T), self._stored))
        found = weight.flatten(-len(sizes) - 1, -2)[..., source.to(weight.device), :]
        swapped = torch.from_numpy(absent).to(weight.device)[:, None]
        return torch.where(swapped, found * _conjugate(found), found)


def _conjugate(weight: Tensor) -> Tensor:
    """The signs that conjugate (real, imaginary) on the last axis."""
    return torch.tensor([1.0, -1.0], dtype=weight.dtype, device=weight.device)
