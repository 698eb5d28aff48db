"""What a module must fulfil before its weights are tied, and the grid on which it is tried.

>>> import fieldsym as fs
>>> probe_grid({}, fs.groups.dihedral(4)), probe_grid({}, fs.groups.dihedral(2))
((10, 10), (10, 12))
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, GridError, GroupError, RepresentationError
from fieldsym.group import AXES, Group
from fieldsym.operators.adopt_layers import Layer, called, title
from fieldsym.operators.adopt_trace import DROPOUT, UNEVEN, Trace
from fieldsym.operators.adopt_types import Types
from fieldsym.representation import Representation

PERMUTED = (
    "that only commutes with types whose channels the group permutes, such as scalar and regular"
)
CHOOSE = (
    "Give such types inside by hidden (None makes them regular; a dictionary names one module: "
    "hidden={'name': '2 regular'}), put a layer between it and the input, or replace it."
)
BLOCKS = (
    "Known by their names are spectral weights in blocks: weights1 with the rows k = 0..m−1 and, "
    "in the plane, weights2 with the rows −m..−1 (in space up to weights4), of shape (in, out, "
    "*modes), complex or with a last axis of (real, imaginary)."
)


def check_arguments(
    module: object, group: object, source: object, target: object, hidden: object
) -> None:
    """Refuse arguments of other types than ``enforce`` asks for."""
    check_module(module)
    if not isinstance(group, Group):
        raise GroupError(
            f"group is a Group, such as groups.dihedral(4); got {group!r}. Text is read by "
            "groups.named(text, dim)."
        )
    for what, bundle in (("bundle_in", source), ("bundle_out", target)):
        if not isinstance(bundle, Bundle):
            raise BundleError(
                f"{what} is a Bundle; got {bundle!r}, which has no base. Give "
                'fs.Bundle(base, "scalar p + vector u").'
            )
    for chosen in hidden.values() if isinstance(hidden, Mapping) else (hidden,):
        if not isinstance(chosen, str | Representation) and (chosen is not None or hidden):
            raise RepresentationError(
                "hidden is None, a string or Representation such as '2 regular', or a dictionary "
                f"from names of modules to them; got {hidden!r}. The numbers of channels are those "
                "of the module."
            )


def check_module(module: object) -> None:
    """Refuse what holds no parameters."""
    if not isinstance(module, nn.Module):
        raise GroupError(
            "module is an nn.Module, whose parameters are constrained; got "
            f"{getattr(module, '__name__', type(module).__name__)}. Make a function the forward of "
            "an nn.Module that holds its layers, and a class an instance."
        )


def check_parts(module: nn.Module) -> None:
    """Refuse parameters that are not finite, and dropout."""
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise GroupError(
                f"The parameter {name} is not finite: it holds NaN or infinity, and so would its "
                "projection. Reload it from a checkpoint, or re-initialise it."
            )
    for name, part in module.named_modules():
        if isinstance(part, _DropoutNd) and part.p > 0:
            raise GroupError(f"{title(name)} is a {type(part).__name__} with p={part.p}: {DROPOUT}")


def check_covered(module: nn.Module, layers: Mapping[str, Layer]) -> None:
    """Refuse parameters that belong to no known layer, or to two."""
    owners: dict[int, str] = {}
    for layer in layers.values():
        names = {*layer.free, *(n for w in layer.weights for n in w.names)}
        for name, parameter in layer.module.named_parameters():
            own = name.removeprefix("parametrizations.").partition(".")[0]  # of a relaxed weight
            if not layer.constraints and own not in names:
                continue
            if owners.setdefault(id(parameter), layer.name) != layer.name:
                raise GroupError(
                    f"{title(owners[id(parameter)])} and {called(layer.name)} share the parameter "
                    f"{name}; tying its entries would part them. Give each layer its own, or use "
                    "one layer twice."
                )
    for name, parameter in module.named_parameters():
        if id(parameter) not in owners:
            owner = module.get_submodule(name.rpartition(".")[0])
            raise GroupError(
                f"The parameter {name} belongs to a {type(owner).__name__}, which adoption does "
                f"not know, so it would stay unconstrained. {_advice(parameter)}"
            )


def _advice(parameter: Tensor) -> str:
    register = (
        "fieldsym.operators.adopt.register takes layer classes whose parameters are all real, with "
        "the constraint of each."
    )
    if parameter.is_complex():
        return f"{BLOCKS} Rename its weights so, or make them real: {register}"
    return f"{register} {BLOCKS}"


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
                        f"{title(layer.name)} has {what} {sizes}, but {group.name} exchanges the "
                        f"axes {AXES[other]} and {AXES[axis]}: use equal numbers along them."
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
        what = f"{title(call.name)} ({type(layers[call.name].module).__name__})"
        if nature == "scalar" and not scalars:
            raise GroupError(
                f"{what} keeps statistics of every channel of '{types.representation(call.source)}'"
                " over all images, which only commute with scalars. Use a norm without running "
                "statistics (instance or group norm), or scalar hidden types."
            )
        if nature == "permuted" and not types.permutes(call.source):
            raise GroupError(
                f"{what} treats every channel of '{types.representation(call.source)}' by itself: "
                f"{PERMUTED}. {CHOOSE}"
            )
    for function, where, of in seen.bends:
        signs = function not in UNEVEN
        if not types.permutes(of, signs=signs):
            raise GroupError(
                f"{function} in {where} bends every channel of '{types.representation(of)}' by "
                f"itself: {PERMUTED}{' (up to sign)' if signs else ''}. {CHOOSE}"
            )
