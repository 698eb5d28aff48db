"""Evaluations in words and plain numbers: what every format of a report is made of.

>>> number(0.0271), number(1.2e-7)
('2.7 %', '1.2·10⁻⁷')

To add a kind of symmetry: give its rows a name in ``_family_name``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fieldsym.errors import DataError
from fieldsym.symmetry.evaluate_findings import BEYOND, Fact
from fieldsym.symmetry.evaluate_findings import number as measured
from fieldsym.symmetry.evaluate_statistics import (
    AS_TRUTH,
    BELOW_FLOOR,
    EXACT,
    NOT_TESTABLE,
    VIOLATION,
)

if TYPE_CHECKING:
    import xarray as xr

WORST_LAST = (EXACT, BELOW_FLOOR, AS_TRUTH, NOT_TESTABLE, VIOLATION)
HOLDS = (EXACT, BELOW_FLOOR)


def number(value: float | None) -> str:
    """A defect or error as people read it, "–" where there is none."""
    return measured(math.nan if value is None else value)


def share_text(value: float | None) -> str:
    """A symmetry share as people read it; below 0.1 % symmetry is not the problem.

    Examples
    --------
    >>> share_text(0.161), share_text(4.7e-12)
    ('16.1 %', '< 0.1 %')
    """
    return "< 0.1 %" if value is not None and value < 1e-3 else number(value)


def as_mapping(reports: xr.Dataset | Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Reports by name; one report is called after its model.

    Raises
    ------
    DataError   if there are none, or something is not a report of ``evaluate``.
    """
    import xarray as xr

    if isinstance(reports, xr.Dataset):
        reports = {str(reports.attrs.get("model", "model")): reports}
    named = {str(name): one for name, one in reports.items()}
    if not named:
        raise DataError("A report needs at least one evaluation; got none.")
    for name, one in named.items():
        if not hasattr(one, "data_vars") or "defect_median" not in one:
            raise DataError(
                f"{name} is not a report: expected what evaluate returns, a Dataset with "
                f"defect_median; got {type(one).__name__}."
            )
    return named


def summary(report: xr.Dataset) -> dict[str, Any]:
    """One evaluation as plain numbers, words and lists; what was not measured is None.

    Returns
    -------
    dict   ``model``, ``error``, ``error_transformed`` (medians), ``mse``, ``mse_averaged``,
           ``share``, ``symmetries`` (one sentence and verdict per kind of symmetry), ``elements``
           and ``generators`` (one dict per row), ``energy`` (of the output, by band), ``curves``,
           ``setup`` (attributes). Rows have, where it was measured, what was ``found`` in words,
           the defect under a ``wrong`` action, on a grid twice as ``fine``, per ``fields`` and
           per ``bands`` (with floor and truth), and per ``layers`` (share and local defect)
    """
    found: dict[str, Any] = {
        "model": str(report.attrs.get("model", "model")),
        "error": _middle(report.error),
        "error_transformed": _middle(report.error_transformed),
        **{key: _plain(report[key].item()) for key in ("mse", "mse_averaged", "share")},
        "elements": [_element(report, i) for i in range(report.sizes["element"])],
        "generators": [_generator(report, i) for i in range(report.sizes["generator"])],
        "energy": _along(report, "energy_band"),
        "curves": {
            key: [_plain(v) for v in report[key].values.tolist()]
            for key in map(str, report.variables)
            if key.startswith(("orbit_", "shift_"))
        },
        "setup": {str(key): _plain(value) for key, value in report.attrs.items()},
    }
    found["symmetries"] = _families(found)
    return found


def reference_holds(one: Mapping[str, Any]) -> bool | None:
    """Whether the reference has the symmetries that are averaged over; None without a reference.

    Where it has not, the symmetry share says nothing about the error.
    """
    if not one["setup"].get("has_truth"):
        return None
    known = one["setup"].get("rounding") or 0.0
    rows = (row for row in one["elements"] if row["kind"] == "point")
    return all(_fact(row).in_reference(known) for row in rows)


def too_symmetric(row: Mapping[str, Any]) -> bool:
    """Whether a symmetry holds that the reference clearly violates, as its finding says."""
    return BEYOND in row.get("found", "")


# The numbers of an element; what is None is not a number.
def _fact(row: Mapping[str, Any]) -> Fact:
    value, floor, truth = (
        math.nan if row[key] is None else row[key]
        for key in ("defect_median", "floor", "truth_defect")
    )
    return Fact(row["name"], row["verdict"], value, (value, value), floor, truth)


def _element(report: xr.Dataset, i: int) -> dict[str, Any]:
    row = report.isel(element=i)
    keys = ("defect_median", "defect_p95", "floor", "truth_defect", "share_element")
    return {
        "name": row.element.item(),
        "kind": row.kind.item(),
        "method": row.method.item(),
        "verdict": row.verdict.item(),
        **{key: _plain(row[key].item()) for key in (*keys, "share_cumulative")},
        "defect_interval": [_plain(v) for v in row.defect_interval.values.tolist()],
        "error_transformed": _middle(row.error_transformed),
        **_parts(row, "defect", "finding"),
    }


def _generator(report: xr.Dataset, i: int) -> dict[str, Any]:
    row = report.isel(generator=i)
    keys = ("lee_median", "lee_floor", "lee_truth", "scale")
    return {
        "name": row.generator.item(),
        "unit": row.unit.item(),
        "verdict": row.lee_verdict.item(),
        **{key: _plain(row[key].item()) for key in keys},
        "lee_interval": [_plain(v) for v in row.lee_interval.values.tolist()],
        **_parts(row, "lee", "lee_finding"),
        "aliasing_share": _number(row, "aliasing_share"),
        "layers": {
            layer: {"share": share, "local": _along(row, "layer_local")[layer]}
            for layer, share in _along(row, "layer_share").items()
        },
    }


# What one row says beyond its median; empty where it was not measured.
def _parts(row: xr.Dataset, stem: str, finding: str) -> dict[str, Any]:
    name = str(row[{"defect": "element", "lee": "generator"}[stem]].item())
    words = str(row[finding].item()) if finding in row else ""
    mark = "" if stem == "defect" else "lee_"
    return {
        "found": words.removeprefix(f"{name}: "),
        "wrong": _number(row, "wrong_defect") if stem == "defect" else None,
        "fine": _number(row, f"{stem}_fine"),
        "fields": _along(row, f"{stem}_field"),
        "bands": _along(row, f"{stem}_band"),
        "floor_bands": _along(row, f"{mark}floor_band"),
        "truth_bands": _along(row, f"{mark}truth_band"),
    }


def _number(row: xr.Dataset, key: str) -> float | None:
    return _plain(row[key].item()) if key in row else None


def _along(row: xr.Dataset, key: str) -> dict[str, float | None]:
    """A variable with one axis left, by the names along it."""
    if key not in row:
        return {}
    (axis,) = row[key].dims
    names, values = row[axis].values.tolist(), row[key].values.tolist()
    return {str(name): _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: object) -> Any:
    """A JSON value: NaN and infinity become None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _middle(values: xr.DataArray) -> float | None:
    known = values.values[np.isfinite(values.values)]
    return float(np.median(known)) if known.size else None


# Sentences ----------------------------------------------------------------------------------------


def _families(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of one kind together: their name, the worst verdict and a sentence."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in found["elements"]:
        groups.setdefault(row["kind"], []).append(
            row | {"value": row["defect_median"], "interval": row["defect_interval"],
                   "truth": row["truth_defect"], "measure": "median defect"}
        )  # fmt: skip
    for row in found["generators"]:
        kind = f"infinitesimal {row['name'].split()[0]}"
        groups.setdefault(kind, []).append(
            row | {"value": row["lee_median"], "interval": row["lee_interval"],
                   "truth": row["lee_truth"], "floor": row["lee_floor"],
                   "measure": f"defect {row['unit']}"}
        )  # fmt: skip
    return [_family(kind, rows, str(found["setup"]["dtype"])) for kind, rows in groups.items()]


def _family(kind: str, rows: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    worst = max(rows, key=lambda row: (WORST_LAST.index(row["verdict"]), row["value"] or 0.0))
    sentence = _sentence(worst, len(rows), dtype)
    ahead = [row for row in rows if too_symmetric(row)]
    if ahead:
        most = max(ahead, key=lambda row: row["truth"])
        sentence += (
            f" The reference solution violates {most['name']} by {number(most['truth'])}, {BEYOND}."
        )
    return {
        "name": _family_name(kind, rows), "kind": kind, "verdict": worst["verdict"],
        "worst": worst["name"], "value": worst["value"], "sentence": sentence,
    }  # fmt: skip


def _family_name(kind: str, rows: list[dict[str, Any]]) -> str:
    names = {
        "shift": "Shifts by whole cells",
        "fractional shift": "Shifts by parts of a cell",
        "rotation": "Rotations by other angles",
    }
    if kind != "point":
        return names.get(kind, kind.replace("infinitesimal", "Infinitesimal") + "s")
    labels = " ".join(row["name"] for row in rows)
    turns = "quarter turns" if "90°" in labels else "half turns" if "180°" in labels else ""
    turns = "rotations" if "rotation" in labels and not turns else turns
    parts = ["reflections"] * ("reflection" in labels) + [turns] * bool(turns)
    return " and ".join(parts).capitalize() if parts else "Finite elements"


def _sentence(row: Mapping[str, Any], rows: int, dtype: str) -> str:
    """What the worst row of a family says, in words."""
    value, floor, truth = (number(row[key]) for key in ("value", "floor", "truth"))
    where = row["name"]
    if row["verdict"] == EXACT:
        return f"Holds to rounding in {dtype}: {row['measure']} at most {value}."
    if row["verdict"] == BELOW_FLOOR:
        return f"Nothing is seen above what the transform itself loses: {value}, floor {floor}."
    if row["verdict"] == AS_TRUTH:
        less = row["found"].startswith("less than")
        said = "Less than" if less else "Not to be told from"
        return f"{said} the reference solution: {value} against {truth} ({where})."
    if row["verdict"] == NOT_TESTABLE:
        lost = f"the transform alone loses {floor}" if row["floor"] else "data are missing"
        said, _, reason = row["found"].removesuffix(".").partition("not testable: ")
        return f"Not testable on this grid: {lost if said or not reason else reason} ({where})."
    low, high = (number(v) for v in row["interval"])
    beside = f"; the reference solution has {truth}" if row["truth"] is not None else ""
    worst = f"largest for {where}" if rows > 1 else where
    return f"Violated: {row['measure']} {value} [{low}, {high}], {worst}; floor {floor}{beside}."


def joined_rows(found: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of several summaries side by side, by label; an empty dict where a model has none."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for position, one in enumerate(found.values()):
        for row in _rows(one):
            rows.setdefault(row["label"], [{} for _ in found])[position] = row
    return rows


def _rows(one: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for row in one["elements"]:
        yield row | {
            "label": row["name"], "value": row["defect_median"], "truth": row["truth_defect"],
            "interval": row["defect_interval"],
        }  # fmt: skip
    for row in one["generators"]:
        yield row | {
            "label": f"{row['name']}, {row['unit']}", "value": row["lee_median"],
            "truth": row["lee_truth"], "floor": row["lee_floor"], "kind": "infinitesimal",
            "interval": row["lee_interval"], "method": "derivative",
        }  # fmt: skip
