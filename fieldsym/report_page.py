"""The page of a report: one self-contained HTML file that reads well on a screen and on paper.

>>> _band("Shifts", 3)
'<tr class="band"><th colspan="3">Shifts</th></tr>'

To add a section: write a function that returns HTML and enter it in ``page``, or in
``report_tables.SECTIONS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from fieldsym.report_orbits import element_plot, polar_plot
from fieldsym.report_plots import curve_plot, field_plot
from fieldsym.report_style import CSS, GUIDE
from fieldsym.report_summary import (
    joined_rows,
    number,
    reference_holds,
    share_text,
    summary,
    too_symmetric,
)
from fieldsym.report_tables import SECTIONS, chip, findings, picture
from fieldsym.symmetry.evaluate_statistics import VIOLATION

if TYPE_CHECKING:
    import xarray as xr

Summary = dict[str, Any]
KINDS = {
    "point": "Reflections and lattice rotations",
    "shift": "Shifts by whole cells",
    "fractional shift": "Shifts by parts of a cell",
    "rotation": "Rotations by other angles, in the region",
    "infinitesimal": "Infinitesimal: the Lie derivative",
}
WRONG = "Control: the same with a wrong action on the output, which a test with any power rejects. "


def page(reports: Mapping[str, xr.Dataset], title: str | None = None) -> str:
    """The whole page."""
    found = {name: summary(one) for name, one in reports.items()}
    title = title or f"Symmetry report: {', '.join(found)}"
    parts = [
        _header(title, found),
        f'<section class="cards">{"".join(_card(n, s) for n, s in found.items())}</section>',
        findings(found),
        _comparison(found),
        _orbit(reports, found),
        *(section(found) for section in SECTIONS),
        _examples(reports, found),
        _setup(found),
        GUIDE,
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def _header(title: str, found: Mapping[str, Summary]) -> str:
    first = next(iter(found.values()))["setup"]
    groups = dict.fromkeys(one["setup"]["group"] for one in found.values())
    facts = {
        "group": ", ".join(groups),
        "fields": f"{first['in_bundle']} → {first['out_bundle']}",
        "base": f"{first['base']}, {first['grid']} points",
        "samples": first["samples"],
        "precision": ", ".join(dict.fromkeys(one["setup"]["dtype"] for one in found.values())),
        "reference solution": "yes" if first["has_truth"] else "none given",
    }
    cells = "".join(f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts.items())
    return (
        f"<header><h1>{escape(title)}</h1><p>How far each operator is from commuting with a group "
        f'of symmetries, beside what bounds the answer.</p><dl class="facts">{cells}</dl></header>'
    )


def _card(name: str, one: Summary) -> str:
    lines = "".join(
        f"<li>{chip(s['verdict'])}<div><b>{escape(s['name'])}</b><br>{escape(s['sentence'])}</div>"
        "</li>"
        for s in one["symmetries"]
    )
    known = {
        "error": number(one["error"]),
        "error, transformed": number(one["error_transformed"]),
        "symmetry share S": share_text(None if reference_holds(one) is False else one["share"]),
    }
    figures = [_figure(label, text) for label, text in known.items() if text != number(None)]
    return (
        f'<article class="card"><h2>{escape(name)}</h2><div class="figures">{"".join(figures)}'
        f'</div><p class="lead">{_headline(one)}</p><ul>{lines}</ul></article>'
    )


def _figure(label: str, value: str) -> str:
    return f'<div><span class="value">{escape(value)}</span><span>{label}</span></div>'


def _headline(one: Summary) -> str:
    """The first thing to know about a model: what it violates, and whether that matters."""
    broken = [s for s in one["symmetries"] if s["verdict"] == VIOLATION]
    limit = 0.1 * (one["error"] or 0.0)
    large = [s["name"] for s in broken if s["value"] >= limit]
    small = [s["name"] for s in broken if s["value"] < limit]
    parts = [f"Violates {_listing(large)}."] if large else []
    parts += [f"Its violation of {_listing(small)} is small beside its error."] if small else []
    if not parts and any(map(too_symmetric, (*one["elements"], *one["generators"]))):
        parts.append("It is more symmetric than the reference solution, which it cannot follow.")
    parts = parts or ["No violation that this test can resolve."]
    share, order, held = one["share"], one["setup"]["finite_order"], reference_holds(one)
    if share is not None and share < 1e-3:
        parts.append(f"Averaging over the {order} elements would not reduce its error.")
    elif share is not None and held is not False:
        start = "Averaging" if held else "If the targets have these symmetries, averaging"
        gain = f"{number(share)} of its squared error"
        parts.append(f"{start} over the {order} elements would remove {gain}.")
    return escape(" ".join(parts))


def _listing(names: list[str]) -> str:
    names = [name[0].lower() + name[1:] for name in names]
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


# The comparison -----------------------------------------------------------------------------------


def _comparison(found: Mapping[str, Summary]) -> str:
    controlled = any(row.get("wrong") for line in joined_rows(found).values() for row in line)
    heads = "".join(f'<th colspan="3" class="model">{escape(name)}</th>' for name in found)
    units = '<th class="model">defect [95 %]</th><th>error</th><th>S</th>' * len(found)
    body = ""
    if any(one["error"] is not None for one in found.values()):
        plain = [_cells(one["error"]) for one in found.values()]
        moved = [_cells(one["error_transformed"], one["share"]) for one in found.values()]
        body = _line("Test set as it is", plain) + _line("Transformed test sets", moved)
    last = ""
    for label, rows in joined_rows(found).items():
        known = next(row for row in rows if row)
        if known["kind"] != last:
            last = known["kind"]
            body += _band(KINDS[last], 3 + 3 * len(found))
        neighbours = (number(known["floor"]), number(known["truth"]))
        body += _line(label, [_row_cells(row) for row in rows], neighbours)
    return (
        '<section><h2>Comparison</h2><div class="wide"><table class="compare"><thead>'
        f'<tr><th></th>{heads}<th colspan="2" class="model">bounds</th></tr>'
        f'<tr><th>symmetry</th>{units}<th class="model">floor</th><th>truth</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div><p class='note'>Medians over samples; in brackets the "
        f"bootstrapped 95 % interval of the median. {WRONG * controlled}Error: relative L2 error "
        "on the transformed test set. S: symmetry share of the subgroup that the element "
        "generates, for targets that have the symmetry.</p></section>"
    )


def _band(text: str, columns: int) -> str:
    return f'<tr class="band"><th colspan="{columns}">{escape(text)}</th></tr>'


def _line(label: str, cells: list[str], neighbours: tuple[str, str] = ("", "")) -> str:
    bounds = f'<td class="model">{neighbours[0]}</td><td>{neighbours[1]}</td>'
    return f"<tr><th>{escape(label)}</th>{''.join(cells)}{bounds}</tr>"


def _cells(error: float | None, share: float | None = None) -> str:
    shown = "" if share is None else escape(share_text(share))
    return f'<td class="model"></td><td>{number(error)}</td><td>{shown}</td>'


def _row_cells(row: Summary) -> str:
    if not row:
        return '<td class="model"></td><td></td><td></td>'
    low, high = (number(v) for v in row["interval"])
    interval = f"<small>[{low}, {high}]</small>" if row["value"] is not None else ""
    error, share = row.get("error_transformed"), row.get("share_element")
    wrong = row.get("wrong")
    control = "" if wrong is None else f" <small>control {number(wrong)}</small>"
    return (
        f'<td class="model"><b>{number(row["value"])}</b> {interval}<br>{chip(row["verdict"])}'
        f"{control}</td><td>{'' if error is None else number(error)}</td>"
        f"<td>{'' if share is None else escape(share_text(share))}</td>"
    )


# Pictures and facts -------------------------------------------------------------------------------


ORBITS = (
    "Every element that was measured. A defect of exactly 0 is not drawn.",
    "Rotations about the centre. Fields are windowed here and the defect is relative to the "
    "windowed output, so that numbers differ from the table. Multiples of 90° are maps of the grid "
    "and say nothing about the angles between them; a defect of exactly 0 is not drawn.",
    "The same rotations: the angle as a direction, the defect as the distance from the centre.",
    "Shifts within one cell. What rises between whole cells is aliasing of the operator’s "
    "nonlinearities, or its resampling.",
)


def _orbit(reports: Mapping[str, xr.Dataset], found: Mapping[str, Summary]) -> str:
    pictures = (
        element_plot(found), curve_plot(reports, "orbit"), polar_plot(reports),
        curve_plot(reports, "shift"),
    )  # fmt: skip
    shown = [picture(uri, text) for uri, text in zip(pictures, ORBITS, strict=True) if uri]
    head = "<h2>The whole orbit</h2>"
    return f'<section>{head}<div class="pair">{"".join(shown)}</div></section>' if shown else ""


def _examples(reports: Mapping[str, xr.Dataset], found: Mapping[str, Summary]) -> str:
    blocks = []
    for name, one in reports.items():
        text = f"{name}: the first sample, target and output on one colour scale."
        if "example_defect" in one:
            worst = str(one.example_defect.attrs["long_name"]).split("g = ")[-1]
            text += f" On the right, where its largest defect sits (g = {worst})."
        units = found[name]["setup"]["units_of"]
        text += f" Units: {units}." if units else ""
        blocks.append(
            f'<figure class="fields"><img style="max-width: {236 * _columns(one)}px" '
            f'src="{field_plot(one)}" alt="{escape(text)}">'
            f"<figcaption>{escape(text)}</figcaption></figure>"
        )
    return f"<section><h2>Example fields</h2>{''.join(blocks)}</section>"


def _columns(report: xr.Dataset) -> int:
    return 2 + 2 * ("example_target" in report) + ("example_defect" in report)


def _setup(found: Mapping[str, Summary]) -> str:
    rows = (
        ("Operator", lambda s: f"{s['model_class']}, {s['parameters']:,} parameters"),
        ("Group", lambda s: f"{s['group']}; averaged over {s['finite_order']} elements"),
        ("Input → output", lambda s: f"{s['in_bundle']} → {s['out_bundle']}"),
        ("Base and grid", lambda s: f"{s['base']}, {s['grid']} points ({s['location']})"),
        ("Region, valid points", lambda s: f"{s['region']}; {100 * s['valid']:.0f} %"),
        ("Samples", lambda s: f"{s['samples']} (floor and truth: {s['reference_samples']})"),
        ("Input above 2/3 Nyquist", lambda s: f"{number(s['fine_energy'])} of its energy"),
        ("Output that is not its mean", lambda s: f"{number(s['fluctuation'])} of its norm"),
        ("Precision, device", lambda s: f"{s['dtype']} (moved in float64), {s['device']}"),
        ("Checkpoint", lambda s: f"sha256 {s['parameters_sha256'][:16]}"),
        ("Versions", lambda s: f"fieldsym {s['fieldsym_version']}, torch {s['torch_version']}, "
         f"numpy {s['numpy_version']}, Python {s['python_version']}; seed {s['seed']}"),
    )  # fmt: skip
    heads = "".join(f"<th>{escape(name)}</th>" for name in found)
    body = "".join(_setup_row(label, [str(f(s["setup"])) for s in found.values()])
                   for label, f in rows)  # fmt: skip
    return (
        f'<section><h2>Setup in full</h2><table class="setup"><thead><tr><th></th>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></section>"
    )


def _setup_row(label: str, values: list[str]) -> str:
    if len(set(values)) == 1:
        cells = f'<td colspan="{len(values)}">{escape(values[0])}</td>'
    else:
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
    return f"<tr><th>{escape(label)}</th>{cells}</tr>"
