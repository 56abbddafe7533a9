"""The table ``account_features``: an account on a day, over all its platforms.

Sums come from `temporal`, prices from `performance`; scores and health are made of these columns elsewhere. A row
exists for each account that was served in the last 28 days or was onboarded in them. The day a client leaves is not
read: it is not known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import ibis
import ibis.expr.types as ir

from within_ml.features.ad_features import as_contracted
from within_ml.features.catalog import account_features_contract
from within_ml.features.performance import COUNTS, VALUES, count_sums, daily_totals, in_units, price, value_sums
from within_ml.features.temporal import (
    LONGEST_WINDOW,
    WINDOWS,
    Checkpoint,
    Frame,
    Period,
    Plan,
    date_of,
    day_number,
    each_day,
    joined,
    required_dates,
    rolling_sums,
    served_spine,
    unchecked,
)
from within_ml.lake.contracts import AD_KEY, CAMPAIGN_KEY, UNKNOWN

_LONGEST_MONTH = 31


@dataclass(frozen=True, slots=True)
class AccountInputs:
    """What account features are made of; each may have 0 rows.

    ``daily`` is `performance.ad_daily` and must hold whole accounts, ``agency`` is `agency_daily` over all accounts,
    ``accounts`` follows the contract of the lake.

    >>> from within_ml.features.runner import unbound_account_inputs
    >>> unbound_account_inputs().agency.columns
    ('currency', 'day', 'impressions', 'spend')
    """

    daily: ir.Table
    agency: ir.Table
    accounts: ir.Table


def required_account_dates(first: date, last: date) -> list[date]:
    """Return the days of performance that account features read: the windows, and the month from its first day.

    >>> required_account_dates(date(2024, 3, 31), date(2024, 3, 31))[0]
    datetime.date(2024, 3, 1)
    """
    return Period(min(required_dates(first, last)[0], first.replace(day=1)), last).days


def agency_daily(daily: ir.Table, accounts: ir.Table) -> ir.Table:
    """Total the agency's daily impressions and spend by currency: a small table that crosses buckets."""
    known = joined(daily, accounts.select("account_id", "currency"), ["account_id"])
    known = known.mutate(currency=known.currency.fill_null(UNKNOWN))
    return known.group_by(["currency", "day"]).aggregate(
        **{m: known[m].sum().cast("float64").cast("int64") for m in ("impressions", "spend")}
    )


def account_features(
    inputs: AccountInputs, period: Period, *, plan: Plan | None = None, checkpoint: Checkpoint = unchecked
) -> ir.Table:
    """Define the rows of ``account_features`` for the days of a period.

    Parameters
    ----------
    inputs
        Facts of at least ``required_account_dates(period.first, period.last)``; later facts change nothing.
    period
        The wanted days.
    plan
        How sums are computed, by default the cheaper one; the rows are the same.
    checkpoint
        Where an engine may store what is read more than once.

    Returns
    -------
    ibis.Table
        The columns of `catalog.account_features_contract`, in no particular order of rows.
    """
    plan = plan or period.plan
    facts = checkpoint("account_daily", daily_totals(inputs.daily, ["account_id"]))
    rows = checkpoint("account_rows", _account_rows(facts, inputs.accounts, period, plan))
    sums = {**count_sums("account", WINDOWS), **value_sums("account")}
    full = in_units(rolling_sums(facts, rows, ["account_id"], sums, period, plan), list(sums))
    for entity, keys in (("ads", AD_KEY), ("campaigns", CAMPAIGN_KEY)):
        full = joined(full, _active(inputs.daily, entity, keys, period, plan), ["account_id", "day"])
    full = _with_budget(full, facts, rows, inputs.accounts, period, plan)
    full = _with_agency(_with_ratios(full), inputs.agency, period, plan)
    full = full.mutate(date=date_of(full.day), day_of_week=date_of(full.day).day_of_week.index())
    return as_contracted(full, account_features_contract())


def _account_rows(facts: ir.Table, accounts: ir.Table, period: Period, plan: Plan) -> ir.Table:
    """One row per account and day, with nothing but its key."""
    served = facts.filter(facts.impressions > 0)
    running = served_spine(
        served.select("account_id", "day", latest=served.day), ["account_id"], ["latest"], period, plan
    )
    onboarded = day_number(accounts.onboarded_date)
    starting = accounts.select(
        "account_id",
        start=ibis.greatest(onboarded, period.first_number),
        stop=ibis.least(onboarded + LONGEST_WINDOW, period.last_number + 1),
    )
    starting = starting.filter(starting.start < starting.stop)
    starting = each_day(starting, starting.start, starting.stop).anti_join(running, ["account_id", "day"])
    return ibis.union(running.select("account_id", "day"), starting.select("account_id", "day"))


def _active(daily: ir.Table, entity: str, keys: Sequence[str], period: Period, plan: Plan) -> ir.Table:
    """Count the ads or campaigns of each account that had impressions in each window."""
    served = daily.filter(daily.impressions > 0)
    served = served.select(*keys, "day", latest=served.day).distinct()
    running = served_spine(served, keys, ["latest"], period, plan)
    age = running.day - running.latest
    return running.group_by(["account_id", "day"]).aggregate(
        **{f"account_active_{entity}_{w}d": (age < w).sum() for w in WINDOWS}
    )


def _with_budget(
    full: ir.Table, facts: ir.Table, rows: ir.Table, accounts: ir.Table, period: Period, plan: Plan
) -> ir.Table:
    """Add the spend of the month so far, the budget's pace and the account's age."""
    # Within one calendar month, the last 31 days are the month so far.
    keys, sums = ["account_id", "month"], {"account_spend_month": ("spend", Frame.window(_LONGEST_MONTH))}
    spent = in_units(rolling_sums(_with_month(facts), _with_month(rows), keys, sums, period, plan).drop("month"), [])
    full = joined(full, spent, ["account_id", "day"])
    known = accounts.select("account_id", "currency", "monthly_budget", onboarded=day_number(accounts.onboarded_date))
    full = joined(full, known, ["account_id"])
    day = date_of(full.day)
    month = day.truncate("M")
    length = day_number((month + ibis.interval(months=1)).cast("date")) - day_number(month.cast("date"))
    month_spend = full.account_spend_month / 1_000_000
    return full.mutate(
        currency=full.currency.fill_null(UNKNOWN),
        account_spend_month=month_spend,
        account_spend_pacing=price(month_spend, full.monthly_budget * day.day() / length),
        account_age_days=ibis.ifelse(full.onboarded <= full.day, full.day - full.onboarded, ibis.null("int64")),
    )


def _with_month(table: ir.Table) -> ir.Table:
    day = date_of(table.day)
    return table.mutate(month=day.year() * 12 + day.month())


def _with_ratios(full: ir.Table) -> ir.Table:
    """Add rates, prices and trends; what is divided by nothing is null."""
    added: dict[str, ir.Value] = {}
    for w in WINDOWS:
        clicks, spend = full[f"account_clicks_{w}d"], full[f"account_spend_{w}d"]
        added[f"account_ctr_{w}d"] = price(clicks, full[f"account_impressions_{w}d"])
        added[f"account_cpc_{w}d"] = price(spend, clicks)
        added[f"account_cvr_{w}d"] = price(full[f"account_conversions_{w}d"], clicks)
        added[f"account_roas_{w}d"] = price(full[f"account_revenue_{w}d"], spend)
    for m in (*COUNTS, *VALUES):
        added[f"account_{m}_trend"] = _log_ratio(full[f"account_{m}_7d"] / 7, full[f"account_{m}_28d"] / 28)
    counts = {f"account_active_{e}_{w}d" for e in ("ads", "campaigns") for w in WINDOWS}
    full = full.mutate(**added, **{name: full[name].fill_null(0) for name in counts})
    return full.mutate(account_ctr_trend=_log_ratio(full.account_ctr_7d, full.account_ctr_28d))


def _log_ratio(recent: ir.Value, usual: ir.Value) -> ir.Value:
    return price(recent.nullif(0.0), usual).ln()


def _with_agency(full: ir.Table, agency: ir.Table, period: Period, plan: Plan) -> ir.Table:
    """Add the account's shares of the agency."""
    currencies = agency.select("currency").distinct()
    start, stop = ibis.literal(period.first_number, "int64"), ibis.literal(period.last_number + 1, "int64")
    wanted = each_day(currencies, start, stop)
    window = Frame.window(LONGEST_WINDOW)
    sums = {"agency_spend_28d": ("spend", window), "agency_impressions_28d": ("impressions", window)}
    totals = in_units(rolling_sums(agency, wanted, ["currency"], sums, period, plan), list(sums))
    everywhere = totals.group_by("day").aggregate(agency_impressions_28d=totals.agency_impressions_28d.sum())
    full = joined(full, totals.drop("agency_impressions_28d"), ["currency", "day"])
    full = joined(full, everywhere, ["day"])
    return full.mutate(
        account_impressions_share_28d=price(full.account_impressions_28d, full.agency_impressions_28d),
        account_spend_share_28d=price(full.account_spend_28d, full.agency_spend_28d),
    )
