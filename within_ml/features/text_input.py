"""What the text score is given, checked and taken apart: distinct texts, rates, counts of the line, words as topics.

What is learned from them is in `text_score`, what is counted in `content`.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from within_ml.errors import InputError, shown
from within_ml.estimators import checked_weight
from within_ml.features.content import as_text, clean, distinct_pairs, line_counts, line_of, straightened
from within_ml.features.ngrams import Encoded, encode

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Texts:
    """Distinct texts: the line that is read, the body below it, and which of them each row of the frame has."""

    line: pa.Array
    body: pa.Array
    of_row: Integers

    def part(self, start: int, stop: int) -> Texts:
        """Return a slice of the distinct texts, of no row."""
        return Texts(self.line[start:stop], self.body[start:stop], self.of_row[:0])


def distinct_texts(X: pd.DataFrame) -> Texts:
    """Read ``headline`` and, if there is one, ``body``; a null text becomes an empty one.

    Raises
    ------
    InputError
        If X is no DataFrame, has no ``headline``, or a text is neither a string nor null.

    >>> texts = distinct_texts(pd.DataFrame({"headline": ["Buy", None, "Buy"], "body": ["now", "later", "now"]}))
    >>> texts.line.to_pylist(), texts.body.to_pylist(), texts.of_row.tolist()
    (['Buy', 'later'], ['now', ''], [0, 1, 0])
    """
    if not isinstance(X, pd.DataFrame) or "headline" not in X.columns:
        raise InputError(
            f"X must be a DataFrame with the column 'headline', however: {shown(getattr(X, 'columns', [type(X)]))}."
        )
    heads = as_text(X["headline"], "headline")
    bodies = as_text(X["body"], "body") if "body" in X.columns else pa.nulls(len(X), pa.string())
    first, of_row = distinct_pairs(heads, bodies)
    heads, bodies = heads.take(pa.array(first)), bodies.take(pa.array(first))
    line = pc.fill_null(straightened(line_of(heads, bodies)), "")
    below = pc.fill_null(straightened(clean(bodies)), "")
    return Texts(line, pc.if_else(pc.equal(line, below), "", below), of_row)


def checked_rates(
    n_rows: int, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None, groups: npt.ArrayLike | None
) -> tuple[Floats, Floats, Integers]:
    """Return rates, impressions and group codes, each of shape (n_rows,); a row without impressions may have any rate.

    Raises
    ------
    InputError
        If a length differs, a weight is negative or not finite, no weight is positive, or a group is null.
    """
    rate = np.asarray(y, dtype=np.float64)
    labels = pd.Series(np.zeros(n_rows) if groups is None else groups)
    for name, length in (("y", rate.shape), ("groups", labels.shape)):
        if length != (n_rows,):
            raise InputError(f"{name} must have one value for each of the {n_rows} rows of X, however: shape {length}.")
    if not n_rows:
        raise InputError("X must have rows to learn from, however: 0 rows.")
    weight = checked_weight(sample_weight, n_rows)
    wrong = (weight > 0) & ~((rate >= 0) & (rate <= 1))
    if wrong.any():
        raise InputError(f"y must be clicks / impressions in [0, 1], however: {shown(rate[wrong].tolist())}.")
    if labels.isna().any():
        raise InputError(f"groups must name the campaign of every row, however: {int(labels.isna().sum())} are null.")
    return np.where(weight > 0, rate, 0.0), weight, np.asarray(pd.factorize(labels)[0], dtype=np.int64)


def encoded(texts: Texts) -> tuple[Encoded, Encoded]:
    """Encode the lines and the bodies for n-grams."""
    return encode(texts.line.to_pylist()), encode(texts.body.to_pylist())


def has_text(texts: Texts) -> npt.NDArray[np.bool_]:
    """Tell which texts have a line, shape (n_texts,)."""
    return np.asarray(pc.greater(pc.utf8_length(texts.line), 0).to_numpy(zero_copy_only=False))


def line_code(texts: Texts) -> Integers:
    """Number the lines, equal but for capitals alike, shape (n_texts,)."""
    codes, _ = pd.factorize(pc.utf8_lower(texts.line).to_pandas())
    return np.asarray(codes, dtype=np.int64)


def line_count_names() -> tuple[str, ...]:
    """Return the names of the columns of `style`, but for the last.

    >>> line_count_names()[:2]
    ('text_length', 'text_words')
    """
    return tuple(line_counts(pa.array([""])))


def style(texts: Texts) -> Floats:
    """Return the line's counts and the square of its length, which lets a best length be learned."""
    counts = line_counts(texts.line)
    length = counts["text_length"].to_numpy(zero_copy_only=False)
    return np.column_stack(
        [column.to_numpy(zero_copy_only=False) for column in counts.values()]
        + [np.minimum((length - 80.0) ** 2, 6400.0)]
    )


def topic(spelled: str) -> str:
    """The bare word, or nothing if it is no topic: a function word, a number, or too short."""
    word = spelled.strip(_MARKS).removesuffix("'s")
    is_topic = len(word) > 2 and "'" not in word and any(map(str.isalpha, word)) and word not in _function_words()
    return word if is_topic else ""


_MARKS = string.punctuation + "\u2013\u2014\u2026\u00ab\u00bb\u201e\u00a1\u00bf"


@cache
def _function_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)
