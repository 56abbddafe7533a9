"""An ensemble of models of one rate: fitted, weighed and calibrated as one.

The arithmetic is in `weights`, `pooling` and `fitting`; here stands who predicts what, on which rows what is fitted,
and what is kept of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import _safe_indexing, get_tags
from sklearn.utils.validation import _num_samples

from within_ml.ensemble.fitting import CalibrationMethod, FittedPool, PoolRecipe, pool_gain, restored_calibrator
from within_ml.ensemble.members import as_rows, fit_member, member_margins, member_rates, outcomes
from within_ml.ensemble.pooling import AggregationMethod, LogOddsLine
from within_ml.errors import InputError, ModelFormatError, shown
from within_ml.estimators import checked_rows, require_fitted

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)


class CalibratedEnsemble(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predict a rate with several models, weighed by what they are worth on recent rows.

    ::

        member 1 → line ┐
        member 2 → line ├→ pool: Σ weight · log-odds → line or spline → rate
        member 3 → line ┘

    A line is ``shift + slope · log-odds``: level and temperature. Members get theirs before they are pooled, so that
    an overconfident one does not shout down the others and one that knows nothing comes out as the mean rate. Weights
    are those of the smallest log-loss (see `simplex_weights`). All of it is fitted on rows that no member was fitted
    on, and a pool that is not surely better there than its best member as it is gives way to that member (see
    `pool_gain`): where one member is far ahead, weights and lines only add what chance put into them. Pools of given
    weights, and those without weights, stay.

    Parameters
    ----------
    base_models : mapping of str to model
        Each has ``predict(X)`` that gives rates, or ``predict_proba(X)``, of which the column of class 1 is taken. X
        reaches them as it came.
    weights : mapping of str to float, optional
        Weights that are given and not fitted; scaled to sum 1.
    calibration_method : {"temperature", "spline", "none"}
        ``spline`` puts a `SplineCalibrator` where the last line is; ``none`` leaves out every line.
    aggregation_method : {"log_odds", "linear", "trimmed_mean", "median"}
        See `AggregationMethod`.
    calibration_share : float
        Share of the rows, the last ones, that `fit` keeps for `calibrate`.

    Attributes
    ----------
    models_ : dict of str to model
        The members, fitted.
    pool_ : FittedPool
        Lines and weights of the members, in their order, and what calibrates the pool.
    fallback_ : str or None
        The member that predicts alone, without a line, as the pool was not surely better.

    Notes
    -----
    Logarithmic pools of calibrated members are less sure than they should be, linear ones too (Ranjan and Gneiting
    2010, "Combining probability forecasts"); the line after the pool takes that back.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from scipy.special import expit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(4000, 2))
    >>> y = rng.binomial(1, expit(X[:, 0] - 2))
    >>> ensemble = CalibratedEnsemble({"linear": LogisticRegression(), "tree": DecisionTreeClassifier()}).fit(X, y)
    >>> ensemble.get_model_weights()["linear"] > 0.9
    True
    >>> ensemble.predict([[0.0, 0.0], [2.0, 0.0]]).round(1)
    array([0.1, 0.5])
    """

    def __init__(
        self,
        base_models: Mapping[str, Any],
        weights: Mapping[str, float] | None = None,
        calibration_method: str = "temperature",
        aggregation_method: str = "log_odds",
        *,
        calibration_share: float = 0.2,
    ) -> None:
        self.base_models = base_models
        self.weights = weights
        self.calibration_method = calibration_method
        self.aggregation_method = aggregation_method
        self.calibration_share = calibration_share

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        calibration: tuple[Any, ArrayLike, ArrayLike | None] | None = None,
    ) -> Self:
        """Fit clones of the members on the earlier rows and calibrate on the last.

        Parameters
        ----------
        X : shape (n, …)
            In the order of time.
        y : array-like, shape (n,)
            Rates in [0, 1]. Members with ``predict_proba`` that are given rates see each row twice, as clicked and as
            not, by weight.
        sample_weight : array-like, shape (n,), optional
            Impressions. Members whose ``fit`` has no ``sample_weight`` do not get them.
        calibration : tuple (X, y, sample_weight), optional
            Later rows to calibrate on; the members are then fitted on all of X.

        Raises
        ------
        InputError
            If a shape or range is wrong, or there are too few rows to be split.
        """
        self._check_parameters()
        X = as_rows(X)
        checked_rows(self, X, skip_check_array=True)
        y, w = outcomes(X, y, sample_weight)
        if calibration is None:
            X, y, w, calibration = self._split(X, y, w)
        self.models_ = {}
        for name, model in self.base_models.items():
            self.models_[name] = clone(model)
            fit_member(self.models_[name], X, y, w)
        return self.calibrate(calibration[0], calibration[1], calibration[2])

    def calibrate(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit lines, weights and the pool's calibrator on rows that the members were not fitted on.

        An ensemble that was not fitted takes ``base_models`` as they are; they must be fitted then.

        Raises
        ------
        InputError
            If a shape or range is wrong, nothing has weight, or a member's predictions are no rates.
        """
        self._check_parameters()
        X = as_rows(X)
        new = not hasattr(self, "models_")
        X = X if new else self._in_order(X)
        if new:
            checked_rows(self, X, skip_check_array=True)
        y, w = outcomes(X, y, sample_weight)
        models = dict(self.base_models) if new else self.models_
        margins = np.column_stack([member_margins(name, model, X) for name, model in models.items()])
        self.models_, self._rows, self._outcome = models, X, (margins, y, w)
        self._fit_pool()
        return self

    def predict(self, X: Any) -> FloatArray:
        """Return rates in (0, 1), shape (n,)."""
        X = self._checked(X)
        if not _num_samples(X):
            return np.empty(0)
        if self.fallback_ is not None:
            return member_rates(self.fallback_, self.models_[self.fallback_], X)
        return self.pool_.predict(self._margins(X))

    def spread(self, X: Any) -> FloatArray:
        """Return how far the members are apart, shape (n,): the weighted standard deviation of their log-odds.

        Where it is large the members have seen little that is like the row: it is harder than others. The weights are
        the pool's, also where one member predicts alone.
        """
        X = self._checked(X)
        if not _num_samples(X):
            return np.empty(0)
        margins, weights = self.pool_.lined(self._margins(X)), self.pool_.weights
        mean = margins @ weights
        apart: FloatArray = np.sqrt(((margins - mean[:, None]) ** 2) @ weights)
        return apart

    def get_model_weights(self) -> Mapping[str, float]:
        """Return the weight of each member, read-only; equal ones where the rule of pooling has no weights."""
        require_fitted(self, "pool_")
        if self.fallback_ is not None:
            return MappingProxyType({name: float(name == self.fallback_) for name in self.models_})
        return MappingProxyType(dict(zip(self.models_, self.pool_.weights.tolist(), strict=True)))

    def add_model(self, name: str, model: Any) -> Self:
        """Add a fitted model; all weights are fitted again on the rows of the last `calibrate`.

        An ensemble that was restored, or has given weights, has no such rows or use for them: the new model then
        enters with the mean weight, the others keep their proportions in the pool, no member predicts alone any more,
        and a warning is logged.

        Raises
        ------
        InputError
            If the name is taken or the model's predictions are no rates.
        """
        require_fitted(self, "pool_")
        if name in self.models_:
            raise InputError(f"name must be a new one, however: the ensemble has a member {name!r}; remove it first.")
        k = len(self.models_)
        margin = None if self._outcome is None else member_margins(name, model, self._rows)
        self.models_ = {**self.models_, name: model}
        self.base_models = {**self.base_models, name: model}
        if self._outcome is not None and margin is not None:
            margins, y, w = self._outcome
            self._outcome = (np.column_stack([margins, margin]), y, w)
        weights = np.append(self.pool_.weights * k / (k + 1), 1 / (k + 1))
        self._reweigh(weights, (*self.pool_.lines, LogOddsLine()))
        return self

    def remove_model(self, name: str) -> Self:
        """Remove a member; all weights are fitted again, or scaled to sum 1 where there are no rows to fit them on.

        Raises
        ------
        InputError
            If there is no such member, or no other.
        """
        require_fitted(self, "pool_")
        names = list(self.models_)
        if name not in names or len(names) == 1:
            raise InputError(f"name must be one of several members, however: {name!r}; there are {shown(names)}.")
        place = names.index(name)
        self.models_ = {key: value for key, value in self.models_.items() if key != name}
        self.base_models = {key: value for key, value in self.base_models.items() if key != name}
        if self._outcome is not None:
            margins, y, w = self._outcome
            self._outcome = (np.delete(margins, place, axis=1), y, w)
        weights = np.delete(self.pool_.weights, place)
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(weights.size, 1 / weights.size)
        self._reweigh(weights, tuple(line for k, line in enumerate(self.pool_.lines) if k != place))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return weights, lines and calibrator as JSON values; the members save themselves."""
        require_fitted(self, "pool_")
        last = self.pool_.calibrator
        return {
            "members": list(self.models_),
            "weights": self.pool_.weights.tolist(),
            "weights_are_given": self.weights is not None,
            "lines": [asdict(line) for line in self.pool_.lines],
            "calibration_method": str(self.calibration_method),
            "aggregation_method": str(self.aggregation_method),
            "calibration_share": self.calibration_share,
            "calibrator": asdict(last) if isinstance(last, LogOddsLine) else last.to_dict(),
            "fallback": self.fallback_,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], models: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave around the members, fitted.

        Raises
        ------
        ModelFormatError
            If a field or a member is missing or of the wrong kind.
        """
        try:
            members = {name: models[name] for name in state["members"]}
            weights = np.array(state["weights"], dtype=np.float64)
            given = dict(zip(members, weights.tolist(), strict=True)) if state["weights_are_given"] else None
            ensemble = cls(members, given, state["calibration_method"], state["aggregation_method"],
                           calibration_share=state["calibration_share"])  # fmt: skip
            ensemble._check_parameters()
            ensemble.models_ = members
            lines = tuple(LogOddsLine(**line) for line in state["lines"])
            last = restored_calibrator(ensemble._recipe().calibration, state["calibrator"])
            ensemble.pool_ = FittedPool(lines, weights, last, ensemble._recipe().rule)
            ensemble.fallback_ = state["fallback"]
            if ensemble.fallback_ not in {None, *members}:
                raise KeyError(ensemble.fallback_)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"The state of a CalibratedEnsemble is not as it was saved ({error!r}).") from error
        ensemble._rows, ensemble._outcome = None, None
        return ensemble

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        members = list(self.base_models.values()) if isinstance(self.base_models, Mapping) else []
        inputs = [get_tags(model).input_tags for model in members if isinstance(model, BaseEstimator)]
        whole = len(inputs) == len(members)
        tags.input_tags.sparse = whole and all(tag.sparse for tag in inputs)
        tags.input_tags.allow_nan = whole and all(tag.allow_nan for tag in inputs)
        return tags

    _rows: Any = None
    _outcome: tuple[FloatArray, FloatArray, FloatArray] | None = None

    def _check_parameters(self) -> None:
        if not isinstance(self.base_models, Mapping) or not self.base_models:
            raise InputError(f"base_models must map names to models, one at least, however: {self.base_models!r}.")
        if self.calibration_method not in list(CalibrationMethod):
            allowed = shown(map(str, CalibrationMethod))
            raise InputError(f"calibration_method must be one of {allowed}, however: {self.calibration_method!r}.")
        if self.aggregation_method not in list(AggregationMethod):
            allowed = shown(map(str, AggregationMethod))
            raise InputError(f"aggregation_method must be one of {allowed}, however: {self.aggregation_method!r}.")
        if not 0 < self.calibration_share < 1:
            raise InputError(f"calibration_share must be between 0 and 1, however: {self.calibration_share}.")
        if self.weights is None:
            return
        values = np.array(list(self.weights.values()), dtype=np.float64)
        if set(self.weights) != set(self.base_models) or not (values >= 0).all() or not 0 < values.sum() < np.inf:
            raise InputError(
                "weights must be one number for each of base_models, not negative and not all zero, however: "
                f"{dict(self.weights)!r}."
            )

    def _split(self, X: Any, y: FloatArray, w: FloatArray) -> tuple[Any, FloatArray, FloatArray, tuple[Any, Any, Any]]:
        n = len(y)
        first = n - max(1, round(self.calibration_share * n))
        if first < 1:
            raise InputError(f"Rows to fit on and rows to calibrate on are needed, however: n_samples = {n}.")
        early, late = np.arange(first), np.arange(first, n)
        return _safe_indexing(X, early), y[:first], w[:first], (_safe_indexing(X, late), y[first:], w[first:])

    def _recipe(self) -> PoolRecipe:
        given = None
        if self.weights is not None:
            given = np.array([self.weights[name] for name in self.models_], dtype=np.float64)
        return PoolRecipe(AggregationMethod(self.aggregation_method), CalibrationMethod(self.calibration_method), given)

    def _fit_pool(self) -> None:
        """Fit the pool from the members' margins on the calibration rows, and see whether it is worth having."""
        if self._outcome is None:
            return
        recipe, (margins, y, w) = self._recipe(), self._outcome
        self.pool_, self.fallback_ = recipe.fit(margins, y, w), None
        gain = pool_gain(recipe, margins, y, w) if recipe.rule.is_weighted and recipe.given is None else None
        if gain is not None and not gain.is_sure:
            self.fallback_ = list(self.models_)[gain.member]
            logger.info(
                "ensemble: %r predicts alone, the pool gains %.3g ± %.3g nats over it on rows held out",
                self.fallback_, gain.total, gain.error,
            )  # fmt: skip
        told = ", ".join(f"{name} {weight:.3f}" for name, weight in self.get_model_weights().items())
        logger.info("ensemble calibrated on %d rows: %s", len(y), told)

    def _reweigh(self, weights: FloatArray, lines: tuple[LogOddsLine, ...]) -> None:
        """Fit the pool again after a change of members; where that cannot be, take these weights and lines."""
        if self.weights is not None:
            self.weights = dict(zip(self.models_, weights.tolist(), strict=True))
        if self._outcome is not None:
            self._fit_pool()
            return
        logger.warning("ensemble: no calibration rows are kept; weights are scaled, call calibrate to fit them")
        self.pool_, self.fallback_ = replace(self.pool_, weights=weights, lines=lines), None

    def _checked(self, X: Any) -> Any:
        require_fitted(self, "pool_")
        X = self._in_order(as_rows(X))
        if hasattr(self, "n_features_in_"):
            checked_rows(self, X, reset=False, skip_check_array=True)
        return X

    def _in_order(self, X: Any) -> Any:
        """Return a frame with the columns of fit in their order, other rows as they are."""
        if not isinstance(X, pd.DataFrame) or not hasattr(self, "feature_names_in_"):
            return X
        names = list(self.feature_names_in_)
        if missing := [name for name in names if name not in X.columns]:
            raise InputError(f"X must have the columns of fit; it lacks {shown(missing)}.")
        return X if list(X.columns) == names else X[names]

    def _margins(self, X: Any) -> FloatArray:
        """Return the members' log-odds, shape (n, k)."""
        return np.column_stack([member_margins(name, model, X) for name, model in self.models_.items()])
