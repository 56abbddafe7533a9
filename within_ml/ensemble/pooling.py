"""How log-odds of several members become one number, and the straight line that corrects a member's.

No weights are found here and nothing is known of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

FloatArray = NDArray[np.float64]

PROBABILITY_FLOOR = 1e-7
"""Members' probabilities are kept this far from 0 and 1: a nearest neighbour's 0 of 30 is no certainty."""

LARGEST_LOG_ODDS = 17.0
"""Beyond the log-odds of that floor, 16.1."""

MEMBER_REACHES = (LARGEST_LOG_ODDS, 8.0, 6.0, 4.0)
"""How far from the mean rate's log-odds a member may be believed; the rows say which. A forest's 0 of 100 trees is no
certainty either, and one such row would cost a mean of log-odds more than the forest is worth on the others."""

TRIMMED_SHARE = 0.2
"""Share of the members, at least one, that the trimmed mean leaves out at either end, while one is left."""

_RIDGE = 5.0
_NEWTON_STEPS = 200
_TOLERANCE = 1e-10


class AggregationMethod(StrEnum):
    """The rules of pooling.

    ``LOG_ODDS`` is the weighted mean of the log-odds (logarithmic pool), ``LINEAR`` the weighted mean of the
    probabilities. ``TRIMMED_MEAN`` and ``MEDIAN`` of the log-odds give each member one vote and no weight: they hold
    when members go wrong after their weights were found.
    """

    LOG_ODDS = "log_odds"
    LINEAR = "linear"
    TRIMMED_MEAN = "trimmed_mean"
    MEDIAN = "median"

    @property
    def is_weighted(self) -> bool:
        """Whether members have weights."""
        return self in (AggregationMethod.LOG_ODDS, AggregationMethod.LINEAR)


def log_odds(p: FloatArray) -> FloatArray:
    """Return finite log-odds of probabilities."""
    result: FloatArray = logit(np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR))
    return result


def pool(margins: FloatArray, weights: FloatArray, method: AggregationMethod) -> FloatArray:
    """Return one log-odds per row, shape (n,), of members' log-odds, shape (n, k), and weights, shape (k,).

    >>> pool(np.array([[-1.0, 0.0, 9.0]]), np.full(3, 1 / 3), AggregationMethod.MEDIAN)
    array([0.])
    """
    if method is AggregationMethod.LINEAR:
        return log_odds(expit(margins) @ weights)
    if method is AggregationMethod.MEDIAN:
        middle: FloatArray = np.median(margins, axis=1)
        return middle
    if method is AggregationMethod.TRIMMED_MEAN:
        k = margins.shape[1]
        cut = min(max(1, int(TRIMMED_SHARE * k)), (k - 1) // 2)
        mean: FloatArray = np.sort(margins, axis=1)[:, cut : k - cut].mean(axis=1)
        return mean
    return margins @ weights


@dataclass(frozen=True, slots=True)
class LogOddsLine:
    """A straight line on log-odds, ``shift + slope · margin``: a level and a temperature (1 / slope).

    Log-odds below ``low`` or above ``high`` are taken as those.

    Examples
    --------
    >>> margin = np.linspace(-4, 0, 200)
    >>> line = LogOddsLine.fit(margin, expit(0.5 * margin - 1), np.full(200, 1e5))
    >>> round(line.shift, 2), round(line.slope, 2)
    (-1.0, 0.5)
    """

    shift: float = 0.0
    slope: float = 1.0
    low: float = -LARGEST_LOG_ODDS
    high: float = LARGEST_LOG_ODDS

    @classmethod
    def fit(
        cls,
        margin: FloatArray,
        y: FloatArray,
        w: FloatArray,
        *,
        min_slope: float = 0.0,
        reaches: Sequence[float] = (LARGEST_LOG_ODDS,),
    ) -> LogOddsLine:
        """Fit by binomial likelihood, shape (n,) each, drawn to the identity as far as chance could have moved it.

        Platt 1999 with that shrinkage. A slope below ``min_slope``, which would turn the order around, is held there.
        ``reaches`` are, falling, distances that ``low`` and ``high`` may have from the log-odds of the mean rate; the
        most likely one is taken.
        """
        if not w.sum() > 0:
            return cls()
        middle = float(logit((w @ y + 0.5) / (w.sum() + 1.0)))
        best, smallest = cls(), np.inf
        for reach in reaches:
            low, high = (middle - reach, middle + reach) if reach < LARGEST_LOG_ODDS else (-reach, reach)
            line = cls._within(low, high, np.clip(margin, low, high), y, w, min_slope)
            corrected = line.apply(margin)
            loss = float(w @ (np.logaddexp(0.0, corrected) - y * corrected))
            # A nat is what chance gains by one more thing to choose.
            if loss < smallest - 1.0:
                best, smallest = line, loss
            if np.abs(margin - middle).max() <= min(reaches):
                break
        return best

    @classmethod
    def _within(
        cls, low: float, high: float, margin: FloatArray, y: FloatArray, w: FloatArray, min_slope: float
    ) -> LogOddsLine:
        centre = float(np.average(margin, weights=w))
        # Not scaled by its spread: a member that hardly varies shall keep its slope, not get an enormous one.
        terms = np.column_stack([np.ones_like(margin), margin - centre])
        change = _fit_terms(terms, margin, y, w)
        level, steeper = change * _lasting(terms @ change, margin, y, w)
        slope = 1.0 + steeper
        if slope < min_slope:
            slope = min_slope
            level = _fit_terms(terms[:, :1], centre + slope * (margin - centre), y, w)[0]
        return cls(float(centre + level - slope * centre), float(slope), low, high)

    def apply(self, margin: FloatArray) -> FloatArray:
        """Return corrected log-odds."""
        return self.shift + self.slope * np.clip(margin, self.low, self.high)


def _lasting(change: FloatArray, margin: FloatArray, y: FloatArray, w: FloatArray) -> float:
    """Return the share of a change of log-odds that is expected to last: 1 - (what chance gains) / (what it gained).

    Two coefficients that are truly zero gain one nat on the rows they are fitted on, times the dispersion of the rows
    (the positive-part estimator of James and Stein, with the likelihood in the place of the squares).
    """

    def loss(m: FloatArray) -> float:
        return float(w @ (np.logaddexp(0.0, m) - y * m))

    gain = loss(margin) - loss(margin + change)
    chance = dispersion(expit(margin + change), y, w)
    return max(0.0, 1.0 - chance / gain) if gain > 0 else 0.0


def dispersion(p: FloatArray, y: FloatArray, w: FloatArray) -> float:
    """Variance of the rows over the binomial one, at least 1; a ratio of sums, which rare clicks do not upset."""
    binomial = float((p * (1 - p))[w > 0].sum())
    return max(1.0, float(w @ (y - p) ** 2) / binomial) if binomial > 0 else 1.0


def _fit_terms(terms: FloatArray, start: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
    """Return the coefficients, shape (k,), of terms on top of log-odds: Newton's method, halved where it overshoots."""
    k = terms.shape[1]

    def loss(coefficients: FloatArray) -> float:
        margin = start + terms @ coefficients
        return float(w @ (np.logaddexp(0.0, margin) - y * margin) + _RIDGE / 2 * coefficients @ coefficients)

    found, reached = np.zeros(k), loss(np.zeros(k))
    for _ in range(_NEWTON_STEPS):
        p = expit(start + terms @ found)
        gradient = terms.T @ (w * (y - p)) - _RIDGE * found
        hessian = (terms.T * (w * p * (1 - p))) @ terms + _RIDGE * np.eye(k)
        step = np.linalg.solve(hessian, gradient)
        while (tried := loss(found + step)) > reached and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        found, reached = found + step, min(tried, reached)
        if np.abs(step).max() <= _TOLERANCE:
            break
    return found
