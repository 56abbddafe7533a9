"""Fixtures shared by all tests and doctests: one real Postgres server per session, and databases of a test's own."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql

from within_ml.database import DatabaseUrls, EmbeddedPostgres, migrate
from within_ml.database.urls import connect, exclusive
from within_ml.registry import ModelRegistry

# Partitions are made of the settings when `within_pipelines.partitions` is imported, which no test has done yet: one
# history for all tests, and no folder of this checkout.
os.environ |= {
    "WITHIN_START_DATE": "2013-01-01",
    "WITHIN_END_DATE": "2024-12-31",
    "WITHIN_STATE_DIR": str(Path(tempfile.gettempdir()) / "within-tests-without-state"),
    "WITHIN_LAKE_ROOT": str(Path(tempfile.gettempdir()) / "within-tests-without-lake"),
}

FAST_BUT_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the whole session, shared by the workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    session = base.parent if hasattr(request.config, "workerinput") else base
    digest = hashlib.sha256(str(session).encode()).hexdigest()[:12]
    # Not below pytest's own folder: pytest closes that to other users, and for root Postgres runs as another user.
    folder = Path(tempfile.gettempdir()) / f"within-tests-{digest}"
    server = EmbeddedPostgres(folder / "postgres", settings=FAST_BUT_FORGETFUL).start()
    yield server
    server.close(remove=True)


@pytest.fixture(scope="session")
def _within_template(postgres: EmbeddedPostgres) -> str:
    """Name a migrated database to copy from: migrating takes longer than copying."""
    migrate(postgres.urls().within)
    return "within"


@pytest.fixture(scope="session")
def _mlflow_template(postgres: EmbeddedPostgres) -> str:
    """Name MLflow's database to copy from: its tables take seconds to make."""
    with exclusive(postgres.url("postgres"), "mlflow template"), connect(postgres.url("postgres")) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'mlflow_template'").fetchone() is None:
            ModelRegistry(postgres.urls().mlflow).initialize()
            # A template must have no connection, and MLflow keeps its own.
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'mlflow'")
            connection.execute("CREATE DATABASE mlflow_template TEMPLATE mlflow")
    return "mlflow_template"


@pytest.fixture
def copy_database(postgres: EmbeddedPostgres) -> Iterator[Callable[[str], str]]:
    """Return a function that copies a database and returns the copy's name; copies are dropped after the test."""
    made: list[str] = []

    def copy(template: str) -> str:
        name = f"test_{uuid.uuid4().hex[:16]}"
        query = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        # A copy fails while another process copies the same template.
        with exclusive(postgres.url("postgres"), f"copy {template}"), connect(postgres.url("postgres")) as connection:
            connection.execute(query)
        made.append(name)
        return name

    yield copy
    with connect(postgres.url("postgres")) as connection:
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def postgres_url(postgres: EmbeddedPostgres, _within_template: str, copy_database: Callable[[str], str]) -> str:
    """URL of a migrated database `within` of this test's own."""
    return postgres.url(copy_database(_within_template))


@pytest.fixture
def mlflow_url(postgres: EmbeddedPostgres, _mlflow_template: str, copy_database: Callable[[str], str]) -> str:
    """URL of a database of this test's own that holds MLflow's tables."""
    return postgres.url(copy_database(_mlflow_template), "psycopg2")


@pytest.fixture
def fresh_databases(
    postgres: EmbeddedPostgres, postgres_url: str, mlflow_url: str, copy_database: Callable[[str], str]
) -> DatabaseUrls:
    """Three databases of this test's own; Dagster's is empty, the others have their tables."""
    return DatabaseUrls(
        dagster=postgres.url(copy_database("template0"), "psycopg2"), mlflow=mlflow_url, within=postgres_url
    )


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """Make a folder that Postgres can reach when the tests run as root, for tests that start servers of their own."""
    folder = Path(tempfile.mkdtemp(prefix="within-server-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the lock files that the session's server leaves beside its data folder."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if hasattr(session.config, "workerinput") or factory is None:
        return
    digest = hashlib.sha256(str(factory.getbasetemp()).encode()).hexdigest()[:12]
    shutil.rmtree(Path(tempfile.gettempdir()) / f"within-tests-{digest}", ignore_errors=True)
