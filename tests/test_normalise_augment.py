"""Normalisation, windows, splits and augmentation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fieldsym import group as groups
from fieldsym.action import act
from fieldsym.bundle import Bundle
from fieldsym.data.augment import RandomAction
from fieldsym.data.fields import Fields
from fieldsym.data.normalise import Normaliser
from fieldsym.data.steps import (
    breaks,
    describe_step,
    outlier_steps,
    repeated_records,
    step_lengths,
)
from fieldsym.data.windows import Windows, repeat, split
from fieldsym.errors import BundleError, DataError, GroupError
from fieldsym.manifold import Torus

TYPES = "scalar p + pseudoscalar w + vector u + symmetric tensor s"
SQUARE = Bundle(Torus((2.0, 2.0)), TYPES)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def section(
    bundle: Bundle, grid: tuple[int, ...], steps: int = 5, **kwargs: object
) -> torch.Tensor:
    """Random values whose components have very different sizes and means."""
    size = torch.arange(1.0, bundle.channels + 1).view(-1, *(1,) * len(grid))
    noise = torch.randn(steps, bundle.channels, *grid, **kwargs)  # type: ignore[call-overload]
    return noise * size.to(noise) ** 2 + 3 * size.to(noise)


def per_component(values: torch.Tensor, bundle: Bundle) -> Normaliser:
    """The saboteur: a mean and a scale per channel."""
    flat = values.transpose(0, 1).flatten(1).double()
    return Normaliser(bundle, flat.mean(1), flat.std(1))


def defect(norm: Normaliser, u: torch.Tensor) -> float:
    """Largest |N(g·u) − g·N(u)| over the group of the square."""
    return max(
        float((norm.encode(act(g, u, SQUARE)) - act(g, norm.encode(u), SQUARE)).abs().max())
        for g in groups.dihedral(4).elements
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalisation_commutes_with_the_group(dtype: torch.dtype) -> None:
    u = section(SQUARE, (12, 12), dtype=dtype)
    assert defect(Normaliser.fit(u, SQUARE), u) < TOLERANCE[dtype]
    assert defect(per_component(u, SQUARE), u) > 0.1


def test_statistics_are_those_of_the_types() -> None:
    bundle = Bundle(Torus((2.0, 3.0)), TYPES)
    u = section(bundle, (8, 6), dtype=torch.float64)
    norm = Normaliser.fit(u, bundle)
    assert float(norm.mean[0]) == pytest.approx(float(u[:, 0].mean()))
    assert float(norm.scale[0]) == pytest.approx(float(u[:, 0].std(correction=0)))
    assert norm.mean[1:].tolist() == [0.0] * 6
    assert float(norm.scale[1]) == pytest.approx(float(u[:, 1].square().mean().sqrt()))
    speed = u[:, 2:4].square().sum(1).mean().sqrt()
    assert norm.scale[2:4].tolist() == pytest.approx([float(speed)] * 2)
    s = u[:, 4:]
    tensor = (s[:, 0] ** 2 + s[:, 1] ** 2 + 2 * s[:, 2] ** 2).mean().sqrt()
    assert norm.scale[4:].tolist() == pytest.approx([float(tensor)] * 3)
    encoded = norm.encode(u)
    assert float(bundle.norm(torch.cat([torch.zeros_like(encoded[:, :2]), encoded[:, 2:4],
                 torch.zeros_like(s)], 1)).square().mean()) == pytest.approx(1.0)  # fmt: skip
    torch.testing.assert_close(norm.decode(encoded), u)


def test_copies_have_a_scale_each() -> None:
    bundle = Bundle(Torus((2.0, 3.0)), "2 scalar c + 2 vector u")
    u = section(bundle, (8, 6), dtype=torch.float64)
    scale = Normaliser.fit(u, bundle).scale
    assert len(set(scale.tolist())) == 4
    assert scale[2] == scale[3]
    assert scale[4] == scale[5]


def test_weights_and_mask_decide_what_counts() -> None:
    bundle = Bundle(Torus((2.0, 3.0)), "scalar p")
    u = torch.zeros(3, 1, 4, 6, dtype=torch.float64)
    u[:, :, :2], u[:, :, 2:] = 1.0, 5.0
    u[:, :, 0, 0] = float("nan")
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[0, 0] = False
    weights = torch.ones(4, 6)
    weights[2:] = 0.5
    norm = Normaliser.fit(u, bundle, mask=mask, weights=weights)
    assert float(norm.mean) == pytest.approx((11 * 1 + 6 * 5) / 17)
    assert float(norm.decode(norm.encode(u.nan_to_num()))[0, 0, 0, 0]) == 0.0
    assert float(norm.encode(u.nan_to_num())[0, 0, 0, 0]) == 0.0
    with pytest.raises(DataError, match="'p' holds values that are not finite"):
        Normaliser.fit(u, bundle)


def test_stacked_steps_and_wrong_channels() -> None:
    u = section(SQUARE, (8, 8), steps=4)
    norm = Normaliser.fit(u, SQUARE)
    stacked = u.view(2, 14, 8, 8)
    torch.testing.assert_close(norm.encode(stacked).view_as(u), norm.encode(u))
    with pytest.raises(BundleError, match=r"\(\*batch, k × 7, \*grid\); got \(4, 5, 8, 8\)"):
        norm.encode(u[:, :5])
    with pytest.raises(BundleError, match="needs the bundle"):
        Normaliser.fit(u)


@pytest.mark.parametrize("value", [0.0, 4.0])
def test_constant_fields_have_no_scale(value: float) -> None:
    bundle = Bundle(Torus((2.0, 3.0)), "scalar p")
    with pytest.raises(DataError, match="'p' is constant"):
        Normaliser.fit(torch.full((3, 1, 8, 6), value), bundle)
    with pytest.raises(DataError, match="scale of 'p' must be positive and finite"):
        Normaliser(bundle, torch.zeros(1), torch.full((1,), float("nan")))


def test_a_normaliser_is_stored_as_json_and_as_a_module() -> None:
    u = section(SQUARE, (8, 8))
    mask = torch.rand(8, 8) > 0.2
    norm = Normaliser.fit(u, SQUARE, mask=mask, units={"u": "m/s"})
    again = Normaliser.from_dict(json.loads(json.dumps(norm.to_dict())), SQUARE)
    assert torch.equal(again.encode(u), norm.encode(u))
    assert again.units == {"u": "m/s"}
    assert set(norm.state_dict()) == {"mean", "scale", "mask"}
    assert norm.mean.dtype == torch.float64
    assert "m/s" in repr(norm)
    other = Bundle(SQUARE.base, "vector u")
    with pytest.raises(DataError, match=r"was fitted to 'scalar p .*the bundle is 'vector u'"):
        Normaliser.from_dict(norm.to_dict(), other)
    with pytest.raises(DataError, match=r"lacks \['scale'\]"):
        Normaliser.from_dict({k: v for k, v in norm.to_dict().items() if k != "scale"}, SQUARE)


# -------------------------------------------------------------------------------------- windows


def series(steps: int, samples: int = 0, time: np.ndarray | None = None) -> Fields:
    """Fields whose value is the number of the step, plus 100 times the sample."""
    bundle = Bundle(Torus((2.0, 3.0)), "vector u")
    count = torch.arange(float(steps)).view(steps, 1, 1, 1).expand(steps, 2, 8, 6)
    if samples:
        count = torch.stack([count + 100 * s for s in range(samples)])
    return Fields.of(bundle, count.clone(), time=time)


@pytest.mark.parametrize(("history", "horizon", "lead"), [(1, 1, 1), (3, 1, 1), (2, 2, 3)])
def test_windows_are_the_steps_they_say(history: int, horizon: int, lead: int) -> None:
    windows = Windows(series(9), history=history, horizon=horizon, lead=lead)
    assert len(windows) == 9 - (history + lead + horizon - 1) + 1
    for i in range(len(windows)):
        x, y = windows[i]
        now = i + history - 1
        assert x[::2, 0, 0].tolist() == [now - k for k in range(history)]
        assert y[::2, 0, 0].tolist() == [now + lead + k for k in range(horizon)]
        windows.in_bundle.check(x)
        windows.out_bundle.check(y)
    names = ["u"] + [f"u_{k}" for k in range(1, history)]
    assert list(windows.in_bundle.names) == names


def test_windows_never_straddle_gaps_or_samples() -> None:
    time = np.array([0, 1, 2, 3, 7, 8, 9])
    windows = Windows(series(7, time=time), history=2)
    assert [start for _, start in windows.starts] == [0, 1, 4]
    both = Windows(series(4, samples=2), history=2)
    assert both.starts == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert float(both[2][0][0, 0, 0]) == 101.0


def test_windows_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match=r"needs 4 consecutive steps; .* has 3 \(of 3 steps\)"):
        Windows(series(3), history=2, horizon=2)
    with pytest.raises(DataError, match="must be at least 1; got 0, 1 and 1"):
        Windows(series(3), history=0)


def test_splits_are_chronological() -> None:
    parts = split(series(100))
    assert [p.steps for p in parts] == [70, 15, 15]
    firsts = [float(p.values[0, 0, 0, 0]) for p in parts]
    assert firsts == [0.0, 70.0, 85.0]
    assert parts[1].time.tolist() == list(range(70, 85))
    used = [set(Windows(p)[i][j].unique().tolist()[0] for i in range(len(Windows(p)))
                for j in (0, 1)) for p in parts]  # fmt: skip
    assert not used[0] & used[1]
    assert not used[1] & used[2]


def test_splits_of_trajectories_go_by_sample() -> None:
    parts = split(series(4, samples=10), train=0.6, valid=0.2)
    assert [p.values.shape[0] for p in parts] == [6, 2, 2]
    assert [p.steps for p in parts] == [4, 4, 4]
    one = split(series(40, samples=1))
    assert [p.steps for p in one] == [28, 6, 6]
    assert split(series(10), train=0.8, valid=0.2)[2].steps == 0


def test_splits_that_leave_a_part_empty() -> None:
    with pytest.raises(DataError, match=r"of 5 steps leaves a part .* at least 12 steps"):
        split(series(5))
    with pytest.raises(DataError, match=r"of 2 samples leaves .* at least 6 samples"):
        split(series(5, samples=2))
    with pytest.raises(DataError, match=r"sum of at most 1; got 0.9 and 0.2"):
        split(series(5), train=0.9, valid=0.2)


# ---------------------------------------------------------------------------------------- steps


def test_months_are_steps_of_the_calendar() -> None:
    monthly = np.arange("2001-01", "2003-01", dtype="datetime64[M]").astype("datetime64[s]")
    assert step_lengths(monthly)[1] == "month"
    assert len(breaks(monthly)) == 0
    assert breaks(np.delete(monthly, 5)).tolist() == [5]
    assert describe_step(np.delete(monthly, 5)) == "1 month, with 1 irregular steps"
    hours = np.arange("2001-01-01T00", "2001-01-02T00", 6, dtype="datetime64[h]")
    assert describe_step(hours.astype("datetime64[s]")) == "6 hours"
    assert describe_step(np.array([4])) == "one step"
    assert describe_step(np.array([0.0, 0.25, 0.5])) == "0.25"


def test_repeated_records_and_outliers() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2, 8, 6))
    assert repeated_records(x) == []
    assert outlier_steps(x) == []
    x[29] = x[3]
    assert repeated_records(x) == [(29, 3)]
    x[12, 1] += 40
    assert [step for step, _ in outlier_steps(x)] == [12, 13]


# --------------------------------------------------------------------------------- augmentation


def test_augmentation_moves_input_and_target_with_one_element() -> None:
    out = repeat(Bundle(SQUARE.base, "pseudoscalar w"), 2)
    moves = RandomAction(groups.dihedral(4), SQUARE, out, seed=3)
    x, y = section(SQUARE, (8, 8)), section(out, (8, 8))
    seen = set()
    for _ in range(60):
        a, b = moves(x, y)
        assert torch.equal(a, act(moves.last, x, SQUARE))
        assert torch.equal(b, act(moves.last, y, out))
        seen.add(moves.last.name)
    assert len(seen) == 8
    assert "dihedral(4)" in repr(moves)


def test_augmentation_is_repeatable_and_apart_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    runs = []
    for _ in range(2):
        moves = RandomAction(groups.dihedral(4), SQUARE, SQUARE, seed=5)
        u = torch.ones(1, 7, 8, 8)
        names = []
        for _ in range(10):
            moves(u, u)
            names.append(moves.last.name)
        runs.append(names)
    assert runs[0] == runs[1]
    assert torch.equal(state, torch.get_rng_state())


def test_augmentation_needs_a_finite_group_that_acts() -> None:
    with pytest.raises(GroupError, match="continuous"):
        RandomAction(groups.se(2), SQUARE, SQUARE)
    wide = Bundle(Torus((2.0, 3.0)), "vector u")
    with pytest.raises(GroupError, match="does not act"):
        RandomAction(groups.dihedral(4), wide, wide)
