"""Which map calibrates a risk: as many numbers as the outcomes can pay for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from within_ml.calibration.log_odds import CalibrationMethod, LogOddsCalibrator
from within_ml.calibration.scaling import PlattCalibrator
from within_ml.calibration.spline import SplineCalibrator

FloatArray = NDArray[np.float64]

MIN_SPLINE_EVENTS = 150.0


def fit_calibrator(p: FloatArray, y: FloatArray, w: FloatArray) -> LogOddsCalibrator:
    """Fit a spline where there are `MIN_SPLINE_EVENTS` outcomes of either kind, else Platt's line.

    Parameters
    ----------
    p : shape (n,)
        Probabilities for rows that they were not fitted on.
    y, w : shape (n,)
        Outcomes, and what each row counts: rows of one account are one piece of evidence.
    """
    events = min(float(w @ y), float(w @ (1 - y)))
    if events >= MIN_SPLINE_EVENTS:
        return SplineCalibrator(overdispersion=False).fit(p, y, w)
    return PlattCalibrator(overdispersion=False).fit(p, y, w)


def calibrator_from_dict(state: Mapping[str, Any]) -> LogOddsCalibrator:
    """Restore what a calibrator of `fit_calibrator` gave as its ``to_dict``."""
    kind = PlattCalibrator if state["method"] == CalibrationMethod.PLATT else SplineCalibrator
    return kind.from_dict(state)
