"""Labels: what happened to an ad in the week after a day, and training rows that carry them.

The label of day D sums D+1 … D+7 and is complete on D+9. Nothing here is known on D; only training and evaluation
read it.
"""

from __future__ import annotations

from datetime import date, timedelta

import ibis
import ibis.expr.types as ir
import pandas as pd

from within_ml.base import HORIZON_DAYS, LABEL_MATURITY_DAYS
from within_ml.features.temporal import (
    Frame,
    Period,
    Plan,
    date_of,
    each_day,
    rolling_sums,
)
from within_ml.lake.contracts import AD_KEY

LABEL_COLUMNS = ("label_impressions", "label_clicks")


def observed_rates(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the click-through rates that came, and the impressions that they weigh.

    >>> rates, impressions = observed_rates(pd.DataFrame({"label_impressions": [200], "label_clicks": [3]}))
    >>> rates.tolist(), impressions.tolist()
    ([0.015], [200])
    """
    return rows["label_clicks"] / rows["label_impressions"], rows["label_impressions"]


def last_trainable(as_of: date) -> date:
    """Return the last day whose label is mature on ``as_of``.

    >>> last_trainable(date(2024, 3, 11))
    datetime.date(2024, 3, 2)
    """
    return as_of - timedelta(days=LABEL_MATURITY_DAYS)


def required_label_dates(first: date, last: date) -> list[date]:
    """Return the days of performance that the labels of ``first`` to ``last`` read.

    >>> days = required_label_dates(date(2024, 3, 1), date(2024, 3, 1))
    >>> days[0], days[-1]
    (datetime.date(2024, 3, 2), datetime.date(2024, 3, 8))
    """
    return Period(first + timedelta(days=1), Period(first, last).last + timedelta(days=HORIZON_DAYS)).days


def labels(daily: ir.Table, period: Period, *, plan: Plan | None = None) -> ir.Table:
    """Define the label of each ad and day.

    Parameters
    ----------
    daily
        As from `performance.ad_daily`, for at least ``required_label_dates(period.first, period.last)``.
    period
        The days before the labels' weeks.
    plan
        How sums are computed, by default the cheaper one; the rows are the same.

    Returns
    -------
    ibis.Table
        date, platform, account_id, ad_id, label_impressions, label_clicks (int64), for each ad and day with
        label_impressions > 0.
    """
    served = daily.filter(daily.impressions > 0)
    timeline = ibis.window(group_by=[served[k] for k in AD_KEY], order_by=served.day)
    # A serve is in the labels of the seven days before it; those before the previous serve belong to that one already.
    spans = served.select(
        *AD_KEY,
        start=ibis.greatest(
            served.day.lag().over(timeline).fill_null(period.first_number),
            served.day - HORIZON_DAYS,
            period.first_number,
        ),
        stop=ibis.least(served.day, period.last_number + 1),
    )
    spans = spans.filter(spans.start < spans.stop)
    wanted = each_day(spans, spans.start, spans.stop).drop("start", "stop")
    week = Frame(1, HORIZON_DAYS)
    sums = {name: (measure, week) for name, measure in zip(LABEL_COLUMNS, ("impressions", "clicks"), strict=True)}
    summed = rolling_sums(served, wanted, AD_KEY, sums, period, plan or period.plan)
    counts = {name: summed[name].cast("int64") for name in LABEL_COLUMNS}
    return summed.select(date_of(summed.day).name("date"), *AD_KEY, **counts)


def training_rows(features: ir.Table, labelled: ir.Table) -> ir.Table:
    """Join feature rows with their labels; rows that were not served afterwards have none and are left out."""
    keys = ["date", *AD_KEY]
    return features.inner_join(labelled, keys).select(*features.columns, *LABEL_COLUMNS)
