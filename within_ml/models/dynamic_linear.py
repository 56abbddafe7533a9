"""A linear model of a rate that learns row by row and forgets: FTRL-Proximal on sparse rows.

How a frame becomes sparse rows is in `row_encoding`; what the columns mean and where an offset comes from is the
caller's.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, RegressorMixin

from within_ml.errors import InputError, ModelFormatError, shown
from within_ml.estimators import checked_rates, checked_rows, checked_weight, require_fitted

FloatArray = NDArray[np.float64]

_STATE_FILE = "dynamic_linear.json"
_ARRAY_FILE = "dynamic_linear.npz"
_GRADIENT_SUM, _GRADIENT_ROOT = 0, 1


@dataclass(frozen=True, slots=True)
class LinearCoefficients:
    """The weights of a `DynamicLinear`, on the log-odds scale.

    ``intercept``; ``values``, shape (n_features,); ``evidence``, shape (n_features,), the faded sum of squared
    gradients, about the clicks that each weight has seen; 0 where a column never was in a row.
    """

    intercept: float
    values: FloatArray
    evidence: FloatArray


class DynamicLinear(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression of a rate, one pass over sparse rows, with weights that follow a drifting audience.

    FTRL-Proximal (McMahan et al. 2013, "Ad Click Prediction: a View from the Trenches", Algorithm 1). Each column has
    a sum ``z`` of gradients and a sum ``n`` of their squares::

        weight = 0 if |z| ≤ l1, else -(z - sign(z)·l1) / ((beta + √n)/alpha + regularization)

    Three things are not in the paper:

    - *Time decay.* After a unit of time ``z`` and ``√n`` are multiplied by ``1 - time_decay``. That is the same
      algorithm on a loss whose past is discounted: a weight with much evidence keeps its value and learns faster
      again, one with little is drawn back to zero by ``beta`` and ``regularization``.
    - *A row of n impressions.* It adds to ``n`` what n rows of one impression add, ``Σ gradient²``, and not the square
      of their sum; so ``alpha`` means the same for impressions and for rows that hold thousands of them.
    - *No overshooting.* The gradient of a row that weighs more than 1 is taken where the step ends, not where it begins
      (implicit update: Kulis and Bartlett 2010; Karampatziakis and Langford 2011): however large the weight, the
      prediction moves towards the row's rate and never beyond it. Rows of weight 1 or less are the paper's.

    Parameters
    ----------
    n_features : int, optional
        Columns of X; None takes those of the first X.
    regularization : float
        Ridge on the weights (λ₂ of the paper).
    alpha : float
        Learning rate.
    time_decay : float
        Share of the evidence that is forgotten in one unit of time, in [0, 1). The unit is that of ``times``; without
        them each row is one.
    l1 : float
        Columns whose gradients sum to less than this have weight zero (λ₁ of the paper).
    beta : float
        Keeps the first steps of a column small.
    fit_intercept : bool
        Whether a column of ones, not regularized, is added.
    n_epochs : int
        Passes of `fit` over its rows; `fit_incremental` makes one.

    Attributes
    ----------
    base_logit_ : float
        Start of the log-odds: of the mean rate of the first rows, 0 where they came with an offset.
    clock_ : float
        Time of the last row learned.

    Notes
    -----
    Deterministic, and dependent on the order of the rows: they are meant to come in the order of time. The state is
    two numbers per column; the loop is compiled by numba at the first fit of a process, which takes about two seconds.

    Examples
    --------
    >>> X = sparse.csr_array(np.tile([[1.0, 0.0], [0.0, 1.0]], (500, 1)))
    >>> model = DynamicLinear(n_features=2).fit_incremental(X, np.tile([0.01, 0.03], 500), np.full(1000, 500))
    >>> model.predict(X[:2]).round(3)
    array([0.01, 0.03])
    >>> float(model.reset_features([1]).get_coefficients().values[1])
    0.0
    """

    accumulators_: FloatArray
    base_logit_: float
    clock_: float
    scale_: float
    uses_offset_: bool

    def __init__(
        self,
        n_features: int | None = None,
        regularization: float = 1.0,
        alpha: float = 0.1,
        time_decay: float = 0.0,
        *,
        l1: float = 0.0,
        beta: float = 1.0,
        fit_intercept: bool = True,
        n_epochs: int = 1,
    ) -> None:
        self.n_features = n_features
        self.regularization = regularization
        self.alpha = alpha
        self.time_decay = time_decay
        self.l1 = l1
        self.beta = beta
        self.fit_intercept = fit_intercept
        self.n_epochs = n_epochs

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        offset: ArrayLike | None = None,
        times: ArrayLike | None = None,
    ) -> Self:
        """Forget everything and learn the rows, ``n_epochs`` times; the arguments are those of `fit_incremental`."""
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)
        self.fit_incremental(X, y, sample_weight, offset=offset, times=times)
        for _ in range(1, self.n_epochs):
            if times is not None:
                self.clock_ = -np.inf
            self.fit_incremental(X, y, sample_weight, offset=offset, times=times)
        return self

    def fit_incremental(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        offset: ArrayLike | None = None,
        times: ArrayLike | None = None,
    ) -> Self:
        """Learn rows on top of what was learned before.

        Parameters
        ----------
        X : sparse or dense, shape (n, n_features)
            Finite numbers, in the order of time.
        y : shape (n,)
            Rates in [0, 1].
        sample_weight : shape (n,), optional
            Impressions.
        offset : shape (n,), optional
            Log-odds that the model's are added to; then `predict` needs it too.
        times : shape (n,), optional
            Time of each row in the unit of ``time_decay``, such as days; never falling.

        Raises
        ------
        InputError
            If y is outside [0, 1], no row has weight, or a shape is wrong.
        """
        self._learn(X, y, sample_weight, offset, times, peek=True)
        return self

    def predict_then_fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        offset: ArrayLike | None = None,
        times: ArrayLike | None = None,
    ) -> FloatArray:
        """Learn rows as `fit_incremental` does; return the rate that each was predicted with just before, shape (n,).

        Their log-loss is the progressive validation of the paper's section 5.1: every row is a test row once. Nothing
        is known of the first one: a new model starts at one half here.
        """
        rates: FloatArray = expit(self._learn(X, y, sample_weight, offset, times, peek=False))
        return rates

    def predict(self, X: Any, *, offset: ArrayLike | None = None) -> FloatArray:
        """Return rates in (0, 1), shape (n,)."""
        rates: FloatArray = expit(self.predict_margin(X, offset=offset))
        return rates

    def predict_margin(self, X: Any, *, offset: ArrayLike | None = None) -> FloatArray:
        """Return log-odds, shape (n,).

        Raises
        ------
        InputError
            If X has another width than in fit, or the model was fitted with an offset and none is given.
        """
        require_fitted(self)
        if self.uses_offset_ and offset is None:
            raise InputError("This model was fitted on top of an offset; give predict the one of these rows.")
        rows = self._rows(X)
        weights = np.zeros(self.n_features_in_)
        # A small batch touches few of a wide model's columns.
        touched = rows.indices if rows.nnz < self.n_features_in_ else slice(None)
        weights[touched] = self._weights(self.accumulators_[:-1][touched], penalised=True)
        margin: FloatArray = self._offset(rows.shape[0], offset) + self.intercept_ + rows @ weights
        return margin

    @property
    def intercept_(self) -> float:
        """Log-odds of a row of zeros."""
        return float(self.base_logit_ + self._weights(self.accumulators_[-1:], penalised=False)[0])

    def get_coefficients(self) -> LinearCoefficients:
        """Return intercept, weights and the evidence behind them."""
        require_fitted(self)
        columns = self.accumulators_[:-1]
        return LinearCoefficients(
            self.intercept_,
            self._weights(columns, penalised=True),
            (columns[:, _GRADIENT_ROOT] * self.scale_) ** 2,
        )

    def sparsify(self, threshold: float) -> Self:
        """Set weights below ``threshold`` in size to zero.

        Their evidence stays: a weight that was small for good reason does not come back with the steps of a new one.
        """
        require_fitted(self)
        if not threshold >= 0:
            raise InputError(f"threshold must be 0 or above, on the log-odds scale, however: {threshold}.")
        small = np.abs(self._weights(self.accumulators_[:-1], penalised=True)) < threshold
        self.accumulators_[:-1][small, _GRADIENT_SUM] = 0.0
        return self

    def reset_features(self, indices: ArrayLike) -> Self:
        """Forget columns, as if they had never been in a row.

        Raises
        ------
        InputError
            If an index is no column.
        """
        require_fitted(self)
        columns = np.asarray(indices)
        if columns.size and (columns.dtype.kind not in "iu" or columns.ndim != 1):
            raise InputError(f"indices must be whole numbers of shape (k,), however: {columns.dtype}, {columns.shape}.")
        wrong = columns[(columns < 0) | (columns >= self.n_features_in_)]
        if wrong.size:
            raise InputError(f"indices must be columns 0 to {self.n_features_in_ - 1}, however: {shown(wrong)}.")
        self.accumulators_[columns.astype(np.int64)] = 0.0
        return self

    def save(self, folder: Path) -> None:
        """Write the state into an existing folder."""
        require_fitted(self)
        np.savez_compressed(folder / _ARRAY_FILE, accumulators=self.accumulators_)
        state = {
            "parameters": self.get_params(deep=False),
            "feature_names": list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None,
            "base_logit": self.base_logit_,
            "uses_offset": self.uses_offset_,
            "clock": self.clock_,
            "scale": self.scale_,
        }
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelFormatError
            If a file is missing or is not what `save` wrote.
        """
        try:
            state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
            model = cls(**state["parameters"])
            with np.load(folder / _ARRAY_FILE, allow_pickle=False) as arrays:
                model.accumulators_ = arrays["accumulators"]
            model.n_features_in_ = model.accumulators_.shape[0] - 1
            if state["feature_names"] is not None:
                model.feature_names_in_ = np.array(state["feature_names"], dtype=object)
            model.base_logit_, model.uses_offset_ = float(state["base_logit"]), bool(state["uses_offset"])
            model.clock_, model.scale_ = float(state["clock"]), float(state["scale"])
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFormatError(f"{folder} must hold a saved DynamicLinear; it does not ({error}).") from error
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _learn(self, X: Any, y: Any, sample_weight: Any, offset: Any, times: Any, *, peek: bool) -> FloatArray:
        """Learn rows and return the log-odds before each; ``peek`` lets a new model start from their mean rate."""
        self._check_parameters()
        if y is None:
            raise InputError("DynamicLinear requires y to be passed, but the target y is None.")
        new = not hasattr(self, "accumulators_")
        rows, y, weight = self._checked(X, y, sample_weight, reset=new)
        start = self._offset(len(y), offset)
        if new:
            self._begin(y, weight, uses_offset=offset is not None, peek=peek)
        elif self.uses_offset_ != (offset is not None):
            raise InputError("offset must be given always or never: the first rows decide.")
        from within_ml.models.ftrl_loop import learn_rows

        fade = self._fade(len(y), times)
        margin = np.empty(len(y))
        penalties = (1.0 / self.alpha, float(self.beta), float(self.l1), float(self.regularization))
        # One width of index, whatever scipy chose: the loop is compiled for one.
        indices, starts = (index.astype(np.int64, copy=False) for index in (rows.indices, rows.indptr))
        self.scale_ = learn_rows(
            rows.data, indices, starts, y, weight, start + self.base_logit_, fade,
            self.accumulators_, self.scale_, penalties, bool(self.fit_intercept), margin,
        )  # fmt: skip
        return margin

    def _begin(self, y: FloatArray, weight: FloatArray, *, uses_offset: bool, peek: bool) -> None:
        self.accumulators_ = np.zeros((self.n_features_in_ + 1, 2))
        self.scale_, self.clock_, self.uses_offset_ = 1.0, -np.inf, uses_offset
        self.base_logit_ = 0.0
        if peek and not uses_offset and self.fit_intercept:
            # Half a click on either side keeps a first batch without clicks finite.
            self.base_logit_ = float(logit((weight @ y + 0.5) / (weight.sum() + 1.0)))

    def _fade(self, rows: int, times: ArrayLike | None) -> FloatArray:
        """Return the factor on the evidence before each row, shape (rows,), and move the clock."""
        known = np.isfinite(self.clock_)
        if times is None:
            self.clock_ = (self.clock_ if known else 0.0) + rows
            return np.full(rows, 1.0 - self.time_decay)
        when = np.asarray(times, dtype=np.float64)
        if when.shape != (rows,) or not np.isfinite(when).all():
            raise InputError(f"times must be finite numbers of shape ({rows},), however: shape {when.shape}.")
        steps = np.diff(when, prepend=self.clock_ if known else when[:1])
        if (steps < 0).any():
            raise InputError(
                f"times must never fall, nor begin before the last row learned (time {self.clock_}); they do at row "
                f"{int(np.argmax(steps < 0))}."
            )
        self.clock_ = float(when[-1]) if rows else self.clock_
        faded: FloatArray = (1.0 - self.time_decay) ** steps
        return faded

    def _weights(self, accumulators: FloatArray, *, penalised: bool) -> FloatArray:
        l1, l2 = (self.l1, self.regularization) if penalised else (0.0, 0.0)
        z, root = accumulators[:, _GRADIENT_SUM] * self.scale_, accumulators[:, _GRADIENT_ROOT] * self.scale_
        stiffness = (self.beta + root) * (1.0 / self.alpha) + l2
        weights: FloatArray = 0.0 - np.sign(z) * np.maximum(np.abs(z) - l1, 0.0) / stiffness
        return weights

    def _check_parameters(self) -> None:
        if not (self.alpha > 0 and self.beta > 0 and self.regularization >= 0 and self.l1 >= 0):
            raise InputError(
                "alpha and beta must be above 0, regularization and l1 not below, however: "
                f"{self.alpha}, {self.beta}, {self.regularization}, {self.l1}."
            )
        if not 0 <= self.time_decay < 1 or self.n_epochs < 1:
            raise InputError(
                f"time_decay must be in [0, 1) and n_epochs at least 1, however: {self.time_decay}, {self.n_epochs}."
            )

    def _rows(self, X: Any) -> Any:
        X = self._in_order(X)
        # An empty day is a day: no ads, no predictions.
        return sparse.csr_array(
            checked_rows(self, X, accept_sparse="csr", dtype=np.float64, ensure_min_samples=0, reset=False)
        )

    def _in_order(self, X: Any) -> Any:
        if not isinstance(X, pd.DataFrame) or not hasattr(self, "feature_names_in_"):
            return X
        if missing := [name for name in self.feature_names_in_ if name not in X.columns]:
            raise InputError(f"X must have the columns of fit; it lacks {shown(missing)}.")
        return X[list(self.feature_names_in_)]

    def _checked(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[Any, FloatArray, FloatArray]:
        X = X if reset else self._in_order(X)
        X = checked_rows(self, X, accept_sparse="csr", dtype=np.float64, reset=reset)
        if self.n_features is not None and X.shape[1] != self.n_features:
            raise InputError(f"X must have n_features={self.n_features} columns, however: X.shape={X.shape}.")
        y = checked_rates(y, X.shape[0])
        weight = checked_weight(sample_weight, X.shape[0], may_be_zero=True)
        if not weight.sum() > 0:
            raise InputError("DynamicLinear needs rows with impressions; the sum of sample_weight is zero.")
        return sparse.csr_array(X), y, weight

    def _offset(self, rows: int, offset: ArrayLike | None) -> FloatArray:
        if offset is None:
            return np.zeros(rows)
        start = np.asarray(offset, dtype=np.float64)
        if start.shape != (rows,) or not np.isfinite(start).all():
            raise InputError(f"offset must be finite with shape ({rows},), however: {start.shape}.")
        return start
