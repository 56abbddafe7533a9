"""Series that are judged one by one: a single series of any cadence, metrics by the hour, rates without their counts.

The panel of days, where counts are known, is judged in `nights`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.frames import Performance
from within_ml.anomalies.metrics import FACTS, METRICS, sign_of
from within_ml.anomalies.records import ANOMALY_COLUMNS, EVENT_COLUMNS, METRIC_COLUMNS, sentence_of, severity_of
from within_ml.anomalies.series import SeriesScores, SeriesSettings, score_series

EVIDENCE_PER_SENSITIVITY = 1.6
"""How much less evidence, -log10 of a tail share, an alarm needs at sensitivity 1 than at 0."""


@dataclass(frozen=True, slots=True, eq=False)
class PlainSeries:
    """One judged series."""

    account: str
    metric: str
    times: pd.DatetimeIndex
    values: NDArray[np.float64]
    scores: SeriesScores


def plain_metrics(performance: Performance) -> tuple[str, ...]:
    """Return the metrics that the panel cannot judge: all of finer than daily data, rates without their counts."""
    if performance.single:
        return performance.metrics
    given = set(performance.metrics)
    computable = {m.name for m in METRICS if {m.value, m.base} - {None} <= given}
    if not performance.daily:
        return tuple(m.name for m in METRICS if m.name in computable | given)
    return tuple(m.name for m in METRICS if m.name in given and m.name not in computable)


def judge_plain(performance: Performance, metrics: tuple[str, ...], sensitivity: float) -> list[PlainSeries]:
    """Judge each account's series of each metric, causally, at the threshold of `series`, moved by the sensitivity."""
    if not metrics:
        return []
    usual = SeriesSettings()
    settings = SeriesSettings(threshold=usual.threshold + EVIDENCE_PER_SENSITIVITY * (0.5 - sensitivity))
    result = []
    for account, metric, times, values in _series(performance, metrics):
        result.append(PlainSeries(account, metric, times, values, score_series(times, values, settings=settings)))
    return result


def _series(
    performance: Performance, metrics: tuple[str, ...]
) -> Iterator[tuple[str, str, pd.DatetimeIndex, NDArray[np.float64]]]:
    if performance.single:
        (name,), rows = performance.metrics, performance.frame
        yield "all", name, pd.DatetimeIndex(rows["date"]), rows[name].to_numpy(np.float64)
        return
    made = {m.name: m for m in METRICS}
    given = set(performance.metrics)
    for account, rows in performance.frame.groupby("account_id", sort=True):
        columns = [c for c in (*FACTS, *performance.metrics) if c in rows.columns]
        total = rows.groupby("date")[list(dict.fromkeys(columns))].sum(min_count=1)
        for name in metrics:
            metric = made.get(name)
            if metric is not None and metric.base is not None and {metric.value, metric.base} <= given:
                base = total[metric.base].where(total[metric.base] > 0)
                values = (total[metric.value] / base).to_numpy()
            else:
                values = total[name].to_numpy()
            yield str(account), name, pd.DatetimeIndex(total.index), np.asarray(values, dtype=np.float64)


def plain_anomalies(judged: list[PlainSeries], dates: set[pd.Timestamp] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows of anomalies and events; neighbouring points on one side are one anomaly."""
    rows, events = [], []
    for series in judged:
        first: pd.Timestamp | None = None
        before = (-2, "")
        for i in np.flatnonzero(series.scores.is_anomaly).tolist():
            time = series.times[i]
            value, expected = float(series.values[i]), float(series.scores.expected[i])
            direction = "above" if value > expected else "below"
            if first is None or before != (i - 1, direction):
                first = time
            before = (i, direction)
            if dates is not None and time.normalize() not in dates:
                continue
            row = _row(series, i, direction, value, expected, first)
            rows.append(row)
            event = hashlib.sha256(f"{series.account}|event|{first}".encode()).hexdigest()[:16]
            events.append((event, time, series.account, row["anomaly_id"], series.metric, True))
    told = pd.DataFrame(rows, columns=list(ANOMALY_COLUMNS)).astype({"date": "datetime64[us]"})
    return told, pd.DataFrame(events, columns=list(EVENT_COLUMNS)).astype(
        {"date": "datetime64[us]", "is_primary": bool}
    )


def _row(
    series: PlainSeries, i: int, direction: str, value: float, expected: float, first: pd.Timestamp
) -> dict[str, object]:
    score = float(series.scores.score[i])
    size = value / expected - 1 if expected > 0 else float("nan")
    sign = sign_of(series.metric, direction)
    row: dict[str, object] = {
        "date": series.times[i],
        "anomaly_id": hashlib.sha256(f"{series.account}|{series.metric}|{first}|{direction}".encode()).hexdigest()[:16],
        "account_id": series.account,
        "metric": series.metric,
        "value": value,
        "expected": expected,
        "lower": float(series.scores.lower[i]),
        "upper": float(series.scores.upper[i]),
        "size": size,
        "direction": direction,
        "sign": sign,
        "p_value": 1.0 - score,
        "q_value": 1.0 - score,
        "anomaly_score": score,
        "severity": severity_of(1.0 - score, size, sign),
        "cross_section_score": np.nan,
        "root_cause": "[]",
    }
    row["explanation"] = sentence_of(row, None, "")
    return row


def plain_metric_rows(judged: list[PlainSeries], dates: set[pd.Timestamp] | None) -> pd.DataFrame:
    """Return the rows of ``performance_metrics``."""
    pieces = []
    for series in judged:
        frame = pd.DataFrame(
            {
                "date": series.times,
                "account_id": series.account,
                "metric": series.metric,
                "period": "point",
                "value": series.values,
                "expected": series.scores.expected,
                "lower": series.scores.lower,
                "upper": series.scores.upper,
                "anomaly_score": series.scores.score,
                "is_anomaly": series.scores.is_anomaly,
                "context": '{"judged": true, "parts": null}',
            }
        )
        pieces.append(frame if dates is None else frame[frame["date"].dt.normalize().isin(dates)])
    return pd.concat(pieces, ignore_index=True) if pieces else pd.DataFrame(columns=list(METRIC_COLUMNS))
