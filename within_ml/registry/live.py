"""The registry as most callers want it: the champion's facts, and the product's model by name.

What belongs here: views and factories without arguments to think about. What does not: changing anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from within_ml.base import ModelType
from within_ml.errors import RegistryError, UnknownModelError, shown
from within_ml.registry.model_registry import ModelRegistry
from within_ml.registry.promotion import CHAMPION
from within_ml.registry.records import VersionRecord

if TYPE_CHECKING:
    from within_ml.ad_score import AdScorePredictor
    from within_ml.anomalies import AnomalyDetector
    from within_ml.health import AccountHealthPredictor


class ChampionView(Mapping[str, object]):
    """Facts of a model's champion, each read when asked for.

    Keys: ``version`` (str), ``last_trained`` (tz-aware time, None where the model does not tell), ``metrics`` (name →
    number). All are None while the model has no champion.

    >>> list(ChampionView(ModelRegistry(getfixture("mlflow_url")), "ad_score"))
    ['version', 'last_trained', 'metrics']
    """

    _KEYS = ("version", "last_trained", "metrics")

    def __init__(self, registry: ModelRegistry, name: str) -> None:
        self._registry = registry
        self._name = name

    def __getitem__(self, key: str) -> object:
        if key not in self._KEYS:
            raise UnknownModelError(f"MODEL_REGISTRY tells {shown(self._KEYS)} of a model; there is no {key!r}.")
        if CHAMPION not in self._registry.aliases(self._name):
            return None
        record: VersionRecord = self._registry.version(self._name, CHAMPION)
        facts = {"version": record.version, "last_trained": record.trained_at, "metrics": dict(record.metrics)}
        return facts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._KEYS)

    def __len__(self) -> int:
        return len(self._KEYS)

    def __repr__(self) -> str:
        return f"ChampionView({dict(self)})"


class LiveRegistry(Mapping[str, ChampionView]):
    """A read-only view of all registered models: name → `ChampionView`.

    It reads the registry that `configure_registry` named, or else the one MLflow is configured with
    (``mlflow.set_tracking_uri`` or MLflow's own environment variable).

    >>> registry = LiveRegistry()
    >>> registry.tracking_uri = getfixture("mlflow_url")
    >>> "ad_score" in registry
    False
    """

    def __init__(self) -> None:
        self.tracking_uri: str | None = None

    def open(self) -> ModelRegistry:
        """Open the registry for reading.

        Raises
        ------
        RegistryError
            If no registry was named.
        """
        return ModelRegistry(self.tracking_uri or _mlflows_own_uri())

    def __getitem__(self, name: str) -> ChampionView:
        registry = self.open()
        names = registry.names()
        if name not in names:
            raise UnknownModelError(
                f"A registered model is one of {shown(names) or 'none yet'}; there is no {name!r}. Train one first."
            )
        return ChampionView(registry, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.open().names())

    def __len__(self) -> int:
        return len(self.open().names())

    def __repr__(self) -> str:
        return f"LiveRegistry(configured={self.tracking_uri is not None})"


MODEL_REGISTRY = LiveRegistry()
"""The registered models: ``MODEL_REGISTRY["ad_score"]["version"]``, ``["last_trained"]``, ``["metrics"]``."""


def configure_registry(tracking_uri: str | None) -> None:
    """Name the registry that `MODEL_REGISTRY` and the factories read; None goes back to MLflow's own settings."""
    MODEL_REGISTRY.tracking_uri = tracking_uri


def get_ad_score_predictor(version: str = CHAMPION) -> AdScorePredictor:
    """Load the ad score's model.

    Parameters
    ----------
    version
        An alias (``"champion"``, ``"challenger"``, ``"previous_champion"``) or a version's number.

    Raises
    ------
    RegistryError
        If no registry was named, or there is no such version.
    ModelFormatError
        If the model's files were altered.
    """
    return cast("AdScorePredictor", MODEL_REGISTRY.open().load(ModelType.AD_SCORE.value, version))


def get_health_predictor(version: str = CHAMPION) -> AccountHealthPredictor:
    """Load the model of account health.

    Parameters
    ----------
    version
        An alias (``"champion"``, ``"challenger"``, ``"previous_champion"``) or a version's number.

    Raises
    ------
    RegistryError
        If no registry was named, or there is no such version.
    ModelFormatError
        If the model's files were altered.
    """
    return cast("AccountHealthPredictor", MODEL_REGISTRY.open().load(ModelType.ACCOUNT_HEALTH.value, version))


def get_anomaly_detector(version: str | None = None) -> AnomalyDetector:
    """Make the anomaly detector that the night uses, or load one that was registered.

    Parameters
    ----------
    version
        An alias or number of a registered detector with its baselines; None for a new one, which learns from the data
        that it is given.

    Raises
    ------
    RegistryError
        If a version is asked for and there is no registry or no such version.

    Examples
    --------
    >>> get_anomaly_detector().baseline_window
    28
    """
    from within_ml.anomalies import AnomalyDetector

    if version is None:
        return AnomalyDetector()
    return cast(AnomalyDetector, MODEL_REGISTRY.open().load(ModelType.ANOMALY_DETECTOR.value, version))


def _mlflows_own_uri() -> str:
    import mlflow

    if not mlflow.is_tracking_uri_set():  # type: ignore[no-untyped-call]
        raise RegistryError(
            "A registry must be named; however, MLflow has no tracking URI. Call within_ml.configure_registry(uri), "
            "or configure MLflow."
        )
    return str(mlflow.get_tracking_uri())
