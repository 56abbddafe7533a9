"""What accounts and audiences are grouped by: how recently, how often, for how much they were served, how it goes.

Recency, frequency and monetary value after Hughes (1994), with growth and click rate beside. Grouping belongs in
`segments`.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd

from within_ml.errors import InputError, shown
from within_ml.health.daily import checked, daily_grid
from within_ml.health.windows import days_since, trailing_sum

MONTH, QUARTER = 28, 90

SEGMENT_FEATURES = ("recency_days", "frequency", "monetary", "growth", "ctr")
ENTITY_TYPES = ("account", "audience")
_UNKNOWN = "unknown"


def segment_features(performance: pd.DataFrame, *, as_of: date, entity_type: str = "account") -> pd.DataFrame:
    """Tell how recently, how often and for how much each entity was served in the 90 days until ``as_of``.

    Parameters
    ----------
    performance
        Daily rows of ``date``, ``impressions``, ``clicks``, ``spend`` where known, and ``account_id`` or
        ``audience_age`` and ``audience_gender``. Rows after ``as_of`` are not read.
    as_of
        Last day that counts.
    entity_type
        ``"account"``, or ``"audience"`` for those of the whole agency.

    Returns
    -------
    pandas.DataFrame
        One row per entity served in these days, ordered: ``entity_id``; ``recency_days`` since it was last served;
        ``frequency``, share of the days since it was first served (of 90 at most) on which it was; ``monetary``, spend
        (impressions where no money is known); ``growth``, log of the last 28 days' daily impressions over those before;
        ``ctr``, smoothed by one click at the rate of all. A feature without enough days is NaN.

    Raises
    ------
    InputError
        If ``entity_type`` is not one of the two, or columns are missing or no numbers.

    Examples
    --------
    >>> days = pd.date_range("2024-01-01", periods=30)
    >>> rows = pd.DataFrame({"date": days, "account_id": "a", "impressions": 100, "clicks": 2, "spend": 1.5})
    >>> told = segment_features(rows, as_of=date(2024, 2, 1))
    >>> told[["recency_days", "frequency", "monetary"]].round(3).to_numpy().tolist()
    [[2.0, 0.938, 45.0]]
    """
    rows = checked(_with_entity(performance, entity_type))
    end = np.datetime64(as_of, "D")
    rows = rows[(rows["date"] <= end) & (rows["date"] > end - QUARTER) & (rows["impressions"] > 0)]
    if rows.empty:
        return pd.DataFrame(columns=["entity_id", *SEGMENT_FEATURES]).astype(dict.fromkeys(SEGMENT_FEATURES, float))
    grid = daily_grid(rows, last=end)
    impressions, clicks = grid.metrics["impressions"], grid.metrics["clicks"]
    lived = grid.begun.sum(axis=1)
    total = impressions.sum(axis=1)
    money = grid.known["spend"].any()
    recent = trailing_sum(impressions, MONTH)[:, -1]
    before_days = lived - np.minimum(lived, MONTH)
    usual = (total - recent) / np.where(before_days >= 7, before_days, np.nan)
    rate = clicks.sum() / total.sum()
    told = {
        "entity_id": grid.accounts,
        "recency_days": days_since(impressions > 0)[:, -1],
        "frequency": (impressions > 0).sum(axis=1) / lived,
        "monetary": (grid.metrics["spend"] if money else impressions).sum(axis=1),
        "growth": np.log((recent / MONTH + 1) / (usual + 1)),
        "ctr": (clicks.sum(axis=1) + 1) / (total + (1 / rate if rate > 0 else 1.0)),
    }
    return pd.DataFrame(told)


def _with_entity(performance: pd.DataFrame, entity_type: str) -> pd.DataFrame:
    if entity_type not in ENTITY_TYPES:
        raise InputError(f"entity_type must be one of {shown(ENTITY_TYPES)}; it is {entity_type!r}.")
    if entity_type == "account" or not isinstance(performance, pd.DataFrame):
        return performance
    missing = [c for c in ("audience_age", "audience_gender") if c not in performance.columns]
    if missing:
        raise InputError(f"performance needs the columns {shown(missing)} to tell audiences apart; they are missing.")
    age, gender = (performance[c].astype(object).fillna(_UNKNOWN) for c in ("audience_age", "audience_gender"))
    return performance.assign(account_id=age.astype(str) + " " + gender.astype(str))
