"""Pointwise work on values alone, or on values with tangents stacked beside them.

A push-forward (value and k directional derivatives) repeats every linear map on k + 1 fields, but a
nonlinearity needs its slope once. Fields carry a stack axis, (rows, stack, points, channel): entry
0 is the value, the others are tangents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

FEW = 16  # channels

Function = Callable[[Tensor], Tensor]  # of one number
Shared = Sequence[Any]  # matrices, and biases or None


class Values:
    """Fields without tangents."""

    in_place = False  # whether results may take the place of what they are made from
    reuses = False  # whether memory of fields that have served is written again

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The affine map x ↦ matrix x + bias of the channels."""
        return _linear(x, matrix, bias)

    def apply(self, f: Function, x: Tensor) -> Tensor:
        """A function of one number."""
        return f(x)

    def mlp(self, f: Function, x: Tensor, tensors: Shared, *, spent: bool = False) -> Tensor:
        """An affine map, a function of one number, an affine map; ``spent`` if nobody needs x."""
        first, bias, second, constant = tensors
        hidden = self.apply(f, self.linear(x, first, bias))
        return self.linear(hidden, second, constant)

    def add_linear(self, y: Tensor, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """y + matrix x + bias."""
        return y + self.linear(x, matrix, bias)

    def add_scaled(self, y: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        """y + scale x, channel by channel."""
        return y + x * scale


class InPlace(Values):
    """Values that nothing is recorded of: results take the place of what they are made from.

    Parameters
    ----------
    watched : whether somebody, such as a hook, may keep what the nonlinearity returns

    Examples
    --------
    >>> import torch
    >>> y, x = torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3)
    >>> InPlace().add_linear(y, x, torch.eye(3), torch.ones(3)) is y, y.sum()
    (True, tensor(18.))
    """

    in_place = True

    def __init__(self, *, watched: bool = False) -> None:
        self.reuses = not watched
        self._room: Tensor | None = None

    def linear(
        self, x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor | None = None
    ) -> Tensor:
        """The affine map x ↦ matrix x + bias of the channels."""
        rows = x.reshape(-1, x.shape[-1])
        flat = None if out is None else out.view(-1, len(matrix))
        if bias is None:
            y = torch.mm(rows, matrix.mT, out=flat)
        elif matrix.shape[1] == 1:  # faster than a product
            y = torch.addcmul(bias, rows, matrix[:, 0], out=flat)
        else:
            y = torch.addmm(bias, rows, matrix.mT, out=flat)
        return y.view(*x.shape[:-1], -1)

    def mlp(self, f: Function, x: Tensor, tensors: Shared, *, spent: bool = False) -> Tensor:
        """An affine map, a function of one number, an affine map; its hidden layer stays put.

        Memory that is written again and again stays in the cache, fresh memory has to get there. A
        wide hidden layer is done in parts.
        """
        if not self.reuses:
            return super().mlp(f, x, tensors)
        first, bias, second, constant = tensors
        same = spent and len(second) == x.shape[-1]
        out = x if same else x.new_empty(*x.shape[:-1], len(second))
        parts = -(-len(first) // max(len(second), x.shape[-1]))
        size = -(-len(x) // parts)
        for piece, target in zip(x.split(size), out.split(size), strict=True):
            hidden = self._hidden((*piece.shape[:-1], len(first)), x)
            hidden = self.apply(f, self.linear(piece, first, bias, hidden))
            self.linear(hidden, second, constant, target)
        return out

    def _hidden(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Unwritten memory for values that are forgotten before the next call."""
        size = math.prod(shape)
        if self._room is None or self._room.numel() < size:
            self._room = like.new_empty(size)
        return self._room[:size].view(shape)

    def apply(self, f: Function, x: Tensor) -> Tensor:
        """A function of one number, of fresh values."""
        return torch.ops.aten.gelu_(x) if f is functional.gelu else f(x)

    def add_linear(self, y: Tensor, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """y + matrix x + bias, in y."""
        y.view(-1, y.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), matrix.mT)
        return y if bias is None else self.add_bias(y, bias)

    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        """y + bias, in y."""
        return y.add_(bias)

    def add_scaled(self, y: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        """y + scale x, in y."""
        return y.addcmul_(x, scale)


class Tangents(Values):
    """Values with tangents: a bias moves no tangent, and f acts on them by its slope.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([3.0, 1.0, 2.0]).view(1, 3, 1, 1)              # value 3, tangents 1 and 2
    >>> Tangents().apply(torch.square, x).flatten()
    tensor([ 9.,  6., 12.])
    """

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The affine map of the value, its linear part on tangents."""
        y = _linear(x, matrix, None)
        return y if bias is None else torch.cat([y[:, :1] + bias, y[:, 1:]], 1)

    def apply(self, f: Function, x: Tensor) -> Tensor:
        """f of the value, slope times tangent."""
        value = x[:, :1]
        value, slope = torch.func.jvp(f, (value,), (torch.ones_like(value),))[:2]
        return torch.cat([value, slope * x[:, 1:]], 1)


class InPlaceTangents(InPlace):
    """Values with tangents that nothing is recorded of."""

    def linear(
        self, x: Tensor, matrix: Tensor, bias: Tensor | None, out: Tensor | None = None
    ) -> Tensor:
        """The affine map of the value, its linear part on tangents."""
        y = super().linear(x, matrix, None, out)
        return y if bias is None else self.add_bias(y, bias)

    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        """y + bias on the value alone, in y."""
        y[:, 0].add_(bias)
        return y

    def apply(self, f: Function, x: Tensor) -> Tensor:
        """f of the value, slope times tangent, in x."""
        value = x[:, :1]
        moved, slope = torch.func.jvp(f, (value,), (torch.ones_like(value),))[:2]
        x[:, 1:].mul_(slope)
        value.copy_(moved)
        return x


def _linear(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    if matrix.shape[1] >= FEW:
        return functional.linear(x, matrix, bias)
    # the gradient of a matrix with few columns is a slow product unless it is transposed
    y = x @ matrix.mT.contiguous()
    return y if bias is None else y + bias


VALUES = Values()
