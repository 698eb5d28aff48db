"""How far data are from a symmetry, before any model is trained on them.

Only pairs (x, y = the state one step later) are known. A stand-in F̂ for their operator is fitted
without any constraint: y − x out of values, derivatives and products of them at the same point. How
far F̂ is from commuting with an element, under the declared types, is how far the data are. Elements
act on the ``Jet`` at a point, not on the grid: neither the grid nor the mask need be symmetric.

>>> import fieldsym as fs
>>> line = fs.Bundle(fs.Torus((2.0,)), "scalar u")
>>> x = fs.testing.random_section(line, (32,), batch=8)
>>> y = x - 0.01 * x * line.base.derivative(x, 0)                    # Burgers: u is a vector
>>> data_violation(x, y, fs.groups.reflections(1), line, line).violation
{'reflection x → −x': 2.00}

To add a term: put it into ``Jet.library``, and what it is made of into ``Jet.moved``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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

MOST_CHANNELS, MOST_FACTORS = 6, 20  # of the products; ψ gives way first
MOST_POINTS, MOST_SAMPLES, MOST_PER_AXIS = 20_000, 128, 48
RIDGE = 1e-4  # of the mean square of a term; near balances (div u = 0) need that much
THRESHOLD, LEAST_EXPLAINED, FACTOR = 0.3, 0.2, 2.0
OPPOSITE = {"scalar": "pseudoscalar", "pseudoscalar": "scalar",
            "vector": "axial vector", "axial vector": "vector"}  # fmt: skip


class Parity(NamedTuple):
    """A block, its type of other parity, and what improper elements then violate, by name."""

    declared: str
    instead: str
    violation: dict[str, float]


@dataclass(frozen=True)
class DataViolation:
    """How far the stand-in F̂ of :func:`data_violation` is from commuting with each element.

    Attributes
    ----------
    explained : fraction of the variance of the change that F̂ explains on samples that it was not
        fitted to, the mean over the blocks that change; and of each block, 0 where it is constant
    violation : sqrt(E‖F̂(g·x) − g·F̂(x)‖² / E‖F̂(x)‖²) by name of the element, on the same samples, in
        fibre norms with each block in units of its own change
    floor : the same of F̂ − F̂', with F̂' fitted to the other half: about what the violation would be
        if the data had the symmetry, since they are few
    parity : the block that, with its other parity, lowers the worst violation of the improper
        elements at least by half, where that is above 0.3; else None
    """

    explained: float
    explained_by_block: dict[str, float]
    violation: dict[str, float]
    floor: float
    parity: Parity | None = None

    @property
    def suggestions(self) -> list[str]:
        """What the data say about the types and the group, one message each."""
        return self._messages(THRESHOLD)

    def warning(self, threshold: float = THRESHOLD) -> str:
        """One text on the violations above the threshold and above twice the floor.

        Empty where there are none, and where the fit explains less than 20 % of the change.
        """
        messages = self._messages(threshold)
        if self.explained < LEAST_EXPLAINED or not messages:
            return ""
        more = [f"and {len(messages) - 3} more likewise."] if len(messages) > 3 else []
        return " ".join(["The data lack the declared symmetry:", *messages[:3], *more])

    def _messages(self, threshold: float) -> list[str]:
        percent = f"the fit explains {100 * max(self.explained, 0.0):.0f} % of the change"
        if self.explained < LEAST_EXPLAINED:
            return [f"{percent}: these data cannot tell whether they have the symmetry."]
        left, messages = dict(self.violation), []
        least = max(threshold, FACTOR * self.floor)
        if self.parity is not None:
            declared, instead, better = self.parity
            worst = max(better, key=left.__getitem__)
            messages = [
                f"{worst}: declared as '{declared}' the data violate it by {left[worst]:.2f}; as "
                f"'{instead}' by {better[worst]:.2f}. Declare it so, or choose a group without "
                "reflections."
            ] * (left[worst] > least)
            left |= better
        return messages + [
            f"the data violate {name} by {v:.2f} ({percent}): check the declared types and their "
            "order, or enforce a smaller group."
            for name, v in left.items()
            if v > least
        ]


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

    F̂ is a ridge regression on every other sample, measured on the rest. Its terms: a constant; up
    to 6 channels u of the latest state and, on a torus, ψ = Δ⁻¹u of the first; the first and second
    derivatives of all these; products of any two of u, ∇u, ψ, ∇ψ. Derivatives are spectral on a
    torus (scales below 48 points per axis cut off), else central differences.

    F̂ is the same law at every point: a forcing that depends on position enters through its mean
    alone. Waves that need two states, and long steps, leave ``explained`` small.

    Parameters
    ----------
    x : Tensor (samples, channel, *grid), states; of a history the latest comes first
    y : Tensor (samples, channel', *grid), the states one step later
    group : Group; of a continuous one the ``components`` are examined
    in_bundle, out_bundle : Bundle of x and y. Where the first blocks of x are not those of y, F̂ is
        fitted to y itself, and its mean is removed from E‖F̂(x)‖²
    mask : bool Tensor (*grid), True where the data are valid

    Raises
    ------
    BundleError   if x and y are not pairs of sections on one grid.
    DataError     if there are fewer than 4 samples, or values at valid points are not finite.
    GridError     if the mask has another grid, or no point has valid neighbours on all sides.
    GroupError    if an element has another dimension, or changes distances.

    Examples
    --------
    >>> import fieldsym as fs
    >>> w = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar w")                       # wrong on purpose
    >>> x = fs.simulate.random_vorticity(w.base, (32, 32), batch=8)
    >>> y = fs.simulate.navier_stokes(w.base, time=0.1, viscosity=1e-4)(x)
    >>> data_violation(x, y, fs.groups.dihedral(1), w, w).parity.instead
    'pseudoscalar w'
    """
    mask, elements = _checked(x, y, group, in_bundle, out_bundle, mask)
    changes = in_bundle.blocks[: len(out_bundle.blocks)] == out_bundle.blocks
    spectral = all(in_bundle.base.periodic) and bool(mask.all())
    channels, streams = _ingredients(in_bundle, out_bundle, changes, spectral)
    if not channels:  # every block is wider than the library
        return DataViolation(0.0, dict.fromkeys(out_bundle.names, 0.0), {}, 0.0)
    jets, values = [], []
    for u, v, points in _draw(x, y, mask, in_bundle.base, spectral):
        psi = _inverse_laplacian(u[streams], in_bundle.base) if streams else u[streams]
        jets.append(_jet(torch.cat([u[channels], psi]), in_bundle.base, points, spectral))
        values.append(_at(v - u[: len(v)] if changes else v, points))
    test, value = _joined(jets[1::2]), torch.cat(values[1::2])
    fit = _regression(_joined(jets[::2]).library(), torch.cat(values[::2]))
    fitted, other = (test.library() @ w for w in (fit, _regression(test.library(), value)))
    explained, gram = _explained(fitted, value, out_bundle)
    size = _mean_square(fitted if changes else fitted - fitted.mean(0), gram)

    def relative(error: Tensor) -> float:
        return (_mean_square(error, gram) / size) ** 0.5 if size else 0.0

    def violation(g: Element, ins: Bundle, out: Bundle) -> float:
        rho = ins.representation.rho(g)
        moved = test.moved(g, torch.block_diag(*(rho[c][:, c] for c in (channels, streams) if c)))
        return relative(moved.library() @ fit - fitted @ out.representation.rho(g).T)

    found = {g.name: violation(g, in_bundle, out_bundle) for g in elements}
    parity = _parity(found, elements, in_bundle, out_bundle, violation)
    alive = [explained[name] for name, own in out_bundle.slices.items() if gram[own, own].any()]
    total = sum(alive) / max(len(alive), 1)
    return DataViolation(total, explained, found, relative(fitted - other), parity)


class Jet(NamedTuple):
    """Some channels at points, (points, c), with their first and second derivatives (…, d[, d])."""

    value: Tensor
    slope: Tensor
    bend: Tensor

    def moved(self, g: Element, rho: Tensor) -> Jet:
        """The jet of g·u at the images of the points: ρu, ρ∇u Aᵀ, ρA∇∇u Aᵀ."""
        a = torch.from_numpy(g.matrix)
        return Jet(
            self.value @ rho.T,
            torch.einsum("bc,pcj,ij->pbi", rho, self.slope, a),
            torch.einsum("bc,pcjl,ij,kl->pbik", rho, self.bend, a, a),
        )

    def library(self) -> Tensor:
        """The terms of F̂, (points, terms)."""
        factors = torch.cat([self.value, self.slope.flatten(1)], 1)
        i, j = torch.triu_indices(factors.shape[1], factors.shape[1])
        k, l = torch.triu_indices(self.bend.shape[-1], self.bend.shape[-1])
        bend, one = self.bend[..., k, l].flatten(1), factors.new_ones(len(factors), 1)
        return torch.cat([one, factors, bend, factors[:, i] * factors[:, j]], 1)


def _checked(
    x: Tensor, y: Tensor, group: Group, ins: Bundle, out: Bundle, mask: Tensor | None
) -> tuple[Tensor, list[Element]]:
    ins.check(x, "data_violation (x)")
    out.check(y, "data_violation (y)")
    d, grid = ins.base.dim, ins.grid(x)
    mask = torch.ones(grid, dtype=torch.bool) if mask is None else mask.cpu()
    if {x.ndim, y.ndim} != {d + 2} or (len(x), grid, ins.base) != (len(y), out.grid(y), out.base):
        raise BundleError(
            "data_violation expects pairs (samples, channel, *grid) on one base; got x "
            f"{tuple(x.shape)} on {ins.base} and y {tuple(y.shape)} on {out.base}."
        )
    if mask.dtype != torch.bool or tuple(mask.shape) != grid:
        raise GridError(
            f"A mask is a bool tensor of the grid {grid}, True where data are valid; got "
            f"{mask.dtype} {tuple(mask.shape)}."
        )
    if len(x) < 4:
        raise DataError(
            f"At least 4 pairs of states are needed, half of them to test the fit; got {len(x)}. "
            "Give more steps or samples."
        )
    if not all(bool((u.isfinite() | ~mask.to(u.device)).all()) for u in (x, y)):
        raise DataError(
            "x or y has values that are not finite at valid points. Give a mask that is False "
            "where values are missing."
        )
    for g in group.components:
        if g.dim != d or not np.allclose(g.matrix @ g.matrix.T, np.eye(d)):
            raise GroupError(
                f"Rotations, reflections and shifts of {ins.base} can be examined, in {d} "
                f"dimensions; got {g.name} of {group.name} with the matrix {g.matrix.tolist()}."
            )
    return mask, [g for g in group.components if not g.is_identity]


# Channels of the library, and those it has ψ of: whole copies, the latest state alone.
def _ingredients(
    ins: Bundle, out: Bundle, changes: bool, spectral: bool
) -> tuple[list[int], list[int]]:
    channels: list[int] = []
    streams: list[int] = []
    most = MOST_CHANNELS
    for chosen in (channels, streams):
        for name, block in zip(ins.names, ins.blocks, strict=True):
            size = block.size // block.copies
            room = max(0, most - len(chosen)) // size * size
            if not changes or _root(name, out) == name:
                chosen += range(ins.channels)[ins.slices[name]][:room]
        most = (MOST_FACTORS // (1 + ins.base.dim) - len(channels)) * spectral
    return channels, streams


# The block of the output that a block of the input is an earlier copy of (u for u_1), or itself.
def _root(name: str, out: Bundle) -> str:
    stem = re.sub(r"_\d+$", "", name)
    return stem if name not in out.names and stem in out.names else name


# Some samples, evenly spaced, in float64, with random points where derivatives are known.
def _draw(
    x: Tensor, y: Tensor, mask: Tensor, base: Manifold, spectral: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    most = min(len(x), MOST_SAMPLES, max(8, 2**22 // mask.numel()))
    generator = torch.Generator().manual_seed(0)
    inside = _interior(mask, base)
    for i in np.linspace(0, len(x) - 1, most).round().astype(int):
        u, v = (torch.where(mask, w[i].detach().cpu().double(), 0.0) for w in (x, y))
        if spectral:
            u, v = _coarse(u, base.dim), _coarse(v, base.dim)
        known = torch.arange(u[0].numel()) if spectral else inside
        chosen = torch.randperm(len(known), generator=generator)[: -(-MOST_POINTS // most)]
        yield u, v, known[chosen]


# Points with two valid neighbours on every side, the stencil of second derivatives.
def _interior(mask: Tensor, base: Manifold) -> Tensor:
    for axis, wraps in 2 * tuple(enumerate(base.periodic)):
        mask = mask & mask.roll(1, axis) & mask.roll(-1, axis)
        if not wraps:
            mask = mask.index_fill(axis, torch.tensor([0, mask.shape[axis] - 1]), False)
    if not mask.any():
        raise GridError(
            "No point has two valid neighbours on every side, so no derivative is known. Give a "
            "finer grid, or a mask with fewer gaps."
        )
    return mask.flatten().nonzero()[:, 0]


# The largest scales of a periodic field, at fewer points.
def _coarse(u: Tensor, d: int) -> Tensor:
    few = MOST_PER_AXIS
    for axis in (i for i in range(-d, 0) if u.shape[i] > few):
        low = torch.fft.rfft(u, dim=axis).narrow(axis, 0, few // 2)
        u = torch.fft.irfft(low, n=few, dim=axis) * (few / u.shape[axis])
    return u


# (channel, *grid) to (points, channel).
def _at(u: Tensor, points: Tensor) -> Tensor:
    return u.flatten(1)[:, points].T


def _jet(u: Tensor, base: Manifold, points: Tensor, spectral: bool) -> Jet:
    d, h = base.dim, base.spacing(u.shape[1:])

    def slope(v: Tensor, i: int) -> Tensor:
        if spectral:
            return base.derivative(v, i)
        return (v.roll(-1, i - d) - v.roll(1, i - d)) / (2 * h[i])

    first = [slope(u, i) for i in range(d)]
    second = [torch.stack([_at(slope(v, j), points) for j in range(d)], -1) for v in first]
    slopes = torch.stack([_at(v, points) for v in first], -1)
    return Jet(_at(u, points), slopes, torch.stack(second, -2))


def _inverse_laplacian(u: Tensor, base: Manifold) -> Tensor:
    grid, axes = tuple(u.shape[1:]), tuple(range(-base.dim, 0))
    k, inside = half_wavenumbers(base, grid)
    k2 = sum((q.square() for q in k), torch.zeros(()))
    green = torch.where(inside & (k2 > 0), -1 / k2, 0.0)
    return torch.fft.irfftn(torch.fft.rfftn(u, dim=axes) * green, s=grid, dim=axes)


def _joined(jets: list[Jet]) -> Jet:
    return Jet(*map(torch.cat, zip(*jets, strict=True)))


def _regression(terms: Tensor, value: Tensor) -> Tensor:
    scale = terms.square().mean(0).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    terms = terms / scale
    normal = terms.T @ terms / len(terms) + RIDGE * torch.eye(len(scale)).to(terms)
    return torch.linalg.solve(normal, terms.T @ value / len(terms)) / scale[:, None]


def _mean_square(u: Tensor, gram: Tensor) -> float:
    return float(((u @ gram) * u).sum(1).mean())


# Explained variance of each block, and the inner product in units of the variance of each.
def _explained(fitted: Tensor, value: Tensor, out: Bundle) -> tuple[dict[str, float], Tensor]:
    gram, explained = out.representation.gram.clone(), {}
    for name, s in out.slices.items():
        own, u = gram[s, s].clone(), value[:, s]
        size = _mean_square(u - u.mean(0), own)
        constant = size <= 1e-20 * _mean_square(u, own)
        explained[name] = 0.0 if constant else 1 - _mean_square(u - fitted[:, s], own) / size
        gram[s, s] = 0.0 if constant else own / size
    return explained, gram


# The block that helps most with its other parity, changed in every state.
def _parity(
    found: dict[str, float],
    elements: list[Element],
    ins: Bundle,
    out: Bundle,
    violation: Callable[[Element, Bundle, Bundle], float],
) -> Parity | None:
    improper = [g for g in elements if np.linalg.det(g.matrix) < 0]
    worst, tried = max((found[g.name] for g in improper), default=0.0), []
    for name, block in zip(out.names, out.blocks, strict=True) if worst > THRESHOLD else ():
        line = out.base.dim == 1 and block.kind == "vector"  # there it changes sign like any other
        kind = "scalar" if line else OPPOSITE.get(block.kind)
        if kind is not None:
            pair = [_retyped(b, {n for n in b.names if _root(n, out) == name}, kind)
                    for b in (ins, out)]  # fmt: skip
            better = {g.name: violation(g, *pair) for g in improper}
            tried.append(Parity(str(block), str(replace(block, kind=kind)), better))
    best = min(tried, key=lambda p: max(p.violation.values()), default=None)
    helps = best is not None and FACTOR * max(best.violation.values()) <= worst
    return best if helps else None


def _retyped(bundle: Bundle, names: set[str], kind: str) -> Bundle:
    blocks = [
        str(replace(b, kind=kind) if n in names else b)
        for n, b in zip(bundle.names, bundle.blocks, strict=True)
    ]
    return Bundle(bundle.base, " + ".join(blocks), bundle.representation.group)
