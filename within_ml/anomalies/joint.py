"""Accounts that are odd in several metrics together, though in none of them alone: the cross-section of residuals.

A night's vectors of residuals are compared with those of the nights before; single metrics are judged in `nights`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.anomalies.cross_section import METHODS, CrossSection
from within_ml.errors import InputError, shown

Floats = NDArray[np.float64]

SEASONAL = "seasonal"
"""Detection method without a cross-section."""

_NIGHTS = 56
_REFIT_DAYS = 28
_ROWS_A_NIGHT = 200
_MOST_ROWS = 2_000
_FEWEST_ROWS = 200
_ASKED_SHARE = 0.01
_CLIP = 8.0
_EPOCH = pd.Timestamp("1970-01-05")


def require_method(method: str) -> None:
    """Check a detection method.

    Raises
    ------
    InputError
        If there is none of this name.
    """
    if method not in (*METHODS, SEASONAL):
        raise InputError(f"detection_method must be one of {shown((*METHODS, SEASONAL))}, however: {method!r}.")


@dataclass(slots=True)
class JointNights:
    """Residuals of recent nights, and the cross-section fitted on those before the current four weeks.

    Attributes
    ----------
    dates, nights : list
        Recent nights without a finding: day number, and residuals of shape (accounts of the night, metrics).
    """

    dates: list[int] = field(default_factory=list)
    nights: list[Floats] = field(default_factory=list)
    _block: int | None = None
    _fitted: _Fitted | None = None

    def p_values(self, residuals: Floats, date: pd.Timestamp, method: str, always: NDArray[np.bool_]) -> Floats:
        """Return how often past nights had as odd a vector, shape (accounts,); NaN where nobody asked.

        Only accounts whose residuals are large together are asked for, and those of ``always``.

        Parameters
        ----------
        residuals : array, shape (metrics, accounts)
        always : array of bool, shape (accounts,)
        """
        p = np.full(residuals.shape[1], np.nan)
        rows, known = _vectors(residuals)
        if method == SEASONAL or not known.any():
            return p
        day = (date - _EPOCH).days
        if self._block != day // _REFIT_DAYS:
            self._fit(day // _REFIT_DAYS, method)
        if self._fitted is None:
            return p
        asked = known & ((_size(rows) > self._fitted.size) | always)
        if asked.any():
            p[asked] = self._fitted.p_values(rows[asked])
        return p

    def add(self, residuals: Floats, date: pd.Timestamp, usable: NDArray[np.bool_]) -> None:
        """Remember a night's accounts that are usable, at most 200 of them evenly chosen."""
        rows, known = _vectors(residuals)
        kept = rows[known & usable]
        self.nights.append(kept[:: max(-(-len(kept) // _ROWS_A_NIGHT), 1)])
        self.dates.append((date - _EPOCH).days)
        while self.dates[0] <= self.dates[-1] - _NIGHTS:
            del self.dates[0], self.nights[0]

    def _fit(self, block: int, method: str) -> None:
        before = [rows for day, rows in zip(self.dates, self.nights, strict=True) if day < block * _REFIT_DAYS]
        rows = np.concatenate(before) if before else np.empty((0, 0))
        self._block, self._fitted = block, None
        if len(rows) >= _FEWEST_ROWS:
            self._fitted = _Fitted.of(rows[:: -(-len(rows) // _MOST_ROWS)], method)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A cross-section and the scores of rows it was not fitted on; ``size`` is the least sum of squares asked for."""

    section: CrossSection
    scores: Floats
    size: float

    @classmethod
    def of(cls, rows: Floats, method: str) -> _Fitted:
        # Rows that were fitted look more usual than others; the tail is that of rows that were not.
        section = CrossSection(method).fit(rows[::2])  # type: ignore[arg-type]
        scores = np.sort(section.decision_function(rows[1::2]))
        return cls(section, scores, float(np.quantile(_size(rows), 1 - _ASKED_SHARE)))

    def p_values(self, rows: Floats) -> Floats:
        """Return tail shares: empirical up to the outer tenth, exponential beyond it."""
        scores, n = self.section.decision_function(rows), len(self.scores)
        begin = self.scores[int(0.9 * n)]
        spread = max(float((self.scores[self.scores >= begin] - begin).mean()), 1e-12)
        share = (n - np.searchsorted(self.scores, scores)) / n
        outer = 0.1 * np.exp(-np.maximum(scores - begin, 0.0) / spread)
        return np.asarray(np.where(scores > begin, outer, np.clip(share, 0.1, 1.0)))


def _vectors(residuals: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return vectors per account, unknown residuals as 0, and which accounts have at least two known ones."""
    rows = residuals.T
    known = (~np.isnan(rows)).sum(axis=1) >= 2
    return np.clip(np.nan_to_num(rows), -_CLIP, _CLIP), known


def _size(rows: Floats) -> Floats:
    return np.asarray((rows**2).sum(axis=1))
