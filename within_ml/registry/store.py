"""MLflow as a store of model versions: schema, experiments, runs, artifacts, aliases.

What belongs here: every call to MLflow, translated into WITHIN's errors and records. What does not: what an alias means
(`model_registry`). MLflow is imported inside functions, because it takes seconds. Its global state (active run,
tracking URI) is neither used nor changed.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from within_ml.database.urls import exclusive
from within_ml.errors import ModelFormatError, RegistryError, shown
from within_ml.registry.records import (
    AS_OF_TAG,
    HASH_TAG,
    Candidate,
    VersionRecord,
    content_hash,
    day_of,
    moment_of,
    text_of,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DATA_FOLDER = "model"
_LOADER_MODULE = "within_ml.registry.loading"
_EXPECTED_HINTS = r"(?s).*(Hint: Inferred schema contains integer|An input example was not provided)"
_BATCH = 100
_PARAMETER_LENGTH = 6000
_NO_METRICS: Mapping[str, float] = MappingProxyType({})


class MlflowStore:
    """Model versions in MLflow.

    Parameters
    ----------
    tracking_uri
        Where MLflow keeps its records: ``postgresql+psycopg2://…`` or the address of an MLflow server.
    artifact_root
        Folder or URI below which models are kept; None for reading only.

    Examples
    --------
    >>> MlflowStore("sqlite:///mlflow.db", None)
    Traceback (most recent call last):
    ...
    within_ml.errors.RegistryError: The registry's URI must be of Postgres ... 'sqlite:///mlflow.db'...
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None) -> None:
        scheme = tracking_uri.partition(":")[0].partition("+")[0]
        if scheme not in {"postgresql", "http", "https"}:
            raise RegistryError(
                "The registry's URI must be of Postgres (postgresql+psycopg2://…) or of an MLflow server (http://…); "
                f"however, it is {tracking_uri!r}."
            )
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self.on_postgres = scheme == "postgresql"
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; the first use makes MLflow's tables."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> MlflowClient:
        from mlflow import MlflowClient

        # MLflow makes its tables when the client is made, and of several processes that do so at once most die.
        with self._only_process("mlflow schema"), translated("prepare MLflow's tables"):
            client = MlflowClient(self.tracking_uri, self.tracking_uri)
            client.search_registered_models(max_results=1)
        return client

    def ensure_experiment(self, name: str) -> str:
        """Return the id of a product's experiment, which is made on first use.

        Raises
        ------
        RegistryError
            If there is none and no artifact root to make it with.
        """
        with translated(f"find the experiment {name!r}"):
            found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        if self.artifact_root is None:
            raise RegistryError("Registering needs an artifact root; however, this registry was opened for reading.")
        root = self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).absolute().as_uri()
        with self._only_process(f"mlflow experiment {name}"), translated(f"make the experiment {name!r}"):
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            return str(self.client.create_experiment(name, artifact_location=f"{root.rstrip('/')}/{name}"))

    def add(
        self,
        name: str,
        candidate: Candidate,
        *,
        metrics: Mapping[str, float],
        parameters: Mapping[str, object],
        report_files: Sequence[Path],
        signature: tuple[pd.DataFrame, NDArray[np.float64]] | None,
        pip_requirements: Sequence[str] | None,
    ) -> str:
        """Log a model folder in a run of its own and register it; return the version."""
        experiment = self.ensure_experiment(name)
        client = self.client
        with translated(f"register {name}"):
            run = client.create_run(experiment, run_name=f"{name} as of {candidate.tags[AS_OF_TAG]}")
            run_id = run.info.run_id
            try:
                self._log(run_id, candidate, metrics, parameters)
                for file in report_files:
                    client.log_artifact(run_id, str(file), "report")
                self._log_model(run_id, candidate, signature, pip_requirements)
                version = self._create_version(name, run_id, f"{run.info.artifact_uri}/{DATA_FOLDER}", candidate)
            except BaseException:
                client.set_terminated(run_id, "FAILED")
                raise
            client.set_terminated(run_id, "FINISHED")
        return version

    def versions(self, name: str) -> tuple[VersionRecord, ...]:
        """Return all versions, the newest vintage first; none where the model does not exist."""
        aliases = self.aliases(name)
        with translated(f"list the versions of {name}"):
            found = list(_pages(self.client.search_model_versions, f"name='{_quoted(name)}'"))
            metrics = self._metrics([version.run_id for version in found])
        records = [_record(version, aliases, metrics.get(version.run_id or "", _NO_METRICS)) for version in found]
        return tuple(sorted(records, key=lambda record: record.age, reverse=True))

    def version(self, name: str, version: str) -> VersionRecord:
        """Return one version.

        Raises
        ------
        RegistryError
            If it does not exist.
        """
        found = self._find_version(name, version)
        return _record(found, self.aliases(name), self._metrics([found.run_id]).get(found.run_id or "", _NO_METRICS))

    def find(self, name: str, candidate: Candidate) -> str | None:
        """Return the version with this content and vintage, None if it is not registered yet."""
        query = f"name='{_quoted(name)}' AND tag.{HASH_TAG} = '{candidate.content_sha256}'"
        with translated(f"search {name}"):
            found = list(_pages(self.client.search_model_versions, query))
        same = [version for version in found if version.tags.get(AS_OF_TAG) == candidate.tags[AS_OF_TAG]]
        return str(min(int(version.version) for version in same)) if same else None

    def names(self) -> tuple[str, ...]:
        """Return the names of all registered models."""
        with translated("list the registered models"):
            return tuple(sorted(model.name for model in _pages(self.client.search_registered_models, None)))

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias → version; empty where the model does not exist."""
        return {alias: str(version) for alias, version in self._registered(name)[0].items()}

    def tags(self, name: str) -> dict[str, str]:
        """Return the tags of the registered model; empty where it does not exist."""
        return self._registered(name)[1]

    def set_alias(self, name: str, alias: str, version: str | None) -> None:
        """Point an alias at a version, or remove it."""
        with translated(f"set the alias {alias!r} of {name}"):
            if version is None:
                self.client.delete_registered_model_alias(name, alias)
            else:
                self.client.set_registered_model_alias(name, alias, version)

    def set_tag(self, name: str, key: str, value: str) -> None:
        """Set a tag of the registered model."""
        with translated(f"tag {name}"):
            self.client.set_registered_model_tag(name, key, value)

    def fetch(self, name: str, version: str) -> Path:
        """Return a local model folder whose content is what was registered.

        Raises
        ------
        RegistryError
            If the version or its files do not exist.
        ModelFormatError
            If the files are not those that were registered.
        """
        from mlflow.artifacts import download_artifacts

        found = self._find_version(name, version)
        with translated(f"fetch {name} version {version}"):
            uri = f"{found.source}/data/{DATA_FOLDER}"
            folder = Path(download_artifacts(artifact_uri=uri, tracking_uri=self.tracking_uri))
        expected = found.tags.get(HASH_TAG)
        if not folder.is_dir() or content_hash(folder) != expected:
            raise ModelFormatError(
                f"The files of {name} version {version} must have the hash they were registered with ({expected}); "
                f"however, those in {folder} were altered or are missing. Restore them, or train again."
            )
        return folder

    # --- MLflow's details ---

    def _log(
        self, run_id: str, candidate: Candidate, metrics: Mapping[str, float], parameters: Mapping[str, object]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        trained_at = moment_of(candidate.metadata.trained_at)
        stamp = int(trained_at.timestamp() * 1000) if trained_at else 0
        entities = [
            *(("metrics", Metric(key, float(value), stamp, 0)) for key, value in metrics.items()),
            *(("params", Param(key, text_of(value)[:_PARAMETER_LENGTH])) for key, value in parameters.items()),
            *(("tags", RunTag(key, value)) for key, value in candidate.tags.items()),
        ]
        for start in range(0, len(entities), _BATCH):
            batch: dict[str, list[Any]] = {"metrics": [], "params": [], "tags": []}
            for kind, entity in entities[start : start + _BATCH]:
                batch[kind].append(entity)
            self.client.log_batch(run_id, metrics=batch["metrics"], params=batch["params"], tags=batch["tags"])

    def _log_model(
        self,
        run_id: str,
        candidate: Candidate,
        signature: tuple[pd.DataFrame, NDArray[np.float64]] | None,
        pip_requirements: Sequence[str] | None,
    ) -> None:
        import mlflow.pyfunc
        from mlflow.models import infer_signature

        packages = candidate.metadata.packages
        requirements = [f"{key}=={value}" for key, value in packages.items()]
        with tempfile.TemporaryDirectory(prefix="within-model-") as temporary:
            # MLflow keeps the name of the data folder, so it gets one that does not depend on the caller's.
            named = Path(temporary) / DATA_FOLDER
            named.symlink_to(candidate.folder.absolute(), target_is_directory=True)
            with warnings.catch_warnings():
                # Counts are whole numbers by contract, and an example would be rows of the agency's data.
                warnings.filterwarnings("ignore", message=_EXPECTED_HINTS, category=UserWarning)
                mlflow.pyfunc.save_model(
                    Path(temporary) / "saved",
                    loader_module=_LOADER_MODULE,
                    data_path=str(named),
                    signature=infer_signature(*signature) if signature is not None else None,
                    # With requirements MLflow need not find them out by loading the model in another process.
                    pip_requirements=list(pip_requirements or requirements),
                )
            self.client.log_artifacts(run_id, str(Path(temporary) / "saved"), DATA_FOLDER)

    def _create_version(self, name: str, run_id: str, source: str, candidate: Candidate) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(self.client.create_model_version(name, source, run_id, tags=dict(candidate.tags)).version)

    def _registered(self, name: str) -> tuple[dict[str, str], dict[str, str]]:
        from mlflow.exceptions import MlflowException

        with translated(f"find {name}"):
            try:
                model = self.client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return {}, {}
        return dict(model.aliases), dict(model.tags)

    def _find_version(self, name: str, version: str) -> ModelVersion:
        from mlflow.exceptions import MlflowException

        if version.isdigit():
            try:
                return self.client.get_model_version(name, version)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise RegistryError(
                        f"MLflow must find {name} version {version}; however: {error.message}"
                    ) from error
        there = [record.version for record in self.versions(name)]
        raise RegistryError(
            f"{name} has the versions {shown(there) or 'none'}; there is no {version!r}. "
            "`within models` lists what is registered."
        )

    def _metrics(self, run_ids: Sequence[str | None]) -> dict[str, Mapping[str, float]]:
        with translated("read metrics"):
            return {
                run_id: MappingProxyType(dict(self.client.get_run(run_id).data.metrics))
                for run_id in dict.fromkeys(run_ids)
                if run_id
            }

    @contextmanager
    def _only_process(self, purpose: str) -> Iterator[None]:
        if not self.on_postgres:
            yield
            return
        with exclusive(self.tracking_uri, purpose):
            yield


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn MLflow's errors into a `RegistryError` that says what was tried."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RegistryError(
            f"MLflow must {action}; however, it answered {error.error_code}: {error.message}"
        ) from error


def _record(version: ModelVersion, aliases: Mapping[str, str], metrics: Mapping[str, float]) -> VersionRecord:
    number = str(version.version)
    return VersionRecord(
        name=version.name,
        version=number,
        aliases=tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        as_of=day_of(version.tags.get(AS_OF_TAG)),
        trained_at=moment_of(version.tags.get("trained_at")),
        registered_at=dt.datetime.fromtimestamp(version.creation_timestamp / 1000, tz=dt.UTC),
        run_id=version.run_id,
        metrics=metrics,
        tags=MappingProxyType(dict(version.tags)),
    )


def _pages(search: Any, query: str | None) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(filter_string=query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _quoted(name: str) -> str:
    if "'" in name:
        raise RegistryError(f"A model's name must hold no quote; however, it is {name!r}.")
    return name
