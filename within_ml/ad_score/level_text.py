"""The first two terms of the ad score: what the features say the level is, and what the text says beside it.

Everything else is fitted on top of them (`members`); what is told about the terms is in `reasons`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.ad_score import terms
from within_ml.ad_score.config import AdScoreConfig, Modality
from within_ml.calibration.level import estimate_level
from within_ml.explain.contributions import Contributions, linear_contributions
from within_ml.features.text_parts import WORDING
from within_ml.models.binomial import fit_binomial

if TYPE_CHECKING:
    from within_ml.features.text_score import TextScore

FloatArray = NDArray[np.float64]

_STATE_FILE = "level_text.json"
_TEXT_FOLDER = "text_score"


class LevelAndText:
    """Log-odds from the prior rate and the text.

    They are::

        logit(prior_ctr) + b0 + b1·text·(1-h) + b2·text·h

    ``text`` is the text score beside the account's usual one, which the level contains; h grows with the ad's own
    impressions, which know it better. The effects are fitted within weeks, each week's own shift taken out, since all
    ads of a week share what it did to the audience; b0 moves only as far as the weeks agree on it.

    Attributes
    ----------
    intercept_ : float
        b0.
    coefficients_ : array, shape (2,)
        b1 and b2; zeros where there is no text.
    dispersion_ : float
        Variance of rates between ads of a week in units of the binomial one, at least 1.
    period_sd_ : float
        Standard deviation of the weeks' own shifts of the log-odds.
    spread_ : tuple of float
        Standard deviations of level and of text over the training rows.

    Examples
    --------
    >>> from within_ml.ad_score.config import AdScoreConfig
    >>> X = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=4), "platform": "meta", "account_id": "a",
    ...     "campaign_id": "c", "ad_id": list("abcd"), "headline": None, "body": None, "prior_ctr": 0.5})
    >>> part = LevelAndText(AdScoreConfig())
    >>> np.abs(part.fit(X, np.full(4, 0.5), np.full(4, 100.0))).round(2)
    array([0., 0., 0., 0.])
    """

    def __init__(self, config: AdScoreConfig) -> None:
        self.config = config

    def fit(self, X: pd.DataFrame, y: FloatArray, w: FloatArray) -> FloatArray:
        """Fit on rows in the order of `terms.training_order`; return their log-odds, shape (n,), texts out of fold."""
        self.text_ = self._fit_text(X, y, w)
        level, weeks = terms.level(X), terms.weeks(X["date"])
        self.text_centre_, usual = terms.TextCentre.fit(X, self.text_, w)
        columns = self._effects(X, self.text_ - usual)
        # The text's effect is what it says within a week; what a whole week did is no ad's merit.
        first = estimate_level(level, y, w, weeks)
        fit = fit_binomial(columns, y, w, offset=level + first.by_row, ridge=np.ones(columns.shape[1]))
        after = estimate_level(level + columns @ fit.coefficients, y, w, weeks)
        self.intercept_, self.coefficients_ = after.shrunk, fit.coefficients
        self.dispersion_, self.period_sd_ = after.dispersion, after.period_sd
        text_term = columns @ self.coefficients_
        self.spread_ = (float(np.std(level)), float(np.std(text_term)))
        self.mean_ = (float(np.average(level, weights=w)), float(np.average(text_term, weights=w)))
        return level + self.intercept_ + text_term

    def margin(self, X: pd.DataFrame, text: FloatArray | None = None) -> FloatArray:
        """Return the log-odds of each row, shape (n,); ``text`` is its `text_score`, where that is known already."""
        return terms.level(X) + self.intercept_ + self.text_term(X, text)

    def text_term(self, X: pd.DataFrame, text: FloatArray | None = None) -> FloatArray:
        """Return what the text adds to the log-odds, shape (n,)."""
        text = self.text_score(X) if text is None else text
        columns = self._effects(X, text - self.text_centre_.of(X))
        term: FloatArray = columns @ self.coefficients_
        return term

    def text_effect(self, X: pd.DataFrame) -> FloatArray:
        """Return the effect of one unit of text score on the log-odds of each row, shape (n,)."""
        effect: FloatArray = self._effects(X, np.ones(len(X))) @ self.coefficients_
        return effect

    def contributions(self, X: pd.DataFrame) -> tuple[Contributions, Contributions, tuple[str, ...]]:
        """Return the parts of level and of text beside the average training row, and the words that moved the text."""
        level = linear_contributions(["prior_ctr"], [1.0], terms.level(X)[:, None], self.mean_[0])
        level = Contributions.of(level.names, level.values, base=level.base + self.intercept_)
        if self.text_model_ is None:
            return level, Contributions.of([], np.zeros((len(X), 0)), base=self.text_term(X)), ("",) * len(X)
        text = self.text_model_.contributions(X[["headline", "body"]])
        effect = self.text_effect(X)
        parts = text.values * effect[:, None]
        # What the account's usual text is worth is part of the wording.
        parts[:, text.names.index(WORDING)] -= effect * self.text_centre_.of(X) + self.mean_[1]
        return level, Contributions.of(text.names, parts, base=self.mean_[1]), text.words

    def text_score(self, X: pd.DataFrame) -> FloatArray:
        """Return the text score of each row, shape (n,); 0 without text."""
        if self.text_model_ is None or not len(X):
            return np.zeros(len(X))
        return np.asarray(self.text_model_.predict(X[["headline", "body"]]), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write the state into an existing folder."""
        state = {
            "intercept": self.intercept_,
            "coefficients": self.coefficients_.tolist(),
            "dispersion": self.dispersion_,
            "period_sd": self.period_sd_,
            "spread": self.spread_,
            "mean": self.mean_,
            "text_centre": asdict(self.text_centre_),
        }
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=2), encoding="utf-8")
        if self.text_model_ is not None:
            (folder / _TEXT_FOLDER).mkdir()
            self.text_model_.save(folder / _TEXT_FOLDER)

    @classmethod
    def load(cls, folder: Path, config: AdScoreConfig) -> Self:
        """Read what `save` wrote; errors of parsing are the caller's to name."""
        from within_ml.features.text_score import TextScore

        state: Mapping[str, Any] = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        part = cls(config)
        part.intercept_ = float(state["intercept"])
        part.coefficients_ = np.array(state["coefficients"], dtype=np.float64)
        part.dispersion_, part.period_sd_ = float(state["dispersion"]), float(state["period_sd"])
        part.spread_, part.mean_ = tuple(state["spread"]), tuple(state["mean"])
        part.text_centre_ = terms.TextCentre(**state["text_centre"])
        text = folder / _TEXT_FOLDER
        part.text_model_ = TextScore.load(text) if text.is_dir() else None
        return part

    def _fit_text(self, X: pd.DataFrame, y: FloatArray, w: FloatArray) -> FloatArray:
        self.text_model_: TextScore | None = None
        has_text = (X["headline"].notna() | X["body"].notna()).any()
        if Modality.TEXT not in self.config.modalities or not has_text:
            return np.zeros(len(X))
        from within_ml.features.text_score import TextScore

        self.text_model_ = TextScore(**(self.config.text or {}))
        return self.text_model_.fit_predict_out_of_fold(
            X[["headline", "body"]], y, sample_weight=w, groups=terms.campaigns(X), folds=self.config.folds
        )

    def _effects(self, X: pd.DataFrame, text: FloatArray) -> FloatArray:
        """Return the text of an ad without history and of one with much, shape (n, 2)."""
        n = np.nan_to_num(terms.optional(X, "ad_impressions_28d"))
        history = n / (n + self.config.text_history_impressions)
        return np.column_stack([text * (1 - history), text * history])
