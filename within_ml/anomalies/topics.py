"""Topics of headlines: words and pairs of words, and which ads have them; those of the same ads are one topic.

Whether a topic trends is judged in `trending`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from within_ml.features.ngrams import encode
from within_ml.features.text_input import topic as bare_word

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Topics:
    """Which texts have which topics.

    Attributes
    ----------
    names : tuple of str
        Words of each topic, in the order in which they are written.
    has : sparse matrix, shape (texts, topics)
        1 where a text has a topic.
    """

    names: tuple[str, ...]
    has: sparse.csc_matrix


def find_topics(texts: Sequence[str], *, min_texts: int = 3, same: float = 0.9, together: float = 0.5) -> Topics:
    """Find the words and pairs of neighbours that at least ``min_texts`` texts have.

    Function words, numbers and single letters are no topics, nor are pairs of them, nor words that merely come to stand
    beside each other: of the texts with the rarer one at least the share ``together`` must have the pair. Words that
    (nearly) the same texts have are one topic: ``same`` is the share of the texts with either that have both (Jaccard).

    Examples
    --------
    >>> found = find_topics(["Half price yoga classes", "Half price desk lamps", "New desk lamps"], min_texts=2)
    >>> found.names
    ('half price', 'desk lamps')
    >>> found.has.toarray().tolist()
    [[1, 0], [1, 1], [0, 1]]
    """
    text, term, terms = _terms(texts)
    has = sparse.csc_matrix((np.ones(text.size, np.int64), (text, term)), shape=(len(texts), len(terms)))
    count = np.asarray(has.sum(axis=0)).ravel()
    kept = np.flatnonzero((count >= min_texts) & _cohesive(texts, terms, count, together))
    has, count = has[:, kept], count[kept]
    names = [terms[i] for i in kept]
    cluster = _clusters(has, count, same)
    # The first term of a cluster stands for it, with the words of all in the order of a text that has them.
    first = np.unique(cluster, return_index=True)[1]
    labels = [_label([names[i] for i in np.flatnonzero(cluster == cluster[f])], texts, has[:, [f]]) for f in first]
    order = np.argsort(first)
    return Topics(tuple(labels[i] for i in order), sparse.csc_matrix(has[:, first[order]]))


def _terms(texts: Sequence[str]) -> tuple[Codes, Codes, list[str]]:
    """Return text and term of each occurrence, once per text, and the terms by first occurrence."""
    batch = encode(list(texts))
    words = [bare_word(word) for word in batch.words()]
    plain = [_bare(word) for word in batch.words()]
    numbers: dict[str, int] = {}
    pairs: dict[tuple[int, int], None] = {}
    for place, (owner, word) in enumerate(zip(batch.text_of_word.tolist(), words, strict=True)):
        if word:
            pairs[owner, numbers.setdefault(word.replace("/", "-"), len(numbers))] = None
        if place and batch.text_of_word[place - 1] == owner and (word or words[place - 1]):
            phrase = f"{plain[place - 1]} {plain[place]}".strip()
            if " " in phrase:
                pairs[owner, numbers.setdefault(phrase, len(numbers))] = None
    found = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1], list(numbers)


def _cohesive(texts: Sequence[str], terms: list[str], count: Codes, together: float) -> NDArray[np.bool_]:
    """Tell which pairs are more than chance neighbours; single words are."""
    with_word: dict[str, int] = {}
    for text in texts:
        for word in set(_spelled(text)):
            with_word[word] = with_word.get(word, 0) + 1
    rarer = [min(with_word.get(word, 0) for word in term.split()) if " " in term else 0 for term in terms]
    return np.asarray(count >= together * np.array(rarer), dtype=np.bool_)


def _spelled(text: str) -> list[str]:
    return [_bare(word) for word in text.lower().split()]


def _bare(word: str) -> str:
    return word.strip(".,:;!?\"'()").replace("/", "-")


def _clusters(has: sparse.csc_matrix, count: Codes, same: float) -> Codes:
    """Return the cluster of each term: the first term with nearly the same texts."""
    both = sparse.coo_matrix(has.T @ has)
    alike = both.data >= same * (count[both.row] + count[both.col] - both.data)
    graph = sparse.coo_matrix((np.ones(alike.sum()), (both.row[alike], both.col[alike])), shape=both.shape)
    _, cluster = sparse.csgraph.connected_components(graph, directed=False)
    return np.asarray(cluster, dtype=np.int64)


def _label(terms: list[str], texts: Sequence[str], has: sparse.csc_matrix) -> str:
    """Return the words of the terms in the order of the first text that has the most of them."""
    words = {word for term in terms for word in term.split()}
    best: list[str] = []
    for owner in has.indices[:20].tolist():
        there = list(dict.fromkeys(word for word in _spelled(texts[owner]) if word in words))
        best = max(best, there, key=len)
    return " ".join(best or sorted(words))[:200]
