"""Early warnings: the risk from which on one is given, and how long before an account left it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.health.hazard import ChurnHazard, Spells
from within_ml.health.labels import NEVER

FloatArray = NDArray[np.float64]

WARNED_DAYS = 30
"""The risk that warnings look at is that of leaving within so many days."""

EARLY_DAYS = 60
"""Days before an account leaves on which a warning is wanted."""

LONGEST_LEAD_DAYS = 90
"""A warning longer ago than this was about something else."""


@dataclass(frozen=True, slots=True)
class WarningReport:
    """What warnings were worth on a history.

    Attributes
    ----------
    threshold : float
        Least 30-day risk of a warning.
    false_alarm_rate : float
        Share of its days on which an account that did not leave had a warning, mean over those accounts; NaN without.
    ever_alarmed : float
        Share of those accounts that had a warning on any day.
    detected : float
        Share of those that left which were warned of before; NaN without any.
    median_lead_days : float
        Median days from the first warning to the day the account left; 0 for one without a warning.
    leads : DataFrame
        Of each account that left ``account_id``, ``left_date``, ``first_warning`` (NaT without one), ``lead_days``.
    """

    threshold: float
    false_alarm_rate: float
    ever_alarmed: float
    detected: float
    median_lead_days: float
    leads: pd.DataFrame


def alarm_threshold(churn: ChurnHazard, X: pd.DataFrame, spells: Spells, rate: float) -> float:
    """Return the least risk of a warning, chosen on risks by members that did not see the account.

    Accounts that stayed may have a warning on a share ``rate`` of their days. Of the thresholds that keep to this, the
    one that tells the last `EARLY_DAYS` days of those who left best from the days of those who stayed: where that is
    easy, false alarms are fewer than they may be. 1 where no account stayed.
    """
    names = np.unique(spells.account.astype(str))
    place = np.searchsorted(names, spells.account.astype(str))
    risk = churn.calibrated(churn.out_of_fold(X, place), [WARNED_DAYS])[:, 0]
    stayed = _stayed(place, spells, len(names))[place]
    if not stayed.any():
        return 1.0
    false, right = _shares(place, stayed), _shares(place, ~stayed & (spells.until <= EARLY_DAYS))
    order = np.argsort(-risk, kind="stable")
    value, false, right = risk[order], np.cumsum(false[order]), np.cumsum(right[order])
    # Rows of one risk are warned of together: what counts is where they end.
    ends = np.flatnonzero(np.append(np.diff(value) < 0, True))
    allowed = ends[false[ends] <= rate]
    if not allowed.size:
        return float(np.nextafter(value[0], np.inf))
    # Of thresholds that are as good, such as all of them where nobody left, the one that warns most.
    gain = right[allowed] - false[allowed] * bool(right[-1])
    return float(value[allowed[gain.size - 1 - int(np.argmax(gain[::-1]))]])


def _shares(place: NDArray[np.int64], rows: NDArray[np.bool_]) -> FloatArray:
    """Weigh the rows so that each account that has any counts the same and all sum to 1; other rows count nothing."""
    counts = np.bincount(place[rows], minlength=int(place.max(initial=-1)) + 1)
    weight = np.where(rows, 1.0 / np.maximum(counts[place], 1), 0.0)
    return np.asarray(weight / max(float((counts > 0).sum()), 1.0), dtype=np.float64)


def warning_report(risk: FloatArray, spells: Spells, dates: pd.Series, threshold: float) -> WarningReport:
    """Compare risks of accounts on days, shape (n,), with what became of them."""
    names = np.unique(spells.account.astype(str))
    place = np.searchsorted(names, spells.account.astype(str))
    warned = risk >= threshold
    left = spells.until < NEVER
    stayed = _stayed(place, spells, len(names))
    leaver = ~stayed & (np.bincount(place, minlength=len(names)) > 0)
    days = np.bincount(place, minlength=len(names))[stayed]
    alarms = np.bincount(place, weights=warned, minlength=len(names))[stayed]
    rows: list[dict[str, Any]] = []
    day = pd.to_datetime(dates).to_numpy().astype("datetime64[D]")
    for account in np.flatnonzero(leaver):
        own = np.flatnonzero((place == account) & left)
        gone = (day[own] + spells.until[own]).min()
        before = own[warned[own] & (day[own] >= gone - LONGEST_LEAD_DAYS) & (day[own] < gone)]
        first = day[before].min() if before.size else np.datetime64("NaT", "D")
        lead = float((gone - first).astype(int)) if before.size else 0.0
        rows.append({"account_id": names[account], "left_date": gone, "first_warning": first, "lead_days": lead})
    leads = pd.DataFrame(rows, columns=["account_id", "left_date", "first_warning", "lead_days"])
    return WarningReport(
        threshold,
        float((alarms / days).mean()) if stayed.any() else float("nan"),
        float((alarms > 0).mean()) if stayed.any() else float("nan"),
        float((leads["lead_days"] > 0).mean()) if len(leads) else float("nan"),
        float(leads["lead_days"].median()) if len(leads) else float("nan"),
        leads,
    )


def _stayed(place: NDArray[np.int64], spells: Spells, n: int) -> NDArray[np.bool_]:
    """Find the accounts, shape (n,), that were not seen to leave."""
    return ~(np.bincount(place, weights=spells.until < NEVER, minlength=n) > 0)
