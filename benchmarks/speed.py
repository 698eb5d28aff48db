"""Speed: training step, inference and memory of the D4 FNO against neuraloperator's FNO.

    python benchmarks/speed.py                           # 64², 128², 256² with n_modes 17 and 33
    python benchmarks/speed.py --cases 128,33,8 --rounds 15

Same width, modes, layers, grid and batch. A training step is forward, mean squared error, backward
and Adam; inference is a forward pass under ``torch.inference_mode``. Medians of interleaved rounds
(smallest and largest in brackets), every operator in a process of its own, and how many times
faster than the peer in the same run. Memory is measured twice: what tensors of a first inference
hold at most beyond weights and input (tables that are kept included, scratch space inside libraries
not seen), and by how much the process grows at most in a second one. Run it with nothing else on
the machine.

The operator without a group stands beside it: what the engine saves, told apart from what the
symmetry does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from apart import apart, in_turn
from common import (
    Timing,
    integers,
    mebibytes,
    neuralop_fno,
    peak_extra_memory,
    peak_resident,
    real_parameters,
    record,
    report,
    training_step,
)
from torch import Tensor, nn

import fieldsym as fs

PEER, FREE, OURS = "neuraloperator FNO", "fs.FNO, no group", "fs.FNO, D4"
CASES = ((64, 17, 8), (64, 33, 8), (128, 17, 8), (128, 33, 8), (256, 17, 4), (256, 33, 4))
METRICS = ("training step", "inference", "tensor memory", "process memory", "parameters")
ASKED = dict(zip(METRICS, (2, 3, 4, 4, 6), strict=True))  # peer / ours
MEMORIES = METRICS[2:4]
Facts = dict[str, tuple[float, str]]  # metric: ratio PEER / OURS and its spread


def models(width: int, n_modes: int, layers: int) -> dict[str, nn.Module]:
    """The peer, and ours without and with the group."""
    peer = neuralop_fno(width, n_modes, n_layers=layers)
    return {PEER: peer, **own_models(width, n_modes, layers)}


def own_models(width: int, n_modes: int, layers: int) -> dict[str, nn.Module]:
    """Ours without and with the group."""
    w = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
    size = {"n_modes": n_modes, "hidden_channels": width, "n_layers": layers}
    return {
        FREE: fs.FNO(w, w, **size),
        OURS: fs.FNO(w, w, group=fs.groups.dihedral(4), **size),
    }


def inference(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)


def programs(
    kind: str, name: str, case: tuple[int, ...], width: int, layers: int
) -> dict[str, Callable[[], object]]:
    """What is measured of one operator: inference and its memory, or a training step."""
    grid, n_modes, batch = case
    torch.manual_seed(0)
    build = models if name == PEER else own_models
    model = build(width, n_modes, layers)[name].train(kind == "training step")
    x, y = torch.randn(2, batch, 1, grid, grid)
    if kind == "training step":
        optimiser = torch.optim.Adam(model.parameters())
        return {kind: partial(training_step, model, optimiser, x, y)}
    call = partial(inference, model, x)
    return {
        "tensor memory": partial(peak_extra_memory, call),
        "process memory": partial(peak_resident, call),
        kind: call,
    }


def measure(
    case: tuple[int, ...], options: argparse.Namespace
) -> tuple[dict[str, tuple[int, int | None]], dict[str, Timing], dict[str, Timing]]:
    """Peak bytes of inference (tensors, process), seconds of inference and of a training step."""
    times = {}
    for kind in ("inference", "training step"):
        subjects = {n: (kind, n, case, options.width, options.layers) for n in (PEER, FREE, OURS)}
        with apart(programs, subjects) as processes:
            if kind == "inference":
                memory = {n: tuple(map(p.ask, MEMORIES)) for n, p in processes.items()}
            times[kind] = in_turn(processes, kind, options.rounds)
    return memory, times["inference"], times["training step"]


def one_case(
    case: tuple[int, ...], options: argparse.Namespace
) -> tuple[list[tuple[str, ...]], dict[str, Facts]]:
    """Rows of the table, and every ratio to the peer, of one grid, n_modes and batch."""
    grid, n_modes, batch = case
    zoo = models(options.width, n_modes, options.layers)
    memory, forwards, steps = measure(case, options)
    rows, facts = [], {}
    for name, model in zoo.items():
        facts[name] = ratios = {
            "training step": _faster(steps, name),
            "inference": _faster(forwards, name),
            "tensor memory": _less(memory, name, 0),
            "process memory": _less(memory, name, 1),
            "parameters": (real_parameters(zoo[PEER]) / real_parameters(model), "exact"),
        }
        rows.append(
            (
                f"{grid}², n_modes {n_modes}, batch {batch}",
                name,
                f"{real_parameters(model):,} ({ratios['parameters'][0]:.1f})",
                str(steps[name]),
                "{:.2f} ({})".format(*ratios["training step"]),
                str(forwards[name]),
                "{:.2f} ({})".format(*ratios["inference"]),
                *(
                    f"{mebibytes(size)} ({ratios[kind][0]:.2f})"
                    for kind, size in zip(MEMORIES, memory[name], strict=True)
                ),
            )
        )
    return rows, facts


def _faster(times: dict[str, Timing], name: str) -> tuple[float, str]:
    peer = times[PEER]
    return times[name].times_faster_than(peer), times[name].spread_against(peer)


def _less(memory: dict[str, tuple[int, int | None]], name: str, kind: int) -> tuple[float, str]:
    peer, own = memory[PEER][kind], memory[name][kind]
    return (peer / own if peer and own else float("nan")), "one call"


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--cases", type=integers, nargs="+", default=CASES, metavar="GRID,N_MODES,BATCH"
    )
    options.add_argument("--width", type=int, default=64)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows, worst = [], dict.fromkeys(ASKED, float("inf"))
    for case in options.cases:
        added, facts = one_case(case, options)
        rows += added
        record(
            f"speed, {added[0][0]}",
            [
                (f"{name}, width {options.width}", f"{metric}: peer / this", ratio, spread)
                for name, ratios in facts.items()
                for metric, (ratio, spread) in ratios.items()
            ],
        )
        for metric, (ratio, _) in facts[OURS].items():
            worst[metric] = min(worst[metric], ratio)
        print(f"measured {added[0][0]}", flush=True)
    header = ("case", "model", "real parameters (fewer)", "training step", "times faster",
              "inference", "times faster", *(f"{m} (times less)" for m in MEMORIES))  # fmt: skip
    title = (
        f"Speed against neuraloperator: width {options.width}, {options.layers} layers, seed 0, "
        f"{options.rounds} rounds"
    )
    report(title, header, rows)
    for metric, asked in ASKED.items():
        least = f"at least {worst[metric]:.2f}" if worst[metric] < float("inf") else "not measured"
        print(f"{metric}: peer / D4 {least} (asked: {asked:g})", flush=True)


if __name__ == "__main__":
    main()
