"""The season as two annual harmonics on the log-odds scale, kept only if it foretells stretches of time left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DAYS_PER_YEAR = 365.25
HARMONICS = 2

CLEARLY = 2.0
"""Standard errors by which held-out log-loss must fall before a covariate is kept."""

_RIDGE = 1.0
_ROUNDS = 20
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Season:
    """Coefficients of cosine and sine of the year's harmonics, shape (2 · `HARMONICS`,).

    Examples
    --------
    >>> winter = Season(np.array([0.1, 0.0, 0.0, 0.0]))
    >>> winter.effect(days_of(["1970-01-01", "1970-07-02"], 2)).round(2)
    array([ 0.1, -0.1])
    """

    coefficients: FloatArray

    @classmethod
    def none(cls) -> Self:
        """Return a year without seasons."""
        return cls(np.zeros(2 * HARMONICS))

    def effect(self, days: IntArray) -> FloatArray:
        """Return what is added to the log-odds on each day, shape (n,)."""
        result: FloatArray = _waves(days) @ self.coefficients
        return result

    @classmethod
    def on_trial(cls, margin: FloatArray, y: FloatArray, w: FloatArray, days: IntArray, *, folds: int) -> SeasonTrial:
        """Fit the season, and hold out one stretch of days after the other to see whether it is worth it.

        Parameters
        ----------
        margin, y, w : shape (n,)
            Log-odds, observed rates, impressions (divided by the dispersion).
        days : shape (n,)
            Days since 1970. Less than a year of them knows no season.
        folds : int
            Stretches of equal length.
        """
        nothing = SeasonTrial(cls.none(), False, 0.0, 0.0)
        if not days.size or np.ptp(days) < DAYS_PER_YEAR:
            return nothing
        stretch = np.minimum((days - days.min()) * folds // (np.ptp(days) + 1), folds - 1)
        gain = np.zeros(folds)
        for k in range(folds):
            out = stretch == k
            if out.all() or not out.any():
                continue
            season = cls(_fitted(margin[~out], y[~out], w[~out], days[~out]))
            without, within = margin[out], margin[out] + season.effect(days[out])
            gain[k] = w[out] @ (np.logaddexp(0, without) - np.logaddexp(0, within) + y[out] * (within - without))
        total, error = float(gain.sum()), float(gain.std(ddof=1) * np.sqrt(folds))
        kept = total > CLEARLY * error
        impressions = float(w.sum())
        season = cls(_fitted(margin, y, w, days)) if kept else cls.none()
        return SeasonTrial(season, kept, total / impressions, error / impressions)


@dataclass(frozen=True, slots=True, eq=False)
class SeasonTrial:
    """The season to use, and the log-loss per impression it saves on days held out."""

    season: Season
    kept: bool
    gain: float
    standard_error: float


def days_of(dates: ArrayLike, rows: int) -> IntArray:
    """Return days since 1970 for dates, shape (rows,).

    Raises
    ------
    InputError
        If a date is missing or none, or their number is another.
    """
    try:
        stamps = pd.DatetimeIndex(pd.to_datetime(np.asarray(dates)))
    except (TypeError, ValueError) as error:
        raise InputError(f"dates must be days; these are not ({error}).") from error
    if len(stamps) != rows or stamps.hasnans:
        raise InputError(f"dates must have a day for each of X ({rows}), however: {len(stamps) - stamps.isna().sum()}.")
    days: IntArray = stamps.to_numpy().astype("datetime64[D]").astype(np.int64)
    return days


def _waves(days: IntArray) -> FloatArray:
    angle = 2 * np.pi * np.outer(days / DAYS_PER_YEAR, np.arange(1, HARMONICS + 1))
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _fitted(margin: FloatArray, y: FloatArray, w: FloatArray, days: IntArray) -> FloatArray:
    """Penalised Newton steps for the harmonics beside a level of the rows' own, which is not kept."""
    distinct, place = np.unique(days, return_inverse=True)
    waves = np.column_stack([np.ones(distinct.size), _waves(distinct)])
    ridge = np.diag([_FLOOR, *[_RIDGE] * (waves.shape[1] - 1)])
    beta = np.zeros(waves.shape[1])
    for _ in range(_ROUNDS):
        p = expit(margin + (waves @ beta)[place])
        slope = waves.T @ np.bincount(place, weights=w * (y - p)) - ridge @ beta
        curvature = np.bincount(place, weights=w * p * (1 - p))
        step = np.linalg.solve(waves.T @ (curvature[:, None] * waves) + ridge, slope)
        beta += np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < 1e-6:
            break
    return beta[1:]
