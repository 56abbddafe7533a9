"""Effects of what ads have in common, net of the shifts of their campaigns and accounts: generalised least squares.

Arrays only; what the ads and their topics are is in `trending`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]
Codes = NDArray[np.int64]


def group_variance(values: FloatArray, variance: FloatArray, group: Codes) -> float:
    """Return the variance of groups beyond that of their members, by the median absolute deviation."""
    weight = np.bincount(group, 1 / variance)
    mean = np.bincount(group, values / variance) / weight
    robust = (1.4826 * float(np.median(np.abs(mean - np.median(mean))))) ** 2
    return max(robust - float(np.median(1 / weight)), 1e-3)


class Precision:
    """The inverse covariance of the ads' log ratios: own variance, and what ads of a campaign and an account share.

    Campaigns lie within accounts; both shifts are random effects whose variances are estimated from the ads. The
    inverse is never written down: it is the diagonal less what campaigns and then accounts take up (Woodbury).

    Parameters
    ----------
    y, variance : array, shape (ads,)
        Log ratios and their own variances, above 0.
    campaign, account : array of int, shape (ads,)
        Numbers from 0.

    Examples
    --------
    >>> account = np.arange(8) // 4
    >>> y = np.array([0.5, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.5])
    >>> precision = Precision(y, np.full(8, 0.01), np.arange(8) // 2, account)
    >>> effects, errors = precision.effects(y, sparse.csc_matrix((y > 0).astype(float)[:, None]))
    >>> round(float(effects[0]), 3), bool(errors[0] < 0.1)
    (0.5, True)
    """

    def __init__(self, y: FloatArray, variance: FloatArray, campaign: Codes, account: Codes) -> None:
        self._weight = 1 / variance
        self._campaign, self._account = campaign, account
        within = group_variance(y, variance, campaign)
        self._account_of = np.zeros(int(campaign.max()) + 1, dtype=np.int64)
        self._account_of[campaign] = account
        total = np.bincount(campaign, self._weight)
        self._campaign_gain = within / (1 + within * total)
        self._kept = 1 - self._campaign_gain * total
        between = group_variance(y, variance + within, account)
        self._account_gain = between / (1 + between * np.bincount(self._account_of, total * self._kept))

    def sums(self, values: FloatArray | sparse.csc_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Return weighted sums per campaign and, net of what campaigns take up, per account."""
        columns = sparse.csr_matrix(values.reshape(-1, 1) if isinstance(values, np.ndarray) else values)
        n = self._campaign.size
        by_campaign = sparse.csr_matrix((self._weight, (self._campaign, np.arange(n)))) @ columns
        m = self._account_of.size
        by_account = sparse.csr_matrix((self._kept, (self._account_of, np.arange(m)))) @ by_campaign
        return by_campaign, by_account

    def effects(self, y: FloatArray, has: sparse.csc_matrix) -> tuple[FloatArray, FloatArray]:
        """Return the effect of each column of ``has`` (ads × topics, 0 or 1) alone, and its standard error.

        A common level of all ads is fitted beside it.
        """
        ones = np.ones(y.size)
        cross_y, cross_1, own = self._products(has, y), self._products(has, ones), self._squares(has)
        level_y, level_1 = self._products_of(ones, y), self._products_of(ones, ones)
        information = np.maximum(own - cross_1**2 / level_1, 1e-9)
        return (cross_y - cross_1 * level_y / level_1) / information, 1 / np.sqrt(information)

    def _products(self, has: sparse.csc_matrix, y: FloatArray) -> FloatArray:
        c_x, a_x = self.sums(has)
        c_y, a_y = (np.asarray(s.todense()).ravel() for s in self.sums(y))
        plain = has.T @ (self._weight * y)
        return np.asarray(plain - c_x.T @ (self._campaign_gain * c_y) - a_x.T @ (self._account_gain * a_y))

    def _squares(self, has: sparse.csc_matrix) -> FloatArray:
        c_x, a_x = self.sums(has)
        plain = has.T @ self._weight
        return np.asarray(plain - c_x.power(2).T @ self._campaign_gain - a_x.power(2).T @ self._account_gain)

    def _products_of(self, x: FloatArray, y: FloatArray) -> float:
        return float(self._products(sparse.csc_matrix(x.reshape(-1, 1)), y)[0])

    def level(self, y: FloatArray) -> FloatArray:
        """Return what account, campaign and the level of all contribute to each ad's log ratio (best prediction)."""
        ones = np.ones(y.size)
        common = self._products_of(ones, y) / self._products_of(ones, ones)
        by_campaign, by_account = (np.asarray(s.todense()).ravel() for s in self.sums(y - common))
        account = self._account_gain * by_account
        weight = np.bincount(self._campaign, self._weight)
        campaign = self._campaign_gain * (by_campaign - weight * account[self._account_of])
        return np.asarray(common + account[self._account] + campaign[self._campaign], dtype=np.float64)
