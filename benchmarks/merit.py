"""Figures of merit of symmetric and plain operators: one command, one table, one page.

    python benchmarks/merit.py                        # three seeds; about ten minutes on two cores
    python benchmarks/merit.py --quick --out runs/quick

Accuracy, parameters, data efficiency, cost, robustness and interpretability, the list of Bogatskiy
et al. 2022 (arXiv:2203.06153), for a D4 operator, a plain one, the same with augmentation, and
neuraloperator's. Data and training are those of side_by_side.py: decaying Navier–Stokes flow on
32², w(0) ↦ w(1). Every seed has its own fields, weights and order. Two runs at a time, each on one
core; seconds are process time. What is finished stays in results.jsonl, and a call that was
interrupted goes on from there.

* Data efficiency: test error against the number n of training fields, and the exponent b of
  error ∝ n^−b, fitted for every seed (mean ± standard error over the seeds).
* Off distribution: test fields turned by 90°, reflected, or with a rougher spectrum (α = 2).
* Interpretability: energy of the multipliers R(k) of the spectral layers by angular order, least
  squares R(k) ≈ Σ_{|n| ≤ 4} R_n e^{inθ} + S (|k| − r) on rings |k| ≈ r = 3, 4, …. R(−k) is the
  conjugate of R(k), so that the half plane says it all. The same for the response of the whole
  operator at rest, where the flow has order 0 alone and D4 allows 0, 4, 8, ….
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import side_by_side as side
import torch
from common import mean_and_spread, real_parameters, record, report
from merit_orders import LABELS, Found, angular_energy, orders_of
from merit_page import page, picture
from side_by_side import Entry, Task
from torch import Tensor, nn

import fieldsym as fs

ROWS = {
    "D4 FNO": side.RIGHT,
    "plain FNO": side.PLAIN,
    "plain FNO + augmentation": "plain FNO + augmentation",
    "neuraloperator FNO": "neuraloperator FNO",
}
ROUGH = 2.0  # exponent α of the rougher spectrum; that of the training is 2.5


def rough_fields(count: int, seed: int) -> side.Pairs:
    """Pairs as those of the training, from initial vorticity with more small scales."""
    grid = (side.GRID, side.GRID)
    w = fs.simulate.random_vorticity(side.BASE, grid, batch=count, seed=seed, alpha=ROUGH)
    w = w / w.std()
    with torch.no_grad():
        return w.float(), fs.simulate.navier_stokes(side.BASE, time=1.0, viscosity=1e-3)(w).float()


def run(task: Task, entry: Entry, train: side.Pairs, test: side.Pairs, rough: side.Pairs) -> Found:
    """Train one operator and measure all of its figures."""
    torch.manual_seed(task.seed)
    model = entry.build(task.width, task.n_modes)
    x, y = (part[: task.fields] for part in train)
    seconds = side.fit(model, x, y, task, augmented=entry.augmented)
    found = {"parameters": real_parameters(model), "training": seconds}
    found |= side.scores(model, *test)
    with torch.no_grad():
        found["inference"] = inference(model, test[0][:32])
        found["rougher"] = float(side.relative(model(rough[0]), rough[1]).mean())
    return {**asdict(task), **found, **orders_of(model, task.n_modes)}


def inference(model: nn.Module, x: Tensor, rounds: int = 5) -> float:
    """Process seconds per field, median of some rounds."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        model(x)
        spent.append((time.process_time() - start) / len(x))
    return float(np.median(spent))


@cache
def pairs(seed: int, tests: int, most: int) -> tuple[side.Pairs, side.Pairs, side.Pairs]:
    """Training, test and rougher fields of one seed."""
    train = side.simulate(tests, most, seed)
    return train, side.simulate(0, tests, seed), rough_fields(tests, 1000 + seed)


def one(task: Task, tests: int, most: int) -> Found:
    """One run, in whatever process."""
    torch.set_num_threads(1)
    return run(task, side.zoo(None)[ROWS[task.model]], *pairs(task.seed, tests, most))


def run_all(tasks: Sequence[Task], tests: int, path: Path, workers: int) -> list[Found]:
    """All runs, some at a time; those of an earlier call are taken from the file."""
    done, most = side.read_results(path), max(task.fields for task in tasks)
    left = [task for task in tasks if task not in done]
    do = partial(one, tests=tests, most=most)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for task, found in zip(left, pool.map(do, left) if workers > 1 else map(do, left),
                               strict=True):  # fmt: skip
            done[task] = found
            with path.open("a") as file:
                file.write(f"{json.dumps(found)}\n")
            sys.stderr.write(f"{task}: {100 * found['test']:.2f} %\n")
    return [done[task] for task in tasks]


# Figures ------------------------------------------------------------------------------------------


def exponent(errors: dict[int, float]) -> float:
    """b of error ∝ n^−b, by least squares in logarithms."""
    n, e = (np.log(list(values)) for values in (errors.keys(), errors.values()))
    return float(-np.polyfit(n, e, 1)[0])


class Merit:
    """The runs of one operator, and its figures as (mean, spread over the seeds)."""

    def __init__(self, name: str, runs: Iterable[Found]) -> None:
        self.name = name
        self.runs = [found for found in runs if found["model"] == name]
        self.sizes = sorted({found["fields"] for found in self.runs})
        self.full = [found for found in self.runs if found["fields"] == self.sizes[-1]]

    def figure(self, key: str) -> tuple[float, float]:
        """A figure at the largest number of fields."""
        return mean_and_spread([float(found[key]) for found in self.full])

    def errors(self) -> dict[int, tuple[float, float]]:
        """Test error by number of training fields."""
        return {
            n: mean_and_spread([found["test"] for found in self.runs if found["fields"] == n])
            for n in self.sizes
        }

    def exponent(self) -> tuple[float, float]:
        """Exponent of the error, and its standard error over the seeds."""
        seeds = sorted({found["seed"] for found in self.runs})
        each = [
            exponent({f["fields"]: f["test"] for f in self.runs if f["seed"] == seed})
            for seed in seeds
        ]
        mean, spread = mean_and_spread(each)
        return mean, spread / math.sqrt(len(each))

    def orders(self, key: str) -> np.ndarray:
        """Share of the energy in every angular order."""
        return np.mean([found[key] for found in self.full], axis=0)


def percent(pair: tuple[float, float]) -> str:
    """Mean ± spread in percent, or a power of ten for what is exact."""
    mean, spread = pair
    return f"{mean:.0e}" if mean < 1e-4 else f"{100 * mean:.2f} ± {100 * spread:.2f} %"


def shares(values: np.ndarray) -> str:
    """Shares in percent, one after the other."""
    return " / ".join(f"{100 * value:.0f}" for value in values)


def white(n_modes: int) -> str:
    """What weights without any structure would have."""
    generator = torch.Generator().manual_seed(0)
    return shares(angular_energy(torch.randn(n_modes, n_modes, 1000, generator=generator)))


def figures(merit: Merit) -> dict[str, str]:
    """The column of one operator."""
    time_ms = [1e3 * value for value in merit.figure("inference")]
    training, slope, most = merit.figure("training"), merit.exponent(), merit.sizes[-1]
    return {
        f"accuracy: test error, {most} fields": percent(merit.figure("test")),
        "real parameters": f"{merit.full[0]['parameters']:,}",
        **{f"data: test error, {n} fields": percent(e) for n, e in merit.errors().items()},
        "data: exponent b of error ∝ n^−b": f"{slope[0]:.2f} ± {slope[1]:.2f}",
        "cost: training, process seconds": f"{training[0]:.1f} ± {training[1]:.1f}",
        "cost: inference, ms per field": f"{time_ms[0]:.2f} ± {time_ms[1]:.2f}",
        "robust: turned by 90°": percent(merit.figure("rotated")),
        "robust: reflected": percent(merit.figure("reflected")),
        f"robust: rougher spectrum, α = {ROUGH:g}": percent(merit.figure("rougher")),
        "symmetry: defect of the quarter turn": percent(merit.figure("not rotating")),
        "symmetry: defect of the reflection": percent(merit.figure("not reflecting")),
        f"weights: energy in order {' / '.join(LABELS)}, % "
        f"(white noise {white(merit.full[0]['n_modes'])})": shares(merit.orders("weights")),
        f"at rest: energy in order {' / '.join(LABELS)}, %": shares(merit.orders("at rest")),
    }


def facts(merit: Merit) -> list[tuple[str, str, float, float | str]]:
    """What is recorded of one operator."""
    keys = ("test", "training", "inference", "rotated", "reflected", "rougher", "not rotating")
    rows = [(merit.name, key, *merit.figure(key)) for key in (*keys, "parameters")]
    rows += [(merit.name, f"test, {n} fields", *e) for n, e in merit.errors().items()]
    rows.append((merit.name, "exponent", *merit.exponent()))
    for key in ("weights", "at rest"):
        energies = zip(LABELS, merit.orders(key), strict=True)
        rows += [(merit.name, f"{key}, order {n}", float(e), "") for n, e in energies]
    return rows


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--fields", type=int, nargs="+", default=[16, 32, 64, 128])
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--width", type=int, default=24, help="hidden channels")
    options.add_argument("--n-modes", type=int, default=15)
    options.add_argument("--tests", type=int, default=128, help="test fields")
    options.add_argument("--workers", type=int, default=2, help="runs at a time, on one core each")
    options.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    options.add_argument("--out", type=Path, default=Path("runs/merit"))
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print and record the table, and write the page."""
    options = parser().parse_args(arguments)
    if options.quick:
        small = {"seeds": 2, "fields": [4, 8], "steps": 2, "width": 8, "n_modes": 9, "tests": 4}
        vars(options).update(small, workers=1)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    size = (options.steps, options.width, options.n_modes)
    tasks = [
        Task(name, fields, seed, *size)
        for seed in range(options.seeds)
        for fields in options.fields
        for name in ROWS
    ]
    found = run_all(tasks, options.tests, options.out / "results.jsonl", options.workers)
    merits = [Merit(name, found) for name in ROWS]
    columns = {merit.name: figures(merit) for merit in merits}
    rows = [(key, *(c[key] for c in columns.values())) for key in columns[merits[0].name]]
    title = (
        f"Decaying Navier–Stokes 32², width {options.width}, n_modes {options.n_modes}, "
        f"{options.steps} steps, {options.seeds} seeds (mean ± standard deviation; of the exponent "
        "± standard error)"
    )
    report(f"Figures of merit. {title}", ("figure", *columns), rows)
    record("merit", [row for merit in merits for row in facts(merit)])
    png = picture(merits)
    (options.out / "merit.png").write_bytes(png)
    (options.out / "merit.html").write_text(page(title, ("figure", *columns), rows, png))
    print(f"page: {options.out / 'merit.html'}", flush=True)


if __name__ == "__main__":
    main()
