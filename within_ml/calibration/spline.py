"""A monotone spline from raw to calibrated probabilities, fitted by penalised binomial likelihood.

Only the map for one population is here; maps per group or region, and the choice between maps, are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.base import BaseEstimator

from within_ml.calibration.level import estimate_level
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.metrics import check_rates

FloatArray = NDArray[np.float64]

_PROBABILITY_FLOOR = 1e-12
_MAX_BINS = 2_000


class CalibrationMethod(StrEnum):
    """What the evidence allowed to fit."""

    SPLINE = "spline"
    LEVEL = "level"
    IDENTITY = "identity"


class SplineCalibrator(BaseEstimator):  # type: ignore[misc]
    """Strictly increasing calibration: ``logit(p') = start + ∫ slope``, the slope a positive B-spline.

    The integral of a B-spline with positive coefficients is an I-spline (Ramsay 1988, "Monotone Regression Splines in
    Action", Statistical Science 3). Coefficients that are all 1 give slope 1, so that the identity is inside the
    family and the penalty can pull towards it::

        Σ w/φ · log-loss  +  regularization · ( Σ (sₖ - sₖ₊₁)²  +  0.1 Σ (sₖ - 1)² )

    φ is the dispersion (Pearson χ² over degrees of freedom, at least 1): ads differ by more than binomial chance, and
    without it a few hundred of them with thousands of impressions each would look like certainty.

    Parameters
    ----------
    n_knots : int
        Knots including both ends.
    knot_spacing : {"quantile", "uniform"}
        Knots at quantiles of the prediction by impressions, or evenly over its range on the log-odds scale.
    spline_order : int
        Order (degree + 1) of the I-spline; its slope has one less.
    regularization : float
        Strength of the penalty above.
    monotone : bool
        True keeps the slope at ``min_slope`` or more; False leaves it free, and ties or inversions may come.
    min_slope : float
        Smallest slope, on the log-odds scale.
    min_clicks : float
        With fewer clicks than this only the level is shifted, see ``method_``.

    Attributes
    ----------
    method_ : CalibrationMethod
        ``spline``; ``level`` (few clicks or a constant prediction: a shrunken shift of the log-odds); ``identity`` (no
        impressions at all).
    shift_ : float
        Shift of the log-odds, the part of the level that can be expected to last.
    knots_, start_, slopes_ : array, float, array
        The spline that follows the shift: knots on the log-odds scale, value at the first one, coefficients of the
        slope. Outside the knots it goes on as a straight line with the slope of the end.
    dispersion_ : float
        φ.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> raw = rng.uniform(0.01, 0.05, 2000)
    >>> clicks = rng.binomial(1000, raw / 2)
    >>> calibrator = SplineCalibrator().fit(raw, clicks / 1000, sample_weight=np.full(2000, 1000))
    >>> calibrator.transform([0.02, 0.04]).round(3)
    array([0.01, 0.02])
    """

    def __init__(
        self,
        *,
        n_knots: int = 8,
        knot_spacing: str = "quantile",
        spline_order: int = 3,
        regularization: float = 10.0,
        monotone: bool = True,
        min_slope: float = 0.1,
        min_clicks: float = 150.0,
    ) -> None:
        self.n_knots = n_knots
        self.knot_spacing = knot_spacing
        self.spline_order = spline_order
        self.regularization = regularization
        self.monotone = monotone
        self.min_slope = min_slope
        self.min_clicks = min_clicks

    def fit(
        self,
        y_pred: ArrayLike,
        y_true: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        periods: ArrayLike | None = None,
        period_sd: float = 0.0,
    ) -> Self:
        """Fit the map from raw predictions to observed rates.

        Parameters
        ----------
        y_pred : array-like, shape (n,)
            Raw probabilities, on rows that the model was not fitted on.
        y_true : array-like, shape (n,)
            Observed rates in [0, 1].
        sample_weight : array-like, shape (n,), optional
            Impressions.
        periods : array-like, shape (n,), optional
            Label of each row's week. The shape is then learned within weeks, and the level is shifted only as far as
            the weeks agree on it (see `level`), since one week's shock is not the next one's.
        period_sd : float
            What a longer history has shown of the spread of the weeks' levels, on the log-odds scale.

        Raises
        ------
        InputError
            If a shape or range is wrong, or a constructor argument is.
        """
        self._check_parameters()
        y, p, w = check_rates(y_true, y_pred, sample_weight)
        kept = w > 0
        x, y, w = _log_odds(p)[kept], y[kept], w[kept]
        self.knots_, self.slopes_, self.start_ = np.zeros(0), np.ones(0), 0.0
        self.shift_, self.dispersion_ = 0.0, 1.0
        self.method_ = CalibrationMethod.IDENTITY
        if x.size == 0:
            return self
        self.method_ = CalibrationMethod.LEVEL
        weeks = None if periods is None else np.asarray(periods)[kept]
        level = estimate_level(x, y, w, weeks, period_sd=period_sd)
        self.shift_, self.dispersion_ = level.shrunk, level.dispersion
        few = min(w @ y, w @ (1 - y)) < self.min_clicks
        if not few and np.unique(x).size >= 2 * self.n_knots:
            self.method_ = CalibrationMethod.SPLINE
            self._fit_spline(*_binned(x + level.by_row, y, w / self.dispersion_))
        return self

    def transform(self, y_pred: ArrayLike) -> FloatArray:
        """Return calibrated probabilities, shape (n,); of two different inputs the larger stays the larger.

        Inputs nearer to 0 or 1 than 1e-12 are taken as that near.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        if not hasattr(self, "method_"):
            raise NotFittedError("SplineCalibrator must be fitted before it transforms; call fit first.")
        p = np.asarray(y_pred, dtype=np.float64)
        if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
            raise InputError(f"y_pred must be probabilities in [0, 1] of shape (n,), however: shape {p.shape}.")
        calibrated: FloatArray = expit(self._map(_log_odds(p)))
        return calibrated

    def to_dict(self) -> dict[str, Any]:
        """Return parameters and fitted state as JSON values; floats survive JSON exactly."""
        return {
            "parameters": self.get_params(),
            "method": str(self.method_),
            "shift": float(self.shift_),
            "start": float(self.start_),
            "dispersion": float(self.dispersion_),
            "knots": self.knots_.tolist(),
            "slopes": self.slopes_.tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave.

        Raises
        ------
        ModelFormatError
            If a field is missing or of the wrong kind.
        """
        try:
            calibrator = cls(**state["parameters"])
            calibrator.method_ = CalibrationMethod(state["method"])
            calibrator.shift_, calibrator.start_ = float(state["shift"]), float(state["start"])
            calibrator.dispersion_ = float(state["dispersion"])
            calibrator.knots_ = np.array(state["knots"], dtype=np.float64)
            calibrator.slopes_ = np.array(state["slopes"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"The state of a SplineCalibrator is not as it was saved ({error}).") from error
        return calibrator

    def _check_parameters(self) -> None:
        if self.knot_spacing not in ("quantile", "uniform"):
            raise InputError(f"knot_spacing must be 'quantile' or 'uniform', however: {self.knot_spacing!r}.")
        if self.n_knots < 2 or self.spline_order < 2 or self.regularization <= 0 or not 0 < self.min_slope <= 1:
            raise InputError(
                "n_knots and spline_order must be at least 2, regularization above 0 and min_slope in (0, 1], however: "
                f"{self.n_knots}, {self.spline_order}, {self.regularization}, {self.min_slope}."
            )

    def _fit_spline(self, x: FloatArray, y: FloatArray, w: FloatArray) -> None:
        self.knots_ = _knots(x, w, self.n_knots, self.knot_spacing)
        basis = self._integrated_basis(x)
        n = basis.shape[1]

        def objective(theta: FloatArray) -> tuple[float, FloatArray]:
            eta = theta[0] + basis @ theta[1:]
            steps, distance = np.diff(theta[1:]), theta[1:] - 1
            loss = w @ (np.logaddexp(0.0, eta) - y * eta)
            penalty = self.regularization * (steps @ steps + 0.1 * distance @ distance)
            residual = w * (expit(eta) - y)
            pull = 0.2 * distance
            pull[1:] += 2 * steps
            pull[:-1] -= 2 * steps
            gradient = np.concatenate([[residual.sum()], basis.T @ residual + self.regularization * pull])
            return float(loss + penalty), gradient

        start = np.concatenate([self.knots_[:1], np.ones(n)])
        lowest = self.min_slope if self.monotone else None
        result = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(None, None), *[(lowest, None)] * n],
            options={"maxiter": 1000, "ftol": 1e-11, "gtol": 1e-6},
        )
        self.start_, self.slopes_ = float(result.x[0]), result.x[1:]

    def _slope_spline(self, slopes: FloatArray) -> BSpline:
        degree = self.spline_order - 2
        padded = np.concatenate([np.repeat(self.knots_[0], degree), self.knots_, np.repeat(self.knots_[-1], degree)])
        return BSpline(padded, slopes, degree)

    def _integrated_basis(self, x: FloatArray) -> FloatArray:
        """Integral from the first knot to x of each slope's B-spline, with straight ends; shape (n, coefficients)."""
        n = self.knots_.size + self.spline_order - 3
        first, last = self.knots_[0], self.knots_[-1]
        inside = np.clip(x, first, last)
        basis = np.empty((x.size, n))
        for k, unit in enumerate(np.eye(n)):
            integral = self._slope_spline(unit).antiderivative()
            basis[:, k] = integral(inside) - integral(first)
        basis[:, 0] += np.minimum(x - first, 0.0)
        basis[:, -1] += np.maximum(x - last, 0.0)
        return basis

    def _map(self, x: FloatArray) -> FloatArray:
        x = x + self.shift_
        if self.method_ is not CalibrationMethod.SPLINE:
            return x
        return self.start_ + self._integrated_basis(x) @ self.slopes_


def _log_odds(p: FloatArray) -> FloatArray:
    clipped: FloatArray = logit(np.clip(p, _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR))
    return clipped


def _binned(x: FloatArray, y: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sum neighbours into at most `_MAX_BINS` rows; the map is smooth, so that nothing but time is lost."""
    if x.size <= _MAX_BINS:
        return x, y, w
    order = np.argsort(x, kind="stable")
    starts = np.linspace(0, x.size, _MAX_BINS, endpoint=False).astype(np.int64)
    weight = np.add.reduceat(w[order], starts)
    return np.add.reduceat((w * x)[order], starts) / weight, np.add.reduceat((w * y)[order], starts) / weight, weight


def _knots(x: FloatArray, w: FloatArray, n_knots: int, spacing: str) -> FloatArray:
    if spacing == "uniform":
        return np.linspace(x.min(), x.max(), n_knots)
    order = np.argsort(x, kind="stable")
    share = np.cumsum(w[order]) / w.sum()
    inner = np.interp(np.linspace(0, 1, n_knots)[1:-1], share, x[order])
    knots = np.unique(np.concatenate([[x.min()], inner, [x.max()]]))
    # Knots that nearly coincide would make slopes that nothing can tell apart.
    kept = np.concatenate([[True], np.diff(knots) > 1e-6 * (knots[-1] - knots[0])])
    kept[-1] = True
    result: FloatArray = knots[kept]
    return result
