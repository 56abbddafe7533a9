"""What every metric of every series is expected to be tonight, from the nights before: one step of arrays per night.

The state of a night is all that the next one needs, so that a night costs a night. Reading frames belongs in `panel`,
judging in `nights`.

A series' metric is ``value = rate · base · weekday``: the base is the day's impressions, clicks or spend for a rate, 1
for a count. The rate is a random walk followed by a Kalman filter on the relative scale: little evidence (few clicks)
moves it little, and ``baseline_window`` says how fast it may wander. A day far outside its band counts as one at the
edge of one standard deviation, so that an anomaly does not become the baseline; after `ACCEPTED_AFTER` such days in a
row on the same side they are the new level.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from within_ml.anomalies.counts import signed_residual
from within_ml.anomalies.creatives import AdDay, Creatives
from within_ml.anomalies.metrics import BASE, FACTS, METRICS, NAMES, VALUE
from within_ml.anomalies.peers import common_factor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

M = len(METRICS)

MIN_DAYS = 7
"""Days that a series' metric must have shown before it is judged."""

ACCEPTED_AFTER = 7
"""Days in a row on one side after which a new level is the level."""

WALK_SHARE = 1 / 16
WALK_FLOOR = 0.014**2
"""Relative variance of a level's step from day to day, for a baseline window of 28 days: a share of the series' own
variance from day to day, since what varies more wanders more, and a floor."""

FIRST_SPREAD = 0.15
"""Relative standard deviation beyond counting that a series begins with."""

_FAR_MOVES = 0.15
_SPREAD_DAYS = 6.0
_FLOOR = 0.02**2
_WEEKDAY_COUNTS = 60.0
_SERIES_COUNTS = 200.0
_WEEKDAY_MEMORY = 0.9
_CLICK_PRICE_VARIANCE = 0.25
_ORDER_VARIANCE = 1.2
_TINY = 1e-9
_CTR = NAMES.index("ctr")
_DERIVED = tuple(
    tuple(NAMES.index(name) for name in names)
    for names in (("clicks", "impressions", "ctr"), ("spend", "clicks", "cpc"), ("conversions", "clicks", "cvr"))
)


_BY_METRIC = ("rate", "variance", "anchor", "spread", "spread_weight", "days", "streak", "run_value", "run_base")


@dataclass(slots=True, eq=False)
class Levels:
    """The state of n series after a night; every array ends in the axis of the series.

    Attributes
    ----------
    rate, variance : array, shape (M, n)
        Level, and its relative variance; NaN before the first evidence.
    anchor : array, shape (M, n)
        The level before the run of odd days that lasts, or of the night before.
    spread, spread_weight : array, shape (M, n)
        Discounted sums behind the relative variance beyond counting.
    days, streak : array, shape (M, n)
        Days of evidence; days in a row far outside, negative below.
    run_value, run_base : array, shape (M, n)
        Sums over the days of the streak.
    week_value, week_expected : array, shape (M, 7, n)
        Discounted sums behind the weekday factors, in counts.
    facts : array, shape (5, n)
        Discounted sums of `FACTS`, behind the prices of single events.
    currency : array, shape (n,)
        Code of the currency of the last day, -1 where unknown.
    account : array of int, shape (n,)
        Account of each series.
    """

    rate: Floats
    variance: Floats
    anchor: Floats
    spread: Floats
    spread_weight: Floats
    days: Floats
    streak: Floats
    run_value: Floats
    run_base: Floats
    week_value: Floats
    week_expected: Floats
    facts: Floats
    currency: Floats
    account: Ints

    @classmethod
    def empty(cls, n: int = 0) -> Levels:
        """Return the state of n series of which nothing is known."""
        by_metric = {name: np.zeros((M, n)) for name in _BY_METRIC}
        return cls(
            **by_metric | {"rate": np.full((M, n), np.nan)},
            week_value=np.zeros((M, 7, n)),
            week_expected=np.zeros((M, 7, n)),
            facts=np.zeros((len(FACTS), n)),
            currency=np.full(n, -1.0),
            account=np.arange(n, dtype=np.int64),
        )

    @property
    def size(self) -> int:
        """Number of series."""
        return len(self.currency)

    def grown(self, n: int) -> Levels:
        """Return the state with unknown series appended up to n."""
        more = Levels.empty(n - self.size)
        return Levels(*(np.concatenate([getattr(self, f.name), getattr(more, f.name)], axis=-1) for f in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """One night's expectation of n series, all arrays of shape (M, n); NaN where nothing can be said.

    The variance of a value is ``unit · mean + extra · mean²``; ``z`` is its residual. ``base`` is what the mean is
    per: ``mean / base`` is on the scale of the metric.
    """

    value: Floats
    base: Floats
    mean: Floats
    unit: Floats
    extra: Floats
    z: Floats


def values_and_bases(facts: Floats) -> tuple[Floats, Floats]:
    """Return each metric's value and base, shape (M, n), from facts of shape (5, n); a base of 0 has no rate."""
    value = facts[list(VALUE)]
    base = np.stack(
        [np.where(np.isnan(facts[v]), np.nan, 1.0) if b is None else facts[b] for v, b in zip(VALUE, BASE, strict=True)]
    )
    missing = ~(base > 0)
    return np.where(missing, np.nan, value), np.where(missing, np.nan, base)


def expect(
    levels: Levels,
    facts: Floats,
    weekday: int,
    peers: Ints,
    ads: tuple[Creatives, AdDay] | None = None,
) -> Expected:
    """Return what tonight's values are expected to be, given the nights before and tonight's other series.

    Parameters
    ----------
    levels : Levels
        Of n series, after the night before.
    facts : array, shape (5, n)
        Tonight's `FACTS`; NaN where a series has no row or the fact is unknown.
    weekday : int
        0 is Monday.
    peers : array of int, shape (n,)
        Series of the same group share what happens to all of them on a day.
    ads : tuple of Creatives and AdDay, optional
        The ads behind tonight's clicks, where they are known: ctr is then expected of them.
    """
    value, base = values_and_bases(facts)
    week = weekday_factor(levels, weekday)
    mean = levels.rate * base * week
    unit = _unit(levels)
    spread = relative_spread(levels)
    level = levels.variance.copy()
    if ads is not None:
        clicks, variance = ads[0].expect(ads[1], levels.rate[_CTR], week[_CTR])
        known = clicks > 0
        mean[_CTR], level[_CTR] = np.where(known, clicks, mean[_CTR]), np.where(known, variance, level[_CTR])
    _derive(mean, level, spread, base)
    extra = spread + level + _weekday_variance(levels, weekday)
    judged = (levels.days >= MIN_DAYS) & ~np.isnan(value) & (mean > 0) & ~np.isnan(unit)
    mean = np.where(judged, mean, np.nan)
    mean = mean * common_factor(value, mean, unit, peers)
    z = np.full_like(mean, np.nan)
    z[judged] = signed_residual(value[judged], mean[judged], unit[judged], extra[judged])
    return Expected(value, base, mean, unit, extra, z)


def _derive(mean: Floats, level: Floats, spread: Floats, base: Floats) -> None:
    """Expect clicks, spend and conversions of what they are made of, in place: they move as soon as that does.

    Conversions alone, a few a day, would learn a decline weeks after impressions have shown it.
    """
    for count, source, rate in _DERIVED:
        with np.errstate(invalid="ignore", divide="ignore"):
            made = mean[source] * mean[rate] / base[rate]
        known = made > 0
        mean[count] = np.where(known, made, mean[count])
        level[count] = np.where(known, level[source] + level[rate], level[count])
        spread[count] = np.where(known, np.maximum(spread[count], spread[source]), spread[count])


def learn(levels: Levels, night: Expected, facts: Floats, weekday: int, far: Bools, window: int) -> None:
    """Take a night's values into the state, in place.

    Parameters
    ----------
    far : array of bool, shape (M, n)
        Values that do not count as evidence.
    window : int
        Days; twice as many let a level wander half as far.
    """
    value, base = night.value, night.base
    # A series too young to be judged begins after the account's odd days.
    seen = ~np.isnan(value) & ~(far & np.isnan(night.z))
    week = weekday_factor(levels, weekday)
    fresh = seen & np.isnan(levels.rate)
    levels.facts = np.where(np.isnan(facts), levels.facts, 0.95 * levels.facts + facts)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels.rate = np.where(fresh, value / (base * week), levels.rate)
        unit = night.unit if not fresh.any() else _unit(levels)
        # Money without a single click or order has no scale yet: such a day is no beginning.
        unknown = np.isnan(unit)
        levels.rate = np.where(fresh & unknown, np.nan, levels.rate)
        seen, fresh = seen & ~unknown, fresh & ~unknown
        count = levels.rate * base * week / unit
        noise = relative_spread(levels) + 1.0 / np.maximum(count, 0.5)
        mean = levels.rate * base * week
        deviation = np.sqrt(unit * np.maximum(mean, 0.5 * unit) * np.maximum(noise * count, 1.0))
    levels.variance = np.where(fresh, noise, levels.variance)
    known = seen & ~fresh
    limit = np.where(far, np.minimum(deviation, _FAR_MOVES * mean), 2.5 * deviation)
    kept = mean + np.clip(value - mean, -limit, limit)
    # The residual that was judged is the one whose spread counts: of ctr, that around its ads' levels.
    judged = ~np.isnan(night.mean)
    _learn_spread(levels, np.where(judged, night.mean, mean), kept, count, known)
    _learn_weekday(levels, kept, mean, unit, weekday, known & ~far)
    step = (WALK_SHARE * relative_spread(levels) + WALK_FLOOR) * (28.0 / window) ** 2
    predicted = levels.variance + step
    gain = predicted / (predicted + noise)
    moved = np.maximum(levels.rate + gain * (kept - mean) / (base * week), 0.0)
    levels.rate = np.where(known, moved, levels.rate)
    levels.variance = np.where(known, (1 - gain) * predicted, levels.variance)
    levels.days += seen
    _accept(levels, night, week, far, known)


def learn_together(levels: Levels, night: Expected, account: Ints, accounts: int, weekday: int, usable: Bools) -> None:
    """Move the series of an account by what all of them show beyond what each has learnt alone, in place.

    A client that declines shows it in every campaign; together they know it sooner.

    Parameters
    ----------
    account : array of int, shape (n,)
        Account of each series; those with one series have nothing to share.
    usable : array of bool, shape (M, n)
        Values that count as evidence.
    """
    spread = relative_spread(levels)
    mean = levels.rate * night.base * weekday_factor(levels, weekday)
    usable = usable & (mean > 0) & ~np.isnan(night.unit)
    for row in range(M):
        chosen = usable[row]
        owner, m = account[chosen], mean[row, chosen]
        series = np.bincount(owner, minlength=accounts)
        total = np.bincount(owner, weights=m, minlength=accounts)
        came = np.bincount(owner, weights=night.value[row, chosen], minlength=accounts)
        variance = night.unit[row, chosen] * m + spread[row, chosen] * m**2
        walk = (WALK_SHARE * spread[row, chosen] + WALK_FLOOR) * m**2
        shared = series >= 2
        safe = np.where(shared, total, 1.0)
        noise = np.bincount(owner, weights=variance, minlength=accounts) / safe**2
        step = np.bincount(owner, weights=walk, minlength=accounts) / safe**2 * np.maximum(series, 1)
        gain = 2.0 / (1.0 + np.sqrt(1.0 + 4.0 * noise / np.maximum(step, _TINY)))
        limit = 2.5 * np.sqrt(noise)
        moved = 1.0 + gain * np.clip(came / safe - 1.0, -limit, limit)
        levels.rate[row, chosen] *= np.where(shared, np.maximum(moved, 0.1), 1.0)[owner]


def restart_money(levels: Levels, currency: Floats) -> None:
    """Forget what was known of money where an account's currency is another than the day before, in place."""
    known = currency >= 0
    changed = known & (levels.currency >= 0) & (levels.currency != currency)
    levels.currency = np.where(known, currency, levels.currency)
    if not changed.any():
        return
    for name in ("spend", "cpc"):
        row = NAMES.index(name)
        levels.rate[row, changed] = np.nan
        for array in (levels.variance, levels.days, levels.streak, levels.run_value, levels.run_base):
            array[row, changed] = 0.0
        levels.week_value[row][:, changed] = 0.0
        levels.week_expected[row][:, changed] = 0.0
    for name in ("spend", "revenue"):
        # The price of an event begins anew with the first day's, in the same ratio of sums.
        levels.facts[FACTS.index(name), changed] = 0.0
    for name in ("clicks", "conversions"):
        levels.facts[FACTS.index(name), changed] = 0.0


def relative_spread(levels: Levels) -> Floats:
    """Return the relative variance beyond counting, shape (M, n): the series' own, shrunk to what all of them show."""
    prior = FIRST_SPREAD**2
    total = levels.spread.sum(axis=1, keepdims=True), levels.spread_weight.sum(axis=1, keepdims=True)
    pooled = np.maximum((total[0] + 30 * prior) / (total[1] + 30), _FLOOR)
    own = (levels.spread + _SPREAD_DAYS * pooled) / (levels.spread_weight + _SPREAD_DAYS)
    return np.asarray(np.maximum(own, _FLOOR))


def _unit(levels: Levels) -> Floats:
    """Return the amount of one independent event per metric, shape (M, n)."""
    _, clicks, spend, conversions, revenue = levels.facts
    price = np.where((clicks > 0) & (spend > 0), spend / np.maximum(clicks, _TINY), np.nan)
    order = np.where((conversions > 0) & (revenue > 0), revenue / np.maximum(conversions, _TINY), np.nan)
    # Where there is neither click nor order, money is taken as paid in one piece.
    rate = np.clip(np.nan_to_num(levels.rate), 0.0, 0.95)
    one = np.ones_like(price)
    unit = np.stack(
        [
            one,
            one,
            np.where(np.isnan(price), spend * 0.05, price),
            one,
            1 - rate[NAMES.index("ctr")],
            np.where(np.isnan(price), 1.0, price) * _CLICK_PRICE_VARIANCE,
            1 - rate[NAMES.index("cvr")],
            np.where(np.isnan(order), revenue * 0.05, _ORDER_VARIANCE * order),
        ]
    )
    return np.asarray(np.where(unit > 0, unit, np.nan))


def weekday_factor(levels: Levels, weekday: int) -> Floats:
    """Return the weekday's factor, shape (M, n): of a series, shrunk to its account's, shrunk to that of all."""
    value, expected = levels.week_value[:, weekday], levels.week_expected[:, weekday]
    all_value, all_expected = value.sum(axis=1, keepdims=True), expected.sum(axis=1, keepdims=True)
    pooled = (all_value + 2 * _WEEKDAY_COUNTS) / (all_expected + 2 * _WEEKDAY_COUNTS)
    mine = (_of_account(levels, value) + _WEEKDAY_COUNTS * pooled) / (_of_account(levels, expected) + _WEEKDAY_COUNTS)
    own = (value + _SERIES_COUNTS * mine) / (expected + _SERIES_COUNTS)
    return np.asarray(np.clip(own, 0.05, 20.0))


def _weekday_variance(levels: Levels, weekday: int) -> Floats:
    """Return the relative variance of the weekday's factor, shape (M, n)."""
    return np.asarray(1.0 / (_of_account(levels, levels.week_expected[:, weekday]) + _WEEKDAY_COUNTS))


def _of_account(levels: Levels, sums: Floats) -> Floats:
    """Return the sum over the account of each series, shape (M, n)."""
    if not levels.size:
        return sums
    return np.stack([np.bincount(levels.account, weights=row)[levels.account] for row in sums]).astype(np.float64)


def _learn_spread(levels: Levels, mean: Floats, kept: Floats, count: Floats, known: Bools) -> None:
    noise = relative_spread(levels) + 1.0 / np.maximum(count, 0.5) + levels.variance
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = 2.5 * np.sqrt(noise)
        beyond = np.clip(kept / mean - 1, -limit, limit) ** 2 - 1.0 / count - levels.variance
        weight = np.minimum((FIRST_SPREAD**2 / noise) ** 2, 1.0)
    usable = known & np.isfinite(beyond)
    memory = 0.97
    levels.spread = np.where(usable, memory * levels.spread + weight * np.where(usable, beyond, 0.0), levels.spread)
    levels.spread_weight = np.where(usable, memory * levels.spread_weight + weight, levels.spread_weight)


def _learn_weekday(levels: Levels, kept: Floats, mean: Floats, unit: Floats, weekday: int, known: Bools) -> None:
    counts = np.where(known, mean / unit, 0.0)
    # Of a day with any number of clicks no more is learnt than its spread allows.
    worth = 1.0 / (1.0 + relative_spread(levels) * counts)
    value, expected = levels.week_value[:, weekday], levels.week_expected[:, weekday]
    factor = weekday_factor(levels, weekday)
    gained = np.where(known, worth * kept / unit, 0.0)
    usual = worth * counts / factor
    levels.week_value[:, weekday] = np.where(known, _WEEKDAY_MEMORY * value + gained, value)
    levels.week_expected[:, weekday] = np.where(known, _WEEKDAY_MEMORY * expected + usual, expected)


def _accept(levels: Levels, night: Expected, week: Floats, far: Bools, known: Bools) -> None:
    """Count days far outside on one side; the `ACCEPTED_AFTER`-th of them makes their level the level."""
    out = far & known
    side = np.sign(night.z)
    goes_on = out & (np.sign(levels.streak) == side)
    levels.streak = np.where(known, np.where(goes_on, levels.streak + side, np.where(out, side, 0.0)), levels.streak)
    value, base = np.nan_to_num(night.value), np.nan_to_num(night.base * week)
    for array, new in ((levels.run_value, value), (levels.run_base, base)):
        array[...] = np.where(known, np.where(goes_on, array + new, np.where(out, new, 0.0)), array)
    accepted = out & (np.abs(levels.streak) >= ACCEPTED_AFTER)
    if accepted.any():
        levels.rate = np.where(accepted, levels.run_value / np.maximum(levels.run_base, _TINY), levels.rate)
        levels.variance = np.where(accepted, FIRST_SPREAD**2 / ACCEPTED_AFTER, levels.variance)
        levels.streak = np.where(accepted, 0.0, levels.streak)
