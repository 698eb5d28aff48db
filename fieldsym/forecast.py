"""Forecast errors on the test part, beside what needs no learning: persistence and climatology.

Errors are in physical units (root mean square of the fibre norm) and relative to the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fieldsym.config import TrainConfig
from fieldsym.data.fields import Fields
from fieldsym.data.windows import Windows, is_date, step_lengths
from fieldsym.surrogate import Surrogate
from fieldsym.train import parts, relative_error

Forecast = Callable[[Tensor], Tensor]


def climatology(fields: Fields, time: np.ndarray) -> Tensor:
    """Mean state at some times, (time, channel, *grid): by calendar month for monthly series.

    Parameters
    ----------
    fields : Fields to average, the training part
    time : times to give the mean for
    """
    values = fields.values if fields.has_samples else fields.values[None]
    if is_date(fields.time) and step_lengths(fields.time)[1] == "month":
        own, asked = _month(fields.time), _month(time)
        if set(asked.tolist()) <= set(own.tolist()):
            months = {m: values[:, own == m].mean((0, 1)) for m in set(asked.tolist())}
            return torch.stack([months[m] for m in asked.tolist()])
    mean = values.mean((0, 1))
    return mean.expand(len(time), *mean.shape)


def _month(time: np.ndarray) -> np.ndarray:
    if time.dtype.kind == "M":
        return time.astype("datetime64[M]").astype(np.int64) % 12 + 1
    return np.array([t.month for t in time])


def scores(
    fields: Fields, config: TrainConfig, models: Mapping[str, Surrogate], *, limit: int = 512
) -> dict[str, dict[str, float]]:
    """Errors of one-step forecasts on the test part.

    Parameters
    ----------
    fields : all fields; the configuration splits them as in training
    models : surrogates by name
    limit : windows at most, evenly spread over the test part

    Returns
    -------
    For each model and for "persistence" and "climatology": ``relative`` (mean relative L2 error
    over windows of the normalised fields, as in training) and one entry ``rmse NAME`` per block, in
    its units.
    """
    learn, _, test = parts(fields, config)
    windows = Windows(test, history=config.history, horizon=1, lead=config.lead)
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(limit, len(windows))).astype(int))
    x = torch.stack([windows[i][0] for i in chosen])
    y = torch.stack([windows[i][1] for i in chosen])
    channels = fields.bundle.channels
    ahead = config.history - 1 + config.lead
    times = np.array([test.time[windows.starts[i][1] + ahead] for i in chosen])
    forecasts = {"persistence": x[:, :channels], "climatology": climatology(learn, times)}
    for name, model in models.items():
        forecasts[name] = _apply(model, x)
    some = next(iter(models.values()))
    return {n: _errors(fields, some, forecast, y) for n, forecast in forecasts.items()}


@torch.no_grad()
def _apply(model: Surrogate, x: Tensor, size: int = 32) -> Tensor:
    model.eval()
    return torch.cat([model(batch) for batch in x.split(size)])


def _errors(fields: Fields, model: Surrogate, forecast: Tensor, y: Tensor) -> dict[str, float]:
    bundle = fields.bundle
    weights = fields.weights if fields.mask is None else fields.weights * fields.mask
    weights = weights / weights.sum()
    encode = model.normaliser.encode
    relative = relative_error(bundle, encode(forecast).double(), encode(y).double(), weights)
    result = {"relative": float(relative.mean())}
    gram = bundle.representation.gram
    for name, where in bundle.slices.items():
        error = (forecast - y)[:, where].double()
        moved = torch.einsum("bc...,cd->bd...", error, gram[where, where])
        square = (error * moved).sum(1) * weights
        result[f"rmse {name}"] = float(square.flatten(1).sum(1).mean().sqrt())
    return result
