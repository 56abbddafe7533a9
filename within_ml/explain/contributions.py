"""Exact contributions of features to a margin: SHAP values of trees, parts of linear terms, and their sums.

Everything is in log-odds and adds up to the explained margin, row by row; what is said about it is in `reasons`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, WithinError, shown

if TYPE_CHECKING:
    import xgboost

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Contributions and base may miss the margin by so much, in log-odds; trees are summed in single precision."""

ROWS_PER_CHUNK = 100_000
"""Woodelf looks at each tree once per batch, so large batches are cheap; its memory grows with them."""

MIN_BATCH = 2_000
"""About here xgboost, row by row, and woodelf, whose cost hardly depends on the rows, take equally long: at a depth of
4 and less between 1,900 and 2,300 rows, at 8 near 900, whatever the number of trees (see `benchmarks.reasons`)."""

CHECKED_ROWS = 200

_FEW_WRONG = 0.05
"""Share of rows that may not add up before all are mistrusted."""


@dataclass(frozen=True, slots=True)
class Contributions:
    """Parts of a margin.

    Attributes
    ----------
    names : tuple of str, length k
        What each column of ``values`` is the part of.
    values : shape (n, k)
        Parts, log-odds.
    base : shape (n,)
        What is there without them.
    margin : shape (n,)
        The whole: ``base + values.sum(axis=1)``, up to `TOLERANCE`.

    Examples
    --------
    >>> trees = Contributions.of(["age", "ctr"], [[0.1, 0.2]], base=-4.0)
    >>> linear = Contributions.of(["ctr", "words"], [[0.5, -0.3]], base=1.0)
    >>> whole = combined([trees, linear], [1.0, 0.5])
    >>> whole.names, whole.values.round(2).tolist(), whole.margin.round(2).tolist()
    (('age', 'ctr', 'words'), [[0.1, 0.45, -0.15]], [-3.1])
    """

    names: tuple[str, ...]
    values: FloatArray
    base: FloatArray
    margin: FloatArray

    @classmethod
    def of(cls, names: Sequence[str], values: ArrayLike, *, base: ArrayLike, margin: ArrayLike | None = None) -> Self:
        """Check the shapes and that the parts add up; without ``margin`` it is their sum.

        Raises
        ------
        InputError
            If a shape is wrong, a value is not finite, or a row misses its margin by more than `TOLERANCE`.
        """
        parts = np.asarray(values, dtype=np.float64)
        if parts.ndim != 2 or parts.shape[1] != len(names) or len(set(names)) != len(names):
            raise InputError(
                f"values must have one column for each of the {len(names)} different names, however: shape "
                f"{parts.shape} and the names {shown(names)}."
            )
        try:
            start = np.array(np.broadcast_to(np.asarray(base, dtype=np.float64), (len(parts),)))
        except ValueError as error:
            raise InputError(f"base must be a number or have shape ({len(parts)},), however: {error}.") from error
        total = start + parts.sum(axis=1)
        whole = total if margin is None else np.asarray(margin, dtype=np.float64)
        if whole.shape != total.shape:
            raise InputError(f"margin must have shape {total.shape}, however: {whole.shape}.")
        wrong = ~(np.abs(total - whole) <= TOLERANCE)
        if wrong.any():
            raise InputError(
                f"base and values must add up to the margin within {TOLERANCE}, however {int(wrong.sum())} of "
                f"{len(whole)} rows do not, such as {shown((total - whole)[wrong][:3].tolist())} beside it."
            )
        return cls(tuple(names), parts, start, whole)

    @property
    def error(self) -> float:
        """The largest distance of base and values from the margin, log-odds; 0 without rows."""
        return float(np.abs(self.base + self.values.sum(axis=1) - self.margin).max(initial=0.0))

    def grouped(self, groups: Mapping[str, str]) -> Contributions:
        """Sum the columns that ``groups`` gives one name; a column that it does not name stays alone."""
        names = [groups.get(name, name) for name in self.names]
        return Contributions(*_summed(names, self.values), self.base, self.margin)

    def beside(self, usual: Contributions, row: ArrayLike) -> Contributions:
        """Return what each row has beside a usual one: the difference of the two rows' parts.

        The base becomes the usual row's margin, so that everything adds up as before; a row that is as usual has no
        parts. SHAP values are beside the average of all training rows; a sentence that speaks of the account's usual
        headline wants them beside that.

        Parameters
        ----------
        usual : Contributions
            Of m rows, by the same names.
        row : shape (n,)
            Which of them each row is beside.

        Raises
        ------
        InputError
            If the names differ, or a row is none of the m.
        """
        which = np.asarray(row, dtype=np.int64)
        m = len(usual.margin)
        if usual.names != self.names or which.shape != self.margin.shape:
            raise InputError(f"usual must have the same names, and row one of its {m} rows for each row here.")
        if which.size and not (which.min() >= 0 and which.max() < m):
            raise InputError(f"row must be between 0 and {m - 1}, however: {which.min()} to {which.max()}.")
        shift = usual.values.sum(axis=1)
        return Contributions(self.names, self.values - usual.values[which], self.base + shift[which], self.margin)


@dataclass(frozen=True, slots=True)
class TreeContributions:
    """SHAP values of trees: ``values`` of shape (n, d), and ``expected``, what the trees say of the average row.

    ``expected + values.sum(axis=1)`` is the trees' margin within `TOLERANCE`. ``n_batched`` rows were explained by
    woodelf, the others by xgboost.
    """

    values: FloatArray
    expected: float
    margin: FloatArray
    n_batched: int

    def named(self, names: Sequence[str]) -> Contributions:
        """Return them as parts of the trees' margin."""
        return Contributions.of(names, self.values, base=self.expected, margin=self.margin)


def tree_contributions(
    booster: xgboost.Booster,
    X: pd.DataFrame | ArrayLike,
    *,
    n_trees: int | None = None,
    uses_base_margin: bool = True,
    checked_rows: int = CHECKED_ROWS,
    min_batch: int = MIN_BATCH,
) -> TreeContributions:
    """Return exact path-dependent SHAP values of a booster's margin (Lundberg et al. 2020).

    Batches go through woodelf (Nadel and Wettenstein 2025), which is a hundred times faster there and agrees with
    xgboost to 1e-5; a fixed sample of each call is compared with xgboost's own values, every row's sum with its margin.
    What differs by more than `TOLERANCE` is explained by xgboost, and a warning says so.

    Parameters
    ----------
    booster : xgboost.Booster
        Trees for one output.
    X : shape (n, d)
        Its columns, in its order; NaN is missing.
    n_trees : int, optional
        Only the first so many trees, as after early stopping; all if not given.
    uses_base_margin : bool
        Whether rows come with a starting point of their own: the margin is then what the trees add to it; otherwise it
        contains the booster's ``base_score``.
    checked_rows : int
        Size of the sample, spread evenly over the rows.
    min_batch : int
        Fewer rows than this go to xgboost directly.

    Raises
    ------
    InputError
        If X has another number of columns, holds an infinity, or the booster has several outputs or is not of trees.
    """
    data = _checked(booster, X)
    n_rounds = booster.num_boosted_rounds()
    used = n_rounds if n_trees is None else n_trees
    if not 0 <= used <= n_rounds:
        raise InputError(f"n_trees must be between 0 and the booster's {n_rounds}, however: {n_trees}.")
    if used == 0:
        # An iteration_range of no tree would mean all of them.
        start = 0.0 if uses_base_margin else _base_score(booster, data.shape[1])
        return TreeContributions(np.zeros(data.shape), start, np.full(len(data), start), 0)
    reference = _Reference(booster, used, uses_base_margin)
    if len(data) < min_batch:
        values, expected = reference.contributions(data)
        return _whole(values, expected, reference.margin(data), n_batched=0)
    sample = np.unique(np.linspace(0, len(data) - 1, max(checked_rows, 1)).astype(np.int64))
    truth, expected = reference.contributions(data[sample])
    margin, values = reference.margin(data), _batched(booster[:used], data)
    # A value right at a threshold may go the other way; its row does not add up, and says nothing of the others.
    wrong = np.flatnonzero(~(np.abs(values.sum(axis=1) + expected - margin) <= TOLERANCE))
    few = wrong.size <= _FEW_WRONG * len(data)
    if few:
        values[wrong] = reference.contributions(data[wrong])[0]
    difference = float(np.abs(values[sample] - truth).max(initial=0.0))
    if not (few and difference <= TOLERANCE):
        logger.warning(
            "contributions: the fast values differ from xgboost's by %.2g on a sample; xgboost explains all %d rows",
            difference, len(data),
        )  # fmt: skip
        return _whole(reference.contributions(data)[0], expected, margin, n_batched=0)
    if wrong.size:
        logger.info("contributions: %d of %d rows did not add up; xgboost explains them", wrong.size, len(data))
    return _whole(values, expected, margin, n_batched=len(data) - wrong.size)


def linear_contributions(
    names: Sequence[str], coefficients: ArrayLike, X: ArrayLike, centre: ArrayLike = 0.0, *, intercept: float = 0.0
) -> Contributions:
    """Return the parts of ``intercept + X @ coefficients`` beside the point ``centre``, which is the base.

    For a linear model this is its SHAP value when ``centre`` is the mean of the features.

    Parameters
    ----------
    names : sequence of str, length k
    coefficients : shape (k,)
    X : shape (n, k)
        A missing value (NaN) contributes nothing: it stands where ``centre`` is.
    centre : number, shape (k,) or (n, k)
        Such as the mean of all rows, or the usual values of each row's account.

    Raises
    ------
    InputError
        If the shapes do not fit.
    """
    weight, rows = np.asarray(coefficients, dtype=np.float64), np.asarray(X, dtype=np.float64)
    if rows.ndim != 2 or weight.shape != (rows.shape[1],):
        raise InputError(
            f"coefficients must have one value per column of X, however: {weight.shape} and X of {rows.shape}."
        )
    try:
        point = np.broadcast_to(np.asarray(centre, dtype=np.float64), rows.shape)
    except ValueError as error:
        raise InputError(f"centre must be a number or fit X of shape {rows.shape}, however: {error}.") from error
    values = np.where(np.isnan(rows), 0.0, (rows - point) * weight)
    return Contributions.of(names, values, base=intercept + point @ weight)


def combined(parts: Sequence[Contributions], weights: ArrayLike | None = None) -> Contributions:
    """Return the parts of ``Σ weight · margin``; columns of one name are added.

    Raises
    ------
    InputError
        If there is nothing to combine, or numbers of rows or weights differ.
    """
    scale = np.ones(len(parts)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not parts or scale.shape != (len(parts),) or len({len(part.margin) for part in parts}) != 1:
        raise InputError(
            f"parts must be at least one, of as many rows each, with one weight each, however: {len(parts)} parts of "
            f"{shown(len(part.margin) for part in parts)} rows and weights of shape {scale.shape}."
        )
    names = [name for part in parts for name in part.names]
    values = np.hstack([weight * part.values for weight, part in zip(scale, parts, strict=True)])
    base = np.sum([weight * part.base for weight, part in zip(scale, parts, strict=True)], axis=0)
    margin = np.sum([weight * part.margin for weight, part in zip(scale, parts, strict=True)], axis=0)
    unique, summed = _summed(names, values)
    return Contributions(unique, summed, base, margin)


def _summed(names: Sequence[str], values: FloatArray) -> tuple[tuple[str, ...], FloatArray]:
    unique = tuple(dict.fromkeys(names))
    if len(unique) == len(names):
        return unique, values
    position = {name: i for i, name in enumerate(unique)}
    summed = np.zeros((len(values), len(unique)))
    for column, name in enumerate(names):
        summed[:, position[name]] += values[:, column]
    return unique, summed


@dataclass(frozen=True, slots=True)
class _Reference:
    """Xgboost's own margins and contributions, one row at a time."""

    booster: xgboost.Booster
    n_trees: int
    uses_base_margin: bool

    def contributions(self, data: FloatArray) -> tuple[FloatArray, float]:
        import xgboost

        # One row at least: the expected value is read from it.
        rows = data if len(data) else np.full((1, data.shape[1]), np.nan)
        start = np.zeros(len(rows)) if self.uses_base_margin else None
        found = self.booster.predict(
            xgboost.DMatrix(rows, base_margin=start),
            pred_contribs=True,
            iteration_range=(0, self.n_trees),
            validate_features=False,
        )
        return np.asarray(found[: len(data), :-1], dtype=np.float64), float(found[0, -1])

    def margin(self, data: FloatArray) -> FloatArray:
        if not len(data):
            return np.zeros(0)
        found = self.booster.inplace_predict(
            data,
            iteration_range=(0, self.n_trees),
            predict_type="margin",
            base_margin=np.zeros(len(data)) if self.uses_base_margin else None,
            validate_features=False,
        )
        return np.asarray(found, dtype=np.float64)


def _checked(booster: xgboost.Booster, X: pd.DataFrame | ArrayLike) -> FloatArray:
    data = np.asarray(X, dtype=np.float64)
    if data.ndim != 2 or data.shape[1] != booster.num_features():
        raise InputError(f"X must have shape (n, {booster.num_features()}), however: {data.shape}.")
    if np.isinf(data).any():
        raise InputError("X must be finite or missing (NaN), however: it holds infinities.")
    learner = json.loads(booster.save_config())["learner"]
    kind, classes = learner["gradient_booster"]["name"], int(learner["learner_model_param"]["num_class"])
    if kind != "gbtree" or classes > 1:
        raise InputError(f"booster must be trees (gbtree) of one output, however: {kind} of {max(classes, 1)}.")
    return data


def _base_score(booster: xgboost.Booster, n_features: int) -> float:
    """Return the log-odds that the first tree starts from."""
    row = np.full((1, n_features), np.nan)
    with_it, without = (_Reference(booster, 1, uses).margin(row)[0] for uses in (False, True))
    return float(with_it - without)


def _batched(booster: xgboost.Booster, data: FloatArray) -> FloatArray:
    from woodelf import WoodelfExplainer

    # Single precision, as xgboost compares: a value between a threshold and its rounding would go the other way.
    names = [f"f{i}" for i in range(data.shape[1])]
    values = np.empty(data.shape)
    for start in range(0, len(data), ROWS_PER_CHUNK):
        stop = start + ROWS_PER_CHUNK
        frame = pd.DataFrame(data[start:stop].astype(np.float32), columns=names)
        values[start:stop] = WoodelfExplainer(booster).shap_values(frame, verbose=False)
    return values


def _whole(values: FloatArray, expected: float, margin: FloatArray, *, n_batched: int) -> TreeContributions:
    error = float(np.abs(values.sum(axis=1) + expected - margin).max(initial=0.0))
    if not error <= TOLERANCE:
        raise WithinError(
            f"Contributions must add up to the margin within {TOLERANCE}; "
            f"however, xgboost's own miss it by {error:.2g}."
        )
    return TreeContributions(values, expected, margin, n_batched)
