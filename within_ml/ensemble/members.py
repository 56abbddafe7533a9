"""The members of an ensemble: any object with ``predict`` or ``predict_proba``, fitted on rates and asked for log-odds.

What is done with their log-odds is in `calibrated`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, has_fit_parameter

from within_ml.ensemble.pooling import PROBABILITY_FLOOR, log_odds
from within_ml.errors import InputError
from within_ml.estimators import checked_rates, checked_weight

FloatArray = NDArray[np.float64]


def as_rows(X: Any) -> Any:
    """Return a frame as it is, sparse rows as CSR, and anything else as an array of two dimensions."""
    if isinstance(X, pd.DataFrame):
        return X
    if sparse.issparse(X):
        # Of all formats this one can be asked for rows.
        return X.tocsr()
    rows = np.asarray(X)
    if rows.ndim != 2:
        raise InputError(
            f"X must be a frame, a sparse matrix or an array of two dimensions, however: shape {rows.shape}. "
            "Reshape your data."
        )
    return rows


def outcomes(X: Any, y: Any, sample_weight: Any) -> tuple[FloatArray, FloatArray]:
    """Return rates and weights of the rows of X, shape (n,) each."""
    if y is None:
        raise InputError("CalibratedEnsemble requires y to be passed, but the target y is None.")
    n = _num_samples(X)
    return checked_rates(y, n), checked_weight(sample_weight, n)


def fit_member(model: Any, X: Any, y: FloatArray, w: FloatArray) -> None:
    """Fit a model on rates by weight; a classifier sees each row as clicked and as not."""
    if hasattr(model, "predict_proba"):
        if not np.isin(y, (0.0, 1.0)).all():
            twice = np.tile(np.arange(len(y)), 2)
            X, w = _safe_indexing(X, twice), np.concatenate([w * y, w * (1 - y)])
            y = np.repeat([1.0, 0.0], len(y))
        y = y.astype(np.int64)
    model.fit(X, y, **_weight_argument(model, w))


def _weight_argument(model: Any, w: FloatArray) -> dict[str, FloatArray]:
    """Return how ``fit`` is given weights: a pipeline hands them to its last step; some models take none."""
    prefix = ""
    while isinstance(model, Pipeline):
        step, model = model.steps[-1]
        prefix += f"{step}__"
    return {f"{prefix}sample_weight": w} if has_fit_parameter(model, "sample_weight") else {}


def member_rates(name: str, model: Any, X: Any) -> FloatArray:
    """Return a member's rates, shape (n,), a hair from 0 and 1 at least."""
    if hasattr(model, "predict_proba"):
        p = np.asarray(model.predict_proba(X), dtype=np.float64) @ (np.asarray(model.classes_) == 1).astype(np.float64)
    else:
        p = np.asarray(model.predict(X), dtype=np.float64)
    n = _num_samples(X)
    if p.shape != (n,) or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"Member {name!r} must predict rates in [0, 1] of shape ({n},), however: shape {p.shape}.")
    inside: FloatArray = np.clip(p, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return inside


def member_margins(name: str, model: Any, X: Any) -> FloatArray:
    """Return a member's log-odds, shape (n,)."""
    return log_odds(member_rates(name, model, X))
