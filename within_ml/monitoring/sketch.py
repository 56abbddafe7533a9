"""One-pass histograms of a table's columns over bins fixed in advance: small, mergeable, JSON.

Counting only; how far two histograms are from each other is judged in `drift`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError, shown

FloatArray = NDArray[np.float64]

OTHER = "(other)"
"""Level of all values of a categorical column that the bins do not name."""


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of one column, ascending numbers or named levels; missing values are counted beside them.

    Attributes
    ----------
    name : str
    cuts : tuple of float
        Of a numeric column: bin i holds what is above cut i − 1 and up to cut i, the last bin what is above all cuts.
        A value that is a quantile several times over, such as 0 clicks, has a bin of its own.
    levels : tuple of str or None
        Of a categorical column: its most frequent values; one more bin holds the others. None for a numeric one.

    Examples
    --------
    >>> Bins.of(pd.Series([0, 0, 0, 0, 1, 2, 3, 4]), "clicks", bins=4).counts(pd.Series([0, 0, 2.5, None])).tolist()
    [0.0, 2.0, 0.0, 1.0, 1.0]
    """

    name: str
    cuts: tuple[float, ...] = ()
    levels: tuple[str, ...] | None = None

    @classmethod
    def of(cls, values: pd.Series, name: str, *, bins: int = 20) -> Bins:
        """Place the bins by the values' quantiles, or name the ``bins`` most frequent levels.

        Numbers and booleans are numeric, everything else is categorical.
        """
        if not _numeric(values):
            frequent = values.dropna().astype(str).value_counts()
            # Equal counts in the order of names, so that the order of rows does not matter.
            ordered = sorted(frequent.items(), key=lambda item: (-item[1], str(item[0])))
            return cls(name, levels=tuple(str(level) for level, _ in ordered[:bins]))
        numbers = _numbers(values)
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size == 0:
            return cls(name)
        edges = np.quantile(numbers, np.arange(1, bins) / bins, method="lower")
        unique, times = np.unique(edges, return_counts=True)
        atoms = unique[times > 1]
        return cls(name, tuple(np.unique(np.concatenate([unique, np.nextafter(atoms, -np.inf)])).tolist()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the bins, in order."""
        if self.levels is not None:
            return (*self.levels, OTHER)
        return (*(f"≤ {cut:.6g}" for cut in self.cuts), f"> {self.cuts[-1]:.6g}" if self.cuts else "any")

    def counts(self, values: pd.Series, weights: FloatArray | None = None) -> FloatArray:
        """Count the values per bin, shape (bins + 1,): the last count is that of missing values."""
        if self.levels is None:
            numbers = _numbers(values)
            missing = np.isnan(numbers)
            place = np.searchsorted(np.asarray(self.cuts), numbers, side="left")
        else:
            missing = values.isna().to_numpy()
            known = pd.Index(self.levels, dtype=object).get_indexer(pd.Index(values.astype(str).astype(object)))
            place = np.where(known < 0, len(self.levels), known)
        size = len(self.labels)
        place = np.where(missing, size, place)
        return np.bincount(place, weights=weights, minlength=size + 1).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """Histograms of some rows; sketches over the same bins add up to the sketch of all their rows.

    Attributes
    ----------
    bins : tuple of Bins
    counts : tuple of array, each of shape (bins + 1,)
        Rows, or their weights, per bin; the last is what is missing.
    rows : int

    Examples
    --------
    >>> bins = (Bins.of(pd.Series([1.0, 2, 3, 4]), "x", bins=2),)
    >>> night = Sketch.of(pd.DataFrame({"x": [1.0, 9, None]}), bins)
    >>> (night + night).counts[0].tolist(), night.missing_share("x")
    ([2.0, 2.0, 2.0], 0.3333333333333333)
    >>> Sketch.from_json(night.to_json()).rows
    3
    """

    bins: tuple[Bins, ...]
    counts: tuple[FloatArray, ...]
    rows: int

    @classmethod
    def of(cls, frame: pd.DataFrame, bins: Sequence[Bins], *, weights: FloatArray | None = None) -> Sketch:
        """Count a frame's rows.

        Parameters
        ----------
        frame : DataFrame, shape (n, …)
        bins : sequence of Bins
        weights : array of shape (n,), optional
            0 or above, finite; by default each row counts once.

        Raises
        ------
        InputError
            If a column is missing or numbers are asked of a column that has none, or the weights do not fit.
        """
        missing = [one.name for one in bins if one.name not in frame.columns]
        if missing:
            raise InputError(f"The frame must have the columns of the reference; missing: {shown(missing)}.")
        if weights is not None:
            weights = np.asarray(weights, dtype=np.float64)
            if weights.shape != (len(frame),) or not (np.isfinite(weights) & (weights >= 0)).all():
                raise InputError(
                    f"weights must be {len(frame)} finite numbers of 0 or above; they have shape {weights.shape}."
                )
        return cls(tuple(bins), tuple(one.counts(frame[one.name], weights) for one in bins), len(frame))

    def __add__(self, other: Sketch) -> Sketch:
        if self.bins != other.bins:
            raise InputError("Only sketches over the same bins can be added; these have different ones.")
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Sketch(self.bins, counts, self.rows + other.rows)

    def missing_share(self, name: str) -> float:
        """Return which share of the rows has no value in a column, 0 for no rows."""
        counts = self.counts[[one.name for one in self.bins].index(name)]
        total = counts.sum()
        return float(counts[-1] / total) if total > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; floats are exact."""
        return {
            "rows": self.rows,
            "columns": [
                {"name": one.name, "cuts": list(one.cuts), "levels": None if one.levels is None else list(one.levels),
                 "counts": counts.tolist()}
                for one, counts in zip(self.bins, self.counts, strict=True)
            ],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sketch:
        """Return what `to_dict` was made of."""
        columns = values["columns"]
        bins = tuple(
            Bins(c["name"], tuple(c["cuts"]), None if c["levels"] is None else tuple(c["levels"])) for c in columns
        )
        return cls(bins, tuple(np.asarray(c["counts"], dtype=np.float64) for c in columns), int(values["rows"]))

    def to_json(self) -> str:
        """Return `to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Sketch:
        """Return what `to_json` was made of."""
        return cls.from_dict(json.loads(text))


def _numeric(values: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values))


def _numbers(values: pd.Series) -> FloatArray:
    if not _numeric(values):
        # A column without any value comes as objects; anything else but numbers cannot be put into numeric bins.
        if values.isna().all():
            return np.full(len(values), np.nan)
        raise InputError(f"{values.name} must be numeric as in the reference; its type is {values.dtype}.")
    return np.asarray(values.to_numpy(np.float64, na_value=np.nan), dtype=np.float64)
