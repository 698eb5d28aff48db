"""What the variables of a file are, from all the evidence there is.

Evidence is taken in this order, and the first that speaks decides:

1. ``types`` given by the user; 2. the attribute ``fieldsym_type`` ("vector u[0]") of files written
by this package; 3. a dataset card; 4. the CF ``standard_name``; 5. the name of the variable.

Two candidates for one component are an error, never a guess.

>>> resolve({"uwnd": {}, "vwnd": {}})[0]
[Typed(kind='vector', name='uwnd', variables=('uwnd', 'vwnd'), reason='name')]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from fieldsym.data.cards import Card, Typed
from fieldsym.data.naming import (
    AXIAL,
    AXIS_LETTERS,
    COMPONENT,
    PSEUDOSCALAR,
    PSEUDOSCALAR_STANDARD,
    SCALAR,
    identifier,
    name_parts,
    standard_part,
    vector_name,
)
from fieldsym.errors import DataError

Attributes = Mapping[str, Mapping[str, object]]


class _Resolver:
    """Variables that have no type yet, and the typed fields found so far."""

    def __init__(
        self, attributes: Attributes, available: Sequence[str], dim: int, geographic: bool
    ) -> None:
        self.attributes = attributes
        self.left = list(attributes)
        self.available = list(available)
        self.dim = dim
        self.geographic = geographic
        self.found: list[Typed] = []
        self.notes: list[str] = []

    def text(self, variable: str, key: str) -> str:
        return str(self.attributes[variable].get(key, "")).strip()

    def take(self, typed: Typed) -> None:
        units = {v: self.text(v, "units") for v in typed.variables}
        if len(set(units.values())) > 1:
            raise DataError(
                f"The components of '{typed.kind} {typed.name}' have different units: "
                f"{', '.join(f'{v} in {u!r}' for v, u in units.items())}. Units are never "
                "converted here; convert the variables, or correct the attribute."
            )
        taken = {t.name for t in self.found}
        name = typed.name if typed.name not in taken else identifier(typed.variables[0])
        while name in taken:
            name += "_"
        self.found.append(Typed(typed.kind, name, typed.variables, typed.reason))
        self.left = [v for v in self.left if v not in typed.variables]

    def declared(self, types: Iterable[Typed]) -> None:
        for typed in types:
            absent = [v for v in typed.variables if v not in self.left]
            if absent:
                raise DataError(
                    f"types asks for '{typed.kind} {typed.name}' from {', '.join(absent)}, which "
                    f"is not among the selected variables {', '.join(self.left) or '(none)'}."
                )
            self.take(typed)

    def written(self) -> None:
        groups: dict[tuple[str, str], dict[int, str]] = {}
        for v in self.left:
            match = re.fullmatch(r"(.+) (\w+?)(?:\[(\d+)\])?", self.text(v, "fieldsym_type"))
            if match:
                groups.setdefault((match[1], match[2]), {})[int(match[3] or 0)] = v
        for (kind, name), parts in groups.items():
            if sorted(parts) != list(range(len(parts))):
                self.lonely(parts[max(parts)], f"the attribute fieldsym_type ('{kind} {name}')")
            self.take(Typed(kind, name, tuple(parts[i] for i in sorted(parts)), "fieldsym_type"))

    def carded(self, types: Iterable[Typed]) -> None:
        for typed in types:
            present = [v for v in typed.variables if v in self.left]
            if len(present) == len(typed.variables):
                self.take(typed)
            elif present:
                self.lonely(present[0], f"the card ('{typed.kind} {typed.name}')")

    def paired(self, reason: str) -> None:
        part = standard_part if reason == "standard_name" else name_parts
        groups: dict[str, dict[int, list[str]]] = {}
        for v in self.left:
            for key, axis in part(self.text(v, "standard_name") if part is standard_part else v):
                groups.setdefault(key, {}).setdefault(axis, []).append(v)
        axes = range(self.dim)
        for parts in groups.values():
            parts = {a: [v for v in vs if v in self.left] for a, vs in parts.items()}
            if not all(parts.get(a) for a in axes):
                continue
            if all(len(parts[a]) == 1 for a in axes):
                self.pair(tuple(parts[a][0] for a in axes), reason)
            elif reason == "standard_name":
                self.ambiguous(parts)

    def ambiguous(self, parts: Mapping[int, list[str]]) -> None:
        # several levels or heights under one standard name: only twins by name are no guess
        keys = [{k: v for v in parts[a] for k, _ in name_parts(v)[:1]} for a in range(self.dim)]
        unique = all(len(k) == len(parts[a]) for a, k in enumerate(keys))
        if not unique or len({frozenset(k) for k in keys}) > 1:
            options = "; ".join(
                f"{AXIS_LETTERS[a]}: {', '.join(parts[a])}" for a in range(self.dim)
            )
            raise DataError(
                f"Two candidates for a component of one vector ({options}): they share a "
                "standard_name, and their names do not pair them. Select with variables=[...], or "
                f"say types='vector u = {parts[0][0]}, {parts[1][0]}'."
            )
        for key in keys[0]:
            self.pair(tuple(k[key] for k in keys), "standard_name and name")

    def pair(self, variables: tuple[str, ...], reason: str) -> None:
        stem = vector_name(variables[0])
        if reason == "name" and re.fullmatch(AXIAL, stem, re.IGNORECASE):
            raise DataError(
                f"{', '.join(variables)} may be an axial vector, whose parity differs from that of "
                f"a velocity. Say types='vector {stem} = {', '.join(variables)}' or "
                f"'axial vector {stem} = ...'."
            )
        self.take(Typed("vector", stem, variables, reason))

    def lonely(self, variable: str, why: str) -> None:
        others = [v for v in self.available if v not in self.attributes]
        twins = [
            v for v in others if {k for k, _ in name_parts(v)} & set(dict(name_parts(variable)))
        ]
        advice = (
            f"add {', '.join(twins)} to variables"
            if twins
            else "add the other (a list or glob of files is joined)"
        )
        raise DataError(
            f"Only one component of a vector is present: {variable} (by {why}). A component alone "
            f"is not a field that a rotation can act on; {advice}, leave {variable} out, or say "
            f"what it is, as in types='scalar {identifier(variable)} = {variable}'."
        )

    def alone(self) -> None:
        for v in list(self.left):
            kind, reason = self.kind_of(v)
            self.take(Typed(kind, identifier(v), (v,), reason))

    def kind_of(self, v: str) -> tuple[str, str]:
        standard, units = self.text(v, "standard_name"), self.text(v, "units")
        words = re.findall(r"eastward|northward", standard)
        if len(words) > 1:
            self.undecided(v, f"standard_name {standard} is a component of a tensor")
        if words or (standard_part(standard) and self.dim > 1):
            self.lonely(v, f"standard_name {standard}")
        if re.fullmatch(PSEUDOSCALAR_STANDARD, standard) and "square_of" not in standard:
            return self.pseudoscalar(v), "standard_name"
        if standard and standard != "unknown":
            return "scalar", "standard_name"
        name = v.lower()
        if re.fullmatch(r"vo|omega|w", name) and re.fullmatch(r"(h?Pa|m)\b.*s.*", units):
            if name == "vo":
                self.lonely(v, "its name and units")
            return "scalar", "name and units"
        if re.fullmatch(PSEUDOSCALAR, name):
            return self.pseudoscalar(v), "name"
        if re.fullmatch(COMPONENT, name):
            if self.dim == 1:
                self.undecided(v, "on a line its name may mean a scalar or a velocity")
            self.lonely(v, "its name")
        if re.fullmatch(SCALAR, name):
            return "scalar", "name"
        if not (self.geographic or units or self.text(v, "long_name")):
            self.undecided(v, "neither its attributes nor its name say")
        self.notes.append(
            f"{v} is taken as a scalar: nothing in the file says otherwise. If it changes sign "
            f"under a reflection, say types='pseudoscalar {identifier(v)} = {v}'."
        )
        return "scalar", "default"

    def pseudoscalar(self, v: str) -> str:
        if self.dim == 3:
            self.undecided(v, "in three dimensions a vorticity is an axial vector")
        return "pseudoscalar"

    def undecided(self, v: str, why: str) -> None:
        others = ", ".join(o for o in self.left if o != v)
        raise DataError(
            f"The type of the variable '{v}' is not known: {why}. Parity is part of a type, so it "
            f"is not guessed; say types='scalar {identifier(v)} = {v}' (or pseudoscalar, or "
            "'vector u = a, b')" + (f", likewise for {others}." if others else ".")
        )


def resolve(
    attributes: Attributes,
    *,
    types: Iterable[Typed] = (),
    card: Card | None = None,
    available: Sequence[str] = (),
    dim: int = 2,
    geographic: bool = False,
) -> tuple[list[Typed], list[str]]:
    """The typed fields that a set of variables makes, and notes on what was assumed.

    Parameters
    ----------
    attributes : attributes of each selected variable
    types : what the user declared
    card : a dataset card, which speaks before names and after the file's ``fieldsym_type``
    available : names of all variables of the file, for messages
    dim : dimension of the base
    geographic : whether the axes are longitude and latitude

    Raises
    ------
    DataError   if a component has no partner or two, if units differ, or if a type is not known.

    Examples
    --------
    >>> [typed.name for typed in resolve({"u10": {}, "v10": {}, "vorticity": {}})[0]]
    ['u10', 'vorticity']
    """
    state = _Resolver(attributes, available, dim, geographic)
    state.declared(types)
    state.written()
    state.carded(card.types if card else ())
    if dim > 1:
        state.paired("standard_name")
        state.paired("name")
    state.alone()
    return state.found, state.notes
