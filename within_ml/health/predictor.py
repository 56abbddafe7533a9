"""Account health: how likely an account gets into a bad state, how likely it leaves, why, and what would help.

A composition. How each part works stands in its own module; here stands what they are given, and what a row of
``account_health`` says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from within_ml import metrics
from within_ml.base import BaseMLModel, ModelType
from within_ml.errors import InputError, NotFittedError, shown
from within_ml.estimators import checked_weight
from within_ml.explain.contributions import Contributions
from within_ml.health import told
from within_ml.health.actions import Recommendation, plausible_ranges, recommend
from within_ml.health.config import HealthConfig, HealthModelType, RiskThresholds
from within_ml.health.encoding import as_table
from within_ml.health.explanation import Explanation, typical_values
from within_ml.health.hazard import ChurnHazard
from within_ml.health.history import (
    GONE,
    KEYS,
    LABEL,
    NO_HISTORY,
    account_rows,
    accounts_of,
    read_daily,
    wanted_dates,
    without_rows,
)
from within_ml.health.risk import RiskModel
from within_ml.health.state import read_state, write_state
from within_ml.health.warnings import WarningReport, alarm_threshold, warning_report

if TYPE_CHECKING:
    from within_ml.model_folder import ModelMetadata

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)

DEFAULT_WINDOW_DAYS = 30
MAX_WINDOW_DAYS = 180
DAILY_COLUMNS = ("date", "account_id", "impressions", "clicks")


class AccountHealthPredictor(BaseMLModel):
    """Predict P(bad state within ``time_window`` days) of each account; its health is 100 · (1 − P).

    A bad state is that the account leaves (contract end, or 30 days without spend and impressions) or that its
    efficiency (ROAS, or CTR where money is not known) is below the lower decile of its own 90 days before for 7 days in
    a row. Two models of indicators of the account's daily performance::

        bad state within the window   additive logistic model and trees, weighed and calibrated (`RiskModel`)
        leaving within t days         the same on account-weeks × intervals ahead: discrete hazards (`ChurnHazard`)

    All that is chosen is chosen on accounts that the chosen thing was not fitted on.

    Any table of one row per customer and a binary outcome is fitted as well: ``fit(table, y)``, then
    ``predict_churn_risk(table)``.

    Parameters
    ----------
    indicators : sequence of str, optional
        Indicators to learn from (see `indicators.INDICATORS`), and columns of ``account_features``; of the table form,
        columns of the table. None takes all there are.
    risk_thresholds : RiskThresholds, mapping or three numbers, optional
        Least probabilities of a medium, high and critical risk.
    time_window : int
        Days of the bad state's window, 1 to 180.
    model_type : {"boosted", "logistic"}
        See `HealthModelType`.
    config : HealthConfig or mapping, optional
        Hyperparameters; the defaults are meant to be used.
    model_name, feature_names, model_version, metadata
        As in `BaseMLModel`; ``feature_names`` is what `fit` found.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame({"contract": rng.choice(["month", "year"], 600), "tenure": rng.integers(1, 60, 600)})
    >>> left = rng.random(600) < np.where(table["contract"] == "month", 0.5, 0.1)
    >>> model = AccountHealthPredictor(model_type="logistic").fit(table, left)
    >>> model.predict_churn_risk(pd.DataFrame({"contract": ["month", "year"], "tenure": 12})).round(1).tolist()
    [0.5, 0.1]
    """

    model_type: ClassVar[str] = ModelType.ACCOUNT_HEALTH

    def __init__(  # noqa: PLR0913 - the product's vocabulary, and what every model has
        self,
        indicators: Sequence[str] | None = None,
        risk_thresholds: RiskThresholds | Mapping[str, float] | Sequence[float] | None = None,
        time_window: int = DEFAULT_WINDOW_DAYS,
        model_type: str = "boosted",
        *,
        config: HealthConfig | Mapping[str, Any] | None = None,
        model_name: str = ModelType.ACCOUNT_HEALTH,
        feature_names: list[str] | None = None,
        model_version: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(str(model_name), feature_names or [], model_version, metadata)
        if isinstance(indicators, str):
            raise InputError(f"indicators must be a sequence of names, however: the text {indicators!r}.")
        self.indicators = None if indicators is None else [str(name) for name in indicators]
        self.risk_thresholds = RiskThresholds.of(risk_thresholds)
        if isinstance(time_window, bool) or not 1 <= int(time_window) <= MAX_WINDOW_DAYS:
            raise InputError(f"time_window must be 1 to {MAX_WINDOW_DAYS} days, however: {time_window!r}.")
        self.time_window = int(time_window)
        self.kind = HealthModelType.of(model_type)
        self.config = HealthConfig.of(config)
        self._recent: pd.DataFrame | None = None

    # ---- fitting

    def fit(
        self,
        account_data: pd.DataFrame,
        y: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        accounts: pd.DataFrame | None = None,
        account_features: pd.DataFrame | None = None,
        as_of: date | None = None,
    ) -> Self:
        """Fit on daily performance, from which the outcomes are told, or on a table with outcomes of its own.

        Parameters
        ----------
        account_data : DataFrame
            Without ``y`` daily performance: ``date``, ``account_id``, ``impressions``, ``clicks``, where known
            ``spend``, ``conversions``, ``revenue``, ``currency``, and rows as fine as ad, audience and region. With
            ``y`` any table of features; rows of one ``account_id``, if there is such a column, are kept together.
        y : array-like, shape (n,), optional
            Outcome of each row, two different values: 0 and 1, False and True.
        sample_weight : array-like, shape (n,), optional
            What each row of a table counts.
        accounts : DataFrame, optional
            One row per account: ``account_id``, ``churned_date``, ``onboarded_date``, ``monthly_budget``, ``industry``,
            ``country``; the same columns may also be joined to the daily rows instead.
        account_features : DataFrame, optional
            Rows of the lake's ``account_features``; its numbers become features.
        as_of : date, optional
            Last day that is known; by default that of the data.

        Raises
        ------
        InputError
            If a column is missing, a value is impossible, y is not binary or of one class, or there are no rows.
        """
        started = time.perf_counter()
        if y is not None:
            self._fit_table(account_data, y, sample_weight)
        else:
            if sample_weight is not None:
                raise InputError("sample_weight weighs the rows of a table with y; daily performance has none.")
            self._fit_daily(account_data, accounts, account_features, as_of)
        self.metadata["training_duration"] = round(time.perf_counter() - started, 3)
        logger.info("account health fitted in %.1f s: %s", time.perf_counter() - started, self.risk_.weights_)
        return self

    def _fit_table(self, table: pd.DataFrame, y: ArrayLike, sample_weight: ArrayLike | None) -> None:
        X = as_table(table)
        if not len(X):
            raise InputError("The table to be fitted on must have rows, however: there are none.")
        outcome = told.binary(y, len(X))
        weight = checked_weight(sample_weight, len(X))
        groups = X["account_id"].astype(str).to_numpy() if "account_id" in X.columns else None
        # Beside an account's id these are its day and what became of it; elsewhere they are columns like others.
        beside = [name for name in told.NO_FEATURES if name in X.columns and groups is not None]
        features = self._chosen(X.drop(columns=beside))
        self.risk_ = RiskModel(self.kind, self.config).fit(features, outcome, weight, groups)
        self._keep(features, None)

    def _fit_daily(
        self,
        account_data: pd.DataFrame,
        accounts: pd.DataFrame | None,
        account_features: pd.DataFrame | None,
        as_of: date | None,
    ) -> None:
        rows = account_rows(
            account_data, accounts, account_features, as_of=as_of, settled=True, step_days=self.config.step_days
        )
        frame, label, _ = rows.labelled(self.time_window)
        if not len(frame):
            raise InputError(
                f"account_data must reach over more than {self.time_window} days, so that outcomes are known; "
                f"however: {_span(account_data)}."
            )
        features = self._chosen(frame.drop(columns=[*KEYS, GONE]))
        self.risk_ = RiskModel(self.kind, self.config).fit(features, label, groups=frame["account_id"].astype(str))
        there = ~rows.frame[GONE].to_numpy(dtype=bool)
        present, spells = rows.frame[there][list(features.columns)], rows.spells.where(there)
        churn = ChurnHazard(self.kind, self.config).fit(present, spells)
        self.threshold_ = alarm_threshold(churn, present, spells, self.config.false_alarm_rate)
        self._keep(features, churn)

    def _chosen(self, features: pd.DataFrame) -> pd.DataFrame:
        if self.indicators is None:
            return features
        if unknown := [name for name in self.indicators if name not in features.columns]:
            raise InputError(
                f"indicators must be columns of the features, however: {shown(unknown)}; there are "
                f"{shown(features.columns)}."
            )
        return features[self.indicators]

    def _keep(self, features: pd.DataFrame, churn: ChurnHazard | None) -> None:
        # What no model looks at, such as an id, need not be there to be predicted.
        used = {column.name for column in self.risk_.encoder_.columns_}
        used |= {column.name for column in churn.model_.encoder_.columns_} if churn is not None else set()
        self.feature_names = sorted(used & set(map(str, features.columns)))
        self.churn_ = churn
        self.typical_ = typical_values(features)
        self.ranges_ = plausible_ranges(features)
        if churn is None:
            self.threshold_ = float("nan")
        self._recent = None

    # ---- rows

    def features(
        self,
        account_data: pd.DataFrame,
        *,
        accounts: pd.DataFrame | None = None,
        account_features: pd.DataFrame | None = None,
        dates: Any = None,
    ) -> pd.DataFrame:
        """Return what `score` takes: a row for each account and wanted day, from daily performance up to that day.

        Parameters
        ----------
        account_data, accounts, account_features
            As in `fit`. Indicators look back 180 days at most.
        dates : date, sequence of dates or "all", optional
            Wanted days; the last one of ``account_data`` if not given.

        Returns
        -------
        DataFrame
            ``account_id``, ``date``, features, and the flags ``gone`` (the account has left, as could be seen on the
            day) and ``no_history`` (a client without any performance yet).
        """
        daily = read_daily(account_data)
        accounts = accounts_of(daily, accounts)
        days = wanted_dates(dates, daily)
        rows = account_rows(daily, accounts, account_features, dates=days).frame
        if days is None:
            days = np.unique(rows["date"].to_numpy().astype("datetime64[D]"))
        new = without_rows(accounts, rows, days, daily)
        found = pd.concat([rows.assign(**{NO_HISTORY: False}), new])
        found = found.astype({GONE: bool, NO_HISTORY: bool})
        return found.sort_values(["date", "account_id"], kind="stable", ignore_index=True)

    def training_rows(
        self,
        account_data: pd.DataFrame,
        accounts: pd.DataFrame | None = None,
        as_of: date | None = None,
        *,
        account_features: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Return account-weeks with ``label``: whether a bad state came within the window, where that is known.

        Weeks end on the last known day and every ``step_days`` before it. Beside features there are ``account_id`` and
        ``date``; `predict` takes the rows as they are.
        """
        rows = account_rows(
            account_data, accounts, account_features, as_of=as_of, settled=True, step_days=self.config.step_days
        )
        frame, label, _ = rows.labelled(self.time_window)
        return frame.drop(columns=GONE).assign(**{LABEL: label}).reset_index(drop=True)

    # ---- predicting

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return P(bad state within the window) of rows of features, or P(y = 1) of rows of a table, shape (n,).

        Raises
        ------
        InputError
            If a column the model was fitted on is missing.
        NotFittedError
            If the model is not fitted.
        """
        return self.risk_model.predict(self._table(X))

    def predict_churn_risk(
        self,
        account_data: pd.DataFrame,
        *,
        accounts: pd.DataFrame | None = None,
        account_features: pd.DataFrame | None = None,
        dates: Any = None,
    ) -> pd.DataFrame | pd.Series:
        """Return the risk that accounts leave within 14, 30 and 90 days, with intervals.

        Parameters
        ----------
        account_data
            Daily performance, with the other arguments as in `features`; or, of a model that was fitted on a table,
            such a table.

        Returns
        -------
        DataFrame or Series
            ``account_id``, ``date`` and ``churn_risk_14d``, ``_30d``, ``_90d``, each also ``_lower`` and ``_upper``:
            the interval of the true risk, see `ChurnHazard.intervals`. Of a table its rows' probabilities, a series
            ``churn_risk`` with the table's index.
        """
        self._require_fitted()
        if self.churn_ is None:
            X = as_table(account_data)
            self._recent = X
            return pd.Series(self.predict(X), index=X.index, name="churn_risk", dtype=np.float64)
        rows = self.features(account_data, accounts=accounts, account_features=account_features, dates=dates)
        self._recent = rows
        return pd.concat([rows[list(KEYS)], told.churn_columns(self, rows)], axis=1)

    def predict_intervals(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return ``probability``, ``lower`` and ``upper`` of rows as `predict` takes them, with the frame's index."""
        X = self._table(table)
        p = self.risk_model.predict(X)
        half = self.risk_model.quantile() * self.risk_model.standard_error(X)
        inside = np.clip(p, 1e-12, 1 - 1e-12)
        bounds = {"lower": expit(logit(inside) - half), "upper": expit(logit(inside) + half)}
        return pd.DataFrame({"probability": p, **bounds}, index=X.index)

    def churn_curve(self, rows: pd.DataFrame, days: ArrayLike) -> FloatArray:
        """Return P(the account leaves within so many days) of rows of `features`, shape (n, len(days))."""
        return self.churn.probability(self._table(rows), days)

    def predict_health(
        self,
        account_data: pd.DataFrame,
        *,
        accounts: pd.DataFrame | None = None,
        account_features: pd.DataFrame | None = None,
        dates: Any = None,
    ) -> pd.DataFrame:
        """Return ``account_health`` of the wanted days; arguments as in `features`, columns as in `score`."""
        self._require_fitted()
        return self.score(
            self.features(account_data, accounts=accounts, account_features=account_features, dates=dates)
        )

    def score(self, X: pd.DataFrame) -> pd.DataFrame:
        """Return the columns of ``account_health`` for rows of `features`, with X's index.

        ``account_id``, ``date``, ``health_score`` (0 to 100), ``risk_level``, ``bad_state_probability``, the risks of
        churn as in `predict_churn_risk`, ``engagement_trend``, ``spend_efficiency``, ``reach_saturation``,
        ``frequency``, ``fatigue``, ``segment`` (null unless X has it), ``early_warning``, and as JSON lists
        ``contributing_factors`` and ``recommended_actions``. An account that has left has health 0; one without history
        the risk of the average account.
        """
        self.require_columns(X, KEYS)
        self._recent = X
        return told.health(self, X)

    # ---- explaining

    def get_contributing_factors(
        self, account_id: object, account_data: pd.DataFrame | None = None, **options: Any
    ) -> Explanation:
        """Return why an account has its risk: all groups of features, the strongest first.

        Parameters
        ----------
        account_id
            An account of the last prediction, or of ``account_data``; its latest day is explained. Of a table without
            ``account_id`` the label of a row.
        account_data
            Daily performance, with ``options`` as in `features`.

        Raises
        ------
        InputError
            If there is no such account.
        """
        row = self._row(account_id, account_data, options)
        day = f"{pd.Timestamp(row['date'].iloc[0]):%Y-%m-%d}" if "date" in row.columns else None
        return told.explanation(self, row, str(account_id), day)

    def recommend_actions(
        self, account_id: object, account_data: pd.DataFrame | None = None, **options: Any
    ) -> tuple[Recommendation, ...]:
        """Return what would lower an account's risk, the strongest first; arguments as in `get_contributing_factors`.

        Empty where no change lowers the predicted risk by ``min_effect``, or the account has left.
        """
        row = self._row(account_id, account_data, options)
        if any(flag.any() for flag in told.flags(row)):
            return ()
        return recommend(row, self.predict, self.ranges_, min_effect=self.config.min_effect)[0]

    def explain(self, X: pd.DataFrame) -> Contributions:
        """Return the exact SHAP values of each row's log-odds before calibration, beside the average training row."""
        return self.risk_model.explain(self._table(X))

    def health_waterfall(self, account_id: object, account_data: pd.DataFrame | None = None, **options: Any) -> bytes:
        """Draw what moved an account's risk away from the average one, by group of features, as PNG."""
        row = self._row(account_id, account_data, options)
        return told.waterfall(self, row)

    def get_feature_importance(self) -> dict[str, float]:
        """Return the share of each feature in the model, in falling order."""
        return self.risk_model.importance()

    def early_warnings(
        self,
        account_data: pd.DataFrame,
        *,
        accounts: pd.DataFrame | None = None,
        account_features: pd.DataFrame | None = None,
        step_days: int = 1,
    ) -> WarningReport:
        """Look back on a history: which accounts that left had a warning before, and how many days ahead.

        The model should not have been fitted on these days, or the answer flatters it.
        """
        churn = self.churn
        rows = account_rows(account_data, accounts, account_features, step_days=step_days)
        kept = ~rows.frame[GONE].to_numpy(dtype=bool)
        risk = churn.probability(self._table(rows.frame[kept]), [30])[:, 0]
        return warning_report(risk, rows.spells.where(kept), rows.frame["date"][kept], self.threshold_)

    def validate(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """Return log-loss, Brier score, AUC, calibration error and ratio on rows whose outcome is known."""
        p, outcome = self.predict(X), told.outcomes(y, len(X))
        w = checked_weight(sample_weight, len(X))
        found = {
            "log_loss": metrics.log_loss(outcome, p, sample_weight=w),
            "brier": metrics.brier(outcome, p, sample_weight=w),
            "auc": metrics.auc(outcome, p, sample_weight=w),
            "ece": metrics.ece(outcome, p, sample_weight=w),
            "calibration_ratio": metrics.calibration_ratio(outcome, p, sample_weight=w),
        }
        return {name: value for name, value in found.items() if np.isfinite(value)}

    # ---- helpers

    @property
    def risk_model(self) -> RiskModel:
        """The fitted model of the bad state.

        Raises
        ------
        NotFittedError
            If there is none.
        """
        self._require_fitted()
        return self.risk_

    @property
    def churn(self) -> ChurnHazard:
        """The fitted hazard of leaving.

        Raises
        ------
        NotFittedError
            If the model was not fitted on daily performance.
        """
        self._require_fitted()
        if self.churn_ is None:
            raise NotFittedError(f"{self.model_name} was fitted on a table; fit it on daily performance for this.")
        return self.churn_

    def _require_fitted(self) -> None:
        if not hasattr(self, "risk_"):
            raise NotFittedError(f"{self.model_name} must be fitted or loaded first; call fit or load.")

    def _table(self, X: pd.DataFrame) -> pd.DataFrame:
        self._require_fitted()
        table = as_table(X)
        self.require_columns(table, self.feature_names)
        return table[self.feature_names]

    def _row(self, account_id: object, account_data: pd.DataFrame | None, options: Mapping[str, Any]) -> pd.DataFrame:
        self._require_fitted()
        if account_data is None:
            rows = self._recent
        else:
            rows = as_table(account_data) if self.churn_ is None else self.features(account_data, **options)
        if rows is None:
            raise InputError("There is no prediction to explain yet; give account_data, or call predict_health before.")
        ids = (rows["account_id"] if "account_id" in rows.columns else rows.index.to_series()).astype(str)
        own = rows[(ids == str(account_id)).to_numpy()]
        if not len(own):
            raise InputError(
                f"account_id must be one of the accounts predicted, {shown(ids.unique())}, however: {account_id!r}."
            )
        return own.sort_values("date", kind="stable").iloc[[-1]] if "date" in own.columns else own.iloc[[-1]]

    # ---- save format

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constructor's own arguments as JSON values."""
        return {
            "indicators": self.indicators,
            "risk_thresholds": asdict(self.risk_thresholds),
            "time_window": self.time_window,
            "model_type": str(self.kind),
            "config": asdict(self.config),
        }

    def _write_state(self, folder: Path) -> None:
        write_state(self, folder)

    def _read_state(self, folder: Path, metadata: ModelMetadata) -> None:
        read_state(self, folder)


def _span(account_data: pd.DataFrame) -> str:
    days = pd.to_datetime(account_data["date"]) if len(account_data) else []
    return f"{min(days):%Y-%m-%d} to {max(days):%Y-%m-%d}" if len(days) else "no rows"
