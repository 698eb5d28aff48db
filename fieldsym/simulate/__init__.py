"""Reference solutions with known symmetries.

* ``navier_stokes``: two-dimensional flow on the torus, its forcings, their groups, velocity.
* ``linear``: heat flow (isotropic or not) and advection, exact: the controls of each measurement.
* ``dataset``: trajectories of the flow as a labelled data set.
* ``random_fields``: random vorticity and other band-limited fields, the same on every grid.
"""

from fieldsym.simulate.dataset import make_dataset, save_dataset
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
    "FORCINGS",
    "NavierStokes",
    "advection",
    "anisotropic_heat_flow",
    "heat_flow",
    "make_dataset",
    "navier_stokes",
    "random_vorticity",
    "save_dataset",
    "velocity_from_vorticity",
    "vorticity_from_velocity",
]
