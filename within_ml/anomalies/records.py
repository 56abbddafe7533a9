"""What the detector hands out: rows of the tables ``anomalies`` and ``performance_metrics``, and one anomaly in words.

Judging belongs in `nights`, causes in `root_cause`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.metrics import NAMES

ANOMALY_COLUMNS = (
    "date",
    "anomaly_id",
    "account_id",
    "metric",
    "value",
    "expected",
    "lower",
    "upper",
    "size",
    "direction",
    "sign",
    "p_value",
    "q_value",
    "anomaly_score",
    "severity",
    "cross_section_score",
    "root_cause",
    "explanation",
)
METRIC_COLUMNS = (
    "date",
    "account_id",
    "metric",
    "period",
    "value",
    "expected",
    "lower",
    "upper",
    "anomaly_score",
    "is_anomaly",
    "context",
)
EVENT_COLUMNS = ("event_id", "date", "account_id", "anomaly_id", "metric", "is_primary")


@dataclass(frozen=True, slots=True, eq=False)
class AnomalyReport:
    """What `AnomalyDetector.detect_anomalies` found.

    Attributes
    ----------
    anomalies : DataFrame
        One row per date × anomaly, the columns of `ANOMALY_COLUMNS`. ``anomaly_id`` is the same on all days of an
        anomaly. ``value``, ``expected`` and the band are those of the account, or of its campaign (or other part)
        where the anomaly is one of a part; ``root_cause`` names it.
    events : DataFrame
        The same rows by account: ``event_id`` is shared by all that happens to an account at a time, ``is_primary``
        marks the metric that the others follow from.
    metric_frame : callable
        Makes ``metrics``; asked for only where it is wanted, since it is as large as the input.

    Examples
    --------
    >>> empty = AnomalyReport(pd.DataFrame(columns=ANOMALY_COLUMNS), pd.DataFrame(columns=EVENT_COLUMNS), pd.DataFrame)
    >>> len(empty)
    0
    """

    anomalies: pd.DataFrame
    events: pd.DataFrame
    metric_frame: Callable[[], pd.DataFrame]

    @property
    def metrics(self) -> pd.DataFrame:
        """All judged values, one row per date × account × metric, the columns of `METRIC_COLUMNS`."""
        return self.metric_frame()

    @property
    def primary(self) -> pd.DataFrame:
        """The anomalies without those that follow from another one of the same account and day."""
        return self.anomalies[self.events["is_primary"].to_numpy(dtype=bool)].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.anomalies)


@dataclass(frozen=True, slots=True)
class AnomalyExplanation:
    """One anomaly in words and numbers; of several days the worst.

    Attributes
    ----------
    anomaly_id, event_id, account_id, metric : str
    first_date, last_date : str
        ISO days.
    value, expected, lower, upper : float
        On the day with the smallest p-value; NaN for a joint anomaly.
    direction, sign, severity : str
    p_value : float
    root_cause : tuple of mapping
        Causes, the most likely one first; empty where no dimension was given.
    related : tuple of str
        Other metrics of the same event.
    sentence : str
    """

    anomaly_id: str
    event_id: str
    account_id: str
    metric: str
    first_date: str
    last_date: str
    value: float
    expected: float
    lower: float
    upper: float
    direction: str
    sign: str
    severity: str
    p_value: float
    root_cause: tuple[Mapping[str, Any], ...]
    related: tuple[str, ...]
    sentence: str


def explanation_of(rows: pd.DataFrame, events: pd.DataFrame) -> AnomalyExplanation:
    """Return the explanation of one anomaly's rows (one per day, at least one)."""
    worst = rows.loc[rows["p_value"].idxmin()]
    event = str(events.loc[events["anomaly_id"] == worst["anomaly_id"], "event_id"].iloc[-1])
    related = events.loc[(events["event_id"] == event) & (events["anomaly_id"] != worst["anomaly_id"]), "metric"]
    return AnomalyExplanation(
        anomaly_id=str(worst["anomaly_id"]),
        event_id=event,
        account_id=str(worst["account_id"]),
        metric=str(worst["metric"]),
        first_date=str(rows["date"].min().date()),
        last_date=str(rows["date"].max().date()),
        value=float(worst["value"]),
        expected=float(worst["expected"]),
        lower=float(worst["lower"]),
        upper=float(worst["upper"]),
        direction=str(worst["direction"]),
        sign=str(worst["sign"]),
        severity=str(worst["severity"]),
        p_value=float(worst["p_value"]),
        root_cause=tuple(json.loads(worst["root_cause"])),
        related=tuple(sorted(set(related))),
        sentence=str(worst["explanation"]),
    )


def bad_anomalies(anomalies: pd.DataFrame, account_ids: Sequence[str]) -> NDArray[np.int64]:
    """Count the anomalies of each account that are bad for the advertiser, shape (accounts,).

    Parameters
    ----------
    anomalies : DataFrame
        Rows of the table ``anomalies``; one that lasts for several days counts once.
    account_ids : sequence of str

    Examples
    --------
    >>> rows = pd.DataFrame({"account_id": list("aaab"), "anomaly_id": list("1123"), "sign": ["bad"] * 3 + ["good"]})
    >>> bad_anomalies(rows, ["a", "b", "c"]).tolist()
    [2, 0, 0]
    """
    bad = anomalies[anomalies["sign"] == "bad"].groupby("account_id")["anomaly_id"].nunique()
    return np.asarray(bad.reindex(list(account_ids), fill_value=0), dtype=np.int64)


def severity_of(p_value: float, size: float | None, sign: str) -> str:
    """Return low, medium or high: high is beyond all chance, by half or more, and not good.

    >>> severity_of(1e-9, -0.8, "bad"), severity_of(1e-9, 0.8, "good"), severity_of(1e-4, -0.2, "bad")
    ('high', 'medium', 'low')
    """
    large = size is None or abs(size) >= 0.5 or not np.isfinite(size)
    if p_value <= 1e-6 and large:
        return "medium" if sign == "good" else "high"
    return "medium" if p_value <= 1e-6 or large else "low"


def sentence_of(row: Mapping[str, Any], part: str | None, element: str) -> str:
    """Say what happened in one sentence.

    >>> sentence_of({"metric": "clicks", "account_id": "a", "date": pd.Timestamp("2024-01-02"), "value": 50.0,
    ...              "expected": 100.0, "lower": 80.0, "upper": 121.0}, "campaign_id", "c1")
    'clicks of campaign c1 (account a) on 2024-01-02: 50 where 100 were expected (80 to 121), 50 % lower.'
    """
    who = f"account {row['account_id']}"
    if element:
        who = f"{str(part).removesuffix('_id').replace('_', ' ')} {element} ({who})"
    numbers = [number_text(row[name], str(row["metric"])) for name in ("value", "expected", "lower", "upper")]
    change = row["value"] / row["expected"] - 1 if row["expected"] else np.inf
    by = f"{abs(change) * 100:.0f} % {'higher' if change > 0 else 'lower'}" if np.isfinite(change) else "higher"
    return (
        f"{row['metric']} of {who} on {row['date'].date()}: {numbers[0]} where {numbers[1]} were expected "
        f"({numbers[2]} to {numbers[3]}), {by}."
    )


def joint_sentence(row: Mapping[str, Any], residuals: NDArray[np.float64]) -> str:
    """Say which metrics are odd together, the farthest three.

    >>> row = {"account_id": "a", "date": pd.Timestamp("2024-01-02")}
    >>> joint_sentence(row, np.array([0.1, -2.0, 0.0, 2.5, 0.2, np.nan, 3.0, 0.0]))
    'Several metrics of account a on 2024-01-02 are odd together, none alone: cvr higher, conversions higher, clicks
    lower.'
    """
    known = np.nan_to_num(residuals)
    farthest = np.argsort(-np.abs(known))[:3].tolist()
    parts = ", ".join(f"{NAMES[i]} {'higher' if known[i] > 0 else 'lower'}" for i in farthest)
    return (
        f"Several metrics of account {row['account_id']} on {row['date'].date()} are odd together, none alone: {parts}."
    )


def number_text(value: float, metric: str) -> str:
    """Return a number as a person would write it.

    >>> number_text(0.0123, "ctr"), number_text(1234.4, "clicks"), number_text(0.456, "cpc")
    ('1.23 %', '1,234', '0.46')
    """
    if metric in ("ctr", "cvr"):
        return f"{100 * value:.3g} %"
    if metric in ("cpc", "roas"):
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3g}"


def metric_rows(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> pd.DataFrame:
    """Return the columns in the order and types of `METRIC_COLUMNS`."""
    frame = pd.DataFrame({name: columns[name] for name in METRIC_COLUMNS})
    return frame.astype({"is_anomaly": bool})
