"""Learned lattice-Boltzmann collisions, equivariant and conservative by construction.

A collision acts on the populations of one point alone. ``LatticeCollision`` commutes with a finite
group of maps that permute the axes up to sign, which permute the lattice velocities; it keeps the
density Σ f_i and the momentum Σ c_i f_i, and it is homogeneous, C(λf) = λ C(f): all three for any
weights, to rounding. Positive populations are not promised.

>>> import torch, fieldsym as fs
>>> f = fs.Bundle(fs.Torus((2.0, 3.0)), "d2q9 populations f")
>>> collide = fs.LatticeCollision(f, group=fs.groups.dihedral(4), hidden_channels=16)
>>> collide(torch.ones(5, 9, 16, 24)).shape
torch.Size([5, 9, 16, 24])
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldsym.bundle import Bundle, require_bundle
from fieldsym.errors import BundleError, GroupError
from fieldsym.group import Group, trivial
from fieldsym.lattice_velocities import VelocitySet, moments, velocity_set
from fieldsym.operators.pointwise import Pointwise
from fieldsym.representation import Representation


class LatticeCollision(nn.Module):
    """f ↦ f + ρ P w N(f / (ρ w) − 1), a typed network N between the populations of one point.

    The network is a linear map plus an MLP on the regular representation of the group; w are the
    weights of the lattice, ρ the density. P projects onto what is orthogonal to 1 and to the
    components of the velocities c_i: the group permutes the c_i as it turns their components, so
    P commutes with it.

    Parameters
    ----------
    bundle : Bundle of the populations of one lattice
    group : finite Group that permutes the axes up to sign, or None; it need not act on the box,
        since a collision sees one point: ``dihedral(4)`` is right on 64 × 128 cells too
    hidden_channels : width of the hidden layers, a multiple of the order of the group
    n_layers : number of hidden layers
    non_linearity : function of one number; with ``torch.square`` the network contains every
        relaxation to an equilibrium of second order in the velocity (BGK, MRT) exactly

    Raises
    ------
    BundleError   if the bundle or the input is anything but the populations of one lattice, if the
                  dtype is not that of the parameters, or without a hidden layer.
    GroupError    if the group is not finite or does not permute the velocities, or if
                  ``hidden_channels`` is no multiple of its order.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> f = fs.Bundle(fs.Torus((1.0,) * 3), "d3q19 populations f")
    >>> cube = fs.groups.octahedral()
    >>> collide = LatticeCollision(f, group=cube, hidden_channels=48).double()
    >>> u = 1 + 0.1 * fs.testing.random_section(f, (6, 6, 6))
    >>> bool((collide(u).sum(1) - u.sum(1)).abs().max() < 1e-13)
    True
    >>> g = cube.elements[5]
    >>> bool(torch.allclose(collide(fs.act(g, u, f)), fs.act(g, collide(u), f), atol=1e-12))
    True

    References
    ----------
    Ortali et al. 2025, AIAA J. 63, 716 (lattice-equivariant networks); scaling by the density and
    conservation: Corbetta et al. 2023, Eur. Phys. J. E 46, 10.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        group: Group | None = None,
        hidden_channels: int = 96,
        n_layers: int = 1,
        non_linearity: Callable[[Tensor], Tensor] = functional.gelu,
    ) -> None:
        super().__init__()
        lattice = velocity_set(require_bundle(bundle, "LatticeCollision"))
        self.group = trivial(lattice.dim) if group is None else group
        _check_group(self.group, lattice)
        _check_width(self.group, hidden_channels, n_layers)
        self.in_bundle = self.out_bundle = bundle
        self.lattice = lattice
        self.non_linearity = non_linearity
        fibre, copies = bundle.representation, hidden_channels // self.group.order
        hidden = Representation(f"{copies} regular", lattice.dim, self.group)
        inputs = [fibre] + [hidden] * (n_layers - 1)
        self.linear = Pointwise(fibre, fibre, self.group, bias=False)
        self.hidden = nn.ModuleList(Pointwise(rep, hidden, self.group) for rep in inputs)
        self.last = Pointwise(hidden, fibre, self.group)
        self.register_buffer("conserved", lattice.conserved, persistent=False)

    def extra_repr(self) -> str:
        """The populations and the group."""
        return f"'{self.in_bundle.representation}', group={self.group}"

    def forward(self, f: Tensor) -> Tensor:
        """Populations after the collision, (*batch, size, *grid) like those before it."""
        self.in_bundle.check(f, "LatticeCollision", next(self.parameters()).dtype)
        dim = self.lattice.dim
        x = f.reshape(-1, *f.shape[-dim - 1 :])
        density = x.sum(1, keepdim=True)
        weights = self.lattice.weights(f).view(-1, *[1] * dim)
        # nothing divides where there is nothing
        share = x / (weights * torch.where(density == 0, 1.0, density)) - 1
        change = self._project(density * weights * self._network(share))
        return f + change.reshape(f.shape)

    def _network(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.hidden:
            y = self.non_linearity(layer(y))
        return self.linear(x) + self.last(y)

    def _project(self, change: Tensor) -> Tensor:
        """Subtract what changes density and momentum."""
        rows, dim = self.get_buffer("conserved"), self.lattice.dim
        unit = rows / rows.square().sum(1, keepdim=True)
        return change - moments(moments(change, unit, dim), rows.mT, dim)


def _check_group(group: Group, lattice: VelocitySet) -> None:
    largest = f"groups.{lattice.largest}"
    if not isinstance(group, Group):
        raise GroupError(f"group is a Group, such as {largest}, or None; got {group!r}.")
    if group.dim != lattice.dim:
        raise GroupError(
            f"{group.name} acts in {group.dim} dimensions; the velocities of {lattice} have "
            f"{lattice.dim} components. Use {largest} or a subgroup of it."
        )
    if not group.is_finite:
        raise GroupError(
            f"A collision is exact for finite groups; got {group.name}, and no rotation by a small "
            f"angle permutes the velocities of {lattice}. Use {largest} or a subgroup of "
            "it; translations are built in."
        )
    if any(g.shift.any() for g in group.elements):
        raise GroupError(
            f"{group.name} holds shifts, which every collision commutes with already. Give the "
            "point group alone."
        )
    for g in group.elements:
        if not lattice.admits(g.matrix):
            raise GroupError(
                f"{group.name} does not act on the {lattice.words}: {g.name} does not carry the "
                f"velocities to each other. Use {largest} or a subgroup of it."
            )


def _check_width(group: Group, hidden: int, n_layers: int) -> None:
    if n_layers < 1:
        raise BundleError(f"LatticeCollision needs n_layers ≥ 1; got {n_layers}.")
    if hidden < 1 or hidden % group.order:
        lower = hidden // group.order * group.order
        choices = f"{lower} or {lower + group.order}" if lower > 0 else f"{group.order}"
        raise GroupError(
            f"hidden_channels holds whole copies of the regular representation of {group.name}, "
            f"{group.order} channels each; got {hidden}. Use {choices}."
        )
