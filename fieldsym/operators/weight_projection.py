"""The nearest weight that commutes with some elements and directions of the algebra.

Multipliers and kernels are averaged over the elements, pointwise maps projected on a null space. Of
a kernel only the samples that a rotation leaves where they are commute with it: its centre, and in
space those on the axis.

>>> import torch, fieldsym as fs
>>> from fieldsym.operators.typed_parameters import typed_parameters
>>> wind, d4 = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u"), fs.groups.dihedral(4)
>>> matrix, _ = typed_parameters(torch.nn.Conv2d(2, 2, 1), d4, wind, wind)
>>> stretch = torch.tensor([[1.0, 2.0], [0.0, 2.0]])[None, :, :, None]
>>> projected(WeightLie(matrix, (), d4.components), stretch, d4.elements, ())[0, :, :, 0]
tensor([[1.5000, 0.0000],
        [0.0000, 1.5000]])
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fieldsym.group import Element, Generator
from fieldsym.operators.weight_kernels import KernelSites
from fieldsym.operators.weight_lie import WeightLie, kind_drho
from fieldsym.operators.weight_sites import Coordinates, ModeSites
from fieldsym.representation import Representation


def projected(
    lie: WeightLie, old: Tensor, subgroup: Sequence[Element], directions: Sequence[Generator]
) -> Tensor:
    """The nearest weight that commutes, (sites, out, in, parts)."""
    if lie.sites is None:
        return _nearest_point(lie, old[0, :, :, 0], subgroup, directions)[None, ..., None].to(old)
    if isinstance(lie.sites, KernelSites):
        old = _still(lie, lie.sites, old, subgroup, directions)
    return _mean(lie, lie.sites, old, subgroup)


def _still(
    lie: WeightLie,
    sites: KernelSites,
    old: Tensor,
    subgroup: Sequence[Element],
    directions: Sequence[Generator],
) -> Tensor:
    """The samples that the directions and their images leave where they are, projected on them."""
    moving = [xi for xi in directions if xi.matrix.any()]
    moving = [replace(xi, matrix=g.matrix @ xi.matrix @ g.inverse.matrix)
              for xi in moving for g in subgroup]  # fmt: skip
    new = old.clone()
    fast = [np.abs(sites.speed(xi)).max(1) > 1e-9 for xi in moving]
    for i in range(len(old)) if moving else ():
        if any(one[i] for one in fast):
            new[i] = 0
        else:
            new[i, :, :, 0] = _nearest_point(lie, old[i, :, :, 0], (), moving).to(old)
    return new


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
