"""How good predicted risks are: on rows later than the model's own, beside baselines, with intervals by account.

A row is an account on a day with a label that is 0 or 1; rows of one account are one cluster. What is judged are
arrays: no model is imported. What is decided from it stands in `gate`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml import metrics
from within_ml.errors import InputError, NotFittedError
from within_ml.metrics import ReliabilityCurve
from within_ml.validation.baselines import GlobalRate, Predictor
from within_ml.validation.bootstrap import ClusterBootstrap, Interval
from within_ml.validation.gate import GateCriteria

FloatArray = NDArray[np.float64]

RISK_CRITERIA = GateCriteria(
    min_rows=100,
    min_events=15,
    min_groups=15,
    confidence=0.8,
    unit="account-week",
    event="bad outcomes",
    group="accounts",
    subject="accounts",
)
"""What a model of account health must show: an agency has tens of accounts, not thousands of campaigns, so that the
evidence and the confidence asked for are less than for ads."""


@dataclass(frozen=True, slots=True)
class RiskJudgement:
    """One predictor on one set of rows; NaN where a metric is not defined (one outcome only).

    ``calibration_slope`` is that of a logistic regression of the outcome on the predicted log-odds: 1 is right, below
    it predictions are too extreme (Cox 1958, "Two further applications of a model for binary regression").
    """

    log_loss: Interval
    brier: float
    auc: float
    average_precision: float
    calibration_ratio: float
    calibration_slope: float


@dataclass(frozen=True, slots=True)
class RiskReport:
    """A model and its baselines on the same rows."""

    n_rows: int
    n_accounts: int
    events: int
    model: RiskJudgement
    baselines: Mapping[str, RiskJudgement]
    reliability: ReliabilityCurve

    def metrics(self) -> dict[str, float]:
        """Return flat numbers for a registry; undefined ones are left out."""
        flat = {f"test_{name}": value for name, value in _flat(self.model).items()}
        for baseline, judged in self.baselines.items():
            flat |= {f"{baseline}_{name}": value for name, value in _flat(judged).items()}
        flat |= {"test_rows": float(self.n_rows), "test_accounts": float(self.n_accounts)}
        flat |= {"test_events": float(self.events)}
        return {name: value for name, value in flat.items() if math.isfinite(value)}

    def to_json(self) -> str:
        """Return the report as JSON; undefined numbers are null."""
        values = {**asdict(self), "baselines": {name: asdict(judged) for name, judged in self.baselines.items()}}
        return json.dumps(_finite(values), indent=2)

    def to_markdown(self) -> str:
        """Return model and baselines as a table."""
        lines = [
            "| | log-loss | Brier | AUC | average precision | predicted / actual | slope |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, judged in {"account_health": self.model, **self.baselines}.items():
            loss = judged.log_loss
            numbers = (judged.brier, judged.auc, judged.average_precision, judged.calibration_ratio)
            cells = [name, f"{loss.value:.4f} ({loss.lower:.4f} to {loss.upper:.4f})"]
            cells += [f"{number:.3f}" for number in (*numbers, judged.calibration_slope)]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def evaluate_risk(
    predicted: ArrayLike,
    baselines: Mapping[str, ArrayLike],
    y: ArrayLike,
    groups: ArrayLike,
    *,
    n_bootstrap: int = 1000,
) -> RiskReport:
    """Judge predictions for the same n rows, which none of the predictors has been fitted on.

    Parameters
    ----------
    predicted : array-like, shape (n,)
        Probabilities in [0, 1].
    baselines : mapping of str to array-like, shape (n,)
    y : array-like, shape (n,)
        Outcomes, 0 or 1.
    groups : array-like, shape (n,)
        Account of each row.
    n_bootstrap : int
        Draws of accounts.

    Raises
    ------
    InputError
        If shapes differ, there are no rows, or a prediction or outcome is no probability.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> risk = rng.uniform(0, 0.5, 2000)
    >>> left = rng.random(2000) < risk
    >>> report = evaluate_risk(risk, {"global_rate": np.full(2000, left.mean())}, left, np.arange(2000) // 10)
    >>> round(report.model.auc, 1), round(report.model.calibration_slope, 1), report.n_accounts
    (0.7, 1.0, 200)
    """
    outcome, p, _ = metrics.check_rates(y, predicted, None)
    if not outcome.size:
        raise InputError("Risks are judged on at least one row; however, none came.")
    bootstrap = ClusterBootstrap(groups, n_bootstrap=n_bootstrap)
    return RiskReport(
        n_rows=outcome.size,
        n_accounts=bootstrap.n_groups,
        events=int(outcome.sum()),
        model=_judged(outcome, p, bootstrap),
        baselines={
            name: _judged(outcome, metrics.check_rates(y, values, None)[1], bootstrap)
            for name, values in baselines.items()
        },
        reliability=metrics.reliability_curve(outcome, p),
    )


class OneFeatureLogit:
    """A logistic regression on one feature: what an account manager's rule of thumb comes to.

    Parameters
    ----------
    feature : str
        A column; where a row has none of it, the training rows' median stands for it.

    Examples
    --------
    >>> X = pd.DataFrame({"trend": [-1.0, -0.9, 0.9, 1.0] * 50})
    >>> OneFeatureLogit("trend").fit(X, [1, 1, 0, 0] * 50).predict(X[:4]).round(1)
    array([1., 1., 0., 0.])
    """

    def __init__(self, feature: str) -> None:
        self.feature = feature

    def fit(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Fit; without both outcomes it is the level."""
        from sklearn.linear_model import LogisticRegression

        outcome = np.asarray(y, dtype=np.float64)
        weight = np.ones(outcome.size) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        self.rate_ = float(np.average(outcome, weights=weight))
        values = X[self.feature].to_numpy(dtype=np.float64)
        known = values[np.isfinite(values)]
        self.median_ = float(np.median(known)) if known.size else 0.0
        self.scale_ = float(known.std()) or 1.0 if known.size else 1.0
        self.logit_: LogisticRegression | None = None
        if np.unique(outcome).size == 2:
            self.logit_ = LogisticRegression().fit(self._standard(X), outcome.astype(int), sample_weight=weight)
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return probabilities, shape (n,)."""
        if not hasattr(self, "rate_"):
            raise NotFittedError("OneFeatureLogit must be fitted first; call fit.")
        if self.logit_ is None or not len(X):
            return np.full(len(X), self.rate_)
        return np.asarray(self.logit_.predict_proba(self._standard(X))[:, 1], dtype=np.float64)

    def _standard(self, X: pd.DataFrame) -> FloatArray:
        values = X[self.feature].to_numpy(dtype=np.float64)
        centred = np.where(np.isfinite(values), values - self.median_, 0.0) / self.scale_
        return np.asarray(centred[:, None], dtype=np.float64)


def fit_risk_baselines(X: pd.DataFrame, y: ArrayLike, *, feature: str) -> Mapping[str, Predictor]:
    """Fit what a model of risk has to beat, on the rows it was allowed to see; return them by name."""
    return {"global_rate": GlobalRate().fit(X, y), f"{feature}_logit": OneFeatureLogit(feature).fit(X, y)}


def cross_fitted_risk_baselines(
    X: pd.DataFrame, y: ArrayLike, groups: ArrayLike, *, feature: str, folds: int = 5
) -> dict[str, FloatArray]:
    """Return the baselines' predictions for each row by baselines that have not seen the row's account."""
    from sklearn.model_selection import GroupKFold

    outcome, account = np.asarray(y, dtype=np.float64), np.asarray(groups, dtype=object).astype(str)
    found: dict[str, FloatArray] = {}
    for inside, outside in GroupKFold(min(folds, len(set(account)))).split(X, outcome, account):
        for name, baseline in fit_risk_baselines(X.iloc[inside], outcome[inside], feature=feature).items():
            found.setdefault(name, np.zeros(len(X)))[outside] = baseline.predict(X.iloc[outside])
    return found


def judged_predictions(
    seen: pd.DataFrame,
    out_of_fold: ArrayLike,
    later: pd.DataFrame,
    predicted: ArrayLike,
    *,
    feature: str,
    label: str = "label",
) -> pd.DataFrame:
    """Return what to judge a model of risk by: its predictions and the baselines' for rows that none of them has seen.

    Rows it was fitted on are predicted by its folds that have not seen their account, later ones by itself. An agency
    has tens of accounts and a bad outcome is rare: later weeks alone would take years to tell two models apart.

    Parameters
    ----------
    seen, later : DataFrame
        Rows with ``account_id``, ``date``, the label (0 or 1) and ``feature``.
    out_of_fold, predicted : array-like, shape (len(seen),) and (len(later),)
        The model's probabilities.
    feature : str
        Feature of the baseline that knows one.
    label : str
        Column of the outcome.

    Returns
    -------
    DataFrame
        ``account_id``, ``date`` (ISO text), the label, ``predicted`` and a column per baseline; seen rows first.

    Examples
    --------
    >>> rows = pd.DataFrame({"account_id": list("abcdef"), "date": "2024-01-05", "label": [0, 1] * 3, "trend": 0.0})
    >>> judged_predictions(rows, [0.5] * 6, rows[:1], [0.4], feature="trend").columns.tolist()
    ['account_id', 'date', 'label', 'predicted', 'global_rate', 'trend_logit']
    """
    keys = ["account_id", "date", label]
    crossed = cross_fitted_risk_baselines(seen, seen[label], seen["account_id"], feature=feature)
    fitted = fit_risk_baselines(seen, seen[label], feature=feature)
    before = seen[keys].assign(predicted=np.asarray(out_of_fold, dtype=np.float64), **crossed)
    after = later[keys].assign(
        predicted=np.asarray(predicted, dtype=np.float64),
        **{name: baseline.predict(later) for name, baseline in fitted.items()},
    )
    return pd.concat([before, after], ignore_index=True).assign(date=lambda rows: rows["date"].astype(str).str[:10])


def _judged(y: FloatArray, p: FloatArray, bootstrap: ClusterBootstrap) -> RiskJudgement:
    from sklearn.metrics import average_precision_score

    both = 0 < y.sum() < y.size
    return RiskJudgement(
        log_loss=bootstrap.interval(metrics.row_log_loss(y, p), np.ones(y.size)),
        brier=metrics.brier(y, p),
        auc=metrics.auc(y, p) if both else math.nan,
        average_precision=float(average_precision_score(y, p)) if both else math.nan,
        calibration_ratio=metrics.calibration_ratio(y, p),
        calibration_slope=calibration_slope(y, p),
    )


def calibration_slope(y_true: ArrayLike, y_prob: ArrayLike) -> float:
    """Return the slope of a logistic regression of the outcome on the predicted log-odds.

    NaN where there is one outcome only, or one prediction only.

    >>> rng = np.random.default_rng(1)
    >>> p = rng.uniform(0.02, 0.6, 20_000)
    >>> too_extreme = 1 / (1 + np.exp(-2 * np.log(p / (1 - p))))
    >>> round(calibration_slope(rng.random(20_000) < p, too_extreme), 1)
    0.5
    """
    from scipy.special import logit
    from sklearn.linear_model import LogisticRegression

    y, p, _ = metrics.check_rates(y_true, y_prob, None)
    margin = logit(np.clip(p, 1e-6, 1 - 1e-6))
    if not 0 < y.sum() < y.size or np.ptp(margin) < 1e-9:
        return math.nan
    return float(LogisticRegression(C=np.inf).fit(margin[:, None], y.astype(int)).coef_[0, 0])


def _flat(judged: RiskJudgement) -> dict[str, float]:
    return {
        "log_loss": judged.log_loss.value,
        **{name: float(getattr(judged, name)) for name in RiskJudgement.__slots__ if name != "log_loss"},
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
