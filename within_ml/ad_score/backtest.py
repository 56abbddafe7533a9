"""What a model would have predicted: out-of-time predictions of the last weeks, and the impressions to be expected.

Intervals, weights of an ensemble and offsets of accounts are learned from such predictions. Which model, and what is
learned, is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.ad_score import terms
from within_ml.base import LABEL_MATURITY_DAYS
from within_ml.errors import InputError, ModelFormatError
from within_ml.metrics import check_rates
from within_ml.splits import to_days

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)

BACKTEST_DAYS = 56
BLOCK_DAYS = 14
MAX_TRAINING_ROWS = 60_000
MIN_TRAINING_ROWS = 200

_NEW_ADS_STRENGTH = 10.0
_HISTORY_STRENGTH = 10.0
_WEEK = 7.0


class FittedOnRows(Protocol):
    """What `backtest` needs of a model."""

    def fit_model(self, X: pd.DataFrame, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> Any:
        """Fit on rows of features, rates and impressions."""

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return a rate per row, shape (n,)."""


def backtest(
    make: Callable[[], FittedOnRows],
    X: pd.DataFrame,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    days: int = BACKTEST_DAYS,
    block_days: int = BLOCK_DAYS,
    max_rows: int = MAX_TRAINING_ROWS,
    min_rows: int = MIN_TRAINING_ROWS,
) -> pd.DataFrame:
    """Predict the last days by forward chaining: each block by a model that could have been fitted before it.

    ::

        |----------- train -----------|~ maturity ~|- block 0 -|
        |----------------- train -----------------|~ maturity ~|- block 1 -|

    A model is fitted on rows whose label was mature on the first day of its block (day + 9 ≤ that day). Blocks are
    counted back from the last day; one with fewer than ``min_rows`` rows before it is left out.

    Parameters
    ----------
    make : callable
        Makes an unfitted model; called once per block.
    X : DataFrame, shape (n, …)
        Rows with the key columns of ``ad_training_set`` and what the model needs; in any order.
    y, sample_weight : array-like, shape (n,)
        Rates and impressions.
    days, block_days : int
        How far back the predictions go, and how many days share a model.
    max_rows : int
        A model is fitted on at most so many rows, chosen by a stable hash of date and ad.
    min_rows : int
        Rows with impressions that a model needs.

    Returns
    -------
    DataFrame
        ``row`` (position in X), ``prediction``, ``block`` (0 is the oldest), by row within block. Empty where the
        history is too short.

    Raises
    ------
    InputError
        If a shape or range is wrong.

    Examples
    --------
    >>> class Level:
    ...     def fit_model(self, X, y, *, sample_weight=None):
    ...         self.rate = float(np.average(y, weights=sample_weight))
    ...     def predict(self, X):
    ...         return np.full(len(X), self.rate)
    >>> X = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=60), "platform": "meta", "account_id": "a",
    ...                   "ad_id": "1"})
    >>> found = backtest(Level, X, np.where(np.arange(60) < 30, 0.01, 0.03), days=28, min_rows=20)
    >>> found.groupby("block")["prediction"].agg(["size", "first"]).round(4).values.tolist()
    [[14.0, 0.01], [14.0, 0.0142]]
    """
    if days < 1 or block_days < 1 or max_rows < 1:
        raise InputError(
            f"days, block_days and max_rows must be at least 1, however: {days}, {block_days}, {max_rows}."
        )
    y, _, w = check_rates(y, np.zeros(len(X)), sample_weight)
    if not len(X):
        return _frame([])
    dates, blocks = to_days(X["date"]), []
    n_blocks = -(-days // block_days)
    for block in range(n_blocks):
        start = dates.max() + np.timedelta64(1 - (n_blocks - block) * block_days, "D")
        wanted = np.flatnonzero((dates >= start) & (dates < start + np.timedelta64(block_days, "D")))
        known = dates + np.timedelta64(LABEL_MATURITY_DAYS, "D") <= start
        if not wanted.size or (known & (w > 0)).sum() < min_rows:
            continue
        rows = terms.training_order(X, np.where(known, w, 0.0), max_rows)
        model = make()
        model.fit_model(X.iloc[rows].reset_index(drop=True), y[rows], sample_weight=w[rows])
        predictions = np.asarray(model.predict(X.iloc[wanted].reset_index(drop=True)), dtype=np.float64)
        blocks.append(pd.DataFrame({"row": wanted, "prediction": predictions, "block": block}))
        logger.info("backtest: block %d of %d, %d rows by a model of %d", block + 1, n_blocks, wanted.size, rows.size)
    return _frame(blocks)


def _frame(blocks: list[pd.DataFrame]) -> pd.DataFrame:
    empty = pd.DataFrame({"row": np.zeros(0, np.int64), "prediction": np.zeros(0), "block": np.zeros(0, np.int64)})
    return pd.concat(blocks, ignore_index=True) if blocks else empty


@dataclass(frozen=True, slots=True)
class ExpectedImpressions:
    """How many impressions an ad will have in the label's days, from what is known on the row's day.

    An ad that has been shown continues: its impressions of the last seven days, scaled up where it is younger than
    that, times what that is usually followed by. An ad that has not gets what the account's new ads usually get. Both
    are geometric means, since intervals depend on the order of magnitude, drawn towards the overall one by ten ads.

    ``continued`` and ``new`` are logs: of the ratio, and of impressions + 1, overall; the mappings hold the accounts'
    deviations from them.

    Examples
    --------
    >>> X = pd.DataFrame({"platform": "meta", "account_id": "a", "ad_impressions_7d": [0.0, 1000.0] * 50})
    >>> expected = ExpectedImpressions.fit(X, np.array([400.0, 500.0] * 50))
    >>> expected.predict(X[:2]).round()
    array([400., 500.])
    """

    continued: float
    new: float
    continued_by_account: Mapping[str, float]
    new_by_account: Mapping[str, float]

    @classmethod
    def fit(cls, X: pd.DataFrame, impressions: ArrayLike) -> ExpectedImpressions:
        """Learn from rows and their labels' impressions, shape (n,); those with 0 or fewer are left out.

        Parameters
        ----------
        X : DataFrame, shape (n, …)
            ``platform``, ``account_id``; ``ad_impressions_7d`` and ``ad_age_days`` where they are known.
        impressions : array-like, shape (n,)
            Impressions of the label's days.

        Raises
        ------
        InputError
            If the shapes differ.
        """
        shown_later = np.asarray(impressions, dtype=np.float64)
        if shown_later.shape != (len(X),):
            raise InputError(f"impressions must have shape ({len(X)},), however: {shown_later.shape}.")
        week, accounts = _last_week(X), terms.account_names(X)
        served, known = shown_later > 0, week > 0
        old, new = served & known, served & ~known
        ratio = np.log(shown_later[old] / week[old])
        level = np.log1p(shown_later[new])
        continued, by_account = _means(ratio, accounts[old], _HISTORY_STRENGTH, fallback=0.0)
        usual = float(np.log1p(shown_later[served]).mean()) if served.any() else 0.0
        started, new_by_account = _means(level, accounts[new], _NEW_ADS_STRENGTH, fallback=usual)
        return cls(continued, started, by_account, new_by_account)

    def predict(self, X: pd.DataFrame) -> FloatArray:
        """Return the impressions to be expected of each row, shape (n,), above 0."""
        week, accounts = _last_week(X), terms.account_names(X)
        ratio = self.continued + np.array([self.continued_by_account.get(name, 0.0) for name in accounts])
        level = self.new + np.array([self.new_by_account.get(name, 0.0) for name in accounts])
        expected: FloatArray = np.where(week > 0, week * np.exp(ratio), np.expm1(level))
        return np.maximum(expected, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the fitted state as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> ExpectedImpressions:
        """Restore what `to_dict` gave.

        Raises
        ------
        ModelFormatError
            If a field is missing or unknown.
        """
        try:
            return cls(**state)
        except TypeError as error:
            raise ModelFormatError(f"The state of ExpectedImpressions is not as it was saved ({error}).") from error


def _last_week(X: pd.DataFrame) -> FloatArray:
    """Return impressions of the last seven days, of a younger ad as if it had been shown for seven; 0 if unknown."""
    if "ad_impressions_7d" not in X.columns:
        return np.zeros(len(X))
    week: FloatArray = np.nan_to_num(X["ad_impressions_7d"].to_numpy(np.float64, na_value=np.nan))
    if "ad_age_days" not in X.columns:
        return week
    age = X["ad_age_days"].to_numpy(np.float64, na_value=_WEEK)
    scaled: FloatArray = week * _WEEK / np.clip(np.nan_to_num(age, nan=_WEEK) + 1, 1.0, _WEEK)
    return scaled


def _means(
    values: FloatArray, accounts: NDArray[np.object_], strength: float, *, fallback: float
) -> tuple[float, dict[str, float]]:
    """Return the overall mean, and each account's deviation from it, drawn towards 0 by ``strength`` rows."""
    if not values.size:
        return fallback, {}
    overall = float(values.mean())
    sums = pd.DataFrame({"deviation": values - overall, "rows": 1.0}).groupby(accounts).sum()
    deviations = sums["deviation"] / (sums["rows"] + strength)
    return overall, {str(name): float(value) for name, value in deviations.items()}
