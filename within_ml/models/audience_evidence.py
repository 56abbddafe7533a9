"""What clicks say about content, audience and both: evidence per ad, and the effects by empirical Bayes.

Arrays only; what they mean is in `audience`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from within_ml.features.level_ridge import PSEUDO_CLICKS, sums

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CHUNK = 5_000
_START_VARIANCE = 0.05
_VARIANCE_RANGE = (1e-6, 1.0)
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Evidence:
    """Clicks and expected clicks of each content × audience × campaign; arrays have one row for each of them."""

    content: FloatArray
    audience: IntArray
    campaign: IntArray
    clicks: FloatArray
    expected: FloatArray

    @classmethod
    def summed(
        cls, keys: IntArray, content: FloatArray, clicks: FloatArray, expected: FloatArray, max_ads: int
    ) -> Evidence:
        """Sum the rows of one ad; ``keys`` are audience and campaign, shape (n, 2)."""
        texts = np.unique(content, axis=0, return_inverse=True)[1].reshape(-1)
        _, first, ad = np.unique(np.column_stack([keys, texts]), axis=0, return_index=True, return_inverse=True)
        ad = ad.reshape(-1)
        c, e = (sums(ad, values, first.size) for values in (clicks, expected))
        kept = np.sort(np.argsort(-e, kind="stable")[:max_ads])
        kept = kept[e[kept] > 0]
        campaign = np.unique(keys[first[kept], 1], return_inverse=True)[1]
        return cls(content[first[kept]], keys[first[kept], 0], campaign, c[kept], e[kept])

    def normal_equations(
        self, shares: FloatArray, residual_variance: float, level_variance: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return X'PX and X'Py of content, segments and segments × content; P is the precision of the rows.

        With W the weights and level variance s², P of one campaign's rows is ``W - W11'W / (1'W1 + 1/s²)`` (Woodbury).
        """
        level = np.log((self._sums(self.clicks) + 1) / (self._sums(self.expected) + 1))[self.campaign]
        usual = self.expected * np.exp(level)
        y = np.log((self.clicks + PSEUDO_CLICKS) / (usual + PSEUDO_CLICKS)) + level
        w = usual / (1 + residual_variance * usual)
        shrink = 1 / (self._sums(w) + 1 / level_variance)
        size = self.content.shape[1] * (1 + shares.shape[1]) + shares.shape[1]
        square, moment, levels = np.zeros((size, size)), np.zeros(size), np.zeros((shrink.size, size))
        for start in range(0, y.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            design = self._design(part, shares)
            square += (design.T * w[part]) @ design
            moment += design.T @ (w * y)[part]
            np.add.at(levels, self.campaign[part], design * w[part, None])
        square -= (levels.T * shrink) @ levels
        moment -= levels.T @ (shrink * self._sums(w * y))
        return square, moment

    def sample(self, count: int, random_state: int) -> FloatArray:
        """Return the contents of some ads, shape (at most count, k)."""
        chosen = np.random.default_rng(random_state).permutation(self.clicks.size)[:count]
        return np.ascontiguousarray(self.content[np.sort(chosen)])

    def _sums(self, values: FloatArray) -> FloatArray:
        return sums(self.campaign, values)

    def _design(self, part: slice, shares: FloatArray) -> FloatArray:
        z, u = self.content[part], shares[self.audience[part]]
        return np.hstack([z, u, (u[:, :, None] * z[:, None, :]).reshape(len(z), -1)])


def empirical_bayes(
    precision: FloatArray, moment: FloatArray, blocks: Sequence[IntArray], steps: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return coefficients, their covariance and the variance of each block, by MacKay's fixed point."""
    variances: FloatArray = np.full(len(blocks), _START_VARIANCE)
    for _ in range(steps):
        penalty = np.ones(moment.size)
        for block, variance in zip(blocks, variances, strict=True):
            penalty[block] = 1 / variance
        covariance = np.asarray(np.linalg.inv(precision + np.diag(penalty)), dtype=np.float64)
        coefficients = covariance @ moment
        before = variances.copy()
        for i, block in enumerate(blocks):
            if block.size:
                known = block.size - covariance[block, block].sum() / variances[i]
                found = float(coefficients[block] @ coefficients[block]) / max(known, 1e-9)
                variances[i] = np.clip(found, *_VARIANCE_RANGE)
        if np.abs(np.log(variances / before)).max() < _TOLERANCE:
            break
    return coefficients, covariance, variances
