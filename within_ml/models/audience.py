"""Target audience match: whether an ad pleases the audience it targets more than it pleases audiences at large.

The model of content × audience is here, with its arithmetic and file format. Texts as sparse matrices are in
`features.ngrams`; what a prediction of the click-through rate is made of is in `ad_score`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator

from within_ml.errors import InputError, ModelFormatError, NotFittedError, shown
from within_ml.features.level_ridge import sums
from within_ml.features.ngrams import Weights
from within_ml.features.text_input import checked_rates, distinct_texts, encoded, has_text, style
from within_ml.lake.contracts import CAMPAIGN_KEY, UNKNOWN

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

AUDIENCE_COLUMNS = ("audience_age", "audience_gender", "interests")
"""Columns that name the audience; null or ``unknown`` names none. ``interests`` may be missing."""

NEUTRAL = 50.0

_FILES = ("audience_match.json", "audience_match.npz")
_FORMAT_VERSION = 1
_KINDS = ("age", "gender", "age × gender", "interest")
_IMAGE = "image_"
_MAX_DEVIATIONS = 6.0
_CHUNK = 5_000
_REFERENCES = 2_000
_DECIMALS = 9
_RATE_FLOOR = 1e-6
_PSEUDO_CLICKS = 2.0
_START_VARIANCE = 0.05
_VARIANCE_RANGE = (1e-6, 1.0)
_TOLERANCE = 1e-3
_LOG = logging.getLogger(__name__)

Segment = tuple[str, str]
Audience = tuple[Segment, ...]


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
    parts that are known. All effects are normal with a variance of their own per kind, estimated by their marginal
    likelihood (MacKay 1992, "Bayesian Interpolation", eq. 4.8): where the data show no interaction it shrinks to
    nothing. Rows of one text, audience and campaign are summed first.

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
        audiences, of_row = _audiences(X)
        rate, impressions, campaign = checked_rates(len(X), y, sample_weight, _campaigns(X))
        expected = impressions * expit(_checked_margin(base_margin, rate, impressions))
        self.content_ = _Content.learn(X, self.components, self.style_weight, self.random_state)
        z, known = self.content_.of(X)
        self.segments_ = _segments(audiences, sums(of_row, expected, len(audiences)), self.max_interests)
        clicks, expected = np.where(known, rate * impressions, 0.0), np.where(known, expected, 0.0)
        rows = _Evidence.summed(np.column_stack([of_row, campaign]), z, clicks, expected, self.max_ads)
        self._solve(rows, _membership(audiences, self.segments_))
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
        slopes = _membership(audiences, self.segments_) @ self.slopes_
        match = np.einsum("ik,ik->i", z - self.reference_.mean(axis=0), slopes[of_row])
        return np.where(known & _named(audiences)[of_row], match, np.nan)

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
        membership = _membership(audiences, self.segments_)
        slopes, certainty = membership @ self.slopes_, self._certainty(membership)
        result = np.full(len(X), np.nan)
        for code in np.flatnonzero(_named(audiences)):
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
        arrays = {"slopes": self.slopes_, "uncertainty": self.uncertainty_, "reference": self.reference_}
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
            model.reference_ = arrays["reference"]
            model.content_ = _Content.restored(arrays, tuple(state["images"]), float(state["style_weight"]))
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
        return *self.content_.of(X), *_audiences(X)

    def _solve(self, rows: _Evidence, membership: FloatArray) -> None:
        """Estimate all effects; keep the interaction's slopes and how uncertain they are."""
        k, kinds = rows.content.shape[1], [kind for kind, _ in self.segments_]
        # Content, segments, segments × content: blocks of columns, each with a variance of its own.
        blocks = [np.arange(k), k + np.arange(len(kinds))]
        start = k + len(kinds)
        for kind in _KINDS:
            places = np.flatnonzero([found == kind for found in kinds])
            blocks.append(start + (places[:, None] * k + np.arange(k)).ravel())
        precision, moment = rows.normal_equations(membership, self.residual_variance, self.level_variance)
        coefficients, covariance, variances = _empirical_bayes(precision, moment, blocks, self.max_iter)
        self.variances_ = {kind: float(v) for kind, v in zip(_KINDS, variances[2:], strict=True)}
        self.slopes_ = coefficients[start:].reshape(len(kinds), k)
        self.reference_ = rows.sample(_REFERENCES, self.random_state)
        spread = np.cov(self.reference_.T, bias=True).reshape(k, k)
        between = covariance[start:, start:].reshape(len(kinds), k, len(kinds), k)
        self.uncertainty_ = np.einsum("skul,kl->su", between, spread)

    def _certainty(self, membership: FloatArray) -> FloatArray:
        """Share of the variance of the match over contents that is estimated signal, shape (n_audiences,)."""
        slopes, k = membership @ self.slopes_, self.reference_.shape[1]
        spread = np.cov(self.reference_.T, bias=True).reshape(k, k)
        signal = np.einsum("ak,kl,al->a", slopes, spread, slopes)
        noise = np.einsum("as,su,au->a", membership, self.uncertainty_, membership)
        return np.asarray(np.divide(signal, signal + noise, out=np.zeros_like(signal), where=signal > 0))


@dataclass(frozen=True, slots=True)
class _Content:
    """What turns ads into components: n-grams, counts and image statistics on the axes of an SVD.

    ``axes`` has shape (n_columns, k); ``image_fill`` is the training mean that stands for a missing statistic.
    """

    line: Weights
    body: Weights
    mean: FloatArray
    scale: FloatArray
    images: tuple[str, ...]
    image_mean: FloatArray
    image_scale: FloatArray
    style_weight: float
    axes: FloatArray

    @classmethod
    def learn(cls, X: pd.DataFrame, components: int, style_weight: float, random_state: int) -> _Content:
        from sklearn.utils.extmath import randomized_svd

        texts = distinct_texts(X)
        lines, bodies = encoded(texts)
        line, body = (Weights.learn(batch, "word", orders=(1, 2), min_texts=2) for batch in (lines, bodies))
        counts = style(texts)[has_text(texts)]
        images = tuple(str(c) for c in X.columns if str(c).startswith(_IMAGE) and pd.api.types.is_numeric_dtype(X[c]))
        content = cls(
            line, body, *_scales(counts), images, *_scales(_numbers(X, images)), style_weight, np.zeros((0, 0))
        )
        matrix, known = content._matrix(X)
        matrix = matrix[np.flatnonzero(known)]
        rank = min(components, *matrix.shape)
        if rank < 1:
            raise InputError("X must have an ad with a text or an image to learn from, however: none has one.")
        axes = randomized_svd(matrix, rank, random_state=random_state)[2].T
        return replace(content, axes=np.ascontiguousarray(axes))

    def of(self, X: pd.DataFrame) -> tuple[FloatArray, BoolArray]:
        """Return the components, shape (n, k), and whether there is any content, shape (n,)."""
        matrix, known = self._matrix(X)
        return np.asarray(matrix @ self.axes, dtype=np.float64), known

    def _matrix(self, X: pd.DataFrame) -> tuple[Any, BoolArray]:
        from scipy.sparse import csr_array, hstack

        texts = distinct_texts(X)
        lines, bodies = encoded(texts)
        counts = self.style_weight * _standard(style(texts), self.mean, self.scale)
        counts[~has_text(texts)] = 0.0
        words = hstack([self.line.matrix(lines), self.body.matrix(bodies), csr_array(counts)], format="csr")
        numbers = _numbers(X, self.images)
        pictures = self.style_weight * _standard(numbers, self.image_mean, self.image_scale)
        known = has_text(texts)[texts.of_row] | np.isfinite(numbers).any(axis=1)
        return hstack([words[texts.of_row], csr_array(pictures)], format="csr"), known

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the state that is arrays."""
        names = ("mean", "scale", "image_mean", "image_scale", "axes")
        kept: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in names}
        for name in ("line", "body"):
            weights = getattr(self, name)
            kept |= {f"{name}_columns": weights.columns, f"{name}_idf": weights.idf}
        return kept

    @classmethod
    def restored(cls, arrays: Mapping[str, Any], images: tuple[str, ...], style_weight: float) -> _Content:
        """Restore what `arrays` gave."""
        line, body = (
            Weights("word", (1, 2), arrays[f"{name}_columns"], arrays[f"{name}_idf"]) for name in ("line", "body")
        )
        mean, scale = arrays["image_mean"], arrays["image_scale"]
        return cls(line, body, arrays["mean"], arrays["scale"], images, mean, scale, style_weight, arrays["axes"])


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Clicks and expected clicks of each content × audience × campaign; arrays have one row for each of them."""

    content: FloatArray
    audience: IntArray
    campaign: IntArray
    clicks: FloatArray
    expected: FloatArray

    @classmethod
    def summed(
        cls, keys: IntArray, content: FloatArray, clicks: FloatArray, expected: FloatArray, max_ads: int
    ) -> _Evidence:
        """Sum the rows of one ad; ``keys`` are audience and campaign, shape (n, 2)."""
        texts = np.unique(content, axis=0, return_inverse=True)[1].reshape(-1)
        _, first, ad = np.unique(np.column_stack([keys, texts]), axis=0, return_index=True, return_inverse=True)
        ad = ad.reshape(-1)
        c, e = (sums(ad, values, first.size) for values in (clicks, expected))
        kept = np.sort(np.argsort(-e, kind="stable")[:max_ads])
        kept = kept[e[kept] > 0]
        campaign = np.unique(keys[first[kept], 1], return_inverse=True)[1]
        return cls(content[first[kept]], keys[first[kept], 0], campaign, c[kept], e[kept])

    def normal_equations(
        self, membership: FloatArray, residual_variance: float, level_variance: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return X'PX and X'Py of content, segments and segments × content; P is the precision of the rows.

        With W the weights and level variance s², P of one campaign's rows is ``W - W11'W / (1'W1 + 1/s²)`` (Woodbury).
        """
        level = np.log((self._sums(self.clicks) + 1) / (self._sums(self.expected) + 1))[self.campaign]
        usual = self.expected * np.exp(level)
        y = np.log((self.clicks + _PSEUDO_CLICKS) / (usual + _PSEUDO_CLICKS)) + level
        w = usual / (1 + residual_variance * usual)
        shrink = 1 / (self._sums(w) + 1 / level_variance)
        size = self.content.shape[1] * (1 + membership.shape[1]) + membership.shape[1]
        square, moment, levels = np.zeros((size, size)), np.zeros(size), np.zeros((shrink.size, size))
        for start in range(0, y.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            design = self._design(part, membership)
            square += (design.T * w[part]) @ design
            moment += design.T @ (w * y)[part]
            np.add.at(levels, self.campaign[part], design * w[part, None])
        square -= (levels.T * shrink) @ levels
        moment -= levels.T @ (shrink * self._sums(w * y))
        return square, moment

    def sample(self, count: int, random_state: int) -> FloatArray:
        """Return the contents of some ads, shape (at most count, k)."""
        chosen = np.random.default_rng(random_state).permutation(self.clicks.size)[:count]
        return np.ascontiguousarray(self.content[np.sort(chosen)])

    def _sums(self, values: FloatArray) -> FloatArray:
        return sums(self.campaign, values)

    def _design(self, part: slice, membership: FloatArray) -> FloatArray:
        z, u = self.content[part], membership[self.audience[part]]
        return np.hstack([z, u, (u[:, :, None] * z[:, None, :]).reshape(len(z), -1)])


def _empirical_bayes(
    precision: FloatArray, moment: FloatArray, blocks: Sequence[IntArray], steps: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return coefficients, their covariance and the variance of each block, by MacKay's fixed point."""
    variances: FloatArray = np.full(len(blocks), _START_VARIANCE)
    for _ in range(steps):
        penalty = np.ones(moment.size)
        for block, variance in zip(blocks, variances, strict=True):
            penalty[block] = 1 / variance
        covariance = np.asarray(np.linalg.inv(precision + np.diag(penalty)), dtype=np.float64)
        coefficients = covariance @ moment
        before = variances.copy()
        for i, block in enumerate(blocks):
            if block.size:
                known = block.size - covariance[block, block].sum() / variances[i]
                found = float(coefficients[block] @ coefficients[block]) / max(known, 1e-9)
                variances[i] = np.clip(found, *_VARIANCE_RANGE)
        if np.abs(np.log(variances / before)).max() < _TOLERANCE:
            break
    return coefficients, covariance, variances


def _audiences(X: pd.DataFrame) -> tuple[list[Audience], IntArray]:
    """Return the distinct audiences, each the segments it is part of, and which of them each row has."""
    columns = getattr(X, "columns", [])
    if missing := [name for name in AUDIENCE_COLUMNS[:2] if name not in columns]:
        raise InputError(
            f"X must be a DataFrame with {shown(AUDIENCE_COLUMNS[:2])}, however: {shown(missing)} missing."
        )
    named = [X[name] if name in columns else pd.Series([None] * len(X), dtype=object) for name in AUDIENCE_COLUMNS]
    texts = [column.astype(object).where(column.notna().to_numpy(), UNKNOWN).astype(str).to_numpy() for column in named]
    codes = [pd.factorize(text, sort=True) for text in texts]
    combined, of_row = np.unique(np.column_stack([code for code, _ in codes]), axis=0, return_inverse=True)
    names = [[str(names[c]) for (_, names), c in zip(codes, row, strict=True)] for row in combined.tolist()]
    return [_audience(*triple) for triple in names], of_row.reshape(-1).astype(np.int64)


def _audience(age: str, gender: str, interests: str) -> Audience:
    found: list[Segment] = [
        (kind, name) for kind, name in zip(_KINDS, (age, gender), strict=False) if name not in ("", UNKNOWN)
    ]
    if len(found) == 2:
        found.append((_KINDS[2], f"{age}/{gender}"))
    topics = {topic.strip().lower() for topic in interests.split(",")} - {"", UNKNOWN}
    return (*found, *((_KINDS[3], topic) for topic in sorted(topics)))


def _segments(audiences: Sequence[Audience], weight: FloatArray, max_interests: int) -> list[Segment]:
    """List the segments that rows have, of the interests only the heaviest."""
    total: dict[Segment, float] = {}
    for audience, w in zip(audiences, weight.tolist(), strict=True):
        for segment in audience if w > 0 else ():
            total[segment] = total.get(segment, 0.0) + w
    interests = sorted((s for s in total if s[0] == _KINDS[3]), key=lambda s: (-total[s], s))[:max_interests]
    return sorted([s for s in total if s[0] != _KINDS[3]] + interests)


def _membership(audiences: Sequence[Audience], segments: Sequence[Segment]) -> FloatArray:
    """Return the share of each segment in each audience, shape (n_audiences, n_segments); interests share one."""
    place = {segment: i for i, segment in enumerate(segments)}
    shares = np.zeros((len(audiences), len(segments)))
    for row, audience in zip(shares, audiences, strict=True):
        interests = max(sum(kind == _KINDS[3] for kind, _ in audience), 1)
        for segment in audience:
            if segment in place:
                row[place[segment]] = 1 / interests if segment[0] == _KINDS[3] else 1.0
    return shares


def _named(audiences: Sequence[Audience]) -> BoolArray:
    return np.array([bool(audience) for audience in audiences], dtype=bool)


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


def _numbers(X: pd.DataFrame, columns: Sequence[str]) -> FloatArray:
    if missing := [name for name in columns if name not in X.columns]:
        raise InputError(f"X must have the image statistics of fit; it lacks {shown(missing)}.")
    numbers = X[list(columns)].to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _scales(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and spread of each column, of those values that are there; 0 and 1 for a column of none."""
    there = np.isfinite(values)
    n = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, values, 0.0).sum(axis=0) / n
    spread = np.sqrt((np.where(there, values - mean, 0.0) ** 2).sum(axis=0) / n)
    return np.asarray(mean), np.where(spread > 0, spread, 1.0)


def _standard(values: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    """Deviations from the mean in units of the spread, clipped; 0 for what is missing."""
    return np.nan_to_num(np.clip((values - mean) / scale, -_MAX_DEVIATIONS, _MAX_DEVIATIONS))
