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
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fieldsym.errors import DataError
from fieldsym.report_summary import (
    as_mapping,
    joined_rows,
    number,
    reference_holds,
    share_text,
    summary,
)
from fieldsym.symmetry.evaluate_statistics import AS_TRUTH, BELOW_FLOOR, EXACT, VIOLATION

if TYPE_CHECKING:
    import xarray as xr
    from rich.table import Table

__all__ = ["summary", "table", "to_html", "to_json", "to_netcdf"]

STYLES = {EXACT: "green", BELOW_FLOOR: "green", AS_TRUTH: "cyan", VIOLATION: "red"}


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
    ):
        view.add_row(label, *(number(one[key]) for one in found.values()), "", "")
    parts = (
        "no symmetry of the truth" if reference_holds(one) is False else share_text(one["share"])
        for one in found.values()
    )
    view.add_row("symmetry share", *parts, "", "")
    view.add_section()
    for name, cells in joined_rows(found).items():
        known = next(cell for cell in cells if cell)
        texts = [f"[{STYLES.get(c['verdict'], 'yellow')}]{number(c['value'])}  {c['verdict']}[/]"
                 if c else "" for c in cells]  # fmt: skip
        view.add_row(name, *texts, number(known["floor"]), number(known["truth"]))
    return view


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
    from fieldsym.data.writers import write_netcdf

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
