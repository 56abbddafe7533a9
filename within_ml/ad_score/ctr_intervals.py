"""The intervals of the ad score: for the impressions that are to be expected, and for those that are planned.

How an interval is made is in `within_ml.uncertainty`; here is what it learns from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from within_ml.ad_score.outcomes import Outcomes
from within_ml.uncertainty.coverage import Intervals
from within_ml.uncertainty.intervals import RateIntervals

FloatArray = NDArray[np.float64]

FEWEST_ROWS = 30
"""With fewer outcomes nothing is said of how far they lie from the predictions."""


@dataclass(frozen=True, slots=True)
class CtrIntervals:
    """Intervals that the click-through rate of the label's days lies in.

    ``expected`` was fitted at the impressions that were expected on the row's day, so that the error of that
    expectation is inside; ``planned`` at those that were served, for who knows how many there will be.

    Examples
    --------
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> X = pd.DataFrame({"date": "2024-01-07", "platform": "meta", "account_id": "a", "campaign_id": "c",
    ...     "ad_group_id": "g", "ad_id": np.arange(500).astype(str), "prior_ctr": 0.02})
    >>> n = np.full(500, 1000.0)
    >>> outcomes = Outcomes.of(X, np.full(500, -3.9), rng.binomial(1000, 0.02, 500) / 1000, n, n)
    >>> intervals = CtrIntervals.fit(outcomes, outcomes.rate, 0.9)
    >>> found = intervals.at(np.array([0.02]), np.array(["meta/a"]), np.array([1.0]), np.array([1000.0]))
    >>> bool(0.01 < found.lower[0] < 0.015 and 0.025 < found.upper[0] < 0.03)
    True
    """

    expected: RateIntervals
    planned: RateIntervals

    @classmethod
    def fit(cls, outcomes: Outcomes, predicted: FloatArray, confidence: float) -> Self | None:
        """Fit on outcomes and what was predicted for them by a calibrator that had not seen them, shape (n,).

        None where there are fewer than `FEWEST_ROWS`.
        """
        if len(outcomes) < FEWEST_ROWS:
            return None
        fitted = [
            RateIntervals(confidence).fit(
                predicted,
                outcomes.y,
                impressions,
                outcomes.groups["account"],
                # In order of time, as they are counted here; the outcomes' own are counted backwards.
                periods=-outcomes.weeks,
                difficulty=outcomes.difficulty,
            )
            for impressions in (outcomes.expected, outcomes.w)
        ]
        return cls(*fitted)

    def at(
        self,
        predicted: FloatArray,
        accounts: NDArray[Any],
        difficulty: FloatArray,
        expected: FloatArray,
        *,
        planned: FloatArray | None = None,
        confidence: float | None = None,
    ) -> Intervals:
        """Return the interval of each row at the planned impressions, or else at the expected ones, shape (n,)."""
        model, impressions = (self.expected, expected) if planned is None else (self.planned, planned)
        return model.predict(predicted, impressions, accounts, difficulty=difficulty, confidence=confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {"expected": self.expected.to_dict(), "planned": self.planned.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` gave."""
        return cls(RateIntervals.from_dict(state["expected"]), RateIntervals.from_dict(state["planned"]))
