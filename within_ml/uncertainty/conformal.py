"""Conformal quantiles of residuals per group, and how far a group's own ones should be believed.

What a residual is, is in `scale`. The quantiles with their finite-sample correction come from `crepes`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

UNBOUNDED = 1e9
"""Stands for a quantile that so few rows cannot bound."""
USUAL_STRENGTH = 500.0
"""Rows at which a group's quantiles count half, where too few groups could tell."""

_FEWEST_GROUPS = 8
_FEWEST_ROWS_PER_HALF = 50
_USUAL_VARIANCE, _USUAL_GROUPS = 0.15**2, 20.0
_QUANTILE_ERROR = 2.5
"""Error variance of the log of a normal sample's 5 % to 95 % range over that of its mean absolute value."""
_LARGEST_RESIDUAL = 3.0
_SMALLEST_WIDTH = 1e-9
_LEAN_STRENGTH = 100.0


def conformal_quantiles(residuals: Mapping[str, FloatArray], confidence: float) -> tuple[FloatArray, FloatArray]:
    """Return the lower and upper conformal quantile of each group, shape (groups,) each.

    Parameters
    ----------
    residuals : mapping of group to array
        The Mondrian categories.
    confidence : float
        Half of what is left goes into each tail; a tail that needs more rows than there are is -`UNBOUNDED` or
        `UNBOUNDED`.

    Examples
    --------
    >>> low, high = conformal_quantiles({"a": np.arange(1.0, 20.0), "b": np.arange(5.0)}, 0.9)
    >>> low, high
    (array([ 1.e+00, -1.e+09]), array([1.9e+01, 1.0e+09]))
    """
    from crepes import ConformalPredictiveSystem

    sizes = [z.size for z in residuals.values()]
    bins = np.repeat(np.arange(len(sizes)), sizes)
    system = ConformalPredictiveSystem().fit(np.concatenate(list(residuals.values())), bins=bins)
    # Rounded, since 100·(1 - 0.9)/2 is a hair below 5 and would be taken as the next lower rank.
    tail = round(50 * (1 - confidence), 10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*too small.*")
        found = system.predict_percentiles(
            np.zeros(len(sizes)),
            bins=np.arange(len(sizes)),
            lower_percentiles=[tail],
            higher_percentiles=[100 - tail],
            y_min=-UNBOUNDED,
            y_max=UNBOUNDED,
        )
    return found[:, 0], found[:, 1]


def mixed_quantiles(
    residuals: Mapping[str, FloatArray],
    pooled: FloatArray,
    rows: FloatArray,
    *,
    strength: float,
    confidence: float,
) -> FloatArray:
    """Return lower and upper quantiles, shape (groups + 1, 2): pooled, then each group's mixed with pooled.

    ``rows``, shape (groups,), are those that a group had in calibration, also where fewer residuals were kept.
    """
    low, high = conformal_quantiles({"": pooled}, confidence)
    table = np.column_stack([low, high])
    if not residuals:
        return table
    own_low, own_high = conformal_quantiles(residuals, confidence)
    # Too few rows for so high a confidence: whatever is wider, the pooled quantile or the worst row.
    worst = np.array([[z[0], z[-1]] for z in residuals.values()])
    own_low = np.where(own_low > -UNBOUNDED, own_low, np.minimum(worst[:, 0], low))
    own_high = np.where(own_high < UNBOUNDED, own_high, np.maximum(worst[:, 1], high))
    share = (rows / (rows + strength))[:, None]
    return np.vstack([table, share * np.column_stack([own_low, own_high]) + (1 - share) * table])


def thinned(z: FloatArray, size: int) -> FloatArray:
    """Return z sorted, and of more than ``size`` values as many evenly spaced order statistics."""
    z = np.sort(z)
    if z.size <= size:
        return z
    kept = np.rint((np.arange(size) + 0.5) / size * z.size - 0.5).astype(np.int64)
    result: FloatArray = z[kept]
    return result


def lasting_strength(z: FloatArray, group: NDArray[np.int64], periods: NDArray[np.int64] | None) -> float:
    """Return the number of rows at which a group's own quantiles are worth as much as the pooled ones.

    Empirical Bayes: with B the variance of the groups' true log-widths and V/n the error variance of one estimated
    from n rows, own ones deserve the share n / (n + V/B). The logs of a group's mean |z| in the first and in the
    second half of the periods share B as their covariance and differ by the error, so that rows of one ad, which are
    alike, and groups that change their ways count as what they are worth for a later time. B is drawn towards
    `_USUAL_VARIANCE` by as much as `_USUAL_GROUPS` groups. `USUAL_STRENGTH` where fewer than 8 groups have 50 rows in
    each half.
    """
    if periods is None or not periods.size:
        return USUAL_STRENGTH
    size = np.minimum(np.abs(z), _LARGEST_RESIDUAL)
    later = periods > np.median(periods)
    rows = np.stack([np.bincount(group[half], minlength=group.max() + 1) for half in (~later, later)])
    kept = (rows >= _FEWEST_ROWS_PER_HALF).all(axis=0)
    if kept.sum() < _FEWEST_GROUPS:
        return USUAL_STRENGTH
    sums = np.stack([np.bincount(group[half], size[half], group.max() + 1) for half in (~later, later)])
    first, second = np.log(np.maximum(sums[:, kept] / rows[:, kept], _SMALLEST_WIDTH))
    error = max(float(np.var(first - second)) / 2, _SMALLEST_WIDTH)
    shared = max(float(np.cov(first, second)[0, 1]), 0.0)
    between = (kept.sum() * shared + _USUAL_GROUPS * _USUAL_VARIANCE) / (kept.sum() + _USUAL_GROUPS)
    return float(_QUANTILE_ERROR * error / between / np.mean(1 / rows[:, kept]))


def recent_lean(z: FloatArray, group: NDArray[np.int64], periods: NDArray[np.int64] | None) -> FloatArray:
    """Return how far the residuals of each group's last two periods lie to one side of all groups', shape (groups,).

    An account that has begun to decline misses to the same side again before its quantiles have taken notice. Means
    are drawn towards 0 as by 100 rows; 0 without periods.

    >>> z, group = np.array([0.0, 1.0] * 300), np.array([0, 1] * 300)
    >>> recent_lean(z, group, np.repeat([0, 1, 2], 200)).round(3)
    array([-0.333,  0.333])
    """
    groups = int(group.max()) + 1
    if periods is None:
        return np.zeros(groups)
    recent = periods >= periods.max() - 1
    deviation = z[recent] - z[recent].mean()
    rows = np.bincount(group[recent], minlength=groups)
    lean: FloatArray = np.bincount(group[recent], deviation, groups) / (rows + _LEAN_STRENGTH)
    return lean
