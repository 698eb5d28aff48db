"""Symmetry cloning: does a symmetric start help where the data break the symmetry?

    python benchmarks/cloning.py              # three seeds; a few minutes
    python benchmarks/cloning.py --quick      # one tiny run, to see that it works

Two-dimensional Navier–Stokes flow in vorticity form on a 32² torus as in ``side_by_side.py``, with
something that turns with no element of D4:

* wind (default): a uniform wind along x carries the vortices by 0.03 of the box in the unit of
  time. It keeps the translations;
* forcing: the source "sin+cos" of Li et al., times 2. It breaks the translations as well, so the
  free operators get the coordinates as inputs.

16 or 64 labelled pairs w(0) ↦ w(1), 128 test pairs, and initial fields without labels for the
cloning.

* plain: an FNO trained on the labelled pairs;
* enforced: an FNO built for D4, trained on the same pairs. It cannot follow what breaks D4;
* cloned: the plain FNO trained to imitate the enforced one on unlabelled fields;
* cloned, then fine-tuned: that one trained on the labelled pairs, with a fifth of the learning rate
  (chosen on another seed than those of the table).

Every training on labelled pairs has equally many steps; Adam in batches of 8, the learning rate
falling as a cosine. "not rotating" is how far the operator is from commuting with a quarter turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from common import mean_and_spread, record, report
from side_by_side import AMPLITUDE, BASE, D4, GRID, PSEUDO, RATE, ROTATION, batches, relative
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.cloning import clone

Pairs = tuple[Tensor, Tensor]
Solve = Callable[[Tensor], Tensor]
STRENGTH = {"wind": 0.03, "forcing": 2.0}
ROWS = ("plain", "enforced", "cloned", "cloned, then fine-tuned")
METRICS = ("test", "not rotating")
UNLABELLED = 10_000  # number of the first field without a label


def flow(breaking: str, strength: float) -> Solve:
    """w(0) to w(1) with a wind or a forcing that breaks D4."""
    forced = {"forcing": "sin+cos", "amplitude": strength} if breaking == "forcing" else {}
    solve = fs.simulate.navier_stokes(BASE, time=1.0, viscosity=1e-3, **forced)
    if breaking == "forcing":
        return solve
    drift = fs.Element(np.eye(2), np.array([strength, 0.0]))
    return lambda w: fs.act(drift, solve(w), PSEUDO)  # as seen from where the wind blows


def initial(first: int, count: int, seed: int) -> Tensor:
    """Initial fields number ``first`` and following of a seed, (count, 1, 32, 32), float64."""
    options = {"batch": count, "first": first, "seed": seed}
    return AMPLITUDE * fs.simulate.random_vorticity(BASE, (GRID, GRID), **options)


def simulate(solve: Solve, first: int, count: int, seed: int) -> Pairs:
    """Labelled pairs, float32."""
    w = initial(first, count, seed)
    with torch.no_grad():
        y = torch.cat([solve(part) for part in w.split(64)])
    return w.float(), y.float()


def fit(model: nn.Module, x: Tensor, y: Tensor, steps: int, rate: float, seed: int) -> nn.Module:
    """Train on labelled pairs, in place."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for index in batches(len(x), steps, seed):
        optimiser.zero_grad()
        relative(model(x[index]), y[index]).mean().backward()
        optimiser.step()
        schedule.step()
    return model


@torch.no_grad()
def scores(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Error on the test pairs, and how far the operator is from commuting with a quarter turn."""
    value, turned = (
        torch.cat([model(part) for part in u.split(64)]) for u in (x, fs.act(ROTATION, x, PSEUDO))
    )
    errors = relative(value, y), relative(turned, fs.act(ROTATION, value, PSEUDO))
    return {m: float(e.mean()) for m, e in zip(METRICS, errors, strict=True)}


def run(options: argparse.Namespace, seed: int, train: Pairs, test: Pairs) -> dict:
    """Errors of the four rows for one seed and number of labelled pairs."""
    size = {"n_modes": options.n_modes, "hidden_channels": options.width}
    free = size | {"positional_embedding": "grid" if options.breaking == "forcing" else None}
    torch.manual_seed(seed)
    plain, student = (fs.FNO(PSEUDO, PSEUDO, **free) for _ in range(2))
    enforced = fs.FNO(PSEUDO, PSEUDO, group=D4, **size)
    steps = options.steps
    found = {
        "plain": scores(fit(plain, *train, steps, RATE, seed), *test),
        "enforced": scores(fit(enforced, *train, steps, RATE, seed), *test),
    }
    clone(
        student,
        enforced,
        lambda step: initial(UNLABELLED + 8 * step, 8, seed).float(),
        steps=options.clone_steps,
        learning_rate=RATE,
        seed=seed,
    )
    found["cloned"] = scores(student, *test)
    tuned = fit(student, *train, steps, RATE / 5, seed)
    found["cloned, then fine-tuned"] = scores(tuned, *test)
    return found


def summary(options: argparse.Namespace, results: dict[int, list[dict]]) -> None:
    """Print and record one table of all numbers of labelled pairs."""
    rows, facts = [], []
    for fields, runs in results.items():
        for name in ROWS:
            cells = []
            for metric in METRICS:
                mean, spread = mean_and_spread([found[name][metric] for found in runs])
                cells.append(f"{100 * mean:.2f} ± {100 * spread:.2f}")
                facts.append((f"{name}, {fields} fields", metric, mean, spread))
            rows.append((str(fields), name, *cells))
    report(
        f"Navier–Stokes 32² with {options.breaking} {options.strength:g}, width {options.width}, "
        f"n_modes {options.n_modes}, {options.steps} steps on labelled pairs and "
        f"{options.clone_steps} of cloning, {options.seeds} seeds: relative L2 errors in %",
        ("labelled pairs", "operator", "test", "not rotating"),
        rows,
    )
    record(f"cloning, {options.breaking}", facts)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--fields", type=int, nargs="+", default=[16, 64])
    options.add_argument("--steps", type=int, default=300, help="on labelled pairs")
    options.add_argument("--clone-steps", type=int, default=400)
    options.add_argument("--width", type=int, default=16, help="hidden channels")
    options.add_argument("--n-modes", type=int, default=13)
    options.add_argument("--breaking", choices=STRENGTH, default="wind", help="what breaks D4")
    options.add_argument("--strength", type=float, help="of what breaks D4; 0 for nothing")
    options.add_argument("--tests", type=int, default=128, help="test pairs")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--quick", action="store_true", help="one tiny run")
    return options


QUICK = {
    **{"seeds": 1, "fields": [4], "tests": 4, "threads": 1},
    **{"steps": 2, "clone_steps": 2, "width": 8, "n_modes": 3},
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    if options.strength is None:
        options.strength = STRENGTH[options.breaking]
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    solve, results = (
        flow(options.breaking, options.strength),
        {fields: [] for fields in options.fields},
    )
    for seed in range(options.seeds):
        test = simulate(solve, 0, options.tests, seed)
        train = simulate(solve, options.tests, max(options.fields), seed)
        for fields in options.fields:
            found = run(options, seed, tuple(part[:fields] for part in train), test)
            results[fields].append(found)
            errors = ", ".join(f"{name} {100 * found[name]['test']:.2f} %" for name in ROWS)
            sys.stderr.write(f"seed {seed}, {fields} fields: {errors}\n")
    summary(options, results)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
