"""What every layer agrees on: the time constants, the products' names and the protocol of a model.

Nothing here reads the lake or computes a number. How a model becomes a folder on disk stands in `model_folder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from within_ml.errors import InputError, ModelFormatError, NotFittedError, shown
from within_ml.model_folder import ModelMetadata, read_model_folder, write_model_folder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

HORIZON_DAYS = 7
"""The label of day D is what happened in D+1 … D+HORIZON_DAYS."""

ATTRIBUTION_DELAY_DAYS = 2
"""Clicks and conversions of a day are complete this many days later."""

LABEL_MATURITY_DAYS = HORIZON_DAYS + ATTRIBUTION_DELAY_DAYS
"""The label of day D may be used from day D+LABEL_MATURITY_DAYS on, not before."""


class ModelType(StrEnum):
    """The products of WITHIN; the value is the registered model's name."""

    AD_SCORE = "ad_score"
    ACCOUNT_HEALTH = "account_health"
    ANOMALY_DETECTOR = "anomaly_detector"


class ModelKind(StrEnum):
    """A product's kinds of model; subclasses name them, the value is what ``model_type`` is asked for with."""

    @classmethod
    def of(cls, value: str) -> Self:
        """Return the member of that value.

        Raises
        ------
        InputError
            If there is none.
        """
        if value not in list(cls):
            raise InputError(f"model_type must be one of {shown(str(kind) for kind in cls)}, however: {value!r}.")
        return cls(value)


class BaseMLModel(ABC):
    """A product's model: fitted on a feature frame, saved as a folder of native files, loaded without running code.

    Subclasses name their ``model_type`` and implement ``fit``, ``predict``, ``validate`` and the two halves of the save
    format, ``_write_state`` and ``_read_state``. Constructors take every argument of their own with a default.

    Parameters
    ----------
    model_name : str
        Name under which the model is registered.
    feature_names : sequence of str
        Columns that ``predict`` needs; subclasses may extend it in ``fit``.
    model_version : str, optional
        Version in the registry; None before it is registered.
    metadata : mapping, optional
        What the caller knows about the training and the model does not: ``trained_at`` (ISO 8601 text, UTC),
        ``metrics`` (name → number), ``lake_versions`` (table → version) and whatever else is JSON.

    Examples
    --------
    >>> import json, tempfile
    >>> import numpy as np
    >>> class Level(BaseMLModel):
    ...     model_type = "level"
    ...     def fit(self, X, y, *, sample_weight=None):
    ...         self.rate_ = float(np.average(y, weights=sample_weight))
    ...         return self
    ...     def predict(self, X):
    ...         return np.full(len(X), self.rate_)
    ...     def validate(self, X, y, *, sample_weight=None):
    ...         return {"bias": float(np.mean(self.predict(X) - y))}
    ...     def _write_state(self, folder):
    ...         (folder / "level.json").write_text(json.dumps({"rate": self.rate_}))
    ...     def _read_state(self, folder, metadata):
    ...         self.rate_ = json.loads((folder / "level.json").read_text())["rate"]
    >>> model = Level("level", ["x"], metadata={"trained_at": "2024-01-08T00:00:00Z"})
    >>> model = model.fit([[0], [1]], [0.1, 0.3], sample_weight=[1, 3])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/level")
    ...     again = Level.load(f"{folder}/level")
    >>> again.predict([[0]]), again.metadata["trained_at"]
    (array([0.25]), '2024-01-08T00:00:00Z')
    """

    model_type: ClassVar[str]

    def __init__(
        self,
        model_name: str,
        feature_names: Sequence[str],
        model_version: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.feature_names = list(feature_names)
        self.model_version = model_version
        self.metadata: dict[str, Any] = dict(metadata or {})

    @abstractmethod
    def fit(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on rows of features.

        Parameters
        ----------
        X : DataFrame, shape (n, …)
        y : array-like, shape (n,)
            For rates: clicks / impressions, in [0, 1].
        sample_weight : array-like, shape (n,), optional
            For rates: impressions.
        """

    @abstractmethod
    def predict(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Return one finite prediction per row, shape (n,); an empty frame gives an empty array."""

    @abstractmethod
    def validate(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> dict[str, float]:
        """Return the metrics of the predictions on rows with known outcome."""

    @abstractmethod
    def _write_state(self, folder: Path) -> None:
        """Write the fitted state into an empty folder: native files only."""

    @abstractmethod
    def _read_state(self, folder: Path, metadata: ModelMetadata) -> None:
        """Restore what `_write_state` wrote, on an object made by the bare constructor arguments."""

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constructor's own arguments as JSON values; `load` passes them back by name."""
        return {}

    @classmethod
    def _from_metadata(cls, metadata: ModelMetadata) -> Self:
        """Make the unfitted object; override where the hyperparameters are not plain JSON."""
        return cls(
            model_name=metadata.name,
            feature_names=list(metadata.feature_columns),
            model_version=metadata.version,
            metadata=metadata.details,
            **metadata.hyperparameters,
        )

    def save(self, path: str | Path) -> None:
        """Write the model folder at ``path``, whole or not at all; a model folder already there is replaced.

        Raises
        ------
        NotFittedError
            If the model was not fitted.
        ModelFormatError
            If ``path`` exists and is not a model folder, or a file is not native.
        """
        if not self.is_fitted:
            raise NotFittedError(f"{type(self).__name__} must be fitted before it is saved; call fit first.")
        write_model_folder(
            Path(path),
            ModelMetadata.create(
                name=self.model_name,
                type=self.model_type,
                version=self.model_version,
                feature_columns=self.feature_names,
                hyperparameters=self.hyperparameters(),
                details=self.metadata,
            ),
            self._write_state,
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a model folder; every file's hash is checked before any of them is parsed.

        Raises
        ------
        ModelFormatError
            If the folder is incomplete, altered, of another type or of a newer format.
        """
        folder = Path(path)
        metadata = read_model_folder(folder, expected_type=cls.model_type)
        try:
            model = cls._from_metadata(metadata)
        except TypeError as error:
            raise ModelFormatError(
                f"{folder} has hyperparameters that {cls.__name__} does not know: {error}."
            ) from error
        model._read_state(folder, metadata)
        return model

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` or `load` has set fitted state (attributes that end in an underscore)."""
        return any(name.endswith("_") and not name.startswith("_") for name in vars(self))

    def require_columns(self, X: pd.DataFrame, columns: Sequence[str]) -> None:
        """Check that a frame has the columns.

        Raises
        ------
        InputError
            If any is missing.
        """
        if not hasattr(X, "columns"):
            raise InputError(f"X must be a DataFrame of features, however: {type(X).__name__}.")
        missing = [column for column in columns if column not in X.columns]
        if missing:
            raise InputError(
                f"{self.model_name} needs the columns it was fitted on; the frame lacks {shown(missing)}. "
                "Build the frame from the same version of the feature catalog."
            )
