"""The operators that ``audit.py`` measures: neuraloperator's, a U-Net, and ours.

Weights are untrained. Each builder takes a ``Size``; ``enlivened`` multiplies its weights.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import fieldsym as fs

BASE = fs.Torus((1.0, 1.0))
SCALAR = fs.Bundle(BASE, "scalar p")
D4 = fs.groups.dihedral(4)
GROUP = D4 * fs.groups.translations(2)
SPHERE = fs.Box((math.pi, 2 * math.pi), periodic=(False, True), location="node")
MIRRORS_AND_TURNS = fs.groups.dihedral(2) * fs.groups.translations(2, axes=(1,))
FACTORS, FLUCTUATION = (1.0, 1.5, 2.0, 3.0, 4.0), 0.25


@dataclass(frozen=True)
class Size:
    """Of every operator: width, kept frequencies (an odd number), layers, factor of the weights."""

    width: int = 32
    n_modes: int = 17
    layers: int = 4
    factor: float = 1.0


Builder = Callable[[Size], nn.Module]


@dataclass(frozen=True)
class Case:
    """An operator: how to build it, and the points of its grid beyond the common ones.

    ``group`` is a product of a dihedral group and translations; ``axes`` are the words for x and y.
    """

    build: Builder
    more_points: int = 0
    bundle: fs.Bundle = SCALAR
    group: fs.Group = GROUP
    axes: tuple[str, str] = ("x", "y")


def spherical(build: Builder) -> Case:
    """The case of an operator on latitude × longitude."""
    bundle = fs.Bundle(SPHERE, "scalar p")
    return Case(build, bundle=bundle, group=MIRRORS_AND_TURNS, axes=("latitude", "longitude"))


class UNet(nn.Module):
    """Three levels of circular convolutions; every second point is kept on the way down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = ((1, width), (width, 2 * width), (2 * width, 2 * width), (4 * width, width))
        self.first, self.second, self.lowest, self.up = (_convolution(*s) for s in sizes)
        self.top = _convolution(2 * width, width)
        self.pool, self.copy = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, 1, X, Y) to the same; X and Y are multiples of 4."""
        fine = self.first(u)
        middle = self.second(self.pool(fine))
        low = self.lowest(self.pool(middle))
        middle = self.up(torch.cat([self.copy(low), middle], 1))
        return self.last(self.top(torch.cat([self.copy(middle), fine], 1)))


def _convolution(channels: int, width: int) -> nn.Module:
    same = nn.Conv2d(channels, width, 3, padding=1, padding_mode="circular")
    return nn.Sequential(same, nn.GELU())


def peer(kind: str = "FNO", *, even: bool = False, **options: object) -> Builder:
    """Builder of a model of neuraloperator, without embedding; ``even``: one frequency fewer."""

    def build(size: Size) -> nn.Module:
        from neuralop import models

        if not hasattr(models, kind):
            raise ImportError(f"neuralop.models has no {kind}")
        given = {"hidden_channels": size.width, "n_layers": size.layers} | options
        return enlivened(
            getattr(models, kind)(
                n_modes=(size.n_modes - even,) * 2,
                in_channels=1,
                out_channels=1,
                **{"positional_embedding": None} | given,
            ),
            size,
        )

    return build


def uno(size: Size) -> nn.Module:
    """Half the points in the middle layers; without embedding, so that this alone is seen."""
    from neuralop.models import UNO

    modes = size.n_modes // 4 * 2 + 1
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its options
        model = UNO(
            in_channels=1, out_channels=1, hidden_channels=size.width, n_layers=4,
            uno_out_channels=[size.width] * 4, uno_n_modes=[[modes] * 2] * 4,
            uno_scalings=[[1, 1], [0.5, 0.5], [1, 1], [2, 2]], channel_mlp_skip="linear",
            positional_embedding=None,
        )  # fmt: skip
    return enlivened(model, size)


def enforced(size: Size) -> nn.Module:
    """The repaired FNO with D4 enforced."""
    return fs.enforce(peer()(size), D4, SCALAR, SCALAR)


def isotropic(build: Builder) -> Builder:
    """The same FNO with spectral weights that are real and depend on |k| alone."""

    def built(size: Size) -> nn.Module:
        model = build(size)
        for convolution in model.fno_blocks.convs:  # type: ignore[union-attr]
            weight = convolution.weight.tensor  # (in, out, kx from −m//2, ky from 0)
            rows, columns = (torch.arange(n) for n in weight.shape[-2:])
            square = (rows - len(rows) // 2)[:, None] ** 2 + columns**2
            rings, where = square.unique(return_inverse=True)
            profile = weight.detach().abs().mean() * torch.randn(*weight.shape[:2], len(rings))
            weight.data = profile[..., where].to(weight.dtype)
        return model

    return built


def real_weights(build: Builder) -> Builder:
    """The same SFNO with the imaginary part of its weights per degree set to zero."""

    def built(size: Size) -> nn.Module:
        model = build(size)
        for convolution in model.fno_blocks.convs:  # type: ignore[union-attr]
            convolution.weight.tensor.data.imag.zero_()  # (in, out, degree)
        return model

    return built


def enlivened(model: nn.Module, size: Size) -> nn.Module:
    """Multiply the weights, not the biases (and of a Tucker tensor the core alone)."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "factors" not in name:
                weight *= size.factor
    return model


def lively(case: Case, size: Size, x: Tensor) -> nn.Module:
    """The operator with the least factor for which its output is not all mean."""
    for factor in FACTORS:
        torch.manual_seed(0)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = case.build(replace(size, factor=factor)).eval()
            y = model(x)
        if (y - y.mean((-2, -1), keepdim=True)).norm() > FLUCTUATION * y.norm():
            break
    return model


def cases() -> dict[str, Case]:
    """Operators by name."""
    return {
        "FNO, as it comes": Case(peer(even=True, positional_embedding="grid")),
        "FNO, repaired": Case(peer()),
        "FNO, repaired, odd grid": Case(peer(), more_points=1),
        "FNO, repaired, fs.enforce D4": Case(enforced),
        "FNO, isotropic weights, odd n_modes": Case(isotropic(peer())),
        "FNO, isotropic weights, even n_modes": Case(isotropic(peer(even=True))),
        "FNO, repaired, domain padding": Case(peer(domain_padding=0.25)),
        "TFNO, no embedding": Case(peer("TFNO", rank=0.1)),
        "UNO, no embedding": Case(uno),
        "SFNO": spherical(peer("SFNO")),
        "SFNO, real weights": spherical(real_weights(peer("SFNO"))),
        "U-Net": Case(lambda size: enlivened(UNet(size.width), size)),
        "fs.FNO, D4": Case(lambda size: ours(size)),
    }


def ours(size: Size) -> nn.Module:
    """Our operator, exact by construction."""
    model = fs.FNO(SCALAR, SCALAR, group=D4, n_modes=size.n_modes, hidden_channels=size.width,
                   n_layers=size.layers)  # fmt: skip
    return enlivened(model, size)
