"""Fields: types from evidence, tensors from files, and the way back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from fieldsym.bundle import Bundle
from fieldsym.data.fields import Fields, open_fields
from fieldsym.data.naming import component_names
from fieldsym.data.writers import to_xarray, write_netcdf
from fieldsym.errors import BundleError, DataError, GridError
from fieldsym.manifold import Box, Torus

LON, LAT = np.arange(0.0, 360.0, 30.0), np.linspace(-80.0, 80.0, 9)


def globe(**variables: dict) -> xr.Dataset:
    """One random field per name, with the given attributes."""
    rng = np.random.default_rng(1)
    arrays = {
        name: (("time", "lat", "lon"), rng.normal(size=(4, 9, 12)), attrs)
        for name, attrs in variables.items()
    }
    return xr.Dataset(arrays, {"time": np.arange(4), "lat": LAT, "lon": LON})


def series(steps: int = 6, samples: int = 0, dtype: torch.dtype = torch.float64) -> Fields:
    """Random fields on a torus of unequal sides."""
    bundle = Bundle(Torus((2.0, 3.0)), "pseudoscalar w + vector u + symmetric tensor s")
    lead = (samples, steps) if samples else (steps,)
    return Fields.of(bundle, torch.randn(*lead, 6, 8, 6, dtype=dtype), units={"u": "m/s"})


# ---------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("variables", "bundle"),
    [
        ({"u": {}, "v": {}}, "vector u"),
        ({"U": {}, "V": {}, "T": {}}, "vector U + scalar T"),
        ({"uo": {}, "vo": {}}, "vector uo"),
        ({"ua": {}, "va": {}, "vo": {"units": "s-1"}}, "vector ua + pseudoscalar vo"),
        ({"v10": {}, "u10": {}}, "vector u10"),
        ({"uwnd": {}, "vwnd": {}}, "vector uwnd"),
        ({"u_component_of_wind": {}, "v_component_of_wind": {}}, "vector wind"),
        (
            {"10m_u_component_of_wind": {}, "10m_v_component_of_wind": {}},
            "vector wind_10m",
        ),
        ({"velocity_x": {}, "velocity_y": {}}, "vector velocity"),
        ({"Vx": {}, "Vy": {}}, "vector V"),
        ({"eastward_current": {}, "northward_current": {}}, "vector current"),
        (
            {
                "a": {"standard_name": "northward_wind"},
                "b": {"standard_name": "eastward_wind"},
            },
            "vector b",
        ),
        (
            {
                "tauu": {"standard_name": "surface_downward_eastward_stress"},
                "tauv": {"standard_name": "surface_downward_northward_stress"},
            },
            "vector tauu",
        ),
        (
            {"c": {"standard_name": "atmosphere_relative_vorticity"}},
            "pseudoscalar c",
        ),
        ({"psi": {}, "vorticity": {}}, "pseudoscalar psi + pseudoscalar vorticity"),
        ({"omega": {"units": "Pa s-1"}}, "scalar omega"),
        ({"q": {"standard_name": "specific_humidity"}}, "scalar q"),
    ],
)
def test_types_by_evidence(variables: dict, bundle: str) -> None:
    fields = open_fields(globe(**variables))
    assert str(fields.bundle.representation) == bundle
    assert fields.values.shape == (4, len(variables), 12, 9)


def test_a_pair_is_joined_in_the_order_x_y_whatever_the_file_has() -> None:
    ds = globe(b={"standard_name": "northward_wind"}, a={"standard_name": "eastward_wind"})
    values = open_fields(ds, dtype=torch.float64).values
    np.testing.assert_array_equal(values[:, 0], ds.a.values.transpose(0, 2, 1))
    np.testing.assert_array_equal(values[:, 1], ds.b.values.transpose(0, 2, 1))


def test_variables_are_found_by_standard_and_short_names() -> None:
    ds = globe(
        temperature={"standard_name": "air_temperature"}, geo={"short_name": "z"}, q={}, rest={}
    )
    fields = open_fields(ds, variables="air_temperature, z")
    assert fields.bundle.names == ("temperature", "geo")
    with pytest.raises(DataError, match="Several variables have the standard_name 'x_'"):
        open_fields(globe(a={"standard_name": "x_"}, b={"standard_name": "x_"}), variables="x_")


def test_records_that_are_mostly_copies_are_kept_and_noted() -> None:
    ds = xr.concat([globe(t={})] * 3, dim="time").assign_coords(time=np.arange(12))
    fields = open_fields(ds)
    assert fields.steps == 12
    assert "8 of 12 records are copies of others; all were kept" in fields.notes
    assert open_fields(ds.isel(time=slice(8))).steps == 4


def test_a_default_type_is_noted() -> None:
    fields = open_fields(globe(mystery={}))
    assert str(fields.bundle.representation) == "scalar mystery"
    assert any("mystery is taken as a scalar" in n for n in fields.notes)


def test_types_win_over_everything() -> None:
    ds = globe(vorticity={}, u={}, v={}, extra={"fieldsym_type": "scalar e"})
    fields = open_fields(ds, types={"scalar z": "vorticity", "pseudoscalar e": ["extra"]})
    assert str(fields.bundle.representation) == "scalar z + pseudoscalar e + vector u"
    assert [e.typed.reason for e in fields.entries] == ["types", "types", "name"]


def test_types_with_the_wrong_number_of_components() -> None:
    with pytest.raises(DataError, match="has 2 components; 'vector q' got 1: u"):
        open_fields(globe(u={}), types="vector q = u")
    with pytest.raises(DataError, match="no variable 'c'"):
        open_fields(globe(u={}), types="vector q = u, c")


def test_vectors_in_three_dimensions_and_on_a_line() -> None:
    dims = ("z", "y", "x")
    ds = xr.Dataset({n: (dims, np.random.default_rng(0).normal(size=(4, 5, 6))) for n in "uvwp"})
    fields = open_fields(ds, base=Torus((1.0, 2.0, 3.0)))
    assert str(fields.bundle.representation) == "vector u + scalar p"
    assert fields.grid == (6, 5, 4)
    line = xr.Dataset({"u": (("time", "x"), np.random.default_rng(0).normal(size=(4, 6)))})
    with pytest.raises(DataError, match="on a line its name may mean a scalar or a velocity"):
        open_fields(line)
    fields = open_fields(line, types="scalar u")
    assert fields.values.shape == (4, 1, 6)
    assert fields.bundle.base == Box((5.0,), location="node")
    assert any("pass base=fs.Torus" in n for n in fields.notes)


# -------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_keep_the_precision_asked_for(dtype: torch.dtype) -> None:
    fields = open_fields(globe(t={}), dtype=dtype)
    assert fields.values.dtype == dtype
    assert fields.units == {"t": ""}
    assert fields.coords["lat"].tolist() == LAT.tolist()


def test_static_variables_are_repeated_and_noted() -> None:
    ds = globe(t={}, h={"units": "m"})
    ds["h"] = ds.h.isel(time=0, drop=True)
    fields = open_fields(ds)
    assert torch.equal(fields.values[0, 1], fields.values[3, 1])
    assert "h has no time: it is repeated at every step" in fields.notes


def test_scalar_time_and_dimensions_of_size_one() -> None:
    ds = globe(t={}).isel(time=0).expand_dims(expver=[1])
    ds = ds.assign_coords(time=np.datetime64("1959-01-02T06", "ns"))
    fields = open_fields(ds)
    assert fields.values.shape == (1, 1, 12, 9)
    assert fields.time[0] == np.datetime64("1959-01-02T06")
    assert any("dimensions of size one dropped from t: expver" in n for n in fields.notes)


def test_masks_of_several_blocks() -> None:
    ds = globe(t={}, q={})
    ds["t"].values[:, 0, 0] = np.nan
    fields = open_fields(ds)
    assert int((~fields.mask).sum()) == 1
    assert any("different masks" in n for n in fields.notes)
    ds["q"].values[1, 2, 3] = np.inf
    with pytest.raises(DataError, match="'q' holds 1 infinite"):
        open_fields(ds)
    ds["t"].values[:] = np.nan
    with pytest.raises(DataError, match=r"'t' .* has no valid value"):
        open_fields(ds, variables="t")


def test_weights_of_the_axes() -> None:
    w = open_fields(globe(t={})).weights
    assert w.shape == (12, 9)
    assert bool((w[0] == w[5]).all())
    assert float(w[0, 4]) > float(w[0, 0]) > 0
    assert torch.allclose(series().weights, torch.full((8, 6), 1 / 8, dtype=torch.float64))
    ds = to_xarray(series().values, series())
    assert torch.allclose(open_fields(ds).weights, torch.full((8, 6), 1 / 8, dtype=torch.float64))


def test_fields_from_memory_are_checked() -> None:
    bundle = Bundle(Torus((2.0, 3.0)), "vector u")
    with pytest.raises(DataError, match="expects values"):
        Fields.of(bundle, torch.zeros(2, 8, 6))
    with pytest.raises(BundleError, match="3 channels"):
        Fields.of(bundle, torch.zeros(4, 3, 8, 6))
    with pytest.raises(DataError, match="4 steps in values and 3 times"):
        Fields.of(bundle, torch.zeros(4, 2, 8, 6), time=np.arange(3))


def test_importing_fields_imports_no_xarray() -> None:
    code = "import sys, fieldsym.data.fields; sys.exit('xarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("samples", [0, 2])
def test_simulated_fields_round_trip(samples: int, tmp_path: Path) -> None:
    fields = series(samples=samples)
    path = write_netcdf(to_xarray(fields.values, fields), tmp_path / "a.nc")
    with xr.open_dataset(path) as ds:
        assert list(ds.data_vars) == ["w", "u_x", "u_y", "s_xx", "s_yy", "s_xy"]
        assert ds.u_y.attrs == {"units": "m/s", "fieldsym_type": "vector u[1]"}
        assert ds.w.dims[-2:] == ("y", "x")
    again = open_fields(path, dtype=torch.float64)
    assert again.bundle == fields.bundle
    assert torch.equal(again.values, fields.values)
    assert again.units["u"] == "m/s"
    assert {e.typed.reason for e in again.entries} == {"fieldsym_type"}


def test_a_written_vector_without_its_partner_is_refused(tmp_path: Path) -> None:
    fields = series()
    ds = to_xarray(fields.values, fields).drop_vars("u_x")
    with pytest.raises(DataError, match=r"Only one component .* u_y \(by the attribute fieldsym"):
        open_fields(ds)


def test_to_xarray_restores_dims_attributes_and_order() -> None:
    ds = globe(t={"units": "K", "long_name": "temperature", "valid_range": [0.0, 1.0]})
    ds = ds.isel(lat=slice(None, None, -1)).transpose("lon", "time", "lat")
    ds.attrs["title"] = "a test"
    fields = open_fields(ds, dtype=torch.float64)
    back = to_xarray(fields.values, fields)
    assert back.t.attrs == {
        "units": "K", "long_name": "temperature", "fieldsym_type": "scalar t"
    }  # fmt: skip
    xr.testing.assert_equal(back.t, ds.t)
    assert back.attrs["title"] == "a test"
    assert "fieldsym_base" not in back.attrs
    one = to_xarray(fields.values[0], fields)
    assert one.t.dims == ("lon", "lat")


def test_to_xarray_takes_times_and_other_bundles() -> None:
    fields = open_fields(globe(u={"units": "m/s"}, v={"units": "m/s"}, t={}))
    later = to_xarray(fields.values[:2], fields, time=np.array([10, 11]))
    assert later.time.values.tolist() == [10, 11]
    out = Bundle(fields.bundle.base, "vector u + pseudoscalar w")
    ds = to_xarray(fields.values, fields, bundle=out)
    assert list(ds.data_vars) == ["u", "v", "w"]
    assert ds.w.attrs["fieldsym_type"] == "pseudoscalar w"
    with pytest.raises(DataError, match="2 steps and 4 times; pass time="):
        to_xarray(fields.values[:2], fields)
    with pytest.raises(GridError, match=r"on the grid \(12, 9\) of 'like'; got \(6, 9\)"):
        to_xarray(fields.values[:, :, ::2], fields)
    with pytest.raises(BundleError, match="2 channels"):
        to_xarray(fields.values[:, :2], fields)


def test_component_names() -> None:
    assert component_names("vector", "u", 3, 3) == ("u_x", "u_y", "u_z")
    assert component_names("vector", "u", 1, 1) == ("u_x",)
    assert component_names("symmetric tensor", "s", 6, 3)[3:] == ("s_xy", "s_xz", "s_yz")
    assert component_names("regular", "r", 4, 2) == ("r_0", "r_1", "r_2", "r_3")


def test_writing_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot write"):
        write_netcdf(xr.Dataset({"a": ("x", [1.0])}), tmp_path / "absent" / "a.nc")
    bad = xr.Dataset({"a": ("x", [1.0])}, attrs={"no": object()})
    (tmp_path / "a.nc").write_text("old")
    with pytest.raises(DataError, match="Cannot write"):
        write_netcdf(bad, tmp_path / "a.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]
    assert (tmp_path / "a.nc").read_text() == "old"
