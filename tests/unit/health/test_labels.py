"""What became of accounts, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from within_ml.health.daily import checked, daily_grid
from within_ml.health.history import account_rows
from within_ml.health.labels import NEVER, account_states, days_until

START = pd.Timestamp("2024-01-01")


def grid_of(**accounts):
    """Accounts by their daily clicks at 100 impressions; None is no row, 0 a day of zeros."""
    rows = [
        {"date": START + pd.Timedelta(days=i), "account_id": name, "impressions": 100 * (c > 0), "clicks": c}
        for name, clicks in accounts.items()
        for i, c in enumerate(clicks)
        if c is not None
    ]
    return daily_grid(checked(pd.DataFrame(rows)))


def test_a_silence_of_thirty_days_is_leaving_from_its_first_day():
    states = account_states(grid_of(a=[2] * 10 + [None] * 30 + [2] * 10, b=[2] * 50))

    assert np.flatnonzero(states.gone[0]).tolist() == list(range(10, 40))
    assert np.flatnonzero(states.seen_gone[0]).tolist() == [39]
    assert not states.gone[1].any()


def test_a_shorter_silence_is_none_and_an_open_one_is_not_known():
    states = account_states(grid_of(a=[2] * 10 + [0] * 29 + [2] * 11, b=[2] * 35 + [0] * 15))

    assert not states.gone.any()
    assert states.known_until.tolist() == [49, 34]


def test_the_end_of_the_contract_is_leaving():
    accounts = pd.DataFrame({"account_id": ["a", "b"], "churned_date": [START + pd.Timedelta(days=20), pd.NaT]})
    states = account_states(grid_of(a=[2] * 20 + [None] * 5, b=[2] * 25), accounts)

    assert np.flatnonzero(states.gone[0]).tolist() == [20, 21, 22, 23, 24]
    assert (states.seen_gone == states.gone).all()
    assert states.known_until.tolist() == [24, 24]


def test_a_week_below_the_own_decile_is_a_fall():
    usual = [10 + i % 5 for i in range(60)]
    states = account_states(grid_of(a=[*usual, *[3] * 8, *usual[:10]], b=[*usual, *[3] * 6, *usual[:12]]))

    assert np.flatnonzero(states.fallen[0])[0] == 66
    assert not states.fallen[1].any()


def test_money_counts_where_it_is_known():
    clicks = 10 + np.arange(80) % 5
    revenue = np.where(np.arange(80) >= 60, 1.0, 100.0 + np.arange(80) % 7)
    days = pd.DataFrame({"date": pd.date_range(START, periods=80), "account_id": "a", "impressions": 100,
                         "clicks": clicks, "spend": 10.0, "revenue": revenue})  # fmt: skip

    assert account_states(daily_grid(checked(days))).fallen[0, 66:].any()
    assert not account_states(daily_grid(checked(days.drop(columns="revenue")))).fallen.any()


@pytest.mark.parametrize(
    ("happens", "until"), [([0, 0, 1, 0], [2, 1, NEVER, NEVER]), ([1, 1, 0, 1], [1, 2, 1, NEVER]), ([0], [NEVER])]
)
def test_days_until(happens, until):
    assert days_until(np.array([happens], dtype=bool)).tolist() == [until]


def test_later_days_change_no_features_and_no_settled_label(agency):
    daily, _accounts = agency
    early = account_rows(daily[daily["date"] <= "2024-04-20"], None)
    whole = account_rows(daily, None)
    keys = ["account_id", "date"]
    both = early.frame[keys].merge(whole.frame.reset_index()[[*keys, "index"]], on=keys)["index"]
    pd.testing.assert_frame_equal(early.frame, whole.frame.loc[both].reset_index(drop=True))

    frame, label, kept = early.labelled(14)
    later = whole.until_bad[both.to_numpy()[kept]] <= 14
    assert np.array_equal(label, later.astype(float))
    assert len(frame) > 1000
