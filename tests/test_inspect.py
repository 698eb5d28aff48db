"""What ``inspect`` says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from fieldsym.bundle import Bundle
from fieldsym.data.fields import Fields
from fieldsym.data.inspect import inspect
from fieldsym.errors import DataError
from fieldsym.manifold import Torus

LON, LAT = np.arange(0.0, 360.0, 30.0), np.linspace(-90.0, 90.0, 9)


def globe(steps: int = 30) -> xr.Dataset:
    rng = np.random.default_rng(0)
    time = (np.datetime64("2001-01-01") + np.arange(steps)).astype("datetime64[ns]")
    y = np.cos(np.radians(LAT))[None, :, None]
    arrays = {
        name: (("time", "lat", "lon"), y * rng.normal(size=(steps, 9, 12)), {"units": "m/s"})
        for name in ("u", "v", "mystery")
    }
    return xr.Dataset(arrays, {"time": time, "lat": LAT, "lon": LON}).isel(
        lat=slice(None, None, -1)
    )


def test_the_text_names_axes_types_reasons_time_and_groups() -> None:
    seen = inspect(globe())
    for words in (
        "30 steps, 12 × 9 points",
        "-90 … 90",
        "decreasing, poles",
        "u, v",
        "vector u + scalar mystery",
        "2001-01-01 … 2001-01-30, step 1 day",
        "translations along lon",
        "default",
        "Train a forecast",
    ):
        assert words in seen.text
    assert max(map(len, seen.text.splitlines())) <= 120
    assert str(seen) == seen.text
    assert seen.bundle.startswith("Bundle(Box(360, 180; periodic True, False)")


def test_statistics_are_weighted_and_ignore_what_is_masked() -> None:
    ds = globe()[["mystery"]]
    ds["mystery"].values[:, :, :6] = np.nan
    ds["mystery"].values[:, :, 6:] = 3.0
    ds["mystery"].values[0, :, 6:] = 0.0
    seen = inspect(ds)
    assert seen.statistics["mystery"]["mean"] == pytest.approx(3 * 29 / 30, rel=1e-6)
    assert seen.statistics["mystery"]["rms"] == pytest.approx(3 * (29 / 30) ** 0.5, rel=1e-6)
    assert "50.0 % of the points, the same at every step" in seen.text
    assert "keeps the mask" in seen.text


def test_fields_in_memory_on_a_torus() -> None:
    bundle = Bundle(Torus((2.0, 3.0)), "vector u")
    u = torch.tensor([3.0, 4.0]).view(2, 1, 1).expand(5, 2, 8, 6)
    seen = inspect(Fields.of(bundle, u.clone()))
    assert seen.statistics["u"] == {"rms": pytest.approx(5.0)}
    assert seen.groups[0].endswith("exact on this grid: 4 elements")
    assert "translations along x, y" in seen.text


def test_many_levels_are_one_line() -> None:
    ds = globe(1)[["u", "v"]].expand_dims(level=np.arange(100, 1100, 100))
    seen = inspect(ds)
    assert "10: 100 … 1000" in seen.text
    assert "(10 blocks, 20 channels)" in seen.text
    assert "levels=[...]" in seen.text


def test_gaps_and_copies_are_told() -> None:
    ds = globe().isel(time=[*range(10), *range(12, 30)])
    seen = inspect(ds)
    assert "step 1 day, with 1 irregular steps" in seen.text
    ds["u"][20], ds["v"][20], ds["mystery"][20] = ds["u"][2], ds["v"][2], ds["mystery"][2]
    assert "is an exact copy of 2001-01-03 and was dropped" in inspect(ds).text


def test_a_refusal_is_one_clear_message() -> None:
    with pytest.raises(DataError, match="Only one component"):
        inspect(globe()[["u"]])
    assert "pseudoscalar" in inspect(globe()[["u"]], types="pseudoscalar u").text
