"""From judged nights to rows: witnesses, bands, signs, and what belongs together.

Sentences and column orders belong in `records`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.baseline import values_and_bases
from within_ml.anomalies.counts import band
from within_ml.anomalies.metrics import JOINT, METRICS, NAMES, sign_of
from within_ml.anomalies.nights import Night
from within_ml.anomalies.panel import WHOLE
from within_ml.anomalies.records import METRIC_COLUMNS, metric_rows
from within_ml.anomalies.watch import JudgedNight

Floats = NDArray[np.float64]

BAND_TAIL = 0.005
"""Share of the values that the expected band leaves out on either side."""

SURGE = 1.8
SURGE_PRIOR = 3.5
"""From this factor on ctr, conversions must speak for interest with this log-likelihood to make the surge good news."""

_CTR, _CVR = NAMES.index("ctr"), NAMES.index("cvr")
_CONVERSIONS = NAMES.index("conversions")
_CLICK_METRICS = ("clicks", "ctr")


@dataclass(frozen=True, slots=True)
class Finding:
    """A flagged metric of an account on a night, before it gets its id and its words.

    ``series`` is the index of the part that shows it, -1 for the account as a whole.
    """

    account: int
    metric: str
    series: int
    value: float
    expected: float
    lower: float
    upper: float
    direction: str
    sign: str
    p_value: float
    q_value: float

    @property
    def size(self) -> float:
        """Relative change; NaN where nothing was expected."""
        return self.value / self.expected - 1 if self.expected > 0 else float("nan")


def findings_of(judged: JudgedNight) -> list[Finding]:
    """Return the flagged metrics of a night, each with the account's or its part's value and band."""
    night, layout = judged.night, judged.layout
    rows, accounts = np.nonzero(night.flagged)
    if not rows.size:
        return []
    members = [np.flatnonzero(layout.account == a) for a in range(layout.accounts)] if layout.split else []
    result = []
    for row, account in zip(rows.tolist(), accounts.tolist(), strict=True):
        series = -1
        if layout.split:
            p = night.series_p[row, members[account]]
            best = int(np.argmin(np.where(np.isnan(p), np.inf, p)))
            if not night.account_p[row, account] <= p[best]:
                series = int(members[account][best])
        result.append(_finding(night, row, account, series))
    return result


def _finding(night: Night, row: int, account: int, series: int) -> Finding:
    source, index = (night.account, account) if series < 0 else (night.series, series)
    mean, base = source.mean[row, index], source.base[row, index]
    mean_unit_extra = [np.atleast_1d(x[row, index]) for x in (source.mean, source.unit, source.extra)]
    low, high = band(mean_unit_extra[0], mean_unit_extra[1], mean_unit_extra[2], BAND_TAIL)
    scale = base if METRICS[row].base is not None else 1.0
    direction = "above" if source.z[row, index] > 0 else "below"
    metric = NAMES[row]
    sign = sign_of(metric, direction)
    if sign == "good" and metric in _CLICK_METRICS and clicks_without_conversions(night, account, series):
        sign = "bad"
    return Finding(
        account=account,
        metric=metric,
        series=series,
        value=float(source.value[row, index] / scale),
        expected=float(mean / scale),
        lower=float(low[0] / scale),
        upper=float(high[0] / scale),
        direction=direction,
        sign=sign,
        p_value=float(night.p[row, account]),
        q_value=float(night.q[row, account]),
    )


def clicks_without_conversions(night: Night, account: int, series: int) -> bool:
    """Whether more clicks per impression came without more conversions: not interest but fraud or accident.

    Conversions are nearer to what the usual clicks would have brought than to what these clicks should bring, by the
    Poisson likelihood of both. Where no conversions are known or expected, clicks are good news.
    """
    source, index = (night.account, account) if series < 0 else (night.series, series)
    ctr = source.value[_CTR, index] / source.mean[_CTR, index]
    usual = source.mean[_CVR, index] / ctr
    came = source.value[_CVR, index]
    unusual = source.z[_CTR, index] > 2.0
    if not (np.isfinite(usual) and usual > 0 and ctr > 1 and unusual):
        return False
    # Log-likelihood of ctr·usual minus that of usual; of a sudden surge, interest is the less likely story.
    gain = came * np.log(ctr) - usual * (ctr - 1)
    return bool(gain < (SURGE_PRIOR if ctr >= SURGE else 0.0))


def primary_of(findings: Sequence[Finding]) -> int:
    """Return the position of the finding that the others of the account follow from: the most certain driver."""
    drivers = {m.name for m in METRICS if m.driver}
    order = sorted(range(len(findings)), key=lambda i: (findings[i].metric not in drivers, findings[i].p_value, i))
    return order[0]


def metrics_of(judged: Sequence[JudgedNight], accounts: Sequence[str], part: str | None) -> pd.DataFrame:
    """Return the rows of ``performance_metrics``: every known metric of every account that had rows on the night."""
    pieces = [_metrics_of_night(night, accounts, part) for night in judged]
    if not pieces:
        return metric_rows({name: [] for name in METRIC_COLUMNS})
    return metric_rows({name: np.concatenate([piece[name] for piece in pieces]) for name in METRIC_COLUMNS})


def _metrics_of_night(judged: JudgedNight, accounts: Sequence[str], part: str | None) -> dict[str, NDArray[Any]]:
    night, layout = judged.night, judged.layout
    value, base = _account_totals(judged)
    unjudged_value = value - np.nan_to_num(night.account.value)
    low, high = band(night.account.mean, night.account.unit, night.account.extra, BAND_TAIL)
    ratio = np.array([m.base is not None for m in METRICS])[:, None]
    scale = np.where(ratio, base, 1.0)
    row, account = np.nonzero(~np.isnan(value) & ~np.isnan(base))
    at = (row, account)

    def told(x: Floats) -> Floats:
        # Campaigns without a baseline yet count as they came.
        whole = x + np.where(np.isnan(x), np.nan, np.where(layout.split, unjudged_value, 0.0))
        return np.asarray((whole / scale)[at])

    score = np.nan_to_num(1.0 - night.p)
    return {
        "date": np.full(len(row), judged.date.to_datetime64()),
        "account_id": np.array(accounts, dtype=object)[account],
        "metric": np.array(NAMES, dtype=object)[row],
        "period": np.full(len(row), "day", dtype=object),
        "value": (value / scale)[at],
        "expected": told(night.account.mean),
        "lower": told(low),
        "upper": told(high),
        "anomaly_score": score[at],
        "is_anomaly": night.flagged[at],
        "context": _contexts(judged, part, row, account),
    }


def _account_totals(judged: JudgedNight) -> tuple[Floats, Floats]:
    """Return value and base of each metric per account, of all its series, also those without a baseline."""
    layout = judged.layout
    if not layout.split:
        return values_and_bases(judged.facts)
    known = ~np.isnan(judged.facts)
    total = np.stack(
        [
            np.bincount(layout.account, np.where(k, f, 0.0), layout.accounts)
            for f, k in zip(judged.facts, known, strict=True)
        ]
    )
    seen = np.stack([np.bincount(layout.account, k, layout.accounts) > 0 for k in known])
    return values_and_bases(np.where(seen, total, np.nan))


def _contexts(judged: JudgedNight, part: str | None, row: NDArray[Any], account: NDArray[Any]) -> NDArray[Any]:
    """Return JSON objects: weekday, whether there was a baseline, along which parts, and the relative noise."""
    source = judged.night.account
    noise = np.sqrt(source.unit / source.mean + source.extra)[row, account]
    start = json.dumps({"weekday": judged.date.day_name(), "parts": part})[:-1]
    told = [
        f'{start}, "judged": false, "noise": null}}' if np.isnan(n) else f'{start}, "judged": true, "noise": {n:.4g}}}'
        for n in noise.tolist()
    ]
    return np.array(told, dtype=object)


def element_of(judged: JudgedNight, series: int, keys: Sequence[tuple[str, str]]) -> str:
    """Return the name of the part, empty for the account as a whole."""
    return WHOLE if series < 0 else keys[series][1]


def joint_direction(z: Floats) -> tuple[str, str]:
    """Return the side of the largest residual, and what the residuals mean together for the advertiser.

    >>> joint_direction(np.array([0, -3.0, 0, -2.0, np.nan, 0, -2.5, 0]))
    ('below', 'bad')
    """
    known = np.nan_to_num(z)
    direction = "above" if known[np.abs(known).argmax()] > 0 else "below"
    meaning = float(sum(m.good * v for m, v in zip(METRICS, known.tolist(), strict=True)))
    return direction, "neutral" if abs(meaning) < 1.0 else "good" if meaning > 0 else "bad"


def joint_row(p: float, q: float) -> dict[str, Any]:
    """Return the row of an account that is odd in several metrics together; it has no value and no band."""
    return {
        "metric": JOINT,
        **dict.fromkeys(("value", "expected", "lower", "upper", "size"), float("nan")),
        "p_value": p,
        "q_value": q,
        "anomaly_score": 1.0 - p,
        "severity": "medium" if p <= 1e-6 else "low",
        "cross_section_score": 1.0 - p,
        "root_cause": "[]",
    }
