"""The loops of an evaluation: finite defects, Lie derivatives, curves and one example.

Each function takes a ``Setup`` (which samples, which rows) and a ``Probe`` (who is asked) and
returns float64 numpy arrays. Samples go through in batches, so memory does not grow with them.

>>> import torch, fieldsym as fs
>>> from fieldsym.symmetry.evaluate_parts import Ruler
>>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "pseudoscalar w")
>>> x = fs.testing.random_section(p, (16, 24), batch=5)
>>> ruler = Ruler(p, (16, 24))
>>> square = Probe(lambda u: u**2, ruler, ruler, torch.float64)
>>> finite_pass(Setup(fs.groups.reflections(2), square, x), square).defect.shape
(3, 5)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldsym.action import act
from fieldsym.group import Element, Generator, Group, so
from fieldsym.manifold import Region
from fieldsym.symmetry.evaluate_parts import Probe, Ruler, compare, lie_defect, windowed
from fieldsym.symmetry.evaluate_rows import Row, element_rows, finite_part, turned

Array = np.ndarray
Progress = Callable[[int, int, str], None]
REFERENCE_SAMPLES = 16  # floors and truths are medians over at most this many samples
CURVE_SAMPLES = 8
ANGLES = np.arange(0.0, 361.0, 15.0)
FRACTIONS = np.linspace(0.0, 1.0, 11)


class Setup:
    """What is measured: samples, rows, batches, and how far the work is.

    Parameters
    ----------
    group : Group that acts
    probe : Probe of the model, which fixes device and grids
    x, y : Tensor (samples, channel, *grid), and the targets or None
    device : of the model
    progress : called with (done, total, what)
    """

    def __init__(
        self,
        group: Group,
        probe: Probe,
        x: Tensor,
        y: Tensor | None = None,
        *,
        device: torch.device | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.group, self.probe, self.x, self.y = group, probe, x, y
        base, grid = probe.ins.bundle.base, probe.ins.grid
        self.rows = element_rows(group, base, grid)
        self.finite = finite_part(group, base, grid)
        self.device = x.device if device is None else device
        points = max(math.prod(grid), math.prod(probe.outs.grid))
        self.batch = min(32, max(1, 2**17 // points))
        self.progress, self.done, self.total = progress, 0, 0

    def take(self, u: Tensor, rows: slice) -> Tensor:
        """Some samples in float64 on the device of the model."""
        return u[rows].to(self.device, torch.float64)

    def batches(self, most: int | None = None) -> list[slice]:
        """Slices of the first samples, or of all."""
        end = len(self.x) if most is None else min(most, len(self.x))
        return [slice(i, min(i + self.batch, end)) for i in range(0, end, self.batch)]

    def tick(self, what: str) -> None:
        """One step is done."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, what)

    def count(self, probes: int) -> None:
        """Find the number of steps for a model and some reference operators."""
        turns = len(self.batches(CURVE_SAMPLES))
        passes = len(self.batches()) + (probes - 1) * len(self.batches(REFERENCE_SAMPLES))
        turning = self.probe.outs.bundle.representation.turns
        curves = (turning and curve_region(self.probe.ins) is not None) + has_shifts(self.probe.ins)
        self.total = passes * (1 + len(self.group.generators)) + probes * curves * turns

    def can_measure(self, kind: str) -> bool:
        """Whether a kind of row can be measured: with missing points, only maps of the lattice."""
        ruler = self.probe.ins
        if ruler.mask is None or kind in ("point", "shift"):
            return True
        return kind == "rotation" and ruler.covers_region()


@dataclass
class Finite:
    """Finite defects, and the errors that come with the same forward passes.

    ``defect``, ``transformed`` (rows, samples); ``error``, ``fluctuation`` (samples,); ``gram``
    (order, order), the mean of ⟨R_g, R_h⟩ over samples and space; NaN where not measured.
    """

    defect: Array
    transformed: Array
    error: Array
    fluctuation: Array
    gram: Array


@dataclass
class Results:
    """What was measured of the "model", the "floor" and perhaps the "truth"."""

    finite: dict[str, Finite]
    lie: dict[str, Array]
    orbit: dict[str, Array | None]
    shifts: dict[str, Array | None]


def finite_pass(setup: Setup, probe: Probe, most: int | None = None) -> Finite:
    """‖F(g·x) − g·F(x)‖ / ‖F(x) − mean‖ of every row and sample, and the errors of the model."""
    batches, order = setup.batches(most), setup.finite.order
    samples, rows = batches[-1].stop, len(setup.rows)
    table, line = np.full((rows, samples), np.nan), np.full(samples, np.nan)
    gram = np.zeros((order, order))
    found = Finite(table, table.copy(), line, line.copy(), gram)
    for s in batches:
        _finite_batch(setup, probe, s, found)
        setup.tick(f"{probe.name}: finite elements")
    found.gram /= samples
    if setup.y is None or probe is not setup.probe:
        found.gram[:] = np.nan
    return found


def _finite_batch(setup: Setup, probe: Probe, s: slice, found: Finite) -> None:
    u = setup.take(setup.x, s)
    plain, outs = (u, probe(u)), probe.outs
    weights = outs.weights(setup.device)
    centred = outs.norm(outs.fluctuation(plain[1], weights), weights)
    found.fluctuation[s] = _array(centred / outs.norm(plain[1], weights).clamp_min(1e-300))
    target = setup.take(setup.y, s) if setup.y is not None and probe is setup.probe else None
    aligned = [plain[1]]
    if target is not None:
        found.error[s] = _array(_relative(outs, plain[1], target, weights))
    seen = windowed(probe, u) if any(row.windowed for row in setup.rows) else plain
    for i, row in enumerate(setup.rows):
        if not setup.can_measure(row.kind):
            continue
        first, second = compare(probe, row, *(seen if row.windowed else plain))
        if target is not None and row.kind == "point":
            aligned.append(act(row.element.inverse, first, outs.bundle))
        weights = outs.weights(setup.device, [row.element] if row.kind != "rotation" else [])
        if not weights.any():  # no point is valid before and after
            continue
        found.defect[i, s] = _array(outs.ratio(first - second, second, weights))
        if target is None or row.windowed:
            continue
        moved = act(row.element, target, outs.bundle)
        found.transformed[i, s] = _array(_relative(outs, first, moved, weights))
    if target is not None:
        found.gram += _gram(outs, [v - target for v in aligned], setup)


def _relative(ruler: Ruler, value: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return ruler.norm(value - target, weights) / ruler.norm(target, weights).clamp_min(1e-300)


def _array(values: Tensor) -> Array:
    return values.detach().cpu().numpy()


# Σ over samples of ⟨R_g, R_h⟩, a mean over the points that are valid in every image.
def _gram(ruler: Ruler, residuals: list[Tensor], setup: Setup) -> Array:
    weights = ruler.weights(setup.device, setup.finite.elements)
    stack = torch.stack(residuals) * (weights / weights.sum()).sqrt()
    channel = -ruler.bundle.base.dim - 1
    rho = ruler.bundle.representation.gram.to(stack)
    other = torch.movedim(torch.movedim(stack, channel, -1) @ rho, -1, channel)
    return _array(stack.flatten(1) @ other.flatten(1).T)


def lie_pass(setup: Setup, probe: Probe, most: int | None = None) -> Array:
    """‖(L_ξ F)(x)‖ / ‖F(x) − mean‖, (generators, samples), per unit of the parameter."""
    batches = setup.batches(most)
    found = np.full((len(setup.group.generators), batches[-1].stop), np.nan)
    for s in batches:
        u = setup.take(setup.x, s)
        for i, xi in enumerate(setup.group.generators):
            if setup.can_measure("rotation" if xi.matrix.any() else "fractional shift"):
                found[i, s] = _array(lie_defect(probe, xi, u))
            setup.tick(f"{probe.name}: {xi.name}")
    return found


def scale_of(setup: Setup, xi: Generator) -> tuple[float, str]:
    """The natural step along a generator, and its name.

    A radian, or the correlation length ‖x − mean‖ / ‖∂x‖ of the input, with the mean square of ∂x
    over the periodic axes.
    """
    if xi.matrix.any():
        return 1.0, "radian"
    ruler, base = setup.probe.ins, setup.probe.ins.bundle.base
    u = setup.take(setup.x, slice(REFERENCE_SAMPLES))
    weights = ruler.weights(setup.device)
    axes = [axis for axis, wraps in enumerate(base.periodic) if wraps]
    slopes = [ruler.norm(base.derivative(u, axis), weights).square().sum() for axis in axes]
    size = ruler.norm(ruler.fluctuation(u, weights), weights).square().sum()
    slope = torch.stack(slopes).mean().clamp_min(torch.finfo(torch.float64).tiny)
    return float((size / slope).sqrt()), "correlation length"


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


def orbit_curve(setup: Setup, probe: Probe) -> Array | None:
    """Median defect of windowed rotations by ``ANGLES``; NaN where one cannot be done."""
    region = curve_region(probe.ins)
    if region is None or not probe.outs.bundle.representation.turns:
        return None
    ins, outs = (Ruler(r.bundle, r.grid, region) for r in (probe.ins, probe.outs))
    inside = Probe(probe.operator, ins, outs, probe.dtype, probe.name)
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
                values[i] = _array(probe.outs.ratio(first - second, second, weights))
        found.append(values)
        setup.tick(f"{probe.name}: {what}")
    return np.median(np.concatenate(found, axis=1), axis=1)


def example(setup: Setup, row: Row | None) -> dict[str, Array]:
    """The first sample: input, output, target, and the defect of one row at every point."""
    probe, s = setup.probe, slice(1)
    u = setup.take(setup.x, s)
    plain = (u, probe(u))
    maps = {"input": _array(u[0]), "output": _array(plain[1][0])}
    if setup.y is not None:
        maps["target"] = _array(setup.take(setup.y, s)[0])
    if row is not None:
        first, second = compare(probe, row, *(windowed(probe, u) if row.windowed else plain))
        valid = probe.outs.weights(setup.device, [] if row.windowed else [row.element]) > 0
        maps["defect"] = _array((probe.outs.bundle.norm(first - second) * valid)[0])
    return maps
