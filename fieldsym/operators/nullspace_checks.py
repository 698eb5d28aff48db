"""Checks of what a linear layer says about its own symmetry, before its null space is taken.

One random weight shows whether every map gives finite numbers and is linear, and whether applying
an element as often as its order says comes back to the weight, K_g ∘ … ∘ K_g = 1.

>>> import torch, fieldsym as fs
>>> class Doubled:
...     shape = (2,)
...     def move(self, g, weight):
...         return 2 * weight
>>> check_maps(Doubled(), (), fs.groups.cyclic(2).elements[1:])
Traceback (most recent call last):
fieldsym.errors.GroupError: move of Doubled under rotation 180° is no group action: applied 2 ...
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fieldsym.errors import GroupError
from fieldsym.group import Element, Generator
from fieldsym.operators.nullspace_solvers import CLEAR, Map, kept_shape

if TYPE_CHECKING:
    from fieldsym.operators.nullspace import Constraint

ORDER = 512  # elements of a higher order count as of none
HALVINGS = 60  # of what ``fixed`` changes, down to rounding


def check_maps(
    constraint: Constraint, generators: Sequence[Generator], elements: Sequence[Element]
) -> None:
    """Raise unless ``lie``, ``move`` and ``fixed`` are what a constraint needs.

    Parameters
    ----------
    constraint : :class:`fieldsym.operators.nullspace.Constraint`
    generators, elements : those along and under which its weight is moved

    Raises
    ------
    GroupError            naming the map that is not finite, not linear, or no group action.
    RepresentationError   if ``move`` or ``fixed`` changes the shape of the weight.
    """
    who, shape = type(constraint).__name__, tuple(constraint.shape)
    source = torch.Generator().manual_seed(2)
    weight = torch.randn(1, *shape, generator=source, dtype=torch.float64)
    for xi in generators:
        _check_linear(partial(constraint.lie, xi), weight, f"lie of {who} along {xi.name}")
    fixed = getattr(constraint, "fixed", None)
    if fixed is not None:
        fixed = partial(kept_shape, fixed)
        _check_linear(fixed, weight, f"fixed of {who}")
        weight = _unchanged(fixed, weight)  # on others K_g need not come back: stored twice, masked
    for g in elements:
        move = partial(kept_shape, partial(constraint.move, g))
        name = f"move of {who} under {g.name}"
        _check_linear(move, weight, name)
        _check_order(move, _order(g), weight, name)


def _unchanged(fixed: Map, weight: Tensor) -> Tensor:
    """The part of a weight that ``fixed`` leaves alone, as the limit of means."""
    for _ in range(HALVINGS):
        mean = (weight + fixed(weight)) / 2
        if torch.equal(mean, weight):
            break
        weight = mean
    return weight


def _check_linear(of: Map, weight: Tensor, name: str) -> None:
    zero, once, half = of(torch.cat([0 * weight, weight, -weight / 2])).double().unbind(0)
    if not (zero.isfinite().all() and once.isfinite().all() and half.isfinite().all()):
        raise GroupError(f"{name} gives numbers that are not finite; correct that map.")
    largest = max(float(once.abs().amax()) if once.numel() else 0.0, 1.0)
    if zero.numel() and float(torch.stack([zero, half + once / 2]).abs().amax()) > CLEAR * largest:
        raise GroupError(
            f"{name} must be linear in the weight, so that allowed weights form a space; it takes "
            f"the zero weight to numbers up to {float(zero.abs().amax()):.1e}, and minus half a "
            "weight not to minus half its image. Leave out constants, powers and absolute values."
        )


def _check_order(move: Map, order: int | None, weight: Tensor, name: str) -> None:
    if order is None or not weight.numel():
        return
    moved = weight
    for _ in range(order):
        moved = move(moved)
    error = float((moved - weight).norm() / weight.norm().clamp_min(1e-300))
    if error > CLEAR * math.sqrt(order):
        raise GroupError(
            f"{name} is no group action: applied {order} times, which is the identity of the "
            f"group, it changes a random weight by {error:.1e} of its size. The weight of g⁻¹ F g "
            "is meant, without factors of its own."
        )


def _order(g: Element) -> int | None:
    """How often an element is applied until its matrix and shift are those of the identity."""
    power = g
    for order in range(1, ORDER):
        if power.is_identity:
            return order
        power = power @ g
    return None
