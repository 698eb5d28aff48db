"""Adopting somebody else's module: its layers, the types of its channels, and its tied weights.

Three steps, all undone if the symmetry is not exact in the end: find the layers (``adopt_layers``,
``adopt_neuralop``, ``adopt_blocks`` and what :func:`register` was told), follow the types of the
channels through one forward pass (``adopt_trace``, ``adopt_types``), and tie the entries of every
weight by ``torch.nn.utils.parametrize`` (``adopt_tables``, ``adopt_weights``, ``adopt_tie``). The
layers of our own FNO and their types are known from its construction (``adopt_fno``).
``adopt_checks`` refuses what cannot work; ``adopt_release`` puts plain weights back.

To add a layer class: :func:`register` a function that returns the constraints of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, GridError, GroupError, RepresentationError
from fieldsym.group import Element, Group
from fieldsym.operators.adopt_blocks import adapt_blocks
from fieldsym.operators.adopt_checks import (
    check_arguments,
    check_covered,
    check_exchanged,
    check_nature,
    check_parts,
    probe_grid,
)
from fieldsym.operators.adopt_fno import check_bundles, fno_layers
from fieldsym.operators.adopt_layers import Layer, adapt_torch, called, title
from fieldsym.operators.adopt_neuralop import adapt_neuralop, refuse_neuralop
from fieldsym.operators.adopt_position import adapt_position, check_positions, without_position
from fieldsym.operators.adopt_tie import Adoption, Kinds, constrained, evaluating, tie_all
from fieldsym.operators.adopt_trace import FOLLOWED, Call, Trace, trace
from fieldsym.operators.adopt_types import Type, Types, Unknown
from fieldsym.operators.fno import FNO
from fieldsym.operators.nullspace import Constraint
from fieldsym.representation import Representation

Hidden = str | Representation | Mapping[str, str | Representation] | None
Constraints = Callable[[nn.Module, Representation, Representation], Mapping[str, Constraint]]
_REGISTERED: dict[type[nn.Module], Constraints] = {}


def register(layer_class: type[nn.Module], constraints_of: Constraints) -> None:
    """Tell ``enforce`` how the parameters of a layer class move under a group.

    Parameters
    ----------
    layer_class : subclass of nn.Module; its channels lie on axis 1
    constraints_of : (layer, rep_in, rep_out) → {name of a parameter: Constraint}, see
        :class:`fieldsym.operators.nullspace.Constraint`; parameters are real. Complex spectral
        weights in blocks need no registration, if they have the names of ``adopt_blocks``

    Examples
    --------
    A layer that mixes channels by an ``einsum``:

    >>> import torch, fieldsym as fs
    >>> from fieldsym.operators.constraints import PointwiseConstraint
    >>> class Mix(torch.nn.Module):
    ...     def __init__(self, inside, out):
    ...         super().__init__()
    ...         self.matrix = torch.nn.Parameter(torch.randn(out, inside))
    ...     def forward(self, x):
    ...         return torch.einsum("oi,bi...->bo...", self.matrix, x)
    >>> register(Mix, lambda layer, rep_in, rep_out: {"matrix": PointwiseConstraint(rep_in, rep_out)})
    >>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
    >>> layer = fs.enforce(Mix(2, 2), fs.groups.cyclic(4), wind, wind)
    >>> a, b = layer.matrix.detach()[0]                          # a 1 + b J
    >>> bool(torch.allclose(layer.matrix, torch.stack([torch.stack([a, b]), torch.stack([-b, a])])))
    True
    """  # noqa: E501
    _REGISTERED[layer_class] = constraints_of


def adopt(
    module: nn.Module, group: Group, source: Bundle, target: Bundle, hidden: Hidden
) -> Adoption:
    """Tie the weights of a module so that its layers commute with a group.

    The caller measures the result and calls ``undo`` if it is not exact.

    Raises
    ------
    GroupError, GridError, BundleError, RepresentationError   as ``enforce`` says.
    """
    if isinstance(module, nn.Module) and constrained(module):
        raise GroupError("This module is already enforced. Release it first with fs.release.")
    adoption, layers, ends = typed_layers(module, group, source, target, hidden)
    wraps = source.base.periodic if isinstance(module, FNO) else ()  # others are not centred
    kept = [axis for axis, closed in enumerate(wraps) if not closed]
    without_position(layers, ends, adoption.types, kept)
    try:
        tie_all(adoption, layers, ends)
    except BaseException:
        adoption.undo()
        raise
    return adoption


def typed_layers(
    module: nn.Module, group: Group, source: Bundle, target: Bundle, hidden: Hidden
) -> tuple[Adoption, dict[str, Layer], dict[str, tuple[Kinds, Kinds]]]:
    """The layers of a module and the types of their inputs and outputs; changes nothing.

    Returns
    -------
    Adoption, whose ``types`` are those of the finite point group, and layers and ends by name

    Raises
    ------
    GroupError, GridError, BundleError, RepresentationError   as ``enforce`` says.
    """
    check_arguments(module, group, source, target, hidden)
    if source.base != target.base:
        raise BundleError(f"Input and output have one base; got {source.base} and {target.base}.")
    group.check(source.base)
    check_parts(module)
    adoption = Adoption(module, Types(point_group(group)), (), _dtype(module))
    if isinstance(module, FNO):  # its forward pass is fused and cannot be followed
        check_bundles(module, source, target)
        layers, ends = fno_layers(module, adoption.types, hidden)
        _set_grid(adoption, layers)
        return adoption, layers, ends
    layers = survey(module, group.dim)
    _set_grid(adoption, layers)
    return adoption, layers, _followed(adoption, layers, source, target, hidden)


def _set_grid(adoption: Adoption, layers: Mapping[str, Layer]) -> None:
    """A grid to try the module on."""
    check_exchanged(layers, adoption.types.group)
    adoption.grid = probe_grid(layers, adoption.types.group)


def _followed(
    adoption: Adoption,
    layers: Mapping[str, Layer],
    source: Bundle,
    target: Bundle,
    hidden: Hidden,
) -> dict[str, tuple[Kinds, Kinds]]:
    """The types of the ends of every layer, from one forward pass."""
    types, seen = adoption.types, _traced(adoption, layers, source, target)
    _agree(types, seen)
    _choose(types, seen, hidden)
    check_nature(types, layers, seen)
    adoption.outputs = [(name, types.known(of), axis) for name, of, axis in seen.outputs]
    ends = {c.name: (types.known(c.source), types.known(c.target)) for c in seen.calls}
    check_positions(layers, ends, [(f, where, types.known(of)) for f, where, of in seen.bends])
    return ends


def point_group(group: Group) -> Group:
    """The finite group of the matrices of a group whose shifts may be continuous."""
    elements = group.elements or (Element(np.eye(group.dim)), *group.components)
    points = {Element(g.matrix).key: Element(g.matrix) for g in elements}
    chosen = tuple(points.values())
    if len(chosen) == len(group.elements):
        return group
    return Group(f"{group.name} without shifts", group.dim, (), chosen[1:], chosen)


def survey(module: nn.Module, dim: int) -> dict[str, Layer]:
    """The layers of a module, by name; every parameter must belong to one.

    Raises
    ------
    GroupError   naming a part that breaks a symmetry, or a parameter of an unknown layer.
    """
    layers: dict[str, Layer] = {}
    for name, part in module.named_modules():
        if any(name.startswith(f"{other}.") for other in layers):
            continue
        refuse_neuralop(name, part)
        layer = _adapt(name, part, dim)
        if layer is not None:
            layers[name] = layer
    check_covered(module, layers)
    return layers


def _adapt(name: str, part: nn.Module, dim: int) -> Layer | None:
    constraints = _REGISTERED.get(type(part))
    if constraints is not None:
        return Layer(name, part, [], constraints=constraints)
    return (
        adapt_neuralop(name, part, dim)
        or adapt_position(name, part, dim)
        or adapt_torch(name, part, dim)
        or adapt_blocks(name, part, dim)
    )


def _dtype(module: nn.Module) -> torch.dtype:
    kinds = (p.dtype for p in module.parameters() if p.is_floating_point() or p.is_complex())
    return next(kinds, torch.float32).to_real()


def _traced(
    adoption: Adoption, layers: Mapping[str, Layer], source: Bundle, target: Bundle
) -> Trace:
    """Follow the types through one forward pass, from those of the input to those of the output."""
    types = adoption.types
    out, seen, of = _forward(adoption, layers, source)
    target.check(out, "The output bundle")
    if tuple(out.shape[2:]) != adoption.grid:
        raise GridError(
            f"The module turns a grid of {adoption.grid} points into {tuple(out.shape[2:])}. Only "
            "modules that keep the grid can be made equivariant."
        )
    if of is None:
        raise GroupError(
            "The types of the channels could not be followed to the output of the module: they "
            f"were lost at {seen.lost}. {FOLLOWED}"
        )
    if not types.unify(of, types.of(target.representation)):
        raise GroupError(
            f"The output of the module has the types {types.resolve(of)}, which cannot be those "
            f"of '{target.representation}'."
        )
    unused = sorted(map(called, set(layers) - {call.name for call in seen.calls}))
    if unused:
        raise GroupError(
            f"A forward pass does not use {', '.join(unused)}, so the types of these layers are "
            "unknown. Remove them, or call them in forward."
        )
    return seen


def _forward(
    adoption: Adoption, layers: Mapping[str, Layer], source: Bundle
) -> tuple[Tensor, Trace, Type | None]:
    module, types = adoption.module, adoption.types
    some = next(module.parameters(), torch.zeros(()))
    x = torch.zeros(1, source.channels, *adoption.grid, dtype=adoption.dtype, device=some.device)
    known = {name: (layer.axis, layer.keeps, layer.adds) for name, layer in layers.items()}
    try:
        with evaluating(module):
            return trace(module, x, types.of(source.representation), types, known)
    except RuntimeError as error:
        raise BundleError(
            f"The module does not accept sections of {source} on a grid of {adoption.grid} "
            f"points: {error}"
        ) from error


def _agree(types: Types, seen: Trace) -> None:
    """A layer that runs more than once has one type of input and one of output."""
    first: dict[str, Call] = {}
    for call in seen.calls:
        one = first.setdefault(call.name, call)
        for a, b in ((one.source, call.source), (one.target, call.target)):
            if not types.unify(a, b):
                raise GroupError(
                    f"{title(call.name)} is used on features of different types: "
                    f"{types.resolve(a)} and {types.resolve(b)}. Use a layer of its own for each."
                )


def _choose(types: Types, seen: Trace, hidden: Hidden) -> None:
    """Find the types that the forward pass left open."""
    common = None
    if isinstance(hidden, Mapping):
        _name(types, seen, hidden)
    elif hidden is not None:
        common = _representation(hidden, types)
    for of in [t for call in seen.calls for t in (call.source, call.target)]:
        for term in types.resolve(of):
            if isinstance(term, Unknown):
                types.find(term, common)


def _name(types: Types, seen: Trace, hidden: Mapping[str, str | Representation]) -> None:
    """Enter the types of the outputs that a dictionary names."""
    names = {name: of for name, of, _ in seen.outputs if name}
    for name, chosen in hidden.items():
        if name not in names:
            raise RepresentationError(
                f"hidden names {name!r}, which has no output of known channels; there are "
                f"{', '.join(names)}."
            )
        if not types.unify(names[name], types.of(_representation(chosen, types))):
            raise RepresentationError(
                f"The output of {name} cannot be '{chosen}': its channels are "
                f"{types.resolve(names[name])}."
            )


def _representation(text: str | Representation, types: Types) -> Representation:
    group = types.group
    parsed = Representation(text, group.dim, group) if isinstance(text, str) else text
    types.of(parsed)  # checks the group of regular blocks
    return parsed
