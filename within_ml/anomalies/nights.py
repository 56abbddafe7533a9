"""One night after another: expectation, p-values, false discovery control, and what the night teaches.

Arrays of one night in, arrays of one night out. Frames belong in `panel`, ids and sentences in `records`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from within_ml.anomalies.baseline import WALK, Expected, Levels, expect, learn, restart_money
from within_ml.anomalies.counts import signed_residual
from within_ml.anomalies.discovery import Tails, false_discovery, simes
from within_ml.anomalies.metrics import METRICS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

M = len(METRICS)

TAIL_MEMORY = 0.98
"""Past nights' residuals fade with a memory of about 50 nights."""

FAR_P = 5e-4
"""p-value below which a value is no evidence for its own baseline."""


@dataclass(slots=True, eq=False)
class Memory:
    """All that the next night needs: levels of the series, and the tails of past residuals of series and accounts."""

    levels: Levels
    series_tails: Tails
    account_tails: Tails

    @classmethod
    def empty(cls) -> Memory:
        """Know nothing yet."""
        return cls(Levels.empty(), Tails.normal(M), Tails.normal(M))


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which series belong to which account; ``split`` says that a series is a part of an account, not all of it."""

    account: Ints
    accounts: int
    peers: Ints
    split: bool

    def until(self, n: int) -> Layout:
        """Return the layout of the first n series."""
        account = self.account[:n]
        return Layout(account, int(account.max(initial=-1)) + 1, self.peers[:n], self.split)


@dataclass(frozen=True, slots=True, eq=False)
class Night:
    """One night's judgement; arrays of shape (M, n) for series and (M, accounts) for accounts.

    Attributes
    ----------
    series : Expected
        Expectation per series.
    series_p : array, shape (M, n)
    account : Expected
        Expectation per account: of its judged series together.
    account_p : array, shape (M, accounts)
        Of the account's value as a whole.
    p, q : array, shape (M, accounts)
        Of the hypothesis "nothing is odd about this metric of this account, nor in any part of it"; NaN where no
        baseline exists.
    flagged : array of bool, shape (M, accounts)
    """

    series: Expected
    series_p: Floats
    account: Expected
    account_p: Floats
    p: Floats
    q: Floats
    flagged: Bools


def judge(memory: Memory, layout: Layout, facts: Floats, weekday: int, level: float) -> Night:
    """Judge a night by the nights before it; nothing is changed.

    Parameters
    ----------
    facts : array, shape (5, n)
    level : float
        False discovery rate of the night.
    """
    series = expect(memory.levels, facts, weekday, layout.peers)
    series_p = _p_values(memory.series_tails, series.z)
    if layout.split:
        account = _together(series, layout)
        account_p = _p_values(memory.account_tails, account.z)
        p = _hypotheses(series_p, account_p, layout)
    else:
        account, account_p, p = series, series_p, series_p
    q = false_discovery(p.ravel()).reshape(p.shape)
    with np.errstate(invalid="ignore"):
        flagged = q <= level
    return Night(series, series_p, account, account_p, p, q, flagged)


def take_in(memory: Memory, layout: Layout, night: Night, facts: Floats, weekday: int, window: int) -> None:
    """Let the memory learn a judged night, in place."""
    with np.errstate(invalid="ignore"):
        odd = night.flagged[:, layout.account]
        far = (night.series_p < FAR_P) | (odd & (night.series_p < 20 * FAR_P))
    judged = ~np.isnan(night.series.z)
    memory.series_tails.add(night.series.z, judged & ~odd, TAIL_MEMORY)
    if layout.split:
        memory.account_tails.add(night.account.z, ~np.isnan(night.account.z) & ~night.flagged, TAIL_MEMORY)
    learn(memory.levels, night.series, facts, weekday, far, (WALK * 28.0 / window) ** 2)


def change_currency(memory: Memory, layout: Layout, currency: Floats) -> None:
    """Begin the money metrics anew for accounts whose currency changed, in place; ``currency`` has shape (accounts,)."""
    restart_money(memory.levels, currency[layout.account])


def _p_values(tails: Tails, z: Floats) -> Floats:
    return np.where(np.isnan(z), np.nan, tails.p_values(z))


def _together(series: Expected, layout: Layout) -> Expected:
    """Add up the judged series of each account: mixes of campaigns that come and go leave no residual."""
    judged = ~np.isnan(series.z)

    def total(values: Floats) -> Floats:
        masked = np.where(judged, values, 0.0)
        return np.stack([np.bincount(layout.account, weights=row, minlength=layout.accounts) for row in masked])

    mean = total(series.mean)
    known = mean > 0
    safe = np.where(known, mean, 1.0)
    unit = np.where(known, total(series.unit * series.mean) / safe, np.nan)
    extra = np.where(known, total(series.extra * series.mean**2) / safe**2, np.nan)
    value, base, mean = (np.where(known, x, np.nan) for x in (total(series.value), total(series.base), mean))
    z = np.full_like(mean, np.nan)
    z[known] = signed_residual(value[known], mean[known], unit[known], extra[known])
    return Expected(value, base, mean, unit, extra, z)


def _hypotheses(series_p: Floats, account_p: Floats, layout: Layout) -> Floats:
    group = np.concatenate([layout.account, np.arange(layout.accounts)])
    both = np.concatenate([series_p, account_p], axis=1)
    p = np.stack([simes(row, group, layout.accounts) for row in both])
    return np.where(np.isnan(account_p), np.nan, p)
