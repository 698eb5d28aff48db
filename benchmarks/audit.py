"""Audit of foreign operators: what fs.evaluate finds about each of them by itself.

    python benchmarks/audit.py

neuraloperator's FNO as it comes and repaired, TFNO, UNO and SFNO, and a U-Net, on random fields of
unit variance. All weights are untrained and drawn with seed 0, then multiplied by the first of 1,
1.5, 2, 3, 4 that makes the fluctuation of the output a quarter of its norm: untrained networks
return little but a mean, of which rounding is a large part. Nothing in the last column knows the
class of a model: the words follow from verdicts, the Lie derivative on two grids and its share of
each layer.

SFNO lives on its grid of latitudes, both poles included, and longitudes. A turn about the pole is a
shift along the longitude; other rotations of the sphere cannot be tested on this chart.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from audit_models import GROUP, SCALAR, Case, Size, cases, lively
from common import real_parameters, record, report
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.symmetry.evaluate_layers import layer_attribution

HOLDS = ("exact", "below floor")
EXACT = 1e-4  # of the fluctuation, in float32
ALIASING = 0.9  # share of the Lie derivative above which nothing else is in it
STEPS = (2, 4, 8)  # cells, for models that a shift by one cell does not commute with
HEADER = ("operator", "N", "real parameters", "whole cells", "half a cell", "quarter turn",
          "reflection", "LEE at N", "LEE at 2N", "largest source at 4N",
          "what is found")  # fmt: skip


def points(bundle: fs.Bundle, grid: int) -> tuple[int, ...]:
    """Sizes of the axes, with ``grid`` cells along the longest: an open axis has both its ends."""
    base = bundle.base
    sizes = (round(grid * length / max(base.lengths)) for length in base.lengths)
    return tuple(n + (not wraps) for n, wraps in zip(sizes, base.periodic, strict=True))


def fields(grid: int, samples: int, *, refined: int = 1, bundle: fs.Bundle = SCALAR) -> Tensor:
    """Random fields of unit variance in the waves up to an eighth of the grid; ``refined`` gives
    more points to the same fields.
    """
    sizes, kmax = points(bundle, refined * grid), max(4, grid // 8)
    return fs.testing.random_section(bundle, sizes, batch=samples, dtype=torch.float32, kmax=kmax)


@dataclass(frozen=True)
class Measured:
    """What is known of one model: nothing else enters the table.

    ``step``: least number of cells out of ``STEPS`` by which shifts commute. ``source``: the part
    with the largest share of the Lie derivative on four times as many points, where aliasing has
    gone.
    """

    report: xr.Dataset
    step: int | None
    source: str
    source_share: float


def measure(
    model: nn.Module,
    grid: int,
    samples: int,
    *,
    bundle: fs.Bundle = SCALAR,
    group: fs.Group = GROUP,
) -> Measured:
    """Evaluation, step and source of a model on random fields."""
    x = fields(grid, samples, bundle=bundle)
    finest = fields(grid, min(samples, 2), refined=4, bundle=bundle)
    shifts = replace(group, components=())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Measured(
            fs.evaluate(model, group, x, bundle, bundle),
            stride(model, x, shifts, bundle),
            *source(model, finest, shifts, bundle),
        )


def source(model: nn.Module, x: Tensor, shifts: fs.Group, bundle: fs.Bundle) -> tuple[str, float]:
    """The part of the model with the largest share, mean over the translations, and that share."""
    found = layer_attribution(model, shifts, x, bundle, bundle)
    # a generator that is no source of anything has no shares
    rows = [] if found is None else found.share[np.isfinite(found.share).all(axis=1)]
    if not len(rows):
        return "–", float("nan")
    shares = rows.mean(axis=0)
    return found.layers[int(shares.argmax())], float(shares.max())


@torch.no_grad()
def stride(model: nn.Module, x: Tensor, shifts: fs.Group, bundle: fs.Bundle) -> int | None:
    """The least number of cells out of ``STEPS`` by which shifts commute; None without one."""

    def defect(shift: np.ndarray) -> float:
        g = fs.Element(np.eye(len(shift)), shift)
        return float(fs.finite_defect(model.eval(), g, x, bundle, bundle).max())

    cell = np.array(bundle.base.spacing(bundle.grid(x)))
    for step in STEPS:
        if all(defect(step * cell * xi.shift) < EXACT for xi in shifts.generators):
            return step
    return None


def facts(measured: Measured) -> dict[str, float]:
    """The numbers of one row: the worst element of every kind, and the worst generator; NaN for
    what the group does not have.
    """
    found = measured.report
    defects = dict(zip(found.element.values.tolist(), found.defect_median.values, strict=True))
    worst = int(found.lee_median.values.argmax())

    def largest(text: str) -> float:
        return float(max((v for label, v in defects.items() if text in label), default=np.nan))

    return {
        "whole": float(found.defect_median.values[found.kind.values == "shift"].max()),
        "half": largest("1/2 cell"),
        "turn": largest("rotation 90°"),
        "reflection": largest("reflection"),
        **{key: float(found[key][worst]) for key in ("lee_median", "lee_fine", "aliasing_share")},
        "source_share": measured.source_share,
    }


def in_words(measured: Measured, axes: tuple[str, str] = ("x", "y")) -> str:
    """What the numbers say, with no knowledge of the model."""
    text = f"{_shifts(measured)}; {_points(measured.report)}"
    return re.sub(r"\b[xy]\b", lambda found: axes["xy".index(found[0])], text)


def _shifts(measured: Measured) -> str:
    """Translations: whole cells first; what is left then is a matter of the grid or the model."""
    found, own = measured.report, facts(measured)
    aliasing = own["aliasing_share"]
    shifts = found.kind.values == "shift"
    axes = [str(label)[-1] for label in found.element.values[shifts]]
    along = f" along {axes[0]}" if len(axes) == 1 else ""
    held = [v in HOLDS for v in found.verdict.values[shifts]]
    if not all(held):
        text = f"shifts by whole cells{along} violated"
        if any(held):
            text += f" along {axes[held.index(False)]} alone"
        elif measured.step:
            text += f" (they hold in steps of {measured.step} cells)"
        # nothing but aliasing in the Lie derivative: a fault of this grid alone has no source there
        unknown = aliasing > ALIASING or not np.isfinite(measured.source_share)
        return text if unknown else f"{text}, most of it from {measured.source}"
    if all(v in HOLDS for v in found.lee_verdict.values):
        return f"translations{along} hold"
    if aliasing > 0.5:
        return f"translations{along} hold up to aliasing ({aliasing:.0%} of it gone at 2N)"
    text = f"shifts by whole cells{along} hold, by parts of a cell they do not"
    seen = np.isfinite(own["lee_fine"])
    return text if seen else f"{text} (not seen at 2N: {found.attrs['finer_grid']})"


def _points(found: object) -> str:
    """The dihedral group: all of it, some elements, or nothing."""
    point = found.kind.values == "point"
    name = f"D{(point.sum() + 1) // 2}"  # the identity has no row
    holds = [v in HOLDS for v in found.verdict.values[point]]
    kept = [str(g) for g, one in zip(found.element.values[point], holds, strict=True) if one]
    if all(holds):
        return f"{name} holds"
    return f"{name} violated but for {', '.join(kept)}" if kept else f"{name} violated"


def number(value: float) -> str:
    """Percent, or a power of ten for what is exact."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.0e}" if value < 1e-3 else f"{100 * value:.1f} %"


def cells(name: str, case: Case, grid: int, size: int, measured: Measured) -> tuple[str, ...]:
    """One row of the table."""
    own = facts(measured)
    share = own["source_share"]
    source = f"{measured.source} ({share:.0%})" if np.isfinite(share) else "–"
    shown = ("whole", "half", "turn", "reflection", "lee_median", "lee_fine")
    numbers = [number(own[key]) for key in shown]
    along = " × ".join(map(str, dict.fromkeys(points(case.bundle, grid))))
    return (name, along, f"{size:,}", *numbers, source, in_words(measured, case.axes))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and record the table."""
    options = parser().parse_args(arguments)
    size = Size(options.width, options.n_modes, options.layers)
    rows, kept = [], []
    for name, case in cases().items():
        if options.models and name not in options.models:
            continue
        grid = options.grid + case.more_points
        try:
            model = lively(case, size, fields(grid, options.samples, bundle=case.bundle))
        except ImportError:
            rows.append((name, *["–"] * 9, "not installed (pip install 'fieldsym[peers,sfno]')"))
            continue
        measured = measure(model, grid, options.samples, bundle=case.bundle, group=case.group)
        rows.append(cells(name, case, grid, real_parameters(model), measured))
        kept += [
            (f"{name}, N = {grid}", key, value, f"{options.samples} fields")
            for key, value in facts(measured).items()
            if np.isfinite(value)
        ]
        sys.stderr.write(f"{name}: {rows[-1][-1]}\n")
    report(
        "Audit: largest median defect relative to the fluctuation of the output; Lie derivative "
        f"(LEE) per correlation length; untrained weights of seed 0, width {size.width}, n_modes "
        f"{size.n_modes} or {size.n_modes - 1}, {size.layers} layers, {options.samples} fields",
        HEADER,
        rows,
    )
    record("audit", kept)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--grid", type=int, default=64)
    options.add_argument("--width", type=int, default=32)
    options.add_argument("--n-modes", type=int, default=17, help="odd; one fewer where even")
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--samples", type=int, default=4)
    options.add_argument("--models", nargs="+", help="rows of the table by name; default all")
    return options


if __name__ == "__main__":
    main()
