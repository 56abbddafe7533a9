"""A partition that fails its audit is not published, stops its run, and is missed by whoever reads its window."""

from datetime import date, timedelta

import pyarrow as pa
import pytest

from within_ml.errors import ContractError, DatabaseError, LakeError, MissingPartitionsError, RegistryError, SourceError
from within_pipelines.resources import PostgresResource

FIRST = date(2024, 1, 1)
DAYS = 6
BAD_DAY = FIRST + timedelta(days=3)


def performance(day: date, *, ads: int = 30, clicks: int = 5) -> pa.Table:
    """One day of the export that already has the lake's columns."""
    names = [f"ad-{n}" for n in range(ads)]
    same = {"platform": "meta", "account_id": "acme", "ad_group_id": "g", "region": "CA"}
    return pa.table(
        {
            "date": pa.array([day] * ads, pa.date32()),
            **{name: [value] * ads for name, value in same.items()},
            "campaign_id": [f"c-{n % 2}" for n in range(ads)],
            "ad_id": names,
            "impressions": pa.array([1000] * ads, pa.int64()),
            "clicks": pa.array([clicks] * ads, pa.int64()),
            "spend": [2.5] * ads,
            "conversions": [0.0] * ads,
            "revenue": [0.0] * ads,
        }
    )


@pytest.fixture
def landed(lake_only):
    """Six days have landed; on the fourth, clicks are above impressions."""
    for n in range(DAYS):
        day = FIRST + timedelta(days=n)
        clicks = 2000 if day == BAD_DAY else 5
        lake_only.land(f"simulation/ad_performance_{day}.parquet", performance(day, clicks=clicks))
    lake_only.night(FIRST, select=("lake",))
    return lake_only


def error_of(result, step):
    """The class and the message of what a step raised."""
    failure = next(e for e in result.all_events if e.is_step_failure and e.step_key == step)
    error = failure.step_failure_data.error
    while error.cls_name.startswith("Dagster") and error.cause is not None:
        error = error.cause
    return error.cls_name, error.message


def test_a_failing_audit_raises_in_the_asset_and_nothing_after_it_runs(landed):
    before = landed.versions()
    result = landed.night(BAD_DAY, select=("lake", "features"))
    assert not result.success
    name, message = error_of(result, "ad_performance")
    assert name == "ContractError"
    assert "clicks must be at most impressions. Nothing was published" in message
    materialized = {e.asset_key.to_user_string() for e in result.get_asset_materialization_events()}
    assert not materialized & {"ad_performance", "ad_features", "account_features"}
    content = {"ad_content": None, "image_content": None}
    assert landed.versions() | content == before | content


def test_later_readers_of_the_window_fail_on_the_missing_day(landed):
    with pytest.raises(ContractError, match="ad_performance of 2024-01-04"):
        landed.backfill("ad_performance", BAD_DAY, BAD_DAY)
    for n in (1, 2, 4, 5):
        landed.backfill("ad_performance", FIRST + timedelta(days=n), FIRST + timedelta(days=n))
    landed.backfill("ad_features,account_features", FIRST, FIRST + timedelta(days=2))
    last = FIRST + timedelta(days=5)
    for asset in ("ad_features", "account_features"):
        with pytest.raises(MissingPartitionsError, match=r"missing: '2024-01-04'\. Materialize ad_performance"):
            landed.backfill(asset, last, last)
        assert last not in landed.store.dates(asset)

    landed.land(f"simulation/ad_performance_{BAD_DAY}.parquet", performance(BAD_DAY))
    assert landed.ingest().days == 1
    landed.backfill("ad_features", last, last)
    assert landed.store.read("ad_features", {"date": last}).num_rows == 30


def test_one_bad_day_blocks_the_whole_run_of_its_range(landed):
    with pytest.raises(ContractError, match="ad_performance of 2024-01-04"):
        landed.backfill("ad_performance", FIRST, FIRST + timedelta(days=DAYS - 1))
    assert landed.store.dates("ad_performance") == (FIRST,)


def test_a_day_inside_the_calendar_whose_file_has_not_come(landed):
    (landed.landing / "simulation" / "ad_performance_late.parquet").unlink(missing_ok=True)
    late = FIRST + timedelta(days=DAYS)
    with pytest.raises(LakeError, match="needs a landing file for each day of its sources' calendars"):
        landed.backfill("ad_performance", late, late)
    assert late not in landed.store.dates("ad_performance")


def test_a_file_that_changed_or_went_after_it_was_registered(landed):
    path = landed.landing / f"simulation/ad_performance_{FIRST}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(SourceError, match="changed after it was registered; ingest it again first"):
        landed.backfill("ad_performance", FIRST, FIRST)
    path.unlink()
    with pytest.raises(SourceError, match="it is gone; put it back"):
        landed.backfill("ad_performance", FIRST, FIRST)
    assert landed.store.read("ad_performance", {"date": FIRST}).num_rows == 30


def test_a_truncated_file_is_refused_where_it_is_named_and_passed_over_where_it_is_not(landed):
    path = landed.land("simulation/ad_performance_2.parquet", performance(FIRST + timedelta(days=9)))
    path.write_bytes(path.read_bytes()[:-50])
    version = landed.store.version("landing_files")
    with pytest.raises(SourceError, match="probably truncated"):
        landed.ingest(("simulation/ad_performance_2.parquet", "simulation"))
    result = landed.night(FIRST, select=("lake",))
    assert result.success
    assert landed.store.version("landing_files") == version
    told = result.asset_materializations_for_node("landing_files")[0].metadata
    assert (told["new_files"].value, told["refused_files"].value) == (0, 1)


def test_scoring_needs_features_and_a_model(deployment):
    with pytest.raises(MissingPartitionsError, match="ad_features must have a partition"):
        deployment.backfill("ad_scores", FIRST, FIRST)
    deployment.land(f"simulation/ad_performance_{FIRST}.parquet", performance(FIRST))
    deployment.ingest()
    deployment.backfill("features", FIRST, FIRST)
    for model, sentence in (("champion", "must have a 'champion'"), ("as_of", "none is registered"), ("7", "no '7'")):
        with pytest.raises(RegistryError, match=sentence):
            deployment.backfill("ad_scores", FIRST, FIRST, model=model)
    assert "ad_scores" not in deployment.versions()


def test_an_error_that_a_library_caused_comes_back_as_the_sentence_that_explains_it(landed):
    gone = PostgresResource(postgres_url="postgresql://nobody@127.0.0.1:9/none", state_dir=str(landed.root / "state"))
    landed.resources["postgres"] = gone
    with pytest.raises(DatabaseError, match="Postgres must answer at") as error:
        landed.backfill("published_scores", FIRST, FIRST)
    assert isinstance(error.value, DatabaseError)


def test_checks_show_what_the_audit_enforced(landed):
    job = landed.definitions.resolve_job_def("performance")
    result = job.execute_in_process(instance=landed.instance, partition_key=FIRST.isoformat())
    checks = {c.check_name: c for c in result.get_asset_check_evaluations()}
    assert {name: c.passed for name, c in checks.items()} == {
        "expectations": True,
        "rejected_share": True,
        "latest_partition": False,  # five later days have landed and are not made yet
    }
    assert checks["expectations"].metadata["rows"].value == 30
    assert checks["latest_partition"].metadata["missing_days"].value == 5
