"""The cross-section: rows of a matrix that are odd among the others, higher is odder.

A row is an account and its columns the residuals of a night, or whatever else. Here stand the detectors and how they
are combined; what a residual is and when an oddity is told belong into the panel. PyOD is imported at the first fit
that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

from within_ml.errors import InputError, ModelFormatError, shown
from within_ml.estimators import checked_rows, require_fitted

FloatArray = NDArray[np.float64]
Scorer = Callable[[FloatArray], FloatArray]
Method = Literal["combined", "ecod", "knn", "iforest"]

METHODS = ("combined", "ecod", "knn", "iforest")
NEAR, FAR = 5, 50
"""Neighbours of the combination's two neighbourhoods; `knn` alone uses the near one."""
MOST_REFERENCES = 10_000
"""Rows among which neighbours are sought and scores ranked; of more rows, so many are drawn."""

_CLIP = 1000.0
_ROUNDING = 1e-7
_SHARPNESS = 3.0
_NORMAL_IQR = 1.349
_TOP_SHARE = 0.1
_ARRAYS, _TOLD = "cross_section.npz", "cross_section.json"


class CrossSection(BaseEstimator):  # type: ignore[misc]
    """How odd a row is among the rows of fit.

    Parameters
    ----------
    method : {"combined", "ecod", "knn", "iforest"}
        ``iforest`` is PyOD's isolation forest. ``ecod`` is Li et al., "ECOD: Unsupervised Outlier Detection Using
        Empirical Cumulative Distribution Functions", TKDE 2022, and ``knn`` the mean distance to the 5 nearest rows, as
        PyOD has them, except that a row's score does not depend on the rows scored with it and that a row is not its
        own neighbour. ``combined`` takes the isolation forest and the mean distance to the 5 and to the 50 nearest
        rows, turns each into the share of fitted rows at least as odd, and scores by the smallest share, softly (the
        power mean of order 3 of the inverse shares): a row is odd if one of them finds it among the oddest.
    random_state : int
        Seed of the forest and of the draw of references.

    Attributes
    ----------
    n_features_in_ : int
        Columns of fit.
    medians_ : array of shape (columns,)
        What stands in for a missing value; 0 for a column without any value.
    imputed_ : int
        Missing values that were filled in fit.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> X[7] = [6, -6, 6]
    >>> int(CrossSection().fit(X).decision_function(X).argmax())
    7
    """

    def __init__(self, method: Method = "combined", *, random_state: int = 0) -> None:
        self.method = method
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn what is usual from X, shape (rows, columns); NaN is a missing value, ``y`` is ignored.

        Raises
        ------
        InputError
            For an unknown method, an X without rows or columns, or infinite values.
        """
        if self.method not in METHODS:
            raise InputError(f"method must be one of {shown(METHODS)}; however: {self.method!r}.")
        rows = checked_rows(self, X, dtype=np.float64, ensure_all_finite="allow-nan")
        missing = np.isnan(rows)
        known = ~missing.all(axis=0)
        self.medians_ = np.zeros(rows.shape[1])
        self.medians_[known] = np.nanmedian(rows[:, known], axis=0)
        self.imputed_ = int(missing.sum())
        self._prepare(np.where(missing, self.medians_, rows))
        return self

    def _prepare(self, rows: FloatArray) -> None:
        self._rows = rows
        varied = np.ptp(rows, axis=0) > 0
        self._members: list[Scorer] = []
        if len(rows) > 1 and varied.any():
            self._members = [self._only(varied, scorer(rows[:, varied], self)) for scorer in _MEMBERS[self.method]]
        combined = self.method == "combined"
        kept = rows[self._references(len(rows))]
        self._fitted_scores = [np.sort(member(kept)) for member in self._members] if combined else []

    def _references(self, n: int) -> NDArray[np.int64]:
        if n <= MOST_REFERENCES:
            return np.arange(n)
        return np.sort(np.random.default_rng(self.random_state).choice(n, MOST_REFERENCES, replace=False))

    @staticmethod
    def _only(columns: NDArray[np.bool_], scorer: Scorer) -> Scorer:
        return lambda rows: scorer(rows[:, columns])

    def decision_function(self, X: ArrayLike) -> FloatArray:
        """Return each row's oddity, shape (rows,), higher is odder; 0 for all if fit saw no two different rows.

        Raises
        ------
        NotFittedError, InputError
            Before fit; for other columns than fit's or infinite values.
        """
        require_fitted(self, "medians_")
        rows = checked_rows(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False, ensure_min_samples=0)
        rows = np.where(np.isnan(rows), self.medians_, rows)
        if not self._members or not len(rows):
            return np.zeros(len(rows))
        scores = [member(rows) for member in self._members]
        if self.method != "combined":
            return scores[0]
        surprises = [_surprise(s, fitted) for s, fitted in zip(scores, self._fitted_scores, strict=True)]
        softly = np.logaddexp.reduce(_SHARPNESS * np.array(surprises), axis=0)
        return cast("FloatArray", (softly - np.log(len(surprises))) / _SHARPNESS)

    def __getstate__(self) -> dict[str, Any]:
        """Return settings and rows; the scorers are made from them again."""
        return {k: v for k, v in super().__getstate__().items() if k not in {"_members", "_fitted_scores"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take settings and rows, and prepare the scorers if there are rows."""
        super().__setstate__(state)
        if "_rows" in state:
            self._prepare(self._rows)

    def save(self, folder: Path) -> None:
        """Write the fitted state into a folder: the rows of fit and the settings; no pickle."""
        require_fitted(self, "medians_")
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / _ARRAYS, rows=self._rows, medians=self.medians_)
        told = {"method": self.method, "random_state": self.random_state, "imputed": self.imputed_}
        (folder / _TOLD).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return what `save` wrote; it is fitted again to the same rows, which gives the same scores.

        Raises
        ------
        ModelFormatError
            If a file is missing.
        """
        absent = [name for name in (_ARRAYS, _TOLD) if not (folder / name).is_file()]
        if absent:
            raise ModelFormatError(f"{folder} must hold a saved CrossSection; missing: {shown(absent)}.")
        told = json.loads((folder / _TOLD).read_text(encoding="utf-8"))
        found = cls(told["method"], random_state=told["random_state"])
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            rows, found.medians_ = arrays["rows"], arrays["medians"]
        found.imputed_, found.n_features_in_ = told["imputed"], rows.shape[1]
        found._prepare(rows)
        return found


def _surprise(scores: FloatArray, fitted: FloatArray) -> FloatArray:
    """Return -log of the share of fitted scores at least as high, ties halved; exponential beyond the highest."""
    n = len(fitted)
    above = n - np.searchsorted(fitted, scores, side="right")
    at_least = n - np.searchsorted(fitted, scores, side="left")
    share = np.maximum((above + at_least) / 2.0, 0.5) / n
    begin = fitted[int((1.0 - _TOP_SHARE) * n)]
    spread = max(float((fitted[fitted >= begin] - begin).mean()), 1e-9 * (abs(float(fitted[-1])) + 1e-300))
    return cast("FloatArray", -np.log(share) + np.maximum(scores - fitted[-1], 0.0) / spread)


def _isolation_forest(rows: FloatArray, of: CrossSection) -> Scorer:
    from pyod.models.iforest import IForest

    forest = IForest(random_state=of.random_state).fit(rows)
    return lambda asked: np.asarray(forest.decision_function(asked), dtype=np.float64)


def _tails(rows: FloatArray, of: CrossSection) -> Scorer:
    """ECOD: the sum over columns of -log of the smaller tail's share, or of the tail that the column's skew points to.

    A column without skew gets both tails' sum, as in PyOD.
    """
    from scipy.stats import skew

    ordered, n = np.sort(rows, axis=0), len(rows)
    side = np.sign(skew(rows, axis=0))

    def score(asked: FloatArray) -> FloatArray:
        total = np.zeros(len(asked))
        for j in range(ordered.shape[1]):
            upto = np.searchsorted(ordered[:, j], asked[:, j], side="right")
            from_ = n - np.searchsorted(ordered[:, j], asked[:, j], side="left")
            low, high = (-np.log(np.maximum(count, 0.5) / n) for count in (upto, from_))
            skewed = -low * np.sign(side[j] - 1) + high * np.sign(side[j] + 1)
            total += np.maximum(np.maximum(low, high), skewed)
        return total

    return score


def _robustly_scaled(rows: FloatArray) -> Scorer:
    """Scale by median and interquartile range; by the deviation where more than half of a column is one value."""
    middle, quartiles = np.median(rows, axis=0), np.percentile(rows, [25, 75], axis=0)
    width = (quartiles[1] - quartiles[0]) / _NORMAL_IQR
    width = np.where(width > 0, width, rows.std(axis=0))
    return lambda asked: np.clip((asked - middle) / width, -_CLIP, _CLIP)


def _standardised(rows: FloatArray) -> Scorer:
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    return lambda asked: cast("FloatArray", (asked - mean) / deviation)


def _neighbours(rows: FloatArray, of: CrossSection, neighbours: int, scaled: Callable[[FloatArray], Scorer]) -> Scorer:
    """Mean distance to the nearest rows of fit; one row at distance 0 is taken for the row itself."""
    from sklearn.neighbors import NearestNeighbors

    scale = scaled(rows)
    kept = scale(rows)[of._references(len(rows))]
    k = min(neighbours, len(kept) - 1)
    tree = NearestNeighbors(n_neighbors=k + 1).fit(kept)

    def score(asked: FloatArray) -> FloatArray:
        places = scale(asked)
        distances = tree.kneighbors(places)[0]
        # Distances come from dot products: that of a row to itself is only nearly 0.
        itself = distances[:, :1] <= _ROUNDING * (1.0 + np.linalg.norm(places, axis=1, keepdims=True))
        return cast("FloatArray", np.where(itself, distances[:, 1:], distances[:, :-1]).mean(axis=1))

    return score


def _near(rows: FloatArray, of: CrossSection) -> Scorer:
    return _neighbours(rows, of, NEAR, _robustly_scaled)


def _far(rows: FloatArray, of: CrossSection) -> Scorer:
    return _neighbours(rows, of, FAR, _standardised)


_MEMBERS: dict[str, tuple[Callable[[FloatArray, CrossSection], Scorer], ...]] = {
    "combined": (_isolation_forest, _near, _far),
    "ecod": (_tails,),
    "knn": (_near,),
    "iforest": (_isolation_forest,),
}
