"""Relaxed weights: a part that commutes with a group, and a part that need not.

W = T z + (D − P D), where T z is the tied weight, D a dense parameter and P the projection on the
weights that commute. The two parts are orthogonal, so each can have a decay of its own: where the
residual D − P D is zero the symmetry is exact.

P is the mean over the entries that one free number feeds, two gathers. Where an entry is a sum of
free numbers (traceless tensors inside, registered layers) a projection would be a solve in every
forward pass: there D is added as it is, and only its decay keeps the parts apart.

>>> import torch, fieldsym as fs
>>> from fieldsym.operators.adopt import adopt
>>> line = fs.Bundle(fs.Torus((1.0,)), "scalar p")
>>> conv = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
>>> conv.weight.data = torch.tensor([[[3.0, 0.0, 5.0]]])
>>> add_residuals(adopt(conv, fs.groups.reflections(1), line, line, None), symmetric=False)
>>> conv.parametrizations.weight.original0.tolist(), residuals(conv)["weight"].dense.tolist()
([4.0, 0.0], [[[-1.0, 0.0, 1.0]]])
>>> conv.weight.tolist()
[[[3.0, 0.0, 5.0]]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from fieldsym.operators.adopt_tie import Adoption, Change, real_entries
from fieldsym.operators.adopt_weights import TiedWeight
from fieldsym.operators.nullspace import NullSpaceWeight


class Residual(nn.Module):
    """Adds D − P D to a tied weight, for ``torch.nn.utils.parametrize``.

    Parameters
    ----------
    tie : the parametrization before it
    start : D at first, real entries in the shape of the weight; complex weights have a last axis of
        (real, imaginary)
    measure : how often each entry occurs in the layer, in the same shape
    trained : whether D is trained
    """

    measure: Tensor
    counts: Tensor

    def __init__(
        self, tie: TiedWeight | NullSpaceWeight, start: Tensor, measure: Tensor, *, trained: bool
    ) -> None:
        super().__init__()
        self.tie = (tie,)  # in a tuple: it is registered where it is
        self.projects = isinstance(tie, TiedWeight) and tie.values is None
        order = tie.memory if isinstance(tie, TiedWeight) else tuple(range(start.ndim))
        self.order, self.back = order, tuple(order.index(axis) for axis in range(start.ndim))
        # the memory of D has the order of the tied weight: gathers read along it
        self.dense = nn.Parameter(
            start.permute(order).contiguous().permute(self.back), requires_grad=trained
        )
        self.register_buffer("measure", self._flat(measure.to(start)), persistent=False)
        self.family: list[Residual] = [self]  # one map may lie in several parameters
        self.register_buffer("counts", start.new_ones(()), persistent=False)

    def extra_repr(self) -> str:
        """The shape of D, and whether it is projected."""
        return f"{tuple(self.dense.shape)}, {'projected' if self.projects else 'as it is'}"

    def _flat(self, entries: Tensor) -> Tensor:
        return entries.permute(self.order).reshape(-1)

    def forward(self, weight: Tensor) -> Tensor:
        """The tied weight and the residual."""
        residual = self.dense - self.allowed() if self.projects else self.dense
        return weight + (torch.view_as_complex(residual) if weight.is_complex() else residual)

    def allowed(self) -> Tensor:
        """P D, in the shape of D."""
        (tie,) = self.tie
        if isinstance(tie, NullSpaceWeight):
            return tie(tie.right_inverse(self.dense))
        flat = tie.expand(self._mean(tie) if self.projects else self._solved(tie))
        return flat.view([self.dense.shape[axis] for axis in self.order]).permute(self.back)

    def _mean(self, tie: TiedWeight) -> Tensor:
        """Each free number is the mean of its entries in all parameters of the map."""
        sums = torch.stack([one._sums(len(self.counts)) for one in self.family]).sum(0)
        return (sums / self.counts)[: tie.free]

    def _sums(self, free: int) -> Tensor:
        """Sums of the entries that belong to one free number, with their signs."""
        tie: Any = self.tie[0]
        sums = tie._gather(self.measure * self._flat(self.dense))
        return functional.pad(sums, (0, free - len(sums)))

    def _solved(self, tie: TiedWeight) -> Tensor:
        return tie.nearest(self._flat(self.dense.detach()), self.measure)


def add_residuals(adoption: Adoption, *, symmetric: bool) -> None:
    """Add a residual to every weight of an adopted module.

    Parameters
    ----------
    adoption : as :func:`fieldsym.operators.adopt.adopt` returns it
    symmetric : whether the residuals start at zero; else at what the projection took away, so that
        the module computes what it did before
    """
    for one in adoption.maps:
        family = [
            _residual(change, measure, symmetric)
            for change, measure in zip(one.changes, one.measures, strict=True)
        ]
        _join(family)
        for change, residual in zip(one.changes, family, strict=True):
            parametrize.register_parametrization(change.module, change.name, residual, unsafe=True)


def _residual(change: Change, measure: Tensor, symmetric: bool) -> Residual:
    old, new = (real_entries(value) for value in (change.old, change.new))
    start = torch.zeros_like(old) if symmetric else (old.double() - new.double()).to(old.dtype)
    lists: Any = change.module.parametrizations
    return Residual(lists[change.name][0], start, measure, trained=change.old.requires_grad)


def _join(family: Sequence[Residual]) -> None:
    """Tell the parameters of one map of each other, and count the entries of its free numbers."""
    ties = [tie for one in family for tie in one.tie if isinstance(tie, TiedWeight)]
    if not all(one.projects for one in family):
        return
    counts = family[0].measure.new_zeros(max(tie.free for tie in ties))
    for one, tie in zip(family, ties, strict=True):
        met = counts.new_zeros(2 * tie.free + 1).index_add(0, tie.index, one.measure)[1:]
        counts[: tie.free] += met.view(2, tie.free).sum(0)
    for one in family:
        one.family, one.counts = list(family), counts.clamp_min(1)


def residuals(module: nn.Module) -> dict[str, Residual]:
    """The residuals of a module, by the name of the weight they belong to."""
    return {
        f"{prefix}.{name}".removeprefix("."): part
        for prefix, layer in module.named_modules()
        if parametrize.is_parametrized(layer)
        for name, parts in layer.parametrizations.items()  # type: ignore[union-attr,operator]
        for part in parts
        if isinstance(part, Residual)
    }
