"""Indicators that need to know which ad, audience and region an impression went to: arrays in, arrays out.

What is read from account-day sums alone belongs in `indicators`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from within_ml.health.daily import EntityDays
from within_ml.health.windows import EntityWindows, days_since, entity_windows, trailing_sum

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MONTH = 28
WEEK = 7
YOUNG_DAYS = 14
"""An ad younger than this is fresh."""


def _onto(places: tuple[IntArray, IntArray], values: FloatArray | IntArray, shape: tuple[int, int]) -> FloatArray:
    flat = np.bincount(places[0] * shape[1] + places[1], weights=values, minlength=shape[0] * shape[1])
    return np.asarray(flat.reshape(shape), dtype=np.float64)


def _windows(entities: EntityDays, values: tuple[IntArray, ...], window: int, shape: tuple[int, int]) -> EntityWindows:
    return entity_windows(entities.entity, entities.day, values, window=window, days=shape[1])


def concentration(entities: EntityDays, shape: tuple[int, int]) -> FloatArray:
    """Herfindahl index of the last 28 days' impressions over entities: 1 where one has them all; NaN without any."""
    sums = _windows(entities, (entities.impressions,), MONTH, shape)
    place = entities.owner[sums.entity], sums.day
    share = sums.sums[0].astype(np.float64)
    total = _onto(place, share, shape)
    return _ratio(_onto(place, share**2, shape), total**2)


def frequency(entities: EntityDays, shape: tuple[int, int]) -> FloatArray:
    """Impressions of the last 7 days per entity that had any, and per day."""
    sums = _windows(entities, (entities.impressions,), WEEK, shape)
    place = entities.owner[sums.entity], sums.day
    return _ratio(_onto(place, sums.sums[0], shape) / WEEK, _onto(place, (sums.sums[0] > 0).astype(np.int64), shape))


def overlap(entities: EntityDays, shape: tuple[int, int]) -> FloatArray:
    """Chance that impressions of two different ads, drawn from the last 28 days, have one audience; NaN for one ad.

    The ads' groups are the audiences. With w the impressions of an ad: the sum of w·w' over pairs of different ads of
    one audience, over that of all pairs of different ads.
    """
    sums = _windows(entities, (entities.impressions,), MONTH, shape)
    account, weight = entities.owner[sums.entity], sums.sums[0].astype(np.float64)
    place = account, sums.day
    own = _onto(place, weight**2, shape)
    total = _onto(place, weight, shape) ** 2
    cell = entities.group[sums.entity] * shape[1] + sums.day
    cells, inverse = np.unique(cell, return_inverse=True)
    together = np.bincount(inverse, weights=weight, minlength=cells.size) ** 2
    owner = np.zeros(cells.size, dtype=np.int64)
    owner[inverse] = account
    within = _onto((owner, cells % shape[1]), together, shape)
    pairs = total - own
    return _ratio(np.maximum(within - own, 0.0), np.where(pairs > 1e-9 * total, pairs, 0.0))


def fatigue(ads: EntityDays, shape: tuple[int, int]) -> FloatArray:
    """Change of the ads' click rate per week of age in the last 28 days, over their rate; NaN without spread of age.

    Slope of the regression of daily ctr on age with an intercept per ad, weighted by impressions, from each ad's sums
    of squares (analysis of covariance; Fisher 1932), so that a change from worn to fresh ads is not read as wear.
    Negative where ads wear out.
    """
    born = ads.day[np.flatnonzero(np.diff(ads.entity, prepend=-1))]
    age = ads.day - born[ads.entity]
    terms = (ads.impressions, ads.clicks, ads.impressions * age, ads.impressions * age**2, ads.clicks * age)
    sums = _windows(ads, terms, MONTH, shape)
    shown = sums.sums[0] > 0
    w, y, wx, wxx, xy = (s.astype(np.float64)[shown] for s in sums.sums)
    place = ads.owner[sums.entity[shown]], sums.day[shown]
    spread = _onto(place, np.maximum(wxx - wx * wx / w, 0.0), shape)
    together = _onto(place, xy - wx * y / w, shape)
    weight, clicks = _onto(place, w, shape), _onto(place, y, shape)
    # Ages that hardly differ say nothing of wear.
    slope = _ratio(together, np.where(spread > weight * 4.0, spread, 0.0))
    return np.asarray(WEEK * slope / np.where(clicks > 0, clicks / np.where(weight > 0, weight, 1), np.nan))


def creative_refresh(ads: EntityDays, begun: IntArray, shape: tuple[int, int]) -> FloatArray:
    """Share of the last 28 days' impressions on ads younger than 14 days.

    ``begun`` is each account's first day: how old ads were then is not known, so its first 14 days do not count.
    """
    born = ads.day[np.flatnonzero(np.diff(ads.entity, prepend=-1))]
    owner = ads.owner[ads.entity]
    counts = ads.day - begun[owner] >= YOUNG_DAYS
    young = counts & (ads.day - born[ads.entity] < YOUNG_DAYS)
    place = owner, ads.day
    return _ratio(
        trailing_sum(_onto(place, ads.impressions * young, shape), MONTH),
        trailing_sum(_onto(place, ads.impressions * counts, shape), MONTH),
    )


def newest_ad_days(ads: EntityDays, shape: tuple[int, int]) -> FloatArray:
    """Days since an ad was first served."""
    first = np.flatnonzero(np.diff(ads.entity, prepend=-1))
    return days_since(_onto((ads.owner, ads.day[first]), np.ones(first.size), shape) > 0)


def active(entities: EntityDays, shape: tuple[int, int]) -> FloatArray:
    """Entities with an impression in the last 28 days."""
    sums = _windows(entities, (entities.impressions,), MONTH, shape)
    shown = sums.sums[0] > 0
    return _onto((entities.owner[sums.entity[shown]], sums.day[shown]), np.ones(int(shown.sum())), shape)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.asarray(part / np.where(whole > 0, whole, np.nan), dtype=np.float64)
