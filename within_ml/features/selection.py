"""How much each column says about a rate on its own, with impressions as weights, and how many of them are kept.

Functions of arrays; a missing value is NaN and counts for nothing. Which features are chosen from is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from within_ml.errors import InputError, shown
from within_ml.estimators import checked_weight

Floats = npt.NDArray[np.float64]

_BINS = 16


class Selection(StrEnum):
    """What columns are ranked by."""

    F_TEST = "f_test"
    MUTUAL_INFORMATION = "mutual_information"
    NONE = "none"


def f_scores(X: Floats, y: Floats, sample_weight: Floats) -> Floats:
    """F statistic of the weighted linear regression of the rate on each column alone, shape (d,).

    Parameters
    ----------
    X : array, shape (n, d)
    y : array, shape (n,)
        Rates.
    sample_weight : array, shape (n,)
        Impressions; rows without count for nothing.

    Examples
    --------
    >>> X = np.array([[0.0, 5.0], [1.0, 5.0], [0.0, 5.0], [1.0, np.nan]])
    >>> f_scores(X, np.array([0.1, 0.3, 0.1, 0.31]), np.full(4, 100.0)).round(1)
    array([1681.,    0.])
    """
    scores = np.zeros(X.shape[1])
    for j in range(X.shape[1]):
        there = np.isfinite(X[:, j]) & (sample_weight > 0)
        n = int(there.sum())
        if n < 3:
            continue
        x, rate, w = X[there, j], y[there], sample_weight[there] / sample_weight[there].sum()
        dx, dy = x - w @ x, rate - w @ rate
        sxx, syy, sxy = w @ dx**2, w @ dy**2, w @ (dx * dy)
        if sxx <= 1e-12 * max(1.0, float(w @ x**2)) or syy <= 0:
            continue
        r2 = min(float(sxy**2 / (sxx * syy)), 1 - 1e-12)
        scores[j] = r2 / (1 - r2) * (n - 2)
    return scores


def mutual_information(X: Floats, y: Floats, sample_weight: Floats) -> Floats:
    """Mutual information in nats of a click and of each column's bin by weighted quantiles, shape (d,).

    The missing values of a column are a bin of their own. Parameters as in `f_scores`.

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [1.0, 1.0]])
    >>> mutual_information(X, np.array([0.0, 1.0]), np.array([10.0, 10.0])).round(4)
    array([0.6931, 0.    ])
    """
    total = sample_weight.sum()
    clicks, impressions = y * sample_weight / total, sample_weight / total
    rate = clicks.sum()
    scores = np.zeros(X.shape[1])
    for j in range(X.shape[1]):
        bins = _binned(X[:, j], sample_weight)
        for outcome, overall in ((clicks, rate), (impressions - clicks, 1 - rate)):
            joint, alone = np.bincount(bins, outcome), np.bincount(bins, impressions)
            some = (joint > 0) & (overall > 0)
            scores[j] += float(joint[some] @ np.log(joint[some] / (alone[some] * overall)))
    return np.maximum(scores, 0.0)


def _binned(x: Floats, w: Floats) -> npt.NDArray[np.int64]:
    there = np.isfinite(x)
    bins = np.zeros(x.size, dtype=np.int64)
    if not there.any():
        return bins
    _, of_row = np.unique(x[there], return_inverse=True)
    weight = np.bincount(of_row, w[there])
    middle = (np.cumsum(weight) - weight / 2) / max(weight.sum(), 1e-300)
    bins[there] = 1 + np.minimum((middle * _BINS).astype(np.int64), _BINS - 1)[of_row]
    return bins


_SCORES: Mapping[Selection, Callable[[Floats, Floats, Floats], Floats]] = {
    Selection.F_TEST: f_scores,
    Selection.MUTUAL_INFORMATION: mutual_information,
}


def ranked(X: Floats, y: Floats | None, sample_weight: Floats, selection: Selection) -> npt.NDArray[np.int64]:
    """Return the columns that vary, the most telling first; in their own order where there is no y or no selection."""
    weighted = X[sample_weight > 0]
    varies = np.array([_varies(weighted[:, j]) for j in range(X.shape[1])], dtype=bool)
    columns = np.flatnonzero(varies)
    if y is None or selection is Selection.NONE or not columns.size:
        return columns
    scores = _SCORES[selection](X[:, columns], y, sample_weight)
    return columns[np.argsort(-scores, kind="stable")]


def _varies(column: Floats) -> bool:
    there = column[np.isfinite(column)]
    return bool(there.size and (there != there[0]).any())


def checked_evidence(
    X: pd.DataFrame, y: npt.ArrayLike | None, sample_weight: npt.ArrayLike | None
) -> tuple[Floats | None, Floats]:
    """Return rates (None where there are none) and weights of the rows; a row without weight may have any rate.

    Raises
    ------
    InputError
        If a length or range is wrong, or no weight is positive.
    """
    weight = checked_weight(sample_weight, len(X))
    if y is None:
        return None, weight
    try:
        rate = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"y must hold rates in [0, 1], however: {error}.") from error
    if rate.shape != (len(X),):
        raise InputError(f"y must have one rate for each of the {len(X)} rows of X, however: shape {rate.shape}.")
    wrong = (weight > 0) & ~((rate >= 0) & (rate <= 1))
    if wrong.any():
        raise InputError(f"y must hold rates in [0, 1], however: {shown(rate[wrong].tolist())}.")
    return np.where(weight > 0, rate, 0.0), weight


def shared_out(total: int, available: Mapping[str, int]) -> dict[str, int]:
    """Share ``total`` columns out one by one in turn, as long as a modality has more.

    >>> shared_out(8, {"text": 50, "image": 1, "tabular": 3})
    {'text': 4, 'image': 1, 'tabular': 3}
    """
    shares = dict.fromkeys(available, 0)
    while sum(shares.values()) < total and shares != dict(available):
        for name, most in available.items():
            if shares[name] < most and sum(shares.values()) < total:
                shares[name] += 1
    return shares
