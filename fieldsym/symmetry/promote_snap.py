"""Snap: make exact the symmetries that the weights of a module keep within a tolerance.

A promoted model keeps some candidates to a percent or better. Those elements generate a subgroup,
those directions of the algebra are unbroken by intent: the weights are projected on what commutes
with all of them, and the rest of the candidates stays broken.

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

To add a kind of weight: its case in ``_projected``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fieldsym.bundle import Bundle
from fieldsym.errors import DataError, GroupError
from fieldsym.group import Element, Generator, Group, closure
from fieldsym.operators.adopt import Hidden
from fieldsym.operators.adopt_checks import check_module
from fieldsym.operators.weight_lie import WeightLie, kind_drho
from fieldsym.operators.weight_sites import Coordinates, KernelSites, ModeSites
from fieldsym.representation import Representation
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
    elements on the coefficients of steerable layers.
    """

    elements: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    removed: dict[str, float] = field(default_factory=dict)
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        changed = [f"{name} {share:.4f}" for name, share in self.removed.items() if share > 5e-5]
        rows = {
            "elements": self.elements, "added": self.added, "directions": self.directions,
            "removed": changed, "not snapped": self.left,
        }  # fmt: skip
        optional = ("added", "not snapped")
        kept = {name: row for name, row in rows.items() if row or name not in optional}
        return "\n".join(f"{name}: {', '.join(row) or 'none'}" for name, row in kept.items())


@torch.no_grad()
def snap(
    model: nn.Module,
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    tolerance: float = 1e-2,
    hidden: Hidden = None,
) -> Snapped:
    """Project the weights on the candidate symmetries that they keep within a tolerance, in place.

    Elements g with ‖K_g W − W‖ ≤ tolerance ‖W‖, over all layers, generate a subgroup, and the
    directions of the algebra with ‖L_ξ W‖ ≤ tolerance ‖W‖ are unbroken; the nearest weights that
    commute with them replace those that are there. Coordinates as inputs, pointwise maps and
    constants obey both, multipliers and kernels the elements. A second snap changes nothing.

    Parameters
    ----------
    model, group, in_bundle, out_bundle, hidden : as for ``fs.promote(..., level="weights")``
    tolerance : relative to the size of all weights, in [0, 1)

    Returns
    -------
    Snapped   what was found and changed; empty where nothing was found

    Raises
    ------
    DataError    if the tolerance is not in [0, 1).
    GroupError   if the module is enforced or relaxed.
    GroupError, GridError, BundleError, RepresentationError   as ``fs.promote``.

    Examples
    --------
    Coordinates that hardly matter go, and with them what broke translations:

    >>> import fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p")
    >>> model = fs.FNO(p, p, n_modes=3, hidden_channels=4, n_layers=1, positional_embedding="grid")
    >>> model.lifting.first.weight.matrices.data[..., 1:] *= 1e-3
    >>> found = snap(model, fs.groups.translations(2), p, p)
    >>> found.directions, bool(model.lifting.first.weight.matrices[..., 1:].any())
    (('translation x', 'translation y'), False)

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212 (symmetries as null spaces of linear maps).
    """
    check_module(model)
    if not 0 <= tolerance < 1:
        raise DataError(
            f"tolerance is relative to the size of the weights, in [0, 1); got {tolerance}. A "
            "symmetry that is kept to a percent has 0.01."
        )
    if any(map(parametrize.is_parametrized, model.modules())):
        raise GroupError(
            "The weights of this module are made of other numbers, by fs.enforce or fs.relax, so "
            "that projected ones would be lost. Call fs.release first."
        )
    units = replace(
        group, generators=tuple(in_units(xi, in_bundle.base) for xi in group.generators)
    )
    weights = WeightGram(model, units, in_bundle, out_bundle, hidden)
    gram, differences, size = weights()
    kept = differences <= tolerance * size
    found = [g for g, exact in zip(weights.elements, kept.tolist(), strict=True) if exact]
    directions = _directions(gram, units.generators, tolerance * size)
    if not found and not directions:
        return Snapped()
    subgroup = closure(found, group.dim, periods=group.periods)
    removed, left = {}, []
    for lie in weights.lies:
        parameter = lie.parameter
        old = parameter.read().clone()  # not a view of what changes
        if _is_left(lie, subgroup, directions):
            left.append(parameter.name)
        if parameter.write is None:
            continue
        new = _projected(lie, old, subgroup, directions)
        parameter.write(new)
        norm = old.double().norm()
        removed[parameter.name] = float((new - old).double().norm() / norm) if norm else 0.0
    named = {g.name for g in found}
    added = tuple(g.name for g in subgroup if not g.is_identity and g.name not in named)
    return Snapped(
        tuple(g.name for g in found), added, tuple(d.name for d in directions), removed, tuple(left)
    )


def _directions(gram: Tensor, generators: Sequence[Generator], least: Tensor) -> list[Generator]:
    """Unbroken combinations of generators, as few in each as the tolerance allows."""
    squares, vectors = torch.linalg.eigh(gram)
    rows = _echelon(vectors.mT[squares <= least**2].cpu().numpy())
    found = []
    for row in rows:
        few = torch.from_numpy(np.where(np.abs(row) < FEW, 0.0, row)).to(gram)
        exact = few @ gram @ few <= (least * few.norm()) ** 2
        found.append(_combination(generators, few.cpu().numpy() if exact else row))
    return found


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
    row = row / row[np.flatnonzero(row)[0]]  # the first counts once
    parts = [(float(c), xi) for c, xi in zip(row, generators, strict=True) if c]
    words = [xi.name if c == 1 else f"{c:+.2f} {xi.name}" for c, xi in parts]
    matrix = np.sum([c * xi.matrix for c, xi in parts], 0)
    return Generator(" ".join(words), matrix, np.sum([c * xi.shift for c, xi in parts], 0))


def _is_left(lie: WeightLie, subgroup: Sequence[Element], directions: Sequence[Generator]) -> bool:
    """Whether something that was found cannot be imposed on a weight."""
    if lie.parameter.write is None:
        return len(subgroup) > 1
    return lie.sites is not None and any(xi.matrix.any() for xi in directions)


def _projected(
    lie: WeightLie, old: Tensor, subgroup: Sequence[Element], directions: Sequence[Generator]
) -> Tensor:
    """The nearest weight that commutes, (sites, out, in, parts)."""
    if lie.sites is None:
        return _nearest_point(lie, old[0, :, :, 0], subgroup, directions)[None, ..., None].to(old)
    return _mean(lie, lie.sites, old, subgroup)


def _mean(
    lie: WeightLie, sites: ModeSites | KernelSites, old: Tensor, subgroup: Sequence[Element]
) -> Tensor:
    """The mean of K_g W over a group; zero where an image of a site is not stored."""
    p, w = lie.parameter, old.double().movedim(3, 1)
    kept = sites.closed(subgroup)
    total = torch.zeros_like(w)
    for g in subgroup:
        moved = p.rep_out.rho(g.inverse).to(w) @ w @ p.rep_in.rho(g).to(w)
        total += sites.back(g, kept)(moved)
    return (total / len(subgroup)).movedim(1, 3).to(old)


def _nearest_point(
    lie: WeightLie, w: Tensor, subgroup: Sequence[Element], directions: Sequence[Generator]
) -> Tensor:
    """Orthogonal projection of a matrix (out, in), one pair of types at a time."""
    p, new = lie.parameter, w.double().clone()
    back = [g.inverse for g in subgroup]
    outs = _fields(p.rep_out, back, directions)
    ins = _fields(p.rep_in, subgroup, directions)
    if lie.embed is not None:
        ins = [_position(lie.embed, subgroup, directions)]
    known: dict[tuple[str, str], Tensor] = {}
    for out, into in itertools.product(outs, ins):
        if (out.kind, into.kind) not in known:
            known[out.kind, into.kind] = _projector(out, into).to(new)
        window = new[out.place, into.place]
        pairs = window.view(out.copies, out.size, into.copies, into.size).transpose(1, 2)
        fixed = pairs.flatten(2) @ known[out.kind, into.kind]
        window.copy_(fixed.view(pairs.shape).transpose(1, 2).reshape(window.shape))
    return new


@dataclass(frozen=True)
class _Field:
    """The copies of one type, and how one of them moves: matrices (size, all coordinates)."""

    kind: str
    place: slice
    copies: int
    one: Tensor
    rho: list[Tensor]
    drho: list[Tensor]

    @property
    def size(self) -> int:
        return len(self.one)


def _fields(
    rep: Representation, elements: Sequence[Element], directions: Sequence[Generator]
) -> list[_Field]:
    fields, start = [], 0
    for b in rep.blocks:
        rho = [torch.from_numpy(rep.kind_rho(b.kind, g)) for g in elements]
        drho = [torch.from_numpy(kind_drho(rep, b.kind, xi)) for xi in directions]
        one = torch.eye(b.size // b.copies, dtype=torch.float64)
        fields.append(_Field(b.kind, slice(start, start + b.size), b.copies, one, rho, drho))
        start += b.size
    return fields


def _position(
    embed: Coordinates, elements: Sequence[Element], directions: Sequence[Generator]
) -> _Field:
    one = embed.inside()
    rho, drho = [one @ embed.rho(g) for g in elements], [one @ embed.drho(xi) for xi in directions]
    return _Field("position", slice(None), 1, one, rho, drho)


def _projector(out: _Field, into: _Field) -> Tensor:
    """On the matrices W, row by row, with W dρ_in = dρ_out W and ρ_out(g)⁻¹ W ρ_in(g) = W."""
    still = torch.kron(torch.eye(out.size, dtype=torch.float64), into.one.mT.contiguous())
    normal = torch.zeros((out.size * into.size,) * 2, dtype=torch.float64)
    eye = torch.eye(out.size, dtype=torch.float64)
    rows = [
        torch.kron(eye, b.mT.contiguous()) - torch.kron(a, into.one.mT.contiguous())
        for a, b in zip(out.drho, into.drho, strict=True)
    ]
    rows += [
        torch.kron(a, b.mT.contiguous()) - still for a, b in zip(out.rho, into.rho, strict=True)
    ]
    for row in rows:
        normal += row.mT @ row
    squares, vectors = torch.linalg.eigh(normal)
    free = vectors[:, squares <= 1e-9 * squares[-1].clamp_min(1e-9)]
    return free @ free.mT
