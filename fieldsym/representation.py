"""Representations of the fibre: how the channels of a field transform.

A representation is a list of typed blocks, written as a string: parity is part of the type.

>>> import fieldsym as fs
>>> fs.Representation("scalar p + vector u", dim=2).channels
3

``scalar`` (1), ``pseudoscalar`` (1, changes sign under reflections: vorticity, stream function),
``vector`` (d), ``axial vector`` (d), ``symmetric tensor`` (xx, yy, xy or xx, yy, zz, xy, xz, yz),
``symmetric traceless tensor`` (xx, xy or xx, yy, xy, xz, yz), and for a finite group ``regular``
(one channel per element, permuted) and ``trivial`` (another word for scalar). The populations of a
lattice-Boltzmann method, ``d2q9 populations`` and ``d3q19 populations``, are permuted as the
velocities of the lattice are (:mod:`fieldsym.lattice_velocities`).

To add one: write its kind below (components, ρ and dρ) and enter its words in ``KINDS``.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import RepresentationError
from fieldsym.group import Element, Generator, Group, snap
from fieldsym.lattice_velocities import VELOCITY_SETS, VelocitySet

Array = np.ndarray


def _pairs(dim: int) -> list[tuple[int, int]]:
    """Index pairs of a symmetric tensor: the diagonal first, then the upper triangle."""
    return [(i, i) for i in range(dim)] + list(itertools.combinations(range(dim), 2))


def _tensor_embedding(dim: int, traceless: bool) -> Array:
    """Matrix from the stored components to all d² components of a symmetric tensor."""
    pairs = _pairs(dim)
    if traceless:
        pairs.remove((dim - 1, dim - 1))
    matrix = np.zeros((dim, dim, len(pairs)))
    for c, (i, j) in enumerate(pairs):
        matrix[i, j, c] = matrix[j, i, c] = 1.0
        if traceless and i == j:
            matrix[dim - 1, dim - 1, c] = -1.0
    return matrix.reshape(dim * dim, len(pairs))


@dataclass(frozen=True)
class Kind:
    """One type of field: its size, ρ(A), dρ(A) and the embedding that carries its norm."""

    words: str
    size: Callable[[int], int]
    rho: Callable[[Array], Array]
    drho: Callable[[Array], Array]
    embedding: Callable[[int], Array]
    dims: tuple[int, ...] = (1, 2, 3)


def _det(matrix: Array) -> float:
    return float(np.sign(np.linalg.det(matrix)))


def _tensor_kind(words: str, traceless: bool) -> Kind:
    def embedding(dim: int) -> Array:
        return _tensor_embedding(dim, traceless)

    def conjugate(full: Array) -> Array:
        inside = embedding(round(len(full) ** 0.5))
        return snap(np.linalg.pinv(inside) @ full @ inside)

    return Kind(
        words,
        lambda dim: embedding(dim).shape[1],
        lambda a: conjugate(np.kron(a, a)),
        lambda a: conjugate(np.kron(a, np.eye(len(a))) + np.kron(np.eye(len(a)), a)),
        embedding,
        (2, 3),
    )


def _population_kind(lattice: VelocitySet) -> Kind:
    one = np.eye(lattice.size)
    size, dims = lattice.size, (lattice.dim,)
    return Kind(
        lattice.words, lambda d: size, lattice.permutation, lattice.derivative, lambda d: one, dims
    )


def _one(dim: int) -> Array:
    return np.eye(1)


KINDS = {
    kind.words: kind
    for kind in (
        Kind("scalar", lambda d: 1, lambda a: np.eye(1), lambda a: np.zeros((1, 1)), _one),
        Kind("pseudoscalar", lambda d: 1, lambda a: _det(a) * np.eye(1),
             lambda a: np.zeros((1, 1)), _one),
        Kind("vector", lambda d: d, lambda a: a, lambda a: a, np.eye),
        Kind("axial vector", lambda d: d, lambda a: _det(a) * a, lambda a: a, np.eye, (2, 3)),
        _tensor_kind("symmetric tensor", traceless=False),
        _tensor_kind("symmetric traceless tensor", traceless=True),
        *map(_population_kind, VELOCITY_SETS.values()),
    )
}  # fmt: skip
WORDS = (*KINDS, "regular", "trivial")


@dataclass(frozen=True)
class Block:
    """Some copies of one kind of field.

    ``kind`` is one of the words of the grammar, ``size`` the number of channels of all copies.
    """

    kind: str
    copies: int
    name: str
    size: int

    def __str__(self) -> str:
        many = f"{self.copies} " if self.copies > 1 else ""
        return f"{many}{self.kind} {self.name}".rstrip()


class Representation:
    """A direct sum of typed blocks.

    Parameters
    ----------
    text : str such as ``"scalar p + vector u"``; a number before a type makes copies
    dim : int, dimension of the base
    group : finite Group, needed by ``regular``

    Raises
    ------
    RepresentationError   if a word is unknown, a name occurs twice, or a type needs another base.

    Examples
    --------
    >>> import fieldsym as fs
    >>> rep = fs.Representation("2 pseudoscalar w + vector u", dim=2)
    >>> [str(block) for block in rep.blocks], rep.channels
    (['2 pseudoscalar w', 'vector u'], 4)
    >>> rep.rho(fs.groups.dihedral(1).elements[1]).diagonal()
    tensor([-1., -1.,  1., -1.], dtype=torch.float64)
    """

    def __init__(self, text: str, dim: int, group: Group | None = None) -> None:
        self.dim = dim
        self.group = group
        self.blocks = tuple(self._parse(term) for term in str(text).split("+"))
        named = [block.name for block in self.blocks if block.name]
        if len(set(named)) < len(named):
            raise RepresentationError(f"Each name may occur once in {text!r}; got {named}.")

    def _parse(self, term: str) -> Block:
        match = re.fullmatch(r"(?:(\d+) )?(.*)", " ".join(term.split()))
        copies, rest = (int(match[1] or 1), match[2]) if match else (1, "")
        kind = next(
            (w for w in sorted(WORDS, key=len, reverse=True) if f"{rest} ".startswith(f"{w} ")), ""
        )
        name = rest[len(kind) :].strip()
        if not kind or copies < 1 or (name and not name.isidentifier()):
            raise RepresentationError(
                f"Expected terms '[copies] type [name]' joined by '+', with a type out of: "
                f"{', '.join(WORDS)}; got {term.strip()!r}. Example: 'scalar p + vector u'."
            )
        kind = "scalar" if kind == "trivial" else kind
        return Block(kind, copies, name, copies * self._size(kind))

    def _size(self, kind: str) -> int:
        if kind == "regular":
            return self._finite_group().order
        if self.dim not in KINDS[kind].dims:
            raise RepresentationError(
                f"The type '{kind}' needs a base of {' or '.join(map(str, KINDS[kind].dims))} "
                f"dimensions; this one has {self.dim}."
            )
        return KINDS[kind].size(self.dim)

    def _finite_group(self) -> Group:
        if self.group is None or not self.group.is_finite:
            raise RepresentationError(
                "The regular representation needs a finite group, for example "
                f"group=groups.dihedral(4); got {self.group}."
            )
        return self.group

    def __repr__(self) -> str:
        return " + ".join(str(block) for block in self.blocks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Representation) and (self.blocks, self.dim) == (
            other.blocks,
            other.dim,
        )

    def __hash__(self) -> int:
        return hash((self.blocks, self.dim))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return sum(block.size for block in self.blocks)

    def kind_rho(self, kind: str, g: Element) -> Array:
        """ρ(g) of one copy of a kind."""
        if kind.startswith("position"):
            axes = [int(axis) for axis in kind.split()[1:]]
            return g.matrix[np.ix_(axes, axes)]
        if kind != "regular":
            return KINDS[kind].rho(g.matrix)
        group = self._finite_group()
        permutation = np.zeros((group.order, group.order))
        point = Element(g.matrix)  # a shift moves no fibre
        permutation[group.table[group.index(point)], np.arange(group.order)] = 1.0
        return permutation

    def kind_drho(self, kind: str, xi: Generator) -> Array:
        """dρ(ξ) of one copy of a kind."""
        if kind == "regular":
            raise RepresentationError("The regular representation of a finite group has no dρ.")
        return KINDS[kind].drho(xi.matrix)

    def kind_gram(self, kind: str) -> Array:
        """Inner product of one copy: the off-diagonal components of a tensor count twice."""
        if kind == "regular":
            return np.eye(self._finite_group().order)
        if kind.startswith("position"):
            return np.eye(len(kind.split()) - 1)
        inside = KINDS[kind].embedding(self.dim)
        return inside.T @ inside

    def _assemble(self, of_kind: Callable[[str], Array]) -> Tensor:
        parts = [np.kron(np.eye(block.copies), of_kind(block.kind)) for block in self.blocks]
        return torch.block_diag(*(torch.from_numpy(np.ascontiguousarray(p)) for p in parts))

    def rho(self, g: Element) -> Tensor:
        """ρ(g), float64 (channels, channels)."""
        self._check_dim(g.dim)
        return self._assemble(lambda kind: self.kind_rho(kind, g))

    def drho(self, xi: Generator) -> Tensor:
        """dρ(ξ), float64 (channels, channels): the derivative of ρ(exp tξ) at t = 0."""
        self._check_dim(xi.dim)
        return self._assemble(lambda kind: self.kind_drho(kind, xi))

    @cached_property
    def gram(self) -> Tensor:
        """Fibre inner product that ρ of an orthogonal map preserves, float64."""
        return self._assemble(self.kind_gram)

    @cached_property
    def is_euclidean(self) -> bool:
        """Whether the fibre norm is the plain sum of squares."""
        return bool((self.gram == torch.eye(self.channels, dtype=torch.float64)).all())

    @property
    def turns(self) -> bool:
        """Whether rotations by every angle act on it, which they do not on permuted channels.

        Examples
        --------
        >>> [Representation(text, 2).turns for text in ("vector u", "d2q9 populations f")]
        [True, False]
        """
        permuted = {"regular", *VELOCITY_SETS}
        return not any(block.kind in permuted for block in self.blocks)

    def _check_dim(self, dim: int) -> None:
        if dim != self.dim:
            raise RepresentationError(
                f"{self} is a representation on a {self.dim}-D base; the element acts in {dim}-D."
            )

    def with_position(self, axes: tuple[int, ...]) -> Representation:
        """This and the coordinates along some axes, which a group moves like part of a vector."""
        position = Block(f"position {' '.join(map(str, axes))}", 1, "", len(axes))
        return self.with_blocks((*self.blocks, position))

    def with_blocks(self, blocks: Iterable[Block]) -> Representation:
        """A representation of the same group with other blocks."""
        other = copy.copy(self)
        for cached in ("gram", "is_euclidean"):
            other.__dict__.pop(cached, None)
        other.blocks = tuple(blocks)
        return other
