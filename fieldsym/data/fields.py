"""Fields: a file as a section of a bundle, and the way back.

>>> import xarray as xr
>>> lat, lon = np.arange(60.0, 29.0, -10), np.arange(0.0, 360, 30)
>>> u = xr.DataArray(np.ones((4, 12)), coords={"lat": lat, "lon": lon})
>>> fields = open_fields(xr.Dataset({"uwnd": u, "vwnd": 2 * u}))
>>> fields.bundle.representation, tuple(fields.values.shape)
(vector uwnd, (1, 2, 12, 4))

Axis 0 of the grid is x or longitude, axis 1 is y or latitude, both increasing, whatever the file
does; components are never negated by the order of storage. Missing points hold 0 in ``values`` and
False in ``mask``; a normaliser that subtracts a mean sets them to 0 again.

To add evidence for a type: :mod:`fieldsym.data.cards`; for an axis: :mod:`fieldsym.data.readers`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.bundle import Bundle
from fieldsym.data import cards, readers, windows
from fieldsym.data.cards import Card, Typed, Types
from fieldsym.data.readers import Axis
from fieldsym.errors import DataError, GridError
from fieldsym.manifold import Manifold

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
POLE_RESIDUAL = 0.2
LARGE = 4e9


@dataclass(frozen=True)
class Entry:
    """One block of the bundle: its type, the variables of its components, its level, and why."""

    typed: Typed
    name: str
    level: float | None = None


@dataclass(frozen=True, eq=False)
class Fields:
    """Sections read from a file, and everything that is needed to write others like them.

    Attributes
    ----------
    bundle : Bundle
    values : Tensor (time, channel, *grid), or (sample, time, channel, *grid); 0 where masked
    mask : bool Tensor (*grid), True where valid, or None
    time : dates, or an index
    coords : coordinates of each space axis, increasing, by the name of the dimension
    units : units of each block, by name
    notes : what was decided while reading
    entries : which variables and level each block came from
    """

    bundle: Bundle
    values: Tensor
    mask: Tensor | None
    time: Array
    coords: dict[str, Array]
    units: dict[str, str]
    notes: list[str]
    source: str
    entries: tuple[Entry, ...]
    axes: tuple[Axis, ...]
    frame: str = "cartesian"
    time_name: str = "time"
    level_name: str = "level"
    layout: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    template: xr.Dataset | None = None

    def __repr__(self) -> str:
        return f"Fields('{self.bundle.representation}' on {self.bundle.base}, {self.shape_text})"

    @property
    def shape_text(self) -> str:
        """Sizes in words."""
        samples = f"{self.values.shape[0]} samples, " if self.has_samples else ""
        steps = f"{self.steps} step{'s' if self.steps != 1 else ''}"
        return f"{samples}{steps}, {' × '.join(map(str, self.grid))} points"

    @property
    def has_samples(self) -> bool:
        """Whether the leading axis of ``values`` counts samples (trajectories, members)."""
        return self.values.ndim == self.bundle.base.dim + 3

    @property
    def steps(self) -> int:
        """Number of time steps."""
        return self.values.shape[-self.bundle.base.dim - 2]

    @property
    def grid(self) -> tuple[int, ...]:
        """Sizes of the grid axes."""
        return self.bundle.grid(self.values)

    @property
    def weights(self) -> Tensor:
        """Quadrature weights, float64 (*grid): those of the base, or area on the sphere."""
        if not any(axis.role == "latitude" for axis in self.axes):
            return self.bundle.base.weights(self.grid)
        total = torch.ones((), dtype=torch.float64)
        for axis in self.axes:
            total = total[..., None] * torch.from_numpy(axis.weights())
        return total

    def take_steps(self, index: slice) -> Fields:
        """The same fields at some time steps."""
        axis = int(self.has_samples)
        values = self.values[:, index] if axis else self.values[index]
        return replace(self, values=values, time=self.time[index])

    def take_samples(self, index: slice) -> Fields:
        """The same fields for some samples."""
        return replace(self, values=self.values[index])

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        values: Tensor,
        *,
        time: Array | None = None,
        units: Mapping[str, str] | None = None,
        mask: Tensor | None = None,
        source: str = "memory",
    ) -> Fields:
        """Fields from a tensor in memory, for example from a simulation.

        Parameters
        ----------
        values : Tensor (time, channel, *grid) or (sample, time, channel, *grid)
        time : (time,) dates or numbers, default an index

        Examples
        --------
        >>> import fieldsym as fs
        >>> bundle = fs.Bundle(fs.Torus((2.0, 3.0)), "pseudoscalar w + vector u")
        >>> Fields.of(bundle, torch.zeros(5, 3, 16, 24))
        Fields('pseudoscalar w + vector u' on Torus(2, 3), 5 steps, 16 × 24 points)
        """
        bundle.check(values, "Fields.of")
        dim = bundle.base.dim
        if values.ndim not in (dim + 2, dim + 3):
            raise DataError(
                "Fields.of expects values (time, channel, *grid) or (sample, time, channel, "
                f"*grid) on {bundle.base}; got shape {tuple(values.shape)}."
            )
        grid = bundle.grid(values)
        axes = tuple(
            Axis("xyz"[i], "xyz"[i], x.numpy(), "", bundle.base.periodic[i])
            for i, x in enumerate(bundle.base.axes(grid))
        )
        steps = values.shape[-dim - 2]
        time = np.arange(steps) if time is None else np.asarray(time)
        if len(time) != steps:
            raise DataError(f"Fields.of got {steps} steps in values and {len(time)} times.")
        return cls(
            bundle, values, mask, time, {a.name: a.values for a in axes}, dict(units or {}), [],
            source, entries_of(bundle), axes,
        )  # fmt: skip


def component_names(kind: str, name: str, size: int, dim: int) -> tuple[str, ...]:
    """Variable names of the components of a block: u_x, u_y; s_xx, s_yy, s_xy; w; r_0, r_1, …"""
    letters = cards.AXIS_LETTERS[:dim]
    if size == 1 and "vector" not in kind:
        return (name,)
    if kind in ("vector", "axial vector") and size == dim:
        return tuple(f"{name}_{a}" for a in letters)
    if kind == "symmetric tensor":
        upper = [a + b for i, a in enumerate(letters) for b in letters[i + 1 :]]
        tails = [a + a for a in letters] + upper
        if len(tails) == size:
            return tuple(f"{name}_{t}" for t in tails)
    return tuple(f"{name}_{i}" for i in range(size))


def entries_of(bundle: Bundle, like: Sequence[Entry] = ()) -> tuple[Entry, ...]:
    """Entries of a bundle; blocks that ``like`` has keep their variables and level."""
    known = {(e.typed.kind, e.name): e for e in like}
    made = []
    for name, block in zip(bundle.names, bundle.blocks, strict=True):
        parts = component_names(block.kind, name, block.size, bundle.base.dim)
        kind = f"{block.copies} {block.kind}" if block.copies > 1 else block.kind
        new = Entry(Typed(kind, name, parts, "bundle"), name)
        old = known.get((block.kind, name))
        made.append(old if old and len(old.typed.variables) == block.size else new)
    return tuple(made)


# --------------------------------------------------------------------------------------- reading


def open_fields(
    source: object,
    *,
    variables: str | Sequence[str] | None = None,
    types: Types | None = None,
    base: Manifold | None = None,
    levels: Sequence[float | str] | None = None,
    card: Card | str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> Fields:
    """Typed fields from netCDF or zarr.

    Parameters
    ----------
    source : path, glob, list of paths, ``xarray.Dataset`` or ``DataArray``
    variables : names of variables (or CF standard names), default every field of the file
    types : ``"vector u = uwnd, vwnd; pseudoscalar w = vorticity"`` or the same as a mapping; says
        what the file does not, and wins over it
    base : base manifold, default a box from the coordinates (periodic in a global longitude)
    levels : values of the level axis to keep, in this order: numbers in its units, or strings
        such as "850 hPa"; each level of each variable becomes one block, u_850
    card : dataset card, its file or its folder
    dtype : torch.float32 or torch.float64

    Returns
    -------
    Fields   with ``values`` (time, channel, *grid); a member axis becomes a leading sample axis

    Raises
    ------
    DataError   if a file cannot be read, a variable is absent, a component has no partner or two,
        a type is not known, or values are missing at some steps only.
    GridError   if variables lie on different grids, or a grid is irregular, unstructured, or
        carries vectors in a frame that is not that of its axes.

    Examples
    --------
    >>> import fieldsym as fs, xarray as xr
    >>> ds = xr.Dataset({name: (("time", "y", "x"), np.eye(4, 6)[None]) for name in "abc"})
    >>> base = fs.Torus((2.0, 3.0))
    >>> open_fields(ds, types="vector u = a, b; pseudoscalar w = c", base=base)
    Fields('vector u + pseudoscalar w' on Torus(2, 3), 1 step, 6 × 4 points)
    """
    if dtype not in (torch.float32, torch.float64):
        raise DataError(f"dtype is torch.float32 or torch.float64; got {dtype}.")
    card = cards.load_card(card) if isinstance(card, str | Path) else card
    declared, asked = cards.parse_types(types), _listed(variables)
    wanted = None if asked is None else [*asked, *(v for t in declared for v in t.variables)]
    ds, notes, label = readers.open_dataset(source, wanted)
    reader = _Reader(ds, notes)
    names = reader.select(asked, declared)
    axes = reader.space(names)
    attributes = {v: reader.attributes(v, card) for v in names}
    frame = readers.frame(ds, axes)
    typed, said = cards.resolve(
        attributes, types=declared, card=card, available=[str(v) for v in ds.data_vars],
        dim=len(axes), geographic=frame != "cartesian",
    )  # fmt: skip
    notes += said
    _check_frame(frame, typed, base)
    described = {**readers.card_base(card.base if card else {}), **ds.attrs}
    base = readers.build_base(described, axes, frame, base, notes)
    entries = reader.blocks(typed, levels)
    bundle = _bundle(base, entries)
    values = reader.values(entries, torch.empty(0, dtype=dtype).numpy().dtype)
    time = reader.time()
    values, time = windows.order(values, time, notes)
    mask = windows.find_mask(values, entries, time, notes)
    values, time = windows.distinct(values, time, notes)
    values[..., ~mask] = 0
    _remark(values, time, entries, axes, frame, notes)
    units = {e.name: str(attributes[e.typed.variables[0]].get("units", "")) for e in entries}
    return Fields(
        bundle,
        torch.from_numpy(values if "sample" in reader.extra else values[0]),
        None if mask.all() else torch.from_numpy(mask),
        time,
        {a.name: a.values for a in axes},
        units,
        notes,
        label,
        entries,
        axes,
        frame,
        reader.extra.get("time", reader.scalar_time or "time"),
        reader.extra.get("level", "level"),
        {v: tuple(map(str, ds[v].dims)) for v in names},
        attributes,
        reader.template(),
    )


def _listed(variables: str | Sequence[str] | None) -> list[str] | None:
    if isinstance(variables, str):
        variables = [v.strip() for v in variables.split(",")]
    return None if variables is None else list(variables)


class _Reader:
    """A dataset on its way to a tensor: which dimensions are what, which order they get."""

    def __init__(self, ds: xr.Dataset, notes: list[str]) -> None:
        self.original, self.ds, self.notes = ds, ds, notes
        self.roles = readers.roles(ds)
        self.extra: dict[str, str] = {}
        self.dims: tuple[str, ...] = ()
        times = [str(n) for n in ds.coords if readers.ROLES.get(str(n).lower()) == "time"]
        scalars = [n for n in times if ds[n].ndim == 0]
        scalars.sort(key=lambda n: not windows.is_date(np.atleast_1d(ds[n].values)))
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
        fields = [str(v) for v in self.ds.data_vars if not readers.is_bounds(self.ds, str(v))]
        readers.check_unstructured(self.ds, fields, self.roles)
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
        dims = [str(d) for d in self.ds[variable].dims if self.roles.get(str(d)) in readers.SPACE]
        long = [d for d in dims if self.ds.sizes[d] > 1] or dims
        return tuple(sorted(long, key=lambda d: readers.SPACE.index(self.roles[d])))

    def space(self, names: list[str]) -> tuple[Axis, ...]:
        readers.check_unstructured(self.ds, names, self.roles)
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
            if role not in ("", *readers.SPACE) and self.extra.setdefault(role, str(d)) != str(d):
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
            return readers.index_axis(d, role, self.ds.sizes[d])
        stored = self.numbers(d)
        if role == "longitude" and np.array_equal(stored - stored[0], np.arange(len(stored))):
            self.check_index(d, names)
        units = str(self.ds[d].attrs.get("units", self.ds[d].attrs.get("Unit", "")))
        return readers.make_axis(d, role, stored, units)

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
            self.ds = self.ds.isel({name: readers.level_positions(self.ds, name, levels)})
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
        return [Entry(t, f"{t.name}_{readers.level_text(x)}", x) for x in stored]

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
        known = windows.is_date(time) or time.dtype.kind in "iufm"
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


def _bundle(base: Manifold, entries: tuple[Entry, ...]) -> Bundle:
    bundle = Bundle(base, " + ".join(f"{e.typed.kind} {e.name}" for e in entries))
    for block, e in zip(bundle.blocks, entries, strict=True):
        if block.size != len(e.typed.variables):
            raise DataError(
                f"A {block.kind} on {base} has {block.size} components; '{e.typed.kind} "
                f"{e.typed.name}' got {len(e.typed.variables)}: {', '.join(e.typed.variables)}."
            )
    return bundle


def _check_frame(frame: str, typed: list[Typed], base: Manifold | None) -> None:
    turning = [t for t in typed if not t.kind.endswith("scalar")]
    if turning and base is None and frame in ("rotated pole", "curvilinear"):
        raise GridError(
            f"The grid is {frame}, so the components of '{turning[0].kind} {turning[0].name}' are "
            "grid-relative or do not follow the axes: derotate and interpolate them to a "
            "longitude-latitude grid. If they do follow the axes of a flat grid, pass its base, "
            "for example base=fs.Box((...))."
        )


def _remark(
    values: Array,
    time: Array,
    entries: Sequence[Entry],
    axes: Sequence[Axis],
    frame: str,
    notes: list[str],
) -> None:
    if len(values) == 1:
        notes += windows.describe_outliers(values[0], time)
    for c, v in enumerate(v for e in entries for v in e.typed.variables):
        notes += windows.describe_fill(values[:, :, c], v)
    if not (frame == "geographic" and len(axes) == 2 and axes[1].poles and axes[0].periodic):
        return
    c = 0
    for e in entries:
        if e.typed.kind == "vector":
            residual = readers.pole_residual(values[:, :, c : c + 2], axes)
            if residual > POLE_RESIDUAL:
                notes.append(
                    f"the pole rows of {e.name} are not one vector (residual {residual:.2f}): it "
                    "was probably interpolated component by component"
                )
        c += len(e.typed.variables)


# --------------------------------------------------------------------------------------- writing


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
    >>> import fieldsym as fs
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
        ds.attrs["fieldsym_base"] = readers.base_to_json(bundle.base)
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
        with readers.quiet():
            ds.to_netcdf(part, encoding=encoding)
        part.chmod(0o644)
        part.replace(path)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise DataError(f"Cannot write {path}: {error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return path
