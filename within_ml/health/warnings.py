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
    """Return the least risk with which accounts that stayed had a warning on a share ``rate`` of their days.

    Risks are those of members that did not see the account; 1 where no account stayed.
    """
    names = np.unique(spells.account.astype(str))
    place = np.searchsorted(names, spells.account.astype(str))
    risk = churn.calibrated(churn.out_of_fold(X, place), [WARNED_DAYS])[:, 0]
    stayed = _stayed(place, spells, len(names))[place] & np.isfinite(risk)
    if not stayed.any():
        return 1.0
    weight = 1.0 / np.bincount(place[stayed], minlength=len(names))[place[stayed]]
    order = np.argsort(-risk[stayed], kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    # The risk of the first row that would be one too many: above it, and with it all that share it, is silent.
    first = risk[stayed][order][min(int(np.searchsorted(share, rate, side="right")), len(order) - 1)]
    return float(np.nextafter(first, np.inf))


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
