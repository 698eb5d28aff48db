"""Linear flows with known symmetries, exact in Fourier space: the controls of every measurement.

Each returns a callable that maps sections of any bundle on a torus to sections of the same bundle,
channel by channel, at any resolution. The Nyquist frequency of an even grid is dropped, so that the
flows commute with exact and with fractional shifts alike.

| flow | equation | commutes with |
|---|---|---|
| ``heat_flow`` | u_t = D Δu | translations, rotations, reflections |
| ``anisotropic_heat_flow`` | u_t = D (r ∂_x² + ∂_y²) u | translations, reflections of the axes |
| ``advection`` | u_t = −c·∇u | translations |

>>> import torch, fieldsym as fs
>>> base = fs.Torus((2.0, 3.0))
>>> x, y = base.coordinates((16, 24))
>>> u = torch.sin(torch.pi * x)[None]
>>> cooled = fs.simulate.heat_flow(base, time=0.1)(u)
>>> bool(torch.allclose(cooled, u * torch.exp(torch.tensor(-0.1 * torch.pi**2))))
True

To add one: return ``SpectralFlow`` with the exponent of its equation as a function of k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fieldsym.errors import DataError, GridError
from fieldsym.manifold import Manifold, require_base

__all__ = [
    "SpectralFlow",
    "advection",
    "anisotropic_heat_flow",
    "check_torus",
    "half_wavenumbers",
    "heat_flow",
]

Exponent = Callable[[list[Tensor]], Tensor]


class SpectralFlow(nn.Module):
    """The flow û(k) ↦ exp(s(k)) û(k) of a linear equation with constant coefficients.

    Parameters
    ----------
    base : Manifold, periodic along every axis
    exponent : s as a function of the wavenumbers (one broadcastable float64 tensor per axis)
    name : str, for the ``repr``

    Raises
    ------
    GridError   if the base is not a torus.
    """

    def __init__(self, base: Manifold, exponent: Exponent, name: str) -> None:
        super().__init__()
        check_torus(base, name)
        self.base, self.exponent, self.name = base, exponent, name

    def extra_repr(self) -> str:
        """What the flow is and where."""
        return f"{self.name} on {self.base}"

    def forward(self, u: Tensor) -> Tensor:
        """Map a section (*batch, channel, *grid) to a section of the same shape."""
        axes = tuple(range(-self.base.dim, 0))
        grid = tuple(u.shape[-self.base.dim :])
        k, inside = half_wavenumbers(self.base, grid, u.device)
        multiplier = torch.exp(self.exponent(k)) * inside
        multiplier = multiplier.to(u.dtype.to_complex() if multiplier.is_complex() else u.dtype)
        return torch.fft.irfftn(torch.fft.rfftn(u, dim=axes) * multiplier, s=grid, dim=axes)


def heat_flow(base: Manifold, time: float, *, diffusivity: float = 1.0) -> SpectralFlow:
    """Isotropic heat flow u_t = D Δu over a time; vectors and tensors flow component by component.

    Parameters
    ----------
    base : Manifold, periodic along every axis
    time : float ≥ 0
    diffusivity : float ≥ 0, in squared lengths per unit of time

    Returns
    -------
    SpectralFlow   a module from sections of any bundle on ``base`` to sections of that bundle.

    Raises
    ------
    DataError   if the time or the diffusivity is negative.
    GridError   if the base is not a torus.

    Examples
    --------
    >>> import fieldsym as fs
    >>> base = fs.Torus(lengths=(2.0, 3.0))
    >>> p = fs.Bundle(base, "scalar p")
    >>> u = fs.testing.random_section(p, (16, 24))
    >>> half, whole = fs.simulate.heat_flow(base, 0.05), fs.simulate.heat_flow(base, 0.1)
    >>> bool((half(half(u)) - whole(u)).abs().max() < 1e-14)
    True
    """
    return anisotropic_heat_flow(base, time, 1.0, diffusivity=diffusivity)


def anisotropic_heat_flow(
    base: Manifold, time: float, ratio: float, *, diffusivity: float = 1.0
) -> SpectralFlow:
    """Heat flow that diffuses ``ratio`` times faster along x: a planted violation of rotations.

    Parameters
    ----------
    base : Manifold, periodic along every axis
    time : float ≥ 0
    ratio : float ≥ 0, diffusivity along x over that along the other axes
    diffusivity : float ≥ 0, along the other axes

    Raises
    ------
    DataError   if the time, the ratio or the diffusivity is negative.
    GridError   if the base is not a torus.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> base = fs.Torus((1.0, 1.0))
    >>> x, y = base.coordinates((16, 16))
    >>> flow = anisotropic_heat_flow(base, time=0.0, ratio=1.1)
    >>> bool(torch.allclose(flow(torch.cos(2 * torch.pi * x)[None]), torch.cos(2 * torch.pi * x)))
    True
    """
    for label, value in (("time", time), ("ratio", ratio), ("diffusivity", diffusivity)):
        if not (math.isfinite(value) and value >= 0):
            raise DataError(
                f"Heat flow needs a finite {label} ≥ 0; got {value}. Heat does not flow backwards."
            )

    def exponent(k: list[Tensor]) -> Tensor:
        rest = sum((q.square() for q in k[1:]), torch.zeros_like(k[0]))
        return -diffusivity * time * (ratio * k[0].square() + rest)

    name = "heat flow" if ratio == 1 else f"heat flow with ratio {ratio:g}"
    return SpectralFlow(base, exponent, f"{name}, time {time:g}")


def advection(base: Manifold, velocity: Sequence[float], time: float) -> SpectralFlow:
    """Transport by a constant velocity, u(x) ↦ u(x − c t).

    Parameters
    ----------
    base : Manifold, periodic along every axis
    velocity : one component per axis, in lengths per unit of time
    time : float, of either sign

    Raises
    ------
    DataError   if the velocity does not have one finite component per axis, or time is not finite.
    GridError   if the base is not a torus.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> base = fs.Torus((2.0, 3.0))
    >>> u = fs.testing.random_section(fs.Bundle(base, "scalar p"), (16, 24))
    >>> moved = advection(base, (0.25, 0.0), time=1.0)(u)      # 0.25 is two cells of 2/16
    >>> bool(torch.allclose(moved, u.roll(2, dims=-2)))
    True
    """
    if len(velocity) != base.dim or not all(math.isfinite(v) for v in (*velocity, time)):
        raise DataError(
            f"Advection on {base} needs a finite time and {base.dim} finite velocity components; "
            f"got velocity {tuple(velocity)}, time {time}."
        )

    def exponent(k: list[Tensor]) -> Tensor:
        angle = -sum((v * time * q for v, q in zip(velocity, k, strict=True)), torch.zeros(()))
        return torch.complex(torch.zeros_like(angle), angle)

    text = ", ".join(f"{v:g}" for v in velocity)
    return SpectralFlow(base, exponent, f"advection by ({text}), time {time:g}")


def half_wavenumbers(
    base: Manifold, grid: Sequence[int], device: torch.device | None = None
) -> tuple[list[Tensor], Tensor]:
    """Angular wavenumbers in the layout of ``torch.fft.rfftn``, and where no axis is at Nyquist.

    Returns
    -------
    list of one float64 tensor per axis, broadcastable against each other, and a boolean tensor.

    Examples
    --------
    >>> import fieldsym as fs
    >>> (kx, ky), inside = half_wavenumbers(fs.Torus((1.0, 1.0)), (4, 5))
    >>> kx.shape, ky.shape, inside.shape, inside[:, 0].tolist()
    (torch.Size([4, 1]), torch.Size([1, 3]), torch.Size([4, 3]), [True, True, False, True])
    """
    base.check_grid(grid)
    waves, inside = [], torch.ones((), dtype=torch.bool, device=device)
    for axis, (n, length) in enumerate(zip(grid, base.lengths, strict=True)):
        modes = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device).round()
        if axis == base.dim - 1:
            modes = modes[: n // 2 + 1].abs()
        modes = modes.view([-1 if i == axis else 1 for i in range(base.dim)])
        waves.append(2 * math.pi / length * modes)
        inside = inside & (2 * modes.abs() < n)
    return waves, inside


def check_torus(base: Manifold, what: str, *, dim: int | None = None) -> None:
    """Raise ``GridError`` unless a base is periodic along every axis and has ``dim`` of them."""
    require_base(base, f"A {what}")
    if dim is not None and base.dim != dim:
        raise GridError(
            f"A {what} needs a base of {dim} axes; got {base}, which has {base.dim}. "
            f"Use Torus({(1.0,) * dim})."
        )
    if not all(base.periodic):
        raise GridError(
            f"A {what} needs a base that is periodic along every axis, because it is solved in "
            f"Fourier space; got {base}. Use Torus({base.lengths})."
        )
