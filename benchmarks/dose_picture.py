"""The picture of ``dose.py``: test error over dose, and below it what promotion found broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import mean_and_spread
from dose_models import AUGMENTED, DATA, ENFORCED, PLAIN, PROMOTED, RELAXED

COLOURS = {PLAIN: "#5b6770", ENFORCED: "#0072b2", AUGMENTED: "#c9a227", RELAXED: "#cc79a7",
           PROMOTED: "#d55e00"}  # fmt: skip
MARKS = {PLAIN: "s", ENFORCED: "^", AUGMENTED: "v", RELAXED: "P", PROMOTED: "o"}
Measure = Callable[[dict], float]
Cells = Mapping[tuple[float, str], list[dict]]


def draw(cells: Cells, path: Path, *, level: Measure, asymmetry: Measure) -> None:
    """Write the picture.

    Parameters
    ----------
    cells : rows of the seeds by dose and method, as ``dose.by_method`` returns them
    path : of the image; its folder is made
    level : of a row: above it a symmetry counts as broken
    asymmetry : of a row: mean defect of D4
    """
    from matplotlib.figure import Figure

    doses = sorted({dose for dose, _ in cells})
    figure = Figure(figsize=(8, 7.4), dpi=130, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    # doses stand side by side: they begin with 0 and grow by factors
    for method, colour in COLOURS.items():
        style = {"color": colour, "marker": MARKS[method], "label": method}
        _line(above, cells, doses, method, lambda row: 100 * row["test"], **style)
    above.set_yscale("log")
    above.set_yticks(ticks := [8, 10, 15, 20, 30, 50, 100], [str(tick) for tick in ticks])
    above.set_yticks([], minor=True)
    above.set_ylabel("test error (relative L2, %)")
    above.legend(frameon=False, fontsize=11)
    above.set_title("A symmetry that the data break more and more", fontsize=13)
    _broken(below, cells, doses, level, asymmetry)
    below.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses])
    below.set_xlabel("forcing a of the data; a (sin + cos)(2π(x + y)) leaves shifts along (1, −1)")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _broken(
    axes: Any, cells: Cells, doses: list[float], level: Measure, asymmetry: Measure
) -> None:
    """Singular values over the translations and the mean defect of D4: promoted, and the flow."""
    for number, (name, mark) in enumerate((("first", "o"), ("second", "D"))):
        style = {"color": COLOURS[PROMOTED], "marker": mark, "fillstyle": ("full", "none")[number]}
        label = f"promoted: {name} translation direction"
        _line(axes, cells, doses, PROMOTED, _value(number), label=label, **style)
    _line(axes, cells, doses, PROMOTED, asymmetry, color="#009e73", marker="*",
          label="promoted: elements of D4, mean")  # fmt: skip
    for measure, label in ((_value(0), "the data themselves"), (asymmetry, None)):
        _line(axes, cells, doses, DATA, measure, color="black", linestyle=":", label=label)
    levels = [mean_and_spread([level(row) for row in cells[d, PROMOTED]])[0] for d in doses]
    axes.step(range(len(doses)), levels, where="mid", color="#999999", linewidth=1)
    axes.annotate("broken above this line", (len(doses) - 0.7, levels[-1]), va="bottom", ha="right",
                  color="#777777", fontsize=9)  # fmt: skip
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(bottom=-0.005)
    axes.set_ylabel("what is broken (relative)")
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def _value(number: int) -> Measure:
    return lambda row: row["singular values"][number]


def _line(
    axes: Any,
    cells: Cells,
    doses: list[float],
    method: str,
    measure: Measure,
    **style: Any,
) -> None:
    """Mean over the seeds, with its standard deviation as a band."""
    found = [mean_and_spread([measure(row) for row in cells[dose, method]]) for dose in doses]
    places = list(range(len(doses)))
    axes.plot(places, [mean for mean, _ in found], linewidth=1.8, markersize=7, **style)
    low, high = ([m + sign * s for m, s in found] for sign in (-1, 1))
    axes.fill_between(places, low, high, color=style["color"], alpha=0.18, linewidth=0)
