"""How the kernel κ(x, y) of an integral operator on a grid moves under a group.

(F u)(x) = ∫ κ(x, y) u(y) dy goes to K_g F with kernel ρ_out(g)⁻¹ κ(gx, gy) ρ_in(g). Nothing is
built in: with translations the null space consists of the convolutions.

>>> import fieldsym as fs
>>> from fieldsym.operators.nullspace import null_basis
>>> p = fs.Bundle(fs.Torus((1.0,)), "scalar p")
>>> null_basis(IntegralConstraint(p, p, (5,)), fs.groups.translations(1)).shape
torch.Size([5, 1, 1, 5, 5])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldsym.action import act, action_method
from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, GroupError
from fieldsym.group import Element, Generator
from fieldsym.operators.lattice import on_fibres


@dataclass(frozen=True)
class IntegralConstraint:
    """Of a kernel between all pairs of samples; weight (out, in, *grid of x, *grid of y).

    Parameters
    ----------
    in_bundle, out_bundle : Bundle, on one base
    grid : sizes of the axes

    Raises
    ------
    BundleError   if the bundles are on different bases.
    GridError     if the grid does not fit the base.
    GroupError    if an element does not permute the samples (shift by whole cells, turn squares),
                  or a generator is no translation along periodic axes of odd sizes: the spectral
                  derivative does not see the Nyquist frequency of even ones.

    Examples
    --------
    >>> import fieldsym as fs
    >>> from fieldsym.operators.nullspace import null_basis
    >>> p = fs.Bundle(fs.Box((1.0,)), "scalar p")
    >>> null_basis(IntegralConstraint(p, p, (3,)), fs.groups.reflections(1)).shape
    torch.Size([5, 1, 1, 3, 3])

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212, section on integral operators.
    """

    in_bundle: Bundle
    out_bundle: Bundle
    grid: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.in_bundle.base != self.out_bundle.base:
            raise BundleError(
                "An integral kernel maps between bundles on one base; got "
                f"{self.in_bundle.base} and {self.out_bundle.base}."
            )
        self.in_bundle.base.check_grid(self.grid)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in, *grid, *grid)."""
        return self.out_bundle.channels, self.in_bundle.channels, *self.grid, *self.grid

    def lie(self, xi: Generator, weight: Tensor) -> Tensor:
        """b·(∇_x + ∇_y) κ along a translation b."""
        base = self.in_bundle.base
        moving = [axis for axis in range(base.dim) if xi.shift[axis]]
        if xi.matrix.any() or any(not base.periodic[a] or self.grid[a] % 2 == 0 for a in moving):
            raise GroupError(
                f"{xi.name} does not act exactly on kernels over {self.grid} samples of {base}: "
                "only translations along periodic axes with odd numbers of samples do. Use a "
                "finite group and, along even axes, shifts by one cell."
            )
        total = torch.zeros_like(weight)
        for axis in moving:
            along_y = base.derivative(weight, axis)
            along_x = self._swap(base.derivative(self._swap(weight), axis))
            total = total + float(xi.shift[axis]) * (along_x + along_y)
        return total

    def _swap(self, weight: Tensor) -> Tensor:
        """κ(y, x)."""
        dim = len(self.grid)
        x, y = tuple(range(-2 * dim, -dim)), tuple(range(-dim, 0))
        return weight.movedim(y, x)

    def move(self, g: Element, weight: Tensor) -> Tensor:
        """ρ_out(g)⁻¹ κ(gx, gy) ρ_in(g)."""
        scalar = Bundle(self.in_bundle.base, "scalar")
        if action_method(g, scalar, self.grid) != "exact":
            raise GroupError(
                f"{g.name} does not carry the {self.grid} samples of {scalar.base} to each other, "
                "so it moves no kernel between them. Use quarter turns, reflections and shifts by "
                "whole cells."
            )
        n = math.prod(self.grid)
        samples = torch.arange(n, dtype=torch.float64).view(1, *self.grid)
        source = act(g.inverse, samples, scalar).flatten().long().to(weight.device)
        flat = weight.reshape(*weight.shape[: -2 * len(self.grid)], n, n)
        moved = flat[..., source, :][..., source].flatten(-2)
        fibres = self.in_bundle.representation, self.out_bundle.representation
        return on_fibres(*fibres, g, moved).reshape(weight.shape)
