"""Outcomes of stored predictions by region: what was predicted for an ad, and what happened in each region.

Like labels, nothing here is known on the day of the prediction. What regions have in common is estimated elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import ibis
import ibis.expr.types as ir
import pandas as pd
import pyarrow as pa

from within_ml.base import HORIZON_DAYS
from within_ml.features.execution import Limits, Reader, to_sql, unbound, workspace
from within_ml.features.labels import last_trainable, required_label_dates
from within_ml.lake.contracts import AD_KEY, CONTRACTS

WEEKS = 8
"""Weeks of outcomes that are looked at."""

_OUTCOMES = (
    "date",
    "platform",
    "account_id",
    "campaign_id",
    "ad_id",
    "region",
    "predicted_ctr",
    "impressions",
    "clicks",
)
_WEEK_SCHEMA = pa.schema([("scored", pa.date32()), ("day", pa.date32())])


def outcome_days(as_of: date) -> tuple[date, date]:
    """Return the first and the last scored day whose weeks are looked at as of a Monday; all are complete then.

    >>> outcome_days(date(2024, 3, 11))
    (datetime.date(2024, 1, 7), datetime.date(2024, 3, 2))
    """
    last = last_trainable(as_of)
    return last - timedelta(days=WEEKS * HORIZON_DAYS - 1), last


def apart(days: Sequence[date]) -> list[date]:
    """Choose from days, the last one first, those whose labels share no day; return them in order.

    >>> [day.day for day in apart([date(2024, 1, day) for day in (1, 3, 7, 8, 9, 20)])]
    [1, 9, 20]
    """
    chosen: list[date] = []
    for day in sorted(set(days), reverse=True):
        if not chosen or day <= chosen[-1] - timedelta(days=HORIZON_DAYS):
            chosen.append(day)
    return chosen[::-1]


def regional_outcomes(read: Reader, *, first: date, last: date, limits: Limits | None = None) -> pd.DataFrame:
    """Join stored predictions with what happened in each region in the seven days after.

    Of the scored days one a week is taken, so that no click counts twice.

    Parameters
    ----------
    read
        Gives ad_scores of ``first`` to ``last``, and ad_performance of the weeks after the chosen days. The caller
        chooses ``last`` so that its week is complete (`outcome_days`).
    first, last
        Scored days to choose from, both included.
    limits
        What the run may use.

    Returns
    -------
    DataFrame
        One row per scored day, ad and region with impressions, in this order: date, platform, account_id,
        campaign_id, ad_id, region, predicted_ctr (fraction), impressions and clicks (counts).
    """
    with workspace(limits or Limits()) as (con, _):
        scores = unbound(CONTRACTS["ad_scores"].schema, read(con, "ad_scores", first, last))
        found = con.execute(to_sql(scores.select("date").distinct())).fetchall()
        days = apart([day for (day,) in found])
        if not days:
            return pd.DataFrame(columns=list(_OUTCOMES))
        span = required_label_dates(days[0], days[-1])
        facts = unbound(CONTRACTS["ad_performance"].schema, read(con, "ad_performance", span[0], span[-1]))
        con.register("weeks", _weeks(days))
        outcomes = _outcomes(scores, facts, unbound(_WEEK_SCHEMA, "weeks"))
        return (
            con.execute(f"FROM ({to_sql(outcomes)}) ORDER BY {', '.join(_OUTCOMES[:6])}").to_arrow_table().to_pandas()
        )


def _weeks(days: Sequence[date]) -> pa.Table:
    pairs = [(scored, day) for scored in days for day in required_label_dates(scored, scored)]
    return pa.table([pa.array(column, pa.date32()) for column in zip(*pairs, strict=True)], schema=_WEEK_SCHEMA)


def _outcomes(scores: ir.Table, facts: ir.Table, weeks: ir.Table) -> ir.Table:
    served = facts.filter(facts.impressions > 0)
    summed = (
        served.inner_join(weeks, served.date == weeks.day)
        .group_by(date=ibis._.scored, **{k: ibis._[k] for k in (*AD_KEY, "region")})
        .aggregate(**{m: ibis._[m].sum().cast("float64").cast("int64") for m in ("impressions", "clicks")})
    )
    predicted = scores.select("date", *AD_KEY, "campaign_id", "predicted_ctr")
    return summed.inner_join(predicted, ["date", *AD_KEY]).select(*_OUTCOMES)
