"""Accounts that leave because they are not content: a weekly hazard that follows from what everyone can see.

With ``churn_model="hazard"`` accounts have ups and downs (`Fortunes`), and each week a hidden discontent grows or fades
with four things that daily performance shows:

- efficiency: log of the roas of 28 days over that of the 62 days before;
- refresh: share of 28 days' impressions on ads younger than 14 days;
- pacing: spend of 28 days over what the monthly budget gives them;
- age: days since the account was onboarded.

None of them acts evenly. Poor efficiency matters where creatives are stale or the account is young, and hardly
otherwise; pacing is wrong on both sides, but spending too much is welcome while efficiency is good; too many new
creatives unsettle as too few do. Discontent fades slowly, and the hazard of giving notice is a steep step of it; the
account runs as before until its notice ends. A proportional hazard, linear in the four, is the wrong model of it.

What would have happened to an account after it left is drawn and thrown away, so that the others do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from within_ml.lake.simulation.config import SimulationConfig, stream
from within_ml.lake.simulation.events import Fortunes
from within_ml.lake.simulation.process import Process
from within_ml.lake.simulation.world import NEVER, World, expit

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WEEK, MONTH, QUARTER = 7, 28, 90
FRESH_DAYS = 14
YOUNG_DAYS = 150
_DAYS_A_MONTH = 365.25 / 12

LEAST_HAZARD = 0.0005
MOST_HAZARD = 0.50
"""Weekly probability of giving notice of a content account, and of one whose discontent knows no bounds."""

NOTICE_DAYS = 14
"""Days from the notice to the first day without the account."""

MEMORY = 0.85
STEP_AT = 1.3
STEP_WIDTH = 0.12
"""Share of the discontent that is left a week later, where the hazard is halfway, and how steep it is there."""

HAZARD_SCHEMA = pa.schema(
    [
        ("date", pa.date32()),
        ("account_id", pa.string()),
        ("hazard", pa.float64()),
        ("discontent", pa.float64()),
        ("efficiency", pa.float64()),
        ("refresh", pa.float64()),
        ("pacing", pa.float64()),
        ("account_days", pa.float64()),
    ]
)
"""Truth by account and week, while the account is there.

``hazard`` is the probability that notice is given in the 7 days from ``date`` on, as long as none has been given; the
drivers are of the days before ``date``, null where they have too little history.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Drivers:
    """What discontent feeds on, each of shape (accounts, weeks); NaN where history is too short."""

    efficiency: Floats
    refresh: Floats
    pacing: Floats
    age: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Leaving:
    """When each account leaves, `NEVER` for most, and why: ``hazard`` and ``discontent`` of shape (accounts, weeks)."""

    left: Ints
    drivers: Drivers
    discontent: Floats
    hazard: Floats


def plan_fortunes(config: SimulationConfig) -> Fortunes:
    """Draw the accounts' ups and downs: weekly autoregressions, joined by straight lines."""
    rng = stream(config.seed, "fortunes")
    weeks = config.days // WEEK + 2

    def path(size: float, memory: float) -> Floats:
        steps = rng.standard_normal((config.accounts, weeks))
        level = steps[:, 0]
        levels = [level]
        for week in range(1, weeks):
            level = memory * level + np.sqrt(1 - memory**2) * steps[:, week]
            levels.append(level)
        return np.asarray(size * np.stack(levels, axis=1), dtype=np.float64)

    return Fortunes(ctr=path(0.15, 0.9), cvr=path(0.35, 0.9), cpc=path(0.10, 0.9), volume=path(0.35, 0.93))


def plan_leaving(process: Process) -> Leaving:
    """Draw who leaves when, from what the accounts' days are expected to bring."""
    drivers = observed_drivers(process)
    discontent, hazard = discontent_of(drivers, process.world.config.seed)
    onboarded = process.world.accounts.onboarded
    week_start = WEEK * np.arange(hazard.shape[1])
    # Nobody leaves before there is something to judge, nor in the first weeks as a client.
    hazard = np.where(np.isnan(drivers.refresh) | (week_start < onboarded[:, None] + MONTH), 0.0, hazard)
    drawn = stream(process.world.config.seed, "leaving").random((2, *hazard.shape))
    leaves = drawn[0] < hazard
    week = np.where(leaves.any(axis=1), leaves.argmax(axis=1), -1)
    notice = WEEK * week + np.floor(WEEK * drawn[1][np.arange(week.size), week]).astype(np.int64)
    day = notice + NOTICE_DAYS
    left = np.where((week >= 0) & (day < process.world.config.days), day, NEVER)
    return Leaving(left, drivers, discontent, hazard)


def discontent_of(drivers: Drivers, seed: int) -> tuple[Floats, Floats]:
    """Return discontent and weekly hazard, shape (accounts, weeks); without drivers nothing is added."""
    noise = stream(seed, "discontent").normal(0, 0.15, drivers.age.shape)
    added = np.nan_to_num(grievance(drivers)) + noise
    discontent = np.zeros(added.shape)
    level = np.zeros(added.shape[0])
    for week in range(added.shape[1]):
        level = MEMORY * level + (1 - MEMORY) * added[:, week]
        discontent[:, week] = level
    step = expit((discontent - STEP_AT) / STEP_WIDTH)
    return discontent, np.asarray(LEAST_HAZARD + (MOST_HAZARD - LEAST_HAZARD) * step, dtype=np.float64)


def grievance(drivers: Drivers) -> Floats:
    """Return what a week adds to the discontent: thresholds, U-shapes and interactions of its drivers.

    >>> one = [np.array([[value]]) for value in (-0.4, 0.1, 1.0, 900.0)]
    >>> stale = grievance(Drivers(*one))[0, 0]
    >>> one[1][:] = 0.5
    >>> float(stale), float(grievance(Drivers(*one))[0, 0])
    (2.2, 0.2)
    """
    poor = drivers.efficiency < -0.15
    stale = drivers.refresh < 0.30
    young = drivers.age < YOUNG_DAYS
    off_pace = np.abs(np.log(np.maximum(drivers.pacing, 0.05)))
    welcome = (drivers.pacing > 1) & (drivers.efficiency > 0.1)
    return np.asarray(
        np.where(poor, np.where(stale, 2.2, 0.2) + 1.6 * young, 0.0)
        + np.where(welcome, -0.8, 2.0 * np.clip(off_pace - 0.45, 0.0, 1.0))
        + 1.2 * (drivers.refresh > 0.80)
    )


def observed_drivers(process: Process) -> Drivers:
    """Return the drivers of each week from the expected clicks, money and impressions of the days before it."""
    world = process.world
    impressions, fresh, spend, revenue = _account_days(process)
    weeks = WEEK * np.arange(world.config.days // WEEK + 1)
    onboarded = world.accounts.onboarded[:, None]
    seen = weeks - np.maximum(onboarded, 0)
    recent = [_before(v, weeks, MONTH) for v in (impressions, fresh, spend, revenue)]
    usual_spend = _before(spend, weeks, QUARTER) - recent[2]
    usual_revenue = _before(revenue, weeks, QUARTER) - recent[3]
    with np.errstate(divide="ignore", invalid="ignore"):
        efficiency = np.log(recent[3] / recent[2]) - np.log(usual_revenue / usual_spend)
        refresh = recent[1] / recent[0]
        pacing = recent[2] / (world.accounts.monthly_budget[:, None] * MONTH / _DAYS_A_MONTH)
    known = (seen >= MONTH) & (recent[0] > 0)
    return Drivers(
        efficiency=np.where(known & (seen >= 2 * MONTH) & np.isfinite(efficiency), efficiency, np.nan),
        refresh=np.where(known, refresh, np.nan),
        pacing=np.where(known, pacing, np.nan),
        age=np.maximum(weeks - onboarded, 0).astype(np.float64),
    )


def _account_days(process: Process) -> tuple[Floats, Floats, Floats, Floats]:
    """Return impressions, those on fresh ads, expected spend and revenue, each of shape (accounts, days)."""
    world = process.world
    days, n = world.config.days, world.config.accounts
    sums = np.zeros((4, n, days))
    for day in range(days):
        cells = process.cells(day)
        account = world.campaigns.account[world.ads.campaign[cells.ad]]
        clicks = cells.impressions * cells.ctr
        fresh = cells.impressions * (day - world.ads.start[cells.ad] < FRESH_DAYS)
        revenue = clicks * cells.cvr * world.accounts.order_value[account]
        for place, values in enumerate((cells.impressions, fresh, clicks * cells.cpc, revenue)):
            sums[place, :, day] = np.bincount(account, weights=values, minlength=n)
    return sums[0], sums[1], sums[2], sums[3]


def _before(values: Floats, days: Ints, window: int) -> Floats:
    """Sum the ``window`` days before each of the days."""
    running = np.concatenate([np.zeros((values.shape[0], 1)), np.cumsum(values, axis=1)], axis=1)
    return np.asarray(running[:, days] - running[:, np.maximum(days - window, 0)], dtype=np.float64)


def with_leaving(world: World, leaving: Leaving) -> World:
    """Return the world in which these accounts leave on these days."""
    return replace(world, accounts=replace(world.accounts, churned=leaving.left))


def hazard_table(leaving: Leaving, account_ids: list[str], dates: pa.Array) -> pa.Table:
    """Return the truth by account and week as `HAZARD_SCHEMA`; ``dates`` are the weeks' first days."""
    weeks = np.arange(leaving.hazard.shape[1])
    there = (WEEK * weeks < leaving.left[:, None]) & ~np.isnan(leaving.drivers.refresh)
    account, week = np.nonzero(there)
    drivers = leaving.drivers
    values = (leaving.hazard, leaving.discontent, drivers.efficiency, drivers.refresh, drivers.pacing, drivers.age)
    columns = [pa.array(v[there], from_pandas=True) for v in values]
    ids = pa.array(account_ids, pa.string()).take(pa.array(account))
    return pa.table([dates.take(pa.array(week)), ids, *columns], schema=HAZARD_SCHEMA)
