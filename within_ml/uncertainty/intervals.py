"""Conformal intervals of the rate that will be observed, calibrated per account.

The residuals' scale is in `scale`, their quantiles in `conformal`; where the out-of-time predictions come from that the
intervals are calibrated on is `within_ml.ad_score.backtest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from within_ml.errors import InputError, ModelFormatError, NotFittedError, shown
from within_ml.metrics import check_rates
from within_ml.uncertainty.conformal import lasting_strength, mixed_quantiles, recent_lean, thinned
from within_ml.uncertainty.coverage import CoverageReport, Intervals, coverage_report
from within_ml.uncertainty.scale import fit_spread, rate_of, sigma, stabilised, with_further_period

FloatArray = NDArray[np.float64]
Labels = NDArray[np.str_]

_LARGEST_GROUP = 2_000
_LARGEST_POOL = 10_000
"""Residuals that are kept, as evenly spaced order statistics; finer ones would change no interval visibly."""


class RateIntervals(BaseEstimator):  # type: ignore[misc]
    """Intervals that the click-through rate to be observed lies in, at the impressions that are served.

    The quantity is clicks / impressions of the label's days, chance included: an ad with few impressions has a wide
    interval even if its true rate were known. Residuals are taken on a scale where chance has the same size
    everywhere (Anscombe 1948) and divided by what was to be expected of the row::

        θ(y) = arcsin √((n·y + 3/8) / (n + 3/4))        z = (θ(y) - θ(p)) / σ
        σ²   = 1/(4n + 2)  +  p(1-p)/4 · (a + Σ bⱼ·difficultyⱼ²)
               chance         what the prediction does not know, on the log-odds scale

    The interval is θ(p) plus σ times quantiles of z among calibration rows, lower and upper tail apart, mapped back,
    and widened where it would not contain p. The quantiles are those of the account (Mondrian conformal prediction,
    Vovk et al. 2005, by `crepes`), mixed with all accounts' as far as the accounts' own ones last::

        account with n ≥ min_rows :  λ · own + (1-λ) · pooled,   λ = n / (n + strength)
        smaller or unknown account:  pooled

    An account whose last two weeks missed to one side, other than all accounts', is widened to that side by as much.
    The rows of a week share its shock, however, and m weeks show only m of them, around their own mean: deviations of
    the weeks' mean z are therefore stretched by √((m+1)/(m-1)), the ratio of what a further week deviates to what the
    known ones do. Where shocks are nearly all there is, nominal 90 % then hold 88 % with eight weeks, 81 % with four
    and 69 % with two (simulated): give it eight.

    Parameters
    ----------
    confidence : float
        Share of outcomes to be inside, in (0, 1).
    min_rows : int
        Calibration rows from which an account has quantiles of its own.
    strength : float, optional
        Rows at which an account's quantiles count half. None estimates it from how well the accounts' widths in the
        first half of the periods agree with those in the second; 500 where too few accounts could tell.

    Attributes
    ----------
    spread_, slopes_ : float, array of shape (m,)
        a and b of σ².
    strength_ : float
        What was given or estimated.
    group_rows_ : dict of str to int
        Calibration rows of every account.
    lean_ : dict of str to float
        Side, in units of σ, to which the last two weeks of each account with its own quantiles missed.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p, n = rng.uniform(0.01, 0.05, 4000), np.full(4000, 2000)
    >>> ctr = rng.binomial(n, p * np.exp(rng.normal(0, 0.2, 4000))) / n
    >>> intervals = RateIntervals(confidence=0.9).fit(p[:2000], ctr[:2000], n[:2000])
    >>> found = intervals.predict([0.03, 0.03], [2000, 200])
    >>> found.lower.round(3), found.upper.round(3)
    (array([0.02 , 0.012]), array([0.044, 0.059]))
    >>> round(intervals.coverage_report(p[2000:], ctr[2000:], n[2000:]).coverage, 2)
    0.9
    """

    def __init__(self, confidence: float = 0.9, min_rows: int = 200, strength: float | None = None) -> None:
        self.confidence = confidence
        self.min_rows = min_rows
        self.strength = strength

    def fit(
        self,
        y_pred: ArrayLike,
        y_true: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        periods: ArrayLike | None = None,
        difficulty: ArrayLike | None = None,
    ) -> Self:
        """Calibrate on rows that the model was not fitted on.

        Parameters
        ----------
        y_pred, y_true : array-like, shape (n,)
            Predicted and observed rates in [0, 1].
        sample_weight : array-like, shape (n,), optional
            Impressions as `predict` will be given: those that were served, or those that were expected, and then the
            intervals also cover the error of that expectation. Rows without impressions are left out. None takes
            chance as negligible.
        groups : array-like, shape (n,), optional
            Account of each row, compared as text; None takes all rows as one account.
        periods : array-like, shape (n,), optional
            Number of each row's week, in order of time.
        difficulty : array-like, shape (n,) or (n, m), optional
            Numbers ≥ 0 that grow with the error of the log-odds, such as `history_difficulty` or the spread of an
            ensemble; `predict` then needs them too.

        Raises
        ------
        InputError
            If a constructor argument, shape or range is wrong, or no row has impressions.
        """
        self._check_parameters()
        y, p, w = check_rates(y_true, y_pred, sample_weight, names=("y_true", "y_pred", "sample_weight"))
        n = np.full(y.shape, np.inf) if sample_weight is None else w
        hard = _difficulty(difficulty, y.size)
        labels, weeks = _labels(groups, y.size), None
        if periods is not None:
            weeks = _column(periods, y.size, "periods")
        kept = n > 0
        if not kept.any():
            raise InputError(
                f"RateIntervals needs rows with impressions, however: sample_weight is zero in all {y.size} rows."
            )
        y, p, n, hard, labels = y[kept], p[kept], n[kept], hard[kept], labels[kept]
        if weeks is not None:
            weeks = np.unique(weeks[kept], return_inverse=True)[1].reshape(-1)
        gap = stabilised(y, n) - stabilised(p, n)
        self.spread_, self.slopes_ = fit_spread(gap, p, n, hard)
        z = gap / sigma(p, n, hard, self.spread_, self.slopes_)
        names, place = np.unique(labels, return_inverse=True)
        place = place.reshape(-1)
        lean = recent_lean(z, place, weeks)
        z = with_further_period(z, weeks)
        counts = np.bincount(place)
        self.group_rows_ = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
        self.strength_ = float(self.strength) if self.strength is not None else lasting_strength(z, place, weeks)
        self.pooled_ = thinned(z, _LARGEST_POOL)
        self.residuals_ = {
            str(name): thinned(z[place == i], _LARGEST_GROUP)
            for i, name in enumerate(names)
            if counts[i] >= self.min_rows
        }
        self.lean_ = {str(name): float(lean[i]) for i, name in enumerate(names) if str(name) in self.residuals_}
        return self

    def predict(
        self,
        y_pred: ArrayLike,
        impressions: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        difficulty: ArrayLike | None = None,
        confidence: float | None = None,
    ) -> Intervals:
        """Return the interval of each row.

        Parameters
        ----------
        y_pred : array-like, shape (n,)
            Predicted rates in [0, 1].
        impressions : array-like, shape (n,), optional
            Impressions that are planned or expected; None leaves chance out.
        groups, difficulty
            As in `fit`; an account that was not there gets the pooled quantiles.
        confidence : float, optional
            Instead of the constructor's. Intervals of a higher confidence contain those of a lower one.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        InputError
            If a shape or range is wrong, or difficulty is not given as in `fit`.
        """
        self._require_fitted()
        level = self.confidence if confidence is None else confidence
        _check_confidence(level)
        p = _column(y_pred, None, "y_pred").astype(np.float64)
        if not ((p >= 0) & (p <= 1)).all():
            raise InputError(f"y_pred must be rates in [0, 1], however: {p[~((p >= 0) & (p <= 1))][:3].tolist()}.")
        n = np.full(p.size, np.inf)
        if impressions is not None:
            n = _column(impressions, p.size, "impressions").astype(np.float64)
            if not (n >= 0).all():
                raise InputError(f"impressions must be 0 or more, however: {n[~(n >= 0)][:3].tolist()}.")
        hard = _difficulty(difficulty, p.size)
        if hard.shape[1] != self.slopes_.size:
            raise InputError(
                f"difficulty must have the {self.slopes_.size} columns of fit, however: {hard.shape[1]} columns."
            )
        low, high = self._quantiles(_labels(groups, p.size), level)
        centre, unit = stabilised(p, n), sigma(p, n, hard, self.spread_, self.slopes_)
        return Intervals(
            lower=np.minimum(rate_of(centre + low * unit, n), p),
            upper=np.maximum(rate_of(centre + high * unit, n), p),
            confidence=level,
        )

    def coverage_report(
        self,
        y_pred: ArrayLike,
        y_true: ArrayLike,
        impressions: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        difficulty: ArrayLike | None = None,
        confidence: float | None = None,
    ) -> CoverageReport:
        """Return how the intervals of `predict` turn out on later rows, overall and per account."""
        found = self.predict(y_pred, impressions, groups, difficulty=difficulty, confidence=confidence)
        y, _, _ = check_rates(y_true, y_pred, None)
        labels = _labels(groups, y.size)
        rows = np.array([self.group_rows_.get(str(name), 0) for name in labels], dtype=np.int64)
        return coverage_report(found, y, labels, calibration_rows=rows)

    def to_dict(self) -> dict[str, Any]:
        """Return parameters and fitted state as JSON values; floats survive JSON exactly."""
        self._require_fitted()
        return {
            "parameters": self.get_params(),
            "spread": self.spread_,
            "slopes": self.slopes_.tolist(),
            "strength": self.strength_,
            "group_rows": self.group_rows_,
            "lean": self.lean_,
            "pooled": self.pooled_.tolist(),
            "residuals": {name: z.tolist() for name, z in self.residuals_.items()},
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
            intervals = cls(**state["parameters"])
            intervals.spread_, intervals.strength_ = float(state["spread"]), float(state["strength"])
            intervals.slopes_ = np.array(state["slopes"], dtype=np.float64)
            intervals.group_rows_ = {str(name): int(rows) for name, rows in state["group_rows"].items()}
            intervals.lean_ = {str(name): float(lean) for name, lean in state["lean"].items()}
            intervals.pooled_ = np.array(state["pooled"], dtype=np.float64)
            intervals.residuals_ = {k: np.array(z, dtype=np.float64) for k, z in state["residuals"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"The state of RateIntervals is not as it was saved ({error}).") from error
        return intervals

    def _quantiles(self, labels: Labels, confidence: float) -> tuple[FloatArray, FloatArray]:
        """Return the lower and the upper quantile of z for each row, shape (n,)."""
        rows = np.array([self.group_rows_[name] for name in self.residuals_], dtype=np.float64)
        table = mixed_quantiles(self.residuals_, self.pooled_, rows, strength=self.strength_, confidence=confidence)
        lean = np.array([0.0, *(self.lean_[name] for name in self.residuals_)])
        table += np.column_stack([np.minimum(lean, 0.0), np.maximum(lean, 0.0)])
        number = {name: i + 1 for i, name in enumerate(self.residuals_)}
        names, place = np.unique(labels, return_inverse=True)
        row = np.array([number.get(str(name), 0) for name in names], dtype=np.int64)[place.reshape(-1)]
        return table[row, 0], table[row, 1]

    def _check_parameters(self) -> None:
        _check_confidence(self.confidence)
        if self.min_rows < 1 or not (self.strength is None or 0 <= self.strength < np.inf):
            raise InputError(
                "min_rows must be at least 1 and strength 0 or more (None estimates it), however: "
                f"{self.min_rows}, {self.strength}."
            )

    def _require_fitted(self) -> None:
        if not hasattr(self, "pooled_"):
            raise NotFittedError("RateIntervals must be fitted first; call fit.")

    def __sklearn_tags__(self) -> Any:
        """Say that y_pred is one-dimensional, as for `sklearn.isotonic.IsotonicRegression`."""
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, False
        tags.target_tags.required = True
        return tags


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be above 0 and below 1, however: {confidence!r}.")


def _column(values: ArrayLike, size: int | None, name: str) -> NDArray[Any]:
    column = np.asarray(values)
    if column.ndim != 1 or (size is not None and column.size != size):
        wanted = "(n,)" if size is None else f"({size},)"
        raise InputError(f"{name} must have shape {wanted}, however: {column.shape}.")
    return column


def _labels(groups: ArrayLike | None, size: int) -> Labels:
    if groups is None:
        return np.zeros(size, dtype=np.str_)
    return _column(groups, size, "groups").astype(np.str_)


def _difficulty(difficulty: ArrayLike | None, size: int) -> FloatArray:
    """Return the difficulties as columns, shape (n, m)."""
    if difficulty is None:
        return np.zeros((size, 0))
    columns = np.asarray(difficulty, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or columns.shape[0] != size:
        raise InputError(f"difficulty must have shape ({size},) or ({size}, m), however: {columns.shape}.")
    if not (np.isfinite(columns) & (columns >= 0)).all():
        wrong = columns[~(np.isfinite(columns) & (columns >= 0))]
        raise InputError(f"difficulty must be finite and 0 or more, however: {shown(wrong[:3].tolist())}.")
    return columns
