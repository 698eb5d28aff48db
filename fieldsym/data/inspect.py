"""A readable account of a file: axes, types and why, time, gaps, statistics, groups, what next.

>>> import torch, fieldsym as fs
>>> from fieldsym.data.fields import Fields
>>> bundle = fs.Bundle(fs.Torus((2.0, 2.0)), "pseudoscalar w")
>>> seen = inspect(Fields.of(bundle, torch.ones(5, 1, 16, 16)))
>>> seen.groups[0]
'dihedral(4), exact on this grid: 8 elements'
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from fieldsym import group as groups
from fieldsym.action import act
from fieldsym.bundle import Bundle
from fieldsym.data import steps as series
from fieldsym.data.axes import Axis
from fieldsym.data.cards import Card, Entry, Types
from fieldsym.data.fields import Fields, open_fields
from fieldsym.manifold import Manifold

WIDTH = 120
SHOWN = 8


@dataclass(frozen=True)
class Inspection:
    """What a file is; ``text`` says all of it in words."""

    fields: Fields
    bundle: str
    groups: list[str]
    statistics: dict[str, dict[str, float]]
    next: list[str]
    text: str

    def __str__(self) -> str:
        return self.text


def inspect(
    source: object,
    *,
    variables: str | Sequence[str] | None = None,
    types: Types | None = None,
    base: Manifold | None = None,
    levels: Sequence[float | str] | None = None,
    card: Card | str | Path | None = None,
) -> Inspection:
    """Look at a file, or at fields that are open already.

    Parameters
    ----------
    source : Fields, or what :func:`fieldsym.data.fields.open_fields` takes
    variables, types, base, levels, card : as for ``open_fields``

    Raises
    ------
    DataError, GridError   where ``open_fields`` refuses the file.
    """
    if isinstance(source, Fields):
        fields = source
    else:
        fields = open_fields(
            source, variables=variables, types=types, base=base, levels=levels, card=card
        )
    acting, statistics, steps = acting_groups(fields), block_statistics(fields), advice(fields)
    text = _render(
        Text(f"{fields.source}: {fields.shape_text}", overflow="ignore", no_wrap=True),
        _axes_table(fields),
        _fields_table(fields),
        _statistics_table(fields, statistics),
        _facts(fields, acting),
        "\n".join(["Notes", *(f"  • {n}" for n in _shortened(fields.notes))])
        if fields.notes
        else "",
        "\n".join(["Next", *(f"  • {s}" for s in steps)]),
    )
    return Inspection(fields, str(fields.bundle), acting, statistics, steps, text)


def block_statistics(fields: Fields) -> dict[str, dict[str, float]]:
    """Weighted mean (of single components) and fibre rms of each block, inside the mask."""
    weights = fields.weights if fields.mask is None else fields.weights * fields.mask
    weights = weights / weights.sum()
    dim = fields.bundle.base.dim
    values = fields.values.reshape(-1, *fields.values.shape[-dim - 1 :])
    gram = fields.bundle.representation.gram
    found = {}
    for name, where in fields.bundle.slices.items():
        part = values[:, where].to(torch.float64).flatten(2)
        w = weights.flatten() / len(part)
        mean = torch.einsum("tcx,x->c", part, w)
        square = torch.einsum("tcx,cd,tdx,x->", part, gram[where, where], part, w)
        found[name] = {"rms": float(square.clamp(min=0).sqrt())}
        if len(mean) == 1:
            found[name]["mean"] = float(mean)
    return found


def acting_groups(fields: Fields) -> list[str]:
    """The groups that act on the base and grid of some fields, in words."""
    base, grid = fields.bundle.base, fields.grid
    largest = {1: groups.reflections(1), 2: groups.dihedral(4)}.get(base.dim)
    finite = (largest or groups.octahedral()).acting_on(base, grid)
    found = [f"{finite.name}, exact on this grid: {finite.order} elements"]
    names = [a.name for a, wraps in zip(fields.axes, base.periodic, strict=True) if wraps]
    if names:
        found.append(f"translations along {', '.join(names)} (exact by whole cells)")
    if fields.mask is not None:
        found.append(_mask_symmetry(fields, finite))
    if base.dim > 1 and fields.frame == "cartesian":
        found.append("rotations by any angle only inside a region, base.disk(radius)")
    return found


def _mask_symmetry(fields: Fields, finite: groups.Group) -> str:
    mask = torch.as_tensor(fields.mask, dtype=torch.float32)[None]
    still = Bundle(fields.bundle.base, "scalar m")
    keep = [g.name for g in finite.elements if bool((act(g, mask, still) == mask).all())]
    return f"only {', '.join(keep)} keeps the mask"


def advice(fields: Fields) -> list[str]:
    """What to do with the fields next."""
    steps = []
    if fields.steps == 1:
        steps.append(
            "One step: evaluate a model on it or start a simulation; no forecast to train."
        )
    elif fields.steps < 20 and not fields.has_samples:
        steps.append(f"{fields.steps} steps are few for a forecast; a window needs at least two.")
    elif len(series.breaks(fields.time)):
        steps.append("Windows leave out the gaps; check that the steps left are the ones you want.")
    else:
        steps.append("Train a forecast: windows.split, then windows.Windows, or `fieldsym train`.")
    if fields.mask is not None:
        steps.append("Multiply losses and metrics by fields.mask; hand the mask on as a scalar.")
    if any(e.level is not None for e in fields.entries) and len(fields.entries) > SHOWN:
        steps.append("Select with variables=[...] and levels=[...]: every level is a block.")
    if any(e.typed.reason == "default" for e in fields.entries):
        steps.append("Confirm the types marked 'default' with types='...': parity matters.")
    if fields.frame != "cartesian":
        steps.append("Normalise with area weights (Normaliser.fit does): cells shrink polewards.")
    return steps


# ------------------------------------------------------------------------------------- rendering


def _render(*parts: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, no_color=True, highlight=False, markup=False)
    for part in parts:
        if part != "":
            console.print(part, soft_wrap=isinstance(part, Text))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("name", "type", "units", "by"))
    return table


def _axes_table(fields: Fields) -> Table:
    table = _table("Axes", "name", "points", "range", "step", "periodic", "in the file")
    for axis, wraps in zip(fields.axes, fields.bundle.base.periodic, strict=True):
        table.add_row(
            axis.name,
            str(len(axis.values)),
            f"{axis.values[0]:g} … {axis.values[-1]:g} {axis.units}",
            f"{'Gauss, about ' if axis.gauss else ''}{axis.spacing:.4g}",
            "yes" if wraps else "no",
            _stored(axis),
        )
    return table


def _stored(axis: Axis) -> str:
    text = "decreasing" if axis.flipped else "increasing"
    return text + (", repeated seam" if axis.seam else "") + (", poles" if axis.poles else "")


def _fields_table(fields: Fields) -> Table:
    table = _table("Fields", "name", "type", "variables", "levels", "units", "by")
    for name, entries in _families(fields).items():
        typed, names = entries[0].typed, [e.name for e in entries]
        levels = [f"{e.level:g}" for e in entries if e.level is not None]
        table.add_row(
            name,
            typed.kind,
            ", ".join(typed.variables) if typed.variables != (name,) else "",
            _shortest(levels),
            fields.units.get(names[0], ""),
            typed.reason,
        )
    return table


def _families(fields: Fields) -> dict[str, list[Entry]]:
    # the levels of one field belong together
    families: dict[str, list[Entry]] = {}
    for e in fields.entries:
        families.setdefault(e.typed.name, []).append(e)
    return families


def _statistics_table(fields: Fields, statistics: dict[str, dict[str, float]]) -> Table:
    table = _table("Statistics over space and time", "name", "mean", "rms of the norm", "units")
    for name, entries in _families(fields).items():
        found = [statistics[e.name] for e in entries]
        table.add_row(
            name,
            _extent([s["mean"] for s in found if "mean" in s]),
            _extent([s["rms"] for s in found]),
            fields.units.get(entries[0].name, ""),
        )
    return table


def _shortest(items: list[str]) -> str:
    if len(items) <= 4:
        return ", ".join(items)
    return f"{len(items)}: {items[0]} … {items[-1]}"


def _extent(values: list[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:.4g}" if len(values) == 1 else f"{low:.3g} … {high:.3g}"


def _facts(fields: Fields, acting: list[str]) -> str:
    time = f"{fields.steps} step{'s' if fields.steps > 1 else ''}"
    time += f", {series.when(fields.time[0])}"
    if fields.steps > 1:
        time += f" … {series.when(fields.time[-1])}, step {series.describe_step(fields.time)}"
    if not series.is_date(np.asarray(fields.time)):
        time += f" ({fields.time_name}: plain numbers)"
    lines = {"Time": time, "Missing": _missing(fields), "Base": str(fields.bundle.base)}
    blocks = fields.entries
    lines["Bundle"] = (
        str(fields.bundle.representation)
        if len(blocks) <= SHOWN
        else f"{blocks[0].typed.kind} {blocks[0].name} + … + {blocks[-1].typed.kind} "
        f"{blocks[-1].name} ({len(blocks)} blocks, {fields.bundle.channels} channels)"
    )
    lines["Groups"] = "; ".join(acting)
    return "\n".join(f"{key:8} {value}" for key, value in lines.items())


def _missing(fields: Fields) -> str:
    if fields.mask is None:
        return "nothing (points filled by the producer do not show)"
    lost = 1 - float(fields.mask.double().mean())
    return f"{100 * lost:.1f} % of the points, the same at every step"


def _shortened(notes: list[str]) -> list[str]:
    rest = len(notes) - SHOWN
    return notes if rest <= 1 else [*notes[:SHOWN], f"and {rest} more, in fields.notes"]
