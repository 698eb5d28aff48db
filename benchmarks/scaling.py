"""Scaling: seconds and bytes per grid point of the D4 FNO, from 64² to 1024².

    python benchmarks/scaling.py                       # 2^20 points per batch at every grid
    python benchmarks/scaling.py --points 262144 --grids 64 128 256 512

The modes are fixed, so that the cost should be that of reading and writing the fields: constant per
grid point. Every grid gets the batch that makes the number of points the same (at least one field):
a larger total alone would leave the caches. Memory is measured twice more with one single field,
where it should grow linearly with the points. Medians of rounds that go through all grids in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from common import interleaved, mebibytes, peak_extra_memory, record, report, training_step
from torch import Tensor

import fieldsym as fs

D4 = fs.groups.dihedral(4)
ASKED = 1.25  # largest cost per grid point over the smallest


def operator(width: int, n_modes: int) -> fs.FNO:
    w = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
    torch.manual_seed(0)
    return fs.FNO(w, w, group=D4, n_modes=n_modes, hidden_channels=width)


def inference(model: fs.FNO, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)


def one_step(model: fs.FNO, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    training_step(model, optimizer, x, x)


def measure(
    model: fs.FNO, grids: Sequence[int], points: int, rounds: int
) -> dict[str, dict[int, tuple[float, str]]]:
    """Per grid point, for every grid: seconds and bytes, with their spread."""
    optimizer = torch.optim.Adam(model.parameters())
    inputs = {n: torch.randn(max(1, points // n**2), 1, n, n) for n in grids}
    one_step(model, optimizer, inputs[min(grids)][:1])  # the optimiser allocates its state once
    calls = {
        "inference": {n: partial(inference, model, x) for n, x in inputs.items()},
        "training step": {n: partial(one_step, model, optimizer, x) for n, x in inputs.items()},
    }
    found: dict[str, dict[int, tuple[float, str]]] = {}
    for kind, of in calls.items():
        found[f"{kind}, bytes"] = {
            n: (peak_extra_memory(of[n]) / inputs[n].numel(), "one call") for n in grids
        }
        times = interleaved({str(n): of[n] for n in grids}, rounds=rounds, warm_up=1)
        found[f"{kind}, ns"] = {}
        for n in grids:
            seconds = [1e9 * t / inputs[n].numel() for t in times[str(n)].rounds]
            middle = 1e9 * times[str(n)].median / inputs[n].numel()
            found[f"{kind}, ns"][n] = (middle, f"{min(seconds):.0f}-{max(seconds):.0f}")
    found["inference of one field, bytes"] = {
        n: (peak_extra_memory(partial(inference, model, x[:1])) / n**2, "one call")
        for n, x in inputs.items()
    }
    return found


def rows_of(
    found: dict[str, dict[int, tuple[float, str]]], grids: Sequence[int], points: int
) -> list[tuple[str, ...]]:
    """One row per grid, and the ratio of the largest to the smallest."""
    rows = []
    for n in grids:
        cells = [f"{n}²", str(max(1, points // n**2))]
        for values in found.values():
            value, spread = values[n]
            cells.append(f"{value:.0f}" if spread == "one call" else f"{value:.0f} ({spread})")
        one = found["inference of one field, bytes"][n][0]
        rows.append((*cells, mebibytes(round(one * n**2))))
    ratios = [f"{largest_over_smallest(values):.2f}" for values in found.values()]
    return [*rows, ("largest / smallest", "", *ratios, "")]


def largest_over_smallest(values: dict[int, tuple[float, str]]) -> float:
    numbers = [value for value, _ in values.values()]
    return max(numbers) / min(numbers)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--grids", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    options.add_argument("--points", type=int, default=2**20, help="grid points of a batch")
    options.add_argument("--width", type=int, default=32, help="a multiple of 8")
    options.add_argument("--n-modes", type=int, default=17)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = operator(options.width, options.n_modes)
    found = measure(model, options.grids, options.points, options.rounds)
    header = ("grid", "batch", *(f"{kind} per point" for kind in found), "one field")
    title = (
        f"D4 fs.FNO, width {options.width}, n_modes {options.n_modes}, 4 layers, seed 0: cost per "
        f"grid point, median of {options.rounds} rounds (smallest-largest)"
    )
    report(title, header, rows_of(found, options.grids, options.points))
    record(
        "scaling",
        [
            (f"{n}², width {options.width}, n_modes {options.n_modes}", f"{kind} per point", *value)
            for kind, values in found.items()
            for n, value in values.items()
        ],
    )
    for kind, values in found.items():
        print(f"{kind}: largest / smallest {largest_over_smallest(values):.2f} (asked: {ASKED})")


if __name__ == "__main__":
    main()
