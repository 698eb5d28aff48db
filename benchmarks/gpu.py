"""On a GPU: exactness, speed against neuraloperator, and the share of the memory bandwidth.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --cases 256,33,32 --layer 128,33,32

The cases of speed.py and layer.py on CUDA, timed by events of the device after warm-up, TF32 off
for all operators (with it neither values nor symmetries hold to float32). "Times faster" refers to
the first operator of a case: neuraloperator's, or where that is not installed ours without a group.
Equivariance errors are those of the whole operator with random weights, every element of the group
and a shift by whole cells. Bandwidth: bytes that a layer has to move at least (field in, field out,
weights once) over its time, as a share of what a copy of a large tensor reaches in the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from common import (
    Timing,
    integers,
    interleaved,
    mebibytes,
    real_parameters,
    record,
    report,
    training_step,
)
from layer import both_ways, layers, own_layers
from speed import CASES, inference, models, own_models
from torch import nn

import fieldsym as fs

COPY = 2**28  # numbers in the tensor whose copy shows the bandwidth: 1 GiB in float32
LAYER_KINDS = ("forward", "forward and backward")


def cuda_clock(call: Callable[[], object]) -> float:
    """Seconds of a call on the device, from event to event."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def peak_cuda_memory(call: Callable[[], object]) -> int:
    """Largest number of bytes allocated during a call, beyond what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def on_device(
    build: Callable[[], dict[str, nn.Module]], build_own: Callable[[], dict[str, nn.Module]]
) -> dict[str, nn.Module]:
    """The operators on the device, the peer first; ours alone where the peer is not installed."""
    try:
        zoo = build()
    except ModuleNotFoundError:
        zoo = build_own()
    return {name: module.cuda() for name, module in zoo.items()}


def versus(times: dict[str, Timing], name: str) -> tuple[float, str]:
    """How many times faster than the first one, with the spread."""
    first = next(iter(times.values()))
    return times[name].times_faster_than(first), times[name].spread_against(first)


def worst_equivariance(group: fs.Group, dtype: torch.dtype, grid: int) -> float:
    """Largest ‖F(g·x) − g·F(x)‖ / ‖F(x)‖ over the group and a shift by whole cells."""
    torch.manual_seed(0)
    bundle = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + pseudoscalar w + vector u")
    model = fs.FNO(bundle, bundle, group=group, n_modes=17, hidden_channels=32)
    model = model.to("cuda", dtype)
    x = torch.randn(4, bundle.channels, grid, grid, dtype=dtype, device="cuda")
    shift = fs.Element(np.eye(2), np.array([1, 2]) / grid)
    with torch.no_grad():
        y = model(x)
        errors = [
            (model(fs.act(g, x, bundle)) - fs.act(g, y, bundle)).norm() / y.norm()
            for g in (*group.elements, shift)
        ]
    return float(max(errors))


def exactness() -> None:
    """Print and record the equivariance errors, odd and even grids, both precisions."""
    rows, facts = [], []
    for group in (fs.groups.cyclic(4), fs.groups.dihedral(4)):
        row = [group.name]
        for dtype in (torch.float32, torch.float64):
            error = max(worst_equivariance(group, dtype, grid) for grid in (64, 63))
            row.append(f"{error:.1e}")
            facts.append((group.name, f"worst error {dtype}", error, "maximum"))
        rows.append(row)
    report(f"Equivariance error on {torch.cuda.get_device_name()}",
           ("group", "float32, TF32 off", "float64"), rows)  # fmt: skip
    record("gpu, equivariance", facts)


def model_rows(case: tuple[int, ...], options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Rows of one case: training step, inference and memory of every operator."""
    grid, n_modes, batch = case
    torch.manual_seed(0)
    zoo = on_device(
        partial(models, options.width, n_modes, 4), partial(own_models, options.width, n_modes, 4)
    )
    x, y = torch.randn(2, batch, 1, grid, grid, device="cuda")
    calls = {n: partial(inference, m.eval(), x) for n, m in zoo.items()}
    memory = {name: peak_cuda_memory(call) for name, call in calls.items()}
    forwards = interleaved(calls, rounds=options.rounds, warm_up=5, clock=cuda_clock)
    steps = interleaved(
        {
            name: partial(training_step, model, torch.optim.Adam(model.train().parameters()), x, y)
            for name, model in zoo.items()
        },
        rounds=options.rounds,
        warm_up=5,
        clock=cuda_clock,
    )
    label = f"{grid}², n_modes {n_modes}, batch {batch}"
    first = next(iter(zoo))
    rows, facts = [], []
    for name, model in zoo.items():
        step, forward = versus(steps, name), versus(forwards, name)
        less = memory[first] / memory[name]
        rows.append(
            (
                label,
                name,
                f"{real_parameters(model):,}",
                str(steps[name]),
                "{:.2f} ({})".format(*step),
                str(forwards[name]),
                "{:.2f} ({})".format(*forward),
                f"{mebibytes(memory[name])} ({less:.2f})",
            )
        )
        facts += [
            (name, f"training step: {first} / this", *step),
            (name, f"inference: {first} / this", *forward),
            (name, f"peak memory: {first} / this", less, "one call"),
        ]
    record(f"gpu, speed, {label}", facts)
    return rows


def copy_bandwidth(rounds: int) -> float:
    """Bytes per second that a copy reads and writes."""
    source, target = (torch.empty(COPY, device="cuda") for _ in range(2))
    timing = interleaved({"copy": partial(target.copy_, source)}, rounds=rounds, clock=cuda_clock)
    return 2 * source.nbytes / timing["copy"].median


def layer_rows(case: tuple[int, ...], options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Rows of the spectral layer: seconds, ratio and share of the bandwidth."""
    grid, n_modes, batch = case
    torch.manual_seed(0)
    zoo = on_device(
        partial(layers, options.width, n_modes), partial(own_layers, options.width, n_modes)
    )
    x = torch.randn(batch, options.width, grid, grid, device="cuda")
    tracked, cotangent = x.clone().requires_grad_(), torch.randn_like(x)
    measure = partial(interleaved, rounds=options.rounds, warm_up=5, clock=cuda_clock)
    times = (
        measure({n: partial(inference, m, x) for n, m in zoo.items()}),
        measure({n: partial(both_ways, m, tracked, cotangent) for n, m in zoo.items()}),
    )
    bandwidth = copy_bandwidth(options.rounds)
    label = f"{grid}², n_modes {n_modes}, batch {batch}, width {options.width}"
    rows, facts = [], []
    for name, model in zoo.items():
        least = 2 * x.nbytes + 4 * real_parameters(model)
        share = least / times[0][name].median / bandwidth
        cells = [label, name]
        for kind, found in zip(LAYER_KINDS, times, strict=True):
            ratio, spread = versus(found, name)
            cells += [str(found[name]), f"{ratio:.2f} ({spread})"]
            facts.append((name, f"{kind}: {next(iter(zoo))} / this", ratio, spread))
        rows.append((*cells, f"{share:.2f} of {bandwidth / 1e12:.2f} TB/s"))
        facts.append((name, "share of the copy bandwidth, forward", share, "median"))
    record(f"gpu, layer, {label}", facts)
    return rows


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    metavar = "GRID,N_MODES,BATCH"
    options.add_argument(
        "--cases", type=integers, nargs="+", default=(*CASES, (256, 33, 32)), metavar=metavar
    )
    options.add_argument(
        "--layer", type=integers, nargs="+", default=((128, 33, 8), (128, 33, 64)), metavar=metavar
    )
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--rounds", type=int, default=30)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA device here: speed.py and layer.py measure the same on a CPU.")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    exactness()
    where = (
        f"{torch.cuda.get_device_name()}, width {options.width}, seed 0, {options.rounds} rounds"
    )
    header = ("case", "layer", "forward", "times faster", "forward and backward", "times faster",
              "share of the bandwidth, forward")  # fmt: skip
    rows = [row for case in options.layer for row in layer_rows(case, options)]
    report(f"Spectral layer, {where}", header, rows)
    header = ("case", "model", "real parameters", "training step", "times faster", "inference",
              "times faster", "peak memory (times less)")  # fmt: skip
    rows = [row for case in options.cases for row in model_rows(case, options)]
    report(f"Speed against neuraloperator, {where}", header, rows)


if __name__ == "__main__":
    main()
