"""Lattices of weights: their points, and how elements and generators move what sits on them.

>>> import fieldsym as fs
>>> quarter = fs.groups.cyclic(4).elements[1]
>>> images(quarter, (3, 3), points((3, 3)) - 1)[:3].tolist()          # (-1, -1), (-1, 0), (-1, 1)
[[1, -1], [0, -1], [-1, -1]]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import GridError, GroupError, RepresentationError
from fieldsym.group import Element, Generator, Group
from fieldsym.representation import Representation

Array = np.ndarray


def points(sizes: Sequence[int]) -> Array:
    """Indices of all points of a lattice, (number, dim)."""
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), tuple(sizes)), -1)


def images(g: Element, sizes: tuple[int, ...], points: Array) -> Array:
    """Images of points counted from the centre of a lattice.

    Raises
    ------
    GroupError   unless the element permutes the axes and exchanges only axes of one size.
    """
    matrix = np.rint(g.matrix).astype(np.int64)
    permutes = np.array_equal(np.abs(matrix) @ np.ones(g.dim), np.ones(g.dim)) and np.array_equal(
        np.abs(matrix).T @ np.ones(g.dim), np.ones(g.dim)
    )
    if np.abs(matrix - g.matrix).max() > 1e-9 or not permutes:
        fault = "it does not map the axes to the axes"
    elif not np.array_equal(np.abs(matrix) @ np.array(sizes), sizes):
        fault = "it exchanges axes of different sizes"
    else:
        return points @ matrix.T
    raise GroupError(
        f"{g.name} does not act on a lattice of {' × '.join(map(str, sizes))} points: {fault}. Use "
        "equal sizes along axes that are exchanged, or a smaller group, such as reflections."
    )


def lattice_lie(xi: Generator, weight: Tensor) -> Tensor:
    """L_ξ W of a convolution on a lattice: zero along translations.

    Raises
    ------
    GroupError   if the generator turns or stretches the lattice.
    """
    if xi.matrix.any():
        raise GroupError(
            f"{xi.name} does not act on a lattice of weights: it turns or stretches it. Use a "
            "finite subgroup, such as dihedral(4), and measure or promote the continuous one."
        )
    return torch.zeros_like(weight)


def on_fibres(rep_in: Representation, rep_out: Representation, g: Element, w: Tensor) -> Tensor:
    """ρ_out(g)⁻¹ W ρ_in(g) for weights (*batch, out, in, anything)."""
    left, right = rep_out.rho(g.inverse).to(w), rep_in.rho(g).to(w)
    return torch.einsum("op,...pqs,qi->...ois", left, w, right)


def check_sizes(what: str, of: str, sizes: tuple[int, ...], rep: Representation) -> None:
    """Raise ``GridError`` unless there is one positive size per axis."""
    if len(sizes) != rep.dim or any(n < 1 for n in sizes):
        raise GridError(
            f"{what} of fields on a {rep.dim}-D base needs {rep.dim} positive numbers of {of}, one "
            f"per axis; got {tuple(sizes)}."
        )


def check_pair(who: str, rep_in: object, rep_out: object) -> None:
    """Raise ``RepresentationError`` unless both are representations on bases of one dimension."""
    for rep in (rep_in, rep_out):
        if not isinstance(rep, Representation):
            raise RepresentationError(
                f"{who} needs a Representation, such as Representation('scalar p + vector u', 2) "
                f"or bundle.representation; got {rep!r}."
            )
        if rep.dim != rep_in.dim:  # type: ignore[attr-defined]
            raise RepresentationError(
                f"{who} maps between fields on one base; got '{rep_in}' in "
                f"{rep_in.dim}-D and '{rep_out}' in {rep.dim}-D."  # type: ignore[attr-defined]
            )


def check_acts(rep: Representation, on: Group | Element | Generator) -> None:
    """Raise ``RepresentationError`` unless a map of the base is one of that of the fields."""
    if on.dim != rep.dim:
        raise RepresentationError(
            f"{rep} is a representation on a {rep.dim}-D base; {on.name} acts in {on.dim}-D."
        )
