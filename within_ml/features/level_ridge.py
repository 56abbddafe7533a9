"""Sparse ridge regression of log-odds with a random level per group: the arithmetic of the text score.

Arrays and matrices only; what the columns mean is in `text_score`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PSEUDO_CLICKS = 2.0
"""Clicks at the group's own rate added to each row's: the log-odds of an ad without clicks stay finite and small."""

SLOPE_PRIOR = 4.0
"""Precision of the prior that the slope is 1: its standard deviation is a half."""

_LEVEL_VARIANCE_RANGE = (0.05, 5.0)
_TOLERANCE, _MAX_ITERATIONS = 1e-3, 200


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of each (group, text); all arrays have shape (n_rows,).

    Attributes
    ----------
    text, group : codes from 0
    y : log-odds against the overall rate, shrunk towards the group's level
    weight : precision of y given the group's level, 1 / log-odds²; 0 takes a row out
    level_variance : variance of the groups' levels, log-odds²
    """

    text: Integers
    group: Integers
    y: Floats
    weight: Floats
    level_variance: float

    @classmethod
    def from_counts(
        cls,
        text: Integers,
        group: Integers,
        *,
        clicks: Floats,
        impressions: Floats,
        residual_variance: float,
        level_variance: float | None,
    ) -> Self:
        """Turn counts into log-odds and precisions; ``level_variance=None`` estimates it.

        The precision rests on expected clicks at the group's rate: from the ad's own clicks it would be larger for the
        ads that were lucky.

        >>> rows = Evidence.from_counts(
        ...     np.array([0, 1]), np.array([0, 0]), clicks=np.array([30.0, 10.0]), impressions=np.array([1e3, 1e3]),
        ...     residual_variance=0.1, level_variance=1.0)
        >>> rows.y.round(2).tolist(), rows.weight.round(2).tolist()
        ([0.36, -0.62], [6.62, 6.62])
        """
        overall = (clicks.sum() + 0.5) / (impressions.sum() + 1.0)
        group_rate = (sums(group, clicks) + 1.0) / (sums(group, impressions) + 1.0 / overall)
        expected = impressions * group_rate[group]
        level = np.log(group_rate / overall)
        y = np.log((clicks + PSEUDO_CLICKS) / (expected + PSEUDO_CLICKS)) + level[group]
        information = expected * (1.0 - group_rate[group])
        weight = information / (1.0 + residual_variance * information)
        if level_variance is None:
            level_variance = _estimated_level_variance(level, sums(group, weight))
        return cls(text, group, y, weight, level_variance)

    def only(self, rows: npt.NDArray[np.bool_]) -> Self:
        """Return the same rows with all but the given ones weighing nothing."""
        return replace(self, weight=np.where(rows, self.weight, 0.0))

    def precise(self, values: Floats) -> Floats:
        """Multiply by the precision matrix of the rows, the overall intercept projected out.

        With W the weights and level variance s², the precision of one group's rows is ``W - W11'W / (1'W1 + 1/s²)``
        (Woodbury).
        """
        ones = self._levelled(np.ones_like(self.weight))
        image = self._levelled(values)
        total = ones.sum()
        return image - ones * (image.sum() / total) if total > 0 else image

    def _levelled(self, values: Floats) -> Floats:
        share = 1.0 / (sums(self.group, self.weight) + 1.0 / self.level_variance)
        common = share * sums(self.group, self.weight * values)
        return self.weight * (values - common[self.group])


def solve(matrix: Any, rows: Evidence, *, alpha: float) -> Floats:
    """Return the ridge coefficients by conjugate gradients; the matrix is never centred, so it stays sparse.

    Parameters
    ----------
    matrix : scipy sparse CSR, shape (n_texts, n_columns)
    rows : Evidence
    alpha : float
        Precision of the prior on each coefficient.

    Returns
    -------
    numpy.ndarray, shape (n_columns,)
    """
    from scipy.sparse.linalg import LinearOperator, cg

    n_texts, n_columns = matrix.shape
    across = matrix.T.tocsr()

    def per_text(values: Floats) -> Floats:
        return sums(rows.text, values, n_texts)

    def normal(coefficients: Floats) -> Floats:
        image = rows.precise((matrix @ coefficients)[rows.text])
        return np.asarray(across @ per_text(image) + alpha * coefficients)

    squared = across.copy()
    squared.data **= 2
    diagonal = squared @ per_text(rows.weight) + alpha
    shape = (n_columns, n_columns)
    coefficients, _ = cg(
        LinearOperator(shape, matvec=normal, dtype=np.float64),
        across @ per_text(rows.precise(rows.y)),
        rtol=_TOLERANCE,
        maxiter=_MAX_ITERATIONS,
        M=LinearOperator(shape, matvec=lambda values: values / diagonal, dtype=np.float64),
    )
    return np.asarray(coefficients)


def slope(score: Floats, rows: Evidence) -> float:
    """Return the slope of y on a score of each row, drawn to 1 where the rows say little, never negative."""
    image = rows.precise(score)
    return max(0.0, float((image @ rows.y + SLOPE_PRIOR) / (image @ score + SLOPE_PRIOR)))


def sums(code: Integers, values: Floats, size: int = 0) -> Floats:
    """Sum the values of each code, shape (max(size, code.max() + 1),)."""
    return np.asarray(np.bincount(code, values, minlength=size), dtype=np.float64)


def _estimated_level_variance(level: Floats, information: Floats) -> float:
    """Method of moments: the spread of the groups' levels less what their own noise explains."""
    known = information > 0
    if known.sum() < 2:
        return 1.0
    level, noise = level[known], 1.0 / information[known]
    weight = 1.0 / (1.0 + noise)
    spread = np.average((level - np.average(level, weights=weight)) ** 2, weights=weight)
    low, high = _LEVEL_VARIANCE_RANGE
    return float(np.clip(spread - np.average(noise, weights=weight), low, high))
