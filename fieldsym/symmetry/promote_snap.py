"""Snap: make exact the symmetries that the weights of a module keep within a tolerance.

A promoted model keeps some candidates to a percent or better. Those elements generate a subgroup,
those directions of the algebra are unbroken by intent: the weights are projected on what commutes
with all of them, and the rest of the candidates stays broken. Each layer is judged by itself, so
that neither width nor depth hides what one of them breaks.

>>> import torch, fieldsym as fs
>>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
>>> layer = torch.nn.Conv2d(2, 2, 1, bias=False)
>>> layer.weight.data = torch.tensor([[1.0, 1e-3], [0.0, 2.0]])[:, :, None, None]
>>> print(snap(layer, fs.groups.dihedral(4), wind, wind))             # mirrors, no quarter turn
elements: reflection y → −y, rotation 180°, reflection x → −x
directions: none
removed: weight 0.0004
>>> layer.weight.flatten().tolist()
[1.0, 0.0, 0.0, 2.0]

To add a kind of weight: its case in ``weight_projection.projected``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fieldsym.bundle import Bundle, require_bundle
from fieldsym.errors import DataError, GroupError
from fieldsym.group import Element, Generator, Group, closure, require_group
from fieldsym.operators.adopt import Hidden
from fieldsym.operators.adopt_checks import check_module
from fieldsym.operators.adopt_tie import evaluating
from fieldsym.operators.weight_lie import WeightLie
from fieldsym.operators.weight_projection import projected
from fieldsym.operators.weight_sites import ModeSites
from fieldsym.symmetry.promote_operator import combined, flat_samples, inner_products, measure
from fieldsym.symmetry.promote_weights import WeightGram, in_units

Array = np.ndarray
FEW = 0.1  # coefficients below are left out of a direction where the tolerance allows it


@dataclass(frozen=True)
class Snapped:
    """What :func:`snap` found and changed.

    ``elements`` are the names of those within the tolerance, ``added`` of those that their products
    add; ``directions`` the unbroken combinations of generators, in units of a radian and of the
    shortest side over 2π; ``removed`` ‖W − W'‖/‖W‖ by parameter; ``left`` the parameters on which a
    found symmetry could not be imposed: continuous rotations do not act on a lattice of modes, nor
    elements on the coefficients of steerable layers. ``change`` is that of the output relative to
    its fluctuation, NaN where no fields were given; above the tolerance nothing was changed, and
    the other entries are empty.
    """

    elements: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    removed: dict[str, float] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    change: float = field(default=math.nan, compare=False)  # NaN equals nothing, itself included

    def __str__(self) -> str:
        changed = [f"{name} {share:.4f}" for name, share in self.removed.items() if share > 5e-5]
        rows = {
            "elements": self.elements, "added": self.added, "directions": self.directions,
            "removed": changed, "not snapped": self.left, "output": self._outcome(),
        }  # fmt: skip
        optional = ("added", "not snapped", "output")
        kept = {name: row for name, row in rows.items() if row or name not in optional}
        return "\n".join(f"{name}: {', '.join(row) or 'none'}" for name, row in kept.items())

    def _outcome(self) -> list[str]:
        if math.isnan(self.change):
            return []
        change = f"{100 * self.change:.3g} % of its fluctuation"
        if self.change and not (self.elements or self.directions):
            return [f"would change by {change}: the module is given back as it was"]
        return [f"changed by {change}"]


@torch.no_grad()
def snap(
    model: nn.Module,
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    tolerance: float = 1e-2,
    hidden: Hidden = None,
    x: Tensor | None = None,
) -> Snapped:
    """Project the weights on the candidate symmetries that they keep within a tolerance, in place.

    Elements g with ‖K_g W − W‖ ≤ tolerance ‖W‖ in every layer generate a subgroup, and directions
    of the algebra with ‖L_ξ W‖ ≤ tolerance ‖W‖ in every layer are unbroken; the nearest weights
    that commute with them replace those that are there. Columns of coordinates and of fields are
    one layer. Coordinates as inputs, pointwise maps, constants and kernels obey both (of a kernel a
    rotation leaves the samples on its axis), multipliers the elements. A turn about
    another point than the centre moves coordinates against constants, and is not snapped. A second
    snap changes nothing.

    What a layer changes the next ones may amplify: give fields ``x``, and the output decides.

    Parameters
    ----------
    model, group, in_bundle, out_bundle, hidden : as for ``fs.promote(..., level="weights")``
    tolerance : relative to the size of a layer and to the fluctuation of the output, in [0, 1)
    x : sections (batch, channel, *grid) of ``in_bundle``. If the output for them changes by more
        than ``tolerance`` of its fluctuation, its part without the spatial mean, the module is
        given back exactly as it was. None leaves the decision to the layers

    Returns
    -------
    Snapped   what was found and changed; empty where nothing was found or all was taken back

    Raises
    ------
    DataError    if the tolerance is not in [0, 1), or x is empty, or x or the output for it
                 is not finite.
    GroupError   if group is no Group, or the module is enforced or relaxed.
    GroupError, GridError, BundleError, RepresentationError   as ``fs.promote``.

    Examples
    --------
    Coordinates that hardly matter go, and with them what broke translations:

    >>> import fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p")
    >>> model = fs.FNO(p, p, n_modes=3, hidden_channels=4, n_layers=1, positional_embedding="grid")
    >>> model.lifting.first.weight.matrices.data[..., 1:] *= 1e-3
    >>> found = snap(model, fs.groups.translations(2), p, p, x=fs.testing.random_section(
    ...     p, (16, 24), dtype=torch.float32))
    >>> found.directions, bool(model.lifting.first.weight.matrices[..., 1:].any())
    (('translation x', 'translation y'), False)
    >>> 0 < found.change < 0.01
    True

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212 (symmetries as null spaces of linear maps).
    """
    _check(model, group, tolerance)
    base = require_bundle(in_bundle, "snap").base
    units = replace(group, generators=tuple(in_units(xi, base) for xi in group.generators))
    weights = WeightGram(model, units, in_bundle, out_bundle, hidden)
    if x is None:
        return _imposed(weights, units, tolerance)
    x, take_back = flat_samples(x, in_bundle, "snap"), _memory(model)
    with evaluating(model):
        before = measure(model, (), (), x, in_bundle, out_bundle)
        found = _imposed(weights, units, tolerance)
        change = _norm(model(x) - before.value, out_bundle) / float(before.size.sqrt())
    if change > tolerance:
        take_back()
        return Snapped(change=change)
    return replace(found, change=change)


def _check(model: object, group: object, tolerance: object) -> None:
    check_module(model)
    require_group(group, "snap")
    if not (isinstance(tolerance, Real) and 0 <= float(tolerance) < 1):
        raise DataError(
            "tolerance is a number relative to the size of the weights, in [0, 1); got "
            f"{tolerance!r}. A symmetry that is kept to a percent has 0.01."
        )
    if any(map(parametrize.is_parametrized, model.modules())):  # type: ignore[attr-defined]
        raise GroupError(
            "The weights of this module are made of other numbers, by fs.enforce or fs.relax, so "
            "that projected ones would be lost. Call fs.release first."
        )


def _norm(v: Tensor, bundle: Bundle) -> float:
    weights = bundle.base.weights(bundle.grid(v), v.device)
    squared = inner_products([v], bundle, weights / weights.sum())
    return float(squared.nan_to_num(math.inf).sqrt())


def _memory(model: nn.Module) -> Callable[[], None]:
    """How to make a module what it is now, its parameters the same objects."""
    spaces = [vars(part) for part in model.modules()]
    spaces += [space[name] for space in spaces for name in ("_parameters", "_buffers", "_modules")]
    held = [(space, dict(space)) for space in spaces]
    values = [(p, p.detach().clone()) for p in (*model.parameters(), *model.buffers())]

    def take_back() -> None:
        for space, entries in held:
            space.clear()
            space.update(entries)
        for p, value in values:
            p.data.copy_(value)

    return take_back


def _imposed(weights: WeightGram, units: Group, tolerance: float) -> Snapped:
    """What every layer keeps, imposed on all."""
    grams, differences = weights.by_layer()
    kept = differences.amax(0) <= tolerance
    found = [g for g, exact in zip(weights.elements, kept.tolist(), strict=True) if exact]
    directions = _directions(grams, units.generators, tolerance)
    if not found and not directions:
        return Snapped()
    subgroup = closure(found, units.dim, periods=units.periods)
    removed, left = {}, []
    for lie in weights.lies:
        parameter = lie.parameter
        old = parameter.read().clone()  # not a view of what changes
        if _is_left(lie, subgroup, directions):
            left.append(parameter.name)
        if parameter.write is None:
            continue
        new = projected(lie, old, subgroup, directions)
        parameter.write(new)
        norm = old.double().norm()
        removed[parameter.name] = float((new - old).double().norm() / norm) if norm else 0.0
    named = {g.name for g in found}
    added = tuple(g.name for g in subgroup if not g.is_identity and g.name not in named)
    return Snapped(
        tuple(g.name for g in found), added, tuple(d.name for d in directions), removed, tuple(left)
    )


def _directions(
    grams: Tensor, generators: Sequence[Generator], tolerance: float
) -> list[Generator]:
    """Combinations of generators that every layer keeps, as few in each as the tolerance allows.

    ``grams`` (layers, k, k) are relative to the layers' sizes; their common eigenvectors are those
    of their sum.
    """
    vectors = torch.linalg.eigh(grams.sum(0))[1].mT
    kept = [bool(_defect(grams, v) <= tolerance) for v in vectors]
    found = []
    for row in _echelon(vectors[kept].cpu().numpy()):
        few = np.where(np.abs(row) < FEW, 0.0, row)
        exact = _defect(grams, torch.from_numpy(few).to(grams)) <= tolerance
        found.append(_combination(generators, few if exact else row))
    return found


def _defect(grams: Tensor, direction: Tensor) -> Tensor:
    """The largest of the layers along a direction, whatever its length."""
    squares = direction @ grams @ direction / direction.square().sum()
    return squares.amax().clamp_min(0).sqrt()


def _echelon(rows: Array) -> Array:
    """A basis of the span of some rows with a one where the others have zeros."""
    rows = rows.copy()
    for i in range(len(rows)):
        pivot = np.unravel_index(np.abs(rows[i:]).argmax(), rows[i:].shape)
        rows[[i, i + pivot[0]]] = rows[[i + pivot[0], i]]
        rows[i] /= rows[i, pivot[1]]
        others = np.arange(len(rows)) != i
        rows[others] -= np.outer(rows[others, pivot[1]], rows[i])
    return np.array(sorted(rows, key=lambda row: tuple(-np.abs(row))))


def _combination(generators: Sequence[Generator], row: Array) -> Generator:
    found = combined(row / row[np.flatnonzero(row)[0]], generators)  # the first counts once
    return replace(found, name=found.name.removeprefix("1.00 "))


def _is_left(lie: WeightLie, subgroup: Sequence[Element], directions: Sequence[Generator]) -> bool:
    """Whether something that was found cannot be imposed on a weight."""
    if lie.parameter.write is None:
        return len(subgroup) > 1
    return isinstance(lie.sites, ModeSites) and any(xi.matrix.any() for xi in directions)
