"""The way back: a tensor as a dataset like the one its input came from, and files.

>>> import torch, fieldsym as fs
>>> fields = Fields.of(fs.Bundle(fs.Torus((2.0, 3.0)), "vector u"), torch.zeros(1, 2, 6, 4))
>>> to_xarray(fields.values, fields).u_y.attrs["fieldsym_type"]
'vector u[1]'
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fieldsym.bundle import Bundle
from fieldsym.data.axes import Axis
from fieldsym.data.bases import base_to_json
from fieldsym.data.cards import Entry, entries_of
from fieldsym.data.dimensions import quiet
from fieldsym.data.fields import Fields
from fieldsym.errors import DataError, GridError

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
STALE = [
    "_FillValue",
    "missing_value",
    "scale_factor",
    "add_offset",
    "valid_range",
    "valid_min",
    "valid_max",
    "actual_range",
    "unpacked_valid_range",
]


def to_xarray(
    values: Tensor, like: Fields, *, time: Array | None = None, bundle: Bundle | None = None
) -> xr.Dataset:
    """A tensor as a dataset that looks like the file its input came from.

    Coordinates, units, attributes, calendar, order of dimensions and direction of axes are those
    of ``like``; packing is dropped, points outside the mask are NaN, and the type of each variable
    is written into its attribute ``fieldsym_type``.

    Parameters
    ----------
    values : Tensor (channel, *grid), (time, channel, *grid) or (sample, time, channel, *grid)
    like : Fields
    time : one date or number per step, default those of ``like``
    bundle : type of ``values``, default that of ``like``

    Raises
    ------
    BundleError   if ``values`` is not a section of the bundle.
    DataError, GridError   if times or grid do not fit.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> bundle = fs.Bundle(fs.Torus((2.0, 3.0)), "pseudoscalar w + vector u")
    >>> ds = to_xarray(torch.zeros(5, 3, 6, 4), Fields.of(bundle, torch.zeros(5, 3, 6, 4)))
    >>> {name: ds[name].attrs["fieldsym_type"] for name in ds}
    {'w': 'pseudoscalar w', 'u_x': 'vector u[0]', 'u_y': 'vector u[1]'}
    """
    import xarray as xr

    bundle = bundle or like.bundle
    bundle.check(values, "to_xarray")
    if bundle.grid(values) != like.grid:
        raise GridError(
            f"to_xarray expects values on the grid {like.grid} of 'like'; got "
            f"{bundle.grid(values)}."
        )
    lead = ("sample", like.time_name)[-(values.ndim - bundle.base.dim - 1) :]
    lead = lead if values.ndim > bundle.base.dim + 1 else ()
    array = values.detach().cpu().numpy().copy()
    if like.mask is not None:
        array[..., ~like.mask.cpu().numpy()] = np.nan
    entries = like.entries if bundle == like.bundle else entries_of(bundle, like.entries)
    ds = xr.Dataset(attrs=dict(like.template.attrs) if like.template is not None else {})
    for name, variable in _variables(array, entries, like, lead).items():
        ds[name] = variable
    if like.time_name in lead:
        steps = array.shape[len(lead) - 1]
        ds = ds.assign_coords({like.time_name: _times(like, time, steps)})
    ds = _with_coordinates(ds, like)
    if like.frame == "cartesian":
        ds.attrs["fieldsym_base"] = base_to_json(bundle.base)
    return ds


def _variables(
    array: Array, entries: Sequence[Entry], like: Fields, lead: tuple[str, ...]
) -> dict[str, xr.DataArray]:
    import xarray as xr

    space = tuple(a.name for a in like.axes)
    stacks: dict[str, list[tuple[float | None, Array]]] = {}
    types: dict[str, str] = {}
    channel = len(lead)
    c = 0
    for e in entries:
        for i, v in enumerate(e.typed.variables):
            part = _as_stored(np.take(array, c, axis=channel), like.axes)
            stacks.setdefault(v, []).append((e.level, part))
            index = f"[{i}]" if len(e.typed.variables) > 1 else ""
            types[v] = f"{e.typed.kind} {e.typed.name}{index}"
            c += 1
    out = {}
    for v, parts in stacks.items():
        levels = [level for level, _ in parts]
        if levels[0] is None:
            da = xr.DataArray(parts[0][1], dims=(*lead, *space))
        else:
            da = xr.DataArray(
                np.stack([p for _, p in parts], channel), dims=(*lead, like.level_name, *space)
            )
            da = da.assign_coords({like.level_name: _stored_levels(like, levels)})
        stored = like.layout.get(v, (like.level_name, *space[::-1]))
        order = [d for d in stored if d in da.dims]
        da = da.transpose(*[d for d in da.dims if d not in order], *order)
        stored_attrs = like.attributes.get(v, {}).items()
        kept = {k: a for k, a in stored_attrs if k not in STALE and (k != "units" or a)}
        units = like.units.get(types[v].split()[-1].partition("[")[0], "")
        da.attrs = {**({"units": units} if units else {}), **kept, "fieldsym_type": types[v]}
        out[v] = da
    return out


def _as_stored(part: Array, axes: Sequence[Axis]) -> Array:
    for i, axis in enumerate(axes):
        position = part.ndim - len(axes) + i
        if axis.seam:
            first = np.take(part, [0], axis=position)
            part = np.concatenate([part, first], axis=position)
        if axis.flipped:
            part = np.flip(part, axis=position)
    return part


def _stored_levels(like: Fields, levels: Sequence[float | None]) -> Array:
    name = like.level_name
    if like.template is not None and name in like.template.coords:
        dtype = like.template[name].dtype
        return np.asarray(levels, dtype=np.float64).astype(dtype)
    return np.asarray(levels, dtype=np.float64)


def _times(like: Fields, time: Array | None, steps: int) -> xr.Variable:
    import xarray as xr

    values = like.time if time is None else np.asarray(time)
    if len(values) != steps:
        raise DataError(
            f"to_xarray got {steps} steps and {len(values)} times; pass time=, one per step."
        )
    name, old = like.time_name, None
    if like.template is not None and name in like.template.coords:
        old = like.template[name]
    attrs = {k: a for k, a in (old.attrs if old is not None else {}).items()
             if k not in (*STALE, "bounds", "climatology")}  # fmt: skip
    variable = xr.Variable((name,), values, attrs)
    if old is not None:
        variable.encoding = {k: old.encoding[k] for k in ("units", "calendar") if k in old.encoding}
    return variable


def _with_coordinates(ds: xr.Dataset, like: Fields) -> xr.Dataset:
    if like.template is None:
        return ds.assign_coords({a.name: a.values for a in like.axes})
    kept = like.template.drop_vars(like.time_name, errors="ignore")
    if like.time_name not in ds.dims and like.time_name in like.template.coords:
        scalar = like.template[like.time_name]
        ds = ds.assign_coords({like.time_name: scalar}) if scalar.ndim == 0 else ds
    for name, variable in kept.variables.items():
        if name in ds.coords and name == like.level_name:
            ds[name].attrs = dict(variable.attrs)
        elif name not in ds.variables and _fits(variable, ds, like):
            variable = variable.copy()
            variable.encoding = {}
            if name in kept.coords:
                ds = ds.assign_coords({name: variable})
            else:
                ds[name] = variable
    return ds


def _fits(variable: xr.Variable, ds: xr.Dataset, like: Fields) -> bool:
    # bounds bring a dimension of their own; what depends on absent or selected levels is left out
    known = {a.name for a in like.axes} | {like.level_name, like.time_name}
    return all(d not in known or ds.sizes.get(d) == n for d, n in variable.sizes.items())


def write_netcdf(ds: xr.Dataset, path: str | Path) -> Path:
    """Write a dataset, compressed, under a temporary name that replaces ``path`` when complete.

    Raises
    ------
    DataError   if it cannot be written; nothing is left behind then.
    """
    path = Path(path)
    encoding = {
        v: {"zlib": True, "complevel": 4}
        for v in ds.data_vars
        if ds[v].ndim and ds[v].dtype.kind in "fiu"
    }
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror} ({path.parent}).") from error
    os.close(handle)
    part = Path(name)
    try:
        with quiet():
            ds.to_netcdf(part, encoding=encoding)
        part.chmod(0o644)
        part.replace(path)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise DataError(f"Cannot write {path}: {error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return path
