"""Predictions beside what happened, made by a model that had not seen it: what calibrator and intervals learn from.

Here are the rows and their file; who predicted them is `backtest` and `predictor`, what is learned is in
`within_ml.calibration` and `within_ml.uncertainty`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from within_ml.ad_score import terms
from within_ml.splits import to_days

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rows with a prediction and its outcome.

    ``day``, shape (n,), is the rows' date; ``groups`` has the columns of `terms.HIERARCHY`, (n, 4); ``margin`` are the
    predicted log-odds before calibration, ``y`` the rates that came and ``w`` their impressions, ``expected`` the
    impressions that were expected, each of shape (n,).

    Examples
    --------
    >>> X = pd.DataFrame({"date": ["2024-01-07", "2024-01-14"], "platform": "meta", "account_id": "a",
    ...                   "campaign_id": "c", "ad_group_id": "g", "ad_id": ["1", "2"]})
    >>> outcomes = Outcomes.of(X, np.zeros(2), np.array([0.4, 0.6]), np.full(2, 10.0), np.full(2, 9.0))
    >>> [len(part.y) for part in outcomes.by_week()], len(outcomes.since(np.datetime64("2024-01-08")).y)
    ([1, 1], 1)
    """

    day: NDArray[np.datetime64]
    groups: pd.DataFrame
    margin: FloatArray
    y: FloatArray
    w: FloatArray
    expected: FloatArray

    @classmethod
    def of(cls, X: pd.DataFrame, margin: FloatArray, y: FloatArray, w: FloatArray, expected: FloatArray) -> Self:
        """Return the outcomes of the rows of X that were shown at all."""
        kept = w > 0
        groups = terms.hierarchy(X)[kept].reset_index(drop=True)
        return cls(to_days(X["date"])[kept], groups, margin[kept], y[kept], w[kept], expected[kept])

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

    def where(self, mask: NDArray[np.bool_]) -> Outcomes:
        """Return the rows of a mask, shape (n,)."""
        groups = self.groups[mask].reset_index(drop=True)
        return Outcomes(self.day[mask], groups, *(getattr(self, name)[mask] for name in _NUMBERS))

    def since(self, day: np.datetime64) -> Outcomes:
        """Return the rows of that day and later."""
        return self.where(self.day >= day)

    def by_week(self) -> Iterator[Outcomes]:
        """Yield the rows of each week, the last one first."""
        weeks = self.weeks
        for week in np.unique(weeks):
            yield self.where(weeks == week)

    def save(self, file: Path) -> None:
        """Write an ``.npz``."""
        # Names repeat on many rows: each stands once, rows hold its number.
        coded = {name: pd.factorize(self.groups[name].astype(str)) for name in self.groups.columns}
        np.savez(
            file,
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


_NUMBERS = ("margin", "y", "w", "expected")
