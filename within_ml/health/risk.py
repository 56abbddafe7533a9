"""The probability of one outcome per row of any table: an additive logistic model and trees, weighed and calibrated.

Rows, columns and the outcome mean nothing here; what they are for accounts stands in `labels` and `predictor`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import t

from within_ml.calibration.log_odds import LogOddsCalibrator
from within_ml.ensemble.weights import simplex_weights
from within_ml.errors import ModelFormatError, NotFittedError
from within_ml.explain.contributions import Contributions, combined, tree_contributions
from within_ml.health.additive import AdditiveLogit
from within_ml.health.calibrating import calibrator_from_dict, fit_calibrator
from within_ml.health.config import HealthConfig, HealthModelType
from within_ml.health.encoding import TableEncoder
from within_ml.metrics import row_log_loss

if TYPE_CHECKING:
    from within_ml.models.boosted import BoostedRate

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]
logger = logging.getLogger(__name__)

RIDGES = (500.0, 100.0, 20.0, 4.0, 1.0)
_LEVEL = 0.5
_STATE = "risk.json"
_MIN_EVENTS = 4
_HESSIAN_SHARE = 0.005


class Evidence(StrEnum):
    """What the rows allowed to fit."""

    MEMBERS = "members"
    LEVEL = "level"


class RiskModel:
    """Predict the probability that y is 1, calibrated, with the parts that it is the sum of.

    ::

        table → numbers ─┬─ additive logistic model ─┐
                         └─ boosted trees ───────────┴─ Σ weight · log-odds → monotone calibration

    Weights, ridge, number of trees and calibration are all chosen on predictions for rows whose group (account) the
    members were not fitted on. The fold members are kept: their spread is the delete-a-group jackknife's standard error
    of a prediction (Kott 2001, "The delete-a-group jackknife", Journal of Official Statistics 17).

    With fewer than 4 groups of either outcome there is nothing to learn from, and every row gets the level.

    Parameters
    ----------
    kind : HealthModelType
        ``logistic`` leaves the trees out.
    config : HealthConfig

    Attributes
    ----------
    out_of_fold_ : array, shape (n,)
        Log-odds before calibration of the rows of `fit`, by members that did not see their group; not saved.
    weights_ : dict of str to float
        What each member counts.
    evidence_ : Evidence
        Whether there was enough to fit members.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame({"months": rng.integers(1, 60, 900), "plan": rng.choice(["flat", "pay"], 900)})
    >>> y = rng.random(900) < np.where(X["plan"] == "pay", 0.4, 0.1) * np.where(X["months"] < 12, 2, 1)
    >>> model = RiskModel(HealthModelType.LOGISTIC).fit(X, y.astype(float))
    >>> model.predict(pd.DataFrame({"months": [3, 50], "plan": ["pay", "flat"]})).round(1)
    array([0.7, 0.1])
    """

    def __init__(self, kind: HealthModelType = HealthModelType.BOOSTED, config: HealthConfig | None = None) -> None:
        self.kind = HealthModelType(kind)
        self.config = config or HealthConfig()

    # ---- fitting

    def fit(
        self,
        X: pd.DataFrame,
        y: FloatArray,
        w: FloatArray | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit on a table X, outcomes y (0 or 1) and weights w, shape (n,); rows of one group stay together."""
        w = np.ones(len(y)) if w is None else w
        labels = np.arange(len(y)) if groups is None else np.asarray(groups)
        group = np.unique(labels, return_inverse=True)[1].astype(np.int64)
        kept, share = thinned(y, group, self.config.max_rows, self.config.random_state)
        self.encoder_ = TableEncoder().fit(X)
        self.level_ = float(logit((w @ y + _LEVEL) / (w.sum() + 2 * _LEVEL)))
        every = self.encoder_.transform(X)
        numbers, y, w, group = every[kept], y[kept], w[kept] * share, group[kept]
        self.out_of_fold_ = np.full(len(X), self.level_)
        self.folds_: list[dict[str, Any]] = []
        self.members_: dict[str, Any] = {}
        self.weights_: dict[str, float] = {}
        self.fold_of_: dict[Any, int] = {}
        """Group → fold of the fit; not saved."""
        self.calibrator_: LogOddsCalibrator | None = None
        self.evidence_ = Evidence.MEMBERS
        events, others = (np.unique(group[(y == outcome) & (w > 0)]).size for outcome in (1, 0))
        if min(events, others) < _MIN_EVENTS or not self.encoder_.features_:
            logger.warning("risk: %d groups with the outcome, %d without: the level is all there is", events, others)
            self.evidence_ = Evidence.LEVEL
            return self
        folds = grouped_folds(y * (w > 0), group, min(self.config.folds, events, others), self.config.random_state)
        out = self._fit_folds(numbers, y, w, folds)
        pooled = self._weigh(out, y, w / _repeats(y, w, group))
        self.members_ = self._fit_members(numbers, y, w, self.settings_)
        self.fold_of_ = dict(zip(labels[kept].tolist(), folds.tolist(), strict=True))
        if len(kept) < len(every):
            own = np.array([self.fold_of_.get(label, 0) for label in labels.tolist()], dtype=np.int64)
            for fold, members in enumerate(self.folds_):
                self.out_of_fold_[own == fold] = self._pooled(members, every[own == fold])
        else:
            self.out_of_fold_ = pooled
        return self

    def _fit_folds(self, X: FloatArray, y: FloatArray, w: FloatArray, folds: Integers) -> dict[str, FloatArray]:
        """Fit on all folds but one, choose ridge and trees, and return the margins of the rows left out by member."""
        by_ridge = {ridge: np.zeros(len(y)) for ridge in RIDGES}
        fitted: list[dict[float, AdditiveLogit]] = []
        trees: list[BoostedRate] = []
        boosted = np.zeros(len(y))
        for fold in range(int(folds.max()) + 1):
            inside, outside = folds != fold, folds == fold
            fitted.append({})
            for additive in AdditiveLogit.path(X[inside], y[inside], w[inside], ridges=RIDGES):
                fitted[-1][additive.ridge] = additive
                by_ridge[additive.ridge][outside] = additive.margin(X[outside])
            if self.kind is HealthModelType.BOOSTED:
                model = self._boosted(y[inside], w[inside])
                model.fit(X[inside], y[inside], w[inside], validation=(X[outside], y[outside], w[outside], None))
                trees.append(model)
        loss = {ridge: float(w @ row_log_loss(y, expit(margin))) for ridge, margin in by_ridge.items()}
        best = min(RIDGES, key=lambda ridge: loss[ridge])
        self.settings_ = {"ridge": best, "n_estimators": 0}
        self.folds_ = [{"additive": models[best]} for models in fitted]
        if not trees:
            return {"additive": by_ridge[best]}
        # One number of trees for all: each fold's own best would be chosen on the very rows that it is judged on.
        count = max(round(float(np.median([model.n_trees_ for model in trees]))), 1)
        for fold, model in enumerate(trees):
            model.n_trees_ = min(count, model.booster_.num_boosted_rounds())
            boosted[folds == fold] = model.predict_margin(X[folds == fold])
            self.folds_[fold]["boosted"] = model
        self.settings_["n_estimators"] = count
        return {"additive": by_ridge[best], "boosted": boosted}

    def _fit_members(self, X: FloatArray, y: FloatArray, w: FloatArray, settings: Mapping[str, Any]) -> dict[str, Any]:
        members: dict[str, Any] = {"additive": AdditiveLogit(ridge=settings["ridge"]).fit(X, y, w)}
        if self.kind is HealthModelType.BOOSTED:
            members["boosted"] = self._boosted(y, w, n_estimators=settings["n_estimators"]).fit(X, y, w)
        return members

    def _boosted(self, y: FloatArray, w: FloatArray, n_estimators: int | None = None) -> BoostedRate:
        from within_ml.models.boosted import BoostedRate

        rate = float(np.average(y, weights=w))
        information = float(w.sum()) * rate * (1 - rate)
        return BoostedRate(
            n_estimators=n_estimators or self.config.n_estimators,
            learning_rate=self.config.learning_rate,
            max_depth=self.config.max_depth,
            min_child_weight=float(np.clip(_HESSIAN_SHARE * information, 1.0, self.config.min_child_weight)),
            reg_lambda=self.config.reg_lambda,
            subsample=self.config.subsample,
            colsample_bytree=self.config.colsample_bytree,
            early_stopping_rounds=self.config.early_stopping_rounds,
            n_threads=self.config.n_threads,
            random_state=self.config.random_state,
        )

    def _weigh(self, out: Mapping[str, FloatArray], y: FloatArray, w: FloatArray) -> FloatArray:
        """Weigh the members and fit the calibration on margins of rows they were not fitted on; return those."""
        margins = np.column_stack(list(out.values()))
        shares = simplex_weights(margins, y, w) if len(out) > 1 else np.ones(1)
        self.weights_ = dict(zip(out, shares.tolist(), strict=True))
        pooled: FloatArray = margins @ shares
        self.calibrator_ = fit_calibrator(expit(pooled), y, w)
        return pooled

    # ---- predicting

    @property
    def average(self) -> float:
        """The share of the rows with the outcome."""
        self._require_fitted()
        return float(expit(self.level_))

    def margin(self, X: pd.DataFrame) -> FloatArray:
        """Return the log-odds before calibration, shape (n,)."""
        self._require_fitted()
        return self._pooled(self.members_, self.encoder_.transform(X))

    def calibrated(self, margin: FloatArray) -> FloatArray:
        """Return the probability that stands for log-odds before calibration."""
        if self.calibrator_ is None or not len(margin):
            return np.asarray(expit(margin), dtype=np.float64)
        return np.asarray(self.calibrator_.transform(expit(margin)), dtype=np.float64)

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return the calibrated probability of each row, shape (n,)."""
        return self.calibrated(self.margin(X))

    def fold_margins(self, X: pd.DataFrame) -> FloatArray:
        """Return the log-odds that the members of each fold give, shape (n, folds); no column without any."""
        self._require_fitted()
        numbers = self.encoder_.transform(X)
        found = [self._pooled(members, numbers) for members in self.folds_]
        return np.column_stack(found) if found else np.zeros((len(X), 0))

    def member_margins(self, X: pd.DataFrame) -> FloatArray:
        """Return the log-odds of each member alone, shape (n, members)."""
        self._require_fitted()
        numbers = self.encoder_.transform(X)
        found = [_margin(name, member, numbers) for name, member in self.members_.items()]
        return np.column_stack(found) if found else np.zeros((len(X), 0))

    def standard_error(self, X: pd.DataFrame) -> FloatArray:
        """Return the standard error of the log-odds, shape (n,): the jackknife's, and how far the members disagree."""
        return np.hypot(jackknife(self.fold_margins(X)), self.disagreement(self.member_margins(X)))

    def quantile(self) -> float:
        """Return the quantile of an interval of ``confidence``: Student's t, whose degrees of freedom the folds are."""
        return float(t.ppf(0.5 + self.config.confidence / 2, max(len(self.folds_) - 1, 2)))

    def disagreement(self, margins: FloatArray) -> FloatArray:
        """Return the weighted standard deviation of what the members say, shape (n, members) → (n,).

        Models that fit the seen alike and differ where little was seen tell of what the jackknife of one cannot.
        """
        if margins.shape[1] < 2:
            return np.zeros(len(margins))
        weight = np.array(list(self.weights_.values()))
        spread = margins - (margins @ weight)[:, None]
        return np.asarray(np.sqrt((spread**2) @ weight), dtype=np.float64)

    def explain(self, X: pd.DataFrame) -> Contributions:
        """Return the exact SHAP values of the log-odds before calibration, by column of the table."""
        self._require_fitted()
        numbers, names = self.encoder_.transform(X), self.encoder_.features_
        if not self.members_:
            return Contributions.of(names, np.zeros(numbers.shape), base=self.level_)
        parts, weights = [self.members_["additive"].contributions(numbers, names)], [self.weights_["additive"]]
        if "boosted" in self.members_:
            model: BoostedRate = self.members_["boosted"]
            found = tree_contributions(model.booster_, numbers, n_trees=model.n_trees_)
            trees = Contributions.of(names, found.values, base=found.expected + model.base_logit_)
            parts.append(trees)
            weights.append(self.weights_["boosted"])
        return combined(parts, weights).grouped(self.encoder_.sources)

    def importance(self) -> dict[str, float]:
        """Share of each column: of the trees' loss reduction and of the additive terms' size, by weight."""
        self._require_fitted()
        names, found = self.encoder_.features_, dict.fromkeys((c.name for c in self.encoder_.columns_), 0.0)
        if not self.members_:
            return found
        additive: AdditiveLogit = self.members_["additive"]
        sizes = additive.sizes()
        shares = {"additive": dict(zip(names, (sizes / (sizes.sum() or 1.0)).tolist(), strict=True))}
        if "boosted" in self.members_:
            by_number = self.members_["boosted"].feature_importance()
            shares["boosted"] = {names[int(str(key).lstrip("fx"))]: share for key, share in by_number.items()}
        for member, by_name in shares.items():
            for name, share in by_name.items():
                found[self.encoder_.sources[name]] += self.weights_[member] * share
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def _pooled(self, members: Mapping[str, Any], numbers: FloatArray) -> FloatArray:
        margin = np.zeros(len(numbers))
        if not members:
            return np.full(len(numbers), self.level_)
        for name, member in members.items():
            margin += self.weights_[name] * _margin(name, member, numbers)
        return margin

    def _require_fitted(self) -> None:
        if not hasattr(self, "evidence_"):
            raise NotFittedError("The risk model must be fitted before it is used; call fit, or load a fitted one.")

    # ---- state

    def save(self, folder: Path) -> None:
        """Write the state into an existing folder."""
        self._require_fitted()
        sets = [self.members_, *self.folds_]
        state = {
            "kind": str(self.kind),
            "encoder": self.encoder_.to_dict(),
            "evidence": str(self.evidence_),
            "level": self.level_,
            "weights": self.weights_,
            "calibrator": self.calibrator_.to_dict() if self.calibrator_ is not None else None,
            "additive": [members["additive"].to_dict() for members in sets if members],
            "boosted": len(sets) if "boosted" in self.members_ else 0,
        }
        (folder / _STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
        for i, members in enumerate(sets):
            if "boosted" in members:
                (folder / f"boosted_{i}").mkdir()
                members["boosted"].save(folder / f"boosted_{i}")

    @classmethod
    def load(cls, folder: Path, config: HealthConfig) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelFormatError
            If a file is missing or is not what `save` wrote.
        """
        from within_ml.models.boosted import BoostedRate

        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            model = cls(HealthModelType(state["kind"]), config)
            model.encoder_ = TableEncoder.from_dict(state["encoder"])
            model.evidence_, model.level_ = Evidence(state["evidence"]), float(state["level"])
            model.weights_ = {str(name): float(share) for name, share in state["weights"].items()}
            model.calibrator_ = calibrator_from_dict(state["calibrator"]) if state["calibrator"] else None
            sets: list[dict[str, Any]] = [{"additive": AdditiveLogit.from_dict(one)} for one in state["additive"]]
            for i in range(int(state["boosted"])):
                sets[i]["boosted"] = BoostedRate.load(folder / f"boosted_{i}")
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ModelFormatError(f"{folder} must hold a saved risk model; it does not ({error}).") from error
        model.members_, model.folds_ = (sets[0], sets[1:]) if sets else ({}, [])
        return model


def _margin(name: str, member: Any, numbers: FloatArray) -> FloatArray:
    found: FloatArray = member.margin(numbers) if name == "additive" else member.predict_margin(numbers)
    return found


def jackknife(margins: FloatArray) -> FloatArray:
    """Return the delete-a-group standard error of rows' estimates without each of k groups, shape (n, k) → (n,)."""
    k = margins.shape[1]
    if k < 2:
        return np.zeros(len(margins))
    spread = margins - margins.mean(axis=1, keepdims=True)
    return np.asarray(np.sqrt((k - 1) / k * (spread**2).sum(axis=1)), dtype=np.float64)


def grouped_folds(y: FloatArray, group: Integers, k: int, random_state: int) -> Integers:
    """Deal the groups into k folds, those with the outcome first, so that each fold has its share; shape (n,).

    >>> fold = grouped_folds(np.array([1.0, 0, 1, 0]), np.array([0, 1, 2, 3]), 2, 0)
    >>> bool(fold[0] != fold[2]), bool(fold[1] != fold[3])
    (True, True)
    """
    n = int(group.max()) + 1
    events = np.bincount(group, weights=y, minlength=n) > 0
    shuffled = np.random.default_rng(random_state).permutation(n)
    order = shuffled[np.argsort(~events[shuffled], kind="stable")]
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % k
    return fold[group]


def _repeats(y: FloatArray, w: FloatArray, group: Integers) -> float:
    """Rows with the outcome per group that has any: the rows of an account are one piece of evidence."""
    there = (y > 0) & (w > 0)
    return float(max(there.sum() / max(np.unique(group[there]).size, 1), 1.0))


def thinned(y: FloatArray, group: Integers, most: int, random_state: int) -> tuple[Integers, FloatArray]:
    """Return the rows to fit on and what each stands for: of many rows without the outcome every n-th.

    Rows with the outcome all stay, so that a rare one loses nothing (case-control sampling, its weights undone).
    """
    n = len(y)
    if n <= most:
        return np.arange(n), np.ones(n)
    others = np.flatnonzero(y == 0)
    wanted = max(most - (n - others.size), min(others.size, most // 2))
    chosen = np.random.default_rng(random_state).permutation(others)[:wanted]
    kept = np.sort(np.concatenate([np.flatnonzero(y != 0), chosen]))
    share = np.where(y[kept] == 0, others.size / max(wanted, 1), 1.0)
    return kept, share
