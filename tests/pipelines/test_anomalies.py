"""Anomalies, metrics beside their bands and topics, day by day, on an agency whose anomalies are known."""

import json
from datetime import timedelta

import pandas as pd

from within_ml.database.repository import PublishedTable
from within_ml.lake.simulation import SimulationConfig, simulate, write_landing

AGENCY = SimulationConfig(
    accounts=8, days=60, seed=11, churn_share=0.0, false_alarm_share=0.0, campaigns_per_account=2,
    regions_per_campaign=1, anomalies=6, drift_size=0.0, max_images=2,
)  # fmt: skip


KEYS = {"anomalies": ["date", "anomaly_id"], "performance_metrics": ["date", "account_id", "metric"]}


def read(deployment, table: str, days: list) -> pd.DataFrame:
    rows = deployment.store.read(table, {"date": days}).to_pandas().drop(columns="run_id")
    return rows.sort_values(KEYS[table]).reset_index(drop=True)


def test_planted_anomalies_are_found_told_drawn_and_published(deployment):
    agency = simulate(AGENCY)
    write_landing(agency, deployment.landing / "simulation")
    deployment.ingest()
    truth = agency.anomalies.to_pandas()
    first, last = truth["start_date"].min(), truth["end_date"].max()
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    deployment.backfill("anomalies,trending_topics,published_anomalies", first, last)

    found = read(deployment, "anomalies", days)
    hit = [
        found[(found["account_id"] == planted.account_id) & found["date"].between(planted.start_date, planted.end_date)]
        for planted in truth.itertuples()
    ]
    assert sum(bool(len(rows)) for rows in hit) >= 0.7 * len(truth)
    assert len(found.drop(index=pd.concat(hit).index)) <= 0.3 * len(found)
    assert all(isinstance(json.loads(text), list) for text in found["root_cause"])

    metrics = read(deployment, "performance_metrics", days)
    assert set(metrics["metric"]) == {"impressions", "clicks", "spend", "conversions", "ctr", "cpc", "cvr", "roas"}
    assert metrics["is_anomaly"].any()
    published = PublishedTable(deployment.urls.within, "anomalies")
    assert sum(published.read(day).num_rows for day in days) == len(found)
    assert PublishedTable(deployment.urls.within, "performance_metrics").read(last).num_rows > 0
    pictures = list((deployment.root / "state" / "reports" / "anomalies").glob("*/*.png"))
    assert pictures
    assert all(picture.stat().st_size < 100_000 for picture in pictures)

    # A night alone tells what the range told of it, and leaves the other days alone.
    night = found["date"].iloc[0]
    run = deployment.backfill("anomalies", night, night)[0]
    assert "high_severity_accounts" in run.metadata["anomalies"]
    pd.testing.assert_frame_equal(read(deployment, "anomalies", days), found, rtol=1e-9)
    pd.testing.assert_frame_equal(read(deployment, "performance_metrics", days), metrics, rtol=1e-9)

    # A quiet night tells its metrics as well.
    quiet = next(day for day in days if day not in set(found["date"]))
    deployment.backfill("anomalies", quiet, quiet)
    pd.testing.assert_frame_equal(read(deployment, "performance_metrics", days), metrics, rtol=1e-9)
    assert (metrics["date"] == quiet).any()


def test_a_day_without_performance_has_no_anomalies(lake_only):
    day = AGENCY.start_date
    agency = simulate(SimulationConfig(accounts=2, days=20, seed=1, max_images=1))
    write_landing(agency, lake_only.landing / "simulation")
    lake_only.ingest()
    after = agency.config.last_date + timedelta(days=1)
    lake_only.backfill("anomalies,trending_topics", after, after)
    assert lake_only.store.read("anomalies", {"date": after}).num_rows == 0
    assert lake_only.store.read("performance_metrics", {"date": day}).num_rows == 0
