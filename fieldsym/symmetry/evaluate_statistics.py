"""The statistics of an evaluation: intervals, the symmetry share, verdicts in words.

The share comes from the Gram matrix of the residuals R_g = g⁻¹F(g·x) − y over a finite group: its
trace is the mean square error on the orbit-augmented set, and what averaging over a subgroup H
removes is the variance of R within the cosets of H, so that MSE(F) = MSE(F̄) + ‖F − F̄‖² holds to
rounding.

>>> import fieldsym as fs
>>> gram = np.array([[2.0, 0.0], [0.0, 2.0]])       # two residuals of size √2, at right angles
>>> removed_by_averaging(gram, fs.groups.cyclic(2), [0, 1])
1.0

To add a verdict: give it a word below and a line in ``verdict``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fieldsym.group import Group

Array = np.ndarray
EXACT = "exact"
BELOW_FLOOR = "below floor"
AS_TRUTH = "consistent with truth"
VIOLATION = "resolved violation"
NOT_TESTABLE = "not testable on this grid"
VERDICTS = (EXACT, BELOW_FLOOR, AS_TRUTH, VIOLATION, NOT_TESTABLE)
FLOOR_FACTOR = 3.0  # a defect below this many floors is no property of the model
USELESS_FLOOR = 0.1  # a transform that loses more than this tests nothing
ROUNDING = {"float32": 2e-6, "float64": 1e-12}
RESAMPLES = 1000
SEED = 0


def median_interval(values: Array) -> Array:
    """Bootstrapped 95 % interval of the median, (rows, samples) to (rows, 2); seeded.

    Examples
    --------
    >>> median_interval(np.array([[1.0, 1.0, 1.0]])).tolist()
    [[1.0, 1.0]]
    """
    rows, samples = values.shape
    if not samples:
        return np.full((rows, 2), np.nan)
    draws = np.random.default_rng(SEED).integers(samples, size=(RESAMPLES, samples))
    found = [np.quantile(np.median(row[draws], axis=1), (0.025, 0.975)) for row in values]
    return np.array(found).reshape(rows, 2)


def passes(defect: float, floor: float, rounding: float) -> bool:
    """Whether a defect is no more than what the transform or the dtype loses."""
    return defect <= max(rounding, FLOOR_FACTOR * floor)


def verdict(
    values: Array,
    interval: Array,
    floor: float,
    truth_high: float,
    rounding: float,
    *,
    wrong: float = np.inf,
) -> str:
    """The verdict on one symmetry in words.

    * "not testable on this grid": not measured, or the transform alone loses more than 0.1, or
      the symmetry holds but so does ``wrong``, the median defect with a wrong action on the output:
      the samples cannot tell the two;
    * "exact": 95 % of the samples are within rounding (2e-6 in float32, 1e-12 in float64, times
      the ratio of the output to its fluctuation);
    * "below floor": the median is less than 3 × the floor of the transform;
    * "consistent with truth": the interval of the median reaches down to that of the reference;
    * "resolved violation": everything else.

    Examples
    --------
    >>> sample = np.array([0.2, 0.3, 0.25])
    >>> verdict(sample, np.array([0.2, 0.3]), 1e-7, np.nan, 1e-5)
    'resolved violation'
    >>> verdict(sample, np.array([0.2, 0.3]), 1e-7, 0.22, 1e-5)
    'consistent with truth'
    >>> verdict(sample / 1e7, np.array([2e-8, 3e-8]), 1e-7, np.nan, 1e-5, wrong=1e-8)
    'not testable on this grid'
    """
    if not values.size or not np.isfinite(values).all() or not floor <= USELESS_FLOOR:
        return NOT_TESTABLE
    word = AS_TRUTH if interval[0] <= truth_high else VIOLATION
    if np.median(values) < FLOOR_FACTOR * floor:
        word = BELOW_FLOOR
    if np.quantile(values, 0.95) <= rounding:
        word = EXACT
    blind = word in (EXACT, BELOW_FLOOR) and passes(wrong, floor, rounding)
    return NOT_TESTABLE if blind else word


def generated(group: Group, positions: Iterable[int]) -> list[int]:
    """Positions of the subgroup that some elements generate.

    Examples
    --------
    >>> import fieldsym as fs
    >>> len(generated(fs.groups.dihedral(4), [1]))
    4
    """
    inside, generators = [0], list(positions)
    for g in inside:  # grows while it is read
        inside += dict.fromkeys(int(h) for h in group.table[generators, g] if h not in inside)
    return inside


def removed_by_averaging(gram: Array, group: Group, subgroup: list[int]) -> float:
    """Mean square that averaging over a subgroup removes from the orbit-augmented set."""
    order = len(subgroup)
    cosets = {tuple(sorted(group.table[subgroup, a])) for a in range(group.order)}
    blocks = [gram[np.ix_(coset, coset)] for coset in cosets]
    within = [np.trace(block) / order - block.sum() / order**2 for block in blocks]
    return float(max(np.mean(within), 0.0))


def shares(gram: Array, group: Group) -> dict[str, Array]:
    """Mean square errors before and after averaging, and symmetry shares.

    Parameters
    ----------
    gram : (order, order), mean over samples of ⟨R_g, R_h⟩
    group : the finite group

    Returns
    -------
    dict   ``mse``, ``mse_averaged``, ``share`` (numbers), ``share_element`` (of the cyclic subgroup
           that each element but the identity generates), ``share_cumulative`` (of the subgroup that
           it and those before it generate)
    """
    mse = float(np.trace(gram) / group.order)
    scale = 1 / mse if mse > 0 else 0.0
    rest = range(1, group.order)
    removed = removed_by_averaging(gram, group, list(range(group.order)))
    alone = [removed_by_averaging(gram, group, generated(group, [i])) for i in rest]
    so_far = [removed_by_averaging(gram, group, generated(group, range(1, i + 1))) for i in rest]
    return {
        "mse": np.array(mse),
        "mse_averaged": np.array(mse - removed),
        "share": np.array(removed * scale),
        "share_element": np.array(alone) * scale,
        "share_cumulative": np.array(so_far) * scale,
    }
