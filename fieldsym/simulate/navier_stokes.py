"""Two-dimensional incompressible Navier–Stokes flow on the torus, vorticity form.

    ∂_t w = −u·∇w + ν Δw + f,     −Δψ = w,     u = ∂_y ψ,     v = −∂_x ψ

Vorticity and stream function are pseudoscalars. The three forcings leave three different groups
(shifts in units of the box):

* ``"none"``, f = 0: dihedral(4) and every translation.
* ``"cos4"``, f = 0.1 (cos 4πx + cos 4πy): cyclic(4), the shifts (1/2, 0) and (0, 1/2), and
  reflections only together with the shift (1/4, 1/4).
* ``"sin+cos"``, f = 0.1 (sin + cos)(2π(x + y)), of Li et al.: shifts along (1, −1), the shift
  (1/2, 1/2), the half turn with a quarter shift of x + y, and the transposition x ↔ y with the
  shift (1/2, 0). It has no quarter turn.

>>> import torch, fieldsym as fs
>>> base = fs.Torus((1.0, 1.0))
>>> flow = fs.simulate.navier_stokes(base, time=0.1, viscosity=1e-3)
>>> flow(fs.simulate.random_vorticity(base, (32, 32), batch=2)).shape
torch.Size([2, 1, 32, 32])

To add one: enter a forcing, a function of (x/Lx, y/Ly), in ``FORCINGS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.errors import DataError, GridError
from fieldsym.manifold import Manifold
from fieldsym.simulate.linear import check_torus, half_wavenumbers

__all__ = [
    "FORCINGS",
    "NavierStokes",
    "navier_stokes",
    "velocity_from_vorticity",
    "vorticity_from_velocity",
]

TAU = 2 * math.pi
FORCINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda x, y: 0.0 * (x + y),
    "cos4": lambda x, y: 0.1 * (torch.cos(2 * TAU * x) + torch.cos(2 * TAU * y)),
    "sin+cos": lambda x, y: 0.1 * (torch.sin(TAU * (x + y)) + torch.cos(TAU * (x + y))),
}
COURANT = 0.25  # of the bound on the speed: truncation of 1e-8 on the flows of the tests
MOST_STEPS = 1_000_000


class NavierStokes(nn.Module):
    """The solution operator w(0) ↦ w(time): pseudo-spectral, fourth order in time.

    The viscous term is exact (integrating factor), the rest a classical Runge–Kutta step. Products
    are dealiased with a *circular* mask |k| < N/3, applied to the initial state as well: a square
    mask would print the symmetry of the square on every result. Nothing is modified in place, so
    ``torch.func.jvp`` and backward pass through.

    Parameters
    ----------
    base : Manifold, two periodic axes
    time : float > 0
    viscosity : float ≥ 0, in squared lengths per unit of time
    forcing : "none", "cos4" or "sin+cos"; the last two need a square torus
    amplitude : float ≥ 0, a factor of the forcing; 0 is "none"
    dt : float > 0, largest time step; shortened so that whole steps fill ``time``.
        None takes it from the state: dt = 0.25 h / S with the spacing h and
        S = Σ_k |w_k|/|k| + time Σ_k |f_k|/|k|, a bound on the speed that no shift, quarter turn or
        reflection changes. The fastest sample of a batch decides; give dt under ``torch.vmap``.

    Raises
    ------
    GridError   if the base is no two-dimensional torus, or not square where the forcing needs it.
    DataError   if an option is out of range; an unknown forcing lists the choices.

    Examples
    --------
    >>> import math, torch, fieldsym as fs
    >>> base = fs.Torus((2.0, 2.0))
    >>> x, y = base.coordinates((24, 24))
    >>> vortices = (torch.cos(math.pi * x) * torch.cos(math.pi * y))[None]        # Taylor–Green
    >>> flow = NavierStokes(base, time=0.5, viscosity=0.1, dt=0.05)
    >>> exact = vortices * math.exp(-2 * math.pi**2 * 0.1 * 0.5)
    >>> bool((flow(vortices) - exact).abs().max() < 1e-14)
    True
    """

    def __init__(
        self,
        base: Manifold,
        *,
        time: float = 1.0,
        viscosity: float = 1e-4,
        forcing: str = "none",
        amplitude: float = 1.0,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        check_torus(base, "Navier–Stokes flow", dim=2)
        _check_forcing(base, forcing)
        _check_range("time", time, positive=True)
        _check_range("viscosity", viscosity, positive=False)
        _check_range("amplitude", amplitude, positive=False)
        if dt is not None:
            _check_range("dt", dt, positive=True)
        self.base, self.time, self.viscosity = base, float(time), float(viscosity)
        self.forcing, self.amplitude, self.dt = forcing, float(amplitude), dt
        self.in_bundle = self.out_bundle = Bundle(base, "pseudoscalar w")

    def extra_repr(self) -> str:
        """The parameters of the equation."""
        return (
            f"{self.base}, time={self.time:g}, viscosity={self.viscosity:g}, "
            f"forcing={self.forcing!r}, amplitude={self.amplitude:g}, dt={self.dt}"
        )

    def forward(self, w: Tensor) -> Tensor:
        """Map a vorticity (*batch, 1, X, Y) to the vorticity ``time`` later.

        Raises
        ------
        BundleError   if ``w`` is not a section of ``Bundle(base, "pseudoscalar w")``.
        """
        self.in_bundle.check(w, "NavierStokes")
        steps = self.steps(w)
        plan = _plan(self, (w.shape[-2], w.shape[-1]), self.time / steps, w.dtype, w.device)
        q = _forward(w, plan) * plan.keep
        for _ in range(steps):
            q = _step(q, plan)
        return _inverse(q, plan)

    def steps(self, w: Tensor) -> int:
        """Number of time steps that a call with this vorticity takes."""
        dt = self.stable_dt(w) if self.dt is None else self.dt
        if self.time / dt > MOST_STEPS:
            raise DataError(
                f"{self.time:g} units of time take more than {MOST_STEPS} steps of {dt:.2g}: the "
                "vorticity is too large for this grid, or time or dt is not in its units."
            )
        return max(1, math.ceil(self.time / dt - 1e-9))

    def stable_dt(self, w: Tensor) -> float:
        """The time step of the CFL rule for a vorticity (*batch, 1, X, Y); see the class."""
        grid = (w.shape[-2], w.shape[-1])
        start = _speed_bound(w.detach(), self.base)
        drive = _speed_bound(self.source(grid, w.device), self.base)
        speed = float(start) + self.time * float(drive)
        if not math.isfinite(speed):
            raise DataError(
                "The time step follows from the speed of the initial vorticity, which is not "
                "finite: replace missing values first, or give dt."
            )
        return COURANT * min(self.base.spacing(grid)) / max(speed, 1e-300)

    def source(self, grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
        """The forcing on a grid, (1, X, Y), float64."""
        axes = zip(self.base.axes(grid, device=device), self.base.origin, strict=True)
        x, y = ((x - x0) / length for (x, x0), length in zip(axes, self.base.lengths, strict=True))
        return self.amplitude * FORCINGS[self.forcing](x[:, None], y[None, :])[None]


def navier_stokes(
    base: Manifold,
    time: float = 1.0,
    *,
    viscosity: float = 1e-4,
    forcing: str = "none",
    amplitude: float = 1.0,
    dt: float | None = None,
) -> NavierStokes:
    """The Navier–Stokes flow over a time, called as ``heat_flow`` is: see ``NavierStokes``."""
    return NavierStokes(
        base, time=time, viscosity=viscosity, forcing=forcing, amplitude=amplitude, dt=dt
    )


# The integrator -----------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """Multipliers for one grid, dtype and step; spectra keep the columns inside the mask only."""

    grid: tuple[int, int]
    dt: float
    keep: Tensor  # 1 inside the circle
    velocity: tuple[Tensor, Tensor]  # w_k to u_k and v_k
    gradient: tuple[Tensor, Tensor]  # w_k to its derivatives
    change: Tensor  # −1 inside the circle but for the mean, which is conserved exactly
    source: Tensor
    decay: Tensor  # exp(−ν k² dt/2)


def _plan(
    flow: NavierStokes, grid: tuple[int, int], dt: float, dtype: torch.dtype, device: torch.device
) -> _Plan:
    (kx, ky), k2, keep = _circle(flow.base, grid, device)
    columns = int(keep.any(dim=0).sum())
    kx, ky = kx.expand_as(k2)[:, :columns], ky.expand_as(k2)[:, :columns]
    k2, keep = k2[:, :columns], keep[:, :columns]
    inverse = torch.where(k2 > 0, 1 / k2, 0.0)
    change = -(keep & (k2 > 0)).double()
    source = torch.fft.rfft2(flow.source(grid, device)[0])[:, :columns]

    def imaginary(x: Tensor) -> Tensor:
        return torch.complex(torch.zeros_like(x), x).to(dtype.to_complex())

    return _Plan(
        grid,
        dt,
        keep.to(dtype),
        (imaginary(ky * inverse), imaginary(-kx * inverse)),
        (imaginary(kx), imaginary(ky)),
        change.to(dtype),
        (-change * source).to(dtype.to_complex()),
        torch.exp(-flow.viscosity * k2 * dt / 2).to(dtype),
    )


# Circle in physical wavenumbers that touches N/3 on the axis where that comes first.
def _circle(
    base: Manifold, grid: tuple[int, int], device: torch.device | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    k, _ = half_wavenumbers(base, grid, device)
    k2 = k[0].square() + k[1].square()
    radius = min(TAU / length * n / 3 for n, length in zip(grid, base.lengths, strict=True))
    return k, k2, k2 < radius**2 * (1 - 1e-9)


def _forward(u: Tensor, plan: _Plan) -> Tensor:
    columns = plan.keep.shape[-1]
    return torch.fft.fft(torch.fft.rfft(u)[..., :columns], dim=-2)


def _inverse(q: Tensor, plan: _Plan) -> Tensor:
    return torch.fft.irfft(torch.fft.ifft(q, dim=-2), n=plan.grid[1])


def _tendency(q: Tensor, plan: _Plan) -> Tensor:
    u, v = (_inverse(q * m, plan) for m in plan.velocity)
    w_x, w_y = (_inverse(q * m, plan) for m in plan.gradient)
    return plan.change * _forward(u * w_x + v * w_y, plan) + plan.source


# Runge–Kutta of fourth order in the variable exp(ν k² t) w_k.
def _step(q: Tensor, plan: _Plan) -> Tensor:
    e, dt = plan.decay, plan.dt
    half = e * q
    k1 = _tendency(q, plan)
    k2 = _tendency(half + dt / 2 * (e * k1), plan)
    k3 = _tendency(half + dt / 2 * k2, plan)
    k4 = _tendency(e * (half + dt * k3), plan)
    return e * half + dt / 6 * (e * (e * k1 + 2 * (k2 + k3)) + k4)


# max |u| ≤ Σ_k |w_k|/|k|, the largest of the batch.
def _speed_bound(w: Tensor, base: Manifold) -> Tensor:
    grid = (w.shape[-2], w.shape[-1])
    _, k2, keep = _circle(base, grid, w.device)
    weight = torch.where(keep & (k2 > 0), 1 / k2.sqrt(), 0.0)
    weight[:, 1:] *= 2  # the half plane that rfft2 leaves out
    size = torch.fft.rfft2(w.double()).abs() / math.prod(grid)
    return (size * weight).sum((-2, -1)).amax()


# Fields -------------------------------------------------------------------------------------------


def velocity_from_vorticity(w: Tensor, base: Manifold) -> Tensor:
    """The divergence-free velocity of zero mean with a given vorticity.

    Parameters
    ----------
    w : Tensor (*batch, 1, X, Y), a section of ``"pseudoscalar w"``
    base : Manifold, two periodic axes

    Returns
    -------
    Tensor (*batch, 2, X, Y), a section of ``"vector u"``

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> base = fs.Torus((2.0, 3.0))
    >>> w = fs.simulate.random_vorticity(base, (16, 24))
    >>> bool(torch.allclose(vorticity_from_velocity(velocity_from_vorticity(w, base), base), w))
    True
    """
    check_torus(base, "vorticity", dim=2)
    Bundle(base, "pseudoscalar w").check(w, "velocity_from_vorticity")
    grid = (w.shape[-2], w.shape[-1])
    (kx, ky), inside = half_wavenumbers(base, grid, w.device)
    k2 = kx.square() + ky.square()
    green = torch.where(inside & (k2 > 0), 1 / k2, 0.0)
    rotated = torch.cat([(ky * green)[None], (-kx * green)[None]])
    multiplier = torch.complex(torch.zeros_like(rotated), rotated).to(w.dtype.to_complex())
    return torch.fft.irfft2(torch.fft.rfft2(w) * multiplier, s=grid)


def vorticity_from_velocity(u: Tensor, base: Manifold) -> Tensor:
    """The curl ∂_x v − ∂_y u of a velocity (*batch, 2, X, Y), as (*batch, 1, X, Y)."""
    check_torus(base, "vorticity", dim=2)
    Bundle(base, "vector u").check(u, "vorticity_from_velocity")
    return base.derivative(u[..., 1:, :, :], 0) - base.derivative(u[..., :1, :, :], 1)


# Checks -------------------------------------------------------------------------------------------


def _check_forcing(base: Manifold, forcing: str) -> None:
    if forcing not in FORCINGS:
        raise DataError(f"forcing is one of {', '.join(map(repr, FORCINGS))}; got {forcing!r}.")
    if forcing != "none" and not math.isclose(*base.lengths, rel_tol=1e-9):
        raise GridError(
            f"forcing={forcing!r} is a function of x/L and y/L on a square torus; got {base}. "
            'Use equal lengths, or forcing="none".'
        )


def _check_range(name: str, value: float, *, positive: bool) -> None:
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        bound = "> 0" if positive else "≥ 0"
        raise DataError(f"Navier–Stokes needs a finite {name} {bound}; got {value}.")
