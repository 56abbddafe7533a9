"""AnomalyDetector: what is found and what is not, ids, signs, causality, carrying on, saving."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tests.unit.anomalies.conftest import accounts_frame, changed
from within_ml.anomalies import AnomalyDetector
from within_ml.anomalies.metrics import NAMES
from within_ml.anomalies.records import ANOMALY_COLUMNS, METRIC_COLUMNS
from within_ml.base import ModelType
from within_ml.errors import InputError, NotFittedError
from within_ml.lake.contracts import CONTRACTS

LAST = pd.Timestamp("2024-03-10")


def days(frame: pd.DataFrame, account: str, first: str, last: str) -> pd.Series:
    return (frame["account_id"] == account) & frame["date"].between(first, last)


def test_quiet_accounts_raise_few_alarms(quiet):
    found = AnomalyDetector().detect_anomalies(quiet).anomalies

    # 12 accounts × 63 judged days; a night's false discovery rate of 1 % means about .6 nights with a false alarm.
    assert found[["account_id", "date"]].drop_duplicates().shape[0] <= 4


@pytest.mark.parametrize(
    ("factors", "metric", "direction", "sign"),
    [
        ({"impressions": 3, "clicks": 3, "spend": 3, "conversions": 3, "revenue": 3}, "impressions", "above", "good"),
        ({"impressions": 0.1, "clicks": 0.1, "spend": 0.1, "conversions": 0.1}, "impressions", "below", "bad"),
        ({"clicks": 2.5, "spend": 2.5}, "ctr", "above", "bad"),
        ({"clicks": 2.5, "spend": 2.5, "conversions": 2.5, "revenue": 2.5}, "ctr", "above", "good"),
        ({"spend": 2.0}, "cpc", "above", "bad"),
        ({"spend": 0.5}, "cpc", "below", "good"),
        ({"conversions": 0.0, "revenue": 0.0}, "cvr", "below", "bad"),
    ],
)
def test_what_happened_is_found_with_its_sign(quiet, factors, metric, direction, sign):
    frame = changed(quiet, days(quiet, "acc-03", "2024-02-20", "2024-02-21"), **factors)

    found = AnomalyDetector().detect_anomalies(frame, dates=["2024-02-20", "2024-02-21"])

    mine = found.primary[found.primary["account_id"] == "acc-03"]
    assert set(mine["metric"]) == {metric}
    assert set(mine["direction"]) == {direction}
    assert set(mine["sign"]) == {sign}
    assert ((mine["value"] > mine["upper"]) | (mine["value"] < mine["lower"])).all()
    assert set(found.events.query("account_id == 'acc-03'").groupby("date")["event_id"].nunique()) == {1}


def test_a_small_account_does_not_cry_wolf():
    rng = np.random.default_rng(1)
    frame = accounts_frame(accounts=10)
    small = frame["account_id"] == "acc-00"
    frame.loc[small, "clicks"] = rng.poisson(1.0, small.sum())
    frame.loc[small, "impressions"] = rng.poisson(50, small.sum()) + 10
    frame.loc[small, ["conversions", "revenue"]] = 0

    found = AnomalyDetector().detect_anomalies(frame).anomalies

    # Clicks of a day range from 0 to 4 here: four times the mean is nothing.
    assert not (found["account_id"] == "acc-00").any()


def test_days_of_one_anomaly_have_one_id_and_it_is_the_same_the_next_night(quiet):
    frame = changed(quiet, days(quiet, "acc-05", "2024-02-26", "2024-02-28"), spend=2.5)
    whole = AnomalyDetector().detect_anomalies(frame).anomalies
    first_night = AnomalyDetector().detect_anomalies(frame[frame["date"] <= "2024-02-26"]).anomalies

    ids = whole[(whole["account_id"] == "acc-05") & (whole["metric"] == "cpc") & (whole["date"] >= "2024-02-26")]
    assert ids["date"].nunique() == 3
    assert len(set(ids["anomaly_id"])) == 1
    assert ids["anomaly_id"].iloc[0] in set(first_night["anomaly_id"])


def test_a_lasting_new_level_is_accepted():
    frame = accounts_frame(accounts=10, days=80)
    frame = changed(frame, days(frame, "acc-01", "2024-02-15", "2024-12-31"), impressions=0.4, clicks=0.4, spend=0.4)

    found = AnomalyDetector().detect_anomalies(frame).anomalies

    told = found[(found["account_id"] == "acc-01") & (found["metric"] == "impressions")]["date"]
    assert told.min() == pd.Timestamp("2024-02-15")
    assert told.max() < pd.Timestamp("2024-02-25")


def test_later_days_never_change_what_was_told(quiet):
    frame = changed(quiet, days(quiet, "acc-05", "2024-02-10", "2024-02-11"), clicks=2.0)
    early = AnomalyDetector().detect_anomalies(frame[frame["date"] <= "2024-02-15"]).anomalies
    whole = AnomalyDetector().detect_anomalies(frame).anomalies

    assert len(early)
    pd.testing.assert_frame_equal(whole[whole["date"] <= "2024-02-15"].reset_index(drop=True), early)


@pytest.mark.parametrize("campaigns", [1, 3])
def test_carrying_on_night_by_night_is_the_same_as_all_at_once(campaigns):
    frame = accounts_frame(accounts=10, days=45, campaigns=campaigns)
    frame = changed(frame, days(frame, "acc-05", "2024-02-08", "2024-02-09"), clicks=2.5, spend=2.5)
    # An account that comes later, and one that pauses.
    frame = frame[
        ~(days(frame, "acc-07", "2024-01-01", "2024-02-01") | days(frame, "acc-08", "2024-02-03", "2024-02-05"))
    ]
    whole = AnomalyDetector().detect_anomalies(frame, dates=pd.date_range("2024-02-06", "2024-02-14")).anomalies

    carried = AnomalyDetector().update_baseline(frame[frame["date"] <= "2024-02-05"])
    evenings = pd.date_range("2024-02-06", "2024-02-14")
    nights = [carried.detect_anomalies(frame[frame["date"] == day]).anomalies for day in evenings]
    nightly = pd.concat([night for night in nights if len(night)], ignore_index=True)

    # Causes look at the history that is given, which is a single day here.
    columns = [c for c in ANOMALY_COLUMNS if c != "root_cause"]
    assert len(whole)
    pd.testing.assert_frame_equal(nightly[columns], whole[columns])


def test_campaigns_that_start_and_stop_are_no_anomaly_and_a_campaigns_anomaly_names_it():
    frame = accounts_frame(accounts=10, campaigns=3)
    stopped = (frame["campaign_id"] == "cmp-02-0") & (frame["date"] >= "2024-02-15")
    late = (frame["campaign_id"] == "cmp-03-0") & (frame["date"] < "2024-02-15")
    frame = frame[~stopped & ~late]
    hit = (frame["campaign_id"] == "cmp-04-1") & (frame["date"] == LAST)
    frame = changed(frame, hit, spend=3.0)

    detector = AnomalyDetector()
    found = detector.detect_anomalies(frame).anomalies

    assert not found["account_id"].isin(["acc-02", "acc-03"]).any()
    mine = found[(found["account_id"] == "acc-04") & (found["metric"] == "cpc")].iloc[0]
    cause = json.loads(mine["root_cause"])[0]
    assert (cause["dimension"], cause["elements"]) == ("campaign_id", ["cmp-04-1"])
    told = detector.explain_anomaly(mine["anomaly_id"])
    assert "cmp-04-1" in told.sentence
    assert told.sign == "bad"
    assert told.lower <= told.expected <= told.upper < told.value


def test_a_weekday_is_no_anomaly_but_a_sunday_like_monday_is(quiet):
    frame = changed(
        quiet, (quiet["account_id"] == "acc-02") & (quiet["date"] == "2024-03-03"), impressions=1.9, clicks=1.9
    )

    found = AnomalyDetector().detect_anomalies(frame).anomalies

    assert set(found.loc[found["metric"] == "impressions", "account_id"]) == {"acc-02"}


def test_what_happens_to_everybody_is_nobodys_anomaly(quiet):
    holiday = changed(quiet, quiet["date"] == "2024-02-14", impressions=0.5, clicks=0.5, spend=0.5, conversions=0.5)

    found = AnomalyDetector().detect_anomalies(holiday, dates="2024-02-14").anomalies

    assert len(found) <= 1


@pytest.mark.parametrize("share", [0.45, 0.65])
def test_conversions_that_have_not_arrived_yet_are_no_anomaly(quiet, share):
    frame = changed(quiet, quiet["date"] == LAST, conversions=share, revenue=share)

    assert not len(AnomalyDetector().detect_anomalies(frame, dates=LAST).anomalies)


@pytest.mark.parametrize(("share", "told"), [(0.45, 0), (0.0, 1)])
def test_few_accounts_have_the_benefit_of_the_ordinary_delay(quiet, share, told):
    few = quiet[quiet["account_id"] <= "acc-02"]
    frame = changed(few, (few["account_id"] == "acc-01") & (few["date"] == LAST), conversions=share, revenue=share)

    found = AnomalyDetector("seasonal").detect_anomalies(frame, dates=LAST)

    assert (found.primary["account_id"] == "acc-01").sum() == told


def test_long_and_wide_say_the_same(quiet):
    frame = changed(quiet, days(quiet, "acc-03", "2024-02-20", "2024-02-20"), spend=3.0)
    long = frame.melt(["date", "account_id"], var_name="metric").sample(frac=1, random_state=0)

    wide = AnomalyDetector().detect_anomalies(frame).anomalies

    assert len(wide)
    pd.testing.assert_frame_equal(AnomalyDetector().detect_anomalies(long).anomalies, wide)


def test_columns_are_those_of_the_lake_tables(quiet):
    frame = changed(quiet, days(quiet, "acc-03", "2024-02-20", "2024-02-20"), spend=3.0)
    report = AnomalyDetector().detect_anomalies(frame)

    for table, frame, columns in (
        ("anomalies", report.anomalies, ANOMALY_COLUMNS),
        ("performance_metrics", report.metrics, METRIC_COLUMNS),
    ):
        assert tuple(frame.columns) == columns
        assert set(columns) == {c.name for c in CONTRACTS[table].columns} - {"run_id"}
    assert report.metrics["anomaly_score"].between(0, 1).all()
    assert set(report.metrics["metric"]) == set(NAMES)
    assert report.metrics["context"].map(json.loads).map(lambda c: "weekday" in c).all()


def test_the_score_of_a_point_is_high_where_it_is_odd_and_the_baseline_stays(quiet):
    detector = AnomalyDetector().update_baseline(quiet)
    usual = {"account_id": "acc-01", "impressions": 20_000, "clicks": 400, "spend": 400.0, "conversions": 20}

    ordinary = detector.get_anomaly_score(usual)
    odd = detector.get_anomaly_score(usual | {"spend": 1200.0})

    assert 0 <= ordinary < 0.9
    assert 0.999 < odd <= 1
    assert detector.get_anomaly_score(pd.Series(usual)) == ordinary
    assert detector.get_anomaly_score(pd.DataFrame([usual])) == ordinary


def test_saving_keeps_everything(quiet, tmp_path):
    frame = changed(quiet, days(quiet, "acc-03", "2024-03-01", "2024-03-02"), spend=3.0)
    detector = AnomalyDetector("ecod", 0.6, ["platform"][:0], 21).fit(np.random.default_rng(0).normal(size=(50, 3)))
    found = detector.detect_anomalies(frame[frame["date"] < "2024-03-08"]).anomalies
    detector.save(tmp_path / "detector")

    again = AnomalyDetector.load(tmp_path / "detector")

    assert AnomalyDetector.model_type == ModelType.ANOMALY_DETECTOR
    assert again.hyperparameters() == detector.hyperparameters()
    told = found.loc[found["metric"] == "cpc", "anomaly_id"].iloc[-1]
    assert again.explain_anomaly(told) == detector.explain_anomaly(told)
    X = np.eye(3)
    np.testing.assert_array_equal(again.decision_function(X), detector.decision_function(X))
    later = frame[frame["date"] >= "2024-03-08"]
    pd.testing.assert_frame_equal(again.detect_anomalies(later).metrics, detector.detect_anomalies(later).metrics)


def test_unfitted_use_is_refused(tmp_path):
    detector = AnomalyDetector()
    for call in (
        lambda: detector.decision_function([[0.0]]),
        lambda: detector.get_anomaly_score({"account_id": "a", "clicks": 1}),
        lambda: detector.explain_anomaly("x"),
        lambda: detector.save(tmp_path / "x"),
    ):
        with pytest.raises(NotFittedError):
            call()


def test_accounts_odd_only_together_are_told_as_joint():
    frame = accounts_frame(accounts=60, days=60, seed=3)
    odd = (frame["account_id"] == "acc-07") & (frame["date"] == "2024-02-27")
    # Each about two standard deviations off, in directions that never come together.
    frame = changed(frame, odd, impressions=1.2, spend=0.88, conversions=0.5, revenue=0.5)
    found = AnomalyDetector().detect_anomalies(frame, dates="2024-02-27").anomalies
    alone = AnomalyDetector("seasonal").detect_anomalies(frame, dates="2024-02-27").anomalies

    told = found[found["account_id"] == "acc-07"]
    assert not len(alone)
    assert told["metric"].tolist() == ["joint"]
    assert told["cross_section_score"].notna().all()


@pytest.mark.parametrize("method", ["combined", "ecod", "knn", "iforest", "seasonal"])
def test_every_method_finds_the_row_far_from_all_others(method):
    X = np.random.default_rng(0).normal(size=(100, 4))
    X[10] = 8

    detector = AnomalyDetector(method).fit(X)

    assert detector.decision_function(X).argmax() == 10
    assert detector.validate(X, np.arange(100) == 10)["auroc"] == 1.0
    assert detector.predict(X[:0]).shape == (0,)


def test_arguments_are_stored_as_given_and_checked_at_use(quiet):
    dimensions = ("campaign_id",)
    detector = AnomalyDetector("nonsense", 2.0, dimensions, 1)
    assert detector.dimensions is dimensions
    for wrong, name in (
        (AnomalyDetector("nonsense"), "detection_method"),
        (AnomalyDetector(sensitivity=2.0), "sensitivity"),
        (AnomalyDetector(dimensions="campaign_id"), "dimensions"),
        (AnomalyDetector(dimensions=["campaign_id"]), "dimensions"),
        (AnomalyDetector(baseline_window=1), "baseline_window"),
    ):
        with pytest.raises(InputError, match=name):
            wrong.detect_anomalies(quiet)


def test_a_higher_sensitivity_never_tells_less(quiet):
    frame = changed(quiet, days(quiet, "acc-03", "2024-02-20", "2024-02-20"), clicks=0.88)
    counts = [len(AnomalyDetector(sensitivity=s).detect_anomalies(frame, dates="2024-02-20")) for s in (0, 0.5, 1)]

    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_a_first_day_without_revenue_does_not_spoil_the_roas_of_anyone():
    rng = np.random.default_rng(1)
    days = pd.date_range("2024-01-01", periods=60)
    rows = pd.DataFrame(
        {
            "date": np.tile(days, 4),
            "account_id": np.repeat(["a", "b"], 120),
            "campaign_id": np.repeat(["a1", "a2", "b1", "b2"], 60),
            "impressions": 10_000,
            "clicks": rng.binomial(10_000, 0.03, 240),
        }
    )
    rows["spend"] = rows["clicks"] * 0.5
    rows["conversions"] = rng.binomial(rows["clicks"], 0.05)
    rows["revenue"] = rows["conversions"] * rng.normal(40.0, 4.0, 240)
    rows.loc[(rows["campaign_id"] == "a1") & (rows["date"] == days[0]), ["conversions", "revenue"]] = 0.0
    metrics = AnomalyDetector().detect_anomalies(rows).metrics
    judged = metrics[(metrics["metric"] == "roas") & (metrics["date"] >= days[14])]
    assert judged[["expected", "lower", "upper"]].notna().all().all()
    assert (judged["lower"] < judged["upper"]).all()
