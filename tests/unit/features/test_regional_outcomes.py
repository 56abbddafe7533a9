"""Outcomes by region against sums taken by hand from the facts."""

from datetime import date, timedelta

import pandas as pd
import pytest

from within_ml.features.execution import Limits
from within_ml.features.regional_outcomes import WEEKS, apart, outcome_days, regional_outcomes

LIMITS = Limits(threads=1)
AD = ["platform", "account_id", "ad_id"]


@pytest.fixture(scope="module")
def scored(lake, rows_of, on):
    """Every ad is scored on each of the days 20 to 45, differently each day."""
    ads = lake.tables["ad_performance"].to_pandas().drop_duplicates(AD)[[*AD, "campaign_id", "ad_group_id"]]
    rows = [
        {**ad, "date": on(number), "predicted_ctr": 0.001 * number, "ad_score": 50.0, "confidence_score": 0.5}
        for number in range(20, 46)
        for ad in ads.to_dict("records")
    ]
    return lake.changed(ad_scores=rows_of("ad_scores", rows))


def test_a_row_is_the_week_after_a_scored_day_in_one_region(scored, on):
    found = regional_outcomes(scored, first=on(20), last=on(45), limits=LIMITS)
    facts = scored.tables["ad_performance"].to_pandas()
    assert sorted(set(found["date"])) == [on(24), on(31), on(38), on(45)]
    expected = []
    for number in (24, 31, 38, 45):
        week = facts[(facts["date"] > on(number)) & (facts["date"] <= on(number + 7))]
        sums = week.groupby([*AD, "campaign_id", "region"])[["impressions", "clicks"]].sum().reset_index()
        expected.append(sums.assign(date=on(number), predicted_ctr=0.001 * number))
    by_hand = pd.concat(expected)
    by_hand = by_hand[by_hand["impressions"] > 0][list(found.columns)]
    keys = ["date", *AD, "region"]
    pd.testing.assert_frame_equal(found, by_hand.sort_values(keys).reset_index(drop=True))
    assert len(found) > 50


def test_no_click_counts_twice(scored, on):
    found = regional_outcomes(scored, first=on(20), last=on(45), limits=LIMITS)
    facts = scored.tables["ad_performance"].to_pandas()
    window = facts[(facts["date"] > on(24)) & (facts["date"] <= on(52))]
    assert found["clicks"].sum() == window["clicks"].sum()
    assert found["impressions"].dtype == "int64"


def test_predictions_without_outcomes_and_outcomes_without_predictions_have_no_row(lake, scored, rows_of, on):
    assert regional_outcomes(lake, first=on(20), last=on(45), limits=LIMITS).empty
    quiet = scored.changed(ad_performance=rows_of("ad_performance", []))
    assert regional_outcomes(quiet, first=on(20), last=on(45), limits=LIMITS).empty


def test_the_last_day_has_its_week_complete_and_there_are_eight(on):
    first, last = outcome_days(date(2024, 4, 15))
    assert last + timedelta(days=9) == date(2024, 4, 15)
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    assert len(apart(every)) == WEEKS
    assert apart(every)[-1] == last
