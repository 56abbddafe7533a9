"""How good a model is: on training, validation and test rows, beside the baselines, with confidence intervals.

It reads frames with labels and asks anything with ``predict``; it decides nothing (that is `gate`) and draws nothing
(that is `report`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml import metrics
from within_ml.errors import InputError, shown
from within_ml.features.labels import LABEL_COLUMNS, observed_rates
from within_ml.metrics import PairAccuracy, ReliabilityCurve
from within_ml.splits import to_days
from within_ml.uncertainty.coverage import Intervals, coverage_report
from within_ml.validation.baselines import Predictor, fit_baselines
from within_ml.validation.bootstrap import ClusterBootstrap, Interval

FloatArray = NDArray[np.float64]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_CAMPAIGN = ["platform", "account_id", "campaign_id"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One predictor's metrics on one set of rows; NaN where a metric is not defined (no click, no pair).

    ``log_loss`` is per impression in nats, ``calibration_ratio`` predicted over actual clicks. Pairs and ``spearman``
    are within campaigns of one day: which of two ads that ran together got more clicks per impression.
    """

    log_loss: Interval
    brier: float
    auc: float
    ece: float
    calibration_ratio: Interval
    pair_accuracy: PairAccuracy
    pair_accuracy_significant: PairAccuracy
    spearman: float


@dataclass(frozen=True, slots=True)
class PartReport:
    """The model on one part of the history; ``train`` is in-sample, the gap to ``test`` is what it overfits."""

    part: str
    first_date: date
    last_date: date
    n_rows: int
    n_campaigns: int
    impressions: float
    clicks: float
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """A baseline on the test rows; ``log_loss_difference`` is the model's minus the baseline's, paired by campaign."""

    baseline: str
    judgement: Judgement
    log_loss_difference: Interval


@dataclass(frozen=True, slots=True)
class AccountCoverage:
    """Intervals of one account's test rows: the share that the observed rate was inside of, and their mean width."""

    account: str
    n_rows: int
    coverage: float
    width: float


@dataclass(frozen=True, slots=True)
class IntervalReport:
    """Intervals on the test rows: nominal ``confidence``, coverage, mean interval score (Winkler), and each account."""

    confidence: float
    n_rows: int
    coverage: float
    winkler: float
    accounts: tuple[AccountCoverage, ...]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All that `ModelEvaluator` found; ``reliability`` and ``intervals`` are on the test rows.

    ``intervals`` is None for a model without any.
    """

    model_name: str
    model_version: str | None
    confidence: float
    n_bootstrap: int
    parts: tuple[PartReport, ...]
    baselines: tuple[BaselineReport, ...]
    reliability: ReliabilityCurve
    feature_importance: dict[str, float]
    intervals: IntervalReport | None = None

    def part(self, name: str) -> PartReport:
        """Return one part's report.

        Raises
        ------
        InputError
            If it was not evaluated.
        """
        for part in self.parts:
            if part.part == name:
                return part
        raise InputError(f"The parts evaluated are {shown(p.part for p in self.parts)}; there is no {name!r}.")

    def metrics(self) -> dict[str, float]:
        """Return flat numbers for a registry, ``test_log_loss`` and so on; undefined ones are left out."""
        flat: dict[str, float] = {}
        for part in self.parts:
            flat |= {f"{part.part}_{name}": value for name, value in _flat(part.judgement).items()}
            flat[f"{part.part}_rows"] = float(part.n_rows)
        for baseline in self.baselines:
            flat |= {f"{baseline.baseline}_{name}": value for name, value in _flat(baseline.judgement).items()}
            flat[f"log_loss_minus_{baseline.baseline}"] = baseline.log_loss_difference.value
        if self.intervals is not None:
            flat |= {"test_interval_coverage": self.intervals.coverage, "test_winkler": self.intervals.winkler}
        return {name: value for name, value in flat.items() if math.isfinite(value)}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; NaN becomes None, dates ISO text."""
        content: dict[str, Any] = _json_value(asdict(self))
        return content

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_html(self) -> str:
        """Return the report as one self-contained page."""
        from within_ml.validation.report import render_html

        return render_html(self)


class ModelEvaluator:
    """Evaluate a model on parts of the history, and on the test part beside baselines.

    Parameters
    ----------
    n_bootstrap : int
        Draws of the bootstrap by campaign.
    random_state : int
        Its seed.
    confidence : float
        Two-sided confidence of the intervals.

    Examples
    --------
    >>> from within_ml.validation.baselines import GlobalRate
    >>> rng = np.random.default_rng(0)
    >>> frame = pd.DataFrame({
    ...     "date": pd.date_range("2024-01-01", periods=100).repeat(4), "platform": "meta", "account_id": "a",
    ...     "campaign_id": np.arange(400) // 4, "headline": "x", "label_impressions": 1000,
    ...     "label_clicks": rng.binomial(1000, 0.02, 400)})
    >>> frames = {"train": frame[:300], "test": frame[300:]}
    >>> model = GlobalRate().fit(frame, frame["label_clicks"] / 1000)
    >>> report = ModelEvaluator(n_bootstrap=100).evaluate(model, frames)
    >>> report.part("test").n_rows, [b.baseline for b in report.baselines]
    (100, ['global_rate', 'smoothed_campaign_rate', 'tfidf_ridge'])
    """

    def __init__(self, n_bootstrap: int = 1000, random_state: int = 0, *, confidence: float = 0.95) -> None:
        self.n_bootstrap = n_bootstrap
        self.random_state = random_state
        self.confidence = confidence

    def evaluate(
        self,
        model: Predictor,
        frames: Mapping[str, pd.DataFrame],
        *,
        baselines: Mapping[str, Predictor] | None = None,
    ) -> EvaluationReport:
        """Predict all parts and judge the predictions.

        Parameters
        ----------
        model : Predictor
            Fitted. Where it has ``model_name``, ``model_version`` or ``get_feature_importance``, they are reported.
        frames : mapping of str to DataFrame
            ``test`` and, where wanted, ``train`` and ``validation``: rows of ``ad_training_set`` with their labels.
        baselines : mapping of str to Predictor, optional
            Fitted; by default the three of `baselines`, fitted on train and validation rows, that is, on all that the
            model was allowed to see.

        Raises
        ------
        InputError
            If there is no test row, or a label column is missing.
        """
        if TEST not in frames or not len(frames[TEST]):
            raise InputError(f"An evaluation needs test rows, however: parts {shown(frames)}. Split a longer history.")
        for name, frame in frames.items():
            _check_frame(name, frame)
        if baselines is None:
            seen = pd.concat([frame for name, frame in frames.items() if name != TEST] or [frames[TEST][:0]])
            baselines = fit_baselines(seen, _rate(seen), sample_weight=seen["label_impressions"]) if len(seen) else {}
        order = [name for name in (TRAIN, VALIDATION, TEST) if name in frames and len(frames[name])]
        predictions = {name: np.asarray(model.predict(frames[name]), dtype=np.float64) for name in order}
        test, p = frames[TEST], predictions[TEST]
        importance: Mapping[str, float] = getattr(model, "get_feature_importance", dict)()
        return EvaluationReport(
            model_name=str(getattr(model, "model_name", type(model).__name__)),
            model_version=getattr(model, "model_version", None),
            confidence=self.confidence,
            n_bootstrap=self.n_bootstrap,
            parts=tuple(self._part(name, frames[name], predictions[name]) for name in order),
            baselines=tuple(self._baseline(name, b.predict(test), test, p) for name, b in baselines.items()),
            reliability=metrics.reliability_curve(_rate(test), p, sample_weight=test["label_impressions"]),
            feature_importance={name: float(value) for name, value in importance.items()},
            intervals=_interval_report(model, test),
        )

    def judge(self, frame: pd.DataFrame, y_prob: FloatArray) -> Judgement:
        """Judge predictions, shape (n,), for the rows of a labelled frame."""
        return self._judge(frame, y_prob, self._bootstrap(frame))

    def _bootstrap(self, frame: pd.DataFrame) -> ClusterBootstrap:
        groups = campaign_groups(frame)
        return ClusterBootstrap(groups, n_bootstrap=self.n_bootstrap, random_state=self.random_state)

    def _judge(self, frame: pd.DataFrame, p: FloatArray, bootstrap: ClusterBootstrap) -> Judgement:
        y, n = _rate(frame), frame["label_impressions"].to_numpy(np.float64)
        clicks, together = frame["label_clicks"].to_numpy(np.float64), campaign_groups(frame, by_day=True)
        metrics.check_rates(y, p, n)
        return Judgement(
            log_loss=bootstrap.interval(metrics.row_log_loss(y, p) * n, n, confidence=self.confidence),
            brier=metrics.brier(y, p, sample_weight=n),
            auc=metrics.auc(y, p, sample_weight=n),
            ece=metrics.ece(y, p, sample_weight=n),
            calibration_ratio=bootstrap.interval(p * n, clicks, confidence=self.confidence),
            pair_accuracy=metrics.pair_accuracy(p, clicks, n, together),
            pair_accuracy_significant=metrics.pair_accuracy(p, clicks, n, together, significant=True),
            spearman=metrics.within_group_spearman(y, p, together),
        )

    def _part(self, name: str, frame: pd.DataFrame, p: FloatArray) -> PartReport:
        days, bootstrap = to_days(frame["date"]), self._bootstrap(frame)
        return PartReport(
            part=name,
            first_date=days.min().item(),
            last_date=days.max().item(),
            n_rows=len(frame),
            n_campaigns=bootstrap.n_groups,
            impressions=float(frame["label_impressions"].sum()),
            clicks=float(frame["label_clicks"].sum()),
            judgement=self._judge(frame, p, bootstrap),
        )

    def _baseline(self, name: str, p_baseline: FloatArray, frame: pd.DataFrame, p: FloatArray) -> BaselineReport:
        y, n, bootstrap = _rate(frame), frame["label_impressions"].to_numpy(np.float64), self._bootstrap(frame)
        difference = (metrics.row_log_loss(y, p) - metrics.row_log_loss(y, p_baseline)) * n
        return BaselineReport(
            baseline=name,
            judgement=self._judge(frame, p_baseline, bootstrap),
            log_loss_difference=bootstrap.interval(difference, n, confidence=self.confidence),
        )


def campaign_groups(frame: pd.DataFrame, *, by_day: bool = False) -> NDArray[np.int64]:
    """Return the number of each row's campaign, shape (n,); with ``by_day`` of its campaign and day."""
    keys = [*_CAMPAIGN, "date"] if by_day else _CAMPAIGN
    codes: NDArray[np.int64] = frame.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    return codes


def _interval_report(model: Predictor, test: pd.DataFrame) -> IntervalReport | None:
    """Judge the intervals of a model that has some."""
    if not hasattr(model, "predict_with_intervals"):
        return None
    found = model.predict_with_intervals(test)
    if found.attrs.get("confidence") is None or found["ctr_lower"].isna().any():
        return None
    confidence = float(found.attrs["confidence"])
    intervals = Intervals(found["ctr_lower"].to_numpy(), found["ctr_upper"].to_numpy(), confidence)
    accounts = (test["platform"].astype(str) + "/" + test["account_id"].astype(str)).to_numpy()
    report = coverage_report(intervals, _rate(test), accounts)
    return IntervalReport(
        confidence=confidence,
        n_rows=report.rows,
        coverage=report.coverage,
        winkler=report.winkler,
        accounts=tuple(
            AccountCoverage(str(row.group), int(row.rows), float(row.coverage), float(row.width))
            for row in report.groups.sort_values("coverage").itertuples()
        ),
    )


def _check_frame(name: str, frame: pd.DataFrame) -> None:
    missing = [column for column in ("date", *_CAMPAIGN, *LABEL_COLUMNS) if column not in frame.columns]
    if missing:
        raise InputError(f"Rows to evaluate need date, campaign and labels; {name} lacks {shown(missing)}.")
    if not (frame["label_impressions"] > 0).all():
        raise InputError(f"Rows to evaluate need label_impressions above 0; {name} has rows without. Drop them first.")


def _rate(frame: pd.DataFrame) -> FloatArray:
    rate: FloatArray = observed_rates(frame)[0].to_numpy(np.float64)
    return rate


def _flat(judgement: Judgement) -> dict[str, float]:
    return {
        "log_loss": judgement.log_loss.value,
        "brier": judgement.brier,
        "auc": judgement.auc,
        "ece": judgement.ece,
        "calibration_ratio": judgement.calibration_ratio.value,
        "pair_accuracy": judgement.pair_accuracy.accuracy,
        "pair_accuracy_significant": judgement.pair_accuracy_significant.accuracy,
        "spearman": judgement.spearman,
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if isinstance(value, date) else value
