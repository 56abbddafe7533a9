"""What became of an account: when it left, when its efficiency fell, and until which day that is known.

Features belong in `indicators`; which rows a model learns from, in `periods`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from within_ml.errors import InputError
from within_ml.health.daily import DailyGrid

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SILENT_DAYS = 30
"""An account without spend and impressions for so many days has left."""

FALL_DAYS = 7
"""So many days in a row of low efficiency are a fall."""

FALL_WINDOW_DAYS, FALL_QUANTILE = 90, 0.1
_MIN_KNOWN_DAYS = 28

NEVER = np.iinfo(np.int32).max
"""Days until something that has not happened by the end of what is known."""


@dataclass(frozen=True, slots=True, eq=False)
class AccountStates:
    """States by account and day, each of shape (accounts, days) in the order of the `DailyGrid`.

    Attributes
    ----------
    gone : array
        The account has left: contract ended, or a day of a silence that lasts `SILENT_DAYS` or more.
    seen_gone : array
        As ``gone``, but only from the day on which that could be seen.
    fallen : array
        The efficiency has been low for `FALL_DAYS` days in a row, this day being one of them.
    known_until : shape (accounts,)
        Last day, as a column, whose ``gone`` is known: a short silence at the end may still become a long one.
    """

    gone: BoolArray
    seen_gone: BoolArray
    fallen: BoolArray
    known_until: Integers

    @property
    def bad(self) -> BoolArray:
        """Gone or fallen."""
        return self.gone | self.fallen


def account_states(grid: DailyGrid, accounts: pd.DataFrame | None = None) -> AccountStates:
    """Find the states of all accounts on all days of a grid.

    Parameters
    ----------
    grid : DailyGrid
        Daily sums; nothing after its last day is known.
    accounts : DataFrame, optional
        One row per account with ``account_id`` and ``churned_date``, the first day without the contract; dates after
        the grid's last day are not looked at.

    Examples
    --------
    >>> from within_ml.health.daily import checked, daily_grid
    >>> days = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=60), "account_id": "a", "clicks": 1,
    ...                      "impressions": [100] * 20 + [0] * 40})
    >>> states = account_states(daily_grid(checked(days)))
    >>> int(states.gone[0].argmax()), int(states.seen_gone[0].argmax())
    (20, 49)
    """
    active = (grid.metrics["impressions"] > 0) | (grid.metrics["spend"] > 0)
    days = active.shape[1]
    day = np.arange(days)
    last_active = np.maximum.accumulate(np.where(active, day, -1), axis=1)
    next_active = np.minimum.accumulate(np.where(active, day, days)[:, ::-1], axis=1)[:, ::-1]
    silent = grid.begun & ~active
    # Rows of zeros from the start are a silence too; it begins with the first row.
    begin = np.where(last_active >= 0, last_active + 1, (~grid.begun).sum(axis=1, keepdims=True))
    gone = silent & (next_active - begin >= SILENT_DAYS)
    seen = silent & (day - begin + 1 >= SILENT_DAYS)
    ended = _contract_ends(grid, accounts)[:, None] <= day
    gone, seen = gone | (ended & grid.begun), seen | (ended & grid.begun)
    open_silence = silent[:, -1] & ~gone[:, -1]
    known_until = np.where(open_silence, begin[:, -1] - 1, days - 1).astype(np.int64)
    return AccountStates(gone, seen, _fallen(efficiency(grid)), known_until)


def efficiency(grid: DailyGrid) -> FloatArray:
    """Return each day's ROAS, or CTR of an account whose money is not known on most of its days; NaN without either."""
    spend, revenue = grid.metrics["spend"], grid.metrics["revenue"]
    shown = grid.metrics["impressions"] > 0
    priced = grid.known["spend"] & grid.known["revenue"] & (spend > 0)
    has_money = (priced.sum(axis=1) > shown.sum(axis=1) / 2)[:, None]
    roas = np.divide(revenue, spend, out=np.full(spend.shape, np.nan), where=priced)
    ctr = np.divide(grid.metrics["clicks"], grid.metrics["impressions"], out=np.full(spend.shape, np.nan), where=shown)
    return np.asarray(np.where(has_money, roas, ctr), dtype=np.float64)


def _fallen(values: FloatArray) -> BoolArray:
    """Find the days that end a week below the lower decile of the 90 days before each."""
    window = pd.DataFrame(values.T).rolling(FALL_WINDOW_DAYS, min_periods=_MIN_KNOWN_DAYS)
    decile = window.quantile(FALL_QUANTILE).shift(1).to_numpy().T
    with np.errstate(invalid="ignore"):
        low = values < decile
    run = np.cumsum(low, axis=1)
    return np.asarray(run - np.maximum.accumulate(np.where(low, 0, run), axis=1) >= FALL_DAYS, dtype=bool)


def _contract_ends(grid: DailyGrid, accounts: pd.DataFrame | None) -> Integers:
    """Return the column of the first day without a contract; one beyond the grid without an end."""
    ends = np.full(len(grid.accounts), grid.shape[1], dtype=np.int64)
    if accounts is None or "churned_date" not in accounts.columns:
        return ends
    known = accounts.loc[accounts["churned_date"].notna(), ["account_id", "churned_date"]]
    if known["account_id"].duplicated().any():
        raise InputError("accounts must have one row per account_id; some have several.")
    place = pd.Index(grid.accounts).get_indexer(known["account_id"].astype(object))
    date = pd.to_datetime(known["churned_date"]).to_numpy().astype("datetime64[D]")
    column = np.maximum((date - grid.first).astype(np.int64), 0)
    ends[place[place >= 0]] = column[place >= 0]
    return np.minimum(ends, grid.shape[1])


def days_until(happens: BoolArray) -> Integers:
    """Return the days from each day to the next later one on which it happens, `NEVER` where there is none.

    >>> days_until(np.array([[False, True, True, False]])).tolist() == [[1, 1, NEVER, NEVER]]
    True
    """
    days = happens.shape[1]
    day = np.arange(days)
    at = np.minimum.accumulate(np.where(happens, day, NEVER)[:, ::-1], axis=1)[:, ::-1]
    later = np.column_stack([at[:, 1:], np.full(len(at), NEVER)])
    return np.where(later == NEVER, NEVER, later - day).astype(np.int64)
