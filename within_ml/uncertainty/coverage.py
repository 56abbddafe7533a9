"""Intervals as a record, and how they turned out: coverage, width and interval score, overall and by group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Interval of the observed rate of each row: 0 ≤ ``lower`` ≤ prediction ≤ ``upper`` ≤ 1, both of shape (n,)."""

    lower: FloatArray
    upper: FloatArray
    confidence: float


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """How intervals turned out; NaN without a row.

    ``coverage`` is the share of rows whose observed rate lies inside, ``width`` the mean width, ``winkler`` the mean
    interval score. ``groups`` has one row per group: group, rows, calibration_rows, coverage, below, above (shares of
    rows under and over the interval), width, winkler.
    """

    confidence: float
    rows: int
    coverage: float
    width: float
    winkler: float
    groups: pd.DataFrame

    def smallest_coverage(self, *, min_calibration_rows: int = 200, min_rows: int = 1) -> float:
        """Return the lowest coverage of a group with that many rows in calibration and here; NaN without one."""
        kept = (self.groups["calibration_rows"] >= min_calibration_rows) & (self.groups["rows"] >= min_rows)
        return float(self.groups.loc[kept, "coverage"].min())


def winkler_score(intervals: Intervals, y_true: ArrayLike) -> FloatArray:
    """Return the interval score of each row, shape (n,): width, plus 2/α times the distance of an outcome outside.

    α = 1 - confidence. Of all intervals the true quantiles at α/2 and 1 - α/2 have the lowest expected score (Gneiting
    and Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", eq. 43).

    >>> found = Intervals(np.array([0.1, 0.1]), np.array([0.3, 0.3]), confidence=0.9)
    >>> winkler_score(found, [0.2, 0.4]).round(9)
    array([0.2, 2.2])
    """
    y = np.asarray(y_true, dtype=np.float64)
    outside = np.maximum(intervals.lower - y, 0.0) + np.maximum(y - intervals.upper, 0.0)
    score: FloatArray = intervals.upper - intervals.lower + 2 / (1 - intervals.confidence) * outside
    return score


def coverage_report(
    intervals: Intervals,
    y_true: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    calibration_rows: ArrayLike | None = None,
) -> CoverageReport:
    """Judge intervals by the rates that were observed.

    Parameters
    ----------
    intervals : Intervals
        n of them.
    y_true : array-like, shape (n,)
        Observed rates.
    groups : array-like, shape (n,), optional
        Account, or month, of each row; None takes all rows as one.
    calibration_rows : array-like, shape (n,), optional
        Rows of the group that each row's interval was calibrated on; a group is listed with the fewest.

    Raises
    ------
    InputError
        If a shape is wrong.

    Examples
    --------
    >>> found = Intervals(np.array([0.1, 0.1]), np.array([0.3, 0.3]), confidence=0.9)
    >>> coverage_report(found, [0.2, 0.4], ["a", "b"]).groups[["group", "coverage", "above"]]
      group  coverage  above
    0     a       1.0    0.0
    1     b       0.0    1.0
    """
    y = np.asarray(y_true, dtype=np.float64)
    labels = np.zeros(y.shape, dtype=np.int64) if groups is None else np.asarray(groups)
    known = np.zeros(y.shape, dtype=np.int64) if calibration_rows is None else np.asarray(calibration_rows)
    if not intervals.lower.shape == y.shape == labels.shape == known.shape:
        raise InputError(
            "y_true, groups and calibration_rows must have one entry per interval, however: "
            f"{y.shape}, {labels.shape}, {known.shape} for {intervals.lower.shape}."
        )
    rows = pd.DataFrame(
        {
            "group": labels,
            "calibration_rows": known,
            "below": (y < intervals.lower).astype(np.float64),
            "above": (y > intervals.upper).astype(np.float64),
            "width": intervals.upper - intervals.lower,
            "winkler": winkler_score(intervals, y),
        }
    )
    rows["coverage"] = 1 - rows["below"] - rows["above"]
    means = ["coverage", "below", "above", "width", "winkler"]
    by_group = rows.groupby("group", sort=True)
    table = pd.concat(
        [by_group.size().rename("rows"), by_group["calibration_rows"].min(), by_group[means].mean()], axis=1
    )
    overall = {name: float(rows[name].mean()) for name in ("coverage", "width", "winkler")}
    return CoverageReport(intervals.confidence, len(rows), groups=table.reset_index(), **overall)
