"""Settings of a WITHIN deployment: the one place that reads the environment.

Each setting is an environment variable ``WITHIN_<NAME>``; what is not set there is read from
``<state_dir>/settings.env``, which `within demo` and `within simulate` write so that the UI sees the same history.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from within_ml.errors import SettingsError

QUIET_ENVIRONMENT: Mapping[str, str] = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Eight processes of a quarter of a gigabyte each, for features of MLflow that WITHIN does not use.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "GIT_PYTHON_REFRESH": "quiet",
    # A server that was restarted leaves dead connections in a pool.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
}
"""Variables of libraries that phone home, draw over our progress, or start a thread per core and process."""


_START, _END = "WITHIN_START_DATE", "WITHIN_END_DATE"


class Settings(BaseSettings):
    """Where things are and which days exist.

    Examples
    --------
    >>> Settings(start_date="2024-01-01", end_date="2024-03-31").end_date
    datetime.date(2024, 3, 31)
    """

    model_config = SettingsConfigDict(env_prefix="WITHIN_", extra="ignore", frozen=True)

    lake_root: str = Field("data_lake", description="Folder or URI of the lake's tables")
    landing_root: Path | None = Field(None, description="Folder where exports land; <lake_root>/landing by default")
    storage_options: dict[str, str] = Field(default_factory=dict, description="Object store options, as JSON")
    state_dir: Path = Field(Path(".within"), description="Embedded Postgres, model artifacts, run logs, reports")
    postgres_url: str | None = Field(None, description="A Postgres server; embedded in state_dir where not set")
    start_date: date = Field(date(2024, 1, 1), description="First day with data")
    end_date: date | None = Field(None, description="Last day of a closed history; yesterday where not set")
    feature_memory: str | None = Field(None, description="Memory of the feature expressions, such as 2GB")
    training_days: int = Field(730, ge=14, description="Days of history a model is trained on")
    training_rows: int = Field(500_000, ge=1000, description="Rows above which a model's history is sampled")
    alert_webhook: str | None = Field(None, description="URL that gets a JSON POST for each failed run")

    @field_validator("postgres_url", "feature_memory", "alert_webhook", "end_date", "landing_root", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _dates_in_order(self) -> Settings:
        if self.end_date is not None and self.end_date < self.start_date:
            raise ValueError(f"WITHIN_END_DATE {self.end_date} must not be before WITHIN_START_DATE {self.start_date}")
        return self

    @cached_property
    def landing(self) -> Path:
        """Folder where exports land."""
        if self.landing_root is not None:
            return self.landing_root
        return Path("data_lake/landing") if "://" in self.lake_root else Path(self.lake_root) / "landing"

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts."""
        return self.state_dir.resolve() / "mlartifacts"

    @property
    def reports(self) -> Path:
        """Folder of the reports for people."""
        return self.state_dir.resolve() / "reports"

    def remember_history(self, first: date, last: date, *, closed: bool) -> None:
        """Write the history's ends beside the state, so that every process from now on has these days.

        Parameters
        ----------
        first, last
            Days with data; what is remembered already is widened, never narrowed.
        closed
            Whether a history that starts now ends with ``last``; an open one goes on to yesterday.
        """
        path = _settings_file(self.state_dir)
        known = _read(path)
        is_new = _START not in known
        # An ad can be known, and is scored, the day before it first runs.
        first -= timedelta(days=1)
        known[_START] = min(first.isoformat(), known.get(_START, first.isoformat()))
        if _END in known:
            known[_END] = max(last.isoformat(), known[_END])
        elif closed and is_new:
            known[_END] = last.isoformat()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{k}={v}\n" for k, v in sorted(known.items())), encoding="utf-8")
        temporary.replace(path)


def load_settings() -> Settings:
    """Read the settings of this process.

    Raises
    ------
    SettingsError
        If a variable does not hold what its setting needs.
    """
    state_dir = Path(os.environ.get("WITHIN_STATE_DIR", ".within"))
    try:
        return Settings(_env_file=_settings_file(state_dir))  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(
            f"Setting WITHIN_{name or '*'} cannot be used: {first['msg']}, however {first.get('input')!r} came; "
            f"correct the environment variable or {_settings_file(state_dir)}."
        ) from error


def quieten_libraries() -> None:
    """Set the variables of `QUIET_ENVIRONMENT` that the user has not set."""
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _settings_file(state_dir: Path) -> Path:
    return state_dir / "settings.env"


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
