"""Orbits of Fourier modes under a finite group, and the exact weights they allow.

The multiplier of an equivariant convolution obeys R(g k) = ρ_out(g) R(k) ρ_in(g)⁻¹ and, for real
fields, R(−k) = conj R(k). So one matrix per orbit of modes is enough, and it commutes with the
stabiliser of its mode. Where the group holds the inversion −1, fields split into even and odd parts
and every R(k) is a real matrix between even parts and i × odd parts: half the arithmetic.

Only one of k and −k is stored (the "half set"): the last non-zero component of k is positive.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldsym.errors import GridError
from fieldsym.group import Group
from fieldsym.operators.intertwiner import Equation, allowed_maps
from fieldsym.representation import Block, Representation

Array = np.ndarray
Mode = tuple[int, ...]
Move = tuple[int, bool]  # (index of the group element, whether the mode is conjugated)


@dataclass(frozen=True, eq=False)
class OrbitType:
    """All orbits of modes with one stabiliser, met in the half set by the same moves.

    Parameters
    ----------
    modes : (orbits, images, dim) modes of the half set; image m of an orbit is moved there from the
        first by ``moves[m]``
    stabiliser : moves that leave the representative where it is, identity left out
    """

    modes: Array
    moves: tuple[Move, ...]
    stabiliser: tuple[Move, ...]

    @property
    def is_zero(self) -> bool:
        """Whether this is the mode k = 0, which has no partner −k."""
        return not self.modes.any()


def check_modes(n_modes: Sequence[int], dim: int) -> tuple[int, ...]:
    """Odd, positive numbers of modes, one per axis.

    Raises
    ------
    GridError   naming the odd neighbours of an even number.
    """
    if len(n_modes) != dim:
        raise GridError(f"n_modes needs one number per axis, {dim} here; got {tuple(n_modes)}.")
    for n in n_modes:
        if n < 1 or n % 2 == 0:
            raise GridError(
                f"n_modes counts the frequencies −K..K of an axis, so it is odd; got {n} in "
                f"{tuple(n_modes)}. Even counts keep −n/2 without +n/2 and break every reflection "
                f"and quarter turn. Use {max(n - 1, 1)} or {n + 1}."
            )
    return tuple(int(n) for n in n_modes)


def half_set(n_modes: Sequence[int]) -> list[Mode]:
    """One of k and −k for every kept mode: the last non-zero component is positive.

    Examples
    --------
    >>> half_set((3, 3))
    [(0, 0), (1, 0), (-1, 1), (0, 1), (1, 1)]
    """
    cut = [n // 2 for n in n_modes]
    ranges = [range(-k, k + 1) for k in reversed(cut)]
    zero = (0,) * len(cut)
    return [k[::-1] for k in itertools.product(*ranges) if k >= zero]


@functools.lru_cache(maxsize=64)
def _orbits(matrices: bytes, dim: int, n_modes: Mode) -> tuple[OrbitType, ...]:
    group = np.frombuffer(matrices, dtype=np.int64).reshape(-1, dim, dim)
    has_inversion = bool((group == -np.eye(dim, dtype=np.int64)).all((1, 2)).any())
    half = half_set(n_modes)
    left = set(half)
    found: dict[tuple, list[list[Mode]]] = {}
    for k in sorted(half, reverse=True):
        if k not in left:
            continue
        images: dict[Mode, Move] = {}
        stabiliser: list[Move] = []
        for g, image in enumerate(map(tuple, (group @ np.array(k)).tolist())):
            for conjugate in (False, True) if not has_inversion else (False,):
                q = tuple(-c for c in image) if conjugate else image
                if q in left:
                    images.setdefault(q, (g, conjugate))
                if q == k and (g, conjugate) != (0, False):
                    stabiliser.append((g, conjugate))
        left -= set(images)
        found.setdefault((tuple(images.values()), tuple(stabiliser)), []).append(list(images))
    return tuple(OrbitType(np.array(v), *key) for key, v in found.items())


def mode_orbits(group: Group, n_modes: Sequence[int]) -> tuple[OrbitType, ...]:
    """The kept modes of the half set, sorted into orbits.

    Parameters
    ----------
    group : finite Group of maps that permute the axes
    n_modes : odd numbers of kept frequencies

    Examples
    --------
    >>> import fieldsym as fs
    >>> sum(len(t.modes) for t in mode_orbits(fs.groups.dihedral(4), (25, 25)))   # 625 modes
    91
    """
    matrices = np.rint(np.stack([g.matrix for g in group.elements])).astype(np.int64)
    return _orbits(matrices.tobytes(), group.dim, tuple(n_modes))


@dataclass(frozen=True, eq=False)
class Images:
    """Where a fixed set of group elements carries the first mode of every orbit.

    Parameters
    ----------
    elements : indices of the elements, one of each pair {g, −g} where the group holds −1
    modes : (elements, orbits, dim) modes g k with last component ≥ 0, or −g k
    conjugate : (elements, orbits) whether it is −g k, where a real field has the conjugate
    """

    elements: tuple[int, ...]
    modes: Array
    conjugate: Array


def mode_images(group: Group, types: Sequence[OrbitType]) -> Images:
    """Images of all orbits by the same elements; small orbits meet their modes more than once.

    Examples
    --------
    >>> import fieldsym as fs
    >>> d4 = fs.groups.dihedral(4)
    >>> found = mode_images(d4, mode_orbits(d4, (25, 25)))
    >>> found.modes.shape, bool(found.conjugate.any())
    ((4, 91, 2), False)
    """
    first = np.concatenate([t.modes[:, 0] for t in types])
    found: dict[bytes, tuple[int, Array, Array]] = {}
    has_inversion = RealForm(group).inversion is not None
    for index, g in enumerate(group.elements):
        matrix = np.rint(g.matrix).astype(np.int64)
        modes = first @ matrix.T
        conjugate = modes[:, -1] < 0
        key = max(matrix.tobytes(), (-matrix).tobytes()) if has_inversion else matrix.tobytes()
        if key not in found or conjugate.sum() < found[key][2].sum():
            found[key] = index, np.where(conjugate[:, None], -modes, modes), conjugate
    elements, modes, conjugate = zip(*found.values(), strict=True)
    return Images(elements, np.stack(modes), np.stack(conjugate))


class RealForm:
    """Coordinates of a fibre in which every multiplier is a real matrix, where there are such.

    With −1 in the group, x̂ = T D z: T has even and odd directions as columns, D is i on the odd
    ones. Without it T = D = 1 and multipliers stay complex (``parts`` = 2).
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        inversions = [g for g in group.elements if np.array_equal(g.matrix, -np.eye(group.dim))]
        self.inversion = inversions[0] if inversions else None
        self.parts = 1 if inversions else 2

    def basis(self, rep: Representation, kind: str) -> tuple[Array, Array]:
        """T and the diagonal of D for one kind of field."""
        size = len(rep.kind_gram(kind))
        if self.inversion is None:
            return np.eye(size), np.ones(size, dtype=complex)
        flip = rep.kind_rho(kind, self.inversion)
        if not (flip - np.diag(np.diag(flip))).any():
            return np.eye(size), np.where(np.diag(flip) > 0, 1, 1j)
        one, partner = np.eye(size), flip.argmax(0)  # a permutation; some may stay, such as c = 0
        still = [one[i] for i, p in enumerate(partner) if i == p]
        even = [one[i] + one[p] for i, p in enumerate(partner) if i < p]
        odd = [one[i] - one[p] for i, p in enumerate(partner) if i < p]
        phases = np.repeat([1, 1, 1j], [len(still), len(even), len(odd)])
        return np.array(still + even + odd).T, phases

    def stabiliser_equations(
        self, rep_in: Representation, rep_out: Representation, pair: tuple[str, str], t: OrbitType
    ) -> list[Equation]:
        """The equations W = ρ_out(g) W ρ_in(g)⁻¹ (or its conjugate) in these coordinates."""
        t_out, t_in = self.basis(rep_out, pair[0])[0], self.basis(rep_in, pair[1])[0]
        equations = []
        for index, conjugate in t.stabiliser:
            g = self.group.elements[index]
            left = np.linalg.inv(t_out) @ rep_out.kind_rho(pair[0], g) @ t_out
            right = np.linalg.inv(t_in) @ rep_in.kind_rho(pair[1], g.inverse) @ t_in
            equations.append(Equation(left, right, conjugate))
        return equations

    def order(self, rep: Representation) -> Array:
        """Positions of the coordinates z of a whole fibre: the even ones first, then the odd."""
        odd = [np.tile(self.basis(rep, block.kind)[1] != 1, block.copies) for block in rep.blocks]
        return np.argsort(np.concatenate(odd), kind="stable")

    def even(self, rep: Representation) -> int:
        """Number of even coordinates."""
        return sum(
            block.copies * int((self.basis(rep, block.kind)[1] == 1).sum()) for block in rep.blocks
        )

    def fibre_maps(
        self, rep: Representation, elements: Sequence[int], *, back: bool = False
    ) -> Array | None:
        """Matrices between the fibre at each image g k of a mode and D z at the mode itself.

        Applied from the right to rows of components, (elements, channels, channels); None where
        they are all the identity. ``back`` leads from z.
        """
        order = self.order(rep)
        maps = []
        for index in elements:
            g = self.group.elements[index]
            full = np.zeros((rep.channels,) * 2)
            start = 0
            for block in rep.blocks:
                basis, _ = self.basis(rep, block.kind)
                forth = np.linalg.inv(basis) @ rep.kind_rho(block.kind, g.inverse)
                one = rep.kind_rho(block.kind, g) @ basis if back else forth
                place = slice(start, start + block.size)
                full[place, place] = np.kron(np.eye(block.copies), one.T)
                start += block.size
            maps.append(full[order] if back else full[:, order])
        stacked = np.stack(maps)
        return None if (stacked == np.eye(rep.channels)).all() else stacked

    def weight_blocks(
        self, rep_in: Representation, rep_out: Representation, t: OrbitType
    ) -> list[tuple[Block, Block, Array]]:
        """Bases of the multipliers that the stabiliser of an orbit type allows."""
        known: dict[tuple[str, str], Array] = {}
        blocks = []
        for out_block, in_block in itertools.product(rep_out.blocks, rep_in.blocks):
            pair = (out_block.kind, in_block.kind)
            if pair not in known:
                shape = (len(rep_out.kind_gram(pair[0])), len(rep_in.kind_gram(pair[1])))
                equations = self.stabiliser_equations(rep_in, rep_out, pair, t)
                known[pair] = allowed_maps(equations, shape, self.parts)
            blocks.append((out_block, in_block, known[pair]))
        return blocks
