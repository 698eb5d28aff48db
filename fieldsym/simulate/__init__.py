"""Reference solutions with known symmetries.

* ``navier_stokes``: two-dimensional flow on the torus, its forcings, their groups, velocity.
* ``lattice_boltzmann``: flow of populations on the D2Q9 and D3Q19 lattices, exact streaming.
* ``lattice_collisions``: its collisions (BGK, TRT), equilibrium, density and velocity.
* ``linear``: heat flow (isotropic or not) and advection, exact: the controls of each measurement.
* ``dataset``: trajectories of the flow as a labelled data set.
* ``random_fields``: random vorticity and other band-limited fields, the same on every grid.
"""

from fieldsym.simulate.dataset import make_dataset, save_dataset
from fieldsym.simulate.lattice_boltzmann import (
    LatticeBoltzmann,
    lattice_boltzmann,
    lattice_shear_wave,
    lattice_taylor_green,
)
from fieldsym.simulate.lattice_collisions import (
    BGK,
    TRT,
    lattice_equilibrium,
    lattice_viscosity,
    macroscopic,
)
from fieldsym.simulate.linear import advection, anisotropic_heat_flow, heat_flow
from fieldsym.simulate.navier_stokes import (
    FORCINGS,
    NavierStokes,
    navier_stokes,
    velocity_from_vorticity,
    vorticity_from_velocity,
)
from fieldsym.simulate.random_fields import random_vorticity

__all__ = [
    "BGK",
    "FORCINGS",
    "TRT",
    "LatticeBoltzmann",
    "NavierStokes",
    "advection",
    "anisotropic_heat_flow",
    "heat_flow",
    "lattice_boltzmann",
    "lattice_equilibrium",
    "lattice_shear_wave",
    "lattice_taylor_green",
    "lattice_viscosity",
    "macroscopic",
    "make_dataset",
    "navier_stokes",
    "random_vorticity",
    "save_dataset",
    "velocity_from_vorticity",
    "vorticity_from_velocity",
]
