"""Rows of regions: what they say of each region's offset, and how well offsets describe them.

The prior and its estimation are in `regional_field`, the estimator that users meet in `geospatial`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from within_ml.calibration.neighbours import morans_i
from within_ml.calibration.regional_field import SHARES, Field, Prior, estimate_field
from within_ml.metrics import row_log_loss

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FOLDS = 5
"""Parts of which one at a time is held out to judge a covariate."""

_MAX_ITER = 30
_LONGEST_STEP = 1.0
_TOLERANCE = 1e-3
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The field of the offsets, and the dispersion of the rows around it."""

    field: Field
    dispersion: float


@dataclass(frozen=True, slots=True, eq=False)
class RegionRows:
    """Rows with impressions; ``place`` is the number of the row's region, the number of regions where it has none."""

    margin: FloatArray
    y: FloatArray
    w: FloatArray
    place: IntArray

    def shifted(self, shift: FloatArray) -> RegionRows:
        """Add to the log-odds of each row."""
        return RegionRows(self.margin + shift, self.y, self.w, self.place)

    def of(self, found: Found) -> FloatArray:
        """Offset of each row."""
        level = found.field.parts["level"]
        result: FloatArray = np.append(found.field.mean, level[0] if level.size else 0.0)[self.place]
        return result

    def estimate(self, prior: Prior, heard: NDArray[np.bool_], start: Found | None = None) -> Found:
        """Linearise at the offsets, estimate, move, until nothing moves."""
        size = heard.size
        offset = np.zeros(size) if start is None else start.field.mean
        variances, dispersion = None if start is None else start.field.variances, 1.0
        if not heard.any():
            # Nothing to learn a region from; the prior alone would still ask for a level.
            empty = np.zeros(size)
            field = estimate_field(
                empty, empty, prior, start=np.full((len(SHARES), len(prior.free) + 1), _FLOOR), free=False
            )
            return Found(field, 1.0)
        for _ in range(_MAX_ITER):
            precision, pull = self.linearised(offset, dispersion, heard)
            field = estimate_field(precision, pull, prior, start=variances)
            variances = field.variances
            step = np.clip(field.mean - offset, -_LONGEST_STEP, _LONGEST_STEP)
            offset = offset + step
            degrees = float(precision @ field.standard_error**2)
            old, dispersion = dispersion, self.dispersion(offset, degrees)
            if np.abs(step).max() < _TOLERANCE and abs(dispersion - old) < _TOLERANCE * old:
                break
        return Found(field, dispersion)

    def linearised(
        self, offset: FloatArray, dispersion: float, heard: NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray]:
        """Precision and precision · mean of what the rows of each region say of its offset; 0 where it is not heard."""
        p = self._rates(offset)
        size = offset.size
        precision = np.bincount(self.place, weights=self.w * p * (1 - p), minlength=size + 1)[:size] / dispersion
        residual = np.bincount(self.place, weights=self.w * (self.y - p), minlength=size + 1)[:size] / dispersion
        return np.where(heard, precision, 0.0), np.where(heard, residual + precision * offset, 0.0)

    def dispersion(self, offset: FloatArray, degrees: float) -> float:
        """Pearson's χ² over the degrees of freedom that are left, at least 1."""
        p = self._rates(offset)
        there = self.place < offset.size
        spread = (self.w * (self.y - p) ** 2 / np.maximum(p * (1 - p), _FLOOR))[there]
        return max(1.0, float(spread.sum()) / max(spread.size - degrees, 1.0))

    def held_out_loss(self, prior: Prior, heard: NDArray[np.bool_], fold: IntArray, found: Found) -> FloatArray:
        """Log-loss of each region when its offset comes from the other folds, shape (regions,)."""
        precision, pull = self.linearised(found.field.mean, found.dispersion, heard)
        offset = found.field.mean.copy()
        for k in range(FOLDS):
            out = fold == k
            trained = estimate_field(
                np.where(out, 0.0, precision), np.where(out, 0.0, pull), prior, start=found.field.variances
            )
            offset[out] = trained.mean[out]
        loss = row_log_loss(self.y, self._rates(offset)) * self.w
        return np.bincount(self.place, weights=loss, minlength=heard.size + 1)[:-1].astype(np.float64)

    def moran(self, offset: FloatArray, weights: FloatArray) -> float:
        """Moran's I of the regions' residuals in units of their binomial standard error."""
        p = expit(self.margin + offset[self.place])
        size = offset.size
        variance = np.bincount(self.place, weights=self.w * p * (1 - p), minlength=size)[:-1]
        residual = np.bincount(self.place, weights=self.w * (self.y - p), minlength=size)[:-1]
        there = np.flatnonzero(variance > 0)
        if there.size < 3:
            return float("nan")
        return morans_i(residual[there] / np.sqrt(variance[there]), weights[np.ix_(there, there)])

    def _rates(self, offset: FloatArray) -> FloatArray:
        rates: FloatArray = expit(self.margin + np.append(offset, 0.0)[self.place])
        return rates
