"""Through Dagster's daemon: a backfill that meets a bad day, and sensors that react to a restated file."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus, PartitionBackfill

from within_ml.lake.simulation import SimulationConfig, simulate, write_landing
from within_ml.lake.store import LakeStore
from within_pipelines.backfills import ingest_landed
from within_pipelines.definitions import build_defs
from within_pipelines.postgres import prepare_dagster, project_root
from within_pipelines.runs import Runner
from within_pipelines.settings import load_settings

FIRST = date(2024, 1, 1)
DEADLINE_SECONDS = 240
REACTION_SECONDS = 480
"""Four runs follow each other, each asked for up to half a minute after the one before it."""

CLIENTS = SimulationConfig(
    accounts=40,
    days=180,
    campaigns_per_account=1,
    ads_per_campaign=2,
    regions_per_campaign=1,
    max_images=1,
    churn_share=0.3,
)
AS_OF = date(2024, 6, 24)
NIGHTS = 6
"""Nights of which there is health when a file is restated."""


def performance(day: date, clicks: int) -> pa.Table:
    same = {"platform": "meta", "account_id": "a", "campaign_id": "c", "ad_group_id": "g", "region": "CA"}
    return pa.table(
        {
            "date": pa.array([day] * 20, pa.date32()),
            **{name: [value] * 20 for name, value in same.items()},
            "ad_id": [f"ad-{n}" for n in range(20)],
            "impressions": pa.array([1000] * 20, pa.int64()),
            "clicks": pa.array([clicks] * 20, pa.int64()),
            **{name: [1.0] * 20 for name in ("spend", "conversions", "revenue")},
        }
    )


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A deployment of its own, with its own Postgres, as its processes find it."""
    with tempfile.TemporaryDirectory(prefix="within-daemon-", ignore_cleanup_errors=True) as folder:
        path = Path(folder)
        path.chmod(0o755)
        for name, part in (("STATE_DIR", "state"), ("LAKE_ROOT", "lake"), ("LANDING_ROOT", "landing")):
            monkeypatch.setenv(f"WITHIN_{name}", str(path / part))
        monkeypatch.setenv("DAGSTER_HOME", str(project_root()))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        for name in ("WITHIN_DAGSTER_POSTGRES_URL", "WITHIN_DAGSTER_STORAGE"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        yield path


@pytest.fixture
def instance(root: Path) -> Iterator[dg.DagsterInstance]:
    prepare_dagster(load_settings())
    with dg.DagsterInstance.get() as found:
        yield found


@contextmanager
def running_daemon(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Dagster's daemon, for as long as the block lasts."""
    command = [str(Path(sys.executable).parent / "dagster-daemon"), "run", "-m", "within_pipelines.definitions"]
    environment = os.environ | {"PYTHONPATH": str(project_root())}
    with (root / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=project_root(), env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def daemon(root: Path, instance: dg.DagsterInstance) -> Iterator[subprocess.Popen[bytes]]:
    with running_daemon(root) as process:
        yield process


@pytest.mark.slow
def test_a_day_that_fails_its_audit_stops_what_depends_on_it(root, instance, daemon):
    days = [FIRST + timedelta(days=n) for n in range(4)]
    folder = root / "landing" / "simulation"
    folder.mkdir(parents=True)
    for day in days:
        pq.write_table(performance(day, 2000 if day == days[1] else 5), folder / f"ad_performance_{day}.parquet")
    definitions = build_defs()
    runner = Runner(definitions, instance)
    runner.materialize(["landing_files"])

    graph = definitions.resolve_asset_graph()
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="audited",
        asset_graph=graph,
        partition_names=[day.isoformat() for day in days],
        asset_selection=[dg.AssetKey("ad_performance"), dg.AssetKey("ad_features")],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (status := instance.get_backfill("audited").status) not in BULK_ACTION_TERMINAL_STATUSES:
        assert daemon.poll() is None, (root / "daemon.log").read_text()
        assert time.monotonic() < deadline, (root / "daemon.log").read_text()
        time.sleep(1)
    store = LakeStore(str(root / "lake"))
    assert status in {BulkActionStatus.COMPLETED_FAILED, BulkActionStatus.FAILED}
    assert store.dates("ad_performance") == ()
    assert not store.exists("ad_features")
    failed = [run for run in instance.get_runs() if run.status == dg.DagsterRunStatus.FAILURE]
    assert len(failed) == 1
    assert {key.to_user_string() for key in failed[0].asset_selection or ()} == {"ad_performance"}


def an_agency_with_health(root: Path, instance: dg.DagsterInstance) -> list[date]:
    """Ingest an agency, train its model of health, and make the health of the nights before it, which are returned."""
    nights = [AS_OF - timedelta(days=n) for n in range(NIGHTS, 0, -1)]
    write_landing(simulate(CLIENTS), root / "landing" / "simulation", last=nights[-1])
    runner = Runner(build_defs(), instance)
    ingest_landed(runner, [], store=LakeStore(str(root / "lake")))
    runner.backfill(runner.select("account_features"), CLIENTS.start_date, nights[-1])
    model = runner.select("account_health_model,account_health_evaluation,account_health_champion")
    runner.backfill(model, AS_OF, AS_OF)
    runner.backfill(runner.select("account_segments,anomalies,account_health"), nights[0], nights[-1])
    return nights


def restate(root: Path, account: str, day: date) -> None:
    """Land the file of a day again, in which one account's clicks of the day are fewer."""
    folder = root / "landing" / "simulation"
    (path,) = [
        p for p in folder.glob("ad_performance_*.parquet") if p.stem.split("_")[2] <= str(day) <= p.stem.split("_")[3]
    ]
    rows = pq.read_table(path)
    restated = pc.and_(pc.equal(rows["account_id"], account), pc.equal(rows["date"], day))
    clicks = pc.if_else(restated, pc.divide(rows["clicks"], 2), rows["clicks"]).cast(rows.schema.field("clicks").type)
    pq.write_table(rows.set_column(rows.schema.get_field_index("clicks"), "clicks", clicks), path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def health_runs(store: LakeStore) -> dict[tuple[date, str], str]:
    """Day and account → the run that made its health."""
    rows = store.read("account_health", columns=["date", "account_id", "run_id"])
    return {
        (day, account): run for day, account, run in zip(*(rows[c].to_pylist() for c in rows.column_names), strict=True)
    }


def finished(instance: dg.DagsterInstance, job: str) -> list[dg.DagsterRun]:
    """Runs of a job that have ended, none of which may have failed."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job))
    assert all(run.status != dg.DagsterRunStatus.FAILURE for run in runs)
    return [run for run in runs if run.status == dg.DagsterRunStatus.SUCCESS]


@pytest.mark.slow
def test_a_restated_file_leads_to_the_health_of_exactly_the_accounts_and_days_it_touches(root, instance):
    nights = an_agency_with_health(root, instance)
    store = LakeStore(str(root / "lake"))
    before = health_runs(store)
    account = next(account for day, account in sorted(before) if day == nights[2])
    command = [str(Path(sys.executable).parent / "dagster"), "sensor", "start", "--start-all"]
    environment = os.environ | {"PYTHONPATH": str(project_root())}
    subprocess.run([*command, "-m", "within_pipelines.definitions"], cwd=project_root(), env=environment, check=True)
    restate(root, account, nights[2])
    with running_daemon(root) as process:
        deadline = time.monotonic() + REACTION_SECONDS
        while not finished(instance, "health"):
            assert process.poll() is None, (root / "daemon.log").read_text()
            assert time.monotonic() < deadline, (root / "daemon.log").read_text()
            time.sleep(1)
    after = health_runs(store)
    assert set(after) == set(before)
    remade = {key for key in after if after[key] != before[key]}
    assert remade == {(day, account) for day in nights[2:] if (day, account) in before}
    (run,) = finished(instance, "health")
    assert {after[key] for key in remade} == {run.run_id}
    assert [len(finished(instance, job)) for job in ("landing", "performance", "training", "drift")] == [1, 1, 0, 0]
