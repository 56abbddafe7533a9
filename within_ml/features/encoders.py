"""Encoders of one modality each: texts, dense embeddings and tabular columns as matrices of numbers.

Each is fitted once, frozen, and turns itself into JSON values and arrays and back. Rows do not see each other: a row's
numbers are the same alone and in any batch. What is kept of the columns, and how modalities are put together, is in
`multimodal`; images have their modules `images` and `image_network`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from within_ml.errors import InputError, shown
from within_ml.features.content import clean, line_counts

Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]

NO_COLUMNS = frozenset(
    {"date", "account_id", "campaign_id", "ad_group_id", "ad_id", "headline", "body", "image_path", "image_id"}
)
"""Columns of a frame that are a key, a day or another modality, never a tabular feature."""

_MAX_VOCABULARY = 20_000
_FEW_TEXTS = 50
_MAX_LEVELS = 20
_LIMIT = 8.0


@dataclass(frozen=True, slots=True)
class TfidfEncoder:
    """TF-IDF of words and word pairs, projected on the leading singular vectors; then the line's counts.

    Sublinear term counts, rows of length one, and components whose largest loading is positive, so that the same texts
    always give the same signs.

    Examples
    --------
    >>> texts = ["red shoes", "red hats", "blue shoes", "blue hats"]
    >>> encoder = TfidfEncoder.fit(texts, n_components=2, random_state=0)
    >>> encoder.encode(["red shoes", ""]).shape, encoder.names[:3]
    ((2, 28), ('text_svd_00', 'text_svd_01', 'text_length'))
    """

    vocabulary: tuple[str, ...]
    idf: Floats
    components: Floats
    vectorizer: Any = field(repr=False, compare=False)

    @classmethod
    def fit(cls, texts: Sequence[str], *, n_components: int, random_state: int) -> Self:
        """Learn vocabulary, document frequencies and components from distinct texts."""
        from sklearn.utils.extmath import randomized_svd

        some = [text for text in texts if text]
        least = 2 if len(some) >= _FEW_TEXTS else 1
        vectorizer = _vectorizer(min_df=least, max_features=_MAX_VOCABULARY)
        analyse = vectorizer.build_analyzer()
        if not any(analyse(text) for text in some[:1000]) and not any(analyse(text) for text in some):
            return cls.restored((), np.zeros(0), np.zeros((0, 0)))
        try:
            matrix = vectorizer.fit_transform(some)
        except ValueError:  # no word is in two texts
            vectorizer = _vectorizer(min_df=1, max_features=_MAX_VOCABULARY)
            matrix = vectorizer.fit_transform(some)
        words = tuple(str(word) for word in vectorizer.get_feature_names_out())
        k = min(n_components, *(side - 1 for side in matrix.shape))
        components = np.zeros((0, len(words)))
        if k >= 1:
            components = randomized_svd(matrix, k, n_iter=5, random_state=random_state)[2]
        return cls.restored(words, vectorizer.idf_, _signed(components))

    @classmethod
    def restored(cls, vocabulary: Sequence[str], idf: Floats, components: Floats) -> Self:
        """Put an encoder together from its fitted parts."""
        vectorizer = None
        if vocabulary:
            vectorizer = _vectorizer(vocabulary={word: i for i, word in enumerate(vocabulary)})
            vectorizer.idf_ = np.asarray(idf, dtype=np.float64)
        return cls(tuple(vocabulary), np.asarray(idf, np.float64), np.asarray(components, np.float64), vectorizer)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return components and counts, shape (n, d); an empty text has zeros."""
        lines = clean(pa.array(list(texts), pa.string()))
        counts = np.column_stack([c.to_numpy(zero_copy_only=False) for c in line_counts(lines).values()])
        parts = np.zeros((len(texts), len(self.components)))
        if self.vectorizer is not None and len(texts):
            parts = np.asarray(self.vectorizer.transform(lines.to_pylist()) @ self.components.T)
        return np.hstack([parts, counts])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `encode`."""
        return (*(f"text_svd_{i:02}" for i in range(len(self.components))), *_COUNTS)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        return {"vocabulary": list(self.vocabulary)}, {"idf": self.idf, "components": self.components}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        """Restore what `state` gave."""
        return cls.restored(values["vocabulary"], arrays["idf"], arrays["components"])


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **options)


_COUNTS = tuple(line_counts(pa.array([""])))


@dataclass(frozen=True, slots=True)
class Projection:
    """Dense embeddings on their leading principal components.

    Examples
    --------
    >>> points = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> Projection.fit(points, np.ones(3), n_components=1, prefix="p").encode(points).round(3).ravel().tolist()
    [-1.414, 0.0, 1.414]
    """

    mean: Floats
    components: Floats
    prefix: str

    @classmethod
    def fit(cls, embeddings: Floats, weight: Floats, *, n_components: int, prefix: str) -> Self:
        """Find the components of weighted rows; none where no row has weight."""
        if not weight.sum() > 0:
            return cls(np.zeros(embeddings.shape[1]), np.zeros((0, embeddings.shape[1])), prefix)
        share = weight / weight.sum()
        mean = share @ embeddings
        centred = embeddings - mean
        values, vectors = np.linalg.eigh((centred * share[:, None]).T @ centred)
        order = np.argsort(-values, kind="stable")[:n_components]
        order = order[values[order] > 1e-12 * max(float(values.max()), 1e-300)]
        return cls(mean, _signed(vectors[:, order].T), prefix)

    def encode(self, embeddings: Floats) -> Floats:
        """Return the components, shape (n, k)."""
        return np.asarray((embeddings - self.mean) @ self.components.T, dtype=np.float64)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `encode`."""
        return tuple(f"{self.prefix}_{i:02}" for i in range(len(self.components)))

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        return {"prefix": self.prefix}, {"mean": self.mean, "components": self.components}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        """Restore what `state` gave."""
        return cls(arrays["mean"], arrays["components"], values["prefix"])


@dataclass(frozen=True, slots=True)
class TabularEncoder:
    """Numbers as signed logarithms, and the frequent levels of text columns as 0 or 1; an unseen level is all 0.

    ``numbers`` are the numeric columns, ``levels`` the kept levels of each text column.

    Examples
    --------
    >>> frame = pd.DataFrame({"ad_spend_7d": [0.0, np.expm1(2)], "platform": ["meta", "google"], "ad_id": ["1", "2"]})
    >>> encoder = TabularEncoder.fit(frame, np.ones(2))
    >>> encoder.names, encoder.encode(frame).round(2).tolist()
    (('ad_spend_7d', 'platform=google', 'platform=meta'), [[0.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
    """

    numbers: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]

    @classmethod
    def fit(cls, X: pd.DataFrame, weight: Floats) -> Self:
        """Choose the columns; levels are those with the most weight."""
        # A column without any value says nothing yet, and may hold numbers or texts one day.
        columns = [str(name) for name in X.columns if is_tabular(str(name)) and X[name].notna().any()]
        numbers = [name for name in columns if is_number(X[name])]
        levels = {}
        for name in columns:
            if name not in numbers and not pd.api.types.is_datetime64_any_dtype(X[name]):
                texts = X[name].dropna().astype(str)
                sums = pd.Series(weight[X[name].notna().to_numpy()]).groupby(texts.to_numpy()).sum()
                order = sorted(sums.index, key=lambda level: (-sums[level], level))
                levels[name] = tuple(sorted(level for level in order[:_MAX_LEVELS] if sums[level] > 0))
        return cls(tuple(numbers), levels)

    def encode(self, X: pd.DataFrame) -> Floats:
        """Return the columns, shape (n, d), NaN where a value is missing.

        Raises
        ------
        InputError
            If a column is missing, or holds an infinite number or something that is none.
        """
        if absent := [name for name in (*self.numbers, *self.levels) if name not in X.columns]:
            raise InputError(f"X must have the columns of fit, however it lacks {shown(absent)}.")
        parts = [np.zeros((len(X), 0))]
        for name in self.numbers:
            values = _numeric(X, name)
            if np.isinf(values).any():
                raise InputError(f"X must hold finite numbers or nulls, however {name!r} has infinite ones.")
            parts.append((np.sign(values) * np.log1p(np.abs(values)))[:, None])
        for name, levels in self.levels.items():
            there = X[name].notna().to_numpy()
            text = X[name].astype(object).where(there, "").astype(str).to_numpy()
            parts += [np.where(there, text == level, np.nan).astype(np.float64)[:, None] for level in levels]
        return np.hstack(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `encode`."""
        return (*self.numbers, *(f"{name}={level}" for name, levels in self.levels.items() for level in levels))

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        levels = [[name, list(values)] for name, values in self.levels.items()]
        return {"numbers": list(self.numbers), "levels": levels}, {}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Self:
        """Restore what `state` gave."""
        del arrays
        return cls(tuple(values["numbers"]), {name: tuple(levels) for name, levels in values["levels"]})


def _numeric(X: pd.DataFrame, name: str) -> Floats:
    try:
        values: Floats = pd.to_numeric(X[name]).to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"Column {name!r} must hold numbers as in fit, or nulls, however: {error}.") from error
    return values


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers."""
    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def is_tabular(name: str) -> bool:
    """Whether a column is of the tabular modality: no key, day or label, and nothing of the text or the image.

    >>> [is_tabular(name) for name in ("prior_ctr", "ad_id", "label_clicks", "text_words", "image_warmth")]
    [True, False, False, False, False]
    """
    content = name.startswith(("text_", "image_", "label_")) or name in ("sentiment", "readability")
    return name not in NO_COLUMNS and not content


def _signed(components: Floats) -> Floats:
    """Flip each row so that its largest loading is positive."""
    if not components.size:
        return np.asarray(components, dtype=np.float64)
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return np.asarray(components * np.where(largest < 0, -1.0, 1.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Which columns are kept, and what brings them to mean 0 and deviation 1; a missing value becomes the mean.

    Examples
    --------
    >>> X = np.array([[1.0, 5.0], [3.0, np.nan]])
    >>> Scaling.fit(X, np.ones(2), np.array([0])).apply(X).ravel().tolist()
    [-1.0, 1.0]
    """

    columns: npt.NDArray[np.int64]
    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, X: Floats, weight: Floats, columns: npt.NDArray[np.int64]) -> Self:
        """Measure the columns on weighted rows, missing values left out."""
        mean, scale = np.zeros(columns.size), np.ones(columns.size)
        for i, j in enumerate(columns):
            there = np.isfinite(X[:, j]) & (weight > 0)
            if there.any():
                share = weight[there] / weight[there].sum()
                mean[i] = share @ X[there, j]
                scale[i] = np.sqrt(share @ (X[there, j] - mean[i]) ** 2) or 1.0
        return cls(np.asarray(columns, dtype=np.int64), mean, scale)

    def apply(self, X: Floats) -> Floats:
        """Return the kept columns, shape (n, len(columns)), at most `_LIMIT` deviations from 0."""
        scaled = (X[:, self.columns] - self.mean) / self.scale
        return np.clip(np.nan_to_num(scaled, nan=0.0), -_LIMIT, _LIMIT)
