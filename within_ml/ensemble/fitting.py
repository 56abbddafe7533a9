"""A pool of members fitted from their log-odds, and whether it is worth more than the best of them alone.

Arrays of log-odds only; whose they are, and what an ensemble does with the answer, is in `calibrated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from within_ml.ensemble.pooling import MEMBER_REACHES, AggregationMethod, LogOddsLine, dispersion, log_odds, pool
from within_ml.ensemble.weights import mixture_weights, simplex_weights

if TYPE_CHECKING:
    from within_ml.calibration.spline import SplineCalibrator

FloatArray = NDArray[np.float64]

FOLDS = 5
"""Parts of the calibration rows, each judged by a pool that was fitted on the others."""

SURENESS = 0.5
"""Standard errors by which a pool must be better than a single member: odds of two to one. More would give up pools
whose gain a few thousand rows can hardly show."""

_KNOWS_NOTHING = 4.0
"""Nats, times the dispersion, that chance gives a member over the mean rate in one case of 400."""

_NEXT_TO_NOTHING = 0.05
"""Share of the best member's gain over the mean rate."""

_LOWEST_POOL_SLOPE = 0.05


class CalibrationMethod(StrEnum):
    """What follows the members and their pool: a level and temperature each, a spline after the pool, or nothing."""

    TEMPERATURE = "temperature"
    SPLINE = "spline"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class FittedPool:
    """Lines, weights and calibrator between members' log-odds, shape (n, k), and a rate, shape (n,)."""

    lines: tuple[LogOddsLine, ...]
    weights: FloatArray
    calibrator: LogOddsLine | SplineCalibrator
    rule: AggregationMethod

    def lined(self, margins: FloatArray) -> FloatArray:
        """Return the members' log-odds after their lines, shape (n, k)."""
        return np.column_stack([line.apply(column) for line, column in zip(self.lines, margins.T, strict=True)])

    def predict(self, margins: FloatArray) -> FloatArray:
        """Return rates in (0, 1), shape (n,)."""
        pooled = pool(self.lined(margins), self.weights, self.rule)
        if isinstance(self.calibrator, LogOddsLine):
            return np.asarray(expit(self.calibrator.apply(pooled)), dtype=np.float64)
        return self.calibrator.transform(expit(pooled))


@dataclass(frozen=True, slots=True)
class PoolRecipe:
    """What of a pool is chosen by its user."""

    rule: AggregationMethod
    calibration: CalibrationMethod
    given: FloatArray | None = None
    """Weights of the members that are taken as they are."""

    def fit(self, margins: FloatArray, y: FloatArray, w: FloatArray) -> FittedPool:
        """Fit lines, weights and calibrator on log-odds, shape (n, k), rates and weights of the rows, shape (n,)."""
        plain = self.calibration == CalibrationMethod.NONE
        lines = tuple(
            LogOddsLine() if plain else LogOddsLine.fit(column, y, w, reaches=MEMBER_REACHES) for column in margins.T
        )
        fitted = FittedPool(lines, np.full(len(lines), 1 / len(lines)), LogOddsLine(), self.rule)
        lined = fitted.lined(margins)
        fitted = replace(fitted, weights=self._weights(lined, y, w))
        pooled = pool(lined, fitted.weights, self.rule)
        return replace(fitted, calibrator=self._calibrator(pooled, y, w))

    def _weights(self, lined: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
        k = lined.shape[1]
        if not self.rule.is_weighted:
            return np.full(k, 1 / k)
        if self.given is not None:
            return np.asarray(self.given / self.given.sum())
        if self.rule is AggregationMethod.LINEAR:
            return mixture_weights(expit(lined), y, w)
        return simplex_weights(lined, y, w)

    def _calibrator(self, pooled: FloatArray, y: FloatArray, w: FloatArray) -> LogOddsLine | SplineCalibrator:
        if self.calibration == CalibrationMethod.SPLINE:
            from within_ml.calibration.spline import SplineCalibrator

            return SplineCalibrator().fit(expit(pooled), y, sample_weight=w)
        if self.calibration == CalibrationMethod.NONE:
            return LogOddsLine()
        return LogOddsLine.fit(pooled, y, w, min_slope=_LOWEST_POOL_SLOPE)


@dataclass(frozen=True, slots=True)
class PoolGain:
    """How much better than one member as it is a pool was on rows that neither was chosen on."""

    member: int
    """Place of the member that is best on all rows."""
    total: float
    """Log-loss of the member less that of the pool, in nats times weight, summed over the rows."""
    error: float
    """Standard error of that sum, by how the rows differ; so their dispersion is in it."""

    @property
    def is_sure(self) -> bool:
        """Whether the pool is better by more than chance does easily."""
        return self.total > SURENESS * self.error


def pool_gain(recipe: PoolRecipe, margins: FloatArray, y: FloatArray, w: FloatArray) -> PoolGain | None:
    """Return what a pool gains over its best member, by cross-fitting; None where the rows are too few for it.

    Each of `FOLDS` runs of rows is predicted by the pool that the other rows give and by the member, without a line,
    that is best on those. What is fitted gains on its own rows by chance; so does a member that is chosen there.
    Members that know nothing have no say, so that one more of them does not tip the balance.

    Parameters
    ----------
    margins : shape (n, k)
        Log-odds of the members.
    y, w : shape (n,)
        Rates and weights of the rows, in the order of time: neighbours are in one fold, as they are alike.
    """
    weighty = np.flatnonzero(w > 0)
    if len(weighty) < 2 * FOLDS:
        return None
    m, y, w = margins[weighty], y[weighty], w[weighty]
    places = _informed(m, y, w)
    m = m[:, places]
    losses = np.column_stack([_losses(column, y, w) for column in m.T])
    gain = np.empty(len(y))
    for held in np.array_split(np.arange(len(y)), FOLDS):
        others = np.ones(len(y), dtype=bool)
        others[held] = False
        pooled = log_odds(recipe.fit(m[others], y[others], w[others]).predict(m[held]))
        best = int(np.argmin(losses[others].sum(axis=0)))
        gain[held] = losses[held, best] - _losses(pooled, y[held], w[held])
    error = float(np.sqrt(len(y)) * gain.std(ddof=1))
    return PoolGain(int(places[np.argmin(losses.sum(axis=0))]), float(gain.sum()), error)


def _informed(margins: FloatArray, y: FloatArray, w: FloatArray) -> NDArray[np.intp]:
    """Return the places of the members that know more than the mean rate, each after a line."""
    lined = [LogOddsLine.fit(column, y, w, reaches=MEMBER_REACHES).apply(column) for column in margins.T]
    mean = log_odds(np.full(len(y), np.average(y, weights=w)))
    gains = _losses(mean, y, w).sum() - np.array([_losses(column, y, w).sum() for column in lined])
    best = int(np.argmax(gains))
    chance = _KNOWS_NOTHING * dispersion(expit(lined[best]), y, w)
    return np.flatnonzero((gains >= min(chance, _NEXT_TO_NOTHING * gains[best])) | (gains == gains[best]))


def _losses(margin: FloatArray, y: FloatArray, w: FloatArray) -> FloatArray:
    losses: FloatArray = w * (np.logaddexp(0.0, margin) - y * margin)
    return losses


def restored_calibrator(method: CalibrationMethod, state: Mapping[str, Any]) -> LogOddsLine | SplineCalibrator:
    """Return a pool's calibrator from its fields."""
    if method == CalibrationMethod.SPLINE:
        from within_ml.calibration.spline import SplineCalibrator

        return SplineCalibrator.from_dict(state)
    return LogOddsLine(**state)
