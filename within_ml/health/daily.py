"""Daily performance as arrays: accounts × days, and the rows of their ads and audiences.

Reading a frame belongs here; what is made of the arrays, in `indicators`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

COUNTS = ("impressions", "clicks")
VALUES = ("spend", "conversions", "revenue")
"""Metrics that a source may not have: the column may be absent, or null."""

DAY = "datetime64[D]"


@dataclass(frozen=True, slots=True, eq=False)
class DailyGrid:
    """Daily sums of accounts, each array of shape (accounts, days).

    Attributes
    ----------
    accounts : shape (accounts,)
        Ids, sorted.
    first : numpy.datetime64
        The day of column 0.
    metrics : dict of arrays
        `COUNTS` and `VALUES`; 0 where nothing is known.
    known : dict of arrays
        Per metric of `VALUES`, whether any row of the day had a value.
    begun : array
        Whether the account had a row on the day or before it.
    """

    accounts: NDArray[np.object_]
    first: np.datetime64
    metrics: dict[str, FloatArray]
    known: dict[str, BoolArray]
    begun: BoolArray

    @property
    def shape(self) -> tuple[int, int]:
        """Accounts, days."""
        return self.begun.shape[0], self.begun.shape[1]

    @property
    def dates(self) -> NDArray[np.datetime64]:
        """The days of the columns."""
        return self.first + np.arange(self.shape[1])


def checked(performance: pd.DataFrame) -> pd.DataFrame:
    """Return the frame's own columns with ``date`` as midnight and metrics as floats; the frame stays as it is.

    Raises
    ------
    InputError
        If a column is missing, a date or an account is null, or a metric is negative, infinite or not a number, or an
        impression or click is null.
    """
    if not isinstance(performance, pd.DataFrame):
        raise InputError(f"performance must be a pandas DataFrame; it is a {type(performance).__name__}.")
    missing = [c for c in ("date", "account_id", *COUNTS) if c not in performance.columns]
    if missing:
        raise InputError(f"performance needs the columns {shown(missing)}; it has {shown(performance.columns)}.")
    rows = performance.copy(deep=False)
    rows["date"] = as_days("performance", rows["date"])
    if rows["account_id"].isna().any():
        raise InputError("account_id must not be null; rows without one cannot be told apart.")
    for metric in (*COUNTS, *(v for v in VALUES if v in rows.columns)):
        rows[metric] = _numbers(metric, rows[metric])
    return rows


def as_days(table: str, dates: pd.Series) -> NDArray[np.datetime64]:
    """Return dates, timestamps or ISO texts as days, ``datetime64[D]``; one that is null or unreadable is an error."""
    try:
        days = pd.to_datetime(dates, format="ISO8601")
    except (ValueError, TypeError) as error:
        raise InputError(f"date of {table} must hold dates; {error}") from error
    if days.isna().any():
        raise InputError(f"date of {table} must not be null; {int(days.isna().sum())} rows have none.")
    return np.asarray(days.dt.tz_localize(None).to_numpy().astype(DAY))


def _numbers(metric: str, column: pd.Series) -> FloatArray:
    try:
        values: FloatArray = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise InputError(f"{metric} must be numbers; {error}") from error
    if metric in COUNTS and np.isnan(values).any():
        raise InputError(f"{metric} must not be null; {int(np.isnan(values).sum())} rows have none.")
    wrong = ~np.isnan(values) & ((values < 0) | np.isinf(values))
    if wrong.any():
        raise InputError(f"{metric} must be 0 or more and finite; it is {shown(values[wrong].tolist())}.")
    return values


def daily_grid(rows: pd.DataFrame, *, last: np.datetime64 | None = None) -> DailyGrid:
    """Sum checked rows by account and day; days without a row are days without anything.

    ``last`` is the last day of the grid, by default that of the rows.
    """
    ids, code = _codes(rows["account_id"])
    day = rows["date"].to_numpy().astype(DAY)
    first = day.min()
    size = int(((day.max() if last is None else last) - first).astype(int)) + 1
    shape = (ids.size, size)
    place = code * size + (day - first).astype(np.int64)
    metrics: dict[str, FloatArray] = {}
    known: dict[str, BoolArray] = {}
    for metric in (*COUNTS, *VALUES):
        values = rows[metric].to_numpy(np.float64) if metric in rows.columns else np.full(code.size, np.nan)
        there = ~np.isnan(values)
        sums = np.bincount(place[there], weights=values[there], minlength=ids.size * size)
        metrics[metric] = sums.astype(np.float64).reshape(shape)
        known[metric] = np.bincount(place[there], minlength=ids.size * size).reshape(shape) > 0
    begun = np.logical_or.accumulate(np.bincount(place, minlength=ids.size * size).reshape(shape) > 0, axis=1)
    return DailyGrid(ids, first, metrics, {v: known[v] for v in VALUES}, begun)


def _codes(column: pd.Series) -> tuple[NDArray[np.object_], IntArray]:
    code, ids = pd.factorize(column.astype(object), sort=True)
    return np.asarray(ids, dtype=object), code.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class EntityDays:
    """Daily counts of the entities of one kind, one row per entity and day, sorted by both; each of shape (rows,).

    ``owner``, of shape (entities,), is the account's place in the grid; ``group``, also of shape (entities,), the
    entity's group in its account, -1 without groups.
    """

    entity: IntArray
    day: IntArray
    impressions: IntArray
    clicks: IntArray
    owner: IntArray
    group: IntArray


def entity_days(
    rows: pd.DataFrame, grid: DailyGrid, columns: Sequence[str], *, group: Sequence[str] = ()
) -> EntityDays:
    """Sum checked rows by account, the given columns and day; a null is a value of its own.

    Days not served are left out. An entity that changes its group is in each of them as an entity of its own.
    """
    rows = rows[(rows["impressions"] > 0) & rows["account_id"].isin(grid.accounts)]
    account = pd.Index(grid.accounts).get_indexer(rows["account_id"]).astype(np.int64)
    day = (rows["date"].to_numpy().astype(DAY) - grid.first).astype(np.int64)
    groups = _joint(account, [rows[c] for c in group])
    entity = _joint(groups if group else account, [rows[c] for c in columns])
    order = np.lexsort((day, entity))
    entity, day = entity[order], day[order]
    begin = np.flatnonzero((np.diff(entity, prepend=-1) != 0) | (np.diff(day, prepend=-1) != 0))
    sums = [np.rint(_add(rows[m].to_numpy(np.float64)[order], begin)).astype(np.int64) for m in COUNTS]
    seen = np.flatnonzero(np.diff(entity, prepend=-1))
    owner = account[order][seen]
    group_of = groups[order][seen] if group else np.full(owner.size, -1, dtype=np.int64)
    return EntityDays(entity[begin], day[begin], sums[0], sums[1], owner, group_of)


def _add(values: FloatArray, begin: IntArray) -> FloatArray:
    return np.add.reduceat(values, begin) if values.size else values


def _joint(code: IntArray, columns: Sequence[pd.Series]) -> IntArray:
    """Number the distinct combinations, from 0, in the order of ``code``."""
    for column in columns:
        added, _ = pd.factorize(column, use_na_sentinel=False)
        code = np.unique(code * (int(added.max(initial=0)) + 1) + added, return_inverse=True)[1].astype(np.int64)
    return code if columns else np.unique(code, return_inverse=True)[1].astype(np.int64)
