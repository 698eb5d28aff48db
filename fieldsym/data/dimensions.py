"""What the dimensions of a dataset are: space axes, time, level or sample; frames and levels.

>>> import xarray as xr
>>> roles(xr.Dataset({"t": (("time", "plev", "lat", "lon"), np.zeros((1, 2, 3, 4)))}))
{'time': 'time', 'plev': 'level', 'lat': 'latitude', 'lon': 'longitude'}

To add a name of a dimension: one word in ``NAMES``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from fieldsym.data.axes import Axis
from fieldsym.data.cards import Typed
from fieldsym.errors import DataError, GridError
from fieldsym.manifold import Manifold

if TYPE_CHECKING:
    import xarray as xr

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
PRESSURE = {"pa": 1.0, "hpa": 100.0, "millibars": 100.0, "millibar": 100.0, "mb": 100.0}


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which xarray keeps its remarks on odd encodings to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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


def check_frame(frame: str, typed: Sequence[Typed], base: Manifold | None) -> None:
    """Raise ``GridError`` if components may not follow the axes and no base says that they do."""
    turning = [t for t in typed if not t.kind.endswith("scalar")]
    if turning and base is None and frame in ("rotated pole", "curvilinear"):
        raise GridError(
            f"The grid is {frame}, so the components of '{turning[0].kind} {turning[0].name}' are "
            "grid-relative or do not follow the axes: derotate and interpolate them to a "
            "longitude-latitude grid. If they do follow the axes of a flat grid, pass its base, "
            "for example base=fs.Box((...))."
        )


def level_text(level: float) -> str:
    """A level in a name: 850, 0p5, m10."""
    return f"{float(level):g}".replace("-", "m").replace(".", "p").replace("+", "")


def level_positions(ds: xr.Dataset, name: str, levels: Sequence[float | str]) -> list[int]:
    """Positions of levels, numbers in the units of the axis or strings such as "850 hPa"."""
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
