"""Days in a row that are odd in the same way, taken together: three days without a conversion say what one cannot.

Only of rates, and where counting noise is the larger part of the noise: there days are independent and few events are
all there is. A count that stays low for days is a decline as well as an outage; the rate tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from within_ml.anomalies.baseline import Expected
from within_ml.anomalies.counts import signed_residual
from within_ml.anomalies.metrics import METRICS

Floats = NDArray[np.float64]

CHANGE = 0.4
LIKE_BEFORE = 0.6
"""Relative change from which a day goes on with a run, and the share of the run's own change that it must have."""

_RATE = np.array([metric.base is not None for metric in METRICS])[:, None]

LONGEST = 7
"""Days that are taken together at most."""


@dataclass(slots=True, eq=False)
class Runs:
    """The runs that last; every array of shape (M, n).

    ``days`` is negative for runs below the expectation, ``told`` is 1 where an anomaly was told of the run.
    """

    days: Floats
    value: Floats
    mean: Floats
    unit: Floats
    extra: Floats
    told: Floats

    @classmethod
    def empty(cls, metrics: int) -> Runs:
        """Return the runs of no series."""
        return cls(*(np.zeros((metrics, 0)) for _ in range(6)))

    def grow(self, n: int) -> None:
        """Append series without a run up to n, in place."""
        for name in ("days", "value", "mean", "unit", "extra", "told"):
            array = getattr(self, name)
            setattr(self, name, np.pad(array, ((0, 0), (0, n - array.shape[1]))))

    def with_night(self, night: Expected) -> Runs:
        """Return the runs up to tonight; those that tonight does not go on with are over."""
        n = night.z.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            change = night.value / night.mean - 1
            counting = _RATE & (night.unit / night.mean > night.extra)
            side = np.where(counting & (np.abs(change) >= CHANGE), np.sign(change), 0.0)
        unknown = np.isnan(night.z)
        before = self.days[:, :n]
        with np.errstate(invalid="ignore", divide="ignore"):
            usual = np.abs(self.value[:, :n] / self.mean[:, :n] - 1)
            lasts = (side != 0) & (np.sign(before) == side) & (np.abs(change) >= LIKE_BEFORE * usual)
        lasts &= np.abs(before) < LONGEST
        terms = (side, night.value, night.mean, night.unit * night.mean, night.extra * night.mean, np.zeros((1, 1)))

        def added(old: Floats, new: Floats) -> Floats:
            tonight = np.where(lasts, old[:, :n], 0.0) + np.where(side != 0, new, 0.0)
            return np.where(unknown, old[:, :n], tonight)

        olds = (self.days, self.value, self.mean, self.unit, self.extra, self.told)
        return Runs(*(added(old, new) for old, new in zip(olds, terms, strict=True)))

    def residuals(self, night: Expected) -> Floats:
        """Return the residuals of runs of two days or more that include tonight, NaN elsewhere, shape (M, n)."""
        return self._residuals(~np.isnan(night.z))

    def ended(self, tonight: Runs) -> Floats:
        """Return the residuals of runs that tonight did not go on with and of which nothing was told, else NaN."""
        n = self.days.shape[1]
        over = np.abs(tonight.days[:, :n]) <= 1
        return self._residuals(over & (self.told == 0))

    def _residuals(self, wanted: NDArray[np.bool_]) -> Floats:
        z = np.full(self.days.shape, np.nan)
        chosen = (np.abs(self.days) >= 2) & wanted
        mean = self.mean[chosen]
        z[chosen] = signed_residual(self.value[chosen], mean, self.unit[chosen] / mean, self.extra[chosen] / mean)
        return z
