"""What the ads of a campaign do to its ctr: each ad has a level of its own, so that a replaced ad is no anomaly.

The expected clicks of a campaign are the sum over tonight's ads of ``rate · impressions``. A new ad is expected at its
campaign's rate, and how far ads differ widens the campaign's band on its first days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NEW_AD_SPREAD = 0.4
"""Relative standard deviation of an ad's rate around its campaign's."""

_DAY_SPREAD = 0.08
_KNOWN = 0.1**2
_WALK = 0.014**2
_TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class AdDay:
    """The ads of one night: number of the ad, its series, impressions (above 0) and clicks; shape (rows,) each."""

    ad: Ints
    series: Ints
    impressions: Floats
    clicks: Floats


@dataclass(slots=True, eq=False)
class Creatives:
    """Level and relative variance of each ad's ctr, shape (ads,); NaN where an ad is unknown."""

    rate: Floats
    variance: Floats

    @classmethod
    def empty(cls) -> Creatives:
        """Know no ad."""
        return cls(np.empty(0), np.empty(0))

    def grow(self, ads: int) -> None:
        """Append unknown ads up to a number of them, in place."""
        more = np.full(max(ads - len(self.rate), 0), np.nan)
        self.rate, self.variance = np.append(self.rate, more), np.append(self.variance, more)

    def expect(self, night: AdDay, rate: Floats, factor: Floats) -> tuple[Floats, Floats]:
        """Return expected clicks and their relative variance from the ads' levels, shape (n,) of the series.

        Parameters
        ----------
        rate, factor : array, shape (n,)
            Each series' own ctr and tonight's weekday factor.
        """
        expected, variance = self._ads(night, rate, factor)
        n = len(rate)
        mean = np.bincount(night.series, weights=expected, minlength=n).astype(np.float64)
        square = np.bincount(night.series, weights=expected**2 * variance, minlength=n)
        return mean, square / np.maximum(mean, _TINY) ** 2

    def learn(self, night: AdDay, rate: Floats, factor: Floats, far: Bools) -> None:
        """Take a night in, in place; where the series is far off, a known ad moves by one deviation at most."""
        expected, variance = self._ads(night, rate, factor)
        predicted = variance + _WALK
        noise = _DAY_SPREAD**2 + 1.0 / np.maximum(expected, 0.5)
        # A new ad may be far from its campaign without being odd; one that is known may not.
        odd = far[night.series] & (variance < _KNOWN)
        limit = np.where(odd, 1.0, 3.0) * np.sqrt(noise + np.where(odd, 0.0, predicted)) * np.maximum(expected, 0.5)
        moved = np.clip(night.clicks - expected, -limit, limit)
        gain = predicted / (predicted + noise)
        exposure = np.maximum(night.impressions * factor[night.series], _TINY)
        # Where not even the campaign has a rate, its ads have none yet.
        told = ~np.isnan(np.where(np.isnan(self.rate[night.ad]), rate[night.series], 0.0))
        ad = night.ad[told]
        self.rate[ad] = np.maximum((expected + gain * moved) / exposure, 0.0)[told]
        self.variance[ad] = ((1 - gain) * predicted)[told]

    def _ads(self, night: AdDay, rate: Floats, factor: Floats) -> tuple[Floats, Floats]:
        own, variance = self.rate[night.ad], self.variance[night.ad]
        known = ~np.isnan(own)
        level = np.where(known, own, rate[night.series])
        expected = np.nan_to_num(level * night.impressions * factor[night.series])
        return expected, np.where(known, variance, NEW_AD_SPREAD**2)
