"""Data, operators and training of ``dose.py``.

The forcing f = a (sin + cos)(2π(x + y)) breaks all of D4 and the translations along (1, 1); those
along (1, −1) stay. Every method has the width, the number of optimiser steps and the order of the
fields of the others.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from side_by_side import AMPLITUDE, BASE, D4, GRID, PSEUDO, Pairs, batches, relative
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.data.augment import RandomAction
from fieldsym.group import Generator

VISCOSITY, RATE, FEW = 1e-3, 5e-3, 16
# Of a translation: only the few weights of the coordinates can break it. In this unit both singular
# values together weigh about as much at the start as the seven elements of D4.
UNIT = 30
TRANSLATIONS = fs.groups.translations(2)
DATA, PLAIN, ENFORCED = "data", "plain", "enforced"
AUGMENTED, PROMOTED = "augmented", "promoted"
RELAXED = "relaxed"  # promoted with the strength 0


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    fields: int = 64
    test: int = 128
    steps: int = 400
    width: int = 16
    n_modes: int = 9
    layers: int = 3


@dataclass(frozen=True)
class Task:
    """One line of the results: a training run, or the measures of the flow itself ("data")."""

    dose: float
    seed: int
    kind: str
    strength: float  # of the penalty; 0 but for "promoted"
    size: Size
    pace: float = 1.0  # learning rate of the residuals over that of the others


def flow(dose: float) -> nn.Module:
    """The map w(0) ↦ w(1) with the forcing ``dose`` (sin + cos)(2π(x + y))."""
    return fs.simulate.navier_stokes(
        BASE, time=1.0, viscosity=VISCOSITY, forcing="sin+cos", amplitude=10 * dose
    )


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def simulate(dose: float, seed: int, size: Size) -> tuple[Pairs, ...]:
    """Training, validation and test pairs (n, 1, 32, 32), float32; w(0) is the same at any dose."""
    counts = [size.fields, size.fields, size.test]
    grid = (GRID, GRID)
    x = AMPLITUDE * fs.simulate.random_vorticity(BASE, grid, batch=sum(counts), seed=seed)
    y = torch.cat([flow(dose)(part) for part in x.split(64)])
    return tuple(zip(x.float().split(counts), y.float().split(counts), strict=True))


def operator(size: Size, **options: object) -> fs.FNO:
    """The operator of every method, up to its group and its coordinates."""
    return fs.FNO(
        PSEUDO,
        PSEUDO,
        n_modes=size.n_modes,
        hidden_channels=size.width,
        n_layers=size.layers,
        **options,  # type: ignore[arg-type]
    )


def symmetric(size: Size) -> tuple[fs.FNO, Tensor]:
    """The plain operator with weights projected on D4, and the columns of its coordinates.

    The weights are larger before the projection, which keeps 1/8 of their mean square.
    """
    model = operator(size, positional_embedding="grid")
    first = model.lifting.first.weight.matrices  # (1, 1, rows, vorticity and two coordinates)
    with torch.no_grad():
        coordinates = first[..., 1:].clone()
        for name, weight in model.named_parameters():
            if "weight" in name:
                weight *= D4.order**0.5
    fs.project_(model, D4, PSEUDO, PSEUDO)
    return model, coordinates


def relaxed(size: Size) -> nn.Module:
    """The symmetric operator, relaxed, with the columns of the coordinates as in the plain one.

    Where these are zero the loss is stationary in them.
    """
    model, coordinates = symmetric(size)
    with torch.no_grad():
        model.lifting.first.weight.matrices[..., 1:] = coordinates
    return fs.relax(model, D4 * TRANSLATIONS, PSEUDO, PSEUDO)


def build(task: Task) -> nn.Module:
    """The operator of a kind, with the initial weights of its seed.

    Enforced and promoted start from the same symmetric weights.
    """
    torch.manual_seed(task.seed)
    if task.kind == PROMOTED:
        return relaxed(task.size)
    if task.kind == ENFORCED:
        return fs.enforce(symmetric(task.size)[0], D4 * TRANSLATIONS, PSEUDO, PSEUDO)
    return operator(task.size, positional_embedding="grid")


def promotion(model: nn.Module) -> fs.Promotion:
    """The penalty on all candidates, with translations in units of their own."""
    scaled = tuple(Generator(xi.name, xi.matrix, UNIT * xi.shift) for xi in TRANSLATIONS.generators)
    candidates = D4 * replace(TRANSLATIONS, generators=scaled)
    return fs.promote(model, candidates, PSEUDO, PSEUDO, level="weights")


class Augment:
    """Moves a batch by one random element of D4, and shifts it by random whole cells."""

    def __init__(self, seed: int) -> None:
        self.turn = RandomAction(D4, PSEUDO, PSEUDO, seed=seed)

    def __call__(self, x: Tensor, y: Tensor) -> Pairs:
        x, y = self.turn(x, y)
        shift = torch.randint(GRID, (2,), generator=self.turn.generator).tolist()
        return x.roll(shift, (-2, -1)), y.roll(shift, (-2, -1))


def parts(model: nn.Module, residuals: Sequence[Tensor], rate: float) -> list[dict]:
    """Groups of an optimiser: the residuals have a learning rate of their own."""
    own = {id(p) for p in residuals}
    others = [p for p in model.parameters() if id(p) not in own]
    return [{"params": others}, *([{"params": residuals, "lr": rate}] if residuals else [])]


def snap(model: nn.Module, pairs: Pairs) -> bool:
    """Set the residuals to zero for good if no candidate is broken by more than the operator errs.

    Both are measured at training fields. A symmetry cannot be seen more sharply than that.
    """
    found = broken(model, pairs[0][:FEW])
    if max(*found["singular values"], *found["elements"].values()) > error(model, pairs):
        return False
    for residual in fs.residual_parameters(model):
        residual.detach().zero_()
        residual.requires_grad_(False)
    return True


def fit(model: nn.Module, pairs: Pairs, task: Task) -> float:
    """Train in place; process seconds of the loop.

    The penalty moves the residuals alone: it is relative to the size of all weights, and would
    lower itself by inflating the symmetric ones. After half of the steps what is not broken is
    snapped.
    """
    penalty = promotion(model) if task.kind == PROMOTED else None
    residuals = fs.residual_parameters(model) if penalty is not None else []
    move = Augment(task.seed) if task.kind == AUGMENTED else None
    optimizer = torch.optim.Adam(parts(model, residuals, task.pace * RATE), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.size.steps)
    start = time.process_time()
    for step, index in enumerate(batches(len(pairs[0]), task.size.steps, task.seed)):
        if penalty is not None and step == task.size.steps // 2 and snap(model, pairs):
            penalty = None
        x, y = (part[index] for part in pairs)
        if move is not None:
            x, y = move(x, y)
        optimizer.zero_grad()
        relative(model(x), y).mean().backward()
        if penalty is not None and task.strength:
            (task.strength * penalty()).backward(inputs=residuals)
        optimizer.step()
        schedule.step()
    return time.process_time() - start


@torch.no_grad()
def error(model: Callable[[Tensor], Tensor], pairs: Pairs) -> float:
    """Mean relative L2 error."""
    parts = zip(*(part.split(64) for part in pairs), strict=True)
    return float(torch.cat([relative(model(x), y) for x, y in parts]).mean())


@torch.no_grad()
def broken(model: Callable[[Tensor], Tensor], x: Tensor) -> dict:
    """What an operator breaks at some fields, relative to the fluctuation of its output.

    Singular values over the translations, and the first direction; the defects of D4 by name.
    """
    penalty = fs.promote(model, D4 * TRANSLATIONS, PSEUDO, PSEUDO)
    penalty(x)
    defects = penalty.element_defects
    return {
        "singular values": penalty.singular_values.tolist(),
        "direction": penalty.directions[0].tolist(),
        "elements": {g.name: defects[g.name] for g in D4.elements[1:]},
    }


def run(task: Task) -> dict:
    """Train and score one operator, or measure the flow itself."""
    train, valid, test = simulate(task.dose, task.seed, task.size)
    few = test[0][:FEW]
    if task.kind == DATA:
        return broken(flow(task.dose), few[:4].double())
    model = build(task)
    seconds = fit(model, train, task)
    found = {"seconds": seconds, "valid": error(model, valid), "test": error(model, test)}
    if task.kind == PROMOTED:
        found["snapped"] = not any(p.requires_grad for p in fs.residual_parameters(model))
    return {**found, **broken(model, few)}
