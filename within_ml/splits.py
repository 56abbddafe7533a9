"""Splits of dated rows in time. Only dates are looked at; what the rows hold is the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.base import HORIZON_DAYS
from within_ml.errors import InputError

BoolArray = NDArray[np.bool_]
Days = NDArray[np.datetime64]


def to_days(dates: ArrayLike) -> Days:
    """Return dates of any kind (`date`, datetime, ISO text, pandas or Arrow) as ``datetime64[D]``, shape (n,).

    Raises
    ------
    InputError
        If one is missing or is no date.

    Examples
    --------
    >>> to_days(["2024-01-08"])
    array(['2024-01-08'], dtype='datetime64[D]')
    """
    try:
        days = pd.to_datetime(pd.Series(dates).reset_index(drop=True), utc=True).dt.tz_localize(None)
    except (ValueError, TypeError) as error:
        raise InputError(f"Dates must be dates or ISO text: {error}.") from error
    if days.isna().any():
        raise InputError(f"Every row must have a date; {int(days.isna().sum())} of {len(days)} have none.")
    result: Days = days.to_numpy().astype("datetime64[D]")
    return result


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Boolean masks of shape (n,) over the rows, and the first and last day of each part (None for an empty part).

    No row is in two parts; rows between the parts, whose label would reach into the next one, are in none.
    """

    train: BoolArray
    validation: BoolArray
    test: BoolArray
    days: dict[str, tuple[date, date] | None]


@dataclass(frozen=True, slots=True)
class OutOfTimeSplit:
    """Split rows into train, validation and test, each later than the one before.

    A row of day D carries the label of D+1 … D+``horizon_days``. It belongs to a part only if its label ends before
    the first day of the next part, so that no outcome that the next part is judged on has been seen::

        |------ train ------|~ horizon ~|-- validation --|~ horizon ~|-- test --|

    Parameters
    ----------
    validation_days, test_days : int
        Length of the parts in days; 0 leaves the part empty.
    horizon_days : int
        Length of the label's window.
    min_train_share : float
        A short history shrinks validation and test by halves until this share of the rows is left for training, or
        both are one day long.

    Examples
    --------
    >>> days = pd.date_range("2024-01-01", periods=100)
    >>> split = OutOfTimeSplit(validation_days=14, test_days=14).split(days)
    >>> int(split.train.sum()), int(split.validation.sum()), int(split.test.sum())
    (58, 14, 14)
    """

    validation_days: int = 14
    test_days: int = 14
    horizon_days: int = HORIZON_DAYS
    min_train_share: float = 0.5

    def __post_init__(self) -> None:
        if min(self.validation_days, self.test_days, self.horizon_days) < 0:
            raise InputError("validation_days, test_days and horizon_days must be at least 0.")

    def split(self, dates: ArrayLike) -> TimeSplit:
        """Return the masks.

        Parameters
        ----------
        dates : array-like, shape (n,)
            Day of each row, in any order; gaps (weekly data) are fine.

        Raises
        ------
        InputError
            If the history is too short for a part that was asked for.
        """
        days = to_days(dates)
        distinct, counts = np.unique(days, return_counts=True)
        validation, test = self.validation_days, self.test_days
        while True:
            parts = self._parts(distinct, validation, test)
            share = counts[parts[0]].sum() / max(days.size, 1)
            if share >= self.min_train_share or max(validation, test) <= 1:
                break
            validation, test = (validation + 1) // 2, (test + 1) // 2
        wanted = (True, self.validation_days > 0, self.test_days > 0)
        if any(asked and not part.any() for asked, part in zip(wanted, parts, strict=True)):
            raise InputError(
                f"A split into train, {self.validation_days} days of validation and {self.test_days} of test, "
                f"{self.horizon_days} days apart, needs a longer history, however: {distinct.size} distinct dates"
                + (f" from {distinct[0]} to {distinct[-1]}." if distinct.size else ".")
            )
        place = np.searchsorted(distinct, days)
        bounds = [_bounds(distinct[part]) for part in parts]
        return TimeSplit(
            train=parts[0][place],
            validation=parts[1][place],
            test=parts[2][place],
            days=dict(zip(("train", "validation", "test"), bounds, strict=True)),
        )

    def _parts(self, distinct: Days, validation: int, test: int) -> tuple[BoolArray, BoolArray, BoolArray]:
        """Masks over the distinct days, from the last part backwards."""
        free = np.ones(distinct.size, dtype=bool)
        test_mask, free = self._cut(distinct, free, test)
        validation_mask, free = self._cut(distinct, free, validation)
        return free, validation_mask, test_mask

    def _cut(self, distinct: Days, free: BoolArray, length: int) -> tuple[BoolArray, BoolArray]:
        """Take the last ``length`` days of what is free; return the part and what stays free before it."""
        if length == 0 or not free.any():
            return np.zeros_like(free), free
        start = distinct[free][-1] - np.timedelta64(length - 1, "D")
        return free & (distinct >= start), free & (distinct + np.timedelta64(self.horizon_days, "D") < start)


def _bounds(days: Days) -> tuple[date, date] | None:
    return (days[0].item(), days[-1].item()) if days.size else None
