"""Fixtures shared by all tests and doctests: one real Postgres server per session, and databases of a test's own."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql

from within_ml.database import DatabaseUrls, EmbeddedPostgres, migrate
from within_ml.database.urls import connect

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
def _templates(postgres: EmbeddedPostgres) -> DatabaseUrls:
    """Migrated databases to copy from: `within` and `mlflow`, made by the first worker."""
    urls = postgres.urls()
    with connect(urls.within, "postgres") as lock:
        lock.execute("SELECT pg_advisory_lock(1)")
        migrate(urls.within)
    return urls


@pytest.fixture
def make_databases(postgres: EmbeddedPostgres, _templates: DatabaseUrls) -> Iterator[Callable[[], DatabaseUrls]]:
    """Return a function that makes three databases for one test; they are dropped after it."""
    made: list[str] = []

    def make() -> DatabaseUrls:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with connect(postgres.url("postgres")) as connection:
            for kind, template in (("dagster", "template0"), ("mlflow", "template0"), ("within", "within")):
                query = "CREATE DATABASE {} TEMPLATE {}"
                connection.execute(
                    sql.SQL(query).format(sql.Identifier(f"{name}_{kind}"), sql.Identifier(template))
                )
                made.append(f"{name}_{kind}")
        return DatabaseUrls(
            dagster=postgres.url(f"{name}_dagster", "psycopg2"),
            mlflow=postgres.url(f"{name}_mlflow", "psycopg2"),
            within=postgres.url(f"{name}_within"),
        )

    yield make
    with connect(postgres.url("postgres")) as connection:
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def fresh_databases(make_databases: Callable[[], DatabaseUrls]) -> DatabaseUrls:
    """Three databases of this test's own: `within` is migrated, the others are empty."""
    return make_databases()


@pytest.fixture
def postgres_url(fresh_databases: DatabaseUrls) -> str:
    """URL of a migrated database `within` of this test's own."""
    return fresh_databases.within


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder that Postgres can reach when the tests run as root, for tests that start servers of their own."""
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
