"""Small side-by-side: what the right symmetry is worth, and what the wrong one costs.

    python benchmarks/side_by_side.py --folder runs/side       # five seeds; about half an hour
    python benchmarks/side_by_side.py --path ../AIRS --folder runs/side    # beside G-FNO as well

Decaying two-dimensional Navier–Stokes flow in vorticity form on a 32² torus, viscosity 1e-3,
Gaussian initial vorticity (α = 2.5, τ = 7) of unit variance, one input frame w(0) ↦ w(1). The
symmetry of the data is known: D4, under which vorticity is a *pseudo*scalar, times the
translations. 16 or 128 training fields, 400 Adam steps of batch 8, learning rate 2e-3 falling as a
cosine, 256 test fields.

Every seed has its own fields, initial weights and order. One thread; seconds are process time of
the training loop. With --folder every finished run is a line of results.jsonl there, and a call
that was interrupted goes on from these lines.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import mean_and_spread, neuralop_fno, real_parameters, record, report
from gfno import Frames, load_gfno
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.data.augment import RandomAction

GRID, TEST, BATCH, RATE = 32, 256, 8, 2e-3
AMPLITUDE = 3.8  # times the spectrum of Li et al. is unit variance: w(1) differs from w(0) by 43 %
BASE = fs.Torus((1.0, 1.0))
SCALAR, PSEUDO = (fs.Bundle(BASE, f"{parity} w") for parity in ("scalar", "pseudoscalar"))
C4, D4 = fs.groups.cyclic(4), fs.groups.dihedral(4)
ROTATION, REFLECTION = D4.elements[1], D4.elements[2]
TARGETS = {16: 0.12, 128: 0.05}
Pairs = tuple[Tensor, Tensor]
METRICS = ("seconds", "test", "rotated", "reflected", "not rotating", "not reflecting")
PLAIN, RIGHT, WRONG = "plain FNO", "D4 FNO, pseudoscalar", "D4 FNO, scalar (wrong parity)"


@dataclass(frozen=True)
class Task:
    """One training run; the key of its line in the results."""

    model: str
    fields: int
    seed: int
    steps: int
    width: int
    n_modes: int


@dataclass(frozen=True)
class Entry:
    """A row of the table: how to build the operator, whether its training data are augmented."""

    build: Callable[[int, int], nn.Module]
    augmented: bool = False


def ours(bundle: fs.Bundle, group: fs.Group | None, share: float = 1.0) -> Callable[..., nn.Module]:
    """Builder of fs.FNO; ``share`` of the width."""

    def build(width: int, n_modes: int) -> nn.Module:
        width = max(1, round(share * width))
        return fs.FNO(bundle, bundle, group=group, n_modes=n_modes, hidden_channels=width)

    return build


def zoo(path: Path | None) -> dict[str, Entry]:
    """Operators by name; G-FNO's own widths are those that match FNO's parameters in its paper."""
    entries = {
        PLAIN: Entry(ours(PSEUDO, None)),
        "plain FNO, parameters of D4": Entry(ours(PSEUDO, None, share=8**-0.5)),
        "neuraloperator FNO": Entry(neuralop_fno),
        "plain FNO + augmentation": Entry(ours(PSEUDO, None), augmented=True),
        "C4 FNO": Entry(ours(PSEUDO, C4)),
        WRONG: Entry(ours(SCALAR, D4)),
        RIGHT: Entry(ours(PSEUDO, D4)),
    }
    if path is not None:
        peer = load_gfno(path)
        for name, width, reflection in (("p4 w10", 10, False), ("p4m w7, scalar", 7, True)):

            def build(_: int, n_modes: int, width: int = width, r: bool = reflection) -> nn.Module:
                return Frames(peer(1, n_modes // 2 + 1, width, 1, r, "None"))

            entries[f"G-FNO {name}"] = Entry(build)
    return entries


def simulate(first: int, count: int, seed: int) -> Pairs:
    """Pairs w(0), w(1) number ``first`` and following of a seed, (count, 1, 32, 32), float32."""
    w = fs.simulate.random_vorticity(BASE, (GRID, GRID), batch=count, first=first, seed=seed)
    w = AMPLITUDE * w
    flow = fs.simulate.navier_stokes(BASE, time=1.0, viscosity=1e-3)
    with torch.no_grad():
        y = torch.cat([flow(part) for part in w.split(64)])
    return w.float(), y.float()


def relative(prediction: Tensor, target: Tensor) -> Tensor:
    """Relative L2 error of every field."""
    return (prediction - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)


def batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices of every batch, all fields once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:BATCH]
        order = order[BATCH:]


def fit(model: nn.Module, x: Tensor, y: Tensor, task: Task, *, augmented: bool) -> float:
    """Train in place; process seconds of the loop."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
    move = RandomAction(D4, PSEUDO, PSEUDO, seed=task.seed)
    start = time.process_time()
    for index in batches(len(x), task.steps, task.seed):
        pair = move(x[index], y[index]) if augmented else (x[index], y[index])
        optimizer.zero_grad()
        relative(model(pair[0]), pair[1]).mean().backward()
        optimizer.step()
        schedule.step()
    return time.process_time() - start


@torch.no_grad()
def scores(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Errors on the test fields as they are and moved, and how far the operator is from D4."""
    model.eval()

    def apply(u: Tensor) -> Tensor:
        return torch.cat([model(part) for part in u.split(64)])

    plain = apply(x)
    turned, mirrored = (apply(fs.act(g, x, PSEUDO)) for g in (ROTATION, REFLECTION))
    found = {
        "test": relative(plain, y),
        "rotated": relative(turned, fs.act(ROTATION, y, PSEUDO)),
        "reflected": relative(mirrored, fs.act(REFLECTION, y, PSEUDO)),
        "not rotating": relative(turned, fs.act(ROTATION, plain, PSEUDO)),
        "not reflecting": relative(mirrored, fs.act(REFLECTION, plain, PSEUDO)),
    }
    return {name: float(errors.mean()) for name, errors in found.items()}


def run(task: Task, entry: Entry, train: Pairs, test: Pairs) -> dict:
    """Train and score one operator."""
    torch.manual_seed(task.seed)
    model = entry.build(task.width, task.n_modes)
    x, y = (part[: task.fields] for part in train)
    seconds = fit(model, x, y, task, augmented=entry.augmented)
    facts = {"parameters": real_parameters(model), "seconds": seconds}
    return {**asdict(task), **facts, **scores(model, *test)}


def read_results(path: Path) -> dict[Task, dict]:
    """Finished runs; a line that an interruption cut short is dropped from the file."""
    done: dict[Task, dict] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        done[Task(**{name: found[name] for name in Task.__dataclass_fields__})] = found
    if path.exists():
        part = path.with_suffix(".part")
        part.write_text("".join(f"{json.dumps(found)}\n" for found in done.values()))
        part.replace(path)
    return done


def run_all(tasks: Sequence[Task], entries: dict[str, Entry], path: Path) -> list[dict]:
    """All runs, seed by seed, those of an earlier call taken from the file."""
    done = read_results(path)
    for seed in sorted({task.seed for task in tasks if task not in done}):
        test = simulate(0, TEST, seed)
        train = simulate(TEST, max(task.fields for task in tasks), seed)
        for task in [task for task in tasks if task.seed == seed and task not in done]:
            done[task] = run(task, entries[task.model], train, test)
            with path.open("a") as file:
                file.write(f"{json.dumps(done[task])}\n")
            sys.stderr.write(f"{task}: {100 * done[task]['test']:.2f} %\n")
    return [done[task] for task in tasks]


def in_words(metric: str, values: list[float]) -> str:
    """Mean ± standard deviation, in seconds, in % or as the power of ten of an exact symmetry."""
    mean, spread = mean_and_spread(values)
    if metric.startswith("not") and mean < 1e-4:
        return f"{mean:.0e}"
    scale, digits = (1, 1) if metric == "seconds" else (100, 2)
    several = f" ± {scale * spread:.{digits}f}" if len(values) > 1 else ""
    return f"{scale * mean:.{digits}f}{several}"


def summary(fields: int, results: list[dict]) -> None:
    """Print and record the table of one number of training fields."""
    table: dict[str, list[dict]] = {}
    for found in results:
        table.setdefault(found["model"], []).append(found)
    rows, facts = [], []
    for name, runs in table.items():
        values = {metric: [found[metric] for found in runs] for metric in METRICS}
        cells = [in_words(metric, values[metric]) for metric in METRICS]
        rows.append((name, f"{runs[0]['parameters']:,}", str(len(runs)), *cells))
        for metric in METRICS:
            mean, spread = mean_and_spread(values[metric])
            facts.append((name, metric, mean, spread if len(runs) > 1 else "one seed"))
    some = results[0]
    title = (
        f"Decaying Navier–Stokes 32², {fields} training fields, {some['steps']} steps, width "
        f"{some['width']}, n_modes {some['n_modes']}: relative L2 errors in % (mean ± standard "
        "deviation over seeds)"
    )
    header = ("operator", "real parameters", "seeds", "training s", "test", "rotated",
              "pseudo-reflected", "not rotating", "not reflecting")  # fmt: skip
    report(title, header, rows)
    record(f"side by side, {fields} fields", facts)
    if PLAIN in table and RIGHT in table:
        verdict(fields, table)


def verdict(fields: int, table: dict[str, list[dict]]) -> None:
    """One sentence: error and time of the right parity against the plain operator."""
    (error, time_ours), (plain, time_plain) = (
        [mean_and_spread([found[m] for found in table[name]])[0] for m in ("test", "seconds")]
        for name in (RIGHT, PLAIN)
    )
    target = f" (asked: at most {100 * TARGETS[fields]:.0f} %)" if fields in TARGETS else ""
    print(
        f"{fields} fields: {RIGHT} {100 * error:.2f} %{target}, plain {100 * plain:.2f} %, in "
        f"{time_ours / time_plain:.2f} of its training time",
        flush=True,
    )


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--fields", type=int, nargs="+", default=[16, 128])
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--width", type=int, default=32, help="hidden channels of ours")
    options.add_argument("--n-modes", type=int, default=15)
    options.add_argument("--models", nargs="+", help="rows of the table by name; default all")
    options.add_argument("--path", type=Path, help="a checkout of AIRS, for rows of G-FNO")
    options.add_argument("--peer-seeds", type=int, default=1, help="seeds of the rows of G-FNO")
    options.add_argument("--folder", type=Path, help="keep results here, and go on from them")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    entries = zoo(options.path)
    chosen = options.models or list(entries)
    if unknown := set(chosen) - set(entries):
        sys.exit(f"unknown models {sorted(unknown)}; there are {', '.join(entries)}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fieldsym-side-by-side-"))
    folder.mkdir(parents=True, exist_ok=True)
    size = (options.steps, options.width, options.n_modes)
    tasks = [
        Task(name, fields, seed, *size)
        for seed in range(options.seeds)
        for fields in options.fields
        for name in chosen
        if not name.startswith("G-FNO") or seed < options.peer_seeds
    ]
    results = run_all(tasks, entries, folder / "results.jsonl")
    for fields in options.fields:
        summary(fields, [found for found in results if found["fields"] == fields])


if __name__ == "__main__":
    main()
