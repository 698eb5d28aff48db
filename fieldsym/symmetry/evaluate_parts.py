"""The instruments of an evaluation: running an operator, comparing two sections, the control.

``Probe`` runs any operator in its own dtype and checks what comes back; ``Ruler`` takes norms;
``control_flow`` is an operator that commutes with everything, sent through the same transforms to
find what these transforms lose by themselves (the floor).

>>> import torch, fieldsym as fs
>>> line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
>>> cube = Probe(lambda u: u**3, Ruler(line, (4,)), Ruler(line, (4,)), torch.float64)
>>> cube(torch.full((1, 1, 4), 2.0)).flatten().tolist()
[8.0, 8.0, 8.0, 8.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fieldsym.action import act, act_infinitesimal
from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError, GroupError
from fieldsym.group import Element, Generator
from fieldsym.manifold import Manifold, Region, Torus
from fieldsym.simulate.linear import heat_flow
from fieldsym.symmetry.evaluate_rows import Row

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ruler:
    """Norms of sections of one bundle on one grid, with its quadrature and valid points."""

    bundle: Bundle
    grid: tuple[int, ...]
    region: Region | None = None
    mask: Tensor | None = None

    def window(self, device: torch.device) -> Tensor:
        """The window of the region."""
        if self.region is None:
            raise GroupError("A rotation by a generic angle is measured inside a region; give one.")
        return self.region.window(self.grid, device=device)

    def weights(self, device: torch.device, elements: Sequence[Element] = ()) -> Tensor:
        """Quadrature weights where the mask and its images under some elements are all valid."""
        weights = self.bundle.base.weights(self.grid, device)
        if self.mask is None:
            return weights
        scalar = Bundle(self.bundle.base, "scalar m")
        valid = self.mask.to(device, torch.float64)[None]
        for g in elements:
            weights = weights * (act(g, valid, scalar)[0] > 0.5)
        return weights * valid[0]

    def covers_region(self) -> bool:
        """Whether every point of the region is valid."""
        if self.mask is None or self.region is None:
            return True
        inside = self.region.mask(self.grid, self.mask.device)
        return bool((self.mask | ~inside).all())

    def norm(self, u: Tensor, weights: Tensor) -> Tensor:
        """Weighted norm of every sample, (batch, channel, *grid) to (batch,)."""
        axes = tuple(range(-self.bundle.base.dim, 0))
        return (self.bundle.squared_norm(u) * weights).sum(axes).sqrt()

    def fluctuation(self, u: Tensor, weights: Tensor) -> Tensor:
        """The section without its mean over space."""
        axes = tuple(range(-self.bundle.base.dim, 0))
        return u - (u * weights).sum(axes, keepdim=True) / weights.sum()

    def ratio(self, error: Tensor, value: Tensor, weights: Tensor) -> Tensor:
        """‖error‖ / ‖value − mean‖ of every sample; a constant value counts as 1e-10 of itself."""
        bottom = self.norm(self.fluctuation(value, weights), weights)
        bottom = torch.maximum(bottom, 1e-10 * self.norm(value, weights))
        return self.norm(error, weights) / bottom.clamp_min(torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Probe:
    """An operator between two bundles, run in its own dtype on float64 sections."""

    operator: Operator
    ins: Ruler
    outs: Ruler
    dtype: torch.dtype
    name: str = "the model"

    @property
    def bundles(self) -> tuple[Bundle, Bundle]:
        """The bundle of the input and that of the output."""
        return self.ins.bundle, self.outs.bundle

    def __call__(self, u: Tensor) -> Tensor:
        """F(u) in float64, checked to be finite sections of the output bundle."""
        with torch.no_grad():
            return self.checked(self.operator(u.to(self.dtype)), len(u)).double()

    def checked(self, value: Tensor, samples: int) -> Tensor:
        """What the operator returned, or an error that says what is wrong with it."""
        self.outs.bundle.check(value, f"The output bundle of {self.name}")
        if value.ndim != self.outs.bundle.base.dim + 2 or len(value) != samples:
            raise BundleError(
                f"{self.name} returned shape {tuple(value.shape)} for {samples} samples; expected "
                f"({samples}, {self.outs.bundle.channels}, *grid)."
            )
        if not bool(value.isfinite().all()):
            raise DataError(
                f"{self.name} returned values that are not finite for finite input: nothing can be "
                "measured. Check the scale of the input (is it normalised as in training?)."
            )
        return value

    def push(self, u: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """F(u) and DF(u)[along]: forward differentiation, or central differences without it."""
        u, along = u.to(self.dtype), along.to(self.dtype)
        with torch.no_grad():
            try:
                value, pushed = torch.func.jvp(self.operator, (u,), (along,))[:2]
            except RuntimeError:
                value, pushed = self._differences(u, along)
            if along.any() and not pushed.any():  # the operator cut the derivative off
                value, pushed = self._differences(u, along)
        return self.checked(value, len(u)).double(), pushed.double()

    # The best steps are 1e-2 in float32 and 1e-5 in float64, relative to the field.
    def _differences(self, u: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        relative = 1e-2 if self.dtype == torch.float32 else 1e-5
        step = relative * float(u.norm() / along.norm().clamp_min(1e-30))
        ahead, behind = self.operator(u + step * along), self.operator(u - step * along)
        return self.operator(u), (ahead - behind) / (2 * step)


def own_dtype(operator: Operator, default: torch.dtype) -> torch.dtype:
    """The real dtype of a module's parameters; of the data for anything without parameters."""
    if isinstance(operator, nn.Module):
        for value in (*operator.parameters(), *operator.buffers()):
            if value.is_floating_point() or value.is_complex():
                return value.dtype.to_real()
    return default


def own_device(operator: Operator, default: torch.device) -> torch.device:
    """Where a module's parameters are; where the data are for anything without parameters."""
    first = next(operator.parameters(), None) if isinstance(operator, nn.Module) else None
    return default if first is None else first.device


@contextmanager
def evaluating(*operators: Operator | None) -> Iterator[None]:
    """Modules in eval mode, and every submodule back in its own mode afterwards."""
    modules = [m for f in operators if isinstance(f, nn.Module) for m in f.modules()]
    modes = [m.training for m in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def compare(probe: Probe, row: Row, u: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """F(g·u) and g·F(u), given u and F(u); see :func:`windowed` for rows that need a window."""
    first = probe(act(row.element, u, probe.ins.bundle))
    if row.windowed:
        first = first * probe.outs.window(u.device)
    return first, act(row.element, value, probe.outs.bundle)


def windowed(probe: Probe, u: Tensor) -> tuple[Tensor, Tensor]:
    """u times the window of the region, and what the operator makes of it, windowed again."""
    u = u * probe.ins.window(u.device)
    return u, probe(u) * probe.outs.window(u.device)


def lie_defect(probe: Probe, xi: Generator, u: Tensor) -> Tensor:
    """‖(L_ξ F)(u)‖ / ‖F(u) − mean‖ of every sample, per unit of the group parameter."""
    turns = bool(xi.matrix.any())
    if turns:
        u = u * probe.ins.window(u.device)
    value, pushed = probe.push(u, act_infinitesimal(xi, u, probe.ins.bundle))
    outs = probe.outs
    weights = outs.weights(u.device)
    if turns and outs.region is not None:
        weights = weights * outs.region.mask(outs.grid, u.device)
        if not all(outs.bundle.base.periodic):  # no spectral derivative across an open edge
            window = outs.window(u.device)
            value, pushed = value * window, pushed * window
    return outs.ratio(pushed - act_infinitesimal(xi, value, probe.outs.bundle), value, weights)


def control_flow(bundle: Bundle, u: Tensor) -> Operator:
    """An isotropic heat flow that halves the mean-square wavenumber of u; reflecting at edges.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
    >>> u = torch.sin(torch.pi * line.base.coordinates((16,)))[None]
    >>> bool(torch.allclose(control_flow(line, u)(u), u / 2))
    True
    """
    base, grid = bundle.base, bundle.grid(u)
    lengths = tuple(
        length if wraps else 2 * length
        for length, wraps in zip(base.lengths, base.periodic, strict=True)
    )
    torus = Torus(lengths)
    smooth = _mirrored(u.double(), base)
    smooth = smooth - smooth.mean(tuple(range(-base.dim, 0)), keepdim=True)
    slopes = torus.gradient(smooth).square().sum()
    time = math.log(2) * float(smooth.square().sum() / slopes.clamp_min(1e-300))
    flow = heat_flow(torus, min(max(time, 0.0), max(lengths) ** 2))
    inside = (..., *(slice(n) for n in grid))
    return lambda v: flow(_mirrored(v, base))[inside]


# Even continuation across every edge that is not periodic.
def _mirrored(u: Tensor, base: Manifold) -> Tensor:
    for axis, (wraps, where) in enumerate(zip(base.periodic, base.location, strict=True)):
        if not wraps:
            position = u.ndim - base.dim + axis
            image = u.flip(position)
            if where == "node":
                image = image.narrow(position, 1, u.shape[position] - 2)
            u = torch.cat([u, image], position)
    return u
