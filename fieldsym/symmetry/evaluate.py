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

To add a quantity: measure it in ``evaluate_measure`` and label it in ``evaluate_dataset``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fieldsym.bundle import Bundle, require_bundle, require_operator
from fieldsym.errors import BundleError, DataError, GridError
from fieldsym.group import Group
from fieldsym.manifold import Region
from fieldsym.symmetry.evaluate_aliasing import fine_pass, finer
from fieldsym.symmetry.evaluate_curves import (
    CURVE_SAMPLES,
    curve_steps,
    orbit_curve,
    shift_curve,
)
from fieldsym.symmetry.evaluate_layers import Attribution, layer_attribution
from fieldsym.symmetry.evaluate_measure import (
    REFERENCE_SAMPLES,
    Results,
    Setup,
    Steps,
    finite_pass,
    lie_pass,
)
from fieldsym.symmetry.evaluate_parts import (
    Operator,
    Probe,
    Ruler,
    control_flow,
    evaluating,
    own_device,
    own_dtype,
    rounding_of,
)
from fieldsym.symmetry.evaluate_rows import check_group

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["evaluate"]


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
    and 45°; and the Lie derivative along each generator. A model that has
    ``push_forward(u, tangents)``, as the FNO does, gives all derivatives at once.

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
      median for a heat flow and for ``truth`` (NaN without one), on at most 16 samples, with its
      ``truth_interval``;
    * ``share``: the part of the mean square error, on the test set augmented by its orbit, that
      averaging over the finite part of the group removes, if the targets have the symmetry: where
      ``truth`` violates it, averaging may do harm; ``mse`` and ``mse_averaged`` before and after, a
      mean over space of the squared fibre norm, that is, a sum over the channels of a fibre
      (``torch.nn.MSELoss`` divides by their number); ``share_element`` and ``share_cumulative`` for
      the subgroup that an element, or it and those above it, generate. NaN without targets;
    * ``lee``: ‖(L_ξ F)(x)‖ / ‖F(x) − mean‖ times ``scale``, per radian, or per correlation length
      ‖x − mean‖ / ‖∂x‖ of the input for translations; ``lee_floor``, ``lee_truth``,
      ``lee_truth_interval``;
    * ``wrong_defect``: ‖F(g·x) − h·F(x)‖ / ‖F(x) − mean‖ for a wrong action h, which a test with
      any power rejects: the inverse of g (the opposite shift), or g with the opposite parity where
      it is its own inverse (pseudo types without their sign, the others with one);
    * ``verdict``, ``lee_verdict``: exact, below floor, consistent with truth, resolved violation,
      or not testable on this grid (see ``evaluate_statistics.verdict``), as where the wrong action
      passes too. A constant output has no fluctuation: defects are relative to ‖F(x)‖ instead, and
      those of what the group leaves as it is, such as a scalar, are not testable; ``finding``,
      ``lee_finding``: all of this in words;
    * by ``field`` of the output and by ``band`` of wavenumbers (octaves of the Nyquist frequency,
      upper edges in ``band_edge``): ``defect_field`` and ``lee_field``, relative to the fluctuation
      of that field; ``defect_band`` and ``lee_band``, relative to the output in that band, NaN
      where it has nothing; the same of the floor and the truth as ``floor_band``, ``truth_band``,
      ``truth_field`` and with ``lee_`` before; ``energy_band`` and ``…_band_share``, the parts of
      the output and of the squared defect in each band;
    * ``defect_fine`` (by the same distance or angle), ``lee_fine``: medians for the first 8 samples
      on a grid twice as fine, and ``aliasing_share`` = 1 − min(1, lee_fine / lee)², the part of
      the squared defect that vanishes there: all of it for smooth nonlinearities and fields that
      the grid resolves, about half for relu (0.45 to 0.57), whose slope jumps alias on every grid;
      NaN where the attribute ``finer_grid`` says why not;
    * ``layer_share``, ``layer_local`` over ``layer``: which layers of a module the Lie derivative
      comes from (see ``evaluate_layers.layer_attribution``);
    * ``orbit_defect`` over ``orbit_angle``: fields are windowed, and the defect is relative to the
      windowed output, so that numbers differ from ``defect``; ``shift_defect`` over
      ``shift_fraction`` of a cell along all periodic axes, with floors; at most 8 samples, where
      they can be measured;
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
    {'rotation 180°': 'exact', 'reflection y → −y': 'resolved violation',
     'reflection x → −x': 'resolved violation'}

    >>> print(report.finding.sel(element="rotation 180°").item())
    rotation 180°: holds to rounding: 0 of the fluctuation.

    References
    ----------
    Symmetry share: Elesedy & Zaidi 2021, arXiv:2102.10333. Local equivariance error: Gruver et al.
    2023, arXiv:2210.02984.
    """
    from fieldsym.symmetry.evaluate_dataset import to_dataset

    require_operator(model, "evaluate")
    x, mask = _checked_input(x, require_bundle(in_bundle, "evaluate"), mask)
    if in_bundle.base != require_bundle(out_bundle, "evaluate").base:
        raise BundleError(
            f"Input and output live on one base; got {in_bundle.base} and {out_bundle.base}."
        )
    grid = in_bundle.grid(x)
    check_group(group, in_bundle.base, grid, region)
    with evaluating(model, truth):
        ins = Ruler(in_bundle, grid, region, mask, rounding_of(own_dtype(model, x.dtype)))
        probe = _probe(model, x, ins, out_bundle, "the model")
        reference = None if truth is None else _probe(truth, x, ins, out_bundle, "the truth")
        check_group(group, in_bundle.base, probe.outs.grid, region)
        device = own_device(model, x.device)
        setup = Setup(group, probe, x, device=device, steps=Steps(progress))
        setup.y = _checked_target(y, reference, setup)
        results = _measure(setup, reference)
        return to_dataset(setup, results, name=name, units=dict(units or {}))


def _checked_input(x: Tensor, bundle: Bundle, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    bundle.check(x, "evaluate")
    if x.ndim != bundle.base.dim + 2:
        raise BundleError(
            f"evaluate expects x as (samples, {bundle.channels}, *grid); got shape "
            f"{tuple(x.shape)}. Add the axis of samples with x[None], or flatten the leading axes."
        )
    if not len(x):
        raise DataError(
            "evaluate needs at least one sample; x is empty. Give a part of a test set."
        )
    if mask is not None:
        mask = torch.as_tensor(mask)
        if tuple(mask.shape) != bundle.grid(x) or mask.dtype != torch.bool or not mask.any():
            raise GridError(
                f"A mask is boolean, on the grid {bundle.grid(x)}, True where data are valid; got "
                f"{mask.dtype} of shape {tuple(mask.shape)}, {int(mask.sum())} of them True."
            )
    return _valid(x, mask, "x"), mask


def _valid(u: Tensor, mask: Tensor | None, what: str) -> Tensor:
    """The tensor with zeros where the mask is False; an error where valid points are not finite."""
    if mask is not None:
        u = torch.where(mask.to(u.device), u, torch.zeros((), dtype=u.dtype, device=u.device))
    broken = ~u.isfinite()
    if bool(broken.any()):
        samples = broken.flatten(1).any(1).nonzero().flatten().tolist()
        raise DataError(
            f"{what} holds {int(broken.sum())} values that are not finite at valid points (samples "
            f"{samples[:5]}{' …' if len(samples) > 5 else ''}). Fill or drop them, or give a mask "
            "that is False where data are missing."
        )
    return u


def _probe(operator: Operator, x: Tensor, ins: Ruler, out_bundle: Bundle, what: str) -> Probe:
    """The operator with the grid that it returns on."""
    first, dtype = x[:1].to(own_device(operator, x.device)), own_dtype(operator, x.dtype)
    same = replace(ins, bundle=out_bundle, rounding=rounding_of(dtype))
    probe = Probe(operator, ins, same, dtype, what)
    grid = out_bundle.grid(probe(first))
    if ins.mask is not None and grid != ins.grid:
        raise GridError(f"A mask needs outputs on its grid {ins.grid}; {what} returns {grid}.")
    return replace(probe, outs=replace(same, grid=grid))


def _checked_target(y: Tensor | None, truth: Probe | None, setup: Setup) -> Tensor | None:
    if y is None:
        if truth is None:
            return None
        return torch.cat([truth(setup.take(setup.x, s)).cpu() for s in setup.batches()])
    outs = setup.probe.outs
    outs.bundle.check(y, "The target y")
    shape = (len(setup.x), outs.bundle.channels, *outs.grid)
    if tuple(y.shape) != shape:
        raise BundleError(
            f"The target y has shape {tuple(y.shape)}; the model returns {shape} for x. Give one "
            "target per sample, on the grid of the output."
        )
    return _valid(y, outs.mask, "y")


def _measure(setup: Setup, truth: Probe | None) -> Results:
    """Every measurement of the model, of the control and of the truth."""
    probe = setup.probe
    flow = control_flow(probe.ins.bundle, setup.take(setup.x, slice(CURVE_SAMPLES)))
    control = Probe(flow, probe.ins, probe.ins, probe.dtype, "the floor")
    asked = {"model": probe, "floor": control} | ({} if truth is None else {"truth": truth})
    most = {who: None if who == "model" else REFERENCE_SAMPLES for who in asked}
    fine, reason = finer(setup)
    passes = sum(setup.pass_steps(most[who]) for who in asked)
    extra = 1 + (0 if fine is None else fine.pass_steps())
    setup.steps.total = passes + len(asked) * curve_steps(setup) + extra
    return Results(
        {who: finite_pass(setup, p, most[who]) for who, p in asked.items()},
        {who: lie_pass(setup, p, most[who]) for who, p in asked.items()},
        {who: orbit_curve(setup, p) for who, p in asked.items()},
        {who: shift_curve(setup, p) for who, p in asked.items()},
        fine_pass(setup, fine, reason),
        _layers(setup),
    )


def _layers(setup: Setup) -> Attribution | None:
    """Which layers break a symmetry; None for functions, and where points are missing."""
    probe, ins = setup.probe, setup.probe.ins
    found = None
    if ins.mask is None and setup.group.generators:
        found = layer_attribution(
            probe.operator, setup.group, setup.x, *probe.bundles, region=ins.region
        )
    setup.steps.tick("the model: layers")
    return found
