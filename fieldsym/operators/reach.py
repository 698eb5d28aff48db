"""Which types of hidden features an input reaches, and which of them an output hears.

Isotropic maps join some types only: with reflections no convolution leads from scalars to
pseudoscalars, a product of vectors does. Features that nothing has reached yet are zero, and
weights on them would never learn, so a network holds each type from the map on that reaches it.

>>> import fieldsym as fs
>>> hidden_types(32, fs.groups.o(2))
19 scalar + 5 pseudoscalar + 2 vector + 2 symmetric traceless tensor
>>> w, hidden = (fs.Representation(t, 2) for t in ("pseudoscalar w", "2 scalar + 2 pseudoscalar"))
>>> stages(fs.Representation("scalar p + vector u", 2), hidden, w, fs.groups.o(2), 1)
[2 scalar + 2 pseudoscalar, 2 scalar + 2 pseudoscalar, 2 pseudoscalar]
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import RepresentationError
from fieldsym.group import Group
from fieldsym.operators.harmonics import check_turns, equivariant_harmonics, full_rotations
from fieldsym.operators.products import Product, vector_products
from fieldsym.representation import Representation


def hidden_types(channels: int, group: Group) -> Representation:
    """Irreducible hidden features of a width: half scalars, the rest shared among the other types.

    Parameters
    ----------
    channels : width
    group : so(d), o(d), se(d) or e(d)

    Raises
    ------
    RepresentationError   if the width does not hold one copy of every type.
    """
    dim = group.dim
    kinds = ["vector", "symmetric traceless tensor"]
    if full_rotations(group, dim):
        kinds = ["pseudoscalar", "vector", *["axial vector"] * (dim == 3), kinds[1]]
    sizes = [Representation(kind, dim).channels for kind in kinds]
    copies = [max(1, channels // 2 // len(kinds) // size) for size in sizes]
    scalars = channels - sum(n * size for n, size in zip(copies, sizes, strict=True))
    if scalars < 1:
        raise RepresentationError(
            f"hidden_channels holds scalars and every other type, {sum(sizes) + 1} channels at "
            f"least for {group.name}; got {channels}. Use more, or give the types: "
            "hidden='4 scalar + 2 vector'."
        )
    terms = [f"{n} {kind}" for n, kind in zip(copies, kinds, strict=True)]
    return Representation(" + ".join([f"{scalars} scalar", *terms]), dim)


def stages(
    rep_in: Representation, hidden: Representation, rep_out: Representation, group: Group, n: int
) -> list[Representation]:
    """Types of the features after the lifting, and after the convolution and the MLP of n layers.

    Once some type is heard at the end, all those before it are: norms of every type feed scalars,
    and scalars feed gates. So only the last stage loses types.

    Raises
    ------
    RepresentationError   if no path leads from the input to the output.
    """
    for rep in (rep_in, hidden, rep_out):
        check_turns(rep)
    live = [_convolved(rep_in, hidden, group)]
    for _ in range(n):
        live.append(_convolved(live[-1], hidden, group))
        made = {out for out, _, _ in nonzero_products(live[-1], hidden, group)}
        live.append(restricted(hidden, made | _kinds(live[-1])))
    live[-1] = joined(live[-1], rep_out, group)
    if not live[-1].blocks:
        raise RepresentationError(
            f"No path leads from '{rep_in}' through the hidden types '{hidden}' to '{rep_out}' "
            f"with {group.name}, the result would be constant. Give vectors or more types as well: "
            "hidden='4 scalar + 2 vector + 2 pseudoscalar'."
        )
    return live


def joined(
    rep: Representation, others: Representation, group: Group, *, pointwise: bool = False
) -> Representation:
    """The part of a representation that isotropic maps join to some other types.

    Convolutions do, or pointwise maps only, which are those of angular order 0.
    """
    full = full_rotations(group, rep.dim)
    kinds = {
        kind
        for kind in _kinds(rep)
        for other in _kinds(others)
        for y in equivariant_harmonics(kind, other, rep.dim, full)
        if not (pointwise and y.order)
    }
    return restricted(rep, kinds)


def nonzero_products(rep: Representation, targets: Representation, group: Group) -> list[Product]:
    """Products of vectors with other types, without the cross product of a vector with itself.

    That is all there is where ``rep`` holds a single vector and pointwise maps only scale it.
    """
    found, full = vector_products(rep, targets, group), full_rotations(group, rep.dim)
    scaled = sum(
        block.copies * len(y.coefficients)
        for block in rep.blocks
        for y in equivariant_harmonics("vector", block.kind, rep.dim, full)
        if y.order == 0
    )
    if scaled != 1:
        return found
    differ = (
        (out, with_, _symmetric(maps) if with_ == "vector" else maps) for out, with_, maps in found
    )
    return [product for product in differ if len(product[2])]


def restricted(rep: Representation, kinds: Iterable[str]) -> Representation:
    """The blocks of some types, in their order; there may be none."""
    return rep.with_blocks(block for block in rep.blocks if block.kind in kinds)


def recast(x: Tensor, source: Representation, target: Representation) -> Tensor:
    """Features (batch, channel, *grid) in another choice of types: zero where one is new."""
    if source == target:
        return x
    parts: dict[str, list[Tensor]] = {block.kind: [] for block in target.blocks}
    for block, part in zip(source.blocks, x.split([b.size for b in source.blocks], 1), strict=True):
        parts.setdefault(block.kind, []).append(part)
    return torch.cat(
        [
            parts[b.kind].pop(0) if parts[b.kind] else x.new_zeros(len(x), b.size, *x.shape[2:])
            for b in target.blocks
        ],
        1,
    )


def _convolved(source: Representation, hidden: Representation, group: Group) -> Representation:
    """What a convolution with gates makes: norms of the other types feed scalars."""
    linear = _kinds(joined(hidden, source, group))
    return restricted(hidden, linear | {"scalar"} if linear else linear)


def _kinds(rep: Representation) -> set[str]:
    return {block.kind for block in rep.blocks}


def _symmetric(maps: np.ndarray) -> np.ndarray:
    """Those of the bilinear maps (products, p, q, d) that do not change sign with the order."""
    return maps[np.abs(maps + maps.swapaxes(2, 3)).max((1, 2, 3)) > 1e-9]
