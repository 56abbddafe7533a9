"""Daily sums of performance, by account and whatever else is asked for: what health, anomalies and topics begin with.

What belongs here: summing and joining in the lake's own engine. What does not: any rate, window or judgement.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

import ibis
import ibis.expr.types as ir
import pandas as pd

from within_ml.errors import InputError, shown
from within_ml.features.execution import Limits, Reader, to_sql, unbound, workspace
from within_ml.lake.contracts import AD_KEY, CONTRACTS

COUNTS: Final = ("impressions", "clicks")
VALUES: Final = ("spend", "conversions", "revenue")
OF_PERFORMANCE: Final = ("platform", "campaign_id", "ad_group_id", "ad_id", "region")
OF_ADS: Final = ("audience_age", "audience_gender", "headline", "created_at")
DIMENSIONS: Final = (*OF_PERFORMANCE, *OF_ADS)
"""What sums can be split by, beside date and account."""


def daily_sums(
    read: Reader,
    *,
    first: date,
    last: date,
    by: Sequence[str] = (),
    accounts: Sequence[str] = (),
    limits: Limits | None = None,
) -> pd.DataFrame:
    """Sum ``ad_performance`` by day, account and dimensions.

    Parameters
    ----------
    read
        Gives ad_performance of ``first`` to ``last``, and ads where a dimension is of the ads.
    first, last
        Days, both included.
    by
        Some of `DIMENSIONS`. What an ad targets and says is that of its newest version known on ``last``.
    accounts
        Only these, if any are named.
    limits
        What the run may use.

    Returns
    -------
    DataFrame
        Columns date (midnight), account_id, the dimensions, impressions, clicks (counts), spend, conversions and
        revenue (NaN where the source has none), ordered by all that is not a sum.

    Raises
    ------
    InputError
        If a dimension is unknown, or ``last`` is before ``first``.
    """
    unknown = [name for name in by if name not in DIMENSIONS]
    if unknown:
        raise InputError(f"Sums are split by {shown(DIMENSIONS)}; however, {shown(unknown)} came.")
    if last < first:
        raise InputError(f"first must not be after last; they are {first} and {last}.")
    with workspace(limits or Limits()) as (con, _):
        facts = unbound(CONTRACTS["ad_performance"].schema, read(con, "ad_performance", first, last))
        if accounts:
            facts = facts.filter(facts.account_id.isin(list(accounts)))
        if set(by) & set(OF_ADS):
            ads = unbound(CONTRACTS["ads"].schema, read(con, "ads", None, None))
            facts = _with_ads(facts, ads, [name for name in by if name in OF_ADS], last)
        keys = ["date", "account_id", *by]
        sums = facts.group_by(keys).aggregate(
            **{m: facts[m].sum().cast("float64").cast("int64") for m in COUNTS}, **{m: facts[m].sum() for m in VALUES}
        )
        # A sum of floats depends on the order of its parts in the last digits; a file read again has another order.
        sums = sums.mutate(**{m: sums[m].round(6) for m in VALUES})
        found = con.execute(f"FROM ({to_sql(sums)}) ORDER BY {', '.join(keys)}").to_arrow_table()
    frame = found.to_pandas()
    frame["date"] = pd.to_datetime(frame["date"])
    return frame


def _with_ads(facts: ir.Table, ads: ir.Table, columns: Sequence[str], last: date) -> ir.Table:
    known = ads.filter(ads.valid_from <= ibis.literal(last))
    newest = known.group_by(list(AD_KEY)).aggregate(**{c: known[c].argmax(known.valid_from) for c in columns})
    joined = facts.left_join(newest, list(AD_KEY))
    return joined.select(*facts.columns, *columns)
