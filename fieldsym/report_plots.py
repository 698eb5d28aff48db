"""The pictures of a report, drawn without a display and returned as data URIs.

>>> figure_uri(new_figure(2.0, 1.0), "svg")[:26]
'data:image/svg+xml;base64,'

To add a picture: draw on ``new_figure`` and return ``figure_uri``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray
COLOURS = ("#0b5cad", "#c8501e", "#2a8a57", "#7b4aa8", "#a3871b", "#b03a68")
MARKS = ("o", "s", "^", "D", "v", "P")
STYLE = {
    "font.family": "sans-serif", "font.size": 9.5, "axes.edgecolor": "#8a93a0",
    "axes.labelcolor": "#2b333d", "xtick.color": "#4a5460", "ytick.color": "#4a5460",
    "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "svg.hashsalt": "fieldsym", "axes.titlesize": 10, "legend.frameon": False,
}  # fmt: skip
MOST_CHANNELS = 3
DEFECT = -1.0  # in place of a colour range: light and sequential, from the least to the largest
TYPES = {"svg": "svg+xml", "png": "png"}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no display, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_uri(figure: Figure, kind: str = "png") -> str:
    """The figure as a data URI, the same bytes each time."""
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return f"data:image/{TYPES[kind]};base64,{base64.b64encode(stream.getvalue()).decode()}"


def curve_plot(reports: Mapping[str, xr.Dataset], stem: str) -> str | None:
    """Defect along an orbit ("orbit") or within a cell ("shift"), all models; None without one."""
    import matplotlib as mpl

    axis = {"orbit": "orbit_angle", "shift": "shift_fraction"}[stem]
    known = {name: one for name, one in reports.items() if f"{stem}_defect" in one}
    if not known:
        return None
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = new_figure(5.9, 3.6)
        ax = figure.subplots()
        for i, (name, one) in enumerate(known.items()):
            style: dict[str, Any] = {
                "color": COLOURS[i % 6],
                "marker": MARKS[i % 6],
                "ms": 3.5,
                "lw": 1.6,
            }
            ax.plot(one[axis], _drawn(one[f"{stem}_defect"]), label=name, **style)
        _references(ax, known, stem, axis)
        _decorate(ax, stem)
        return figure_uri(figure, "svg")


def _references(ax: Axes, known: Mapping[str, xr.Dataset], stem: str, axis: str) -> None:
    one = next((r for r in known.values() if f"{stem}_truth" in r), next(iter(known.values())))
    grey: dict[str, Any] = {"color": "#5d6773", "lw": 1.3}
    if f"{stem}_truth" in one:
        truth = _drawn(one[f"{stem}_truth"])
        ax.plot(one[axis], truth, ls="--", label="reference solution", **grey)
    floor = _drawn(one[f"{stem}_floor"])
    ax.plot(one[axis], floor, ls=":", label="floor of the transform", **grey)


# Zeros have no logarithm; the first angle and the last are the identity.
def _drawn(values: xr.DataArray) -> Array:
    known = values.values > 0
    if "orbit_angle" in values.dims:
        known = known & (values.orbit_angle.values % 360 != 0)
    return np.where(known, values.values, np.nan)


def _decorate(ax: Axes, stem: str) -> None:
    ax.set_yscale("log")
    ax.grid(axis="y", color="#e3e7ec", lw=0.8)
    ax.set_axisbelow(True)
    ax.set_ylabel("relative defect")
    if stem == "orbit":
        ax.set_xticks(range(0, 361, 45), [f"{a}°" for a in range(0, 361, 45)])
        ax.set_xlabel("angle of rotation")
    else:
        ax.set_xlabel("shift, in cells, along all periodic axes")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)


def field_plot(report: xr.Dataset) -> str:
    """Input, target, output, their difference and the largest defect of the first sample."""
    import matplotlib as mpl

    panels = _panels(report)
    base_dim = report.example_input.ndim - 1
    height = 2.55 if base_dim > 1 else 2.2
    with mpl.rc_context(STYLE | {"font.size": 8.5, "axes.titlesize": 9.5}):  # type: ignore[arg-type]
        figure = new_figure(2.55 * len(panels[0]), height * len(panels))
        grid = figure.subplots(len(panels), len(panels[0]), squeeze=False)
        for line, row in zip(grid, panels, strict=True):
            for ax, panel in zip(line, row, strict=True):
                _panel(figure, ax, panel)
        return figure_uri(figure)


Panel = tuple[str, "xr.DataArray", float] | None  # title, field, colour range (0: its own)


def _panels(report: xr.Dataset) -> list[list[Panel]]:
    """One line per channel of the output: input, target, output, output − target, defect."""
    rows: list[list[Panel]] = []
    output = report.example_output
    for j, name in enumerate(report.channel_out.values[:MOST_CHANNELS]):
        one = output.isel(channel_out=j)
        row: list[Panel] = [None]
        if j < report.sizes["channel_in"]:
            label = report.channel_in.values[j]
            row = [(f"input  {label}", report.example_input.isel(channel_in=j), 0.0)]
        if "example_target" in report:
            target = report.example_target.isel(channel_out=j)
            span = float(np.nanmax(np.abs(np.stack([target.values, one.values]))))
            row += [
                (f"target  {name}", target, span),
                (f"output  {name}", one, span),
                ("output − target", one - target, 0.0),
            ]
        else:
            row.append((f"output  {name}", one, 0.0))
        if "example_defect" in report:
            row.append(("|F(g·x) − g·F(x)|", report.example_defect, DEFECT) if j == 0 else None)
        rows.append(row)
    return rows


def _panel(figure: Figure, ax: Axes, panel: Panel) -> None:
    if panel is None:
        ax.axis("off")
        return
    title, field, span = panel
    ax.set_title(title)
    if field.ndim == 1:
        ax.plot(field[field.dims[0]], field, color=COLOURS[0], lw=1.3)
        ax.set_xlabel(str(field.dims[0]))
        return
    if field.ndim == 3:
        field = field.isel({field.dims[2]: field.shape[2] // 2})
        ax.set_title(f"{title}, middle {'xyz'[2]}")
    image = ax.imshow(
        field.values.T, origin="lower", extent=_extent(field), **_colours(field, span)
    )
    ax.set_xticks([]), ax.set_yticks([])
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=ax, orientation="horizontal", pad=0.03, aspect=24, shrink=0.92)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.locator_params(nbins=4)
    bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]


def _extent(field: xr.DataArray) -> tuple[float, float, float, float]:
    ends: list[float] = []
    for dim in field.dims:
        points = field[dim].values
        half = (points[1] - points[0]) / 2
        ends += [points[0] - half, points[-1] + half]
    return (ends[0], ends[1], ends[2], ends[3])


def _colours(field: xr.DataArray, span: float) -> dict[str, Any]:
    """Symmetric and diverging for signed fields, sequential for the others; defects from their
    minimum, so that it can be seen where they are."""
    low, high = float(field.min()), float(field.max())
    if span == DEFECT and high - low > 1e-6 * high:
        return {"cmap": "YlOrBr", "vmin": low, "vmax": high}
    if low >= 0:
        cmap = "YlOrBr" if span == DEFECT else "viridis"
        return {"cmap": cmap, "vmin": 0.0, "vmax": high or 1.0}
    span = span or max(abs(low), abs(high)) or 1.0
    return {"cmap": "RdBu_r", "vmin": -span, "vmax": span}
