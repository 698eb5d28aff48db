"""Types of the channels inside somebody else's network, some of them not yet known.

A type is a tuple of terms, in the order of the channels: a kind of field ("vector", "regular", …)
or an ``Unknown`` number of channels. Adding two features says that their types are equal, so most
unknowns are found by unification; the rest are chosen.

>>> import fieldsym as fs
>>> types = Types(fs.groups.dihedral(4))
>>> middle = Unknown(3)
>>> types.unify((middle,), ("scalar", "vector")), types.resolve((middle,))
(True, ('scalar', 'vector'))
"""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby

import numpy as np

from fieldsym.errors import RepresentationError
from fieldsym.group import Element, Group
from fieldsym.operators.adopt_tables import is_signed_permutation
from fieldsym.representation import Representation

Array = np.ndarray


def is_position(term: object) -> bool:
    """Whether channels are coordinates along some axes."""
    return isinstance(term, str) and term.startswith("position")


def position_axes(kind: str) -> tuple[int, ...]:
    """Those axes."""
    return tuple(int(axis) for axis in kind.split()[1:])


class Unknown:
    """Some channels whose type is not known yet."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __repr__(self) -> str:
        return f"{self.channels} channels of unknown type"


Term = str | Unknown
Type = tuple[Term, ...]


class Types:
    """What is known about the unknowns, and how each kind transforms under a finite group.

    Parameters
    ----------
    group : finite Group of maps that permute the axes, without shifts
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self._known: dict[Unknown, Type] = {}
        self._reference = Representation("scalar", group.dim, group)

    def of(self, representation: Representation) -> Type:
        """The kinds of a representation, one term per copy.

        Raises
        ------
        RepresentationError   if its regular blocks are those of another group.
        """
        theirs = representation.group
        regular = any(block.kind == "regular" for block in representation.blocks)
        if regular and (theirs is None or [g.key for g in theirs.elements] != self._keys()):
            raise RepresentationError(
                f"'{representation}' has regular blocks of {theirs}, but {self.group} is enforced. "
                f"Build the bundle with group={self.group}."
            )
        return tuple(b.kind for b in representation.blocks for _ in range(b.copies))

    def _keys(self) -> list[bytes]:
        return [g.key for g in self.group.elements]

    def rho(self, kind: str, g: Element) -> Array:
        """ρ(g) of one copy of a kind."""
        return self._reference.kind_rho(kind, g)

    def size(self, term: Term) -> int:
        """Number of channels."""
        return term.channels if isinstance(term, Unknown) else len(self.rho(term, self._one))

    @property
    def _one(self) -> Element:
        return self.group.elements[0]

    def channels(self, of: Type) -> int:
        """Number of channels of all terms."""
        return sum(map(self.size, of))

    def representation(self, of: Type) -> Representation:
        """A known type as a representation; coordinates come last."""
        known = self.known(of)
        fields = [kind for kind in known if not is_position(kind)]
        runs = [(kind, len(list(copies))) for kind, copies in groupby(fields)]
        text = " + ".join(f"{n} {kind}" if n > 1 else kind for kind, n in runs)
        found = Representation(text, self.group.dim, self.group)
        for kind in filter(is_position, known):
            found = found.with_position(position_axes(kind))
        return found

    def known(self, of: Type) -> tuple[str, ...]:
        """A resolved type; its unknowns must have been found."""
        return tuple(term for term in self.resolve(of) if isinstance(term, str))

    def permutes(self, of: Type, *, signs: bool = False) -> bool:
        """Whether the group permutes the channels (up to signs)."""
        return all(
            is_signed_permutation(matrix) and (signs or matrix.min() >= 0)
            for kind in set(self.known(of))
            for matrix in (self.rho(kind, g) for g in self.group.elements)
        )

    def resolve(self, of: Type) -> Type:
        """Replace the unknowns that have been found."""
        parts = (self.resolve(self._known[t]) if t in self._known else (t,) for t in of)
        return tuple(term for part in parts for term in part)

    def unify(self, one: Type, other: Type) -> bool:
        """Say that two types are equal; False if they cannot be."""
        while True:
            one, other = self.resolve(one), self.resolve(other)
            pairs = enumerate(zip(one, other, strict=False))  # ends may still be unknown
            same = next((i for i, (a, b) in pairs if a != b), None)
            if same is None:
                return len(one) == len(other)
            one, other = one[same:], other[same:]
            if not (self._absorb(one[0], other) or self._absorb(other[0], one)):
                return False

    def _absorb(self, term: Term, terms: Type) -> bool:
        """Find an unknown in the first of some terms, as many as have its channels."""
        if not isinstance(term, Unknown):
            return False
        total = 0
        for count, size in enumerate(map(self.size, terms), start=1):
            total += size
            if total == term.channels:
                self._known[term] = terms[:count]
                return True
        return False

    def find(self, term: Unknown, hidden: Representation | None) -> None:
        """Choose an unknown: copies of the regular representation, or of a given one.

        Raises
        ------
        RepresentationError   if the given one does not divide the channels.
        """
        if hidden is None:
            copies, rest = divmod(term.channels, self.group.order)
            self._known[term] = ("regular",) * copies + ("scalar",) * rest
            return
        ratio = Fraction(term.channels, hidden.channels)
        counts = [ratio * block.copies for block in hidden.blocks]
        if any(count.denominator != 1 for count in counts):
            raise RepresentationError(
                f"hidden='{hidden}' has {hidden.channels} channels, and {term.channels} channels "
                "inside the module are no whole number of it. Give a dictionary from the names of "
                "modules to the types of their outputs."
            )
        self._known[term] = tuple(
            kind
            for block, count in zip(hidden.blocks, counts, strict=True)
            for kind in (block.kind,) * int(count)
        )
