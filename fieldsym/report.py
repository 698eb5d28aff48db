"""Reports of evaluations: as netCDF, as JSON, as a table for the terminal, as one page to read.

A report is what :func:`fieldsym.evaluate` returns, or a mapping from names to such data sets, which
are then shown side by side. Files are complete or absent: each is written under a temporary name
and then moved.

>>> import fieldsym as fs
>>> from fieldsym.symmetry.evaluate import evaluate
>>> p = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
>>> x = fs.testing.random_section(p, (16, 16), batch=3)
>>> found = summary(evaluate(lambda u: u**2, fs.groups.reflections(2), x, p, p))
>>> [(s["name"], s["verdict"]) for s in found["symmetries"]]
[('Reflections and half turns', 'resolved violation')]

To add a format: turn ``summary`` into it, and write it with ``_atomically``.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fieldsym.errors import DataError
from fieldsym.symmetry.evaluate_statistics import (
    AS_TRUTH,
    BELOW_FLOOR,
    EXACT,
    NOT_TESTABLE,
    VIOLATION,
)

if TYPE_CHECKING:
    import xarray as xr
    from rich.table import Table

__all__ = ["as_mapping", "number", "summary", "table", "to_html", "to_json", "to_netcdf"]

Reports = "xr.Dataset | Mapping[str, xr.Dataset]"
WORST_LAST = (EXACT, BELOW_FLOOR, AS_TRUTH, NOT_TESTABLE, VIOLATION)
STYLES = {EXACT: "green", BELOW_FLOOR: "green", AS_TRUTH: "cyan", VIOLATION: "red"}
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None) -> str:
    """A defect or error as people read it: percent down to 0.1 %, powers of ten below.

    Examples
    --------
    >>> number(0.3141), number(0.0271), number(1.2e-7), number(None)
    ('31.4 %', '2.7 %', '1.2·10⁻⁷', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1e-3:
        return f"{100 * value:.0f} %" if abs(value) >= 1 else f"{100 * value:.1f} %"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def as_mapping(reports: xr.Dataset | Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Reports by name; one report is called after its model.

    Raises
    ------
    DataError   if there are none, or something is not a report of ``evaluate``.
    """
    named = {str(k): v for k, v in reports.items()} if not hasattr(reports, "data_vars") else {
        str(reports.attrs.get("model", "model")): reports
    }  # fmt: skip
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
           and ``generators`` (one dict per row), ``curves``, ``setup`` (attributes)
    """
    found: dict[str, Any] = {
        "model": str(report.attrs.get("model", "model")),
        "error": _middle(report.error),
        "error_transformed": _middle(report.error_transformed),
        **{key: _plain(report[key].item()) for key in ("mse", "mse_averaged", "share")},
        "elements": [_element(report, i) for i in range(report.sizes["element"])],
        "generators": [_generator(report, i) for i in range(report.sizes["generator"])],
        "curves": {
            key: [_plain(v) for v in report[key].values.tolist()]
            for key in map(str, report.variables)
            if key.startswith(("orbit_", "shift_"))
        },
        "setup": {str(key): _plain(value) for key, value in report.attrs.items()},
    }
    found["symmetries"] = _families(found)
    return found


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
    }


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
        return f"No larger than in the reference solution: {value} against {truth} ({where})."
    if row["verdict"] == NOT_TESTABLE:
        reason = f"the transform alone loses {floor}" if row["floor"] else "data are missing"
        return f"Not testable on this grid: {reason} ({where})."
    low, high = (number(v) for v in row["interval"])
    beside = f"; the reference solution has {truth}" if row["truth"] is not None else ""
    worst = f"largest for {where}" if rows > 1 else where
    return f"Violated: {row['measure']} {value} [{low}, {high}], {worst}; floor {floor}{beside}."


# Output -------------------------------------------------------------------------------------------


def table(reports: xr.Dataset | Mapping[str, xr.Dataset]) -> Table:
    """The comparison as a table for the terminal: one line per symmetry, one column per model.

    Examples
    --------
    >>> import fieldsym as fs
    >>> from fieldsym.symmetry.evaluate import evaluate
    >>> p = fs.Bundle(fs.Torus((1.0,)), "scalar p")
    >>> x = fs.testing.random_section(p, (16,))
    >>> table(evaluate(lambda u: u, fs.groups.reflections(1), x, p, p, y=x)).row_count
    4
    """
    from rich.table import Table

    found = {name: summary(one) for name, one in as_mapping(reports).items()}
    view = Table("", *found, "floor", "truth", title="Symmetry defects, median over samples")
    for label, key in (
        ("error", "error"),
        ("error, transformed", "error_transformed"),
        ("symmetry share of the error", "share"),
    ):
        view.add_row(label, *(number(one[key]) for one in found.values()), "", "")
    view.add_section()
    for name, cells in joined_rows(found).items():
        known = next(cell for cell in cells if cell)
        texts = [f"[{STYLES.get(c['verdict'], 'yellow')}]{number(c['value'])}  {c['verdict']}[/]"
                 if c else "" for c in cells]  # fmt: skip
        view.add_row(name, *texts, number(known["floor"]), number(known["truth"]))
    return view


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


def to_json(reports: xr.Dataset | Mapping[str, xr.Dataset], path: str | Path) -> Path:
    """Write ``summary`` as JSON; a mapping of reports becomes a mapping of summaries.

    Raises
    ------
    DataError   if it cannot be written, or is not a report.
    """
    found = {name: summary(one) for name, one in as_mapping(reports).items()}
    content = next(iter(found.values())) if hasattr(reports, "data_vars") else found
    return _atomically(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def to_netcdf(report: xr.Dataset, path: str | Path) -> Path:
    """Write one report as netCDF.

    Raises
    ------
    DataError   if it cannot be written, or is not one report.
    """
    from fieldsym.data.fields import write_netcdf

    if not hasattr(report, "data_vars"):
        raise DataError("One netCDF file holds one report; write each of the mapping to its own.")
    as_mapping(report)
    return write_netcdf(report, path)


def to_html(
    reports: xr.Dataset | Mapping[str, xr.Dataset], path: str | Path, title: str | None = None
) -> Path:
    """Write one self-contained page: verdicts, comparison, curves, example fields, definitions.

    Parameters
    ----------
    reports : what ``evaluate`` returned, or a mapping from names to that, shown side by side
    path : of the page
    title : default the names of the models

    Raises
    ------
    DataError   if it cannot be written, or is not a report.
    """
    from fieldsym.report_page import page

    return _atomically(path, page(as_mapping(reports), title))


def _atomically(path: str | Path, text: str) -> Path:
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror} ({path.parent}).") from error
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
    return path
