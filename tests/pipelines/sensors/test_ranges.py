"""Days packed into ranges, and as many causes as one tick can answer."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from within_pipelines.partitions import DAILY, MAX_PARTITIONS_PER_RUN
from within_pipelines.sensors.ranges import Need, fitting, history_days, in_history, partition_ranges, spans

ACCOUNTS = st.none() | st.frozensets(st.sampled_from("abc"), min_size=1)
NEEDS = st.dictionaries(
    st.integers(0, 120).map(lambda n: (date(2024, 1, 1) + timedelta(days=n)).isoformat()),
    st.builds(Need, ACCOUNTS, st.frozensets(st.integers(1, 9), min_size=1)),
)


@given(NEEDS)
def test_spans_cover_each_day_once_for_its_accounts(needs):
    found = spans(needs)
    covered = {day: span.accounts for span in found for day in history_days(span.first, span.last)}
    assert covered == {day: need.accounts for day, need in needs.items()}
    assert sum(len(history_days(span.first, span.last)) for span in found) == len(needs)
    assert all(len(history_days(span.first, span.last)) <= MAX_PARTITIONS_PER_RUN for span in found)
    assert len({span.run_key("x") for span in found}) == len(found)


@given(NEEDS)
def test_a_span_names_the_causes_of_its_days_and_no_others(needs):
    for span in spans(needs):
        inside = [needs[day].causes for day in history_days(span.first, span.last)]
        assert span.causes == frozenset.union(*inside)


@given(st.lists(st.integers(0, 40)), st.integers(1, 25))
def test_as_many_causes_as_fit_are_taken_and_one_at_least(sizes, limit):
    def plan(causes):
        return [n for n in causes for _ in range(n)]

    taken, requests = fitting(sizes, plan, limit)
    assert requests == plan(sizes[:taken])
    assert len(requests) <= limit or taken == 1
    assert taken == len(sizes) or taken == 1 or len(plan(sizes[: taken + 1])) > limit


def test_keys_tell_causes_and_accounts_apart():
    day = {"2024-01-01": Need(None, frozenset({1}))}
    keys = {
        spans(day)[0].run_key("x"),
        spans(day)[0].run_key("y"),
        spans({"2024-01-01": Need(None, frozenset({2}))})[0].run_key("x"),
        spans({"2024-01-01": Need(frozenset("a"), frozenset({1}))})[0].run_key("x"),
        spans({"2024-01-02": Need(None, frozenset({1}))})[0].run_key("x"),
    }
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("key", "inside"), [("", False), ("2012-12-31", False), ("2013-01-01", True), ("2025-01-01", False)]
)
def test_the_history_is_that_of_the_settings(key, inside):
    assert in_history(key) == inside
    assert in_history(key) == DAILY.has_partition_key(key or "2000-01-01")


def test_ranges_of_days_end_with_the_history():
    assert list(partition_ranges("2024-12-01", "2025-03-01")) == [
        ("2024-12-01", "2024-12-30"),
        ("2024-12-31", "2024-12-31"),
    ]
    assert list(partition_ranges("2025-01-01", "2025-03-01")) == []
