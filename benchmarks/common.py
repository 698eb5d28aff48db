"""What every benchmark shares: the machine in words, tables, and the record in reference.csv."""

from __future__ import annotations

import csv
import ctypes
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RECORD = Path(__file__).with_name("reference.csv")
COLUMNS = ("benchmark", "case", "metric", "value", "spread", "machine", "versions")


def machine() -> str:
    """Processor, cores and threads, and the GPU where there is one."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}"


def versions() -> str:
    """Versions that the figures depend on; a peer that is absent is left out."""
    found = []
    for package in ("torch", "neuraloperator", "torch-harmonics", "fieldsym"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def record(benchmark: str, rows: Iterable[tuple[str, str, float, float | str]]) -> None:
    """Put rows of a benchmark into reference.csv: (case, metric, value, spread).

    They take the place of rows with their case and metric; those of cases that were not run stay. A
    run that only shows that a program works (``--quick``) leaves no trace.
    """
    if "--quick" in sys.argv:
        return
    new = {
        (benchmark, case, metric): {
            "benchmark": benchmark,
            "case": case,
            "metric": metric,
            "value": f"{value:.4g}",
            "spread": spread if isinstance(spread, str) else f"{spread:.2g}",
            "machine": machine(),
            "versions": versions(),
        }
        for case, metric, value, spread in rows
    }
    found = {}
    if RECORD.exists():
        with RECORD.open(newline="") as file:
            old = list(csv.DictReader(file))
        found = {(row["benchmark"], row["case"], row["metric"]): row for row in old}
    found |= new
    part = RECORD.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found.values())
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


@dataclass(frozen=True)
class Timing:
    """Seconds of one program in every round of an interleaved measurement."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.rounds)

    def times_faster_than(self, other: Timing) -> float:
        """How often this program runs while the other runs once: ratio of the medians."""
        return other.median / self.median

    def spread_against(self, other: Timing) -> str:
        """Smallest and largest ratio within one round, "2.1-2.4"."""
        ratios = [b / a for a, b in zip(self.rounds, other.rounds, strict=True)]
        return f"{min(ratios):.2f}-{max(ratios):.2f}"

    def __str__(self) -> str:
        scaled = [1e3 * t for t in (self.median, min(self.rounds), max(self.rounds))]
        digits = 2 if scaled[0] < 10 else 0
        return f"{scaled[0]:.{digits}f} ms ({scaled[1]:.{digits}f}-{scaled[2]:.{digits}f})"


Clock = Callable[[Callable[[], object]], float]


def wall_clock(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 2,
    clock: Clock = wall_clock,
) -> dict[str, Timing]:
    """Time every call once per round, in turn: a disturbance of the machine meets all of them.

    Every round starts with another call, so that none always follows the same one.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            one = clock(calls[name])
            if number >= warm_up:
                seconds[name].append(one)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def peak_extra_memory(call: Callable[[], object]) -> int:
    """Largest number of bytes that tensors of a call hold at once, beyond what was there before.

    The running sum of the allocations and releases that torch's profiler sees, results and tables
    kept for later calls included. Scratch space inside the libraries (FFT, matrix products) is not
    seen, for any operator. Measure the first call: what it keeps for later is paid for there.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes to the terminal otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        activity = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[activity], profile_memory=True) as profile:
            kept = call()
        del kept
    results = profile.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def peak_resident(call: Callable[[], object]) -> int | None:
    """Largest growth in bytes of the process while a call runs, as the operating system sees it.

    Counts what ``peak_extra_memory`` cannot see: scratch space of libraries, and other threads.
    Call once before, so that libraries and tables are loaded. None where the system does not tell.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give free pages back: reused ones would not count
        reset.write_text("5")  # the high-water mark starts again from here
        before = _kibibytes(status, "VmRSS")
        kept = call()
        peak = _kibibytes(status, "VmHWM")
    except (OSError, AttributeError, StopIteration):
        return None
    del kept
    return 1024 * max(0, peak - before)


def _kibibytes(status: Path, name: str) -> int:
    lines = status.read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def mebibytes(size: int | None) -> str:
    """For tables; a dash for what could not be measured."""
    return "-" if size is None else f"{size / 2**20:.0f} MiB"


def neuralop_fno(
    width: int, n_modes: int, channels: tuple[int, int] = (1, 1), **options: object
) -> torch.nn.Module:
    """The peer: neuraloperator's FNO in two dimensions, without positional embedding.

    The options are its own. It is imported here: it is slow to import, and may be absent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it and tensorly-torch warn when they are imported
        from neuralop.models import FNO

    return FNO(
        n_modes=(n_modes, n_modes),
        in_channels=channels[0],
        out_channels=channels[1],
        hidden_channels=width,
        positional_embedding=None,
        **options,
    )


def neuralop_spectral(width: int, n_modes: int) -> torch.nn.Module:
    """neuraloperator's spectral convolution between equally wide fields, without bias."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuralop.layers.spectral_convolution import SpectralConv

    return SpectralConv(width, width, (n_modes, n_modes), bias=False)


def training_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> None:
    """Forward, mean squared error, backward, one step of the optimiser."""
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()


def integers(text: str) -> tuple[int, ...]:
    """``"64,17,8"`` as numbers, for command lines."""
    return tuple(int(part) for part in text.split(","))
