"""Pictures of defects over a group and over scales: every element, every angle, every band.

>>> [round(float(r), 2) for r in _radius(np.array([1e-8, 1e-2, 1.0, np.nan]), 1e-4)]
[0.0, 2.0, 4.0, nan]

To add a picture: draw on ``new_figure`` and return ``figure_uri``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fieldsym.report_plots import COLOURS, MARKS, STYLE, figure_uri, new_figure
from fieldsym.report_summary import HOLDS, joined_rows

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

Array = np.ndarray
Summary = dict[str, Any]
GREY: dict[str, Any] = {"color": "#5d6773", "ls": "none"}
SMALLEST = 1e-17


def element_plot(found: Mapping[str, Summary]) -> str | None:
    """The defect of every finite element, beside floor, truth and the wrong action."""
    import matplotlib as mpl

    rows = {k: v for k, v in joined_rows(found).items() if _first(v)["kind"] != "infinitesimal"}
    drawn = _values([row.get("value") for line in rows.values() for row in line])
    if not np.isfinite(drawn).any():
        return None
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(5.9, 1.3 + 0.21 * len(rows))
        ax = figure.subplots()
        places = -np.arange(len(rows))
        for i, name in enumerate(found):
            values = _values([line[i].get("value") for line in rows.values()])
            ax.plot(values, places, MARKS[i % 6], color=COLOURS[i % 6], ms=5.5, label=name)
        for key, mark, label in (
            ("floor", "|", "floor"), ("truth", "x", "reference solution"),
            ("wrong", ".", "wrong action (control)"),
        ):  # fmt: skip
            values = _values([_first(line).get(key) for line in rows.values()])
            if np.isfinite(values).any():
                ax.plot(values, places, mark, ms=6.5, label=label, **GREY)
        ax.set_yticks(places, list(rows))
        _decorate(ax, "x")
        ax.set_xlabel("relative defect")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
        return figure_uri(figure, "svg")


def _first(line: list[Summary]) -> Summary:
    return next(row for row in line if row)


# Zeros have no logarithm.
def _values(values: list[float | None]) -> Array:
    found = np.array([np.nan if v is None else v for v in values], dtype=float)
    return np.where(found > SMALLEST, found, np.nan)


def _decorate(ax: Axes, axis: str) -> None:
    ax.set(**{f"{axis}scale": "log"})
    ax.grid(axis=axis, color="#e3e7ec", lw=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def polar_plot(reports: Mapping[str, xr.Dataset]) -> str | None:
    """The defect as a distance from the centre, over the angle of the rotation."""
    import matplotlib as mpl

    known = {name: one for name, one in reports.items() if "orbit_defect" in one}
    curves = {
        name: np.where(one.orbit_angle.values % 360 == 0, np.nan, one.orbit_defect.values)
        for name, one in known.items()
    }  # 0° is the identity
    seen = np.concatenate([c[c > SMALLEST] for c in curves.values()]) if curves else np.zeros(0)
    if not seen.size:
        return None
    lowest = 10.0 ** np.floor(np.log10(seen.min()))
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(5.9, 3.9)
        ax: Any = figure.add_subplot(projection="polar")
        for i, (name, one) in enumerate(known.items()):
            radius = _radius(curves[name], lowest)
            angle = np.radians(one.orbit_angle.values)
            ax.plot(angle, radius, color=COLOURS[i % 6], lw=1.6, label=name)
        ticks = np.arange(0, np.ceil(np.log10(seen.max() / lowest)) + 0.5)
        powers = np.rint(ticks + np.log10(lowest)).astype(int)
        step = -(-len(ticks) // 3)
        ax.set_rgrids(ticks[step::step], [f"$10^{{{p}}}$" for p in powers[step::step]], angle=0)
        ax.set_rlim(0, max(ticks[-1], 1))
        ax.set_thetagrids(range(45, 360, 45))
        ax.grid(color="#d9dfe6", lw=0.8)
        ax.spines[:].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2)
        return figure_uri(figure, "svg")


# Decades above the lowest; below it the centre.
def _radius(values: Array, lowest: float) -> Array:
    return np.log10(np.maximum(values, lowest) / lowest)


def band_plot(found: Mapping[str, Summary]) -> str | None:
    """The largest violation of each model by band, beside its floor and the reference solution."""
    import matplotlib as mpl

    worst = {name: row for name, one in found.items() if (row := _worst(one)) is not None}
    if not worst:
        return None
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(11.8, 2.9 * ((len(worst) + 1) // 2))
        grid = figure.subplots(
            (len(worst) + 1) // 2, min(2, len(worst)), squeeze=False, sharey=True
        )
        for ax in list(grid.flat)[len(worst) :]:
            ax.axis("off")
        for i, (ax, (name, row)) in enumerate(zip(grid.flat, worst.items(), strict=False)):
            _band_bars(ax, row, COLOURS[i % 6])
            ax.set_title(f"{name}: {row['label']}", loc="left")
        low, high = _limits(worst.values())
        ax.set_ylim(low, high * (high / low) ** 0.22)  # room for the legend
        return figure_uri(figure, "svg")


def _worst(one: Summary) -> Summary | None:
    rows = [line[0] | {"label": k} for k, line in joined_rows({"": one}).items()]
    rows = [r for r in rows if r["verdict"] not in HOLDS and any((r.get("bands") or {}).values())]
    finite = [row for row in rows if row["kind"] != "infinitesimal"]
    return max(finite or rows, key=lambda row: row["value"], default=None)


def _band_bars(ax: Axes, row: Summary, colour: str) -> None:
    labels = list(row["bands"])
    shown = {"model": (row["bands"], colour), "floor": (row["floor_bands"], "#b7c0ca"),
             "reference solution": (row["truth_bands"], "#5d6773")}  # fmt: skip
    shown = {k: v for k, v in shown.items() if np.isfinite(_values(list(v[0].values()))).any()}
    width = 0.8 / len(shown)
    for i, (name, (values, shade)) in enumerate(shown.items()):
        places = np.arange(len(labels)) + (i - (len(shown) - 1) / 2) * width
        ax.bar(places, _values([values.get(b) for b in labels]), width, color=shade, label=name)
    ax.set_xticks(range(len(labels)), [label.removesuffix(" waves") for label in labels])
    ax.set_xlabel("waves along the longest side")
    _decorate(ax, "y")
    ax.set_ylabel("relative defect")
    ax.legend(loc="upper left", ncols=3, fontsize=8.5)


# All that is drawn, by whole decades.
def _limits(rows: Iterable[Summary]) -> tuple[float, float]:
    keys = ("bands", "floor_bands", "truth_bands")
    seen = np.log10(_values([v for row in rows for key in keys for v in row[key].values()]))
    return 10.0 ** np.floor(np.nanmin(seen) - 0.3), 10.0 ** np.ceil(np.nanmax(seen))
