"""What promoting costs: a training step with a penalty, in units of a plain one.

    python benchmarks/promote_cost.py               # 64², batch 8, width 64, n_modes 17
    python benchmarks/promote_cost.py --quick       # sizes that only show that it runs

Candidates: the three generators of se(2) and the seven other elements of D4. Penalties of the
weights, all in every step or in turns (``estimator="one"``); of the operator, along one direction
or for one element per step, on an eighth of the batch (``estimator="one"``), and along all of them
on the whole batch. Our own FNO without
a group, and neuraloperator's, promoted as it is. Forward, loss, backward and a step of Adam, in
interleaved rounds in one process: ratio of the medians, and of the means, which see that every
tenth step along one direction looks at all of them. The level of the weights is timed apart from
that of the operator, with three times as many rounds: a step along all directions takes gigabytes,
and what the system clears after it would be counted with the step that comes next.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from common import Timing, interleaved, neuralop_fno, record, report, training_step
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import fieldsym as fs

GAMMA = 1e-3
LIMITS = {"weights in turns": 1.05, "one direction": 2.0}
Fields = tuple[Tensor, Tensor]


def step_with_weights(
    model: nn.Module, optimizer: torch.optim.Optimizer, penalty: fs.Promotion, x: Tensor, y: Tensor
) -> None:
    """The task loss and the penalty of the weights, which needs no fields."""
    optimizer.zero_grad()
    (mse_loss(model(x), y) + GAMMA * penalty()).backward()
    optimizer.step()


def step_with_output(
    optimizer: torch.optim.Optimizer, penalty: fs.Promotion, x: Tensor, y: Tensor
) -> None:
    """The task loss and the penalty of the operator, which share what they can."""
    optimizer.zero_grad()
    output, value = penalty.with_output(x)
    (mse_loss(output, y) + GAMMA * value).backward()
    optimizer.step()


Programs = dict[str, Callable[[], object]]


def programs(model: nn.Module, bundle: fs.Bundle, fields: Fields) -> tuple[Programs, Programs]:
    """A plain step and one with each penalty; they train the same model in turn."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    candidates = fs.groups.se(2) * fs.groups.dihedral(4)
    promoted = partial(fs.promote, model, candidates, bundle, bundle)
    disk = bundle.base.disk(0.4)  # rotations are no symmetry of the seam
    one, every = (promoted(region=disk, estimator=name) for name in ("one", "all"))
    turns, weights = (promoted(level="weights", estimator=name) for name in ("one", "all"))
    plain = partial(training_step, model, optimizer, *fields)
    return {
        "plain": plain,
        "weights": partial(step_with_weights, model, optimizer, weights, *fields),
        "weights in turns": partial(step_with_weights, model, optimizer, turns, *fields),
    }, {
        "plain": plain,
        "one direction": partial(step_with_output, optimizer, one, *fields),
        "all directions": partial(step_with_output, optimizer, every, *fields),
    }


def rows_of(name: str, found: dict[str, Timing]) -> tuple[list[list[str]], list[tuple]]:
    """Rows of the table, and what is kept of them, of steps that were timed together."""
    rows, facts = [], []
    plain = found.pop("plain")
    for penalty, timing in found.items():
        ratio, spread = plain.times_faster_than(timing), plain.spread_against(timing)
        mean = statistics.fmean(timing.rounds) / statistics.fmean(plain.rounds)
        limit = f"{LIMITS[penalty]:g}" if penalty in LIMITS else ""
        rows.append([name, penalty, f"{ratio:.2f} ({spread})", f"{mean:.2f}", limit, str(timing)])
        facts.append((name, f"{penalty} / plain step", ratio, spread))
        facts.append((name, f"{penalty} / plain step, means", mean, ""))
    return rows, facts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="a multiple of 8")
    parser.add_argument("--n-modes", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=20, help="a multiple of 10")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    options = parser.parse_args(arguments)
    if options.quick:
        options.grid, options.batch, options.width, options.n_modes, options.rounds = 16, 4, 8, 5, 1
    torch.manual_seed(0)
    flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
    width, n_modes = options.width, options.n_modes
    models = {
        "FNO": fs.FNO(flow, flow, n_modes=n_modes, hidden_channels=width),
        "neuraloperator FNO": neuralop_fno(width, n_modes, (3, 3)),
    }
    fields = torch.randn(2, options.batch, 3, options.grid, options.grid).unbind()
    rows, facts = [], []
    for name, model in models.items():
        for level, factor in zip(programs(model, flow, fields), (3, 1), strict=True):
            found = interleaved(level, rounds=factor * options.rounds)
            for kept, added in zip((rows, facts), rows_of(name, found), strict=True):
                kept += added
    record("promote_cost", facts)
    report(
        f"A training step with a penalty in units of a plain one, {options.grid}², batch "
        f"{options.batch}, width {width}, n_modes {n_modes}, se(2) and D4, seed 0, "
        f"{3 * options.rounds} and {options.rounds} rounds",
        ("model", "penalty", "medians", "means", "at most", "step"),
        rows,
    )


if __name__ == "__main__":
    main()
