"""The hyperparameters of the ad score. What they do is in the modules that it is composed of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from within_ml.base import ModelKind
from within_ml.errors import InputError, shown


class ScoreModelType(ModelKind):
    """What is fitted on top of level and text."""

    ENSEMBLE = "ensemble"
    """Boosted trees and a linear model, weighted by what later rows say of them."""
    LINEAR = "linear"
    """The linear model alone: the one that `AdScorePredictor.update` can carry on from day to day."""
    NN = "nn"
    """A neural network of numeric features, text and image."""


class Modality(StrEnum):
    """What a prediction may be made of; ``prior_ctr`` is always used."""

    TABULAR = "tabular"
    TEXT = "text"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class AdScoreConfig:
    """Every hyperparameter of the ad score.

    Parameters
    ----------
    modalities : sequence of {"tabular", "text", "image"}
        What the prediction is made of beside ``prior_ctr``.
    half_life_days : float
        Age at which a training row counts half: the level and taste of the audience drift.
    calibration_days : int
        Last days of the history kept for the calibrator by `AdScorePredictor.fit`.
    outcome_days : int
        Last days of predictions with known outcome that calibrator and intervals learn from.
    early_stopping_days : int
        Last days of what is left that say how many trees are worth having.
    max_rows : int
        Larger training sets are sampled, by a stable hash of date and ad.
    folds : int
        Folds of the out-of-fold text score.
    refit : bool
        Whether members that were stopped on the last days of the rows are fitted again on all of them.
    text_history_impressions : float
        An ad with this many impressions in 28 days has half of its text's effect estimated apart from that of a new ad.
    confidence_impressions : float
        ``confidence_score`` = n / (n + this), n = ``prior_impressions``.
    topics : int
        Words named in ``topics``.
    n_estimators, learning_rate, max_depth, min_child_weight, reg_lambda
        Of the boosted trees; the last two in clicks after division by the dispersion between ads.
    text : mapping
        Arguments of the text score other than its defaults.
    min_leaf_ads : float
        A leaf also needs this many average ads' worth of clicks: heavy ads, or ads with many days, are still few ads.
    linear_regularization, linear_alpha : float
        Ridge, in clicks after division by the dispersion, and learning rate of the linear model.
    epochs, network_components, device
        Most epochs of the network, columns of the components of text and image that it gets, and where it runs:
        ``auto`` is a GPU when there is one.
    n_threads, random_state : int
        Threads and seed of trees and network.
    """

    modalities: tuple[str, ...] = (Modality.TABULAR, Modality.TEXT, Modality.IMAGE)
    half_life_days: float = 180.0
    calibration_days: int = 14
    outcome_days: int = 70
    early_stopping_days: int = 14
    max_rows: int = 500_000
    folds: int = 5
    refit: bool = True
    text_history_impressions: float = 5_000.0
    confidence_impressions: float = 1_000.0
    topics: int = 5
    n_estimators: int = 300
    learning_rate: float = 0.05
    max_depth: int = 4
    min_child_weight: float = 20.0
    reg_lambda: float = 20.0
    min_leaf_ads: float = 10.0
    text: Mapping[str, Any] | None = None
    linear_regularization: float = 20.0
    linear_alpha: float = 0.05
    epochs: int = 30
    network_components: int = 32
    device: str = "auto"
    n_threads: int = 2
    random_state: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(str(name) for name in self.modalities))
        if unknown := sorted(set(self.modalities) - set(Modality)):
            raise InputError(f"modalities must be among {shown(str(m) for m in Modality)}, however: {shown(unknown)}.")
        if min(self.half_life_days, self.confidence_impressions, self.text_history_impressions, self.max_rows) <= 0:
            raise InputError(
                "half_life_days, confidence_impressions, text_history_impressions and max_rows must be above 0."
            )

    @classmethod
    def of(cls, value: AdScoreConfig | Mapping[str, Any] | None) -> AdScoreConfig:
        """Return a config as it is, or one made of a mapping's values and the defaults.

        Raises
        ------
        InputError
            If the mapping has a key that is no hyperparameter.
        """
        if isinstance(value, cls):
            return value
        given, names = dict(value or {}), [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if unknown := sorted(set(given) - set(names)):
            raise InputError(f"The hyperparameters of the ad score are {', '.join(names)}; unknown: {shown(unknown)}.")
        return cls(**given)
