"""Performance facts and what is made of their sums: daily totals, smoothed rates, prices and trends.

The arithmetic of rates belongs here, as expressions over columns; which features exist is said in `catalog`, and the
tables are put together in `ad_features` and `account`.

Smoothing. A rate is estimated at each level of platform → account → campaign → ad, and each level is shrunk towards
the one above by pseudo-impressions: ``(clicks + k · parent) / (impressions + k)``. With a beta prior of mean ``p`` and
coefficient of variation ``cv`` between the members of a level, ``k ≈ (1 - p) / (p · cv²)``; at rates of about one
percent, members that differ by a half give 400 and members that differ by a third give 1,000. (Efron and Morris 1975,
"Data analysis using Stein's estimator and its generalizations"; the beta-binomial form is Gelman et al., Bayesian
Data Analysis, 3rd ed., section 5.3.)

Recency. The level of click-through drifts within weeks, so the priors weigh a click of the last 7 days fully, of the
7 days before by a half, and of the 14 days before those by 3/16: an exponential decay with a half-life of one week in
three steps, because three window sums are exact where a running exponential is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import ibis
import ibis.expr.types as ir

from within_ml.features.temporal import WINDOWS, Frame, day_number
from within_ml.lake.contracts import AD_KEY

COUNTS = ("impressions", "clicks")
VALUES = ("spend", "conversions", "revenue")
"""Measures that may be null and fractional; they are summed in whole millionths."""

MICROS = 1_000_000

DEFAULT_CTR = 0.01
"""Click-through rate assumed where not even the platform has a fact in the last 28 days."""

PRIOR_IMPRESSIONS = {"platform": 100, "account": 400, "campaign": 400, "ad": 1000}
"""Pseudo-impressions with which a level is shrunk towards the one above, the platform towards `DEFAULT_CTR`."""

PRIOR_CLICKS = 100
"""Pseudo-clicks with which a conversion rate is shrunk towards that of the level above."""

RECENCY_WEIGHTS = ((7, 1.0), (14, 0.5), (28, 0.1875))
"""(Days back, weight of the facts between this step and the one before)."""

ACCOUNT_KEY = ("platform", "account_id")
"""An account as a level of an ad's rate: click-through differs more between platforms than between accounts."""


def ad_daily(performance: ir.Table) -> ir.Table:
    """Total the rows of ``ad_performance`` over regions.

    Returns
    -------
    ibis.Table
        Platform, account_id, ad_id, campaign_id, ad_group_id, day (number), impressions, clicks (counts) and spend,
        conversions, revenue in whole millionths, null where no region has a value; one row per ad and day.
    """
    exact = performance.mutate(
        day=day_number(performance.date),
        **{v: (performance[v] * MICROS).round().cast("int64") for v in VALUES},
    )
    return exact.group_by([*AD_KEY, "day"]).aggregate(
        campaign_id=exact.campaign_id.max(),
        ad_group_id=exact.ad_group_id.max(),
        **{m: exact[m].sum().cast("float64").cast("int64") for m in (*COUNTS, *VALUES)},
    )


def platform_daily(performance: ir.Table) -> ir.Table:
    """Impressions and clicks of each platform and day, over all accounts: a small table that crosses buckets."""
    numbered = performance.mutate(day=day_number(performance.date))
    return numbered.group_by(["platform", "day"]).aggregate(
        **{m: numbered[m].sum().cast("float64").cast("int64") for m in COUNTS}
    )


def daily_totals(daily: ir.Table, keys: Sequence[str]) -> ir.Table:
    """Total daily facts of ads over a coarser key."""
    measures = [m for m in (*COUNTS, *VALUES) if m in daily.columns]
    return daily.group_by([*keys, "day"]).aggregate(
        **{m: daily[m].sum().cast("float64").cast("int64") for m in measures}
    )


def count_sums(level: str, windows: Sequence[int] = (*WINDOWS, 14)) -> dict[str, tuple[str, Frame]]:
    """Window sums of impressions and clicks of a level, those of the recency steps included."""
    return {f"{level}_{m}_{w}d": (m, Frame.window(w)) for m in COUNTS for w in windows}


def value_sums(level: str, windows: Sequence[int] = WINDOWS) -> dict[str, tuple[str, Frame]]:
    """Window sums of spend, conversions and revenue of a level."""
    return {f"{level}_{m}_{w}d": (m, Frame.window(w)) for m in VALUES for w in windows}


def in_units(table: ir.Table, names: Sequence[str]) -> ir.Table:
    """Turn sums into what they count: counts of nothing are 0, values of nothing are null and leave the millionths."""
    counts = {n: table[n].fill_null(0.0) for n in names if _measure(n) in COUNTS}
    values = {n: table[n] / MICROS for n in names if _measure(n) in VALUES}
    return table.mutate(**counts, **values)


def _measure(name: str) -> str:
    return name.split("_")[-2]


def shrunk(clicks: ir.Value, impressions: ir.Value, parent: ir.Value, pseudo: float) -> ir.Value:
    """Shrink a rate towards its parent's by ``pseudo`` impressions."""
    return (clicks + parent * pseudo) / (impressions + pseudo)


def recent(table: ir.Table, level: str, measure: str) -> ir.Value:
    """Recency-weighted sum of a count of a level."""
    name = f"{level}_{measure}"
    total = table[f"{name}_{RECENCY_WEIGHTS[0][0]}d"] * RECENCY_WEIGHTS[0][1]
    for (nearer, _), (days, weight) in pairwise(RECENCY_WEIGHTS):
        total = total + (table[f"{name}_{days}d"] - table[f"{name}_{nearer}d"]) * weight
    return total


def effective_impressions(own: ir.Value, parent: ir.Value, pseudo: float) -> ir.Value:
    """Impressions that a shrunk rate is worth: its own and what its parent can tell about it.

    The parent is wrong about a member by the spread between members (worth ``pseudo`` impressions) and by its own
    error (worth ``parent`` impressions); two independent errors add as variances, so as reciprocals of impressions.
    """
    return own + 1 / (1 / ibis.literal(float(pseudo)) + 1 / parent)


def price(numerator: ir.Value, denominator: ir.Value) -> ir.Value:
    """Ratio of two sums, null where the denominator is 0 or null."""
    return numerator / denominator.nullif(0.0)


def shrunk_cvr(conversions: ir.Value, clicks: ir.Value, parent: ir.Value) -> ir.Value:
    """Shrink a conversion rate towards its parent's; the parent's where conversions are not reported."""
    return ibis.ifelse(conversions.isnull(), parent, shrunk(conversions, clicks, parent, PRIOR_CLICKS))


def trend(clicks_7d: ir.Value, impressions_7d: ir.Value, ctr_28d: ir.Value, pseudo: float) -> ir.Value:
    """Natural logarithm of the last week's rate over that of four weeks, shrunk towards no change."""
    return (shrunk(clicks_7d, impressions_7d, ctr_28d, pseudo) / ctr_28d).ln()
