"""The text score: what the words of an ad say about its click-through rate beside the other ads of its campaign.

A linear model on sparse word and character n-grams and the line's counts, learned from rates. Here are the model, its
out-of-fold scores and its file format; n-grams as matrices are in `ngrams`, counts without a model in `content`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator

from within_ml.errors import InputError, NotFittedError
from within_ml.features.level_ridge import Evidence, slope, solve, sums
from within_ml.features.ngrams import Encoded, Weights
from within_ml.features.text_files import FILES, FORMAT_VERSION, read_text_score
from within_ml.features.text_input import (
    Texts,
    checked_rates,
    distinct_texts,
    encoded,
    has_text,
    line_code,
    line_count_names,
    style,
)
from within_ml.features.text_parts import WORDING, TextContributions, WordParts

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_FITTED = ("slope_", "centre_", "level_variance_", "n_texts_")
_CHUNK = 20_000
_TEXTS_PER_THRESHOLD = 20_000
_MAX_DEVIATIONS = 6.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    unit: Literal["word", "char"]
    orders: tuple[int, ...]
    min_texts: int


_KINDS: Mapping[str, _Kind] = {
    "word": _Kind("word", (1, 2, 3), 2),
    "char": _Kind("char", (2, 3, 4), 3),
    "body": _Kind("word", (1, 2), 2),
}


@dataclass(frozen=True, slots=True)
class _Columns:
    """What turns texts into the matrix: n-grams of the line and of the body, and the line's standardised counts."""

    word: Weights
    char: Weights
    body: Weights
    mean: Floats
    scale: Floats


class TextScore(BaseEstimator):  # type: ignore[misc]
    """Ridge regression of an ad's log-odds of a click on its text, with a random level for each campaign.

    For ad i of campaign g: ``log-odds(ctr_i) = overall + level_g + score(text_i) + noise``, with ``level_g`` normal of
    variance `level_variance_` and noise of variance ``residual_variance + 1 / expected clicks``. Generalised least
    squares under this model centres features and target within each campaign by the share ``w / (w + 1 / level
    variance)``, w the campaign's precision: nearly wholly where several ads have clicks, less for a campaign of one ad,
    whose level then still says a little. (Henderson 1975, best linear unbiased prediction; the ridge on centred
    data is the limit of infinite level variance.) Rows of one text in one campaign are summed first, and a rate counts
    by its expected clicks, so that small ads do not dominate.

    Ridge shrinks, and the more so the fewer the rows: the score is multiplied by the slope of the rates on the
    out-of-fold scores (Copas 1983), so that its unit is log-odds and a text that says nothing scores 0.

    Parameters
    ----------
    alpha : float
        Precision of the prior on a coefficient, in units of 1 / log-odds².
    style_weight : float
        Size of one standard deviation of a count beside an n-gram row of length one.
    residual_variance : float
        Variance of log-odds between ads of one campaign that no number of clicks removes.
    level_variance : float or None
        Variance of log-odds between campaigns; None estimates it from the rows.
    folds : int
        Folds for the slope; at least 2.
    random_state : int
        Seed of the order in which campaigns go to folds.

    Attributes
    ----------
    slope_ : float
        The factor described above; 0 if the text says nothing about other campaigns.
    level_variance_ : float
    n_texts_ : int
        Distinct texts it was fitted on.

    Examples
    --------
    >>> ads = pd.DataFrame({"headline": [f"{word} shoes {i}" for i in range(40) for word in ("Free", "Dull")]})
    >>> ctr, impressions, campaign = [0.03, 0.01] * 40, [10_000] * 80, [i for i in range(40) for _ in range(2)]
    >>> model = TextScore().fit(ads, ctr, sample_weight=impressions, groups=campaign)
    >>> free, dull, empty = model.predict(pd.DataFrame({"headline": ["Free socks", "Dull socks", ""]}))
    >>> bool(free > 0.1), bool(dull < -0.1), float(empty)
    (True, True, 0.0)
    """

    def __init__(
        self,
        *,
        alpha: float = 100.0,
        style_weight: float = 0.06,
        residual_variance: float = 0.1,
        level_variance: float | None = None,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.alpha = alpha
        self.style_weight = style_weight
        self.residual_variance = residual_variance
        self.level_variance = level_variance
        self.folds = folds
        self.random_state = random_state

    def fit(
        self,
        X: pd.DataFrame,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
    ) -> Self:
        """Learn from rates; see `fit_predict_out_of_fold` for the parameters and errors."""
        self.fit_predict_out_of_fold(X, y, sample_weight=sample_weight, groups=groups, folds=self.folds)
        return self

    def fit_predict_out_of_fold(
        self,
        X: pd.DataFrame,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        folds: int = 5,
    ) -> Floats:
        """Fit on all rows and return for each row the score of a model that saw neither its campaign nor its line.

        Parameters
        ----------
        X : pandas.DataFrame, shape (n_rows, …)
            With ``headline`` and, if there is one, ``body``; null where there is none. The same ad may have many rows.
        y : shape (n_rows,)
            Rate, clicks / impressions, in [0, 1].
        sample_weight : shape (n_rows,), optional
            Impressions (or impressions × a decay), finite, not negative; 1 if not given.
        groups : shape (n_rows,), optional
            Campaign. Not given, all rows are one campaign and no score can be out of fold.
        folds : int
            At least 2; at most as many as there are campaigns are used.

        Returns
        -------
        numpy.ndarray, shape (n_rows,)
            Out-of-fold scores, log-odds; all 0 if there are fewer than 2 campaigns.

        Raises
        ------
        InputError
            If X has no ``headline``, is empty, or an array has the wrong length or range.
        """
        self._check(folds)
        texts = distinct_texts(X)
        rate, impressions, group = checked_rates(len(X), y, sample_weight, groups)
        lines, bodies = encoded(texts)
        self.columns_ = _learned(texts, lines, bodies)
        matrix = self._matrix(texts, lines, bodies)
        rows, of_input = self._evidence(texts, rate, impressions, group)
        out_of_fold = self._out_of_fold(matrix, rows, line_code(texts), folds)
        self.level_variance_ = rows.level_variance
        self.slope_ = slope(out_of_fold, rows)
        self.coefficients_ = solve(matrix, rows, alpha=self.alpha)
        self.centre_ = _mean(matrix @ self.coefficients_, rows)
        self.n_texts_ = len(texts.line)
        message = "text score: %d rows, %d texts, %d campaigns, %d columns, level variance %.3f, slope %.2f"
        n_groups = int(group.max()) + 1
        _LOG.info(message, len(X), self.n_texts_, n_groups, matrix.shape[1], self.level_variance_, self.slope_)
        return self.slope_ * out_of_fold[of_input]

    def predict(self, X: pd.DataFrame) -> Floats:
        """Return the score of each row: log-odds above the average text's, given the same campaign.

        Parameters
        ----------
        X : pandas.DataFrame, shape (n_rows, …)
            With ``headline`` and, if there is one, ``body``.

        Returns
        -------
        numpy.ndarray, shape (n_rows,)
            0 for a text that is null or empty.

        Raises
        ------
        NotFittedError, InputError
        """
        self._check_fitted()
        texts = distinct_texts(X)
        scores = np.zeros(len(texts.line))
        for start in range(0, len(scores), _CHUNK):
            part = texts.part(start, start + _CHUNK)
            raw = self._matrix(part, *encoded(part)) @ self.coefficients_
            scores[start : start + _CHUNK] = np.where(has_text(part), self.slope_ * (raw - self.centre_), 0.0)
        return scores[texts.of_row]

    def top_words(self, X: pd.DataFrame, k: int = 3) -> list[str]:
        """Return, for each row, the words of its text that move its score most, either way, comma separated.

        An n-gram's part of the score is shared by the words it touches; a word's part is the sum over its places.
        English function words and words of fewer than three letters are left out, though they count in the score.

        Parameters
        ----------
        X : pandas.DataFrame, shape (n_rows, …)
        k : int
            At most so many words; fewer where the text has fewer.

        Returns
        -------
        list of str, length n_rows
        """
        self._check_fitted()
        texts = distinct_texts(X)
        words: list[str] = []
        for start in range(0, len(texts.line), _CHUNK):
            part = texts.part(start, start + _CHUNK)
            words.extend(WordParts.of(self._word_shares(part), len(part.line)).strongest(k))
        return [words[i] for i in texts.of_row]

    def contributions(self, X: pd.DataFrame, *, words: int = 3) -> TextContributions:
        """Return what the line's counts and the words add to each row's score.

        A count's part is its distance from the average text's; that of all words together is beside the average text's
        as well. ``words`` of them are named.

        Returns
        -------
        TextContributions
            Its ``values`` add up to `predict`, exactly but for rounding.

        Raises
        ------
        NotFittedError, InputError
        """
        self._check_fitted()
        texts = distinct_texts(X)
        names = (*line_count_names(), WORDING)
        values, named = np.zeros((len(texts.line), len(names))), list[str]()
        for start in range(0, len(texts.line), _CHUNK):
            values[start : start + _CHUNK], found = self._parts(texts.part(start, start + _CHUNK), words)
            named.extend(found)
        return TextContributions(names, values[texts.of_row], tuple(named[i] for i in texts.of_row))

    def save(self, folder: Path) -> None:
        """Write `text_score.json` and `text_score.npz` into an existing folder; no text of any ad is in them."""
        self._check_fitted()
        columns = self.columns_
        arrays = {"coefficients": self.coefficients_, "mean": columns.mean, "scale": columns.scale}
        for kind in _KINDS:
            weights = getattr(columns, kind)
            arrays |= {f"{kind}_columns": weights.columns, f"{kind}_idf": weights.idf}
        fitted = {name: getattr(self, name) for name in _FITTED}
        state = {"format_version": FORMAT_VERSION, "parameters": self.get_params(), "fitted": fitted}
        (folder / FILES[0]).write_text(json.dumps(state, indent=2), encoding="utf-8")
        np.savez(folder / FILES[1], allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the scores are the same to the last bit.

        Raises
        ------
        ModelFormatError
            If a file is missing, damaged, or of another version.
        """
        state, arrays = read_text_score(folder, kinds=[*_KINDS], fitted=_FITTED)
        model = cls(**state["parameters"])
        for name in _FITTED:
            setattr(model, name, state["fitted"][name])
        weights = {
            name: Weights(kind.unit, kind.orders, arrays[f"{name}_columns"], arrays[f"{name}_idf"])
            for name, kind in _KINDS.items()
        }
        model.columns_ = _Columns(**weights, mean=arrays["mean"], scale=arrays["scale"])
        model.coefficients_ = arrays["coefficients"]
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        tags.input_tags.allow_nan = tags.target_tags.required = True
        return tags

    def _check(self, folds: int) -> None:
        if folds < 2 or self.folds < 2:
            raise InputError(f"folds must be at least 2, however: {min(folds, self.folds)}.")
        if not (self.alpha > 0 and self.style_weight > 0 and self.residual_variance >= 0):
            raise InputError(
                "alpha and style_weight must be positive and residual_variance not negative, however: "
                f"{self.alpha}, {self.style_weight}, {self.residual_variance}."
            )
        if self.level_variance is not None and not self.level_variance > 0:
            raise InputError(f"level_variance must be positive or None, however: {self.level_variance}.")

    def _check_fitted(self) -> None:
        if not hasattr(self, "coefficients_"):
            raise NotFittedError("The text score must be fitted or loaded first; call fit or TextScore.load.")

    def _matrix(self, texts: Texts, lines: Encoded, bodies: Encoded) -> Any:
        from scipy.sparse import csr_array, hstack

        columns = self.columns_
        parts = [columns.word.matrix(lines), columns.char.matrix(lines), columns.body.matrix(bodies)]
        return hstack([*parts, csr_array(self._counts(texts))], format="csr")

    def _counts(self, texts: Texts) -> Floats:
        """Return the matrix columns of the line's counts, shape (n_texts, …)."""
        columns = self.columns_
        counts = np.clip((style(texts) - columns.mean) / columns.scale, -_MAX_DEVIATIONS, _MAX_DEVIATIONS)
        counts[~has_text(texts)] = 0.0
        return np.asarray(self.style_weight * counts)

    def _evidence(self, texts: Texts, rate: Floats, impressions: Floats, group: Integers) -> tuple[Evidence, Integers]:
        """Sum the rows of one text in one campaign; also return which sum each input row went into."""
        pair, of_input = np.unique(group * len(texts.line) + texts.of_row, return_inverse=True)
        text = pair % len(texts.line)
        rows = Evidence.from_counts(
            text,
            pair // len(texts.line),
            clicks=sums(of_input, rate * impressions),
            impressions=sums(of_input, impressions),
            residual_variance=self.residual_variance,
            level_variance=self.level_variance,
        )
        return rows.only(has_text(texts)[text]), of_input

    def _out_of_fold(self, matrix: Any, rows: Evidence, line: Integers, folds: int) -> Floats:
        scores = np.zeros(rows.y.size)
        fold = _folds(rows.group, folds, self.random_state)
        for held in (fold == k for k in np.unique(fold)):
            # A line that also ran in a held-out campaign would be recognised rather than judged.
            seen = rows.only(~held & ~np.isin(line[rows.text], line[rows.text[held]]))
            if not seen.weight.any():
                continue
            raw = matrix @ solve(matrix, seen, alpha=self.alpha)
            scores[held] = raw[rows.text[held]] - _mean(raw, seen)
        return np.where(rows.weight > 0, scores, 0.0)

    def _word_shares(self, texts: Texts) -> tuple[tuple[Encoded, Floats], tuple[Encoded, Floats]]:
        """Return lines and bodies, each with what its words add to ``matrix @ coefficients``."""
        lines, bodies = encoded(texts)
        columns = self.columns_
        ends = np.cumsum([columns.word.columns.size, columns.char.columns.size, columns.body.columns.size])
        word, char, body = np.split(self.coefficients_, ends)[:3]
        in_line = columns.word.shares(lines, word) + columns.char.shares(lines, char)
        return (lines, in_line), (bodies, columns.body.shares(bodies, body))

    def _parts(self, texts: Texts, words: int) -> tuple[Floats, list[str]]:
        """Return the parts of distinct texts, shape (n_texts, k), and the words that moved the last of them most."""
        n, has = len(texts.line), has_text(texts)
        shares = self._word_shares(texts)
        counts = self._counts(texts) * self.coefficients_[-self.columns_.mean.size :]
        # The last column is the square of the length: it is what the length adds, too.
        counts[:, line_count_names().index("text_length")] += counts[:, -1]
        wording = -np.full(n, self.centre_)
        for batch, share in shares:
            wording += np.bincount(batch.text_of_word, share, minlength=n)
        parts = np.where(has[:, None], self.slope_ * np.column_stack([counts[:, :-1], wording]), 0.0)
        return parts, WordParts.of(shares, n).strongest(words, np.sign(parts[:, -1]).astype(np.int64))


def _learned(texts: Texts, lines: Encoded, bodies: Encoded) -> _Columns:
    counts = style(texts)[has_text(texts)]
    if not len(counts):
        counts = np.zeros((1, counts.shape[1]))
    mean, spread = counts.mean(axis=0), counts.std(axis=0)
    # Of very many texts the rare n-grams are weight without use: the number of columns stays bounded.
    more = len(texts.line) // _TEXTS_PER_THRESHOLD
    weights = {
        name: Weights.learn(
            bodies if name == "body" else lines, kind.unit, orders=kind.orders, min_texts=kind.min_texts + more
        )
        for name, kind in _KINDS.items()
    }
    return _Columns(**weights, mean=mean, scale=np.where(spread > 0, spread, 1.0))


def _mean(raw: Floats, rows: Evidence) -> float:
    return float(np.average(raw[rows.text], weights=rows.weight)) if rows.weight.any() else 0.0


def _folds(group: Integers, folds: int, random_state: int) -> Integers:
    """Cut the groups, in random order, into consecutive folds of about equal numbers of rows."""
    order = np.random.default_rng(random_state).permutation(int(group.max()) + 1)
    size = np.bincount(group)[order]
    fold = np.empty_like(order)
    fold[order] = (np.cumsum(size) - size) * min(folds, order.size) // size.sum()
    return np.asarray(fold[group])
