"""What is left after level and text: the members of a model type and how much each of them counts.

A correction is a weighted sum of the members' own, on the log-odds scale, so that its reasons add up too. The members
are in `members`, the search for weights is in `within_ml.ensemble`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.ad_score import terms
from within_ml.ad_score.config import AdScoreConfig, Modality, ScoreModelType
from within_ml.ad_score.members import Linear, Member, Network, Rows, Trees
from within_ml.ensemble.weights import simplex_weights
from within_ml.errors import InputError
from within_ml.explain.contributions import Contributions, combined
from within_ml.splits import OutOfTimeSplit

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)

MEMBERS: Mapping[ScoreModelType, Mapping[str, type[Trees] | type[Linear] | type[Network]]] = {
    ScoreModelType.ENSEMBLE: {"trees": Trees, "linear": Linear},
    ScoreModelType.LINEAR: {"linear": Linear},
    ScoreModelType.NN: {"network": Network},
}
"""The members of each model type; beside them stands no correction at all, which gets the weight that is left."""

_STATE_FILE = "corrections.json"


class Corrections:
    """The members of a model type, weighted.

    Parameters
    ----------
    kind : ScoreModelType
    config : AdScoreConfig
    features : sequence of str
        Numeric columns that the members may use.

    Attributes
    ----------
    members_ : dict of str to Member
        Empty where there were no features or no later rows.
    weights_ : dict of str to float
        Each in [0, 1]; what is missing to 1 is the weight of correcting nothing.
    """

    def __init__(self, kind: ScoreModelType, config: AdScoreConfig, features: list[str]) -> None:
        self.kind = kind
        self.config = config
        self.features = features

    def fit(self, rows: Rows, later: Rows | None) -> Self:
        """Fit members and weights: on later rows where given, else on the last days of these, then again on all."""
        # A column without any value says nothing, but would take its share of the trees' sampling of columns.
        self.features = [name for name in self.features if rows.X[name].notna().any()]
        self.members_: dict[str, Member] = {}
        self.weights_: dict[str, float] = {}
        if not self.features and Modality.TEXT not in self.config.modalities:
            return self
        if not self.features and self.kind is not ScoreModelType.NN:
            return self
        if later is not None:
            return self._fit(rows, later)
        try:
            split = OutOfTimeSplit(self.config.early_stopping_days, 0).split(rows.X["date"])
        except InputError:
            logger.warning("ad score: no later rows to stop on, so that nothing is fitted beside level and text")
            return self
        self._fit(_part(rows, split.train), _part(rows, split.validation))
        if self.config.refit:
            for member in self.used().values():
                member.fit(rows, None)
        return self

    def update(self, rows: Rows) -> None:
        """Let the members that can learn on go on with later rows."""
        for member in self.used().values():
            member.update(rows)

    def of(self, X: pd.DataFrame) -> FloatArray:
        """Return what is added to the log-odds of each row, shape (n,)."""
        total = np.zeros(len(X))
        for name, member in self.used().items():
            total += self.weights_[name] * member.correction(X)
        return total

    def used(self) -> dict[str, Member]:
        """Return the members that count."""
        return {name: member for name, member in self.members_.items() if self.weights_[name]}

    def contributions(self, X: pd.DataFrame) -> list[Contributions]:
        """Return the weighted parts of each member that counts."""
        return [combined([member.contributions(X)], [self.weights_[name]]) for name, member in self.used().items()]

    def importance(self) -> dict[str, float]:
        """Return the share of each feature; sums to 1, or is empty."""
        shares: dict[str, float] = {}
        for name, member in self.used().items():
            for feature, share in member.importance().items():
                shares[feature] = shares.get(feature, 0.0) + self.weights_[name] * share
        total = sum(shares.values())
        return {name: share / total for name, share in shares.items()} if total else {}

    def save(self, folder: Path) -> None:
        """Write weights and the members that count into an existing folder."""
        (folder / _STATE_FILE).write_text(json.dumps({"weights": self.weights_}, indent=2), encoding="utf-8")
        for name, member in self.used().items():
            (folder / name).mkdir()
            member.save(folder / name)

    @classmethod
    def load(cls, folder: Path, kind: ScoreModelType, config: AdScoreConfig, features: list[str]) -> Self:
        """Read what `save` wrote; errors of parsing are the caller's to name."""
        part = cls(kind, config, features)
        part.weights_ = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))["weights"]
        used = [name for name, weight in part.weights_.items() if weight]
        part.members_ = {name: MEMBERS[kind][name].load(folder / name, config, features) for name in used}
        return part

    def _fit(self, rows: Rows, later: Rows) -> Self:
        for name, kind in MEMBERS[self.kind].items():
            self.members_[name] = kind(self.config, self.features).fit(rows, later)
        corrections = [later.base + member.correction(later.X) for member in self.members_.values()]
        weights = simplex_weights(np.column_stack([later.base, *corrections]), later.y, later.w)
        self.weights_ = {
            name: _rounded(weight) for name, weight in zip(self.members_, weights[1:].tolist(), strict=True)
        }
        return self


def _rounded(weight: float) -> float:
    """A weight below 1 % is none: its member would cost its time every night for nothing."""
    return round(weight, 4) if weight >= 0.01 else 0.0


def _part(rows: Rows, mask: NDArray[np.bool_]) -> Rows:
    return Rows(rows.X[mask].reset_index(drop=True), rows.y[mask], rows.w[mask], rows.base[mask])


def rows_of(X: pd.DataFrame, y: FloatArray, w: FloatArray, margin: FloatArray, dispersion: float) -> Rows:
    """Return rows to correct, from impressions as weights and log-odds without the weeks' shifts."""
    return Rows(X, y, w / dispersion, terms.with_week_shifts(margin, y, w / dispersion, X["date"]))
