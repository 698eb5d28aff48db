"""The part of a group that fixes a field: what is left of a symmetry when the field is held.

An operator F(u, f) that is equivariant under the joint action, F(g·u, g·f) = g·F(u, f), commutes
with g for a field f held fixed as soon as g·f = f. Called as ``group.stabiliser(field, bundle)``.

>>> import fieldsym as fs
>>> upright = fs.groups.o(3).stabiliser([0.0, 0.0, -9.8])
>>> upright, upright.generators[0].name, upright.components
(stabiliser of (0, 0, -9.8) in o(3), 'rotation xy', (Element(reflection y → −y),))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fieldsym.action import act
from fieldsym.action_constant import combine, constant_stabiliser, null_space
from fieldsym.bundle import Bundle, as_numbers, require_bundle
from fieldsym.errors import BundleError, GroupError
from fieldsym.group import Element, Generator, Group, wrap
from fieldsym.manifold import Manifold
from fieldsym.representation import Representation

Array = np.ndarray
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}  # of the size of the field


def stabiliser(
    group: Group, field: Tensor | Sequence[float] | Array, bundle: Bundle | None = None
) -> Group:
    """The subgroup {g : g·f = f}; see :meth:`fieldsym.group.Group.stabiliser`."""
    values = as_numbers(field, "stabiliser").cpu()
    if bundle is not None:
        require_bundle(bundle, "stabiliser")
    tol, values = TOLERANCE[values.dtype], values.double()
    if not values.isfinite().all():
        raise BundleError("A stabiliser needs a finite field; got missing or infinite values.")
    if values.ndim < 2:
        values = values.reshape(-1)
        rep = _type(group, values, bundle)
        kept = constant_stabiliser(group, values, rep, tol)
        text = f"({', '.join(f'{v:.6g}' for v in values.tolist())})"
        return _subgroup(group, *kept, text if bundle is None else f"{rep} = {text}")
    if bundle is None:
        raise BundleError(
            f"A field of shape {tuple(values.shape)} needs its bundle: stabiliser(field, bundle). "
            "A constant vector is one row of numbers."
        )
    _check_section(values, bundle)
    group.check(bundle.base, bundle.grid(values))
    kept = _section(group, values, bundle, tol)
    return _subgroup(group, *kept, f"a field '{bundle.representation}'", bundle.base)


def _type(group: Group, values: Tensor, bundle: Bundle | None) -> Representation:
    """How a constant transforms."""
    rep = Representation("vector", group.dim) if bundle is None else bundle.representation
    if rep.dim != group.dim:
        raise GroupError(f"{group.name} acts in {group.dim} dimensions; {rep} lives in {rep.dim}.")
    if len(values) != rep.channels:
        raise BundleError(
            f"A constant '{rep}' in {group.dim} dimensions has {rep.channels} components; got "
            f"{len(values)}. Without a bundle it is a vector; give the bundle of any other type."
        )
    return rep


def _check_section(values: Tensor, bundle: Bundle) -> None:
    bundle.check(values, "stabiliser")
    if values.ndim != bundle.base.dim + 1:
        raise BundleError(
            f"A stabiliser is that of one field (channel, *grid); got shape {tuple(values.shape)}. "
            "Take them one after the other: group.stabiliser(a, bundle).stabiliser(b, bundle)."
        )


def _subgroup(
    group: Group,
    generators: tuple[Generator, ...],
    cosets: tuple[Element, ...],
    text: str,
    base: Manifold | None = None,
) -> Group:
    """A group with a name that says what it fixes; on a torus shifts count modulo its lengths."""
    periods = group.periods
    if base is not None and any(g.shift.any() for g in cosets):
        periods = _periods(base)
    elements = () if generators else cosets
    name = f"stabiliser of {text} in {group.name}"
    return Group(name, group.dim, generators, cosets[1:], elements, periods)


def _periods(base: Manifold) -> tuple[float, ...]:
    pairs = zip(base.lengths, base.periodic, strict=True)
    return tuple(length if wraps else np.inf for length, wraps in pairs)


# Sections -----------------------------------------------------------------------------------------


def _section(
    group: Group, f: Tensor, bundle: Bundle, tol: float
) -> tuple[tuple[Generator, ...], tuple[Element, ...]]:
    """Generators and one element of every component of the stabiliser of a field."""
    size = float(f.norm())

    def fixed(g: Element) -> bool:
        return float((act(g, f, bundle) - f).norm()) <= tol * size

    if group.is_finite:
        return (), tuple(g for g in group.elements if fixed(g))
    base, grid = bundle.base, bundle.grid(f)
    spectrum = _spectrum(f, bundle)
    held = spectrum.norm(dim=0) > tol * max(float(spectrum.norm(dim=0).max()), 1e-300)
    waves = _modes(base, grid)[:, held.numpy()].T * max(base.lengths)
    directions = np.stack([xi.shift for xi in group.generators])
    null = null_space(waves @ directions.T, 1e-9)
    free = _reached(null.T @ directions, base, grid)  # whole cells that the continuous part covers
    offered = _reached(directions, base, grid)
    cosets: list[Element] = []
    for g in (Element(np.eye(group.dim)), *group.components):
        moved = _spectrum(act(g, f, bundle), bundle)
        matches = _matches(spectrum, moved, held) & offered
        for cells in _representatives(matches, free):
            shifted = Element(np.eye(group.dim), np.array(cells) * base.spacing(grid)) @ g
            cosets += [wrap(shifted, _periods(base))] if fixed(shifted) else []
    return combine(group, null), tuple(cosets)


def _modes(base: Manifold, grid: Sequence[int]) -> Array:
    """Wave vectors of the discrete Fourier transform in waves per length, (dim, *grid)."""
    axes = [np.fft.fftfreq(n, h) for n, h in zip(grid, base.spacing(grid), strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _spectrum(f: Tensor, bundle: Bundle) -> Tensor:
    """Fourier transform of the components whose squares add up to the fibre norm."""
    root = torch.linalg.cholesky(bundle.representation.gram).mT
    return torch.fft.fftn(torch.tensordot(root, f, 1), dim=tuple(range(-bundle.base.dim, 0)))


def _reached(directions: Array, base: Manifold, grid: Sequence[int]) -> Array:
    """The shifts by whole cells that are combinations of some directions, boolean (*grid).

    The sum of all waves that these directions leave alone is largest where a shift is one of them.
    """
    along = np.tensordot(directions, _modes(base, grid), 1) * max(base.lengths)
    waves = np.fft.ifftn((np.abs(along) < 1e-9).all(0)).real
    return waves > waves.max() * (1 - 1e-9)


def _matches(spectrum: Tensor, moved: Tensor, held: Tensor) -> Array:
    """Whole cells by which a field may have to be shifted to be another one, by correlation."""
    both = (spectrum * moved.conj()).sum(0) * held
    correlation = torch.fft.ifftn(both).real * held.numel()
    least = (1 - 1e-6) * float((spectrum.abs().square().sum(0) * held).sum())
    return (correlation >= least).numpy()


def _representatives(matches: Array, free: Array) -> Iterator[tuple[int, ...]]:
    """One of the matching shifts for every class modulo the free ones, the shortest first."""
    left = matches.copy()
    cells = np.argwhere(matches)
    size = np.array(matches.shape)
    order = np.lexsort((*cells.T[::-1], np.minimum(cells, size - cells).sum(1)))
    for cell in cells[order]:
        if left[tuple(cell)]:
            if free.sum() > 1:
                left &= ~np.roll(free, cell, tuple(range(free.ndim)))
            yield tuple(int(c) for c in cell)
