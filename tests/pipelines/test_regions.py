"""Factors of the regions on a Monday: planted effects are found from stored scores, and published as they are."""

import base64
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from within_ml.database.repository import PublishedTable
from within_ml.features.regional_outcomes import apart, outcome_days
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.store import days_between

AS_OF = date(2024, 4, 15)
MONDAY = ["region_factors", "published_regions"]


def read(deployment) -> pa.Table:
    return deployment.store.read("region_factors", {"date": AS_OF}).drop_columns(["run_id"])


def published(deployment) -> pa.Table:
    return PublishedTable(deployment.urls.within, "region_factors").read(AS_OF).drop_columns(["run_id"])


def test_planted_effects_of_regions_are_found_and_published(trained_agency, agency, record_property):
    # The training run of the fixture had no stored score to look at.
    assert trained_agency.store.dates("region_factors") == (AS_OF,)
    assert read(trained_agency).num_rows == 0

    for day in apart(list(days_between(*outcome_days(AS_OF)))):
        trained_agency.backfill("ad_scores", day, day)
    run = trained_agency.runner.materialize(MONDAY, partition=AS_OF.isoformat())
    told = run.metadata["region_factors"]
    assert (told["weeks"], told["kept_covariates"], "reason" in told) == (8, "none", False)
    picture = base64.b64decode(told["map"].removeprefix("![picture](data:image/png;base64,").removesuffix(")"))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000

    rows = read(trained_agency).to_pandas()
    effects = agency.effects.to_pandas().query("kind == 'region'").set_index("key")["effect"]
    heard = rows[rows["source"] == "own"].set_index("region")
    truth = effects.reindex(heard.index)
    correlation = np.corrcoef(heard["offset"], truth)[0, 1]
    error = (heard["offset"] - truth) - (heard["offset"] - truth).mean()
    record_property("correlation", float(correlation))
    record_property("spread_of_errors", float((error / heard["standard_error"]).std()))
    assert len(heard) > 30
    assert correlation > 0.75
    # Errors are about as large as they are said to be.
    assert (error / heard["standard_error"]).std() < 1.8
    assert told["moran_before"] > told["moran_after"]

    before = read(trained_agency)
    public = published(trained_agency)
    assert public.to_pylist() == before.select(public.column_names).to_pylist()
    trained_agency.runner.materialize(MONDAY, partition=AS_OF.isoformat())
    assert read(trained_agency).equals(before)
    assert trained_agency.store.dates("region_factors") == (AS_OF,)


def shown(deployment, regions: list[str]):
    """A lake of one ad, scored on a day, and shown in these regions in the week after."""
    day = outcome_days(AS_OF)[1]
    ad = {"platform": "p", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "ad_id": "1"}
    score = ad | {"predicted_ctr": 0.02, "ad_score": 50.0, "confidence_score": 0.5}
    facts = [ad | {"region": region, "impressions": 1000, "clicks": 20 + n} for n, region in enumerate(regions)]
    store = deployment.store
    store.replace("ad_scores", {day: typed("ad_scores", [score], day)}, run_id="r")
    after = [day + timedelta(days=n) for n in range(1, 8)]
    store.replace("ad_performance", {d: typed("ad_performance", facts, d) for d in after}, run_id="r")
    return deployment


def typed(table: str, rows: list[dict], day: date) -> pa.Table:
    schema = pa.schema([f.with_nullable(True) for f in CONTRACTS[table].schema])
    return pa.Table.from_pylist([{**row, "date": day} for row in rows], schema=schema)


def test_made_twice_the_rows_are_the_same_and_published_once(deployment):
    shown(deployment, ["US-TX", "US-OH", "unknown"])
    results = []
    for _ in range(2):
        deployment.runner.materialize(MONDAY, partition=AS_OF.isoformat())
        results.append((read(deployment), published(deployment)))
    (rows, public), again = results
    assert rows["region"].to_pylist() == ["US-OH", "US-TX"]
    assert rows["clicks"].to_pylist() == [7 * 21, 7 * 20]
    assert public.to_pylist() == rows.select(public.column_names).to_pylist()
    assert again[0].equals(rows)
    assert again[1].equals(public)


def test_a_source_without_regions_has_an_empty_table_that_says_so(lake_only):
    without_regions = shown(lake_only, ["unknown"])
    told = without_regions.runner.materialize(["region_factors"], partition=AS_OF.isoformat()).metadata
    assert "do not tell regions" in told["region_factors"]["reason"]
    assert told["region_factors"]["outcomes"] == 1
    assert without_regions.store.dates("region_factors") == (AS_OF,)
    assert read(without_regions).num_rows == 0


def test_without_any_score_the_table_is_empty_and_says_so(lake_only):
    told = lake_only.runner.materialize(["region_factors"], partition=AS_OF.isoformat()).metadata
    assert "complete week" in told["region_factors"]["reason"]
    assert read(lake_only).num_rows == 0
