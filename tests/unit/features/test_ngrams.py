from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from within_ml.features.ngrams import Ngrams, Weights, char_ngrams, encode, word_ngrams

TEXTS = st.lists(st.text(alphabet="abcdé' !?7😀", max_size=25).map(lambda t: " ".join(t.split())), max_size=6)


def per_text(grams: Ngrams, n_texts: int) -> list[list[int]]:
    """Occurrence counts of the different n-grams of each text, which do not depend on the hash."""
    return [sorted(Counter(grams.column[grams.text == i].tolist()).values()) for i in range(n_texts)]


def counted(items: list[str]) -> list[int]:
    return sorted(Counter(items).values())


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_char_ngrams_are_those_of_a_plain_loop(texts: list[str]) -> None:
    expected = []
    for text in texts:
        line = f" {text.lower()} "
        grams = [line[i : i + n] for n in (2, 3, 4) for i in range(len(line) - n + 1)]
        expected.append(counted([g for g in grams if " " not in g[1:-1] and g != "  "]))
    assert per_text(char_ngrams(encode(texts), (2, 3, 4)), len(texts)) == expected


def tokens(text: str) -> list[str]:
    found, word = [], ""
    for letter in f"{text.lower()} ":
        if letter.isalnum() or letter in "'_":
            word += letter
            continue
        found += [word] * bool(word) + [letter] * (letter != " ")
        word = ""
    return found


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_word_ngrams_are_those_of_a_plain_loop(texts: list[str]) -> None:
    expected = []
    for text in texts:
        marked = ["<", *tokens(text), ">"] if tokens(text) else []
        grams = [" ".join(marked[i : i + n]) for n in (1, 2, 3) for i in range(len(marked) - n + 1)]
        expected.append(counted([g for g in grams if g not in "<>"]))
    assert per_text(word_ngrams(encode(texts), (1, 2, 3)), len(texts)) == expected


@settings(max_examples=40, deadline=None)
@given(TEXTS)
def test_a_text_has_the_same_ngrams_in_any_company(texts: list[str]) -> None:
    together = word_ngrams(encode(texts), (1, 2)), char_ngrams(encode(texts), (2, 3))
    for i, text in enumerate(texts):
        alone = word_ngrams(encode([text]), (1, 2)), char_ngrams(encode([text]), (2, 3))
        for all_, one in zip(together, alone, strict=True):
            assert sorted(all_.column[all_.text == i]) == sorted(one.column)


def test_matrix_equals_tfidf_of_scikit_learn() -> None:
    texts = ["red shoes red hat", "blue shoes", "a red red red coat", "blue hat"]
    batch = encode(texts)
    ours = Weights.learn(batch, "char", orders=(2, 3), min_texts=2).matrix(batch).toarray()
    peer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), min_df=2, sublinear_tf=True).fit_transform(texts)
    assert ours.shape == peer.shape
    np.testing.assert_allclose(ours @ ours.T, (peer @ peer.T).toarray())


@pytest.mark.parametrize("unit", ["word", "char"])
def test_words_shares_add_up_to_the_texts_value(unit: str) -> None:
    batch = encode(["one two, two three", "", "three one!", "unseen"])
    weights = Weights.learn(batch, unit, orders=(2, 3), min_texts=1)
    coefficients = np.random.default_rng(0).normal(size=weights.columns.size)
    by_text = np.bincount(batch.text_of_word, weights.shares(batch, coefficients), minlength=4)
    np.testing.assert_allclose(by_text, weights.matrix(batch) @ coefficients, atol=1e-12)


def test_words_come_back_in_order() -> None:
    assert encode(["It’s ÜBER 😀!", "", "x"]).words() == ["it’s", "über", "😀!", "x"]
