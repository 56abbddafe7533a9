"""What is compared when a change is explained: the metrics, the dimensions, and an element's days before and now.

Frames only; how a change splits is in `decomposition`, what explains it in `root_cause`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown

Codes = NDArray[np.int64]
FloatArray = NDArray[np.float64]

ABSENT = "(none)"
"""Name of the element of rows without one."""

DIMENSIONS = (
    "platform",
    "campaign_id",
    "ad_group_id",
    "ad_id",
    "region",
    "audience_age",
    "audience_gender",
)
"""Dimensions that are looked at where the data have them."""

METRICS = MappingProxyType(
    {
        "impressions": ("impressions", None),
        "clicks": ("clicks", None),
        "spend": ("spend", None),
        "conversions": ("conversions", None),
        "revenue": ("revenue", None),
        "ctr": ("clicks", "impressions"),
        "cpc": ("spend", "clicks"),
        "cvr": ("conversions", "clicks"),
        "roas": ("revenue", "spend"),
    }
)
"""Numerator and denominator of each metric; counts have no denominator."""

MONEY_EVENTS = MappingProxyType({"spend": "clicks", "revenue": "conversions"})
"""What money comes in: its noise is that of its events."""


def baseline_and_day(
    frame: pd.DataFrame,
    date: dt.date,
    metric: str,
    baseline_days: int = 14,
    *,
    dimensions: Sequence[str] | None = None,
    first: dt.date | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what was expected and what came, per combination of dimensions, for `root_causes`.

    Expected is each element's mean day since it appeared in the baseline: one that is younger than the baseline is not
    thinned out by the days before it, one that had already gone before the day is not expected, one that is new on the
    day has no row in the first frame.

    Parameters
    ----------
    frame : DataFrame
        Rows of one account: ``date``, the metric's columns and dimensions; several rows per day and element are added.
    date : date
        The day to explain, or the last one of an episode.
    metric : str
        One of `METRICS`.
    baseline_days : int
        Days before the day (or the episode) that are averaged, at least 1.
    dimensions : sequence of str, optional
        By default those of `DIMENSIONS` that the frame has.
    first : date, optional
        First day of the episode, which is averaged; by default ``date``.

    Returns
    -------
    tuple of DataFrame
        Expected and actual: dimensions and the metric's columns, per day.

    Raises
    ------
    InputError
        If columns are missing, the metric is unknown, or the days are not in order.

    Examples
    --------
    >>> frame = pd.DataFrame({"date": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"]),
    ...                       "campaign_id": "c", "clicks": [4.0, 6.0, 20.0]})
    >>> [part["clicks"].tolist() for part in baseline_and_day(frame, dt.date(2024, 1, 3), "clicks")]
    [[5.0], [20.0]]
    """
    wanted = dimension_columns(frame, dimensions)
    columns = metric_columns(frame, metric)
    first = date if first is None else first
    if first > date or baseline_days < 1:
        raise InputError(
            f"baseline_and_day needs first <= date and baseline_days of at least 1; they are {first}, {date} and "
            f"{baseline_days}."
        )
    events = MONEY_EVENTS.get(columns[0])
    columns += [events] if events is not None and events in frame.columns and events not in columns else []
    days = pd.to_datetime(frame["date"]).to_numpy().astype("datetime64[D]").astype(np.int64)
    start = (first - dt.date(1970, 1, 1)).days
    end = (date - dt.date(1970, 1, 1)).days
    before = (days >= start - baseline_days) & (days < start)
    during = (days >= start) & (days <= end)
    coming = _Coded.of(frame.loc[during, [*wanted, *columns]], wanted)
    actual = coming.summed(columns) / max(np.unique(days[during]).size, 1)
    past = _Coded.of(frame.loc[before, [*wanted, *columns]], wanted)
    return _expected(past, days[before], columns), coming.table(columns, actual)


@dataclass(frozen=True, slots=True, eq=False)
class _Coded:
    """Rows with the number of their combination of elements, ``cell``, and one row of each combination."""

    frame: pd.DataFrame
    dimensions: list[str]
    cell: Codes
    example: Codes

    @classmethod
    def of(cls, frame: pd.DataFrame, dimensions: list[str]) -> _Coded:
        cell = np.zeros(len(frame), dtype=np.int64)
        example = np.arange(min(len(frame), 1))
        for name in dimensions:
            codes, names = pd.factorize(frame[name], use_na_sentinel=False)
            _, example, cell = np.unique(cell * max(len(names), 1) + codes, return_index=True, return_inverse=True)
        return cls(frame, dimensions, cell, example)

    def summed(self, columns: list[str]) -> FloatArray:
        """Return the sums per cell, shape (cells, columns); what is missing counts as 0."""
        sums = [
            np.bincount(self.cell, weights=np.nan_to_num(_numbers(self.frame[name])), minlength=len(self.example))
            for name in columns
        ]
        return np.column_stack(sums).astype(np.float64)

    def table(self, columns: list[str], values: FloatArray) -> pd.DataFrame:
        """Return one row per cell with its elements."""
        names = self.frame[self.dimensions].iloc[self.example].reset_index(drop=True)
        return names.assign(**{column: values[:, i] for i, column in enumerate(columns)})


def _expected(past: _Coded, days: Codes, columns: list[str]) -> pd.DataFrame:
    """Average each cell over the days since it appeared, and leave out what had gone before the day."""
    seen, place = np.unique(days, return_inverse=True)
    n = len(past.example)
    begun, ended = np.full(n, seen.size), np.full(n, -1)
    np.minimum.at(begun, past.cell, place)
    np.maximum.at(ended, past.cell, place)
    met = np.unique(past.cell * max(seen.size, 1) + place) // max(seen.size, 1)
    presence = np.bincount(met, minlength=n) / (ended - begun + 1)
    silent = seen.size - 1 - ended
    # Silent for longer than its own gaps would make it one time in twenty: it had ended before.
    stays = (silent == 0) | ((1 - presence) ** silent >= 0.05)
    values = past.summed(columns) / (seen.size - begun)[:, None]
    return past.table(columns, values)[stays].reset_index(drop=True)


def _numbers(values: pd.Series) -> FloatArray:
    return np.asarray(values.to_numpy(np.float64, na_value=np.nan), dtype=np.float64)


def metric_columns(frame: pd.DataFrame, metric: str) -> list[str]:
    """Return the columns that a metric is made of, numerator first.

    Raises
    ------
    InputError
        If the metric is unknown or the frame lacks a column.
    """
    if metric not in METRICS:
        raise InputError(f"metric must be one of {shown(METRICS)}; it is {metric!r}.")
    columns = [name for name in METRICS[metric] if name is not None]
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(f"{metric} needs the columns {shown(columns)}; missing: {shown(missing)}.")
    return columns


def dimension_columns(frame: pd.DataFrame, dimensions: Sequence[str] | None) -> list[str]:
    """Return the dimensions asked for, by default those of `DIMENSIONS` that the frame has.

    Raises
    ------
    InputError
        If the frame lacks one, or they are no sequence of names.
    """
    if dimensions is None:
        return [name for name in DIMENSIONS if name in frame.columns]
    missing = [name for name in dimensions if name not in frame.columns]
    if missing or isinstance(dimensions, str):
        raise InputError(f"dimensions must be columns of the frame; missing: {shown(missing or [dimensions])}.")
    return list(dict.fromkeys(dimensions))
