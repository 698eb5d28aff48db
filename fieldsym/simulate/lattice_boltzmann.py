"""Lattice-Boltzmann flow on the torus, D2Q9 and D3Q19: a collision at every point, then streaming.

    f_i(x + c_i, t + 1) = C(f)_i(x, t)

Lengths are in cells and times in steps. Streaming shifts each population by whole cells along its
velocity, exactly, and commutes with dihedral(4) or octahedral() and with translations by whole
cells to the last bit; the collisions here do so to rounding, and keep density and momentum to
rounding. In the limit of slow flow on fine grids the density and the velocity solve the
Navier–Stokes equations with the viscosity (τ − 1/2) / 3.

>>> import torch, fieldsym as fs
>>> base = fs.Torus((1.0, 1.0))
>>> flow = fs.simulate.lattice_boltzmann(base, tau=0.8, steps=10)
>>> f = fs.simulate.lattice_taylor_green(flow.in_bundle, (16, 16))
>>> density, velocity = fs.simulate.macroscopic(flow(f), flow.in_bundle)
>>> density.shape, velocity.shape
(torch.Size([1, 16, 16]), torch.Size([2, 16, 16]))

To use another collision, such as a trained ``LatticeCollision``: hand it to ``LatticeBoltzmann``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.errors import DataError, GridError
from fieldsym.lattice_velocities import SOUND_SQUARED, VELOCITY_SETS, velocity_set
from fieldsym.manifold import Manifold
from fieldsym.simulate.lattice_collisions import BGK, lattice_equilibrium

__all__ = [
    "LatticeBoltzmann",
    "lattice_boltzmann",
    "lattice_shear_wave",
    "lattice_taylor_green",
    "stream",
]


class LatticeBoltzmann(nn.Module):
    """The map f(t) ↦ f(t + steps) of a collision and periodic streaming, without forcing.

    Parameters
    ----------
    bundle : Bundle of the populations of one lattice, on a torus
    collision : module or callable from populations to populations
    steps : number of steps

    Raises
    ------
    BundleError   if the bundle or the input is anything but the populations of one lattice.
    GridError     if the base is not periodic, or the cells of the grid are not cubes.
    DataError     if there is less than one step.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> bundle = fs.Bundle(fs.Torus((2.0, 3.0)), "d2q9 populations f")
    >>> flow = LatticeBoltzmann(bundle, fs.simulate.TRT(bundle, tau=0.8), steps=10)
    >>> f = lattice_shear_wave(bundle, (16, 24), speed=0.02)
    >>> round(float(f.sum()), 9), round(float(flow(f).sum()), 9)          # the mass
    (384.0, 384.0)
    """

    def __init__(
        self, bundle: Bundle, collision: Callable[[Tensor], Tensor], *, steps: int = 1
    ) -> None:
        super().__init__()
        velocity_set(bundle)
        if not all(bundle.base.periodic):
            raise GridError(
                f"Lattice-Boltzmann flow streams around a torus; got {bundle.base}, which has "
                f"edges. Use Torus({bundle.base.lengths})."
            )
        if steps < 1:
            raise DataError(f"Lattice-Boltzmann flow needs steps ≥ 1; got {steps}.")
        self.in_bundle = self.out_bundle = bundle
        self.collision, self.steps = collision, steps

    def extra_repr(self) -> str:
        """The populations, the base and the steps."""
        return f"{self.in_bundle.representation}, {self.in_bundle.base}, steps={self.steps}"

    def forward(self, f: Tensor) -> Tensor:
        """Populations (*batch, size, *grid) after some steps."""
        self.in_bundle.check(f, "LatticeBoltzmann")
        _check_cells(self.in_bundle.base, self.in_bundle.grid(f))
        for _ in range(self.steps):
            f = stream(self.collision(f), self.in_bundle)
        return f


def lattice_boltzmann(base: Manifold, *, tau: float, steps: int = 1) -> LatticeBoltzmann:
    """The flow of one relaxation time (BGK) on the D2Q9 or D3Q19 lattice, by the dimension.

    Parameters
    ----------
    base : Manifold, periodic, of two or three axes
    tau : relaxation time > 1/2, in steps; the viscosity is (τ − 1/2) / 3
    steps : number of steps

    Raises
    ------
    GridError   if the base is no torus of two or three axes.
    DataError   if tau or steps is out of range.
    """
    words = {lattice.dim: lattice.words for lattice in VELOCITY_SETS.values()}
    if base.dim not in words:
        raise GridError(
            f"Lattice-Boltzmann flow needs a base of 2 or 3 axes; got {base}, which has "
            f"{base.dim}. Use Torus((1.0, 1.0))."
        )
    bundle = Bundle(base, f"{words[base.dim]} f")
    return LatticeBoltzmann(bundle, BGK(bundle, tau), steps=steps)


def stream(f: Tensor, bundle: Bundle) -> Tensor:
    """Carry each population one step along its velocity: f_i(x) becomes f_i(x − c_i).

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> bundle = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
    >>> f = torch.zeros(9, 4, 6)
    >>> f[5, 1, 2] = 1.0                                      # moves along (1, 1)
    >>> stream(f, bundle).nonzero().tolist()
    [[5, 2, 3]]
    """
    lattice = velocity_set(bundle)
    bundle.check(f, "stream")
    axes = tuple(range(-lattice.dim, 0))
    parts = f.unbind(-lattice.dim - 1)
    moved = [p.roll(c, axes) for p, c in zip(parts, lattice.velocities.tolist(), strict=True)]
    return torch.stack(moved, -lattice.dim - 1)


# States -------------------------------------------------------------------------------------------


def lattice_shear_wave(
    bundle: Bundle,
    grid: Sequence[int],
    *,
    speed: float = 0.05,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Equilibrium of u_x = speed · sin(2πy / L_y), which decays at the rate ν (2π / N_y)².

    Parameters
    ----------
    bundle : Bundle of the populations of one lattice
    grid : sizes of the axes
    speed : largest velocity, in cells per step

    Returns
    -------
    Tensor (size, *grid)
    """
    _check_cells(bundle.base, grid)
    _, y = _phases(bundle, grid)
    wave = speed * torch.sin(y)[None]
    velocity = torch.cat([wave, *(bundle.base.dim - 1) * [torch.zeros_like(wave)]])
    return lattice_equilibrium(bundle, torch.ones_like(wave), velocity).to(dtype)


def lattice_taylor_green(
    bundle: Bundle,
    grid: Sequence[int],
    *,
    speed: float = 0.05,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Equilibrium of the vortices u = rot(cos k_x x cos k_y y) of the first two axes.

    The velocity decays at the rate ν (k_x² + k_y²) with k = 2π / N per cell, exactly so for the
    Navier–Stokes equations, whose pressure it starts with.

    Parameters
    ----------
    bundle : Bundle of the populations of one lattice
    grid : sizes of the axes
    speed : largest velocity, in cells per step

    Returns
    -------
    Tensor (size, *grid)

    Examples
    --------
    >>> import fieldsym as fs
    >>> bundle = fs.Bundle(fs.Torus((2.0, 3.0)), "d2q9 populations f")
    >>> f = lattice_taylor_green(bundle, (16, 24), speed=0.03)
    >>> density, velocity = fs.simulate.macroscopic(f, bundle)
    >>> round(float(velocity.abs().max()), 12)
    0.03
    """
    _check_cells(bundle.base, grid)
    x, y = _phases(bundle, grid)
    a, b = (2 * math.pi / n for n in grid[:2])
    size = speed / max(a, b)
    u = -size * b * torch.cos(x) * torch.sin(y)
    v = size * a * torch.sin(x) * torch.cos(y)
    pressure = -(size**2) / 4 * (b**2 * torch.cos(2 * x) + a**2 * torch.cos(2 * y))[None]
    velocity = torch.stack([u, v, *(bundle.base.dim - 2) * [torch.zeros_like(u)]])
    return lattice_equilibrium(bundle, 1 + pressure / SOUND_SQUARED, velocity).to(dtype)


def _phases(bundle: Bundle, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """2πx / L_x and 2πy / L_y at every point, float64."""
    base = bundle.base
    x, y = base.coordinates(grid)[:2]
    return 2 * math.pi / base.lengths[0] * x, 2 * math.pi / base.lengths[1] * y


def _check_cells(base: Manifold, grid: Sequence[int]) -> None:
    h = base.spacing(grid)
    if max(h) - min(h) > 1e-6 * max(h):
        raise GridError(
            f"Lattice-Boltzmann flow needs cells with equal sides; {base} with "
            f"{' × '.join(map(str, grid))} points has sides {', '.join(f'{s:.4g}' for s in h)}. "
            "Choose numbers of points in proportion to the lengths."
        )
