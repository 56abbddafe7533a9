"""The hyperparameters of account health, its levels and its kinds of model. What they do is in the other modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from within_ml.base import ModelKind
from within_ml.errors import InputError, shown

HORIZONS = (14, 30, 90)
"""Days within which the risk of churn is told."""


class HealthModelType(ModelKind):
    """What the risks are predicted with."""

    BOOSTED = "boosted"
    """Boosted trees and an additive logistic model, weighed by what they are worth on accounts they have not seen."""
    LOGISTIC = "logistic"
    """The additive logistic model alone."""


class RiskLevel(StrEnum):
    """What a probability of a bad state is called."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class RiskThresholds:
    """The least probability of a bad state of each level; below ``medium`` the risk is low.

    Examples
    --------
    >>> RiskThresholds(medium=0.2).levels(np.array([0.1, 0.3, 0.9])).tolist()
    ['low', 'medium', 'critical']
    """

    medium: float = 0.15
    high: float = 0.35
    critical: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.medium < self.high < self.critical < 1:
            raise InputError(
                "risk_thresholds must be probabilities that rise from medium over high to critical, however: "
                f"{self.medium}, {self.high}, {self.critical}."
            )

    @classmethod
    def of(cls, value: RiskThresholds | Mapping[str, float] | Sequence[float] | None) -> RiskThresholds:
        """Return thresholds given as they are, by level, or as three numbers.

        Raises
        ------
        InputError
            If a level is unknown, or the numbers are not three that rise.
        """
        if isinstance(value, RiskThresholds):
            return value
        if value is None:
            return cls()
        names = [field.name for field in fields(cls)]
        if isinstance(value, Mapping):
            given = {str(name): threshold for name, threshold in value.items()}
            if unknown := sorted(set(given) - set(names)):
                raise InputError(f"risk_thresholds has the levels {', '.join(names)}; unknown: {shown(unknown)}.")
            return cls(**{name: float(threshold) for name, threshold in given.items()})
        if len(value) != len(names):
            raise InputError(f"risk_thresholds must be {len(names)} probabilities, however: {shown(value)}.")
        return cls(*map(float, value))

    def levels(self, probability: NDArray[np.float64]) -> NDArray[np.object_]:
        """Return the level of each probability, shape (n,)."""
        place = np.digitize(probability, [self.medium, self.high, self.critical])
        return np.array([str(level) for level in RiskLevel], dtype=object)[place]


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Every hyperparameter of account health.

    Parameters
    ----------
    folds : int
        Folds of accounts on which weights, trees and calibration are chosen.
    n_estimators, learning_rate, max_depth, min_child_weight, reg_lambda, subsample, colsample_bytree
        Of the boosted trees; ``n_estimators`` and ``min_child_weight`` are the most, small tables get less.
    early_stopping_rounds : int
        Trees without improvement on accounts not seen, after which no more are grown.
    step_days : int
        Days from one training row of an account to its next.
    max_rows : int
        Of more training rows those without the outcome are sampled.
    confidence : float
        Of the intervals of the risk of churn.
    false_alarm_rate : float
        Share of its days on which an account that stays may have an early warning, on average.
    min_effect : float
        Least fall of the predicted probability that makes a change worth recommending.
    factors, actions : int
        How many of them a row of ``account_health`` tells.
    n_threads, random_state : int
        Threads of the trees and seed of all that is random.
    """

    folds: int = 5
    n_estimators: int = 500
    learning_rate: float = 0.04
    max_depth: int = 4
    min_child_weight: float = 5.0
    reg_lambda: float = 5.0
    subsample: float = 0.8
    colsample_bytree: float = 0.7
    early_stopping_rounds: int = 40
    step_days: int = 7
    max_rows: int = 20_000
    confidence: float = 0.9
    false_alarm_rate: float = 0.1
    min_effect: float = 0.005
    factors: int = 5
    actions: int = 3
    n_threads: int = 1
    random_state: int = 0

    def __post_init__(self) -> None:
        if min(self.folds, self.step_days, self.n_estimators, self.factors, self.actions) < 1 or self.folds < 2:
            raise InputError("folds must be at least 2; step_days, n_estimators, factors and actions at least 1.")
        if not (0 < self.confidence < 1 and 0 < self.false_alarm_rate < 1 and self.min_effect >= 0):
            raise InputError("confidence and false_alarm_rate must be between 0 and 1, min_effect at least 0.")

    @classmethod
    def of(cls, value: HealthConfig | Mapping[str, Any] | None) -> HealthConfig:
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
            raise InputError(
                f"The hyperparameters of account health are {', '.join(names)}; unknown: {shown(unknown)}."
            )
        return cls(**given)
