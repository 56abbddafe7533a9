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
        Share of the accounts that did not leave which had a warning on any day; NaN without such accounts.
    detected : float
        Share of those that left which were warned of before; NaN without any.
    median_lead_days : float
        Median days from the first warning to the day the account left; 0 for one without a warning.
    leads : DataFrame
        Of each account that left ``account_id``, ``left_date``, ``first_warning`` (NaT without one), ``lead_days``.
    """

    threshold: float
    false_alarm_rate: float
    detected: float
    median_lead_days: float
    leads: pd.DataFrame


def alarm_threshold(churn: ChurnHazard, X: pd.DataFrame, spells: Spells, rate: float) -> float:
    """Return the least risk that at most a share ``rate`` of the accounts that stayed ever reached.

    Risks are those of members that did not see the account; 1 where no account stayed.
    """
    names = np.unique(spells.account.astype(str))
    place = np.searchsorted(names, spells.account.astype(str))
    risk = churn.calibrated(churn.out_of_fold(X, place), [WARNED_DAYS])[:, 0]
    highest = _highest(risk, place, len(names))
    stayed = ~(np.bincount(place, weights=spells.until < NEVER, minlength=len(names)) > 0) & np.isfinite(highest)
    if not stayed.any():
        return 1.0
    # Above the last one that may stay silent, so that a constant risk warns of nobody.
    return float(np.nextafter(np.quantile(highest[stayed], 1 - rate, method="higher"), np.inf))


def warning_report(risk: FloatArray, spells: Spells, dates: pd.Series, threshold: float) -> WarningReport:
    """Compare risks of accounts on days, shape (n,), with what became of them."""
    names = np.unique(spells.account.astype(str))
    place = np.searchsorted(names, spells.account.astype(str))
    warned = risk >= threshold
    left = spells.until < NEVER
    leaver = np.bincount(place, weights=left, minlength=len(names)) > 0
    ever = np.bincount(place, weights=warned, minlength=len(names)) > 0
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
    stayed = ~leaver
    return WarningReport(
        threshold,
        float(ever[stayed].mean()) if stayed.any() else float("nan"),
        float((leads["lead_days"] > 0).mean()) if len(leads) else float("nan"),
        float(leads["lead_days"].median()) if len(leads) else float("nan"),
        leads,
    )


def _highest(risk: FloatArray, place: NDArray[np.int64], n: int) -> FloatArray:
    found = np.full(n, -np.inf)
    np.maximum.at(found, place, risk)
    return found
