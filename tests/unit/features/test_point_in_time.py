"""Nothing that happens after a day changes a bit of that day's features."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from within_ml.features.execution import Limits
from within_ml.features.runner import compute_account_features, compute_ad_features

LIMITS = Limits(threads=1)


def ad_rows(lake, first: date, last: date) -> pa.Table:
    days = compute_ad_features(lake, first=first, last=last, limits=LIMITS)
    return pa.concat_tables(day.table for day in days).combine_chunks()


def account_rows(lake, first: date, last: date) -> pa.Table:
    days = compute_account_features(lake, first=first, last=last, limits=LIMITS)
    return pa.concat_tables(day.table for day in days).combine_chunks()


def restated(lake, last: date, rng: np.random.Generator):
    """The same agency as it might be known later: facts, ads and campaigns after ``last`` deleted or changed."""
    performance = lake.tables["ad_performance"].to_pandas()
    later = performance.date > last
    performance = performance[~later | (rng.random(len(performance)) < 0.6)].reset_index(drop=True)
    later = (performance.date > last).to_numpy()
    performance.loc[later, "impressions"] += rng.integers(0, 10**6, later.sum())
    performance.loc[later, ["spend", "revenue", "conversions"]] = rng.gamma(2, 1e5, (later.sum(), 3))
    performance.loc[later, "campaign_id"] = "moved"
    ads = lake.tables["ads"].to_pandas()
    ends_later = np.array([v is None or v > last for v in ads.valid_to])
    ads.loc[ends_later, "valid_to"] = [
        None if rng.random() < 0.5 else max(v, last) + timedelta(days=int(rng.integers(1, 9)))
        for v in ads.valid_from[ends_later]
    ]
    begins_later = (ads.valid_from > last).to_numpy()
    ads.loc[begins_later, ["headline", "audience_age", "created_at"]] = ["Rewritten", "55+", date(2020, 1, 1)]
    ads = ads[~begins_later | (rng.random(len(ads)) < 0.5)]
    known = set(ads[ads.valid_from <= last].campaign_id)
    campaigns = lake.tables["campaigns"].to_pandas()
    campaigns["end_date"], campaigns["daily_budget"] = last + timedelta(days=1), rng.gamma(2, 9, len(campaigns))
    campaigns = campaigns[campaigns.campaign_id.isin(known) | (rng.random(len(campaigns)) < 0.5)]
    accounts = lake.tables["accounts"].to_pandas()
    accounts["churned_date"] = last + timedelta(days=1)
    changed = {"ad_performance": performance, "ads": ads, "campaigns": campaigns, "accounts": accounts}
    tables = {
        name: pa.Table.from_pandas(frame, schema=lake.tables[name].schema, preserve_index=False)
        for name, frame in changed.items()
    }
    return lake.changed(**tables)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 50), number=st.sampled_from([12, 33, 45]), length=st.sampled_from([1, 4]))
def test_later_facts_change_no_earlier_feature(make_lake, on, seed, number, length):
    lake = make_lake(seed, accounts=3, ads_per_account=4)
    first, last = on(number), on(number + length - 1)
    later = restated(lake, last, np.random.default_rng(seed))
    assert not later.tables["ad_performance"].equals(lake.tables["ad_performance"])
    assert ad_rows(later, first, last).equals(ad_rows(lake, first, last))
    assert account_rows(later, first, last).equals(account_rows(lake, first, last))


@pytest.mark.parametrize("compute", [ad_rows, account_rows])
def test_a_changed_fact_of_the_day_itself_is_seen(lake, on, compute):
    """The property above would also hold for features that read nothing."""
    performance = lake.tables["ad_performance"].to_pandas()
    performance.loc[performance.date == on(40), "impressions"] += 1000
    changed = pa.Table.from_pandas(performance, schema=lake.tables["ad_performance"].schema, preserve_index=False)
    assert not compute(lake.changed(ad_performance=changed), on(40), on(40)).equals(compute(lake, on(40), on(40)))


def test_a_churn_date_is_not_read(lake, on):
    accounts = lake.tables["accounts"].to_pandas()
    accounts["churned_date"] = on(20)
    changed = pa.Table.from_pandas(accounts, schema=lake.tables["accounts"].schema, preserve_index=False)
    assert account_rows(lake.changed(accounts=changed), on(40), on(41)).equals(account_rows(lake, on(40), on(41)))
