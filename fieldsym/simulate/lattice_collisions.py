"""Collisions of lattice-Boltzmann populations that relax to equilibrium: the references.

A collision maps populations to populations point by point. Those here keep density and momentum and
commute with every permutation of the velocities that comes from the axes, all to rounding; time is
in steps and length in cells.

>>> import torch, fieldsym as fs
>>> bundle = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
>>> rest = lattice_equilibrium(bundle, torch.ones(1, 4, 6), torch.zeros(2, 4, 6))
>>> bool(torch.allclose(BGK(bundle, tau=0.8)(rest), rest))
True

To add one: a module like ``BGK``, with ``viscosity`` where it has one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError
from fieldsym.lattice_velocities import SOUND_SQUARED, moments, velocity_set

__all__ = ["BGK", "TRT", "lattice_equilibrium", "lattice_viscosity", "macroscopic"]


class BGK(nn.Module):
    """Relaxation to equilibrium at one rate, f − (f − f_eq) / τ.

    Parameters
    ----------
    bundle : Bundle of the populations of one lattice
    tau : relaxation time > 1/2, in steps

    Raises
    ------
    DataError   if tau is not larger than 1/2: the viscosity would not be positive.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> bundle = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
    >>> f = fs.simulate.lattice_taylor_green(bundle, (12, 12))
    >>> bool(torch.allclose(BGK(bundle, tau=0.8)(f), f, atol=1e-15))     # at equilibrium already
    True

    References
    ----------
    Bhatnagar, Gross & Krook 1954; Qian, d'Humières & Lallemand 1992.
    """

    def __init__(self, bundle: Bundle, tau: float) -> None:
        super().__init__()
        self.lattice = velocity_set(bundle)
        self.bundle, self.tau = bundle, tau
        self.viscosity = lattice_viscosity(tau)

    def extra_repr(self) -> str:
        """The relaxation time."""
        return f"{self.lattice}, tau={self.tau:g}"

    def forward(self, f: Tensor) -> Tensor:
        """Populations after the collision."""
        self.bundle.check(f, type(self).__name__)
        return f - (f - lattice_equilibrium(self.bundle, *macroscopic(f, self.bundle))) / self.tau


class TRT(nn.Module):
    """Relaxation at two rates: even parts (f_i + f_−i) / 2 at 1/τ, odd ones as ``magic`` says.

    Parameters
    ----------
    bundle : Bundle of the populations of one lattice
    tau : relaxation time > 1/2 of the even parts, which sets the viscosity
    magic : (τ − 1/2)(τ_odd − 1/2) > 0; 1/4 is the most stable choice, (τ − 1/2)² gives BGK

    Raises
    ------
    DataError   if tau or magic is out of range.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> bundle = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
    >>> f = 1 + 0.1 * fs.testing.random_section(bundle, (12, 12))
    >>> bool(torch.allclose(TRT(bundle, 0.8, magic=0.09)(f), BGK(bundle, 0.8)(f), atol=1e-14))
    True

    References
    ----------
    Ginzburg, Verhaeghe & d'Humières 2008, Commun. Comput. Phys. 3, 427.
    """

    def __init__(self, bundle: Bundle, tau: float, *, magic: float = 0.25) -> None:
        super().__init__()
        self.lattice = velocity_set(bundle)
        self.viscosity = lattice_viscosity(tau)
        if not (math.isfinite(magic) and magic > 0):
            raise DataError(f"TRT needs a finite magic parameter > 0; got {magic}. Try 0.25.")
        self.bundle, self.tau, self.odd_tau = bundle, tau, 0.5 + magic / (tau - 0.5)
        opposite = self.lattice.permutation(-np.eye(self.lattice.dim)).argmax(1)
        self.register_buffer("opposite", torch.from_numpy(opposite), persistent=False)

    def extra_repr(self) -> str:
        """The relaxation times."""
        return f"{self.lattice}, tau={self.tau:g}, odd_tau={self.odd_tau:g}"

    def forward(self, f: Tensor) -> Tensor:
        """Populations after the collision."""
        self.bundle.check(f, type(self).__name__)
        excess = f - lattice_equilibrium(self.bundle, *macroscopic(f, self.bundle))
        turned = excess.index_select(-self.lattice.dim - 1, self.get_buffer("opposite"))
        even, odd = (excess + turned) / 2, (excess - turned) / 2
        return f - even / self.tau - odd / self.odd_tau


def lattice_equilibrium(bundle: Bundle, density: Tensor, velocity: Tensor) -> Tensor:
    """The equilibrium w_i ρ (1 + 3 c·u + 9/2 (c·u)² − 3/2 u²).

    Parameters
    ----------
    bundle : Bundle of the populations of one lattice
    density : Tensor (*batch, 1, *grid)
    velocity : Tensor (*batch, dim, *grid), in cells per step; slow, |u| < 0.2

    Returns
    -------
    Tensor (*batch, size, *grid)

    Raises
    ------
    BundleError   if density and velocity are not a scalar and a vector of one shape.
    """
    lattice, dim = velocity_set(bundle), bundle.base.dim
    if (density.shape[-dim - 1], velocity.shape[-dim - 1]) != (1, dim):
        raise BundleError(
            f"The equilibrium needs a density (*batch, 1, *grid) and a velocity (*batch, {dim}, "
            f"*grid); got {tuple(density.shape)} and {tuple(velocity.shape)}."
        )
    along = moments(velocity, lattice.conserved[1:].mT, dim) / SOUND_SQUARED
    energy = velocity.square().sum(-dim - 1, keepdim=True) / (2 * SOUND_SQUARED)
    weights = lattice.weights(velocity).view(-1, *[1] * dim)
    return weights * density * (1 + along + along.square() / 2 - energy)


def macroscopic(f: Tensor, bundle: Bundle) -> tuple[Tensor, Tensor]:
    """Density Σ f_i, a scalar, and velocity Σ c_i f_i / Σ f_i, a vector in cells per step.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> bundle = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
    >>> density, velocity = torch.full((1, 4, 6), 2.0), torch.full((2, 4, 6), 0.1)
    >>> again = macroscopic(lattice_equilibrium(bundle, density, velocity), bundle)
    >>> all(torch.allclose(a, b) for a, b in zip(again, (density, velocity)))
    True
    """
    lattice = velocity_set(bundle)
    bundle.check(f, "macroscopic")
    dim = lattice.dim
    density, momentum = moments(f, lattice.conserved, dim).split([1, dim], -dim - 1)
    return density, momentum / density


def lattice_viscosity(tau: float) -> float:
    """Kinematic viscosity (τ − 1/2) / 3 of a relaxation time, in cells² per step.

    Raises
    ------
    DataError   if tau is not larger than 1/2.

    Examples
    --------
    >>> round(lattice_viscosity(0.8), 12)
    0.1
    """
    if not (math.isfinite(tau) and tau > 0.5):
        raise DataError(
            f"A relaxation time is finite and larger than 1/2; got tau={tau}. The viscosity "
            "(tau − 1/2) / 3 must be positive."
        )
    return SOUND_SQUARED * (tau - 0.5)
