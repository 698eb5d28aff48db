"""How far data are from a symmetry, before any model is trained on them.

Only pairs of states (x, y = the state one step later) are known. A cheap stand-in F̂ for their
operator is fitted without any constraint: each channel of y − x is a linear combination of the
values and derivatives of x at the same point and of their products. How far F̂ is from commuting
with an element, under the declared types, is how far the data are.

Everything happens at points. An element carries the values and derivatives at a point (a ``Jet``)
to those at its image by one matrix, so nothing is moved on the grid: F̂ commutes as far as its
coefficients do, the mask need not be symmetric, and the group need not act on the grid.

>>> import fieldsym as fs
>>> line = fs.Bundle(fs.Torus((2.0,)), "scalar u")
>>> x = fs.testing.random_section(line, (32,), batch=8)
>>> y = x - 0.01 * x * line.base.derivative(x, 0)                             # Burgers: a vector
>>> data_violation(x, y, fs.groups.reflections(1), line, line).violation
{'reflection x → −x': 2.00}

To add a term: give it a place in ``Jet.library``, and its parts a rule in ``Jet.moved``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError, GridError, GroupError
from fieldsym.group import Element, Group
from fieldsym.manifold import Manifold
from fieldsym.simulate.linear import half_wavenumbers

__all__ = ["DataViolation", "data_violation"]

MOST_CHANNELS, MOST_TERMS = 6, 280  # of the library
MOST_POINTS, MOST_SAMPLES, MOST_PER_AXIS = 20_000, 128, 48
MOST_VALUES = 2**24  # points of all samples whose derivatives are taken
RIDGE = 1e-6  # relative to the mean square of a term
THRESHOLD, LEAST_EXPLAINED, HELPS = 0.3, 0.2, 2.0
OPPOSITE = {
    "scalar": "pseudoscalar",
    "pseudoscalar": "scalar",
    "vector": "axial vector",
    "axial vector": "vector",
}


class Parity(NamedTuple):
    """Other parities of some blocks, and what improper elements violate with them, by name."""

    declared: str
    instead: str
    violation: dict[str, float]


@dataclass(frozen=True)
class DataViolation:
    """How far the stand-in F̂ of :func:`data_violation` is from commuting with each element.

    Attributes
    ----------
    explained : fraction of the variance of the change that F̂ explains on samples it was not
        fitted to, the mean over the blocks that change
    explained_by_block : the same for each block of the output; 0 for a block that never changes
    violation : sqrt(E‖F̂(g·x) − g·F̂(x)‖² / E‖F̂(x)‖²) by name of the element, each block in units of
        its own change
    parity : the declaration that would lower the worst violation of the improper elements to half
        or less, where that exceeds 0.3; None where there is none
    """

    explained: float
    explained_by_block: dict[str, float]
    violation: dict[str, float]
    parity: Parity | None = None

    @property
    def suggestions(self) -> list[str]:
        """What the data say about the declared types and the group, one sentence or two each."""
        return self._messages(THRESHOLD)

    def warning(self, threshold: float = THRESHOLD) -> str:
        """One text that names violations above a threshold; empty where there are none.

        It is empty too where the fit explains less than 20 % of the change.
        """
        messages = self._messages(threshold)
        if self.explained < LEAST_EXPLAINED or not messages:
            return ""
        more = f" So do {len(messages) - 3} more elements." if len(messages) > 3 else ""
        return f"The data do not have the declared symmetry. {' '.join(messages[:3])}{more}"

    def _messages(self, threshold: float) -> list[str]:
        if self.explained < LEAST_EXPLAINED:
            return [
                f"The fit explains {max(self.explained, 0.0):.0%} of the change: these data cannot "
                "tell whether they have the symmetry."
            ]
        left, found = dict(self.violation), []
        if self.parity is not None:
            declared, instead, better = self.parity
            worst = max(better, key=left.__getitem__)
            if left[worst] > threshold:
                found.append(
                    f"{worst}: declared as '{declared}' the data violate it by {left[worst]:.2f}; "
                    f"as '{instead}' by {better[worst]:.2f}. Declare it so, or choose a group "
                    "without reflections."
                )
                left |= better
        found += [
            f"The data violate {name} by {value:.2f} (the fit explains {self.explained:.0%} of the "
            "change): enforce a smaller group or promote."
            for name, value in left.items()
            if value > threshold
        ]
        return found


def data_violation(
    x: Tensor,
    y: Tensor,
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    mask: Tensor | None = None,
) -> DataViolation:
    """How far pairs of states are from commuting with each finite element of a group.

    F̂ is a ridge regression on the even samples, and is measured on the odd ones. Its terms: a
    constant; the channels of the latest state, their first and second derivatives; on periodic
    bases ψ = Δ⁻¹u of one-component blocks and ∇ψ; products of two of u, ∇u, ψ, ∇ψ. Derivatives are
    spectral on a torus (at most 48 modes per axis are kept), central differences elsewhere.

    What it cannot see: F̂ is the same at every point, so a forcing that depends on position enters
    through its mean alone, and dynamics of another form (waves that need two states, long steps)
    leave ``explained`` small. Read a small violation as "no sign of one", a large one as a fact.

    Parameters
    ----------
    x : Tensor (samples, channel, *grid), states; with a history the latest state comes first
    y : Tensor (samples, channel', *grid), the states one step later
    group : Group; of a continuous one its ``components`` are examined. It need not act on the grid
    in_bundle, out_bundle : Bundle of x and y; where the blocks of y do not open those of x, y itself
        is fitted instead of the change
    mask : bool Tensor (*grid), True where the data are valid

    Returns
    -------
    DataViolation

    Raises
    ------
    BundleError   if x and y are not pairs of sections on one grid.
    DataError     if there are fewer than 4 samples, or valid values that are not finite.
    GridError     if the mask does not fit, or no point has valid neighbours on all sides.
    GroupError    if an element has another dimension, or changes distances.

    Examples
    --------
    >>> import fieldsym as fs
    >>> w = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar w")                    # it is a pseudoscalar
    >>> x = fs.simulate.random_vorticity(w.base, (32, 32), batch=12)
    >>> flow = fs.simulate.navier_stokes(w.base, time=0.1, viscosity=1e-4)
    >>> data_violation(x, flow(x), fs.groups.dihedral(1), w, w).parity.instead
    'pseudoscalar w'
    """
    mask = _check(x, y, in_bundle, out_bundle, mask)
    elements = _elements(group, in_bundle.base)
    changes = in_bundle.blocks[: len(out_bundle.blocks)] == out_bundle.blocks
    spectral = all(in_bundle.base.periodic) and bool(mask.all())
    law, channels, streams = _ingredients(in_bundle, out_bundle, changes, spectral)
    points = _interior(mask, in_bundle.base.periodic, spectral)
    parts = []
    for u, v, rows in _draw(x, y, points, in_bundle.base, spectral):
        value = v - u[: len(v)] if changes else v
        parts.append((_jet(u[channels], law.base, rows, spectral, streams), _at(value, rows, 1)))
    (fit_jet, fit_value), (jet, value) = _joined(parts[::2]), _joined(parts[1::2])
    fit = _regression(fit_jet.library(), fit_value)
    explained, gram = _explained(jet.library() @ fit, value, out_bundle)
    measured = [b for b, r in explained.items() if r is not None]
    total = sum(explained[b] or 0.0 for b in measured) / max(len(measured), 1)

    def violation(g: Element, law: Bundle, out: Bundle) -> float:
        return _violation(g, jet, fit, law, out, gram, centred=not changes)

    found = {g.name: violation(g, law, out_bundle) for g in elements}
    parity = _parity(found, elements, law, out_bundle, violation) if total > LEAST_EXPLAINED else None
    return DataViolation(total, {b: r or 0.0 for b, r in explained.items()}, found, parity)


class Jet(NamedTuple):
    """Values and derivatives of some channels at points: what F̂ depends on.

    ``value`` (points, c), ``slope`` (points, c, d), ``bend`` (points, c, d, d), the inverse
    Laplacian ``stream`` (points, s) of some channels and its gradient ``flow`` (points, s, d).
    """

    value: Tensor
    slope: Tensor
    bend: Tensor
    stream: Tensor
    flow: Tensor

    def moved(self, g: Element, rho: Tensor, rho_stream: Tensor) -> Jet:
        """The jet of g·u at the image of each point: ρ u, ρ ∇u Aᵀ, ρ ∇∇u Aᵀ Aᵀ."""
        a = torch.from_numpy(g.matrix)
        return Jet(
            self.value @ rho.T,
            torch.einsum("bc,pcj,ij->pbi", rho, self.slope, a),
            torch.einsum("bc,pcjl,ij,kl->pbik", rho, self.bend, a, a),
            self.stream @ rho_stream.T,
            torch.einsum("bc,pcj,ij->pbi", rho_stream, self.flow, a),
        )

    def library(self) -> Tensor:
        """The terms of F̂, (points, terms)."""
        value, slope, stream, flow = (v.flatten(1) for v in self._replace(bend=self.stream[:0])
                                      if len(v) or not len(self.value))  # fmt: skip
        factors = torch.cat([value, slope, stream, flow], 1)
        i, j = torch.triu_indices(factors.shape[1], factors.shape[1])
        k, l = torch.triu_indices(self.bend.shape[-1], self.bend.shape[-1])
        bend = self.bend[..., k, l].flatten(1)
        return torch.cat([torch.ones_like(value[:, :1]), factors, bend,
                          factors[:, i] * factors[:, j]], 1)  # fmt: skip
