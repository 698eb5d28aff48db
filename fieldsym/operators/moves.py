"""The elements of a finite group as index maps: what ``fs.act`` does, for all of them at once.

The geometry of every element is looked up when the module is made, so that ``torch.compile`` can
trace the rest.

>>> import torch, fieldsym as fs
>>> from fieldsym.operators.moves import Moves
>>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
>>> u, d4 = fs.testing.random_section(wind, (8, 8)), fs.groups.dihedral(4)
>>> moved = Moves(d4, wind, inverse=False)(u)
>>> all(torch.equal(m, fs.act(g, u, wind)) for m, g in zip(moved, d4.elements))
True
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.group import Group
from fieldsym.operators.shift import shift


class Moves(nn.Module):
    """The elements of a finite group, or their inverses, on the sections of a bundle.

    Parameters
    ----------
    group : finite Group that acts on the base of the bundle
    bundle : Bundle
    inverse : whether to move by g⁻¹ instead of g

    Raises
    ------
    GroupError   if the axes that an element exchanges have different numbers of points.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((1.0,)), "pseudoscalar w")
    >>> Moves(fs.groups.reflections(1), line, inverse=False)(torch.tensor([[4.0, 1.0, 2.0, 3.0]]))
    tensor([[[ 4.,  1.,  2.,  3.]],
            [[-4., -3., -2., -1.]]])
    """

    def __init__(self, group: Group, bundle: Bundle, *, inverse: bool) -> None:
        super().__init__()
        elements = [g.inverse if inverse else g for g in group.elements]
        self.base, self.group = bundle.base, group
        self.axes = [bundle.base.lattice(g) or ((), ()) for g in elements]
        self.steps = [tuple(float(s) for s in g.shift) for g in elements]
        rho = torch.stack([bundle.representation.rho(g) for g in elements])
        self.register_buffer("rho", rho, persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """Every element on u, (order, *batch, channel, *grid)."""
        grid = u.shape[-self.base.dim :]
        if any(grid[i] != grid[j] for axes, _ in self.axes for i, j in enumerate(axes)):
            self.group.check(self.base, grid)
        return torch.stack([self.one(i, u) for i in range(len(self.axes))])

    def one(self, i: int, u: Tensor) -> Tensor:
        """Element i on u."""
        moved = self._shift(self._permute(u, *self.axes[i]), self.steps[i])
        turned = self.get_buffer("rho")[i].to(u) @ moved.flatten(-self.base.dim)
        return turned.view(moved.shape)

    def _permute(self, u: Tensor, permutation: Sequence[int], signs: Sequence[int]) -> Tensor:
        batch = u.ndim - self.base.dim
        moved = u.permute(*range(batch), *(batch + p for p in permutation))
        for axis, sign in enumerate(signs):
            if sign < 0:
                moved = moved.flip(batch + axis)
                if self.base.periodic[axis] and self.base.location[axis] == "node":
                    moved = moved.roll(1, batch + axis)
        return moved

    def _shift(self, u: Tensor, steps: Sequence[float]) -> Tensor:
        if not any(steps):
            return u
        spacing = self.base.spacing(tuple(u.shape[-self.base.dim :]))
        cells = [step / h for step, h in zip(steps, spacing, strict=True)]
        if all(abs(c - round(c)) < 1e-9 for c in cells):
            return u.roll([round(c) for c in cells], tuple(range(-self.base.dim, 0)))
        amount = torch.tensor(steps, dtype=torch.float64, device=u.device)
        return shift(u, amount, self.base, nyquist=0.0)
