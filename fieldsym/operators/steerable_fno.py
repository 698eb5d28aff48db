"""The Fourier neural operator for all rotations: steerable convolutions and irreducible features.

>>> import torch, fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((1.0, 1.5)), "scalar p + vector u")
>>> model = fs.SteerableFNO(flow, flow, group=fs.groups.so(2), n_modes=(9, 13), hidden_channels=16)
>>> model(torch.zeros(2, 3, 16, 24)).shape
torch.Size([2, 3, 16, 24])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldsym.bundle import Bundle, require_bundle
from fieldsym.errors import BundleError, GroupError, RepresentationError
from fieldsym.group import AXES, Group
from fieldsym.manifold import Manifold
from fieldsym.operators.fourier import TruncatedFourier
from fieldsym.operators.harmonics import full_rotations
from fieldsym.operators.irreps import FibreNorm, Gate, SchurMap, gated
from fieldsym.operators.modes import check_modes
from fieldsym.operators.products import VectorProduct
from fieldsym.operators.reach import (
    hidden_types,
    joined,
    nonzero_products,
    recast,
    restricted,
    stages,
)
from fieldsym.operators.steerable import SteerableConv, inscribed_disc, per_axis
from fieldsym.representation import Representation

NORMS = ("instance_norm", None)


class SteerableFNO(nn.Module):
    """Fourier neural operator between sections of two bundles, isotropic for SO(d) or O(d).

    What is exact: every symbol obeys L_ξ R = 0 and R(Ak) = ρ_out(A) R(k) ρ_in(A)⁻¹ for every
    rotation (and reflection) A, pointwise maps and nonlinearities commute with every A. So on a
    torus the operator commutes to rounding with translations by whole cells and with every A that
    maps box and grid to themselves: D4 on a square torus, the cube group on a cubic one, D2 on an
    oblong one.

    What is approximate: rotations by other angles do not act on a torus. They are commuted with on
    fields that vanish well inside the box, as far as the kernels (local for ``radial="zernike"``)
    do not reach around it and the nonlinearities, which make new frequencies at every point, are
    resolved by the grid.

    Parameters
    ----------
    in_bundle, out_bundle : Bundle, on one torus, square or not; wavenumbers are physical
    group : so(d), o(d), se(d) or e(d), d = 2 or 3; translations are built in
    n_modes : odd numbers of kept frequencies −K..K, one per axis or one for all; symbols live on
        the largest disc |k| ≤ K inside, so give longer axes more
    hidden : types of the hidden features, such as "8 scalar + 4 vector"; default: half scalars, the
        rest shared by pseudoscalars (with reflections), vectors and symmetric traceless tensors.
        Each is held from the layer on that something reaches it, at the end while it is heard (a
        symmetric tensor as a whole: give a scalar and a traceless tensor to have its parts apart)
    hidden_channels : width of the default types
    n_layers : number of Fourier layers; lifting and projection have a convolution of their own
    radial, degree, taper : of the symbols, see :class:`fieldsym.operators.steerable.SteerableConv`
    norm : None, or "instance_norm": every field is divided by the root mean square over space of
        its fibre norm
    non_linearity : pointwise function for scalars; other fields are gated, and vectors multiplied
        with fields of every type

    Raises
    ------
    GroupError            if the group is finite or another one, or an axis is not periodic.
    GridError             if ``n_modes`` is even or too small, or the grid has too few points.
    BundleError           if the bundles are on two bases, or the input is not a section of
                          ``in_bundle`` in the dtype of the parameters.
    RepresentationError   if a field has no continuous rotations, the width is too small, or no
                          path leads through the hidden types from the input to the output.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> w = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
    >>> model = fs.SteerableFNO(w, w, group=fs.groups.o(2), n_modes=9, hidden="4 scalar + 2 vector")
    >>> u, mirror = fs.testing.random_section(w, (16, 16)), fs.groups.dihedral(4).elements[2]
    >>> model = model.double()
    >>> bool(torch.allclose(model(fs.act(mirror, u, w)), fs.act(mirror, model(u), w), atol=1e-12))
    True

    References
    ----------
    Li et al. 2021, arXiv:2010.08895 (Fourier neural operator); Weiler & Cesa 2019, arXiv:1911.08251
    (steerable kernels, irreducible features).
    """

    def __init__(
        self,
        in_bundle: Bundle,
        out_bundle: Bundle,
        *,
        group: Group,
        n_modes: int | Sequence[int] = 17,
        hidden: str | Representation | None = None,
        hidden_channels: int = 64,
        n_layers: int = 4,
        radial: str = "zernike",
        degree: int = 8,
        taper: bool | None = None,
        norm: str | None = None,
        non_linearity: Callable[[Tensor], Tensor] = functional.gelu,
    ) -> None:
        super().__init__()
        base = _check_bases(in_bundle, out_bundle)
        if not isinstance(n_layers, int) or n_layers < 1:
            raise BundleError(f"SteerableFNO needs a whole number n_layers ≥ 1; got {n_layers!r}.")
        if norm not in NORMS:
            raise GroupError(
                f"norm is one of {NORMS}; got {norm!r}. Norms with one scale per channel would "
                "tell the components of a vector apart."
            )
        full_rotations(group, base.dim)
        self.group = group
        self.in_bundle, self.out_bundle = in_bundle, out_bundle
        self.n_modes = check_modes(per_axis(n_modes, base.dim), base.dim)
        self._kept = inscribed_disc(self.n_modes, base.lengths)[1]
        self.hidden = _hidden(hidden, hidden_channels, group)

        def mix(rep_in: Representation, rep_out: Representation) -> Mix:
            conv = SteerableConv(
                rep_in, rep_out, group, base.lengths, self.n_modes, radial, degree, taper
            )
            return Mix(conv, SchurMap(rep_in, rep_out, group))

        ends = in_bundle.representation, out_bundle.representation
        reps = stages(ends[0], self.hidden, ends[1], group, n_layers)
        self.lifting_gate = Gate(reps[0], non_linearity)
        self.lifting = mix(ends[0], self.lifting_gate.rep_in)
        self.layers = nn.ModuleList(
            Layer(mix(a, gated(b, b)), b, c, group, norm, non_linearity, last=c is reps[-1])
            for a, b, c in zip(reps[:-2:2], reps[1::2], reps[2::2], strict=True)
        )
        self.projection = mix(reps[-1], ends[1])

    def extra_repr(self) -> str:
        """The bundles, the group and the modes."""
        source, target = self.in_bundle.representation, self.out_bundle.representation
        return (
            f"'{source}' → '{target}' on {self.in_bundle.base}, group={self.group}, "
            f"n_modes={self.n_modes}, hidden='{self.hidden}'"
        )

    def forward(self, u: Tensor) -> Tensor:
        """Map sections of ``in_bundle`` to sections of ``out_bundle``, (*batch, channel, *grid)."""
        dim = self.in_bundle.base.dim
        self.in_bundle.check(u, "SteerableFNO", next(self.parameters()).dtype)
        x = u.reshape(-1, *u.shape[-dim - 1 :])
        fourier = TruncatedFourier(x.shape[2:], self._kept, x)
        x = self.lifting_gate(self.lifting(x, fourier))
        for layer in self.layers:
            x = layer(x, fourier)
        x = self.projection(x, fourier)
        return x.reshape(*u.shape[: -dim - 1], *x.shape[1:])


class Mix(nn.Module):
    """A steerable convolution plus a pointwise map."""

    def __init__(self, convolution: SteerableConv, linear: SchurMap) -> None:
        super().__init__()
        self.convolution, self.linear = convolution, linear

    def forward(self, x: Tensor, fourier: TruncatedFourier) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        return self.convolution(x, fourier) + self.linear(x)


class Layer(nn.Module):
    """One Fourier layer and one gated pointwise layer, each added to what came in."""

    def __init__(
        self,
        mix: Mix,
        middle: Representation,
        end: Representation,
        group: Group,
        norm: str | None,
        non_linearity: Callable[[Tensor], Tensor],
        *,
        last: bool,
    ) -> None:
        super().__init__()
        self.reps = (mix.convolution.rep_in, middle, end)
        self.norm = None if norm is None else FibreNorm(self.reps[0])
        self.mix, self.gate = mix, Gate(middle, non_linearity)
        self.mlp_norm = None if norm is None else FibreNorm(middle)
        self.mlp = GatedMLP(middle, end, group, non_linearity, last=last)

    def forward(self, x: Tensor, fourier: TruncatedFourier) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        y = x if self.norm is None else self.norm(x)
        x = recast(x, *self.reps[:2]) + self.gate(self.mix(y, fourier))
        y = x if self.mlp_norm is None else self.mlp_norm(x)
        return recast(x, *self.reps[1:]) + self.mlp(y)


class GatedMLP(nn.Module):
    """A pointwise map to gated fields and to factors of products, and a pointwise map back."""

    def __init__(
        self,
        rep_in: Representation,
        rep_out: Representation,
        group: Group,
        non_linearity: Callable[[Tensor], Tensor],
        *,
        last: bool,
    ) -> None:
        super().__init__()
        self.product = None
        heard = joined(rep_in, rep_out, group, pointwise=True)
        kept = [b.kind for b in rep_in.blocks if b.kind != "scalar" or b in heard.blocks]
        self.gate = Gate(restricted(rep_in, kept), non_linearity, heard)
        wide, result = self.gate.rep_in, heard
        products = nonzero_products(rep_in, rep_out, group)
        if products:
            self.product = VectorProduct(rep_in, group, products)
            wide = Representation(f"{wide} + {self.product.rep_in}", group.dim)
            result = Representation(f"{heard} + {self.product.rep_out}", group.dim)
        self.first = SchurMap(rep_in, wide, group)
        # the constants of the last layer are those that the projection adds anyway
        self.second = SchurMap(result, rep_out, group, bias=not last)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        y = self.first(x)
        if self.product is None:
            return self.second(self.gate(y))
        fields, factors = y.split([self.gate.rep_in.channels, self.product.rep_in.channels], 1)
        return self.second(torch.cat([self.gate(fields), self.product(factors)], 1))


def _check_bases(in_bundle: Bundle, out_bundle: Bundle) -> Manifold:
    require_bundle(in_bundle, "SteerableFNO")
    require_bundle(out_bundle, "SteerableFNO")
    base = in_bundle.base
    if base != out_bundle.base:
        raise BundleError(
            f"SteerableFNO maps between bundles on one base; got {base} and {out_bundle.base}."
        )
    for axis, wraps in enumerate(base.periodic):
        if not wraps:
            raise GroupError(
                f"SteerableFNO needs a torus: on {base} axis {AXES[axis]} is not periodic, and an "
                "edge picks out a direction. Use FNO with a finite group, which pads such axes."
            )
    return base


def _hidden(
    hidden: str | Representation | None, hidden_channels: int, group: Group
) -> Representation:
    if hidden is None:
        return hidden_types(hidden_channels, group)
    rep = Representation(hidden, group.dim) if isinstance(hidden, str) else hidden
    if not isinstance(rep, Representation) or rep.dim != group.dim:
        raise RepresentationError(
            f"hidden is text such as '8 scalar + 4 vector', or a Representation on a {group.dim}-D "
            f"base; got {rep!r}."
        )
    if not any(block.kind == "scalar" for block in rep.blocks):
        raise RepresentationError(
            f"hidden needs at least one scalar, the only type a function can act on; got '{rep}'."
        )
    return rep
