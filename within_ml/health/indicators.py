"""How an account fares, day by day, from its daily performance: trends, efficiency, pacing, audience, own past.

Every indicator of a day uses facts of that day and earlier, so that rows of days to come change nothing. Reading frames
belongs in `daily`, arithmetic over windows in `windows`, what needs ads and audiences in `audience`; a model of the
indicators belongs elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError
from within_ml.health import audience
from within_ml.health.daily import (
    DAY,
    DailyGrid,
    EntityDays,
    FloatArray,
    IntArray,
    as_days,
    checked,
    daily_grid,
    entity_days,
)
from within_ml.health.indicator_names import INDICATORS
from within_ml.health.windows import (
    days_since,
    trailing_elasticity,
    trailing_percentile,
    trailing_slope,
    trailing_sum,
)

__all__ = ["INDICATORS", "QUIET_DAYS", "account_indicators"]

WEEK, MONTH, QUARTER, HALF_YEAR = 7, 28, 90, 180

QUIET_DAYS = 90
"""An account has rows until this many days after the last one on which it was served."""

_DAYS_A_MONTH = 365.25 / 12
_PRIOR_INFORMATION = 16.0
"""What draws an elasticity to 1: a standard deviation of 1/4."""
_NOTHING = 1e-9
_CELLS_AT_ONCE = 2_000_000
_AD = ("platform", "campaign_id", "ad_id")
_AUDIENCE = ("platform", "audience_age", "audience_gender")
_REGION = ("region",)
_AUDIENCE_COLUMNS = frozenset(_AUDIENCE[1:])


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """Per account of a grid: monthly budget, NaN where unknown, and the day of onboarding, NaN where unknown."""

    budget: FloatArray
    onboarded: FloatArray


def account_indicators(
    performance: pd.DataFrame, accounts: pd.DataFrame | None = None, *, last: date | None = None
) -> pd.DataFrame:
    """Tell how every account fared on every day.

    Parameters
    ----------
    performance
        Daily rows of at least ``date``, ``account_id``, ``impressions`` and ``clicks``; ``spend``, ``conversions`` and
        ``revenue`` where known. Rows may be as fine as one likes (by ad, audience, region): they are summed, and with
        ``ad_id``, ``audience_age`` and ``audience_gender``, ``region`` (each beside ``platform``, if that is there)
        the indicators that need them are told too.
    accounts
        ``account_id`` and, where known, ``monthly_budget`` and ``onboarded_date``. The day a client leaves is not
        read.
    last
        Last day of the rows, by default that of ``performance``; what is later is not read.

    Returns
    -------
    pandas.DataFrame
        ``account_id``, ``date`` (midnight) and the columns of `INDICATORS`, float, NaN where an indicator has too
        little to go by; sorted by account and date. A row for each day from an account's first until `QUIET_DAYS` after
        the last one on which it was served, also for days without performance.

    Raises
    ------
    InputError
        If a column is missing, or a date or a metric is not one.

    Examples
    --------
    >>> days = pd.date_range("2024-01-01", periods=60)
    >>> daily = pd.DataFrame({"date": days, "account_id": "a", "impressions": 1000, "clicks": 20})
    >>> daily.loc[days >= "2024-02-23", "clicks"] = 10
    >>> account_indicators(daily)["clicks_7d_vs_28d"].iloc[-1].round(2)  # log(10.5 / 20.5)
    np.float64(-0.67)
    """
    rows = checked(performance)
    if last is not None:
        rows = rows[rows["date"] <= np.datetime64(last, "D")]
    parts = [_told(part, accounts, end) for part, end in _parts(rows, last)]
    if not parts:
        return pd.DataFrame(columns=["account_id", "date", *INDICATORS]).astype(dict.fromkeys(INDICATORS, np.float64))
    return pd.concat(parts, ignore_index=True)


def _parts(rows: pd.DataFrame, last: date | None) -> Iterator[tuple[pd.DataFrame, np.datetime64]]:
    """Split the rows into as many accounts as fit into memory at once."""
    if rows.empty:
        return
    days = rows["date"].to_numpy().astype(DAY)
    end = days.max() if last is None else np.datetime64(last, "D")
    ids = np.sort(rows["account_id"].unique().astype(object))
    at_once = max(1, _CELLS_AT_ONCE // (int((end - days.min()).astype(int)) + 1))
    if ids.size <= at_once:
        yield rows, end
        return
    place = pd.Index(ids).get_indexer(rows["account_id"]) // at_once
    for number in range(int(place.max()) + 1):
        yield rows[place == number], end


def _told(rows: pd.DataFrame, accounts: pd.DataFrame | None, last: np.datetime64) -> pd.DataFrame:
    grid = daily_grid(rows, last=last)
    known = _known(accounts, grid)
    columns = {
        **_trends(grid),
        **_efficiency(grid),
        **_pacing(grid, known),
        **_saturation(grid),
        **_audience(rows, grid),
        **_past(grid),
        **_presence(grid, known),
    }
    served = days_since(grid.metrics["impressions"] > 0)
    began = days_since(grid.begun & ~_shifted(grid.begun))
    there = grid.begun & (np.where(np.isnan(served), began, served) <= QUIET_DAYS)
    account, day = np.nonzero(there)
    frame = pd.DataFrame({"account_id": grid.accounts[account], "date": grid.dates[day].astype("datetime64[us]")})
    return frame.assign(**{name: columns[name][there] for name in INDICATORS})


def _shifted(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    earlier = np.zeros_like(values)
    earlier[:, 1:] = values[:, :-1]
    return earlier


def _known(accounts: pd.DataFrame | None, grid: DailyGrid) -> _Known:
    nothing = np.full(grid.accounts.size, np.nan)
    if accounts is None:
        return _Known(nothing, nothing)
    if "account_id" not in accounts.columns:
        raise InputError("accounts needs the column 'account_id'; it is not there.")
    table = accounts.drop_duplicates("account_id", keep="last").set_index("account_id").reindex(grid.accounts)
    budget, onboarded = nothing, nothing.copy()
    if "monthly_budget" in table.columns:
        budget = table["monthly_budget"].to_numpy(np.float64, na_value=np.nan)
    if "onboarded_date" in table.columns:
        told = table["onboarded_date"].notna().to_numpy()
        days = as_days("accounts", table["onboarded_date"][told])
        onboarded[told] = (days - grid.first).astype(np.float64)
    return _Known(budget, onboarded)


# ---- trends


def _trends(grid: DailyGrid) -> dict[str, FloatArray]:
    told = {}
    for metric in ("clicks", "impressions", "spend"):
        values = grid.metrics[metric]
        known = grid.known.get(metric, grid.begun)
        for window, longer in ((WEEK, MONTH), (MONTH, QUARTER)):
            told[f"{metric}_{window}d_vs_{longer}d"] = _against_before(values, known, grid, window, longer)
    for window, longer in ((WEEK, MONTH), (MONTH, QUARTER)):
        told[f"ctr_{window}d_vs_{longer}d"] = _ratio_against_before(grid, ("clicks", "impressions"), window, longer)
    logs = np.log1p(grid.metrics["clicks"])
    told["engagement_trend"] = WEEK * trailing_slope(logs, grid.begun, MONTH, at_least=MONTH // 2)
    return told


def _daily(grid: DailyGrid, values: FloatArray, window: int, skip: int, known: NDArray[np.bool_]) -> FloatArray:
    """Mean per day on which the account was there and the metric known; NaN with fewer than 7 of them."""
    days = trailing_sum((grid.begun & known).astype(np.float64), window, skip=skip)
    return np.asarray(trailing_sum(values, window, skip=skip) / np.where(days >= WEEK, days, np.nan), dtype=np.float64)


def _against_before(
    values: FloatArray, known: NDArray[np.bool_], grid: DailyGrid, window: int, longer: int
) -> FloatArray:
    if values is grid.metrics["spend"]:
        # A day without any row has no spend, and that is known where money is.
        known = np.logical_or.accumulate(known, axis=1) & (known | (grid.metrics["impressions"] == 0))
    recent = _daily(grid, values, window, 0, known)
    before = _daily(grid, values, longer, window, known)
    # Half a unit a day: a fall to nothing is a number, and small counts do not swing.
    return np.asarray(np.log((recent + 0.5) / (before + 0.5)), dtype=np.float64)


# ---- efficiency

_PRICES = {
    "ctr": ("clicks", "impressions"),
    "cpc": ("spend", "clicks"),
    "cvr": ("conversions", "clicks"),
    "cpa": ("spend", "conversions"),
    "roas": ("revenue", "spend"),
}


def _sums(grid: DailyGrid, name: str, window: int, skip: int = 0) -> tuple[FloatArray, FloatArray]:
    """Window sums of a price's parts, over the days on which both are known."""
    known = np.ones(grid.shape, dtype=bool)
    for metric in _PRICES[name]:
        known &= grid.known.get(metric, known)
    part, whole = (trailing_sum(np.where(known, grid.metrics[m], 0.0), window, skip=skip) for m in _PRICES[name])
    return part, whole


def _price(grid: DailyGrid, name: str, window: int) -> FloatArray:
    part, whole = _sums(grid, name, window)
    return _divided(part, whole)


def _divided(part: FloatArray, whole: FloatArray) -> FloatArray:
    # Sums of money below any coin are no spend; divided by them a ratio would be infinite.
    return np.asarray(part / np.where(whole > _NOTHING, whole, np.nan), dtype=np.float64)


def _ratio_against_before(grid: DailyGrid, parts: tuple[str, str], window: int, longer: int) -> FloatArray:
    name = next(n for n, p in _PRICES.items() if p == parts)
    recent, recent_whole = _sums(grid, name, window)
    before, before_whole = _sums(grid, name, longer, skip=window)
    usual = _divided(before, before_whole)
    # One part more at the usual price on both sides: a price that rests on little stays near it.
    unit = (
        1.0
        if parts[0] in ("clicks", "conversions")
        else _divided(before, trailing_sum(_events(grid, name), longer, skip=window))
    )
    added = _divided(np.broadcast_to(unit, grid.shape), usual)
    enough = trailing_sum(grid.begun.astype(np.float64), longer, skip=window) >= WEEK
    told = np.log(_divided(recent + unit, recent_whole + added) / usual)
    return np.where(enough & (recent_whole > 0), told, np.nan)


def _events(grid: DailyGrid, name: str) -> FloatArray:
    """What a price's money comes in: conversions where they bring it, clicks where they cost it."""
    return grid.metrics["conversions" if name in ("roas", "cpa") else "clicks"]


def _efficiency(grid: DailyGrid) -> dict[str, FloatArray]:
    told = {f"{name}_28d": _price(grid, name, MONTH) for name in ("ctr", "cpc", "cvr", "roas")}
    for name in ("roas", "cpc", "cpa", "cvr"):
        told[f"{name}_28d_vs_90d"] = _ratio_against_before(grid, _PRICES[name], MONTH, QUARTER)
    told["roas_7d_vs_28d"] = _ratio_against_before(grid, _PRICES["roas"], WEEK, MONTH)
    money = np.logical_or.accumulate(grid.known["revenue"] & grid.known["spend"], axis=1)
    by_clicks = _ratio_against_before(grid, _PRICES["ctr"], MONTH, QUARTER)
    told["spend_efficiency"] = np.where(money, told["roas_28d_vs_90d"], by_clicks)
    return told


# ---- pacing, saturation


def _pacing(grid: DailyGrid, known: _Known) -> dict[str, FloatArray]:
    daily = np.where(known.budget > 0, known.budget, np.nan)[:, None] / _DAYS_A_MONTH
    told = {}
    for window in (WEEK, MONTH):
        days = trailing_sum(grid.begun.astype(np.float64), window)
        spent = np.where(np.logical_or.accumulate(grid.known["spend"], axis=1), grid.metrics["spend"], np.nan)
        sums = trailing_sum(np.nan_to_num(spent), window)
        told[f"budget_pacing_{window}d"] = np.where(np.isnan(spent), np.nan, _divided(sums, days * daily))
    return told


def _saturation(grid: DailyGrid) -> dict[str, FloatArray]:
    impressions, clicks = grid.metrics["impressions"], grid.metrics["clicks"]
    usual = _price(grid, "ctr", MONTH)
    served = impressions > 0
    x = np.log(np.where(served, impressions, 1.0))
    y = np.log(np.where(served, clicks + 0.5, 1.0))
    # A log of a count is known to about 1/√count; days of one month differ by more than their counts' noise.
    weight = np.where(served, 1.0 / (1.0 / (clicks + 0.5) + 0.01), 0.0)
    elasticity = trailing_elasticity(x, y, weight, MONTH, _PRIOR_INFORMATION)
    return {"reach_saturation": np.where(np.isnan(usual), np.nan, np.clip(1.0 - elasticity, -1.0, 1.0))}


# ---- audience


def _audience(rows: pd.DataFrame, grid: DailyGrid) -> dict[str, FloatArray]:
    shape = grid.shape
    told = dict.fromkeys(
        (n for n in INDICATORS if n.startswith(("frequency", "audience", "region", "creative", "newest", "active"))),
        np.full(shape, np.nan),
    )
    told["fatigue"] = np.full(shape, np.nan)
    audiences = _AUDIENCE_COLUMNS & set(rows.columns)
    if audiences:
        told["audience_concentration"] = audience.concentration(_of(rows, grid, _AUDIENCE), shape)
    if "region" in rows.columns:
        told["region_concentration"] = audience.concentration(_of(rows, grid, _REGION), shape)
    reached = [*(_AUDIENCE if audiences else ()), *(_REGION if "region" in rows.columns else ())]
    if reached:
        told["frequency"] = audience.frequency(_of(rows, grid, reached), shape)
        told["frequency_7d_vs_28d"] = _frequency_change(told["frequency"])
    if "ad_id" not in rows.columns:
        return told
    ads = _of(rows, grid, _AD)
    told["fatigue"] = audience.fatigue(ads, shape)
    told["creative_refresh"] = audience.creative_refresh(ads, _first_days(grid), shape)
    told["newest_ad_days"] = audience.newest_ad_days(ads, shape)
    told["active_ads"] = np.where(grid.begun, audience.active(ads, shape), np.nan)
    if audiences:
        group = [c for c in _AUDIENCE if c in rows.columns]
        columns = [c for c in _AD if c in rows.columns]
        told["audience_overlap"] = audience.overlap(entity_days(rows, grid, columns, group=group), shape)
    return told


def _of(rows: pd.DataFrame, grid: DailyGrid, columns: tuple[str, ...] | list[str]) -> EntityDays:
    return entity_days(rows, grid, [c for c in columns if c in rows.columns])


def _first_days(grid: DailyGrid) -> IntArray:
    return np.asarray(grid.begun.argmax(axis=1), dtype=np.int64)


def _frequency_change(frequency: FloatArray) -> FloatArray:
    there = ~np.isnan(frequency)
    days = trailing_sum(there.astype(np.float64), MONTH, skip=WEEK)
    before = trailing_sum(np.nan_to_num(frequency), MONTH, skip=WEEK) / np.where(days >= WEEK, days, np.nan)
    return np.asarray(np.log(frequency / before), dtype=np.float64)


# ---- own past, presence


def _past(grid: DailyGrid) -> dict[str, FloatArray]:
    ctr, roas = _price(grid, "ctr", WEEK), _price(grid, "roas", WEEK)
    clicks = np.where(grid.begun, trailing_sum(grid.metrics["clicks"], WEEK), np.nan)
    return {
        "ctr_percentile_90d": trailing_percentile(ctr, QUARTER, at_least=MONTH),
        "ctr_percentile_180d": trailing_percentile(ctr, HALF_YEAR, at_least=MONTH),
        "roas_percentile_90d": trailing_percentile(roas, QUARTER, at_least=MONTH),
        "roas_percentile_180d": trailing_percentile(roas, HALF_YEAR, at_least=MONTH),
        "clicks_percentile_90d": trailing_percentile(clicks, QUARTER, at_least=MONTH),
    }


def _presence(grid: DailyGrid, known: _Known) -> dict[str, FloatArray]:
    served = grid.metrics["impressions"] > 0
    day = np.arange(grid.shape[1])
    begun = _first_days(grid)
    days = np.minimum(day - begun[:, None] + 1, MONTH)
    idle = 1.0 - trailing_sum(served.astype(np.float64), MONTH) / np.maximum(days, 1)
    since = np.where(np.isnan(known.onboarded), begun, known.onboarded)[:, None]
    logs = np.log1p(grid.metrics["impressions"])
    change = np.zeros(grid.shape)
    change[:, 1:] = np.abs(np.diff(logs, axis=1)) * grid.begun[:, :-1]
    pairs = np.minimum(day - begun[:, None], MONTH).astype(np.float64)
    return {
        "volatility": trailing_sum(change, MONTH) / np.where(pairs >= WEEK, pairs, np.nan),
        "days_since_served": days_since(served),
        "idle_share": np.where(grid.begun, idle, np.nan),
        "account_days": np.where(grid.begun, np.maximum(day - since, 0.0), np.nan),
    }
