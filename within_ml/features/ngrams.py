"""Sparse n-grams of words and characters as hashed columns, computed on whole arrays of code points.

A tokenizer in Python costs 0.1 ms per headline; the array form does the same for a whole batch at once, four times
faster, and columns by hash need no stored vocabulary (Weinberger et al. 2009, feature hashing). What is learned from
the columns is in `text_score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

N_COLUMNS = 2**22
"""N-grams are hashed into this many columns; of 100,000 different ones, one in forty shares its column."""

_SPACE = np.uint32(ord(" "))
_BASE = np.uint64(0x9E3779B97F4A7C15)
_START, _END = np.uint64(2), np.uint64(3)


@dataclass(frozen=True, slots=True)
class Ngrams:
    """Occurrences of n-grams in a batch of texts; all arrays have shape (n_occurrences,).

    Attributes
    ----------
    text : index of the text, ascending within one order of n-gram
    column : hashed n-gram, in [0, N_COLUMNS)
    first_word, last_word : index, among all words of the batch, of the words it touches
    """

    text: Integers
    column: Integers
    first_word: Integers
    last_word: Integers


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch of texts as code points, and where its words are.

    A word is what stands between spaces, with its punctuation; a token is a run of letters and digits, or one mark.

    Attributes
    ----------
    codes : uint32 code points of all texts, each text between two spaces, shape (n_codes,)
    text_of_code, word_of_code : index of the text and of the word, shape (n_codes,); a space counts to the word before
    text_of_word, word_start, word_end : shape (n_words,); ``codes[start:end]`` is the word

    Examples
    --------
    >>> batch = encode(["Yes, you can", ""])
    >>> batch.words()
    ['yes,', 'you', 'can']
    >>> char_ngrams(batch, (2,)).text.size, word_ngrams(batch, (1,)).text.size
    (13, 4)
    """

    codes: npt.NDArray[np.uint32]
    text_of_code: Integers
    word_of_code: Integers
    text_of_word: Integers
    word_start: Integers
    word_end: Integers
    n_texts: int

    def words(self) -> list[str]:
        """Return every word of the batch, lower case, in order."""
        whole = self.codes.tobytes().decode("utf-32-le")
        return [whole[start:end] for start, end in zip(self.word_start, self.word_end, strict=True)]


@dataclass(frozen=True, slots=True)
class Weights:
    """How the n-grams of one kind become the columns of a sparse matrix with rows of length one.

    Attributes
    ----------
    unit : the n-grams' unit
    orders : their lengths
    columns : hashed columns that enough texts have, ascending, shape (n_columns,)
    idf : inverse document frequency ``log((1 + n) / (1 + df)) + 1`` of each, shape (n_columns,)

    Examples
    --------
    >>> batch = encode(["red shoes", "blue shoes"])
    >>> weights = Weights.learn(batch, "word", orders=(1,), min_texts=2)
    >>> weights.columns.size, weights.matrix(batch).toarray().ravel().tolist()
    (1, [1.0, 1.0])
    """

    unit: Literal["word", "char"]
    orders: tuple[int, ...]
    columns: Integers
    idf: Floats

    @classmethod
    def learn(
        cls, batch: Encoded, unit: Literal["word", "char"], *, orders: tuple[int, ...], min_texts: int
    ) -> Weights:
        """Keep the columns that at least ``min_texts`` texts of the batch have."""
        grams = _ngrams(batch, unit, orders)
        texts = np.bincount(_counts(batch, grams.text, grams.column, N_COLUMNS).indices, minlength=N_COLUMNS)
        columns = np.flatnonzero(texts >= min_texts)
        idf = np.log((1 + batch.n_texts) / (1 + texts[columns])) + 1
        return cls(unit, orders, columns, idf)

    def matrix(self, batch: Encoded) -> Any:
        """Return the CSR matrix of shape (n_texts, n_columns): (1 + log count) × idf, rows scaled to length one."""
        grams, column = self._known(batch)
        return self._weighed(_counts(batch, grams.text, column, self.columns.size))

    def shares(self, batch: Encoded, coefficients: Floats) -> Floats:
        """Return each word's part of ``matrix(batch) @ coefficients``, shape (n_words,).

        Each occurrence of an n-gram is shared equally by the words it touches, so that the parts of a text's words
        add up to the text's value.
        """
        grams, column = self._known(batch)
        counts = _counts(batch, grams.text, column, self.columns.size)
        each = self._weighed(counts.copy()).data / counts.data * coefficients[counts.indices]
        row = np.repeat(np.arange(batch.n_texts), np.diff(counts.indptr))
        at = np.searchsorted(row * self.columns.size + counts.indices, grams.text * self.columns.size + column)
        span = grams.last_word - grams.first_word + 1
        parts = np.zeros(batch.text_of_word.size)
        for offset in range(max(self.orders)):
            touched = span > offset
            value = each[at[touched]] / span[touched]
            parts += np.bincount(grams.first_word[touched] + offset, value, minlength=parts.size)
        return parts

    def _weighed(self, counts: Any) -> Any:
        counts.data = (1 + np.log(counts.data)) * self.idf[counts.indices]
        row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        length = np.sqrt(np.bincount(row, counts.data**2, minlength=counts.shape[0]))
        counts.data /= length[row]
        return counts

    def _known(self, batch: Encoded) -> tuple[Ngrams, Integers]:
        """Return the occurrences of the kept n-grams and the matrix column of each."""
        grams = _ngrams(batch, self.unit, self.orders)
        position = np.full(N_COLUMNS, -1, dtype=np.int32)
        position[self.columns] = np.arange(self.columns.size)
        column = position[grams.column]
        keep = column >= 0
        kept = Ngrams(grams.text[keep], grams.column[keep], grams.first_word[keep], grams.last_word[keep])
        return kept, column[keep].astype(np.int64)


def encode(texts: Sequence[str]) -> Encoded:
    """Lower the texts and find their words; texts must be clean, with single spaces and without surrogates."""
    padded = [f" {text.lower()} " for text in texts]
    joined = "".join(padded)
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
    lengths = np.fromiter(map(len, padded), dtype=np.int64, count=len(padded))
    text_of_code = np.repeat(np.arange(len(padded)), lengths)
    inside = codes != _SPACE
    before = np.concatenate([[False], inside[:-1]])
    start = np.flatnonzero(inside & ~before)
    end = np.flatnonzero(~inside & before)
    word_of_code = np.maximum(np.cumsum(inside & ~before) - 1, 0)
    return Encoded(codes, text_of_code, word_of_code, text_of_code[start], start, end, len(padded))


def char_ngrams(batch: Encoded, orders: Sequence[int]) -> Ngrams:
    """Character n-grams, n at least 2, that do not cross a space: a space is part of one only at its ends."""
    codes = batch.codes.astype(np.uint64)
    space = batch.codes == _SPACE
    value, keep = codes, np.ones(codes.size, dtype=bool)
    parts = []
    for order in range(2, max(orders) + 1):
        if codes.size < order:
            break
        # Every window of this length continues the window of one less; what was a last space is inside now.
        keep = keep[:-1] & ~space[order - 2 : -1] if order > 2 else ~(space[:-1] & space[1:])
        value = value[:-1] * _BASE + codes[order - 1 :]
        if order in orders:
            at = np.flatnonzero(keep)
            word = batch.word_of_code[at + 1]
            parts.append((batch.text_of_code[at], _column(value[at] + np.uint64(order)), word, word))
    return _joined(parts)


def word_ngrams(batch: Encoded, orders: Sequence[int]) -> Ngrams:
    """N-grams of tokens, with a mark before the first and after the last token of a text."""
    value, text, word = _tokens(batch)
    parts = []
    for order in orders:
        count = value.size - order + 1
        if count <= 0:
            continue
        at = np.flatnonzero(text[:count] == text[order - 1 :])
        if order == 1:
            at = at[value[at] > _END]
        total = np.full(at.size, order + 100, dtype=np.uint64)
        for offset in range(order):
            total = _mixed(total * _BASE + value[at + offset])
        parts.append((text[at], _column(total), word[at], word[at + order - 1]))
    return _joined(parts)


def _ngrams(batch: Encoded, unit: Literal["word", "char"], orders: tuple[int, ...]) -> Ngrams:
    return char_ngrams(batch, orders) if unit == "char" else word_ngrams(batch, orders)


def _counts(batch: Encoded, text: Integers, column: Integers, n_columns: int) -> Any:
    from scipy.sparse import coo_array

    return coo_array((np.ones(column.size), (text, column)), shape=(batch.n_texts, n_columns)).tocsr()


def _tokens(batch: Encoded) -> tuple[Hashes, Integers, Integers]:
    """Hash, text and word of each token, the marks at both ends of each text included."""
    solid = _solid(batch.codes)
    space = batch.codes == _SPACE
    joins = solid & np.concatenate([[False], solid[:-1]])
    start = np.flatnonzero(~joins & ~space)
    owner = np.cumsum(~joins & ~space) - 1
    letters = np.flatnonzero(~space)
    token = owner[letters]
    # A polynomial in the letters, with the token's last letter as the lowest power: sums of products, so no loop.
    power = _powers(int((letters - start[token]).max(initial=0)) + 1)
    terms = (batch.codes[letters].astype(np.uint64) + np.uint64(1)) * power[letters - start[token]]
    value = _mixed(np.add.reduceat(terms, np.searchsorted(token, np.arange(start.size)))) if start.size else terms
    text, word = batch.text_of_code[start], batch.word_of_code[start]
    first = np.flatnonzero(np.diff(text, prepend=-1))
    last = np.append(first[1:], text.size)[: first.size]
    where = np.concatenate([first, last])
    marks = np.repeat([_START, _END], [first.size, last.size])
    # np.insert keeps the given order at equal places: an end mark must come before the next text's start mark.
    order = np.lexsort((marks == _START, where))
    where, marks = where[order], marks[order]
    ends = np.concatenate([first, last - 1])[order]
    return np.insert(value, where, marks), np.insert(text, where, text[ends]), np.insert(word, where, word[ends])


def _solid(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Letters, digits and apostrophes, decided once per different code point."""
    different = np.unique(codes)
    known = np.array([chr(code).isalnum() or chr(code) in "'_" for code in different.tolist()], dtype=bool)
    return known[np.searchsorted(different, codes)]


def _powers(count: int) -> Hashes:
    return np.cumprod(np.full(count, _BASE, dtype=np.uint64), dtype=np.uint64)


def _mixed(value: Hashes) -> Hashes:
    """Mix the bits (splitmix64, Steele et al. 2014), so that the low ones depend on all; never a mark's value."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.maximum(value ^ (value >> np.uint64(31)), np.uint64(16))


def _column(value: Hashes) -> Integers:
    return (_mixed(value) & np.uint64(N_COLUMNS - 1)).astype(np.int64)


def _joined(parts: list[tuple[Integers, Integers, Integers, Integers]]) -> Ngrams:
    if not parts:
        return Ngrams(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    return Ngrams(*(np.concatenate(column) for column in zip(*parts, strict=True)))
