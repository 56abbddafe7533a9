from __future__ import annotations

import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from within_ml.errors import InputError
from within_ml.features.content import MAX_CHARACTERS, TEXT_FEATURES, clean, text_features

NAMES = [feature.name for feature in TEXT_FEATURES]


def of(headline: str | None, body: str | None = None) -> dict[str, float | None]:
    return text_features([headline], [body]).to_pylist()[0]


# Counted by hand.
@pytest.mark.parametrize(
    ("headline", "expected"),
    [
        (
            "You won't BELIEVE what she said... 3 times!",
            {"text_words": 8, "text_exclamations": 1, "text_ellipses": 1, "text_numbers": 1, "text_shouted_words": 1,
             "text_second_person": 1, "text_third_person_female": 1, "text_question_words": 1, "text_negations": 1},
        ),
        (
            "“Don’t panic,” he said: 1,000 people – and 2.5 dogs – did. Why?",
            {"text_quotes": 1, "text_colons": 1, "text_commas": 2, "text_dashes": 2, "text_numbers": 2, "text_questions": 1,
             "text_ends_with_question": 1, "text_sentences": 2, "text_third_person_male": 1, "text_negations": 1},
        ),
        ("7 We, I and OUR", {"text_starts_with_number": 1, "text_first_person": 3, "text_capitalized_share": 3 / 5}),
        ("123 7UP A b", {"text_starts_with_number": 1, "text_numbers": 2, "text_capitals_share": 3 / 4}),
        ("Größe für Ängstliche", {"text_words": 3, "text_capitals_share": 2 / 18, "text_mean_word_length": 6}),
    ],
)  # fmt: skip
def test_counts_by_hand(headline: str, expected: dict[str, float]) -> None:
    found = of(headline)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_readability_is_the_flesch_formula() -> None:
    # One sentence, 6 words, 6 syllables: 206.835 - 1.015 * 6 - 84.6 * 1.
    assert of("The cat sat on the mat.")["readability"] == pytest.approx(116.145)
    # "introductory" has hyphenation points in-tro-duc-to-ry: 1 word, 5 syllables, 1 sentence.
    assert of("introductory")["readability"] == pytest.approx(206.835 - 1.015 - 84.6 * 5)


def test_sentiment_is_vaders_compound() -> None:
    text = "I love this wonderful day!!"
    assert of(text)["sentiment"] == SentimentIntensityAnalyzer().polarity_scores(text)["compound"]
    assert of("I hate it")["sentiment"] < 0 == of("The table")["sentiment"]


def test_body_speaks_where_there_is_no_headline() -> None:
    alone, under = of(None, "Buy it now!"), of("Hello", "Buy it now!")
    assert alone == of("", "Buy it now!")
    assert alone["text_words"] == 3
    assert under["text_words"] == 1
    assert under["text_body_words"] == 3


def test_null_empty_and_wordless_are_told_apart() -> None:
    null, empty, marks = of(None, None), of("", None), of("!!! 😀", None)
    assert set(null.values()) == {None}
    assert empty["text_length"] == 0
    assert empty["readability"] is None
    assert empty["sentiment"] == 0
    assert marks["text_exclamations"] == 3
    assert marks["text_words"] == 0
    assert marks["text_mean_word_length"] == 0


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<p>Fish&nbsp;&amp;<br/>chips</p>", "Fish & chips"),
        ("5 < 6 > 4", "5 < 6 > 4"),
        ("a\x00b\tc\r\nd", "a b c d"),
        ("so\u00adft \u200bzero", "soft zero"),
        ("AT&T &notanentity; &lt;b&gt;", "AT&T ¬anentity; <b>"),
    ],
)
def test_clean(raw: str, expected: str) -> None:
    assert clean(pa.array([raw])).to_pylist() == [expected]


@pytest.mark.parametrize(
    "text", ["but " * 25_000, "a" * 100_000, "<b>" * 40_000, "." * 100_000, "😀" * 25_000, "'" * 99_999]
)
def test_huge_text_costs_little(text: str) -> None:
    start = time.perf_counter()
    found = of(text, text)
    assert time.perf_counter() - start < 3
    assert found["text_length"] <= MAX_CHARACTERS


def test_a_lone_surrogate_is_replaced() -> None:
    assert of("caf\ud800e")["text_length"] == 5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.none() | st.text(max_size=40), st.none() | st.text(max_size=40)), max_size=4))
def test_each_row_stands_alone(texts: list[tuple[str | None, str | None]]) -> None:
    heads, bodies = [t[0] for t in texts], [t[1] for t in texts]
    together = text_features(heads, bodies)
    assert together.column_names == NAMES
    assert together.num_rows == len(texts)
    assert together.to_pylist() == [of(*text) for text in texts]
    for row in together.to_pylist():
        shares = [row[name] for name in ("text_capitals_share", "text_capitalized_share", "text_ends_with_question")]
        assert all(share is None or 0 <= share <= 1 for share in shares)


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="same length, however: 1 and 2"):
        text_features(["a"], ["b", "c"])
    with pytest.raises(InputError, match=r"headline must be strings or null, however: 5"):
        text_features(["a", 5], ["b", "c"])
    with pytest.raises(InputError, match="int64"):
        text_features(pa.array([1]), ["b"])
