"""Deployments in temporary folders: the real definitions with resources of the test's own, run in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from within_ml.database import DatabaseUrls, EmbeddedPostgres
from within_ml.database.repository import ScoreRepository
from within_ml.database.urls import connect, exclusive
from within_ml.lake.landing import LandingZone
from within_ml.lake.simulation import Agency, SimulationConfig, simulate, write_landing
from within_ml.lake.store import LakeStore
from within_pipelines.backfills import backfill_config, ingest_landed
from within_pipelines.definitions import build_defs
from within_pipelines.resources import (
    AlertResource,
    FeatureResource,
    LakeResource,
    LandingResource,
    PostgresResource,
    RegistryResource,
    ReportResource,
    TrainingResource,
    build_resources,
)
from within_pipelines.runs import Run, Runner
from within_pipelines.settings import load_settings

NO_SERVER = DatabaseUrls(dagster="", mlflow="", within="")


class OwnDatabases(PostgresResource):
    """Databases of the test's own, which the root conftest has copied and dropped."""

    mlflow_url: str
    within_url: str

    def _urls(self) -> DatabaseUrls:
        return DatabaseUrls(dagster="", mlflow=self.mlflow_url, within=self.within_url)


@dataclass(frozen=True)
class Deployment:
    """Folders, databases, definitions and a Dagster instance that no other test sees."""

    root: Path
    urls: DatabaseUrls
    instance: dg.DagsterInstance
    resources: Mapping[str, Any]

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def store(self) -> LakeStore:
        return self.resources["lake"].store

    @property
    def zone(self) -> LandingZone:
        return self.resources["landing"].zone

    @property
    def scores(self) -> ScoreRepository:
        return ScoreRepository(self.urls.within)

    @property
    def definitions(self) -> dg.Definitions:
        return build_defs(self.resources)

    @property
    def runner(self) -> Runner:
        return Runner(self.definitions, self.instance)

    def land(self, relative: str, content: str | pa.Table) -> Path:
        """Put a file into the landing zone."""
        path = self.landing / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            pq.write_table(content, path)
        return path

    def ingest(self, *files: tuple[str, str]) -> Any:
        """Ingest what has landed, like the command line does."""
        return ingest_landed(self.runner, files, store=self.store)

    def backfill(self, select: str, first: date, last: date, **narrowed: Any) -> list[Run]:
        """Backfill groups or assets, like the command line does."""
        runner = self.runner
        selection = runner.select(select)
        asked = {"model": "champion", "accounts": [], "campaigns": []} | narrowed
        config = backfill_config(selection, first=first, **asked)
        return runner.backfill(selection, first, last, config=config)

    def night(self, day: date, *, select: tuple[str, ...] = ("lake", "features", "scoring", "publishing")) -> Any:
        """Materialize the assets of a night the way the UI does, and return Dagster's result."""
        return dg.materialize(
            [*self.definitions.assets],
            selection=dg.AssetSelection.groups(*select),
            partition_key=day.isoformat(),
            instance=self.instance,
            resources={**build_resources(load_settings()), **self.resources},
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )

    def versions(self) -> dict[str, int | None]:
        """Return table → newest version."""
        return {name: self.store.version(name) for name in self.store.catalog.tables()}


def deploy(root: Path, urls: DatabaseUrls, instance: dg.DagsterInstance, *, days: int = 730) -> Deployment:
    """Make a deployment below a folder."""
    for name in ("lake", "landing", "state"):
        (root / name).mkdir(parents=True, exist_ok=True)
    postgres = OwnDatabases(state_dir=str(root / "state"), mlflow_url=urls.mlflow, within_url=urls.within)
    resources = {
        "lake": LakeResource(root=str(root / "lake")),
        "landing": LandingResource(root=str(root / "landing")),
        "postgres": postgres,
        "models": RegistryResource(
            postgres=postgres,
            artifact_root=str(root / "state" / "mlartifacts"),
            vintages_root=str(root / "state" / "vintages"),
        ),
        "features": FeatureResource(memory="1GB"),
        "training": TrainingResource(days=days, max_rows=500_000),
        "alerts": AlertResource(),
        "reports": ReportResource(root=str(root / "state" / "reports")),
    }
    return Deployment(root, urls, instance, resources)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def lake_only(tmp_path: Path, instance: dg.DagsterInstance) -> Deployment:
    """A deployment for assets that need neither Postgres nor the registry."""
    return deploy(tmp_path, NO_SERVER, instance)


@pytest.fixture
def deployment(tmp_path: Path, instance: dg.DagsterInstance, fresh_databases: DatabaseUrls) -> Deployment:
    """A deployment with empty databases."""
    return deploy(tmp_path, fresh_databases, instance)


@pytest.fixture
def make_deployment(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    postgres: EmbeddedPostgres,
    _within_template: str,
    _mlflow_template: str,
    copy_database: Callable[[str], str],
) -> Callable[[str], Deployment]:
    """Return a function that makes deployments beside each other, by name."""

    def make(name: str) -> Deployment:
        urls = DatabaseUrls(
            dagster="",
            mlflow=postgres.url(copy_database(_mlflow_template), "psycopg2"),
            within=postgres.url(copy_database(_within_template)),
        )
        return deploy(tmp_path / name, urls, instance)

    return make


AGENCY = SimulationConfig(accounts=12, days=120, seed=7, max_images=10)
AS_OF = date(2024, 4, 15)
"""The Monday as of which the agency's model is trained."""


@dataclass(frozen=True)
class Trained:
    """An agency whose lake is ingested up to the day before a Monday, with a model as of this Monday."""

    root: Path
    mlflow: str
    within: str


@pytest.fixture(scope="session")
def agency() -> Agency:
    """The simulated agency of these tests."""
    return simulate(AGENCY)


@pytest.fixture(scope="session")
def trained(
    agency: Agency,
    postgres: EmbeddedPostgres,
    _within_template: str,
    _mlflow_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """Lake, databases and model of the agency, built by the first process that needs them; tests work on copies."""
    folder = Path(postgres.data_dir).parent / "trained"
    done = folder / "done.json"
    with exclusive(postgres.url("postgres"), "trained agency"):
        if not done.exists():
            with connect(postgres.url("postgres")) as connection:
                for name, template in (("agency_within", _within_template), ("agency_mlflow", _mlflow_template)):
                    query = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
                    connection.execute(query.format(sql.Identifier(name), sql.Identifier(template)))
            urls = DatabaseUrls("", postgres.url("agency_mlflow", "psycopg2"), postgres.url("agency_within"))
            with dg.DagsterInstance.ephemeral() as instance:
                _train(deploy(folder, urls, instance), agency)
            with connect(postgres.url("postgres")) as connection:
                # A template must have no connection, and MLflow keeps its own.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'agency_%'"
                )
            done.write_text(json.dumps({"pid": os.getpid()}), encoding="utf-8")
    return Trained(folder, "agency_mlflow", "agency_within")


def _train(deployment: Deployment, agency: Agency) -> None:
    last = AS_OF - timedelta(days=1)
    write_landing(agency, deployment.landing / "simulation", last=last)
    deployment.ingest()
    runner = deployment.runner
    first = agency.config.start_date
    runner.backfill(runner.select("features"), first, last)
    runner.backfill(runner.select("training"), AS_OF, AS_OF)


@pytest.fixture
def trained_agency(
    trained: Trained,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    postgres: EmbeddedPostgres,
    copy_database: Callable[[str], str],
) -> Deployment:
    """A deployment of this test's own with the agency's lake, model and databases."""
    for name in ("lake", "landing"):
        shutil.copytree(trained.root / name, tmp_path / name)
    urls = DatabaseUrls(
        dagster="",
        mlflow=postgres.url(copy_database(trained.mlflow), "psycopg2"),
        within=postgres.url(copy_database(trained.within)),
    )
    return deploy(tmp_path, urls, instance)
