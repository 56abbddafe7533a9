"""Reading performance frames: long or wide, daily or finer, checked once, so that nothing behind it meets bad values.

What is checked stands in the messages. Arrays of series and days are made in `panel`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from within_ml.anomalies.metrics import FACTS, NAMES
from within_ml.errors import InputError, shown

DIMENSIONS = ("platform", "campaign_id", "ad_group_id", "ad_id", "region", "audience_age", "audience_gender")
"""Columns along which causes are looked for, where a frame has them."""

COUNTS = ("impressions", "clicks")
"""Facts that a row must have where the frame has the column; the others may be null."""

_RATES = tuple(name for name in NAMES if name not in FACTS)
_VALUES = (*FACTS, *_RATES)


@dataclass(frozen=True, slots=True)
class Performance:
    """A checked frame.

    Attributes
    ----------
    frame : DataFrame
        Column ``date`` (datetime64, no zone), ``account_id`` (text), metric columns (float64), dimension columns
        (text) and perhaps ``currency``; in order of time.
    metrics : tuple of str
        Metric columns.
    dimensions : tuple of str
        Dimension columns.
    daily : bool
        Whether all times are days.
    single : bool
        Whether it is one series without account.
    """

    frame: pd.DataFrame
    metrics: tuple[str, ...]
    dimensions: tuple[str, ...]
    daily: bool
    single: bool


def read_performance(data: Any, dimensions: Sequence[str] | None = None) -> Performance:
    """Check a frame of performance.

    Parameters
    ----------
    data : DataFrame
        ``date`` or ``timestamp``, and ``account_id`` with metric columns (wide) or ``account_id``, ``metric``,
        ``value`` (long), or one column of values and no account (a single series).
    dimensions : sequence of str, optional
        Dimension columns to use; by default those of `DIMENSIONS` that are there.

    Raises
    ------
    InputError
        If a column is missing, a time or value cannot be read, or rows contradict each other.
    """
    if not isinstance(data, pd.DataFrame):
        raise InputError(f"performance_data must be a DataFrame, however: {type(data).__name__}.")
    frame = data.copy(deep=False)
    frame["date"] = _times(frame)
    frame = frame.drop(columns="timestamp", errors="ignore")
    if {"metric", "value"} <= set(frame.columns):
        return _from_long(frame, dimensions)
    if "account_id" not in frame.columns:
        others = [c for c in frame.columns if c not in ("date", "currency", *DIMENSIONS)]
        if len(others) == 1:
            return _single(frame, others[0])
        frame["account_id"] = "all"
    metrics = tuple(c for c in _VALUES if c in frame.columns)
    if not metrics:
        raise InputError(
            f"performance_data must have at least one metric column of {shown(_VALUES)}, "
            f"however its columns are: {shown(data.columns)}."
        )
    return _checked(frame, metrics, _chosen(frame, dimensions))


def read_dates(dates: Any) -> tuple[pd.Timestamp, ...]:
    """Return days as midnight timestamps, sorted; one day, text or a sequence of them.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    many = dates if isinstance(dates, Iterable) and not isinstance(dates, str) else [dates]
    try:
        return tuple(sorted({pd.Timestamp(day).normalize() for day in many}))
    except (TypeError, ValueError) as error:
        raise InputError(f"dates must be days, however: {dates!r} ({error}).") from error


def _times(frame: pd.DataFrame) -> pd.Series:
    name = "date" if "date" in frame.columns else "timestamp"
    if name not in frame.columns:
        raise InputError(
            f"performance_data must have a column date or timestamp, however its columns are: {shown(frame.columns)}."
        )
    column = frame[name]
    if pd.api.types.is_numeric_dtype(column) and len(column):
        raise InputError(f"{name} must hold dates or times, however: numbers such as {column.iloc[0]!r}.")
    try:
        times = pd.to_datetime(column, utc=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} must hold dates or times, however: {error}.") from error
    if times.isna().any():
        raise InputError(f"{name} must be known in every row, however: {int(times.isna().sum())} rows have none.")
    return times.dt.tz_localize(None).astype("datetime64[us]")


def _chosen(frame: pd.DataFrame, dimensions: Sequence[str] | None) -> tuple[str, ...]:
    if dimensions is None:
        return tuple(d for d in DIMENSIONS if d in frame.columns)
    missing = [d for d in dimensions if d not in frame.columns]
    if missing:
        raise InputError(
            f"dimensions must be columns of performance_data, however it lacks {shown(missing)}; "
            f"it has {shown(frame.columns)}."
        )
    # All the columns tell rows apart, also those along which no cause is asked for.
    return (*dimensions, *(d for d in DIMENSIONS if d in frame.columns and d not in dimensions))


def _from_long(frame: pd.DataFrame, dimensions: Sequence[str] | None) -> Performance:
    if "account_id" not in frame.columns:
        frame["account_id"] = "all"
    names = frame["metric"].astype("string")
    unknown = sorted(set(names.dropna()) - set(_VALUES)) + (["(null)"] if names.isna().any() else [])
    if unknown:
        raise InputError(f"metric must be one of {shown(_VALUES)}, however: {shown(unknown)}.")
    chosen = _chosen(frame, dimensions)
    key = ["date", "account_id", *chosen, *(["currency"] if "currency" in frame.columns else [])]
    keys = [frame[k].astype("string").fillna("unknown") if k != "date" else frame[k] for k in key]
    if pd.concat([*keys, names], axis=1).duplicated().any():
        raise InputError(
            "performance_data must have one row per time, account_id, metric and dimensions, "
            f"however: {int(pd.concat([*keys, names], axis=1).duplicated().sum())} rows are duplicates."
        )
    values = _numbers(frame, "value")
    table = pd.concat([*keys, names.rename("metric"), values.rename("value")], axis=1)
    wide = table.pivot_table(index=key, columns="metric", values="value", aggfunc="sum", min_count=1, dropna=True)
    wide = wide.reset_index()
    wide.columns = [str(c) for c in wide.columns]
    metrics = tuple(c for c in _VALUES if c in wide.columns)
    if not metrics and len(frame):
        raise InputError("value must be known in at least one row, however: all are null.")
    return _checked(wide, metrics or tuple(sorted(set(names))), chosen, counts_may_be_null=True)


def _single(frame: pd.DataFrame, name: str) -> Performance:
    values = _numbers(frame, name, may_be_negative=True)
    table = pd.DataFrame({"date": frame["date"], "account_id": "all", name: values}).sort_values("date", kind="stable")
    daily = _is_daily(table["date"])
    # A clock that is read twice within a second is no copy; a day that is there twice is.
    if daily:
        _refuse_duplicates(table, ["date"])
    return Performance(table.reset_index(drop=True), (str(name),), (), daily, single=True)


def _checked(
    frame: pd.DataFrame, metrics: tuple[str, ...], dimensions: tuple[str, ...], *, counts_may_be_null: bool = False
) -> Performance:
    if frame["account_id"].isna().any():
        raise InputError("account_id must be known in every row, however: some are null.")
    columns: dict[str, Any] = {"date": frame["date"], "account_id": frame["account_id"].astype("string")}
    columns |= {d: frame[d].astype("string").fillna("unknown") for d in dimensions}
    for name in metrics:
        columns[name] = _numbers(frame, name, may_be_null=counts_may_be_null or name not in COUNTS)
    if "currency" in frame.columns:
        columns["currency"] = frame["currency"].astype("string")
    table = pd.DataFrame(columns)
    _refuse_duplicates(table, ["date", "account_id", *dimensions])
    if {"clicks", "impressions"} <= set(metrics):
        wrong = table["clicks"] > table["impressions"]
        if wrong.any():
            raise InputError(
                "clicks must not exceed impressions, however they do in "
                f"{int(wrong.sum())} rows: {_rows(table, wrong, ('clicks', 'impressions'))}."
            )
    table = table.sort_values("date", kind="stable").reset_index(drop=True)
    return Performance(table, metrics, dimensions, _is_daily(table["date"]), single=False)


def _numbers(frame: pd.DataFrame, name: str, *, may_be_null: bool = True, may_be_negative: bool = False) -> pd.Series:
    column = frame[name]
    if pd.api.types.is_bool_dtype(column):
        raise InputError(f"{name} must hold numbers, however: booleans.")
    try:
        values = pd.to_numeric(column).astype("float64")
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold numbers, however: {error}.") from error
    wrong = np.isinf(values) | (values.isna() if not may_be_null else False) | ((values < 0) & (not may_be_negative))
    if wrong.any():
        rule = "finite" + ("" if may_be_negative else " and not negative") + ("" if may_be_null else ", and known")
        raise InputError(
            f"{name} must be {rule} in every row, however: {shown(values[wrong].head(3).tolist())} "
            f"({int(wrong.sum())} rows). Take a row out where nothing was measured."
        )
    return values


def _refuse_duplicates(table: pd.DataFrame, key: list[str]) -> None:
    twice = table.duplicated(key)
    if twice.any():
        raise InputError(
            f"performance_data must have one row per {', '.join(key)}, however {int(twice.sum())} rows are duplicates, "
            f"such as {_rows(table, twice, tuple(key))}. Add them up, or drop the copies."
        )


def _rows(table: pd.DataFrame, chosen: pd.Series, columns: tuple[str, ...]) -> str:
    rows = table.loc[chosen, list(columns)].head(3)
    return "; ".join(", ".join(f"{c}={_plain(v)}" for c, v in row.items()) for row in rows.to_dict("records"))


def _plain(value: Any) -> str:
    return str(value.date()) if isinstance(value, dt.datetime) and value == value.normalize() else str(value)  # type: ignore[attr-defined]


def _is_daily(times: pd.Series) -> bool:
    return bool((times == times.dt.normalize()).all())
