"""Equivariant harmonics: the angular part of every symbol that commutes with all rotations.

The multiplier of a convolution that commutes with SO(d) or O(d) obeys

    R(A k) = ρ_out(A) R(k) ρ_in(A)⁻¹.

Such an R is a sum of radial functions of |k| times matrix-valued harmonic polynomials Y(k), one
family for every angular order n (:func:`equivariant_harmonics`). They solve the linear equations

    ΔY = 0,   Y dρ_in(ξ) − dρ_out(ξ) Y − (ξᵀk)·∇Y = 0,   Y(Sk) = ρ_out(S) Y(k) ρ_in(S)⁻¹

in the coefficients of the monomials k^e, |e| = n; the second is L_ξ Y = 0, the third has one
mirror S. All coefficients are rational, so the basis (the reduced echelon form of the null space)
is the same on every machine and exact to the last bit.

>>> [(y.order, len(y.coefficients)) for y in equivariant_harmonics("vector", "vector", 2, True)]
[(0, 1), (2, 1)]

To add a type of field: nothing; its orders and equations are read off ρ and dρ.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fieldsym.errors import GroupError, RepresentationError
from fieldsym.group import Group, o, so
from fieldsym.representation import Representation

Array = np.ndarray
Exponents = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Harmonics:
    """The equivariant harmonic polynomials of one angular order between two types of field.

    ``coefficients`` has shape (functions, d_out, d_in, monomials); every function has a mean square
    of one per matrix entry on the unit sphere.
    """

    order: int
    coefficients: Array

    def __call__(self, k: Array) -> Array:
        """Values at wavevectors (points, d): (points, functions, d_out, d_in)."""
        powers = monomials(k, exponents(self.order, k.shape[1]))
        return np.tensordot(powers, self.coefficients, ([1], [3]))


def full_rotations(group: Group, dim: int) -> bool:
    """Check that the linear part of a group is all of SO(d) or O(d); return whether it is O(d).

    Translations may be in the group too: every convolution commutes with them.

    Raises
    ------
    GroupError   if the group is finite, lacks rotations or holds anything else.

    Examples
    --------
    >>> import fieldsym as fs
    >>> full_rotations(fs.groups.se(2), 2), full_rotations(fs.groups.o(3), 3)
    (False, True)
    """
    if not isinstance(group, Group):
        raise GroupError(
            f"group is a Group, such as groups.so(2) or groups.o(3); got {group!r}. Text is read "
            "by groups.named(text, dim)."
        )
    if dim not in (2, 3) or group.dim != dim:
        raise GroupError(
            "Continuous rotations act in 2 or 3 dimensions, the same for group and base; got "
            f"{group.name}, which acts in {group.dim}-D, on a {dim}-D base. In 1-D use FNO with "
            "reflections(1)."
        )
    if group.is_finite:
        raise GroupError(
            f"Steerable operators are for the continuous groups so, o, se and e; got the finite "
            f"{group.name}. Use FNO with group={group.name}: it is exact on the grid."
        )
    turns = [xi.matrix for xi in group.generators if xi.matrix.any()]
    mirrors = [g.matrix for g in group.components if np.abs(g.matrix - np.eye(dim)).max() > 1e-9]
    if (
        not turns
        or any(np.abs(a + a.T).max() > 1e-9 for a in turns)
        or np.linalg.matrix_rank(np.reshape(turns, (len(turns), -1))) < dim * (dim - 1) // 2
        or any(np.abs(a @ a.T - np.eye(dim)).max() > 1e-9 for a in mirrors)
    ):
        raise GroupError(
            f"Steerable operators commute with all rotations about a point and, on request, with "
            f"reflections; {group.name} is another group. Use so({dim}), o({dim}), se({dim}) or "
            f"e({dim}); promote or measure anything else."
        )
    return any(np.linalg.det(a) < 0 for a in mirrors)


def check_turns(rep: Representation) -> None:
    """Raise ``RepresentationError`` unless rotations by every angle act on the fibres."""
    if not rep.turns:
        raise RepresentationError(
            f"Steerable operators need fields that rotations by every angle act on; got '{rep}', "
            "whose channels a finite group permutes. Use FNO with that group."
        )


@functools.cache
def equivariant_harmonics(
    kind_out: str, kind_in: str, dim: int, reflections: bool
) -> tuple[Harmonics, ...]:
    """Basis of the equivariant harmonic polynomials between two types of field, by angular order.

    Parameters
    ----------
    kind_out, kind_in : types out of the grammar of :mod:`fieldsym.representation`
    dim : 2 or 3
    reflections : whether the group is O(d) rather than SO(d)

    Returns
    -------
    tuple of Harmonics, one per order n ≤ m_in + m_out that has any

    Raises
    ------
    RepresentationError   for a type that continuous groups do not have, such as ``regular``.

    Examples
    --------
    >>> gradient, = equivariant_harmonics("vector", "scalar", 3, True)
    >>> gradient(np.array([[1.0, 2.0, 3.0]]))[0, 0, :, 0] / 3**0.5
    array([1., 2., 3.])

    References
    ----------
    The steerable kernel constraint in infinitesimal form: Weiler & Cesa 2019, arXiv:1911.08251; as
    the null space of a Lie derivative: Otto et al. 2023, arXiv:2311.00212.
    """
    rep_out, rep_in = Representation(kind_out, dim), Representation(kind_in, dim)
    group = o(dim) if reflections else so(dim)
    found = []
    for n in range(_spin(rep_out) + _spin(rep_in) + 1):
        basis = _rational_null_space(_equations(n, rep_out, rep_in, group))
        if len(basis):
            shape = (len(basis), rep_out.channels, rep_in.channels, -1)
            found.append(Harmonics(n, _normalised(basis.reshape(shape), n, dim)))
    return tuple(found)


def steerable_dimension(kind_out: str, kind_in: str, dim: int, reflections: bool) -> int:
    """Number of equivariant symbols between two types of field per radial function.

    Examples
    --------
    >>> [steerable_dimension("vector", "vector", 3, full) for full in (False, True)]
    [3, 2]
    """
    return sum(
        len(y.coefficients) for y in equivariant_harmonics(kind_out, kind_in, dim, reflections)
    )


def exponents(n: int, dim: int) -> Exponents:
    """Exponents of the monomials of degree n, (n, 0, …) first.

    Examples
    --------
    >>> exponents(2, 2)
    ((2, 0), (1, 1), (0, 2))
    """
    choices = itertools.product(range(n, -1, -1), repeat=dim)
    return tuple(e for e in choices if sum(e) == n)


def monomials(k: Array, powers: Exponents) -> Array:
    """Values of monomials at points (points, d): (points, monomials)."""
    return np.prod(k[:, None, :] ** np.array(powers), axis=2)


def _spin(rep: Representation) -> int:
    """Largest weight m of a rotation in one plane: its dρ has the eigenvalues ±i m."""
    plane = so(rep.dim).generators[-1]
    return round(float(np.abs(np.linalg.eigvals(rep.drho(plane).numpy()).imag).max()))


def _equations(n: int, rep_out: Representation, rep_in: Representation, group: Group) -> Array:
    """Rows that vanish on the coefficients (out, in, monomial) of equivariant harmonics."""
    powers = exponents(n, group.dim)
    one, size = np.eye(len(powers)), rep_out.channels * rep_in.channels
    out_one, in_one = np.eye(rep_out.channels), np.eye(rep_in.channels)
    rows = [np.kron(np.eye(size), _laplacian(powers))]
    for xi in group.generators:
        source, target = rep_in.drho(xi).numpy(), rep_out.drho(xi).numpy()
        fibres = np.kron(out_one, source.T) - np.kron(target, in_one)
        rows.append(np.kron(fibres, one) - np.kron(np.eye(size), _along(xi.matrix.T, powers)))
    for g in group.components:
        # the mirror of o(d) flips axes: every monomial keeps its place and may change sign
        signs = np.diag(np.prod(np.diag(g.matrix) ** np.array(powers), axis=1))
        fibres = np.kron(rep_out.rho(g).numpy(), rep_in.rho(g.inverse).numpy().T)
        rows.append(np.kron(np.eye(size), signs) - np.kron(fibres, one))
    return np.concatenate(rows)


def _laplacian(powers: Exponents) -> Array:
    """Matrix from coefficients of degree n to those of the Laplacian."""
    lower = {e: row for row, e in enumerate(exponents(sum(powers[0]) - 2, len(powers[0])))}
    matrix = np.zeros((len(lower), len(powers)))
    for column, e in enumerate(powers):
        for axis, count in enumerate(e):
            if count > 1:
                matrix[lower[_shifted(e, axis, -2)], column] += count * (count - 1)
    return matrix


def _along(field: Array, powers: Exponents) -> Array:
    """Matrix of the derivative (A k)·∇ on coefficients of degree n."""
    index = {e: row for row, e in enumerate(powers)}
    matrix = np.zeros((len(powers), len(powers)))
    for column, e in enumerate(powers):
        for i, j in np.argwhere(field):
            if e[i]:
                target = _shifted(_shifted(e, i, -1), j, 1)
                matrix[index[target], column] += field[i, j] * e[i]
    return matrix


def _shifted(e: tuple[int, ...], axis: int, by: int) -> tuple[int, ...]:
    return tuple(count + by * (axis == i) for i, count in enumerate(e))


def _rational_null_space(equations: Array) -> Array:
    """Reduced row echelon basis of a null space with small rational entries."""
    _, values, rows = np.linalg.svd(np.linalg.qr(equations, mode="r"))
    basis = rows[int((values > 1e-9 * max(1.0, values[0])).sum()) :]
    for i in range(len(basis)):
        # the first column that any remaining row has: unlike the largest, it is the same everywhere
        pivot = int(np.flatnonzero(np.abs(basis[i:]).max(0) > 1e-7)[0])
        best = i + int(np.abs(basis[i:, pivot]).argmax())
        basis[[i, best]] = basis[[best, i]]
        basis[i] /= basis[i, pivot]
        others = np.arange(len(basis)) != i
        basis[others] -= np.outer(basis[others, pivot], basis[i])
        basis[i + 1 :, : pivot + 1] = 0.0
    exact = [float(Fraction(v).limit_denominator(10_000)) for v in basis.ravel().tolist()]
    return np.array(exact).reshape(basis.shape)


def _normalised(coefficients: Array, n: int, dim: int) -> Array:
    """Scale every function to a mean square of one per matrix entry on the unit sphere."""
    powers = np.array(exponents(n, dim))
    moments = _sphere_moments(powers[:, None] + powers[None], dim)
    square = np.einsum("apqm,mn,apqn->a", coefficients, moments, coefficients)
    entries = coefficients.shape[1] * coefficients.shape[2]
    return coefficients * np.sqrt(entries / square)[:, None, None, None]


def _sphere_moments(powers: Array, dim: int) -> Array:
    """Mean of k^e on the unit sphere: Π (e_i − 1)!! / (d (d + 2) … (d + |e| − 2)) for even e."""
    top = np.vectorize(lambda e: np.prod(np.arange(e - 1, 0, -2)) if e % 2 == 0 else 0.0)(powers)
    total = powers.sum(-1)
    bottom = np.vectorize(lambda e: np.prod(np.arange(dim, dim + e, 2.0)))(total)
    return top.prod(-1) / bottom
