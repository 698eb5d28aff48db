"""Files to one labelled dataset: opening, combining, ordering.

xarray reads and unpacks; this module joins files (along time, or variable by variable) and repairs
what keeps time from being decoded. Everything it decides is written down as a note.

To add a format: xarray's backends find it.
"""

from __future__ import annotations

import glob as globbing
import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fieldsym.data.dimensions import ROLES, SPACE, is_bounds, quiet
from fieldsym.errors import DataError, GridError

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray

# ------------------------------------------------------------------------------------- opening


def open_dataset(
    source: object, wanted: Sequence[str] | None = None
) -> tuple[xr.Dataset, list[str], str]:
    """One dataset from a path, a glob, a list of paths, a Dataset or a DataArray.

    Files with the same variables are joined along time, in the order of their time coordinate;
    files with different variables are merged. Of files, only the wanted variables are read into
    memory (default all). Also returned: notes, and a name for messages.

    Raises
    ------
    DataError   if nothing matches, or a file cannot be read.
    GridError   if files lie on different grids.
    """
    import xarray as xr

    if isinstance(source, xr.DataArray):
        source = source.to_dataset(name=source.name or "field")
    if isinstance(source, xr.Dataset):
        packed = {"scale_factor", "add_offset", "_FillValue", "missing_value"}
        if any(packed & set(v.attrs) for v in source.variables.values()):
            with quiet():
                source = xr.decode_cf(source, decode_times=False)
        ds, notes = repair_time(source)
        return ds, notes, "dataset"
    paths = find_files(source)
    parts = [_open_file(path, wanted, len(paths) > 1) for path in paths]
    notes = list(dict.fromkeys(note for _, said in parts for note in said))
    label = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files from {paths[0]}"
    return _combine([ds for ds, _ in parts], paths, notes), notes, label


def find_files(source: object) -> list[Path]:
    """Paths that a path, a glob pattern or a list of either stands for, sorted within a glob."""
    if isinstance(source, str | Path):
        text = str(Path(source).expanduser())
        if re.search(r"[*?\[]", text) and not Path(text).exists():
            found = sorted(globbing.glob(text, recursive=True))  # noqa: PTH207  absolute patterns
        else:
            found = [text] if Path(text).exists() else []
        if not found:
            raise DataError(
                f"Expected a file, a folder.zarr or a glob; nothing matches '{source}'."
            )
        return [Path(name) for name in found]
    if isinstance(source, Sequence) and source:
        return [path for part in source for path in find_files(part)]
    raise DataError(
        "Expected a path, a glob, a list of paths, an xarray Dataset or a DataArray; got "
        f"{type(source).__name__}."
    )


def _open_file(
    path: Path, wanted: Sequence[str] | None, many: bool
) -> tuple[xr.Dataset, list[str]]:
    import xarray as xr

    engine = _engine(path)
    notes: list[str] = []
    problem: Exception | None = None
    for decode in (True, False):
        try:
            with (
                quiet(),
                xr.open_dataset(
                    path, engine=engine, decode_times=decode, decode_timedelta=False
                ) as ds,
            ):
                if not decode:
                    notes.append("the units of time cannot be decoded: time is a plain number")
                ds, said = repair_time(ds)
                return _read(ds, wanted, many), notes + said
        except (OSError, ValueError, RuntimeError, KeyError, EOFError, OverflowError) as error:
            problem = problem or error
    raise DataError(
        f"Expected a netCDF file or a zarr store; {path} cannot be read "
        f"({type(problem).__name__}: {' '.join(str(problem).split())[:160]}). It may be truncated "
        "or of another format: check its size, or download it again."
    )


def _engine(path: Path) -> str | None:
    """The backend of a zarr store, a folder; of files xarray finds it."""
    if not path.is_dir():
        return None
    if not any(path.glob("[.z]*")):
        raise DataError(f"{path} is a folder, not a zarr store; give a glob such as '{path}/*.nc'.")
    if find_spec("zarr") is None:
        raise DataError(f"{path} is a zarr store; to read it, install zarr: fieldsym[zarr].")
    return "zarr"


def _read(ds: xr.Dataset, wanted: Sequence[str] | None, many: bool) -> xr.Dataset:
    """Load what is wanted; where all of it is in the file, leave the rest on disk."""
    names = {v: {str(v), *map(ds[v].attrs.get, ("standard_name", "short_name"))} for v in ds}
    if wanted is None or not set(wanted) <= set().union(*names.values()):
        return ds.load()
    large = [v for v in ds if ds[v].ndim > 1 and not names[v] & set(wanted)]
    rest = [v for v in large if not is_bounds(ds, str(v))]
    ds.drop_vars(rest).load()
    return ds.drop_vars(rest) if many else ds


def repair_time(ds: xr.Dataset) -> tuple[xr.Dataset, list[str]]:
    """Decode a time whose units hide under another spelling (``Unit`` = "days since …")."""
    import xarray as xr

    names = [n for n in ds.coords if ROLES.get(str(n).lower()) == "time"]
    for name in names:
        attrs = {k.lower(): v for k, v in ds[name].attrs.items()}
        units = str(attrs.get("unit", attrs.get("units", "")))
        if "since" not in units or ds[name].dtype.kind not in "iuf":
            continue
        fixed = ds.assign_coords({name: ds[name].variable.copy(deep=False)})
        fixed[name].attrs = {k: v for k, v in ds[name].attrs.items() if k.lower() != "unit"}
        fixed[name].attrs["units"] = units
        with suppress(ValueError, OverflowError), quiet():
            decoded = xr.decode_cf(fixed, decode_timedelta=False, mask_and_scale=False)
            return decoded, [f"time decoded from '{units}'"]
    return ds, []


# ----------------------------------------------------------------------------------- combining


def _combine(parts: list[xr.Dataset], paths: list[Path], notes: list[str]) -> xr.Dataset:
    import xarray as xr

    if len(parts) == 1:
        return parts[0]
    groups: dict[frozenset, list[int]] = {}
    for i, ds in enumerate(parts):
        groups.setdefault(
            frozenset(n for n in ds.data_vars if not is_bounds(ds, str(n))), []
        ).append(i)
    for members in groups.values():
        for i in members[1:]:
            _same_grid(parts[members[0]], parts[i], paths[members[0]], paths[i])
    joined = [_along_time([parts[i] for i in members], notes) for members in groups.values()]
    if len(joined) == 1:
        return joined[0]
    _check_distinct(joined)
    kinds = [(ds, paths[members[0]]) for ds, members in zip(joined, groups.values(), strict=True)]
    for (a, path_a), (b, path_b) in itertools.combinations(kinds, 2):
        _same_grid(a, b, path_a, path_b)
        _same_times(a, b, path_a, path_b)
    notes.append(f"variables merged from {len(groups)} kinds of files")
    try:
        return xr.merge(joined, compat="override", join="exact", combine_attrs="override")
    except ValueError as error:
        raise GridError(f"The files cannot be merged: {error}.") from error


def _check_distinct(joined: Sequence[xr.Dataset]) -> None:
    # xarray would silently keep the first of two variables of one name
    seen: set[str] = set()
    for ds in joined:
        names = {str(v) for v in ds if ds[v].ndim > 1 and not is_bounds(ds, str(v))}
        if seen & names:
            raise DataError(
                f"The variables {', '.join(sorted(seen & names))} occur in files whose other "
                "variables differ, so the files are not steps of one series; open them apart."
            )
        seen |= names


def _same_grid(a: xr.Dataset, b: xr.Dataset, path_a: Path, path_b: Path) -> None:
    for name in a.coords:
        role = ROLES.get(str(name).lower())
        if role not in (*SPACE, "level") or name not in b.coords:
            continue
        x, y = a[name].values, b[name].values
        if x.shape != y.shape or not np.allclose(x, y, rtol=0, atol=1e-4):
            raise GridError(
                f"The files lie on different grids: {path_a.name} has {_range(name, x)}, "
                f"{path_b.name} has {_range(name, y)}. Regrid one of them, or open them apart."
            )


def _range(name: object, x: Array) -> str:
    return f"{name} {x.flat[0]:g} … {x.flat[-1]:g} ({x.size} points)"


def _same_times(a: xr.Dataset, b: xr.Dataset, path_a: Path, path_b: Path) -> None:
    names = [n for n in a.dims if ROLES.get(str(n).lower()) == "time" and n in b.coords]
    for name in names:
        if name in a.coords and not np.array_equal(a[name].values, b[name].values):
            raise DataError(
                f"The times of {path_a.name} ({a.sizes[name]} steps from {a[name].values[0]}) and "
                f"{path_b.name} ({b.sizes.get(name, 1)} steps from {b[name].values.flat[0]}) "
                "differ; select the common steps and pass a Dataset."
            )


def _along_time(parts: list[xr.Dataset], notes: list[str]) -> xr.Dataset:
    import xarray as xr

    if len(parts) == 1:
        return parts[0]
    names = [str(n) for n in parts[0].coords if ROLES.get(str(n).lower()) == "time"]
    name = next((n for n in names if n in parts[0].dims), names[0] if names else "time")
    if not names:
        notes.append("the files have no time: joined in the order of their names")
    steps = [ds if name in ds.dims else ds.expand_dims(name) for ds in parts]
    ordered = sorted(steps, key=lambda ds: ds[name].values[0]) if names else steps
    with quiet():
        return xr.concat(
            ordered, dim=name, data_vars="minimal", coords="minimal", compat="override",
            join="override", combine_attrs="override",
        )  # fmt: skip
