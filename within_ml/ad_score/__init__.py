"""The ad score: one of WITHIN's three products. `predictor` composes it, `config` has its hyperparameters."""

from within_ml.ad_score.config import AdScoreConfig, Modality, ScoreModelType
from within_ml.ad_score.predictor import AdScorePredictor

__all__ = ["AdScoreConfig", "AdScorePredictor", "Modality", "ScoreModelType"]
