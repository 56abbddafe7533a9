"""The benchmarks run at a tiny size, and the script that WITHIN is compared with computes the same sums."""

import sys
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from within_ml.features.runner import compute_ad_features
from within_ml.lake.landing import DIMENSIONS, LandingZone, ingest_days, ingest_dimension, register
from within_ml.lake.simulation import SimulationConfig, simulate, write_landing
from within_ml.lake.store import LakeStore

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import (
    ad_score,
    intervals,
    multimodal,
    nightly,
    reasons,
    scale,
    similar_ads,
    tuned_xgboost,
    upworthy,
    usual_way,
)
from benchmarks.measuring import StepFailedError, run_step

START, DAYS = date(2024, 1, 1), 35
LAST = START + timedelta(days=DAYS - 1)
KEY = ["platform", "account_id", "ad_id"]


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ad features of the last day of a small agency, by WITHIN and by the script."""
    folder = tmp_path_factory.mktemp("usual")
    write_landing(simulate(SimulationConfig(accounts=4, days=DAYS, max_images=1)), folder / "landing/simulation")
    store, zone = LakeStore(str(folder / "lake")), LandingZone(folder / "landing")
    days = register(store, zone, run_id="r").days
    for name in DIMENSIONS:
        ingest_dimension(store, zone, name, run_id="r")
    ingest_days(store, zone, days, run_id="r")
    (ours,) = compute_ad_features(scale.reader(store), first=LAST, last=LAST)
    usual_way.step_ingest(str(folder), str(START), str(LAST))
    usual_way.step_content(str(folder))
    usual_way.step_ad_features(str(folder), str(LAST), str(LAST))
    theirs = usual_way.read_days(folder, "ad_features", str(LAST), str(LAST))
    return ours.table.to_pandas().set_index(KEY), theirs.set_index(KEY)


class TestTheSameJob:
    def test_both_sides_have_the_same_ads(self, both_sides):
        ours, theirs = both_sides
        assert len(ours) == len(theirs) > 50
        assert set(ours.index) == set(theirs.index)

    @pytest.mark.parametrize("level", ["ad", "campaign", "account"])
    @pytest.mark.parametrize("window", [1, 7, 28])
    def test_both_sides_have_the_same_sums(self, both_sides, level, window):
        ours, theirs = both_sides
        name = f"{level}_clicks_{window}d"
        assert ours[name].sum() > 0
        pd.testing.assert_series_equal(theirs.loc[ours.index, name], ours[name], check_dtype=False)

    @pytest.mark.parametrize("name", ["headline", "ad_age_days", "campaign_age_days"])
    def test_both_sides_describe_the_ads_alike(self, both_sides, name):
        ours, theirs = both_sides
        pd.testing.assert_series_equal(theirs.loc[ours.index, name], ours[name], check_dtype=False)


class TestMeasuring:
    def test_a_step_that_fails_says_why(self, tmp_path):
        with pytest.raises(StepFailedError, match=r"(?s)ingest ended with 1:.*No objects to concatenate"):
            run_step("benchmarks.usual_way", "ingest", tmp_path, folder=str(tmp_path), first=str(START), last=str(LAST))


@pytest.mark.slow
class TestRuns:
    def test_ten_million_rows_at_a_tiny_size(self, tmp_path):
        page = scale.run(2, 40, results=tmp_path).read_text()
        assert "| ingest the other 10 days, in chunks |" in page
        assert "| training rows, sampled to 500,000 |" in page

    def test_headlines_of_one_week(self, tmp_path):
        page = upworthy.run(1, results=tmp_path).read_text()
        assert "| ad_score |" in page
        assert "| TF-IDF + ridge, alpha 5 |" in page

    def test_a_night_and_a_backfill(self, tmp_path):
        page = nightly.run(8, 70, results=tmp_path).read_text()
        assert page.count("| publishing to Postgres |") == 2
        assert "| with start and imports |" in page

    def test_reasons_of_a_small_batch(self, tmp_path):
        options = reasons.parser().parse_args(["--accounts", "3", "--days", "60", "--rows", "2500"])
        page = reasons.run(options, results=tmp_path).read_text()
        assert "| same top reason as by pred_contribs, 2,000 rows | 100 % | 100.00% |" in page

    def test_similar_ads_of_a_few_texts(self, tmp_path):
        page = similar_ads.run(500, 20, results=tmp_path).read_text()
        assert "| fit | 1,000 rows, 500 candidates |" in page

    def test_modalities_of_a_small_agency(self, tmp_path):
        page = multimodal.run(8, 50, 120, 1, results=tmp_path).read_text()
        assert page.count("1 of 1") + page.count("0 of 1") >= 7
        assert "| tabular |" in page

    def test_intervals_of_a_small_agency(self, tmp_path):
        small = ["--seeds", "1", "--accounts", "6", "--days", "180", "--weeks", "4", "--upworthy-weeks", "4"]
        page = intervals.run(intervals.parser().parse_args([*small, "--results", str(tmp_path)])).read_text()
        assert page.count("| RateIntervals |") == 3
        assert page.count("| split conformal, absolute residual |") == 3

    def test_a_tuned_xgboost_of_one_week_and_one_agency(self, tmp_path):
        page = tuned_xgboost.run(1, 1, 2, results=tmp_path, days=90, draws=10)
        again = tuned_xgboost.run(1, 1, 2, only=1, results=tmp_path, days=90, draws=10).read_text()
        assert page.read_text().count("| xgboost + text SVD, isotonic |") == 2
        assert again.count("| ad_score |") == 2

    def test_variants_of_one_week_and_one_agency(self, tmp_path):
        small = ["--weeks", "1", "--step", "1", "--seeds", "1", "--accounts", "4", "--days", "120", "--images", "4"]
        options = ad_score.parser().parse_args(
            [*small, "--vintages", "1", "--rows", "2000", "--results", str(tmp_path)]
        )
        page = ad_score.run(options).read_text()
        assert page.count("| ensemble without image |") == 2
        assert page.count("| split conformal, absolute residual |") == 2
