"""Evaluate: how far an operator is from commuting with a group, beside what bounds the answer.

Every defect has two neighbours: the floor (the same transform applied to an isotropic heat flow,
which commutes with everything) and the truth (the same defect of a reference operator). Fields are
moved and compared in float64; the model runs in its own dtype.

>>> import fieldsym as fs
>>> base = fs.Torus((1.0, 1.0))
>>> p = fs.Bundle(base, "scalar p")
>>> x = fs.testing.random_section(p, (16, 16), batch=3)
>>> report = evaluate(fs.simulate.heat_flow(base, 0.01), fs.groups.dihedral(4), x, p, p)
>>> report.sizes["element"], set(report.verdict.values.tolist())
(7, {'exact'})

To add a quantity: measure it in ``_Evaluation`` and label it in ``evaluate_dataset``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.action import act, act_infinitesimal
from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError, GridError
from fieldsym.group import Element, Group
from fieldsym.manifold import Region, Torus
from fieldsym.symmetry.evaluate_parts import (
    Operator,
    Probe,
    Ruler,
    compare,
    control_flow,
    evaluating,
    lie_defect,
    own_device,
    own_dtype,
)
from fieldsym.symmetry.evaluate_rows import Row, check_group, element_rows, finite_part, planar_turn

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["evaluate"]

Array = np.ndarray
REFERENCE_SAMPLES = 16  # floors and truths are medians over at most this many samples
CURVE_SAMPLES = 8
ANGLES = np.arange(0.0, 361.0, 15.0)
FRACTIONS = np.linspace(0.0, 1.0, 11)


def evaluate(
    model: Operator,
    group: Group,
    x: Tensor,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    y: Tensor | None = None,
    truth: Operator | None = None,
    region: Region | None = None,
    mask: Tensor | None = None,
    units: Mapping[str, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    name: str = "model",
) -> xr.Dataset:
    """Errors, symmetry defects, floors and verdicts of an operator, element by element.

    Measured are the elements (or components) of the group; for each translation a shift by whole
    cells, by 1/2 and by 0.3 cells; for each rotation the lattice turns and, inside ``region``, 30°
    and 45°; and the Lie derivative along each generator.

    Parameters
    ----------
    model : module or callable from sections of ``in_bundle`` to sections of ``out_bundle``
    group : Group, finite, continuous or a product such as ``dihedral(4) * translations(2)``
    x : Tensor (samples, channel, *grid), inputs as the model takes them
    y : Tensor (samples, channel', *grid'), targets; default ``truth(x)`` where truth is given
    truth : reference operator (a solver) between the same bundles
    region : Region that rotations are measured in, such as ``base.disk(0.4)``; orbit curves need
        one too, and take ``disk(0.4 × length)`` on a square torus
    mask : bool Tensor (*grid), True where the data are valid; values elsewhere are set to 0, and
        only maps that permute the samples are measured
    units : units of each block of the output, by name
    progress : called with (done, total, what) after each step
    name : what the report calls the model

    Returns
    -------
    xarray.Dataset over element, generator and sample. By variable:

    * ``error``, ``error_transformed``: ‖F(x) − y‖ / ‖y‖ and ‖F(g·x) − g·y‖ / ‖y‖ per sample;
    * ``defect``: ‖F(g·x) − g·F(x)‖ / ‖F(x) − mean‖ with ``defect_median``, ``defect_p95`` and the
      bootstrapped 95 % ``defect_interval`` of the median; ``floor`` and ``truth_defect``: the same
      median for a heat flow and for ``truth`` (NaN without one), on at most 16 samples;
    * ``share``: the part of the mean square error, on the test set augmented by its orbit, that
      averaging over the finite part of the group removes; ``mse`` and ``mse_averaged`` before and
      after; ``share_element`` and ``share_cumulative`` for the subgroup that an element, or it and
      those above it, generate. NaN without targets;
    * ``lee``: ‖(L_ξ F)(x)‖ / ‖F(x) − mean‖ times ``scale``, per radian, or per correlation length
      ‖x − mean‖ / ‖ξ·x‖ of the input for translations; ``lee_floor``, ``lee_truth``;
    * ``verdict``, ``lee_verdict``: exact, below floor, consistent with truth, resolved violation,
      or not testable on this grid (see ``evaluate_statistics.verdict``);
    * ``orbit_defect`` over ``orbit_angle`` (windowed), ``shift_defect`` over ``shift_fraction`` of
      a cell along all periodic axes, with floors; at most 8 samples, where they can be measured;
    * ``example_input``, ``_output``, ``_target``, ``_defect``: the first sample, and the fibre norm
      of F(g·x) − g·F(x) for the element with the largest defect.

    Raises
    ------
    GroupError    if the group does not act on the base or grid, or rotations have no region.
    BundleError   if x, y or what the model returns are not (samples, channel, *grid) sections.
    GridError     if the mask or region belongs to another grid or base.
    DataError     if there are no samples, or valid points hold values that are not finite.

    Examples
    --------
    >>> import fieldsym as fs
    >>> base = fs.Torus((1.0, 1.0))
    >>> w = fs.Bundle(base, "pseudoscalar w")
    >>> x = fs.testing.random_section(w, (16, 16), batch=3)
    >>> report = evaluate(lambda u: u**2, fs.groups.reflections(2), x, w, w)
    >>> dict(zip(report.element.values.tolist(), report.verdict.values.tolist()))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'reflection x → −x': 'resolved violation', 'reflection y → −y': 'resolved violation',
     'rotation 180°': 'exact'}

    References
    ----------
    Symmetry share: Elesedy & Zaidi 2021, arXiv:2102.10333. Local equivariance error: Gruver et al.
    2023, arXiv:2210.02984.
    """
    from fieldsym.symmetry.evaluate_dataset import to_dataset

    x, mask = _checked_input(x, in_bundle, out_bundle, mask)
    with evaluating(model, truth):
        run = _Evaluation(model, group, x, in_bundle, out_bundle, y, truth, region, mask, progress)
        return to_dataset(run.measure(), name=name, units=dict(units or {}))


class _Evaluation:
    """One evaluation: what is compared with what, and the loops over batches."""

    def __init__(
        self,
        model: Operator,
        group: Group,
        x: Tensor,
        in_bundle: Bundle,
        out_bundle: Bundle,
        y: Tensor | None,
        truth: Operator | None,
        region: Region | None,
        mask: Tensor | None,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        base, grid = in_bundle.base, in_bundle.grid(x)
        check_group(group, base, grid, region)
        self.model, self.group, self.x = model, group, x
        dtype = own_dtype(model, x.dtype)
        self.device = own_device(model, x.device)
        self.probe = Probe(model, in_bundle, out_bundle, dtype, "the model")
        out_grid = out_bundle.grid(self.probe(self.take(x, slice(1))))
        if out_grid != grid:
            check_group(group, base, out_grid, region)
        self.truth = None
        if truth is not None:
            self.truth = Probe(truth, in_bundle, out_bundle, own_dtype(truth, x.dtype), "the truth")
        self.control = Probe(
            control_flow(in_bundle, self.take(x, slice(CURVE_SAMPLES))),
            in_bundle, in_bundle, dtype, "the control",
        )  # fmt: skip
        self.ins = Ruler(in_bundle, grid, region, mask)
        self.outs = Ruler(out_bundle, out_grid, region, mask)
        if mask is not None and out_grid != grid:
            raise GridError(f"A mask needs outputs on its grid {grid}; the model returns {out_grid}.")
        self.rows = element_rows(group, base, grid)
        self.finite = finite_part(group, base, grid)
        points = max(np.prod(grid), np.prod(out_grid))
        self.batch = int(min(32, max(1, 2**17 // points)))
        self.y = self._targets(y, (len(x), out_bundle.channels, *out_grid))
        self.progress, self.done = progress, 0
        self.total = self._steps()

    def take(self, u: Tensor, rows: slice) -> Tensor:
        """Some samples in float64 on the device of the model."""
        return u[rows].to(self.device, torch.float64)

    def batches(self, most: int | None = None) -> Iterator[slice]:
        """Slices of the samples."""
        end = len(self.x) if most is None else min(most, len(self.x))
        return (slice(i, min(i + self.batch, end)) for i in range(0, end, self.batch))

    def _targets(self, y: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
        if y is None and self.truth is None:
            return None
        if y is None and self.truth is not None:
            y = torch.cat([self.truth(self.take(self.x, s)).cpu() for s in self.batches()])
        return _checked_target(y, shape, self.outs)

    def _steps(self) -> int:
        rows, generators = len(self.rows), len(self.group.generators)
        whole, few = (len(list(self.batches(n))) for n in (None, REFERENCE_SAMPLES))
        references = 1 + (self.truth is not None)
        return (rows + generators) * (whole + references * few)

    def tick(self, what: str) -> None:
        """One step is done."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, what)

    def measurable(self, row: Row) -> bool:
        """Whether a row can be measured: with missing points, only by maps of the lattice."""
        if self.ins.mask is None or row.kind in ("point", "shift"):
            return True
        return row.windowed and self.ins.covers_region(self.device)

    def measure(self) -> Measurements:
        """Everything, in the order of the report."""
        model = self.finite_defects(self.probe, None)
        floor = self.finite_defects(self.control, REFERENCE_SAMPLES)
        truth = None if self.truth is None else self.finite_defects(self.truth, REFERENCE_SAMPLES)
        lee = self.lie_defects(self.probe, None)
        lee_floor = self.lie_defects(self.control, REFERENCE_SAMPLES)
        lee_truth = None if self.truth is None else self.lie_defects(self.truth, REFERENCE_SAMPLES)
        error, transformed, fluctuation, gram = self.errors()
        return Measurements(
            self, model, floor, truth, lee, lee_floor, lee_truth, error, transformed, fluctuation,
            gram, self.scales(), self.orbit_curves(), self.shift_curves(),
        )  # fmt: skip
