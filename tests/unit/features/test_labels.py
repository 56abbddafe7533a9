"""Labels and training rows against sums taken by hand from the facts."""

from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pytest

from within_ml.features.catalog import ad_features_contract
from within_ml.features.execution import Limits
from within_ml.features.labels import last_trainable, required_label_dates
from within_ml.features.runner import compute_ad_features, compute_training_rows

LIMITS = Limits(threads=1)


@pytest.fixture(scope="module")
def with_features(lake, on):
    days = compute_ad_features(lake, first=on(20), last=on(50), limits=LIMITS)
    return lake.changed(ad_features=pa.concat_tables(day.table for day in days))


@pytest.fixture(scope="module")
def rows(with_features, on) -> pa.Table:
    return compute_training_rows(with_features, first=on(20), last=on(50), limits=LIMITS)


def test_label_is_the_week_after_the_day(with_features, rows):
    perf = with_features.tables["ad_performance"].to_pandas()
    expected = 0
    for f in with_features.tables["ad_features"].select(["date", "platform", "account_id", "ad_id"]).to_pylist():
        week = perf[
            (perf.account_id == f["account_id"]) & (perf.ad_id == f["ad_id"]) & (perf.platform == f["platform"])
        ]
        week = week[(week.date > f["date"]) & (week.date <= f["date"] + timedelta(days=7))]
        f |= {"label_impressions": week.impressions.sum(), "label_clicks": week.clicks.sum()}
        if not f["label_impressions"]:
            continue
        expected += 1
        keys = rows.select(list(f)).filter(
            (pa.compute.field("date") == f["date"]) & (pa.compute.field("ad_id") == f["ad_id"])
        )
        assert keys.to_pylist() == [f]
    assert rows.num_rows == expected > 100


def test_columns_are_those_of_the_features_and_the_label(rows):
    assert rows.column_names == [*ad_features_contract().names, "label_impressions", "label_clicks"]
    assert rows["date"].to_pylist() == sorted(rows["date"].to_pylist())


@pytest.mark.parametrize(("first", "last"), [(20, 20), (33, 50)])
def test_any_range_gives_the_same_labels(with_features, rows, on, first, last):
    part = compute_training_rows(with_features, first=on(first), last=on(last), limits=Limits(rows_per_bucket=1))
    whole = rows.to_pandas()
    expected = whole[(whole.date >= on(first)) & (whole.date <= on(last))].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.to_pandas(), expected)


def test_a_sample_is_part_of_the_rows_and_the_same_again(with_features, rows, on):
    half = compute_training_rows(with_features, first=on(20), last=on(50), max_rows=rows.num_rows // 2, limits=LIMITS)
    again = compute_training_rows(with_features, first=on(20), last=on(50), max_rows=rows.num_rows // 2)
    keys = ["date", "platform", "account_id", "ad_id"]
    merged = half.select(keys).to_pandas().merge(rows.select(keys).to_pandas(), on=keys)
    assert 0.3 < half.num_rows / rows.num_rows < 0.7
    assert len(merged) == half.num_rows
    assert again.equals(half)


def test_no_facts_no_rows(empty_lake, on):
    lake = empty_lake.changed(ad_features=ad_features_contract().schema.empty_table())
    assert compute_training_rows(lake, first=on(1), last=on(9), limits=LIMITS).num_rows == 0


def test_a_model_trains_on_mature_labels_only():
    last = last_trainable(date(2024, 3, 11))
    assert last == date(2024, 3, 2)
    assert required_label_dates(last, last)[-1] == date(2024, 3, 9)
