"""Calibration with two or three numbers: Platt scaling and beta calibration, both on the log-odds.

For data that support more than a line or a bend there is `spline`, which falls back to the beta map of this module.
"""

from __future__ import annotations

from typing import ClassVar

from within_ml.calibration.log_odds import CalibrationMethod, LogOddsCalibrator, OutOfRange


class _ScalingCalibrator(LogOddsCalibrator):
    _method: ClassVar[CalibrationMethod]

    def __init__(
        self,
        *,
        regularization: float | None = None,
        min_slope: float = 0.01,
        overdispersion: bool = True,
        out_of_range: OutOfRange | str = OutOfRange.EXTRAPOLATE,
    ) -> None:
        self.regularization = regularization
        self.min_slope = min_slope
        self.overdispersion = overdispersion
        self.out_of_range = out_of_range

    def _choose(self, predictions: int, clicks: float) -> CalibrationMethod:
        return self._method


class PlattCalibrator(_ScalingCalibrator):
    """``logit(p') = c + a · logit(p)``, a > 0.

    Platt 1999, "Probabilistic Outputs for Support Vector Machines"; deviation: a is pulled towards 1 by a penalty
    whose strength the data choose.

    Parameters
    ----------
    regularization : float, optional
        Strength of the pull, see `slopes.fit_slopes`; None leaves it to the evidence.
    min_slope : float
        Smallest a.
    overdispersion : bool
        Whether rows may differ by more than binomial chance; False takes every impression as independent, so that a
        row of n is n rows of one.
    out_of_range : OutOfRange
        What becomes of predictions outside those of the fit.

    Examples
    --------
    >>> import numpy as np
    >>> raw = np.linspace(0.01, 0.2, 200)
    >>> truth = 1 / (1 + np.exp(-(0.5 + 1.4 * np.log(raw / (1 - raw)))))
    >>> calibrator = PlattCalibrator().fit(raw, truth, np.full(200, 1e5))
    >>> round(float(calibrator.slopes_[0]), 2)
    1.4
    """

    _name = "Platt scaling"
    _method = CalibrationMethod.PLATT


class BetaCalibrator(_ScalingCalibrator):
    """``logit(p') = c + a · ln(p) - b · ln(1 - p)``, a, b > 0.

    Kull, Silva Filho, Flach 2017, "Beta calibration", AISTATS; deviation: a and b are kept above ``min_slope`` instead
    of dropped where negative, and pulled towards the identity by a penalty whose strength the data choose.

    Parameters
    ----------
    regularization, min_slope, overdispersion, out_of_range
        As in `PlattCalibrator`; the penalty is on the difference of a and b and on their distance from 1.

    Examples
    --------
    >>> import numpy as np
    >>> raw = np.linspace(0.05, 0.95, 200)
    >>> truth = 1 / (1 + np.exp(-(0.2 + 0.5 * np.log(raw) - 2.0 * np.log1p(-raw))))
    >>> calibrator = BetaCalibrator().fit(raw, truth, np.full(200, 1e5))
    >>> calibrator.slopes_.round(2)
    array([0.5, 2. ])
    """

    _name = "beta calibration"
    _method = CalibrationMethod.BETA
