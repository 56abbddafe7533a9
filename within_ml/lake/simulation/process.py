"""One day of the simulated agency: true rates, then impressions, clicks, conversions and money drawn from them.

A day is drawn from its own random streams and from what is fixed in advance (`world`, `events`), never from another
day, so that days can be drawn in any order and in chunks of any size. The true rate of a click is

    logit(ctr) = platform + industry + account + campaign + objective + audience + creative      (fixed per ad)
               + region + weekday + season + fatigue(age) + decline + drift + daily noise        (by day)

times the factor of an anomaly; clicks are binomial given impressions. Where accounts have fortunes, those shift ctr,
cvr, cost and volume too; where topics burst, the ctr of their ads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from within_ml.lake.simulation import vocabulary as words
from within_ml.lake.simulation.bursts import Burst, burst_effect
from within_ml.lake.simulation.config import stream
from within_ml.lake.simulation.events import (
    DECLINE_CTR,
    DECLINE_CVR,
    DECLINE_VOLUME,
    Anomaly,
    Drift,
    Factors,
    Fortunes,
    day_factors,
    decline,
    fortune,
)
from within_ml.lake.simulation.world import World, expit

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DELAY = (0.45, 0.20, 0.12, 0.09, 0.06, 0.05, 0.03)
"""Share of a day's conversions that arrive 0 to 6 days after the click."""

MATURE_LAG = len(DELAY) - 1
"""Days after which all conversions of a day have arrived."""

FATIGUE_DAYS = 14.0


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Ad × region cells of a day that were shown at all, ordered by ad and region.

    ``ctr`` is the probability at which each impression is clicked, ``cvr`` the one at which a click converts,
    ``cpc`` the expected cost per click in US dollars.
    """

    ad: Ints
    region: Ints
    impressions: Ints
    ctr: Floats
    cvr: Floats
    cpc: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What each cell brought; money in US dollars."""

    clicks: Ints
    spend: Floats
    conversions: Floats
    revenue: Floats


@dataclass(frozen=True, slots=True, eq=False)
class TrueRates:
    """True rates per ad: ``ctr`` and ``cvr`` are means over regions, weighted by impressions and expected clicks."""

    ad: Ints
    impressions: Ints
    ctr: Floats
    cvr: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """The agency's days; what they give depends on nothing but the configuration and the day."""

    world: World
    anomalies: tuple[Anomaly, ...]
    drift: Drift
    fortunes: Fortunes | None = None
    bursts: tuple[Burst, ...] = ()

    def cells(self, day: int) -> Cells:
        """Return who was shown where how often on a day, and at what true rates."""
        cells = self._drawn_cells(day)
        if self.fortunes is None:
            return cells
        # Accounts that left are drawn and dropped: the draws of the others do not depend on who has left.
        there = day < self.world.accounts.churned[self.world.campaigns.account[self.world.ads.campaign[cells.ad]]]
        return Cells(*(getattr(cells, name)[there] for name in Cells.__slots__))

    def _fortune(self, name: str, day: int, campaign: Ints) -> Floats:
        """Return a shift of each campaign's account."""
        shift: Floats = fortune(getattr(self.fortunes, name), day)[self.world.campaigns.account[campaign]]
        return shift

    def _drawn_cells(self, day: int) -> Cells:
        world, campaigns = self.world, self.world.campaigns
        factors = day_factors(world, self.anomalies, day)
        live = np.flatnonzero((world.ads.start <= day) & (day <= world.ads.end))
        campaign = world.ads.campaign[live]
        expected = self._volume(live, day, factors)[:, None] * campaigns.region_share[campaign]
        impressions = self._stream("impressions", day).poisson(expected)
        row, column = np.nonzero(impressions)
        row_campaign = campaign[row]
        logit = self._ctr_logit(live, day)[row] + campaigns.region_ctr[row_campaign, column]
        ctr = np.minimum(expit(logit) * factors.ctr[row_campaign], 0.95)
        cvr = expit(self._cvr_logit(live, day))[row] * factors.cvr[row_campaign]
        cpc = campaigns.cpc[row_campaign] * factors.cpc[row_campaign]
        if self.fortunes is not None:
            cpc = cpc * np.exp(self._fortune("cpc", day, row_campaign))
        regions = campaigns.regions[row_campaign, column]
        return Cells(live[row], regions, impressions[row, column], ctr, cvr, cpc)

    def facts(self, cells: Cells, day: int, lag: int = MATURE_LAG) -> Facts:
        """Draw a day's clicks, conversions and money; of the conversions, those that arrived within ``lag`` days."""
        clicks = self._stream("clicks", day).binomial(cells.impressions, cells.ctr)
        conversions = self._stream("conversions", day).binomial(clicks, cells.cvr)
        money = self._stream("money", day)
        spend = clicks * cells.cpc * np.exp(money.normal(-0.005, 0.1, clicks.size))
        account = self.world.campaigns.account[self.world.ads.campaign[cells.ad]]
        value = self.world.accounts.order_value[account] * np.exp(money.normal(-0.02, 0.2, clicks.size))
        arrived = conversions
        if lag < MATURE_LAG:
            arrived = arrived_within(conversions, lag, self._stream("delay", day))
        return Facts(clicks, np.round(spend, 2), arrived.astype(np.float64), np.round(arrived * value, 2))

    def true_rates(self, cells: Cells) -> TrueRates:
        """Return the true rates of a day per ad that was shown."""
        if cells.ad.size == 0:
            return TrueRates(cells.ad, cells.impressions, cells.ctr, cells.cvr)
        first = np.flatnonzero(np.diff(cells.ad, prepend=-1))
        impressions = np.add.reduceat(cells.impressions, first)
        clicks = np.add.reduceat(cells.impressions * cells.ctr, first)
        conversions = np.add.reduceat(cells.impressions * cells.ctr * cells.cvr, first)
        return TrueRates(cells.ad[first], impressions, clicks / impressions, conversions / clicks)

    def _stream(self, name: str, day: int) -> np.random.Generator:
        return stream(self.world.config.seed, name, day)

    def _volume(self, live: Ints, day: int, factors: Factors) -> Floats:
        """Return the expected impressions of each live ad: its campaign's, split by weight among the live ads."""
        world = self.world
        campaigns, ads = world.campaigns, world.ads
        account = campaigns.account
        industry = world.accounts.industry[account]
        volume = campaigns.volume * self._by_industry(day, _volume_factor)[industry] * factors.impressions
        volume = volume * (1 - DECLINE_VOLUME * decline(world.accounts, day)[account])
        volume = volume * self._stream("campaign_volume", day).lognormal(0, 0.12, volume.size)
        if self.fortunes is not None:
            volume = volume * np.exp(self._fortune("volume", day, np.arange(volume.size)))
        campaign = ads.campaign[live]
        weight = ads.weight[live] * self._stream("ad_volume", day).lognormal(0, 0.2, live.size)
        total = np.bincount(campaign, weights=weight, minlength=volume.size)
        return np.asarray(volume[campaign] * weight / total[campaign], dtype=np.float64)

    def _ctr_logit(self, live: Ints, day: int) -> Floats:
        """Return the logit of each live ad before its region's effect."""
        world = self.world
        campaign = world.ads.campaign[live]
        account = world.campaigns.account[campaign]
        logit = (
            world.ads.ctr[live]
            + self._by_industry(day, self._season_and_weekday)[world.accounts.industry[account]]
            - world.ads.fatigue[live] * np.log1p((day - world.ads.start[live]) / FATIGUE_DAYS)
            + DECLINE_CTR * decline(world.accounts, day)[account]
            + self._stream("ctr", day).normal(0, world.config.daily_noise, live.size)
        )
        if self.fortunes is not None:
            logit += self._fortune("ctr", day, campaign)
        if day >= self.drift.day:
            logit += self.drift.platform[world.campaigns.platform[campaign]]
            logit += self.drift.theme[world.creatives.theme[live]]
        if self.bursts:
            logit += burst_effect(self.bursts, live, day)
        return np.asarray(logit, dtype=np.float64)

    def _cvr_logit(self, live: Ints, day: int) -> Floats:
        world = self.world
        campaign = world.ads.campaign[live]
        account = world.campaigns.account[campaign]
        industry_cvr = np.array([i.cvr_logit for i in words.INDUSTRIES])
        platform_cvr = np.array([words.PLATFORMS[name].cvr_logit for name in world.config.platforms])
        logit = (
            platform_cvr[world.campaigns.platform[campaign]]
            + industry_cvr[world.accounts.industry[account]]
            + world.accounts.cvr[account]
            + np.array(words.OBJECTIVE_CVR)[world.campaigns.objective[campaign]]
            + DECLINE_CVR * decline(world.accounts, day)[account]
        )
        if self.fortunes is not None:
            logit = logit + self._fortune("cvr", day, campaign)
        return np.asarray(logit, dtype=np.float64)

    def _by_industry(self, day: int, value: Callable[[words.Industry, int, float], float]) -> Floats:
        """Return a value per industry, from its weekday and its season in [-1, 1]."""
        today = self.world.config.start_date + timedelta(days=day)
        year_day, weekday = today.timetuple().tm_yday, today.weekday()
        seasons = [np.cos(2 * np.pi * (year_day - i.season_peak) / 365.25) for i in words.INDUSTRIES]
        return np.array([value(i, weekday, s) for i, s in zip(words.INDUSTRIES, seasons, strict=True)])

    def _season_and_weekday(self, industry: words.Industry, weekday: int, season: float) -> float:
        strength = self.world.config.weekday_strength
        return strength * words.WEEKDAY_CTR[industry.rhythm][weekday] + 0.5 * industry.season_size * season


def _volume_factor(industry: words.Industry, weekday: int, season: float) -> float:
    return words.WEEKDAY_VOLUME[industry.rhythm][weekday] * float(np.exp(industry.season_size * season))


def arrived_within(conversions: Ints, lag: int, rng: np.random.Generator) -> Ints:
    """Return how many of the conversions arrived within ``lag`` days, each lag's share by `DELAY`.

    Later lags draw after earlier ones from the same stream: what has arrived by a day never becomes less later.

    >>> all_of_them = np.array([100, 3])
    >>> bool((arrived_within(all_of_them, 6, np.random.default_rng(1)) == all_of_them).all())
    True
    """
    if lag >= MATURE_LAG:
        return conversions
    missing = conversions
    left = 1.0
    for share in DELAY[: lag + 1]:
        missing = missing - rng.binomial(missing, share / left)
        left -= share
    return conversions - missing
