"""Audit of foreign operators: what fs.evaluate finds about each of them by itself.

    python benchmarks/audit.py

neuraloperator's FNO as it comes and repaired, TFNO, UNO and SFNO, and a U-Net, on random fields of
unit variance. All weights are untrained and drawn with seed 0, then multiplied by the first of 1,
1.5, 2, 3, 4 that makes the fluctuation of the output a quarter of its norm: untrained networks
return little but a mean, of which rounding is a large part. Nothing in the last column knows the
class of a model: the words follow from verdicts, the Lie derivative on two grids and its share of
each layer.

SFNO lives on its grid of latitudes, both poles included, and longitudes. A turn about the pole is a
shift along the longitude; other rotations of the sphere cannot be tested on this chart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from common import real_parameters, record, report
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.symmetry.evaluate_layers import layer_attribution

BASE = fs.Torus((1.0, 1.0))
SCALAR = fs.Bundle(BASE, "scalar p")
D4 = fs.groups.dihedral(4)
GROUP = D4 * fs.groups.translations(2)
SPHERE = fs.Box((math.pi, 2 * math.pi), periodic=(False, True), location="node")
MIRRORS_AND_TURNS = fs.groups.dihedral(2) * fs.groups.translations(2, axes=(1,))
HOLDS = ("exact", "below floor")
EXACT = 1e-4  # of the fluctuation, in float32
ALIASING = 0.9  # share of the Lie derivative above which nothing else is in it
FACTORS, FLUCTUATION = (1.0, 1.5, 2.0, 3.0, 4.0), 0.25
STEPS = (2, 4, 8)  # cells, for models that a shift by one cell does not commute with
HEADER = ("operator", "N", "real parameters", "whole cells", "half a cell", "quarter turn",
          "reflection", "LEE at N", "LEE at 2N", "largest source at 4N",
          "what is found")  # fmt: skip


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


def points(bundle: fs.Bundle, grid: int) -> tuple[int, ...]:
    """Sizes of the axes, with ``grid`` cells along the longest: an open axis has both its ends."""
    base = bundle.base
    sizes = (round(grid * length / max(base.lengths)) for length in base.lengths)
    return tuple(n + (not wraps) for n, wraps in zip(sizes, base.periodic, strict=True))


def fields(grid: int, samples: int, *, refined: int = 1, bundle: fs.Bundle = SCALAR) -> Tensor:
    """Random fields of unit variance in the waves up to an eighth of the grid; ``refined`` gives
    more points to the same fields.
    """
    sizes, kmax = points(bundle, refined * grid), max(4, grid // 8)
    return fs.testing.random_section(bundle, sizes, batch=samples, dtype=torch.float32, kmax=kmax)


@dataclass(frozen=True)
class Measured:
    """What is known of one model: nothing else enters the table.

    ``step``: least number of cells out of ``STEPS`` by which shifts commute. ``source``: the part
    with the largest share of the Lie derivative on four times as many points, where aliasing has
    gone.
    """

    report: xr.Dataset
    step: int | None
    source: str
    source_share: float


def measure(
    model: nn.Module,
    grid: int,
    samples: int,
    *,
    bundle: fs.Bundle = SCALAR,
    group: fs.Group = GROUP,
) -> Measured:
    """Evaluation, step and source of a model on random fields."""
    x = fields(grid, samples, bundle=bundle)
    finest = fields(grid, min(samples, 2), refined=4, bundle=bundle)
    shifts = replace(group, components=())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Measured(
            fs.evaluate(model, group, x, bundle, bundle),
            stride(model, x, shifts, bundle),
            *source(model, finest, shifts, bundle),
        )


def source(model: nn.Module, x: Tensor, shifts: fs.Group, bundle: fs.Bundle) -> tuple[str, float]:
    """The part of the model with the largest share, mean over the translations, and that share."""
    found = layer_attribution(model, shifts, x, bundle, bundle)
    # a generator that is no source of anything has no shares
    rows = [] if found is None else found.share[np.isfinite(found.share).all(axis=1)]
    if not len(rows):
        return "–", float("nan")
    shares = rows.mean(axis=0)
    return found.layers[int(shares.argmax())], float(shares.max())


@torch.no_grad()
def stride(model: nn.Module, x: Tensor, shifts: fs.Group, bundle: fs.Bundle) -> int | None:
    """The least number of cells out of ``STEPS`` by which shifts commute; None without one."""

    def defect(shift: np.ndarray) -> float:
        g = fs.Element(np.eye(len(shift)), shift)
        return float(fs.finite_defect(model.eval(), g, x, bundle, bundle).max())

    cell = np.array(bundle.base.spacing(bundle.grid(x)))
    for step in STEPS:
        if all(defect(step * cell * xi.shift) < EXACT for xi in shifts.generators):
            return step
    return None


def facts(measured: Measured) -> dict[str, float]:
    """The numbers of one row: the worst element of every kind, and the worst generator; NaN for
    what the group does not have.
    """
    found = measured.report
    defects = dict(zip(found.element.values.tolist(), found.defect_median.values, strict=True))
    worst = int(found.lee_median.values.argmax())

    def largest(text: str) -> float:
        return float(max((v for label, v in defects.items() if text in label), default=np.nan))

    return {
        "whole": float(found.defect_median.values[found.kind.values == "shift"].max()),
        "half": largest("1/2 cell"),
        "turn": largest("rotation 90°"),
        "reflection": largest("reflection"),
        **{key: float(found[key][worst]) for key in ("lee_median", "lee_fine", "aliasing_share")},
        "source_share": measured.source_share,
    }


def in_words(measured: Measured, axes: tuple[str, str] = ("x", "y")) -> str:
    """What the numbers say, with no knowledge of the model."""
    text = f"{_shifts(measured)}; {_points(measured.report)}"
    return re.sub(r"\b[xy]\b", lambda found: axes["xy".index(found[0])], text)


def _shifts(measured: Measured) -> str:
    """Translations: whole cells first; what is left then is a matter of the grid or the model."""
    found, own = measured.report, facts(measured)
    aliasing = own["aliasing_share"]
    shifts = found.kind.values == "shift"
    axes = [str(label)[-1] for label in found.element.values[shifts]]
    along = f" along {axes[0]}" if len(axes) == 1 else ""
    held = [v in HOLDS for v in found.verdict.values[shifts]]
    if not all(held):
        text = f"shifts by whole cells{along} violated"
        if any(held):
            text += f" along {axes[held.index(False)]} alone"
        elif measured.step:
            text += f" (they hold in steps of {measured.step} cells)"
        # nothing but aliasing in the Lie derivative: a fault of this grid alone has no source there
        unknown = aliasing > ALIASING or not np.isfinite(measured.source_share)
        return text if unknown else f"{text}, most of it from {measured.source}"
    if all(v in HOLDS for v in found.lee_verdict.values):
        return f"translations{along} hold"
    if aliasing > 0.5:
        return f"translations{along} hold up to aliasing ({aliasing:.0%} of it gone at 2N)"
    text = f"shifts by whole cells{along} hold, by parts of a cell they do not"
    seen = np.isfinite(own["lee_fine"])
    return text if seen else f"{text} (not seen at 2N: {found.attrs['finer_grid']})"


def _points(found: object) -> str:
    """The dihedral group: all of it, some elements, or nothing."""
    point = found.kind.values == "point"
    name = f"D{(point.sum() + 1) // 2}"  # the identity has no row
    holds = [v in HOLDS for v in found.verdict.values[point]]
    kept = [str(g) for g, one in zip(found.element.values[point], holds, strict=True) if one]
    if all(holds):
        return f"{name} holds"
    return f"{name} violated but for {', '.join(kept)}" if kept else f"{name} violated"


def number(value: float) -> str:
    """Percent, or a power of ten for what is exact."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.0e}" if value < 1e-3 else f"{100 * value:.1f} %"


def cells(name: str, case: Case, grid: int, size: int, measured: Measured) -> tuple[str, ...]:
    """One row of the table."""
    own = facts(measured)
    share = own["source_share"]
    source = f"{measured.source} ({share:.0%})" if np.isfinite(share) else "–"
    shown = ("whole", "half", "turn", "reflection", "lee_median", "lee_fine")
    numbers = [number(own[key]) for key in shown]
    along = " × ".join(map(str, dict.fromkeys(points(case.bundle, grid))))
    return (name, along, f"{size:,}", *numbers, source, in_words(measured, case.axes))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print and record the table."""
    options = parser().parse_args(arguments)
    size = Size(options.width, options.n_modes, options.layers)
    rows, kept = [], []
    for name, case in cases().items():
        if options.models and name not in options.models:
            continue
        grid = options.grid + case.more_points
        try:
            model = lively(case, size, fields(grid, options.samples, bundle=case.bundle))
        except ImportError:
            rows.append((name, *["–"] * 9, "not installed (pip install 'fieldsym[peers,sfno]')"))
            continue
        measured = measure(model, grid, options.samples, bundle=case.bundle, group=case.group)
        rows.append(cells(name, case, grid, real_parameters(model), measured))
        kept += [
            (f"{name}, N = {grid}", key, value, f"{options.samples} fields")
            for key, value in facts(measured).items()
            if np.isfinite(value)
        ]
        sys.stderr.write(f"{name}: {rows[-1][-1]}\n")
    report(
        "Audit: largest median defect relative to the fluctuation of the output; Lie derivative "
        f"(LEE) per correlation length; untrained weights of seed 0, width {size.width}, n_modes "
        f"{size.n_modes} or {size.n_modes - 1}, {size.layers} layers, {options.samples} fields",
        HEADER,
        rows,
    )
    record("audit", kept)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--grid", type=int, default=64)
    options.add_argument("--width", type=int, default=32)
    options.add_argument("--n-modes", type=int, default=17, help="odd; one fewer where even")
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--samples", type=int, default=4)
    options.add_argument("--models", nargs="+", help="rows of the table by name; default all")
    return options


if __name__ == "__main__":
    main()
