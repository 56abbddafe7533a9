"""Account health from landing to Postgres on an agency whose churners are known, and before there is a model."""

import json
from datetime import date, timedelta

import pandas as pd
import pytest

from within_ml.database.repository import PublishedTable
from within_ml.errors import InputError
from within_ml.lake.simulation import SimulationConfig, simulate, write_landing

AGENCY = SimulationConfig(
    accounts=30, days=120, seed=5, churn_share=0.4, false_alarm_share=0.1, campaigns_per_account=1,
    ads_per_campaign=1, regions_per_campaign=1, anomalies=0, max_images=1,
)  # fmt: skip
LAST = AGENCY.last_date
MONDAY = LAST - timedelta(days=LAST.weekday())
TRAINING = ["account_health_model", "account_health_evaluation", "account_health_champion"]


def landed(deployment):
    """A deployment whose lake holds the agency, with account features of all days."""
    agency = simulate(AGENCY)
    write_landing(agency, deployment.landing / "simulation")
    deployment.ingest()
    deployment.backfill("account_features", AGENCY.start_date, LAST)
    return agency


def health(deployment, day: date) -> pd.DataFrame:
    return deployment.store.read("account_health", {"date": day}).to_pandas().set_index("account_id")


def test_health_from_training_to_postgres(deployment):
    agency = landed(deployment)
    churned = agency.churn.to_pandas().set_index("account_id")["churned_date"].dropna()

    run = deployment.runner.materialize(TRAINING, partition=MONDAY.isoformat())
    told = run.metadata["account_health_champion"]
    assert told["verdict"] == "promoted"
    assert "log-loss per account-week" in told["reasons"]
    folder = deployment.root / "state" / "vintages" / "account_health" / MONDAY.isoformat()
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["model"]["auc"] > 0.7
    assert (folder / "report" / "waterfall.png").read_bytes().startswith(b"\x89PNG")

    first = LAST - timedelta(days=3)
    deployment.backfill("account_segments,account_health,published_health", first, LAST)
    rows = health(deployment, LAST)
    gone = [account for account in rows.index if account in churned and churned[account] <= LAST]
    assert set(rows.loc[gone, "health_score"]) == {0.0}
    there = rows.drop(gone)
    assert there["bad_state_probability"].between(0, 1).all()
    assert (there["churn_risk_14d"] <= there["churn_risk_30d"]).all()
    assert (there["churn_risk_30d"] <= there["churn_risk_90d"]).all()
    for _, row in there.iterrows():
        for action in json.loads(row["recommended_actions"]):
            assert action["new_risk"] < action["risk"]
    assert there["segment"].notna().all()

    published = PublishedTable(deployment.urls.within, "account_health").read(LAST).to_pandas()
    assert set(published["account_id"]) == set(rows.index)
    assert PublishedTable(deployment.urls.within, "account_segments").read(LAST).num_rows > 0

    # Some accounts anew: theirs are written by the new run, the others' stay, and all are what they were.
    chosen = sorted(there.index)[:2]
    deployment.backfill("account_health", LAST, LAST, accounts=chosen)
    again = health(deployment, LAST)
    assert sorted(again.index[again["run_id"] != rows["run_id"].reindex(again.index)]) == chosen
    pd.testing.assert_frame_equal(
        again.drop(columns="run_id").sort_index(), rows.drop(columns="run_id").sort_index(), rtol=1e-9
    )

    # A day alone and a day of a range are the same; two runs leave the same rows.
    before = health(deployment, first)
    deployment.backfill("account_segments,account_health", first, first)
    pd.testing.assert_frame_equal(
        health(deployment, first).drop(columns="run_id").sort_index(),
        before.drop(columns="run_id").sort_index(),
        rtol=1e-9,
    )

    with pytest.raises(InputError, match="account_health has one row per account"):
        deployment.backfill("account_health", LAST, LAST, campaigns=["cmp-000001"])


def test_without_a_model_a_day_has_no_rows_and_says_so(deployment):
    agency = simulate(SimulationConfig(accounts=3, days=20, seed=1, max_images=1))
    write_landing(agency, deployment.landing / "simulation")
    deployment.ingest()
    day = agency.config.last_date
    deployment.backfill("account_features", agency.config.start_date, day)
    runs = deployment.backfill("account_segments,account_health,published_health", day, day)
    assert runs[0].metadata["account_health"]["model_versions"] == "none yet"
    assert deployment.store.read("account_health", {"date": day}).num_rows == 0
    assert deployment.store.read("account_segments", {"date": day}).num_rows > 0

    monday = day - timedelta(days=day.weekday())
    run = deployment.runner.materialize(TRAINING, partition=monday.isoformat())
    assert "account_health_champion" not in run.metadata
