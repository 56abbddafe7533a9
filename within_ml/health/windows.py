"""Sums, slopes and ranks over trailing windows of days: arrays in, arrays out.

Every function looks backward only, and adds in an order that does not depend on what comes later, so that days appended
later never change the value of an earlier day, not even in its last bit. Tables and column names belong elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def trailing_sum(values: FloatArray, window: int, *, skip: int = 0) -> FloatArray:
    """Sum each day and the days before it.

    Parameters
    ----------
    values : shape (series, days)
        No NaN.
    window : int
        Days in the sum.
    skip : int
        Leave out the last ``skip`` of them: the sum is over ages ``skip`` to ``window - 1``.

    Examples
    --------
    >>> trailing_sum(np.array([[1.0, 2.0, 4.0]]), 2)
    array([[1., 3., 6.]])
    >>> trailing_sum(np.array([[1.0, 2.0, 4.0]]), 2, skip=1)
    array([[0., 1., 2.]])
    """
    total = np.zeros(values.shape)
    for age in range(skip, min(window, values.shape[1])):
        total[:, age:] += values[:, : values.shape[1] - age]
    return total


def trailing_slope(values: FloatArray, known: BoolArray, window: int, *, at_least: int) -> FloatArray:
    """Least-squares slope per day of each window; NaN where fewer than ``at_least`` days of it are known.

    >>> trailing_slope(np.array([[1.0, 3.0, 5.0]]), np.ones((1, 3), dtype=bool), 3, at_least=3)[0, -1]
    np.float64(2.0)
    """
    shape, days = values.shape, values.shape[1]
    n, age_sum, age_square, value_sum, product = (np.zeros(shape) for _ in range(5))
    for age in range(min(window, days)):
        there, seen = known[:, : days - age], np.where(known, values, 0.0)[:, : days - age]
        n[:, age:] += there
        age_sum[:, age:] += age * there
        age_square[:, age:] += age * age * there
        value_sum[:, age:] += seen
        product[:, age:] += age * seen
    spread = n * age_square - age_sum**2
    slope = (age_sum * value_sum - n * product) / np.where(spread > 0, spread, np.nan)
    return np.where(n >= at_least, slope, np.nan)


def trailing_elasticity(
    log_x: FloatArray, log_y: FloatArray, weight: FloatArray, window: int, prior: float
) -> FloatArray:
    """Weighted slope of ``log_y`` on ``log_x`` in each window, drawn to 1 by ``prior`` units of information.

    >>> x = np.log(np.array([[1.0, 2.0, 4.0]]))
    >>> trailing_elasticity(x, 0.5 * x, np.full((1, 3), 1e9), 3, 1.0)[0, -1].round(3)
    np.float64(0.5)
    """
    w = trailing_sum(weight, window)
    x, y = trailing_sum(weight * log_x, window), trailing_sum(weight * log_y, window)
    # Differences of sums lose digits only where x hardly varies, and there the prior decides.
    usable = np.where(w > 0, w, 1.0)
    spread = np.maximum(trailing_sum(weight * log_x**2, window) - x * x / usable, 0.0)
    together = trailing_sum(weight * log_x * log_y, window) - x * y / usable
    return np.asarray((together + prior) / (spread + prior), dtype=np.float64)


def trailing_percentile(values: FloatArray, window: int, *, at_least: int) -> FloatArray:
    """Share of the earlier days of each window that were below the day itself, equal ones counted half.

    NaN where the day or all but ``at_least - 1`` of the earlier days are NaN.

    >>> trailing_percentile(np.array([[1.0, 2.0, 3.0, 2.0]]), 4, at_least=3)
    array([[nan, nan, nan, 0.5]])
    """
    below, count = np.zeros(values.shape), np.zeros(values.shape)
    days = values.shape[1]
    for age in range(1, min(window, days)):
        today, then = values[:, age:], values[:, : days - age]
        below[:, age:] += (then < today) + 0.5 * (then == today)
        count[:, age:] += ~np.isnan(then)
    usable = (count >= at_least) & ~np.isnan(values)
    return np.where(usable, below / np.maximum(count, 1), np.nan)


def days_since(happened: BoolArray) -> FloatArray:
    """Days since the last one on which it happened, 0 on the day itself; NaN before the first.

    >>> days_since(np.array([[False, True, False]]))
    array([[nan,  0.,  1.]])
    """
    day = np.arange(happened.shape[1])
    last = np.maximum.accumulate(np.where(happened, day, -1), axis=1)
    return np.where(last >= 0, day - last, np.nan).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class EntityWindows:
    """Window sums of entities, one row per entity and day on which its window is not empty.

    Attributes
    ----------
    entity, day : shape (rows,)
        Codes.
    sums : tuple of arrays, shape (rows,)
        In the order they were given.
    """

    entity: IntArray
    day: IntArray
    sums: tuple[IntArray, ...]


def entity_windows(
    entity: IntArray, day: IntArray, values: tuple[IntArray, ...], *, window: int, days: int
) -> EntityWindows:
    """Sum whole-numbered values of each entity over trailing windows; cost goes with the days that entities live.

    Parameters
    ----------
    entity, day, values : shape (n,)
        Codes from 0; one row per entity and day, sorted by both.
    window : int
        Days in a sum.
    days : int
        Windows end on the days 0 to ``days - 1``.

    Examples
    --------
    >>> one = np.array([0, 0]), np.array([0, 2])
    >>> entity_windows(*one, (np.array([5, 7]),), window=2, days=9).sums
    (array([5, 5, 7, 7]),)
    """
    if not entity.size:
        return EntityWindows(entity, day, values)
    begin = np.flatnonzero(np.diff(entity, prepend=-1))
    first, last = day[begin], day[np.append(begin[1:], entity.size) - 1]
    length = np.minimum(last + window - 1, days - 1) - first + 1
    offset = np.cumsum(length) - length
    owner = np.repeat(np.arange(begin.size), length)
    place = np.arange(owner.size)
    since = place - offset[owner]
    rank = np.cumsum(np.diff(entity, prepend=-1) > 0) - 1
    before = place - window
    whole, sums = before < offset[owner], []
    for value in values:
        laid = np.zeros(owner.size, dtype=np.int64)
        laid[offset[rank] + day - first[rank]] = value
        running = np.cumsum(laid)
        start = np.where(whole, (running - laid)[offset[owner]], running[np.maximum(before, 0)])
        sums.append(running - start)
    return EntityWindows(entity[begin][owner], first[owner] + since, tuple(sums))
