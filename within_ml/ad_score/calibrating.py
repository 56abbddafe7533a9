"""Calibrator and intervals of the ad score, from what models of their time predicted and what came.

How rates are calibrated stands in `within_ml.calibration`, how intervals are made in `within_ml.uncertainty`; here is
which outcomes each of them may see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from within_ml.ad_score import terms
from within_ml.ad_score.ctr_intervals import CtrIntervals
from within_ml.ad_score.outcomes import Outcomes
from within_ml.ad_score.persistence import persistence
from within_ml.calibration.hierarchical import HierarchicalCalibrator

FloatArray = NDArray[np.float64]

_PARTS = 4
"""Spans of weeks: the intervals of each are learned beside calibrators of the others."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibrator, and the intervals; None where none were asked for, or too few outcomes could tell."""

    calibrator: HierarchicalCalibrator
    intervals: CtrIntervals | None


def calibrate(outcomes: Outcomes, *, period_sd: float, confidence: float | None) -> Calibration:
    """Fit both on outcomes.

    Parameters
    ----------
    outcomes : Outcomes
    period_sd : float
        What a longer history has shown of the spread of the weeks' levels, on the log-odds scale.
    confidence : float, optional
        Of the intervals; None makes none.

    Raises
    ------
    InputError
        If no outcome has impressions.
    """
    lasting = persistence(outcomes, period_sd=period_sd)
    intervals = None
    if confidence is not None:
        intervals = CtrIntervals.fit(outcomes, cross_calibrated(outcomes, lasting, period_sd), confidence)
    return Calibration(_calibrator(outcomes, lasting, period_sd), intervals)


def _calibrator(outcomes: Outcomes, lasting: FloatArray, period_sd: float) -> HierarchicalCalibrator:
    return HierarchicalCalibrator(hierarchy_levels=terms.HIERARCHY).fit(
        outcomes.rate,
        outcomes.y,
        outcomes.groups,
        sample_weight=outcomes.w,
        periods=outcomes.weeks,
        period_sd=period_sd,
        persistence=lasting,
    )


def cross_calibrated(outcomes: Outcomes, lasting: FloatArray, period_sd: float) -> FloatArray:
    """Calibrated rates of the outcomes, each by a calibrator fitted on the outcomes of other weeks, shape (n,)."""
    rates = outcomes.rate
    for held in outcomes.parts(_PARTS):
        if not held.all():
            calibrator = _calibrator(outcomes.where(~held), lasting, period_sd)
            rates[held] = calibrator.transform(outcomes.rate[held], outcomes.groups[held])
    return rates
