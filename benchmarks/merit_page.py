"""The picture and the page of ``merit.py``."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from common import machine, versions
from merit_orders import LABELS

if TYPE_CHECKING:
    from merit import Merit


def picture(merits: Sequence[Merit]) -> bytes:
    """Error against data, robustness, and angular orders, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_data(axes[0, 0], merits)
    keys = {"test": "as trained", "rotated": "turned 90°", "reflected": "reflected",
            "rougher": "rougher"}  # fmt: skip
    heights = {m.name: [100 * m.figure(key)[0] for key in keys] for m in merits}
    _draw_bars(axes[0, 1], heights, tuple(keys.values()), "test error (%)", "Off distribution")
    for axis, key, title in (
        (axes[1, 0], "weights", "Learned spectral weights"),
        (axes[1, 1], "at rest", "Response at rest"),
    ):
        orders = {m.name: 100 * m.orders(key) for m in merits}
        _draw_bars(axis, orders, LABELS, "energy (%)", f"{title}, by angular order n")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw_data(axis: Any, merits: Sequence[Merit]) -> None:
    for number, merit in enumerate(merits):
        n = np.array(merit.sizes)
        mean, spread = (100 * np.array(part) for part in zip(*merit.errors().values(), strict=True))
        axis.errorbar(n, mean, spread, fmt="o", capsize=3, color=f"C{number}")
        slope = merit.exponent()[0]
        middle = np.exp(np.log(mean).mean() + slope * np.log(n).mean())
        axis.plot(n, middle * n**-slope, color=f"C{number}", label=f"$n^{{-{slope:.2f}}}$")
    axis.set(xscale="log", yscale="log", xlabel="training fields n", ylabel="test error (%)",
             title="Data efficiency", xticks=merits[0].sizes,
             xticklabels=map(str, merits[0].sizes))  # fmt: skip
    low, high = axis.get_ylim()
    ticks = [t for t in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200) if low <= t <= high]
    axis.set(yticks=ticks, yticklabels=map(str, ticks))
    axis.minorticks_off()
    axis.legend()


def _draw_bars(axis: Any, heights: dict, labels: Sequence[str], unit: str, title: str) -> None:
    where, width = np.arange(len(labels)), 0.8 / len(heights)
    for number, (name, values) in enumerate(heights.items()):
        axis.bar(where + (number - (len(heights) - 1) / 2) * width, values, width, label=name)
    axis.set(xticks=where, xticklabels=labels, ylabel=unit, title=title)


def page(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], png: bytes) -> str:
    """One self-contained page."""

    def line(cells: Iterable[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "\n".join([line(header, "th"), *(line(row, "td") for row in rows)])
    notes = "".join(
        f"<p>{html.escape(part.strip('* '))}</p>"
        for paragraph in __doc__.split("\n\n")[2:]
        for part in paragraph.split("\n* ")
    )
    image = base64.b64encode(png).decode()
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Figures of merit</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2rem auto }}
td, th {{ padding: .3rem .8rem; text-align: left; border-bottom: 1px solid #ddd }}
td + td {{ white-space: nowrap }} table {{ border-collapse: collapse }}
img {{ max-width: 100% }}</style>
<h1>Figures of merit</h1><p>{html.escape(title)}</p><table>{body}</table>
<img alt="Data efficiency, robustness and angular orders" src="data:image/png;base64,{image}">
{notes}<p>{html.escape(f"{machine()}; {versions()}")}</p></html>
"""
