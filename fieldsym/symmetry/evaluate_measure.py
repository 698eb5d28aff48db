"""The loops of an evaluation: finite defects and Lie derivatives of every sample.

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
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.action import act
from fieldsym.group import Group
from fieldsym.symmetry.evaluate_bands import Bands, Parts
from fieldsym.symmetry.evaluate_parts import (
    Defect,
    Probe,
    Ruler,
    array,
    compare,
    lie_defects,
    rounding_of,
    windowed,
)
from fieldsym.symmetry.evaluate_rows import Row, element_rows, finite_part, wrong_action

if TYPE_CHECKING:
    from fieldsym.symmetry.evaluate_aliasing import Fine
    from fieldsym.symmetry.evaluate_layers import Attribution

Array = np.ndarray
# Points per batch: on processors larger arrays are taken from the system anew each time, 3 x slower
BATCH_POINTS = (2**15, 2**19)
REFERENCE_SAMPLES = 16  # floors and truths are medians over at most this many samples


@dataclass
class Steps:
    """How far the work is: ``report`` is called with (done, total, what)."""

    report: Callable[[int, int, str], None] | None = None
    done: int = 0
    total: int = 0

    def tick(self, what: str) -> None:
        """One step is done."""
        self.done += 1
        if self.report is not None:
            self.report(self.done, self.total, what)


class Setup:
    """What is measured: samples, rows, batches, and how far the work is.

    Parameters
    ----------
    group : Group that acts
    probe : Probe of the model, which fixes device and grids
    x, y : Tensor (samples, channel, *grid), and the targets or None
    device : of the model
    rows : elements to move by; default all of ``element_rows``
    steps : who is told how far the work is
    """

    def __init__(
        self,
        group: Group,
        probe: Probe,
        x: Tensor,
        y: Tensor | None = None,
        *,
        device: torch.device | None = None,
        rows: list[Row] | None = None,
        steps: Steps | None = None,
    ) -> None:
        self.group, self.probe, self.x, self.y = group, probe, x, y
        base, grid = probe.ins.bundle.base, probe.ins.grid
        self.rows = element_rows(group, base, grid) if rows is None else rows
        self.finite = finite_part(group, base, grid)
        self.bands = Bands.of(base, probe.outs.grid)
        self.device = x.device if device is None else device
        points = max(math.prod(grid), math.prod(probe.outs.grid))
        self.batch = min(32, max(1, BATCH_POINTS[self.device.type != "cpu"] // points))
        self.steps = Steps() if steps is None else steps

    def take(self, u: Tensor, rows: slice) -> Tensor:
        """Some samples in float64 on the device of the model."""
        return u[rows].to(self.device, torch.float64)

    def batches(self, most: int | None = None) -> list[slice]:
        """Slices of the first samples, or of all."""
        end = len(self.x) if most is None else min(most, len(self.x))
        return [slice(i, min(i + self.batch, end)) for i in range(0, end, self.batch)]

    def pass_steps(self, most: int | None = None) -> int:
        """Number of steps of a finite and an infinitesimal pass."""
        return len(self.batches(most)) * (1 + len(self.group.generators))

    def can_measure(self, kind: str) -> bool:
        """Whether a kind of row can be measured: with missing points, only maps of the lattice."""
        ruler = self.probe.ins
        if ruler.mask is None or kind in ("point", "shift"):
            return True
        return kind == "rotation" and ruler.covers_region()

    @property
    def rounding(self) -> float:
        """What the dtype of the model loses, relative to the output."""
        return rounding_of(self.probe.dtype)

    @cached_property
    def scales(self) -> list[tuple[float, str]]:
        """The natural step along each generator and its name: a radian or a correlation length."""
        turning = [bool(xi.matrix.any()) for xi in self.group.generators]
        length = 1.0 if all(turning) else self._correlation_length()
        return [(1.0, "radian") if turns else (length, "correlation length") for turns in turning]

    # ‖x − mean‖ / ‖∂x‖ of the input, with the mean square of ∂x over the periodic axes.
    def _correlation_length(self) -> float:
        ruler, base = self.probe.ins, self.probe.ins.bundle.base
        u = self.take(self.x, slice(REFERENCE_SAMPLES))
        weights = ruler.weights(self.device)
        axes = [axis for axis, wraps in enumerate(base.periodic) if wraps]
        slopes = [ruler.norm(base.derivative(u, axis), weights).square().sum() for axis in axes]
        size = ruler.norm(ruler.fluctuation(u, weights), weights).square().sum()
        slope = torch.stack(slopes).mean().clamp_min(torch.finfo(torch.float64).tiny)
        return float((size / slope).sqrt())


class Table:
    """Defects of rows and samples, (rows, samples); NaN where not measured.

    ``defect`` relative to the fluctuation of the output, or to a constant output itself;
    ``change``, what the group does to the output, in the same way; ``uneven``, the fluctuation
    relative to the output; ``parts``, the fields and bands that the defect is in.
    """

    def __init__(self, rows: int, fields: int, samples: int) -> None:
        self.defect, self.change, self.uneven = np.full((3, rows, samples), np.nan)
        self.parts = Parts.empty(rows, fields, samples)

    def constant(self, rounding: float) -> Array:
        """Rows whose outputs are constant over space to rounding: only their values can change."""
        return np.array(
            [bool(len(row)) and bool(np.median(row) <= rounding) for row in self.uneven]
        )

    def enter(self, i: int, s: slice, ruler: Ruler, bands: Bands, defect: Defect) -> None:
        """Measure one defect of some samples."""
        value, weights = defect.value, defect.weights
        self.defect[i, s] = array(ruler.ratio(defect.error, value, weights))
        self.change[i, s] = array(ruler.ratio(defect.change, value, weights))
        self.uneven[i, s] = array(ruler.unevenness(value, weights))
        self.parts.enter(i, s, ruler, bands, defect)


class Finite(Table):
    """Finite defects, and the errors that come with the same forward passes.

    ``wrong``: the defect with a wrong action on the output; ``transformed`` (rows, samples);
    ``error``, ``fluctuation`` (samples,); ``energy`` (bands, samples) of the output; ``gram``
    (order, order), the mean of ⟨R_g, R_h⟩ over samples and space.
    """

    def __init__(self, setup: Setup, probe: Probe, samples: int) -> None:
        super().__init__(len(setup.rows), len(probe.outs.bundle.blocks), samples)
        self.wrong, self.transformed = (np.full_like(self.defect, np.nan) for _ in range(2))
        self.error, self.fluctuation = (np.full(samples, np.nan) for _ in range(2))
        self.energy = np.full((len(setup.bands.labels), samples), np.nan)
        self.gram = np.zeros((setup.finite.order, setup.finite.order))


@dataclass
class Results:
    """What was measured of the "model", the "floor" and perhaps the "truth"."""

    finite: dict[str, Finite]
    lie: dict[str, Table]
    orbit: dict[str, Array | None]
    shifts: dict[str, Array | None]
    fine: Fine
    layers: Attribution | None


def finite_pass(setup: Setup, probe: Probe, most: int | None = None) -> Finite:
    """‖F(g·x) − g·F(x)‖ / ‖F(x) − mean‖ of every row and sample, and the errors of the model."""
    batches = setup.batches(most)
    found = Finite(setup, probe, batches[-1].stop)
    for s in batches:
        _finite_batch(setup, probe, s, found)
        setup.steps.tick(f"{probe.name}: finite elements")
    found.gram /= batches[-1].stop
    if setup.y is None or probe is not setup.probe:
        found.gram[:] = np.nan
    return found


def _finite_batch(setup: Setup, probe: Probe, s: slice, found: Finite) -> None:
    u = setup.take(setup.x, s)
    plain, outs = (u, probe(u)), probe.outs
    _output(setup, outs, plain[1], s, found)
    target = setup.take(setup.y, s) if setup.y is not None and probe is setup.probe else None
    aligned = [plain[1]]
    if target is not None:
        found.error[s] = array(_relative(outs, plain[1], target, outs.weights(setup.device)))
    seen = windowed(probe, u) if any(row.windowed for row in setup.rows) else plain
    for i, row in enumerate(setup.rows):
        if not setup.can_measure(row.kind):
            continue
        state = seen if row.windowed else plain
        first, second = compare(probe, row, *state)
        if target is not None and row.kind == "point":
            aligned.append(act(row.element.inverse, first, outs.bundle))
        weights = outs.weights(setup.device, [row.element] if row.kind != "rotation" else [])
        if not weights.any():  # no point is valid before and after
            continue
        defect = Defect(first - second, second, weights, second - state[1])
        found.enter(i, s, outs, setup.bands, defect)
        other, sign = wrong_action(row.element, outs.bundle.base)
        wrong = sign * act(other, state[1], outs.bundle)
        found.wrong[i, s] = array(outs.ratio(first - wrong, second, weights))
        if target is not None and not row.windowed:
            moved = act(row.element, target, outs.bundle)
            found.transformed[i, s] = array(_relative(outs, first, moved, weights))
    if target is not None:
        found.gram += _gram(outs, [v - target for v in aligned], setup)


# How far the output is from constant, and how its fluctuation is spread over the bands.
def _output(setup: Setup, outs: Ruler, value: Tensor, s: slice, found: Finite) -> None:
    weights = outs.weights(setup.device)
    found.fluctuation[s] = array(outs.unevenness(value, weights))
    if outs.mask is None:
        energy = setup.bands.energies(outs.bundle, outs.fluctuation(value, weights))
        found.energy[:, s] = array((energy / energy.sum(1, keepdim=True)).T)


def _relative(ruler: Ruler, value: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return ruler.norm(value - target, weights) / ruler.norm(target, weights).clamp_min(1e-300)


# Σ over samples of ⟨R_g, R_h⟩, a mean over the points that are valid in every image.
def _gram(ruler: Ruler, residuals: list[Tensor], setup: Setup) -> Array:
    weights = ruler.weights(setup.device, setup.finite.elements)
    stack = torch.stack(residuals) * (weights / weights.sum()).sqrt()
    channel = -ruler.bundle.base.dim - 1
    rho = ruler.bundle.representation.gram.to(stack)
    other = torch.movedim(torch.movedim(stack, channel, -1) @ rho, -1, channel)
    return array(stack.flatten(1) @ other.flatten(1).T)


def lie_pass(setup: Setup, probe: Probe, most: int | None = None) -> Table:
    """‖(L_ξ F)(x)‖ / ‖F(x) − mean‖, (generators, samples), per unit of the parameter."""
    batches, generators = setup.batches(most), setup.group.generators
    found = Table(len(generators), len(probe.outs.bundle.blocks), batches[-1].stop)
    for s in batches:
        u = setup.take(setup.x, s)
        for kind in ("fractional shift", "rotation"):
            chosen = [
                i for i, xi in enumerate(generators) if xi.matrix.any() == (kind == "rotation")
            ]
            if chosen and setup.can_measure(kind):
                defects = lie_defects(probe, [generators[i] for i in chosen], u)
                for i, defect in zip(chosen, defects, strict=True):
                    found.enter(i, s, probe.outs, setup.bands, defect)
            for i in chosen:
                setup.steps.tick(f"{probe.name}: {generators[i].name}")
    return found
