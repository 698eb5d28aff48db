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
from fieldsym.operators.blocks import block_rows, chunk_samples, is_unrecorded, join, split
from fieldsym.operators.fno_options import (
    check_bases,
    check_group,
    exchanged_axes,
    invariants,
    refuse_options,
    refuse_position,
)
from fieldsym.operators.fourier import TruncatedFourier
from fieldsym.operators.layers import Layer, TypedMLP, by_blocks, drops_constants, mix_rows
from fieldsym.operators.modes import check_modes
from fieldsym.operators.pointwise import Pointwise
from fieldsym.operators.tangents import (
    VALUES,
    Function,
    InPlace,
    InPlaceTangents,
    Shared,
    Tangents,
    Values,
)
from fieldsym.representation import Representation

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
        non_linearity: Function = functional.gelu,
        positional_embedding: str | None = None,
        domain_padding: None = None,
    ) -> None:
        super().__init__()
        base = check_bases(in_bundle, out_bundle)
        if n_layers < 1:
            raise BundleError(f"FNO needs n_layers ≥ 1; got {n_layers}.")
        if not isinstance(group, Group | None):
            raise GroupError(
                f"group is a Group, such as groups.dihedral(4), or None; got {group!r}. Text is "
                "read by groups.named(text, dim)."
            )
        self.group = trivial(base.dim) if group is None else group
        refuse_options(norm, fno_skip, channel_mlp_skip, domain_padding)
        refuse_position(positional_embedding, self.group)
        self.in_bundle, self.out_bundle = in_bundle, out_bundle
        self.positioned = tuple(
            axis
            for axis, wraps in enumerate(base.periodic)
            if positional_embedding == "grid" or not wraps
        )
        self.n_modes = check_modes(
            (n_modes,) * base.dim if isinstance(n_modes, int) else n_modes, base.dim
        )
        check_group(self.group, in_bundle, self.n_modes, hidden_channels)
        self._exchanged = exchanged_axes(self.group, base)
        self.hidden_channels = hidden_channels
        self.non_linearity = non_linearity
        hidden = self._regular(1.0)
        lifted = in_bundle.representation
        if self.positioned:
            lifted = lifted.with_position(self.positioned)
        # a constant per field that only meets norms can never matter
        lost = fno_skip is None and drops_constants(norm, hidden)
        self.lifting = self._mlp(lifted, lifting_channel_ratio, hidden, bias=not lost)
        target = out_bundle.representation
        varied = invariants(lifted, self.group) < lifted.channels
        heard = bool(projection_channel_ratio) or invariants(target, self.group) > 0
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
                varied=varied if i == 0 else self.group.order > 1,
                heard=heard or i < n_layers - 1,
            )
            for i in range(n_layers)
        )
        self.projection = self._mlp(hidden, projection_channel_ratio, target)

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
        self._check(u, "FNO")
        dim = self.in_bundle.base.dim
        x, pads = self._open(u.reshape(-1, *u.shape[-dim - 1 :]), 1.0)
        # a function of the user, or a hook on it, may keep what it returns
        watched = self.non_linearity is not functional.gelu
        calculus = InPlace(watched=watched) if is_unrecorded(x) else VALUES
        y = self._run(x.movedim(1, -1).contiguous().unsqueeze(-3), calculus)
        y = self._close(y.squeeze(-3).movedim(-1, 1), pads)
        return y.reshape(*u.shape[: -dim - 1], *y.shape[1:])

    def push_forward(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """Value and directional derivatives, at the cost of about one forward each.

        Parameters
        ----------
        u : (batch, channel, *grid) section of ``in_bundle``
        tangents : (directions, batch, channel, *grid)

        Returns
        -------
        F(u), (batch, channel, *grid), and DF(u)[v] for every tangent v

        Examples
        --------
        >>> import torch, fieldsym as fs
        >>> w = fs.Bundle(fs.Torus((1.0,)), "scalar w")
        >>> model = fs.FNO(w, w, n_modes=3, hidden_channels=4)
        >>> u, v = torch.randn(1, 1, 8), torch.randn(5, 1, 1, 8)
        >>> value, slopes = model.push_forward(u, v)
        >>> direct = torch.func.jvp(model, (u,), (v[2],))[1]
        >>> bool(torch.allclose(slopes[2], direct, atol=1e-6))
        True
        """
        self._check(u, "FNO.push_forward")
        dim = self.in_bundle.base.dim
        if u.ndim != dim + 2 or tangents.shape[1:] != u.shape or tangents.dtype != u.dtype:
            raise BundleError(
                "push_forward takes a section (batch, channel, *grid) and tangents (directions, "
                f"batch, channel, *grid) of its dtype; got {tuple(u.shape)} in {u.dtype} and "
                f"{tuple(tangents.shape)} in {tangents.dtype}."
            )
        if not all(layer.is_pointwise for layer in self._layers()):  # a norm sees the whole field
            slopes = torch.vmap(lambda v: torch.func.jvp(self, (u,), (v,))[1])(tangents)
            return self(u), slopes
        x, pads = self._open(u, 1.0)
        moved, _ = self._open(tangents.flatten(0, 1), 0.0)
        stack = torch.cat([x[None], moved.view(len(tangents), *x.shape)])
        calculus = InPlaceTangents() if is_unrecorded(x) else Tangents()
        y = self._run(stack.movedim(2, -1).movedim(0, -3).contiguous(), calculus)
        y = self._close(y.movedim(-3, 0).flatten(0, 1).movedim(-1, 1), pads)
        y = y.view(-1, len(u), *y.shape[1:])
        return y[0], y[1:]

    def _check(self, u: Tensor, who: str) -> None:
        self.in_bundle.check(u, who, next(self.parameters()).dtype)
        grid = self.in_bundle.grid(u)
        if any(grid[axis] != grid[source] for axis, source in self._exchanged):
            self.group.check(self.in_bundle.base, grid)

    def _run(self, x: Tensor, calculus: Values) -> Tensor:
        """Lifting, layers and projection on (batch, *other axes, stack, last axis, channel).

        A field is kept as rows along the last axis, (rows, stack, points, channel), beside the
        Fourier coefficients of these rows. Where nothing is recorded, a few samples at a time.
        """
        fourier = TruncatedFourier((*x.shape[1:-3], x.shape[-2]), self.n_modes, x)
        samples = chunk_samples(x[..., :1], self.hidden_channels)
        shared = [part.tensors() for part in (self.lifting, *self._layers(), self.projection)]
        parts = split(x, samples)
        return join([self._run_chunk(part, fourier, shared, calculus) for part in parts])

    def _run_chunk(
        self, x: Tensor, fourier: TruncatedFourier, shared: list[Shared], calculus: Values
    ) -> Tensor:
        """A block is transformed, or projected, as soon as it is ready and still in the cache."""
        last, whole = fourier.dim - 1, (*x.shape[:-1], -1)
        lift, *inner, project = shared

        def analyse(block: Tensor, room: Tensor | None = None) -> Tensor:
            return fourier.analyse(block, last, 2, room if calculus.in_place else None)

        def finish(block: Tensor, _: Tensor) -> Tensor:
            return self.projection.points(block, project, calculus)

        rows = x.flatten(0, last)
        size = block_rows(rows[..., 0], self.hidden_channels)
        blocks: list[Tensor] = []
        ready: list[Tensor] = []
        for b in split(rows, size):
            blocks.append(self.lifting.points(b, lift, calculus))
            ready.append(analyse(blocks[-1]))
        half = join(ready)
        for layer, tensors in zip(self._layers(), inner, strict=True):
            half = half.view(*x.shape[:-2], -1, self.hidden_channels)
            half = mix_rows(layer.convolution, half, fourier, spent=calculus.in_place)
            half = half.flatten(0, last).contiguous()
            mids = split(half, size)
            if layer.is_pointwise:
                steps = by_blocks(layer, blocks, mids, tensors, fourier, calculus)
            else:
                field = join([fourier.synthesise(m, last, 2) for m in mids])
                field = layer.points(join(blocks).view(whole), field.view(whole), tensors)
                steps = iter(split(field.flatten(0, last), size))
            for i, (block, m) in enumerate(zip(steps, mids, strict=True)):
                blocks[i], ready[i] = block, (finish if layer.last else analyse)(block, m)
            # in place, what is ready is where the coefficients were
            half = half if calculus.in_place and not layer.last else join(ready)
        return half.view(whole)

    def _layers(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]

    def _close(self, y: Tensor, pads: list[int]) -> Tensor:
        """Cut the padding off."""
        dim = len(pads)
        for axis, pad in enumerate(pads):
            y = y.narrow(axis - dim, pad, y.shape[axis - dim] - 2 * pad) if pad else y
        return y.contiguous()

    def _open(self, x: Tensor, here: float) -> tuple[Tensor, list[int]]:
        """Append the position along the axes that have one, pad non-periodic axes on both sides.

        ``here`` multiplies the position: 1 for a section, 0 for a tangent.
        """
        base = self.in_bundle.base
        grid = x.shape[-base.dim :]
        if not self.positioned:
            return x, [0] * base.dim
        where = base.coordinates(grid, x.dtype, x.device, centred=True)
        rows = [where[axis] * (2 * here / base.lengths[axis]) for axis in self.positioned]
        x = torch.cat([x, torch.stack(rows).expand(x.shape[0], -1, *grid)], 1)
        pads = [
            0 if wraps else round(PADDING * n) for n, wraps in zip(grid, base.periodic, strict=True)
        ]
        return functional.pad(x, [p for pad in reversed(pads) for p in (pad, pad)]), pads
