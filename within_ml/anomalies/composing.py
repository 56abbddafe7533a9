"""Rows of a report from judged nights: ids, causes, words.

Nothing is judged here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from within_ml.anomalies.frames import Performance
from within_ml.anomalies.judgement import Finding, element_of, findings_of, primary_of
from within_ml.anomalies.metrics import METRICS, NAMES
from within_ml.anomalies.records import ANOMALY_COLUMNS, EVENT_COLUMNS, sentence_of, severity_of
from within_ml.anomalies.root_cause import Cause, baseline_and_day, root_causes
from within_ml.anomalies.watch import JudgedNight, Watch

CAUSES_TOLD = 3


class Composer:
    """Collects the rows of a report while nights are judged one after another."""

    def __init__(
        self, performance: Performance, watch: Watch, dimensions: Sequence[str] | None, baseline_days: int
    ) -> None:
        self._watch = watch
        self._performance = performance
        asked = performance.dimensions if dimensions is None else tuple(dimensions)
        self._dimensions = tuple(d for d in asked if d in performance.dimensions)
        self._baseline_days = baseline_days
        self._by_account: dict[str, pd.DataFrame] | None = None
        self._rows: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []

    def take(self, judged: JudgedNight, *, report: bool) -> None:
        """Give the night's findings their ids, and their rows where the night is reported."""
        by_account: dict[int, list[Finding]] = {}
        for finding in findings_of(judged):
            by_account.setdefault(finding.account, []).append(finding)
        for account, findings in by_account.items():
            name = self._watch.accounts[account]
            ids = [self._watch.episode(name, f.metric, judged.date, f.direction) for f in findings]
            if report:
                self._report(judged, name, findings, ids)

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the anomalies and the events so far."""
        rows = pd.DataFrame(self._rows, columns=list(ANOMALY_COLUMNS))
        events = pd.DataFrame(self._events, columns=list(EVENT_COLUMNS))
        numbers = [c for c in ANOMALY_COLUMNS if c.endswith(("value", "score")) or c in ("expected", "lower", "upper", "size")]
        rows = rows.astype(dict.fromkeys(numbers, "float64") | {"date": "datetime64[us]"})
        return rows, events.astype({"date": "datetime64[us]", "is_primary": bool})

    def _report(
        self, judged: JudgedNight, account: str, findings: list[Finding], ids: list[tuple[str, str]]
    ) -> None:
        primary = primary_of(findings)
        for position, (finding, (anomaly_id, event_id)) in enumerate(zip(findings, ids, strict=True)):
            element = element_of(judged, finding.series, self._watch.keys)
            row: dict[str, Any] = {
                "date": judged.date,
                "anomaly_id": anomaly_id,
                "account_id": account,
                **{k: getattr(finding, k) for k in _TAKEN},
                "anomaly_score": 1.0 - finding.p_value,
                "severity": severity_of(finding.p_value, finding.size, finding.sign),
                "cross_section_score": np.nan,
            }
            causes = self._causes(account, judged.date, finding.metric)
            row["root_cause"] = _causes_json(causes, self._watch.part, element)
            row["explanation"] = sentence_of(row, self._watch.part, element)
            self._rows.append(row)
            event = (event_id, judged.date, account, anomaly_id, finding.metric, position == primary)
            self._events.append(dict(zip(EVENT_COLUMNS, event, strict=True)))

    def _causes(self, account: str, date: pd.Timestamp, metric: str) -> tuple[Cause, ...]:
        needed = next(({m.value, m.base} - {None} for m in METRICS if m.name == metric), set())
        if not self._dimensions or not needed <= set(self._performance.metrics) or metric not in NAMES:
            return ()
        if self._by_account is None:
            frame = self._performance.frame
            self._by_account = {str(name): rows for name, rows in frame.groupby("account_id", sort=False)}
        rows = self._by_account[account]
        span = rows[(rows["date"] <= date) & (rows["date"] >= date - pd.Timedelta(days=self._baseline_days + 1))]
        first = self._watch.metric_episodes[account, metric].first
        expected, actual = baseline_and_day(
            span, date.date(), metric, self._baseline_days, dimensions=self._dimensions, first=first.date()
        )
        return root_causes(expected, actual, metric, self._dimensions)


_TAKEN = ("metric", "value", "expected", "lower", "upper", "size", "direction", "sign", "p_value", "q_value")


def _causes_json(causes: Sequence[Cause], part: str | None, element: str) -> str:
    """Return the most likely causes; without any, the part that shows the anomaly."""
    told = [
        {
            "dimension": cause.dimension,
            "elements": list(cause.elements),
            "share_explained": round(cause.share_explained, 4),
            "mix_effect": float(cause.mix_effect),
            "rate_effect": float(cause.rate_effect),
            "sentence": cause.sentence,
        }
        for cause in causes[:CAUSES_TOLD]
    ]
    if not told and element:
        told = [{"dimension": str(part), "elements": [element]}]
    return json.dumps(told, ensure_ascii=False, allow_nan=False)
