"""Fields: a file as a section of a bundle. The way back: :mod:`fieldsym.data.writers`.

>>> import xarray as xr
>>> lat, lon = np.arange(60.0, 29.0, -10), np.arange(0.0, 360, 30)
>>> u = xr.DataArray(np.ones((4, 12)), coords={"lat": lat, "lon": lon})
>>> fields = open_fields(xr.Dataset({"uwnd": u, "vwnd": 2 * u}))
>>> fields.bundle.representation, tuple(fields.values.shape)
(vector uwnd, (1, 2, 12, 4))

Axis 0 of the grid is x or longitude, axis 1 is y or latitude, both increasing, whatever the file
does; components are never negated by the order of storage. Missing points hold 0 in ``values`` and
False in ``mask``; a normaliser that subtracts a mean sets them to 0 again.

To add evidence for a type: :mod:`fieldsym.data.naming`; for an axis:
:mod:`fieldsym.data.dimensions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.bundle import Bundle
from fieldsym.data import dimensions, readers, steps
from fieldsym.data.assemble import Reader
from fieldsym.data.axes import Axis, pole_residual
from fieldsym.data.bases import build_base, card_base
from fieldsym.data.cards import (
    Card,
    Entry,
    Types,
    bundle_of,
    entries_of,
    load_card,
    parse_types,
)
from fieldsym.data.resolve import resolve
from fieldsym.errors import DataError
from fieldsym.manifold import Manifold

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
POLE_RESIDUAL = 0.2


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
        values = values if mask is None else values.masked_fill(~mask, 0.0)
        return cls(
            bundle, values, mask, time, {a.name: a.values for a in axes}, dict(units or {}), [],
            source, entries_of(bundle), axes,
        )  # fmt: skip


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
    source : path of a file or of a zarr store (a folder), glob, list of paths,
        ``xarray.Dataset`` or ``DataArray``
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
    card = load_card(card) if isinstance(card, str | Path) else card
    declared, asked = parse_types(types), _listed(variables)
    wanted = None if asked is None else [*asked, *(v for t in declared for v in t.variables)]
    ds, notes, label = readers.open_dataset(source, wanted)
    reader = Reader(ds, notes)
    names = reader.select(asked, declared)
    axes = reader.space(names)
    frame = dimensions.frame(ds, axes)
    attributes = {v: reader.attributes(v, card) for v in names}
    typed, said = resolve(
        attributes, types=declared, card=card, available=[str(v) for v in ds.data_vars],
        dim=len(axes), geographic=frame != "cartesian",
    )  # fmt: skip
    notes += said
    dimensions.check_frame(frame, typed, base)
    described = {**card_base(card.base if card else {}), **ds.attrs}
    base = build_base(described, axes, frame, base, notes)
    entries = reader.blocks(typed, levels)
    bundle = bundle_of(base, entries)
    values, mask, time = _numbers(reader, entries, dtype)
    _remark(values, time, entries, axes, frame, notes)
    return Fields(
        bundle,
        torch.from_numpy(values if "sample" in reader.extra else values[0]),
        None if mask.all() else torch.from_numpy(mask),
        time,
        coords={a.name: a.values for a in axes},
        units={e.name: str(attributes[e.typed.variables[0]].get("units", "")) for e in entries},
        notes=notes,
        source=label,
        entries=entries,
        axes=axes,
        frame=frame,
        time_name=reader.extra.get("time", reader.scalar_time or "time"),
        level_name=reader.extra.get("level", "level"),
        layout={v: tuple(map(str, ds[v].dims)) for v in names},
        attributes=attributes,
        template=reader.template(),
    )


def _listed(variables: str | Sequence[str] | None) -> list[str] | None:
    if isinstance(variables, str):
        variables = [v.strip() for v in variables.split(",")]
    return None if variables is None else list(variables)


def _numbers(
    reader: Reader, entries: tuple[Entry, ...], dtype: torch.dtype
) -> tuple[Array, Array, Array]:
    """Values (sample, time, channel, *grid) in the order of time, mask (*grid), and times."""
    values = reader.values(entries, torch.empty(0, dtype=dtype).numpy().dtype)
    values, time = steps.order(values, reader.time(), reader.notes)
    mask = steps.find_mask(values, entries, time, reader.notes)
    values, time = steps.distinct(values, time, reader.notes)
    values[..., ~mask] = 0
    return values, mask, time


def _remark(
    values: Array,
    time: Array,
    entries: Sequence[Entry],
    axes: Sequence[Axis],
    frame: str,
    notes: list[str],
) -> None:
    if len(values) == 1:
        notes += steps.describe_outliers(values[0], time)
    for c, v in enumerate(v for e in entries for v in e.typed.variables):
        notes += steps.describe_fill(values[:, :, c], v)
    if not (frame == "geographic" and len(axes) == 2 and axes[1].poles and axes[0].periodic):
        return
    c = 0
    for e in entries:
        if e.typed.kind == "vector":
            residual = pole_residual(values[:, :, c : c + 2], axes)
            if residual > POLE_RESIDUAL:
                notes.append(
                    f"the pole rows of {e.name} are not one vector (residual {residual:.2f}): it "
                    "was probably interpolated component by component"
                )
        c += len(e.typed.variables)
