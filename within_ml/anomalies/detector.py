"""`AnomalyDetector`: the third product, composed of the watch over time, the cross-section and root causes.

Arithmetic belongs in the modules that it composes; here stands what a user can call, in which order, and what is saved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from within_ml.anomalies.composing import Composer, Settings
from within_ml.anomalies.cross_section import CrossSection
from within_ml.anomalies.frames import Performance, read_dates, read_performance
from within_ml.anomalies.joint import SEASONAL, require_method
from within_ml.anomalies.judgement import metrics_of
from within_ml.anomalies.panel import build_panel, part_of
from within_ml.anomalies.plain import judge_plain, plain_anomalies, plain_metric_rows, plain_metrics
from within_ml.anomalies.records import (
    AnomalyExplanation,
    AnomalyReport,
    explanation_of,
)
from within_ml.anomalies.scoring import score_of
from within_ml.anomalies.state import read_found, read_watch, write_found, write_watch
from within_ml.anomalies.watch import JudgedNight, Watch
from within_ml.base import BaseMLModel, ModelType
from within_ml.errors import InputError, NotFittedError, shown
from within_ml.estimators import checked_weight, require_fitted

if TYPE_CHECKING:
    from within_ml.model_folder import ModelMetadata

logger = logging.getLogger(__name__)

DISCOVERY_RATE = 0.015
"""False discovery rate of a night at the default sensitivity."""

_SECTION = "cross_section"


class AnomalyDetector(BaseMLModel, BaseEstimator):  # type: ignore[misc]
    """Find what changed in accounts beyond their own habits and their noise, and say why.

    Per account and metric (impressions, clicks, spend, conversions, ctr, cpc, cvr, roas), in parts by campaign where
    the data have them, a robust baseline with weekdays follows level and trend night by night (`baseline`). Values are
    judged by their counting noise and by how much the series varies beyond it; residuals become p-values by the tails
    of past nights, and the night's p-values are held to a false discovery rate (`nights`, `discovery`). Then the
    vector of an account's residuals is compared with other accounts and nights (`cross_section`).

    Parameters
    ----------
    detection_method : str
        Cross-section of accounts: one of the methods of `CrossSection`, or ``"seasonal"`` for the time axis alone.
    sensitivity : float
        0 to 1; the false discovery rate of a night is ``0.015 · 100 ** (sensitivity - 0.5)``: .15 % at 0, 1.5 % at
        .5, 15 % at 1.
    dimensions : sequence of str, optional
        Columns along which causes are looked for, by default all that are there. Accounts are watched in parts along
        ``campaign_id`` where it is among them.
    baseline_window : int
        Days, 7 or more: how fast a level may wander. Half of it makes the baseline follow twice as fast.
    model_name, feature_names, model_version, metadata
        As in `BaseMLModel`.

    Attributes
    ----------
    watch_ : Watch
        Baselines, after `detect_anomalies` or `update_baseline`.
    anomalies_, events_ : DataFrame
        What the last `detect_anomalies` found; `explain_anomaly` reads it.

    Notes
    -----
    Conversions of the newest days are incomplete. What all accounts lack together is not told of any of them (`peers`);
    where there are fewer than eight, too few conversions on the last six days are told only beyond the ordinary delay
    (`composing.ARRIVED`). Which direction is good stands in `metrics`. A series is judged after seven days of its own;
    days without rows are bridged, a new level is accepted after seven days, and a change of currency begins money anew.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> days = pd.date_range("2024-01-01", periods=60)
    >>> frame = pd.DataFrame({"date": np.tile(days, 3), "account_id": np.repeat(["a", "b", "c"], 60),
    ...                       "impressions": 10_000, "clicks": rng.binomial(10_000, 0.02, 180)})
    >>> frame.loc[(frame["account_id"] == "b") & (frame["date"] == days[-1]), "clicks"] = 60
    >>> detector = AnomalyDetector()
    >>> found = detector.detect_anomalies(frame, dates=days[-1]).primary
    >>> found[["account_id", "metric", "direction", "sign"]].values.tolist()
    [['b', 'ctr', 'below', 'bad']]
    >>> detector.explain_anomaly(found["anomaly_id"][0]).sentence
    'ctr of account b on 2024-02-29: 0.6 % where 2.18 % were expected (1.67 % to 2.77 %), 72 % lower.'
    """

    model_type: ClassVar[str] = ModelType.ANOMALY_DETECTOR

    def __init__(
        self,
        detection_method: str = "combined",
        sensitivity: float = 0.5,
        dimensions: Sequence[str] | None = None,
        baseline_window: int = 28,
        *,
        model_name: str = ModelType.ANOMALY_DETECTOR.value,
        feature_names: Sequence[str] | None = None,
        model_version: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(str(model_name), list(feature_names or []), model_version, metadata)
        self.detection_method = detection_method
        self.sensitivity = sensitivity
        self.dimensions = dimensions
        self.baseline_window = baseline_window

    def detect_anomalies(self, performance_data: pd.DataFrame, *, dates: Any = None) -> AnomalyReport:
        """Judge days, each by the days before it alone.

        Days that follow the baseline's last day continue it; other data are judged by themselves, from their first
        day, and the baseline is built anew from them. Either way the baseline then stands at the last judged day.

        Parameters
        ----------
        performance_data : DataFrame
            Wide: ``date`` (or ``timestamp``), ``account_id``, metric columns among impressions, clicks, spend,
            conversions, revenue, and dimension columns; rows are added up. Long: ``metric`` and ``value`` instead of
            metric columns. Or a single series of any cadence: a time and one column of numbers.
        dates : day or sequence of days, optional
            Days to report, by default all. Days after the last of them are not looked at.

        Returns
        -------
        AnomalyReport

        Raises
        ------
        InputError
            If the data or the constructor's arguments break what is said of them, or ``dates`` are not in the data.
        """
        settings = self._settings()
        performance = read_performance(performance_data, self._dimensions())
        performance, wanted = _cut(performance, dates)
        metrics = plain_metrics(performance)
        plain = judge_plain(performance, metrics, float(self.sensitivity))
        told = [plain_anomalies(plain, wanted)]
        frames: list[Callable[[], pd.DataFrame]] = [partial(plain_metric_rows, plain, wanted)]
        if performance.daily and not performance.single:
            rows, frame = self._detect_in_panel(performance, wanted, settings)
            told.insert(0, rows)
            frames.insert(0, frame)
        self.anomalies_, self.events_ = (_joined(pieces) for pieces in zip(*told, strict=True))
        logger.info("anomalies: %d in %d rows of performance", len(self.anomalies_), len(performance.frame))
        return AnomalyReport(self.anomalies_, self.events_, lambda: _joined([frame() for frame in frames]))

    def _detect_in_panel(
        self, performance: Performance, wanted: set[pd.Timestamp] | None, settings: Settings
    ) -> tuple[tuple[pd.DataFrame, pd.DataFrame], Callable[[], pd.DataFrame]]:
        part = part_of(performance, self._dimensions())
        panel = build_panel(performance, part)
        watch = self._continued(panel.days)
        composer = Composer(performance, watch, self._dimensions(), settings)
        kept: list[JudgedNight] = []
        for judged in watch.run(panel, level=settings.level, window=settings.window):
            reported = wanted is None or judged.date in wanted
            composer.take(judged, report=reported)
            if reported:
                kept.append(judged)
        self.watch_ = watch
        accounts = tuple(watch.accounts)
        return composer.frames(), partial(metrics_of, kept, accounts, part)

    def update_baseline(self, new_data: pd.DataFrame) -> Self:
        """Take new days into the baseline without reporting on them; the cost is that of the new days.

        Parameters
        ----------
        new_data : DataFrame
            As in `detect_anomalies`; all days after the baseline's last one.

        Raises
        ------
        InputError
            If a day is not after the baseline's last one.
        """
        settings = self._settings()
        performance = read_performance(new_data, self._dimensions())
        if performance.single or not performance.daily:
            raise InputError(
                "update_baseline takes days of accounts, however: a single series or finer times; "
                "detect_anomalies judges those by themselves."
            )
        panel = build_panel(performance, part_of(performance, self._dimensions()))
        watch = self.watch_ if hasattr(self, "watch_") else Watch()
        composer = Composer(performance, watch, self._dimensions(), settings)
        for judged in watch.run(panel, level=settings.level, window=settings.window):
            composer.take(judged, report=False)
        self.watch_ = watch
        return self

    def get_anomaly_score(self, data_point: Mapping[str, Any] | pd.Series | pd.DataFrame) -> float:
        """Return how odd an account's day is beside its baseline, in [0, 1]: 1 - p of its oddest metric.

        The p-value is corrected for the number of metrics (Simes); 0 where the account has too short a history to say.

        Parameters
        ----------
        data_point : mapping, Series or frame of one day
            ``account_id`` and metrics; ``date`` where the weekday matters, by default the day after the baseline's
            last one. A frame may have several rows of one account: its campaigns.

        Raises
        ------
        NotFittedError
            Without a baseline.
        InputError
            If the account is unknown to the baseline, or there are several days or accounts.
        """
        watch = self._watch()
        frame = data_point if isinstance(data_point, pd.DataFrame) else pd.DataFrame([dict(data_point)])
        if not {"date", "timestamp"} & set(frame.columns):
            frame = frame.assign(date=(watch.last or pd.Timestamp(0)) + pd.Timedelta(days=1))
        performance = read_performance(frame, self._dimensions())
        return score_of(watch, performance, self._settings().level, part_of(performance, self._dimensions()))

    def explain_anomaly(self, anomaly_id: str) -> AnomalyExplanation:
        """Return an anomaly of the last `detect_anomalies` in words and numbers.

        Raises
        ------
        NotFittedError
            Before `detect_anomalies`.
        InputError
            If no anomaly has this id.
        """
        if not hasattr(self, "anomalies_"):
            raise NotFittedError("explain_anomaly needs anomalies; call detect_anomalies first.")
        rows = self.anomalies_[self.anomalies_["anomaly_id"] == anomaly_id]
        if rows.empty:
            known = shown(self.anomalies_["anomaly_id"].unique()) or "none"
            raise InputError(f"anomaly_id must be one of those found last ({known}), however: {anomaly_id!r}.")
        return explanation_of(rows, self.events_)

    def fit(self, X: Any, y: ArrayLike | None = None, *, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the cross-section on a plain matrix; labels and weights are not used.

        Parameters
        ----------
        X : array-like, shape (rows, columns)
            Numbers; NaN is a missing value.

        Raises
        ------
        InputError
            If X is no matrix of numbers, or ``detection_method`` is unknown.
        """
        self._settings()
        method = "combined" if self.detection_method == SEASONAL else self.detection_method
        self.cross_section_ = CrossSection(method).fit(X)  # type: ignore[arg-type]
        if sample_weight is not None:
            checked_weight(sample_weight, len(np.asarray(X)))
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.cross_section_, name):
                setattr(self, name, getattr(self.cross_section_, name))
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return how odd each row of a plain matrix is, shape (rows,); higher is odder.

        Raises
        ------
        NotFittedError
            Before `fit`.
        InputError
            If X has other columns than in fit.
        """
        require_fitted(self, "cross_section_")
        return self.cross_section_.decision_function(X)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return `decision_function`."""
        return self.decision_function(X)

    def validate(self, X: Any, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """Return the area under the ROC curve of `decision_function` against known outliers (y = 1)."""
        from sklearn.metrics import roc_auc_score

        return {"auroc": float(roc_auc_score(y, self.decision_function(X), sample_weight=sample_weight))}

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """The arguments that scikit-learn copies; what every model has beside them is no hyperparameter."""
        return ["baseline_window", "detection_method", "dimensions", "model_name", "sensitivity"]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constructor's own arguments as JSON values."""
        return {
            "detection_method": self.detection_method,
            "sensitivity": self.sensitivity,
            "dimensions": None if self.dimensions is None else list(self.dimensions),
            "baseline_window": self.baseline_window,
        }

    def _write_state(self, folder: Path) -> None:
        if hasattr(self, "watch_"):
            write_watch(self.watch_, folder)
        if hasattr(self, "cross_section_"):
            self.cross_section_.save(folder / _SECTION)
        if hasattr(self, "anomalies_"):
            write_found(self.anomalies_, self.events_, folder)

    def _read_state(self, folder: Path, metadata: ModelMetadata) -> None:
        watch = read_watch(folder)
        if watch is not None:
            self.watch_ = watch
        if (folder / _SECTION).is_dir():
            self.cross_section_ = CrossSection.load(folder / _SECTION)
            self.n_features_in_ = self.cross_section_.n_features_in_
        found = read_found(folder)
        if found is not None:
            self.anomalies_, self.events_ = found

    def _settings(self) -> Settings:
        require_method(self.detection_method)
        sensitivity, window = self.sensitivity, self.baseline_window
        if not isinstance(sensitivity, int | float) or isinstance(sensitivity, bool) or not 0 <= sensitivity <= 1:
            raise InputError(f"sensitivity must be a number from 0 to 1, however: {sensitivity!r}.")
        if not isinstance(window, int | np.integer) or isinstance(window, bool) or window < 7:
            raise InputError(f"baseline_window must be a whole number of days, 7 or more, however: {window!r}.")
        level = DISCOVERY_RATE * 100.0 ** (float(sensitivity) - 0.5)
        return Settings(self.detection_method, level, int(window))

    def _dimensions(self) -> tuple[str, ...] | None:
        if self.dimensions is None:
            return None
        if isinstance(self.dimensions, str) or not all(isinstance(d, str) for d in self.dimensions):
            raise InputError(f"dimensions must be a sequence of column names, however: {self.dimensions!r}.")
        return tuple(self.dimensions)

    def _watch(self) -> Watch:
        if not hasattr(self, "watch_"):
            raise NotFittedError("The detector has no baseline; call detect_anomalies or update_baseline first.")
        return self.watch_

    def _continued(self, days: pd.DatetimeIndex) -> Watch:
        watch: Watch | None = getattr(self, "watch_", None)
        if watch is None or watch.last is None or (len(days) and days[0] <= watch.last):
            return Watch()
        return watch


def _cut(performance: Performance, dates: Any) -> tuple[Performance, set[pd.Timestamp] | None]:
    """Leave out what comes after the last of the dates."""
    if dates is None:
        return performance, None
    wanted = read_dates(dates)
    frame = performance.frame
    unknown = sorted({d.date().isoformat() for d in wanted} - set(frame["date"].dt.strftime("%Y-%m-%d")))
    if unknown or not wanted:
        span = f"{frame['date'].min()} to {frame['date'].max()}" if len(frame) else "no days"
        raise InputError(f"dates must be days of performance_data ({span}), however: {shown(unknown) or 'none'}.")
    kept = frame[frame["date"] < wanted[-1] + pd.Timedelta(days=1)]
    return (
        Performance(kept, performance.metrics, performance.dimensions, performance.daily, performance.single),
        set(wanted),
    )


def _joined(pieces: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [piece for piece in pieces if len(piece)]
    return pd.concat(filled, ignore_index=True) if filled else pieces[0]
