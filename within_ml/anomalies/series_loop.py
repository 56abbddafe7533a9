"""The inner loop of `series`, compiled by numba, which is imported with this module.

Arrays and numbers only; every argument was checked by the caller. What the loop knows of the past stands in three
arrays, which it changes in place: `numbers` (the scalars below), `profiles` of shape (4, 168) (the daily profile's
deviations and counts by hour, the weekly one's by hour of the week) and `tails` of shape (`STATISTICS` + 1, `BINS`)
(discounted histograms of each statistic's logarithm; the last row holds kept past values).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STATISTICS = 7
BINS = 600
_LOWEST, _STEP = -5.0, 0.05
_HISTOGRAM = 220
_MOST_SURPRISE = 15.0

# Places in `numbers`.
T, LEVEL, MEAN, SPAN, SCALE, SLOW_SCALE, FAST_SUM, SLOW_SUM, ACTIVITY, LAST, EVIDENCE = range(11)
KEPT, STRIDE, LAST_ALARM, ALARM, ALARMS, LEAST, SEEN = range(11, 18)
ERROR, SLOPE_TOP, SLOPE_BOTTOM, RESIDUAL, TOTAL, UNIT, HIGHEST = 18, 24, 27, 30, 33, 40, 47
NUMBERS = 54

# Places in `settings`.
(LEVEL_RATE, PROFILE_RATE, SCALE_RATE, PREFERENCE, FAST, SLOW, MEMORY, TAIL, SHAPE, CLIP, FLOOR, ERROR_RATE, BOTH,
 THRESHOLD, COOL_DAYS, COOL_SHARE, JUMP, FATIGUE, REST_DAYS, REPEATS, WARM_UP, NEIGHBOURS,
 COVERAGE) = range(23)  # fmt: skip

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    """Compile a function for the types it is called with; to a reader and a type checker it stays what it was."""
    return cast("Function", njit(function))


@_compiled
def _place(u: float) -> int:
    if u <= 10.0**_LOWEST:
        return 0
    return int(min((np.log10(u) - _LOWEST) / _STEP, _HISTOGRAM - 1.0))


@_compiled
def _stretched(u: float, shape: float) -> float:
    """Box–Cox: a tail that is exponential on this scale is a Pareto tail at shape 0, exponential at shape 1."""
    return float(np.log(u)) if shape <= 0 else float((u**shape - 1.0) / shape)


@_compiled
def _bins(shape: float) -> FloatArray:
    """Return the stretched lower edges and middles of the bins, shape (2, bins)."""
    found = np.empty((2, _HISTOGRAM))
    for b in range(_HISTOGRAM):
        found[0, b] = _stretched(10.0 ** (_LOWEST + _STEP * b), shape)
        found[1, b] = _stretched(10.0 ** (_LOWEST + _STEP * (b + 0.5)), shape)
    return found


@_compiled
def _surprise(
    u: float, counts: FloatArray, numbers: FloatArray, h: int, settings: FloatArray, bins: FloatArray
) -> float:
    """Return -log10 of the share of the past at least as large as ``u``; exponential beyond the tail's beginning."""
    total, unit, highest = numbers[TOTAL + h], numbers[UNIT + h], int(numbers[HIGHEST + h])
    if total <= 0:
        return 0.0
    place, b, beyond, excess = _place(u), highest, 0.0, 0.0
    while b > 0 and beyond + counts[b] <= settings[TAIL] * total:
        beyond += counts[b]
        excess += counts[b] * bins[1, b]
        b -= 1
    if place > b:
        begin, rows = bins[0, b + 1], beyond / unit
        usual = 0.3 * (1.0 + settings[SHAPE] * begin)
        mean = (((excess / beyond - begin) * rows if beyond > 0 else 0.0) + 3.0 * usual) / (rows + 3.0)
        farther = max((_stretched(u, settings[SHAPE]) - begin) / mean, 0.0) / np.log(10.0)
        return float(min(max(np.log10(total / max(beyond, unit)), 0.0) + farther, _MOST_SURPRISE))
    at_least = 0.0
    for j in range(place, highest + 1):
        at_least += counts[j]
    return float(-np.log10(min((at_least + unit) / (total + unit), 1.0)))


@_compiled
def _remember(u: float, counts: FloatArray, numbers: FloatArray, h: int, memory: float) -> None:
    """Count ``u``; newer counts weigh more, so that nothing old has to be touched."""
    if numbers[UNIT + h] > 1e12:
        counts /= numbers[UNIT + h]
        numbers[TOTAL + h] /= numbers[UNIT + h]
        numbers[UNIT + h] = 1.0
    numbers[UNIT + h] /= 1.0 - 1.0 / memory
    place = _place(u)
    counts[place] += numbers[UNIT + h]
    numbers[TOTAL + h] += numbers[UNIT + h]
    numbers[HIGHEST + h] = max(numbers[HIGHEST + h], place)


@_compiled
def _quantile(share: float, counts: FloatArray, numbers: FloatArray, h: int) -> float:
    """Return the value that the share of the past does not exceed."""
    left, b = (1.0 - share) * numbers[TOTAL + h], int(numbers[HIGHEST + h])
    while b > 0 and left >= counts[b]:
        left -= counts[b]
        b -= 1
    return float(10.0 ** (_LOWEST + _STEP * (b + 1)))


@_compiled
def _distance(v: float, kept: FloatArray, count: int, neighbours: int) -> float:
    """Return the mean distance of a value to its nearest kept past values; negative where too few are kept."""
    if count <= neighbours:
        return -1.0
    nearest = np.full(neighbours, np.inf)
    for j in range(count):
        d = abs(v - kept[j])
        if d < nearest[-1]:
            p = neighbours - 1
            while p > 0 and nearest[p - 1] > d:
                nearest[p] = nearest[p - 1]
                p -= 1
            nearest[p] = d
    return float(nearest.mean())


@_compiled
def _clipped(v: float, bound: float) -> float:
    return min(max(v, -bound), bound)


@_compiled
def _after_alarms(evidence: float, per_day: float, settings: FloatArray, s: FloatArray) -> float:
    """Return what is left of the evidence after the series' earlier alarms, and note an alarm."""
    if s[ALARM] > 0:
        since = s[T] - s[LAST_ALARM]
        evidence -= settings[FATIGUE] * 0.5 ** (since / (settings[REST_DAYS] * per_day))
        evidence = max(evidence - settings[REPEATS] * np.log10(1.0 + s[ALARMS]), 0.0)
        cool = min(max(settings[COOL_DAYS] * per_day, 12.0), settings[COOL_SHARE] * max(s[T], 200.0))
        if since < cool and evidence < s[ALARM] + settings[JUMP]:
            evidence = min(evidence, 0.999 * settings[THRESHOLD])
    s[ALARMS] *= 1.0 - 1.0 / settings[MEMORY]
    if evidence >= settings[THRESHOLD]:
        s[LAST_ALARM], s[ALARM] = s[T], evidence
        s[ALARMS] += 1.0
    return evidence


@_compiled
def judge_rows(  # noqa: C901, PLR0912, PLR0913, PLR0915, PLR0917 - one loop; numba compiles it as a whole
    values: FloatArray,
    hours: IntArray,
    week_hours: IntArray,
    per_day: FloatArray,
    pooling: FloatArray,
    settings: FloatArray,
    numbers: FloatArray,
    profiles: FloatArray,
    tails: FloatArray,
    found: FloatArray,
) -> None:
    """Fill ``found``, shape (n, 4): expected, lower, upper, evidence."""
    s, clip = numbers, settings[CLIP]
    guess, statistic = np.zeros(6), np.zeros(STATISTICS)
    kept, bins = tails[STATISTICS], _bins(settings[SHAPE])
    for i in range(values.size):
        v = values[i]
        s[SEEN] += 1
        if np.isnan(v):
            found[i, 0] = s[LEVEL] if s[T] > 0 else np.nan
            found[i, 1], found[i, 2] = np.nan, np.nan
            continue
        s[T] += 1
        t = s[T]
        hour, week = hours[i], week_hours[i]
        if t == 1:
            s[LEVEL], s[MEAN], s[LAST], s[LEAST] = v, v, v, v
            continue
        # What was expected: level alone, with the daily or with the weekly profile, each with and without its
        # residual's persistence, weighed by how wrong each was lately.
        by_day, by_week = profiles[1, hour] >= 2, profiles[3, week] >= 2
        guess[0] = s[LEVEL]
        guess[1] = s[LEVEL] + (profiles[0, hour] if by_day else 0.0)
        guess[2] = s[LEVEL] + profiles[2, week] if by_week else guess[1]
        best = np.inf
        for j in range(3):
            slope = min(max(s[SLOPE_TOP + j] / max(s[SLOPE_BOTTOM + j], 1e-300), 0.0), 1.0)
            guess[3 + j] = guess[j] + slope * s[RESIDUAL + j]
        for j in range(6):
            best = min(best, s[ERROR + j])
        weights, expected, calm_weights, calm = 0.0, 0.0, 0.0, 0.0
        for j in range(6):
            if (j % 3 == 1 and not by_day) or (j % 3 == 2 and not by_week):
                continue
            weight = ((best + 1e-12) / (s[ERROR + j] + 1e-12)) ** settings[PREFERENCE]
            weights += weight
            expected += weight * guess[j]
            if j < 3:
                calm_weights += weight
                calm += weight * guess[j]
        expected = expected / weights
        calm = calm / calm_weights if calm_weights > 0 else s[LEVEL]
        smallest = settings[FLOOR] * s[SPAN] + 1e-9 * abs(s[MEAN]) + 1e-300
        scale, slow_scale, span = max(s[SCALE], smallest), max(s[SLOW_SCALE], smallest), max(s[SPAN], smallest)
        off, calm_off = v - expected, v - calm
        found[i, 0] = expected
        if t > 12:
            reach = scale * _quantile(settings[COVERAGE], tails[0], s, 0)
            found[i, 1], found[i, 2] = expected - reach, expected + reach
            if s[LEAST] >= 0:
                found[i, 1] = max(found[i, 1], 0.0)
        # Seven ways to be odd, each against its own past.
        size = abs(off) / scale if t > 5 else 0.0
        shifted = _clipped(calm_off / slow_scale, clip) if t > 5 else 0.0
        s[FAST_SUM] += settings[FAST] * (shifted - s[FAST_SUM])
        s[SLOW_SUM] += settings[SLOW] * (shifted - s[SLOW_SUM])
        s[ACTIVITY] += settings[FAST] * (min(size, clip) - s[ACTIVITY])
        statistic[0], statistic[1], statistic[2] = size, abs(s[FAST_SUM]), abs(s[SLOW_SUM])
        statistic[3] = s[ACTIVITY]
        statistic[4] = max(_distance(v, kept, int(s[KEPT]), int(settings[NEIGHBOURS])), 0.0) / span
        statistic[5], statistic[6] = abs(v - s[MEAN]) / span, abs(v - s[LAST]) / span
        largest, total = 0.0, 0.0
        if t > 10:
            for h in range(STATISTICS):
                odd = _surprise(statistic[h], tails[h], s, h, settings, bins)
                largest, total = max(largest, odd), total + odd
                _remember(statistic[h], tails[h], s, h, settings[MEMORY])
        evidence = (1.0 - settings[BOTH]) * largest + settings[BOTH] * total / STATISTICS
        s[EVIDENCE] += pooling[i] * (evidence - s[EVIDENCE])
        evidence = s[EVIDENCE] * min(1.0, t / settings[WARM_UP])
        evidence = _after_alarms(evidence, per_day[i], settings, s)
        found[i, 3] = evidence
        # What is learnt from the point; a single one moves everything only by its clipped residual.
        if s[SEEN] % s[STRIDE] == 0 and t > 2:
            if s[KEPT] == kept.size:
                for j in range(kept.size // 2):
                    kept[j] = kept[2 * j]
                s[KEPT] = kept.size // 2
                s[STRIDE] *= 2
            if s[SEEN] % s[STRIDE] == 0:
                kept[int(s[KEPT])] = v
                s[KEPT] += 1
        bound = clip * slow_scale if t > 20 else np.inf
        for j in range(6):
            rate = max(settings[ERROR_RATE], 1.0 / t)
            s[ERROR + j] += rate * (min(abs(v - guess[j]) / scale, clip) - s[ERROR + j])
        for j in range(3):
            now = _clipped(v - guess[j], clip * slow_scale)
            s[SLOPE_TOP + j] = 0.995 * s[SLOPE_TOP + j] + now * s[RESIDUAL + j]
            s[SLOPE_BOTTOM + j] = 0.995 * s[SLOPE_BOTTOM + j] + s[RESIDUAL + j] ** 2
            s[RESIDUAL + j] = now
        rate = max(settings[SCALE_RATE], 1.0 / t)
        s[SCALE] += rate * (min(abs(off), clip * scale if t > 20 else np.inf) - s[SCALE])
        s[SLOW_SCALE] += rate * (min(abs(calm_off), bound) - s[SLOW_SCALE])
        rate = max(0.001, 1.0 / t)
        far = abs(v - s[MEAN])
        s[MEAN] += rate * (v - s[MEAN])
        s[SPAN] += rate * (min(far, clip * span if t > 20 else np.inf) - s[SPAN])
        s[LEVEL] += max(settings[LEVEL_RATE], 1.0 / t) * _clipped(calm_off, bound)
        for row, slot in ((0, hour), (2, week)):
            profiles[row + 1, slot] += 1
            seen = profiles[row + 1, slot]
            change = v - s[LEVEL] - profiles[row, slot]
            rate = max(settings[PROFILE_RATE], 1.0 / seen)
            profiles[row, slot] += rate * (_clipped(change, bound) if seen > 2 else change)
        s[LAST], s[LEAST] = v, min(s[LEAST], v)
