"""Rows of a report from judged nights: ids, causes, words.

Nothing is judged here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.discovery import false_discovery
from within_ml.anomalies.frames import Performance
from within_ml.anomalies.judgement import Finding, element_of, findings_of, joint_direction, joint_row, primary_of
from within_ml.anomalies.metrics import JOINT, METRICS, NAMES, Metric
from within_ml.anomalies.peers import PEERS
from within_ml.anomalies.records import ANOMALY_COLUMNS, EVENT_COLUMNS, joint_sentence, sentence_of, severity_of
from within_ml.anomalies.root_cause import Cause, baseline_and_day, root_causes
from within_ml.anomalies.watch import JudgedNight, Watch

Floats = NDArray[np.float64]

CAUSES_TOLD = 3

ARRIVED = (0.45, 0.65, 0.77, 0.86, 0.92, 0.97)
"""Ordinary share of a day's conversions that is known on the same evening, a day later, two days later, …"""

JOINT_SHARE = 0.1
"""Share of the false discovery rate at which joint anomalies are told: they are one test among nine of an account."""

ODD_TOO = 1e-3
"""p-value below which another part of the account counts as odd too."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the composer needs of the detector's arguments: method, false discovery rate and window in days."""

    method: str
    level: float
    window: int


class Composer:
    """Collects the rows of a report while nights are judged one after another."""

    def __init__(
        self, performance: Performance, watch: Watch, dimensions: Sequence[str] | None, settings: Settings
    ) -> None:
        self._watch = watch
        self._performance = performance
        asked = performance.dimensions if dimensions is None else tuple(dimensions)
        self._dimensions = tuple(d for d in asked if d in performance.dimensions)
        self._settings = settings
        self._newest = performance.frame["date"].max()
        self._by_account: dict[str, pd.DataFrame] | None = None
        self._rows: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []

    def take(self, judged: JudgedNight, *, report: bool) -> None:
        """Give the night's findings their ids, and their rows where the night is reported; remember the night."""
        by_account: dict[int, list[Finding]] = {}
        for finding in findings_of(judged):
            by_account.setdefault(finding.account, []).append(finding)
        if judged.layout.most_peers < PEERS:
            kept = {a: [f for f in found if not self._late(judged, f)] for a, found in by_account.items()}
            by_account = {a: found for a, found in kept.items() if found}
        odd = np.atleast_1d(judged.night.flagged.any(axis=0))
        residuals = judged.night.account.z
        p = self._watch.joint.p_values(residuals, judged.date, self._settings.method, odd)
        for account, findings in by_account.items():
            name = self._watch.accounts[account]
            ids = [self._watch.episode(name, f.metric, judged.date, f.direction) for f in findings]
            if report:
                self._report(judged, name, findings, ids, 1.0 - float(p[account]))
        self._joint(judged, p, odd, report=report)
        self._watch.joint.add(residuals, judged.date, ~odd)

    def _late(self, judged: JudgedNight, finding: Finding) -> bool:
        """Whether too few conversions on the newest days may be conversions that have not arrived yet.

        Many accounts show together what has not arrived; few are given the benefit of the ordinary delay.
        """
        age = (self._newest - judged.date).days
        late = finding.metric in ("conversions", "cvr", "roas") and finding.direction == "below"
        return late and age < len(ARRIVED) and finding.value >= ARRIVED[age] * finding.lower

    def _joint(self, judged: JudgedNight, p: Floats, odd: NDArray[np.bool_], *, report: bool) -> None:
        """Tell the accounts that are odd in several metrics together, by the same false discovery rate."""
        tested = (~np.isnan(judged.night.account.z)).any(axis=0)
        # Those that were not asked for are ordinary; they count as tests.
        q = false_discovery(np.where(tested, np.where(np.isnan(p), 1.0, p), np.nan))
        with np.errstate(invalid="ignore"):
            found = np.flatnonzero((q <= JOINT_SHARE * self._settings.level) & ~odd)
        for account in found.tolist():
            name = self._watch.accounts[account]
            direction, sign = joint_direction(judged.night.account.z[:, account])
            anomaly_id, event_id = self._watch.episode(name, JOINT, judged.date, "")
            if report:
                row = joint_row(float(p[account]), float(q[account]))
                row |= {"date": judged.date, "anomaly_id": anomaly_id, "account_id": name}
                row |= {"direction": direction, "sign": sign}
                self._rows.append(row | {"explanation": joint_sentence(row, judged.night.account.z[:, account])})
                event = (event_id, judged.date, name, anomaly_id, JOINT, True)
                self._events.append(dict(zip(EVENT_COLUMNS, event, strict=True)))

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the anomalies and the events so far."""
        rows = pd.DataFrame(self._rows, columns=list(ANOMALY_COLUMNS))
        events = pd.DataFrame(self._events, columns=list(EVENT_COLUMNS))
        numbers = [
            c for c in ANOMALY_COLUMNS if c.endswith(("value", "score")) or c in ("expected", "lower", "upper", "size")
        ]
        rows = rows.astype(dict.fromkeys(numbers, "float64") | {"date": "datetime64[us]"})
        return rows, events.astype({"date": "datetime64[us]", "is_primary": bool})

    def _report(
        self,
        judged: JudgedNight,
        account: str,
        findings: list[Finding],
        ids: list[tuple[str, str]],
        cross_section: float,
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
                "cross_section_score": cross_section,
            }
            causes = self._causes(judged, finding)
            row["root_cause"] = _causes_json(causes, self._watch.part, element)
            row["explanation"] = sentence_of(row, self._watch.part, element)
            self._rows.append(row)
            event = (event_id, judged.date, account, anomaly_id, finding.metric, position == primary)
            self._events.append(dict(zip(EVENT_COLUMNS, event, strict=True)))

    def _causes(self, judged: JudgedNight, finding: Finding) -> tuple[Cause, ...]:
        """Return what explains the change, among the parts that have a baseline: a campaign's start is no cause."""
        metric = METRICS[NAMES.index(finding.metric)]
        if not self._dimensions:
            return ()
        if self._by_account is None:
            frame = self._performance.frame
            self._by_account = {str(name): rows for name, rows in frame.groupby("account_id", sort=False)}
        account = self._watch.accounts[finding.account]
        expected, actual = self._both_periods(judged, finding, self._by_account[account], metric)
        causes = root_causes(expected, actual, metric.name, self._dimensions)
        return self._own_first(judged, finding, causes)

    def _both_periods(
        self, judged: JudgedNight, finding: Finding, rows: pd.DataFrame, metric: Metric
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return expected and actual values; the expected ones are as large as the night's baseline says."""
        date, part = judged.date, self._watch.part
        first = self._watch.metric_episodes[self._watch.accounts[finding.account], metric.name].first
        chosen = (rows["date"] == date) | (rows["date"] < first)
        chosen &= (rows["date"] <= date) & (rows["date"] >= date - pd.Timedelta(days=self._settings.window))
        row = NAMES.index(metric.name)
        series = judged.night.series
        means = {
            self._watch.keys[i][1]: (series.mean[row, i], series.base[row, i])
            for i in np.flatnonzero((judged.layout.account == finding.account) & ~np.isnan(series.z[row])).tolist()
        }
        if part is not None:
            chosen &= rows[part].isin(list(means))
        expected, actual = baseline_and_day(
            rows[chosen], date.date(), metric.name, self._settings.window, dimensions=self._dimensions
        )
        if part in expected.columns and len(expected):
            columns = [metric.value] if metric.base is None else [metric.value, metric.base]
            totals = expected.groupby(part)[columns].sum()
            usual = totals[metric.value] / (1.0 if metric.base is None else totals[metric.base])
            wanted = pd.Series({k: mean / base for k, (mean, base) in means.items()})
            factor = (wanted.reindex(usual.index) / usual).replace([np.inf, -np.inf], np.nan).fillna(1.0)
            expected[metric.value] = expected[metric.value] * expected[part].map(factor).to_numpy()
        return expected, actual

    def _own_first(self, judged: JudgedNight, finding: Finding, causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
        """Name the part that was found odd by itself first, unless others of the account are odd too."""
        part = self._watch.part
        if finding.series < 0 or part not in self._dimensions:
            return causes
        p = judged.night.series_p[NAMES.index(finding.metric)]
        mine = judged.layout.account == finding.account
        with np.errstate(invalid="ignore"):
            odd = np.flatnonzero(mine & (p < ODD_TOO)).tolist()
        if odd != [finding.series]:
            return causes
        element = self._watch.keys[finding.series][1]
        own = [c for c in causes if c.dimension == part and c.elements == (element,)]
        if not own:
            sentence = f"{finding.metric} of {element} alone is outside its band."
            change = finding.value - finding.expected
            own = [Cause(str(part), (element,), float("nan"), float("nan"), 0.0, change, sentence)]
        return (own[0], *(c for c in causes if c is not own[0]))


_TAKEN = ("metric", "value", "expected", "lower", "upper", "size", "direction", "sign", "p_value", "q_value")


def _causes_json(causes: Sequence[Cause], part: str | None, element: str) -> str:
    """Return the most likely causes; without any, the part that shows the anomaly."""
    told = [
        {
            "dimension": cause.dimension,
            "elements": list(cause.elements),
            "share_explained": None if np.isnan(cause.share_explained) else round(cause.share_explained, 4),
            "mix_effect": float(cause.mix_effect),
            "rate_effect": float(cause.rate_effect),
            "sentence": cause.sentence,
        }
        for cause in causes[:CAUSES_TOLD]
    ]
    if not told and element:
        told = [{"dimension": str(part), "elements": [element]}]
    return json.dumps(told, ensure_ascii=False, allow_nan=False)
