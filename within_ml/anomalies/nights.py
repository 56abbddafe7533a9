"""One night after another: expectation, p-values, false discovery control, and what the night teaches.

Arrays of one night in, arrays of one night out. Frames belong in `panel`, ids and sentences in `records`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from within_ml.anomalies.baseline import Expected, Levels, expect, learn, learn_together, restart_money, weekday_factor
from within_ml.anomalies.counts import signed_residual
from within_ml.anomalies.creatives import AdDay, Creatives
from within_ml.anomalies.discovery import Tails, selected_families, simes
from within_ml.anomalies.metrics import METRICS, NAMES
from within_ml.anomalies.runs import Runs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

M = len(METRICS)

TAIL_MEMORY = 0.98
"""Past nights' residuals fade with a memory of about 50 nights."""

FAR_P = 5e-4
"""p-value below which a value is no evidence for its own baseline."""


_CTR = NAMES.index("ctr")


@dataclass(slots=True, eq=False)
class Axis:
    """Past residuals of series, or of accounts: the tails of single nights and of runs, and the runs that last."""

    tails: Tails
    run_tails: Tails
    runs: Runs

    @classmethod
    def empty(cls) -> Axis:
        """Know nothing yet."""
        return cls(Tails.normal(M), Tails.normal(M), Runs.empty(M))


@dataclass(slots=True, eq=False)
class Memory:
    """All that the next night needs: levels of series and ads, and the past residuals of series and accounts."""

    levels: Levels
    creatives: Creatives
    series: Axis
    accounts: Axis

    @classmethod
    def empty(cls) -> Memory:
        """Know nothing yet."""
        return cls(Levels.empty(), Creatives.empty(), Axis.empty(), Axis.empty())

    def grow(self, layout: Layout, ads: int) -> None:
        """Append what is new tonight, in place."""
        n = len(layout.account)
        if n > self.levels.size:
            self.levels = self.levels.grown(n)
            self.levels.account = layout.account
            self.series.runs.grow(n)
            self.accounts.runs.grow(layout.accounts)
        self.creatives.grow(ads)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which series belong to which account; ``split`` says that a series is a part of an account, not all of it."""

    account: Ints
    accounts: int
    peers: Ints
    split: bool

    @property
    def most_peers(self) -> int:
        """Size of the largest group of series that share what happens to all of them."""
        return int(np.bincount(self.peers).max(initial=0))

    def until(self, n: int) -> Layout:
        """Return the layout of the first n series."""
        account = self.account[:n]
        return Layout(account, int(account.max(initial=-1)) + 1, self.peers[:n], self.split)


@dataclass(frozen=True, slots=True, eq=False)
class Night:
    """One night's judgement; arrays of shape (M, n) for series and (M, accounts) for accounts.

    Attributes
    ----------
    series, account : Expected
        Expectation per series, and per account: of its judged series together.
    series_p, account_p : array, shape (M, n) and (M, accounts)
        Of the value of the night, or of the run of nights that it goes on with.
    series_runs, account_runs : Runs
        Runs up to tonight.
    p, q : array, shape (M, accounts)
        Of the hypothesis "nothing is odd about this metric of this account, nor in any part of it"; NaN where no
        baseline exists.
    flagged : array of bool, shape (M, accounts)
    """

    series: Expected
    series_p: Floats
    series_runs: Runs
    account: Expected
    account_p: Floats
    account_runs: Runs
    p: Floats
    q: Floats
    flagged: Bools


def judge(memory: Memory, layout: Layout, facts: Floats, weekday: int, level: float, ads: AdDay | None = None) -> Night:
    """Judge a night by the nights before it; nothing is changed.

    Parameters
    ----------
    facts : array, shape (5, n)
    level : float
        False discovery rate of the night.
    ads : AdDay, optional
        The ads behind the clicks.
    """
    behind = None if ads is None else (memory.creatives, ads)
    series = expect(memory.levels, facts, weekday, layout.peers, behind)
    before = _before_runs(memory.levels, memory.series.runs, series)
    series_p, series_runs = _p_values(memory.series, series, before)
    account, account_p, account_runs, p = series, series_p, series_runs, series_p
    if layout.split:
        account = _together(series, layout)
        account_p, account_runs = _p_values(memory.accounts, account, _together(before, layout))
        p = _hypotheses(series_p, account_p, layout)
    q, flagged = selected_families(p, level)
    return Night(series, series_p, series_runs, account, account_p, account_runs, p, q, flagged)


def take_in(
    memory: Memory,
    layout: Layout,
    night: Night,
    facts: Floats,
    weekday: int,
    window: int,
    ads: AdDay | None = None,
) -> None:
    """Let the memory learn a judged night, in place."""
    odd = night.flagged[:, layout.account]
    far = _far(night, layout)
    _restore(memory.levels, night, layout)
    _remember(memory.series, night.series, night.series_runs, odd)
    if layout.split:
        _remember(memory.accounts, night.account, night.account_runs, night.flagged)
    learn(memory.levels, night.series, facts, weekday, far, window)
    if layout.split:
        usable = ~far & ~odd & ~np.isnan(night.series.z)
        learn_together(memory.levels, night.series, layout.account, layout.accounts, weekday, usable)
    if ads is not None:
        # After the levels, so that the first ads of a campaign begin at its first rate.
        factor = weekday_factor(memory.levels, weekday)[_CTR]
        memory.creatives.learn(ads, memory.levels.rate[_CTR], factor, far[_CTR])


def _far(night: Night, layout: Layout) -> Bools:
    """Return which values are no evidence, shape (M, n): of a series or an account that is far off in a metric."""
    with np.errstate(invalid="ignore"):
        series = (night.series_p < FAR_P) | (night.flagged[:, layout.account] & (night.series_p < 20 * FAR_P))
        account = (night.account_p < FAR_P) | (night.flagged & (night.account_p < 20 * FAR_P))
        # Of an odd account those parts are no evidence that cannot tell by themselves; the others can.
        silent = np.isnan(night.series.z) | (night.series.unit / night.series.mean > night.series.extra)
    return np.asarray(np.any(series, axis=0) | (np.atleast_1d(np.any(account, axis=0))[layout.account] & silent))


def _restore(levels: Levels, night: Night, layout: Layout) -> None:
    """Put levels back to those before the run of odd days that was told tonight, in place.

    The first days of an outage of few conversions are no anomaly yet, and were learnt.
    """
    running = np.abs(night.series_runs.days) >= 2
    told = running & np.atleast_1d(night.flagged.any(axis=0))[layout.account]
    levels.rate = np.where(told, levels.anchor, levels.rate)
    levels.anchor = np.where(running, levels.anchor, levels.rate)


def _remember(axis: Axis, night: Expected, runs: Runs, odd: Bools) -> None:
    axis.tails.add(night.z, ~np.isnan(night.z) & ~odd, TAIL_MEMORY)
    # Each run once, when it is over: a long one would speak for many.
    ended = axis.runs.ended(runs)
    axis.run_tails.add(ended, ~np.isnan(ended), TAIL_MEMORY)
    runs.told = np.where(odd & (runs.days != 0), 1.0, runs.told)
    axis.runs = runs


def change_currency(memory: Memory, layout: Layout, currency: Floats) -> None:
    """Begin money anew for accounts whose currency changed, in place; ``currency`` has shape (accounts,)."""
    restart_money(memory.levels, currency[layout.account])


def _before_runs(levels: Levels, runs: Runs, night: Expected) -> Expected:
    """Return the night beside the levels before the runs that last: days of a run are not compared with themselves."""
    n = night.mean.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((runs.days[:, :n] != 0) & (levels.anchor > 0), levels.anchor / levels.rate, 1.0)
    return replace(night, mean=night.mean * np.clip(np.nan_to_num(ratio, nan=1.0), 0.5, 2.0))


def _p_values(axis: Axis, night: Expected, before: Expected) -> tuple[Floats, Runs]:
    """Return the p-values of a night, each the better of twice that of the night and twice that of its run.

    ``before`` is the night as expected before the runs that last.
    """
    runs = axis.runs.with_night(before)
    alone = np.where(np.isnan(night.z), np.nan, axis.tails.p_values(night.z))
    residuals = runs.residuals(night)
    together = axis.run_tails.p_values(residuals)
    both = np.minimum(2.0 * np.minimum(alone, together), 1.0)
    return np.where(np.isnan(residuals), alone, both), runs


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
