"""Training of a surrogate: windows of fields in, a checkpoint and its forecast errors out.

The loss is the relative L2 error in fibre norms of the normalised fields, with the quadrature
weights of the grid and inside the mask. After every epoch the run is saved whole, so an interrupted
training resumes to the same result; the surrogate of the best validation epoch is what is kept.

Lightning Fabric finds the accelerator and moves to it; the loop is the one below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fieldsym.action import act
from fieldsym.bundle import Bundle
from fieldsym.config import TrainConfig
from fieldsym.data.augment import RandomAction
from fieldsym.data.fields import Fields
from fieldsym.data.normalise import Normaliser
from fieldsym.data.steps import describe_step, usual_step
from fieldsym.data.windows import Windows, repeat, split
from fieldsym.errors import DataError
from fieldsym.group import Group, named
from fieldsym.surrogate import Surrogate, make_folder, read_checkpoint, save_json

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Progress = Callable[[int, int, dict[str, float]], None]
BEST, LAST, CURVE = "best.pt", "last.pt", "curve.json"
SMALLEST = 1e-7


@dataclass
class Run:
    """State of a training run between epochs.

    ``epoch`` counts finished epochs; ``best`` and ``best_epoch`` belong to the validation error.
    """

    epoch: int = 0
    best: float = math.inf
    best_epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


def relative_error(bundle: Bundle, prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Relative L2 error of each sample in fibre norms, (batch, channel, *grid) to (batch,).

    Parameters
    ----------
    bundle : of both fields
    weights : quadrature weights (*grid), zero outside the mask

    The smallest size is that of a field of 10⁻⁷: at rest and at a perfect forecast the error and
    its gradient are finite.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> wind = fs.Bundle(fs.Torus((2.0, 3.0)), "vector u")
    >>> y = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    >>> relative_error(wind, 1.5 * y, y, wind.base.weights((4, 6)).float())
    tensor([0.5000])
    """
    axes = tuple(range(-bundle.base.dim, 0))
    error = (bundle.squared_norm(prediction - target) * weights).sum(axes)
    size = (bundle.squared_norm(target) * weights).sum(axes)
    size = size.clamp_min(SMALLEST**2 * float(weights.sum()))
    # the slope of a square root is infinite at 0
    return (error / size).clamp_min(torch.finfo(size.dtype).tiny).sqrt()


def build(fields: Fields, config: TrainConfig) -> Surrogate:
    """The untrained surrogate of a configuration, normalised to the training part of the fields."""
    base = fields.bundle.base
    group = named(config.group, base.dim)
    if group.is_finite:
        group.check(base, fields.grid)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Surrogate(
            Normaliser.fit(fields),
            group,
            n_modes=config.n_modes,
            hidden_channels=config.hidden_channels,
            n_layers=config.n_layers,
            positional_embedding=config.positional_embedding,
            history=config.history,
            lead=config.lead,
            notes={
                "training": config.to_dict(),
                "source": fields.source,
                "grid": list(fields.grid),
                "step": describe_step(fields.time),
                "interval": list(usual_step(fields.time)),
            },
        )


def parts(fields: Fields, config: TrainConfig) -> tuple[Fields, Fields, Fields]:
    """Training, validation and test part of some fields."""
    span = config.history + config.lead * config.horizon
    return split(fields, train=config.train, valid=config.valid, span=span)


def train(
    fields: Fields,
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Surrogate:
    """Train a surrogate and leave its checkpoints in a folder.

    Parameters
    ----------
    fields : Fields, split into training, validation and test part by the configuration
    config : TrainConfig
    out : folder for ``best.pt`` (the surrogate), ``last.pt`` (to resume from) and ``curve.json``
    resume : go on from ``last.pt``; the result is that of an uninterrupted run
    progress : called with (epoch, epochs, errors) after each epoch

    Returns
    -------
    Surrogate   of the best validation epoch, on the CPU, in evaluation mode

    Raises
    ------
    DataError   if a part of the split is empty, the folder holds another run, or the loss is not
        finite; GroupError and GridError as for :class:`fieldsym.FNO`.
    """
    out = Path(out)
    _check_folder(out, config, resume=resume)
    learn, check, _ = parts(fields, config)
    model = build(learn, config)
    trainer = _Trainer(model, learn, check, config)
    fabric = _fabric(config)
    trainer.setup(fabric)
    if resume and (out / LAST).exists():
        trainer.restore(out / LAST)
    make_folder(out)
    while not trainer.finished:
        errors = trainer.epoch()
        if fabric.is_global_zero:
            trainer.save(out)
        if progress is not None:
            progress(trainer.run.epoch, config.epochs, errors)
    return Surrogate.load(out / BEST).eval()


def _fabric(config: TrainConfig) -> Fabric:
    from lightning.fabric import Fabric

    try:
        fabric = Fabric(accelerator=config.accelerator, devices=1)
    except (ValueError, RuntimeError, ImportError) as error:
        raise DataError(
            f"accelerator={config.accelerator!r} cannot be used here: {error}"
        ) from error
    fabric.launch()
    return fabric


def _check_folder(out: Path, config: TrainConfig, *, resume: bool) -> None:
    if not any((out / name).exists() for name in (LAST, BEST, "curve.json", "scores.json")):
        return
    if resume and not (out / LAST).exists():
        return
    if not resume:
        raise DataError(
            f"{out} holds a training run already. Resume it (--resume true), or give another "
            "folder (--out)."
        )
    stored = json.loads(read_checkpoint(out / LAST)["config"])["notes"]["training"]
    now = config.to_dict()
    different = [k for k in now if stored.get(k) != now[k]]
    if different:
        raise DataError(
            f"{out} holds a run of another configuration: "
            + ", ".join(f"{k} was {stored.get(k)}, now {now[k]}" for k in different)
            + ". Give the same configuration, or another folder."
        )


class _Trainer:
    """Model, optimiser and data of one run."""

    def __init__(self, model: Surrogate, learn: Fields, check: Fields, config: TrainConfig) -> None:
        self.model, self.config, self.run = model, config, Run()
        shape = {"history": config.history, "lead": config.lead}
        self.learn = Batches(learn, model, config, **shape)
        self.check = Batches(check, model, config, **shape)
        self.optimizer: Any = torch.optim.Adam(model.parameters(), config.learning_rate)
        steps = config.epochs * len(self.learn)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        group = named(config.augment, learn.bundle.base.dim)
        _check_augmentation(group, learn)
        targets = self.learn.windows.out_bundle
        self.augment = (
            RandomAction(group, model.in_bundle, targets, seed=config.seed)
            if group.order > 1
            else None
        )

    def setup(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.module, self.optimizer = fabric.setup(self.model, self.optimizer)
        self.module.mark_forward_method("step")
        self.weights = self.learn.weights.to(fabric.device)

    @property
    def finished(self) -> bool:
        waited = self.run.epoch - self.run.best_epoch
        return self.run.epoch >= self.config.epochs or waited >= self.config.patience

    def epoch(self) -> dict[str, float]:
        order = torch.Generator().manual_seed(self.config.seed * 100003 + self.run.epoch)
        self.model.train()
        losses = []
        for x, y in self.learn.shuffled(order, self.augment, self.fabric.device):
            self.optimizer.zero_grad()
            loss = self._loss(x, y)
            self.fabric.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            losses.append(float(loss.detach()))
        error = self.validate()
        if not math.isfinite(sum(losses)) or not math.isfinite(error):
            raise DataError(
                f"The training error is not finite in epoch {self.run.epoch + 1}. Use a smaller "
                f"learning_rate than {self.config.learning_rate:g}, and look at the data with "
                "'fieldsym inspect'."
            )
        self.run.epoch += 1
        if error < self.run.best:
            self.run.best, self.run.best_epoch = error, self.run.epoch
        errors = {"train": float(np.mean(losses)), "valid": error}
        self.run.curve.append(errors)
        return errors

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean relative error over the horizon, each forecast fed back."""
        channels = self.model.out_bundle.channels
        total = x.new_zeros(())
        for target in y.split(channels, 1):
            forecast = self.module.step(x)
            total = (
                total + relative_error(self.model.out_bundle, forecast, target, self.weights).mean()
            )
            x = torch.cat([forecast, x[:, : x.shape[1] - channels]], 1)
        return total / (y.shape[1] // channels)

    @torch.no_grad()
    def validate(self) -> float:
        self.model.eval()
        errors = [
            float(self._loss(x, y)) * len(x) for x, y in self.check.batches(self.fabric.device)
        ]
        return sum(errors) / len(self.check.windows)

    def save(self, out: Path) -> None:
        if self.run.best_epoch == self.run.epoch:
            self.model.save(out / BEST)
        self.model.save(
            out / LAST,
            run={"epoch": self.run.epoch, "best": self.run.best, "best_epoch": self.run.best_epoch},
            curve=self.run.curve,
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            augment=None if self.augment is None else self.augment.generator.get_state(),
        )
        save_json(self.run.curve, out / CURVE)

    def restore(self, path: Path) -> None:
        content = read_checkpoint(path)
        fitted = self.model.normaliser.scale.clone()
        self.model.restore(content["state_dict"], path)
        if not torch.allclose(fitted, self.model.normaliser.scale, rtol=1e-5, atol=0.0):
            raise DataError(
                f"{path} was trained on other data: their scales are "
                f"{self.model.normaliser.scale.tolist()}, now {fitted.tolist()}. Give the same "
                "data, or another folder."
            )
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["schedule"])
        self.run = Run(**content["run"], curve=content["curve"])
        if self.augment is not None:
            self.augment.generator.set_state(content["augment"])


def _check_augmentation(group: Group, fields: Fields) -> None:
    group.check(fields.bundle.base, fields.grid)
    if not group.is_finite or fields.mask is None:
        return
    valid, scalar = fields.mask[None].double(), Bundle(fields.bundle.base, "scalar")
    moved = [g.name for g in group.elements if not torch.equal(act(g, valid, scalar), valid)]
    if moved:
        raise DataError(
            f"augment='{group.name}' moves the mask of valid points (by {moved[0]}). Augment with "
            "a group that keeps it, or with none."
        )


class Batches:
    """Normalised windows of some fields, batch by batch."""

    def __init__(
        self, fields: Fields, model: Surrogate, config: TrainConfig, *, history: int, lead: int
    ) -> None:
        self.windows = Windows(
            fields, history=history, horizon=config.lead * (config.horizon - 1) + 1, lead=lead
        )
        # every lead-th step of the horizon is a forecast
        channels = fields.bundle.channels
        self.keep = [
            c
            for h in range(0, self.windows.horizon, lead)
            for c in range(h * channels, (h + 1) * channels)
        ]
        if lead > 1:
            self.windows.out_bundle = repeat(fields.bundle, config.horizon)
        self.encode = model.normaliser.encode
        self.size = config.batch_size
        weights = fields.weights if fields.mask is None else fields.weights * fields.mask
        self.weights = (weights / weights.sum()).to(fields.values.dtype)

    def __len__(self) -> int:
        return math.ceil(len(self.windows) / self.size)

    def batches(
        self, device: torch.device, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, normalised."""
        order = torch.arange(len(self.windows)) if order is None else order
        for index in order.split(self.size):
            x, y = zip(*(self.windows[int(i)] for i in index), strict=True)
            pair = torch.stack(x).to(device), torch.stack(y)[:, self.keep].to(device)
            yield self.encode(pair[0]), self.encode(pair[1])

    def shuffled(
        self, generator: torch.Generator, augment: RandomAction | None, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets in random order, each batch moved by a random element."""
        for x, y in self.batches(device, torch.randperm(len(self.windows), generator=generator)):
            yield (x, y) if augment is None else augment(x, y)
