"""Parts of the typed FNO that act on regular features: MLPs, gates, norms, one Fourier layer.

Inside the operator fields are stored channels last, (batch, *grid, channel): a pointwise map is one
matrix product on contiguous rows. ``tensors()`` gives what a part multiplies with, ``points`` is
the part itself as a function of them, so that it can run on blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fieldsym.group import Group
from fieldsym.operators.fourier import TruncatedFourier
from fieldsym.operators.pointwise import Pointwise
from fieldsym.operators.spectral import SpectralConv
from fieldsym.operators.tangents import VALUES, Function, Shared, Values
from fieldsym.representation import Representation


class TypedMLP(nn.Module):
    """Pointwise map, nonlinearity on regular features, pointwise map."""

    def __init__(
        self,
        rep_in: Representation,
        rep_hidden: Representation,
        rep_out: Representation,
        group: Group,
        non_linearity: Function,
        *,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        self.first = Pointwise(rep_in, rep_hidden, group)
        self.second = Pointwise(rep_hidden, rep_out, group, bias=last_bias)
        self.non_linearity = non_linearity

    n_tensors = 4

    def tensors(self) -> Shared:
        """Matrix and bias of both maps."""
        return (*self.first.tensors(), *self.second.tensors())

    def points(
        self, x: Tensor, tensors: Shared, calculus: Values = VALUES, *, spent: bool = False
    ) -> Tensor:
        """Apply to (..., channel), in place of x if that is ``spent`` and the calculus allows."""
        return calculus.mlp(self.non_linearity, x, tensors, spent=spent)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        return self.second(self.non_linearity(self.first(x)))


class SoftGate(nn.Module):
    """One learned scale per field, the same for all its channels."""

    def __init__(self, hidden: Representation) -> None:
        super().__init__()
        self.images = hidden.blocks[0].size // hidden.blocks[0].copies
        self.scale = nn.Parameter(torch.ones(hidden.blocks[0].copies))

    n_tensors = 1

    def tensors(self) -> Shared:
        """The scale of every channel."""
        return (self.scale.repeat_interleave(self.images),)

    def added(self, y: Tensor, x: Tensor, tensors: Shared, calculus: Values) -> Tensor:
        """y + gate x, (..., channel)."""
        return calculus.add_scaled(y, x, tensors[0])


class Identity(nn.Module):
    """A skip that changes nothing."""

    n_tensors = 0

    def tensors(self) -> Shared:
        """Nothing."""
        return ()

    def added(self, y: Tensor, x: Tensor, tensors: Shared, calculus: Values) -> Tensor:
        """y + x, (..., channel)."""
        return y + x


class RegularNorm(nn.Module):
    """Normalise regular features over the group and space: what no group element can see.

    Parameters
    ----------
    hidden : Representation of regular copies
    one_for_all : one mean and variance for all fields ("group_norm") or one each ("instance_norm")
    shifts : whether a constant per field is learned
    """

    def __init__(self, hidden: Representation, *, one_for_all: bool, shifts: bool) -> None:
        super().__init__()
        self.fields = hidden.blocks[0].copies
        self.one_for_all = one_for_all
        self.scale = nn.Parameter(torch.ones(self.fields))
        self.shift = nn.Parameter(torch.zeros(self.fields)) if shifts else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, *grid, channel)."""
        fields = x.unflatten(-1, (self.fields, -1)).flatten(1, -3)
        seen = (1, 2, 3) if self.one_for_all else (1, 3)
        variance, mean = torch.var_mean(fields, seen, correction=0, keepdim=True)
        fields = (fields - mean) * (variance + 1e-5).rsqrt()
        fields = fields * self.scale[:, None]
        if self.shift is not None:
            fields = fields + self.shift[:, None]
        return fields.reshape(x.shape)


class Layer(nn.Module):
    """One Fourier layer, in neuraloperator's order: convolution + skip, MLP + skip.

    ``varied`` says that the group moves the channels that come in at k = 0, ``heard`` that a
    constant per field that goes out can matter; parameters that never could are not made (but for
    a single layer in front of a linear projection that hears no constants).
    """

    def __init__(
        self,
        hidden: Representation,
        mlp_hidden: Representation | None,
        group: Group,
        n_modes: Sequence[int],
        fno_skip: str | None,
        channel_mlp_skip: str | None,
        norm: str | None,
        non_linearity: Function,
        *,
        last: bool,
        varied: bool,
        heard: bool,
    ) -> None:
        super().__init__()
        # a constant per field would vanish in the norm, and k = 0 may be nothing else
        lost = drops_constants(norm, hidden)
        self.convolution = SpectralConv(hidden, hidden, group, n_modes, mean=not lost or varied)
        inside = heard or mlp_hidden is not None
        self.skip = _skip(fno_skip, hidden, group, bias=inside)
        self.norm = _norm(norm, hidden, shifts=inside)
        self.mlp = self.mlp_skip = self.mlp_norm = None
        if mlp_hidden is not None:
            self.mlp = TypedMLP(
                hidden, mlp_hidden, hidden, group, non_linearity, last_bias=heard and not lost
            )
            self.mlp_skip = _skip(channel_mlp_skip, hidden, group, bias=False)
            self.mlp_norm = _norm(norm, hidden, shifts=heard)
        self.non_linearity = non_linearity
        self.last = last

    @property
    def is_pointwise(self) -> bool:
        """Whether all but the convolution works point by point (a norm does not)."""
        return self.norm is None

    def tensors(self) -> Shared:
        """What the skips and the MLP multiply with."""
        parts = (self.skip, self.mlp, self.mlp_skip)
        return tuple(t for part in parts if part is not None for t in part.tensors())

    def divide(self, tensors: Shared) -> tuple[Shared, Shared, Shared]:
        """What belongs to the skip, to the MLP and to its skip."""
        first = 0 if self.skip is None else self.skip.n_tensors
        second = first + (0 if self.mlp is None else self.mlp.n_tensors)
        return tensors[:first], tensors[first:second], tensors[second:]

    def points(
        self, start: Tensor, x: Tensor, tensors: Shared, calculus: Values = VALUES
    ) -> Tensor:
        """From the layer's input and its convolution to its output, (..., channel)."""
        x = x if self.norm is None else self.norm(x)
        skip, mlp, gate = self.divide(tensors)
        if self.skip is not None:
            x = self.skip.added(x, start, skip, calculus)
        x = x if self.last else calculus.apply(self.non_linearity, x)
        if self.mlp is None:
            return x
        x = self.mlp.points(x, mlp, calculus, spent=True)
        if self.mlp_skip is not None:
            x = self.mlp_skip.added(x, start, gate, calculus)
        x = x if self.mlp_norm is None else self.mlp_norm(x)
        return x if self.last else calculus.apply(self.non_linearity, x)


def drops_constants(norm: str | None, hidden: Representation) -> bool:
    """Whether a norm removes one constant per field (a group norm does so with one field)."""
    return norm == "instance_norm" or (norm is not None and hidden.blocks[0].copies == 1)


def _norm(norm: str | None, hidden: Representation, *, shifts: bool) -> RegularNorm | None:
    if norm is None:
        return None
    return RegularNorm(hidden, one_for_all=norm == "group_norm", shifts=shifts)


def _skip(
    kind: str | None, hidden: Representation, group: Group, *, bias: bool = True
) -> Pointwise | SoftGate | Identity | None:
    if kind == "linear":
        return Pointwise(hidden, hidden, group, bias=bias)
    if kind == "soft-gating":
        return SoftGate(hidden)
    return Identity() if kind == "identity" else None


def by_blocks(
    layer: Layer,
    blocks: Sequence[Tensor],
    mids: Sequence[Tensor],
    tensors: Shared,
    fourier: TruncatedFourier,
    calculus: Values,
) -> Iterator[Tensor]:
    """A layer block by block, from its input and the coefficients along the last axis."""
    spare = None
    for start, m in zip(blocks, mids, strict=True):
        spare = spare if spare is not None and len(spare) == len(m) else None
        field = fourier.synthesise(m, fourier.dim - 1, 2, spare)
        yield layer.points(start, field, tensors, calculus)
        spare = start if calculus.reuses else None  # nobody needs it, and it is in the cache


def mix_rows(
    convolution: SpectralConv, half: Tensor, fourier: TruncatedFourier, *, spent: bool = False
) -> Tensor:
    """The convolution, from coefficients along the last axis to such coefficients.

    (batch, *other axes, stack, 2K+1, channel), in place of ``half`` if that is spent.
    """
    others = range(fourier.dim - 1)
    x = half
    for axis in others:
        x = fourier.analyse(x, axis, axis + 1)
    x = x.movedim(-2, fourier.dim).movedim(0, -3)  # *2K+1, batch, stack, channel
    shape, x = x.shape, x.flatten(-3, -2)
    x = convolution.mix(x, fourier).view(shape)
    x = x.movedim(-3, 0).movedim(fourier.dim, -2)
    for axis in others:
        x = fourier.synthesise(x, axis, axis + 1, half if spent and axis == others[-1] else None)
    return x
