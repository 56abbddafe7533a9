"""The process's connection to Postgres: a given server, or a handle on the embedded one, prepared once per process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from within_pipelines.settings import Settings

if TYPE_CHECKING:
    from within_ml.database.server import EmbeddedPostgres
    from within_ml.database.urls import DatabaseUrls

DATA_FOLDER = "postgres"
STORAGE_VARIABLES = ("WITHIN_DAGSTER_POSTGRES_URL", "WITHIN_DAGSTER_STORAGE")
"""The variables that dagster.yaml names."""


@cache
def embedded(state_dir: Path) -> EmbeddedPostgres:
    """The process's handle on the embedded server of a state folder; the server runs while any process has one."""
    # A third of a second of imports that a code location which only shows its assets does not need.
    from within_ml.database.server import EmbeddedPostgres

    return EmbeddedPostgres(state_dir / DATA_FOLDER).start()


@cache
def databases(postgres_url: str | None, state_dir: Path) -> DatabaseUrls:
    """URLs of the databases, created and migrated to this version."""
    from within_ml.database.base import migrate
    from within_ml.database.urls import DatabaseUrls

    urls = DatabaseUrls.from_url(postgres_url) if postgres_url else embedded(state_dir).urls()
    migrate(urls.within)
    return urls


def prepare_dagster(settings: Settings) -> None:
    """Set the variables that dagster.yaml names, for this process and those that it starts.

    Raises
    ------
    SettingsError
        If there is no dagster.yaml in the project's folder.
    """
    state = settings.state_dir.resolve()
    urls = databases(settings.postgres_url, state)
    storage = state / "dagster"
    storage.mkdir(parents=True, exist_ok=True)
    os.environ.update(zip(STORAGE_VARIABLES, (urls.dagster, str(storage)), strict=True))
    os.environ.setdefault("DAGSTER_HOME", str(project_root()))


def project_root() -> Path:
    """The folder that holds dagster.yaml and the packages."""
    return Path(__file__).resolve().parent.parent
