"""A monotone spline from raw to calibrated probabilities, fitted by penalised binomial likelihood.

Only the map for one population is here; maps per group or region, and the choice between maps, are not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from within_ml.calibration.ispline import quantile_knots
from within_ml.calibration.log_odds import CalibrationMethod, LogOddsCalibrator, OutOfRange
from within_ml.errors import InputError

__all__ = ["CalibrationMethod", "OutOfRange", "SplineCalibrator", "SplineParameters"]

FloatArray = NDArray[np.float64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SplineParameters:
    """A fitted map: ``logit(p') = shift + start + ∫ slope`` from the first knot to ``logit(p)``.

    ``slopes`` are coefficients of the slope's B-spline of order ``slope_order`` on ``knots``; of ``method`` beta they
    are the factors of ln p and -ln(1 - p), and there are no knots. ``roughness`` and ``distance`` are the strengths of
    the penalty (means by evidence where the data chose), ``dispersion`` what impressions were divided by.
    """

    method: CalibrationMethod
    shift: float
    start: float
    knots: tuple[float, ...]
    slopes: tuple[float, ...]
    slope_order: int
    roughness: float
    distance: float
    dispersion: float


class SplineCalibrator(LogOddsCalibrator):
    """Strictly increasing calibration: ``logit(p') = shift + start + ∫ slope``, the slope a positive B-spline.

    The integral of a B-spline with positive coefficients is an I-spline (Ramsay 1988, "Monotone Regression Splines in
    Action", Statistical Science 3). Coefficients that are all 1 give slope 1, so that the identity is inside the
    family and the penalty can pull towards it::

        Σ w/φ · log-loss  +  a Σ (sₖ - sₖ₊₁)²  +  b mean (sₖ - 1)²

    By default maps of 24 pairs (a, b) are averaged by their evidence: straight where the data show a line, bent
    where they show bends. φ is the dispersion (Pearson χ² over degrees of freedom, at least 1): ads differ by more than
    binomial chance, and without it a few hundred of them with thousands of impressions each would look like certainty.

    Parameters
    ----------
    n_knots : int
        Knots including both ends.
    knot_spacing : {"quantile", "uniform"}
        Knots at quantiles of the prediction (see `ispline.quantile_knots`), or evenly over its range on the log-odds
        scale.
    spline_order : int
        Order (degree + 1) of the I-spline; its slope has one less.
    regularization : float, optional
        One strength r for ``r · (Σ (sₖ - sₖ₊₁)² + 0.1 Σ (sₖ - 1)²)`` in place of the average.
    monotone : bool
        True keeps the slope at ``min_slope`` or more; False leaves it free, and ties or inversions may come.
    min_slope : float
        Smallest slope, on the log-odds scale.
    min_clicks : float
        With fewer clicks than this (or fewer misses) the fallback is fitted instead, see ``method_``; a line at level
        WARNING says so.
    fallback : CalibrationMethod
        ``beta``, or ``level`` for a shift of the log-odds alone.
    overdispersion : bool
        Whether rows may differ by more than binomial chance; False takes every impression as independent (φ = 1), so
        that a row of n is n rows of one.
    out_of_range : OutOfRange
        What becomes of predictions outside those of the fit.

    Attributes
    ----------
    method_ : CalibrationMethod
        ``spline``; ``beta`` (few clicks, or few different predictions); ``level`` (a constant prediction: a shrunken
        shift of the log-odds); ``identity`` (no rows). Of several classes the least of theirs.
    shift_, start_, slopes_, knots_, dispersion_, low_, high_, curve_, calibrators_, classes_
        See `LogOddsCalibrator` and `get_spline_parameters`. Outside the knots the map goes on as a straight line with
        the slope of the end.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> raw = rng.uniform(0.01, 0.05, 2000)
    >>> clicks = rng.binomial(1000, raw / 2)
    >>> calibrator = SplineCalibrator().fit(raw, clicks / 1000, sample_weight=np.full(2000, 1000))
    >>> calibrator.transform([0.02, 0.04]).round(3)
    array([0.01, 0.02])
    """

    _name = "spline calibration"

    def __init__(  # noqa: PLR0913 - scikit-learn's convention: one argument per hyperparameter
        self,
        n_knots: int = 16,
        knot_spacing: str = "quantile",
        spline_order: int = 3,
        regularization: float | None = None,
        monotone: bool = True,
        *,
        min_slope: float = 0.01,
        min_clicks: float = 150.0,
        fallback: CalibrationMethod | str = CalibrationMethod.BETA,
        overdispersion: bool = True,
        out_of_range: OutOfRange | str = OutOfRange.EXTRAPOLATE,
    ) -> None:
        self.n_knots = n_knots
        self.knot_spacing = knot_spacing
        self.spline_order = spline_order
        self.regularization = regularization
        self.monotone = monotone
        self.min_slope = min_slope
        self.min_clicks = min_clicks
        self.fallback = fallback
        self.overdispersion = overdispersion
        self.out_of_range = out_of_range

    def get_spline_parameters(self, *, column: int = 0) -> SplineParameters:
        """Return the fitted map as a record.

        Parameters
        ----------
        column : int
            Which class of several.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        """
        one = self._column(column)
        return SplineParameters(
            method=one.method_,
            shift=float(one.shift_),
            start=float(one.start_),
            knots=tuple(one.knots_.tolist()),
            slopes=tuple(one.slopes_.tolist()),
            slope_order=self.spline_order - 1,
            roughness=one.roughness_,
            distance=one.distance_,
            dispersion=float(one.dispersion_),
        )

    def _choose(self, predictions: int, clicks: float) -> CalibrationMethod:
        if clicks >= self.min_clicks and predictions >= 2 * self.n_knots:
            return CalibrationMethod.SPLINE
        # A shift alone is what its caller asked for; beta calibration is what the rows allowed.
        logger.log(
            logging.WARNING if self.fallback == CalibrationMethod.BETA else logging.INFO,
            "%s: %.0f clicks or misses (a spline needs %g) on %d different predictions (it needs %d): "
            "%s calibration instead",
            self._name, clicks, self.min_clicks, predictions, 2 * self.n_knots, self.fallback,
        )  # fmt: skip
        return CalibrationMethod(self.fallback)

    def _prepare_basis(self, x: FloatArray, w: FloatArray, level: float) -> None:
        if self.method_ is not CalibrationMethod.SPLINE:
            return
        if self.knot_spacing == "uniform":
            self.knots_ = np.linspace(x[0], x[-1], self.n_knots)
        else:
            self.knots_ = quantile_knots(x, w, self.n_knots, level=level)

    def _lowest_slope(self) -> float | None:
        return self.min_slope if self.monotone or self.method_ is not CalibrationMethod.SPLINE else None

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.knot_spacing not in ("quantile", "uniform"):
            raise InputError(f"knot_spacing must be 'quantile' or 'uniform', however: {self.knot_spacing!r}.")
        if self.fallback not in (CalibrationMethod.BETA, CalibrationMethod.LEVEL):
            raise InputError(f"fallback must be 'beta' or 'level', however: {self.fallback!r}.")
        if self.n_knots < 2 or self.spline_order < 2:
            raise InputError(
                f"n_knots and spline_order must be at least 2, however: {self.n_knots}, {self.spline_order}."
            )
