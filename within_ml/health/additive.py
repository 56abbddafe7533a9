"""A logistic regression that bends: each number by a line broken at its quantiles, each flag by a step.

The sum over columns is exact, so that a column's part of the log-odds can be told. What the columns are is in
`encoding`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from within_ml.errors import ModelFormatError
from within_ml.explain.contributions import Contributions

FloatArray = NDArray[np.float64]

_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
_LIMIT = 4.0
_RANGE = (0.005, 0.995)
_MIN_MISSING = 5
_MAX_TERMS = 400
_RIDGE_ON_NOTHING = 1e-9
_MOST_STEPS, _MOST_HALVINGS, _SMALL_STEP = 50, 20, 1e-4
_MANY_ROWS = 2_000
BEND_PENALTY = 4.0
"""How much dearer a bend is than a slope."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One column: standardised, kept within ``range``, broken at ``knots`` (standardised too), with a flag if missing.

    Outside of what nearly all rows of the fit had a column says no more than at the end: a line goes on for ever.
    """

    centre: float
    spread: float
    knots: tuple[float, ...]
    has_missing: bool
    range: tuple[float, float] = (-_LIMIT, _LIMIT)

    def terms(self, values: FloatArray) -> FloatArray:
        """Return the column's terms, shape (n, width)."""
        missing = np.isnan(values)
        z = np.clip((np.where(missing, self.centre, values) - self.centre) / self.spread, *self.range)
        columns = [z, *(np.maximum(z - knot, 0.0) for knot in self.knots)]
        if self.has_missing:
            columns.append(missing.astype(np.float64))
        return np.column_stack(columns)

    @property
    def width(self) -> int:
        """Number of terms."""
        return 1 + len(self.knots) + self.has_missing


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """How rows of numbers become terms: a shape by column, and the terms' means over the rows of the fit."""

    shapes: tuple[Shape, ...]
    centre: FloatArray

    @classmethod
    def of(cls, X: FloatArray, w: FloatArray, *, bends: bool) -> Self:
        """Choose the shapes from rows, shape (n, d), and their weights."""
        bends = bends and X.shape[1] * (len(_QUANTILES) + 1) <= _MAX_TERMS
        shapes = tuple(_shape(X[:, i], bends=bends) for i in range(X.shape[1]))
        raw = cls(shapes, np.zeros(sum(shape.width for shape in shapes))).terms(X)
        return cls(shapes, np.average(raw, axis=0, weights=w) if raw.shape[1] else np.zeros(0))

    def terms(self, X: FloatArray) -> FloatArray:
        """Return the terms less their means, shape (n, k)."""
        if not self.shapes:
            return np.zeros((len(X), 0))
        return np.hstack([shape.terms(X[:, i]) for i, shape in enumerate(self.shapes)]) - self.centre

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last term but one of each column."""
        ends = np.cumsum([shape.width for shape in self.shapes]).tolist()
        return list(zip([0, *ends], ends, strict=False))

    @property
    def penalty(self) -> FloatArray:
        """What a unit of each term's coefficient costs, in units of the ridge."""
        costs = [[1.0, *[BEND_PENALTY] * len(shape.knots), *[1.0] * shape.has_missing] for shape in self.shapes]
        return np.array([cost for one in costs for cost in one], dtype=np.float64)


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
    design_ : Design
        How columns become terms, less their means: SHAP values of a sum are counted from there.

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

    design_: Design
    intercept_: float
    coefficients_: FloatArray

    def fit(self, X: FloatArray, y: FloatArray, w: FloatArray | None = None) -> Self:
        """Fit on numbers X, shape (n, d), NaN allowed, outcomes y in [0, 1] and weights w, shape (n,)."""
        found = next(iter(self.path(X, y, w, ridges=[self.ridge], bends=self.bends)))
        self.design_, self.intercept_, self.coefficients_ = found.design_, found.intercept_, found.coefficients_
        return self

    @classmethod
    def path(
        cls, X: FloatArray, y: FloatArray, w: FloatArray | None = None, *, ridges: Iterable[float], bends: bool = True
    ) -> Iterator[Self]:
        """Yield a fit by ridge; each begins where the one before ended, so strong ones go first."""
        w = np.ones(len(y)) if w is None else w
        design = Design.of(X, w, bends=bends)
        terms = design.terms(X)
        level = float(logit(np.clip((w @ y + 0.5) / (w.sum() + 1.0), 1e-9, 1 - 1e-9)))
        beta = np.concatenate([[level], np.zeros(terms.shape[1])])
        rows = np.column_stack([np.ones(len(y)), terms])
        for ridge in ridges:
            beta = _newton(rows, y, w, ridge * design.penalty, beta)
            model = cls(ridge=ridge, bends=bends)
            model.design_, model.intercept_, model.coefficients_ = design, float(beta[0]), beta[1:]
            yield model

    def margin(self, X: FloatArray) -> FloatArray:
        """Return the log-odds, shape (n,)."""
        result: FloatArray = self.intercept_ + self.design_.terms(X) @ self.coefficients_
        return result

    def contributions(self, X: FloatArray, names: Sequence[str]) -> Contributions:
        """Return each column's part of the log-odds beside the mean row: the SHAP values of a sum."""
        parts = self.design_.terms(X) * self.coefficients_
        values = np.zeros((len(X), len(names)))
        for i, (begin, end) in enumerate(self.design_.spans):
            values[:, i] = parts[:, begin:end].sum(axis=1)
        return Contributions.of(names, values, base=self.intercept_)

    def sizes(self) -> FloatArray:
        """Return how much each column's coefficients weigh, shape (d,)."""
        spans = self.design_.spans
        return np.array([np.abs(self.coefficients_[begin:end]).sum() for begin, end in spans], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return parameters and state as JSON values."""
        shapes = [[s.centre, s.spread, list(s.knots), s.has_missing, list(s.range)] for s in self.design_.shapes]
        return {
            "ridge": self.ridge,
            "bends": self.bends,
            "shapes": shapes,
            "centre": self.design_.centre.tolist(),
            "coefficients": self.coefficients_.tolist(),
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
            shapes = [
                Shape(float(c), float(s), tuple(map(float, knots)), bool(m), (float(low), float(high)))
                for c, s, knots, m, (low, high) in state["shapes"]
            ]
            model.design_ = Design(tuple(shapes), np.array(state["centre"], dtype=np.float64))
            model.coefficients_ = np.array(state["coefficients"], dtype=np.float64)
            model.intercept_ = float(state["intercept"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFormatError(f"The state of an AdditiveLogit is not as it was saved ({error}).") from error
        return model


def _newton(rows: FloatArray, y: FloatArray, w: FloatArray, penalty: FloatArray, beta: FloatArray) -> FloatArray:
    """Minimise the penalised log-loss; the first coefficient, the intercept's, is free.

    Of many rows the curvature is summed in single precision, which costs half and moves the steps, not where they end.
    """
    ridge = np.concatenate([[_RIDGE_ON_NOTHING], penalty])
    light = rows.astype(np.float32) if len(rows) >= _MANY_ROWS else rows
    margin = rows @ beta
    loss = _loss(margin, y, w, ridge, beta)
    for _ in range(_MOST_STEPS):
        p = expit(margin)
        slope = np.maximum(w * p * (1 - p), 1e-12)
        curvature = (light.T * slope.astype(light.dtype)) @ light
        step = np.linalg.solve(curvature.astype(np.float64) + np.diag(ridge), rows.T @ (w * (y - p)) - ridge * beta)
        # Where outcomes are nearly told apart a whole step may lead away; the loss is convex: a shorter one does not.
        for _ in range(_MOST_HALVINGS):
            moved = beta + step
            then = rows @ moved
            lower = _loss(then, y, w, ridge, moved)
            if lower <= loss:
                break
            step = step / 2
        else:
            return beta
        beta, margin, loss = moved, then, lower
        if np.abs(step).max() < _SMALL_STEP:
            break
    return beta


def _loss(margin: FloatArray, y: FloatArray, w: FloatArray, ridge: FloatArray, beta: FloatArray) -> float:
    return float(w @ (np.logaddexp(0.0, margin) - y * margin) + 0.5 * ridge @ beta**2)


def _shape(values: FloatArray, *, bends: bool) -> Shape:
    known = values[~np.isnan(values)]
    missing = len(values) - len(known) >= _MIN_MISSING
    if not known.size:
        return Shape(0.0, 1.0, (), missing)
    low, centre, high = np.quantile(known, [0.25, 0.5, 0.75])
    flag = np.isin(known, (0.0, 1.0)).all()
    # The quartiles of a standard normal distribution are 1.349 apart; a column that is one value on most rows has none.
    spread = 1.0 if flag else float(max((high - low) / 1.349, known.std() / 3)) or 1.0
    centre = 0.0 if flag else float(centre)
    if flag:
        return Shape(centre, spread, (), missing)
    z = (known - centre) / spread
    low, high = np.clip(np.quantile(z, _RANGE), -_LIMIT, _LIMIT).tolist()
    if not bends or np.unique(known).size < len(_QUANTILES):
        return Shape(centre, spread, (), missing, (low, high))
    knots = np.unique(np.quantile(z, _QUANTILES))
    knots = knots[(knots > low) & (knots < high)]
    return Shape(centre, spread, tuple(knots.tolist()), missing, (low, high))
