"""What every benchmark shares: the machine in words, tables, and the record in reference.csv."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

RECORD = Path(__file__).with_name("reference.csv")
COLUMNS = ("benchmark", "case", "metric", "value", "spread", "machine", "versions")


def machine() -> str:
    """Processor, cores and threads."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> str:
    """Versions that the figures depend on."""
    return ", ".join(f"{p} {version(p)}" for p in ("torch", "neuraloperator", "fieldsym"))


def record(benchmark: str, rows: Iterable[tuple[str, str, float, float | str]]) -> None:
    """Replace the rows of a benchmark in reference.csv: (case, metric, value, spread)."""
    old = []
    if RECORD.exists():
        with RECORD.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if row["benchmark"] != benchmark]
    new = [
        {
            "benchmark": benchmark,
            "case": case,
            "metric": metric,
            "value": f"{value:.4g}",
            "spread": spread if isinstance(spread, str) else f"{spread:.2g}",
            "machine": machine(),
            "versions": versions(),
        }
        for case, metric, value, spread in rows
    ]
    part = RECORD.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *new])
    part.replace(RECORD)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as the README shows it."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def report(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a titled table with the machine and the versions below it."""
    print(f"\n{title}\n\n{markdown(header, rows)}\n\n{machine()}; {versions()}.", flush=True)


def real_parameters(model: torch.nn.Module) -> int:
    """Real numbers that are trained; a complex one counts twice."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())


def mean_and_spread(values: Mapping[int, float] | Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of the sample) over seeds."""
    numbers = torch.tensor(list(values.values()) if isinstance(values, Mapping) else list(values))
    return float(numbers.mean()), float(numbers.std()) if len(numbers) > 1 else 0.0
