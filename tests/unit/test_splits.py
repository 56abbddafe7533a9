"""Parts of a history follow each other and no label reaches into the next part."""

import datetime as dt
import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from within_ml.errors import InputError
from within_ml.splits import OutOfTimeSplit, to_days

DAY = np.timedelta64(1, "D")


@given(
    days=st.lists(st.integers(0, 400), min_size=1, max_size=80),
    validation=st.integers(0, 40),
    test=st.integers(0, 40),
    horizon=st.integers(0, 10),
)
def test_each_label_ends_before_the_next_part_begins(days, validation, test, horizon):
    dates = np.datetime64("2024-01-01") + np.array(days) * DAY
    try:
        split = OutOfTimeSplit(validation, test, horizon).split(dates)
    except InputError:
        return
    parts = [dates[mask] for mask in (split.train, split.validation, split.test) if mask.any()]
    assert split.train.any()
    assert split.validation.any() == (validation > 0)
    assert split.test.any() == (test > 0)
    for earlier, later in itertools.pairwise(parts):
        assert earlier.max() + horizon * DAY < later.min()


def test_daily_history_has_the_lengths_asked_for():
    split = OutOfTimeSplit(28, 28).split(pd.date_range("2024-01-01", "2024-12-31"))

    assert split.days["test"] == (dt.date(2024, 12, 4), dt.date(2024, 12, 31))
    assert split.days["validation"] == (dt.date(2024, 10, 30), dt.date(2024, 11, 26))
    assert split.days["train"] == (dt.date(2024, 1, 1), dt.date(2024, 10, 22))


def test_weekly_history_keeps_four_weeks_per_part():
    sundays = pd.date_range("2024-01-07", periods=52, freq="W")
    split = OutOfTimeSplit(28, 28).split(sundays)

    # A label of Sunday D ends on the next Sunday, so that one week between the parts is in neither.
    assert (split.validation.sum(), split.test.sum(), split.train.sum()) == (4, 4, 42)


def test_a_short_history_shrinks_the_later_parts():
    split = OutOfTimeSplit(28, 28).split(pd.date_range("2024-01-01", periods=60))

    assert split.train.sum() >= 30
    assert split.validation.sum() == split.test.sum() == 7


@pytest.mark.parametrize("periods", [0, 1, 7, 9])
def test_too_short_a_history_says_so(periods):
    with pytest.raises(InputError, match="longer history"):
        OutOfTimeSplit(28, 28).split(pd.date_range("2024-01-01", periods=periods))


@pytest.mark.parametrize(
    "dates",
    [
        [dt.date(2024, 1, 8)],
        ["2024-01-08"],
        pd.Series(pd.to_datetime(["2024-01-08 13:00"]), index=[7]),
        pd.Series(pd.to_datetime(["2024-01-08"], utc=True)),
        pd.Series([dt.date(2024, 1, 8)], dtype=pd.ArrowDtype(pa.date32())),
        np.array(["2024-01-08"], dtype="datetime64[ns]"),
    ],
)
def test_any_kind_of_date_is_the_same_day(dates):
    assert to_days(dates).tolist() == [dt.date(2024, 1, 8)]


@pytest.mark.parametrize("dates", [[None], ["yesterday"], ["2024-13-01"]])
def test_what_is_no_date_is_refused(dates):
    with pytest.raises(InputError, match="date"):
        to_days(dates)


def test_a_negative_length_is_refused():
    with pytest.raises(InputError, match="at least 0"):
        OutOfTimeSplit(-1)
