"""Tying the entries of adopted weights, and putting plain ones back.

Every parameter of a layer is projected on the weights that commute with the group and parametrised
by its free numbers; what was there before is remembered until the symmetry has been measured.

>>> import torch, fieldsym as fs
>>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
>>> layer = fs.enforce(torch.nn.Conv2d(2, 2, 1), fs.groups.dihedral(4), wind, wind)
>>> constrained(layer), constrained(fs.release(layer))                # a multiple of 1, no constant
(True, False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fieldsym.errors import GroupError, RepresentationError
from fieldsym.operators.adopt_layers import Layer, Weight, title
from fieldsym.operators.adopt_tables import (
    Table,
    kernel_moves,
    mode_moves,
    multiplicity,
    whole_table,
)
from fieldsym.operators.adopt_types import Types
from fieldsym.operators.adopt_weights import TiedWeight, in_memory
from fieldsym.operators.nullspace import NullSpaceWeight, null_basis

Kinds = tuple[str, ...]
TIES = (TiedWeight, NullSpaceWeight)


@dataclass(eq=False)
class Change:
    """One parameter: what it was, what it is after the projection, and how to go back."""

    module: nn.Module
    name: str
    full_name: str
    old: nn.Parameter
    new: Tensor

    @property
    def removed(self) -> float:
        """Relative size of what the projection took away."""
        before, after = real_entries(self.old).double(), real_entries(self.new).double()
        size = before.norm()
        return float((after - before).norm() / size) if size else 0.0

    def undo(self) -> None:
        """Put the parameter back as it was."""
        parametrize.remove_parametrizations(self.module, self.name, leave_parametrized=True)
        delattr(self.module, self.name)
        self.module.register_parameter(self.name, self.old)


@dataclass(eq=False)
class Map:
    """One map: the parameters it lies in, and how often each of their entries occurs in it."""

    changes: list[Change]
    measures: list[Tensor]  # real entries, in the shape of the parameter


@dataclass(eq=False)
class Adoption:
    """What adopting a module found and changed; :func:`fieldsym.operators.adopt.adopt` makes it.

    ``outputs`` are (module, types, axis of the channels) of what modules return, in the order of
    execution.
    """

    module: nn.Module
    types: Types
    grid: tuple[int, ...]
    dtype: torch.dtype
    outputs: list[tuple[str, Kinds, int]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    undoing: list[Callable[[], None]] = field(default_factory=list)

    def undo(self) -> None:
        """Give the module back what it was."""
        while self.undoing:
            self.undoing.pop()()
        for change in self.changes:  # in the order they had
            held = change.module._parameters
            if change.name in held:  # else it is a factorised tensor
                held[change.name] = held.pop(change.name)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; afterwards every part has the mode it had."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, flag in training.items():
            part.training = flag


def constrained(module: nn.Module) -> bool:
    """Whether weights of a module are tied."""
    return any(isinstance(part, TIES) for part in module.modules())


def tie_all(
    adoption: Adoption, layers: Mapping[str, Layer], ends: Mapping[str, tuple[Kinds, Kinds]]
) -> None:
    """Tie every parameter of some layers, given the types of their inputs and outputs."""
    tables: dict[tuple, Table] = {}
    for name, layer in layers.items():
        source, target = ends[name]
        if layer.guard is not None:
            handle = layer.module.register_forward_pre_hook(layer.guard)
            adoption.undoing.append(handle.remove)
        if layer.ready is not None:
            adoption.undoing.append(layer.ready())
        if layer.constraints is not None:
            _tie_registered(adoption, layer, source, target)
        for weight in layer.weights:
            table = _table(adoption.types, weight, source, target, tables)
            _check_reached(adoption.types, layer, weight, table, source, target)
            _tie(adoption, layer, weight, table)


def _table(
    types: Types,
    weight: Weight,
    source: Sequence[str],
    target: Sequence[str],
    tables: dict[tuple, Table],
) -> Table:
    inside = ("scalar",) if weight.role == "constant" else tuple(source)
    key = (tuple(target), inside, weight.role, weight.modes, weight.sites.tobytes())
    if key not in tables:
        moves = (mode_moves if weight.modes else kernel_moves)(types.group, weight.sites)
        tables[key] = whole_table(
            types.rho,
            target,
            inside,
            moves,
            2 if weight.modes else 1,
            diagonal=weight.role == "diagonal",
        )
    return tables[key]


def _check_reached(
    types: Types,
    layer: Layer,
    weight: Weight,
    table: Table,
    source: tuple[str, ...],
    target: tuple[str, ...],
) -> None:
    """Refuse hidden types that cannot make a channel of the output."""
    if weight.role != "map" or layer.keeps:
        return
    empty = ~(table.code != 0).any(axis=(1, 2, 3, 4))
    if empty.any():
        raise RepresentationError(
            f"{title(layer.name)} cannot make '{types.representation(target)}' out of "
            f"'{types.representation(source)}': no weight between them commutes with "
            f"{types.group.name}. Use hidden types with regular fields (at least "
            f"{types.group.order} channels per copy)."
        )


def _tie(adoption: Adoption, layer: Layer, weight: Weight, table: Table) -> None:
    """Project the parameters of one map and tie their entries."""
    parameters = [getattr(layer.module, name) for name in weight.names]
    codes = _in_order(weight, weight.place(table.code), table.free)
    values = None if table.values is None else weight.place(table.values)
    measures = _measures(weight, table)
    z = _nearest(parameters, codes, values, table.free, measures)
    partners: tuple[parametrize.ParametrizationList, ...] = ()
    held = 0
    for i, (name, old, code) in enumerate(zip(weight.names, parameters, codes, strict=True)):
        reached = max(held, int(np.abs(code).max(initial=0)))
        tied = TiedWeight(
            code,
            None if values is None else values[i],
            reached,
            is_complex=old.is_complex(),
            memory=weight.memory,
            partners=partners,
            like=old,
        ).to(old.device)
        own = [z[held:reached].to(real_entries(old).dtype)] if reached > held else []
        with torch.no_grad():
            new = tied(*own)
        _replace(adoption, layer, name, new, tied)
        held = reached
        lists: Any = layer.module.parametrizations
        partners = (*partners, lists[name])
    adoption.maps.append(Map(adoption.changes[-len(parameters) :], measures))


def _in_order(weight: Weight, codes: Sequence[np.ndarray], free: int) -> list[np.ndarray]:
    """Count the free numbers in the order in which memory first meets them.

    So each parameter needs only its own numbers and those of the ones before it, and the gather
    reads along the memory.
    """
    met = np.abs(np.concatenate([in_memory(code, weight.memory).ravel() for code in codes]))
    first = np.zeros(free + 1, dtype=int)
    first[met[::-1]] = np.arange(len(met), 0, -1)  # the first occurrence is written last
    first[0] = 0
    rank = np.empty(free + 1, dtype=int)
    rank[np.argsort(first, kind="stable")] = np.arange(free + 1)
    return [np.sign(code) * rank[np.abs(code)] for code in codes]


def _measures(weight: Weight, table: Table) -> list[Tensor]:
    """How often an entry of each parameter occurs in the layer: some modes stand for −k too."""
    once = multiplicity(weight.sites) if weight.modes else np.ones(len(weight.sites))
    parts = weight.place(np.broadcast_to(once[:, None, None], (*table.code.shape[:-1], 1)))
    return [torch.from_numpy(part[..., 0].copy()) for part in parts]


def _nearest(
    parameters: Sequence[Tensor],
    codes: Sequence[np.ndarray],
    values: Sequence[np.ndarray] | None,
    free: int,
    measures: Sequence[Tensor],
) -> Tensor:
    """Free numbers of the allowed map nearest to what some parameters hold."""
    code, value = (
        None if tables is None else np.concatenate([t.reshape(-1, t.shape[-1]) for t in tables])
        for tables in (codes, values)
    )
    entries = torch.cat([real_entries(p).reshape(-1).double() for p in parameters])
    whole = TiedWeight(code, value, free)  # type: ignore[arg-type]
    measure = torch.cat([part.flatten() for part in measures]).to(entries.device)
    return whole.to(entries.device).nearest(entries, measure)


def real_entries(parameter: Tensor) -> Tensor:
    """The entries of a parameter; complex ones get a last axis of (real, imaginary)."""
    parameter = parameter.detach()
    return torch.view_as_real(parameter) if parameter.is_complex() else parameter


def full_name(layer: Layer, name: str) -> str:
    """The name of a parameter of a layer in the whole module."""
    return f"{layer.name}.{name}" if layer.name else name


def _replace(adoption: Adoption, layer: Layer, name: str, new: Tensor, tied: nn.Module) -> None:
    module, old = layer.module, getattr(layer.module, name)
    delattr(module, name)
    module.register_parameter(name, nn.Parameter(new.clone(), requires_grad=old.requires_grad))
    parametrize.register_parametrization(module, name, tied, unsafe=True)
    change = Change(module, name, full_name(layer, name), old, new)
    adoption.changes.append(change)
    adoption.undoing.append(change.undo)


def _tie_registered(
    adoption: Adoption, layer: Layer, source: tuple[str, ...], target: tuple[str, ...]
) -> None:
    """Constrain the parameters of a registered layer by their null space."""
    if layer.constraints is None:
        return
    rep_in, rep_out = (adoption.types.representation(t) for t in (source, target))
    constraints = layer.constraints(layer.module, rep_in, rep_out)
    names = {name for name, _ in layer.module.named_parameters()}
    if set(constraints) != names or any("." in name for name in names):
        raise GroupError(
            f"The constraints registered for {type(layer.module).__name__} are those of "
            f"{sorted(constraints)}; it has the parameters {sorted(names)}."
        )
    for name, constraint in constraints.items():
        old = getattr(layer.module, name)
        if old.is_complex():
            raise GroupError(
                f"{full_name(layer, name)} is complex; register real parameters with a last axis "
                "of (real, imaginary)."
            )
        basis = null_basis(constraint, adoption.types.group)
        if len(basis):
            free = NullSpaceWeight(basis).to(old.device)
            _replace(adoption, layer, name, free(free.right_inverse(old)), free)
        else:
            zero = TiedWeight(np.zeros((*old.shape, 1), dtype=int), None, 0, like=old)
            _replace(adoption, layer, name, torch.zeros_like(old), zero.to(old.device))
        adoption.maps.append(Map(adoption.changes[-1:], [torch.ones_like(old)]))
