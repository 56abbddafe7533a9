"""Account health: which accounts are healthy, which are about to leave or to fall, why, and what would help."""

from within_ml.health.config import HealthConfig, HealthModelType, RiskLevel, RiskThresholds
from within_ml.health.predictor import AccountHealthPredictor

__all__ = ["AccountHealthPredictor", "HealthConfig", "HealthModelType", "RiskLevel", "RiskThresholds"]
