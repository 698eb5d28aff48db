"""Accuracy: does an exact symmetry help on unforced Navier–Stokes?

    python benchmarks/accuracy.py                 # both tables, three seeds; about 40 minutes
    python benchmarks/accuracy.py --seeds 1 --data isotropic

200 training trajectories on 64², five intervals of 4 time units, viscosity 1e-4. Four operators
of one width, trained on the same windows for the same epochs: plain FNO, plain FNO with random D4
augmentation, the plain FNO averaged over D4 at test time, and the D4 FNO. Errors are relative L2,
one step ahead (as it is, rotated, reflected) and after a rollout of 10.

"isotropic" data are their own rotations in law; "oriented" data are trained with initial vorticity
stretched along one direction, so that rotated and reflected flows are new to a plain operator.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from common import mean_and_spread, real_parameters, record, report
from torch import Tensor

import fieldsym as fs
from fieldsym.config import TrainConfig
from fieldsym.simulate.random_fields import random_vorticity
from fieldsym.train import train

TRAIN, VALID, TEST = 200, 30, 60
LEARN = TRAIN + VALID + 1  # training leaves a test part of its own; ours is longer
TRAIN_STEPS, ROLLOUT, INTERVAL = 5, 10, 4.0
GROUP = fs.groups.dihedral(4)
ROTATION, REFLECTION = GROUP.elements[1], GROUP.elements[2]
CONFIG = TrainConfig(
    n_modes=17, hidden_channels=32, epochs=10, batch_size=20, learning_rate=4e-3,
    train=TRAIN / LEARN, valid=VALID / LEARN,
)  # fmt: skip
RUNS = {
    "plain FNO": CONFIG,
    "plain FNO + augmentation": replace(CONFIG, augment="dihedral(4)"),
    "D4 FNO": replace(CONFIG, group="dihedral(4)"),
}
AVERAGED = "plain FNO averaged over D4"
COLUMNS = ("one step", "rotated 90°", "reflected", "rollout of 10")


def oriented(w: Tensor) -> Tensor:
    """Keep what varies across one oblique direction: a spectrum that no reflection keeps."""
    n = w.shape[-1]
    k = torch.fft.fftfreq(n, 1 / n, dtype=w.dtype)
    along = 0.940 * k[:, None] + 0.342 * k[None, :]  # 20° from the x axis
    spectrum = torch.fft.fft2(w) * torch.exp(-((along / 1.0) ** 2))
    out = torch.fft.ifft2(spectrum).real
    return out * (w.std() / out.std())


def trajectories(kind: str, samples: int, steps: int, seed: int) -> Tensor:
    """(sample, time, 1, 64, 64), float32."""
    base = fs.Torus((1.0, 1.0))
    w = random_vorticity(base, (64, 64), batch=samples, seed=seed)
    w = oriented(w) if kind == "oriented" else w
    flow = fs.simulate.NavierStokes(base, time=INTERVAL, viscosity=1e-4, dt=0.04)
    states = [w]
    with torch.no_grad():
        for _ in range(steps):
            states.append(torch.cat([flow(part) for part in states[-1].split(29)]))
    return torch.stack(states, 1).float()


def fields_of(values: Tensor) -> fs.Fields:
    bundle = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
    return fs.Fields.of(bundle, values, units={"w": "s-1"})


def relative(prediction: Tensor, target: Tensor) -> float:
    error = (prediction - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
    return float(error.mean())


def averaged(model: fs.Surrogate) -> torch.nn.Module:
    """Mean of g⁻¹ F(g x) over the group: exact, at eight times the cost."""

    class Average(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            w = model.out_bundle
            parts = [fs.act(g.inverse, model(fs.act(g, x, w)), w) for g in GROUP.elements]
            return torch.stack(parts).mean(0)

    return Average()


@torch.no_grad()
def scores(model: torch.nn.Module, test: Tensor) -> dict[str, float]:
    """Errors on the test trajectories; one step ahead from the first five states."""
    w = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
    x, y = test[:, :TRAIN_STEPS].flatten(0, 1), test[:, 1 : TRAIN_STEPS + 1].flatten(0, 1)

    def error(g: fs.Element) -> float:
        pairs = zip(x.split(50), y.split(50), strict=True)
        moved = [(model(fs.act(g, a, w)), fs.act(g, b, w)) for a, b in pairs]
        return relative(torch.cat([m[0] for m in moved]), torch.cat([m[1] for m in moved]))

    state = test[:, 0]
    for _ in range(ROLLOUT):
        state = torch.cat([model(part) for part in state.split(20)])
    errors = (error(GROUP.elements[0]), error(ROTATION), error(REFLECTION))
    return dict(zip(COLUMNS, (*errors, relative(state, test[:, ROLLOUT])), strict=True))


def one_run(task: tuple[str, str, int, str]) -> tuple[str, str, int, dict, int]:
    """Train and score one operator; a process of its own, on one thread."""
    kind, name, seed, folder = task
    torch.set_num_threads(1)
    learn = torch.load(Path(folder) / f"{kind}_train.pt")
    test = torch.load(Path(folder) / f"{kind}_test.pt")
    config = replace(RUNS[name], seed=seed)
    out = Path(folder) / f"{kind}-{name.replace(' ', '_')}-{seed}"
    model = train(fields_of(learn), config, out, resume=(out / "last.pt").exists())
    found = {name: scores(model, test)}
    if name == "plain FNO":
        found[AVERAGED] = scores(averaged(model), test)
    sys.stderr.write(f"{kind}, seed {seed}: {found}\n")
    return kind, name, seed, found, real_parameters(model)


def make_data(task: tuple[str, str, str]) -> None:
    """Simulate one part of one kind of data; a process of its own, on one thread."""
    kind, part, folder = task
    torch.set_num_threads(1)
    path = Path(folder) / f"{kind}_{part}.pt"
    size = {"train": (LEARN, TRAIN_STEPS, 1), "test": (TEST, ROLLOUT, 2)}[part]
    if not path.exists():
        torch.save(trajectories(kind, *size), path)


def summary(kind: str, results: list[tuple[str, str, int, dict, int]]) -> None:
    """Print and record the table of one kind of data."""
    sizes: dict[str, int] = {}
    table: dict[str, dict[str, list[float]]] = {}
    for _, name, _, found, size in results:
        for row, errors in found.items():
            sizes[row] = sizes.get(name, size)
            for column, value in errors.items():
                table.setdefault(row, {}).setdefault(column, []).append(value)
    seeds = len(table["D4 FNO"]["one step"])
    order = ["plain FNO", "plain FNO + augmentation", AVERAGED, "D4 FNO"]
    rows, facts = [], []
    for name in order:
        cells = []
        for column in COLUMNS:
            mean, spread = mean_and_spread(table[name][column])
            several = len(table[name][column]) > 1
            cells.append(f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if several else ""))
            facts.append((name, column, mean, spread if several else "one seed"))
        rows.append((name, f"{sizes[name]:,}", *cells))
    spread_text = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    title = f"Unforced Navier–Stokes, {kind} training data: relative L2 error in % ({spread_text})"
    report(title, ("operator", "real parameters", *COLUMNS), rows)
    record(f"accuracy, {kind}", facts)
    for column in ("one step", "rollout of 10"):
        means = [mean_and_spread(table[n][column])[0] for n in ("D4 FNO", "plain FNO")]
        ratio = means[0] / means[1]
        print(f"D4 / plain, {column}: {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=["isotropic", "oriented"])
    parser.add_argument("--folder", type=Path, help="keep data and runs here, and go on from them")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fieldsym-accuracy-"))
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(kind, part, str(folder)) for kind in options.data for part in ("train", "test")]
    tasks = [
        (kind, name, seed, str(folder))
        for kind in options.data
        for seed in range(options.seeds)
        for name in RUNS
    ]
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(make_data, parts))
        results = list(pool.map(one_run, tasks))
    for kind in options.data:
        summary(kind, [r for r in results if r[0] == kind])


if __name__ == "__main__":
    main()
