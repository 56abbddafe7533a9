"""What each word and each count of a text adds to its score.

Arithmetic on shares of words; the model that has the coefficients is in `text_score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from within_ml.features.ngrams import Encoded
from within_ml.features.text_input import topic

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

WORDING = "text_wording"
"""The part of all words together, beside the average text's."""


@dataclass(frozen=True, slots=True)
class TextContributions:
    """Parts of text scores, in log-odds; a row's parts add up to its score.

    Attributes
    ----------
    names : tuple of str, length k
        The counts of the line, such as ``text_length``, and `WORDING` for all of its words and the body's.
    values : shape (n, k)
    words : tuple of str, length n
        The words that moved `WORDING` most in its own direction, comma separated; empty where there are none.
    """

    names: tuple[str, ...]
    values: Floats
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WordParts:
    """What each word of each text adds, over all its places.

    Attributes
    ----------
    text, word, value : shape (n_parts,)
        Index of the text, position in ``names``, log-odds; one entry per text and word.
    names : object array
        Words that can be topics, in alphabetical order.
    n_texts : int

    Examples
    --------
    >>> from within_ml.features.ngrams import encode
    >>> shares = np.array([1.0, -0.5, 9.0, 1.0, 0.1, -0.5])
    >>> parts = WordParts.of([(encode(["free shoes and free socks", "shoes"]), shares)], 2)
    >>> parts.strongest(2), parts.strongest(1, np.array([-1, 1]))
    (['free, shoes', 'shoes'], ['shoes', ''])
    """

    text: Integers
    word: Integers
    value: Floats
    names: npt.NDArray[np.object_]
    n_texts: int

    @classmethod
    def of(cls, parts: Sequence[tuple[Encoded, Floats]], n_texts: int) -> WordParts:
        """Sum the shares of the words of several batches that describe the same texts, such as lines and bodies."""
        spelled = [word for batch, _ in parts for word in batch.words()]
        text = np.concatenate([batch.text_of_word for batch, _ in parts])
        share = np.concatenate([shares for _, shares in parts])
        code, different = pd.factorize(np.array(spelled, dtype=object))
        names, named = np.unique(np.array([topic(word) for word in different], dtype=object), return_inverse=True)
        word = named[code] if code.size else np.zeros(0, np.int64)
        kept = names[word] != "" if names.size else np.zeros(0, bool)
        pair, place = np.unique(text[kept] * max(names.size, 1) + word[kept], return_inverse=True)
        value = np.bincount(place, share[kept], minlength=pair.size).astype(np.float64)
        return cls(pair // max(names.size, 1), pair % max(names.size, 1), value, names, n_texts)

    def strongest(self, k: int, direction: Integers | None = None) -> list[str]:
        """Return each text's ``k`` words of the largest parts, comma separated, words of equal parts by alphabet.

        ``direction``, shape (n_texts,), is 1 or -1 where only words that raise or lower the score are meant.
        """
        use = np.ones(self.text.size, bool) if direction is None else self.value * direction[self.text] > 0
        text, word, value = self.text[use], self.word[use], self.value[use]
        order = np.lexsort((word, -np.abs(value), text))
        text, word = text[order], word[order]
        rank = np.arange(text.size) - np.searchsorted(text, text)
        found: list[list[str]] = [[] for _ in range(self.n_texts)]
        for owner, name in zip(text[rank < k].tolist(), self.names[word[rank < k]], strict=True):
            found[owner].append(name)
        return [", ".join(names) for names in found]
