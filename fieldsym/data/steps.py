"""Steps in time: their length and regularity, repeated records, outliers, missing values.

>>> breaks(np.array([0, 1, 2, 5, 6]))
array([3])
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from fieldsym.data.cards import Entry
from fieldsym.errors import DataError

Array = np.ndarray
FILLS = (999.0, 9999.0, 32767.0, 32768.0, 99999.0, 1e15, 1e20, 9.96921e36)


def is_date(time: Array) -> bool:
    """Whether times are dates (datetime64, or cftime objects of any calendar)."""
    return time.dtype.kind == "M" or (time.dtype.kind == "O" and hasattr(time.flat[0], "calendar"))


def _months(time: Array) -> Array:
    if time.dtype.kind == "M":
        return time.astype("datetime64[M]").astype(np.int64)
    return np.array([12 * t.year + t.month for t in time], dtype=np.int64)


def _seconds(time: Array) -> Array:
    if time.dtype.kind == "M":
        return (time - time[0]).astype("timedelta64[ms]").astype(np.float64) / 1e3
    return np.array([(t - time[0]).total_seconds() for t in time])


def day_of_month(t: object) -> int:
    """The day of a date, 1 to 31."""
    if isinstance(t, np.datetime64):
        return int((t.astype("datetime64[D]") - t.astype("datetime64[M]")).astype(np.int64)) + 1
    return t.day  # type: ignore[attr-defined]


def step_lengths(time: Array) -> tuple[Array, str]:
    """Lengths of the steps, and their unit: "s", "month", or "" for plain numbers.

    Months are counted by the calendar, so that steps of 28 to 31 days are one month each; so are
    steps from one day of the month to the same day, where all months have one length.
    """
    if len(time) < 2:
        return np.zeros(0), ""
    if not is_date(time):
        return np.diff(time.astype(np.float64)), ""
    seconds, months = np.diff(_seconds(time)), np.diff(_months(time))
    if np.median(seconds) > 27 * 86400 and np.median(months) >= 1:
        uneven = np.ptp(seconds) > 1e-6 * abs(seconds[0])
        if uneven or len({day_of_month(t) for t in time}) == 1:
            return months.astype(np.float64), "month"
    return seconds, "s"


def usual_step(time: Array) -> tuple[float, str]:
    """The median of :func:`step_lengths` with its unit; (0, "") for a single time.

    Examples
    --------
    >>> usual_step(np.array(["2001-07-16", "2001-08-16"], "datetime64[s]"))
    (1.0, 'month')
    """
    lengths, unit = step_lengths(time)
    return (float(np.median(lengths)), unit) if len(lengths) else (0.0, "")


def breaks(time: Array) -> Array:
    """Indices of the steps that do not follow their predecessor at the usual distance."""
    steps, _ = step_lengths(time)
    if not len(steps):
        return np.zeros(0, dtype=np.int64)
    usual = np.median(steps)
    return np.flatnonzero(np.abs(steps - usual) > 0.01 * abs(usual)) + 1


def describe_step(time: Array) -> str:
    """The step of a series in words, "3 hours", "1 month (28–31 days)", or why it has none.

    Examples
    --------
    >>> describe_step(np.array(["2001-01-01", "2001-02-01", "2001-03-01"], "datetime64[s]"))
    '1 month'
    """
    steps, unit = step_lengths(time)
    if not len(steps):
        return "one step"
    usual, gaps = float(np.median(steps)), len(breaks(time))
    if unit == "s":
        size, name = next(
            (n, w) for n, w in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
            if usual >= n or n == 1
        )  # fmt: skip
        usual, unit = usual / size, name
    text = f"{usual:g} {unit}{'s' if unit and usual != 1 else ''}".strip()
    return f"{text}, with {gaps} irregular steps" if gaps else text


def repeated_records(values: Array) -> list[tuple[int, int]]:
    """Pairs (later, earlier) of steps whose values are the same to the last bit.

    values : (time, ...). A field that never changes has no repeated records.
    """
    seen: dict[bytes, int] = {}
    pairs = []
    for i, step in enumerate(values):
        key = hashlib.blake2b(np.ascontiguousarray(step).tobytes()).digest()
        if key in seen:
            pairs.append((i, seen[key]))
        seen.setdefault(key, i)
    return pairs if len(seen) > 1 else []


def outlier_steps(values: Array, factor: float = 3.0) -> list[tuple[int, float]]:
    """Steps whose change from the previous one is far above the usual, with the ratio to it.

    values : (time, channel, *grid); a change counts where one channel changes by more than
    ``factor`` times the 80th percentile of its changes. Fewer than 10 steps say nothing.
    """
    if len(values) < 10:
        return []
    found: dict[int, float] = {}
    flat = values.reshape(*values.shape[:2], -1)
    change = np.stack([np.sqrt(np.mean((b - a) ** 2, -1)) for a, b in itertools.pairwise(flat)])
    usual = np.quantile(change, 0.8, axis=0)
    median = np.maximum(np.median(change, axis=0), usual / factor)
    for i, c in zip(*np.nonzero((change > factor * usual) & (usual > 0)), strict=True):
        ratio = float(change[i, c] / median[c])
        found[int(i) + 1] = max(found.get(int(i) + 1, 0.0), ratio)
    return sorted(found.items())


def describe_outliers(values: Array, time: Array) -> list[str]:
    """Notes on :func:`outlier_steps`, one for all where they are many."""
    found = outlier_steps(values)
    if len(found) > 4:
        first = ", ".join(when(time[i]) for i, _ in found[:4])
        return [f"{len(found)} steps change far more than usual: {first}, …"]
    return [f"the change into {when(time[i])} is {r:.1f} times the usual one" for i, r in found]


def describe_fill(values: Array, variable: str) -> list[str]:
    """A note if the extreme value is a customary fill value far outside all others."""
    size = np.abs(values)
    extreme = float(size.max())
    rest = size[size < extreme]
    if not np.isclose(extreme, FILLS, rtol=1e-6).any() or not rest.size or rest.max() > extreme / 3:
        return []
    count = int((size == extreme).sum())
    return [f"{variable} reaches ±{extreme:g} at {count} points: an undeclared fill value?"]


def order(values: Array, time: Array, notes: list[str]) -> tuple[Array, Array]:
    """Values (sample, time, …) and times, sorted by time."""
    index = np.argsort(time, kind="stable")
    if (index != np.arange(len(time))).any():
        notes.append("the steps were sorted by time")
        return values[:, index], time[index]
    return values, time


def distinct(values: Array, time: Array, notes: list[str]) -> tuple[Array, Array]:
    """Drop the later of two records that are exact copies (a single series only)."""
    pairs = repeated_records(values[0]) if len(values) == 1 else []
    if len(pairs) > len(time) / 2:
        notes.append(f"{len(pairs)} of {len(time)} records are copies of others; all were kept")
        pairs = []
    for later, earlier in pairs:
        notes.append(
            f"the record of {when(time[later])} is an exact copy of {when(time[earlier])} and "
            "was dropped"
        )
    keep = np.ones(len(time), dtype=bool)
    keep[[later for later, _ in pairs]] = False
    values, time = (values[:, keep], time[keep]) if pairs else (values, time)
    same = np.flatnonzero(time[1:] == time[:-1])
    if len(same):
        raise DataError(
            f"{when(time[same[0]])} occurs twice with different values ({len(same)} such steps); "
            "keep one record per time."
        )
    return values, time


def when(t: object) -> str:
    """A time in a message."""
    if isinstance(t, np.datetime64):
        return str(t.astype("datetime64[s]")).removesuffix("T00:00:00")
    return str(t).removesuffix(" 00:00:00")


def find_mask(values: Array, entries: Sequence[Entry], time: Array, notes: list[str]) -> Array:
    """Points that are valid in every block, (*grid); missing values must be constant in time.

    Raises
    ------
    DataError   if values are missing at some steps only, in one component only, or everywhere.
    """
    valid = np.ones(values.shape[3:], dtype=bool)
    masks = []
    c = 0
    for e in entries:
        parts = []
        for v in e.typed.variables:
            parts.append(constant_mask(values[:, :, c], v, e, time))
            c += 1
        for v, part in zip(e.typed.variables[1:], parts[1:], strict=True):
            if (part != parts[0]).any():
                raise DataError(
                    f"The components of '{e.typed.kind} {e.name}' are missing at different points: "
                    f"{(part != parts[0]).sum()} between {e.typed.variables[0]} and {v}. Mask both "
                    "where one is missing."
                )
        masks.append(parts[0])
        valid &= parts[0]
    if any((m != valid).any() for m in masks):
        notes.append("the blocks have different masks: points valid in all of them are used")
    if not valid.any():
        raise DataError("No point is valid in every variable; select fewer variables or levels.")
    return valid


def constant_mask(values: Array, v: str, e: Entry, time: Array) -> Array:
    if np.isinf(values).any():
        raise DataError(f"The variable '{v}' holds {int(np.isinf(values).sum())} infinite values.")
    missing = np.isnan(values)
    flat = missing.reshape(-1, *missing.shape[2:])
    always = flat.all(0)
    count = (flat & ~always).reshape(len(flat), -1).sum(1)
    bad = np.flatnonzero(count)
    if always.all():
        raise DataError(f"The variable '{v}' ({e.name}) has no valid value at all.")
    if len(bad):
        step = int(bad[0]) % len(time)
        raise DataError(
            f"Missing values must be at the same points at every step; '{v}' ({e.name}) lacks "
            f"{count[bad[0]]} more values at step {step} ({when(time[step])}), and {len(bad)} of "
            f"{len(flat)} steps are so. Fill them, or leave these steps out."
        )
    return ~always
