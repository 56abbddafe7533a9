"""Days packed into ranges that one run handles, and as many of them as one tick may request. Plain arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeVar

from within_pipelines.partitions import DAILY, MAX_PARTITIONS_PER_RUN

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
CAUSE_TAG = "within/cause"
"""Tag of a requested run: what it was requested for, for people who read the list of runs."""

MAX_RUNS_PER_TICK = 25
"""Runs that one tick requests; the rest comes with the next ticks."""

Accounts = frozenset[str] | None
"""Accounts of a request; None for all."""

Cause = TypeVar("Cause")
Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class Span:
    """Days first … last that one run handles, for the same accounts, and the ids of the events that caused it."""

    first: str
    last: str
    accounts: Accounts
    causes: frozenset[int]

    @property
    def limits(self) -> dict[str, str]:
        """The tags that make a run of these days."""
        return {RANGE_START: self.first, RANGE_END: self.last}

    def run_key(self, what: str) -> str:
        """Return a key of what is requested, for which days and accounts, and of what caused it."""
        return f"{what}-{self.first}-{self.last}-{fingerprint(self.causes, sorted(self.accounts or ()))}"


@dataclass(frozen=True, slots=True)
class Need:
    """What a day needs: the accounts to be made anew, and the ids of the events that caused it."""

    accounts: Accounts
    causes: frozenset[int]

    def joined(self, other: Need) -> Need:
        """Both needs as one."""
        both = None if self.accounts is None or other.accounts is None else self.accounts | other.accounts
        return Need(both, self.causes | other.causes)


def spans(needs: Mapping[str, Need]) -> list[Span]:
    """Pack days into ranges without gaps, of the same accounts, that one run handles.

    >>> a, b = Need(None, frozenset({1})), Need(None, frozenset({2}))
    >>> [(s.first, s.last) for s in spans({"2024-01-01": a, "2024-01-02": b, "2024-01-04": a})]
    [('2024-01-01', '2024-01-02'), ('2024-01-04', '2024-01-04')]
    """
    found: list[Span] = []
    length = 0
    for day in sorted(needs):
        need = needs[day]
        last = found[-1] if found else None
        if last and day == shifted(last.last, 1) and last.accounts == need.accounts and length < MAX_PARTITIONS_PER_RUN:
            found[-1] = Span(last.first, day, last.accounts, last.causes | need.causes)
            length += 1
        else:
            found.append(Span(day, day, need.accounts, need.causes))
            length = 1
    return found


def partition_ranges(first: str, last: str) -> Iterator[tuple[str, str]]:
    """Cut first … last into ranges that one run handles, leaving out days outside the history."""
    days = history_days(first, last)
    for start in range(0, len(days), MAX_PARTITIONS_PER_RUN):
        part = days[start : start + MAX_PARTITIONS_PER_RUN]
        yield part[0], part[-1]


def history_days(first: str, last: str) -> list[str]:
    """Days first … last as far as they lie in the history."""
    known_first, known_last = DAILY.get_first_partition_key(), DAILY.get_last_partition_key()
    if known_first is None or known_last is None:
        return []
    begin, end = date.fromisoformat(max(first, known_first)), date.fromisoformat(min(last, known_last))
    return [(begin + timedelta(days=n)).isoformat() for n in range((end - begin).days + 1)]


def in_history(day: str) -> bool:
    """Whether a partition key is a day of the history; the empty key of what has no partitions is none."""
    known_first, known_last = DAILY.get_first_partition_key(), DAILY.get_last_partition_key()
    return known_first is not None and known_last is not None and known_first <= day <= known_last


def shifted(day: str, days: int) -> str:
    """The day some days later.

    >>> shifted("2024-02-28", 2)
    '2024-03-01'
    """
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def fitting(
    causes: Sequence[Cause], plan: Callable[[Sequence[Cause]], list[Request]], limit: int = MAX_RUNS_PER_TICK
) -> tuple[int, list[Request]]:
    """Find how many of the causes, from the first on, one tick can answer, and the requests that answer them.

    One cause is never split: where it alone needs more than ``limit`` requests, they are all made.
    """
    requests = plan(causes)
    if len(requests) <= limit or len(causes) <= 1:
        return len(causes), requests
    taken, requests = 1, plan(causes[:1])
    too_many = len(causes)
    while too_many - taken > 1:
        middle = (taken + too_many) // 2
        tried = plan(causes[:middle])
        if len(tried) <= limit:
            taken, requests = middle, tried
        else:
            too_many = middle
    return taken, requests


def fingerprint(*parts: Collection[object]) -> str:
    """Return a short hash of collections of values; order counts in those that have one.

    >>> fingerprint({2, 1}) == fingerprint({1, 2})
    True
    """
    text = "\n".join(" ".join(map(str, _ordered(part))) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ordered(values: Iterable[object]) -> list[object]:
    return sorted(values, key=str) if isinstance(values, set | frozenset) else list(values)
