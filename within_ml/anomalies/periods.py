"""What is compared when a change is explained: the metrics, the dimensions, and an element's days before and now.

Frames only; how a change splits is in `decomposition`, what explains it in `root_cause`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown

Codes = NDArray[np.int64]

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
    days = pd.to_datetime(frame["date"]).to_numpy().astype("datetime64[D]").astype(np.int64)
    start = (first - dt.date(1970, 1, 1)).days
    end = (date - dt.date(1970, 1, 1)).days
    before = (days >= start - baseline_days) & (days < start)
    during = (days >= start) & (days <= end)
    actual = _summed(frame[during], wanted, columns)
    actual[columns] /= max(np.unique(days[during]).size, 1)
    return _expected(frame[before], days[before], start, wanted, columns), actual


def _expected(frame: pd.DataFrame, days: Codes, start: int, dimensions: list[str], columns: list[str]) -> pd.DataFrame:
    """Average each element over the days since it appeared, and leave out what had gone before the day."""
    if frame.empty:
        return _summed(frame, dimensions, columns)
    seen = np.unique(days)
    place = np.searchsorted(seen, days)
    keys = [frame[name].astype(object).where(frame[name].notna(), ABSENT) for name in dimensions]
    table = frame[columns].astype(np.float64).fillna(0.0).assign(**dict(zip(dimensions, keys, strict=True)))
    table["_first"], table["_last"], table["_place"] = place, place, place
    if not dimensions:
        return table[columns].sum().to_frame().T / seen.size
    groups = table.groupby(dimensions, sort=True, dropna=False)
    result = groups[columns].sum()
    begun, ended = groups["_first"].min().to_numpy(), groups["_last"].max().to_numpy()
    shown_on = groups["_place"].nunique().to_numpy()
    silent = seen.size - 1 - ended
    presence = shown_on / (ended - begun + 1)
    # Silent for longer than its own gaps would make it one time in twenty: it had ended before.
    gone = (silent > 0) & ((1 - presence) ** silent < 0.05)
    result[columns] = result[columns].to_numpy() / (seen.size - begun)[:, None]
    return result[~gone].reset_index()


def _summed(frame: pd.DataFrame, dimensions: list[str], columns: list[str]) -> pd.DataFrame:
    numbers = frame[columns].astype(np.float64).fillna(0.0)
    if not dimensions:
        return numbers.sum().to_frame().T
    keys = [frame[name].astype(object).where(frame[name].notna(), ABSENT) for name in dimensions]
    return numbers.groupby(keys, sort=True).sum().rename_axis(dimensions).reset_index()


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
