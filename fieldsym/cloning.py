"""Symmetry cloning: a plain operator learns a symmetry by imitating an enforced one.

The teacher commutes with a group exactly, the student is free to. It is trained on the outputs of
the teacher, for which fields without labels are enough, and afterwards on data that may break the
symmetry: it starts from the symmetric operator but is not held there.

>>> import torch, fieldsym as fs
>>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
>>> options = {"n_modes": 3, "hidden_channels": 8, "n_layers": 1}
>>> teacher = fs.FNO(wind, wind, group=fs.groups.cyclic(4), **options)
>>> student = fs.FNO(wind, wind, **options)
>>> losses = clone(student, teacher, torch.randn(64, 2, 8, 8), steps=30)
>>> losses[-1] < losses[0]
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Real

import torch
from torch import Tensor, nn

from fieldsym.bundle import require_operator
from fieldsym.errors import BundleError, DataError
from fieldsym.operators.adopt_tie import evaluating

Operator = Callable[[Tensor], Tensor]
Inputs = Tensor | Callable[[int], Tensor]
Progress = Callable[[int, int, dict[str, float]], None]


def clone(
    student: nn.Module,
    teacher: Operator,
    inputs: Inputs,
    *,
    steps: int,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[float]:
    """Train an operator to do what another one does, in place.

    The loss is the mean over a batch of ‖student(u) − teacher(u)‖ / ‖teacher(u)‖; Adam, the
    learning rate falling to zero as a cosine. The result depends on the arguments alone. The
    teacher is in evaluation mode and is not changed, the student in training mode; afterwards both
    have the modes they had. Modules inside a function keep the mode they have.

    Parameters
    ----------
    student : nn.Module from (batch, channel, *grid)
    teacher : module or function from the same to the shape that the student returns
    inputs : Tensor (sample, channel, *grid), of which every sample is used once before any comes
        again; or a function from the number of a step to the batch of that step. In the dtype and
        on the device of the modules
    steps : int > 0, batches
    batch_size : samples of a tensor per batch; a function decides itself
    learning_rate : float > 0, of the first step
    seed : of the order of the samples and of random layers
    progress : called with (step, steps, {"loss": loss}) after each step

    Returns
    -------
    list of float   the loss of every step, before it was made

    Raises
    ------
    DataError     if a number is out of range, the inputs are no fields or student or teacher cannot
                  be run on them, the student is no module, has nothing to train or is the teacher,
                  or an output is not finite (the student keeps the weights of the last step).
    BundleError   if student and teacher do not return tensors of one shape, or the teacher cannot
                  be called.

    Examples
    --------
    A free convolution becomes symmetric:

    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((1.0,)), "scalar p")
    >>> def conv():
    ...     return torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    >>> teacher, student = fs.enforce(conv(), fs.groups.reflections(1), line, line), conv()
    >>> losses = clone(student, teacher, torch.randn(64, 1, 8), steps=200, learning_rate=0.05)
    >>> left, _, right = student.weight.flatten().tolist()
    >>> abs(left - right) < 1e-2
    True

    References
    ----------
    Huang et al. 2024, arXiv:2410.03989 (Symmetry From Scratch).
    """
    trained = _check(student, teacher, inputs, steps, batch_size, learning_rate)
    optimiser = torch.optim.Adam(trained, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    batches = inputs if callable(inputs) else _Order(inputs, batch_size, seed)
    losses = []
    with _reproducible(trained[0].device, seed), _still(teacher), _training(student):
        for step in range(steps):
            loss = _loss(student, teacher, batches(step), step)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(step + 1, steps, {"loss": losses[-1]})
        optimiser.zero_grad()
    return losses


def _loss(student: nn.Module, teacher: Operator, u: Tensor, step: int) -> Tensor:
    _check_fields(u)
    with torch.no_grad():
        target = _run(teacher, u, "teacher")
    output = _run(student, u, "student")
    if output.shape != target.shape:
        raise BundleError(
            f"Student and teacher return sections of one bundle; from {tuple(u.shape)} the student "
            f"makes {tuple(output.shape)} and the teacher {tuple(target.shape)}. Build both for "
            "the same bundles."
        )
    for name, values, advice in (
        ("teacher", target, "Look at its parameters and at the inputs."),
        ("student", output, "Look at its parameters, or use a smaller learning_rate."),
    ):
        if not values.isfinite().all():
            raise DataError(
                f"The output of the {name} is not finite at step {step + 1} of cloning. {advice}"
            )
    error, size = ((v.flatten(1).norm(dim=1)) for v in (output - target, target))
    return (error / size.clamp_min(torch.finfo(size.dtype).tiny ** 0.5)).mean()


# Modules of other libraries raise errors of their own at channels or a dtype that they do not take.
def _run(operator: Operator, u: Tensor, name: str) -> Tensor:
    try:
        value = operator(u)
    except (RuntimeError, TypeError, IndexError) as error:
        raise DataError(
            f"The {name} cannot be run on inputs of shape {tuple(u.shape)} in {u.dtype}: "
            f"{' '.join(str(error).split())[:240]}. Give the channels, the dtype and the device "
            "that it takes."
        ) from error
    if not isinstance(value, Tensor):
        raise BundleError(
            f"The {name} returns one tensor (batch, channel, *grid); got "
            f"{type(value).__name__}. Wrap it in a module that returns the field."
        )
    return value


class _Order:
    """Batches of a tensor; every sample once before any comes again."""

    def __init__(self, inputs: Tensor, batch_size: int, seed: int) -> None:
        self.inputs, self.size = inputs, min(batch_size, len(inputs))
        self.generator = torch.Generator().manual_seed(seed)
        self.left = torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Tensor:
        if len(self.left) < self.size:
            order = torch.randperm(len(self.inputs), generator=self.generator)
            self.left = torch.cat([self.left, order])
        index, self.left = self.left.split([self.size, len(self.left) - self.size])
        return self.inputs[index.to(self.inputs.device)]


@contextmanager
def _reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Seeded random numbers; afterwards the streams are where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _still(teacher: Operator) -> AbstractContextManager[None]:
    return evaluating(teacher) if isinstance(teacher, nn.Module) else nullcontext()


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """A module in training mode; afterwards every part has the mode it had."""
    with evaluating(module):  # it remembers the modes
        module.train()
        yield


def _check(
    student: nn.Module,
    teacher: Operator,
    inputs: object,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> list[nn.Parameter]:
    """The parameters to train."""
    require_operator(teacher, "clone")
    if not isinstance(student, nn.Module):
        raise DataError(f"The student is a module, whose parameters are trained; got {student!r}.")
    for name, count in (("steps", steps), ("batch_size", batch_size)):
        if not isinstance(count, int) or count < 1:
            raise DataError(f"{name} is a positive whole number; got {count!r}.")
    if not (isinstance(learning_rate, Real) and 0 < learning_rate < math.inf):
        raise DataError(f"learning_rate is a positive number; got {learning_rate!r}.")
    if not callable(inputs):
        _check_fields(inputs)
        _check_finite(inputs)
    owned = teacher.parameters() if isinstance(teacher, nn.Module) else ()
    theirs = {id(p) for p in owned}
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained or any(id(p) in theirs for p in trained):
        raise DataError(
            "The student needs parameters of its own that require a gradient; it has "
            f"{len(trained)}, and shares {sum(id(p) in theirs for p in trained)} with the teacher. "
            "Build another operator to be the student."
        )
    return trained


def _check_fields(inputs: object) -> None:
    fields = isinstance(inputs, Tensor) and inputs.is_floating_point() and inputs.ndim >= 3
    if not fields or not len(inputs):  # type: ignore[arg-type]
        found = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise DataError(
            "inputs are real fields (sample, channel, *grid), at least one, or a function from the "
            f"number of a step to a batch of them; got {found}."
        )


def _check_finite(inputs: Tensor) -> None:
    if not inputs.isfinite().all():
        raise DataError(
            "The inputs hold NaN or infinity, which no operator can be trained on. Fill the gaps, "
            "or leave these samples out."
        )
