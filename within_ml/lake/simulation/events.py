"""What befalls accounts and campaigns of the simulated agency: decline, planted anomalies, drift.

Each event is a factor or a logit shift on a day; what follows from it is drawn in `process`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from within_ml.lake.simulation import vocabulary as words
from within_ml.lake.simulation.config import SimulationConfig, stream
from within_ml.lake.simulation.world import NEVER, Accounts, World

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

logger = logging.getLogger(__name__)

DECLINE_CTR = -0.5
DECLINE_CVR = -0.4
DECLINE_VOLUME = 0.75
"""At the end of a decline: logit shifts of ctr and cvr, and the share of impressions that is lost."""

QUIET_DAYS = 14
"""Normal days before an anomaly, since its campaign's start and since the account's last anomaly."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an anomaly happens: the metric that shows it and the factor on it; ``whole_account`` hits all campaigns."""

    name: str
    metric: str
    factor: float
    whole_account: bool = False


CAUSES = (
    Cause("budget_raised", "impressions", 2.5),
    Cause("creative_rejected", "impressions", 0.1),
    Cause("click_fraud", "ctr", 2.5),
    Cause("bid_war", "cpc", 2.2),
    Cause("landing_page_down", "cvr", 0.05),
    Cause("tracking_outage", "cvr", 0.0, whole_account=True),
)


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A planted anomaly, first and last day inclusive; ``factor`` multiplies ``cause.metric``."""

    campaign: int
    account: int
    start: int
    end: int
    cause: Cause
    factor: float


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """From ``day`` on: a logit shift of the first platform and one of each theme."""

    day: int
    platform: Floats
    theme: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Fortunes:
    """Ups and downs of accounts: shifts of logit ctr and cvr, log cpc and log volume, each of shape (accounts, weeks).

    A week's value holds on its first day; between two weeks they change evenly.
    """

    ctr: Floats
    cvr: Floats
    cpc: Floats
    volume: Floats


def fortune(paths: Floats, day: int) -> Floats:
    """Return one path's value of each account on a day.

    >>> fortune(np.array([[0.0, 7.0]]), 3)
    array([3.])
    """
    week, rest = divmod(day, 7)
    return np.asarray(paths[:, week] + (paths[:, week + 1] - paths[:, week]) * (rest / 7), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Factors of one day, one value per campaign."""

    impressions: Floats
    ctr: Floats
    cvr: Floats
    cpc: Floats


def decline(accounts: Accounts, day: int) -> Floats:
    """Return how far each account's decline has come, 0 to 1.

    It grows evenly until an account churns; one that recovers is at its lowest halfway and back to normal at the end.
    """
    length = np.maximum(accounts.decline_end - accounts.decline_start, 1)
    progress = np.clip((day - accounts.decline_start) / length, 0, 1)
    recovering = np.minimum(2 * progress, 2 * (1 - progress))
    return np.asarray(np.where(accounts.churned < NEVER, progress, recovering), dtype=np.float64)


def plan_drift(config: SimulationConfig) -> Drift:
    """Draw what changes on the drift day: the first platform's level falls and tastes change."""
    platform = np.zeros(len(config.platforms))
    platform[0] = -config.drift_size
    taste = stream(config.seed, "drift").standard_normal(len(words.THEMES))
    return Drift(config.drift_day, platform, 0.5 * config.drift_size * taste)


def plant_anomalies(world: World) -> tuple[Anomaly, ...]:
    """Plant anomalies of 1 to 5 days in healthy, running campaigns; in an account they never overlap."""
    config = world.config
    rng = stream(config.seed, "anomalies")
    planted: list[Anomaly] = []
    taken: dict[int, list[tuple[int, int]]] = {}
    for campaign in rng.permutation(world.campaigns.account.size).tolist():
        if len(planted) == config.anomalies:
            break
        length = int(rng.integers(1, 6))
        span = _room(world, campaign, length)
        if span is None:
            continue
        start = int(rng.integers(*span))
        account = int(world.campaigns.account[campaign])
        busy = taken.setdefault(account, [])
        if any(start - QUIET_DAYS <= last and first <= start + length + QUIET_DAYS for first, last in busy):
            continue
        busy.append((start, start + length - 1))
        cause = CAUSES[len(planted) % len(CAUSES)]
        factor = round(cause.factor ** float(rng.uniform(0.85, 1.15)), 3)
        planted.append(Anomaly(campaign, account, start, start + length - 1, cause, factor))
    if len(planted) < config.anomalies:
        logger.info("planted %d of %d anomalies: no room for more", len(planted), config.anomalies)
    return tuple(sorted(planted, key=lambda a: (a.start, a.account)))


def _room(world: World, campaign: int, length: int) -> tuple[int, int] | None:
    """Return the first start and the day after the last one, or None without room for ``length`` days."""
    campaigns, accounts = world.campaigns, world.accounts
    account = campaigns.account[campaign]
    # Ads of a campaign's last two weeks are not replaced: the anomaly must hit days with ads.
    first = max(int(campaigns.start[campaign]), 0) + QUIET_DAYS
    last = min(int(campaigns.end[campaign]) - QUIET_DAYS, world.config.days - 1)
    leaves = accounts.churned[account] < NEVER
    if accounts.decline_start[account] <= last and (leaves or first <= accounts.decline_end[account]):
        last = min(last, int(accounts.decline_start[account]) - 1)
    return (first, last - length + 2) if last - length + 1 >= first else None


def day_factors(world: World, anomalies: tuple[Anomaly, ...], day: int) -> Factors:
    """Return the factors of one day per campaign; click fraud does not convert."""
    n = world.campaigns.account.size
    by_metric = {metric: np.ones(n) for metric in ("impressions", "ctr", "cvr", "cpc")}
    for anomaly in anomalies:
        if anomaly.start <= day <= anomaly.end:
            mine = world.campaigns.account == anomaly.account
            hit = mine if anomaly.cause.whole_account else np.arange(n) == anomaly.campaign
            by_metric[anomaly.cause.metric][hit] *= anomaly.factor
            if anomaly.cause.metric == "ctr":
                by_metric["cvr"][hit] /= anomaly.factor
    return Factors(**by_metric)
