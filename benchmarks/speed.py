"""Speed: one training step and one forecast of the D4 FNO against neuraloperator's FNO.

    python benchmarks/speed.py

Same width, modes, layers, grid and batch; Adam; medians of interleaved repeats in one process, and
the ratio to neuraloperator in the same run. Run it with nothing else on the machine.
"""

from __future__ import annotations

import statistics
import time
import warnings

import torch
from common import real_parameters, record, report

import fieldsym as fs

CASES = ((64, 32, 17, 8), (64, 64, 17, 8), (64, 64, 33, 8), (128, 64, 17, 4), (128, 64, 33, 4))
REPEATS, WARM_UP = 9, 2


def models(width: int, n_modes: int) -> dict[str, torch.nn.Module]:
    """The peer, and ours without and with the group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.models import FNO

    w = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
    size = {"n_modes": n_modes, "hidden_channels": width}
    return {
        "neuraloperator FNO": FNO(
            n_modes=(n_modes, n_modes),
            in_channels=1,
            out_channels=1,
            hidden_channels=width,
            positional_embedding=None,
        ),
        "fs.FNO, no group": fs.FNO(w, w, **size),
        "fs.FNO, D4": fs.FNO(w, w, group=fs.groups.dihedral(4), **size),
    }


def step_time(model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> float:
    start = time.perf_counter()
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    return time.perf_counter() - start


@torch.no_grad()
def forward_time(model: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    model(x)
    return time.perf_counter() - start


def measure(grid: int, width: int, n_modes: int, batch: int) -> dict[str, tuple[float, float]]:
    """Median seconds of a step and of a forward pass for every model."""
    torch.manual_seed(0)
    zoo = models(width, n_modes)
    optimizers = {name: torch.optim.Adam(model.parameters()) for name, model in zoo.items()}
    x = torch.randn(batch, 1, grid, grid)
    steps: dict[str, list[float]] = {name: [] for name in zoo}
    forwards: dict[str, list[float]] = {name: [] for name in zoo}
    for repeat in range(WARM_UP + REPEATS):
        for name, model in zoo.items():
            one, two = step_time(model, optimizers[name], x), forward_time(model, x)
            if repeat >= WARM_UP:
                steps[name].append(one)
                forwards[name].append(two)
    return {n: (statistics.median(steps[n]), statistics.median(forwards[n])) for n in zoo}


def main() -> None:
    rows, facts = [], []
    for grid, width, n_modes, batch in CASES:
        times = measure(grid, width, n_modes, batch)
        peer = times["neuraloperator FNO"]
        sizes = {name: real_parameters(model) for name, model in models(width, n_modes).items()}
        case = f"{grid}², width {width}, n_modes {n_modes}, batch {batch}"
        for name, (step, forward) in times.items():
            rows.append(
                (
                    case,
                    name,
                    f"{sizes[name]:,}",
                    f"{1e3 * step:.0f} ms",
                    f"{step / peer[0]:.2f}",
                    f"{1e3 * forward:.0f} ms",
                    f"{forward / peer[1]:.2f}",
                )
            )
            facts += [(f"{name}, {case}", "training step ratio", step / peer[0], "median of 9")]
            facts += [(f"{name}, {case}", "forward ratio", forward / peer[1], "median of 9")]
        print(f"measured {case}", flush=True)
    header = ("case", "model", "real parameters", "training step", "ratio", "forward", "ratio")
    report("Speed against neuraloperator", header, rows)
    record("speed", facts)


if __name__ == "__main__":
    main()
