"""Features of an ad from all it consists of: text, image and tabular columns, chosen, scaled and put side by side.

How a modality becomes columns is in `modalities`; by what columns are chosen in `selection`. No model is here: what
comes out is what a model may be given, also one that wants the modalities apart.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import validate_data

from within_ml.errors import InputError, ModelFormatError, NotFittedError, shown
from within_ml.features.encoders import Scaling, TabularEncoder
from within_ml.features.images import ImageInput
from within_ml.features.modalities import (
    STATISTICS,
    TEXT_COLUMNS,
    TFIDF,
    ImageModality,
    TabularModality,
    TextModality,
    images_of,
    texts_of,
)
from within_ml.features.selection import Selection, checked_evidence, ranked, shared_out

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

FORMAT_VERSION = 1
MODALITIES = ("text", "image", "tabular")
_FILES = ("extractor.json", "extractor.npz")
_PREPROCESSOR = "tabular_preprocessor"


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """The features of n ads by modality, each column of mean 0 and deviation 1 over the training rows.

    ``text``, ``image`` and ``tabular`` have shape (n, number of the modality's names); a row without the modality has
    zeros there and False in ``has_text``, ``has_image`` or ``has_tabular``, shape (n,). ``names`` are the names of the
    columns by modality, ``output_dim`` is the width of ``concatenated``.
    """

    text: Floats
    image: Floats
    tabular: Floats
    has_text: Booleans
    has_image: Booleans
    has_tabular: Booleans
    names: Mapping[str, tuple[str, ...]]
    output_dim: int

    @property
    def concatenated(self) -> Floats:
        """Text, image and tabular columns side by side, shape (n, output_dim); columns that nothing fills are 0."""
        found = np.hstack([self.text, self.image, self.tabular])
        return np.hstack([found, np.zeros((len(found), self.output_dim - found.shape[1]))])


class MultiModalFeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn ads into numbers: their text, their image and everything else, each with a part of the output's columns.

    A row of a frame is read like this::

        headline, body                     → components of TF-IDF (or embeddings), counts of the line
        image_path below images_root       → statistics, and what a network learned from pixels, see `images`
          (or image_… columns of a frame)
        other columns, keys and labels not → numbers as signed logarithms, frequent levels of texts

    Of each modality the columns that say most about y alone are kept, and all are scaled. The output's columns are
    shared out evenly; what one modality cannot fill goes to the others.

    The default image network is trained on this project's own task: on what is left of y beside the account's rate. Its
    score of a training row comes from a network that did not see the row's image, in `fit_transform` (which therefore
    differs from ``fit(…).transform``), so that a model fitted on it does not believe it too much.

    Parameters
    ----------
    text_model : str
        ``"tfidf"``, or a local folder with a sentence-transformers model.
    image_model : str
        ``"statistics"``, or a local folder with a torchvision model, see `local_models`. Nothing is ever downloaded.
    tabular_preprocessor : transformer, optional
        Replaces the default for tabular columns: ``fit(frame, y)`` and ``transform(frame)`` to a matrix. It is cloned.
    output_dim : int
        Columns of the output, at least 1.
    max_features : int or mapping of {"text", "image", "tabular"} to int, optional
        Most columns of each modality.
    selection : {"f_test", "mutual_information", "none"}
        What columns are ranked by where y is given; both count rows by their weight.
    min_images : int
        With fewer distinct images no network is trained.
    random_state : int
        Seed of components and network.

    Attributes
    ----------
    names_ : dict of str to tuple of str
        Names of the kept columns by modality, the most telling first.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Examples
    --------
    >>> ads = pd.DataFrame({"headline": ["Free shoes", "Free hats", "Dull shoes", "Dull hats"] * 10,
    ...                     "ad_clicks_7d": np.arange(40), "ad_age_days": 3.0})
    >>> ctr, impressions = np.array([0.03, 0.03, 0.01, 0.01] * 10), np.full(40, 1000)
    >>> extractor = MultiModalFeatureExtractor(output_dim=8).fit(ads, ctr, impressions)
    >>> found = extractor.extract_features(ads)
    >>> found.concatenated.shape, found.names["tabular"]
    ((40, 8), ('ad_clicks_7d',))
    >>> found.has_text.all(), found.has_image.any()
    (np.True_, np.False_)
    """

    def __init__(
        self,
        text_model: str = TFIDF,
        image_model: str = STATISTICS,
        tabular_preprocessor: Any = None,
        output_dim: int = 64,
        *,
        max_features: int | Mapping[str, int] | None = None,
        selection: str = Selection.F_TEST.value,
        min_images: int = 100,
        random_state: int = 0,
    ) -> None:
        self.text_model = text_model
        self.image_model = image_model
        self.tabular_preprocessor = tabular_preprocessor
        self.output_dim = output_dim
        self.max_features = max_features
        self.selection = selection
        self.min_images = min_images
        self.random_state = random_state

    def fit(
        self,
        X: pd.DataFrame | npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        *,
        images_root: str | Path | None = None,
    ) -> Self:
        """Learn vocabulary, network, columns and scales.

        Parameters
        ----------
        X : DataFrame, shape (n, …)
            Rows of ``ad_features``, or any frame with some of the columns above. A matrix of numbers is all tabular.
        y : shape (n,), optional
            Rates in [0, 1]; without them nothing is selected and no network trained.
        sample_weight : shape (n,), optional
            Impressions.
        images_root : path or URI, optional
            Folder that the paths of ``image_path`` lie below, such as the lake's root.

        Raises
        ------
        InputError
            If a shape, range or argument is wrong, or a model's name is no local folder.
        """
        self._fit(X, y, sample_weight, images_root)
        return self

    def fit_transform(
        self,
        X: pd.DataFrame | npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        *,
        images_root: str | Path | None = None,
    ) -> Floats:
        """Fit, and return the training rows' output with network scores out of fold, shape (n, output_dim)."""
        frame, scores = self._fit(X, y, sample_weight, images_root)
        return self._extracted(frame, scores).concatenated

    def transform(self, X: pd.DataFrame | npt.ArrayLike) -> Floats:
        """Return `ExtractedFeatures.concatenated`, shape (n, output_dim)."""
        return self.extract_features(X).concatenated

    def extract_features(self, X: pd.DataFrame | npt.ArrayLike) -> ExtractedFeatures:
        """Return the features of each row by modality.

        Raises
        ------
        NotFittedError
            If the extractor is not fitted.
        InputError
            If a column of fit is missing.
        """
        self._require_fitted()
        return self._extracted(self._frame(X, reset=False), None)

    def process_text(self, texts: Sequence[str | None]) -> Floats:
        """Return the text columns of each text, shape (n, d_text); zeros without one."""
        self._require_fitted()
        return self._scaling["text"].apply(self._text.raw(list(texts))[0])

    def process_image(self, images: Sequence[ImageInput]) -> Floats:
        """Return the image columns of each image, shape (n, d_image); zeros for one that cannot be read.

        Parameters
        ----------
        images : sequence of path, bytes, array or None
            A text is a path below the root given to `fit`, or any path if there was none.
        """
        self._require_fitted()
        return self._scaling["image"].apply(self._image.raw(list(images), None, self.images_root_)[0])

    def process_tabular(self, X: pd.DataFrame | npt.ArrayLike) -> Floats:
        """Return the tabular columns of each row, shape (n, d_tabular); zeros for missing values."""
        self._require_fitted()
        return self._scaling["tabular"].apply(self._tabular.raw(self._frame(X, reset=False))[0])

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the output's columns."""
        del input_features
        self._require_fitted()
        names = [name for modality in MODALITIES for name in self.names_[modality]]
        unused = [f"unused_{i}" for i in range(self.output_dim - len(names))]
        return np.array([*names, *unused], dtype=object)

    def save(self, folder: Path) -> None:
        """Write ``extractor.json``, ``extractor.npz`` and the network's weights into an existing folder.

        Raises
        ------
        InputError
            If a given tabular_preprocessor cannot save itself.
        """
        self._require_fitted()
        parameters = self.get_params(deep=False)
        given = parameters.pop("tabular_preprocessor")
        if given is not None and not hasattr(self._tabular.preprocessor, "save"):
            raise InputError(
                "A tabular_preprocessor must have save(folder) and load(folder) for an extractor to be saved, however "
                f"{type(given).__name__} has no save. Use the default, or give it these methods."
            )
        states = {"text": self._text.state(), "image": self._image.state()}
        if self._tabular.encoder is not None:
            states["tabular"] = self._tabular.encoder.state()
        else:
            (folder / _PREPROCESSOR).mkdir()
            self._tabular.preprocessor.save(folder / _PREPROCESSOR)
        arrays = {f"{name}.{key}": value for name, (_, found) in states.items() for key, value in found.items()}
        for name, scaling in self._scaling.items():
            arrays |= {f"scaling.{name}.{key}": getattr(scaling, key) for key in ("columns", "mean", "scale")}
        names_in = [str(name) for name in self.feature_names_in_] if hasattr(self, "feature_names_in_") else None
        told = {
            "format_version": FORMAT_VERSION,
            "parameters": parameters,
            "given_preprocessor": given is not None,
            "states": {name: values for name, (values, _) in states.items()},
            "names": {name: list(values) for name, values in self.names_.items()},
            "images_root": self.images_root_,
            "n_features_in": self.n_features_in_,
            "feature_names_in": names_in,
        }
        (folder / _FILES[0]).write_text(json.dumps(told), encoding="utf-8")
        np.savez(folder / _FILES[1], allow_pickle=False, **arrays)
        if self._image.network is not None:
            self._image.network.save(folder)

    @classmethod
    def load(cls, folder: Path, *, images_root: str | Path | None = None, tabular_preprocessor: Any = None) -> Self:
        """Read what `save` wrote; the features are the same to the last bit.

        Parameters
        ----------
        images_root : path or URI, optional
            Where images lie now, if not where they were when the extractor was fitted.
        tabular_preprocessor : optional
            An object of the given preprocessor's kind; its ``load(folder)`` returns the fitted one.

        Raises
        ------
        ModelFormatError
            If a file is missing, damaged, or of another version, or a local model's folder has changed.
        """
        told, arrays = _loaded(folder)
        try:
            if told["given_preprocessor"] and tabular_preprocessor is None:
                raise InputError(
                    "This extractor was saved with a tabular_preprocessor of its own; give load one like it."
                )
            extractor = cls(**told["parameters"], tabular_preprocessor=tabular_preprocessor)
            extractor._make_parts()
            extractor._restore(folder, told, arrays)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelFormatError(f"{folder} must hold a saved extractor; it does not ({error!r}).") from error
        if images_root is not None:
            extractor.images_root_ = str(images_root)
        return extractor

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # ---- fitting

    def _fit(
        self, X: Any, y: npt.ArrayLike | None, sample_weight: npt.ArrayLike | None, images_root: str | Path | None
    ) -> tuple[pd.DataFrame, Floats | None]:
        self._check_parameters()
        frame = self._frame(X, reset=True)
        y, w = checked_evidence(frame, y, sample_weight)
        self.images_root_ = None if images_root is None else str(images_root)
        self._make_parts()
        self._text.fit(texts_of(frame), w)
        images = images_of(frame, self.images_root_)
        scores = self._image.fit(images, frame, y, w, self.images_root_)
        self._tabular.fit(frame, y, w)
        raw = {
            "text": self._text.raw(texts_of(frame))[0],
            "image": self._image.raw(images, frame, self.images_root_, scores=scores)[0],
            "tabular": self._tabular.raw(frame)[0],
        }
        order = {name: ranked(matrix, y, w, Selection(self.selection)) for name, matrix in raw.items()}
        widths = shared_out(self.output_dim, {name: min(len(order[name]), self._most(name)) for name in MODALITIES})
        kept = {name: order[name][: widths[name]] for name in MODALITIES}
        self._scaling = {name: Scaling.fit(raw[name], w, kept[name]) for name in MODALITIES}
        parts = {"text": self._text.names, "image": self._image.names, "tabular": self._tabular.names}
        self.names_ = {name: tuple(parts[name][j] for j in kept[name]) for name in MODALITIES}
        return frame, scores

    def _make_parts(self) -> None:
        self._text = TextModality(self.text_model, n_components=self.output_dim, random_state=self.random_state)
        self._image = ImageModality(
            self.image_model,
            n_components=self.output_dim,
            min_images=self.min_images,
            random_state=self.random_state,
        )
        given = self.tabular_preprocessor
        self._tabular = TabularModality(None if given is None else clone(given, safe=False))

    def _restore(self, folder: Path, told: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        def below(name: str) -> dict[str, Any]:
            return {key.removeprefix(f"{name}."): v for key, v in arrays.items() if key.startswith(f"{name}.")}

        states = told["states"]
        self._text.restore(states["text"], below("text"))
        self._image.restore(states["image"], below("image"), folder)
        if told["given_preprocessor"]:
            self._tabular.preprocessor = self.tabular_preprocessor.load(folder / _PREPROCESSOR)
        else:
            self._tabular.encoder = TabularEncoder.from_state(states["tabular"], {})
        self._scaling = {name: Scaling(**below(f"scaling.{name}")) for name in MODALITIES}
        self.names_ = {name: tuple(told["names"][name]) for name in MODALITIES}
        self.images_root_ = told["images_root"]
        self.n_features_in_ = int(told["n_features_in"])
        if told["feature_names_in"] is not None:
            self.feature_names_in_ = np.array(told["feature_names_in"], dtype=object)

    def _most(self, modality: str) -> int:
        if isinstance(self.max_features, Mapping):
            return int(self.max_features.get(modality, self.output_dim))
        return self.output_dim if self.max_features is None else int(self.max_features)

    def _check_parameters(self) -> None:
        if not isinstance(self.output_dim, int | np.integer) or self.output_dim < 1:
            raise InputError(f"output_dim must be a whole number of at least 1, however: {self.output_dim!r}.")
        if self.selection not in list(Selection):
            raise InputError(f"selection must be one of {shown(map(str, Selection))}, however: {self.selection!r}.")
        limits = self.max_features if isinstance(self.max_features, Mapping) else {"text": self.max_features}
        if set(limits) - set(MODALITIES) or any(v is not None and not v >= 0 for v in limits.values()):
            raise InputError(
                f"max_features must be a number of at least 0, or one for some of {shown(MODALITIES)}, however: "
                f"{self.max_features!r}."
            )

    # ---- reading

    def _extracted(self, frame: pd.DataFrame, scores: Floats | None) -> ExtractedFeatures:
        images = images_of(frame, self.images_root_)
        raw = {
            "text": self._text.raw(texts_of(frame)),
            "image": self._image.raw(images, frame, self.images_root_, scores=scores),
            "tabular": self._tabular.raw(frame),
        }
        text, image, tabular = (self._scaling[name].apply(raw[name][0]) for name in MODALITIES)
        has_text, has_image, has_tabular = (raw[name][1] for name in MODALITIES)
        names, width = dict(self.names_), int(self.output_dim)
        return ExtractedFeatures(text, image, tabular, has_text, has_image, has_tabular, names, width)

    def _frame(self, X: Any, *, reset: bool) -> pd.DataFrame:
        """Return the rows as a frame; a matrix of numbers gets the columns x0, x1, …."""
        if not isinstance(X, pd.DataFrame):
            options: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "reset": reset}
            matrix = validate_data(self, X, ensure_min_samples=1 if reset else 0, **options)
            return pd.DataFrame(matrix, columns=[f"x{i}" for i in range(matrix.shape[1])])
        X = X.set_axis([str(name) for name in X.columns], axis=1)
        if not X.columns.is_unique:
            raise InputError(f"X must have each column once, however: {shown(X.columns[X.columns.duplicated()])}.")
        if reset:
            if not len(X) or not X.shape[1]:
                raise InputError(f"X must have rows and columns to fit on, however: shape {X.shape}.")
            self.n_features_in_ = X.shape[1]
            self.feature_names_in_ = np.array([str(name) for name in X.columns], dtype=object)
            return X
        names = set(getattr(self, "feature_names_in_", ()))
        if absent := [name for name in TEXT_COLUMNS if name in names and name not in X.columns]:
            raise InputError(f"X must have the columns of fit, however it lacks {shown(absent)}.")
        return X

    def _require_fitted(self) -> None:
        if not hasattr(self, "names_"):
            raise NotFittedError("The extractor must be fitted or loaded first; call fit or load.")


def _loaded(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        told = json.loads((folder / _FILES[0]).read_text(encoding="utf-8"))
        with np.load(folder / _FILES[1], allow_pickle=False) as found:
            arrays = dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelFormatError(f"{folder} must hold a saved extractor; it does not ({error}).") from error
    if not isinstance(told, dict) or told.get("format_version") != FORMAT_VERSION:
        raise ModelFormatError(f"{folder} must hold an extractor of format version {FORMAT_VERSION}; it does not.")
    return told, arrays
