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

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.action import act, act_infinitesimal
from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError, GroupError
from fieldsym.group import Element, Generator
from fieldsym.manifold import Manifold, Region, Torus
from fieldsym.simulate.linear import heat_flow
from fieldsym.symmetry.evaluate_rows import Row
from fieldsym.symmetry.evaluate_statistics import ROUNDING

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ruler:
    """Norms of sections of one bundle on one grid, with its quadrature and valid points.

    A section whose fluctuation is below ``rounding`` times its norm counts as constant.
    """

    bundle: Bundle
    grid: tuple[int, ...]
    region: Region | None = None
    mask: Tensor | None = None
    rounding: float = ROUNDING["float64"]

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

    def squares(self, u: Tensor, weights: Tensor) -> Tensor:
        """Squared norm of every block, (batch, channel, *grid) to (batch, field)."""
        v = u.movedim(-self.bundle.base.dim - 1, -1)
        products = v * (v @ self.bundle.representation.gram.to(v)) * weights[..., None]
        channels = products.flatten(1, -2).sum(1)
        return torch.stack([channels[:, s].sum(1) for s in self.bundle.slices.values()], 1)

    def fluctuation(self, u: Tensor, weights: Tensor) -> Tensor:
        """The section without its mean over space."""
        axes = tuple(range(-self.bundle.base.dim, 0))
        return u - (u * weights).sum(axes, keepdim=True) / weights.sum()

    def unevenness(self, value: Tensor, weights: Tensor) -> Tensor:
        """‖value − mean‖ / ‖value‖ of every sample, 0 for a value of 0."""
        centred = self.norm(self.fluctuation(value, weights), weights)
        return centred / self.norm(value, weights).clamp_min(torch.finfo(torch.float64).tiny)

    def ratio(self, error: Tensor, value: Tensor, weights: Tensor) -> Tensor:
        """‖error‖ / ‖value − mean‖ of every sample; ‖error‖ / ‖value‖ where value is constant."""
        whole = self.norm(value, weights)
        bottom = self.norm(self.fluctuation(value, weights), weights)
        bottom = torch.where(bottom > self.rounding * whole, bottom, whole)
        return self.norm(error, weights) / bottom.clamp_min(torch.finfo(torch.float64).tiny)


def array(values: Tensor) -> np.ndarray:
    """The numbers of a tensor, wherever it is."""
    return values.detach().cpu().numpy()


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
        """F(u) and DF(u)[v] for every tangent v, (directions, batch, channel, *grid).

        All at once where the operator has a ``push_forward``; else by forward differentiation, one
        by one, or by central differences where that fails.
        """
        u, along = u.to(self.dtype), along.to(self.dtype)
        push = getattr(self.operator, "push_forward", self._push_each)
        with torch.no_grad():
            value, pushed = push(u, along)
        return self.checked(value, len(u)).double(), pushed.double()

    def _push_each(self, u: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        value, slopes = None, []
        for v in along:
            try:
                value, slope = torch.func.jvp(self.operator, (u,), (v,))[:2]
            except RuntimeError:
                slope = None
            if slope is None or (v.any() and not slope.any()):  # the operator cut it off
                slope = self._difference(u, v)
            slopes.append(slope)
        return self.operator(u) if value is None else value, torch.stack(slopes)

    # The best steps are 1e-2 in float32 and 1e-5 in float64, relative to the field.
    def _difference(self, u: Tensor, along: Tensor) -> Tensor:
        relative = 1e-2 if self.dtype == torch.float32 else 1e-5
        step = relative * float(u.norm() / along.norm().clamp_min(1e-30))
        return (self.operator(u + step * along) - self.operator(u - step * along)) / (2 * step)


@dataclass(frozen=True)
class Defect:
    """A difference of two sections, what it is relative to, and where it is measured.

    ``change`` is what the group does to the output, g·F(u) − F(u) or ξ·F(u). ``window`` fades both
    out before a spectrum is taken; None where they are periodic as they are.
    """

    error: Tensor
    value: Tensor
    weights: Tensor
    change: Tensor
    window: Tensor | None = None


def own_dtype(operator: Operator, default: torch.dtype) -> torch.dtype:
    """The real dtype of a module's parameters; of the data for anything without parameters."""
    if isinstance(operator, nn.Module):
        for value in (*operator.parameters(), *operator.buffers()):
            if value.is_floating_point() or value.is_complex():
                return value.dtype.to_real()
    return default


def rounding_of(dtype: torch.dtype) -> float:
    """What a dtype loses, relative to the values."""
    return ROUNDING.get(str(dtype).removeprefix("torch."), 1e-2)


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


def lie_defects(probe: Probe, generators: Sequence[Generator], u: Tensor) -> list[Defect]:
    """(L_ξ F)(u) per unit of the group parameter, of generators that all turn or all shift."""
    turns, outs = bool(generators[0].matrix.any()), probe.outs
    if turns:
        u = u * probe.ins.window(u.device)
    along = torch.stack([act_infinitesimal(xi, u, probe.ins.bundle) for xi in generators])
    value, pushed = probe.push(u, along)
    weights, window = outs.weights(u.device), None
    if turns and outs.region is not None:
        weights, window = weights * outs.region.mask(outs.grid, u.device), outs.window(u.device)
        if not all(outs.bundle.base.periodic):  # no spectral derivative across an open edge
            value, pushed = value * window, pushed * window
    moved = (act_infinitesimal(xi, value, outs.bundle) for xi in generators)
    return [
        Defect(slope - v, value, weights, v, window) for slope, v in zip(pushed, moved, strict=True)
    ]


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
    torus = mirrored_base(base)
    smooth = mirrored(u.double(), base)
    smooth = smooth - smooth.mean(tuple(range(-base.dim, 0)), keepdim=True)
    slopes = torus.gradient(smooth).square().sum()
    time = math.log(2) * float(smooth.square().sum() / slopes.clamp_min(1e-300))
    flow = heat_flow(torus, min(max(time, 0.0), max(torus.lengths) ** 2))
    inside = (..., *(slice(n) for n in grid))
    return lambda v: flow(mirrored(v, base))[inside]


def mirrored_base(base: Manifold) -> Torus:
    """The torus that :func:`mirrored` sections live on."""
    pairs = zip(base.lengths, base.periodic, strict=True)
    return Torus(tuple(length if wraps else 2 * length for length, wraps in pairs))


def mirrored(u: Tensor, base: Manifold) -> Tensor:
    """Even continuation across every edge that is not periodic."""
    for axis, (wraps, where) in enumerate(zip(base.periodic, base.location, strict=True)):
        if not wraps:
            position = u.ndim - base.dim + axis
            image = u.flip(position)
            if where == "node":
                image = image.narrow(position, 1, u.shape[position] - 2)
            u = torch.cat([u, image], position)
    return u
