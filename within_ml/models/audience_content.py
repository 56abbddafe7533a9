"""The content of ads as a few components: text and image statistics on the axes of a truncated SVD.

What audiences make of it is in `audience`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown
from within_ml.features.ngrams import Weights
from within_ml.features.text_input import distinct_texts, encoded, has_text, style

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_IMAGE = "image_"
_MAX_DEVIATIONS = 6.0


@dataclass(frozen=True, slots=True)
class Content:
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
    def learn(cls, X: pd.DataFrame, components: int, style_weight: float, random_state: int) -> Content:
        """Learn from the distinct contents of X.

        Raises
        ------
        InputError
            If no row has a content.
        """
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
    def restored(cls, arrays: Mapping[str, Any], images: tuple[str, ...], style_weight: float) -> Content:
        """Restore what `arrays` gave."""
        line, body = (
            Weights("word", (1, 2), arrays[f"{name}_columns"], arrays[f"{name}_idf"]) for name in ("line", "body")
        )
        mean, scale = arrays["image_mean"], arrays["image_scale"]
        return cls(line, body, arrays["mean"], arrays["scale"], images, mean, scale, style_weight, arrays["axes"])


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
