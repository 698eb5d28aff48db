"""Between how layers store their weights and one layout (sites, out, in, parts).

Adoption describes a stored weight by ``Weight.place``, which brings a table of its entries to the
shapes of the parameters. Placing the numbers of the entries instead inverts it: most parameters are
a permutation of axes of that layout, which costs nothing, others are gathered.

>>> import torch
>>> from fieldsym.operators.adopt_layers import adapt_torch
>>> conv = torch.nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")
>>> Storage(conv, adapt_torch("conv", conv, 2).weights[0], (9, 8, 4, 1)).read().shape
torch.Size([9, 8, 4, 1])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.operators.adopt_layers import Weight
from fieldsym.operators.adopt_neuralop import densify, wrap_again

Array = np.ndarray


class Storage:
    """Between the layout of one weight and (sites, out, in, parts)."""

    def __init__(self, module: nn.Module, weight: Weight, shape: tuple[int, ...]) -> None:
        self.module, self.weight, self.shape = module, weight, shape
        index = np.arange(math.prod(shape)).reshape(shape)
        self.placed = [p[..., 0] for p in weight.place(np.moveaxis(index, 0, 2)[..., None])]
        self.order = _order(self.placed[0], index.size) if len(self.placed) == 1 else None
        where = np.full(index.size, index.size)  # what no parameter holds is zero
        held = np.concatenate([p.ravel() for p in self.placed])
        where[held] = np.arange(len(held))
        where[where == index.size] = len(held)
        self.where = torch.from_numpy(where)

    def read(self) -> Tensor:
        held = [_real(getattr(self.module, name)) for name in self.weight.names]
        if self.order is not None:
            return held[0].permute(self.order).reshape(self.shape)
        flat = torch.cat([*(h.reshape(-1) for h in held), held[0].new_zeros(1)])
        return flat.index_select(0, self.where.to(flat.device)).view(self.shape)

    def write(self, value: Tensor) -> None:
        flat = value.detach().reshape(-1)
        for name, placed in zip(self.weight.names, self.placed, strict=True):
            hold(self.module, name, flat[torch.from_numpy(placed).to(flat.device)])


class Whole:
    """Parts of one map with sites of their own; laid out (sites, parts, out, in) inside."""

    def __init__(self, parts: Sequence[Storage]) -> None:
        self.parts = parts

    def read(self) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0].read()
        return torch.cat([p.read().movedim(3, 1) for p in self.parts]).movedim(1, 3)

    def write(self, value: Tensor) -> None:
        pieces = value.split([p.shape[0] for p in self.parts])
        for part, piece in zip(self.parts, pieces, strict=True):
            part.write(piece)


class Diagonal(Whole):
    """A factor per channel, as a map."""

    def read(self) -> Tensor:
        return torch.diag_embed(super().read()[:, :, 0].movedim(2, 1)).movedim(1, 3)

    def write(self, value: Tensor) -> None:
        super().write(value.diagonal(dim1=1, dim2=2).movedim(1, 2)[:, :, None])


class Columns:
    """Some input channels of a map."""

    def __init__(self, whole: Whole, columns: slice) -> None:
        self.whole, self.columns = whole, columns

    def read(self) -> Tensor:
        return self.whole.read()[:, :, self.columns]

    def write(self, value: Tensor) -> None:
        new = self.whole.read().detach().clone()
        new[:, :, self.columns] = value
        self.whole.write(new)


class Centred(Columns):
    """A map of coordinates c = centre + half · 2x/L as one of 2x/L, and the constant beside it.

    Writing one of them leaves the other as it is.
    """

    def __init__(self, map_: Whole, columns: slice, constant: Whole, span: Sequence[Array]) -> None:
        super().__init__(map_, columns)
        self.beside = constant
        self.centre, self.half = (torch.from_numpy(x)[:, None] for x in span)

    def read(self) -> Tensor:
        held = super().read()
        return held * self.half.to(held)

    def write(self, value: Tensor) -> None:
        constant = self.constant()
        super().write(value / self.half.to(value))
        self.hold_constant(constant)

    def constant(self) -> Tensor:
        """What the layer adds where the position is zero."""
        return self.beside.read() + self._shift()

    def hold_constant(self, value: Tensor) -> None:
        self.beside.write(value - self._shift())

    def _shift(self) -> Tensor:
        held = super().read()
        return (held * self.centre.to(held)).sum(2, keepdim=True)


def _order(placed: Array, size: int) -> list[int] | None:
    """The order of the axes in which a table counts up, None if there is none."""
    start = placed.ravel()[0]
    steps = [np.take(placed, 1, axis).ravel()[0] - start if n > 1 else 0
             for axis, n in enumerate(placed.shape)]  # fmt: skip
    order = [int(axis) for axis in np.argsort(-np.array(steps), kind="stable")]
    counted = placed.transpose(order).ravel()
    return order if np.array_equal(counted, np.arange(size)) else None


def _real(held: Any) -> Tensor:
    """A parameter, or a factorised tensor multiplied out, as real numbers."""
    value = held if isinstance(held, Tensor) else held.to_tensor()
    return torch.view_as_real(value) if value.is_complex() else value


def hold(module: Any, name: str, value: Tensor) -> None:
    """Put real numbers into a parameter; a Tucker tensor that cannot hold them becomes dense."""
    held = getattr(module, name)
    dense = isinstance(held, Tensor) or isinstance(getattr(held, "tensor", None), nn.Parameter)
    if not dense:
        densify(module)
    target = getattr(module, name)
    target = target if isinstance(target, Tensor) else target.tensor
    new = torch.view_as_complex(value.contiguous()) if target.is_complex() else value
    target.data.copy_(new)
    if not dense:
        wrap_again(module)
