"""Files that come again, late or half-done, and narrowed backfills: only what is concerned changes."""

from datetime import date, timedelta

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from within_ml.errors import InputError, LakeError, MissingPartitionsError
from within_ml.lake.landing import expected_days, ingest_days, register
from within_ml.lake.simulation import write_landing

FIRST = date(2024, 1, 1)
NAMES = ("platform", "account_id", "campaign_id", "ad_group_id")


def performance(*days: date, ads: int = 20, clicks: int = 5) -> pa.Table:
    """Days of the export that already has the lake's columns."""
    keys = [(day, n) for day in days for n in range(ads)]
    rows = len(keys)
    return pa.table(
        {
            "date": pa.array([day for day, _ in keys], pa.date32()),
            **{name: [f"{name}-1"] * rows for name in NAMES},
            "ad_id": [f"ad-{n}" for _, n in keys],
            "region": ["CA"] * rows,
            "impressions": pa.array([1000] * rows, pa.int64()),
            "clicks": pa.array([clicks] * rows, pa.int64()),
            **{name: [1.0] * rows for name in ("spend", "conversions", "revenue")},
        }
    )


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def clicks_of(deployment, *days: date) -> list[tuple[int, int]]:
    """Rows and clicks of each day."""
    tables = [deployment.store.read("ad_performance", {"date": d}) for d in days]
    return [(t.num_rows, pc.sum(t["clicks"]).as_py() or 0) for t in tables]


def test_new_content_of_a_path_replaces_its_rows_also_those_that_vanished(lake_only):
    lake_only.land("simulation/ad_performance_1.parquet", performance(day(0), day(1)))
    assert lake_only.ingest().days == 2
    lake_only.land("simulation/ad_performance_1.parquet", performance(day(0), day(1), ads=12, clicks=7))
    done = lake_only.ingest()
    assert (done.new_files, done.days) == (1, 2)
    assert clicks_of(lake_only, day(0), day(1)) == [(12, 84), (12, 84)]


def test_a_newer_file_wins_where_it_tells_the_same_keys(lake_only):
    lake_only.land("simulation/ad_performance_1.parquet", performance(day(0), day(1)))
    lake_only.ingest()
    lake_only.land("simulation/ad_performance_0_correction.parquet", performance(day(1), ads=3, clicks=100))
    done = lake_only.ingest(("simulation/ad_performance_0_correction.parquet", "simulation"))
    assert (done.new_files, done.days) == (1, 1)
    assert clicks_of(lake_only, day(0), day(1)) == [(20, 100), (20, 3 * 100 + 17 * 5)]


def test_unchanged_content_is_passed_over(lake_only):
    path = lake_only.land("simulation/ad_performance_1.parquet", performance(day(0)))
    lake_only.ingest()
    before = lake_only.versions()
    path.touch()
    done = lake_only.ingest()
    assert done.sentence == "Nothing to do: these contents were ingested before."
    assert lake_only.versions() == before


def test_an_export_of_the_last_days_under_one_name_keeps_the_days_it_no_longer_covers(lake_only):
    for first in (0, 2):
        lake_only.land("simulation/ad_performance_last_days.parquet", performance(*(day(first + n) for n in range(3))))
        lake_only.ingest()
    assert clicks_of(lake_only, *(day(n) for n in range(5))) == [(20, 100)] * 5
    lake_only.backfill("ad_performance", day(0), day(4))
    assert clicks_of(lake_only, *(day(n) for n in range(5))) == [(20, 100)] * 5


def test_a_half_done_ingestion_is_completed_by_the_next(lake_only):
    lake_only.land("simulation/ad_performance_1.parquet", performance(*(day(n) for n in range(5))))
    register(lake_only.store, lake_only.zone, run_id="killed")
    ingest_days(lake_only.store, lake_only.zone, [day(0), day(1)], run_id="killed")
    assert lake_only.store.dates("ad_performance") == (day(0), day(1))
    done = lake_only.ingest(("simulation/ad_performance_1.parquet", "simulation"))
    assert done.new_files == 0
    assert lake_only.store.dates("ad_performance") == tuple(day(n) for n in range(5))
    assert lake_only.store.read("ads").num_rows == 0  # the export of performance tells no texts
    assert lake_only.ingest().days == 0


def test_a_restatement_that_was_killed_before_its_days_were_made_is_completed_by_the_next(lake_only):
    lake_only.land("simulation/ad_performance_1.parquet", performance(day(0), day(1)))
    lake_only.ingest()
    lake_only.land("simulation/ad_performance_1.parquet", performance(day(0), day(1), clicks=9))
    register(lake_only.store, lake_only.zone, run_id="killed")
    assert clicks_of(lake_only, day(0)) == [(20, 100)]
    lake_only.ingest(("simulation/ad_performance_1.parquet", "simulation"))
    assert clicks_of(lake_only, day(0), day(1)) == [(20, 180), (20, 180)]


def test_a_late_file_fills_its_gap_and_marks_what_depends_on_it_as_stale(lake_only):
    def path(number):
        return f"simulation/ad_performance_{day(number)}.parquet"

    for n in (0, 1, 3):
        lake_only.land(path(n), performance(day(n)))
    assert expected_days(lake_only.store, day(0), day(3)) == []
    with pytest.raises(LakeError, match="none covers '2024-01-03'"):
        lake_only.ingest()
    lake_only.land(path(2), performance(day(2)))
    lake_only.ingest()
    assert clicks_of(lake_only, *(day(n) for n in range(4))) == [(20, 100)] * 4
    lake_only.backfill("ad_features", day(0), day(3))

    job = lake_only.definitions.resolve_job_def("landing")
    lake_only.land(path(1), performance(day(1), clicks=50))
    told = job.execute_in_process(instance=lake_only.instance).asset_materializations_for_node("landing_files")
    metadata = told[0].metadata
    assert (metadata["first_changed_date"].value, metadata["last_changed_date"].value) == ("2024-01-02", "2024-01-02")
    lake_only.backfill("ad_performance", day(1), day(1))
    assert stale_days(lake_only, "ad_features", day(0), day(3)) == {day(1), day(2), day(3)}
    lake_only.backfill("ad_features", day(1), day(3))
    assert stale_days(lake_only, "ad_features", day(0), day(3)) == set()


def stale_days(deployment, asset: str, first: date, last: date) -> set[date]:
    """Days that the UI shows as stale because something they were made of was made again."""
    graph = deployment.definitions.resolve_asset_graph()
    context = LoadingContextForTest(deployment.instance)
    resolver = CachingStaleStatusResolver(deployment.instance, graph, context)
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    key = dg.AssetKey(asset)
    return {d for d in days if resolver.get_status(key, d.isoformat()) == StaleStatus.STALE}


def features_and_scores(deployment, on: date):
    return [
        deployment.store.read("ad_features", {"date": on}),
        deployment.store.read("ad_scores", {"date": on}).drop_columns(["run_id", "source_versions"]),
        deployment.scores.scores(on).drop_columns(["run_id", "source_versions"]),
    ]


def test_a_narrowed_backfill_replaces_only_the_rows_of_its_account_and_campaign(trained_agency, agency):
    night = date(2024, 4, 14)
    trained_agency.backfill("ad_scores,published_scores", night, night)
    before = features_and_scores(trained_agency, night)
    chosen = before[0].filter(pc.greater(before[0]["ad_impressions_7d"], 0)).slice(0, 1).to_pylist()[0]
    account, campaign = chosen["account_id"], chosen["campaign_id"]

    # A restatement of yesterday concerns every account; only one campaign's rows are made again.
    path = next((trained_agency.landing / "simulation").glob("ad_performance_*_2024-04-14.parquet"))
    rows = pq.read_table(path)
    tripled = pc.multiply(rows["impressions"], pc.if_else(pc.equal(rows["date"], night), 3, 1))
    trained_agency.land(
        f"simulation/{path.name}", rows.set_column(rows.schema.get_field_index("impressions"), "impressions", tripled)
    )
    trained_agency.ingest((f"simulation/{path.name}", "simulation"))
    trained_agency.backfill(
        "ad_features,ad_scores,published_scores", night, night, accounts=[account], campaigns=[campaign]
    )
    after = features_and_scores(trained_agency, night)
    for old, new in zip(before, after, strict=True):
        inside = pc.and_(pc.equal(old["account_id"], account), pc.equal(old["campaign_id"], campaign))
        assert new.num_rows == old.num_rows
        assert new.filter(pc.invert(inside)).equals(old.filter(pc.invert(inside)))
        assert not new.filter(inside).equals(old.filter(inside))
    with pytest.raises(InputError, match="has one row per account"):
        trained_agency.backfill("account_features", night, night, campaigns=[campaign])
    tomorrow = night + timedelta(days=1)
    write_landing(agency, trained_agency.landing / "simulation", first=tomorrow, last=tomorrow, days_per_file=1)
    trained_agency.ingest()
    with pytest.raises(MissingPartitionsError, match="needs the whole partition first"):
        trained_agency.backfill("ad_features", tomorrow, tomorrow, accounts=[account])
