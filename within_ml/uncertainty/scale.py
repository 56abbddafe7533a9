"""The scale on which residuals of rates are comparable: stabilised, and divided by what was to be expected of the row.

Quantiles of such residuals are in `conformal`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]

_TAIL = 4.0
"""Degrees of freedom of the t likelihood that the spread is fitted by: a few wild ads must not widen all intervals."""
_NORMAL_SCALE = 0.69057
"""Squared scale at which that t distribution is likeliest for normal residuals of variance 1, so that chance, whose
size is known, and the unknown part are measured alike: solves E[5z² / (4c + z²)] = 1."""
_FEWEST_IMPRESSIONS = 1e-3
_VARIANCE_FLOOR = 1e-12
_LOWEST, _HIGHEST = -20.0, 10.0
"""Bounds of log(a) and log(b)."""


def history_difficulty(prior_ctr: ArrayLike, prior_impressions: ArrayLike) -> FloatArray:
    """Return about the standard error of the log-odds of a rate that so many effective impressions stand behind.

    1 / √(clicks + 1), shape (n,), in (0, 1]: an ad that has shown nothing yet gets 1. NaN impressions count as 0.

    >>> history_difficulty([0.02, 0.02], [0.0, 49_950.0]).round(3)
    array([1.   , 0.032])
    """
    clicks = np.asarray(prior_ctr, np.float64) * np.nan_to_num(np.asarray(prior_impressions, np.float64))
    return 1 / np.sqrt(clicks + 1)


def stabilised(rate: FloatArray, n: FloatArray) -> FloatArray:
    """Return arcsin √((n·rate + 3/8) / (n + 3/4)), shape (n,), whose binomial variance is about 1/(4n + 2).

    Anscombe 1948, "The Transformation of Poisson, Binomial and Negative-Binomial Data". n may be infinite.
    """
    share = 1 / np.maximum(n, _FEWEST_IMPRESSIONS)
    return np.arcsin(np.sqrt((rate + 0.375 * share) / (1 + 0.75 * share)))


def rate_of(theta: FloatArray, n: FloatArray) -> FloatArray:
    """Return the rate in [0, 1] whose `stabilised` is theta, or the nearest."""
    share = 1 / np.maximum(n, _FEWEST_IMPRESSIONS)
    rate: FloatArray = (1 + 0.75 * share) * np.sin(np.clip(theta, 0.0, np.pi / 2)) ** 2 - 0.375 * share
    return np.clip(rate, 0.0, 1.0)


def sigma(p: FloatArray, n: FloatArray, difficulty: FloatArray, spread: float, slopes: FloatArray) -> FloatArray:
    """Return the size of a usual residual on the stabilised scale, shape (n,).

    A deviation of the log-odds by s is one of the stabilised rate by s·√(p(1-p))/2.
    """
    unknown = spread + difficulty**2 @ slopes
    return np.sqrt(1 / (4 * n + 2) + p * (1 - p) / 4 * unknown + _VARIANCE_FLOOR)


def fit_spread(gap: FloatArray, p: FloatArray, n: FloatArray, difficulty: FloatArray) -> tuple[float, FloatArray]:
    """Fit a and b of σ² by the likelihood of a t distribution.

    Parameters
    ----------
    gap, p, n : shape (n,)
        Residuals on the stabilised scale, predicted rates, impressions.
    difficulty : shape (n, m)

    Returns
    -------
    float, array of shape (m,)
        Variances of the log-odds: a, and b per unit of difficulty².
    """
    chance, scale = 1 / (4 * n + 2) + _VARIANCE_FLOOR, p * (1 - p) / 4
    terms = scale[:, None] * np.column_stack([np.ones(p.size), difficulty**2])
    squared = gap**2 / _NORMAL_SCALE

    def objective(logs: FloatArray) -> tuple[float, FloatArray]:
        parts = np.exp(logs)
        variance = chance + terms @ parts
        ratio = squared / variance
        loss = np.log(variance) / 2 + (_TAIL + 1) / 2 * np.log1p(ratio / _TAIL)
        slope = (0.5 - (_TAIL + 1) / 2 * ratio / (_TAIL + ratio)) / variance
        return float(loss.mean()), (slope @ terms) * parts / p.size

    start = np.full(terms.shape[1], -3.0)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(_LOWEST, _HIGHEST)] * start.size)
    return float(np.exp(found.x[0])), np.exp(found.x[1:])


def with_further_period(z: FloatArray, periods: NDArray[np.int64] | None) -> FloatArray:
    """Return residuals whose periods deviate as much as a further period will, shape (n,).

    m periods deviate from their own mean with variance τ²(m-1)/m, a further one from it with τ²(m+1)/m: deviations of
    the periods' means are stretched by the root of the ratio. One period alone tells nothing of the next and is left
    as it is.

    >>> with_further_period(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 0, 1, 1])).round(3)
    array([-0.732,  0.268,  2.732,  3.732])
    """
    m = 0 if periods is None else int(periods.max()) + 1
    if periods is None or m < 2:
        return z
    means = np.bincount(periods, weights=z, minlength=m) / np.maximum(np.bincount(periods, minlength=m), 1)
    stretched: FloatArray = z + (np.sqrt((m + 1) / (m - 1)) - 1) * (means[periods] - z.mean())
    return stretched
