"""The weights of a module with the types of their ends, in one layout.

Every linear part of a network is a family of matrices W(s) between two typed fibres at some sites
s: one site for a pointwise map, samples for a kernel, Fourier modes for a multiplier R(k). They are
read with their graph as real tensors (sites, out, in, parts), parts being (real, imaginary) for
multipliers and 1 otherwise, whatever the module that stores them calls their axes.

>>> import fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((1.0, 1.5)), "scalar p + vector u")
>>> model = fs.FNO(flow, flow, n_modes=(5, 7), hidden_channels=4, n_layers=1)
>>> {w.name: tuple(w.read().shape) for w in typed_parameters(model, fs.groups.se(2), flow, flow)[4:6]}
{'layers.0.convolution.weights': (18, 4, 4, 2), 'layers.0.skip.weight': (1, 4, 4, 1)}

To add a layer: teach adoption (:mod:`fieldsym.operators.adopt`) how it stores its weights.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.errors import GroupError
from fieldsym.group import Group
from fieldsym.operators.adopt import Hidden, point_group, typed_layers
from fieldsym.operators.adopt_checks import check_arguments, check_parts
from fieldsym.operators.adopt_layers import Layer, Weight, point, title
from fieldsym.operators.adopt_position import ranges
from fieldsym.operators.adopt_tie import Kinds, full_name
from fieldsym.operators.adopt_types import Types, is_position, position_axes
from fieldsym.operators.fno import FNO, PADDING
from fieldsym.operators.irreps import FibreNorm, Gate, SchurMap
from fieldsym.operators.modes import half_set
from fieldsym.operators.pointwise import TypedWeight
from fieldsym.operators.radial import EDGE
from fieldsym.operators.steerable import SteerableConv
from fieldsym.operators.symbol import Symbol
from fieldsym.operators.typed_storage import Centred, Columns, Diagonal, Storage, Whole
from fieldsym.representation import Representation

Array = np.ndarray
Lattice = Literal["point", "kernel", "modes"]


@dataclass(frozen=True, eq=False)
class TypedParameter:
    """One map (or constant) of a layer, between typed fibres.

    ``rep_in`` is a scalar for a constant; ``axes`` are those of the coordinates that a position
    map acts on, else empty; ``lengths`` the periods to which its modes belong. ``isotropic`` says
    that it commutes with all rotations whatever its weights. ``write`` takes what ``read`` gives;
    None where the weights are coefficients of something else. A position map is one of 2 x/L from
    the centre, and the constant beside it is the value there, whatever coordinates the module has.
    """

    name: str
    module: nn.Module  # the layer, whose input a hook sees
    axis: int  # of the channels of that input
    role: Literal["map", "diagonal", "constant", "position"]
    lattice: Lattice
    rep_in: Representation
    rep_out: Representation
    sites: Array  # (sites, dim)
    lengths: tuple[float, ...]
    read: Callable[[], Tensor]
    write: Callable[[Tensor], None] | None = None
    axes: tuple[int, ...] = ()
    isotropic: bool = False


def typed_parameters(
    module: nn.Module,
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    hidden: Hidden = None,
) -> list[TypedParameter]:
    """The weights of a module, typed for the candidates of a group; changes nothing.

    Parameters
    ----------
    module : our FNO without a group, SteerableConv or SteerableFNO, or any module that
        :func:`fieldsym.enforce` knows
    group : candidate Group: continuous, finite, or a product
    in_bundle, out_bundle : Bundle
    hidden : types of the features inside. None: copies of the regular representation of the finite
        part of the group, on which its generators do not act; without one, scalars

    Raises
    ------
    GroupError, GridError, BundleError, RepresentationError   as ``enforce``, for a module whose
        layers are not known or types that do not fit.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 1), torch.nn.Conv2d(8, 2, 1, bias=False))
    >>> group = fs.groups.translations(2) * fs.groups.dihedral(4)
    >>> [f"{w.name}: {w.rep_in} to {w.rep_out}" for w in typed_parameters(net, group, wind, wind)]
    ['0.weight: vector to regular', '0.bias: scalar to regular', '1.weight: regular to vector']
    """
    points = point_group(group) if isinstance(group, Group) else group
    check_arguments(module, points, in_bundle, out_bundle, hidden)
    if any(isinstance(part, SteerableConv) for part in module.modules()):
        points.check(in_bundle.base)
        check_parts(module)
        return list(_steerable(module, in_bundle.base.lengths))
    if hidden is None and points.order == 1:
        hidden = "scalar"
    adoption, layers, ends = typed_layers(module, points, in_bundle, out_bundle, hidden)
    known = adoption.types, in_bundle.base.lengths, _lengths(module, in_bundle)
    span = ranges(layers.values())
    return [
        parameter
        for name, family in _families(layers.values()).items()
        for parameter in _Typing(*known, span, *ends[family[0].name]).all(name, family)
    ]


def _lengths(module: nn.Module, bundle: Bundle) -> tuple[float, ...]:
    """Periods of the Fourier series inside a module: our FNO pads open axes."""
    pads = 2 * PADDING if isinstance(module, FNO) else 0.0
    pairs = zip(bundle.base.lengths, bundle.base.periodic, strict=True)
    return tuple(size if wraps else size * (1 + pads) for size, wraps in pairs)


def _families(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """Layers by name; those with the modes of one multiplier of our own FNO together."""
    families: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.constraints is not None:
            raise GroupError(
                f"{title(layer.name)} is a {type(layer.module).__name__}, registered with "
                "constraints of its own, so its sites are not known. Promote the operator instead, "
                'level="operator".'
            )
        conv, split, _ = layer.name.rpartition(".weights.")
        whole = f"{conv}.weights" if split and isinstance(layer.module, TypedWeight) else layer.name
        families.setdefault(whole, []).append(layer)
    return families


@dataclass(frozen=True, eq=False)
class _Typing:
    """Makes the typed parameters of one layer."""

    types: Types
    sides: tuple[float, ...]  # of the base
    lengths: tuple[float, ...]  # of the Fourier series
    span: tuple[Array, Array] | None  # of coordinates that are not 2 x/L
    source: Kinds
    target: Kinds

    def all(self, name: str, family: Sequence[Layer]) -> Iterator[TypedParameter]:
        weights = family[0].weights
        wholes = [Whole([self._storage(layer, i) for layer in family]) for i in range(len(weights))]
        for weight, whole in zip(weights, wholes, strict=True):
            ours = isinstance(family[0].module, TypedWeight)
            called = name if ours else full_name(family[0], weight.names[0])
            yield from self._one(called, family[0], weight, whole, wholes)

    def _storage(self, layer: Layer, i: int) -> Storage:
        return Storage(layer.module, layer.weights[i], self._shape(layer.weights[i]))

    def _shape(self, weight: Weight) -> tuple[int, int, int, int]:
        inside = self.types.channels(self.source) if weight.role == "map" else 1
        return len(weight.sites), self.types.channels(self.target), inside, 1 + weight.modes

    def _one(
        self, name: str, layer: Layer, weight: Weight, whole: Whole, wholes: Sequence[Whole]
    ) -> Iterator[TypedParameter]:
        target = self.types.representation(self.target)
        fields = tuple(kind for kind in self.source if not is_position(kind))
        rest, affine = slice(self.types.channels(fields), None), None
        if self.span is not None and fields != self.source:
            # check_positions lets only a map followed by a constant read coordinates
            affine = Centred(wholes[0], rest, wholes[1], self.span)
        lattice: Lattice = "kernel" if len(weight.sites) > 1 else "point"
        lattice = "modes" if weight.modes else lattice
        common = (layer.module, layer.axis)
        sites = np.concatenate([s.weight.sites for s in whole.parts])
        if weight.role == "constant":
            scalar = Representation("scalar", target.dim)
            held = (affine.constant, affine.hold_constant) if affine else (whole.read, whole.write)
            yield TypedParameter(
                name, *common, "constant", lattice, scalar, target, sites, self.lengths, *held
            )
            return
        if weight.role == "diagonal":
            whole = Diagonal(whole.parts)
        rep_in = target if weight.role == "diagonal" else self.types.representation(fields)
        split = Columns(whole, slice(0, rep_in.channels))
        yield TypedParameter(
            name, *common, weight.role, lattice, rep_in, target, sites, self.lengths,
            split.read, split.write,
        )  # fmt: skip
        for kind in self.source[len(fields) :]:
            place = affine or Columns(whole, rest)
            yield TypedParameter(
                f"{name}.position", *common, "position", lattice, rep_in, target, sites,
                self.sides, place.read, place.write, position_axes(kind),
            )  # fmt: skip


def _steerable(module: nn.Module, lengths: tuple[float, ...]) -> Iterator[TypedParameter]:
    """Multipliers and pointwise maps of steerable operators; gates and norms commute anyway."""
    for name, part in module.named_modules():
        if isinstance(part, SteerableConv):
            yield _symbol(name or "weight", part)
        elif isinstance(part, SchurMap):
            yield from _schur(name, part, lengths)
        elif not isinstance(part, Gate | FibreNorm | Symbol) and list(part.parameters(False)):
            raise GroupError(
                f"{title(name)} is a {type(part).__name__} beside steerable convolutions; known "
                "there are SchurMap, Gate and FibreNorm, since nothing else tells how its weights "
                'move. Promote the operator instead, level="operator".'
            )


def _symbol(name: str, conv: SteerableConv) -> TypedParameter:
    """The multiplier of a steerable convolution at the modes of its disc."""
    sites = np.array(half_set(conv.n_modes))
    k = 2 * math.pi / conv.cutoff * sites / np.array(conv.lengths)
    inside = np.linalg.norm(k, axis=1) <= EDGE
    sites, tables = sites[inside], conv.symbol.tables(k[inside])
    into, out = (
        1j ** torch.tensor(odd, dtype=torch.float64)
        for odd in (conv.symbol.odd_in, conv.symbol.odd_out)
    )

    def read() -> Tensor:
        like = conv.get_buffer("zero")
        held = {n: torch.from_numpy(t).to(like) for n, t in tables.items()}
        parts = conv.symbol({**held, "zero": like}, len(sites))
        value = torch.complex(parts[0], parts[1] if len(parts) == 2 else torch.zeros_like(parts[0]))
        phases = (out[:, None] * into.conj()).to(value)
        return torch.view_as_real(value * phases)

    return TypedParameter(
        name, conv, 1, "map", "modes", conv.rep_in, conv.rep_out, sites, conv.lengths, read,
        isotropic=True,
    )  # fmt: skip


def _schur(name: str, part: SchurMap, lengths: tuple[float, ...]) -> Iterator[TypedParameter]:
    """The matrix and the constant of a pointwise map, read off what it does."""
    scalar = Representation("scalar", part.rep_in.dim)
    size, site = part.rep_in.channels, point(part.rep_in.dim)

    def constant() -> Tensor:
        return part(part.get_buffer("zero").expand(1, size, 1)).view(1, -1, 1, 1)

    def matrix() -> Tensor:
        one = torch.eye(size).to(part.get_buffer("zero"))
        return part(one[:, :, None]).mT.permute(1, 2, 0)[..., None] - constant()

    for what, rep_in, read in (("weight", part.rep_in, matrix), ("bias", scalar, constant)):
        if getattr(part, what) is not None:
            yield TypedParameter(
                f"{name}.{what}".strip("."), part, 1, "map" if what == "weight" else "constant",
                "point", rep_in, part.rep_out, site, lengths, read, isotropic=True,
            )  # fmt: skip
