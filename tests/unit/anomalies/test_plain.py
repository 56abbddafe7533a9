"""Single series of any cadence, hourly accounts, rates without their counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from within_ml.anomalies import AnomalyDetector
from within_ml.errors import InputError


def series(step: str, points: int = 400, seed: int = 0) -> pd.DataFrame:
    times = pd.date_range("2024-01-01", periods=points, freq=step)
    values = 100 + 10 * np.sin(2 * np.pi * times.hour / 24) + np.random.default_rng(seed).normal(0, 2, points)
    return pd.DataFrame({"timestamp": times, "value": values})


@pytest.mark.parametrize("step", ["5min", "1h", "1D"])
def test_a_single_series_of_any_cadence(step):
    frame = series(step)
    frame.loc[300, "value"] = 400.0
    detector = AnomalyDetector()

    report = detector.detect_anomalies(frame)

    assert frame.loc[300, "timestamp"] in set(report.anomalies["date"])
    assert len(report) < 12
    assert len(report.metrics) == 400
    worst = report.anomalies.loc[report.anomalies["date"] == frame.loc[300, "timestamp"]].iloc[0]
    assert (worst["metric"], worst["direction"], worst["sign"]) == ("value", "above", "neutral")
    assert detector.explain_anomaly(worst["anomaly_id"]).value == 400.0


def test_gaps_and_missing_values_in_a_series():
    frame = series("1h").drop(index=range(100, 130))
    frame.loc[200:205, "value"] = np.nan

    report = AnomalyDetector().detect_anomalies(frame)

    assert len(report.metrics) == 370
    assert not report.anomalies["value"].isna().any()


@pytest.mark.parametrize("values", [np.zeros(50), np.full(50, 3.0), np.arange(2.0), np.array([1.0]), np.array([])])
def test_constant_and_short_series_are_quiet(values):
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=len(values)), "clicks": values})

    assert not len(AnomalyDetector().detect_anomalies(frame))


def test_a_daily_series_with_a_day_twice_is_refused():
    frame = series("1D")

    with pytest.raises(InputError, match="duplicates"):
        AnomalyDetector().detect_anomalies(pd.concat([frame, frame.iloc[:2]]))


def test_hourly_accounts_are_judged_by_the_hour():
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=24 * 21, freq="1h")
    frame = pd.concat(
        pd.DataFrame(
            {"timestamp": times, "account_id": name, "impressions": 1000, "clicks": rng.poisson(50, len(times))}
        )
        for name in ("a", "b")
    )
    frame.loc[(frame["account_id"] == "b") & (frame["timestamp"] == times[400]), "clicks"] = 300

    found = AnomalyDetector().detect_anomalies(frame).anomalies

    hit = found[found["date"] == times[400]]
    assert set(hit["account_id"]) == {"b"}
    assert set(hit["metric"]) == {"clicks", "ctr"}


def test_rates_without_counts_are_judged_as_they_are():
    rng = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=60)
    frame = pd.DataFrame({"date": days, "account_id": "a", "metric": "ctr", "value": rng.normal(0.02, 0.001, 60)})
    frame.loc[50, "value"] = 0.08

    found = AnomalyDetector().detect_anomalies(frame).anomalies

    assert days[50] in set(found["date"])
    assert found.loc[found["date"] == days[50], "sign"].tolist() == ["good"]


def test_updating_with_a_single_series_is_refused():
    with pytest.raises(InputError, match="days of accounts"):
        AnomalyDetector().update_baseline(series("1h"))


def test_a_clock_that_tells_a_time_twice_loses_no_point():
    times = pd.date_range("2024-01-01", periods=400, freq="h").to_series().reset_index(drop=True)
    times[200] = times[199]
    frame = pd.DataFrame({"timestamp": times, "value": np.random.default_rng(0).normal(50, 1, 400)})
    frame.loc[399, "value"] = 500.0
    report = AnomalyDetector().detect_anomalies(frame)
    assert len(report.metrics) == 400
    assert report.metrics["value"].tolist() == frame["value"].tolist()
    assert report.metrics["is_anomaly"].iloc[-1]
