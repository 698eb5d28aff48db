"""Files that lie, one trap per test, each over a small synthetic netCDF; opening and combining."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

from fieldsym.data import axes, bases, readers
from fieldsym.data.fields import open_fields
from fieldsym.data.writers import to_xarray
from fieldsym.errors import DataError, GridError
from fieldsym.manifold import Torus

LON, LAT = np.arange(0.0, 360.0, 30.0), np.linspace(-80.0, 80.0, 9)


def wind(lon: np.ndarray = LON, lat: np.ndarray = LAT, steps: int = 3, **names: str) -> xr.Dataset:
    """A wind whose u is an east-west and whose v a north-south pattern, so that swaps show."""
    t = np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(
        86_400_000_000_000, "ns"
    )
    phase = np.arange(steps)[:, None, None] / 7
    x, y = np.radians(lon)[None, None], np.radians(lat)[None, :, None]
    u, v = np.cos(x + phase) + 0 * y, np.sin(2 * y + phase) + 0 * x
    coords = {"time": t, "lat": lat, "lon": lon}
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            names.get("u", "u"): (dims, u, {"units": "m/s"}),
            names.get("v", "v"): (dims, v, {"units": "m/s"}),
        },
        coords,
    )


def test_axes_are_x_then_y_and_increasing() -> None:
    fields = open_fields(wind(), dtype=torch.float64)
    assert str(fields.bundle.representation) == "vector u"
    assert fields.values.shape == (3, 2, 12, 9)
    assert fields.bundle.base.periodic == (True, False)
    assert fields.bundle.base.lengths == (360.0, 160.0)
    assert fields.bundle.base.origin == (0.0, -80.0)
    assert fields.values[0, 0, :, 4].numpy() == pytest.approx(np.cos(np.radians(LON)))
    assert fields.values[0, 1, 4, :].numpy() == pytest.approx(np.sin(2 * np.radians(LAT)))


@pytest.mark.parametrize("order", [("lon", "time", "lat"), ("lat", "lon", "time")])
def test_trap_1_order_of_dimensions(order: tuple[str, ...], tmp_path: Path) -> None:
    wind().transpose(*order).to_netcdf(tmp_path / "a.nc")
    assert torch.equal(open_fields(tmp_path / "a.nc").values, open_fields(wind()).values)


def test_trap_1_swapping_components_with_axes_would_show() -> None:
    values = open_fields(wind()).values
    swapped = values.flip(1).transpose(-1, -2)
    assert swapped.shape != values.shape or not torch.equal(swapped, values)


def test_trap_2_latitude_order_never_negates_components(tmp_path: Path) -> None:
    wind().isel(lat=slice(None, None, -1)).to_netcdf(tmp_path / "a.nc")
    fields = open_fields(tmp_path / "a.nc")
    assert torch.equal(fields.values, open_fields(wind()).values)
    assert "lat decreases in the file and was reversed" in fields.notes
    back = to_xarray(fields.values, fields)
    assert back.lat.values.tolist() == LAT[::-1].tolist()
    np.testing.assert_allclose(back.v.values, wind().v.values[:, ::-1], atol=1e-6)


def test_trap_3_longitudes_wrap_and_a_seam_is_dropped(tmp_path: Path) -> None:
    seam = wind(np.linspace(0, 360, 13))
    seam.to_netcdf(tmp_path / "seam.nc")
    fields = open_fields(tmp_path / "seam.nc")
    assert fields.grid == (12, 9)
    assert fields.axes[0].periodic
    assert any("repeated last column" in n for n in fields.notes)
    back = to_xarray(fields.values, fields)
    assert back.lon.values.tolist() == seam.lon.values.tolist()
    np.testing.assert_allclose(back.u.values, seam.u.values, atol=1e-6)
    across = wind(np.array([170.0, 175.0, 180.0, -175.0, -170.0]))
    assert open_fields(across).axes[0].values.tolist() == [170, 175, 180, 185, 190]
    assert not open_fields(across).axes[0].periodic


def test_trap_3_a_bare_index_is_no_longitude() -> None:
    ds = wind(np.linspace(0, 360, 13)).assign_coords(lon=np.arange(13))
    with pytest.raises(GridError, match=r"bare index 0 … 12.*ds.assign_coords\(lon="):
        open_fields(ds)
    with pytest.raises(GridError, match="no coordinates; assign the longitudes"):
        open_fields(wind().drop_vars("lon"))


def test_trap_3_a_seam_that_differs_is_refused() -> None:
    ds = wind(np.linspace(0, 360, 13))
    ds["u"][:, :, -1] += 1.0
    with pytest.raises(GridError, match="360 degrees apart but 'u' differs"):
        open_fields(ds)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trap_4_gauss_latitudes_in_single_precision(dtype: type, tmp_path: Path) -> None:
    x, w = np.polynomial.legendre.leggauss(16)
    lat = np.degrees(np.arcsin(x)).astype(dtype)
    wind(lat=lat).to_netcdf(tmp_path / "a.nc")
    fields = open_fields(tmp_path / "a.nc")
    assert fields.axes[1].gauss
    assert fields.axes[1].weights() == pytest.approx(w, abs=1e-15)
    uniform = np.linspace(lat[0], lat[-1], 16)
    assert not axes.is_gauss(uniform)


def test_trap_5_negative_scale_factor_and_fill_value_nan(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    ds, packing = wind(), {"scale_factor": -0.001, "add_offset": 0.1}
    for v in "uv":
        numbers = np.round((ds[v].values - 0.1) / -0.001).astype(np.int16)
        ds[v] = (ds[v].dims, numbers, packing)
    ds.to_netcdf(tmp_path / "a.nc")
    with h5py.File(tmp_path / "a.nc", "a") as raw:
        raw["u"].attrs["_FillValue"] = np.nan
    fields = open_fields(tmp_path / "a.nc", dtype=torch.float64)
    np.testing.assert_allclose(fields.values, open_fields(wind()).values, atol=5.1e-4)
    assert fields.mask is None


@pytest.mark.parametrize("units", ["Month", "hour since 0000-01-01", "fortnights since noon"])
def test_trap_6_time_that_cannot_be_decoded(units: str, tmp_path: Path) -> None:
    ds = wind().assign_coords(time=("time", [0, 1, 2], {"units": units}))
    ds.to_netcdf(tmp_path / "a.nc")
    fields = open_fields(tmp_path / "a.nc")
    assert fields.steps == 3
    assert fields.values.shape == (3, 2, 12, 9)


def test_trap_6_an_attribute_spelt_unit_is_read(tmp_path: Path) -> None:
    time = ("time", [37255.0, 37256.0, 37257.0], {"Unit": "days since 1900-1-1"})
    wind().assign_coords(time=time).to_netcdf(tmp_path / "a.nc")
    fields = open_fields(tmp_path / "a.nc")
    assert fields.time[0] == np.datetime64("2002-01-01")
    assert "time decoded from 'days since 1900-1-1'" in fields.notes


@pytest.mark.parametrize("calendar", ["360_day", "noleap", "standard"])
def test_trap_7_calendars_survive(calendar: str, tmp_path: Path) -> None:
    time = xr.date_range("0101-01-16", periods=14, freq="MS", calendar=calendar, use_cftime=True)
    wind(steps=14).assign_coords(time=time).to_netcdf(tmp_path / "a.nc")
    fields = open_fields(tmp_path / "a.nc")
    assert fields.time[0].calendar == calendar
    back = to_xarray(fields.values, fields)
    back.to_netcdf(tmp_path / "b.nc")
    again = open_fields(tmp_path / "b.nc")
    assert again.time[-1] == fields.time[-1]
    assert again.time[-1].calendar == calendar


def test_trap_8_a_record_that_is_a_copy_is_dropped(tmp_path: Path) -> None:
    for i in range(5):
        day = wind(steps=5).isel(time=[i])
        if i == 4:
            day = day.assign({k: day[k].copy(data=wind(steps=5)[k].values[:1]) for k in "uv"})
        day.to_netcdf(tmp_path / f"day{i}.nc")
    fields = open_fields(str(tmp_path / "day*.nc"))
    assert fields.steps == 4
    note = "the record of 2001-01-05 is an exact copy of 2001-01-01 and was dropped"
    assert note in fields.notes


def test_trap_8_a_steady_field_keeps_its_steps() -> None:
    assert open_fields(wind().isel(time=[0, 0, 0]).assign_coords(time=[0, 1, 2])).steps == 3


def test_trap_8_an_outlier_step_is_noted() -> None:
    ds = wind(steps=40)
    ds["u"][20] += 30.0
    assert any("the change into 2001-01-21 is" in n for n in open_fields(ds).notes)


def test_trap_9_one_component_corrupt(tmp_path: Path) -> None:
    ds = wind(steps=6)
    ds["v"][2:4] = np.nan
    ds.to_netcdf(tmp_path / "a.nc")
    message = r"'v' \(u\) lacks 108 more values at step 2 \(2001-01-03\), and 2 of 6 steps"
    with pytest.raises(DataError, match=message):
        open_fields(tmp_path / "a.nc")


def test_trap_10_packing_is_not_inherited(tmp_path: Path) -> None:
    packed = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -32768}
    wind().to_netcdf(tmp_path / "a.nc", encoding={"u": packed, "v": packed})
    fields = open_fields(tmp_path / "a.nc")
    to_xarray(50 * fields.values, fields).to_netcdf(tmp_path / "b.nc")
    again = open_fields(tmp_path / "b.nc")
    assert torch.equal(again.values, 50 * fields.values)


def test_trap_11_conflicting_fill_values_round_trip(tmp_path: Path) -> None:
    ds = wind()
    for v in "uv":
        ds[v].values[:, :, :2] = np.nan
    ds.to_netcdf(tmp_path / "a.nc")
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as raw:
        raw["u"].setncattr("missing_value", -9.96921e36)
    fields = open_fields(tmp_path / "a.nc")
    to_xarray(fields.values, fields).to_netcdf(tmp_path / "b.nc")
    again = open_fields(tmp_path / "b.nc")
    assert torch.equal(again.mask, fields.mask)
    assert torch.equal(again.values, fields.values)


def test_trap_12_the_source_can_be_overwritten(tmp_path: Path) -> None:
    wind().to_netcdf(tmp_path / "a.nc")
    fields = open_fields(tmp_path / "a.nc")
    to_xarray(2 * fields.values, fields).to_netcdf(tmp_path / "a.nc")
    assert torch.equal(open_fields(tmp_path / "a.nc").values, 2 * fields.values)


def test_trap_13_components_on_shifted_grids(tmp_path: Path) -> None:
    a, b = wind(), wind(lat=LAT[:-1] + 10).rename(lat="lat_v")
    ds = xr.Dataset({"u": a.u, "v": b.v})
    with pytest.raises(GridError, match=r"'u' has lon .* lat -80 … 80 \(9 .*'v' has .*lat_v"):
        open_fields(ds)
    a[["u"]].to_netcdf(tmp_path / "u.nc")
    wind(lat=LAT[:-1] + 10)[["v"]].to_netcdf(tmp_path / "v.nc")
    with pytest.raises(GridError, match=r"u.nc has lat -80 … 80 \(9 points\), v.nc has lat -70"):
        open_fields(tmp_path / "*.nc")


def test_trap_14_one_component_is_absent() -> None:
    with pytest.raises(DataError, match=r"Only one component of a vector is present: u .*add v to"):
        open_fields(wind(), variables=["u"])
    with pytest.raises(DataError, match="Only one component"):
        open_fields(wind()[["v"]])
    ds = wind()
    ds["v"] = ds.v.expand_dims(level=[500, 850])
    with pytest.raises(DataError, match="different levels: only v has the dimension level"):
        open_fields(ds)


@pytest.mark.parametrize("clean", [True, False])
def test_trap_15_pole_rows(clean: bool) -> None:
    lat = np.linspace(-90.0, 90.0, 9)
    x, y = np.meshgrid(np.radians(LON), np.radians(lat))
    # the flow of a solid rotation about a horizontal axis is smooth across both poles
    u, v = -np.sin(y) * np.cos(x), np.sin(x)
    if not clean:
        u[-1] = 1.0
    dims = ("lat", "lon")
    ds = xr.Dataset({"u": (dims, u), "v": (dims, v)}, {"lat": lat, "lon": LON})
    fields = open_fields(ds, dtype=torch.float64)
    noted = any("pole rows of u are not one vector" in n for n in fields.notes)
    assert noted is not clean
    residual = axes.pole_residual(fields.values.numpy(), fields.axes)
    assert residual == pytest.approx(0, abs=1e-12) if clean else residual > 0.2


def test_trap_16_rotated_pole() -> None:
    ds = wind(np.arange(313.0, 391.0, 3)).rename(lon="grid_longitude", lat="grid_latitude")
    ds["pole"] = ((), 0, {"grid_mapping_name": "rotated_latitude_longitude"})
    for name, d in (("grid_longitude", "X"), ("grid_latitude", "Y")):
        ds[name].attrs = {"standard_name": name, "axis": d}
    with pytest.raises(GridError, match="grid-relative"):
        open_fields(ds)
    p = ds.rename(u="p")[["p", "pole"]]
    fields = open_fields(p)
    assert str(fields.bundle.representation) == "scalar p"
    assert fields.bundle.base.periodic == (False, False)


def test_trap_16_curvilinear_and_unstructured() -> None:
    lat2, lon2 = np.meshgrid(LAT, LON, indexing="ij")
    ds = wind().rename(lat="j", lon="i").drop_vars(["i", "j"])
    ds = ds.assign_coords(latitude=(("j", "i"), lat2), longitude=(("j", "i"), lon2))
    with pytest.raises(GridError, match=r"curvilinear.*grid-relative"):
        open_fields(ds)
    assert open_fields(ds, variables="u", types="scalar u = u").grid == (12, 9)
    cells = xr.Dataset(
        {"t": ("ncells", np.zeros(50))},
        {"lat": ("ncells", np.zeros(50)), "lon": ("ncells", np.zeros(50))},
    )
    with pytest.raises(GridError, match="unstructured grid: 'ncells'"):
        open_fields(cells)


def test_trap_17_land_is_constant_and_filled_with_zero() -> None:
    ds = wind()
    for v in "uv":
        ds[v].values[:, :3, :4] = np.nan
    fields = open_fields(ds)
    assert fields.mask.dtype == torch.bool
    assert int((~fields.mask).sum()) == 12
    assert not fields.mask[:4, :3].any()
    assert float(fields.values[..., :4, :3].abs().max()) == 0.0
    assert np.isnan(to_xarray(fields.values, fields).u.values[:, :3, :4]).all()
    ds["v"].values[:, 8, 8] = np.nan
    with pytest.raises(DataError, match="missing at different points: 1 between u and v"):
        open_fields(ds)


def test_trap_18_units_of_components_differ() -> None:
    ds = wind()
    ds.v.attrs["units"] = "km/h"
    with pytest.raises(DataError, match="different units: u in 'm/s', v in 'km/h'"):
        open_fields(ds)


def test_trap_19_no_metadata_at_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ds = xr.Dataset({n: (("y", "x"), rng.normal(size=(6, 8))) for n in ("a", "b", "c")})
    ds.to_netcdf(tmp_path / "a.nc")
    with pytest.raises(DataError, match=r"type of the variable 'a'.*types='scalar a = a'.*b, c"):
        open_fields(tmp_path / "a.nc")
    fields = open_fields(
        tmp_path / "a.nc", types="vector q = a, b; pseudoscalar w = c", base=Torus((2.0, 3.0))
    )
    assert str(fields.bundle.representation) == "vector q + pseudoscalar w"
    assert fields.bundle.base == Torus((2.0, 3.0))
    assert fields.values.shape == (1, 3, 8, 6)
    lost = ds.rename(x="dim_0")
    with pytest.raises(DataError, match=r"'dim_0' \(8\) of 'a' is neither.*ds.rename"):
        open_fields(lost, variables="a")


@pytest.mark.parametrize(
    ("stored", "units", "asked"),
    [
        ([200, 500, 850], "hPa", [850, 200]),
        ([850, 500, 200], "millibars", ["850 hPa", "200 millibars"]),
        ([20000.0, 50000.0, 85000.0], "Pa", ["850 hPa", "200 hPa"]),
    ],
)
def test_trap_20_levels_by_value_and_units(stored: list, units: str, asked: list) -> None:
    lev = xr.DataArray(stored, dims="level", attrs={"units": units})
    scale = lev / (1 if units != "Pa" else 100)
    ds = wind() * scale.assign_coords(level=lev)
    for v in "uv":
        ds[v].attrs["units"] = "m/s"
    fields = open_fields(ds, levels=asked, dtype=torch.float64)
    assert [e.level for e in fields.entries] == [float(max(stored)), float(min(stored))]
    u = open_fields(wind(), dtype=torch.float64).values
    torch.testing.assert_close(fields.values, torch.cat([850 * u, 200 * u], 1))
    with pytest.raises(DataError, match=f"There is no level 300 in 'level': .* {units}"):
        open_fields(ds, levels=[300])


def test_levels_become_blocks_in_the_order_of_the_file() -> None:
    ds = wind().expand_dims(level=[850, 500])
    assert open_fields(ds).bundle.names == ("u_850", "u_500")
    back = to_xarray(open_fields(ds).values, open_fields(ds))
    assert back.u.dims == ("level", "time", "lat", "lon")
    with pytest.raises(DataError, match="no variable has levels"):
        open_fields(wind(), levels=[500])


# -------------------------------------------------------------------------- opening, combining


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    wind().to_netcdf(tmp_path / "good.nc")
    data = (tmp_path / "good.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.nc").write_text("not a netCDF file")
    (tmp_path / "empty.nc").write_bytes(b"")
    for name in ("cut.nc", "text.nc", "empty.nc"):
        with pytest.raises(DataError, match=rf"{name} cannot be read .*truncated"):
            open_fields(tmp_path / name)
    with pytest.raises(DataError, match="nothing matches"):
        open_fields(tmp_path / "no*.nc")
    with pytest.raises(DataError, match="nothing matches"):
        open_fields(tmp_path / "absent.nc")
    with pytest.raises(DataError, match="is a folder, not a zarr store"):
        open_fields(tmp_path)
    with pytest.raises(DataError, match="Expected a path, a glob"):
        open_fields(7)


@pytest.fixture
def zarr() -> ModuleType:
    return pytest.importorskip("zarr", reason="zarr is not installed: pip install fieldsym[zarr]")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_stores_come_back(zarr_format: int, zarr: ModuleType, tmp_path: Path) -> None:
    sea = wind().where(wind().lat < 70)
    fields = open_fields(sea)
    ds = to_xarray(fields.values, fields)
    for name in ("a.zarr", "plain"):
        ds.to_zarr(tmp_path / name, zarr_format=zarr_format, consolidated=False)
        again = open_fields(tmp_path / name)
        assert again.bundle == fields.bundle
        assert torch.equal(again.values, fields.values)
        assert torch.equal(again.mask, fields.mask)
        assert again.entries[0].typed.reason == "fieldsym_type"
        np.testing.assert_array_equal(again.time, fields.time)
        assert again.units == fields.units


def test_several_zarr_stores_are_joined(zarr: ModuleType, tmp_path: Path) -> None:
    for name, part in (("a", slice(2, 4)), ("b", slice(0, 2))):
        store = tmp_path / f"{name}.zarr"
        wind(steps=4).isel(time=part).to_zarr(store, consolidated=False)
    fields = open_fields(tmp_path / "*.zarr", variables=["u", "v"])
    assert torch.equal(fields.values, open_fields(wind(steps=4)).values)


def test_zarr_stores_that_cannot_be_read(
    zarr: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wind().to_zarr(tmp_path / "cut.zarr", zarr_format=3, consolidated=False)
    for part in (tmp_path / "cut.zarr" / "u" / "c").rglob("*"):
        if part.is_file():
            part.write_bytes(part.read_bytes()[:7])
    with pytest.raises(DataError, match=r"cut.zarr cannot be read"):
        open_fields(tmp_path / "cut.zarr")
    (tmp_path / "cut.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match=r"cut.zarr cannot be read"):
        open_fields(tmp_path / "cut.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match="is a folder, not a zarr store"):
        open_fields(tmp_path / "empty.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(DataError, match=r"install zarr: fieldsym\[zarr\]"):
        open_fields(tmp_path / "cut.zarr")


def test_an_unknown_variable_lists_what_is_there() -> None:
    with pytest.raises(DataError, match=r"no variable 'w'\. The file has u\(time, lat, lon\), v"):
        open_fields(wind(), variables=["w"])


def test_variables_from_different_files_are_merged(tmp_path: Path) -> None:
    for v in "uv":
        wind()[[v]].to_netcdf(tmp_path / f"{v}.nc")
    fields = open_fields([tmp_path / "v.nc", tmp_path / "u.nc"])
    assert torch.equal(fields.values, open_fields(wind()).values)
    wind(steps=2)[["v"]].to_netcdf(tmp_path / "v.nc")
    with pytest.raises(DataError, match=r"The times of .* differ"):
        open_fields(tmp_path / "?.nc")


def test_steps_of_several_files_are_sorted_by_time(tmp_path: Path) -> None:
    for i, name in enumerate("cab"):
        wind().isel(time=i).to_netcdf(tmp_path / f"{name}.nc")  # time is a scalar here
    assert torch.equal(open_fields(tmp_path / "?.nc").values, open_fields(wind()).values)
    backwards = wind().isel(time=slice(None, None, -1))
    fields = open_fields(backwards)
    assert torch.equal(fields.values, open_fields(wind()).values)
    assert "the steps were sorted by time" in fields.notes


def test_files_that_share_some_variables_only_are_refused(tmp_path: Path) -> None:
    wind().to_netcdf(tmp_path / "a.nc")
    wind()[["u"]].to_netcdf(tmp_path / "b.nc")
    with pytest.raises(DataError, match="The variables u occur in files whose other variables"):
        open_fields(tmp_path / "?.nc")


def test_undeclared_fill_values_are_noted() -> None:
    ds = wind()
    ds["v"].values[:, 3, 4] = -9999.0
    note = "v reaches ±9999 at 3 points: an undeclared fill value?"
    assert note in open_fields(ds).notes


def test_dates_are_preferred_among_scalar_times() -> None:
    ds = wind().isel(time=0).assign_coords(step=6.0)
    ds = ds.rename(time="valid_time")
    assert open_fields(ds).time[0] == np.datetime64("2001-01-01")


def test_files_of_the_new_climate_data_store() -> None:
    ds = wind().expand_dims(pressure_level=[850.0, 500.0]).rename(time="valid_time")
    ds = ds.rename(lat="latitude", lon="longitude").isel(latitude=slice(None, None, -1))
    ds = ds.assign_coords(number=0, expver=("valid_time", ["0001"] * 3))
    fields = open_fields(ds.transpose("valid_time", "pressure_level", ...), levels=[500])
    assert fields.bundle.names == ("u_500",)
    assert fields.time_name == "valid_time"
    back = to_xarray(fields.values, fields)
    assert back.u.dims == ("valid_time", "pressure_level", "latitude", "longitude")


def test_files_on_other_grids_are_refused(tmp_path: Path) -> None:
    wind().to_netcdf(tmp_path / "a.nc")
    wind(lat=LAT / 2).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(GridError, match=r"different grids: a.nc has lat .* b.nc has lat"):
        open_fields(tmp_path / "?.nc")


def test_one_time_with_two_values_is_refused() -> None:
    time = wind().time.values[[0, 0, 1]]
    with pytest.raises(DataError, match="2001-01-01 occurs twice with different values"):
        open_fields(wind().assign_coords(time=time))


def test_bounds_and_weights_never_become_channels() -> None:
    ds = wind()
    ds["lat_bnds"] = (("lat", "bnds"), np.zeros((9, 2)))
    ds["time_bnds"] = (("time", "bnds"), np.zeros((3, 2)))
    ds["gw"] = ("lat", np.ones(9))
    ds["land"] = (("lat", "lon"), np.ones((9, 12), dtype=np.int32))
    ds.lat.attrs["bounds"] = "lat_bnds"
    fields = open_fields(ds)
    assert str(fields.bundle.representation) == "vector u"
    assert any("land" in n for n in fields.notes)
    assert "lat_bnds" in to_xarray(fields.values, fields)


def test_members_join_the_sample_axis() -> None:
    ds = wind().expand_dims(number=[0, 1])
    fields = open_fields(ds)
    assert fields.has_samples
    assert fields.values.shape == (2, 3, 2, 12, 9)


def test_a_second_time_axis_is_refused() -> None:
    with pytest.raises(DataError, match=r"two time dimensions, step and time; .*isel"):
        open_fields(wind().expand_dims(step=[0, 6]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.assign(u=ds.u.astype(str), v=ds.v.astype(str)), "A field holds real"),
        (lambda ds: ds * 1j, "A field holds real numbers; 'u' has shape"),
        (lambda ds: ds.isel(time=slice(0, 0)), "A field holds real numbers"),
        (lambda ds: ds.assign_coords(lat=list("abcdefghi")), "coordinates of 'lat' must be num"),
        (lambda ds: ds.expand_dims(level=["a", "b"]), "coordinates of 'level' must be numbers"),
        (lambda ds: ds.expand_dims(level=[1, 1]), "Each level may occur once in 'level'"),
        (lambda ds: ds.assign_coords(time=list("abc")), "Times must be dates or numbers"),
        (lambda ds: ds.assign_coords(time=ds.time.where(ds.time > ds.time[0])), "Times must be"),
        (lambda ds: ds.expand_dims(quantile=[0.1, 0.9]), r"'quantile' \(2\) of 'u' is neither"),
    ],
)
def test_data_that_are_no_fields(change: Callable, message: str) -> None:
    with pytest.raises((DataError, GridError), match=message):
        open_fields(change(wind()), variables=["u", "v"])


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(DataError, match=r"dtype is torch.float32 or torch.float64"):
        open_fields(wind(), dtype=torch.float16)


def test_only_the_wanted_variables_of_a_file_are_read(tmp_path: Path) -> None:
    ds = wind().assign(t=wind().u, rest=wind().v)
    ds.to_netcdf(tmp_path / "a.nc")
    read, _, _ = readers.open_dataset(tmp_path / "a.nc", ["u", "v"])
    assert [v for v in read if read.variables[v]._in_memory] == ["u", "v"]
    assert open_fields(tmp_path / "a.nc", variables="u, v").bundle.names == ("u",)


def test_a_raw_dataset_is_unpacked_and_not_changed() -> None:
    ds = wind()
    for v in "uv":
        numbers = np.round(ds[v].values / 0.001).astype(np.int16)
        ds[v] = (ds[v].dims, numbers, {"scale_factor": 0.001, "_FillValue": np.int16(-32768)})
    fields = open_fields(ds)
    np.testing.assert_allclose(fields.values, open_fields(wind()).values, atol=6e-4)
    assert ds.u.dtype == np.int16


# ----------------------------------------------------------------------------------------- axes


def test_irregular_axes_are_refused_with_their_deviation() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.5, 4.0])
    with pytest.raises(GridError, match=r"deviates by up to 0\.5 from steps of 1 at 3.5"):
        axes.make_axis("x", "x", x)
    with pytest.raises(GridError, match="must increase or decrease"):
        axes.make_axis("x", "x", np.array([0.0, 1.0, 0.5]))
    with pytest.raises(GridError, match="Latitudes must lie in"):
        axes.make_axis("lat", "latitude", np.linspace(0, 100, 11))
    with pytest.raises(GridError, match="at least two finite"):
        axes.make_axis("x", "x", np.array([1.0]))


@pytest.mark.parametrize("n", [8, 9, 64, 73])
def test_weights_integrate_polynomials_exactly(n: int) -> None:
    lat = np.linspace(-90, 90, n)
    w, s = axes.latitude_weights(lat), np.sin(np.radians(lat))
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(2, abs=1e-13)
    assert (w * s**2).sum() == pytest.approx(2 / 3, abs=1e-12)
    assert (w * s**4).sum() == pytest.approx(2 / 5, abs=1e-12)


def test_weights_without_poles_are_cell_areas() -> None:
    w = axes.latitude_weights(np.linspace(-88.0, 88.0, 89))
    assert w.sum() == pytest.approx(2 * np.sin(np.radians(89)), rel=1e-12)
    region = axes.latitude_weights(np.array([10.0, 20.0, 30.0]))
    assert region.sum() == pytest.approx(np.sin(np.radians(35)) - np.sin(np.radians(5)))


def test_bases_from_the_attribute_of_the_file() -> None:
    base = Torus((2.0, 3.0), location="cell", origin=(0.5, 0.0))
    assert bases.base_from_json(bases.base_to_json(base)) == base
    with pytest.raises(DataError, match="fieldsym_base is not readable"):
        bases.base_from_json("{")
    with pytest.raises(DataError, match="names a torus or a box"):
        bases.base_from_json('{"kind": "ball", "lengths": [1]}')
    ds = xr.Dataset({"p": (("y", "x"), np.eye(6, 8))}, attrs={})
    assert open_fields(ds).bundle.base.periodic == (False, False)
    ds.attrs["fieldsym_base"] = bases.base_to_json(base)
    assert open_fields(ds).bundle.base == base
    with pytest.raises(GridError, match=r"has 1 axes; the data have 2: x, y"):
        open_fields(ds, base=Torus((1.0,)))
    x, y = (axis.numpy() for axis in base.axes((8, 6)))
    whole = ds.assign_coords(x=x, y=y)
    assert open_fields(whole).bundle.base == base
    for other in (whole.isel(x=slice(0, 5)), whole.assign_coords(x=10 * x)):
        fields = open_fields(other)
        assert fields.bundle.base.periodic == (False, False)
        assert "not where the samples are" in " ".join(fields.notes)
