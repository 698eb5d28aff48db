"""A dataset on its way to a tensor: the variables, the axes, then the numbers in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fieldsym.data import dimensions, steps
from fieldsym.data.axes import Axis, index_axis, make_axis
from fieldsym.data.cards import Card, Entry, Typed
from fieldsym.errors import DataError, GridError

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
LARGE = 4e9


class Reader:
    """A dataset on its way to a tensor: which dimensions are what, which order they get."""

    def __init__(self, ds: xr.Dataset, notes: list[str]) -> None:
        self.original, self.ds, self.notes = ds, ds, notes
        self.roles = dimensions.roles(ds)
        self.extra: dict[str, str] = {}
        self.dims: tuple[str, ...] = ()
        times = [str(n) for n in ds.coords if dimensions.ROLES.get(str(n).lower()) == "time"]
        scalars = [n for n in times if ds[n].ndim == 0]
        scalars.sort(key=lambda n: not steps.is_date(np.atleast_1d(ds[n].values)))
        self.scalar_time = scalars[0] if scalars else ""

    # which variables

    def select(self, variables: list[str] | None, declared: list[Typed]) -> list[str]:
        asked = [v for t in declared for v in t.variables]
        if variables is None:
            found = [v for v in self.candidates() if v not in asked]
            names = [self.match(v) for v in asked] + found
        else:
            names = [self.match(v) for v in variables]
            names += [self.match(v) for v in asked if self.match(v) not in names]
        if not names:
            raise DataError(
                "Expected at least one variable on a grid; the file has "
                f"{self.listing()}. Name its axes x and y, or longitude and latitude."
            )
        return list(dict.fromkeys(names))

    def listing(self) -> str:
        found = (f"{v}{self.ds[v].dims}".replace("'", "") for v in self.ds.data_vars)
        return ", ".join(found) or "no variable"

    def candidates(self) -> list[str]:
        fields = [str(v) for v in self.ds.data_vars if not dimensions.is_bounds(self.ds, str(v))]
        dimensions.check_unstructured(self.ds, fields, self.roles)
        count = {v: len(self.space_dims(v)) for v in fields}
        most = max(count.values(), default=0)
        found = [v for v in fields if count[v] == most > 0]
        numbers = [v for v in found if self.ds[v].dtype.kind == "f"]
        if len(numbers) < len(found):
            rest = ", ".join(v for v in found if v not in numbers)
            self.notes.append(f"left out, as it does not hold real numbers: {rest}")
        return numbers

    def match(self, name: str) -> str:
        ds = self.ds
        if name in ds.data_vars:
            return name
        for key in ("standard_name", "short_name"):
            hits = [str(v) for v in ds.data_vars if ds[v].attrs.get(key) == name]
            if len(hits) > 1:
                raise DataError(f"Several variables have the {key} '{name}': {', '.join(hits)}.")
            if hits:
                return hits[0]
        raise DataError(f"There is no variable '{name}'. The file has {self.listing()}.")

    def attributes(self, variable: str, card: Card | None) -> dict[str, object]:
        attrs = {str(k): v for k, v in self.ds[variable].attrs.items()}
        spelt = next((k for k in ("units", "Unit", "Units", "unit") if k in attrs), "units")
        attrs["units"] = str(attrs.pop(spelt, "")).strip()
        if card and not attrs["units"]:
            attrs["units"] = card.units.get(variable, "")
        return attrs

    # which axes

    def space_dims(self, variable: str) -> tuple[str, ...]:
        dims = [
            str(d) for d in self.ds[variable].dims if self.roles.get(str(d)) in dimensions.SPACE
        ]
        long = [d for d in dims if self.ds.sizes[d] > 1] or dims
        return tuple(sorted(long, key=lambda d: dimensions.SPACE.index(self.roles[d])))

    def space(self, names: list[str]) -> tuple[Axis, ...]:
        dimensions.check_unstructured(self.ds, names, self.roles)
        for v in names:
            self.check_dims(v)
        self.dims = self.space_dims(names[0])
        for v in names[1:]:
            if self.space_dims(v) != self.dims:
                raise GridError(
                    f"Components and fields must lie on one grid: '{names[0]}' has "
                    f"{self.grid_text(self.dims)}, '{v}' has {self.grid_text(self.space_dims(v))}. "
                    "Select the variables of one grid with variables=[...], or regrid."
                )
        axes = tuple(self.axis(d, names) for d in self.dims)
        for axis in axes:
            if axis.flipped:
                self.ds = self.ds.isel({axis.name: slice(None, None, -1)})
                self.notes.append(f"{axis.name} decreases in the file and was reversed")
            if axis.seam:
                self.check_seam(axis.name, names)
                self.ds = self.ds.isel({axis.name: slice(0, -1)})
                self.notes.append(f"the repeated last column of {axis.name} was dropped")
        return axes

    def check_dims(self, v: str) -> None:
        if self.ds[v].dtype.kind not in "fiub" or not self.ds[v].size:
            raise DataError(
                f"A field holds real numbers; '{v}' has shape {self.ds[v].shape} and type "
                f"{self.ds[v].dtype}. Select other variables."
            )
        roles = [self.roles.get(str(d), "") for d in self.ds[v].dims]
        for d, role in zip(self.ds[v].dims, roles, strict=True):
            size = self.ds.sizes[d]
            if not role and size > 1:
                raise DataError(
                    f"The dimension '{d}' ({size}) of '{v}' is neither a space axis nor time, "
                    f"level or sample. Rename it (ds.rename({{'{d}': 'x'}}) if it is a space axis, "
                    f"'sample' if it counts members), or select one entry: ds.isel({d}=0)."
                )
            same = [str(e) for e, r in zip(self.ds[v].dims, roles, strict=True) if r == role]
            if role and len(same) > 1:
                raise DataError(
                    f"'{v}' has two {role} dimensions, {' and '.join(same)}; select one entry of "
                    f"one of them, for example ds.isel({same[-1]}=0)."
                )
            if role not in ("", *dimensions.SPACE) and self.extra.setdefault(role, str(d)) != str(
                d
            ):
                raise DataError(
                    f"The variables have different {role} dimensions, {self.extra[role]} and "
                    f"{d} ('{v}'); select variables that share one."
                )
        if not self.space_dims(v):
            raise GridError(
                f"'{v}' has no space axis: its dimensions are {tuple(self.ds[v].dims)}. Name them "
                "x, y, z, or longitude and latitude."
            )

    def grid_text(self, dims: tuple[str, ...]) -> str:
        def one(d: str) -> str:
            x = self.ds[d].values if d in self.ds.coords else np.arange(self.ds.sizes[d])
            return f"{d} {x[0]:g} … {x[-1]:g} ({len(x)} points)"

        return " × ".join(one(d) for d in dims)

    def axis(self, d: str, names: list[str]) -> Axis:
        role = self.roles[d]
        if d not in self.ds.coords:
            if role in ("longitude", "latitude"):
                raise GridError(
                    f"The dimension '{d}' has no coordinates; assign the {role}s in degrees: "
                    f"ds.assign_coords({d}=...)."
                )
            self.notes.append(f"{d} has no coordinates: lengths are in grid cells")
            return index_axis(d, role, self.ds.sizes[d])
        stored = self.numbers(d)
        if role == "longitude" and np.array_equal(stored - stored[0], np.arange(len(stored))):
            self.check_index(d, names)
        units = str(self.ds[d].attrs.get("units", self.ds[d].attrs.get("Unit", "")))
        return make_axis(d, role, stored, units)

    def numbers(self, d: str) -> Array:
        if d not in self.ds.coords:
            return np.arange(self.ds.sizes[d], dtype=np.float64)
        try:
            return self.ds[d].values.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise GridError(
                f"The coordinates of '{d}' must be numbers; got {self.ds[d].values.flat[0]!r}."
            ) from error

    def closes(self, d: str, v: str) -> bool:
        first, last = self.ds[v].isel({d: 0}).values, self.ds[v].isel({d: -1}).values
        return bool(np.allclose(first, last, equal_nan=True, rtol=1e-4, atol=1e-6))

    def check_index(self, d: str, names: list[str]) -> None:
        closed = all(self.closes(d, v) for v in names)
        if closed and any(np.nanstd(self.ds[v].values) > 0 for v in names):
            raise GridError(
                f"The coordinates of '{d}' are a bare index {self.ds[d].values[0]:g} … "
                f"{self.ds[d].values[-1]:g}, and its first and last columns are equal: this is a "
                f"global grid with a repeated seam and no longitudes. Assign them in degrees: "
                f"ds.assign_coords({d}=np.linspace(0, 360, {self.ds.sizes[d]}))."
            )

    def check_seam(self, d: str, names: list[str]) -> None:
        for v in names:
            if not self.closes(d, v):
                raise GridError(
                    f"The first and last columns of '{d}' are 360 degrees apart but '{v}' differs "
                    "there; drop one of them, or correct the longitudes."
                )

    # which numbers

    def blocks(self, typed: list[Typed], levels: Sequence[float | str] | None) -> tuple[Entry, ...]:
        name = self.extra.get("level", "")
        if name and levels is not None:
            self.ds = self.ds.isel({name: dimensions.level_positions(self.ds, name, levels)})
        elif levels is not None:
            raise DataError(f"levels={list(levels)} was asked for, but no variable has levels.")
        return tuple(e for t in typed for e in self.level_entries(t, name))

    def level_entries(self, t: Typed, name: str) -> list[Entry]:
        have = [v for v in t.variables if name and name in self.ds[v].dims]
        if have and len(have) < len(t.variables):
            raise DataError(
                f"The components of '{t.kind} {t.name}' are on different levels: only "
                f"{', '.join(have)} has the dimension {name}."
            )
        if not have:
            return [Entry(t, t.name)]
        stored = self.numbers(name).tolist()
        if len(set(stored)) < len(stored):
            raise DataError(f"Each level may occur once in '{name}'; got {stored}.")
        return [Entry(t, f"{t.name}_{dimensions.level_text(x)}", x) for x in stored]

    def values(self, entries: tuple[Entry, ...], dtype: np.dtype) -> Array:
        lead = {r: self.ds.sizes[d] for r, d in self.extra.items()}
        shape = (lead.get("sample", 1), lead.get("time", 1))
        grid = tuple(self.ds.sizes[d] for d in self.dims)
        channels = [(v, e.level) for e in entries for v in e.typed.variables]
        out = np.empty((*shape, len(channels), *grid), dtype=dtype)
        if out.nbytes > LARGE:
            self.notes.append(f"the values take {out.nbytes / 1e9:.1f} GB of memory")
        cache: dict[str, Array] = {}
        for c, (v, level) in enumerate(channels):
            if v not in cache:
                cache = {k: a for k, a in cache.items() if level is not None}
                cache[v] = self.array(v)
            position = 0 if level is None else self.position(level)
            out[:, :, c] = cache[v][:, :, position]
        return out

    def position(self, level: float) -> int:
        return int(np.flatnonzero(self.numbers(self.extra["level"]) == level)[0])

    def array(self, v: str) -> Array:
        order = [self.extra.get(r) for r in ("sample", "time", "level")]
        da = self.ds[v]
        drop = [d for d in da.dims if d not in (*order, *self.dims)]
        if drop:
            self.notes.append(
                f"dimensions of size one dropped from {v}: {', '.join(map(str, drop))}"
            )
        da = da.squeeze(drop, drop=True) if drop else da
        da = da.transpose(*[d for d in order if d in da.dims], *self.dims)
        if "time" in self.extra and self.extra["time"] not in da.dims:
            self.notes.append(f"{v} has no time: it is repeated at every step")
        index = tuple(slice(None) if d and d in da.dims else None for d in order)
        try:
            return da.values[index]
        except (OSError, RuntimeError) as error:
            raise DataError(f"The values of '{v}' cannot be read: {error}.") from error

    def time(self) -> Array:
        name = self.extra.get("time", self.scalar_time)
        if not name or name not in self.ds.coords:
            return np.arange(self.ds.sizes.get(name, 1))
        time = np.atleast_1d(self.ds[name].values)
        known = steps.is_date(time) or time.dtype.kind in "iufm"
        if not known or (time.dtype.kind == "M" and np.isnat(time).any()):
            raise DataError(
                f"Times must be dates or numbers; '{name}' holds {time[0]!r} (type {time.dtype}). "
                f"Correct it, or drop it: ds.drop_vars('{name}') makes time an index."
            )
        return time

    def template(self) -> xr.Dataset:
        """Coordinates as stored, with their bounds and the grid mapping: for the way back."""
        ds = self.original
        mappings = {ds[v].attrs.get("grid_mapping") for v in ds.data_vars}
        space = {a for a in self.dims}
        bounds = {str(ds[d].attrs.get("bounds")) for d in space if d in ds.coords}
        moving = {self.extra.get("time"), self.extra.get("sample")}
        gone = [v for v in ds.data_vars if v not in mappings | bounds]
        gone += [c for c in ds.coords if set(ds[c].dims) & moving and c not in ds.dims]
        return ds.drop_vars(gone)
