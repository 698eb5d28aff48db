"""Tables of a report's page beside the comparison: findings, fields, bands, aliasing, layers.

Each function takes the summaries of all models by name and returns a section of HTML, empty where
nothing of it was measured. Defects are coloured by their size: clear at 0.1 %, strong at 100 %.

>>> heat(0.01), heat(1.0), heat(0.01, 0.2)
('<td class="heat" style="--heat: 0.33">1.0 %</td>', '<td class="heat" style="--heat: 1.00">100 %</td>', '<td class="heat weak">1.0 %</td>')

To add one: write a function of the summaries and enter it in ``SECTIONS``.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fieldsym.report_orbits import band_plot
from fieldsym.report_summary import HOLDS, joined_rows, number, too_symmetric
from fieldsym.symmetry.evaluate_statistics import AS_TRUTH, BELOW_FLOOR, EXACT, VIOLATION

Summary = dict[str, Any]
CLASSES = {EXACT: "good", BELOW_FLOOR: "good", AS_TRUTH: "fair", VIOLATION: "bad"}


def chip(verdict: str) -> str:
    """A verdict as a coloured word.

    Examples
    --------
    >>> chip("exact")
    '<span class="chip good">exact</span>'
    """
    return f'<span class="chip {CLASSES.get(verdict, "open")}">{escape(verdict)}</span>'


def heat(value: float | None, floor: float | None = None) -> str:
    """A cell with a defect; grey where it is not above 3 floors."""
    if value is None or value <= 3 * (floor or 0.0):
        return f'<td class="heat weak">{number(value)}</td>'
    strength = min(1.0, max(0.0, 1 + math.log10(value) / 3))
    return f'<td class="heat" style="--heat: {strength:.2f}">{number(value)}</td>'


def bar(value: float | None) -> str:
    """A cell with a part of a whole: a number, and a bar as long as it is large.

    Examples
    --------
    >>> bar(-0.5)
    '<td class="part"><span class="bar minus" style="width: 35px"></span>−50.0 %</td>'
    """
    if value is None:
        return '<td class="part weak">–</td>'
    if abs(value) < 5e-4:
        return '<td class="part weak">0</td>'
    sign, kind = ("−", " minus") if value < 0 else ("", "")
    text = f"{sign}{number(abs(value))}"
    width = round(70 * min(1.0, abs(value)))
    return f'<td class="part"><span class="bar{kind}" style="width: {width}px"></span>{text}</td>'


def picture(uri: str, text: str) -> str:
    """A picture with its caption."""
    return f'<figure><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _section(title: str, table: str, note: str) -> str:
    return (
        f'<section><h2>{title}</h2><div class="wide">{table}</div><p class="note">{note}</p>'
        "</section>"
    )


def _table(kind: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    lines = "".join(f"<tr>{head}</tr>" for head in heads if head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table class="{kind}"><thead>{lines}</thead><tbody>{body}</tbody></table>'


def _heads(names: Sequence[str], columns: int = 1) -> str:
    """One heading over the columns of each model."""
    return "".join(f'<th class="model" colspan="{columns}">{escape(name)}</th>' for name in names)


def _cells(cells: Sequence[str]) -> str:
    """The cells of one model, the first with a line on its left."""
    return cells[0].replace('class="', 'class="model ', 1) + "".join(cells[1:]) if cells else ""


def _open_rows(found: Mapping[str, Summary]) -> Iterator[tuple[str, list[Summary]]]:
    """Symmetries that some model does not have to rounding."""
    for label, rows in joined_rows(found).items():
        if any(row and row["verdict"] not in HOLDS for row in rows):
            yield label, rows


# Findings -----------------------------------------------------------------------------------------


def findings(found: Mapping[str, Summary]) -> str:
    """Every symmetry in words, those that hold everywhere in one line."""
    rows = joined_rows(found)
    if not any(row.get("found") for line in rows.values() for row in line):
        return ""
    broken = dict(_open_rows(found))
    listed = {k: v for k, v in rows.items() if k in broken or any(map(too_symmetric, v))}
    lines = [
        f"<th>{escape(label.partition(',')[0])}</th>" + "".join(map(_finding, line))
        for label, line in listed.items()
    ]
    held = [label.partition(",")[0] for label in rows if label not in listed]
    if held:
        names = f" in {'all models' if len(found) > 1 else 'this model'}"
        lines.append(
            f'<th>holds{names}</th><td class="model" colspan="{len(found)}">'
            f"{escape(', '.join(held))}</td>"
        )
    return _section(
        "Findings",
        _table("words", ["<th>symmetry</th>" + _heads(list(found))], lines),
        "In percent of the fluctuation of the output, or of a constant output itself. A symmetry "
        "holds where its defect is within rounding, or below 3 floors.",
    )


def _finding(row: Summary) -> str:
    words = row.get("found", "")
    words = words.removeprefix("violated: ").replace("-", "\N{NON-BREAKING HYPHEN}")
    shown = f"{chip(row['verdict'])}<br>{escape(words[:1].upper() + words[1:])}" if row else ""
    return f'<td class="model">{shown}</td>'


# Fields and bands ---------------------------------------------------------------------------------


def fields(found: Mapping[str, Summary]) -> str:
    """Defects of each block of the output, relative to its own fluctuation."""
    names = list(dict.fromkeys(f for line in joined_rows(found).values() for row in line
                               for f in row.get("fields", ())))  # fmt: skip
    rows = dict(_open_rows(found))
    if len(names) < 2 or not rows:
        return ""
    lines = [
        f"<th>{escape(label)}</th>"
        + "".join(
            _cells([heat(row.get("fields", {}).get(name), row.get("floor")) for name in names])
            for row in line
        )
        for label, line in rows.items()
    ]
    units = "".join(
        "".join(f'<th{" class=model" if i == 0 else ""}>{escape(name)}</th>'
                for i, name in enumerate(names)) for _ in found
    )  # fmt: skip
    heads = ["<th></th>" + _heads(list(found), len(names)), f"<th>symmetry</th>{units}"]
    return _section(
        "By field",
        _table("compare", heads, lines),
        "Median defect of each block of the output, relative to the fluctuation of that block. "
        "Grey: below 3 floors. Symmetries that hold are left out.",
    )


def bands(found: Mapping[str, Summary]) -> str:
    """Defects in bands of the wavenumber, model by model."""
    blocks = []
    for name, one in found.items():
        rows = {k: line[0] for k, line in _open_rows({name: one}) if line[0].get("bands")}
        if not rows:
            continue
        labels = list(next(iter(rows.values()))["bands"])
        energy = "".join(f"<td>{number((one['energy'] or {}).get(b))}</td>" for b in labels)
        lines = [f"<th>energy of the output</th>{energy}"]
        lines += [
            f"<th>{escape(label)}</th>"
            + "".join(heat(row["bands"][b], row["floor_bands"].get(b)) for b in labels)
            for label, row in rows.items()
        ]
        heads = "".join(f"<th>{escape(b)}</th>" for b in labels)
        table = _table("compare even", [f"<th>{escape(name)}</th>{heads}"], lines)
        blocks.append(f'<div class="wide">{table}</div>')
    uri = band_plot(found)
    if uri:
        text = "The largest violation of each model, beside its floor and the reference solution."
        blocks.append(f'<div class="below">{picture(uri, text)}</div>')
    note = (
        "Median defect in bands of the radial wavenumber (waves along the longest side), "
        "relative to the output in that band; “–” where the output has next to nothing. Grey: "
        "below 3 floors. Large defects at high wavenumbers that hold little energy point to "
        "aliasing. Symmetries that hold are left out."
    )
    return _section("By wavenumber", "".join(blocks), note) if blocks else ""


# Aliasing and layers ------------------------------------------------------------------------------


def aliasing(found: Mapping[str, Summary]) -> str:
    """The same samples on the grid and on one twice as fine."""
    rows = {
        label: line
        for label, line in joined_rows(found).items()
        if any(row.get("fine") is not None for row in line)
    }
    if not rows:
        return ""
    lines = [f"<th>{escape(k)}</th>{''.join(map(_fine, line))}" for k, line in rows.items()]
    heads = [
        "<th></th>" + _heads(list(found), 3),
        "<th>symmetry</th>" + '<th class="model">N</th><th>2N</th><th>vanishes</th>' * len(found),
    ]
    return _section(
        "Aliasing or asymmetry: two resolutions",
        _table("compare", heads, lines),
        "Median defect on the grid of the data (N) and of the same fields, refined spectrally, on "
        "a grid twice as fine (2N). Last, the part of the squared defect that vanishes on a "
        "grid twice as fine: all of it for smooth nonlinearities and fields that the grid "
        "resolves, about half for relu (0.45 to 0.57), whose slope jumps alias on every grid, and "
        "none for an asymmetry of the operator itself.",
    )


def _fine(row: Summary) -> str:
    if not row:
        return '<td class="model"></td><td></td><td></td>'
    value, fine, floor = row["value"], row["fine"], row["floor"]
    gone = row.get("aliasing_share")
    if gone is None and value and fine is not None:
        gone = 1 - min(1.0, fine / value) ** 2
    if row["verdict"] in HOLDS:
        gone = None
    return _cells([heat(value, floor), heat(fine, floor), bar(gone)])


def layers(found: Mapping[str, Summary]) -> str:
    """Which parts of each network break the infinitesimal symmetries."""
    blocks = [
        f'<div class="wide">{_layers(name, one)}</div>'
        for name, one in found.items()
        if any(row["layers"] for row in one["generators"])
    ]
    note = (
        "By the chain rule. Share: the signed part of the squared Lie derivative that a part of "
        "the network causes; the shares of one symmetry sum to 100 %. Local: 2‖a − b‖ / (‖a‖ + "
        "‖b‖) of the two ways through that part alone. Fields inside the network are taken as "
        "scalars, so that rotations of vectors show where they enter and leave."
    )
    return _section("By layer", "".join(blocks), note) if blocks else ""


def _layers(name: str, one: Summary) -> str:
    rows = [row for row in one["generators"] if row["layers"]]
    heads = [
        f"<th>{escape(name)}</th>" + _heads([row["name"] for row in rows], 2),
        "<th>part</th>" + '<th class="model">share</th><th>local</th>' * len(rows),
    ]
    # rounding, relative to the two ways: grey
    noise = 1e-4 if one["setup"].get("dtype") == "float32" else 1e-10
    lines = [
        f"<th>{escape(part)}</th>"
        + "".join(
            _cells([bar(row["layers"][part]["share"]), heat(row["layers"][part]["local"], noise)])
            for row in rows
        )
        for part in rows[0]["layers"]
    ]
    return _table("compare", heads, lines)


SECTIONS = (fields, bands, aliasing, layers)
