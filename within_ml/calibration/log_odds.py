"""What calibrators on the log-odds share: checks, the level, classes one by one, ranges, state and the curve.

A map of one family each is in `spline` and `scaling`; maps per group or region are elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, TransformerMixin, clone

from within_ml.calibration.classes import one_hot
from within_ml.calibration.curve import CalibrationCurve
from within_ml.calibration.ispline import integrated_basis
from within_ml.calibration.level import dispersion_of, estimate_level
from within_ml.calibration.slopes import binned, fit_slopes
from within_ml.errors import InputError, ModelFormatError, NotFittedError, shown
from within_ml.metrics import ReliabilityCurve, check_rates, reliability_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

logger = logging.getLogger(__name__)

_FITTED_FLOOR = 1e-12
"""In fitting a prediction is taken to be at least this far from 0 and 1: one row must not bend the map."""

_SMALLEST, _LARGEST = np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0)
_MOST_REFITS = 5
_SETTLED = 0.8


class CalibrationMethod(StrEnum):
    """What the evidence allowed to fit; of a map of several classes the least of theirs."""

    IDENTITY = "identity"
    LEVEL = "level"
    PLATT = "platt"
    BETA = "beta"
    SPLINE = "spline"


class OutOfRange(StrEnum):
    """What becomes of a prediction outside those of the fit.

    ``EXTRAPOLATE`` goes on with the slope of the end and keeps the order; ``CLIP`` takes it as the end itself, and so
    ties; ``RAISE`` refuses it.
    """

    EXTRAPOLATE = "extrapolate"
    CLIP = "clip"
    RAISE = "raise"


class LogOddsCalibrator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of strictly increasing maps ``logit(p') = shift + start + basis(logit(p)) @ slopes``.

    A subclass says in `_choose` which method the rows allow.

    Attributes
    ----------
    method_ : CalibrationMethod
        What was fitted.
    shift_ : float
        Shift of the log-odds, the part of the level that can be expected to last.
    start_, slopes_ : float, array
        The map before the shift, on `method_`'s basis.
    knots_ : array
        Knots of a spline on the log-odds scale; of other methods none.
    low_, high_ : float
        Range of the predictions of the fit.
    dispersion_ : float
        Pearson's χ² over degrees of freedom around the map, at least 1: variance of rows in units of the binomial one.
    curve_ : CalibrationCurve
        Predicted and observed rates in bins of the rows of the fit, before and after.
    calibrators_ : tuple
        Of a map of several classes one fitted calibrator by class, else empty.
    classes_ : array
        Labels of the columns of such a map, else empty.
    """

    _name: ClassVar[str] = "calibrator"
    overdispersion: bool
    out_of_range: OutOfRange | str
    spline_order: int = 3
    min_slope: float
    regularization: float | None

    # ---- fitting

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
        y_pred : array-like, shape (n,) or (n, k)
            Raw probabilities, on rows that the model was not fitted on; of k classes one column each.
        y_true : array-like, shape (n,) or (n, k)
            Observed rates in [0, 1]. Of k classes their labels, shape (n,): numbers of the columns, or any labels where
            each class is present (columns then follow their sorted order); or rates by class, shape (n, k).
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
            If a shape or range is wrong, all weights are zero, or a constructor argument is impossible.
        """
        self._check_parameters()
        predicted = np.asarray(y_pred, dtype=np.float64)
        if predicted.ndim == 2:
            return self._fit_classes(predicted, y_true, sample_weight, periods, period_sd)
        y, p, w = check_rates(y_true, predicted, sample_weight, names=("y_true", "y_pred", "sample_weight"))
        if w.size and not w.sum() > 0:
            raise InputError(f"sample_weight must hold impressions; all {w.size} weights are zero.")
        weeks = None if periods is None else np.asarray(periods)
        if weeks is not None and weeks.shape != y.shape:
            raise InputError(f"periods must have the shape of y_true, {y.shape}, however: {weeks.shape}.")
        self._reset()
        kept = w > 0
        if kept.any():
            p, y, w = p[kept], y[kept], w[kept]
            self._fit_rows(p, y, w, None if weeks is None else weeks[kept], period_sd)
        else:
            logger.warning("%s: no rows, so nothing is calibrated", self._name)
        before = reliability_curve(y, p, sample_weight=w)
        self.curve_ = CalibrationCurve(before, reliability_curve(y, self.transform(p), sample_weight=w))
        return self

    def _reset(self) -> None:
        self.knots_, self.slopes_, self.start_ = np.zeros(0), np.ones(0), 0.0
        self.shift_, self.dispersion_ = 0.0, 1.0
        self.low_, self.high_ = 0.0, 1.0
        self.roughness_, self.distance_ = 0.0, 0.0
        self.method_ = CalibrationMethod.IDENTITY
        self.calibrators_: tuple[Self, ...] = ()
        self.classes_: NDArray[Any] = np.zeros(0)
        self.curve_ = CalibrationCurve.empty()

    def _fit_rows(
        self, p: FloatArray, y: FloatArray, w: FloatArray, weeks: NDArray[Any] | None, period_sd: float
    ) -> None:
        self.low_, self.high_ = float(p.min()), float(p.max())
        x = logit(np.clip(p, _FITTED_FLOOR, 1 - _FITTED_FLOOR))
        level = estimate_level(x, y, w, weeks, period_sd=period_sd, overdispersion=self.overdispersion)
        self.shift_, self.dispersion_ = level.shrunk, level.dispersion
        self.method_ = CalibrationMethod.LEVEL
        if np.ptp(x) == 0:
            return
        # A week's own shock is taken out of its rows; what the weeks have in common is the level of the map.
        x = x + level.by_row - level.pooled
        self.method_ = self._choose(np.unique(x).size, float(min(w @ y, w @ (1 - y))))
        if self.method_ is CalibrationMethod.LEVEL:
            return
        for _ in range(_MOST_REFITS):
            self._fit_slopes(*binned(x, y, w / self.dispersion_), level.pooled)
            if self.dispersion_ == 1:
                return
            # What the map explains was no difference between rows; less of that lets the map explain more.
            p = expit(level.pooled + self.start_ + self._basis(x) @ self.slopes_)
            left = dispersion_of(p, y, w, self.slopes_.size + 1)
            if left > _SETTLED * self.dispersion_:
                return
            self.dispersion_ = left

    def _choose(self, predictions: int, clicks: float) -> CalibrationMethod:
        """Choose the method for so many different predictions and so many clicks, or misses if those are fewer."""
        raise NotImplementedError

    def _fit_slopes(self, x: FloatArray, y: FloatArray, w: FloatArray, level: float) -> None:
        self._prepare_basis(x, w, level)
        options = {"regularization": self.regularization, "min_slope": self._lowest_slope()}
        fit = fit_slopes(self._basis(x), x, y, w, level=level, **options)
        self.start_, self.slopes_ = fit.start, fit.slopes
        self.roughness_, self.distance_ = fit.roughness, fit.distance

    def _prepare_basis(self, x: FloatArray, w: FloatArray, level: float) -> None:
        """Place what the basis rests on; x are distinct and rise, and ``level`` makes their level right."""

    def _lowest_slope(self) -> float | None:
        return self.min_slope

    def _check_parameters(self) -> None:
        if self.regularization is not None and not self.regularization > 0:
            raise InputError(f"regularization must be above 0, or None, however: {self.regularization}.")
        if not 0 < self.min_slope <= 1:
            raise InputError(f"min_slope must be in (0, 1], however: {self.min_slope}.")
        if self.out_of_range not in tuple(OutOfRange):
            raise InputError(f"out_of_range must be one of {shown(map(str, OutOfRange))}: {self.out_of_range!r}.")

    # ---- several classes

    def _fit_classes(
        self, p: FloatArray, y_true: ArrayLike, sample_weight: ArrayLike | None, periods: Any, period_sd: float
    ) -> Self:
        if p.shape[1] < 2:
            raise InputError(f"y_pred must have shape (n,), or (n, k) with k of 2 or more, however: {p.shape}.")
        classes, rates = one_hot(y_true, p.shape)
        self._reset()
        # The second of two classes says all: the first one is what is left.
        columns = range(p.shape[1]) if p.shape[1] > 2 else [1]
        self.calibrators_ = tuple(
            clone(self).fit(p[:, k], rates[:, k], sample_weight, periods=periods, period_sd=period_sd) for k in columns
        )
        self.classes_ = classes
        methods = [calibrator.method_ for calibrator in self.calibrators_]
        self.method_ = min(methods, key=list(CalibrationMethod).index)
        return self

    def _transform_classes(self, p: FloatArray) -> FloatArray:
        if p.ndim != 2 or p.shape[1] != self.classes_.size:
            raise InputError(f"y_pred must have shape (n, {self.classes_.size}) as in fit, however: {p.shape}.")
        if len(self.calibrators_) == 1:
            second = self.calibrators_[0].transform(p[:, 1])
            return np.column_stack([1 - second, second])
        each = np.column_stack([c.transform(p[:, k]) for k, c in enumerate(self.calibrators_)])
        shares: FloatArray = each / each.sum(axis=1, keepdims=True)
        return shares

    # ---- transforming

    def transform(self, y_pred: ArrayLike) -> FloatArray:
        """Return calibrated probabilities, of the shape of ``y_pred``.

        Of two different predictions of one class the larger stays the larger, as far as floats can tell their images
        apart and `OutOfRange` does not tie them. Of several classes each is mapped alone; then rows are divided by
        their sum.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        InputError
            If the shape is not that of `fit`, a value is no probability, or `OutOfRange.RAISE` refuses it.
        """
        self._require_fitted()
        p = np.asarray(y_pred, dtype=np.float64)
        if not ((p >= 0) & (p <= 1)).all():
            wrong = p[~((p >= 0) & (p <= 1))]
            raise InputError(f"y_pred must be probabilities in [0, 1], however: {shown(wrong.ravel().tolist())}.")
        if self.calibrators_:
            return self._transform_classes(p)
        if p.ndim != 1:
            raise InputError(f"y_pred must be probabilities of shape (n,), however: shape {p.shape}.")
        p = self._in_range(p)
        x = logit(np.clip(p, _SMALLEST, _LARGEST))
        if self.method_ not in (CalibrationMethod.IDENTITY, CalibrationMethod.LEVEL):
            # No matrix product: its last bit depends on a row's place, and equal predictions must stay equal.
            x = self.start_ + (self._basis(x) * self.slopes_).sum(axis=1)
        calibrated: FloatArray = np.clip(expit(x + self.shift_), _SMALLEST, _LARGEST)
        return calibrated

    def _in_range(self, p: FloatArray) -> FloatArray:
        if self.out_of_range == OutOfRange.CLIP:
            return np.clip(p, self.low_, self.high_)
        outside = (p < self.low_) | (p > self.high_)
        if self.out_of_range == OutOfRange.RAISE and outside.any():
            raise InputError(
                f"y_pred must lie within the predictions of fit, {self.low_} to {self.high_}, as out_of_range is "
                f"'raise'; however: {shown(p[outside].tolist())}."
            )
        return p

    def _basis(self, x: FloatArray) -> FloatArray:
        if self.method_ is CalibrationMethod.SPLINE:
            return integrated_basis(x, self.knots_, self.spline_order)
        if self.method_ is CalibrationMethod.BETA:
            # ln p and -ln(1 - p) by log-odds; together they are x.
            return np.column_stack([-np.logaddexp(0.0, -x), np.logaddexp(0.0, x)])
        return x[:, None]

    def _require_fitted(self) -> None:
        if not hasattr(self, "method_"):
            raise NotFittedError(f"{type(self).__name__} must be fitted before it is used; call fit first.")

    def _column(self, column: int) -> Self:
        """Return the map of one class, or the only one there is."""
        self._require_fitted()
        count = max(len(self.calibrators_), 1)
        if not 0 <= column < count:
            raise InputError(f"column must be 0 to {count - 1}, one by fitted map, however: {column}.")
        return self.calibrators_[column] if self.calibrators_ else self

    def plot_calibration_curve(self, *, column: int = 0) -> Figure:
        """Draw observed against predicted rates of the rows of `fit`, before and after, with the map.

        Parameters
        ----------
        column : int
            Which of several fitted maps.

        Returns
        -------
        matplotlib.figure.Figure
            Two panels; no window is opened.
        """
        one = self._column(column)
        low, high = logit(np.clip([one.low_, one.high_], _FITTED_FLOOR, 1 - _FITTED_FLOOR))
        grid = expit(np.linspace(low, high, 200))
        grid = np.clip(grid, one.low_, one.high_)
        return one.curve_.draw(grid, one.transform(grid), title=f"{one._name}: {one.method_}")

    # ---- state

    def to_dict(self) -> dict[str, Any]:
        """Return parameters and fitted state as JSON values; floats survive JSON exactly."""
        self._require_fitted()
        return {
            "parameters": self.get_params(),
            "method": str(self.method_),
            "shift": float(self.shift_),
            "start": float(self.start_),
            "dispersion": float(self.dispersion_),
            "range": [self.low_, self.high_],
            "strengths": [self.roughness_, self.distance_],
            "knots": self.knots_.tolist(),
            "slopes": self.slopes_.tolist(),
            "curve": asdict(self.curve_),
            "classes": self.classes_.tolist(),
            "calibrators": [calibrator.to_dict() for calibrator in self.calibrators_],
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
            calibrator.low_, calibrator.high_ = (float(end) for end in state["range"])
            calibrator.roughness_, calibrator.distance_ = (float(strength) for strength in state["strengths"])
            calibrator.knots_ = np.array(state["knots"], dtype=np.float64)
            calibrator.slopes_ = np.array(state["slopes"], dtype=np.float64)
            calibrator.curve_ = CalibrationCurve(
                *(ReliabilityCurve(**{k: tuple(v) for k, v in state["curve"][s].items()}) for s in ("before", "after"))
            )
            calibrator.classes_ = np.array(state["classes"])
            calibrator.calibrators_ = tuple(cls.from_dict(one) for one in state["calibrators"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFormatError(f"The state of a {cls.__name__} is not as it was saved ({error}).") from error
        return calibrator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.target_tags.required = True
        return tags
