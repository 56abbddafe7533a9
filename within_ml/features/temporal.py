"""Time in feature expressions: days as numbers, which days an entity has a row for, sums over the last days.

Everything here is an Ibis expression without an engine: DuckDB and Spark compile the same one. What is summed and what
is made of the sums belongs in `performance`, `account` and `ad_features`; nothing here knows a column of the lake.

Two plans give the same rows. `Plan.RANGE` computes many days at once with window functions over a timeline that holds
the facts and the wanted days. `Plan.NIGHT` computes one day with conditional sums, which needs no sorting. All sums are
sums of integers, so that their order, and with it the plan, the engine and the cut of a backfill, cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

import ibis
import ibis.expr.types as ir

from within_ml.errors import InputError

WINDOWS = (1, 7, 28)
"""Lengths of the feature windows in days; each ends with the row's own day."""

LONGEST_WINDOW = max(WINDOWS)

_EPOCH = date(1970, 1, 1)

Checkpoint = Callable[[str, ir.Table], ir.Table]
"""``checkpoint(name, table)`` gives a table of the same rows, stored by the engine if it likes: what follows reads it
more than once, and engines compute a shared expression again for each reader."""


def unchecked(name: str, table: ir.Table) -> ir.Table:
    """Store nothing: the whole definition stays one expression."""
    return table


class Plan(StrEnum):
    """How sums over the last days are computed; the rows are the same."""

    RANGE = "range"
    NIGHT = "night"


@dataclass(frozen=True, slots=True)
class Period:
    """The days ``first`` to ``last``, both included, for which features are wanted.

    >>> Period(date(2024, 1, 1), date(2024, 1, 3)).first_number
    19723
    """

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise InputError(f"A period needs first ≤ last; got first={self.first} and last={self.last}. Swap the two.")

    @property
    def first_number(self) -> int:
        """Days from 1970-01-01 to the first day."""
        return (self.first - _EPOCH).days

    @property
    def last_number(self) -> int:
        """Days from 1970-01-01 to the last day."""
        return (self.last - _EPOCH).days

    @property
    def days(self) -> list[date]:
        """All days of the period, in order."""
        return [self.first + timedelta(days=i) for i in range((self.last - self.first).days + 1)]

    @property
    def plan(self) -> Plan:
        """The cheaper plan: conditional sums for a single day, windows for more."""
        return Plan.NIGHT if self.first == self.last else Plan.RANGE


def required_dates(first: date, last: date) -> list[date]:
    """Return the days of performance that the features of ``first`` to ``last`` read.

    >>> days = required_dates(date(2024, 3, 1), date(2024, 3, 1))
    >>> days[0], days[-1], len(days)
    (datetime.date(2024, 2, 3), datetime.date(2024, 3, 1), 28)
    """
    return Period(Period(first, last).first - timedelta(days=LONGEST_WINDOW - 1), last).days


def day_number(column: ir.DateValue) -> ir.IntegerValue:
    """Days from 1970-01-01 to a date: window frames and date arithmetic are integers in every engine."""
    return column.delta(ibis.date(_EPOCH.isoformat()), unit="day").cast("int64")


def date_of(column: ir.IntegerValue) -> ir.DateValue:
    """The date of a day number."""
    return (ibis.date(_EPOCH.isoformat()) + column.as_interval("D")).cast("date")


def each_day(table: ir.Table, start: ir.IntegerValue, stop: ir.IntegerValue, *, name: str = "day") -> ir.Table:
    """Repeat each row for every day number from ``start`` up to, not including, ``stop``."""
    return table.mutate(**{name: ibis.range(start, stop).unnest()})


def served_spine(served: ir.Table, keys: Sequence[str], carried: Sequence[str], period: Period, plan: Plan) -> ir.Table:
    """Every day of the period on which an entity has been served in the longest window.

    Parameters
    ----------
    served
        ``keys``, ``day`` and ``carried``: one row per entity and day on which it was served.
    keys
        Columns that identify the entity.
    carried
        Columns whose value at the latest serve as of the day is wanted.
    period, plan
        The wanted days and how to find them.

    Returns
    -------
    ibis.Table
        ``keys``, ``day``, ``carried``; one row per entity and day.
    """
    if plan is Plan.NIGHT:
        day = period.last_number
        recent = served.filter((served.day > day - LONGEST_WINDOW) & (served.day <= day))
        latest = {c: recent[c].argmax(recent.day) for c in carried}
        return recent.group_by(list(keys)).aggregate(**latest).mutate(day=ibis.literal(day, "int64"))
    timeline = ibis.window(group_by=[served[k] for k in keys], order_by=served.day)
    # A serve stands for the days until the next one, at most the window: each day appears once.
    gaps = served.select(
        *keys,
        *carried,
        start=ibis.greatest(served.day, period.first_number),
        stop=ibis.least(
            served.day.lead().over(timeline).fill_null(period.last_number + 1),
            served.day + LONGEST_WINDOW,
            period.last_number + 1,
        ),
    )
    gaps = gaps.filter(gaps.start < gaps.stop)
    return each_day(gaps, gaps.start, gaps.stop).drop("start", "stop")


@dataclass(frozen=True, slots=True)
class Frame:
    """The days ``first`` to ``last`` relative to a row's day, both included.

    >>> Frame.window(7)
    Frame(first=-6, last=0)
    """

    first: int
    last: int

    @classmethod
    def window(cls, days: int) -> Frame:
        """The last ``days`` days, the row's own included."""
        return cls(1 - days, 0)


def rolling_sums(
    facts: ir.Table,
    wanted: ir.Table,
    keys: Sequence[str],
    sums: Mapping[str, tuple[str, Frame]],
    period: Period,
    plan: Plan,
) -> ir.Table:
    """Sum integer measures of each entity over frames of days.

    Parameters
    ----------
    facts
        ``keys``, ``day`` and the measures, integers or null; any number of rows per entity and day.
    wanted
        ``keys``, ``day`` and other columns, which are kept; one row per entity and day of the period.
    keys
        Columns that identify the entity.
    sums
        Name of the result → (measure, frame).
    period, plan
        The wanted days and how to sum.

    Returns
    -------
    ibis.Table
        ``wanted`` with one float64 column per sum, null where the frame holds no value. Each is an exact integer below
        2**53 and correctly rounded above.
    """
    if plan is Plan.NIGHT:
        return _conditional_sums(facts, wanted, keys, sums, period.last_number)
    measures = sorted({measure for measure, _ in sums.values()})
    kept = [c for c in wanted.columns if c not in keys and c != "day"]
    schema = wanted.schema()
    timeline = ibis.union(
        facts.select(
            *keys, "day", *measures, *[ibis.null(schema[c]).name(c) for c in kept], wanted=ibis.literal(False)
        ),
        wanted.select(*keys, "day", *[ibis.null("int64").name(m) for m in measures], *kept, wanted=ibis.literal(True)),
    )
    windows = {frame: _range_window(timeline, keys, frame) for _, frame in sums.values()}
    summed = timeline.mutate(
        **{
            name: timeline[measure].sum().over(windows[frame]).cast("float64")
            for name, (measure, frame) in sums.items()
        }
    )
    return summed.filter(summed.wanted).drop("wanted", *measures)


def _conditional_sums(
    facts: ir.Table, wanted: ir.Table, keys: Sequence[str], sums: Mapping[str, tuple[str, Frame]], day: int
) -> ir.Table:
    first = min(frame.first for _, frame in sums.values())
    last = max(frame.last for _, frame in sums.values())
    near = facts.filter(facts.day.between(day + first, day + last))
    totals = near.group_by(list(keys)).aggregate(
        **{
            name: near[measure].sum(where=near.day.between(day + frame.first, day + frame.last)).cast("float64")
            for name, (measure, frame) in sums.items()
        }
    )
    return joined(wanted, totals, keys)


def joined(left: ir.Table, right: ir.Table, keys: Sequence[str]) -> ir.Table:
    """Left join on equal keys, keeping the keys once."""
    return left.left_join(right, list(keys)).drop(*[f"{k}_right" for k in keys])


def _range_window(table: ir.Table, keys: Sequence[str], frame: Frame) -> ibis.expr.builders.WindowBuilder:
    group_by = [table[k] for k in keys]
    if frame.first > 0:
        following = (frame.first, frame.last)
        return ibis.range_window(group_by=group_by, order_by=table.day, preceding=None, following=following)
    return ibis.range_window(group_by=group_by, order_by=table.day, preceding=-frame.first, following=frame.last)
