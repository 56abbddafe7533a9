"""From a saved model folder to a model: which class loads which type.

What belongs here: the map of types to classes, and the hook through which MLflow itself loads a model. What does not:
where folders come from (`store`).
"""

from __future__ import annotations

import importlib
from pathlib import Path

from within_ml.base import BaseMLModel, ModelType
from within_ml.errors import ModelFormatError, shown
from within_ml.model_folder import read_metadata

_MODEL_CLASSES: dict[str, str | type[BaseMLModel]] = {
    ModelType.AD_SCORE.value: "within_ml.ad_score:AdScorePredictor",
    ModelType.ACCOUNT_HEALTH.value: "within_ml.health:AccountHealthPredictor",
    ModelType.ANOMALY_DETECTOR.value: "within_ml.anomalies:AnomalyDetector",
}


def add_model_class(model_type: str, model_class: type[BaseMLModel]) -> None:
    """Let folders of a type be loaded by a class of one's own.

    Parameters
    ----------
    model_type
        The ``type`` in the folder's metadata.
    model_class
        Class whose ``load`` reads the folder.
    """
    _MODEL_CLASSES[model_type] = model_class


def load_model_folder(folder: Path) -> BaseMLModel:
    """Load a model of whatever known type; the class checks every file's hash before it parses any.

    Raises
    ------
    ModelFormatError
        If the folder is incomplete or altered, or no class is known for its type.
    """
    model_type = read_metadata(folder).type
    known = _MODEL_CLASSES.get(model_type)
    if known is None:
        raise ModelFormatError(
            f"A model's type must be one of {shown(sorted(_MODEL_CLASSES))}; however, {folder} is of type "
            f"{model_type!r}. Register its class with add_model_class."
        )
    if isinstance(known, str):
        module, _, name = known.partition(":")
        known = getattr(importlib.import_module(module), name)
    return known.load(folder)


def _load_pyfunc(data_path: str) -> BaseMLModel:
    """Load a model for `mlflow.pyfunc`, which finds this function by name."""
    return load_model_folder(Path(data_path))
