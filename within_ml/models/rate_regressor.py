"""What estimators of rates share: checking rows, rates and weights, and the margin they start from.

Nothing is fitted here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from sklearn.base import BaseEstimator, RegressorMixin

from within_ml.errors import InputError, shown
from within_ml.estimators import checked_rates, checked_rows, checked_weight

FloatArray = NDArray[np.float64]

_RATE_FLOOR = 1e-6


def logit_of_mean(y: FloatArray, weight: FloatArray) -> float:
    """Log-odds of the weighted mean rate, finite also for rates that are all 0 or all 1.

    >>> round(logit_of_mean(np.array([0.0, 1.0]), np.array([3.0, 1.0])), 4)
    -1.0986
    """
    return float(logit(np.clip(np.average(y, weights=weight), _RATE_FLOOR, 1 - _RATE_FLOOR)))


class RateRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Base of estimators on rows of numbers with gaps, whose target is a rate and whose weights are impressions.

    Subclasses set ``base_logit_`` in `fit`, before they ask for a margin.
    """

    base_logit_: float

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _names(self) -> list[str]:
        if hasattr(self, "feature_names_in_"):
            return [str(name) for name in self.feature_names_in_]
        return [f"f{i}" for i in range(self.n_features_in_)]

    def _checked(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
        if isinstance(X, pd.DataFrame) and not reset and hasattr(self, "feature_names_in_"):
            if missing := [name for name in self.feature_names_in_ if name not in X.columns]:
                raise InputError(f"X must have the columns of fit; it lacks {shown(missing)}.")
            X = X[list(self.feature_names_in_)]
        options: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "reset": reset}
        if y is None:
            # An empty day is a day: no ads, no predictions.
            frame = checked_rows(self, X, ensure_min_samples=0, **options)
            return frame, np.empty(0), np.empty(0)
        frame = checked_rows(self, X, **options)
        return frame, checked_rates(y, len(frame)), checked_weight(sample_weight, len(frame), may_be_zero=True)

    def _margin(self, rows: int, base_margin: ArrayLike | None) -> FloatArray:
        if base_margin is None:
            return np.full(rows, self.base_logit_)
        margin = np.asarray(base_margin, dtype=np.float64)
        if margin.shape != (rows,) or not np.isfinite(margin).all():
            raise InputError(f"base_margin must be finite with shape ({rows},), however: {margin.shape}.")
        return margin
