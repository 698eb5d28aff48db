"""What a module must fulfil before its weights are tied, and the grid on which it is tried.

>>> import fieldsym as fs
>>> probe_grid({}, fs.groups.dihedral(4)), probe_grid({}, fs.groups.dihedral(2))
((10, 10), (10, 12))
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from fieldsym.errors import GridError, GroupError
from fieldsym.group import AXES, Group
from fieldsym.operators.adopt_layers import Layer
from fieldsym.operators.adopt_trace import UNEVEN, Trace
from fieldsym.operators.adopt_types import Types

PERMUTED = (
    "that only commutes with types whose channels the group permutes, such as scalar and regular"
)


def check_covered(module: nn.Module, layers: Mapping[str, Layer]) -> None:
    """Refuse parameters that belong to no known layer, or to two."""
    owners: dict[int, str] = {}
    for layer in layers.values():
        names = {*layer.free, *(n for w in layer.weights for n in w.names)}
        for name, parameter in layer.module.named_parameters():
            if not layer.constraints and name.partition(".")[0] not in names:
                continue
            if owners.setdefault(id(parameter), layer.name) != layer.name:
                raise GroupError(
                    f"{owners[id(parameter)]} and {layer.name} share the parameter {name}; tying "
                    "its entries would part them. Give each layer its own, or use one layer twice."
                )
    for name, parameter in module.named_parameters():
        if id(parameter) not in owners:
            owner = module.get_submodule(name.rpartition(".")[0])
            raise GroupError(
                f"The parameter {name} belongs to a {type(owner).__name__}, which adoption does "
                "not know, so it would stay unconstrained. Tell it how the parameters of that "
                "class move: fieldsym.operators.adopt.register."
            )


def _exchanged(group: Group) -> list[int]:
    """For each axis the first axis that the group exchanges it with."""
    moves = np.abs(np.stack([np.rint(g.matrix) for g in group.elements])).max(0)
    return [int(np.flatnonzero(row)[0]) for row in moves]


def check_exchanged(layers: Mapping[str, Layer], group: Group) -> None:
    """Refuse kernels and modes that differ along axes that a group exchanges."""
    for layer in layers.values():
        for what, sizes in layer.sizes.items():
            for axis, other in enumerate(_exchanged(group)):
                if sizes[axis] != sizes[other]:
                    raise GridError(
                        f"{layer.name} has {what} {sizes}, but {group.name} exchanges the axes "
                        f"{AXES[other]} and {AXES[axis]}: use equal numbers along them."
                    )


def probe_grid(layers: Mapping[str, Layer], group: Group) -> tuple[int, ...]:
    """A small even grid on which everything fits, unequal along axes that are not exchanged."""
    least = [8] * group.dim
    for layer in layers.values():
        for axis, need in enumerate(layer.needs):
            least[axis] = max(least[axis], need + 1)
    return tuple(
        max(n for n, o in zip(least, _exchanged(group), strict=True) if o == other) // 2 * 2
        + 2
        + 2 * other
        for other in _exchanged(group)
    )


def check_nature(types: Types, layers: Mapping[str, Layer], seen: Trace) -> None:
    """Refuse norms and pointwise functions on types whose components they do not commute with."""
    for call in seen.calls:
        nature = layers[call.name].nature
        scalars = set(types.known(call.source)) <= {"scalar"}
        what = f"{call.name} ({type(layers[call.name].module).__name__})"
        if nature == "scalar" and not scalars:
            raise GroupError(
                f"{what} keeps statistics of every channel of '{types.representation(call.source)}'"
                " over all images, which only commute with scalars. Use a norm without running "
                "statistics (instance or group norm), or scalar hidden types."
            )
        if nature == "permuted" and not types.permutes(call.source):
            raise GroupError(
                f"{what} treats every channel of '{types.representation(call.source)}' by itself: "
                f"{PERMUTED}."
            )
    for function, where, of in seen.bends:
        signs = function not in UNEVEN
        if not types.permutes(of, signs=signs):
            raise GroupError(
                f"{function} in {where} bends every channel of '{types.representation(of)}' by "
                f"itself: {PERMUTED}{' (up to sign)' if signs else ''}."
            )
