"""The demonstration at a small size: files, exactness, resumption and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from fieldsym import demo
from fieldsym.cli import main
from fieldsym.data.fields import open_fields
from fieldsym.errors import DataError
from fieldsym.surrogate import Surrogate

TINY = replace(
    demo.CONFIG, n_modes=5, hidden_channels=8, n_layers=1, epochs=2, train=0.5, valid=0.25,
    accelerator="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Everything the demonstration says and does."""
    out = tmp_path_factory.mktemp("demo") / "new" / "demo"
    said, steps = [], []
    table = demo.run(
        out, grid=16, samples=4, config=TINY, say=said.append,
        progress=lambda *a: steps.append(a),
    )  # fmt: skip
    return out, table, said, steps


def test_the_stages(shown):
    _, table, said, steps = shown
    assert said == [
        "1/3 simulating 4 flows on 16 × 16 points",
        "2/3 training the plain FNO (2 epochs)",
        "3/3 evaluating the plain FNO",
        "2/3 training the D4 FNO (2 epochs)",
        "3/3 evaluating the D4 FNO",
    ]
    assert (40, 40) in [a[:2] for a in steps]
    assert any("epoch 2/2, validation error 0." in a[2] for a in steps if len(a) > 2)
    headers = [str(c.header) for c in table.columns]
    assert {"plain FNO", "D4 FNO"} <= set(headers)


def test_the_files(shown):
    out, *_ = shown
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    runs = {f"{m}_FNO/{f}" for m in ("plain", "D4") for f in ("best.pt", "last.pt", "curve.json")}
    reports = {f"{m}_FNO.{e}" for m in ("plain", "D4") for e in ("nc", "json")}
    assert names == {"navier_stokes.nc", "report.html", *runs, *reports}


def test_the_data_and_models_are_those_of_the_text(shown):
    out, *_ = shown
    fields = open_fields(out / "navier_stokes.nc")
    assert str(fields.bundle.representation) == "pseudoscalar w"
    assert tuple(fields.values.shape) == (4, 11, 1, 16, 16)
    with xr.open_dataset(out / "navier_stokes.nc") as ds:
        assert (ds.attrs["viscosity"], ds.attrs["forcing"]) == (demo.VISCOSITY, "none")
        assert float(ds.time[1]) == demo.INTERVAL
    plain, d4 = (Surrogate.load(out / f"{m}_FNO" / "best.pt") for m in ("plain", "D4"))
    assert (plain.options["group"], d4.options["group"]) == ("trivial", "dihedral(4)")
    assert sum(p.numel() for p in plain.parameters()) > 4 * sum(p.numel() for p in d4.parameters())


def test_the_d4_operator_is_exact_and_the_plain_one_is_not(shown):
    out, *_ = shown
    worst = {}
    for name in ("plain_FNO", "D4_FNO"):
        with xr.open_dataset(out / f"{name}.nc") as ds:
            median = ds["defect_median"]
            rows = [str(r) for r in median[median.dims[0]].values]
            turns = [i for i, r in enumerate(rows) if "°" in r and "reflection" not in r]
            worst[name] = float(np.nanmax(median.values[turns]))
    assert worst["D4_FNO"] < 1e-5
    assert worst["plain_FNO"] > 1e-3


def test_the_command_goes_on_from_what_is_there(shown, capsys, monkeypatch):
    """The sizes are those of a test; the rest is the command as it is."""
    out, *_ = shown
    before = {p: p.read_bytes() for p in out.rglob("*.pt")}
    data = (out / "navier_stokes.nc").read_bytes()
    (out / "report.html").unlink()
    original = demo.run
    small = {"grid": 16, "samples": 4, "config": TINY}
    monkeypatch.setattr(demo, "run", lambda out, **more: original(out, **small, **more))
    assert main(["demo", "--out", str(out)]) == 0
    printed, err = capsys.readouterr()
    assert "rotation 90°" in printed
    assert "1/3 simulating 4 flows" in err
    assert f"open {out / 'report.html'} in a browser" in err
    assert (out / "report.html").stat().st_size > 10_000
    assert {p: p.read_bytes() for p in out.rglob("*.pt")} == before
    assert (out / "navier_stokes.nc").read_bytes() == data


def test_another_size_in_the_same_folder_is_refused(shown):
    out, *_ = shown
    data = (out / "navier_stokes.nc").read_bytes()
    with pytest.raises(DataError, match=r"holds 4 samples, 11 steps, 16 × 16 points"):
        demo.run(out, grid=16, samples=5, config=TINY)
    with pytest.raises(DataError, match="holds a run of another configuration: epochs was 2"):
        demo.run(out, grid=16, samples=4, config=replace(TINY, epochs=3))
    assert (out / "navier_stokes.nc").read_bytes() == data


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("kept")
    with pytest.raises(DataError, match="holds other files"):
        demo.run(tmp_path, grid=16, samples=4, config=TINY)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "Give an empty or new folder with --out" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path / "thesis.tex" / "demo")]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_default_configuration_is_consistent():
    """60 flows: 36 to learn from, 6 to choose by, 18 to test on; the same for both models."""
    plain, d4 = demo.MODELS["plain FNO"], demo.MODELS["D4 FNO"]
    assert replace(d4, group="none") == plain
    assert plain.hidden_channels % 8 == 0
    assert [round(60 * f) for f in (plain.train, plain.valid)] == [36, 6]
