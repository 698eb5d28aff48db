"""The typed Fourier neural operator, exactly equivariant by construction.

Hidden features carry the regular representation of a finite group (one channel per element,
permuted by the group), so every pointwise nonlinearity is exact; lifting, skips, channel MLPs and
projection are equivariant pointwise maps; spectral weights are stored once per orbit of modes.
On a torus translations by whole cells are exact too. ``group=None`` is the unconstrained operator.

>>> import torch, fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
>>> model = fs.FNO(flow, flow, group=fs.groups.dihedral(4), n_modes=(5, 5), hidden_channels=16)
>>> model(torch.zeros(2, 3, 16, 16)).shape
torch.Size([2, 3, 16, 16])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, GroupError
from fieldsym.group import Group, trivial
from fieldsym.manifold import Manifold
from fieldsym.operators.blocks import Shared, Tensors, by_blocks
from fieldsym.operators.fourier import TruncatedFourier
from fieldsym.operators.layers import Activation, Layer, TypedMLP, drops_constants
from fieldsym.operators.modes import check_modes
from fieldsym.operators.pointwise import Pointwise
from fieldsym.operators.spectral import SpectralConv
from fieldsym.representation import Representation

SKIPS = ("linear", "identity", "soft-gating", None)
NORMS = ("instance_norm", "group_norm", None)
PADDING = 0.125  # of the samples, added on both sides of a non-periodic axis


class FNO(nn.Module):
    """Fourier neural operator between sections of two bundles.

    Parameters
    ----------
    in_bundle, out_bundle : Bundle, on one base
    group : finite Group that acts on the base, or None; translations are built in
    n_modes : odd numbers of kept frequencies −K..K, one per axis or one for all
    hidden_channels : width, a multiple of the order of the group
    n_layers : number of Fourier layers
    lifting_channel_ratio, projection_channel_ratio : width of the hidden layer of the lifting and
        projection MLPs, in units of ``hidden_channels``; 0 for a single linear map
    fno_skip, channel_mlp_skip : "linear", "identity", "soft-gating" or None
    use_channel_mlp, channel_mlp_expansion : the pointwise MLP of every layer and its width
    norm : None, "instance_norm" (per field, over group and space) or "group_norm" (over all fields)
    non_linearity : pointwise function of one number, exact on regular features
    positional_embedding : None, or without a group "grid": the coordinates are further inputs and
        translations are no symmetry any more
    domain_padding : None; non-periodic axes are padded by themselves

    On a base with non-periodic axes the position along these axes (which the group moves like part
    of a vector) is an extra input, and the field is padded by zeros on both sides.

    Raises
    ------
    GroupError    if the group is not finite or does not act on the base or grid, if
                  ``hidden_channels`` is no multiple of its order, or if an option would break it.
    GridError     if ``n_modes`` is even, or needs more points than the grid has.
    BundleError   if the input is not a section of ``in_bundle``, in the dtype of the parameters.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> w = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
    >>> d4 = fs.groups.dihedral(4)
    >>> model = fs.FNO(w, w, group=d4, n_modes=(5, 5), hidden_channels=16).double()
    >>> u = fs.testing.random_section(w, (12, 12))
    >>> g = d4.elements[1]
    >>> bool(torch.allclose(model(fs.act(g, u, w)), fs.act(g, model(u), w), atol=1e-12))
    True

    References
    ----------
    Li et al. 2021, arXiv:2010.08895; group convolution on the regular representation: Helwig et al.
    2023, arXiv:2306.05697.
    """

    def __init__(
        self,
        in_bundle: Bundle,
        out_bundle: Bundle,
        *,
        group: Group | None = None,
        n_modes: int | Sequence[int] = 17,
        hidden_channels: int = 64,
        n_layers: int = 4,
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        fno_skip: str | None = "linear",
        channel_mlp_skip: str | None = "soft-gating",
        use_channel_mlp: bool = True,
        channel_mlp_expansion: float = 0.5,
        norm: str | None = None,
        non_linearity: Activation = functional.gelu,
        positional_embedding: str | None = None,
        domain_padding: None = None,
    ) -> None:
        super().__init__()
        base = _check_bases(in_bundle, out_bundle)
        if n_layers < 1:
            raise BundleError(f"FNO needs n_layers ≥ 1; got {n_layers}.")
        if not isinstance(group, Group | None):
            raise GroupError(
                f"group is a Group, such as groups.dihedral(4), or None; got {group!r}. Text is "
                "read by groups.named(text, dim)."
            )
        self.group = trivial(base.dim) if group is None else group
        _refuse_options(norm, fno_skip, channel_mlp_skip, domain_padding)
        _refuse_position(positional_embedding, self.group)
        self.in_bundle, self.out_bundle = in_bundle, out_bundle
        self.positioned = tuple(
            axis
            for axis, wraps in enumerate(base.periodic)
            if positional_embedding == "grid" or not wraps
        )
        self.n_modes = check_modes(
            (n_modes,) * base.dim if isinstance(n_modes, int) else n_modes, base.dim
        )
        _check_group(self.group, in_bundle, self.n_modes, hidden_channels)
        self._exchanged = _exchanged_axes(self.group, base)
        self.hidden_channels = hidden_channels
        self.non_linearity = non_linearity
        hidden = self._regular(1.0)
        lifted = in_bundle.representation
        if self.positioned:
            lifted = lifted.with_position(self.positioned)
        # a constant per field that only meets norms can never matter
        lost = fno_skip is None and drops_constants(norm, hidden)
        self.lifting = self._mlp(lifted, lifting_channel_ratio, hidden, bias=not lost)
        self.layers = nn.ModuleList(
            Layer(
                hidden,
                self._regular(channel_mlp_expansion) if use_channel_mlp else None,
                self.group,
                self.n_modes,
                fno_skip,
                channel_mlp_skip,
                norm,
                non_linearity,
                last=i == n_layers - 1,
            )
            for i in range(n_layers)
        )
        self.projection = self._mlp(hidden, projection_channel_ratio, out_bundle.representation)

    def _regular(self, ratio: float) -> Representation:
        copies = max(1, round(ratio * self.hidden_channels / self.group.order))
        return Representation(f"{copies} regular", self.group.dim, self.group)

    def extra_repr(self) -> str:
        """The bundles, the group and the modes."""
        source, target = self.in_bundle.representation, self.out_bundle.representation
        return (
            f"'{source}' → '{target}' on {self.in_bundle.base}, group={self.group}, "
            f"n_modes={self.n_modes}"
        )

    def _mlp(
        self, rep_in: Representation, ratio: float, rep_out: Representation, *, bias: bool = True
    ) -> Pointwise | TypedMLP:
        if not ratio:
            return Pointwise(rep_in, rep_out, self.group, bias=bias)
        middle, f = self._regular(ratio), self.non_linearity
        return TypedMLP(rep_in, middle, rep_out, self.group, f, last_bias=bias)

    def forward(self, u: Tensor) -> Tensor:
        """Map sections of ``in_bundle`` to sections of ``out_bundle``, (batch, channel, *grid)."""
        dim = self.in_bundle.base.dim
        self.in_bundle.check(u, "FNO")
        own = next(self.parameters()).dtype
        if u.dtype != own:
            raise BundleError(
                f"FNO holds {own} parameters; got a section in {u.dtype}. Convert the section with "
                f".to({own}), or the model with .to({u.dtype})."
            )
        grid = self.in_bundle.grid(u)
        if any(grid[axis] != grid[source] for axis, source in self._exchanged):
            self.group.check(self.in_bundle.base, grid)
        x, pads = self._open(u.reshape(-1, *u.shape[-dim - 1 :]), grid)
        y = self._run(x.movedim(1, -1)).movedim(-1, 1)
        for axis, (pad, n) in enumerate(zip(pads, grid, strict=True)):
            y = y.narrow(axis - dim, pad, n) if pad else y
        return y.reshape(*u.shape[: -dim - 1], *y.shape[1:]).contiguous()

    def _run(self, x: Tensor) -> Tensor:
        """Lifting, layers and projection on (batch, *grid, channel).

        A field is kept as rows along the last axis, beside the Fourier coefficients of these rows.
        """
        fourier = TruncatedFourier(x.shape[1:-1], self.n_modes, x)
        shape, last = x.shape[:-1], len(self.n_modes) - 1

        def with_coefficients(y: Tensor) -> tuple[Tensor, ...]:
            return y, fourier.analyse(y, last, 1)

        def lift(rows: Tensors, shared: Shared) -> Tensors:
            return with_coefficients(self.lifting.points(rows[0], shared))

        def project(rows: Tensors, shared: Shared) -> Tensors:
            return (self.projection.points(rows[0], shared),)

        rows, half = by_blocks(lift, (x.flatten(0, last),), self.lifting.tensors())
        for layer in self.layers:
            mid = _mix(layer.convolution, half.view(*shape[:-1], *half.shape[1:]), fourier)
            if not layer.is_pointwise:
                field = fourier.synthesise(mid, last, last + 1)
                field = layer.points(rows.view(field.shape), field, layer.tensors())
                rows, half = with_coefficients(field.flatten(0, last))
                continue

            def after(rows: Tensors, shared: Shared, layer: Layer = layer) -> Tensors:
                field = fourier.synthesise(rows[1], last, 1)
                return with_coefficients(layer.points(rows[0], field, shared))

            pair = (rows, mid.flatten(0, last))
            rows, half = by_blocks(after, pair, layer.tensors(), reuse=True)
        (y,) = by_blocks(project, (rows,), self.projection.tensors())
        return y.view(*shape, -1)

    def _open(self, x: Tensor, grid: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Append the position along the axes that have one, pad non-periodic axes on both sides."""
        base = self.in_bundle.base
        if not self.positioned:
            return x, [0] * base.dim
        where = base.coordinates(grid, x.dtype, x.device, centred=True)
        rows = [where[axis] * (2 / base.lengths[axis]) for axis in self.positioned]
        x = torch.cat([x, torch.stack(rows).expand(len(x), -1, *grid)], 1)
        pads = [
            0 if wraps else round(PADDING * n) for n, wraps in zip(grid, base.periodic, strict=True)
        ]
        return functional.pad(x, [p for pad in reversed(pads) for p in (pad, pad)]), pads


def _mix(convolution: SpectralConv, half: Tensor, fourier: TruncatedFourier) -> Tensor:
    """The convolution, from coefficients along the last axis to such coefficients."""
    others = range(fourier.dim - 1)
    for axis in others:
        half = fourier.analyse(half, axis, axis + 1)
    mixed = convolution.mix(half.movedim(0, -2), fourier).movedim(-2, 0)
    for axis in others:
        mixed = fourier.synthesise(mixed, axis, axis + 1)
    return mixed


def _check_bases(in_bundle: Bundle, out_bundle: Bundle) -> Manifold:
    if in_bundle.base != out_bundle.base:
        raise BundleError(
            f"FNO maps between bundles on one base; got {in_bundle.base} and {out_bundle.base}."
        )
    return in_bundle.base


def _exchanged_axes(group: Group, base: Manifold) -> tuple[tuple[int, int], ...]:
    """Axes that some element carries to another one; they need equally many points."""
    pairs = {
        (axis, source)
        for g in group.elements
        for axis, source in enumerate((base.lattice(g) or ((), ()))[0])
        if axis < source
    }
    return tuple(sorted(pairs))


def _check_group(group: Group, bundle: Bundle, n_modes: Sequence[int], hidden: int) -> None:
    if hidden < 1:
        raise GroupError(f"hidden_channels must be positive; got {hidden}.")
    if not group.is_finite:
        raise GroupError(
            f"FNO is exact for finite groups (translations are built in); got {group.name}. Use "
            "cyclic(4) or dihedral(4) on a square torus and measure the rest."
        )
    if any(g.shift.any() for g in group.elements):
        raise GroupError(
            f"{group.name} holds shifts, which every FNO commutes with already. Give the point "
            "group alone."
        )
    group.check(bundle.base)
    for g in group.elements:
        permutation, _ = bundle.base.lattice(g) or ((), ())
        if any(n_modes[axis] != n_modes[source] for axis, source in enumerate(permutation)):
            raise GroupError(
                f"{g.name} exchanges axes with n_modes {tuple(n_modes)}: give exchanged axes the "
                "same number of modes."
            )
    if hidden % group.order:
        lower = hidden // group.order * group.order
        choices = f"{lower} or {lower + group.order}" if lower else f"{group.order}"
        raise GroupError(
            f"hidden_channels holds whole copies of the regular representation of {group.name}, "
            f"{group.order} channels each; got {hidden}. Use {choices}."
        )


def _refuse_options(
    norm: str | None, fno_skip: str | None, channel_mlp_skip: str | None, domain_padding: object
) -> None:
    if norm not in NORMS:
        raise GroupError(
            f"norm is one of {NORMS}; got {norm!r}. Norms with one scale per channel or per "
            "position would tell the images of a field apart."
        )
    for name, skip in (("fno_skip", fno_skip), ("channel_mlp_skip", channel_mlp_skip)):
        if skip not in SKIPS:
            raise GroupError(f"{name} is one of {SKIPS}; got {skip!r}.")
    if domain_padding is not None:
        raise GroupError(
            f"domain_padding={domain_padding!r} would break the translations of a periodic axis. "
            "Leave it None; non-periodic axes are padded by themselves."
        )


def _refuse_position(positional_embedding: object, group: Group) -> None:
    if positional_embedding not in (None, "grid"):
        raise GroupError(
            f"positional_embedding is None or 'grid'; got {positional_embedding!r}. Give any other "
            "known field as a typed input."
        )
    if positional_embedding == "grid" and group.order > 1:
        raise GroupError(
            f"positional_embedding='grid' would break translations and {group.name}: a point could "
            "be told from its images. Leave it None; non-periodic axes get their position as a "
            "typed input by themselves."
        )
