"""What an evaluation found out about each symmetry, in one sentence.

>>> import numpy as np
>>> violated = Fact("rotation 90°", VIOLATION, 0.12, (0.11, 0.13), 1e-10)
>>> sentence(violated, ["80 % of its square in 8-16 waves"])  # doctest: +NORMALIZE_WHITESPACE
'rotation 90°: violated: 12.0 % of the fluctuation (95 % interval 11.0 % to 13.0 %), floor
1.0·10⁻¹⁰; 80 % of its square in 8-16 waves.'

To add something to say: append a clause in ``_element_clauses`` or ``_generator_clauses``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fieldsym.group import Generator
from fieldsym.symmetry.evaluate_measure import Results, Setup
from fieldsym.symmetry.evaluate_rows import wrong_action
from fieldsym.symmetry.evaluate_statistics import (
    AS_TRUTH,
    BELOW_FLOOR,
    EXACT,
    NOT_TESTABLE,
    USELESS_FLOOR,
    VIOLATION,
    passes,
)

Array = np.ndarray
Values = Mapping[str, Array]
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MOSTLY, HARDLY = 0.9, 0.1  # aliasing shares that leave little else, and that are little
KINKS = (0.4, 0.6)  # aliasing shares of relu and the like: a half, give or take
NEGLIGIBLE = 0.01  # of a violation: the reference holds a symmetry beside it
CLEARLY = 2.0  # times the defect of the operator: the reference violates a symmetry more
BEYOND = "which this operator cannot follow"  # in findings where the operator is too symmetric


@dataclass(frozen=True)
class Fact:
    """The numbers of one symmetry: its verdict, the median defect and what bounds it."""

    label: str
    word: str
    value: float
    interval: tuple[float, float] | Array
    floor: float
    truth: float = math.nan
    unit: str = "of the fluctuation"
    truth_low: float = math.nan  # lower end of the interval of ``truth``

    def in_reference(self, rounding: float) -> bool | None:
        """Whether the reference has the symmetry, beside this violation; None without one."""
        if not math.isfinite(self.truth):
            return None
        return passes(self.truth, self.floor, rounding) or self.truth <= NEGLIGIBLE * self.value

    def below_reference(self, rounding: float) -> bool:
        """Whether the reference clearly violates the symmetry, and clearly more than this does."""
        seen = math.isfinite(self.truth_low) and not passes(self.truth_low, self.floor, rounding)
        return seen and self.truth_low > CLEARLY * float(self.interval[1])


def number(value: float) -> str:
    """A defect as people read it: percent down to 0.1 %, powers of ten below.

    Examples
    --------
    >>> number(0.3141), number(0.00271), number(1.2e-7), number(math.nan)
    ('31.4 %', '0.27 %', '1.2·10⁻⁷', '–')
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1e-3:
        return f"{100 * value:,.{0 if abs(value) >= 1 else 1 if abs(value) >= 0.01 else 2}f} %"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def percent(part: float) -> str:
    """A part of a whole in full percent.

    Examples
    --------
    >>> percent(0.987), percent(0.999)
    ('99 %', '100 %')
    """
    return f"{100 * part:.0f} %"


def sentence(fact: Fact, clauses: Sequence[str], reason: str = "", *, rounding: float = 0.0) -> str:
    """The finding; ``clauses`` say more about a violation, ``reason`` why nothing can be said."""
    less = fact.below_reference(rounding)
    truth = f"the reference violates it by {number(fact.truth)}"
    ahead = f", but {truth}, {BEYOND}" * less
    size, floor = f"{number(fact.value)} {fact.unit}", number(fact.floor)
    low, high = (number(float(v)) for v in fact.interval)
    beside = f"; {truth}" * math.isfinite(fact.truth)
    said = {
        NOT_TESTABLE: f"not testable: {reason}",
        EXACT: f"holds to rounding: {size}{ahead}",
        BELOW_FLOOR: f"nothing seen above what the transform itself loses: {size}, floor {floor}"
        f"{ahead}",
        AS_TRUTH: f"{'less than' if less else 'as'} the reference, which violates it by "
        f"{number(fact.truth)}: {size}",
        VIOLATION: f"violated: {size} (95 % interval {low} to {high}), floor {floor}{beside}",
    }
    more = clauses if fact.word in (VIOLATION, AS_TRUTH) else []
    return "; ".join([f"{fact.label}: {said[fact.word]}", *more]) + "."


def findings(setup: Setup, found: Results, values: Values, rounding: float) -> dict[str, list[str]]:
    """One sentence for each element and each generator, from the variables of a report."""
    rows, generators = range(len(setup.rows)), range(len(setup.group.generators))
    return {
        "finding": [_element(setup, found, values, i, rounding) for i in rows],
        "lee_finding": [_generator(setup, found, values, i, 10 * rounding) for i in generators],
    }


def _element(setup: Setup, found: Results, values: Values, i: int, rounding: float) -> str:
    row, flat = setup.rows[i], bool(found.finite["model"].constant(setup.rounding)[i])
    fact = Fact(
        row.label, str(values["verdict"][i]), float(values["defect_median"][i]),
        values["defect_interval"][i], float(values["floor"][i]), float(values["truth_defect"][i]),
        "of the output" if flat else "of the fluctuation", float(values["truth_interval"][i][0]),
    )  # fmt: skip
    wrong = float(values["wrong_defect"][i])
    reason = _reason(setup, fact, flat) or (
        f"a wrong action on the output passes as well ({number(wrong)}), so these samples cannot "
        "tell it from the right one"
    )
    clauses = _places(setup, values, "defect", i)
    share, held = float(values["share_element"][i]), fact.in_reference(rounding)
    if share >= 1e-3 and held is not False:  # below, symmetry is not the problem
        clauses.append(
            f"{'' if held else 'if the targets have this symmetry, '}averaging over what it "
            f"generates would remove {number(share)} of the squared error"
        )
    fine = float(values["defect_fine"][i])
    if math.isfinite(fine):
        clauses.append(f"{number(fine)} on a grid twice as fine")
    if passes(wrong, fact.floor, rounding):
        flipped = wrong_action(row.element, setup.probe.outs.bundle.base)[1] < 0
        other = "the opposite parity" if flipped else "the inverse on the output"
        clauses.append(f"{other} passes ({number(wrong)}): check the declared types")
    return sentence(fact, clauses, reason, rounding=rounding)


def _generator(setup: Setup, found: Results, values: Values, i: int, rounding: float) -> str:
    xi = setup.group.generators[i]
    fact = Fact(
        xi.name, str(values["lee_verdict"][i]), float(values["lee_median"][i]),
        values["lee_interval"][i], float(values["lee_floor"][i]), float(values["lee_truth"][i]),
        f"per {setup.scales[i][1]}", float(values["lee_truth_interval"][i][0]),
    )  # fmt: skip
    flat = bool(found.lie["model"].constant(setup.rounding)[i])
    clauses = _places(setup, values, "lee", i)
    share = float(values["aliasing_share"][i])
    if math.isfinite(share):
        fine, whole = float(values["lee_fine"][i]), _whole(setup, values, xi)
        clauses.append(_aliasing(share, fine, whole, own=fact.word != AS_TRUTH))
    if found.layers is not None and not xi.matrix.any():
        parts = found.layers.share[i]
        if np.isfinite(parts).all() and len(parts):
            top = int(np.argmax(parts))
            clauses.append(
                f"largest part by layer: {found.layers.layers[top]} ({number(parts[top])})"
            )
    return sentence(fact, clauses, _reason(setup, fact, flat), rounding=rounding)


# ``whole``: whether shifts by whole cells hold, which no aliasing breaks; None where not known.
# ``own``: whether what is no aliasing is the operator's; not so where the reference has it as well.
def _aliasing(share: float, fine: float, whole: bool | None, *, own: bool = True) -> str:
    after = f"{percent(share)} of its square vanishes on a finer grid"
    if whole:
        return _between_cells(share, fine, after)
    after = after if share >= HARDLY else f"it stays on a finer grid ({number(fine)})"
    if whole is not None:
        after += ", and shifts by whole cells fail"
    if share < HARDLY:
        return f"{after}: an asymmetry of the operator itself" if own else after
    if whole is None and share >= MOSTLY:
        return f"{after}: mostly aliasing of the nonlinearity"
    beside = "beside an asymmetry of the operator itself" if own else "in part"
    return f"{after}: aliasing, {beside}"


# Whole cells hold: what is between them depends on how fast it falls as the grid is refined.
def _between_cells(share: float, fine: float, after: str) -> str:
    low, high = KINKS
    if share < low:
        after = f"only {after}" if share >= HARDLY else "it does not vanish on a finer grid"
        return (
            f"{after} ({number(fine)} there) although shifts by whole cells hold: resampling or a "
            "discontinuous nonlinearity"
        )
    after += ", and shifts by whole cells hold"
    if share < high:
        return f"{after}: as with nonlinearities whose slope jumps, such as relu"
    return f"{after}: aliasing of the nonlinearity, no asymmetry of the weights"


# Whether shifts by whole cells along a generator hold; None where they were not tested.
def _whole(setup: Setup, values: Values, xi: Generator) -> bool | None:
    words = {
        str(word)
        for row, word in zip(setup.rows, values["verdict"], strict=True)
        if row.kind == "shift" and np.array_equal(row.element.shift != 0, xi.shift != 0)
    }
    if xi.matrix.any() or not words or NOT_TESTABLE in words:
        return None
    return words <= {EXACT, BELOW_FLOOR}


# Why a symmetry cannot be tested, as far as the defect and its floor tell.
def _reason(setup: Setup, fact: Fact, flat: bool) -> str:
    if flat:
        return "the output is constant, and left as it is it passes as well"
    if not math.isfinite(fact.value):
        return "points are missing" if setup.probe.ins.mask is not None else "not measured"
    if not fact.floor <= USELESS_FLOOR:
        return f"the transform alone loses {number(fact.floor)}"
    return ""


# Where the defect is: the band that holds most of it, and the field where it is largest.
def _places(setup: Setup, values: Values, stem: str, i: int) -> list[str]:
    clauses, shares = [], np.nan_to_num(values[f"{stem}_band_share"][i])
    if shares.any():
        top = int(shares.argmax())
        band = setup.bands.labels[top]
        where = band if band.startswith("beyond") else f"in {band}"
        clauses.append(f"{percent(shares[top])} of its square {where}")
    fields = np.nan_to_num(values[f"{stem}_field"][i])
    if len(fields) > 1 and fields.any():
        top = int(fields.argmax())
        clauses.append(f"largest in {setup.probe.outs.bundle.names[top]} ({number(fields[top])})")
    return clauses
