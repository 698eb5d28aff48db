"""How long a full evaluation takes, with everything in the report.

    python benchmarks/evaluation.py                    # 64², 32 fields, width 64, n_modes 17

The group is dihedral(4) × se(2), 15 elements and 3 generators; targets, a reference operator, a
region, curves, bands, a finer grid and layers are all on. The operators are not trained, which the
time does not depend on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from common import neuralop_fno, record, report

import fieldsym as fs

BASE = fs.Torus((1.0, 1.0))
W = fs.Bundle(BASE, "pseudoscalar w")
GROUP = fs.groups.dihedral(4) * fs.groups.se(2)


def progress(name: str) -> Callable[[int, int, str], None]:
    """One line on the terminal that is written again and again."""

    def show(done: int, total: int, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{name}: {done}/{total} {what:<50}", end="", file=sys.stderr, flush=True)

    return show


def seconds(name: str, model: torch.nn.Module, x: torch.Tensor) -> tuple[float, dict[str, int]]:
    """Seconds of one evaluation, and how many elements and generators it measured."""
    flow = fs.simulate.heat_flow(BASE, 1e-3)
    start = time.perf_counter()
    found = fs.evaluate(
        model, GROUP, x, W, W, truth=flow, region=BASE.disk(0.4), progress=progress(name)
    )
    return time.perf_counter() - start, dict(found.sizes)


def models(width: int, n_modes: int) -> dict[str, torch.nn.Module]:
    """Ours without and with a group, and neuraloperator's where it is installed."""
    options = {"n_modes": n_modes, "hidden_channels": width}
    zoo: dict[str, torch.nn.Module] = {
        "fs.FNO": fs.FNO(W, W, **options),
        "fs.FNO, D4": fs.FNO(W, W, group=fs.groups.dihedral(4), **options),
    }
    try:
        zoo["neuraloperator FNO"] = neuralop_fno(width, n_modes)
    except ImportError:
        print("neuraloperator is not installed")
    return zoo


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--width", type=int, default=64, help="a multiple of 8")
    parser.add_argument("--n-modes", type=int, default=17)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    x = fs.testing.random_section(W, (options.grid, options.grid), batch=options.samples)
    rows, facts = [], []
    for name, model in models(options.width, options.n_modes).items():
        took, sizes = seconds(name, model, x)
        counts = (f"{sizes['element']}", f"{sizes['generator']}")
        rows.append((name, *counts, f"{took:.1f}"))
        facts.append((name, f"seconds, {'+'.join(counts)} symmetries", took, 0.0))
    record("evaluation", facts)
    size = f"{options.samples} fields of {options.grid}², width {options.width}"
    report(
        f"A full evaluation, {size}, n_modes {options.n_modes}, one run each",
        ("operator", "elements", "generators", "seconds"),
        rows,
    )


if __name__ == "__main__":
    main()
