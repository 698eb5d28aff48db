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
from fieldsym.report_plots import field_plot
from fieldsym.report_summary import number, share_text
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


def test_page_stands_alone_and_shows_everything(reports, tmp_path):
    text = report.to_html(reports, tmp_path / "r.html", title="A & B").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert page.tags.count("h1") == 1
    assert page.tags.count("img") == 4  # orbit, shifts, and the fields of two models
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


def test_page_is_the_same_each_time(reports, tmp_path):
    one = {"skewed": reports["skewed"]}
    first, second = (report.to_html(one, tmp_path / f"{i}.html").read_text("utf-8") for i in "ab")
    assert first == second


def test_names_cannot_break_the_page(reports, tmp_path):
    text = report.to_html(reports, tmp_path / "r.html").read_text("utf-8")
    assert "heat <b>" not in text
    assert "heat &lt;b&gt;" in text


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
