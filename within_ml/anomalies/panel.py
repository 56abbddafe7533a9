"""Performance as arrays: facts of series by day, in an order that a later night only appends to.

Checking frames belongs in `frames`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.creatives import AdDay
from within_ml.anomalies.frames import Performance
from within_ml.anomalies.metrics import FACTS
from within_ml.errors import InputError, shown

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WHOLE = ""
"""Element of a series that is its account, not a part of it."""

MOST_DAYS = 3_660
"""Days that a panel may span: a stray row of 1970 shall not make twenty thousand nights."""

_PARTS = ("campaign_id", "ad_group_id", "platform", "ad_id", "region", "audience_age", "audience_gender")


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Facts by day.

    Attributes
    ----------
    days : DatetimeIndex, length D
        Every calendar day from the first to the last.
    part : str or None
        Dimension that splits accounts into series.
    keys : list of (account_id, element)
        Of the n series, ordered by their first day, then by key.
    platforms : list of str
        Platform of each series, empty text where unknown.
    first : array of int, shape (n,)
        Index of each series' first day.
    facts : array, shape (D, 5, n)
        `FACTS`; NaN where there is no row, or the fact is unknown.
    currency : list of dict
        Per day: account_id → currency; empty where unknown.
    ads : list of (series number, ad_id)
        Ordered by their first day, then by key; empty where ads are unknown.
    ad_days : list of AdDay
        Per day, the ads that were shown, by their number; empty where ads are unknown.
    """

    days: pd.DatetimeIndex
    part: str | None
    keys: list[tuple[str, str]]
    platforms: list[str]
    first: Ints
    facts: Floats
    currency: list[dict[str, str]]
    ads: list[tuple[int, str]]
    ad_days: list[AdDay]


def part_of(performance: Performance, dimensions: tuple[str, ...] | None) -> str | None:
    """Return the dimension along which accounts are watched in parts: campaigns where they are known."""
    allowed = performance.dimensions if dimensions is None else dimensions
    if dimensions is None:
        return "campaign_id" if "campaign_id" in allowed else None
    return next((d for d in (*_PARTS, *allowed) if d in allowed), None)


def build_panel(performance: Performance, part: str | None) -> Panel:
    """Add rows up to series and days.

    Raises
    ------
    InputError
        If an account has two currencies on one day, or the days span more than ten years.
    """
    frame = performance.frame
    if frame.empty:
        return Panel(
            pd.DatetimeIndex([]), part, [], [], np.empty(0, np.int64), np.empty((0, len(FACTS), 0)), [], [], []
        )
    first_day = frame["date"].iloc[0]
    day = ((frame["date"] - first_day) // pd.Timedelta(days=1)).to_numpy(np.int64)
    series, keys, first = _series(frame, part, day)
    if day[-1] >= MOST_DAYS:
        raise InputError(
            f"performance_data must span at most {MOST_DAYS:,} days, however: {first_day.date()} to "
            f"{frame['date'].iloc[-1].date()}. Take rows with a wrong date out, or give a part of the history."
        )
    days = pd.date_range(first_day, periods=int(day[-1]) + 1)
    n = len(keys)
    facts = np.full((len(days), len(FACTS), n), np.nan)
    cell = day * n + series
    for row, name in enumerate(FACTS):
        if name in performance.metrics:
            facts[:, row, :] = _sums(cell, frame[name].to_numpy(), len(days), n)
    platforms = [""] * n
    if "platform" in frame.columns and part is not None:
        order = np.unique(series, return_index=True)[1]
        platforms = frame["platform"].iloc[order].tolist()
    ads, ad_days = _ads(performance, part, series, day, len(days))
    return Panel(days, part, keys, platforms, first, facts, _currencies(frame, day, len(days)), ads, ad_days)


def _series(frame: pd.DataFrame, part: str | None, day: Ints) -> tuple[Ints, list[tuple[str, str]], Ints]:
    account, accounts = pd.factorize(frame["account_id"], sort=True)
    if part is None:
        code, elements = np.zeros(len(frame), dtype=np.int64), pd.Index([WHOLE])
    else:
        code, elements = pd.factorize(frame[part], sort=True)
    both, position, inverse = np.unique(account * len(elements) + code, return_index=True, return_inverse=True)
    # Rows are in order of time, so the first row of a series is on its first day.
    first = day[position]
    order = np.lexsort((both, first))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    names = [(str(accounts[b // len(elements)]), str(elements[b % len(elements)])) for b in both[order].tolist()]
    return place[inverse], names, first[order]


def _sums(cell: Ints, values: Floats, days: int, n: int) -> Floats:
    known = ~np.isnan(values)
    if not known.all():
        cell, values = cell[known], values[known]
    total = np.bincount(cell, weights=values, minlength=days * n)
    seen = np.zeros(days * n, dtype=bool)
    seen[cell] = True
    return np.where(seen, total, np.nan).reshape(days, n)


def _ads(
    performance: Performance, part: str | None, series: Ints, day: Ints, days: int
) -> tuple[list[tuple[int, str]], list[AdDay]]:
    frame = performance.frame
    if part == "ad_id" or not {"ad_id", "impressions", "clicks"} <= set(frame.columns):
        return [], []
    usable = ((frame["impressions"] > 0) & frame["clicks"].notna()).to_numpy()
    code, names = pd.factorize(frame["ad_id"], sort=True)
    key = (series * len(names) + code)[usable]
    both, position, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.lexsort((both, day[usable][position]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    cell = day[usable] * len(both) + place[inverse]
    # Of several rows of an ad, such as its regions, the sum.
    cells, row = np.unique(cell, return_inverse=True)
    shown = np.bincount(row, weights=frame["impressions"].to_numpy()[usable], minlength=len(cells)).astype(np.float64)
    clicks = np.bincount(row, weights=frame["clicks"].to_numpy()[usable], minlength=len(cells)).astype(np.float64)
    ad, owner = cells % max(len(both), 1), both[order] // len(names)
    ends = np.searchsorted(cells // max(len(both), 1), np.arange(days + 1))
    pieces = [slice(a, b) for a, b in pairwise(ends.tolist())]
    told = [(int(b // len(names)), str(names[b % len(names)])) for b in both[order].tolist()]
    return told, [AdDay(ad[p], owner[ad[p]], shown[p], clicks[p]) for p in pieces]


def _currencies(frame: pd.DataFrame, day: Ints, days: int) -> list[dict[str, str]]:
    told: list[dict[str, str]] = [{} for _ in range(days)]
    if "currency" not in frame.columns:
        return told
    pairs = frame[["account_id", "currency"]].assign(day=day).dropna().drop_duplicates()
    twice = pairs.duplicated(["account_id", "day"])
    if twice.any():
        raise InputError(
            "An account must have one currency a day, however: "
            f"{shown(sorted(set(pairs.loc[twice, 'account_id'])))} had two. Convert the money first."
        )
    for account, currency, index in pairs.itertuples(index=False):
        told[index][account] = currency
    return told
