"""Forecasts: persistence, climatology and scores by hand, times in every calendar, files back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cftime
import numpy as np
import pytest
import torch
import xarray as xr

import fieldsym as fs
from fieldsym.bundle import Bundle
from fieldsym.config import TrainConfig
from fieldsym.data.fields import Fields, open_fields
from fieldsym.data.steps import breaks, describe_step, step_lengths
from fieldsym.data.writers import write_netcdf
from fieldsym.errors import DataError
from fieldsym.forecast import climatology, forecast_dataset, future_times, open_like, scores
from fieldsym.manifold import Torus
from fieldsym.surrogate import Surrogate
from fieldsym.train import build

TINY = TrainConfig(n_modes=5, hidden_channels=8, n_layers=1, train=0.5, valid=0.25)
P = Bundle(Torus((2.0, 3.0)), "scalar p")


def clock(steps: int = 20, time: np.ndarray | None = None) -> Fields:
    """A series whose value everywhere is the index of the step."""
    values = torch.arange(float(steps)).view(steps, 1, 1, 1).expand(steps, 1, 6, 8).clone()
    return Fields.of(P, values, time=time)


def still(fields: Fields, config: TrainConfig = TINY) -> Surrogate:
    """An untrained surrogate with weights of zero: it forecasts persistence."""
    model = build(fields, config)
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    return model


def months(count: int, calendar: str, day: int = 16, first: int = 0) -> np.ndarray:
    """Dates on one day of consecutive months, from January 2001."""
    index = range(first, first + count)
    if calendar == "datetime64":
        start = np.datetime64("2001-01", "M")
        return np.array([(start + i).astype("datetime64[s]") for i in index]) + np.timedelta64(
            (day - 1) * 86400, "s"
        )
    return np.array(
        [cftime.datetime(2001 + i // 12, i % 12 + 1, day, calendar=calendar) for i in index]
    )


CALENDARS = ["datetime64", "standard", "noleap", "360_day"]


# ------------------------------------------------------------------------------- climatology


@pytest.mark.parametrize("calendar", CALENDARS)
def test_the_climatology_of_monthly_data_is_by_calendar_month(calendar):
    """Values 0 … 35 over three years: month m has the mean m + 12."""
    fields = clock(36, months(36, calendar))
    got = climatology(fields, months(4, calendar, first=34))
    assert got.shape == (4, 1, 6, 8)
    assert got[:, 0, 2, 3].tolist() == [22.0, 23.0, 12.0, 13.0]


def test_the_climatology_of_samples_is_over_all_of_them():
    fields = clock(24, months(24, "noleap"))
    two = replace(fields, values=torch.stack([fields.values, fields.values + 4]))
    assert climatology(two, months(1, "noleap", first=2))[0, 0, 0, 0] == 2 + 6 + 2


def test_a_month_that_was_not_seen_gets_the_mean():
    fields = clock(5, months(5, "datetime64"))
    assert climatology(fields, months(2, "datetime64", first=4))[:, 0, 0, 0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "time", [None, np.arange("2001-01-01", "2001-01-21", dtype="datetime64[D]").astype("M8[s]")]
)
def test_the_climatology_of_other_data_is_the_mean(time):
    fields = clock(20, time)
    got = climatology(fields, fields.time[:3])
    assert torch.equal(got, torch.full((3, 1, 6, 8), 9.5))


# ------------------------------------------------------------------------------- scores


@pytest.mark.parametrize(("history", "lead"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_scores_by_hand(history, lead):
    """Persistence of a clock errs by ``lead``; the climatology is its mean over steps 0 … 9."""
    config = replace(TINY, history=history, lead=lead)
    fields = clock()
    model = still(fields, config)
    table = scores(fields, config, {"still": model})
    assert list(table) == ["persistence", "climatology", "still"]
    truth = torch.arange(15.0 + history - 1 + lead, 20)  # the test part begins at step 15
    mean = float(model.normaliser.mean)
    assert table["persistence"]["rmse p"] == pytest.approx(lead, rel=1e-6)
    assert table["persistence"]["relative"] == pytest.approx(
        float((lead / (truth - mean)).mean()), rel=1e-5
    )
    assert table["climatology"]["rmse p"] == pytest.approx(
        float((truth - 4.5).square().mean().sqrt()), rel=1e-6
    )
    assert table["climatology"]["relative"] == pytest.approx(
        float(((truth - 4.5) / (truth - mean)).mean()), rel=1e-5
    )
    assert table["still"] == pytest.approx(table["persistence"], rel=1e-5)


def test_scores_of_monthly_data_use_the_months_of_the_targets():
    """Month by month the same, except in the last year, which is 5 above."""
    time = months(48, "noleap")
    year = torch.arange(12.0).repeat(4) + 5.0 * (torch.arange(48) >= 36)
    fields = Fields.of(P, year.view(48, 1, 1, 1).expand(48, 1, 6, 8).clone(), time=time)
    config = replace(TINY, train=0.5, valid=0.25)
    table = scores(fields, config, {"still": still(fields, config)})
    assert table["climatology"]["rmse p"] == pytest.approx(5.0)
    assert table["persistence"]["rmse p"] == pytest.approx(1.0)


def test_scores_are_per_block_in_fibre_norms_inside_the_mask():
    """An error of (1, 2, 3) in a symmetric tensor has the norm sqrt(1 + 4 + 2·9)."""
    bundle = Bundle(Torus((2.0, 3.0)), "scalar p + symmetric tensor s + vector u")
    step = torch.tensor([2.0, 1.0, 2.0, 3.0, 3.0, 4.0])
    values = torch.arange(20.0).view(20, 1, 1, 1) * step.view(6, 1, 1).expand(6, 6, 8)
    mask = torch.ones(6, 8, dtype=torch.bool)
    mask[1:3, 4] = False
    values = values + torch.where(mask, 0.0, torch.rand(20, 6, 6, 8) * 1e6)
    fields = Fields.of(bundle, values, mask=mask)
    row = scores(fields, TINY, {"still": still(fields)})["persistence"]
    assert row["rmse p"] == pytest.approx(2.0)
    assert row["rmse s"] == pytest.approx(23**0.5)
    assert row["rmse u"] == pytest.approx(5.0)
    assert list(row) == ["relative", "rmse p", "rmse s", "rmse u"]


def test_scores_weigh_points_by_area():
    """An error at the equator alone counts as much as its share of the sphere."""
    lat, lon = np.array([-60.0, 0.0, 60.0]), np.arange(0.0, 360, 45)
    values = np.arange(20.0)[:, None, None] * np.array([0.0, 1.0, 0.0])[:, None] * np.ones(8)
    values = values + np.random.default_rng(0).normal(size=(1, 3, 8))
    ds = xr.Dataset({"t": (("time", "lat", "lon"), values)}, {"lat": lat, "lon": lon})
    fields = open_fields(ds)
    row = scores(
        fields, replace(TINY, n_modes=1), {"still": still(fields, replace(TINY, n_modes=1))}
    )
    weights = fields.weights / fields.weights.sum()
    assert float(weights[:, 1].sum()) > 0.45
    assert row["persistence"]["rmse t"] == pytest.approx(
        float(weights[:, 1].sum()) ** 0.5, rel=1e-6
    )


def test_scores_take_at_most_as_many_windows_as_asked():
    fields = clock(60)
    table = scores(fields, TINY, {"still": still(fields)}, limit=2)
    truth = torch.tensor([46.0, 59.0])  # the first and the last target
    assert table["climatology"]["rmse p"] == pytest.approx(
        float((truth - 14.5).square().mean().sqrt())
    )


# ------------------------------------------------------------------------------- times


@pytest.mark.parametrize("calendar", CALENDARS)
@pytest.mark.parametrize("count", [2, 3, 14])
def test_monthly_times_go_on_by_the_calendar(calendar, count):
    """Also with two dates, and from July to August, whose months have one length."""
    time = months(count, calendar, first=6)
    assert step_lengths(time)[1] == "month"
    assert describe_step(time) == "1 month"
    got = future_times(time, 2, 4)
    assert (got == months(8, calendar, first=6 + count)[1::2]).all()


@pytest.mark.parametrize(
    ("calendar", "last"), [("datetime64", 29), ("standard", 29), ("noleap", 28), ("360_day", 30)]
)
def test_the_last_day_of_the_month_stays_the_last(calendar, last):
    """Forecasts from November 2003 on: 30 December or its end, …, the end of February 2004."""
    ends = {"datetime64": 31, "standard": 31, "noleap": 31, "360_day": 30}
    first = months(12, calendar, day=1, first=24)
    after = months(12, calendar, day=1, first=25)
    one = (
        np.timedelta64(1, "D")
        if calendar == "datetime64"
        else (after[0] - first[0]) / first_days(first[0])
    )
    time = (after - one)[:11]
    got = [str(t)[:10] for t in future_times(time, 1, 3)]
    end = ends[calendar]
    assert got == [f"2003-12-{end}", f"2004-01-{end}", f"2004-02-{last}"]


def first_days(date: cftime.datetime) -> int:
    return date.daysinmonth


def test_the_time_of_day_is_kept():
    time = months(5, "datetime64") + np.timedelta64(12, "h")
    assert str(future_times(time, 1, 1)[0]) == "2001-06-16T12:00:00"
    dates = np.array([t.replace(hour=12) for t in months(5, "noleap")])
    assert str(future_times(dates, 1, 1)[0]) == "2001-06-16 12:00:00"


def test_hours_days_and_the_end_of_february():
    hours = np.array(["2004-02-28T12", "2004-02-28T18", "2004-02-29T00"], "datetime64[h]")
    got = future_times(hours.astype("datetime64[ns]"), 3, 2)
    assert got.dtype == "datetime64[ns]"
    assert [str(t)[:13] for t in got] == ["2004-02-29T18", "2004-03-01T12"]
    for calendar, expected in (("noleap", "2004-03-01"), ("360_day", "2004-02-29")):
        days = np.array([cftime.datetime(2004, 2, d, calendar=calendar) for d in (27, 28)])
        assert str(future_times(days, 1, 1)[0])[:10] == expected


def test_thirty_days_are_not_a_month():
    time = np.arange("2001-01-01", "2001-12-01", 30, dtype="datetime64[D]").astype("datetime64[s]")
    assert str(future_times(time, 1, 1)[0]) == str(time[-1] + np.timedelta64(30, "D"))


def test_numbers_and_gaps():
    got = future_times(np.array([0.0, 0.25, 0.5]), 2, 3)
    assert got.tolist() == [1.0, 1.5, 2.0]
    assert got.dtype == np.float64
    # the usual step, not the gap before the last one
    days = np.array(["2001-01-01", "2001-01-02", "2001-01-03", "2001-01-09"], "datetime64[s]")
    assert str(future_times(days, 1, 1)[0])[:10] == "2001-01-10"
    assert breaks(days).tolist() == [3]


def test_one_time_needs_a_step():
    one = np.array(["2001-01-31"], "datetime64[s]")
    with pytest.raises(DataError, match="one time, which does not say how long a step is"):
        future_times(one, 1, 1)
    assert str(future_times(one, 1, 1, (1.0, "month"))[0])[:10] == "2001-02-28"
    assert str(future_times(one, 2, 1, (3600.0, "s"))[0]) == "2001-01-31T02:00:00"
    assert future_times(np.array([3.0]), 1, 2, (0.5, "")).tolist() == [3.5, 4.0]


# ------------------------------------------------------------------------------- files


LAT, LON = np.linspace(60.0, -60.0, 7), np.arange(0.0, 360.0, 30.0)


def ocean(calendar: str = "noleap", steps: int = 20) -> xr.Dataset:
    """Monthly currents with land, latitude from north to south."""
    rng = np.random.default_rng(3)
    fields = {}
    for name, units in (("uo", "m s-1"), ("vo", "m s-1"), ("thetao", "degC")):
        values = rng.normal(size=(steps, 7, 12))
        values[:, 2:4, 5] = np.nan
        fields[name] = (("time", "latitude", "longitude"), values, {"units": units})
    ds = xr.Dataset(
        fields,
        {
            "time": ("time", months(steps, calendar), {"long_name": "month"}),
            "latitude": ("latitude", LAT, {"units": "degrees_north"}),
            "longitude": ("longitude", LON, {"units": "degrees_east"}),
        },
        {"institution": "here"},
    )
    ds.time.encoding = {"units": "days since 1950-01-01", "dtype": "float64"}
    if calendar != "datetime64":
        ds.time.encoding["calendar"] = calendar
    return ds


@pytest.mark.parametrize("calendar", ["datetime64", "noleap", "360_day"])
@pytest.mark.parametrize(("history", "lead"), [(1, 1), (1, 2), (2, 1)])
def test_a_forecast_looks_like_its_file(calendar, history, lead, tmp_path):
    """Weights of zero repeat the last state, so every value is known."""
    ds = ocean(calendar)
    ds.to_netcdf(tmp_path / "ocean.nc")
    config = replace(TINY, history=history, lead=lead)
    model = still(open_fields(tmp_path / "ocean.nc"), config)
    model.save(tmp_path / "model.pt")
    out = forecast_dataset(tmp_path / "ocean.nc", tmp_path / "model.pt", 3)
    write_netcdf(out, tmp_path / "forecast.nc")
    with xr.open_dataset(tmp_path / "forecast.nc") as back:
        assert set(back.data_vars) == {"uo", "vo", "thetao"}
        for name, variable in back.data_vars.items():
            assert variable.dims == ("time", "latitude", "longitude")
            assert variable.attrs["units"] == ds[name].attrs["units"]
            expected = np.broadcast_to(ds[name].values[-1], (3, 7, 12))
            np.testing.assert_allclose(variable.values, expected, atol=1e-5)  # NaN on land too
        np.testing.assert_array_equal(back.latitude, LAT)
        np.testing.assert_array_equal(back.longitude, LON)
        assert back.latitude.attrs["units"] == "degrees_north"
        assert back.attrs["institution"] == "here"
        expected = months(3 * lead, calendar, first=20)[lead - 1 :: lead]
        assert [str(t)[:10] for t in back.time.values] == [str(t)[:10] for t in expected]
        assert back.time.attrs["long_name"] == "month"
        assert back.time.encoding["units"] == "days since 1950-01-01"
        own = {"datetime64": "proleptic_gregorian"}.get(calendar, calendar)
        assert back.time.encoding["calendar"] == own


def test_a_forecast_is_the_rollout_of_the_surrogate():
    """In the orientation of the file: axis 0 of the grid is longitude, latitude increases."""
    ds = ocean()
    fields = open_fields(ds)
    model = build(fields, replace(TINY, history=2))
    path = Path("model.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Surrogate, "load", classmethod(lambda cls, p: model))
        out = forecast_dataset(ds, path, 2)
    x = torch.cat([fields.values[-1], fields.values[-2]])[None]
    with torch.no_grad():
        y = model.rollout(x, 2)[0]
    names = [v for e in fields.entries for v in e.typed.variables]
    for c, name in enumerate(names):
        got = out[name].sel(latitude=20.0, longitude=90.0).values
        np.testing.assert_array_equal(got, y[:, c, 3, 4])
    assert np.isnan(out.uo.sel(latitude=20.0, longitude=150.0)).all()


def test_samples_stay_samples(tmp_path):
    ds = fs.simulate.make_dataset(Torus((1.0, 1.0)), (8, 8), samples=4, steps=3, interval=0.5)
    fields = open_fields(ds)
    still(fields).save(tmp_path / "model.pt")
    out = forecast_dataset(ds, tmp_path / "model.pt", 2)
    assert dict(out.sizes) == {"sample": 4, "time": 2, "x": 8, "y": 8}
    assert out.time.values.tolist() == [2.0, 2.5]
    expected = np.broadcast_to(ds.vorticity.values[:, -1:], (4, 2, 8, 8))
    np.testing.assert_allclose(out.vorticity.values, expected, rtol=1e-5, atol=1e-6)
    assert out.vorticity.attrs["fieldsym_type"] == "pseudoscalar w"
    assert out.attrs["fieldsym_base"] == ds.attrs["fieldsym_base"]
    again = open_fields(out)
    assert again.bundle == fields.bundle


def test_one_state_is_enough(tmp_path):
    """The step is that of the training, in months and in numbers."""
    ds = ocean()
    still(open_fields(ds)).save(tmp_path / "model.pt")
    out = forecast_dataset(ds.isel(time=[-1]), tmp_path / "model.pt", 2)
    assert [str(t)[:10] for t in out.time.values] == ["2002-09-16", "2002-10-16"]
    flow = fs.simulate.make_dataset(Torus((1.0, 1.0)), (8, 8), samples=4, steps=3, interval=0.5)
    still(open_fields(flow)).save(tmp_path / "flow.pt")
    out = forecast_dataset(flow.isel(time=[1]), tmp_path / "flow.pt", 2)
    assert out.time.values.tolist() == [1.0, 1.5]


# ------------------------------------------------------------------------------- refusals


@pytest.fixture
def checkpoint(tmp_path):
    """Of the currents and temperature, with a history of two months."""
    path = tmp_path / "model.pt"
    still(open_fields(ocean()), replace(TINY, history=2)).save(path)
    return path


def test_steps_must_be_positive(checkpoint):
    with pytest.raises(DataError, match="steps must be at least 1; got 0"):
        forecast_dataset(ocean(), checkpoint, 0)


def test_too_few_steps(checkpoint):
    with pytest.raises(DataError, match="needs 2 steps of history; the data have 1"):
        forecast_dataset(ocean().isel(time=[0]), checkpoint, 1)


def test_a_gap_in_the_history(checkpoint):
    with pytest.raises(DataError, match="a gap within the last 2 steps"):
        forecast_dataset(ocean().isel(time=[0, 1, 2, 3, 5]), checkpoint, 1)
    assert forecast_dataset(ocean().isel(time=[0, 1, 2, 4, 5]), checkpoint, 1).sizes["time"] == 1


def test_a_history_of_other_steps(checkpoint):
    ds = ocean()
    days = np.array([cftime.datetime(2001, 1, d + 1, calendar="noleap") for d in range(20)])
    with pytest.raises(
        DataError, match="trained on steps of 1 month; those of the data are of 1 day"
    ):
        forecast_dataset(ds.assign_coords(time=days), checkpoint, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda ds: ds.drop_vars("thetao"), "thetao|was trained on"),
        (lambda ds: ds.rename(uo="a", vo="b"), "was trained on 'vector uo"),
        (lambda ds: ds.isel(latitude=slice(1, None)), "was trained on .* on Box"),
        (lambda ds: ds.fillna(0.0), "another mask of valid points"),
        (lambda ds: ds.roll(longitude=1, roll_coords=False), "another mask of valid points"),
        (
            lambda ds: ds.isel(longitude=slice(None, None, 2)).where(
                ds.longitude[::2] != 120, np.nan
            ),
            "another mask of valid points",
        ),
    ],
)
def test_data_of_another_kind(change, match, checkpoint):
    with pytest.raises(DataError, match=match):
        forecast_dataset(change(ocean()), checkpoint, 1)


def test_types_and_variables_are_those_of_the_training(tmp_path):
    """A declared type and a choice of variables need not be repeated."""
    ds = ocean().rename(uo="a", vo="b")
    types = "vector flow = a, b"
    config = replace(TINY, variables="a,b", types=types)
    model = still(open_fields(ds, variables="a,b", types=types), config)
    model.save(tmp_path / "model.pt")
    assert str(open_like(ds, model, "model.pt").bundle.representation) == "vector flow"
    out = forecast_dataset(ds, tmp_path / "model.pt", 1)
    assert set(out.data_vars) == {"a", "b"}
    with pytest.raises(DataError, match=r"model\.pt was trained on 'vector flow'"):
        open_like(ds, model, "model.pt", variables="thetao", types="scalar t = thetao")


def test_other_units_are_noted(tmp_path):
    ds = ocean()
    model = still(open_fields(ds))
    ds.thetao.attrs["units"] = "K"
    with pytest.warns(UserWarning, match=r"'thetao' in 'degC'; the data are in 'K'"):
        open_like(ds, model, "model.pt")
