"""Windows and chronological splits.

A window is ``history`` consecutive steps and the ``horizon`` steps that follow ``lead`` steps
after the last of them. Windows are a plain index over a tensor that is in memory already.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fieldsym.bundle import Bundle
from fieldsym.data.steps import breaks
from fieldsym.errors import DataError

if TYPE_CHECKING:
    from fieldsym.data.fields import Fields


def repeat(bundle: Bundle, times: int) -> Bundle:
    """The bundle of several steps: blocks u, u_1, u_2, … one after the other.

    Examples
    --------
    >>> import fieldsym as fs
    >>> repeat(fs.Bundle(fs.Torus((2.0, 3.0)), "vector u"), 2).representation
    vector u + vector u_1
    """
    blocks = [
        str(replace(block, name=f"{name}_{k}" if k else name))
        for k in range(times)
        for name, block in zip(bundle.names, bundle.blocks, strict=True)
    ]
    return Bundle(bundle.base, " + ".join(blocks), bundle.representation.group)


class Windows(Dataset):
    """Pairs (history, horizon) of a series, by plain index.

    Parameters
    ----------
    fields : Fields
    history : number of input steps; u is the latest, u_1 the step before it, and so on
    horizon : number of target steps; u is the first, u_1 the step after it
    lead : steps from the latest input to the first target

    Attributes
    ----------
    in_bundle, out_bundle : Bundle   of the inputs and of the targets

    Raises
    ------
    DataError   if the series is too short, or every window would straddle a gap.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> from fieldsym.data.fields import Fields
    >>> bundle = fs.Bundle(fs.Torus((2.0, 3.0)), "vector u")
    >>> windows = Windows(Fields.of(bundle, torch.zeros(5, 2, 16, 24)), history=2)
    >>> len(windows), tuple(windows[0][0].shape), tuple(windows[0][1].shape)
    (3, (4, 16, 24), (2, 16, 24))
    """

    def __init__(
        self, fields: Fields, *, history: int = 1, horizon: int = 1, lead: int = 1
    ) -> None:
        if min(history, horizon, lead) < 1:
            raise DataError(
                "history, horizon and lead must be at least 1; got "
                f"{history}, {horizon} and {lead}."
            )
        self.fields = fields
        self.history, self.horizon, self.lead = history, horizon, lead
        self.in_bundle = repeat(fields.bundle, history)
        self.out_bundle = repeat(fields.bundle, horizon)
        self.values = fields.values if fields.has_samples else fields.values[None]
        self.starts = self._starts()

    @property
    def span(self) -> int:
        """Steps from the first input to the last target, both included."""
        return self.history + self.lead + self.horizon - 1

    def _starts(self) -> list[tuple[int, int]]:
        samples, steps = self.values.shape[:2]
        segments = np.zeros(steps, dtype=np.int64)
        segments[breaks(self.fields.time)] = 1
        segments = np.cumsum(segments)
        last = steps - self.span
        inside = [t for t in range(last + 1) if segments[t] == segments[t + self.span - 1]]
        if not inside or not samples:
            longest = int(np.bincount(segments).max()) if steps else 0
            raise DataError(
                f"A window of history {self.history}, lead {self.lead} and horizon {self.horizon} "
                f"needs {self.span} consecutive steps; the longest stretch without a gap has "
                f"{longest} (of {steps} steps). Take a shorter history, lead or horizon."
            )
        return [(s, t) for s in range(samples) for t in inside]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample, start = self.starts[index]
        now = start + self.history - 1
        past = torch.arange(now, start - 1, -1)
        first = now + self.lead
        x = self.values[sample, past]
        y = self.values[sample, first : first + self.horizon]
        return x.flatten(0, 1), y.flatten(0, 1)


def split(
    fields: Fields, *, train: float = 0.7, valid: float = 0.15, span: int = 2
) -> tuple[Fields, Fields, Fields]:
    """Training, validation and test part, in this order in time.

    Several samples (trajectories) are split by sample; one series is cut in time, so that no
    window straddles a cut. What ``train`` and ``valid`` leave is the test part; a part of
    fraction 0 has no steps.

    Parameters
    ----------
    span : steps that one window needs (``Windows.span``), the least that a part may have

    Raises
    ------
    DataError   if a part would be empty; it says how many steps are needed.
    """
    fractions = (train, valid, 1.0 - train - valid)
    if min(fractions) < -1e-9 or train <= 0:
        raise DataError(
            f"train and valid must be fractions with a sum of at most 1; got {train} and {valid}."
        )
    by_sample = fields.has_samples and fields.values.shape[0] > 1
    n, least = (fields.values.shape[0], 1) if by_sample else (fields.steps, span)
    cuts = _cuts(n, train, valid)
    if not _enough(cuts, n, fractions, least):
        what = "samples" if by_sample else "steps"
        needed = next(
            (m for m in range(1, 100_000) if _enough(_cuts(m, train, valid), m, fractions, least)),
            math.inf,
        )
        parts = ", ".join(f"{f:.3g}" for f in fractions)
        raise DataError(
            f"A split {parts} of {n} {what} leaves a part with fewer than {least}; it needs at "
            f"least {needed} {what}. Take more data, or other fractions (0 leaves a part out)."
        )
    ends = (0, *cuts, n)
    take = fields.take_samples if by_sample else fields.take_steps
    first, second, third = (take(slice(a, b)) for a, b in itertools.pairwise(ends))
    return first, second, third


def _cuts(n: int, train: float, valid: float) -> tuple[int, int]:
    return round(n * train), round(n * min(1.0, train + valid))


def _enough(cuts: tuple[int, int], n: int, fractions: tuple[float, ...], least: int) -> bool:
    ends = (0, *cuts, n)
    sizes = [b - a for a, b in itertools.pairwise(ends)]
    return all(size >= least or f < 1e-9 for size, f in zip(sizes, fractions, strict=True))
