"""The table ``ad_features``: which ads have a row on a day, its columns put together from sums, text, image and dates.

One definition for nightly runs, backfills, training and scoring. The arithmetic of rates is in `performance`, windows
are in `temporal`; running the expression is `runner`'s work.

What a row of day D may know: facts of D and before; the version of the ad with ``valid_from ≤ D < valid_to``; the
campaign's ``start_date``. Attributes that are restated later (end dates, budgets, churn) are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from within_ml.base import HORIZON_DAYS
from within_ml.features.catalog import ad_features_contract
from within_ml.features.performance import (
    ACCOUNT_KEY,
    DEFAULT_CTR,
    PRIOR_IMPRESSIONS,
    count_sums,
    daily_totals,
    effective_impressions,
    in_units,
    price,
    recent,
    shrunk,
    shrunk_cvr,
    trend,
    value_sums,
)
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
    rolling_sums,
    served_spine,
    unchecked,
)
from within_ml.features.text_keys import text_hash
from within_ml.lake.contracts import AD_KEY, CAMPAIGN_KEY, Contract

_PARENTS = ("campaign_id", "ad_group_id")
_PRIORS = {
    "platform": "platform_prior_ctr",
    "account": "account_prior_ctr",
    "campaign": "campaign_prior_ctr",
    "ad": "prior_ctr",
}
_AS_OF_THE_DAY = ("headline", "body", "image_path", "audience_age", "audience_gender", "interests")
"""What is known of an ad by the version of the day."""

_NEVER = 10_000_000
"""A day number beyond any date: the end of what has no end."""


@dataclass(frozen=True, slots=True)
class FeatureInputs:
    """What ad features are made of; each may have 0 rows.

    ``daily`` is `performance.ad_daily` and must hold whole accounts; ``platforms`` is `performance.platform_daily` over
    all accounts. ``ads`` and ``campaigns`` follow the contracts of the lake. ``content`` has ``text_hash`` and the text
    features, one row per text; ``images`` has ``image_path`` and the image features, one row per file.

    >>> from within_ml.features.runner import unbound_inputs
    >>> unbound_inputs().daily.columns[:4]
    ('platform', 'account_id', 'ad_id', 'day')
    """

    daily: ir.Table
    platforms: ir.Table
    ads: ir.Table
    campaigns: ir.Table
    content: ir.Table
    images: ir.Table


def ad_features(
    inputs: FeatureInputs, period: Period, *, plan: Plan | None = None, checkpoint: Checkpoint = unchecked
) -> ir.Table:
    """Define the rows of ``ad_features`` for the days of a period.

    Parameters
    ----------
    inputs
        Facts of at least ``required_dates(period.first, period.last)``; later facts change nothing.
    period
        The wanted days.
    plan
        How sums are computed, by default the cheaper one; the rows are the same.
    checkpoint
        Where an engine may store what is read more than once.

    Returns
    -------
    ibis.Table
        The columns of `catalog.ad_features_contract`, in no particular order of rows.
    """
    plan = plan or period.plan
    versions = checkpoint("ad_versions", ad_versions(inputs.ads))
    rows = checkpoint("ad_rows", _ad_rows(inputs, versions, period, plan))
    campaigns = checkpoint("campaign_daily", daily_totals(inputs.daily, CAMPAIGN_KEY))
    levels = {
        "campaign": (CAMPAIGN_KEY, campaigns),
        "account": (ACCOUNT_KEY, daily_totals(campaigns, ACCOUNT_KEY)),
        "platform": (("platform",), inputs.platforms),
    }
    full = rows
    for level, (keys, facts) in levels.items():
        totals = _level_totals(rows, facts, level, keys, period, plan)
        full = joined(full, checkpoint(f"{level}_totals", totals), [*keys, "day"])
    full = _with_dates(_with_rates(full), versions, inputs.campaigns)
    full = joined(full, inputs.content, ["text_hash"])
    full = joined(full, inputs.images, ["image_path"])
    return as_contracted(full, ad_features_contract())


def ad_versions(ads: ir.Table) -> ir.Table:
    """Number the days on which each version of an ad is the one that is known.

    Returns
    -------
    ibis.Table
        ``ads`` with day numbers ``from_day`` (included), ``until_day`` (not included), ``first_known_day`` and
        ``created_day``; the versions of an ad never overlap, a later one ends the earlier.
    """
    numbered = ads.mutate(
        from_day=day_number(ads.valid_from), to_day=day_number(ads.valid_to), created_day=day_number(ads.created_at)
    )
    ad = [numbered[k] for k in AD_KEY]
    following = numbered.from_day.lead().over(ibis.window(group_by=ad, order_by=numbered.from_day))
    first = numbered.from_day.min().over(ibis.window(group_by=ad))
    return numbered.mutate(
        until_day=ibis.least(numbered.to_day.fill_null(_NEVER), following.fill_null(_NEVER)), first_known_day=first
    )


def _ad_rows(inputs: FeatureInputs, versions: ir.Table, period: Period, plan: Plan) -> ir.Table:
    """One row per ad and day, with the window sums of the ad."""
    daily = inputs.daily
    served = daily.filter(daily.impressions > 0)
    running = served_spine(served, AD_KEY, _PARENTS, period, plan)
    starting = _starting(versions, inputs.campaigns, period).anti_join(running, [*AD_KEY, "day"])
    columns = [*AD_KEY, "day", *_PARENTS]
    rows = ibis.union(running.select(columns), starting.select(columns))
    facts = daily.mutate(served=(daily.impressions > 0).cast("int64"))
    sums = {**count_sums("ad"), **value_sums("ad"), "ad_days_served_28d": ("served", Frame.window(28))}
    rows = rolling_sums(facts, rows, AD_KEY, sums, period, plan)
    rows = in_units(rows, list({**count_sums("ad"), **value_sums("ad")}))
    return rows.mutate(ad_days_served_28d=rows.ad_days_served_28d.fill_null(0.0))


def _starting(versions: ir.Table, campaigns: ir.Table, period: Period) -> ir.Table:
    """Ads that are known and about to start: a week before to a week after the day on which they can.

    An ad can start when it is known and its campaign has begun; without a campaign's row, when it is known.
    """
    starts = campaigns.select(*CAMPAIGN_KEY, start_day=day_number(campaigns.start_date))
    known = joined(versions, starts, CAMPAIGN_KEY)
    known = known.mutate(begins=ibis.greatest(known.first_known_day, known.start_day.fill_null(known.first_known_day)))
    spans = known.select(
        *AD_KEY,
        *_PARENTS,
        start=ibis.greatest(known.from_day, known.begins - HORIZON_DAYS, period.first_number),
        stop=ibis.least(known.until_day, known.begins + HORIZON_DAYS, period.last_number + 1),
    )
    spans = spans.filter(spans.start < spans.stop)
    return each_day(spans, spans.start, spans.stop)


def _level_totals(
    rows: ir.Table, facts: ir.Table, level: str, keys: tuple[str, ...], period: Period, plan: Plan
) -> ir.Table:
    """Window sums of a campaign, account or platform on the days on which it has ads, and how many ads those are."""
    sums = count_sums(level)
    if level != "platform":
        sums |= value_sums(level, (LONGEST_WINDOW,))
    wanted = rows.group_by([*keys, "day"]).aggregate(**{f"{level}_ads": rows.count()})
    return in_units(rolling_sums(facts, wanted, keys, sums, period, plan), list(sums))


def _with_rates(rows: ir.Table) -> ir.Table:
    """Add smoothed rates, prices and trends, from the platform down to the ad."""
    prior: ir.Value = ibis.literal(DEFAULT_CTR)
    worth: ir.Value | None = None
    for level, name in _PRIORS.items():
        rows = rows.mutate(**_level_rates(rows, level, prior, name))
        pseudo, own = PRIOR_IMPRESSIONS[level], recent(rows, level, "impressions")
        rows = rows.mutate(_worth=own + pseudo if worth is None else effective_impressions(own, rows._worth, pseudo))
        prior, worth = rows[name], rows._worth
    rows = _with_conversions(rows)
    return rows.mutate(
        prior_impressions=rows._worth,
        ad_vs_campaign_ctr=rows.ad_ctr_28d / rows.campaign_ctr_28d,
        campaign_vs_account_ctr=rows.campaign_ctr_28d / rows.account_ctr_28d,
        **{f"{level}_ctr_trend": _trend(rows, level) for level in ("ad", "campaign", "account")},
    )


def _level_rates(rows: ir.Table, level: str, parent: ir.Value, name: str) -> dict[str, ir.Value]:
    pseudo = PRIOR_IMPRESSIONS[level]
    rates = {
        f"{level}_ctr_{w}d": shrunk(rows[f"{level}_clicks_{w}d"], rows[f"{level}_impressions_{w}d"], parent, pseudo)
        for w in WINDOWS
    }
    recent_rate = shrunk(recent(rows, level, "clicks"), recent(rows, level, "impressions"), parent, pseudo)
    return {**rates, name: recent_rate}


def _with_conversions(rows: ir.Table) -> ir.Table:
    """Add prices, returns and conversion rates; what nobody reports stays null."""
    added: dict[str, ir.Value] = {}
    cvr = price(rows.account_conversions_28d, rows.account_clicks_28d)
    added["account_cvr_28d"] = cvr
    for level, windows in (("account", (28,)), ("campaign", (28,)), ("ad", WINDOWS)):
        parent = cvr
        for w in windows:
            spend, clicks = rows[f"{level}_spend_{w}d"], rows[f"{level}_clicks_{w}d"]
            added[f"{level}_cpc_{w}d"] = price(spend, clicks)
            added[f"{level}_roas_{w}d"] = price(rows[f"{level}_revenue_{w}d"], spend)
            if level != "account":
                cvr = shrunk_cvr(rows[f"{level}_conversions_{w}d"], clicks, parent)
                added[f"{level}_cvr_{w}d"] = cvr
    return rows.mutate(**added)


def _trend(rows: ir.Table, level: str) -> ir.Value:
    names = f"{level}_clicks_7d", f"{level}_impressions_7d", f"{level}_ctr_28d"
    return trend(rows[names[0]], rows[names[1]], rows[names[2]], PRIOR_IMPRESSIONS[level])


def _with_dates(rows: ir.Table, versions: ir.Table, campaigns: ir.Table) -> ir.Table:
    """Add the ad's text, image and audience as of the day, the text's key, ages and the weekday."""
    known = versions.select(
        *AD_KEY,
        *_AS_OF_THE_DAY,
        "from_day",
        "until_day",
        "created_day",
        "first_known_day",
        text_hash=text_hash(versions.headline, versions.body),
    )
    as_of = [*AD_KEY, rows.day >= known.from_day, rows.day < known.until_day]
    rows = rows.left_join(known, as_of).drop(*[f"{k}_right" for k in AD_KEY])
    starts = campaigns.select(*CAMPAIGN_KEY, start_day=day_number(campaigns.start_date))
    rows = joined(rows, starts, CAMPAIGN_KEY)
    # A creation date after the day would be a fact of the future, whatever the export says.
    created = ibis.ifelse(rows.created_day <= rows.day, rows.created_day, rows.first_known_day)
    day = date_of(rows.day)
    return rows.mutate(
        date=day,
        ad_age_days=rows.day - created,
        campaign_age_days=rows.day - rows.start_day,
        day_of_week=day.day_of_week.index(),
    )


def as_contracted(rows: ir.Table, contract: Contract) -> ir.Table:
    """Select the columns of a contract, in its order and types."""
    types = {c.name: ibis.dtype(c.type, nullable=True) for c in contract.columns}
    return rows.select(**{name: rows[name].cast(dtype) for name, dtype in types.items()})
