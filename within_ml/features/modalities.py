"""The three modalities of an ad before anything is chosen from them: its text, its image, its tabular columns.

Each turns what it is given into a matrix with NaN or zeros where there is nothing, says which rows have it at all, and
writes its fitted state into a folder. What is kept, scaled and put together is in `multimodal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from within_ml.errors import InputError, ModelFormatError
from within_ml.features.content import as_text
from within_ml.features.encoders import NO_COLUMNS, Arrays, Projection, TabularEncoder, TfidfEncoder
from within_ml.features.image_network import ImageEvidence, ImageNetwork, expected_rates, pixels_of
from within_ml.features.images import IMAGE_FEATURES, ImageInput, image_features
from within_ml.features.local_models import SentenceFolder, VisionFolder, folder_digest, local_folder, require_same
from within_ml.lake.images import LakeImages

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

TFIDF, STATISTICS = "tfidf", "statistics"
IMAGE_NAMES = tuple(feature.name for feature in IMAGE_FEATURES)
TEXT_COLUMNS = ("headline", "body")
NETWORK = "image_network"

_LEVELS = ("platform", "account_id")
_LEVEL_STRENGTH = 1000.0
_BETWEEN_ADS = 0.02


class Saved(Protocol):
    """The part of a modality that `multimodal` needs to save it."""

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""


class TextModality:
    """Headline and body as one text: components of TF-IDF or of a local model's embeddings, and the line's counts."""

    def __init__(self, text_model: str, *, n_components: int, random_state: int) -> None:
        self.text_model = text_model
        self.n_components = n_components
        self.random_state = random_state
        self.folder = None if text_model == TFIDF else local_folder("text_model", text_model, [TFIDF])
        self._sentences = SentenceFolder(self.folder) if self.folder else None
        self.projection: Projection | None = None

    def fit(self, texts: Sequence[str | None], weight: Floats) -> None:
        """Learn from the distinct texts."""
        distinct, of_row = _distinct(texts)
        n_components = 0 if self._sentences is not None else self.n_components
        self.encoder = TfidfEncoder.fit(distinct, n_components=n_components, random_state=self.random_state)
        if self._sentences is not None:
            there = np.array([bool(text) for text in distinct])
            weights = np.where(there, np.bincount(of_row, weight, minlength=len(distinct)), 0.0)
            embeddings = self._sentences.embed(distinct)
            self.projection = Projection.fit(
                embeddings, weights, n_components=self.n_components, prefix="text_embedding"
            )

    def raw(self, texts: Sequence[str | None]) -> tuple[Floats, Booleans]:
        """Return the columns, shape (n, d), NaN without a text, and which rows have one."""
        distinct, of_row = _distinct(texts)
        there = np.array([bool(text) for text in distinct], dtype=bool)
        matrix = self.encoder.encode(distinct)
        if self._sentences is not None and self.projection is not None:
            matrix = np.hstack([self.projection.encode(self._sentences.embed(distinct)), matrix])
        matrix[~there] = np.nan
        return matrix[of_row], there[of_row]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `raw`."""
        return (*(self.projection.names if self.projection else ()), *self.encoder.names)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        return _joined_state(self.encoder, self.projection, self.folder)

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self.encoder = TfidfEncoder.from_state(values["encoder"], _below("encoder", arrays))
        self.projection = _projection(values, arrays, self.folder)


class ImageModality:
    """Statistics of an image, and what a network makes of its pixels: our own, or one of a local folder."""

    def __init__(self, image_model: str, *, n_components: int, min_images: int, random_state: int) -> None:
        self.image_model = image_model
        self.n_components = n_components
        self.min_images = min_images
        self.random_state = random_state
        self.folder = None if image_model == STATISTICS else local_folder("image_model", image_model, [STATISTICS])
        self._vision = VisionFolder(self.folder) if self.folder else None
        self.projection: Projection | None = None
        self.network: ImageNetwork | None = None

    def fit(
        self, images: Sequence[ImageInput], X: pd.DataFrame, y: Floats | None, weight: Floats, root: str | None
    ) -> Floats | None:
        """Learn from the distinct images.

        Returns
        -------
        array, shape (n,), or None
            The rows' network scores, each by a network that did not see its image; None where there is no network.
        """
        distinct, of_row = distinct_images(images)
        read = _read(distinct, root)
        if self._vision is not None:
            embeddings, there = self._vision.embed(read)
            weights = np.where(there, np.bincount(of_row, weight, minlength=len(read)), 0.0)
            self.projection = Projection.fit(
                embeddings, weights, n_components=self.n_components, prefix="image_embedding"
            )
            return None
        if y is None or len(distinct) < self.min_images:
            return None
        pixels, there = pixels_of(read)
        used = np.flatnonzero(there)
        if len(used) < self.min_images:
            return None
        number = np.full(len(read), -1, dtype=np.int64)
        number[used] = np.arange(len(used))
        p = expected_rates(y, weight, _level_codes(X), strength=_LEVEL_STRENGTH)
        evidence = ImageEvidence.from_rows(number[of_row], len(used), y, p, weight, between=_BETWEEN_ADS)
        network = ImageNetwork(random_state=self.random_state).fit(pixels[used], evidence)
        if network.slope_ == 0:
            return None
        self.network = network
        scores = np.full(len(read), np.nan)
        scores[used] = network.out_of_fold_
        return scores[of_row]

    def raw(
        self,
        images: Sequence[ImageInput],
        X: pd.DataFrame | None,
        root: str | None,
        *,
        scores: Floats | None = None,
    ) -> tuple[Floats, Booleans]:
        """Return the columns, shape (n, d), NaN without an image, and which rows have one.

        Statistics that the frame already holds (``image_…``) stand in for files that are not there. ``scores`` replace
        the network's own.
        """
        distinct, of_row = distinct_images(images)
        read = _read(distinct, root)
        table = image_features(read).table
        matrix = np.column_stack([table[name].to_numpy() for name in IMAGE_NAMES])[of_row]
        if X is not None:
            matrix = _filled(matrix, X)
        there = _some(matrix)
        if self._vision is not None and self.projection is not None:
            embeddings, seen = self._vision.embed(read)
            parts = np.where(seen[:, None], self.projection.encode(embeddings), np.nan)
            matrix = np.hstack([matrix, parts[of_row]])
        if self.network is not None:
            own = self._scores(read)[of_row] if scores is None else scores
            matrix = np.column_stack([matrix, own])
        return matrix, there

    def _scores(self, read: Sequence[ImageInput]) -> Floats:
        pixels, there = pixels_of(read)
        scores = np.full(len(read), np.nan)
        if there.any() and self.network is not None:
            scores[there] = self.network.predict(pixels[there])
        return scores

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `raw`."""
        learned = (NETWORK,) if self.network is not None else ()
        return (*IMAGE_NAMES, *(self.projection.names if self.projection else ()), *learned)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays, without the network."""
        values, arrays = _joined_state(None, self.projection, self.folder)
        return {**values, "network": self.network is not None}, arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Any], folder: Path) -> None:
        """Take what `state` gave, and the network of the folder."""
        self.projection = _projection(values, arrays, self.folder)
        self.network = ImageNetwork.load(folder) if values["network"] else None


class TabularModality:
    """The columns of a frame that are neither key nor text nor image, by our encoder or one that was given."""

    def __init__(self, preprocessor: Any = None) -> None:
        self.preprocessor = preprocessor
        self.encoder: TabularEncoder | None = None

    def fit(self, X: pd.DataFrame, y: Floats | None, weight: Floats) -> None:
        """Learn the columns."""
        if self.preprocessor is None:
            self.encoder = TabularEncoder.fit(X, weight)
            return
        self.preprocessor.fit(self._columns(X), y)

    def raw(self, X: pd.DataFrame) -> tuple[Floats, Booleans]:
        """Return the columns, shape (n, d), NaN where a value is missing, and which rows have any value."""
        if self.encoder is not None:
            matrix = self.encoder.encode(X)
        else:
            matrix = self.preprocessor.transform(self._columns(X))
            matrix = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)
            if matrix.ndim != 2 or len(matrix) != len(X):
                raise InputError(
                    f"tabular_preprocessor must give one row for each of the {len(X)} rows of X, however: "
                    f"shape {matrix.shape}."
                )
        self._width = matrix.shape[1]
        return matrix, _some(matrix)

    @staticmethod
    def _columns(X: pd.DataFrame) -> pd.DataFrame:
        return X[[name for name in X.columns if name not in NO_COLUMNS and not str(name).startswith("label_")]]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of `raw`."""
        if self.encoder is not None:
            return self.encoder.names
        if hasattr(self.preprocessor, "get_feature_names_out"):
            return tuple(str(name) for name in self.preprocessor.get_feature_names_out())
        return tuple(f"tabular_{i}" for i in range(self._width))


def texts_of(X: pd.DataFrame) -> list[str | None]:
    """Return headline and body of each row as one text, None where there is neither.

    >>> [str(text).split() for text in texts_of(pd.DataFrame({"headline": ["Buy", None], "body": ["now", None]}))]
    [['Buy', 'now'], ['None']]
    """
    columns = [as_text(X[name], name).to_pylist() for name in TEXT_COLUMNS if name in X]
    if not columns:
        return [None] * len(X)
    return [
        None if all(part is None for part in row) else "\n".join(filter(None, row))
        for row in zip(*columns, strict=True)
    ]


def images_of(X: pd.DataFrame, root: str | None) -> list[ImageInput]:
    """Return the image of each row; a path counts only with the root that it lies below."""
    if "image_path" not in X.columns:
        return [None] * len(X)
    values = X["image_path"].tolist()
    return [None if _is_null(v) or (root is None and isinstance(v, str)) else v for v in values]


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA


def distinct_images(images: Sequence[ImageInput]) -> tuple[list[ImageInput], npt.NDArray[np.int64]]:
    """Return the distinct images and the number of each row's; paths are equal by name, pixels by identity."""
    numbers: dict[Any, int] = {}
    distinct: list[ImageInput] = []
    of_row = np.empty(len(images), dtype=np.int64)
    for i, image in enumerate(images):
        key = image if image is None or isinstance(image, str | Path | bytes) else id(image)
        if key not in numbers:
            numbers[key] = len(distinct)
            distinct.append(image)
        of_row[i] = numbers[key]
    return distinct, of_row


def _read(images: Sequence[ImageInput], root: str | None) -> list[ImageInput]:
    """Replace paths below a root by the bytes there; a path that leads out of it is no image."""
    if root is None:
        return list(images)
    files = LakeImages(root)
    return [files.read(image) if isinstance(image, str) else image for image in images]


def _filled(matrix: Floats, X: pd.DataFrame) -> Floats:
    empty = ~_some(matrix)
    for j, name in enumerate(IMAGE_NAMES):
        if name in X.columns and empty.any():
            matrix[empty, j] = pd.to_numeric(X[name]).to_numpy(np.float64, na_value=np.nan)[empty]
    return matrix


def _some(matrix: Floats) -> Booleans:
    return np.asarray(np.isfinite(matrix).any(axis=1), dtype=bool)


def _level_codes(X: pd.DataFrame) -> npt.NDArray[np.int64]:
    keys = [name for name in _LEVELS if name in X.columns]
    if not keys:
        return np.zeros(len(X), dtype=np.int64)
    return np.asarray(X.groupby(keys, sort=False, dropna=False).ngroup(), dtype=np.int64)


def _distinct(texts: Sequence[str | None]) -> tuple[list[str], npt.NDArray[np.int64]]:
    for text in texts:
        if not (text is None or isinstance(text, str)):
            raise InputError(f"A text must be a string or None, however: {type(text).__name__}.")
    codes, distinct = pd.factorize(np.array(["" if t is None else t for t in texts], dtype=object))
    return [str(text).strip() for text in distinct], np.asarray(codes, dtype=np.int64)


def _joined_state(
    encoder: TfidfEncoder | None, projection: Projection | None, folder: Path | None
) -> tuple[dict[str, Any], Arrays]:
    values: dict[str, Any] = {"digest": folder_digest(folder) if folder else None}
    arrays: Arrays = {}
    for name, part in (("encoder", encoder), ("projection", projection)):
        if part is not None:
            told, found = part.state()
            values[name] = told
            arrays |= {f"{name}.{key}": value for key, value in found.items()}
    return values, arrays


def _projection(values: Mapping[str, Any], arrays: Mapping[str, Any], folder: Path | None) -> Projection | None:
    if folder is None:
        return None
    require_same(folder, values["digest"])
    if "projection" not in values:
        raise ModelFormatError(f"The saved extractor lacks the projection of the embeddings of {folder}.")
    return Projection.from_state(values["projection"], _below("projection", arrays))


def _below(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
