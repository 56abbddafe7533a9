"""Gradient boosted trees for rates: xgboost with a binomial likelihood by weights, saved in its own binary JSON.

What the columns mean and where the starting point of the trees comes from is the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from within_ml.errors import InputError, ModelFormatError, shown
from within_ml.estimators import require_fitted
from within_ml.models.rate_regressor import RateRegressor, logit_of_mean

if TYPE_CHECKING:
    import xgboost

FloatArray = NDArray[np.float64]

_BOOSTER_FILE = "booster.ubj"
_STATE_FILE = "boosted.json"


class BoostedRate(RateRegressor):
    """Boosted trees on the log-odds of a rate.

    The loss of a row is ``weight · binomial log-loss``; with impressions as weights, Hessians are in expected clicks
    at these rates, and so are ``min_child_weight`` and ``reg_lambda``: "a leaf needs the evidence of 50 clicks".

    Parameters
    ----------
    n_estimators, learning_rate, max_depth, subsample, colsample_bytree : number
        As in xgboost.
    min_child_weight : float
        Expected clicks that a leaf must rest on (Hessian sum, weight · p · (1 - p)).
    reg_lambda : float
        Ridge on leaf values, in the same unit.
    monotone_constraints : mapping of str to int, optional
        Column name → 1 (the rate may only rise with it) or -1.
    early_stopping_rounds : int
        Stop when the validation loss has not improved for this many trees; used only when validation rows are given.
    n_threads : int
        Threads of xgboost. The result is the same from run to run with the same number.
    random_state : int
        Seed of row and column sampling.

    Attributes
    ----------
    n_trees_ : int
        Trees that predictions use; after early stopping those up to the best one, possibly 0.
    base_logit_ : float
        Log-odds of the mean rate, the starting point where no ``base_margin`` is given.

    Notes
    -----
    Chen and Guestrin 2016, "XGBoost: A Scalable Tree Boosting System". NaN in a feature is a value of its own: each
    split learns the side for it.

    Examples
    --------
    >>> X = pd.DataFrame({"discount": [0.0, 0.0, 1.0, 1.0] * 25})
    >>> clicks, impressions = np.array([1, 1, 3, 3] * 25), np.full(100, 100)
    >>> model = BoostedRate(n_estimators=200, min_child_weight=1).fit(X, clicks / impressions, impressions)
    >>> model.predict(X[:4]).round(2)
    array([0.01, 0.01, 0.03, 0.03])
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's convention: one argument per hyperparameter
        self,
        *,
        n_estimators: int = 300,
        learning_rate: float = 0.05,
        max_depth: int = 4,
        min_child_weight: float = 20.0,
        reg_lambda: float = 20.0,
        subsample: float = 0.8,
        colsample_bytree: float = 0.8,
        monotone_constraints: Mapping[str, int] | None = None,
        early_stopping_rounds: int = 30,
        n_threads: int = 2,
        random_state: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.min_child_weight = min_child_weight
        self.reg_lambda = reg_lambda
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.monotone_constraints = monotone_constraints
        self.early_stopping_rounds = early_stopping_rounds
        self.n_threads = n_threads
        self.random_state = random_state

    def fit(
        self,
        X: pd.DataFrame | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        base_margin: ArrayLike | None = None,
        validation: tuple[Any, ...] | None = None,
    ) -> Self:
        """Fit the trees.

        Parameters
        ----------
        X : shape (n, d)
            Numbers; NaN is allowed, infinity is not.
        y : shape (n,)
            Rates in [0, 1].
        sample_weight : shape (n,), optional
            Impressions.
        base_margin : shape (n,), optional
            Log-odds that the trees start from; then `predict` needs it too.
        validation : tuple (X, y, sample_weight, base_margin), optional
            Later rows for early stopping; the last two may be None.

        Raises
        ------
        InputError
            If y is outside [0, 1] or nothing has weight.
        """
        import xgboost

        if y is None:
            raise InputError("BoostedRate requires y to be passed, but the target y is None.")
        frame, y, weight = self._checked(X, y, sample_weight, reset=True)
        if not weight.sum() > 0:
            raise InputError("BoostedRate needs rows with impressions; the sum of sample_weight is zero.")
        self.uses_base_margin_ = base_margin is not None
        self.base_logit_ = logit_of_mean(y, weight)
        margin = self._margin(len(y), base_margin)
        train = xgboost.DMatrix(frame, label=y, weight=weight, base_margin=margin, nthread=self.n_threads)
        evals, rounds = [], None
        best = self.n_estimators
        if validation is not None:
            evals, rounds = [(self._validation_matrix(validation), "validation")], self.early_stopping_rounds
        history: dict[str, Any] = {}
        self.booster_ = xgboost.train(
            self._parameters(),
            train,
            num_boost_round=self.n_estimators,
            evals=evals,
            early_stopping_rounds=rounds,
            evals_result=history,
            verbose_eval=False,
        )
        if validation is not None:
            best = self._best_rounds(history["validation"]["logloss"], evals[0][0])
        self.n_trees_ = best
        return self

    def predict(self, X: pd.DataFrame | ArrayLike, *, base_margin: ArrayLike | None = None) -> FloatArray:
        """Return rates in (0, 1), shape (n,)."""
        rates: FloatArray = expit(self.predict_margin(X, base_margin=base_margin))
        return rates

    def predict_margin(self, X: pd.DataFrame | ArrayLike, *, base_margin: ArrayLike | None = None) -> FloatArray:
        """Return log-odds, shape (n,): the starting point plus what the trees add.

        Raises
        ------
        InputError
            If the model was fitted with a base margin and none is given.
        """
        require_fitted(self)
        if self.uses_base_margin_ and base_margin is None:
            raise InputError("This model was fitted on top of a base_margin; give predict the one of these rows.")
        frame = self._checked(X, None, None, reset=False)[0]
        margin = self._margin(len(frame), base_margin)
        if self.n_trees_ == 0 or not len(frame):
            return margin
        # float32 inside xgboost: the trees alone are added to our float64 margin, so that no precision of it is lost.
        raw = self.booster_.inplace_predict(
            frame, iteration_range=(0, self.n_trees_), predict_type="margin", base_margin=np.zeros(len(frame))
        )
        return margin + np.asarray(raw, dtype=np.float64)

    def feature_importance(self) -> dict[str, float]:
        """Share of the total loss reduction by column, in falling order; sums to 1 (or all 0 without a split)."""
        require_fitted(self)
        used = self.booster_[: self.n_trees_] if self.n_trees_ else None
        gain: dict[str, Any] = used.get_score(importance_type="total_gain") if used is not None else {}
        total = sum(gain.values()) or 1.0
        names = self._names()
        shares = {name: float(gain.get(f"f{i}", 0.0)) / total for i, name in enumerate(names)}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def save(self, folder: Path) -> None:
        """Write the booster and its settings into an existing folder."""
        require_fitted(self)
        self.booster_.save_model(folder / _BOOSTER_FILE)
        state = {
            "parameters": self.get_params(deep=False),
            "feature_names": self._names() if hasattr(self, "feature_names_in_") else None,
            "n_features": self.n_features_in_,
            "n_trees": self.n_trees_,
            "base_logit": self.base_logit_,
            "uses_base_margin": self.uses_base_margin_,
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
        import xgboost

        try:
            state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
            model = cls(**state["parameters"])
            model.booster_ = xgboost.Booster(model_file=folder / _BOOSTER_FILE)
            model.n_trees_, model.base_logit_ = int(state["n_trees"]), float(state["base_logit"])
            model.uses_base_margin_, model.n_features_in_ = bool(state["uses_base_margin"]), int(state["n_features"])
            if state["feature_names"] is not None:
                model.feature_names_in_ = np.array(state["feature_names"], dtype=object)
        except (OSError, ValueError, KeyError, TypeError, xgboost.core.XGBoostError) as error:
            raise ModelFormatError(f"{folder} must hold a saved BoostedRate; it does not ({error}).") from error
        return model

    def _parameters(self) -> dict[str, Any]:
        constraints = self.monotone_constraints or {}
        names = self._names()
        if unknown := sorted(set(constraints) - set(names)):
            raise InputError(f"monotone_constraints must name columns of X; these are none: {shown(unknown)}.")
        return {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "base_score": 0.5,
            "tree_method": "hist",
            "learning_rate": self.learning_rate,
            "max_depth": self.max_depth,
            "min_child_weight": self.min_child_weight,
            "reg_lambda": self.reg_lambda,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "monotone_constraints": "(" + ",".join(str(constraints.get(name, 0)) for name in names) + ")",
            "nthread": self.n_threads,
            "seed": self.random_state,
        }

    def _validation_matrix(self, validation: tuple[Any, ...]) -> xgboost.DMatrix:
        import xgboost

        X, y, sample_weight, base_margin = validation
        frame, y, weight = self._checked(X, y, sample_weight, reset=False)
        margin = self._margin(len(y), base_margin)
        return xgboost.DMatrix(frame, label=y, weight=weight, base_margin=margin, nthread=self.n_threads)

    @staticmethod
    def _best_rounds(losses: list[float], matrix: xgboost.DMatrix) -> int:
        """Trees up to the smallest validation loss; none where the starting point itself is better."""
        y, w = matrix.get_label().astype(np.float64), matrix.get_weight().astype(np.float64)
        margin = matrix.get_base_margin().astype(np.float64).ravel()
        start = float(np.average(np.logaddexp(0.0, margin) - y * margin, weights=w))
        best = int(np.argmin(losses))
        return best + 1 if losses[best] < start else 0
