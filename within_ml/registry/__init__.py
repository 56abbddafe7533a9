"""Registered models over MLflow: versions, aliases, decisions, and the door to the champion.

MLflow is imported by nothing else, and here only when it is used.
"""

from within_ml.registry.live import (
    MODEL_REGISTRY,
    configure_registry,
    get_ad_score_predictor,
    get_anomaly_detector,
    get_health_predictor,
)
from within_ml.registry.loading import add_model_class
from within_ml.registry.model_registry import ModelRegistry
from within_ml.registry.promotion import GateDecision, Promotion
from within_ml.registry.records import VersionRecord

__all__ = [
    "MODEL_REGISTRY",
    "GateDecision",
    "ModelRegistry",
    "Promotion",
    "VersionRecord",
    "add_model_class",
    "configure_registry",
    "get_ad_score_predictor",
    "get_anomaly_detector",
    "get_health_predictor",
]
