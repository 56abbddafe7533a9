"""Metrics of predicted rates against observed ones, on arrays.

Everywhere ``y_true`` is an observed rate in [0, 1] (clicks / impressions), ``y_prob`` a predicted one and
``sample_weight`` the impressions behind the observation, so that a row of n impressions counts like n rows of a click
or none. No frames, no bootstrap and no threshold of what is good enough: those are in `validation`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-15
"""Probabilities are kept this far from 0 and 1 where a logarithm is taken."""

SIGNIFICANT_Z = 1.959963984540054
"""Two-sided 5 % point of the standard normal distribution."""

MAX_PARTNERS = 200
"""In a group with more rows than this each row is compared with this many others, drawn with a fixed seed."""


def check_rates(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    names: tuple[str, str, str] = ("y_true", "y_prob", "sample_weight"),
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return rates, predictions and weights as float arrays of one shape (n,); messages call them by ``names``.

    Raises
    ------
    InputError
        If shapes differ, a rate is outside [0, 1] or not finite, or a weight is negative or not finite.
    """
    y, p = np.asarray(y_true, dtype=np.float64), np.asarray(y_prob, dtype=np.float64)
    w = np.ones_like(y) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if y.ndim != 1 or not y.shape == p.shape == w.shape:
        raise InputError(
            f"{names[0]}, {names[1]} and {names[2]} must have one shape (n,), however: {y.shape}, {p.shape}, {w.shape}."
        )
    for name, values in zip(names, (y, p), strict=False):
        wrong = ~((values >= 0) & (values <= 1))
        if wrong.any():
            raise InputError(f"{name} must be in [0, 1], however: {values[wrong][:3].tolist()} ({wrong.sum()} rows).")
    wrong = ~(np.isfinite(w) & (w >= 0))
    if wrong.any():
        raise InputError(
            f"{names[2]} must be finite and not negative, however: {w[wrong][:3].tolist()} ({wrong.sum()} rows); "
            "give the impressions."
        )
    return y, p, w


def row_log_loss(y_true: ArrayLike, y_prob: ArrayLike) -> FloatArray:
    """Binomial negative log-likelihood per impression of each row, in nats, shape (n,)."""
    y = np.asarray(y_true, dtype=np.float64)
    p = np.clip(np.asarray(y_prob, dtype=np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def log_loss(y_true: ArrayLike, y_prob: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Mean binomial log-loss per impression, in nats; NaN without impressions.

    >>> round(log_loss([0.5, 0.0], [0.5, 0.5], sample_weight=[2, 1]), 4)
    0.6931
    """
    y, p, w = check_rates(y_true, y_prob, sample_weight)
    return _mean(row_log_loss(y, p), w)


def brier(y_true: ArrayLike, y_prob: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Mean squared error per impression of the click (0 or 1) against ``y_prob``; NaN without impressions.

    >>> brier([0.5], [0.5], sample_weight=[4])
    0.25
    """
    y, p, w = check_rates(y_true, y_prob, sample_weight)
    # An impression is clicked with share y, so that the row's mean of (click - p)² is y(1-p)² + (1-y)p².
    return _mean(y * (1 - p) ** 2 + (1 - y) * p**2, w)


def auc(y_true: ArrayLike, y_prob: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Probability that a clicked impression was predicted above one that was not, ties counting half.

    NaN where there is no click or nothing but clicks.

    >>> auc([0.0, 0.5, 1.0], [0.1, 0.2, 0.3])
    0.9444444444444444
    """
    y, p, w = check_rates(y_true, y_prob, sample_weight)
    _, place = np.unique(p, return_inverse=True)
    clicked = np.bincount(place, weights=w * y)
    missed = np.bincount(place, weights=w * (1 - y))
    if clicked.sum() == 0 or missed.sum() == 0:
        return float("nan")
    below = np.cumsum(missed) - missed / 2
    return float((clicked * below).sum() / (clicked.sum() * missed.sum()))


def calibration_ratio(y_true: ArrayLike, y_prob: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    """Predicted clicks over actual clicks; NaN without a click.

    >>> calibration_ratio([0.1, 0.3], [0.2, 0.2], sample_weight=[100, 100])
    1.0
    """
    y, p, w = check_rates(y_true, y_prob, sample_weight)
    clicks = float(w @ y)
    return float(w @ p) / clicks if clicks > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """Predicted and observed rate in bins of the prediction that hold about the same number of impressions.

    All tuples have one entry per bin, in rising order of the prediction. ``lower`` and ``upper`` are Wilson's 95 %
    interval of the observed rate (binomial: rows that differ more than chance make it too narrow).
    """

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    impressions: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


def reliability_curve(
    y_true: ArrayLike, y_prob: ArrayLike, *, sample_weight: ArrayLike | None = None, bins: int = 10
) -> ReliabilityCurve:
    """Compare predicted with observed rates in quantile bins by impressions; equal predictions share a bin.

    >>> curve = reliability_curve([0.0, 1.0, 1.0, 1.0], [0.1, 0.1, 0.9, 0.9], bins=2)
    >>> curve.predicted, curve.observed
    ((0.1, 0.9), (0.5, 1.0))
    """
    y, p, w = check_rates(y_true, y_prob, sample_weight)
    values, place = np.unique(p, return_inverse=True)
    if w.sum() == 0 or values.size == 0:
        return ReliabilityCurve((), (), (), (), ())
    weight = np.bincount(place, weights=w)
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    bin_of = np.minimum((middle * bins).astype(np.int64), bins - 1)[place]
    n = np.bincount(bin_of, weights=w, minlength=bins)
    kept = n > 0
    n, clicks, expected = (np.bincount(bin_of, weights=weights, minlength=bins)[kept] for weights in (w, w * y, w * p))
    observed = clicks / n
    z2 = SIGNIFICANT_Z**2
    centre = (observed + z2 / (2 * n)) / (1 + z2 / n)
    half = SIGNIFICANT_Z / (1 + z2 / n) * np.sqrt(observed * (1 - observed) / n + z2 / (4 * n**2))
    columns = (expected / n, observed, n, np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))
    return ReliabilityCurve(*(tuple(float(v) for v in column) for column in columns))


def ece(y_true: ArrayLike, y_prob: ArrayLike, *, sample_weight: ArrayLike | None = None, bins: int = 10) -> float:
    """Return the expected calibration error: mean |predicted - observed| over quantile bins by impressions.

    >>> round(ece([0.0, 0.2], [0.1, 0.1], sample_weight=[50, 50]), 6)
    0.0
    """
    curve = reliability_curve(y_true, y_prob, sample_weight=sample_weight, bins=bins)
    gap = np.abs(np.array(curve.predicted) - np.array(curve.observed))
    return _mean(gap, np.array(curve.impressions))


@dataclass(frozen=True, slots=True)
class PairAccuracy:
    """Share of pairs within a group that are ordered as they turned out; NaN without a pair. Ties count half."""

    accuracy: float
    pairs: int


def pair_accuracy(
    y_prob: ArrayLike,
    clicks: ArrayLike,
    impressions: ArrayLike,
    groups: ArrayLike,
    *,
    significant: bool = False,
) -> PairAccuracy:
    """Compare all pairs of rows within each group: is the one with the higher observed rate predicted higher.

    Parameters
    ----------
    y_prob, clicks, impressions, groups : array-like, shape (n,)
        Predictions (any monotone score), counts, and a label per row.
    significant : bool, default False
        Keep only pairs whose rates differ by a two-proportion z-test (pooled variance, two-sided p < .05).

    Returns
    -------
    PairAccuracy
        Pairs with equal observed rates are left out; a tied prediction counts one half. In groups of more than
        `MAX_PARTNERS` rows each row meets that many others.

    Examples
    --------
    >>> pair_accuracy([0.1, 0.2, 0.3], [1, 3, 2], [10, 10, 10], ["a", "a", "a"])
    PairAccuracy(accuracy=0.6666666666666666, pairs=3)
    """
    p, k, n = (np.asarray(values, dtype=np.float64) for values in (y_prob, clicks, impressions))
    codes, _ = pd.factorize(np.asarray(groups))
    if not p.shape == k.shape == n.shape == codes.shape:
        raise InputError(
            f"All arrays must have one shape (n,), however: {p.shape}, {k.shape}, {n.shape}, {codes.shape}."
        )
    kept = np.flatnonzero(n > 0)
    # Shuffled first, so that the partners of a row in a large group are a random sample.
    kept = np.random.default_rng(0).permutation(kept)
    kept = kept[np.argsort(codes[kept], kind="stable")]
    p, k, n, codes = p[kept], k[kept], n[kept], codes[kept]
    right, total = 0.0, 0
    first = np.arange(codes.size)
    for offset in range(1, MAX_PARTNERS + 1):
        first = first[first + offset < codes.size]
        first = first[codes[first] == codes[first + offset]]
        if first.size == 0:
            break
        second = first + offset
        difference = k[first] / n[first] - k[second] / n[second]
        counted = difference != 0
        if significant:
            pooled = (k[first] + k[second]) / (n[first] + n[second])
            variance = pooled * (1 - pooled) * (1 / n[first] + 1 / n[second])
            counted &= difference**2 > SIGNIFICANT_Z**2 * variance
        agreement = np.sign(p[first] - p[second]) * np.sign(difference)
        right += float(((agreement[counted] + 1) / 2).sum())
        total += int(counted.sum())
    return PairAccuracy(right / total if total else float("nan"), total)


def within_group_spearman(y_true: ArrayLike, y_prob: ArrayLike, groups: ArrayLike, *, minimum: int = 3) -> float:
    """Mean over groups of Spearman's rank correlation of prediction and outcome.

    Groups with fewer than ``minimum`` rows, or where either side is constant, are left out; NaN if none is left.

    >>> within_group_spearman([0.1, 0.2, 0.3], [0.5, 0.6, 0.9], ["a", "a", "a"])
    1.0
    """
    codes, _ = pd.factorize(np.asarray(groups))
    frame = pd.DataFrame({"group": codes, "y": np.asarray(y_true), "p": np.asarray(y_prob)})
    by_group = frame.groupby("group", sort=False)
    ranks = by_group[["y", "p"]].rank()
    centred = ranks - ranks.groupby(codes).transform("mean")
    products = pd.DataFrame(
        {"yp": centred["y"] * centred["p"], "yy": centred["y"] ** 2, "pp": centred["p"] ** 2, "n": 1.0}
    )
    sums = products.groupby(codes).sum()
    sums = sums[(sums["n"] >= minimum) & (sums["yy"] > 0) & (sums["pp"] > 0)]
    return float((sums["yp"] / np.sqrt(sums["yy"] * sums["pp"])).mean())


def _mean(values: FloatArray, weights: FloatArray) -> float:
    total = float(weights.sum())
    return float(values @ weights) / total if total > 0 else float("nan")
