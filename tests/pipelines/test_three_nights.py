"""Three nights of the simulated agency, from the export of the day to the published score, beside the truth."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from within_ml.base import HORIZON_DAYS
from within_ml.lake.contracts import AD_KEY
from within_ml.lake.simulation import write_landing

FIRST_NIGHT = date(2024, 4, 15)
NIGHTS = [FIRST_NIGHT + timedelta(days=n) for n in range(3)]
KEY = ["date", *AD_KEY]


@pytest.fixture
def nights(trained_agency, agency):
    """The deployment after three nights; each night's export lands before it."""
    for night in NIGHTS:
        write_landing(agency, trained_agency.landing / "simulation", first=night, last=night, days_per_file=1)
        result = trained_agency.night(night)
        assert result.success, [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    return trained_agency


def truth_of_weeks(agency) -> pd.DataFrame:
    """Per night and ad the following week's impressions, clicks and mean true rate, from the simulation itself."""
    days = {"first": NIGHTS[0] + timedelta(days=1), "last": NIGHTS[-1] + timedelta(days=HORIZON_DAYS)}
    rates = pa.concat_tables(agency.true_ctr(**days)).to_pandas()
    facts = pa.concat_tables(agency.performance(**days)).to_pandas()
    daily = facts.groupby(KEY, as_index=False)[["impressions", "clicks"]].sum()
    daily = daily.merge(rates[[*KEY, "true_ctr"]], on=KEY, validate="one_to_one")
    daily["expected"] = daily["true_ctr"] * daily["impressions"]
    weeks = []
    for night in NIGHTS:
        week = daily[daily["date"].between(night + timedelta(days=1), night + timedelta(days=HORIZON_DAYS))]
        sums = week.groupby(list(AD_KEY), as_index=False)[["impressions", "clicks", "expected"]].sum()
        weeks.append(sums.assign(date=night))
    found = pd.concat(weeks)
    return found[found["impressions"] > 0].assign(true_ctr=lambda f: f["expected"] / f["impressions"])


def log_loss(frame: pd.DataFrame, rate: pd.Series) -> float:
    """Binomial log-loss per impression, written out here on purpose."""
    missed = frame["impressions"] - frame["clicks"]
    loss = -(frame["clicks"] * np.log(rate) + missed * np.log1p(-rate))
    return float(loss.sum() / frame["impressions"].sum())


def smoothed_campaign_rate(store, frame: pd.DataFrame) -> pd.Series:
    """The usual answer: the campaign's rate of the last 28 days, drawn to the overall rate by 1,000 impressions."""
    rates = []
    for night in NIGHTS:
        days = slice(night - timedelta(days=27), night)
        facts = store.read("ad_performance", {"date": days}).to_pandas()
        overall = facts["clicks"].sum() / facts["impressions"].sum()
        sums = facts.groupby(["platform", "account_id", "campaign_id"])[["impressions", "clicks"]].sum()
        rate = (sums["clicks"] + 1000 * overall) / (sums["impressions"] + 1000)
        rates.append(rate.rename("baseline").reset_index().assign(date=night))
    keys = ["date", "platform", "account_id", "campaign_id"]
    return frame.merge(pd.concat(rates), on=keys, how="left")["baseline"].fillna(overall)


def test_scores_come_close_to_the_truth_and_are_published_as_they_are(nights, agency, record_property):
    store = nights.store
    scores = store.read("ad_scores").to_pandas()
    judged = scores.merge(truth_of_weeks(agency), on=KEY, validate="one_to_one")
    assert sorted(set(judged["date"])) == NIGHTS
    # The others are of ads that nobody knew yet on the night.
    assert judged["impressions"].sum() > 0.8 * truth_of_weeks(agency)["impressions"].sum()

    under_truth = log_loss(judged, judged["true_ctr"])
    under_scores = log_loss(judged, judged["predicted_ctr"])
    under_baseline = log_loss(judged, smoothed_campaign_rate(store, judged))
    excess = (under_scores - under_truth) / (under_baseline - under_truth)
    record_property("log_loss", (under_scores, under_truth, under_baseline))
    assert under_scores <= 1.03 * under_truth
    assert excess < 0.5

    for night in NIGHTS:
        in_lake = store.read("ad_scores", {"date": night}).sort_by([(k, "ascending") for k in AD_KEY])
        published = nights.scores.scores(night).sort_by([(k, "ascending") for k in AD_KEY])
        assert in_lake.num_rows > 100
        same = [c for c in in_lake.column_names if c in published.column_names]
        assert {"predicted_ctr", "ad_score", "model_version", "topics", "run_id"} <= set(same)
        assert published.select(same).to_pylist() == in_lake.select(same).to_pylist()


def test_a_night_run_twice_leaves_the_same_rows(nights):
    def rows():
        day = NIGHTS[-1]
        tables = [nights.store.read(t, {"date": day}) for t in ("ad_performance", "ad_features", "ad_scores")]
        told = [t.drop_columns([c for c in ("run_id", "source_versions") if c in t.column_names]) for t in tables]
        published = nights.scores.scores(day)
        return [*told, published.drop_columns(["run_id", "source_versions"])]

    before = rows()
    result = nights.night(NIGHTS[-1])
    assert result.success
    assert [t.equals(b) for t, b in zip(rows(), before, strict=True)] == [True] * 4
    assert (
        pc.count_distinct(nights.store.read("ad_scores", {"date": NIGHTS[-1]})["ad_id"]).as_py() == before[2].num_rows
    )
