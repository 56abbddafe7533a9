"""Every kind of bad input gets a defined answer or an error that says what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.unit.anomalies.conftest import accounts_frame, changed
from within_ml.anomalies import AnomalyDetector
from within_ml.errors import InputError


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return accounts_frame(accounts=4, days=30)


def with_value(frame: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    result = frame.astype({column: object})
    result.loc[7, column] = value
    return result


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda f: f.drop(columns="date"), "date or timestamp"),
        (lambda f: f.assign(date="yesterday-ish"), "dates or times"),
        (lambda f: f.assign(date=np.arange(len(f))), "dates or times"),
        (lambda f: f.assign(date=pd.NaT), "known in every row"),
        (lambda f: f[["date", "account_id"]], "metric column"),
        (lambda f: with_value(f, "clicks", np.nan), "clicks must be finite"),
        (lambda f: with_value(f, "spend", np.inf), "spend must be finite"),
        (lambda f: with_value(f, "impressions", -1), "not negative"),
        (lambda f: with_value(f, "conversions", "many"), "conversions must hold numbers"),
        (lambda f: f.assign(clicks=f["impressions"] + 1), "clicks must not exceed impressions"),
        (lambda f: pd.concat([f, f.iloc[:3]]), "duplicates"),
        (lambda f: f.assign(account_id=None), "account_id must be known"),
        (lambda f: f.melt(["date", "account_id"], var_name="metric").replace("clicks", "likes"), "metric must be one"),
        (lambda f: pd.concat([f.melt(["date", "account_id"], var_name="metric")] * 2), "duplicates"),
        (lambda f: f.to_numpy(), "DataFrame"),
        (lambda f: pd.concat([f.iloc[:1].assign(date=pd.Timestamp("1970-01-01")), f]), "at most 3,660 days"),
        (
            lambda f: pd.concat([f.assign(platform="a", currency="USD"), f.assign(platform="b", currency="EUR")]),
            "one currency a day",
        ),
    ],
)
def test_broken_frames_are_refused(frame, broken, said):
    with pytest.raises(InputError, match=said):
        AnomalyDetector().detect_anomalies(broken(frame))


@pytest.mark.parametrize("dates", ["2025-01-01", ["2024-01-05", "2030-01-01"], "someday", []])
def test_dates_that_are_not_in_the_data_are_refused(frame, dates):
    with pytest.raises(InputError, match="dates must be days"):
        AnomalyDetector().detect_anomalies(frame, dates=dates)


def test_days_after_the_asked_one_are_not_looked_at(frame):
    future = changed(frame, frame["date"] > "2024-01-25", clicks=0.1)

    one = AnomalyDetector().detect_anomalies(frame, dates="2024-01-25")
    other = AnomalyDetector().detect_anomalies(future, dates="2024-01-25")

    pd.testing.assert_frame_equal(one.metrics, other.metrics)
    assert set(one.metrics["date"]) == {pd.Timestamp("2024-01-25")}


@pytest.mark.parametrize("days", [1, 2, 7])
def test_accounts_without_history_are_not_judged(frame, days):
    report = AnomalyDetector().detect_anomalies(frame[frame["date"] < frame["date"].min() + pd.Timedelta(days=days)])

    assert not len(report)
    assert report.metrics["expected"].isna().all()
    assert (report.metrics["anomaly_score"] == 0).all()
    assert report.metrics["context"].str.contains('"judged": false').all()


def test_a_new_account_is_judged_when_it_has_a_history_of_its_own(frame):
    new = (frame["account_id"] != "acc-02") | (frame["date"] >= "2024-01-25")
    report = AnomalyDetector().detect_anomalies(frame[new])

    mine = report.metrics.query("account_id == 'acc-02'")
    assert mine["expected"].isna().all()
    assert report.metrics.query("account_id == 'acc-01' and date > '2024-01-12'")["expected"].notna().any()


@pytest.mark.parametrize("column", ["all", "conversions"])
def test_zeros_are_no_anomaly(frame, column):
    facts = (
        ["impressions", "clicks", "spend", "conversions", "revenue"] if column == "all" else ["conversions", "revenue"]
    )
    zero = frame.assign(**dict.fromkeys(facts, 0))

    report = AnomalyDetector().detect_anomalies(zero)

    assert not report.anomalies["metric"].isin(["conversions", "cvr", "roas"]).any()
    assert np.isfinite(report.metrics["value"]).all()


@pytest.mark.parametrize(
    "empty", [lambda f: f.iloc[:0], lambda f: f.iloc[:0].melt(["date", "account_id"], var_name="metric")]
)
def test_no_rows_are_no_anomalies(frame, empty):
    report = AnomalyDetector().detect_anomalies(empty(frame))

    assert not len(report)
    assert not len(report.metrics)


def test_unknown_money_and_conversions_are_not_judged(frame):
    report = AnomalyDetector().detect_anomalies(frame.assign(spend=None, conversions=np.nan).drop(columns="revenue"))

    assert set(report.metrics["metric"]) == {"impressions", "clicks", "ctr"}


def test_a_change_of_currency_begins_money_anew(frame):
    yen = frame["date"] >= "2024-01-20"
    told = frame.assign(currency=np.where(yen, "JPY", "USD"))
    told.loc[yen, ["spend", "revenue"]] *= 150

    without = AnomalyDetector().detect_anomalies(told.drop(columns="currency")[told["account_id"] == "acc-01"])
    report = AnomalyDetector().detect_anomalies(told)

    assert "cpc" in set(without.anomalies["metric"])
    assert not report.anomalies["metric"].isin(["spend", "cpc", "roas"]).any()
    money = report.metrics.query("metric == 'cpc' and account_id == 'acc-01'").set_index("date")["expected"]
    assert money["2024-01-20":"2024-01-26"].isna().all()
    assert 100 < money["2024-01-30"] < 200


def test_gaps_are_bridged(frame):
    hole = (frame["account_id"] == "acc-01") & frame["date"].between("2024-01-15", "2024-01-21")
    detector = AnomalyDetector()
    report = detector.detect_anomalies(frame[~hole])

    assert not (report.anomalies["account_id"] == "acc-01").any()
    after = report.metrics.query("account_id == 'acc-01' and date == '2024-01-22' and metric == 'impressions'")
    assert after["expected"].notna().all()


def test_unknown_accounts_and_ids_are_refused(frame):
    detector = AnomalyDetector()
    detector.detect_anomalies(frame)

    with pytest.raises(InputError, match="acc-99"):
        detector.get_anomaly_score({"account_id": "acc-99", "clicks": 3, "impressions": 10})
    with pytest.raises(InputError, match="anomaly_id must be one of"):
        detector.explain_anomaly("no-such-id")
    with pytest.raises(InputError, match="one day of one account"):
        detector.get_anomaly_score(frame)


def test_days_that_the_baseline_has_are_refused(frame):
    detector = AnomalyDetector().update_baseline(frame)

    with pytest.raises(InputError, match="must come after 2024-01-30"):
        detector.update_baseline(frame[frame["date"] == "2024-01-30"])


def test_other_columns_than_the_baseline_watches_are_refused():
    frame = accounts_frame(accounts=3, days=20, campaigns=2)
    detector = AnomalyDetector().update_baseline(frame[frame["date"] < "2024-01-15"])
    later = frame[frame["date"] >= "2024-01-15"].drop(columns="campaign_id").groupby(["date", "account_id"]).sum()

    with pytest.raises(InputError, match="campaign_id"):
        detector.update_baseline(later.reset_index())


def test_the_input_stays_as_it_was(frame):
    before = frame.copy(deep=True)

    AnomalyDetector().detect_anomalies(frame)

    pd.testing.assert_frame_equal(frame, before)


def test_the_order_of_rows_does_not_matter(frame):
    shuffled = frame.sample(frac=1, random_state=1)

    one, other = (AnomalyDetector().detect_anomalies(f).metrics for f in (frame, shuffled))

    pd.testing.assert_frame_equal(one, other)
