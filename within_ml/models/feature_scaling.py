"""Numbers of any scale, with gaps, as input of a network: unit scale, no gaps, flags where there were some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]

_HEAVY_TAIL = 4.0
_MAX_DEVIATIONS = 8.0


@dataclass(frozen=True, slots=True)
class FeatureScaling:
    """Fitted scaling of d columns.

    A column with heavy tails (skewness beyond ±4) goes through ``sign(x) · ln(1 + |x| / unit)`` first. Then every
    column has its mean subtracted, is divided by its standard deviation and clipped at 8 of them; a missing value
    becomes 0, the mean. Columns that were sometimes missing, but not always, get a flag each, appended at the end.

    Attributes
    ----------
    unit : array, shape (d,)
        Of the logarithm; 0 where there is none.
    mean, deviation : array, shape (d,)
        After the logarithm; a constant or empty column has deviation 1.
    flagged : array of bool, shape (d,)
        Columns with a flag.

    Examples
    --------
    >>> scaling = FeatureScaling.fit(np.array([[1.0, np.nan], [3.0, 5.0]]))
    >>> scaling.transform(np.array([[2.0, np.nan], [3.0, 5.0]]))
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """

    unit: FloatArray
    mean: FloatArray
    deviation: FloatArray
    flagged: NDArray[np.bool_]

    @classmethod
    def fit(cls, X: FloatArray) -> Self:
        """Fit on rows of shape (n, d); NaN is missing."""
        here = ~np.isnan(X)
        unit = np.where(np.abs(_skewness(X)) > _HEAVY_TAIL, _typical_size(X), 0.0)
        logs = _compressed(X, unit)
        mean, variance = _moments(logs, here)
        deviation = np.sqrt(variance)
        # Rounding leaves a constant column a deviation of about 1e-16 times its size.
        constant = ~(deviation > 1e-12 * np.maximum(np.abs(mean), 1e-300))
        share = here.mean(0)
        return cls(unit, mean, np.where(constant, 1.0, deviation), (share > 0) & (share < 1))

    def transform(self, X: FloatArray) -> FloatArray:
        """Return finite numbers of shape (n, width)."""
        scaled = np.clip((_compressed(X, self.unit) - self.mean) / self.deviation, -_MAX_DEVIATIONS, _MAX_DEVIATIONS)
        missing = np.isnan(X)
        return np.hstack([np.where(missing, 0.0, scaled), missing[:, self.flagged].astype(np.float64)])

    @property
    def width(self) -> int:
        """Columns after `transform`."""
        return len(self.mean) + int(self.flagged.sum())

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the state by name."""
        return {"unit": self.unit, "mean": self.mean, "deviation": self.deviation, "flagged": self.flagged}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Restore what `to_arrays` returned."""
        unit, mean, deviation = (arrays[name].astype(np.float64) for name in ("unit", "mean", "deviation"))
        return cls(unit, mean, deviation, arrays["flagged"].astype(np.bool_))


def checked_vectors(name: str, values: ArrayLike, rows: int) -> FloatArray:
    """Return the vectors of a modality, shape (rows, size).

    Raises
    ------
    InputError
        If the shape is another, or a value is infinite.
    """
    vectors = np.asarray(values, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise InputError(f"Modality {name!r} must have shape ({rows}, size), however: {vectors.shape}.")
    if np.isinf(vectors).any():
        raise InputError(f"Modality {name!r} must be finite or NaN, however: it has infinite values.")
    return vectors


def vector_scaling(vectors: FloatArray) -> FeatureScaling:
    """Fit the scaling of a modality, where a row with any NaN is missing; without flags, since the network masks it."""
    scaling = FeatureScaling.fit(_whole(vectors))
    return replace(scaling, flagged=np.zeros_like(scaling.flagged))


def scaled_vectors(scaling: FeatureScaling, vectors: FloatArray) -> FloatArray:
    """Return scaled vectors, all NaN in rows that are missing."""
    return np.where(np.isnan(_whole(vectors)), np.nan, scaling.transform(vectors))


def _whole(vectors: FloatArray) -> FloatArray:
    return np.where(np.isnan(vectors).any(1, keepdims=True), np.nan, vectors)


def _compressed(X: FloatArray, unit: FloatArray) -> FloatArray:
    if not (unit > 0).any():
        return X
    logs = np.sign(X) * np.log1p(np.abs(X) / np.where(unit > 0, unit, 1.0))
    return np.where(unit > 0, logs, X)


def _moments(X: FloatArray, here: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    count = np.maximum(here.sum(0), 1)
    mean = np.where(here, X, 0.0).sum(0) / count
    variance = np.where(here, (X - mean) ** 2, 0.0).sum(0) / count
    return mean, variance


def _skewness(X: FloatArray) -> FloatArray:
    here = ~np.isnan(X)
    mean, variance = _moments(X, here)
    deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
    third = np.where(here, ((X - mean) / deviation) ** 3, 0.0).sum(0)
    skewness: FloatArray = third / np.maximum(here.sum(0), 1)
    return skewness


def _typical_size(X: FloatArray) -> FloatArray:
    """Median of the absolute values that are neither 0 nor missing; 1 where there are none."""
    sizes = np.abs(X)
    sizes = np.where(sizes > 0, sizes, np.nan)
    empty = np.isnan(sizes).all(0)
    sizes[:, empty] = 1.0
    typical: FloatArray = np.nanmedian(sizes, axis=0) if len(X) else np.ones(X.shape[1])
    return typical
