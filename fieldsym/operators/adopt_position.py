"""Coordinates as further channels inside a module: where they come from and what may read them.

Coordinates along some axes are channels of the kind "position", 2 x/L from the centre, which a
group moves like part of a vector. A grid embedding of neuraloperator appends c_i from s to e along
axis i, so c = (s + e)/2 + (e − s)/2 · 2 x/L: a map W c + b of it is the map W (e − s)/2 of the
position, and the constant b + W (s + e)/2. It counts samples from the start of an axis: of a base
that is sampled in the middle of its cells the half cell between is left out.

>>> from neuralop.layers.embeddings import GridEmbeddingND
>>> layer = adapt_position("embedding", GridEmbeddingND(3, 2, [[0, 1], [0, 3]]), 2)
>>> layer.adds, centre_and_half(layer.module)
('position 0 1', (array([0.5, 1.5]), array([0.5, 1.5])))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from fieldsym.errors import GroupError
from fieldsym.operators.adopt_layers import Layer, Weight, title
from fieldsym.operators.adopt_neuralop import is_neuralop
from fieldsym.operators.adopt_types import Types, is_position, position_axes
from fieldsym.representation import Representation

Array = np.ndarray
Kinds = tuple[str, ...]
Ends = dict[str, tuple[Kinds, Kinds]]
READS = (
    "its coordinates are known to be moved by a pointwise map with a constant alone (nn.Linear, "
    "nn.Conv with one sample, a ChannelMLP)"
)


def position_kind(axes: Sequence[int]) -> str:
    """The kind of coordinates along some axes."""
    return Representation("scalar", max(axes) + 1).with_position(tuple(axes)).blocks[-1].kind


def appends_position(module: nn.Module) -> bool:
    """Whether a module appends coordinates to its input."""
    return is_neuralop(module, "GridEmbeddingND", "GridEmbedding2D")


def refuse_embedding(module: nn.Module) -> None:
    """Raise where coordinates are channels.

    Raises
    ------
    GroupError   naming the part that appends them.
    """
    for name, part in module.named_modules():
        if appends_position(part):
            raise GroupError(
                f"{title(name)} is a {type(part).__name__}: coordinates as channels tell points "
                "and directions apart. Build the module with positional_embedding=None."
            )


def adapt_position(name: str, module: nn.Module, dim: int) -> Layer | None:
    """The layer of a grid embedding, None if it is none.

    Raises
    ------
    GroupError   if it has another number of axes than the base, or an axis of no length.
    """
    if not appends_position(module):
        return None
    centre, half = centre_and_half(module)
    if len(half) != dim or not np.isfinite([*centre, *half]).all() or not half.all():
        raise GroupError(
            f"{title(name)} is a {type(module).__name__} with the boundaries "
            f"{getattr(module, 'grid_boundaries', None)}; the base has {dim} axes, each of which "
            "needs a start and another end."
        )
    return Layer(name, module, [], keeps=True, adds=position_kind(range(dim)))


def centre_and_half(module: Any) -> tuple[Array, Array]:
    """Middle and half of the range of every coordinate."""
    start, end = np.array(module.grid_boundaries, dtype=float).T
    return (start + end) / 2, (end - start) / 2


def ranges(layers: Iterable[Layer]) -> tuple[Array, Array] | None:
    """Those of the coordinates that grid embeddings append; None where there is none.

    Raises
    ------
    GroupError   if there are several.
    """
    found = [layer for layer in layers if layer.adds is not None]
    if len(found) > 1:
        raise GroupError(
            f"Coordinates are appended by {', '.join(title(f.name) for f in found)}, so that their "
            "ranges at a layer are not known. Append them once."
        )
    return centre_and_half(found[0].module) if found else None


def check_positions(
    layers: Mapping[str, Layer], ends: Ends, bends: Iterable[tuple[str, str, Kinds]]
) -> None:
    """Refuse what reads coordinates in another way than a pointwise map with a constant.

    Raises
    ------
    GroupError   naming the layer or function.
    """
    for function, where, kinds in bends:
        if any(map(is_position, kinds)):
            raise GroupError(f"{function} in {where} bends coordinates: {READS}.")
    for name, (source, _) in ends.items():
        places = [i for i, kind in enumerate(source) if is_position(kind)]
        if places and not (places == [len(source) - 1] and _is_pointwise(layers[name])):
            kind = type(layers[name].module).__name__
            raise GroupError(f"{title(name)} is a {kind} behind a grid embedding: {READS}.")


def _is_pointwise(layer: Layer) -> bool:
    weights = [(w.role, len(w.sites), w.modes) for w in layer.weights]
    return weights == [("map", 1, False), ("constant", 1, False)]


def without_position(
    layers: dict[str, Layer], ends: Ends, types: Types, kept: Sequence[int] = ()
) -> None:
    """Keep coordinates out of what a symmetry ties, but those along some axes, in place.

    Along periodic axes they jump where the axis closes, so every translation and reflection breaks
    them: their columns are zero in an equivariant operator.
    """
    for name, (source, target) in ends.items():
        if not source or not is_position(source[-1]):
            continue
        axes = position_axes(source[-1])
        rest = tuple(axis for axis in axes if axis in kept)
        if rest == axes:
            continue
        fields = types.channels(source[:-1])
        columns = [*range(fields), *(fields + axes.index(axis) for axis in rest)]
        layers[name].weights = [
            _narrowed(weight, columns, fields + len(axes)) if weight.role == "map" else weight
            for weight in layers[name].weights
        ]
        ends[name] = ((*source[:-1], *((position_kind(rest),) if rest else ())), target)


def _narrowed(weight: Weight, columns: list[int], width: int) -> Weight:
    """A map whose other columns are zero."""

    def place(table: Array) -> list[Array]:
        wide = np.zeros((len(table), width, *table.shape[2:]), table.dtype)
        wide[:, columns] = table
        return list(weight.place(wide))

    return replace(weight, place=place)
