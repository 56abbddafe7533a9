"""Why an ad has its score: the exact parts of its log-odds, beside what is usual for its account.

How parts are computed and worded is in `within_ml.explain`; here is which parts the ad score has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.ad_score import terms
from within_ml.ad_score.corrections import Corrections
from within_ml.ad_score.level_text import LevelAndText
from within_ml.base import HORIZON_DAYS
from within_ml.explain.contributions import Contributions, combined
from within_ml.explain.reasons import Reasons, UsualValues, reasons
from within_ml.explain.similar import SimilarAd, SimilarAds
from within_ml.splits import to_days

FloatArray = NDArray[np.float64]

_USUAL_ROWS = 20_000
_STATE_FILE = "usual.json"


@dataclass(frozen=True, slots=True)
class Explained:
    """Parts of the log-odds of rows, and the words that the text's part is mostly of, one text per row."""

    contributions: Contributions
    words: tuple[str, ...]


def explained(base: LevelAndText, corrections: Corrections, X: pd.DataFrame) -> Explained:
    """Return the exact SHAP values of each row's log-odds before calibration, beside the average training row.

    Level, text and linear member are sums, whose SHAP value is the distance from the average; the trees' are those of
    Lundberg et al. 2020. The members' count by their weights.
    """
    level, text, words = base.contributions(X)
    return Explained(combined([level, text, *corrections.contributions(X)]), words)


class Explainer:
    """What is usual for an account: the values of its features, and the parts of its predictions.

    A reason says what is unlike the account's usual ad, and by how much that moves the prediction; so its part is
    counted from the account's usual part as well. Parts and base still add up to the log-odds.
    """

    def fit(self, base: LevelAndText, corrections: Corrections, X: pd.DataFrame, y: FloatArray, w: FloatArray) -> Self:
        """Learn from the latest rows, in the order of `terms.training_order`, what is usual and which ads did well."""
        latest = X.iloc[-_USUAL_ROWS:]
        accounts = terms.account_names(latest)
        parts = explained(base, corrections, latest).contributions
        self.parts_ = UsualValues.fit(pd.DataFrame(parts.values, columns=list(parts.names)), accounts)
        self.values_ = UsualValues.fit(_numbers(latest, parts.names), accounts)
        # One row of an ad in each week: labels of neighbouring days share their clicks.
        day = to_days(X["date"])
        weekly = (day.max() - day).astype(np.int64) % HORIZON_DAYS == 0
        rows = X[weekly]
        keys = rows[["platform", "account_id", "campaign_id", "ad_id"]]
        self.similar_ = SimilarAds().fit(_texts(rows), y[weekly], w[weekly], keys, rows["date"])
        return self

    def reasons(
        self, found: Explained, X: pd.DataFrame, to_rate: Callable[[FloatArray], FloatArray], k: int
    ) -> Reasons:
        """Return the ``k`` strongest reasons of each row."""
        accounts = terms.account_names(X)
        usual = Contributions.of(self.parts_.features, self.parts_.table, base=0.0)
        parts = found.contributions.beside(usual, self.parts_.rows(accounts))
        numbers = _numbers(X, parts.names)
        return reasons(parts, numbers, accounts, self.values_, to_rate, k=k, words=found.words)

    def similar(self, X: pd.DataFrame, k: int) -> list[tuple[SimilarAd, ...]]:
        """Return the nearest ads of each row's account that did well; what other accounts' ads did is theirs."""
        keys = X[["platform", "account_id", "campaign_id", "ad_id"]]
        return self.similar_.find(_texts(X), k=k, keys=keys, within="account")

    def save(self, folder: Path) -> None:
        """Write the state into an existing folder."""
        state = {"parts": self.parts_.to_dict(), "values": self.values_.to_dict()}
        (folder / _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
        self.similar_.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; errors of parsing are the caller's to name."""
        state: Mapping[str, Any] = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        explainer = cls()
        explainer.parts_ = UsualValues.from_dict(state["parts"])
        explainer.values_ = UsualValues.from_dict(state["values"])
        explainer.similar_ = SimilarAds.load(folder)
        return explainer


def _numbers(X: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Return the parts' features that are columns of numbers."""
    known = [name for name in names if name in X.columns and name not in ("platform", "account_id")]
    return X[known].astype(np.float64)


def _texts(X: pd.DataFrame) -> list[str | None]:
    texts: list[str | None] = X["headline"].astype(object).where(X["headline"].notna(), None).tolist()
    return texts
