"""Target audience match: whether an ad pleases the audience it targets more than it pleases audiences at large.

The model of content × audience is here, with its arithmetic and file format; contents as numbers are in
`audience_content`, audiences in `audience_segments`. Predictions are made in
`ad_score`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator

from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.features.level_ridge import sums
from within_ml.features.text_input import checked_rates
from within_ml.lake.contracts import CAMPAIGN_KEY
from within_ml.models.audience_content import Content
from within_ml.models.audience_evidence import Evidence, empirical_bayes
from within_ml.models.audience_segments import (
    KINDS,
    Audience,
    audiences_of,
    contrasts,
    frequent_segments,
    is_named,
    membership,
    usual_membership,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

NEUTRAL = 50.0

_FILES = ("audience_match.json", "audience_match.npz")
_FORMAT_VERSION = 1
_REFERENCES = 2_000
_DECIMALS = 9
_RATE_FLOOR = 1e-6
_LOG = logging.getLogger(__name__)


class AudienceMatch(BaseEstimator):  # type: ignore[misc]
    """Learned interaction of content and audience, beyond what each of them does alone.

    The log-odds of a click of ad i, above ``base_margin``, are::

        z·a                              content: what the text does in all audiences
        + Σ d_s                          audience: what its segments do to all contents
        + Σ z·b_s                        match: what the content does in these segments and not in others
        + level of the campaign + noise

    z are the first components of the text (TF-IDF of words and word pairs of headline and body, and counts of the
    line, by a truncated SVD) and of the columns ``image_…``, where there are any. The segments s of an audience are its
    age band, its gender, the two together and each of its interests, so that an unseen combination is judged by the
    parts that are known; each counts by its difference from the usual audience. All effects are normal with a
    variance of their own per kind, estimated by their marginal likelihood (MacKay 1992, "Bayesian Interpolation",
    eq. 4.8): where the data show no interaction it shrinks to nothing. Rows of one text, audience and campaign are
    summed first.

    `score` is the percentile of the ad's match among the training contents shown to the same audience, drawn to 50 as
    far as that audience's match is not known: ``50 + reliability · (percentile - 50)``, reliability being the share of
    the variance of the match that is estimated signal. Segments with few clicks score 50.

    Parameters
    ----------
    components : int
        Components of the content.
    max_interests : int
        Most frequent interests that are segments of their own.
    style_weight : float
        Size of one standard deviation of a count beside a TF-IDF row of length one.
    residual_variance : float
        Variance of log-odds between ads of one campaign that no number of clicks removes.
    level_variance : float
        Variance of the campaigns' levels above ``base_margin``, log-odds²; used where X names the campaigns.
    max_iter : int
        Steps of the estimation of variances.
    max_ads : int
        Of more distinct texts × audiences × campaigns those with the most expected clicks are used.
    random_state : int
        Seed of the SVD and of the choice of the contents that percentiles are taken among.

    Attributes
    ----------
    segments_ : list of (kind, name)
    variances_ : dict of str to float
        Variance of the interaction by kind of segment, log-odds² for content of length one.

    Examples
    --------
    >>> words, ages = ("skate park opens", "garden roses bloom"), ("18-24", "55+")
    >>> X = pd.DataFrame(
    ...     [{"headline": f"{w} {i}", "audience_age": a, "audience_gender": "all"}
    ...      for i in range(40) for w in words for a in ages])
    >>> model = AudienceMatch(components=4).fit(X, [0.03, 0.02, 0.02, 0.03] * 40, sample_weight=[5_000] * 160)
    >>> young, old, nobody = model.score(pd.DataFrame(
    ...     {"headline": "skate park", "audience_age": ["18-24", "55+", None], "audience_gender": [None, "all", None]}))
    >>> bool(young > 60), bool(old < 40), bool(np.isnan(nobody))
    (True, True, True)
    """

    def __init__(
        self,
        *,
        components: int = 16,
        max_interests: int = 12,
        style_weight: float = 0.06,
        residual_variance: float = 0.05,
        level_variance: float = 0.1,
        max_iter: int = 50,
        max_ads: int = 50_000,
        random_state: int = 0,
    ) -> None:
        self.components = components
        self.max_interests = max_interests
        self.style_weight = style_weight
        self.residual_variance = residual_variance
        self.level_variance = level_variance
        self.max_iter = max_iter
        self.max_ads = max_ads
        self.random_state = random_state

    def fit(
        self,
        X: pd.DataFrame,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        base_margin: ArrayLike | None = None,
    ) -> Self:
        """Learn from rates.

        Parameters
        ----------
        X : DataFrame, shape (n, …)
            ``headline``, ``audience_age``, ``audience_gender``; and, where they exist, ``body``, ``interests``, numbers
            named ``image_…`` and the campaign's key. The same ad may have many rows.
        y : array-like, shape (n,)
            Clicks / impressions, in [0, 1].
        sample_weight : array-like, shape (n,), optional
            Impressions.
        base_margin : array-like, shape (n,), optional
            Log-odds that are known without content and audience, such as the account's; by default those of the mean.

        Raises
        ------
        InputError
            If a column is missing, a length differs, a rate is outside [0, 1], a weight is negative or all are 0, or a
            parameter is out of range.
        """
        self._check_parameters()
        audiences, of_row = audiences_of(X)
        rate, impressions, campaign = checked_rates(len(X), y, sample_weight, _campaigns(X))
        expected = impressions * expit(_checked_margin(base_margin, rate, impressions))
        self.content_ = Content.learn(X, self.components, self.style_weight, self.random_state)
        z, known = self.content_.of(X)
        weight = sums(of_row, expected, len(audiences))
        self.segments_ = frequent_segments(audiences, weight, self.max_interests)
        self.usual_ = usual_membership(membership(audiences, self.segments_), self.segments_, weight)
        clicks, expected = np.where(known, rate * impressions, 0.0), np.where(known, expected, 0.0)
        rows = Evidence.summed(np.column_stack([of_row, campaign]), z, clicks, expected, self.max_ads)
        self._solve(rows, self._shares(audiences))
        _LOG.info(
            "audience match: %d rows, %d ads, %d segments, interaction variances %s",
            len(X), rows.clicks.size, len(self.segments_), {k: round(v, 4) for k, v in self.variances_.items()},
        )  # fmt: skip
        return self

    def interaction(self, X: pd.DataFrame) -> FloatArray:
        """Return the match in log-odds, shape (n,): above that of the usual content in the same audience.

        NaN where the ad names no audience or has no content.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        InputError
            If a column is missing.
        """
        z, known, audiences, of_row = self._read(X)
        slopes = self._shares(audiences) @ self.slopes_
        match = np.einsum("ik,ik->i", z - self.reference_.mean(axis=0), slopes[of_row])
        return np.where(known & is_named(audiences)[of_row], match, np.nan)

    def score(self, X: pd.DataFrame) -> FloatArray:
        """Return the target audience match, 0 to 100, shape (n,).

        NaN where the ad names no audience or has no content; 50 where nothing is known of its audience.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        InputError
            If a column is missing.
        """
        z, known, audiences, of_row = self._read(X)
        shares = self._shares(audiences)
        slopes, certainty = shares @ self.slopes_, self._certainty(shares)
        result = np.full(len(X), np.nan)
        for code in np.flatnonzero(is_named(audiences)):
            rows = np.flatnonzero((of_row == code) & known)
            among = np.sort(np.einsum("ik,k->i", self.reference_, slopes[code]))
            match = np.einsum("ik,k->i", z[rows], slopes[code])
            # Ties, such as all of them where nothing is known, stand in their middle.
            below, upto = (np.searchsorted(among, match, side) for side in ("left", "right"))
            result[rows] = NEUTRAL + certainty[code] * (50.0 * (below + upto) / among.size - NEUTRAL)
        return np.round(result, _DECIMALS)

    def save(self, folder: Path) -> None:
        """Write `audience_match.json` and `audience_match.npz` into an existing folder; no text of any ad is in them.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        self._check_fitted()
        state = {
            "format_version": _FORMAT_VERSION,
            "parameters": self.get_params(),
            "segments": self.segments_,
            "variances": self.variances_,
            "images": list(self.content_.images),
            "style_weight": self.content_.style_weight,
        }
        (folder / _FILES[0]).write_text(json.dumps(state, indent=2), encoding="utf-8")
        names = ("slopes", "uncertainty", "reference", "usual")
        arrays = {name: getattr(self, f"{name}_") for name in names}
        np.savez(folder / _FILES[1], allow_pickle=False, **arrays, **self.content_.arrays())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the scores are the same to the last bit.

        Raises
        ------
        ModelFormatError
            If a file is missing, damaged, or of another version.
        """
        try:
            state = json.loads((folder / _FILES[0]).read_text(encoding="utf-8"))
            if state["format_version"] != _FORMAT_VERSION:
                raise ModelFormatError(f"{folder} has format {state['format_version']}; {_FORMAT_VERSION} is known.")
            with np.load(folder / _FILES[1], allow_pickle=False) as archive:
                arrays = dict(archive)
            model = cls(**state["parameters"])
            model.segments_ = [(str(kind), str(name)) for kind, name in state["segments"]]
            model.variances_ = {str(kind): float(v) for kind, v in state["variances"].items()}
            model.slopes_, model.uncertainty_ = arrays["slopes"], arrays["uncertainty"]
            model.reference_, model.usual_ = arrays["reference"], arrays["usual"]
            model.content_ = Content.restored(arrays, tuple(state["images"]), float(state["style_weight"]))
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            raise ModelFormatError(f"{folder} must hold a saved AudienceMatch; it does not ({error}).") from error
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        tags.input_tags.allow_nan = tags.target_tags.required = True
        return tags

    def _check_parameters(self) -> None:
        wrong = min(self.components, self.max_ads, self.max_iter) < 1 or self.max_interests < 0
        if wrong or min(self.style_weight, self.level_variance) <= 0 or self.residual_variance < 0:
            raise InputError(
                "components, max_ads and max_iter must be at least 1, max_interests and residual_variance not negative "
                f"and style_weight and level_variance above 0, however: {self.get_params()}."
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "slopes_"):
            raise NotFittedError("AudienceMatch must be fitted or loaded first; call fit or AudienceMatch.load.")

    def _read(self, X: pd.DataFrame) -> tuple[FloatArray, BoolArray, list[Audience], IntArray]:
        self._check_fitted()
        return *self.content_.of(X), *audiences_of(X)

    def _shares(self, audiences: Sequence[Audience]) -> FloatArray:
        """Membership of each audience beyond the usual one, shape (n_audiences, n_segments)."""
        return contrasts(membership(audiences, self.segments_), self.segments_, self.usual_)

    def _solve(self, rows: Evidence, shares: FloatArray) -> None:
        """Estimate all effects; keep the interaction's slopes and how uncertain they are."""
        k, kinds = rows.content.shape[1], [kind for kind, _ in self.segments_]
        # Content, segments, segments × content: blocks of columns, each with a variance of its own.
        blocks = [np.arange(k), k + np.arange(len(kinds))]
        start = k + len(kinds)
        for kind in KINDS:
            places = np.flatnonzero([found == kind for found in kinds])
            blocks.append(start + (places[:, None] * k + np.arange(k)).ravel())
        precision, moment = rows.normal_equations(shares, self.residual_variance, self.level_variance)
        coefficients, covariance, variances = empirical_bayes(precision, moment, blocks, self.max_iter)
        self.variances_ = {kind: float(v) for kind, v in zip(KINDS, variances[2:], strict=True)}
        self.slopes_ = coefficients[start:].reshape(len(kinds), k)
        self.reference_ = rows.sample(_REFERENCES, self.random_state)
        spread = np.cov(self.reference_.T, bias=True).reshape(k, k)
        between = covariance[start:, start:].reshape(len(kinds), k, len(kinds), k)
        self.uncertainty_ = np.einsum("skul,kl->su", between, spread)

    def _certainty(self, shares: FloatArray) -> FloatArray:
        """Share of the variance of the match over contents that is estimated signal, shape (n_audiences,)."""
        slopes, k = shares @ self.slopes_, self.reference_.shape[1]
        spread = np.cov(self.reference_.T, bias=True).reshape(k, k)
        signal = np.einsum("ak,kl,al->a", slopes, spread, slopes)
        noise = np.einsum("as,su,au->a", shares, self.uncertainty_, shares)
        return np.asarray(np.divide(signal, signal + noise, out=np.zeros_like(signal), where=signal > 0))


def _campaigns(X: pd.DataFrame) -> IntArray | None:
    keys = [name for name in CAMPAIGN_KEY if name in X.columns]
    return X.groupby(keys, sort=True, dropna=False).ngroup().to_numpy() if keys else None


def _checked_margin(base_margin: ArrayLike | None, rate: FloatArray, weight: FloatArray) -> FloatArray:
    if base_margin is None:
        mean = np.clip(np.average(rate, weights=weight), _RATE_FLOOR, 1 - _RATE_FLOOR)
        return np.full(rate.size, logit(mean))
    margin = np.asarray(base_margin, dtype=np.float64)
    if margin.shape != rate.shape or not np.isfinite(margin).all():
        raise InputError(f"base_margin must be finite with shape {rate.shape}, however: {margin.shape}.")
    return margin
