"""Content features of an ad's text: what can be said of it without any model and without any other ad.

Stateless and point-in-time by nature: the same text has the same features on every day. What is learned from results
(the text score) is in `text_score`; what is joined to a day and an ad is in the feature runner.

One line of text is described by the counts: the headline, or the body where there is no headline, because that is the
line people read and in which the ads of one campaign differ. Readability needs sentences, so it sees headline and body
together; of the body alone there is its length in words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from within_ml.errors import InputError, shown

MAX_CHARACTERS = 5_000
"""Only so many characters of a text are looked at: ads are shorter, and the cost of a pasted article stays bounded."""

_SENTIMENT_CHARACTERS = 1_000
"""VADER's cost grows with the square of a text's length; an ad's line is far shorter."""


@dataclass(frozen=True, slots=True)
class TextFeature:
    """One content feature: its name, what it says, its unit, and the version of its definition.

    >>> TEXT_FEATURES[0].name, TEXT_FEATURES[0].unit
    ('text_length', 'characters')
    """

    name: str
    meaning: str
    unit: str
    version: int = 1


TEXT_FEATURES: tuple[TextFeature, ...] = (
    TextFeature("text_length", f"Characters of the line, at most {MAX_CHARACTERS}", "characters"),
    TextFeature("text_words", "Words of the line", "count"),
    TextFeature("text_sentences", "Sentence ends in the line", "count"),
    TextFeature("text_mean_word_length", "Letters and digits per word", "characters"),
    TextFeature("text_punctuation", "Punctuation marks", "count"),
    TextFeature("text_exclamations", "Exclamation marks", "count"),
    TextFeature("text_questions", "Question marks", "count"),
    TextFeature("text_ends_with_question", "1 if the line ends with a question mark", "0 or 1"),
    TextFeature("text_quotes", "Opening quotation marks", "count"),
    TextFeature("text_ellipses", "Ellipses", "count"),
    TextFeature("text_dashes", "Dashes between words", "count"),
    TextFeature("text_colons", "Colons", "count"),
    TextFeature("text_commas", "Commas", "count"),
    TextFeature("text_capitals_share", "Capitals among the letters", "fraction"),
    TextFeature("text_capitalized_share", "Words with a capital first letter among the words", "fraction"),
    TextFeature("text_shouted_words", "Words of two or more capitals only", "count"),
    TextFeature("text_numbers", "Numbers written in digits", "count"),
    TextFeature("text_starts_with_number", "1 if the line starts with a digit", "0 or 1"),
    TextFeature("text_first_person", "English words such as I, my, we, our", "count"),
    TextFeature("text_second_person", "English words such as you, your", "count"),
    TextFeature("text_third_person_male", "English words such as he, his", "count"),
    TextFeature("text_third_person_female", "English words such as she, her", "count"),
    TextFeature("text_third_person_plural", "English words such as they, their", "count"),
    TextFeature("text_demonstratives", "English words such as this, that, here, it", "count"),
    TextFeature("text_question_words", "English words such as what, why, how", "count"),
    TextFeature("text_negations", "English words such as not, never, don't", "count"),
    TextFeature("text_body_words", "Words of the body, 0 without a body", "count"),
    TextFeature("sentiment", "VADER compound sentiment of the line (English)", "-1 to 1"),
    TextFeature(
        "readability",
        "Flesch reading ease of headline and body (English weights; words and sentences counted by textstat, "
        "syllables by pyphen); higher is easier; null without a word",
        "points, 100 is very easy",
    ),
)
"""The catalog of content features, in the order of the columns of `text_features`."""


def text_features(headline: Sequence[str | None] | pa.Array, body: Sequence[str | None] | pa.Array) -> pa.Table:
    """Compute the content features of each text; equal texts are computed once.

    Parameters
    ----------
    headline, body : sequences of str or None, shape (n_texts,)
        HTML tags, entities and control characters are removed first.

    Returns
    -------
    pyarrow.Table, shape (n_texts, len(TEXT_FEATURES))
        float64 columns named as in `TEXT_FEATURES`; null where both headline and body are null. A text without a
        letter or digit has zeros, and null readability.

    Raises
    ------
    InputError
        If the lengths differ or an element is neither a string nor null.

    Examples
    --------
    >>> table = text_features(["You won't BELIEVE these 3 tricks!", None], [None, None])
    >>> table.select(["text_words", "text_numbers", "text_second_person"]).to_pylist()[0]
    {'text_words': 6.0, 'text_numbers': 1.0, 'text_second_person': 1.0}
    >>> table["sentiment"].null_count
    1
    """
    heads, bodies = as_text(headline, "headline"), as_text(body, "body")
    if len(heads) != len(bodies):
        raise InputError(f"headline and body must have the same length, however: {len(heads)} and {len(bodies)}.")
    first, of_row = distinct_pairs(heads, bodies)
    return _distinct_features(heads.take(pa.array(first)), bodies.take(pa.array(first))).take(pa.array(of_row))


def distinct_pairs(headline: pa.Array, body: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first row of each distinct (headline, body), and for each row which of them it has.

    >>> first, of_row = distinct_pairs(pa.array(["a", "b", "a", None]), pa.array([None, None, None, ""]))
    >>> first.tolist(), of_row.tolist()
    ([0, 1, 3], [0, 1, 0, 2])
    """
    # The code of a null is -1, so that null and "" stay different texts.
    codes = [pd.factorize(column.to_pandas())[0].astype(np.int64) + 1 for column in (headline, body)]
    pair = codes[0] * (codes[1].max(initial=0) + 1) + codes[1]
    of_row, distinct = pd.factorize(pair)
    first = np.empty(len(distinct), dtype=np.int64)
    first[of_row[::-1]] = np.arange(len(of_row))[::-1]
    return first, of_row.astype(np.int64)


def line_of(headline: pa.Array, body: pa.Array) -> pa.Array:
    """Return the line that the counts describe: the cleaned headline, or the body where there is none."""
    heads, bodies = clean(headline), clean(body)
    return pc.if_else(pc.equal(pc.fill_null(pc.utf8_length(heads), 0), 0), pc.coalesce(bodies, heads), heads)


def line_counts(line: pa.Array) -> dict[str, pa.Array]:
    """Count what can be counted in cleaned lines, by Arrow's compiled expressions only (no Python per text).

    Parameters
    ----------
    line : pyarrow string array, shape (n_texts,)
        As from `line_of`.

    Returns
    -------
    dict of str to pyarrow float64 array, shape (n_texts,)
        The features from ``text_length`` to ``text_negations``, null where the line is null.
    """
    plain = straightened(line)
    lower = pc.utf8_lower(plain)
    words = _count(plain, _WORD)
    letters = _count(plain, r"\p{L}")
    counts = {name: _count(lower if name in _LOWER else plain, pattern) for name, pattern in _PATTERNS.items()}
    shares = {
        "text_length": pc.cast(pc.utf8_length(line), pa.float64()),
        "text_words": words,
        "text_mean_word_length": _share(_count(plain, r"[\p{L}\p{N}]"), words),
        "text_capitals_share": _share(_count(plain, r"\p{Lu}"), letters),
        "text_capitalized_share": _share(_count(plain, _CAPITALIZED), words),
        "text_starts_with_number": _matches(plain, r"^\p{N}"),
        "text_ends_with_question": _matches(plain, r"\?[\"')]*$"),
    }
    both = counts | shares
    return {feature.name: both[feature.name] for feature in TEXT_FEATURES if feature.name in both}


def clean(text: pa.Array) -> pa.Array:
    """Remove HTML tags, entities and control characters, squeeze white space, cut at `MAX_CHARACTERS`.

    >>> clean(pa.array(["<p>Fish &amp;  chips</p>", "5 < 6", None])).to_pylist()
    ['Fish & chips', '5 < 6', None]
    """
    # Cut before the expressions run too, so that a megabyte of markup costs as little as an ad.
    text = pc.utf8_slice_codeunits(text, 0, 4 * MAX_CHARACTERS)
    text = pc.replace_substring_regex(text, r"</?[A-Za-z!][^<>]*>", " ")
    text = _unescaped(text)
    # Soft hyphens and joiners stand inside words, tabs and line ends between them.
    text = pc.replace_substring_regex(text, r"\p{Cf}", "")
    text = pc.replace_substring_regex(text, r"\p{Cc}", " ")
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"[\s\p{Z}]+", " "))
    return pc.utf8_slice_codeunits(text, 0, MAX_CHARACTERS)


def as_text(values: Sequence[str | None] | pa.Array, name: str) -> pa.Array:
    """Turn a sequence of strings and nulls (None, NaN) into one Arrow string array.

    Raises
    ------
    InputError
        If an element is neither a string nor null.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        if not (
            pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or values.null_count == len(values)
        ):
            raise InputError(f"{name} must be strings or null, however: {values.type}.")
        return values.cast(pa.string())
    items = pd.Series(values, dtype=object)
    items = items.where(items.notna(), None)
    wrong = [value for value in items if not (value is None or isinstance(value, str))]
    if wrong:
        raise InputError(f"{name} must be strings or null, however: {shown(wrong)}.")
    # A lone surrogate is no character: it cannot be stored as UTF-8.
    return pa.array([v if v is None else v.encode("utf-8", "replace").decode() for v in items], type=pa.string())


def _distinct_features(headline: pa.Array, body: pa.Array) -> pa.Table:
    line = line_of(headline, body)
    columns: dict[str, pa.Array] = line_counts(line)
    columns["text_body_words"] = pc.if_else(line.is_valid(), pc.fill_null(_count(clean(body), _WORD), 0.0), None)
    columns["sentiment"] = _each(straightened(line), _sentiment)
    columns["readability"] = _each(straightened(_joined(clean(headline), clean(body))), _readability)
    return pa.table({feature.name: columns[feature.name] for feature in TEXT_FEATURES})


def _joined(headline: pa.Array, body: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pc.fill_null(headline, ""), pc.fill_null(body, ""), "\n")


def _each(text: pa.Array, function: Callable[[str], float | None]) -> pa.Array:
    return pa.array([None if t is None else function(t) for t in text.to_pylist()], type=pa.float64())


# Arrow counts a pattern by searching again in what is left after a match, so that "^" also holds there: a pattern that
# begins with it must eat its whole word.
_CAPITALIZED = r"(?:^|[^\p{L}\p{N}'])\p{Lu}[\p{L}\p{N}']*"
_WORD = r"[\p{L}\p{N}]+(?:'\p{L}+)*"


def _any_of(words: str) -> str:
    return rf"(?:^|[^\p{{L}}\p{{N}}'])(?:{words.replace(' ', '|')})\b"


_PATTERNS: Mapping[str, str] = {
    "text_sentences": r"[.!?…]+(?:[\s\"')]|$)",
    "text_punctuation": r"[\p{P}\p{S}]",
    "text_exclamations": "!",
    "text_questions": r"\?",
    "text_quotes": r"(?:^|[\s(\[])[\"'«„]",
    "text_ellipses": r"\.\.\.|…",
    "text_dashes": "--+|[\u2013\u2014]| - ",
    "text_colons": ":",
    "text_commas": ",",
    "text_shouted_words": r"\b\p{Lu}{2,}\b",
    "text_numbers": r"\p{N}+(?:[.,]\p{N}+)*",
    "text_first_person": _any_of("i i'm i've i'd i'll me my mine myself we we're we've us our ours"),
    "text_second_person": _any_of("you you're you've you'd you'll your yours yourself"),
    "text_third_person_male": _any_of("he he's him his himself"),
    "text_third_person_female": _any_of("she she's her hers herself"),
    "text_third_person_plural": _any_of("they they're they've them their theirs themselves"),
    "text_demonstratives": _any_of("this that that's these those here here's it it's its"),
    "text_question_words": _any_of("what what's why how when who who's where which"),
    "text_negations": _any_of("no not never nothing nobody don't can't won't isn't doesn't didn't aren't wasn't"),
}
_LOWER = frozenset(name for name, pattern in _PATTERNS.items() if pattern.endswith(r")\b"))
_MARKUP = re.compile(r"&(?:#\d+|#x[0-9a-fA-F]+|[A-Za-z]+);")


def _count(text: pa.Array, pattern: str) -> pa.Array:
    return pc.cast(pc.count_substring_regex(text, pattern), pa.float64())


def _matches(text: pa.Array, pattern: str) -> pa.Array:
    return pc.cast(pc.match_substring_regex(text, pattern), pa.float64())


def _share(part: pa.Array, whole: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(whole, 0.0), 0.0, pc.divide(part, whole))


def straightened(text: pa.Array) -> pa.Array:
    """Replace typographic quotation marks and apostrophes by the typewriter's."""
    return pc.replace_substring_regex(
        pc.replace_substring_regex(text, "[\u2018\u2019\u02bc\u00b4`]", "'"), "[\u201c\u201d]", '"'
    )


def _unescaped(text: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring(text, "&")).as_py():
        return text
    unescaped = [
        t if t is None or "&" not in t else _MARKUP.sub(lambda m: html.unescape(m[0]), t) for t in text.to_pylist()
    ]
    return pa.array(unescaped, type=pa.string())


def _sentiment(text: str) -> float:
    return float(_analyzer().polarity_scores(text[:_SENTIMENT_CHARACTERS])["compound"])


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def _readability(text: str) -> float | None:
    """Flesch (1948), equation for reading ease, on textstat's word and sentence counts.

    textstat's own `flesch_reading_ease` downloads a pronouncing dictionary on first use and gives other numbers where
    it could not; here every word's syllables follow the rule textstat has for words outside that dictionary.
    """
    from textstat import textstat

    words = textstat.remove_punctuation(text).lower().split()
    if not words:
        return None
    syllables = sum(_syllables(word) for word in words)
    sentences = int(textstat.sentence_count(text))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


@lru_cache(maxsize=100_000)
def _syllables(word: str) -> int:
    return len(_hyphenation().positions(word)) + 1


@cache
def _hyphenation() -> Any:
    from pyphen import Pyphen

    return Pyphen(lang="en_US")
