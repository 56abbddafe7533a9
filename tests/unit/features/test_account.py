"""Values of account_features against hand calculation and a slow implementation."""

import calendar
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from within_ml.features.account import required_account_dates
from within_ml.features.catalog import ACCOUNT_FEATURES, account_features_contract
from within_ml.features.execution import Limits
from within_ml.features.runner import compute_account_features


def computed(lake, first, last, **options) -> pa.Table:
    days = compute_account_features(lake, first=first, last=last, **{"limits": Limits(threads=1), **options})
    return pa.concat_tables(day.table for day in days).combine_chunks()


def slow_account_features(lake, d: date) -> dict[str, dict]:
    perf = lake.tables["ad_performance"].to_pandas()
    perf = perf[perf.date <= d]
    accounts = lake.tables["accounts"].to_pandas().set_index("account_id")
    currency = accounts.currency.fillna("unknown")
    recent = perf[perf.date > d - timedelta(days=28)]
    fresh = [a for a, o in accounts.onboarded_date.items() if o <= d < o + timedelta(days=28)]
    rows = {}
    for account in sorted({*recent[recent.impressions > 0].account_id, *fresh}):
        row, mine = {"day_of_week": d.weekday()}, perf[perf.account_id == account]
        for w in (1, 7, 28):
            facts = mine[mine.date > d - timedelta(days=w)]
            for m in ("impressions", "clicks", "spend", "conversions", "revenue"):
                row[f"account_{m}_{w}d"] = facts[m].sum(min_count=0 if m in ("impressions", "clicks") else 1)
            served = facts[facts.impressions > 0]
            row[f"account_active_ads_{w}d"] = len(served[["platform", "ad_id"]].drop_duplicates())
            row[f"account_active_campaigns_{w}d"] = len(served[["platform", "campaign_id"]].drop_duplicates())
            n, c, s = (row[f"account_{m}_{w}d"] for m in ("impressions", "clicks", "spend"))
            row[f"account_ctr_{w}d"] = c / n if n else np.nan
            row[f"account_cpc_{w}d"] = s / c if c else np.nan
            row[f"account_cvr_{w}d"] = row[f"account_conversions_{w}d"] / c if c else np.nan
            row[f"account_roas_{w}d"] = row[f"account_revenue_{w}d"] / s if s else np.nan
        for m in ("impressions", "clicks", "spend", "conversions", "revenue"):
            week, month = row[f"account_{m}_7d"] / 7, row[f"account_{m}_28d"] / 28
            row[f"account_{m}_trend"] = np.log(week / month) if week and month else np.nan
        week, month = row["account_ctr_7d"], row["account_ctr_28d"]
        row["account_ctr_trend"] = np.log(week / month) if week and month else np.nan
        row["account_impressions_share_28d"] = row["account_impressions_28d"] / recent.impressions.sum()
        same = recent[recent.account_id.map(currency) == currency[account]]
        row["account_spend_share_28d"] = row["account_spend_28d"] / same.spend.sum()
        spent = mine[mine.date >= d.replace(day=1)].spend.sum(min_count=1)
        due = accounts.monthly_budget[account] * d.day / calendar.monthrange(d.year, d.month)[1]
        row["account_spend_month"], row["account_spend_pacing"] = spent, spent / due
        age = (d - accounts.onboarded_date[account]).days
        row["account_age_days"] = age if age >= 0 else None
        rows[account] = row
    return rows


@pytest.mark.parametrize("number", [5, 30, 59, 69])
def test_equals_a_slow_implementation(lake, on, number):
    expected = slow_account_features(lake, on(number))
    found = {r["account_id"]: r for r in computed(lake, on(number), on(number)).to_pylist()}
    assert found.keys() == expected.keys()
    for account, row in expected.items():
        for feature in ACCOUNT_FEATURES:
            np.testing.assert_allclose(
                np.array(found[account][feature.name], dtype=float),
                np.array(row[feature.name], dtype=float),
                rtol=1e-12,
                err_msg=f"{feature.name} of {account}",
            )


def test_any_cut_and_any_buckets_give_the_same_rows(lake, on):
    whole = computed(lake, on(29), on(32))
    assert pa.concat_tables([computed(lake, on(d), on(d)) for d in range(29, 33)]).combine_chunks().equals(whole)
    assert computed(lake, on(29), on(32), limits=Limits(rows_per_bucket=1)).equals(whole)
    one = computed(lake, on(29), on(32), accounts=["acc-0"]).to_pandas()
    expected = whole.to_pandas()
    pd.testing.assert_frame_equal(one, expected[expected.account_id == "acc-0"].reset_index(drop=True))


def test_pacing_by_hand(rows_of, make_lake, on):
    """A budget of 310 for January is 100 due by the 10th; 40 + 35 were spent since the 1st, 500 the day before it."""
    ad = {"platform": "google", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "ad_id": "1", "region": "x"}
    facts = [
        {**ad, "date": on(d), "impressions": 10, "clicks": 0, "spend": spend}
        for d, spend in [(-1, 500.0), (0, 40.0), (9, 35.0)]
    ]
    account = {"account_id": "a", "currency": "EUR", "monthly_budget": 310.0, "onboarded_date": on(-9)}
    lake = make_lake(0, accounts=0).changed(
        ad_performance=rows_of("ad_performance", facts), accounts=rows_of("accounts", [account])
    )
    (row,) = computed(lake, on(9), on(9)).to_pylist()
    assert (row["account_spend_month"], row["account_spend_pacing"]) == (75.0, 0.75)
    assert (row["account_spend_28d"], row["account_spend_share_28d"], row["account_age_days"]) == (575.0, 1.0, 18)
    assert row["account_clicks_trend"] is None


def test_rows_follow_the_contract(lake, empty_lake, on):
    table, contract = computed(lake, on(40), on(45)), account_features_contract()
    assert table.schema == contract.schema
    assert [c.name for c in contract.columns if not c.nullable and table[c.name].null_count] == []
    assert computed(empty_lake, on(1), on(1)).num_rows == 0


def test_required_dates_reach_to_the_first_of_the_month():
    assert required_account_dates(date(2024, 3, 31), date(2024, 4, 1))[0] == date(2024, 3, 1)
    assert required_account_dates(date(2024, 3, 2), date(2024, 3, 2))[0] == date(2024, 2, 4)
