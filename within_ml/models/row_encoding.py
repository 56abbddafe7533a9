"""Feature frames as sparse rows for a linear model: numbers standardised, categories hashed, origins remembered.

What a linear model does with the rows is in `dynamic_linear`; which columns are features is the caller's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array

from within_ml.errors import InputError, ModelFormatError, shown
from within_ml.estimators import require_fitted

FloatArray = NDArray[np.float64]

_STATE_FILE = "row_encoder.json"
_MISSING = "\0missing"
_HEAVY_TAIL = 4.0
"""Times the distance from median to 99th percentile may be as long as from first to third quartile: 1.7 in a normal
distribution, 3.6 in an exponential one, 6.4 in a lognormal one."""


@dataclass(frozen=True, slots=True)
class NumberScale:
    """How a numeric column is standardised: ``(f(x) - centre) / spread``, clipped.

    ``f(x) = log(1 + max(x, 0) / unit)`` where ``unit`` is given, else x itself. A missing value becomes 0, the usual
    row's value, and its indicator 1.
    """

    centre: float
    spread: float
    unit: float | None

    @classmethod
    def of(cls, values: FloatArray) -> NumberScale:
        """Choose the scale from a column; NaN is left out, and a column without any value is all zeros."""
        known = values[np.isfinite(values)]
        if not known.size:
            return cls(0.0, 1.0, None)
        unit = _unit(known)
        known = cls(0.0, 1.0, unit)._bent(known)
        low, centre, high = np.quantile(known, [0.25, 0.5, 0.75])
        # The quartiles of a standard normal distribution are 1.349 apart; many columns are one value on most rows.
        spread = (high - low) / 1.349 or float(known.std()) or 1.0
        return cls(float(centre), float(spread), unit)

    def apply(self, values: FloatArray, limit: float) -> FloatArray:
        """Return the standardised column; missing values become 0."""
        scaled = (self._bent(values) - self.centre) / self.spread
        clipped: FloatArray = np.clip(np.where(np.isnan(scaled), 0.0, scaled), -limit, limit)
        return clipped

    def _bent(self, values: FloatArray) -> FloatArray:
        return values if self.unit is None else np.log1p(np.maximum(values, 0.0) / self.unit)


@dataclass(frozen=True, slots=True)
class Block:
    """Columns ``start`` to ``stop - 1`` of the rows belong to the feature ``source``."""

    source: str
    start: int
    stop: int


class RowEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Encode a frame as sparse rows of a fixed width, each column of which belongs to one feature.

    A number takes two columns, its standardised value and "it is missing"; a category has a block of its own to be
    hashed into, so that two values may share a column but never two features, and a model's effects can be summed by
    feature exactly::

        | number 1 | missing 1 | number 2 | missing 2 | … | category 1: a block | category 2: a block | …

    Parameters
    ----------
    n_features : int
        Columns of the encoded rows.
    categorical : sequence of str
        Columns to hash. Values are compared as text, whole numbers without a point; a missing value is one of its own.
    numeric : sequence of str, optional
        Columns taken as numbers; None takes all that are not categorical. Others of the frame are not looked at.
    limit : float
        Standardised numbers are clipped to ± this.

    Attributes
    ----------
    blocks_ : tuple of Block
        Where each feature lies.
    feature_groups_ : array of str, shape (n_features,)
        The feature of each column; "" where no feature lies.
    scales_ : dict of str to NumberScale

    Notes
    -----
    Hashing: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning", without the sign: within one
    feature a row has one value, nothing can cancel. The hash is BLAKE2b of the text: the same on every machine.

    Examples
    --------
    >>> X = pd.DataFrame({"age": [1.0, 2.0, None], "platform": ["meta", "google", "meta"]})
    >>> encoder = RowEncoder(n_features=16, categorical=["platform"]).fit(X)
    >>> encoder.transform(X).shape, encoder.feature_groups_[:3].tolist()
    ((3, 16), ['age', 'age', 'platform'])
    """

    def __init__(
        self,
        n_features: int = 2**18,
        *,
        categorical: Sequence[str] = (),
        numeric: Sequence[str] | None = None,
        limit: float = 5.0,
    ) -> None:
        self.n_features = n_features
        self.categorical = categorical
        self.numeric = numeric
        self.limit = limit

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the scales of the numeric columns and lay out the blocks; ``y`` is not looked at.

        Raises
        ------
        InputError
            If a column is missing, a number is infinite or none at all, or ``n_features`` is too small.
        """
        if not self.limit > 0:
            raise InputError(f"limit must be above 0, however: {self.limit}.")
        frame = self._frame(X, reset=True)
        self.scales_ = {name: NumberScale.of(_numbers(frame, name)) for name in self._numeric(frame)}
        self._lay_out()
        return self

    def transform(self, X: Any) -> sparse.csr_array:
        """Return the rows, float64, shape (n, n_features).

        Raises
        ------
        InputError
            If a column of fit is missing, or a number is infinite or none at all.
        """
        require_fitted(self)
        frame = self._frame(X, reset=False)
        rows = np.arange(len(frame))
        parts = [self._number(frame, block, rows) for block in self.blocks_ if block.source in self.scales_]
        parts += [self._category(frame, block, rows) for block in self.blocks_ if block.source not in self.scales_]
        shape = (len(frame), self.n_features)
        if not parts:
            return sparse.csr_array(shape, dtype=np.float64)
        i, j, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        encoded = sparse.csr_array((values, (i, j)), shape=shape)
        encoded.sort_indices()
        return encoded

    def contributions(self, rows: sparse.csr_array, values: FloatArray) -> pd.DataFrame:
        """Return what each feature adds to the log-odds of each row: one column per feature, in ``blocks_``' order.

        The sum over a row plus the model's intercept is its log-odds.

        Parameters
        ----------
        rows : sparse, shape (n, n_features)
            As from `transform`.
        values : shape (n_features,)
            A linear model's weights.
        """
        require_fitted(self)
        if rows.shape[1:] != (self.n_features,) or np.shape(values) != (self.n_features,):
            raise InputError(
                f"rows and values must have n_features={self.n_features} columns, however: {rows.shape}, "
                f"{np.shape(values)}."
            )
        column = np.concatenate([np.arange(b.start, b.stop) for b in self.blocks_] or [np.empty(0, np.int64)])
        feature = np.repeat(np.arange(len(self.blocks_)), [b.stop - b.start for b in self.blocks_])
        by_feature = sparse.csr_array(
            (np.asarray(values)[column], (column, feature)), shape=(self.n_features, len(self.blocks_))
        )
        return pd.DataFrame((rows @ by_feature).toarray(), columns=[block.source for block in self.blocks_])

    @property
    def feature_groups_(self) -> NDArray[np.object_]:
        """The feature of each column, shape (n_features,)."""
        groups = np.full(self.n_features, "", dtype=object)
        for block in self.blocks_:
            groups[block.start : block.stop] = block.source
        return groups

    def save(self, folder: Path) -> None:
        """Write the fitted state into an existing folder."""
        require_fitted(self)
        state = {
            "n_features": self.n_features,
            "categorical": list(self.categorical),
            "numeric": None if self.numeric is None else list(self.numeric),
            "limit": self.limit,
            "columns": [str(name) for name in getattr(self, "feature_names_in_", [])],
            "n_columns": self.n_features_in_,
            "scales": {name: asdict(scale) for name, scale in self.scales_.items()},
        }
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelFormatError
            If the file is missing or is not what `save` wrote.
        """
        try:
            state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
            encoder = cls(**{key: state[key] for key in ("n_features", "categorical", "numeric", "limit")})
            encoder._restore(state)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFormatError(f"{folder} must hold a saved RowEncoder; it does not ({error}).") from error
        return encoder

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.n_features_in_ = int(state["n_columns"])
        if state["columns"]:
            self.feature_names_in_ = np.array(state["columns"], dtype=object)
        self.scales_ = {name: NumberScale(**scale) for name, scale in state["scales"].items()}
        self._lay_out()

    def _lay_out(self) -> None:
        """Give each number two columns and each category an equal share of the rest."""
        numbers, categories = list(self.scales_), list(self.categorical)
        free = self.n_features - 2 * len(numbers)
        if free < 2 * len(categories) or self.n_features < 1:
            raise InputError(
                f"n_features must be at least 2 for each of {len(numbers)} numeric and {len(categories)} categorical "
                f"columns, however: {self.n_features}."
            )
        blocks = [Block(name, 2 * k, 2 * k + 2) for k, name in enumerate(numbers)]
        width = free // max(len(categories), 1)
        first = 2 * len(numbers)
        blocks += [Block(name, first + k * width, first + (k + 1) * width) for k, name in enumerate(categories)]
        self.blocks_ = tuple(blocks)

    def _numeric(self, frame: pd.DataFrame) -> list[str]:
        chosen = frame.columns if self.numeric is None else self.numeric
        numbers = [str(name) for name in chosen if self.numeric is not None or name not in self.categorical]
        if both := sorted(set(numbers) & set(self.categorical)):
            raise InputError(f"A column is numeric or categorical, not both; these are: {shown(both)}.")
        self._require(frame, [*numbers, *self.categorical])
        return numbers

    def _frame(self, X: Any, *, reset: bool) -> pd.DataFrame:
        """Return X as a frame with text column names; arrays get the names x0, x1, …."""
        if isinstance(X, pd.DataFrame):
            frame = X.set_axis([str(name) for name in X.columns], axis=1)
        else:
            array = check_array(
                X, dtype=None, ensure_all_finite=False, ensure_min_samples=int(reset), input_name="X", estimator=self
            )
            frame = pd.DataFrame(array, columns=[f"x{k}" for k in range(array.shape[1])])
        if reset:
            self.n_features_in_ = frame.shape[1]
            if isinstance(X, pd.DataFrame):
                self.feature_names_in_ = frame.columns.to_numpy(dtype=object)
            return frame
        if not isinstance(X, pd.DataFrame) and frame.shape[1] != self.n_features_in_:
            raise InputError(
                f"X has {frame.shape[1]} features, but RowEncoder is expecting {self.n_features_in_} features as input."
            )
        self._require(frame, [block.source for block in self.blocks_])
        return frame

    @staticmethod
    def _require(frame: pd.DataFrame, names: Sequence[str]) -> None:
        if missing := [name for name in names if name not in frame.columns]:
            raise InputError(f"X must have the columns that are encoded; it lacks {shown(missing)}.")

    def _number(self, frame: pd.DataFrame, block: Block, rows: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        raw = _numbers(frame, block.source)
        value = self.scales_[block.source].apply(raw, self.limit)
        missing = np.isnan(raw)
        kept = (value != 0) | missing
        column = np.where(missing, block.start + 1, block.start)
        return rows[kept], column[kept], np.where(missing, 1.0, value)[kept]

    @staticmethod
    def _category(frame: pd.DataFrame, block: Block, rows: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        try:
            codes, values = pd.factorize(frame[block.source], use_na_sentinel=True)
        except TypeError as error:
            raise InputError(f"Column {block.source!r} must hold values that can be compared ({error}).") from error
        places = [_place(_text(value), block) for value in values]
        column = np.array([*places, _place(_MISSING, block)], dtype=np.int64)[codes]
        return rows, column, np.ones(rows.size)


def _numbers(frame: pd.DataFrame, name: str) -> FloatArray:
    """Return a column as float64 with NaN for what is missing."""
    column = frame[name]
    try:
        # A column without any value may have any type.
        values = (
            np.full(len(column), np.nan) if column.isna().all() else column.to_numpy(dtype=np.float64, na_value=np.nan)
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"Column {name!r} must hold numbers, or be named in categorical ({error}).") from error
    if np.isinf(values).any():
        raise InputError(f"Column {name!r} must hold finite numbers or nothing; it has infinity (inf) in it.")
    return values


def _unit(known: FloatArray) -> float | None:
    """Return the median positive value where a column has a heavy tail that its logarithm tames, else None."""
    positive = known[known > 0]
    if known.min() < 0 or not positive.size:
        return None
    low, middle, high, tail = np.quantile(known, [0.25, 0.5, 0.75, 0.99])
    return float(np.median(positive)) if tail - middle > _HEAVY_TAIL * (high - low) else None


def _text(value: object) -> str:
    """Return the text by which a category is known: 7, 7.0 and "7" are one."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _place(text: str, block: Block) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return block.start + int.from_bytes(digest, "little") % (block.stop - block.start)
