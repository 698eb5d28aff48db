"""Curves of an evaluation, and maps of one sample: defects over an angle and over a shift.

Lattice angles and whole cells hide what lies between them; a curve shows the whole orbit.

>>> import fieldsym as fs
>>> from fieldsym.symmetry.evaluate_parts import Ruler
>>> curve_region(Ruler(fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p"), (16, 16))).radius
0.4

To add a curve: give ``_curve`` the rows along it, and count its steps in ``curve_steps``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fieldsym.group import Element, so
from fieldsym.manifold import Region
from fieldsym.symmetry.evaluate_parts import Probe, Ruler, array, compare, windowed
from fieldsym.symmetry.evaluate_rows import Row, turned

if TYPE_CHECKING:
    from fieldsym.symmetry.evaluate_measure import Setup

Array = np.ndarray
CURVE_SAMPLES = 8
ANGLES = np.arange(0.0, 361.0, 15.0)
FRACTIONS = np.linspace(0.0, 1.0, 11)


def curve_region(ruler: Ruler) -> Region | None:
    """Where an orbit curve is measured; None where it cannot be."""
    base = ruler.bundle.base
    if base.dim != 2 or not ruler.covers_region() or not ruler.bundle.representation.turns:
        return None
    square = all(base.periodic) and np.ptp(base.lengths) < 1e-9 * base.lengths[0]
    if ruler.region is not None or not square or ruler.mask is not None:
        return ruler.region
    return base.disk(0.4 * base.lengths[0])


def has_shifts(ruler: Ruler) -> bool:
    """Whether fractional shifts can be measured."""
    return any(ruler.bundle.base.periodic) and ruler.mask is None


def curve_steps(setup: Setup) -> int:
    """Number of steps of the curves of one operator."""
    ins, outs = setup.probe.ins, setup.probe.outs
    turning = outs.bundle.representation.turns and curve_region(ins) is not None
    return len(setup.batches(CURVE_SAMPLES)) * (turning + has_shifts(ins))


def orbit_curve(setup: Setup, probe: Probe) -> Array | None:
    """Median defect of windowed rotations by ``ANGLES``; NaN where one cannot be done.

    Input and output are faded out towards the edge of the region, and the defect is relative to
    the fluctuation of the windowed output, in which a mean shows as the shape of the window. So the
    numbers are not those of the same elements without a window.
    """
    region = curve_region(probe.ins)
    if region is None or not probe.outs.bundle.representation.turns:
        return None
    ins, outs = (replace(r, region=region, mask=None) for r in (probe.ins, probe.outs))
    inside = replace(probe, ins=ins, outs=outs)
    turns = [turned(so(2).generators[0], angle) for angle in ANGLES]
    return _curve(setup, inside, [Row("", g, "rotation") for g in turns], "orbit")


def shift_curve(setup: Setup, probe: Probe) -> Array | None:
    """Median defect of shifts by ``FRACTIONS`` of a cell along all periodic axes."""
    if not has_shifts(probe.ins):
        return None
    base = probe.ins.bundle.base
    cell = np.array(base.spacing(probe.ins.grid)) * np.array(base.periodic)
    shifts = [Element(np.eye(base.dim), fraction * cell) for fraction in FRACTIONS]
    return _curve(setup, probe, [Row("", g, "fractional shift") for g in shifts], "shifts")


def _curve(setup: Setup, probe: Probe, rows: list[Row], what: str) -> Array:
    base, grid = probe.ins.bundle.base, probe.ins.grid
    weights, found = probe.outs.weights(setup.device), []
    for s in setup.batches(CURVE_SAMPLES):
        u = setup.take(setup.x, s)
        state = windowed(probe, u) if rows[0].windowed else (u, probe(u))
        values = np.full((len(rows), len(u)), np.nan)
        for i, row in enumerate(rows):
            if base.lattice(row.element) is None or base.admits(row.element, grid):
                first, second = compare(probe, row, *state)
                values[i] = array(probe.outs.ratio(first - second, second, weights))
        found.append(values)
        setup.steps.tick(f"{probe.name}: {what}")
    return np.median(np.concatenate(found, axis=1), axis=1)


def example(setup: Setup, row: Row | None) -> dict[str, Array]:
    """The first sample: input, output, target, and the defect of one row at every point."""
    probe, s = setup.probe, slice(1)
    u = setup.take(setup.x, s)
    plain = (u, probe(u))
    maps = {"input": array(u[0]), "output": array(plain[1][0])}
    if setup.y is not None:
        maps["target"] = array(setup.take(setup.y, s)[0])
    if row is not None:
        first, second = compare(probe, row, *(windowed(probe, u) if row.windowed else plain))
        valid = probe.outs.weights(setup.device, [] if row.windowed else [row.element]) > 0
        maps["defect"] = array((probe.outs.bundle.norm(first - second) * valid)[0])
    return maps
