"""A logistic regression that bends: each number by a line broken at its quantiles, each flag by a step.

The sum over columns is exact, so that a column's part of the log-odds can be told. What the columns are is in
`encoding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from within_ml.errors import ModelFormatError
from within_ml.explain.contributions import Contributions
from within_ml.models.binomial import fit_binomial

FloatArray = NDArray[np.float64]

_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
_LIMIT = 4.0
_MIN_MISSING = 5
_MAX_TERMS = 400


@dataclass(frozen=True, slots=True)
class _Shape:
    """One column: standardised, clipped, broken at ``knots`` (standardised too), with a flag where it is missing."""

    centre: float
    spread: float
    knots: tuple[float, ...]
    has_missing: bool

    def terms(self, values: FloatArray) -> FloatArray:
        missing = np.isnan(values)
        z = np.clip((np.where(missing, self.centre, values) - self.centre) / self.spread, -_LIMIT, _LIMIT)
        columns = [z, *(np.maximum(z - knot, 0.0) for knot in self.knots)]
        if self.has_missing:
            columns.append(missing.astype(np.float64))
        return np.column_stack(columns)

    @property
    def width(self) -> int:
        return 1 + len(self.knots) + self.has_missing


class AdditiveLogit:
    """Fit ``logit p = intercept + Σ f(column)`` with a ridge on every coefficient.

    Parameters
    ----------
    ridge : float
        Penalty of each standardised term, in outcomes: a coefficient of 1 costs as much as this many of them say.
    bends : bool
        Whether numbers may bend; False is a plain logistic regression.

    Attributes
    ----------
    coefficients_ : array, shape (terms,)
    intercept_ : float
    centre_ : array, shape (terms,)
        Mean of the terms over the rows of the fit; SHAP values of a sum are counted from there.

    Examples
    --------
    >>> X = np.arange(200.0)[:, None]
    >>> model = AdditiveLogit(ridge=0.1).fit(X, (X[:, 0] > 100).astype(float))
    >>> (model.margin(np.array([[20.0], [180.0]])) > 0).tolist()
    [False, True]
    """

    def __init__(self, *, ridge: float = 3.0, bends: bool = True) -> None:
        self.ridge = ridge
        self.bends = bends

    def fit(self, X: FloatArray, y: FloatArray, w: FloatArray | None = None) -> Self:
        """Fit on numbers X, shape (n, d), NaN allowed, outcomes y in [0, 1] and weights w, shape (n,)."""
        w = np.ones(len(y)) if w is None else w
        bends = self.bends and X.shape[1] * (len(_QUANTILES) + 1) <= _MAX_TERMS
        self.shapes_ = [_shape(X[:, i], bends=bends) for i in range(X.shape[1])]
        terms = self._terms(X)
        self.centre_ = np.average(terms, axis=0, weights=w) if terms.shape[1] else np.zeros(0)
        level = float(np.clip((w @ y + 0.5) / (w.sum() + 1.0), 1e-9, 1 - 1e-9))
        design = np.column_stack([np.ones(len(y)), terms - self.centre_])
        ridge = np.concatenate([[0.0], np.full(terms.shape[1], self.ridge)])
        fit = fit_binomial(design, y, w, offset=np.full(len(y), logit(level)), ridge=ridge)
        self.intercept_ = float(logit(level) + fit.coefficients[0])
        self.coefficients_ = fit.coefficients[1:]
        return self

    def margin(self, X: FloatArray) -> FloatArray:
        """Return the log-odds, shape (n,)."""
        result: FloatArray = self.intercept_ + (self._terms(X) - self.centre_) @ self.coefficients_
        return result

    def contributions(self, X: FloatArray, names: Sequence[str]) -> Contributions:
        """Return each column's part of the log-odds beside the mean row: the SHAP values of a sum."""
        parts = (self._terms(X) - self.centre_) * self.coefficients_
        values, at = np.zeros((len(X), len(self.shapes_))), 0
        for i, shape in enumerate(self.shapes_):
            values[:, i] = parts[:, at : at + shape.width].sum(axis=1)
            at += shape.width
        return Contributions.of(names, values, base=self.intercept_)

    def _terms(self, X: FloatArray) -> FloatArray:
        if not self.shapes_:
            return np.zeros((len(X), 0))
        return np.hstack([shape.terms(X[:, i]) for i, shape in enumerate(self.shapes_)])

    def to_dict(self) -> dict[str, Any]:
        """Return parameters and state as JSON values."""
        return {
            "ridge": self.ridge,
            "bends": self.bends,
            "shapes": [[s.centre, s.spread, list(s.knots), s.has_missing] for s in self.shapes_],
            "coefficients": self.coefficients_.tolist(),
            "centre": self.centre_.tolist(),
            "intercept": self.intercept_,
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
            model = cls(ridge=float(state["ridge"]), bends=bool(state["bends"]))
            model.shapes_ = [
                _Shape(float(c), float(s), tuple(map(float, knots)), bool(m)) for c, s, knots, m in state["shapes"]
            ]
            model.coefficients_ = np.array(state["coefficients"], dtype=np.float64)
            model.centre_ = np.array(state["centre"], dtype=np.float64)
            model.intercept_ = float(state["intercept"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"The state of an AdditiveLogit is not as it was saved ({error}).") from error
        return model


def _shape(values: FloatArray, *, bends: bool) -> _Shape:
    known = values[~np.isnan(values)]
    missing = len(values) - len(known) >= _MIN_MISSING
    if not known.size:
        return _Shape(0.0, 1.0, (), missing)
    low, centre, high = np.quantile(known, [0.25, 0.5, 0.75])
    flag = np.isin(known, (0.0, 1.0)).all()
    # The quartiles of a standard normal distribution are 1.349 apart; a column that is one value on most rows has none.
    spread = 1.0 if flag else float(max((high - low) / 1.349, known.std() / 3)) or 1.0
    centre = 0.0 if flag else float(centre)
    if flag or not bends or np.unique(known).size < len(_QUANTILES):
        return _Shape(centre, spread, (), missing)
    z = (known - centre) / spread
    knots = np.unique(np.quantile(z, _QUANTILES))
    knots = knots[(knots > z.min()) & (knots < z.max()) & (np.abs(knots) < _LIMIT)]
    return _Shape(centre, spread, tuple(knots.tolist()), missing)
