"""Where a prediction stands among those of training: the percentile behind a score of 0 to 100, by group.

Percentiles rank; they are no probabilities and nothing here looks at outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, ModelFormatError

FloatArray = NDArray[np.float64]

QUANTILES = (np.arange(400) + 0.5) / 400
ALL_GROUPS = ""
"""Key of the distribution over all groups; a group not seen in training is measured by it."""


class PercentileScale:
    """Percentiles within a group's training distribution, kept as 400 quantiles.

    Attributes
    ----------
    grids_ : dict of str to array, shape (400,)
        Quantiles by group; the key `ALL_GROUPS` holds those over all.

    Examples
    --------
    >>> scale = PercentileScale().fit([1.0, 2.0, 3.0, 4.0], groups=["a", "a", "b", "b"])
    >>> scale.transform([1.5, 1.5, 1.5], groups=["a", "b", "new"])
    array([50.,  0., 25.])
    """

    def fit(
        self, values: ArrayLike, *, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Keep the weighted quantiles of finite ``values``, shape (n,), over all and by group.

        Raises
        ------
        InputError
            If there is no value, or no weight.
        """
        v = np.asarray(values, dtype=np.float64)
        w = np.ones_like(v) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if not w.sum() > 0:
            raise InputError(f"A percentile scale needs at least one value with weight, however: {v.size} values.")
        self.grids_: dict[str, FloatArray] = {ALL_GROUPS: _weighted_quantiles(v, w)}
        if groups is not None:
            names = _names(groups)
            for name in np.unique(names):
                rows = names == name
                self.grids_[str(name)] = _weighted_quantiles(v[rows], w[rows])
        return self

    def transform(self, values: ArrayLike, *, groups: ArrayLike | None = None) -> FloatArray:
        """Return percentiles in [0, 100], shape (n,); ties stand in their middle."""
        v = np.asarray(values, dtype=np.float64)
        if groups is None:
            return _percentile(self.grids_[ALL_GROUPS], v)
        codes, names = pd.factorize(_names(groups))
        result = np.empty(v.size)
        for code, name in enumerate(names):
            rows = codes == code
            result[rows] = _percentile(self.grids_.get(str(name), self.grids_[ALL_GROUPS]), v[rows])
        return result

    def mapped(self, function: Callable[[FloatArray], FloatArray]) -> PercentileScale:
        """Return the scale of the values that an increasing function makes of those that were fitted.

        >>> PercentileScale().fit([1.0, 2.0]).mapped(lambda v: 10 * v).transform([15.0])
        array([50.])
        """
        scale = PercentileScale()
        scale.grids_ = {name: function(grid) for name, grid in self.grids_.items()}
        return scale

    def to_arrays(self) -> tuple[list[str], FloatArray]:
        """Return the groups and their quantiles, shape (groups, 400)."""
        return list(self.grids_), np.stack(list(self.grids_.values()))

    @classmethod
    def from_arrays(cls, groups: list[str], grids: FloatArray) -> Self:
        """Restore what `to_arrays` gave.

        Raises
        ------
        ModelFormatError
            If shapes do not fit.
        """
        if grids.shape != (len(groups), QUANTILES.size) or ALL_GROUPS not in groups:
            raise ModelFormatError(f"A percentile scale of {len(groups)} groups cannot have shape {grids.shape}.")
        scale = cls()
        scale.grids_ = dict(zip(groups, grids, strict=True))
        return scale


def _names(groups: ArrayLike) -> NDArray[np.str_]:
    return np.asarray(groups, dtype=object).astype(str)


def _weighted_quantiles(values: FloatArray, weight: FloatArray) -> FloatArray:
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    # Steps, no interpolation: a value that many rows share keeps the width of its share.
    place = np.searchsorted(share, QUANTILES, side="left")
    quantiles: FloatArray = values[order][np.minimum(place, values.size - 1)]
    return quantiles


def _percentile(grid: FloatArray, values: FloatArray) -> FloatArray:
    distinct, first = np.unique(grid, return_index=True)
    last = np.append(first[1:], grid.size) - 1
    # A value that many share spans a range of percentiles; it gets the middle.
    height = (first + last + 1) / (2 * grid.size)
    share = np.interp(values, distinct, height)
    share = np.where(values < distinct[0], 0.0, np.where(values > distinct[-1], 1.0, share))
    result: FloatArray = 100 * share
    return result
