"""From the numbers of an evaluation to a labelled data set.

>>> import fieldsym as fs
>>> channel_names(fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u"))
['p', 'u_x', 'u_y']

To add a variable: enter it in one of the tables below, with its dimensions and its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fieldsym.bundle import Bundle
from fieldsym.group import AXES
from fieldsym.symmetry.evaluate_aliasing import aliasing_table
from fieldsym.symmetry.evaluate_bands import part_table
from fieldsym.symmetry.evaluate_curves import ANGLES, FRACTIONS, example
from fieldsym.symmetry.evaluate_findings import findings
from fieldsym.symmetry.evaluate_measure import Results, Setup, Table
from fieldsym.symmetry.evaluate_provenance import attributes
from fieldsym.symmetry.evaluate_statistics import median_interval, shares, verdict

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
Entry = tuple[tuple[str, ...] | str, object, str]  # dimensions, values, meaning
TENSOR = {2: ("xx", "yy", "xy"), 3: ("xx", "yy", "zz", "xy", "xz", "yz")}
LAST = {2: "yy", 3: "zz"}  # the component that a traceless tensor leaves out


def channel_names(bundle: Bundle) -> list[str]:
    """One readable name per channel."""
    names: list[str] = []
    for block, name in zip(bundle.blocks, bundle.names, strict=True):
        labels = _components(block.kind, block.size // block.copies, bundle.base.dim)
        stems = [name] if block.copies == 1 else [f"{name}{i}" for i in range(block.copies)]
        names += [f"{stem}{label}" for stem in stems for label in labels]
    return names


def _components(kind: str, size: int, dim: int) -> list[str]:
    if size == 1:
        return [""]
    if kind.endswith("vector"):
        return [f"_{axis}" for axis in AXES[:size]]
    if kind.startswith("symmetric"):
        return [f"_{c}" for c in TENSOR[dim] if "traceless" not in kind or c != LAST[dim]]
    return [f"_{i}" for i in range(size)]


def to_dataset(setup: Setup, found: Results, *, name: str, units: Mapping[str, str]) -> xr.Dataset:
    """Everything that was measured, with verdicts, curves, one example and where it came from."""
    import xarray as xr

    tables = (_errors, _finite, _infinitesimal, part_table, _aliasing, _layers, _curves, _examples)
    variables = {key: entry for table in tables for key, entry in table(setup, found).items()}
    variables |= _sentences(setup, found, variables)
    return xr.Dataset(
        {
            key: (dims, values, {"long_name": meaning})
            for key, (dims, values, meaning) in variables.items()
        },
        _coordinates(setup, found, variables),
        attributes(setup, found, name)
        | {"units_of": _listed(units), "rounding": _rounding(setup, found)},
    )


def _coordinates(setup: Setup, found: Results, variables: Mapping[str, Entry]) -> dict[str, object]:
    ins, outs = setup.probe.ins, setup.probe.outs
    scales = setup.scales
    coords: dict[str, object] = {
        "element": _words([row.label for row in setup.rows]),
        "kind": ("element", _words([row.kind for row in setup.rows])),
        "method": ("element", _words([row.method(ins.bundle, ins.grid) for row in setup.rows])),
        "generator": _words([xi.name for xi in setup.group.generators]),
        "scale": ("generator", np.array([value for value, _ in scales], dtype=np.float64)),
        "unit": ("generator", _words([f"per {unit}" for _, unit in scales])),
        "sample": np.arange(len(setup.x)),
        "bound": _words(["2.5 %", "97.5 %"]),
        "field": _words(list(outs.bundle.names)),
        "band": _words(setup.bands.labels),
        "band_edge": ("band", np.array([*setup.bands.edges, np.inf]), {"units": "waves"}),
        "channel_in": _words(channel_names(ins.bundle)),
        "channel_out": _words(channel_names(outs.bundle)),
    }
    if found.layers is not None:
        coords["layer"] = _words(found.layers.layers)
    if "orbit_defect" in variables:
        coords["orbit_angle"] = ("orbit_angle", ANGLES, {"units": "degrees"})
    if "shift_defect" in variables:
        coords["shift_fraction"] = ("shift_fraction", FRACTIONS, {"units": "cells"})
    for ruler, mark in ((ins, ""), (outs, "" if outs.grid == ins.grid else "_out")):
        for axis, points in zip(AXES, ruler.bundle.base.axes(ruler.grid), strict=False):
            coords[f"{axis}{mark}"] = points.numpy()
    return coords


def _words(values: list[str]) -> Array:
    return np.array(values, dtype=str if values else "<U1")


def _errors(setup: Setup, found: Results) -> dict[str, Entry]:
    model = found.finite["model"]
    parts = shares(model.gram, setup.finite)
    if setup.finite.order == 1:
        parts["share"] = np.array(np.nan)  # nothing to average over
    points = np.array([row.kind == "point" for row in setup.rows], dtype=bool)
    variables: dict[str, Entry] = {
        "error": ("sample", model.error, "‖F(x) − y‖ / ‖y‖"),
        "error_transformed": (
            ("element", "sample"), model.transformed, "‖F(g·x) − g·y‖ / ‖y‖",
        ),
        "mse": ((), parts["mse"], "mean squared fibre norm of the error, orbit-augmented set"),
        "mse_averaged": ((), parts["mse_averaged"], "the same after averaging over the orbit"),
        "share": ((), parts["share"], f"symmetry share over {setup.finite.name}"),
    }  # fmt: skip
    for key, meaning in (
        ("share_element", "symmetry share of the subgroup that the element generates"),
        ("share_cumulative", "symmetry share of the subgroup of this and all elements above"),
    ):
        values = np.full(len(setup.rows), np.nan)
        values[points] = parts[key]
        variables[key] = ("element", values, meaning)
    return variables


def _finite(setup: Setup, found: Results) -> dict[str, Entry]:
    model = found.finite["model"]
    floor, truth, words, wrong = (
        _median(found.finite["floor"].defect), _truth(found.finite, model), [], _median(model.wrong)
    )  # fmt: skip
    intervals, truth_intervals = median_interval(model.defect), median_interval(truth)
    rounding = _rounding(setup, found)
    control = _control(setup, model, wrong)
    words = [
        verdict(values, interval, low, high[1], rounding, wrong=other)
        for values, interval, low, high, other in zip(
            model.defect, intervals, floor, truth_intervals, control, strict=True
        )
    ]
    return {
        "defect": (("element", "sample"), model.defect, "‖F(g·x) − g·F(x)‖ / ‖F(x) − mean‖"),
        "defect_median": ("element", _median(model.defect), "median over samples"),
        "defect_p95": ("element", _quantile(model.defect), "95 % of the samples are below"),
        "defect_interval": (("element", "bound"), intervals, "95 % interval of the median"),
        "floor": ("element", floor, "median defect of an isotropic heat flow"),
        "truth_defect": ("element", _median(truth), "median defect of the reference operator"),
        "truth_interval": (("element", "bound"), truth_intervals, "95 % interval of that"),
        "wrong_defect": ("element", wrong, "median defect with a wrong action on the output"),
        "verdict": ("element", _words(words), "verdict"),
    }


def _infinitesimal(setup: Setup, found: Results) -> dict[str, Entry]:
    scale = np.array([value for value, _ in setup.scales]).reshape(-1, 1)
    model = found.lie["model"]
    lee, floor = model.defect * scale, _median(found.lie["floor"].defect * scale)
    truth = _truth(found.lie, model) * scale
    intervals, truth_intervals = median_interval(lee), median_interval(truth)
    rounding = 10 * _rounding(setup, found)  # a derivative loses a digit more than a value
    control = _control(setup, model, np.full(len(lee), np.inf))
    words = [
        verdict(values, interval, low, high[1], rounding, wrong=other)
        for values, interval, low, high, other in zip(
            lee, intervals, floor, truth_intervals, control, strict=True
        )
    ]
    return {
        "lee": (("generator", "sample"), lee, "‖(L_ξ F)(x)‖ / ‖F(x) − mean‖ × scale"),
        "lee_median": ("generator", _median(lee), "median over samples"),
        "lee_interval": (("generator", "bound"), intervals, "95 % interval of the median"),
        "lee_floor": ("generator", floor, "the same median for an isotropic heat flow"),
        "lee_truth": ("generator", _median(truth), "the same median for the reference operator"),
        "lee_truth_interval": (("generator", "bound"), truth_intervals, "95 % interval of that"),
        "lee_verdict": ("generator", _words(words), "verdict"),
    }


def _aliasing(setup: Setup, found: Results) -> dict[str, Entry]:
    return aliasing_table(setup, found, 10 * _rounding(setup, found))


def _layers(setup: Setup, found: Results) -> dict[str, Entry]:
    if found.layers is None:
        return {}
    dims = ("generator", "layer")
    return {
        "layer_share": (dims, found.layers.share, "signed part of the squared Lie derivative"),
        "layer_local": (dims, found.layers.local, "Lie derivative of the layer alone"),
    }


def _sentences(setup: Setup, found: Results, variables: Mapping[str, Entry]) -> dict[str, Entry]:
    values = {key: np.asarray(entry[1]) for key, entry in variables.items()}
    said = findings(setup, found, values, _rounding(setup, found))
    element, generator = (_words(said[key]) for key in ("finding", "lee_finding"))
    return {
        "finding": ("element", element, "what was found, in words"),
        "lee_finding": ("generator", generator, "what was found, in words"),
    }


# Rounding relative to the fluctuation of the output, which may be small beside its mean, or to a
# constant output itself.
def _rounding(setup: Setup, found: Results) -> float:
    fluctuation = float(np.median(found.finite["model"].fluctuation))
    return setup.rounding / (max(fluctuation, 1e-6) if fluctuation > setup.rounding else 1.0)


# What a test with any power rejects. A constant output can also be left as it is: where that is no
# change, nothing is tested.
def _control(setup: Setup, table: Table, wrong: Array) -> Array:
    flat = table.constant(setup.rounding)
    return np.where(flat, np.fmin(wrong, _median(table.change)), wrong)


# Defects of the truth, (rows, samples); no samples where there is no truth.
def _truth(tables: Mapping[str, Table], model: Table) -> Array:
    return tables["truth"].defect if "truth" in tables else model.defect[:, :0]


def _median(values: Array) -> Array:
    return np.median(values, axis=1) if values.shape[1] else np.full(len(values), np.nan)


def _quantile(values: Array) -> Array:
    return np.quantile(values, 0.95, axis=1)


def _curves(setup: Setup, found: Results) -> dict[str, Entry]:
    variables: dict[str, Entry] = {}
    for stem, axis, curves, meaning in (
        ("orbit", "orbit_angle", found.orbit, "median defect of rotations, windowed"),
        ("shift", "shift_fraction", found.shifts, "median defect of shifts by parts of a cell"),
    ):
        for who, values in curves.items():
            key = f"{stem}_{'defect' if who == 'model' else who}"
            if values is not None:
                variables[key] = (axis, values, f"{meaning}, {who}")
    return variables


def _examples(setup: Setup, found: Results) -> dict[str, Entry]:
    medians = np.nan_to_num(_median(found.finite["model"].defect), nan=-1.0)
    worst = int(medians.argmax()) if medians.size and medians.max() >= 0 else None
    row = None if worst is None else setup.rows[worst]
    base, same = setup.probe.ins.bundle.base, setup.probe.outs.grid == setup.probe.ins.grid
    space = tuple(AXES[: base.dim])
    after = space if same else tuple(f"{axis}_out" for axis in space)
    label = "" if row is None else row.label
    dims = {
        "input": ("channel_in", *space),
        "output": ("channel_out", *after),
        "target": ("channel_out", *after),
        "defect": after,
    }
    meaning = {"defect": f"fibre norm of F(g·x) − g·F(x), g = {label}"}
    maps = example(setup, row)
    return {
        f"example_{key}": (dims[key], values, meaning.get(key, f"{key} of the first sample"))
        for key, values in maps.items()
    }


def _listed(units: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {unit}" for name, unit in units.items())
