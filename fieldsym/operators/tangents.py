"""Pointwise work on values alone, or on values with tangents stacked beside them.

A push-forward (value and k directional derivatives) repeats every linear map on k + 1 fields, but a
nonlinearity needs its slope once. Fields carry a stack axis, (rows, stack, points, channel): entry
0 is the value, the others are tangents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

FEW = 16  # channels


class Values:
    """Fields without tangents."""

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The affine map x ↦ matrix x + bias of the channels."""
        return _linear(x, matrix, bias)

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A function of one number."""
        return f(x)

    def add_linear(self, y: Tensor, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """y + matrix x + bias."""
        return y + self.linear(x, matrix, bias)

    def add_scaled(self, y: Tensor, x: Tensor, scale: Tensor) -> Tensor:
        """y + scale x, channel by channel."""
        return y + x * scale


class InPlace(Values):
    """Values that nothing is recorded of: results take the place of what they are made from.

    Examples
    --------
    >>> import torch
    >>> y, x = torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3)
    >>> InPlace().add_linear(y, x, torch.eye(3), torch.ones(3)) is y, y.sum()
    (True, tensor(18.))
    """

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The affine map x ↦ matrix x + bias of the channels."""
        if bias is None or matrix.shape[1] >= FEW:
            return _linear(x, matrix, bias)
        return self.add_bias(_linear(x, matrix, None), bias)

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
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

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """f of the value, slope times tangent."""
        value = x[:, :1]
        value, slope = torch.func.jvp(f, (value,), (torch.ones_like(value),))[:2]
        return torch.cat([value, slope * x[:, 1:]], 1)


class InPlaceTangents(InPlace):
    """Values with tangents that nothing is recorded of."""

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The affine map of the value, its linear part on tangents."""
        y = _linear(x, matrix, None)
        return y if bias is None else self.add_bias(y, bias)

    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        """y + bias on the value alone, in y."""
        y[:, 0].add_(bias)
        return y

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
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
