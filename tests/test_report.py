"""Reports: the same numbers in every format, files complete or absent, a page that stands alone."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import xarray as xr

import fieldsym as fs
from fieldsym import report
from fieldsym.report_orbits import band_plot, element_plot, polar_plot
from fieldsym.report_plots import _colours, _panels, field_plot
from fieldsym.report_summary import number, reference_holds, share_text, summary
from fieldsym.report_tables import aliasing, bands, bar, fields, findings, heat, layers
from fieldsym.symmetry.evaluate import evaluate
from fieldsym.symmetry.evaluate_statistics import VERDICTS

SQUARE = fs.Torus((1.0, 1.0))
FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
GROUP = fs.groups.dihedral(4) * fs.groups.translations(2)


def skewed(u):
    return u.roll(1, -1) + 0.1 * u**3


@pytest.fixture(scope="module")
def reports():
    x = fs.testing.random_section(FLOW, (16, 16), batch=3)
    heat = fs.simulate.heat_flow(SQUARE, 1e-3)
    options = {"y": heat(x), "truth": heat, "units": {"p": "Pa", "u": "m s-1"}}
    return {
        "heat <b>": evaluate(heat, GROUP, x, FLOW, FLOW, name="heat <b>", **options),
        "skewed": evaluate(skewed, fs.groups.dihedral(4), x, FLOW, FLOW, name="skewed", **options),
    }


@pytest.fixture(scope="module")
def text(reports, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "r.html"
    return report.to_html(reports, path, title="A & B").read_text("utf-8")


class Page(HTMLParser):
    """Tags, their attributes, and the text of a page; every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


# Words and numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (2.5, "250 %"), (0.3141, "31.4 %"), (0.012, "1.2 %"), (0.0037, "0.37 %"),
        (9.9e-4, "9.9·10⁻⁴"), (1.25e-12, "1.2·10⁻¹²"), (None, "–"), (float("nan"), "–"),
        (123.4, "12,340 %"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(value, text):
    assert number(value) == text


def test_shares_as_people_read_them():
    assert [share_text(v) for v in (1e-9, 0.25, None)] == ["< 0.1 %", "25.0 %", "–"]


def test_summary_holds_the_numbers_of_the_evaluation(reports):
    one = reports["skewed"]
    found = report.summary(one)
    assert found["error"] == pytest.approx(float(np.median(one.error)))
    assert found["share"] == float(one.share)
    assert [row["name"] for row in found["elements"]] == one.element.values.tolist()
    quarter = next(row for row in found["elements"] if row["name"] == "rotation 90°")
    assert quarter["defect_median"] == one.defect_median.sel(element="rotation 90°").item()
    assert quarter["share_element"] > 0.1
    assert found["setup"]["samples"] == 3
    assert found["setup"]["units_of"] == "p: Pa, u: m s-1"


def test_summary_says_in_words_what_holds(reports):
    said = {s["name"]: s for s in report.summary(reports["heat <b>"])["symmetries"]}
    assert set(said) == {
        "Reflections and quarter turns", "Shifts by whole cells", "Shifts by parts of a cell",
        "Infinitesimal translations",
    }  # fmt: skip
    assert {s["verdict"] for s in said.values()} == {"exact"}
    assert "Holds to rounding in float64" in said["Shifts by whole cells"]["sentence"]
    broken = report.summary(reports["skewed"])["symmetries"][0]
    assert broken["verdict"] == "resolved violation"
    assert re.search(
        r"Violated: median defect .* \[.*\], largest for .*; floor", broken["sentence"]
    )
    assert "the reference solution has" in broken["sentence"]


@pytest.mark.parametrize(
    ("verdict", "floor", "words"),
    [
        ("exact", 1e-7, "Holds to rounding"),
        ("below floor", 1e-2, "Nothing is seen above"),
        ("consistent with truth", 1e-7, "Not to be told from the reference"),
        ("not testable on this grid", 0.4, "the transform alone loses 40.0 %"),
        ("not testable on this grid", None, "data are missing"),
        ("resolved violation", 1e-7, "Violated"),
    ],
)
def test_every_verdict_has_a_sentence(reports, verdict, floor, words):
    one = reports["skewed"].isel(element=slice(1)).copy(deep=True)
    one["verdict"] = ("element", np.array([verdict]))
    one["floor"] = ("element", np.array([np.nan if floor is None else floor]))
    assert words in report.summary(one)["symmetries"][0]["sentence"]
    assert verdict in VERDICTS


# Files --------------------------------------------------------------------------------------------


def test_json_is_strict_and_complete(reports, tmp_path):
    def refuse(word):
        raise ValueError(word)

    path = report.to_json(reports, tmp_path / "both.json")
    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert list(found) == list(reports)
    assert found["skewed"] == report.summary(reports["skewed"])
    one = json.loads(report.to_json(reports["skewed"], tmp_path / "one.json").read_text("utf-8"))
    assert one == found["skewed"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.json", "one.json"]


def test_netcdf_comes_back_as_it_was(reports, tmp_path):
    path = report.to_netcdf(reports["skewed"], tmp_path / "skewed.nc")
    with xr.open_dataset(path) as back:
        xr.testing.assert_equal(back.load(), reports["skewed"])
        assert back.attrs["group"] == "dihedral(4)"
        assert report.summary(back)["elements"] == report.summary(reports["skewed"])["elements"]
    assert [p.name for p in tmp_path.iterdir()] == ["skewed.nc"]


def test_netcdf_without_elements_or_generators(tmp_path):
    x = fs.testing.random_section(FLOW, (8, 8))
    one = evaluate(lambda u: u, fs.groups.trivial(2), x, FLOW, FLOW, y=x)
    with xr.open_dataset(report.to_netcdf(one, tmp_path / "none.nc")) as back:
        assert dict(back.sizes)["sample"] == 1
    assert report.to_html(one, tmp_path / "none.html").stat().st_size > 1000


@pytest.mark.parametrize("write", [report.to_json, report.to_html, report.to_netcdf])
def test_a_missing_folder_is_one_clear_message(reports, write, tmp_path):
    with pytest.raises(fs.DataError, match=r"Cannot write .*file: No such file"):
        write(reports["skewed"], tmp_path / "absent" / "file")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(reports, tmp_path, monkeypatch):
    path = report.to_json(reports["skewed"], tmp_path / "r.json")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(fs.DataError, match="No space left on device"):
        report.to_html(reports["skewed"], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("write", [report.to_json, report.to_html])
def test_what_is_no_report_is_refused(write, tmp_path):
    with pytest.raises(fs.DataError, match="needs at least one evaluation"):
        write({}, tmp_path / "r")
    with pytest.raises(fs.DataError, match=r"x is not a report: .* got Dataset"):
        write({"x": xr.Dataset()}, tmp_path / "r")
    with pytest.raises(fs.DataError, match=r"x is not a report: .* got int"):
        write({"x": 3}, tmp_path / "r")
    assert not list(tmp_path.iterdir())


def test_one_netcdf_file_holds_one_report(reports, tmp_path):
    with pytest.raises(fs.DataError, match="One netCDF file holds one report"):
        report.to_netcdf(reports, tmp_path / "r.nc")


# The table and the page ---------------------------------------------------------------------------


def test_table_puts_models_side_by_side(reports):
    from rich.console import Console

    view = report.table(reports)
    assert [column.header for column in view.columns] == ["", *reports, "floor", "truth"]
    assert view.row_count == 3 + 7 + 2 + 4 + 2
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(view)
    text = console.export_text()
    assert re.search(r"rotation 90°.*exact.*resolved violation", text)
    assert "translation x, per correlation length" in text


def test_page_stands_alone_and_shows_everything(reports, text):
    page = Page(text)
    assert page.open == []
    assert page.tags.count("h1") == 1
    # elements, two of the orbit, shifts, bands, and the fields of two models
    assert page.tags.count("img") == 6 + ("defect_band" in reports["skewed"])
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)
    words = " ".join(page.words)
    for heading in ("A & B", "Comparison", "The whole orbit", "Example fields", "How to read this"):
        assert heading in words
    for name in (*reports, *reports["heat <b>"].element.values, "translation x, per correlation"):
        assert name in words
    assert {"exact", "resolved violation"} <= set(page.words)
    assert "Units: p: Pa, u: m s-1" in words


def lead(text):
    """The first sentences of a page."""
    return re.search(r'<p class="lead">(.*?)</p>', text)[1]


def test_averaging_is_a_matter_of_the_targets(tmp_path):
    """A truth that violates the group: nothing about averaging; none: only with an "if"."""
    x = fs.testing.random_section(FLOW, (16, 16), batch=3)
    even = fs.simulate.heat_flow(SQUARE, 1e-3)
    uneven = lambda u: 0.5 * (u + u.roll(1, -1))  # noqa: E731
    said, held, shown = {}, {}, {}
    for key, y, truth in (("none", even(x), None), ("even", None, even), ("uneven", None, uneven)):
        one = evaluate(skewed, fs.groups.dihedral(4), x, FLOW, FLOW, y=y, truth=truth)
        page = report.to_html(one, tmp_path / f"{key}.html").read_text("utf-8")
        said[key], held[key] = lead(page), reference_holds(summary(one))
        shown[key] = ">symmetry share S<" in page
        cells = list(report.table(one).columns[1].cells)
        assert ("no symmetry of the truth" in cells) == (key == "uneven")
    assert held == {"none": None, "even": True, "uneven": False}
    assert (
        "If the targets have these symmetries, averaging over the 8 elements would" in said["none"]
    )
    assert "Averaging over the 8 elements would remove" in said["even"]
    assert "veraging" not in said["uneven"]
    assert shown == {"none": True, "even": True, "uneven": False}


def test_the_orbit_says_why_its_numbers_differ(text):
    words = " ".join(Page(text).words)
    assert "windowed here and the defect is relative to the windowed output" in words


def test_defects_are_drawn_from_their_least_to_their_largest(reports):
    """So that a defect of 0.9 to 1 everywhere is no solid colour."""
    one = reports["skewed"]
    title, field, span = _panels(one)[0][-1]
    assert title.startswith("|F")
    found = _colours(0.9 + 0.1 * field / field.max(), span)
    assert found["vmin"] == pytest.approx(0.9 + 0.1 * float(field.min() / field.max()))
    assert found["vmax"] == pytest.approx(1.0)
    assert _colours(field * 0 + 2.0, span)["vmin"] == 0.0
    assert _colours(one.example_input, 0.0)["vmin"] < 0


def test_what_a_constant_output_leaves_untested_is_said_in_words():
    x = fs.testing.random_section(FLOW, (8, 8))
    p = fs.Bundle(SQUARE, "scalar p")
    found = summary(evaluate(lambda u: u[:, :1] * 0 + 2, fs.groups.dihedral(4), x, FLOW, p))
    (family,) = found["symmetries"]
    assert family["verdict"] == "not testable on this grid"
    assert "the output is constant, and left as it is it passes as well" in family["sentence"]


def test_page_is_the_same_each_time(reports, tmp_path):
    one = {"skewed": reports["skewed"]}
    first, second = (report.to_html(one, tmp_path / f"{i}.html").read_text("utf-8") for i in "ab")
    assert first == second


def test_names_cannot_break_the_page(text):
    assert "heat <b>" not in text
    assert "heat &lt;b&gt;" in text


# Findings, fields, bands, aliasing, layers --------------------------------------------------------

ADDED = {"finding", "lee_finding", "wrong_defect", "defect_fine", "lee_fine", "aliasing_share"}


def bare(one):
    """A report without what not every evaluation measures."""
    parts = {n for n, v in one.variables.items() if {"field", "band", "layer"} & set(v.dims)}
    return one.drop_vars((ADDED | parts) & set(one.variables))


@pytest.fixture(scope="module")
def full(reports):
    """Reports with known numbers in every part."""
    broken = bare(reports["skewed"])
    return {"heat <b>": _filled(bare(reports["heat <b>"])), "skewed": _filled(broken)}


def _filled(one):
    m, k = one.sizes["element"], one.sizes["generator"]
    elements, generators = one.element.values, one.generator.values
    table = {
        "finding": ("element", [f"{name}: violated: seen in p < u." for name in elements]),
        "lee_finding": ("generator", np.array([f"{g}: holds." for g in generators], dtype=str)),
        "wrong_defect": ("element", np.full(m, 1.234)),
        "defect_field": (("element", "field"), np.tile([0.0123, 0.456], (m, 1))),
        "lee_field": (("generator", "field"), np.tile([0.03, 0.04], (k, 1))),
        "defect_band": (("element", "band"), np.tile([1e-3, 0.789, np.nan], (m, 1))),
        "floor_band": (("element", "band"), np.tile([1e-2, 1e-7, np.nan], (m, 1))),
        "truth_band": (("element", "band"), np.tile([1e-9, 1e-8, np.nan], (m, 1))),
        "lee_band": (("generator", "band"), np.tile([1e-3, 0.5, np.nan], (k, 1))),
        "energy_band": ("band", [0.9, 0.1, 0.0]),
        "defect_fine": ("element", one.defect_median.values / 2),
        "lee_fine": ("generator", np.full(k, 1e-9)),
        "aliasing_share": ("generator", np.full(k, 0.98)),
        "layer_share": (("generator", "layer"), np.tile([1.2, -0.2], (k, 1))),
        "layer_local": (("generator", "layer"), np.tile([0.3, np.nan], (k, 1))),
    }
    names = {"field": ["p", "u"], "band": ["0-4 waves", "4-8 waves", "beyond 8 waves"],
             "layer": ["lifting & co", "between the modules of the model"]}  # fmt: skip
    return one.assign(table).assign_coords(names)


def rows_of(text):
    """The cells of every line of a table, as text."""
    lines = re.findall(r"<tr>(.*?)</tr>", text)
    return [
        [re.sub(r"<br>|<[^>]*>", " ", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", t)]
        for t in lines
    ]


def test_summary_has_every_part(full):
    one = summary(full["skewed"])
    row = one["elements"][0]
    assert row["found"] == "violated: seen in p < u."
    assert row["wrong"] == 1.234
    assert row["fields"] == {"p": 0.0123, "u": 0.456}
    assert row["bands"] == {"0-4 waves": 1e-3, "4-8 waves": 0.789, "beyond 8 waves": None}
    assert row["fine"] == pytest.approx(row["defect_median"] / 2)
    assert one["energy"]["0-4 waves"] == 0.9
    turn = summary(full["heat <b>"])["generators"][0]
    assert turn["aliasing_share"] == 0.98
    assert turn["layers"]["lifting & co"] == {"share": 1.2, "local": 0.3}
    assert turn["layers"]["between the modules of the model"] == {"share": -0.2, "local": None}
    without = summary(bare(full["skewed"]))
    assert without["elements"][0]["fields"] == {}
    assert without["elements"][0]["wrong"] is None
    assert without["energy"] == {}


def test_findings_come_in_words_and_those_that_hold_in_one_line(full):
    found = {name: summary(one) for name, one in full.items()}
    lines = rows_of(findings(found))
    assert lines[0] == ["symmetry", "heat &lt;b&gt;", "skewed"]
    quarter = next(line for line in lines if line[0] == "rotation 90°")
    assert quarter[2].startswith("resolved violation")
    assert "Seen in p &lt; u." in quarter[2]
    assert lines[-1][0] == "holds in all models"
    assert "translation x" in lines[-1][1]


def test_the_page_says_where_the_reference_is_less_symmetric(tmp_path):
    x, even = fs.testing.random_section(FLOW, (16, 16), batch=3), fs.simulate.heat_flow(SQUARE, 0.1)
    uneven = lambda u: 0.5 * (u + u.roll(1, -1))  # noqa: E731
    words, ahead = {}, "It is more symmetric than the reference solution, which it cannot follow."
    for key, truth in (("uneven", uneven), ("even", even)):
        found = evaluate(even, fs.groups.dihedral(4), x, FLOW, FLOW, truth=truth)
        one = summary(found)
        page = report.to_html(found, tmp_path / f"{key}.html").read_text("utf-8")
        assert (ahead in page) == (key == "uneven")
        (family,) = one["symmetries"]
        words[key] = family["sentence"], rows_of(findings({"enforced": one}))
        assert family["verdict"] == "exact"
    card, lines = words["uneven"]
    assert card.startswith("Holds to rounding in ")
    assert re.search(r" The reference solution violates .* by .*, which this operator cannot", card)
    assert any(line[0] == "rotation 90°" and "cannot follow" in line[1] for line in lines)
    card, lines = words["even"]
    assert "reference" not in card
    assert [line[0] for line in lines[1:]] == ["holds in this model"]


def test_every_field_and_band_is_shown(full):
    found = {"skewed": summary(full["skewed"])}
    lines = rows_of(fields(found))
    assert lines[1] == ["symmetry", "p", "u"]
    assert ["rotation 90°", "1.2 %", "45.6 %"] in lines
    text = bands(found)
    assert ["energy of the output", "90.0 %", "10.0 %", "0"] in rows_of(text)
    assert ["rotation 90°", "0.10 %", "78.9 %", "–"] in rows_of(text)
    assert '<td class="heat weak">0.10 %</td>' in text  # below its floor of 1 %
    assert "data:image/svg+xml" in text
    only = summary(full["heat <b>"])
    assert fields({"heat": only}) == bands({"heat": only}) == ""  # it has every symmetry


def test_aliasing_is_told_from_asymmetry(full):
    skewed = summary(full["skewed"])
    lines = rows_of(aliasing({"skewed": skewed}))
    row = next(row for row in skewed["elements"] if row["name"] == "rotation 90°")
    wanted = ["rotation 90°", number(row["defect_median"]), number(row["defect_median"] / 2)]
    assert [*wanted, "75.0 %"] in lines
    held = rows_of(aliasing({"heat": summary(full["heat <b>"])}))
    assert next(line for line in held if line[0].startswith("translation x"))[-1] == "–"


def test_layers_show_shares_with_their_sign(full):
    text = layers({name: summary(one) for name, one in full.items()})
    lines = rows_of(text)
    assert lines[1][:3] == ["part", "share", "local"]
    assert lines[2][:3] == ["lifting &amp; co", "120 %", "30.0 %"]
    assert lines[3][:3] == ["between the modules of the model", "−20.0 %", "–"]
    assert 'class="bar minus" style="width: 14px"' in text


def test_parts_that_were_not_measured_are_left_out(full):
    found = {name: summary(bare(one)) for name, one in full.items()}
    assert [part(found) for part in (findings, fields, bands, aliasing, layers)] == [""] * 5
    assert band_plot(found) is None


def test_the_page_of_a_full_report_is_whole(full, tmp_path):
    text = report.to_html(full, tmp_path / "r.html").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    words = " ".join(page.words)
    for heading in ("Findings", "By field", "By wavenumber", "Aliasing or asymmetry", "By layer"):
        assert heading in words
    assert "control 123 %" in words
    assert words.index("Findings") < words.index("Comparison") < words.index("By layer")
    assert all(link.startswith("data:image/") for link in page.links)
    bare_text = report.to_html(bare(full["heat <b>"]), tmp_path / "b.html")
    words = " ".join(Page(bare_text.read_text("utf-8")).words)
    assert "Comparison" in words
    assert "By layer" not in words
    assert "control 123" not in words


def test_heat_and_bars_follow_the_numbers():
    strength = [float(re.search(r"--heat: ([\d.]+)", heat(v))[1]) for v in (1e-5, 1e-3, 0.1, 7.0)]
    assert strength == [0.0, 0.0, pytest.approx(0.67, abs=0.01), 1.0]
    assert "weak" in heat(0.02, 0.01)
    assert "weak" not in heat(0.04, 0.01)
    assert heat(None) == '<td class="heat weak">–</td>'
    assert 'width: 7px"></span>10.0 %' in bar(0.1)
    assert bar(1e-5).endswith(">0</td>")
    assert bar(None).endswith(">–</td>")


def test_pictures_of_nothing_are_none(reports):
    one = reports["skewed"].copy(deep=True)
    one["defect_median"][:] = 0.0
    if "orbit_defect" in one:
        one["orbit_defect"][:] = 0.0
    assert element_plot({"none": summary(one)}) is None
    assert polar_plot({"none": one}) is None
    assert polar_plot({}) is None
    image = base64.b64decode(polar_plot(reports).removeprefix("data:image/svg+xml;base64,"))
    assert b"<svg" in image


@pytest.mark.parametrize(
    ("base", "grid"), [(fs.Torus((2.0,)), (24,)), (fs.Torus((1.0, 1.0, 1.0)), (8, 8, 6))]
)
def test_fields_of_other_dimensions_are_drawn(base, grid):
    p = fs.Bundle(base, "scalar p")
    x = fs.testing.random_section(p, grid)
    one = evaluate(lambda u: u**2, fs.groups.reflections(base.dim), x, p, p)
    image = base64.b64decode(field_plot(one).removeprefix("data:image/png;base64,"))
    assert image.startswith(b"\x89PNG")
    assert len(image) > 5000


def test_a_constant_field_and_a_single_sample_are_drawn(tmp_path):
    w = fs.Bundle(SQUARE, "pseudoscalar w")
    x = torch.zeros(1, 1, 8, 8)
    one = evaluate(lambda u: u, fs.groups.dihedral(4), x, w, w, y=x)
    assert report.to_html(one, tmp_path / "r.html").exists()
    assert float(one.defect.max()) == 0.0
