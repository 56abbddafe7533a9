"""What a model has to beat: three predictors that anyone could write in an afternoon.

They use scikit-learn directly and nothing of the models they are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, NotFittedError
from within_ml.metrics import check_rates

FloatArray = NDArray[np.float64]

_CAMPAIGN = ["platform", "account_id", "campaign_id"]
_ACCOUNT = ["platform", "account_id"]


class Predictor(Protocol):
    """Anything that predicts a rate per row."""

    def predict(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Return rates in [0, 1], shape (n,)."""
        ...


class GlobalRate:
    """The training rows' click-through rate, for everyone.

    Examples
    --------
    >>> X = pd.DataFrame({"campaign_id": ["c", "d"]})
    >>> GlobalRate().fit(X, [0.01, 0.03], sample_weight=[300, 100]).predict(X)
    array([0.015, 0.015])
    """

    def fit(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Keep the mean rate by impressions."""
        self.rate_ = _rate(*_checked(X, y, sample_weight))
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return the rate for each row."""
        _require(self, "rate_")
        return np.full(len(X), self.rate_)


class SmoothedCampaignRate:
    """The campaign's click-through rate, smoothed by its account's, smoothed by the overall one.

    Where the rows carry what campaign and account have shown as of their day (``campaign_impressions_28d``,
    ``campaign_clicks_28d`` and the same of the account), that is used, being newer; else the training rows' outcomes.

    Parameters
    ----------
    strength : float
        Impressions of the parent's rate that are added to the child's own.

    Examples
    --------
    >>> X = pd.DataFrame({"platform": "meta", "account_id": "a", "campaign_id": ["c", "d"]})
    >>> model = SmoothedCampaignRate(strength=100).fit(X, [0.01, 0.03], sample_weight=[100, 100])
    >>> model.predict(X).round(3)
    array([0.015, 0.025])
    """

    def __init__(self, *, strength: float = 1000.0) -> None:
        self.strength = strength

    def fit(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Keep clicks and impressions by campaign and account."""
        rate, weight = _checked(X, y, sample_weight)
        self.rate_ = _rate(rate, weight)
        counts = X[_CAMPAIGN].assign(clicks=rate * weight, impressions=weight)
        self.counts_ = {
            "campaign": counts.groupby(_CAMPAIGN)[["clicks", "impressions"]].sum(),
            "account": counts.groupby(_ACCOUNT)[["clicks", "impressions"]].sum(),
        }
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return the smoothed rate of each row's campaign; an unknown campaign gets its account's, and so on."""
        _require(self, "rate_")
        rate = np.full(len(X), self.rate_)
        for grain, keys in (("account", _ACCOUNT), ("campaign", _CAMPAIGN)):
            clicks, impressions = self._counts(X, grain, keys)
            rate = (clicks + self.strength * rate) / (impressions + self.strength)
        return rate

    def _counts(self, X: pd.DataFrame, grain: str, keys: list[str]) -> tuple[FloatArray, FloatArray]:
        columns = [f"{grain}_clicks_28d", f"{grain}_impressions_28d"]
        if all(column in X.columns for column in columns):
            values = X[columns]
        else:
            known = self.counts_[grain]
            values = known.reindex(pd.MultiIndex.from_frame(X[keys]))
        array = np.nan_to_num(values.to_numpy(dtype=np.float64))
        return array[:, 0], array[:, 1]


class TfidfRidge:
    """TF-IDF of the headline's words and word pairs, and a ridge regression of the rate, weighted by impressions.

    Rows with one headline are one text: their clicks and impressions are summed first.

    Parameters
    ----------
    alpha : float
        Ridge penalty, where the weights have mean 1.

    Examples
    --------
    >>> X = pd.DataFrame({"headline": ["good news", "bad news", "good day", "bad day"]})
    >>> model = TfidfRidge(alpha=0.1, min_df=1).fit(X, [0.03, 0.01, 0.03, 0.01], sample_weight=[100] * 4)
    >>> model.predict(pd.DataFrame({"headline": ["good", "bad"]})).round(3)
    array([0.03, 0.01])
    """

    def __init__(self, *, alpha: float = 5.0, min_df: int = 2) -> None:
        self.alpha = alpha
        self.min_df = min_df

    def fit(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Fit; without a word that ``min_df`` headlines share it is the global rate."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import Ridge

        rate, weight = _checked(X, y, sample_weight)
        self.rate_ = _rate(rate, weight)
        counts = pd.DataFrame({"text": _text(X), "clicks": rate * weight, "impressions": weight})
        texts = counts.groupby("text", sort=True).sum()
        texts = texts[texts["impressions"] > 0]
        self.vectorizer_ = TfidfVectorizer(ngram_range=(1, 2), min_df=self.min_df, sublinear_tf=True)
        tokens = pd.Series([set(self.vectorizer_.build_analyzer()(text)) for text in texts.index])
        self.ridge_: Ridge | None = None
        if tokens.explode().value_counts().max() >= self.min_df:
            matrix = self.vectorizer_.fit_transform(texts.index)
            w = texts["impressions"].to_numpy()
            target = texts["clicks"].to_numpy() / w
            self.ridge_ = Ridge(alpha=self.alpha, solver="sparse_cg").fit(matrix, target, sample_weight=w / w.mean())
        return self

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return the rate of each headline, at least a tenth of the training rate and at most 1."""
        _require(self, "rate_")
        if self.ridge_ is None or not len(X):
            return np.full(len(X), self.rate_)
        raw = self.ridge_.predict(self.vectorizer_.transform(_text(X)))
        return np.clip(np.asarray(raw, dtype=np.float64), self.rate_ / 10, 1.0)


def fit_baselines(X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Mapping[str, Predictor]:
    """Fit the three baselines on the rows a model was allowed to see; return them by name."""
    return {
        "global_rate": GlobalRate().fit(X, y, sample_weight=sample_weight),
        "smoothed_campaign_rate": SmoothedCampaignRate().fit(X, y, sample_weight=sample_weight),
        "tfidf_ridge": TfidfRidge().fit(X, y, sample_weight=sample_weight),
    }


def _checked(X: pd.DataFrame, y: ArrayLike, sample_weight: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    rate, _, weight = check_rates(y, np.zeros(len(X)), sample_weight)
    if not weight.sum() > 0:
        raise InputError("A baseline is fitted on rows with impressions; the sum of sample_weight is 0.")
    return rate, weight


def _rate(rate: FloatArray, weight: FloatArray) -> float:
    return float(np.average(rate, weights=weight))


def _require(model: object, attribute: str) -> None:
    if not hasattr(model, attribute):
        raise NotFittedError(f"{type(model).__name__} must be fitted first; call fit.")


def _text(X: pd.DataFrame) -> pd.Series:
    return X["headline"].fillna("").astype(str)
