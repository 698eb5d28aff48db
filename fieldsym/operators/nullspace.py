"""The weights that a symmetry leaves free: a generic null space for any linear layer.

A linear layer says how its weight moves: L_ξ W along a generator and K_g W under an element, both
linear in W. The layer has the symmetry iff L_ξ W = 0 for generators ξ of the Lie algebra and
K_g W = W for one g per further component. The solutions are W = Σ_i z_i B_i with an orthonormal
basis B, and z is what one trains.

>>> import fieldsym as fs
>>> from fieldsym.operators.constraints import PointwiseConstraint
>>> wind = fs.Representation("vector u", 2)
>>> null_basis(PointwiseConstraint(wind, wind), fs.groups.o(2)).abs()          # multiples of 1
tensor([[[0.7071, 0.0000],
         [0.0000, 0.7071]]], dtype=torch.float64)

To add a layer: write a class with ``shape``, ``lie`` and ``move`` (:class:`Constraint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from fieldsym.errors import GroupError, RepresentationError, requirer
from fieldsym.group import Element, Generator, Group, require_group
from fieldsym.operators.nullspace_checks import check_maps
from fieldsym.operators.nullspace_solvers import (
    CHUNK,
    CLEAR,
    ROUNDING,
    Conditions,
    iterative_basis,
    orbit_basis,
    svd_basis,
)

Method = Literal["closed", "svd", "iterative"]
DENSE = 4096  # weights with more entries are solved without forming a matrix
GATHER = 8  # a gathered coefficient costs about as much as this many of a matrix product


@runtime_checkable
class Constraint(Protocol):
    """What a linear layer says about its own symmetry.

    Both maps are linear in the weight, accept leading batch dimensions and work in float64.
    Two methods are optional. ``closed_form(group)`` returns the basis where a formula is known,
    rows orthonormal, else None. ``fixed(weight)`` is a linear map that allowed weights do not
    change whatever the group: reality of a spectrum, a mask.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the real weight; complex ones have a last axis of (real, imaginary)."""

    def lie(self, xi: Generator, weight: Tensor) -> Tensor:
        """L_ξ W = d/dt K_{exp tξ} W at t = 0: (*batch, *shape) to (*batch, any shape)."""

    def move(self, g: Element, weight: Tensor) -> Tensor:
        """K_g W, the weight of g⁻¹ F g: (*batch, *shape) to the same."""


require_constraint = requirer(
    Constraint,  # type: ignore[type-abstract]
    RepresentationError,
    "a Constraint, such as KernelConstraint(rep_in, rep_out, (3, 3)), with shape, lie and move",
)


def null_basis(constraint: Constraint, group: Group, *, method: Method | None = None) -> Tensor:
    """Orthonormal basis of the weights a group allows.

    Parameters
    ----------
    constraint : how the weight of the layer moves
    group : Group; of its algebra the generators, of its components one representative each, of a
        finite group enough elements to generate it are imposed
    method : "closed": the formula of the constraint, or one weight per orbit where every condition
        copies entries up to sign; "svd": singular values of the stacked conditions, block by
        block; "iterative": random weights projected by conjugate gradients, no matrix formed.
        None takes the first that applies, "iterative" above 4096 entries.

    Returns
    -------
    Tensor (dimension, *shape), float64

    Raises
    ------
    GroupError            if the group does not act on the layer, if the singular values have no
                          clear gap (they are listed), if ``method="closed"`` knows no formula, or
                          if ``lie``, ``move`` or ``fixed`` is not finite or not linear, or ``move``
                          no group action.
    RepresentationError   if ``move`` or ``fixed`` changes the shape of the weight.

    Examples
    --------
    >>> import fieldsym as fs
    >>> from fieldsym.operators.constraints import KernelConstraint
    >>> p, u = fs.Representation("scalar p", 2), fs.Representation("vector u", 2)
    >>> [null_basis(KernelConstraint(p, u, (3, 3)), fs.groups.dihedral(4), method=m).shape[0]
    ...  for m in ("closed", "svd", "iterative")]
    [2, 2, 2]

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212, section on enforcing symmetry: the null space of the stacked
    Lie derivatives and K_g − 1.
    """
    if method not in (None, *get_args(Method)):
        raise GroupError(f"method is one of {', '.join(get_args(Method))} or None; got {method!r}.")
    require_constraint(constraint, "null_basis")
    require_group(group, "null_basis")
    imposed = _generating(group)
    check_maps(constraint, group.generators, imposed)
    conditions = _conditions(constraint, group, imposed)
    basis = None
    if method in (None, "closed"):
        basis = _closed_form(constraint, group, conditions)
        if basis is None and method == "closed":
            raise GroupError(
                f"No closed form is known for {type(constraint).__name__} under {group}. Use "
                "method='svd' or 'iterative', or leave the choice to method=None."
            )
    if basis is None:
        dense = method == "svd" or (method is None and conditions.size <= DENSE)
        basis = svd_basis(conditions) if dense else iterative_basis(conditions)
    basis = torch.where(basis.abs() < ROUNDING, 0.0, basis)
    return basis.reshape(-1, *constraint.shape)


def project(weight: Tensor, basis: Tensor) -> Tensor:
    """The nearest weight in the span of an orthonormal basis.

    Parameters
    ----------
    weight : Tensor (*batch, *shape)
    basis : Tensor (dimension, *shape), as :func:`null_basis` returns it

    Returns
    -------
    Tensor (*batch, *shape), in the dtype of the weight

    Examples
    --------
    >>> import torch
    >>> project(torch.tensor([1.0, 3.0]), torch.tensor([[0.5, 0.5]]) * 2**0.5)
    tensor([2., 2.])
    """
    rows = basis.flatten(1).to(weight.device)
    flat = weight.reshape(-1, rows.shape[1]).to(rows.dtype)
    return (flat @ rows.mT @ rows).to(weight.dtype).reshape(weight.shape)


def _conditions(constraint: Constraint, group: Group, imposed: Sequence[Element]) -> Conditions:
    derivatives = tuple(partial(constraint.lie, _unit(xi)) for xi in group.generators)
    moves = [partial(constraint.move, g) for g in imposed]
    fixed = getattr(constraint, "fixed", None)
    return Conditions(
        tuple(constraint.shape), derivatives, tuple(moves if fixed is None else [*moves, fixed])
    )


def _unit(xi: Generator) -> Generator:
    """Scaled to a largest entry of one: the numerical rank shall not depend on units."""
    size = max(abs(xi.matrix).max(), abs(xi.shift).max()) or 1.0
    return Generator(xi.name, xi.matrix / size, xi.shift / size)


def _generating(group: Group) -> tuple[Element, ...]:
    """Elements that generate a finite group; else one representative of each component."""
    if not group.elements:
        return group.components
    chosen: list[Element] = []
    reached = {group.elements[0].key}
    for g in group.elements:
        if g.key not in reached:
            chosen.append(g)
            reached = {h.key for h in group.subgroup("", chosen).elements}
    return tuple(chosen)


def _closed_form(constraint: Constraint, group: Group, conditions: Conditions) -> Tensor | None:
    known = getattr(constraint, "closed_form", None)
    basis = None if known is None else known(group)
    if basis is None:
        return orbit_basis(conditions)
    rows = basis.double().reshape(-1, conditions.size)
    residuals = [float(conditions(part).norm()) for part in rows.split(CHUNK)]
    skew = _skew(rows)
    if max(residuals) > CLEAR or skew > CLEAR:
        raise GroupError(
            f"The closed form of {type(constraint).__name__} under {group} must be an orthonormal "
            f"basis of weights that its own lie and move allow; they leave a residual of "
            f"{max(residuals):.1e}, and the rows are {skew:.1e} off orthonormal ones."
        )
    return rows


def _skew(rows: Tensor) -> float:
    """Largest difference of the inner products of rows from those of orthonormal ones."""
    return float((rows @ rows.mT - torch.eye(len(rows)).to(rows)).norm())


class NullSpaceWeight(nn.Module):
    """Weight W = Σ_i z_i B_i of free coefficients, for ``torch.nn.utils.parametrize``.

    Where every entry of the weight is fed by few coefficients, as with one coefficient per orbit,
    it is gathered; otherwise it is a matrix product. Initial weights are projected.

    Parameters
    ----------
    basis : Tensor (dimension, *shape), orthonormal, as :func:`null_basis` returns it

    Raises
    ------
    RepresentationError   if the basis is not orthonormal, or a weight has another shape.

    Examples
    --------
    >>> import torch
    >>> from torch.nn.utils import parametrize
    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> swap = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]) / 2**0.5
    >>> layer = parametrize.register_parametrization(layer, "weight", NullSpaceWeight(swap))
    >>> layer.parametrizations.weight.original.shape, bool((layer.weight == layer.weight.T).all())
    (torch.Size([2]), True)
    """

    index: Tensor
    bits: Tensor

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        rows = basis.detach().double().flatten(1)
        if (skew := _skew(rows)) > CLEAR:
            raise RepresentationError(
                "NullSpaceWeight needs an orthonormal basis, so that coefficients are read off "
                f"weights by inner products; this one is {skew:.1e} off. null_basis returns one."
            )
        self.shape = tuple(basis.shape[1:])
        self.dimension = len(rows)
        feeds = int((rows != 0).sum(0).max()) if rows.numel() else 0
        self.gathers = feeds * GATHER <= max(self.dimension, GATHER)
        index = (rows != 0).to(torch.int8).argsort(dim=0, descending=True, stable=True)[:feeds].mT
        values = rows.mT.gather(1, index) if self.gathers else rows.mT
        self.register_buffer("index", index.contiguous(), persistent=False)
        # as integers: .float() followed by .double() would leave single precision behind
        self.register_buffer("bits", values.contiguous().view(torch.int64), persistent=False)

    def extra_repr(self) -> str:
        """How many free numbers make which shape."""
        return f"{self.dimension} → {self.shape}"

    def _values(self, like: Tensor) -> Tensor:
        return self.bits.view(torch.float64).to(like.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """The weight of coefficients (dimension,)."""
        values = self._values(z)
        flat = (z[self.index] * values).sum(1) if self.gathers else values @ z
        return flat.reshape(self.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The coefficients of the nearest allowed weight."""
        if weight.shape != self.shape:
            raise RepresentationError(
                f"The basis is one of weights of shape {self.shape}; got {tuple(weight.shape)}."
            )
        exact = weight.detach().double().reshape(-1, 1)
        fed = self._values(exact) * exact
        if not self.gathers:
            return fed.sum(0).to(weight.dtype)
        z = exact.new_zeros(self.dimension)
        return z.index_add(0, self.index.flatten(), fed.flatten()).to(weight.dtype)
