"""Daily sums of performance: the expected numbers come from pandas over the same rows."""

import pandas as pd
import pytest

from within_ml.errors import InputError
from within_ml.features.daily_sums import COUNTS, VALUES, daily_sums

METRICS = [*COUNTS, *VALUES]


def by_pandas(lake, keys, first, last):
    rows = lake.tables["ad_performance"].to_pandas()
    rows["date"] = pd.to_datetime(rows["date"])
    rows = rows[rows["date"].between(pd.Timestamp(first), pd.Timestamp(last))]
    return rows.groupby(keys, as_index=False)[METRICS].sum(min_count=1).sort_values(keys).reset_index(drop=True)


@pytest.mark.parametrize("by", [(), ("platform", "region"), ("campaign_id", "ad_id")])
def test_sums_are_those_of_the_rows_and_unknown_money_stays_unknown(lake, on, by):
    keys = ["date", "account_id", *by]
    found = daily_sums(lake, first=on(5), last=on(40), by=by)
    expected = by_pandas(lake, keys, on(5), on(40))
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-9, atol=2e-6)
    assert found.loc[found["account_id"] == "acc-1", "spend"].isna().all()


def test_what_an_ad_targets_is_that_of_its_newest_known_version(lake, on):
    early = daily_sums(lake, first=on(0), last=on(8), by=["ad_id", "audience_age"])
    late = daily_sums(lake, first=on(0), last=on(69), by=["ad_id", "audience_age"])
    ads = lake.tables["ads"].to_pandas()
    changed = set(ads.loc[ads["audience_age"] == "unknown", "ad_id"])
    assert set(late.loc[late["audience_age"] == "unknown", "ad_id"]) == changed & set(late["ad_id"])
    assert set(early["audience_age"].dropna()) <= {"25-34", "unknown"}
    assert late["impressions"].sum() == daily_sums(lake, first=on(0), last=on(69))["impressions"].sum()


def test_accounts_can_be_named_and_no_rows_give_an_empty_frame(lake, empty_lake, on):
    assert set(daily_sums(lake, first=on(0), last=on(69), accounts=["acc-2"])["account_id"]) == {"acc-2"}
    nothing = daily_sums(empty_lake, first=on(0), last=on(3), by=["campaign_id"])
    assert nothing.empty
    assert list(nothing.columns) == ["date", "account_id", "campaign_id", *METRICS]


def test_unknown_dimensions_and_days_in_the_wrong_order_are_refused(lake, on):
    with pytest.raises(InputError, match="Sums are split by 'platform'"):
        daily_sums(lake, first=on(0), last=on(1), by=["colour"])
    with pytest.raises(InputError, match="first must not be after last"):
        daily_sums(lake, first=on(2), last=on(1))
