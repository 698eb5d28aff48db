"""Bases of the linear maps between fibres that a finite symmetry allows.

A constraint is a list of equations W = A W B, optionally with a complex conjugation on W. For the
groups that act on a grid, A and B permute components up to sign, so the allowed maps have a basis
of matrices with entries 0 and ±1 and disjoint supports: sharing weights is all it takes. Any other
orthogonal matrices are handled by a null space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldsym.group import snap

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Equation:
    """W = left W right, or W = left conj(W) right."""

    left: Array
    right: Array
    conjugate: bool = False


def allowed_maps(equations: Sequence[Equation], shape: tuple[int, int], parts: int) -> Array:
    """Basis of the maps that satisfy all equations, which must be closed under composition.

    Parameters
    ----------
    equations : one per element of a group, the identity may be left out
    shape : (rows, columns) of W
    parts : 1 for real W, 2 for complex W as (real part, imaginary part)

    Returns
    -------
    (dimension, parts, rows, columns) array

    Examples
    --------
    >>> import numpy as np
    >>> swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> allowed_maps([Equation(swap, swap)], (2, 2), parts=1)[:, 0].tolist()
    [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]
    """
    identity = Equation(np.eye(shape[0]), np.eye(shape[1]))
    whole = [identity, *equations]
    if all(_is_signed_permutation(m) for e in whole for m in (e.left, e.right)):
        basis = _shared_weights(whole, shape, parts)
    else:
        basis = _null_space(whole, shape, parts)
    return basis.reshape(len(basis), parts, *shape)


def _is_signed_permutation(matrix: Array) -> bool:
    rounded = np.abs(np.rint(matrix))
    return bool(
        np.abs(np.abs(matrix) - rounded).max() < 1e-9
        and (rounded.sum(0) == 1).all()
        and (rounded.sum(1) == 1).all()
    )


def _signed(matrix: Array) -> tuple[Array, Array]:
    """Row i of a signed permutation has its entry in column ``index[i]`` with ``sign[i]``."""
    index = np.abs(matrix).argmax(1)
    return index, np.sign(matrix[np.arange(len(matrix)), index])


def _shared_weights(equations: Sequence[Equation], shape: tuple[int, int], parts: int) -> Array:
    """One basis matrix per orbit of entries of W, unless the signs on the orbit contradict."""
    sources, signs = [], []
    entry = np.arange(parts * shape[0] * shape[1]).reshape(parts, *shape)
    for equation in equations:
        rows, row_signs = _signed(equation.left)
        columns, column_signs = _signed(equation.right.T)
        sign = np.tile(np.outer(row_signs, column_signs), (parts, 1, 1))
        if equation.conjugate and parts == 2:
            sign[1] *= -1
        sources.append(entry[:, rows][:, :, columns].ravel())
        signs.append(sign.ravel())
    source, sign = np.array(sources), np.array(signs)
    contradicted = ((source == source[0]) & (sign < 0)).any(0)
    leaders = np.flatnonzero((source.min(0) == source[0]) & ~contradicted)
    basis = np.zeros((len(leaders), source.shape[1]))
    for row, leader in enumerate(leaders):
        basis[row, source[:, leader]] = sign[:, leader]
    return basis


def _null_space(equations: Sequence[Equation], shape: tuple[int, int], parts: int) -> Array:
    """Image of the average over the group, in reduced echelon form.

    Small fractions survive a cast to single precision and back; an orthonormal basis would not.
    """
    average = np.zeros((parts * shape[0] * shape[1],) * 2)
    for equation in equations:
        part_signs = np.diag([1.0, -1.0] if equation.conjugate else [1.0, 1.0])[:parts, :parts]
        average += np.kron(part_signs, np.kron(equation.left, equation.right.T))
    left, values, _ = np.linalg.svd(average / len(equations))
    return _echelon(left[:, values > 0.5].T.copy())


def _echelon(rows: Array) -> Array:
    """Gauss–Jordan elimination with the largest pivot of each row."""
    for i in range(len(rows)):
        pivot = np.abs(rows[i]).argmax()
        rows[i] /= rows[i, pivot]
        others = np.arange(len(rows)) != i
        rows[others] -= np.outer(rows[others, pivot], rows[i])
    return snap(rows)
