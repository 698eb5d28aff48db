"""Trajectories of the two-dimensional Navier–Stokes flow as a labelled data set.

The result follows CF: one variable per field with units and a long name, coordinates with an axis,
and beside them what no convention has: ``fieldsym_type`` on each variable (how it transforms) and
``fieldsym_base`` (the geometry, as JSON). All parameters, the seed and the versions are attributes:
a file says how to make it again.

>>> import fieldsym as fs
>>> base = fs.Torus((1.0, 1.0))
>>> ds = make_dataset(base, (16, 16), samples=2, steps=3, interval=0.5, viscosity=1e-3)
>>> dict(ds.sizes)
{'sample': 2, 'time': 4, 'x': 16, 'y': 16}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import DataError
from fieldsym.manifold import Manifold
from fieldsym.simulate.navier_stokes import NavierStokes, velocity_from_vorticity
from fieldsym.simulate.random_fields import random_vorticity

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["make_dataset", "save_dataset"]

VARIABLES = {
    "vorticity": ("vorticity", "s-1", "pseudoscalar w"),
    "u": ("velocity along x", "s-1", "vector u[0]"),
    "v": ("velocity along y", "s-1", "vector u[1]"),
}
GROWTH = 10.0  # over the maximum principle max|w(t)| ≤ max|w(0)| + t max|f|; NaN fails too
DIMS = ("sample", "time", "x", "y")


def make_dataset(
    base: Manifold,
    grid: Sequence[int],
    *,
    samples: int,
    steps: int,
    interval: float = 1.0,
    viscosity: float = 1e-4,
    forcing: str = "none",
    seed: int = 0,
    velocity: bool = False,
    dt: float | None = None,
    batch: int = 25,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Simulate trajectories from random initial vorticity.

    Parameters
    ----------
    base : Manifold, two periodic axes
    grid : (X, Y)
    samples : number of trajectories
    steps : intervals per trajectory; the initial state is stored too, so there are steps + 1 times
    interval : time between stored states
    viscosity, forcing, dt : of the flow, see :class:`fieldsym.simulate.navier_stokes.NavierStokes`
    seed : trajectory b depends on ``(seed, b)`` alone
    velocity : whether to add the velocity components u and v
    batch : trajectories that are integrated together
    dtype : of what is stored; the flow is integrated in float64
    device : where it is integrated
    progress : called with (done, total) trajectory intervals after each step

    Returns
    -------
    xarray.Dataset   dimensions (sample, time, x, y)

    Raises
    ------
    DataError   if a number is out of range, or if the flow blows up; that names a dt to try.
    GridError   if the base or the grid does not fit the flow.

    Examples
    --------
    >>> import fieldsym as fs
    >>> ds = make_dataset(fs.Torus((1.0, 1.0)), (16, 16), samples=1, steps=1, velocity=True)
    >>> [ds[name].attrs["fieldsym_type"] for name in ds]
    ['pseudoscalar w', 'vector u[0]', 'vector u[1]']
    """
    for label, value in (("samples", samples), ("steps", steps), ("batch", batch)):
        if value < 1:
            raise DataError(f"A data set needs {label} ≥ 1; got {value}.")
    if dtype not in (torch.float32, torch.float64):
        raise DataError(f"A data set is stored in float32 or float64; got {dtype}.")
    flow = NavierStokes(base, time=interval, viscosity=viscosity, forcing=forcing, dt=dt)
    base.check_grid(grid)
    stored = np.empty((samples, steps + 1, *grid), dtype=torch.empty((), dtype=dtype).numpy().dtype)
    fields = {"vorticity": stored}
    if velocity:
        fields |= {"u": np.empty_like(stored), "v": np.empty_like(stored)}
    done = 0
    for first in range(0, samples, batch):
        rows = slice(first, min(first + batch, samples))
        w = random_vorticity(
            base, grid, batch=rows.stop - first, seed=seed, first=first, device=device
        )
        _store(fields, rows, 0, w, base)
        for step in range(1, steps + 1):
            w = _advance(flow, w, step)
            _store(fields, rows, step, w, base)
            done += len(w)
            if progress is not None:
                progress(done, samples * steps)
    attributes: dict[str, str | int | float] = {
        "forcing": forcing,
        "viscosity": float(viscosity),
        "interval": float(interval),
        "dt": "automatic" if dt is None else float(dt),
        "initial_state": "Gaussian random field, alpha=2.5, tau=7",
        "seed": int(seed),
    }
    return _label(fields, base, grid, interval, attributes)


def save_dataset(ds: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a data set as netCDF; a file that could not be completed leaves nothing behind.

    Parameters
    ----------
    ds : xarray.Dataset
    path : file to write
    overwrite : whether an existing file may be replaced

    Returns
    -------
    Path   of the file

    Raises
    ------
    DataError   if the file exists and ``overwrite`` is false, or if it cannot be written.
    """
    from fieldsym.data.writers import write_netcdf

    path = Path(path)
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists. Choose another name, or allow it to be overwritten.")
    return write_netcdf(ds, path)


def _advance(flow: NavierStokes, w: Tensor, step: int) -> Tensor:
    with torch.no_grad():
        after = flow(w)
    drive = float(flow.source((w.shape[-2], w.shape[-1]), w.device).abs().max())
    if float(after.abs().max()) <= GROWTH * (float(w.abs().max()) + flow.time * drive):
        return after
    used = flow.time / flow.steps(w)
    advice = min(flow.stable_dt(w), used / 2)
    raise DataError(
        f"The flow blew up in interval {step}, between t={(step - 1) * flow.time:g} and "
        f"t={step * flow.time:g}, with a time step of {used:.3g}: the largest vorticity became "
        f"{float(after.abs().max()):.2g}, more than the forcing can explain. "
        f"Try dt={advice:.2g}, or dt=None for the CFL rule."
    )


def _store(
    fields: dict[str, np.ndarray], rows: slice, step: int, w: Tensor, base: Manifold
) -> None:
    fields["vorticity"][rows, step] = w[:, 0].cpu().numpy()
    if "u" in fields:
        moving = velocity_from_vorticity(w, base).cpu().numpy()
        fields["u"][rows, step], fields["v"][rows, step] = moving[:, 0], moving[:, 1]


def _label(
    fields: dict[str, np.ndarray],
    base: Manifold,
    grid: Sequence[int],
    interval: float,
    attributes: dict[str, str | int | float],
) -> xr.Dataset:
    import xarray as xr

    from fieldsym.data.bases import base_to_json

    samples, times = fields["vorticity"].shape[:2]
    coordinates = {
        "sample": ("sample", np.arange(samples), {"long_name": "trajectory"}),
        "time": ("time", interval * np.arange(times), _axis("time", "s", "T")),
    }
    for name, points in zip("xy", base.axes(grid), strict=True):
        label = _axis(f"position along {name}", "1", name.upper())
        coordinates[name] = (name, points.numpy(), label)
    variables = {}
    for name, values in fields.items():
        long_name, units, kind = VARIABLES[name]
        variables[name] = (
            DIMS,
            values,
            {"long_name": long_name, "units": units, "fieldsym_type": kind},
        )
    return xr.Dataset(
        variables,
        coordinates,
        {
            "Conventions": "CF-1.10",
            "title": "Two-dimensional Navier–Stokes flow on the torus",
            "source": f"fieldsym {_version('fieldsym')}, torch {torch.__version__}, "
            f"numpy {np.__version__}",
            "fieldsym_base": base_to_json(base),
            **attributes,
        },
    )


def _axis(long_name: str, units: str, axis: str) -> dict[str, str]:
    return {"long_name": long_name, "units": units, "axis": axis}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
