"""What the assets are handed: the lake, the landing zone, Postgres, the registry, the reports' folder, the alert sink.

Only this module knows which real thing stands behind each; tests hand in their own through `build_defs`.

Dagster shows the configuration of resources in its UI and keeps it with runs. What may hold a secret (the URL of
Postgres, options of an object store, the webhook) is therefore read from the settings when it is used.
"""

import http.client
import json
import logging
import urllib.request
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from within_ml.errors import SettingsError
from within_ml.lake.landing import LandingZone
from within_ml.lake.store import LakeStore
from within_pipelines.postgres import databases
from within_pipelines.settings import Settings, load_settings

if TYPE_CHECKING:
    from within_ml.database import DatabaseUrls
    from within_ml.database.repository import (
        DimensionRepository,
        LedgerRepository,
        PinRepository,
        PublishedTable,
        ScoreRepository,
    )
    from within_ml.features.execution import Limits
    from within_ml.registry import ModelRegistry

logger = logging.getLogger(__name__)

WEBHOOK_TIMEOUT_SECONDS = 10


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The lake's tables."""

    root: str = Field(description="Folder or URI of the lake's tables")
    storage_options: dict[str, str] = Field(
        default_factory=dict, description="Object store options; those of the settings where empty"
    )

    @property
    def store(self) -> LakeStore:
        """The store below the root."""
        options = self.storage_options or load_settings().storage_options
        return LakeStore(self.root, storage_options=options or None)


class LandingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The folder where exports land."""

    root: str = Field(description="Folder with one subfolder per source")

    @property
    def zone(self) -> LandingZone:
        """The landing zone of the library."""
        return LandingZone(Path(self.root))

    def path(self, relative: str) -> Path:
        """A path below the root."""
        return Path(self.root) / relative


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The Postgres server: a given one, or the embedded one below the state folder."""

    postgres_url: str | None = Field(
        None, description="URL of a server; that of the settings, or embedded, where empty"
    )
    state_dir: str = Field(description="Folder of the embedded server's data")

    def scores(self) -> "ScoreRepository":
        """Where scores are published."""
        from within_ml.database.repository import ScoreRepository

        return ScoreRepository(self._urls().within)

    def published(self, table: str) -> "PublishedTable":
        """Where a table is published day by day."""
        from within_ml.database.repository import PublishedTable

        return PublishedTable(self._urls().within, table)

    def dimensions(self) -> "DimensionRepository":
        """Where the newest state of accounts, campaigns and ads is published."""
        from within_ml.database.repository import DimensionRepository

        return DimensionRepository(self._urls().within)

    def ledger(self) -> "LedgerRepository":
        """The ledger of promotions."""
        from within_ml.database.repository import LedgerRepository

        return LedgerRepository(self._urls().within)

    def pins(self) -> "PinRepository":
        """The models that backfills were pinned to when they started."""
        from within_ml.database.repository import PinRepository

        return PinRepository(self._urls().within)

    def tracking_uri(self) -> str:
        """MLflow's tracking URI."""
        return self._urls().mlflow

    def _urls(self) -> "DatabaseUrls":
        return databases(self.postgres_url or load_settings().postgres_url, Path(self.state_dir))


class RegistryResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The model registry, and the folder where models are built before they are registered."""

    postgres: PostgresResource
    artifact_root: str = Field(description="Folder or URI of MLflow's artifacts")
    vintages_root: str = Field(description="Folder of the models in the making, one per as-of day")

    def registry(self) -> "ModelRegistry":
        """The registry of the library."""
        from within_ml.registry import ModelRegistry

        registry = ModelRegistry(
            self.postgres.tracking_uri(),
            self.postgres.ledger(),
            artifact_root=self.artifact_root,
            pins=self.postgres.pins(),
        )
        registry.initialize()
        return registry

    def vintage(self, name: str, as_of: str) -> Path:
        """Folder in which the model of an as-of day is built."""
        return Path(self.vintages_root) / name / as_of


class FeatureResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """What the feature expressions may use."""

    memory: str | None = Field(None, description="Memory limit such as 2GB; DuckDB's own where empty")

    def limits(self) -> "Limits":
        """The limits of the library."""
        from within_ml.features.execution import Limits

        return Limits(memory=self.memory)


class TrainingResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How much history a model is trained on."""

    days: int = Field(description="Days of history")
    max_rows: int = Field(description="Rows above which the history is sampled")


class ReportResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The folder of pictures and reports for people."""

    root: str = Field(description="Folder with one subfolder per table, and in it one per day")

    def folder(self, table: str, day: date) -> Path:
        """Folder of a table's day; it is made when something is written."""
        return Path(self.root) / table / day.isoformat()


class AlertResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where alerts go: the log, and a webhook if one is set."""

    webhook: str | None = Field(None, description="URL that gets a JSON POST; that of the settings where empty")

    def send(self, subject: str, body: str, **facts: str) -> bool:
        """Log an alert and post it; returns whether the webhook took it (False where none is set).

        A webhook that fails is logged and no error: an alert must not bring down what raised it.
        """
        logger.error("%s: %s", subject, body)
        webhook = self.webhook or load_settings().alert_webhook
        if not webhook:
            return False
        if not webhook.startswith(("http://", "https://")):
            raise SettingsError(f"WITHIN_ALERT_WEBHOOK must be an http or https URL, however: {webhook!r}.")
        data = json.dumps({"subject": subject, "text": body, **facts}).encode()
        request = urllib.request.Request(webhook, data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT_SECONDS):  # noqa: S310
                return True
        except (OSError, http.client.HTTPException) as error:
            logger.error("The alert webhook did not take the alert: %s", error)
            return False


def build_resources(settings: Settings) -> dict[str, Any]:
    """The real resources of a deployment."""
    state = settings.state_dir.resolve()
    postgres = PostgresResource(postgres_url=None, state_dir=str(state))
    return {
        "lake": LakeResource(root=settings.lake_root),
        "landing": LandingResource(root=str(settings.landing)),
        "postgres": postgres,
        "models": RegistryResource(
            postgres=postgres, artifact_root=str(settings.artifacts), vintages_root=str(state / "vintages")
        ),
        "features": FeatureResource(memory=settings.feature_memory),
        "training": TrainingResource(days=settings.training_days, max_rows=settings.training_rows),
        "alerts": AlertResource(webhook=None),
        "reports": ReportResource(root=str(settings.reports)),
    }
