"""Evaluation of trained surrogates on the test part of their data, and of the data themselves.

``fieldsym evaluate`` is :func:`evaluate_checkpoints`: it opens data and checkpoints, calls
:func:`fieldsym.evaluate` and writes the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from fieldsym.action import act
from fieldsym.bundle import Bundle
from fieldsym.config import TrainConfig
from fieldsym.data.fields import Fields
from fieldsym.data.windows import Windows
from fieldsym.errors import DataError, GridError
from fieldsym.forecast import open_like
from fieldsym.group import Group, named
from fieldsym.report import table, to_html, to_json, to_netcdf
from fieldsym.surrogate import Surrogate, make_folder
from fieldsym.symmetry.evaluate import evaluate
from fieldsym.symmetry.evaluate_data import data_violation
from fieldsym.train import parts

if TYPE_CHECKING:
    from rich.table import Table

VIOLATION_SAMPLES = 64


def evaluate_checkpoints(
    source: object,
    checkpoints: Sequence[str | Path],
    group: str,
    out: str | Path,
    *,
    variables: str | None = None,
    types: str | None = None,
    samples: int = 32,
    radius: float | None = None,
    overwrite: bool = False,
    progress: Callable[..., None] | None = None,
) -> Table:
    """Evaluate surrogates on the test part of their training and write the report.

    Parameters
    ----------
    source : data, as for :func:`fieldsym.open_fields`
    checkpoints : files of trained surrogates
    group : such as "dihedral(4) * translations"
    out : folder for ``report.html`` and one netCDF and JSON file per surrogate
    variables, types : default those of the training
    samples : test windows, evenly spread
    radius : of the disk in which continuous rotations are measured
    overwrite : whether a report in the folder may be replaced
    progress : called with (done, total, text)

    Returns
    -------
    rich Table, the comparison

    Raises
    ------
    DataError   if a checkpoint or the data cannot be used, or a file that is no report would be
        replaced.
    """
    reports, out, names = {}, Path(out), _names(checkpoints)
    check_folder(out, list(names), overwrite)
    for name, path in names.items():
        model = Surrogate.load(path).eval()
        fields = open_like(source, model, path, variables=variables, types=types)
        training = TrainConfig.from_dict(cast("dict[str, Any]", model.notes["training"]))
        x, y = windows_of(parts(fields, training)[2], model, samples)
        base = fields.bundle.base
        reports[name] = evaluate(
            model,
            named(group, base.dim),
            x,
            model.in_bundle,
            model.out_bundle,
            y=y,
            mask=fields.mask,
            region=None if radius is None else base.disk(radius),
            units=fields.units,
            name=name,
            progress=progress,
        )
    write_reports(reports, out)
    return table(reports)


def write_reports(reports: dict[str, Any], out: Path) -> None:
    """``report.html`` for all, ``NAME.nc`` and ``NAME.json`` for each."""
    out.mkdir(parents=True, exist_ok=True)
    for name, one in reports.items():
        to_netcdf(one, out / f"{_stem(name)}.nc")
        to_json(one, out / f"{_stem(name)}.json")
    to_html(reports, out / "report.html")


def _stem(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def check_folder(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Make the folder of a report, before the work for it begins.

    Raises
    ------
    DataError   if it cannot be written, or holds files that a report would replace.
    """
    stems = [_stem(name) for name in names]
    if len(set(stems)) < len(stems):
        raise DataError(
            f"The reports of {', '.join(names)} would have the same file names. Rename the folder "
            "of one of the models."
        )
    for data, twin in ((out / f"{s}.nc", out / f"{s}.json") for s in stems):
        if data.exists() and not twin.exists():  # a report has both
            raise DataError(
                f"{data} is no report of an evaluation and would be replaced by one. Give another "
                "folder with --out."
            )
    if (out / "report.html").exists() and not overwrite:
        raise DataError(f"{out} holds a report. Give another folder, or --overwrite true.")
    make_folder(out)


def windows_of(fields: Fields, model: Surrogate, samples: int) -> tuple[Tensor, Tensor]:
    """Some inputs and targets, evenly spread over the fields."""
    return spread(Windows(fields, history=model.history, horizon=1, lead=model.lead), samples)


def spread(windows: Windows, samples: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of some windows, evenly spread over all."""
    if samples < 1:
        raise DataError(f"samples must be at least 1; got {samples}.")
    index = np.unique(np.linspace(0, len(windows) - 1, min(samples, len(windows))).astype(int))
    x, y = zip(*(windows[int(i)] for i in index), strict=True)
    return torch.stack(x), torch.stack(y)


def violation_of_data(fields: Fields, config: TrainConfig) -> str:
    """Whether the training data contradict the declared types and group, in words."""
    group = named(config.group, fields.bundle.base.dim)
    if group.order == 1:
        return ""
    group.check(fields.bundle.base, fields.grid)
    learn = parts(fields, config)[0]
    windows = Windows(learn, history=config.history, horizon=1, lead=config.lead)
    x, y = spread(windows, VIOLATION_SAMPLES)
    if len(x) < 8:
        return ""
    bundles = windows.in_bundle, windows.out_bundle
    try:
        return data_violation(x, y, group, *bundles, mask=fields.mask).warning()
    except GridError:  # no derivatives on this grid, so nothing can be said
        return ""


def mask_note(fields: Fields, group: Group) -> str:
    """Which part of a group keeps the mask of valid points, in words; empty where all does."""
    if fields.mask is None:
        return ""
    scalar = Bundle(fields.bundle.base, "scalar")
    valid = fields.mask.double()[None]
    keep = [g for g in group.elements if torch.equal(act(g, valid, scalar), valid)]
    if len(keep) == len(group.elements):
        return ""
    return (
        f"{len(keep)} of the {group.order} elements of {group.name} keep the mask of valid points: "
        "with this mask the surrogate is equivariant under these alone."
    )


def _names(checkpoints: Sequence[str | Path]) -> dict[str, Path]:
    """A short name for each checkpoint: its folder, or the path where folders repeat."""
    paths = [Path(p) for p in checkpoints]
    names = [p.parent.name or p.stem for p in paths]
    if len(set(names)) < len(names):
        names = [str(p) for p in paths]
    return dict(zip(names, paths, strict=True))
