"""The level of predictions over time: what each period's clicks say, and how much of it will last.

Ads of one week share what that week did to the audience. A level learned from four weeks rests on four observations,
however many impressions they hold; here that is taken into account. The shape of a calibration is in `spline`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

FloatArray = NDArray[np.float64]

LASTING_SD = 0.1
"""Size of a lasting bias of the log-odds that is not surprising: about a tenth of the clicks."""

_VARIANCE_FLOOR = 1e-12
_FEWEST_FOR_AUTOCORRELATION = 8
_LARGEST_AUTOCORRELATION = 0.8
_LARGEST_SHIFT = 30.0


@dataclass(frozen=True, slots=True)
class LevelEstimate:
    """Shifts of the log-odds that make predicted clicks equal to actual ones.

    ``by_row`` is the shift of each row's own period, shape (n,). ``pooled`` is the periods' mean, ``shrunk`` what of it
    should be expected of a later period (0 ≤ shrunk/pooled ≤ 1). ``period_sd`` is the standard deviation of the
    periods' true shifts, made larger where neighbours are alike (then a mean of n periods rests on fewer than n).
    ``dispersion`` is the variance of rows within periods in units of the binomial one, at least 1.
    """

    by_row: FloatArray
    pooled: float
    shrunk: float
    period_sd: float
    dispersion: float


def estimate_level(
    margin: FloatArray,
    y: FloatArray,
    w: FloatArray,
    periods: ArrayLike | None = None,
    *,
    period_sd: float = 0.0,
    overdispersion: bool = True,
) -> LevelEstimate:
    """Estimate the shift of each period and of periods to come.

    Parameters
    ----------
    margin : shape (n,)
        Predicted log-odds.
    y, w : shape (n,)
        Observed rates and impressions.
    periods : shape (n,), optional
        Number of each row's period (a week), in order of time; None takes all rows as one.
    period_sd : float
        What a longer history has shown of ``period_sd``; a few periods that happen to agree are not believed beyond it.
    overdispersion : bool
        False takes ``dispersion`` as 1: every impression independent.

    Notes
    -----
    The periods' mean m is that of a random-effects meta-analysis (DerSimonian and Laird 1986), with dispersion / clicks
    as the variance within a period. It is shrunk to m τ² / (τ² + se²), where τ² = max(`LASTING_SD`², m² - se²): towards
    0 as far as the periods do not agree on it, and as by James and Stein where it is large.

    Examples
    --------
    >>> margin, y, w = np.zeros(4), np.array([0.6, 0.6, 0.4, 0.4]), np.full(4, 1000.0)
    >>> level = estimate_level(margin, y, w, [1, 1, 2, 2])
    >>> level.by_row.round(2), round(level.shrunk, 4)
    (array([ 0.41,  0.41, -0.41, -0.41]), 0.0)
    """
    place = np.zeros(margin.size, dtype=np.int64)
    if periods is not None:
        place = np.unique(np.asarray(periods), return_inverse=True)[1].reshape(-1)
    clicks: FloatArray = np.bincount(place, weights=w * y).astype(np.float64)
    shifts = _shifts(margin, w, place, clicks)
    p = expit(margin + shifts[place])
    dispersion = dispersion_of(p, y, w, clicks.size) if overdispersion else 1.0
    within: FloatArray = dispersion / (clicks + 0.5)
    between = max(_between_variance(shifts, within) * _inflation(shifts), period_sd**2)
    weight = 1 / (within + between)
    pooled, variance = float(weight @ shifts / weight.sum()), float(1 / weight.sum())
    lasting = max(LASTING_SD**2, pooled**2 - variance)
    return LevelEstimate(
        by_row=shifts[place],
        pooled=pooled,
        shrunk=pooled * lasting / (lasting + variance),
        period_sd=float(np.sqrt(between)),
        dispersion=dispersion,
    )


def dispersion_of(p: FloatArray, y: FloatArray, w: FloatArray, parameters: int) -> float:
    """Pearson's estimate of the dispersion, at least 1.

    Corrected where a few clicks on rates near 0 make up all of it (Fletcher 2012, "Estimating overdispersion when
    fitting a generalized linear model to sparse data", Biometrika 99).

    >>> round(dispersion_of(np.full(4, 0.5), np.array([0.4, 0.6, 0.4, 0.6]), np.full(4, 400.0), 0), 6)
    16.0
    """
    variance = np.maximum(p * (1 - p), _VARIANCE_FLOOR)
    pearson = float((w * (y - p) ** 2 / variance).sum()) / max(p.size - parameters, 1)
    # Deviation: the correction may only lower; where hardly a click was expected it would divide by nothing.
    sparse = max(0.0, float(((1 - 2 * p) * (y - p) / variance).mean()))
    return max(1.0, pearson / (1 + sparse))


def _inflation(shifts: FloatArray) -> float:
    """Variance of a mean of autocorrelated shifts over that of independent ones: (1 + r) / (1 - r) for AR(1)."""
    if shifts.size < _FEWEST_FOR_AUTOCORRELATION:
        return 1.0
    centred = shifts - shifts.mean()
    r = float(centred[1:] @ centred[:-1]) / max(float(centred @ centred), _VARIANCE_FLOOR)
    r = min(max(r, 0.0), _LARGEST_AUTOCORRELATION)
    return (1 + r) / (1 - r)


def _shifts(margin: FloatArray, w: FloatArray, place: NDArray[np.int64], clicks: FloatArray) -> FloatArray:
    """Solve by bisection, for all periods at once, predicted = actual clicks (half a click and half a miss added)."""
    impressions = np.bincount(place, weights=w)
    target = (clicks + 0.5) / (impressions + 1.0) * impressions
    low, high = np.full(clicks.size, -_LARGEST_SHIFT), np.full(clicks.size, _LARGEST_SHIFT)
    for _ in range(50):
        middle = (low + high) / 2
        short = np.bincount(place, weights=w * expit(margin + middle[place])) < target
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    result: FloatArray = np.where(impressions > 0, (low + high) / 2, 0.0)
    return result


def _between_variance(shifts: FloatArray, within: FloatArray) -> float:
    if shifts.size < 2:
        return 0.0
    weight = 1 / within
    mean = weight @ shifts / weight.sum()
    excess = weight @ (shifts - mean) ** 2 - (shifts.size - 1)
    return max(0.0, float(excess / (weight.sum() - (weight @ weight) / weight.sum())))
