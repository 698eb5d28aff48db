"""The layers of our own FNO without a group, as adoption sees them.

Its forward pass is fused, so nothing is traced: which features meet which layer is known from its
construction. All features between the layers are of one hidden type. A spectral convolution stores
one complex matrix for one of k and −k, and a real one for k = 0, in parameters of their own.
Coordinates that enter the lifting are further channels, of the kind "position".

>>> import fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
>>> model = fs.FNO(flow, flow, n_modes=(5, 5), hidden_channels=8, n_layers=1)
>>> layers, ends = fno_layers(model, Types(fs.groups.dihedral(4)))
>>> layers["layers.0.convolution.weights.0"].weights[0].sites.shape, ends["layers.0.skip.weight"]
((12, 2), (('regular',), ('regular',)))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import nn

from fieldsym.errors import BundleError, GroupError, RepresentationError
from fieldsym.operators.adopt_layers import Layer, Weight, as_stored, point
from fieldsym.operators.adopt_position import position_kind
from fieldsym.operators.adopt_types import Types, Unknown
from fieldsym.operators.fno import FNO
from fieldsym.operators.layers import RegularNorm, SoftGate, TypedMLP
from fieldsym.operators.pointwise import Pointwise
from fieldsym.operators.spectral import SpectralConv
from fieldsym.representation import Representation

Array = np.ndarray
Kinds = tuple[str, ...]
Ends = dict[str, tuple[Kinds, Kinds]]
Found = Iterator[tuple[Layer, Kinds, Kinds]]


def fno_layers(
    model: FNO, types: Types, hidden: str | Representation | Mapping | None = None
) -> tuple[dict[str, Layer], Ends]:
    """The layers of an FNO and the types of their inputs and outputs, by name.

    Parameters
    ----------
    model : FNO with ``group=None``
    types : of a finite candidate group without shifts
    hidden : type of the features inside, in proportion to their channels. None: copies of the
        regular representation, left-over channels are scalars

    Raises
    ------
    GroupError            if the FNO was built for a group, or its pointwise functions would not
                          commute with the hidden type.
    RepresentationError   if the hidden type does not divide a width, or is a dictionary.

    Examples
    --------
    >>> import fieldsym as fs
    >>> box = fs.Bundle(fs.Box((1.0, 2.0), periodic=(True, False)), "scalar p")
    >>> model = fs.FNO(box, box, n_modes=(3, 3), hidden_channels=4, n_layers=1)
    >>> fno_layers(model, Types(fs.groups.dihedral(2)))[1]["lifting.first.weight"][0]
    ('scalar', 'position 1')
    """
    _check(model, hidden)
    lifted = types.of(model.in_bundle.representation)
    if model.positioned:
        lifted = (*lifted, position_kind(model.positioned))
    ends = (lifted, types.of(model.out_bundle.representation))
    layers: dict[str, Layer] = {}
    known: Ends = {}
    for layer, source, target in _Walk(model, types, hidden).all(*map(types.known, ends)):
        layers[layer.name], known[layer.name] = layer, (source, target)
    return layers, known


def _check(model: FNO, hidden: object) -> None:
    if model.group.order > 1:
        raise GroupError(
            f"This FNO was built for {model.group}, and its weights are tied already. Build it "
            "with group=None to find or relax its symmetry."
        )
    if isinstance(hidden, Mapping):
        raise RepresentationError(
            f"All features inside an FNO have one type, since skips add them; got {hidden!r}. Give "
            "hidden as one string or Representation."
        )


def check_bundles(model: FNO, source: object, target: object) -> None:
    """Refuse other bundles than those the FNO was built for.

    Raises
    ------
    BundleError   naming both.
    """
    for what, given, built in (("bundle_in", source, model.in_bundle),
                               ("bundle_out", target, model.out_bundle)):  # fmt: skip
        if given != built:
            raise BundleError(
                f"{what} is the bundle that the FNO was built with, {built}; got {given}."
            )


class _Walk:
    """Layers in the order of the forward pass."""

    def __init__(self, model: FNO, types: Types, hidden: Any) -> None:
        self.model, self.types, self.dim = model, types, types.group.dim
        group = types.group
        self.chosen = (
            Representation(hidden, group.dim, group) if isinstance(hidden, str) else hidden
        )
        if self.chosen is not None:
            types.of(self.chosen)  # checks the group of regular blocks

    def _hidden(self, channels: int) -> Kinds:
        one = Unknown(channels)
        self.types.find(one, self.chosen)
        kinds = self.types.known((one,))
        if not self.types.permutes(kinds):
            raise GroupError(
                f"The pointwise functions of an FNO bend every channel of "
                f"'{self.types.representation(kinds)}' by itself, which only commutes with types "
                "whose channels the group permutes, such as scalar and regular."
            )
        return kinds

    def all(self, lifted: Kinds, out: Kinds) -> Found:
        model = self.model
        features = self._hidden(model.hidden_channels)
        yield from self._pointwise("lifting", model.lifting, lifted, features)
        for i, part in enumerate(model.layers):
            for name, child in part.named_children():
                yield from self._part(f"layers.{i}.{name}", child, features)
        yield from self._pointwise("projection", model.projection, features, out)

    def _part(self, name: str, part: nn.Module, features: Kinds) -> Found:
        if isinstance(part, SpectralConv):
            yield from self._spectral(name, part, features)
        elif isinstance(part, SoftGate):
            yield self._channels(name, part, scale="diagonal"), features, features
        elif isinstance(part, RegularNorm):
            yield self._channels(name, part, scale="diagonal", shift="constant"), features, features
        elif isinstance(part, Pointwise | TypedMLP):
            yield from self._pointwise(name, part, features, features)

    def _channels(self, name: str, part: nn.Module, **roles: Any) -> Layer:
        """A number for every channel."""
        site = point(self.dim)
        weights = [
            Weight((parameter,), role, site, as_stored(getattr(part, parameter)))
            for parameter, role in roles.items()
        ]
        return Layer(name, part, weights, keeps=True)

    def _spectral(self, name: str, conv: SpectralConv, features: Kinds) -> Found:
        for i, orbits in enumerate(conv.types):
            names = ("pair_0",) if orbits.is_zero else ("matrices",)
            place = _real if orbits.is_zero else _stack
            weight = Weight(names, "map", orbits.modes[:, 0], place, modes=True)
            yield (
                Layer(
                    f"{name}.weights.{i}",
                    conv.weights[i],
                    [weight],
                    sizes={"n_modes": conv.n_modes},
                    needs=conv.n_modes,
                ),
                features,
                features,
            )

    def _pointwise(
        self, name: str, part: Pointwise | TypedMLP, source: Kinds, target: Kinds
    ) -> Found:
        if isinstance(part, TypedMLP):
            middle = self._hidden(part.first.rep_out.channels)
            yield from self._pointwise(f"{name}.first", part.first, source, middle)
            yield from self._pointwise(f"{name}.second", part.second, middle, target)
            return
        site = point(self.dim)
        weight = Weight(("matrices",), "map", site, _stack)
        yield Layer(f"{name}.weight", part.weight, [weight]), source, target
        if part.bias is not None:
            constant = Weight(("matrices",), "constant", site, _stack)
            yield Layer(f"{name}.bias", part.bias, [constant]), source, target


def _stack(table: Array) -> list[Array]:
    """(out, in, sites, parts, terms) as matrices (sites, parts, out, in)."""
    return [np.moveaxis(table, (2, 3), (0, 1))]


def _real(table: Array) -> list[Array]:
    """The multiplier of k = 0, which is real: coefficients (1, out, in, 1)."""
    return [np.moveaxis(table[:, :, :, :1], 2, 0)]
