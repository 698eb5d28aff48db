"""Forecast errors on the test part, beside what needs no learning: persistence and climatology.

Errors are in physical units (root mean square of the fibre norm) and relative to the target.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from fieldsym.config import TrainConfig, listed
from fieldsym.data.fields import Fields, open_fields
from fieldsym.data.steps import breaks, day_of_month, describe_step, is_date, usual_step
from fieldsym.data.windows import Windows
from fieldsym.data.writers import to_xarray
from fieldsym.errors import DataError
from fieldsym.surrogate import Surrogate
from fieldsym.train import parts, relative_error

if TYPE_CHECKING:
    import xarray as xr


def climatology(fields: Fields, time: np.ndarray) -> Tensor:
    """Mean state at some times, (time, channel, *grid): by calendar month for monthly series.

    Parameters
    ----------
    fields : Fields to average, the training part
    time : times to give the mean for
    """
    values = fields.values if fields.has_samples else fields.values[None]
    if usual_step(fields.time)[1] == "month":
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


def forecast_dataset(
    source: object,
    checkpoint: str | Path,
    steps: int,
    *,
    variables: str | None = None,
    types: str | None = None,
) -> xr.Dataset:
    """Forecasts from the last states of a file, with its coordinates, units and calendar.

    Parameters
    ----------
    source : as for :func:`fieldsym.open_fields`
    checkpoint : file of a trained surrogate
    steps : forecasts in a row
    variables, types : default those of the training

    Raises
    ------
    DataError   if the file holds other fields than the surrogate was trained on, or too few steps.
    """
    if steps < 1:
        raise DataError(f"steps must be at least 1; got {steps}.")
    model = Surrogate.load(checkpoint).eval()
    fields = open_like(source, model, checkpoint, variables=variables, types=types)
    if fields.steps < model.history:
        raise DataError(
            f"The surrogate needs {model.history} steps of history; the data have {fields.steps}."
        )
    step = _step(model, fields.time)
    values = fields.values if fields.has_samples else fields.values[None]
    latest = values[:, -model.history :].flip(1).flatten(1, 2)
    with torch.no_grad():
        ahead = model.rollout(latest, steps)
    time = future_times(fields.time, model.lead, steps, step)
    ds = to_xarray(ahead if fields.has_samples else ahead[0], fields, time=time)
    ds.attrs["history"] = f"forecast of {steps} steps by fieldsym from the end of {fields.source}"
    return ds


def _step(model: Surrogate, time: np.ndarray) -> tuple[float, str]:
    """The step that the surrogate makes; the steps of its history must be of that length."""
    own = usual_step(time)
    length, unit = cast("tuple[float, str]", model.notes.get("interval", own))
    if not length or is_date(time) == (unit == ""):
        length, unit = own
    days = [n * (30.44 if u == "month" else 1 / 86400) for n, u in (own, (length, unit))]
    if model.history > 1 and abs(days[0] - days[1]) > 0.1 * abs(days[1]):
        raise DataError(
            f"The surrogate was trained on steps of {model.notes.get('step')}; those of the data "
            f"are of {describe_step(time)}. Give data with the steps of the training."
        )
    if any(breaks(time) > len(time) - model.history):
        raise DataError(
            f"There is a gap within the last {model.history} steps of the data, from which the "
            "surrogate starts. Leave out what follows the gap, or fill it."
        )
    return length, unit


def open_like(
    source: object,
    model: Surrogate,
    checkpoint: str | Path,
    *,
    variables: str | None = None,
    types: str | None = None,
) -> Fields:
    """Open data as a surrogate was trained on them.

    Raises
    ------
    DataError   if they are fields of another type, base or mask.
    """
    training = cast("dict[str, Any]", model.notes.get("training", {}))
    fields = open_fields(
        source,
        variables=variables or training.get("variables"),
        types=types or training.get("types"),
        levels=listed(training.get("levels")),
    )
    if fields.bundle != model.out_bundle:
        raise DataError(
            f"{checkpoint} was trained on '{model.out_bundle.representation}' on "
            f"{model.out_bundle.base}; the data hold '{fields.bundle.representation}' on "
            f"{fields.bundle.base}. Give the data it was trained on, or name its variables."
        )
    trained = model.normaliser.units
    for name in set(trained) & set(fields.units):
        if trained[name] != fields.units[name]:
            warnings.warn(
                f"{checkpoint} was trained on '{name}' in '{trained[name]}'; the data are in "
                f"'{fields.units[name]}'. Values are not converted.",
                stacklevel=2,
            )
    mask = model.normaliser.mask
    same = (mask is None) == (fields.mask is None)
    if not same or (mask is not None and not torch.equal(mask, fields.mask)):  # type: ignore[arg-type]
        raise DataError(
            f"{checkpoint} was trained with another mask of valid points than the data have."
        )
    return fields


def future_times(
    time: np.ndarray, lead: int, steps: int, step: tuple[float, str] | None = None
) -> np.ndarray:
    """Times of the next forecasts, in the calendar of the series.

    Parameters
    ----------
    time : of the series
    lead : steps per forecast
    steps : number of forecasts
    step : length and unit as :func:`fieldsym.data.steps.usual_step` gives them; default those of
        the series

    Raises
    ------
    DataError   if the series has one time and no step is given.

    Examples
    --------
    >>> time = np.array(["2001-10-16", "2001-11-16"], "datetime64[s]")
    >>> [str(t)[:10] for t in future_times(time, 1, 2)]
    ['2001-12-16', '2002-01-16']
    """
    length, unit = step or usual_step(time)
    if not length:
        raise DataError(
            "The data have one time, which does not say how long a step is. Give two or more."
        )
    ahead = [lead * length * (k + 1) for k in range(steps)]
    if unit == "month":
        day = max(map(day_of_month, time))
        return np.array([_later(time[-1], round(months), day) for months in ahead])
    if unit == "":
        return np.array([float(time[-1]) + a for a in ahead])
    if time.dtype.kind == "M":
        passed = np.array([round(a * 1000) for a in ahead]).astype("timedelta64[ms]")
        return (time[-1] + passed).astype(time.dtype)
    return np.array([time[-1] + timedelta(seconds=a) for a in ahead])


def _later(date: Any, months: int, day: int) -> Any:
    """A day some months later, or the last one where the month is shorter."""
    if isinstance(date, np.datetime64):
        month = date.astype("datetime64[M]") + months
        first, after = (m.astype("datetime64[D]") for m in (month, month + 1))
        new = min(first + (day - 1), after - 1)
        return new.astype(date.dtype) + (date - date.astype("datetime64[D]"))
    year, month = divmod(12 * date.year + date.month - 1 + months, 12)
    first = date.replace(year=year, month=month + 1, day=1)
    return first.replace(day=min(day, first.daysinmonth))
