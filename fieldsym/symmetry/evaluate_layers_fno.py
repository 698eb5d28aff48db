"""The typed FNO taken apart: the same operator as a chain of modules that can be watched.

``FNO.forward`` is fused: it works through blocks of rows and calls none of its parts. The chain
calls them one by one on whole fields, (batch, channel, *grid), in the same order.

>>> import torch, fieldsym as fs
>>> line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
>>> model = fs.FNO(line, line, n_modes=3, hidden_channels=4, n_layers=2)
>>> u = torch.randn(1, 1, 8)
>>> bool(torch.allclose(Chain(model)(u), model(u), atol=1e-6))
True
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fieldsym.operators.fno import FNO
from fieldsym.operators.layers import Identity, Layer, RegularNorm, SoftGate
from fieldsym.operators.pointwise import Pointwise
from fieldsym.operators.tangents import VALUES


class Chain(nn.Module):
    """The parts of an FNO in a row: position, lifting, layers, projection.

    Parameters
    ----------
    model : FNO, whose parameters are shared
    """

    def __init__(self, model: FNO) -> None:
        super().__init__()
        self.dim = model.in_bundle.base.dim
        self.open, self.close = model._open, model._close
        self.position = Function(lambda u: model._open(u, 1.0)[0]) if model.positioned else None
        self.lifting = model.lifting
        self.layers = nn.ModuleList(ChainLayer(layer) for layer in model._layers())
        self.projection = model.projection

    def forward(self, u: Tensor) -> Tensor:
        """Map sections (*batch, channel, *grid), as the FNO does."""
        x = u.reshape(-1, *u.shape[-self.dim - 1 :])
        pads = self.open(x[:1], 1.0)[1]
        x = self.lifting(x if self.position is None else self.position(x))
        for layer in self.layers:
            x = layer(x)
        y = self.close(self.projection(x), pads)
        return y.reshape(*u.shape[: -self.dim - 1], *y.shape[1:])


class Function(nn.Module):
    """A function as a module, so that its calls can be watched."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *fields: Tensor) -> Tensor:
        """Call it."""
        return self.function(*fields)


class ChainLayer(nn.Module):
    """One Fourier layer: convolution + skip, activation, MLP + gate, activation."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        bend = None if layer.last else layer.non_linearity
        self.add_module("convolution + skip", Sum(layer.convolution, layer, 0))
        if bend is not None:
            self.add_module("activation", Function(bend))
        if layer.mlp is not None:
            self.add_module("MLP + gate", Sum(layer.mlp, layer, 1))
            if bend is not None:
                self.add_module("last activation", Function(bend))

    def forward(self, start: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        x = start
        for part in self.children():
            x = part(x, start) if isinstance(part, Sum) else part(x)
        return x


class Sum(nn.Module):
    """A map of the state beside a skip from the start of the layer; norms as in the layer.

    Parameters
    ----------
    main : the convolution or the MLP
    layer : Layer that it is a part of
    half : 0 for the convolution and its skip, 1 for the MLP and its gate
    """

    def __init__(self, main: nn.Module, layer: Layer, half: int) -> None:
        super().__init__()
        self.main, self.second = main, bool(half)
        self.norm = (layer.norm, layer.mlp_norm)[half]
        self.skip: Pointwise | SoftGate | Identity | None = (layer.skip, layer.mlp_skip)[half]

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid): the first norm comes before the sum, the other after"""
        y = self.main(x).movedim(1, -1)
        if not self.second:
            y = _normed(self.norm, y)
        if self.skip is not None:
            y = self.skip.added(y, start.movedim(1, -1), self.skip.tensors(), VALUES)
        return (_normed(self.norm, y) if self.second else y).movedim(-1, 1)


def _normed(norm: RegularNorm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)
