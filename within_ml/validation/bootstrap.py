"""Confidence intervals by resampling whole campaigns: ads of one campaign are not independent observations.

Everything judged here is a ratio of sums over rows (a mean loss, predicted over actual clicks), so that a draw is a
product of campaign counts and campaign sums, and a thousand draws cost one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]

MAX_CLUSTERS = 2_000
"""More campaigns than this are merged at random into this many clusters; the variance of a sum stays the same."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its bounds; NaN where it is not defined (no clicks)."""

    value: float
    lower: float
    upper: float


class ClusterBootstrap:
    """Resample clusters of rows with replacement, the same draws for every statistic, so that differences are paired.

    Parameters
    ----------
    groups : array-like, shape (n,)
        Cluster of each row: its campaign.
    n_bootstrap : int
        Draws.
    random_state : int
        Seed.

    Attributes
    ----------
    n_groups : int
        Distinct groups.

    Notes
    -----
    Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8: resample clusters, percentile
    interval.

    Examples
    --------
    >>> bootstrap = ClusterBootstrap(np.arange(400) // 2, n_bootstrap=200)
    >>> clicks = np.tile([0.0, 1.0], 200)
    >>> bootstrap.interval(clicks, np.ones(400))
    Interval(value=0.5, lower=0.5, upper=0.5)
    """

    def __init__(self, groups: ArrayLike, *, n_bootstrap: int = 1000, random_state: int = 0) -> None:
        if n_bootstrap < 1:
            raise InputError(f"n_bootstrap must be at least 1, however: {n_bootstrap}.")
        codes, names = pd.factorize(np.asarray(groups, dtype=object))
        self.n_groups = len(names)
        rng = np.random.default_rng(random_state)
        if self.n_groups > MAX_CLUSTERS:
            codes = rng.permutation(np.arange(self.n_groups) % MAX_CLUSTERS)[codes]
        self._codes = codes
        self._clusters = max(1, min(self.n_groups, MAX_CLUSTERS))
        counts = rng.multinomial(self._clusters, np.full(self._clusters, 1 / self._clusters), size=n_bootstrap)
        self._counts: FloatArray = counts.astype(np.float64)

    def draws(self, numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
        """Return Σ numerator / Σ denominator in each draw, shape (n_bootstrap,); NaN where the denominator is 0."""
        sums = [
            np.bincount(self._codes, weights=np.asarray(values, dtype=np.float64), minlength=self._clusters)
            for values in (numerator, denominator)
        ]
        drawn = self._counts @ np.column_stack(sums)
        result = np.full(len(drawn), np.nan)
        np.divide(drawn[:, 0], drawn[:, 1], out=result, where=drawn[:, 1] != 0)
        return result

    def interval(self, numerator: ArrayLike, denominator: ArrayLike, *, confidence: float = 0.95) -> Interval:
        """Return Σ numerator / Σ denominator with its two-sided percentile interval."""
        top, bottom = float(np.sum(np.asarray(numerator))), float(np.sum(np.asarray(denominator)))
        if bottom == 0:
            return Interval(float("nan"), float("nan"), float("nan"))
        draws = self.draws(numerator, denominator)
        tail = (1 - confidence) / 2
        lower, upper = np.nanquantile(draws, [tail, 1 - tail])
        return Interval(top / bottom, float(lower), float(upper))
