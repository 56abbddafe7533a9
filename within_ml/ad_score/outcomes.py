"""Predictions beside what happened, made by a model that had not seen it: what calibrator and intervals learn from.

Here are the rows and their file; who predicted them is `backtest` and `predictor`, what is learned is in
`within_ml.calibration` and `within_ml.uncertainty`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from within_ml.ad_score import terms
from within_ml.splits import to_days
from within_ml.uncertainty.scale import history_difficulty

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rows with a prediction and its outcome, one of each ad and week.

    Labels of one ad on neighbouring days share most of their clicks: all of them together would look like seven times
    the evidence. Which day of the week is taken depends on a hash of ad and day, so that an ad's first day has the same
    chance as any other.

    ``day``, shape (n,), is the rows' date; ``groups`` has the columns of `terms.HIERARCHY`, (n, 4); ``margin`` are the
    predicted log-odds before calibration, ``y`` the rates that came and ``w`` their impressions, ``expected`` the
    impressions that were expected, ``difficulty`` grows with how little the ad has shown, each of shape (n,).

    Examples
    --------
    >>> X = pd.DataFrame({"date": ["2024-01-06", "2024-01-07", "2024-01-14"], "platform": "meta", "account_id": "a",
    ...                   "campaign_id": "c", "ad_group_id": "g", "ad_id": ["1", "1", "2"], "prior_ctr": 0.5})
    >>> three = np.full(3, 10.0)
    >>> outcomes = Outcomes.of(X, np.zeros(3), np.array([0.4, 0.5, 0.6]), three, three)
    >>> len(outcomes.y), len(outcomes.since(np.datetime64("2024-01-14")).y)
    (2, 1)
    """

    day: NDArray[np.datetime64]
    groups: pd.DataFrame
    margin: FloatArray
    y: FloatArray
    w: FloatArray
    expected: FloatArray
    difficulty: FloatArray

    @classmethod
    def of(cls, X: pd.DataFrame, margin: FloatArray, y: FloatArray, w: FloatArray, expected: FloatArray) -> Self:
        """Return the outcomes of rows of ``ad_training_set``, one of each ad and week in which it was shown."""
        groups, day = terms.hierarchy(X), to_days(X["date"])
        kept = _one_per_week(groups, day, w > 0)
        numbers = (margin, y, w, expected, difficulty(X))
        return cls(day[kept], groups.iloc[kept].reset_index(drop=True), *(values[kept] for values in numbers))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def rate(self) -> FloatArray:
        """Predicted rates before calibration, shape (n,)."""
        rate: FloatArray = expit(self.margin)
        return rate

    @property
    def weeks(self) -> NDArray[np.int64]:
        """Number of each row's week, counted back from the last day, shape (n,)."""
        return terms.weeks(self.day)

    def with_more(self, later: Outcomes) -> Outcomes:
        """Return these and later outcomes."""
        return Outcomes(
            np.concatenate([self.day, later.day]),
            pd.concat([self.groups, later.groups], ignore_index=True),
            *(np.concatenate([getattr(self, name), getattr(later, name)]) for name in _NUMBERS),
        )

    def renewed(self, newer: Outcomes) -> Outcomes:
        """Return these with the days of ``newer`` replaced by its rows, which may restate what is known.

        A row that is known keeps the prediction made for it before its outcome was: the newer one's model may have
        learned from that outcome.
        """
        place = self._keys().get_indexer(newer._keys())
        known = place >= 0
        kept = {name: getattr(newer, name).copy() for name in _PREDICTED}
        for name in _PREDICTED:
            kept[name][known] = getattr(self, name)[place[known]]
        return self.where(~np.isin(self.day, newer.day)).with_more(replace(newer, **kept))

    def _keys(self) -> pd.MultiIndex:
        ids = self.groups.astype(str)
        return pd.MultiIndex.from_arrays([self.day, *(ids[name] for name in terms.HIERARCHY)])

    def where(self, mask: NDArray[np.bool_]) -> Outcomes:
        """Return the rows of a mask, shape (n,)."""
        groups = self.groups[mask].reset_index(drop=True)
        return Outcomes(self.day[mask], groups, *(getattr(self, name)[mask] for name in _NUMBERS))

    def since(self, day: np.datetime64) -> Outcomes:
        """Return the rows of that day and later."""
        return self.where(self.day >= day)

    def last(self, days: int) -> Outcomes:
        """Return the rows of the last days."""
        return self.since(self.day.max() - np.timedelta64(days - 1, "D")) if len(self) else self

    def parts(self, count: int) -> Iterator[NDArray[np.bool_]]:
        """Yield masks, shape (n,), of ``count`` spans of neighbouring weeks, fewer where there are fewer weeks."""
        weeks = self.weeks
        for span in np.array_split(np.unique(weeks), count):
            if span.size:
                yield np.isin(weeks, span)

    def save(self, file: Path) -> None:
        """Write an ``.npz``."""
        # Names repeat on many rows: each stands once, rows hold its number.
        coded = {name: pd.factorize(self.groups[name].astype(str)) for name in self.groups.columns}
        np.savez(
            file,
            allow_pickle=False,
            day=self.day.astype(np.int64),
            **{f"{name}_codes": codes.astype(np.int32) for name, (codes, _) in coded.items()},
            **{f"{name}_names": np.asarray(names, dtype=str) for name, (_, names) in coded.items()},
            **{name: getattr(self, name) for name in _NUMBERS},
        )

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote; errors of parsing are the caller's to name."""
        with np.load(file, allow_pickle=False) as arrays:
            groups = {name: arrays[f"{name}_names"].astype(object)[arrays[f"{name}_codes"]] for name in terms.HIERARCHY}
            day = arrays["day"].astype("datetime64[D]")
            return cls(day, pd.DataFrame(groups), *(arrays[name] for name in _NUMBERS))


_NUMBERS = ("margin", "y", "w", "expected", "difficulty")
_PREDICTED = ("margin", "expected", "difficulty")


def difficulty(X: pd.DataFrame) -> FloatArray:
    """Return about the standard error of the log-odds of each row's ``prior_ctr``, shape (n,)."""
    return history_difficulty(X["prior_ctr"].to_numpy(np.float64), terms.optional(X, "prior_impressions"))


def _one_per_week(groups: pd.DataFrame, day: NDArray[np.datetime64], shown: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the positions of one shown row of each ad and week, in an order that is not that of the rows."""
    if not shown.any():
        return np.zeros(0, np.int64)
    ad = groups.assign(week=terms.weeks(day))
    key = ad.assign(day=day.astype(np.int64))
    ad["hash"] = pd.util.hash_pandas_object(key, index=False).to_numpy()
    kept = ad[shown].sort_values("hash").drop_duplicates([*terms.HIERARCHY, "week"]).index
    positions: NDArray[np.int64] = kept.to_numpy(np.int64)
    return positions
