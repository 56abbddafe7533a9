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
from sklearn.utils import _safe_indexing, check_array, column_or_1d
from sklearn.utils.validation import _num_samples, has_fit_parameter

from within_ml.ensemble.pooling import PROBABILITY_FLOOR, log_odds
from within_ml.errors import InputError

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
    rates = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=np.float64, input_name="y")
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if rates.shape != (n,) or weight.shape != (n,):
        raise InputError(
            f"y and sample_weight must have one value for each of {n} rows of X, however: shapes {rates.shape} and "
            f"{weight.shape}."
        )
    if not ((rates >= 0) & (rates <= 1)).all():
        raise InputError(f"y must hold rates in [0, 1], however: min {rates.min()}, max {rates.max()}.")
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.sum() > 0):
        raise InputError("sample_weight must be finite, not negative and not all zero; give the impressions.")
    return np.asarray(rates), weight


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
