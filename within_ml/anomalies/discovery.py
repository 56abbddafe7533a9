"""From residuals to p-values that past nights vouch for, and from p-values to the few that are worth a reader's time.

Nothing here knows a metric or an account.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

STEP = 0.1
BINS = 200
"""Residuals are counted in steps of 0.1 up to 20 standard deviations."""

PRIOR_RESIDUALS = 300.0
"""Weight, in residuals, of the standard normal distribution that a group of residuals begins with."""

_NEAR, _FAR = 0.10, 0.01
_SMALLEST = 1e-300


@dataclass(slots=True, eq=False)
class Tails:
    """What past nights' residuals looked like, per group and side: weighted counts in steps of |z|.

    Attributes
    ----------
    counts : array, shape (groups, 2, BINS)
        Side 0 is below the expectation, side 1 above it.
    """

    counts: Floats

    @classmethod
    def normal(cls, groups: int) -> Tails:
        """Begin with the standard normal distribution.

        >>> Tails.normal(1).p_values(np.array([[-1.96, 1.96, 0.0]])).round(2)
        array([[0.05, 0.05, 1.  ]])
        """
        edges = np.arange(BINS + 1) * STEP
        share = 2 * np.diff(ndtr(edges)) * PRIOR_RESIDUALS / 2
        return cls(np.tile(share, (groups, 2, 1)))

    def add(self, residuals: Floats, usable: Bools, memory: float) -> None:
        """Count a night's residuals, shape (groups, n), where usable; older nights fade by the factor ``memory``."""
        prior = Tails.normal(1).counts[0]
        self.counts = prior + memory * (self.counts - prior)
        place = np.minimum(np.abs(np.where(usable, residuals, 0.0)) / STEP, BINS - 1).astype(np.int64)
        side = (residuals > 0).astype(np.int64)
        group = np.arange(len(residuals))[:, None]
        flat = ((group * 2 + side) * BINS + place)[usable]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def p_values(self, residuals: Floats) -> Floats:
        """Return two-sided p-values of residuals, shape (groups, n); 1 where a residual is NaN.

        Up to the outer tenth of a side the share of past residuals at least as far is taken. Beyond it -log p grows
        as a power of the distance, through the points where a tenth and a hundredth were farther out: the few
        anomalies among the past nights lie beyond both and cannot hide the next one.
        """
        p = np.ones_like(residuals)
        for group in range(len(residuals)):
            for side in (0, 1):
                chosen = (residuals[group] > 0) == bool(side)
                p[group, chosen] = self._one_side(group, side, np.abs(residuals[group, chosen]))
        return np.asarray(np.where(np.isnan(residuals), 1.0, p), dtype=np.float64)

    def _one_side(self, group: int, side: int, distance: Floats) -> Floats:
        both = self.counts[group].sum()
        beyond = np.append(np.cumsum(self.counts[group, side, ::-1])[::-1], 0.0)
        edges = np.arange(BINS + 1) * STEP
        share = beyond / beyond[0]
        near, far = (float(np.interp(-q, -share, edges)) for q in (_NEAR, _FAR))
        near, far = max(near, STEP), max(far, 1.05 * near, 2 * STEP)
        power = np.log(np.log(_FAR) / np.log(_NEAR)) / np.log(far / near)
        power = min(power, 2.0)
        outer = np.exp(np.log(_FAR) * (np.maximum(distance, near) / far) ** power)
        inner = np.interp(distance, edges, share)
        one = np.where(distance > near, np.minimum(outer, _NEAR), np.maximum(inner, _NEAR))
        return np.asarray(np.clip(2.0 * one * beyond[0] / both, _SMALLEST, 1.0), dtype=np.float64)


def simes(p: Floats, group: NDArray[np.int64], groups: int) -> Floats:
    """Return one p-value per group of tests (Simes 1986): the smallest of ``p · tests / rank``.

    Parameters
    ----------
    p : array, shape (n,)
        NaN is no test.
    group : array of int, shape (n,)
        Each test's group, 0 to ``groups`` - 1.

    Examples
    --------
    >>> simes(np.array([0.01, 0.5, 0.04]), np.array([0, 0, 1]), 3)
    array([0.02, 0.04, 1.  ])
    """
    tested = ~np.isnan(p)
    p, group = p[tested], group[tested]
    order = np.lexsort((p, group))
    p, group = p[order], group[order]
    size = np.bincount(group, minlength=groups)
    first = np.cumsum(size) - size
    rank = np.arange(len(p)) - first[group] + 1
    result = np.ones(groups)
    np.minimum.at(result, group, p * size[group] / rank)
    return result


def false_discovery(p: Floats) -> Floats:
    """Return q-values by Benjamini and Hochberg 1995: the false discovery rate at which each test is just rejected.

    Parameters
    ----------
    p : array, shape (tests,) or (tests, families)
        NaN is no test and stays NaN; each column is a family of its own.

    Examples
    --------
    >>> false_discovery(np.array([0.01, 0.04, 0.03, 0.5])).round(4)
    array([0.04  , 0.0533, 0.0533, 0.5   ])
    """
    tested = ~np.isnan(p)
    # NaN is sorted last, where it counts for nothing.
    order = np.argsort(p, axis=0, kind="stable")
    rank = np.arange(1, len(p) + 1).reshape(-1, *[1] * (p.ndim - 1))
    scaled = np.take_along_axis(p, order, axis=0) * tested.sum(axis=0) / rank
    least = np.fmin.accumulate(scaled[::-1], axis=0)[::-1]
    q = np.empty_like(p)
    np.put_along_axis(q, order, np.minimum(least, 1.0), axis=0)
    return np.where(tested, q, np.nan)


def selected_families(p: Floats, level: float) -> tuple[Floats, Bools]:
    """Return q-values and rejections of tests in families: first the families, then the tests in those found.

    Parameters
    ----------
    p : array, shape (tests, families)
        NaN is no test.
    level : float
        False discovery rate of the families, and on average of the tests within those selected.

    Notes
    -----
    Benjamini and Bogomolov 2014, "Selective inference on multiple families of hypotheses", JRSS B 76: families by
    Benjamini and Hochberg on their Simes p-values; within each of R selected among N at the level R / N times as low.
    A test's q-value here is the level at which its family and, given R, it would just be rejected.

    Examples
    --------
    >>> q, found = selected_families(np.array([[1e-6, 0.5], [0.2, 0.6]]), 0.05)
    >>> found
    array([[ True, False],
           [False, False]])
    """
    tests, families = p.shape
    family = np.tile(np.arange(families), tests)
    whole = np.where(np.isnan(p).all(axis=0), np.nan, simes(p.ravel(), family, families))
    q_family = false_discovery(whole)
    count = int((~np.isnan(whole)).sum())
    chosen = int((q_family <= level).sum()) if count else 0
    q = np.fmax(false_discovery(p) * count / max(chosen, 1), np.where(np.isnan(p), np.nan, q_family))
    return np.minimum(q, 1.0), np.nan_to_num(q, nan=1.0) <= level
