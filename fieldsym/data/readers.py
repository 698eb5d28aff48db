"""Files to one labelled dataset whose axes are known: opening, combining, ordering.

xarray reads and unpacks; this module joins files (along time, or variable by variable), repairs
what keeps time from being decoded, and says of each dimension what it is: time, level, sample, or
a space axis, periodic or not, regular or Gauss. Everything it decides is written down as a note.

>>> axis = make_axis("lat", "latitude", np.linspace(-40.0, -30.0, 41))
>>> axis.length, axis.spacing, axis.periodic
(10.0, 0.25, False)

To add a format: xarray's backends find it. To add a name of a dimension: one word in ``NAMES``.
"""

from __future__ import annotations

import glob as globbing
import itertools
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fieldsym.errors import DataError, GridError
from fieldsym.manifold import Box, Manifold, Torus

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
SPACE = ("longitude", "latitude", "x", "y", "z")
NAMES = {
    "longitude": "lon longitude long nav_lon grid_longitude rlon g0_lon_1",
    "latitude": "lat latitude nav_lat grid_latitude rlat g0_lat_0",
    "time": "time valid_time t month timestep time_counter step initial_time0_hours init_time "
    "forecast_time year day hour season",
    "level": "level lev plev pressure_level isobaricinhpa pressure height altitude depth hybrid "
    "levels heightaboveground lv_isbl0 deptht st_ocean zlev ilev model_level pfull",
    "sample": "sample samples trajectory number member ensemble ens realization realisation batch",
    "x": "x nx ni i xc xi_rho west_east projection_x_coordinate",
    "y": "y ny nj j yc eta_rho south_north projection_y_coordinate",
    "z": "z nz nk k zc",
}
ROLES = {word: role for role, words in NAMES.items() for word in words.split()}
CF_ROLES = {"T": "time", "time": "time", "X": "x", "Y": "y", "vertical": "level", "Z": "level"}
UNSTRUCTURED = r"n?_?cells?|ncol|n?nodes?|nod2|values|n?_?face|ngrid|gridpoint|ncells?|elements?"
IRREGULAR = 0.02
GAUSS = 1e-4


@dataclass(frozen=True)
class Axis:
    """A space axis: increasing coordinates, and how the file stores them.

    ``values`` are the coordinates of the samples that are kept; ``flipped`` says that the file
    stores them decreasing, ``seam`` that it repeats the first one at the end.
    """

    name: str
    role: str
    values: Array
    units: str = ""
    periodic: bool = False
    gauss: bool = False
    flipped: bool = False
    seam: bool = False

    @property
    def spacing(self) -> float:
        """Mean distance between neighbours."""
        return float(self.values[-1] - self.values[0]) / (len(self.values) - 1)

    @property
    def length(self) -> float:
        """Period of a periodic axis, else the distance between the first and the last sample."""
        return self.spacing * (len(self.values) - (0 if self.periodic else 1))

    @property
    def poles(self) -> bool:
        """Whether a latitude axis has a row on a pole."""
        return self.role == "latitude" and bool(np.abs(self.values).max() > 90 - 1e-3)

    def __str__(self) -> str:
        return (
            f"{len(self.values)} points of {self.name} from {self.values[0]:g} to "
            f"{self.values[-1]:g}"
        )

    def weights(self) -> Array:
        """Quadrature weights along the axis, (N,): sphere for a latitude, length otherwise."""
        n = len(self.values)
        if self.role == "latitude":
            return latitude_weights(self.values)
        w = np.full(n, self.spacing)
        if not self.periodic and n > 1:
            w[[0, -1]] /= 2
        return w


def latitude_weights(latitudes: Array) -> Array:
    """Weights of the integral over sin(latitude), for increasing latitudes in degrees.

    Gauss nodes get Gauss weights (of the exact nodes), equal steps from pole to pole get
    Clenshaw–Curtiss weights, anything else the area between the midpoints. Never negative.

    Examples
    --------
    >>> latitude_weights(np.linspace(-90.0, 90.0, 7)).sum().round(12)
    np.float64(2.0)
    """
    n = len(latitudes)
    if is_gauss(latitudes):
        return np.polynomial.legendre.leggauss(n)[1]
    uniform = np.allclose(latitudes, np.linspace(-90, 90, n), rtol=0, atol=1e-3)
    if uniform and n > 2:
        theta = np.radians(90.0 - latitudes)
        k = np.arange(1, (n - 1) // 2 + 1)
        half = np.where(2 * k == n - 1, 1.0, 2.0) / (4.0 * k**2 - 1)
        w = (1 - (half[:, None] * np.cos(2 * k[:, None] * theta)).sum(0)) * 2 / (n - 1)
        w[[0, -1]] /= 2
        return np.clip(w, 0, None)
    middle = (latitudes[1:] + latitudes[:-1]) / 2
    first, last = latitudes[0] * 2 - middle[0], latitudes[-1] * 2 - middle[-1]
    edges = np.clip(np.concatenate([[first], middle, [last]]), -90, 90)
    return np.diff(np.sin(np.radians(edges)))


def is_gauss(latitudes: Array) -> bool:
    """Whether increasing latitudes are Gauss–Legendre nodes, to 1e-4 degrees (float32 files)."""
    nodes = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(len(latitudes))[0]))
    return len(latitudes) > 3 and float(np.abs(latitudes - nodes).max()) < GAUSS


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

    if path.is_dir() and not any(path.glob("[.z]*")):
        raise DataError(f"{path} is a folder, not a zarr store; give a glob such as '{path}/*.nc'.")
    notes: list[str] = []
    problem: Exception | None = None
    for decode in (True, False):
        try:
            with quiet(), xr.open_dataset(path, decode_times=decode, decode_timedelta=False) as ds:
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


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which xarray keeps its remarks on odd encodings to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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


# ---------------------------------------------------------------------------------------- axes


def is_bounds(ds: xr.Dataset, name: str) -> bool:
    """Whether a variable holds the bounds of cells, which are never a field."""
    named = {
        v.attrs.get(k) or v.encoding.get(k) for v in ds.variables.values() for k in ("bounds",)
    }
    short = {"bnds", "bounds", "nb2", "nv", "vertices", "bound"} & {str(d) for d in ds[name].dims}
    return name in named or bool(short) or bool(re.search(r"_(bnds|bounds|vertices)$", name))


def roles(ds: xr.Dataset) -> dict[str, str]:
    """What each dimension is: a space axis, time, level or sample; unknown ones are left out.

    CF attributes speak first (read by cf_xarray), then the name of the dimension.
    """
    import cf_xarray  # noqa: F401  registers the accessor

    found = {str(d): role for d in ds.dims if (role := _role_by_name(str(d)))}
    with quiet():
        cf = {**ds.cf.axes, **ds.cf.coordinates}
    for key, names in cf.items():
        role = CF_ROLES.get(key, key)
        for name in names:
            known = found.get(name) in ("longitude", "latitude") and role in ("x", "y")
            if name in ds.dims and role in (*NAMES, "level") and not known:
                found[str(name)] = role
    for d in ds.dims:
        if str(d) not in found and d in ds.coords and ds[d].dtype.kind in "M":
            found[str(d)] = "time"
    lonlat = {"longitude", "latitude"} & set(found.values())
    for d, role in found.items():
        if role in ("z", "level") and ROLES.get(d.lower()) == "z":
            found[d] = "level" if lonlat else "z"
    return found


def _role_by_name(dim: str) -> str:
    # staggered grids number or letter their axes: lat_v, lon_2
    name = dim.lower()
    return ROLES.get(name) or ROLES.get(re.sub(r"_?(\d|[uvtwcfq])$", "", name), "")


def make_axis(name: str, role: str, stored: Array, units: str = "") -> Axis:
    """An axis from its stored coordinates: wrapped, flipped, its repeated seam dropped.

    Raises
    ------
    GridError   if the coordinates are not monotonic, not regular (nor Gauss), or out of range.
    """
    values = np.asarray(stored, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise GridError(f"The axis '{name}' needs at least two finite coordinates; got {values}.")
    if role == "longitude":
        values = np.unwrap(values, period=360.0)
    steps = np.diff(values)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise GridError(
            f"The coordinates of '{name}' must increase or decrease all along; got {values[:3]} … "
            f"{values[-3:]}. Sort the dataset by it: ds.sortby('{name}')."
        )
    flipped = bool(steps[0] < 0)
    values = values[::-1].copy() if flipped else values
    if role == "latitude" and np.abs(values).max() > 90 + 1e-3:
        raise GridError(f"Latitudes must lie in -90 … 90 degrees; '{name}' reaches {values[-1]:g}.")
    gauss = role == "latitude" and is_gauss(values)
    seam = role == "longitude" and len(values) > 2 and abs(values[-1] - values[0] - 360) < 1e-3
    values = values[:-1] if seam else values
    h = (values[-1] - values[0]) / (len(values) - 1)
    periodic = role == "longitude" and abs(h * len(values) - 360) < IRREGULAR * h
    if not gauss:
        _check_regular(name, values, h)
    return Axis(name, role, values, units, periodic, gauss, flipped, seam)


def _check_regular(name: str, values: Array, h: float) -> None:
    deviation = np.abs(values - (values[0] + h * np.arange(len(values))))
    if deviation.max() > IRREGULAR * h:
        raise GridError(
            f"The axis '{name}' must have equal steps (or be Gauss latitudes); it deviates by up "
            f"to {deviation.max():.3g} from steps of {h:.4g} at {values[deviation.argmax()]:g}. "
            "Interpolate it to equal steps, for example with ds.interp."
        )


def index_axis(name: str, role: str, n: int) -> Axis:
    """An axis without coordinates, in units of grid cells."""
    return Axis(name, role, np.arange(n, dtype=np.float64), "cells")


def check_unstructured(ds: xr.Dataset, variables: Iterable[str], known: dict[str, str]) -> None:
    """Raise ``GridError`` if a variable lies on a list of points instead of a grid."""
    for v in variables:
        for d in ds[v].dims:
            shared = [n for n in ds.coords if ds[n].dims == (d,) and n != d]
            listed = sum(ROLES.get(str(n).lower()) in ("longitude", "latitude") for n in shared) > 1
            if str(d) not in known and (listed or re.fullmatch(UNSTRUCTURED, str(d).lower())):
                raise GridError(
                    f"The variable '{v}' lies on an unstructured grid: '{d}' is a list of "
                    f"{ds.sizes[d]} points, not an axis. Interpolate it to a regular grid first."
                )


def frame(ds: xr.Dataset, axes: Sequence[Axis]) -> str:
    """The frame of the axes: "geographic", "rotated pole", "curvilinear" or "cartesian"."""
    dims = {a.name for a in axes}
    mappings = {str(ds[n].attrs.get("grid_mapping_name", "")) for n in ds.variables}
    standard = {str(ds[d].attrs.get("standard_name", "")) for d in dims if d in ds.coords}
    if "rotated_latitude_longitude" in mappings or "grid_latitude" in standard or "rlat" in dims:
        return "rotated pole"
    lonlat = [n for n in ds.variables if ROLES.get(str(n).lower()) in ("longitude", "latitude")]
    if any(ds[n].ndim == 2 and set(ds[n].dims) <= dims for n in lonlat):
        return "curvilinear"
    return "geographic" if {a.role for a in axes} & {"longitude", "latitude"} else "cartesian"


def level_text(level: float) -> str:
    return f"{float(level):g}".replace("-", "m").replace(".", "p").replace("+", "")


PRESSURE = {"pa": 1.0, "hpa": 100.0, "millibars": 100.0, "millibar": 100.0, "mb": 100.0}


def level_positions(ds: xr.Dataset, name: str, levels: Sequence[float | str]) -> list[int]:
    stored = ds[name].values.astype(np.float64)
    units = str(ds[name].attrs.get("units", ""))
    found = []
    for level in levels:
        match = re.fullmatch(r"\s*([-+.\deE]+)\s*(\w*)\s*", str(level))
        if not match:
            raise DataError(f"A level is a number or a string such as '850 hPa'; got {level!r}.")
        number, unit = float(match[1]), match[2] or units
        if unit.lower() != units.lower():
            if not {unit.lower(), units.lower()} <= set(PRESSURE):
                raise DataError(
                    f"The levels of '{name}' are in '{units or '(no units given)'}'; got {level!r}."
                )
            number *= PRESSURE[unit.lower()] / PRESSURE[units.lower()]
        hits = np.flatnonzero(np.isclose(stored, number, rtol=1e-5))
        if not len(hits):
            listed = ", ".join(f"{x:g}" for x in stored)
            raise DataError(f"There is no level {level!r} in '{name}': {listed} {units}.")
        found.append(int(hits[0]))
    return found


def build_base(
    attributes: Mapping, axes: Sequence[Axis], frame: str, base: Manifold | None, notes: list[str]
) -> Manifold:
    """The base of some axes: as given, as the file's ``fieldsym_base`` says, or a box."""
    if base is None and "fieldsym_base" in attributes:
        base = base_from_json(str(attributes["fieldsym_base"]))
    if base is not None:
        if base.dim != len(axes):
            raise GridError(
                f"The base {base} has {base.dim} axes; the data have {len(axes)}: "
                f"{', '.join(a.name for a in axes)}."
            )
        return base
    if frame == "geographic":
        notes.append("the base is a flat chart in degrees; components point east and north")
    elif frame != "cartesian":
        notes.append(f"the grid is {frame}: a regional box in the coordinates of its axes")
    else:
        names = ", ".join(a.name for a in axes)
        notes.append(f"{names} taken as not periodic; pass base=fs.Torus(...) if they wrap around")
    return Box(
        [360.0 if a.periodic else _round(a.length) for a in axes],
        periodic=[a.periodic for a in axes],
        location="node",
        origin=[_round(float(a.values[0])) for a in axes],
    )


def _round(x: float) -> float:
    return float(f"{x:.7g}")  # coordinates are often stored in float32


def base_to_json(base: Manifold) -> str:
    """A torus or box as the attribute ``fieldsym_base`` of a file."""
    entries = {
        "kind": type(base).__name__.lower(),
        "lengths": base.lengths,
        "periodic": base.periodic,
        "location": base.location,
        "origin": base.origin,
    }
    return json.dumps(entries)


def card_base(entries: Mapping[str, object]) -> dict[str, str]:
    """The base of a dataset card as the attribute of a file; a card without lengths has none."""
    return {"fieldsym_base": json.dumps(entries)} if "lengths" in entries else {}


def base_from_json(text: str) -> Manifold:
    """The base that the attribute ``fieldsym_base`` of a file describes.

    Examples
    --------
    >>> base_from_json('{"kind": "torus", "lengths": [1.0, 2.0]}')
    Torus(1, 2)
    """
    try:
        entries = json.loads(text)
        kind, lengths = entries["kind"], entries["lengths"]
        rest = {"location": entries.get("location", "node"), "origin": entries.get("origin")}
        if kind == "torus":
            return Torus(lengths, **rest)
        if kind == "box":
            return Box(lengths, entries.get("periodic"), **rest)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"The attribute fieldsym_base is not readable: {text!r}.") from error
    raise DataError(f"The attribute fieldsym_base names a torus or a box; got {text!r}.")


def pole_residual(u: Array, axes: Sequence[Axis]) -> float:
    """How far the rows of (…, 2, longitude, latitude) at the poles are from one tangent vector.

    East and north turn with the longitude; in a fixed frame all entries of a pole row are equal.
    """
    turn = np.exp(1j * np.radians(axes[0].values))
    worst = 0.0
    for row, sign in ((0, 1.0), (-1, -1.0)):
        if abs(abs(axes[1].values[row]) - 90) > 1e-3:
            continue
        fixed = (sign * u[..., 1, :, row] + 1j * u[..., 0, :, row]) * turn
        rest = float(np.linalg.norm(fixed - fixed.mean(-1, keepdims=True)))
        worst = max(worst, rest / max(float(np.linalg.norm(fixed)), 1e-30))
    return worst
