"""Weights of layers, weighed by the spectra of what goes into them.

The mean square of K u, K a layer and u its stationary input, is Σ_k tr[R(k) S(k) R(k)*] with
S(k) the mean of û(k) û(k)*. So a linear map of weights followed by a factor F, F F* = S, has these
mean squares as its squares. Constants are weighed by one, coordinates too.

>>> u = torch.randn(100, 2, 8, 8, dtype=torch.float64)
>>> spectrum = InputSpectrum(torch.einsum("bixy,bjxy->ij", u, u) / u[:, 0].numel(), None)
>>> W = torch.randn(3, 2, dtype=torch.float64)
>>> mean = torch.einsum("oi,bixy->boxy", W, u).square().sum(1).mean()
>>> bool(torch.isclose(spectrum(W[None, None]).square().sum(), mean))
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.errors import DataError, GroupError
from fieldsym.operators.adopt_tie import evaluating
from fieldsym.operators.fno import FNO
from fieldsym.operators.layers import RegularNorm
from fieldsym.operators.pointwise import Pointwise
from fieldsym.operators.tangents import VALUES
from fieldsym.operators.weight_kernels import KernelSites
from fieldsym.operators.weight_lie import WeightLie, WeightMap
from fieldsym.operators.weight_sites import ModeSites

# their gains meet fields that are normalised already
NORMS = (
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.batchnorm._BatchNorm,
    RegularNorm,
)


class InputSpectrum:
    """Factors F(s) with F Fᴴ the second moment of a layer's input, mode by mode.

    Parameters
    ----------
    moment : Tensor (rows, in, in) of the modes in the rows, complex; real (n, n) of whole inputs
    frame : the frame of the input in which weights are given, None for their own
    """

    def __init__(self, moment: Tensor, frame: Tensor | None) -> None:
        values, vectors = torch.linalg.eigh(moment)
        self.factor = vectors * values.clamp_min(0).sqrt()[..., None, :]
        if frame is not None:
            self.factor = torch.linalg.solve(frame.to(self.factor), self.factor)

    def __call__(self, w: Tensor, *, back: bool = False) -> Tensor:
        """W F, (rows, parts, out, in) to the same, or W Fᴴ."""
        factor = (self.factor.mH if back else self.factor).to(w.device)
        if factor.is_complex():
            z = torch.view_as_complex(w.movedim(1, -1).contiguous())
            return torch.view_as_real(z @ factor.to(z)).movedim(-1, 1)
        whole = w[:, 0].movedim(0, 1)  # (out, rows, in)
        image = (whole.flatten(1) @ factor.to(w)).view(whole.shape)
        return image.movedim(1, 0)[:, None]


class Weighed:
    """A map of weights, followed by the spectrum of the input."""

    def __init__(self, weight_map: WeightMap, spectrum: InputSpectrum) -> None:
        self.map, self.spectrum = weight_map, spectrum

    def __call__(self, w: Tensor) -> Tensor:
        """The weighed image."""
        return self.spectrum(self.map(w))

    def adjoint(self, v: Tensor) -> Tensor:
        """The transpose."""
        return self.map.adjoint(self.spectrum(v, back=True))


def input_spectra(
    module: nn.Module, lies: Sequence[WeightLie], x: Tensor
) -> list[InputSpectrum | None]:
    """Spectra of the inputs of all layers; None for constants and gains of norms.

    Parameters
    ----------
    module : our FNO, or a module whose layers are called as modules
    x : Tensor (batch, channel, *grid)

    Raises
    ------
    GroupError   if a layer is not called.
    DataError    if the input of a layer is not finite.
    """
    with torch.no_grad(), evaluating(module):
        seen = _fno_inputs(module, x) if isinstance(module, FNO) else _hooked(module, lies, x)
    return [_spectrum(lie, seen) for lie in lies]


def _hooked(module: nn.Module, lies: Sequence[WeightLie], x: Tensor) -> dict[str, Tensor]:
    """What goes into the layers, by parameter, channels on axis 1."""
    seen: dict[nn.Module, Tensor] = {}

    def see(layer: nn.Module, args: tuple) -> None:
        if args:
            seen.setdefault(layer, args[0].detach())

    layers = dict.fromkeys(lie.parameter.module for lie in lies)
    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
    used = [lie.parameter for lie in lies if lie.parameter.module in seen]
    return {p.name: seen[p.module].movedim(p.axis, 1) for p in used}


def _fno_inputs(model: FNO, u: Tensor) -> dict[str, Tensor]:
    """The same of our FNO, whose forward pass is fused: one part after the other."""
    seen: dict[str, Tensor] = {}
    x = _point_inputs(seen, "lifting", model.lifting, model._open(u, 1.0)[0])
    for i, part in enumerate(model.layers):
        layer: Any = part
        field = layer.convolution(x)
        seen |= {f"layers.{i}.{name}": x for name in ("convolution.weights", "skip.weight",
                                                      "skip.scale", "mlp_skip.weight",
                                                      "mlp_skip.scale")}  # fmt: skip
        start, field = x.movedim(1, -1), field.movedim(1, -1)
        if layer.mlp is not None:
            _point_inputs(seen, f"layers.{i}.mlp", layer.mlp, _middle(layer, start, field))
        x = layer.points(start, field, layer.tensors()).movedim(-1, 1)
    _point_inputs(seen, "projection", model.projection, x)
    return seen


def _middle(layer: Any, start: Tensor, field: Tensor) -> Tensor:
    """What the MLP of a layer sees, (batch, channel, *grid)."""
    y = field if layer.norm is None else layer.norm(field)
    if layer.skip is not None:
        y = layer.skip.added(y, start, layer.skip.tensors(), VALUES)
    return (y if layer.last else layer.non_linearity(y)).movedim(-1, 1)


def _point_inputs(seen: dict[str, Tensor], name: str, part: Any, x: Tensor) -> Tensor:
    """Enter the inputs of a pointwise part; its output."""
    if isinstance(part, Pointwise):
        seen[f"{name}.weight"] = x
    else:
        seen[f"{name}.first.weight"] = x
        seen[f"{name}.second.weight"] = part.non_linearity(part.first(x))
    return part(x)


def _spectrum(lie: WeightLie, seen: Mapping[str, Tensor]) -> InputSpectrum | None:
    p = lie.parameter
    if p.role == "constant" or isinstance(p.module, NORMS):
        return None
    if lie.embed is not None:  # coordinates between −1 and 1, and the constant
        thirds = torch.tensor([1 / 3] * len(p.lengths) + [1.0], dtype=torch.float64)
        return InputSpectrum(torch.diag(thirds), None)
    if p.name not in seen:
        raise GroupError(
            f"The input of {p.name} could not be seen, since its layer is not called as a module "
            f"(a {type(p.module).__name__}). Leave spectra out."
        )
    u = seen[p.name][:, : p.rep_in.channels].double()
    if not bool(u.isfinite().all()):
        raise DataError(
            f"The input of {p.name} is not finite for the fields of spectra. Check their scale and "
            "the weights of the model, or leave spectra out."
        )
    if isinstance(lie.sites, ModeSites):
        return InputSpectrum(_mode_moment(u, lie.sites.rows), lie.frames[1])
    if isinstance(lie.sites, KernelSites):
        u = lie.sites.seen(u).movedim(-1, 1).flatten(1, 2)
    flat = u.movedim(1, -1).flatten(0, -2)
    frame = lie.frames[1]
    if frame is not None and lie.sites is not None:
        frame = torch.block_diag(*[frame] * lie.sites.count)
    return InputSpectrum(flat.mT @ flat / len(flat), frame)


def _mode_moment(u: Tensor, rows: np.ndarray) -> Tensor:
    """Mean of û ûᴴ at some modes, zero at those that the grid lacks."""
    grid = np.array(u.shape[2:])
    z = torch.fft.fftn(u, dim=tuple(range(2, u.ndim)), norm="forward").flatten(2)
    index = np.ravel_multi_index(tuple((rows % grid).T), tuple(grid))
    held = torch.from_numpy((2 * np.abs(rows) < grid).all(1)).to(u.device)
    z = z[..., torch.from_numpy(index).to(u.device)] * held
    return torch.einsum("bik,bjk->kij", z, z.conj()) / len(u)
