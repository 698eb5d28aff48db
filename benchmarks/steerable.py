"""Rotations by any angle: how far steerable convolutions commute with them off the grid.

    python benchmarks/steerable.py

A localised analytic field (Gaussians times polynomials) on 64 × 64 points is rotated by 30° in
closed form; the output is evaluated at the rotated points by its own Fourier series, exactly. Rows
are profiles of the symbol with a cutoff of 12 waves, columns types of fields, figures ‖F(g·u) −
g·F(u)‖ / ‖F(u) − mean‖, median over seeds of the weights. Below: the whole operator at three
amplitudes (what is left is aliasing of its nonlinearities), and the number of symbols per radial
function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from common import record, report
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.operators.harmonics import steerable_dimension
from fieldsym.operators.spectral import SpectralConv
from fieldsym.operators.steerable import SteerableConv

BASE = fs.Torus((1.0, 1.0))
TURN = fs.groups.so(2).exp([math.pi / 6])
SEEDS = range(5)
TENSOR = "symmetric traceless tensor"
PATHS = (
    ("scalar", "scalar"), ("scalar", "vector"), ("vector", "vector"), ("vector", TENSOR),
    (TENSOR, TENSOR),
)  # fmt: skip
# 39 modes taper at 0.65 · 19 = 12.4 waves, 45 at 14.3; without a taper 25 modes end at 12
PROFILES: dict[str, tuple[int, dict]] = {
    "zernike, taper (default)": (39, {}),
    "zernike, taper, 14 waves": (45, {}),
    "zernike, sharp disc": (25, {"taper": False}),
    "bspline, taper": (39, {"radial": "bspline", "taper": True}),
    "bspline, sharp disc": (25, {"radial": "bspline"}),
}
PAIRS = {
    2: (("scalar", "scalar"), ("scalar", "pseudoscalar"), ("scalar", "vector"),
        ("pseudoscalar", "vector"), ("vector", "vector"), ("vector", TENSOR), (TENSOR, TENSOR)),
    3: (("scalar", "scalar"), ("scalar", "vector"), ("vector", "vector"),
        ("scalar", "symmetric tensor"), ("vector", "symmetric tensor"),
        ("symmetric tensor", "symmetric tensor"), ("pseudoscalar", "scalar"),
        ("vector", "axial vector")),
}  # fmt: skip


def field(bundle: fs.Bundle, n: int, g: fs.Element | None = None, width: float = 0.045) -> Tensor:
    """A localised section (1, channel, n, n), moved by g in closed form."""
    stream = torch.Generator().manual_seed(0)
    draw = torch.randn(4, bundle.channels + 4, generator=stream, dtype=torch.float64)
    amplitude, centre, tilt = draw[:, :-4], 0.05 * draw[:, -4:-2], draw[:, -2:]
    if g is not None:
        turn = torch.from_numpy(g.matrix)
        amplitude = amplitude @ bundle.representation.rho(g).T
        centre, tilt = centre @ turn.T, tilt @ turn.T
    x = BASE.coordinates((n, n), centred=True)
    y = (x - centre[:, :, None, None]) / width
    shape = (1 + torch.einsum("jd,jd...->j...", tilt, y)) * torch.exp(-y.square().sum(1) / 2)
    return torch.einsum("jc,j...->c...", amplitude, shape)[None]


def turned(y: Tensor, bundle: fs.Bundle, g: fs.Element) -> Tensor:
    """g·y, the field evaluated at g⁻¹x by its Fourier series."""
    n = y.shape[-1]
    source = torch.from_numpy(g.matrix).T @ BASE.coordinates((n, n), centred=True).flatten(1) + 0.5
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    waves = [torch.exp(2j * math.pi * torch.outer(k, x)) for x in source]
    values = torch.fft.fft2(y, norm="forward") @ waves[1]
    values = (values * waves[0]).sum(-2).real
    return (bundle.representation.rho(g) @ values).view(y.shape)


def angle_error(
    operator: Callable[[Tensor], Tensor], source: fs.Bundle, target: fs.Bundle, n: int
) -> float:
    """Relative error of a rotation by 30° inside the disk of the box."""
    with torch.no_grad():
        moved, value = operator(field(source, n, TURN)), operator(field(source, n))
    want = turned(value, target, TURN)
    spread = turned(value - value.mean((-2, -1), keepdim=True), target, TURN)
    inside = BASE.disk(0.499).mask((n, n))
    return float(((moved - want) * inside).norm() / (spread * inside).norm())


def median(errors: list[float]) -> float:
    """Median over seeds."""
    return float(torch.tensor(errors, dtype=torch.float64).median())


def profile_errors(
    make: Callable[[fs.Representation, fs.Representation], nn.Module],
) -> list[float]:
    """Errors of one kind of convolution on every path."""
    errors = []
    for path in PATHS:
        source, target = (fs.Bundle(BASE, text) for text in path)
        per_seed = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            layer = make(source.representation, target.representation).double()
            per_seed.append(angle_error(layer, source, target, 64))
        errors.append(median(per_seed))
    return errors


def convolutions() -> list[tuple[str, list[float]]]:
    """The table of profiles, and a multiplier without any constraint beside it."""
    rows = []
    for name, (n_modes, options) in PROFILES.items():

        def steerable(
            rep_in: fs.Representation, rep_out: fs.Representation,
            modes: int = n_modes, options: dict = options,
        ) -> nn.Module:  # fmt: skip
            lengths = BASE.lengths
            return SteerableConv(rep_in, rep_out, fs.groups.so(2), lengths, (modes,) * 2, **options)

        rows.append((name, profile_errors(steerable)))
    free = fs.groups.trivial(2)
    rows.append(
        ("no constraint", profile_errors(lambda a, b: SpectralConv(a, b, free, (25, 25))))
    )  # fmt: skip
    return rows


def operators() -> list[tuple[str, list[float]]]:
    """The whole operator, one layer on a grid that resolves it, at three amplitudes."""
    source = fs.Bundle(BASE, "scalar p + vector u")
    target = fs.Bundle(BASE, "pseudoscalar w + vector u")
    errors: list[list[float]] = [[], [], []]
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = fs.SteerableFNO(
            source, target, group=fs.groups.so(2), n_modes=63, hidden_channels=16, n_layers=1
        ).double()
        for found, scale in zip(errors, (0.01, 0.1, 1.0), strict=True):
            found.append(angle_error(lambda u, s=scale, m=model: m(s * u), source, target, 96))
    return [("SteerableFNO, n_modes=63, 96 × 96", [median(found) for found in errors])]


def main() -> None:
    facts = []
    titled = (
        ("Off-grid rotation error of one convolution", [f"{a} → {b}" for a, b in PATHS],
         convolutions()),
        ("Off-grid rotation error of the operator", ["amplitude 0.01", "0.1", "1"], operators()),
    )  # fmt: skip
    for title, columns, rows in titled:
        short = [c.replace(TENSOR, "tensor") for c in columns]
        body = [[name, *(f"{e:.0e}" for e in errors)] for name, errors in rows]
        report(title, ["symbol", *short], body)
        facts += [
            (name, f"error {column}", e, "median of 5 seeds")
            for name, errors in rows
            for column, e in zip(short, errors, strict=True)
        ]
    dimensions = [
        [f"{dim}-D", f"{a} → {b}", *(str(steerable_dimension(b, a, dim, f)) for f in (False, True))]
        for dim, pairs in PAIRS.items()
        for a, b in pairs
    ]
    report("Symbols per radial function", ["base", "fields", "SO(d)", "O(d)"], dimensions)
    record("steerable", facts)


if __name__ == "__main__":
    main()
