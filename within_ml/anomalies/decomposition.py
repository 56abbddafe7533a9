"""How the change of a count or a rate is made up of its elements: arrays in, arrays out.

Exact parts, and Adtributor's explanatory power and surprise. Which elements are named as the cause is decided in
`root_cause`; nothing here knows a table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What each element adds to a change; all parts of all elements sum to the whole change.

    Attributes
    ----------
    mix : array, shape (elements,)
        By weighing more or less among the elements; 0 for counts, which have no weights.
    rate : array, shape (elements,)
        By its own rate or count being another.
    """

    mix: FloatArray
    rate: FloatArray

    @property
    def total(self) -> FloatArray:
        """Sum of both, per element."""
        return self.mix + self.rate


def count_parts(expected: FloatArray, actual: FloatArray) -> Parts:
    """Split the change of a sum into its elements' differences.

    >>> count_parts(np.array([10.0, 5.0]), np.array([30.0, 5.0])).rate.tolist()
    [20.0, 0.0]
    """
    return Parts(np.zeros(len(expected)), actual - expected)


def rate_parts(
    expected: FloatArray, expected_base: FloatArray, actual: FloatArray, actual_base: FloatArray
) -> Parts | None:
    """Split the change of a rate, ``sum(numerator) / sum(denominator)``, into mix and rate effects per element.

    With ``w`` an element's share of the denominator, ``r`` its rate, bars for the mean of both periods and ``R`` for
    the rate of all::

        rate effect = w̄ · Δr          mix effect = (r̄ − R̄) · Δw

    the symmetric form (Bennet 1920, Journal of the Royal Statistical Society 83; Marshall–Edgeworth weights): no
    interaction is left over, and swapping the periods swaps the signs. ``R̄`` may be subtracted since shares sum to one;
    it makes an element that only grows count for how its rate differs from the rest. An element without a denominator
    in one period has no rate there and no rate effect: coming and going is mix.

    Parameters
    ----------
    expected, expected_base, actual, actual_base : array, shape (elements,)
        Numerators and denominators, 0 or above.

    Returns
    -------
    Parts or None
        None if a period has no denominator: then there is no rate, and no change of it.

    Examples
    --------
    >>> parts = rate_parts(np.array([10.0, 10]), np.array([100.0, 100]), np.array([30.0, 10]), np.array([100.0, 100]))
    >>> parts.rate.round(6).tolist(), parts.mix.tolist()
    ([0.1, 0.0], [0.0, 0.0])
    """
    before, after = expected_base.sum(), actual_base.sum()
    if not (before > 0 and after > 0):
        return None
    old_weight, new_weight = expected_base / before, actual_base / after
    middle = (expected.sum() / before + actual.sum() / after) / 2
    # An element's share of the rate, less what its weight alone would give: sums to the change, whatever has no rate.
    total = actual / after - expected / before - middle * (new_weight - old_weight)
    both = (expected_base > 0) & (actual_base > 0)
    old_rate = np.divide(expected, expected_base, out=np.zeros_like(total), where=both)
    new_rate = np.divide(actual, actual_base, out=np.zeros_like(total), where=both)
    rate = (old_weight + new_weight) / 2 * (new_rate - old_rate)
    # A numerator without any denominator (spend without a click) is no matter of weights.
    rate = np.where((expected_base <= 0) & (actual_base <= 0), total, rate)
    return Parts(total - rate, rate)


def explained_shares(
    expected: FloatArray,
    actual: FloatArray,
    expected_base: FloatArray | None = None,
    actual_base: FloatArray | None = None,
) -> FloatArray:
    """Return Adtributor's explanatory power per element: its share of the whole change; they sum to 1.

    For counts ``(A − F) / (ΣA − ΣF)``; for rates the finite-difference form of the quotient's derivative (Bhagwan et
    al., NSDI 2014, section 4.1.2), normalised to sum to 1. All zero where nothing changes.

    >>> explained_shares(np.array([10.0, 5.0]), np.array([30.0, 5.0])).tolist()
    [1.0, 0.0]
    """
    change = actual - expected
    if expected_base is None or actual_base is None:
        power = change
    else:
        base_change = actual_base - expected_base
        whole, whole_base = expected.sum(), expected_base.sum()
        below = whole_base * (whole_base + base_change)
        power = np.divide(change * whole_base - base_change * whole, below, out=np.zeros_like(change), where=below > 0)
    total = power.sum()
    if not abs(total) > 1e-12 * np.abs(power).sum():
        return np.zeros_like(power)
    return np.asarray(power / total, dtype=np.float64)


def surprises(expected: FloatArray, actual: FloatArray) -> FloatArray:
    """Return Adtributor's surprise per element: its term of the Jensen–Shannon divergence of the two sets of shares.

    In nats; 0 where an element's share did not change (Bhagwan et al., NSDI 2014, section 4.1.1).

    >>> surprises(np.array([1.0, 1.0]), np.array([5.0, 5.0])).tolist()
    [0.0, 0.0]
    """
    p, q = _shares(expected), _shares(actual)
    mean = (p + q) / 2
    terms = 0.5 * (_x_log(p, mean) + _x_log(q, mean))
    return np.maximum(terms, 0.0)


def _shares(values: FloatArray) -> FloatArray:
    total = values.sum()
    return np.asarray(values / total if total > 0 else np.zeros_like(values), dtype=np.float64)


def _x_log(p: FloatArray, mean: FloatArray) -> FloatArray:
    ratio = np.divide(p, mean, out=np.ones_like(p), where=p > 0)
    return p * np.log(ratio)
