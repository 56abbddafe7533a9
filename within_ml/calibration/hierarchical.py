"""Calibration by nested groups: one strictly increasing spline for all, and a shrunken intercept for each group.

The spline is in `spline`, the estimation of the intercepts in `random_intercepts`; regions, which have neighbours
instead of parents alone, are in `geospatial`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.base import BaseEstimator

from within_ml.calibration.group_tree import GroupTree, IntArray
from within_ml.calibration.level import estimate_level
from within_ml.calibration.random_intercepts import Intercepts, estimate_intercepts
from within_ml.calibration.spline import CalibrationMethod, SplineCalibrator
from within_ml.errors import InputError, ModelFormatError, NotFittedError, shown
from within_ml.metrics import check_rates

FloatArray = NDArray[np.float64]

METHODS = ("spline", "level")
"""How all groups together are calibrated: a `SplineCalibrator`, or its shift of the level alone."""

_STATE_FILE = "hierarchical.json"
_ARRAYS_FILE = "hierarchical.npz"
_ROUNDS = 2
_BINS = 2_000
_PROBABILITY_FLOOR = 1e-12
_NEVER = 1e300
_LARGEST_MARGIN = 30.0
_PER_NODE = ("own", "offset", "standard_error", "impressions", "clicks")


class HierarchicalCalibrator(BaseEstimator):  # type: ignore[misc]
    """A global monotone map plus random intercepts of nested groups, on the log-odds scale.

    The model::

        logit p' = spline(logit p) + level + account + campaign + ad group + ad
                                     ╰── normal, one variance per level of the hierarchy ──╯

    The variances are estimated, and each group is shrunk towards its parent by as much as its rows leave it uncertain
    (empirical Bayes): an account with a million impressions gets its own level, a new ad that of its ad group. A level
    of the hierarchy without evidence that its groups differ is left out; without any, what is left is the global map
    itself. Within a group the order of predictions is kept.

    Parameters
    ----------
    hierarchy_levels : sequence of str
        Columns of ``groups``, from the top down. A group is its whole path: campaign "1" of account "a" is not campaign
        "1" of account "b". Null means that a row has no group at that level.
    calibration_method : {"spline", "level"}
        The global map: a `SplineCalibrator`, or a shift of the log-odds.
    smoothing : float
        Strength of the shrinkage; 1 is what the data say, 2 shrinks as if the variances were half as large.
    max_iter : int
        Most iterations of the estimation of the intercepts.

    Attributes
    ----------
    global_calibrator_ : SplineCalibrator
        The map of all groups, fitted beside the intercepts.
    variances_ : dict of str to float
        Variance of the intercepts by level, 0 where a level is left out.
    persistence_ : array, shape (levels,)
        Share of the intercepts that is applied; `get_calibration_mapping` tells them as they are applied.
    dispersion_ : float
        Variance of rows around their group in units of the binomial one (Pearson, at least 1); it divides the weights.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> accounts = pd.DataFrame({"account_id": np.repeat(["poor", "fair", "rich"], 300)})
    >>> raw, n = rng.uniform(0.02, 0.04, 900), np.full(900, 500)
    >>> clicks = rng.binomial(n, raw * np.repeat([0.5, 1.0, 2.0], 300))
    >>> calibrator = HierarchicalCalibrator(hierarchy_levels=("account_id",))
    >>> calibrator = calibrator.fit(raw, clicks / n, accounts, sample_weight=n)
    >>> calibrator.transform([0.03, 0.03, 0.03], [["poor"], ["rich"], ["new"]]).round(3)
    array([0.015, 0.06 , 0.03 ])
    """

    def __init__(
        self,
        hierarchy_levels: Sequence[str] = ("account_id", "campaign_id", "ad_group_id", "ad_id"),
        calibration_method: str = "spline",
        smoothing: float = 1.0,
        max_iter: int = 50,
    ) -> None:
        self.hierarchy_levels = hierarchy_levels
        self.calibration_method = calibration_method
        self.smoothing = smoothing
        self.max_iter = max_iter

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: pd.DataFrame | ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        periods: ArrayLike | None = None,
        period_sd: float = 0.0,
        persistence: ArrayLike | None = None,
    ) -> Self:
        """Fit the global map and the intercepts.

        Parameters
        ----------
        X : array-like, shape (n,)
            Raw probabilities, on rows that the model was not fitted on.
        y : array-like, shape (n,)
            Observed rates in [0, 1].
        groups : DataFrame with the columns ``hierarchy_levels``, or array-like of shape (n, levels)
            Ids; null where a row has no group at a level.
        sample_weight : array-like, shape (n,), optional
            Impressions.
        periods : array-like, shape (n,), optional
            Label of each row's week: what a week did to all groups is then not taken for what one group is like.
        period_sd : float
            As in `SplineCalibrator.fit`.
        persistence : array-like, shape (levels,), optional
            Share, in [0, 1], of a group's intercept that later rows will still have, by level; all of it if not given.
            The rest is for the global map to average over. A prediction that follows what its groups have shown makes
            up for their deviations itself as time goes by.

        Raises
        ------
        InputError
            If a shape or range is wrong, nothing has weight, or a constructor argument is impossible.
        """
        self._check_parameters()
        self.persistence_ = self._checked_shares(persistence)
        y, p, w = check_rates(y, X, sample_weight, names=("y", "X", "sample_weight"))
        self.tree_, node = GroupTree.grow(groups, tuple(self.hierarchy_levels))
        _check_length("groups", node.size, y.size)
        weeks = None if periods is None else pd.factorize(np.asarray(periods), sort=True)[0]
        if weeks is not None:
            _check_length("periods", weeks.size, y.size)
        if not w.sum() > 0:
            raise InputError(
                f"The calibrator needs rows with impressions, however: sample_weight is zero in all {y.size} rows."
            )
        kept = w > 0
        p, y, w, known, weeks = p[kept], y[kept], w[kept], node[kept], None if weeks is None else weeks[kept]
        self.global_calibrator_ = self._global().fit(p, y, w, periods=weeks, period_sd=period_sd)
        offset = np.zeros(y.size)
        for _ in range(_ROUNDS):
            margin = np.clip(logit(self.global_calibrator_.transform(p)), -_LARGEST_MARGIN, _LARGEST_MARGIN)
            shift = 0.0 if weeks is None else estimate_level(margin + offset, y, w, weeks, period_sd=period_sd).by_row
            found = self._intercepts(margin + shift, y, w, known).lasting(self.tree_, self.persistence_)
            offset = found.offset[known]
            if not offset.any():
                break
            standard = _without_groups(p, y, w, margin + shift, offset, weeks)
            self.global_calibrator_ = self._global().fit(*standard[:3], periods=standard[3], period_sd=period_sd)
        self._keep(found, y, w, known)
        return self

    def transform(self, X: ArrayLike, groups: pd.DataFrame | ArrayLike) -> FloatArray:
        """Return calibrated probabilities, shape (n,); a group that is new gets its nearest known ancestor's offset.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        InputError
            If a shape or range is wrong.
        """
        offset = self.offsets(groups)
        p = self.global_calibrator_.transform(X)
        _check_length("groups", offset.size, p.size)
        calibrated: FloatArray = expit(logit(p) + offset)
        return calibrated

    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: pd.DataFrame | ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        periods: ArrayLike | None = None,
        period_sd: float = 0.0,
    ) -> FloatArray:
        """Fit, and return the calibrated probabilities of the same rows, shape (n,)."""
        self.fit(X, y, groups, sample_weight, periods=periods, period_sd=period_sd)
        return self.transform(X, groups)

    def offsets(self, groups: pd.DataFrame | ArrayLike) -> FloatArray:
        """Return what is added to the log-odds of each row, shape (n,): the sum down its path as far as it is known.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        InputError
            If a column is missing or the shape is wrong.
        """
        self._check_fitted()
        result: FloatArray = self.nodes_["offset"][self.tree_.find(groups)]
        return result

    def get_calibration_mapping(self) -> pd.DataFrame:
        """Return one row per group, from the top level down.

        Columns: ``level``; the path, a column per level (None below the group, or where it has no group); ``intercept``
        of the group itself; ``offset``, the sum from the top down to it, and its ``standard_error``, all on the
        log-odds scale; ``impressions`` and ``clicks`` of all rows in the group. The rows of unseen groups get
        ``mapping.attrs["level"]``.
        """
        self._check_fitted()
        frame = self.tree_.paths()
        names = ("intercept", *_PER_NODE[1:])
        for name, field in zip(names, _PER_NODE, strict=True):
            frame[name] = self.nodes_[field][1:]
        frame.attrs["level"] = float(self.nodes_["offset"][0])
        return frame

    def save(self, folder: Path) -> None:
        """Write the fitted state into an existing folder, as JSON and arrays."""
        self._check_fitted()
        parameters = self.get_params()
        state = {
            "parameters": {**parameters, "hierarchy_levels": list(self.hierarchy_levels)},
            "global": self.global_calibrator_.to_dict(),
            "variances": self.variances_,
            "dispersion": self.dispersion_,
            "persistence": self.persistence_.tolist(),
        }
        (folder / _STATE_FILE).write_text(json.dumps(state, indent=2), encoding="utf-8")
        arrays: dict[str, Any] = {**self.tree_.to_arrays(), **self.nodes_}
        np.savez_compressed(folder / _ARRAYS_FILE, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ModelFormatError
            If a file is missing or is not what `save` wrote.
        """
        try:
            state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
            levels = tuple(state["parameters"]["hierarchy_levels"])
            calibrator = cls(**{**state["parameters"], "hierarchy_levels": levels})
            calibrator.global_calibrator_ = SplineCalibrator.from_dict(state["global"])
            calibrator.variances_ = {str(level): float(v) for level, v in state["variances"].items()}
            calibrator.dispersion_ = float(state["dispersion"])
            calibrator.persistence_ = np.array(state["persistence"], dtype=np.float64)
            with np.load(folder / _ARRAYS_FILE, allow_pickle=False) as arrays:
                calibrator.tree_ = GroupTree.from_arrays(levels, arrays)
                calibrator.nodes_ = {name: arrays[name] for name in _PER_NODE}
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFormatError(
                f"{folder} must hold a saved HierarchicalCalibrator; it does not ({error})."
            ) from error
        if any(values.shape != (calibrator.tree_.size,) for values in calibrator.nodes_.values()):
            raise ModelFormatError(f"{folder} must hold one value per group of a HierarchicalCalibrator; it does not.")
        return calibrator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, False
        tags.target_tags.required = True
        return tags

    def _check_parameters(self) -> None:
        levels = self.hierarchy_levels
        if isinstance(levels, str) or not len(levels) or len(set(levels)) < len(levels):
            raise InputError(f"hierarchy_levels must be names of different columns, however: {levels!r}.")
        if self.calibration_method not in METHODS:
            raise InputError(f"calibration_method must be one of {METHODS}, however: {self.calibration_method!r}.")
        if not (self.smoothing > 0 and self.max_iter >= 1):
            raise InputError(
                f"smoothing must be above 0 and max_iter at least 1, however: {self.smoothing}, {self.max_iter}."
            )

    def _checked_shares(self, persistence: ArrayLike | None) -> FloatArray:
        shares = np.ones(len(self.hierarchy_levels)) if persistence is None else np.asarray(persistence, dtype=float)
        if shares.shape != (len(self.hierarchy_levels),) or not ((shares >= 0) & (shares <= 1)).all():
            raise InputError(
                f"persistence must be in [0, 1] for each of {shown(self.hierarchy_levels)}, however: {shares.tolist()}."
            )
        return shares

    def _check_fitted(self) -> None:
        if not hasattr(self, "nodes_"):
            raise NotFittedError("HierarchicalCalibrator must be fitted before it is used; call fit first.")

    def _global(self) -> SplineCalibrator:
        if self.calibration_method == "spline":
            return SplineCalibrator()
        # Never enough clicks for a spline, and then a shift alone.
        return SplineCalibrator(min_clicks=_NEVER, fallback=CalibrationMethod.LEVEL)

    def _intercepts(self, margin: FloatArray, y: FloatArray, w: FloatArray, node: IntArray) -> Intercepts:
        return estimate_intercepts(margin, y, w, node, self.tree_, smoothing=self.smoothing, max_iter=self.max_iter)

    def _keep(self, found: Intercepts, y: FloatArray, w: FloatArray, node: IntArray) -> None:
        size, levels = self.tree_.size, self.tree_.levels
        self.variances_ = dict(zip(levels, found.variances.tolist(), strict=True))
        self.dispersion_ = found.dispersion
        self.nodes_ = {
            "own": found.own,
            "offset": found.offset,
            "standard_error": found.standard_error,
            "impressions": self.tree_.summed(np.bincount(node, weights=w, minlength=size).astype(np.float64)),
            "clicks": self.tree_.summed(np.bincount(node, weights=w * y, minlength=size).astype(np.float64)),
        }


def _check_length(name: str, length: int, rows: int) -> None:
    if length != rows:
        raise InputError(f"{name} must have a row for each of X, however: {length} for {rows}.")


def _without_groups(
    p: FloatArray, y: FloatArray, w: FloatArray, margin: FloatArray, offset: FloatArray, weeks: IntArray | None
) -> tuple[FloatArray, FloatArray, FloatArray, IntArray | None]:
    """Rows as they would be if no group had an offset, summed into narrow bins of the raw prediction.

    A row's residual is kept, and its weight becomes the one that makes its information about the log-odds the same at
    the margin as it is at margin + offset: one step of scoring, so that a calibrator without offsets can be fitted.
    """
    at, without = expit(margin + offset), expit(margin)
    weight = w * np.maximum(at * (1 - at), _PROBABILITY_FLOOR) / np.maximum(without * (1 - without), _PROBABILITY_FLOOR)
    clicks = weight * without + w * (y - at)
    week = np.zeros(p.size, dtype=np.int64) if weeks is None else weeks
    x = logit(np.clip(p, _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR))
    order = np.lexsort((x, week))
    starts = np.flatnonzero(np.append(True, np.diff(week[order]) != 0))
    rows_per_bin = -(-p.size // _BINS)
    rank = np.arange(p.size) - np.repeat(starts, np.diff(np.append(starts, p.size)))
    first = np.flatnonzero(rank % rows_per_bin == 0)
    total, clicked, moment = (np.add.reduceat(values[order], first) for values in (weight, clicks, weight * x))
    rate = np.clip(clicked / total, 0.0, 1.0)
    return expit(moment / total), rate, total, None if weeks is None else week[order][first]
