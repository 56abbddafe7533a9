"""Which partitions exist: one per UTC day, and one per as-of Monday for what is trained.

The partition key is the only clock of the pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import groupby

import dagster as dg

from within_pipelines.settings import Settings, load_settings

MAX_PARTITIONS_PER_RUN = 30
"""Days that one run of a backfill handles: a killed run loses at most these."""

BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=MAX_PARTITIONS_PER_RUN)


def daily(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per day of the history."""
    end = settings.end_date + timedelta(days=1) if settings.end_date else None
    return dg.DailyPartitionsDefinition(
        start_date=settings.start_date.isoformat(), end_date=end.isoformat() if end else None
    )


def as_of_mondays(settings: Settings) -> dg.WeeklyPartitionsDefinition:
    """One partition per Monday, on which it can be trained already: models as of this day."""
    start = monday_on_or_after(settings.start_date).isoformat()
    if settings.end_date is None:
        return dg.WeeklyPartitionsDefinition(start_date=start, day_offset=1, end_offset=1)
    last = settings.end_date + timedelta(days=1)
    last -= timedelta(days=last.weekday())
    return dg.WeeklyPartitionsDefinition(
        start_date=start, day_offset=1, end_date=(last + timedelta(days=7)).isoformat()
    )


def monday_on_or_after(day: date) -> date:
    """The first Monday from a day on.

    >>> monday_on_or_after(date(2024, 1, 2))
    datetime.date(2024, 1, 8)
    """
    return day + timedelta(days=-day.weekday() % 7)


def days(keys: Sequence[str]) -> list[date]:
    """The days of partition keys, in order."""
    return sorted(date.fromisoformat(key) for key in keys)


def history_start(day: date, months: int) -> date:
    """First of the month so many months before a day's: where the history begins that the day is judged by.

    All days of a month share it, so that a night and a range of days read the same history and tell the same.

    >>> history_start(date(2024, 3, 31), 4)
    datetime.date(2023, 11, 1)
    """
    first = day.year * 12 + day.month - 1 - months
    return date(first // 12, first % 12 + 1, 1)


def by_history(wanted: Sequence[date], months: int) -> Iterator[tuple[date, list[date]]]:
    """Days in order, cut where their history begins on another day, with that day."""
    for start, group in groupby(wanted, lambda day: history_start(day, months)):
        yield start, list(group)


def history_mapping(months: int) -> dg.TimeWindowPartitionMapping:
    """All days that the history of a day can have."""
    return dg.TimeWindowPartitionMapping(start_offset=-31 * (months + 1), allow_nonexistent_upstream_partitions=True)


_SETTINGS = load_settings()
DAILY = daily(_SETTINGS)
AS_OF_MONDAYS = as_of_mondays(_SETTINGS)
