"""How well "these elements changed by one factor" describes what happened in all cells at once.

If a campaign is the cause, all its ads and regions change alike, and nothing else does; that tells a campaign from its
largest ad and from its platform where shares of the change cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, log

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

_COUNT_SPREAD, _RATE_SPREAD = 0.25, 0.10
"""Ordinary relative spread of a cell's count and of its rate from day to day, beyond Poisson noise."""

_COUNT_SHIFT, _RATE_SHIFT = 0.30, 0.20
"""Ordinary relative shift of all that is not the cause, as on another weekday (standard deviation of the log)."""

_COUNT_WEIGHT = 0.5
"""Cells of one campaign rise and fall together in volume: so many independent ones is each worth."""

_ELEMENT_COST = 3.0
"""Log-likelihood that each element of a set after the first must gain, beyond its choice."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Finest cells: what is expected of each and what came, in events, shape (cells,); ``spread`` is relative.

    ``shift`` is the ordinary shift of all together, ``weight`` the number of independent cells that one is worth.
    ``counted`` are the cells that went on from one period to the other; the rest came or went and had no factor.
    """

    expected: FloatArray
    actual: FloatArray
    spread: FloatArray
    shift: float
    weight: float
    counted: Mask

    def cost(self, inside: Mask, elements: int, choices: int) -> float:
        """Return the negative log-likelihood (up to a constant) of one factor on the cells inside and one outside.

        Counts are negative binomial with variance ``m + (spread · m)²``. The factor outside is held near 1 by a normal
        prior on its log, so that a cause and its complement are not the same. ``elements`` named out of ``choices``
        cost the log of the number of such sets; all cells together cost nothing.
        """
        outside = self.counted & ~inside
        cost = self.weight * self._deviance(self.counted & inside) / 2
        if not outside.any():
            return cost
        cost += self.weight * self._deviance(outside) / 2 + self._prior(outside)
        return float(cost + log(comb(choices, elements)) + _ELEMENT_COST * (elements - 1))

    def ordinary_cost(self) -> float:
        """Return the cost of no cause at all: an ordinary shift of all cells."""
        return self.weight * self._deviance(self.counted) / 2 + self._prior(self.counted)

    def _prior(self, chosen: Mask) -> float:
        return float((np.log(self._factor(chosen)) / self.shift) ** 2 / 2)

    def _factor(self, chosen: Mask) -> float:
        y, expected, spread = self.actual[chosen], self.expected[chosen], self.spread[chosen]
        # A cell of which little is known, such as a new ad's, does not set the factor of the others.
        weight = 1 / (1 + spread**2 * expected)
        return float(((weight * y).sum() + 0.5) / ((weight * expected).sum() + 0.5))

    def _deviance(self, chosen: Mask) -> float:
        y, spread = self.actual[chosen], self.spread[chosen]
        mean = self.expected[chosen] * self._factor(chosen) + 1e-9
        size = 1 / spread**2
        log_ratio = np.log(np.where(y > 0, y, 1.0) / mean)
        terms = np.where(y > 0, y * log_ratio, 0.0) - (y + size) * np.log((y + size) / (mean + size))
        return float(2 * terms.sum())


def count_cells(expected: FloatArray, actual: FloatArray, parent: NDArray[np.int64], unit: float) -> Cells:
    """Return the cells of a count; new cells take the place of those that went in the same ``parent`` (a campaign).

    Ads are replaced all the time; that is no news while the campaign goes on. Campaigns that begin or end are not
    counted. ``unit`` is the money of one event, 1 for counts.
    """
    old, new = expected / unit, actual / unit
    gone, fresh = (new <= 0) & (old > 0), (old <= 0) & (new > 0)
    n = int(parent.max()) + 1 if len(parent) else 0
    went_on = (np.bincount(parent, old, minlength=n) > 0) & (np.bincount(parent, new, minlength=n) > 0)
    stays = went_on[parent]
    left = np.bincount(parent, weights=np.where(gone, old, 0.0), minlength=n)
    came = np.bincount(parent, weights=np.where(fresh, new, 0.0), minlength=n)
    moved = np.minimum(left, came)
    kept = 1 - np.divide(moved, left, out=np.zeros(n), where=left > 0)
    filled = np.divide(moved, came, out=np.zeros(n), where=came > 0)
    old = np.where(gone, old * kept[parent], np.where(fresh, new * filled[parent], old))
    return Cells(old, new, _spread(_COUNT_SPREAD, old), _COUNT_SHIFT, _COUNT_WEIGHT, stays)


def rate_cells(
    expected: FloatArray,
    expected_base: FloatArray,
    actual: FloatArray,
    actual_base: FloatArray,
    chain: list[NDArray[np.int64]],
    unit: float,
) -> Cells:
    """Return the cells of a rate: what each cell's own old rate gives on today's denominator.

    Old rates are drawn towards the rates of what contains the cell, level by level of ``chain`` (coarse to fine, group
    numbers per cell, the cells themselves last), so that a new cell has its campaign's rate. ``unit`` is the numerator
    of one event.
    """
    numerator = expected / unit
    overall = numerator.sum() / expected_base.sum()
    rate = np.full(len(numerator), overall)
    # As much denominator as brings half an event at the overall rate.
    weight = 0.5 / overall if overall > 0 else 1.0
    for group in chain:
        up = np.bincount(group, weights=numerator)[group] + weight * rate
        rate = up / (np.bincount(group, weights=expected_base)[group] + weight)
    return Cells(
        rate * actual_base,
        actual / unit,
        _spread(_RATE_SPREAD, rate * expected_base),
        _RATE_SHIFT,
        1.0,
        np.ones(len(rate), dtype=np.bool_),
    )


def _spread(ordinary: float, events: FloatArray) -> FloatArray:
    # The baseline is an average of some days and has its own noise, which matters where it holds few events.
    return np.sqrt(ordinary**2 + 1 / (1 + 10 * events))
