"""Any table of customers or accounts as a table of numbers: what is a number, what a category, what says nothing.

The columns' meaning is the caller's; what is learned from the numbers is in `additive` and `risk`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, ModelFormatError, shown

FloatArray = NDArray[np.float64]

MAX_LEVELS = 30
"""Of a category the most frequent levels have a column; all others share the absence of one."""

_MIN_ID_ROWS = 20
_NUMBER_SHARE = 0.95
_ID_NAME = re.compile(r"(^|[^a-z])(id|uuid|guid|key|rownumber|row_number|index)$|[a-z]I[dD]$|^(id|uuid)([^a-z]|$)")
MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Column:
    """How one column is encoded: as a number (no ``levels``) or as one flag by level."""

    name: str
    levels: tuple[str, ...] = ()
    is_number: bool = True

    @property
    def encoded(self) -> list[str]:
        """Names of its columns of numbers."""
        return [self.name] if self.is_number else [f"{self.name}={level}" for level in self.levels]


class TableEncoder:
    """Turn a frame of any columns into numbers; NaN is missing.

    Numbers, booleans, dates and texts that are numbers become one column each; every other column is a category and
    becomes a flag by level. Left out is what cannot tell rows apart or tells each one apart: constants, columns without
    any value, and identifiers (texts that hardly repeat, whole numbers that never do and count on or are called an id).
    The order of columns does not matter.

    Attributes
    ----------
    columns_ : tuple of Column
        What is encoded, by name.
    features_ : list of str
        Names of the columns of numbers, such as ``tenure`` or ``contract=monthly``.
    left_out_ : list of str

    Examples
    --------
    >>> X = pd.DataFrame({"plan": ["basic", "pro", "basic", None], "age": ["31", " ", "44", "28"], "unit": "EUR"})
    >>> encoder = TableEncoder().fit(X)
    >>> encoder.features_, encoder.left_out_
    (['age', 'plan=basic', 'plan=missing', 'plan=pro'], ['unit'])
    >>> encoder.transform(X)[1].tolist()
    [nan, 0.0, 0.0, 1.0]
    """

    def fit(self, X: pd.DataFrame) -> Self:
        """Learn what each column is.

        Raises
        ------
        InputError
            If two columns have one name, or no column can tell rows apart.
        """
        names = [str(name) for name in X.columns]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InputError(f"Columns must have different names, however: {shown(twice)} more than once.")
        found = {name: _column(name, X.iloc[:, i]) for i, name in enumerate(names)}
        self.columns_ = tuple(column for _, column in sorted(found.items()) if column is not None)
        self.left_out_ = sorted(name for name, column in found.items() if column is None)
        self._name()
        return self

    def transform(self, X: pd.DataFrame) -> FloatArray:
        """Return the numbers, shape (n, len(features_)); a level not seen in `fit` has no flag.

        Raises
        ------
        InputError
            If a column is missing.
        """
        place = {str(name): i for i, name in enumerate(X.columns)}
        if missing := [column.name for column in self.columns_ if column.name not in place]:
            raise InputError(f"The table lacks columns that the model was fitted on: {shown(missing)}.")
        encoded = np.full((len(X), len(self.features_)), np.nan)
        at = 0
        for column in self.columns_:
            values, width = X.iloc[:, place[column.name]], len(column.encoded)
            encoded[:, at : at + width] = _encoded(column, values)
            at += width
        return encoded

    @property
    def sources(self) -> dict[str, str]:
        """Encoded name → the column it is made of."""
        return {name: column.name for column in self.columns_ for name in column.encoded}

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        columns = [{"name": c.name, "levels": list(c.levels), "is_number": c.is_number} for c in self.columns_]
        return {"columns": columns, "left_out": self.left_out_}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave.

        Raises
        ------
        ModelFormatError
            If a field is missing or of the wrong kind.
        """
        encoder = cls()
        try:
            encoder.columns_ = tuple(
                Column(str(c["name"]), tuple(map(str, c["levels"])), bool(c["is_number"])) for c in state["columns"]
            )
            encoder.left_out_ = list(map(str, state["left_out"]))
        except (KeyError, TypeError) as error:
            raise ModelFormatError(f"The state of a TableEncoder is not as it was saved ({error}).") from error
        encoder._name()
        return encoder

    def _name(self) -> None:
        self.features_ = [name for column in self.columns_ for name in column.encoded]


def _column(name: str, values: pd.Series) -> Column | None:
    numbers = _numbers(values)
    if numbers is not None:
        known = numbers[~np.isnan(numbers)]
        varies = known.size and (known.size < numbers.size or known.min() < known.max())
        dated = pd.api.types.is_datetime64_any_dtype(values)
        return Column(name) if varies and (dated or not _is_id(name, known)) else None
    texts = _texts(values)
    counts = pd.Series(texts).value_counts()
    if len(counts) < 2 or (len(texts) >= _MIN_ID_ROWS and len(counts) > len(texts) / 2):
        return None
    order = sorted(counts.index, key=lambda level: (-int(counts[level]), level))[:MAX_LEVELS]
    # Two levels are one flag: that of the rarer one.
    levels = order[1:] if len(counts) == 2 else sorted(order)
    return Column(name, tuple(levels), is_number=False)


def _is_id(name: str, known: FloatArray) -> bool:
    whole = known.size >= _MIN_ID_ROWS and bool((known == np.round(known)).all())
    if not whole or np.unique(known).size < known.size:
        return False
    return bool(np.ptp(known) == known.size - 1) or _ID_NAME.search(name) is not None


def _numbers(values: pd.Series, *, share: float = _NUMBER_SHARE) -> FloatArray | None:
    """Return the column as numbers, or None if it is a category."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    if pd.api.types.is_datetime64_any_dtype(values):
        days = pd.to_datetime(values, utc=True).dt.tz_localize(None).to_numpy().astype("datetime64[s]")
        return np.where(np.isnat(days), np.nan, days.astype(np.int64) / 86_400.0)
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        filled = values[values.notna()]
        texts = filled.astype(str).str.strip()
        parsed = pd.to_numeric(texts[texts != ""], errors="coerce")
        if len(texts) and (not len(parsed) or parsed.notna().mean() < share):
            return None
        numbers = parsed.reindex(values.index).to_numpy(np.float64) if values.index.is_unique else _by_place(values)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _by_place(values: pd.Series) -> FloatArray:
    texts = values.astype(object).where(values.notna(), None).map(lambda v: v if v is None else str(v).strip())
    return np.asarray(pd.to_numeric(texts, errors="coerce").to_numpy(np.float64))


def _texts(values: pd.Series) -> NDArray[np.object_]:
    known = values.notna().to_numpy()
    texts = np.full(len(values), MISSING, dtype=object)
    texts[known] = values[known].astype(str).str.strip().to_numpy(dtype=object)
    texts[texts == ""] = MISSING
    return texts


def _encoded(column: Column, values: pd.Series) -> FloatArray:
    if not column.is_number:
        texts = _texts(values)
        return np.column_stack([texts == level for level in column.levels]).astype(np.float64)
    numbers = _numbers(values, share=0.0)
    return (numbers if numbers is not None else np.full(len(values), np.nan))[:, None]


def as_table(X: Any, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return X as a frame with text column names; arrays get the names ``x0``, ``x1``, ….

    Raises
    ------
    InputError
        If X has not two dimensions.
    """
    if isinstance(X, pd.DataFrame):
        return X.rename(columns=str)
    array = np.asarray(X)
    if array.ndim != 2:
        raise InputError(f"X must be a table of rows and columns, however: shape {array.shape}.")
    return pd.DataFrame(array, columns=list(columns) if columns else [f"x{i}" for i in range(array.shape[1])])
