"""Promote: a penalty that keeps every candidate symmetry which the data do not break.

The rank of ξ ↦ L_ξ F, over the span of candidate generators, is the dimension of what F breaks. Its
nuclear norm is the convex surrogate: added to a loss, it removes whole directions of broken
symmetry and leaves those that the data need. Candidate finite elements g enter by the unsquared
norm of F∘g − g∘F. Both are relative to the size of F, the norm of its fluctuation.

>>> import torch, fieldsym as fs
>>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p")
>>> model = fs.FNO(p, p, n_modes=5, hidden_channels=4, positional_embedding="grid")
>>> penalty = promote(model, fs.groups.translations(2) * fs.groups.reflections(2), p, p)
>>> penalty(fs.testing.random_section(p, (16, 24), dtype=torch.float32)).backward()

To add a norm: write a class with the methods of :class:`~fieldsym.symmetry.promote_norm.NuclearNorm`.
"""  # noqa: E501

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from fieldsym.bundle import Bundle, require_bundle, require_operator
from fieldsym.errors import BundleError, DataError, GridError, GroupError
from fieldsym.group import Group, require_group, trivial
from fieldsym.manifold import Manifold, Region
from fieldsym.operators.adopt import Hidden
from fieldsym.symmetry.promote_norm import NuclearNorm, is_count
from fieldsym.symmetry.promote_operator import Operator, flat_samples
from fieldsym.symmetry.promote_penalty import REFRESH, Promotion
from fieldsym.symmetry.promote_weights import WeightGram, in_units

__all__ = ["Promotion", "promote"]

LEVELS = ("operator", "weights")
ESTIMATORS = ("all", "one")


def promote(
    model: Operator,
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    level: str = "operator",
    region: Region | None = None,
    hidden: Hidden = None,
    p: float = 1.0,
    estimator: str = "all",
    samples: int | None = None,
    ema: float = 0.98,
    eps: tuple[float, float] = (1e-2, 1e-3),
    anneal: int = 1000,
    spectra: Tensor | None = None,
) -> Promotion:
    """A penalty that promotes the symmetries of a candidate group in training.

    Candidates may be too many: what the data contradict is given up, direction by direction. A step
    of translations is the shortest side of the base over 2π, and one of rotations a radian: these
    units are orthonormal, singular values are per unit.

    Add ``gamma * penalty(x)`` to the loss. Begin small: gamma times the penalty about 1e-3 of the
    task loss at the start; choose it on validation data. With a gamma that is too large the
    operator gives up its information rather than a symmetry: its output becomes invariant. The
    penalty is relative, so that inflating symmetric weights lowers it too: with ``fs.relax`` give
    its gradient to the residuals alone,
    ``(gamma * penalty()).backward(inputs=fs.residual_parameters(model))``.

    At level "operator" the whole operator is differentiated at the fields x: any module or
    callable, and what training sees. The derivative along translations also counts the aliasing of
    nonlinearities between grid points (tens of per cent on rough fields, for an operator whose
    shifts by whole cells are exact; ``fs.evaluate`` separates it by two resolutions).

    At level "weights" the weights of every layer are looked at, exactly and without data: the cost
    is that of the parameters, and a symmetry counts as kept only if every layer keeps it. Kernels
    turn as multipliers of all waves of a grid, with square cells or, given ``spectra``, the cells
    of theirs; a grid embedding of neuraloperator counts as the position from the centre. Singular
    values are then relative to the norm of all weights, so that they shrink as the model widens:
    compare them with each other, not with those of the operator. ``broken_dimension`` and
    ``report`` judge layer by layer there, as :func:`fieldsym.snap` does.

    Parameters
    ----------
    model : module or callable from sections of ``in_bundle`` to sections of ``out_bundle``
    group : Group of candidates; generators, and elements (of a continuous group its components)
    level : "operator" or "weights"
    region : Region; needed by rotations at level "operator", which then sees windowed fields
    hidden : types of the channels inside at level "weights", as for :func:`fieldsym.enforce`
    p : exponent of the norm: 1 is the nuclear norm, smaller ones prune harder, 0 is log-det
    estimator : "all" looks at everything in every call. "one" lets the weights take turns, or draws
        one direction or one element at each call, unbiased, and looks at all directions at every
        tenth: a step of training then costs less than two without a penalty
    samples : how many samples of a batch are looked at, in turn; default all, or for "one" an
        eighth
    ema : share of the running mean of the Gram matrix kept at each step
    eps, anneal : smoothing of the norm relative to its largest singular value, from the first to
        the second within this number of calls
    spectra : sections (batch, channel, *grid) of ``in_bundle``; at level "weights" every layer is
        then weighted by the spectrum of its input for them, by default all inputs count alike

    Returns
    -------
    Promotion   a callable penalty

    Raises
    ------
    GroupError    if a generator does not act on the base and no region is given, if there is no
                  candidate, or if level, estimator and other options do not go together.
    BundleError   if the bundles live on two bases, or the model is no operator.
    GridError     if the region belongs to another base.
    DataError     if ``samples`` or an option of the norm is out of its range, or ``spectra`` are
                  empty or not finite.

    Examples
    --------
    A factor that varies along x breaks translations along x, and none along y:

    >>> import math, fieldsym as fs
    >>> base = fs.Torus((1.0, 1.0))
    >>> p = fs.Bundle(base, "scalar p")
    >>> x, y = 2 * math.pi * base.coordinates((16, 24))
    >>> penalty = promote(lambda u: (2 + x.sin()) * u, fs.groups.translations(2), p, p)
    >>> value = penalty(fs.testing.random_section(p, (16, 24)))
    >>> penalty.broken_dimension(), penalty.directions[0].abs()
    (1, tensor([1., 0.], dtype=torch.float64))

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212, section on promoting symmetry (nuclear norm of L_F).
    """
    require_operator(model, "promote")
    base = _check_bundles(in_bundle, out_bundle)
    _check_options(level, estimator, samples, region, hidden, spectra)
    _check_candidates(group, base, level, region)
    units = replace(group, generators=tuple(in_units(xi, base) for xi in group.generators))
    norm = NuclearNorm(len(units.generators), p=p, eps=eps, anneal=anneal, ema=ema)
    weights, one = None, estimator == "one"
    if level == "weights":
        weights = _weights(model, units, in_bundle, out_bundle, hidden, spectra)
    elif one:
        norm.ema **= REFRESH  # ema is per call, and only these calls contribute
    return Promotion(
        model, units, in_bundle, out_bundle, norm, weights, region=region, one=one, samples=samples
    )


def _weights(
    model: Operator,
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    hidden: Hidden,
    spectra: Tensor | None,
) -> WeightGram:
    if not isinstance(model, nn.Module):
        raise BundleError(
            f"level='weights' needs a module, whose weights can be read; got {model!r}. Use "
            "level='operator'."
        )
    if spectra is not None:
        spectra = flat_samples(spectra, in_bundle, "spectra of promote")
    try:
        return WeightGram(model, group, in_bundle, out_bundle, hidden, spectra=spectra)
    except GroupError as error:
        raise GroupError(f"{error} Without that: level='operator' takes any module.") from error


def _check_bundles(in_bundle: Bundle, out_bundle: Bundle) -> Manifold:
    base = require_bundle(in_bundle, "promote").base
    if base != require_bundle(out_bundle, "promote").base:
        raise BundleError(
            f"Input and output live on one base; got {base} and {out_bundle.base}. A symmetry acts "
            "on both at once."
        )
    return base


def _check_options(
    level: str,
    estimator: str,
    samples: int | None,
    region: Region | None,
    hidden: Hidden,
    spectra: Tensor | None,
) -> None:
    if level not in LEVELS:
        raise GroupError(f"level is one of {LEVELS}; got {level!r}.")
    if estimator not in ESTIMATORS:
        raise GroupError(f"estimator is one of {ESTIMATORS}; got {estimator!r}.")
    if samples is not None and not (is_count(samples) and samples >= 1):
        raise DataError(
            f"samples is how many samples are looked at, a whole number, 1 or more; got "
            f"{samples!r}."
        )
    if level == "weights" and (samples is not None or region is not None):
        raise GroupError(
            "level='weights' reads the weights and no fields; samples and region belong to "
            "level='operator'. Leave them out."
        )
    if level == "operator" and (hidden is not None or spectra is not None):
        raise GroupError(
            "level='operator' differentiates the whole operator; hidden and spectra belong to "
            "level='weights'. Leave them out."
        )


def _check_candidates(group: Group, base: Manifold, level: str, region: Region | None) -> None:
    require_group(group, "promote")
    if not group.generators and not group.components:
        raise GroupError(
            f"{group} has no element but the identity: nothing to promote. Name candidates, such "
            "as groups.se(2) or groups.dihedral(4)."
        )
    if region is not None and not isinstance(region, Region):
        raise GridError(f"region is a Region, such as base.disk(radius); got {region!r}.")
    if region is not None and region.base != base:
        raise GridError(f"The region is a part of {region.base}; the fields live on {base}.")
    if (region is None and level == "operator") or group.dim != base.dim:
        group.check(base)
    shifts = tuple(xi for xi in group.generators if not xi.matrix.any())
    replace(trivial(group.dim) * replace(group, generators=shifts), name=group.name).check(base)
