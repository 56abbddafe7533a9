"""Who exists in the simulated agency and what is true of it: regions, accounts, campaigns, ads, as arrays.

Days are whole numbers, 0 is the first simulated day; effects are on the logit scale. Ids, dates and Arrow tables belong
in `agency`, what happens on a day in `process`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from within_ml.lake.simulation import vocabulary as words
from within_ml.lake.simulation.config import SimulationConfig, stream
from within_ml.lake.simulation.creatives import Creatives, draw_creatives

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NEVER = 10**6
"""Day index of what does not happen."""

REGION_SCALE_KM = 800.0
"""Distance at which the correlation of two regions' effects has fallen to 1/e."""


@dataclass(frozen=True, slots=True)
class State:
    """A region: a US state, placed at its capital."""

    region: str
    state: str
    city: str
    latitude: float
    longitude: float
    population: int


@cache
def us_states() -> tuple[State, ...]:
    """Return the 50 states, ordered by region code.

    >>> len(us_states()), us_states()[0].city
    (50, 'Juneau')
    """
    text = files("within_ml").joinpath("lake/mappings/us_states.json").read_text(encoding="utf-8")
    return tuple(State(**row) for row in json.loads(text))


@dataclass(frozen=True, slots=True, eq=False)
class Accounts:
    """One value per account.

    A decline runs from ``decline_start`` to ``decline_end`` and ends in ``churned`` or in recovery; all three are
    `NEVER` for a healthy account.
    """

    industry: Ints
    name: Ints
    timezone: Ints
    ctr: Floats
    cvr: Floats
    cpc_factor: Floats
    order_value: Floats
    monthly_budget: Floats
    onboarded: Ints
    decline_start: Ints
    decline_end: Ints
    churned: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Campaigns:
    """One value per campaign, ordered by account and start; ``regions`` and the two beside it are (campaigns, regions).

    ``volume`` is the expected number of impressions a day before seasons; ``region_share`` sums to 1 per campaign.
    """

    account: Ints
    platform: Ints
    objective: Ints
    start: Ints
    end: Ints
    ctr: Floats
    cpc: Floats
    daily_budget: Floats
    volume: Floats
    regions: Ints
    region_share: Floats
    region_ctr: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Ads:
    """One value per ad, ordered by campaign and start. ``ctr`` is the sum of all effects that do not change by day."""

    campaign: Ints
    group: Ints
    start: Ints
    end: Ints
    created: Ints
    age: Ints
    gender: Ints
    weight: Floats
    fatigue: Floats
    ctr: Floats


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Everything that is drawn before the first day."""

    config: SimulationConfig
    region_ctr: Floats
    accounts: Accounts
    campaigns: Campaigns
    ads: Ads
    creatives: Creatives


def build_world(config: SimulationConfig) -> World:
    """Draw the agency's regions, accounts, campaigns and ads."""
    region_ctr = _region_effects(config)
    accounts = _accounts(config)
    campaigns = _campaigns(config, accounts, region_ctr)
    ads = _ads(config, accounts, campaigns)
    ads, campaigns = _drop_empty_campaigns(ads, campaigns)
    platform = campaigns.platform[ads.campaign]
    industry = accounts.industry[campaigns.account[ads.campaign]]
    creatives = draw_creatives(config, platform, industry, campaigns.account[ads.campaign])
    ads = _with_quality(config, accounts, campaigns, ads, creatives)
    return World(config, region_ctr, accounts, campaigns, ads, creatives)


def platform_effects(config: SimulationConfig) -> tuple[Floats, Floats]:
    """Return the platforms' base ctr (logit) and cpc (US dollars), in the configuration's order."""
    chosen = [words.PLATFORMS[name] for name in config.platforms]
    return np.array([p.ctr_logit for p in chosen]), np.array([p.cpc for p in chosen])


def distances_km(latitude: Floats, longitude: Floats) -> Floats:
    """Return great-circle distances between all pairs (haversine formula, radius 6,371 km), shape (n, n)."""
    lat, lon = np.radians(latitude), np.radians(longitude)
    half = (
        np.sin((lat[:, None] - lat) / 2) ** 2
        + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
    )
    return np.asarray(2 * 6371.0 * np.arcsin(np.sqrt(np.clip(half, 0, 1))), dtype=np.float64)


def _region_effects(config: SimulationConfig) -> Floats:
    """Draw a Gaussian field over the states, exponential covariance, standard deviation 0.12."""
    states = us_states()
    distance = distances_km(np.array([s.latitude for s in states]), np.array([s.longitude for s in states]))
    root = np.linalg.cholesky(np.exp(-distance / REGION_SCALE_KM) + 1e-9 * np.eye(len(states)))
    return np.asarray(0.12 * root @ stream(config.seed, "regions").standard_normal(len(states)), dtype=np.float64)


def _accounts(config: SimulationConfig) -> Accounts:
    rng = stream(config.seed, "accounts")
    n = config.accounts
    industry = rng.permutation(np.arange(n) % len(words.INDUSTRIES))
    order_value = np.array([i.order_value for i in words.INDUSTRIES])[industry] * rng.lognormal(0, 0.2, n)
    decline_start, decline_end, churned, onboarded = _histories(config)
    return Accounts(
        industry=industry,
        name=rng.integers(len(words.NAMES), size=n),
        timezone=rng.integers(len(words.TIMEZONES), size=n),
        ctr=rng.normal(0, 0.25, n),
        cvr=rng.normal(0, 0.25, n),
        cpc_factor=rng.lognormal(0, 0.15, n),
        order_value=order_value,
        monthly_budget=np.round(config.monthly_budget * rng.lognormal(0, 0.5, n), -2).clip(min=1.0),
        onboarded=onboarded,
        decline_start=decline_start,
        decline_end=decline_end,
        churned=churned,
    )


def _histories(config: SimulationConfig) -> tuple[Ints, Ints, Ints, Ints]:
    """Draw decline start, decline end, churn and onboarding days."""
    rng = stream(config.seed, "histories")
    n, days = config.accounts, config.days
    order = rng.permutation(n)
    # One day has no room for a decline; those who leave of their own do not decline by plan.
    planned = days > 1 and config.churn_model == "planned"
    churners = round(config.churn_share * n) if planned else 0
    scared = min(round(config.false_alarm_share * n), n - churners) if planned else 0
    joining = min(round(config.new_account_share * n), n - churners - scared)
    end = rng.integers(days // 4, days, size=n)
    length = rng.integers(28, 57, size=n)
    never = np.full(n, NEVER, dtype=np.int64)
    declining = order[: churners + scared]
    decline_start, decline_end, churned = never.copy(), never.copy(), never.copy()
    decline_start[declining] = (end - length)[declining]
    decline_end[declining] = end[declining]
    churned[order[:churners]] = np.maximum(end[order[:churners]], 1)
    onboarded = -rng.integers(60, 1500, size=n)
    late = order[n - joining :] if joining else order[:0]
    onboarded[late] = rng.integers(1, max(2, (2 * days) // 3), size=n)[late]
    return decline_start, decline_end, churned, onboarded


def _campaigns(config: SimulationConfig, accounts: Accounts, region_ctr: Floats) -> Campaigns:
    """Draw slots per account, and in each slot one campaign after another."""
    rng = stream(config.seed, "campaigns")
    slots = 1 + rng.poisson(config.campaigns_per_account - 1, size=config.accounts)
    owner = np.repeat(np.arange(config.accounts), slots)
    appetite = rng.gamma(3.0, size=owner.size)
    share = appetite / np.bincount(owner, weights=appetite)[owner]
    taste = rng.dirichlet(np.ones(len(config.platforms)), size=config.accounts).cumsum(axis=1)
    platform = (rng.random(owner.size)[:, None] > taste[owner, :-1]).sum(axis=1)
    slot, start, length = _flights(config, rng, accounts.onboarded[owner], accounts.churned[owner])
    order = np.lexsort((start, owner[slot]))
    slot, start, length = slot[order], start[order], length[order]
    n = slot.size
    account = owner[slot]
    objective = rng.choice(len(words.OBJECTIVES), size=n, p=(0.45, 0.25, 0.2, 0.1))
    base_ctr, base_cpc = platform_effects(config)
    industries = words.INDUSTRIES
    cpc_factor = np.array([i.cpc_factor for i in industries])[accounts.industry[account]]
    cpc = base_cpc[platform[slot]] * cpc_factor * accounts.cpc_factor[account] * rng.lognormal(0, 0.15, n)
    typical = expit(
        base_ctr[platform[slot]]
        + np.array([i.ctr_logit for i in industries])[accounts.industry[account]]
        + np.array(words.OBJECTIVE_CTR)[objective]
    )
    budget = np.round(accounts.monthly_budget[account] / 30.4 * share[slot], 2)
    regions, region_share = _targets(config, rng, n)
    return Campaigns(
        account=account,
        platform=platform[slot],
        objective=objective,
        start=start,
        end=start + length - 1,
        ctr=rng.normal(0, 0.2, n),
        cpc=cpc,
        daily_budget=budget,
        volume=budget / (cpc * typical),
        regions=regions,
        region_share=region_share,
        region_ctr=region_ctr[regions] + rng.normal(0, 0.05, regions.shape),
    )


def _flights(
    config: SimulationConfig, rng: np.random.Generator, onboarded: Ints, churned: Ints
) -> tuple[Ints, Ints, Ints]:
    """Return slot, first day and length (4 to 12 weeks) of each campaign; a slot of an old account is always busy."""
    rounds = (config.days + 7) // 28 + 3
    length = rng.integers(28, 85, size=(onboarded.size, rounds))
    step = length + rng.integers(0, 8, size=length.shape)
    running = -np.floor(rng.random(onboarded.size) * length[:, 0]).astype(np.int64)
    fresh = onboarded + rng.integers(0, 14, size=onboarded.size)
    first = np.where(onboarded < 0, running, fresh)
    start = first[:, None] + np.cumsum(step, axis=1) - step
    slot, column = np.nonzero(start < np.minimum(config.days + 7, churned)[:, None])
    return slot, start[slot, column], length[slot, column]


def _targets(config: SimulationConfig, rng: np.random.Generator, campaigns: int) -> tuple[Ints, Floats]:
    """Choose states without replacement, large ones more often, and split each campaign's impressions among them."""
    population = np.array([s.population for s in us_states()], dtype=np.float64)
    # The largest log weights + Gumbel noise are a weighted sample without replacement (Kool et al. 2019, section 3).
    keys = 0.7 * np.log(population) + rng.gumbel(size=(campaigns, population.size))
    regions = np.sort(np.argsort(-keys, axis=1)[:, : config.regions_per_campaign], axis=1)
    share = population[regions] ** 0.6 * rng.lognormal(0, 0.3, regions.shape)
    return regions, share / share.sum(axis=1, keepdims=True)


def _ads(config: SimulationConfig, accounts: Accounts, campaigns: Campaigns) -> Ads:
    """Draw ad slots per campaign, and in each slot one ad (2 to 8 weeks) after another until the campaign ends."""
    rng = stream(config.seed, "ads")
    slots = np.maximum(1, config.ads_per_campaign + rng.integers(-1, 2, size=campaigns.account.size))
    owner = np.repeat(np.arange(campaigns.account.size), slots)
    position = np.arange(owner.size) - np.repeat(np.cumsum(slots) - slots, slots)
    life = rng.integers(14, 57, size=(owner.size, 6))
    step = life + rng.integers(0, 3, size=life.shape)
    start = campaigns.start[owner][:, None] + np.cumsum(step, axis=1) - step
    created = start - rng.integers(1, 4, size=start.shape)
    churned = accounts.churned[campaigns.account[owner]]
    end = np.minimum(start + life - 1, np.minimum(campaigns.end[owner], churned - 1)[:, None])
    # A slot whose campaign ends within two weeks stays empty: nobody makes an ad for that.
    worth = start <= np.maximum(campaigns.start, campaigns.end - 13)[owner][:, None]
    slot, column = np.nonzero(worth & (end >= np.maximum(start, 0)) & (created < config.days))
    order = np.lexsort((slot, start[slot, column], owner[slot]))
    slot, column = slot[order], column[order]
    n = slot.size
    group_age = rng.integers(len(words.AGES), size=(campaigns.account.size, 2))
    group_gender = rng.choice(len(words.GENDERS), size=(campaigns.account.size, 2), p=(0.6, 0.2, 0.2))
    group = position[slot] % 2
    return Ads(
        campaign=owner[slot],
        group=group,
        start=start[slot, column],
        end=end[slot, column],
        created=created[slot, column],
        age=group_age[owner[slot], group],
        gender=group_gender[owner[slot], group],
        weight=rng.lognormal(0, 0.4, n),
        fatigue=config.fatigue * rng.lognormal(0, 0.4, n),
        ctr=np.zeros(n),
    )


def _drop_empty_campaigns(ads: Ads, campaigns: Campaigns) -> tuple[Ads, Campaigns]:
    """Keep the campaigns that have an ad."""
    kept, campaign = np.unique(ads.campaign, return_inverse=True)
    chosen = Campaigns(**{name: getattr(campaigns, name)[kept] for name in Campaigns.__slots__})
    return Ads(**{**{name: getattr(ads, name) for name in Ads.__slots__}, "campaign": campaign}), chosen


def _with_quality(
    config: SimulationConfig, accounts: Accounts, campaigns: Campaigns, ads: Ads, creatives: Creatives
) -> Ads:
    """Add up what does not change by day; platforms show the better of a campaign's ads more often."""
    account = campaigns.account[ads.campaign]
    ctr = (
        platform_effects(config)[0][campaigns.platform[ads.campaign]]
        + np.array([i.ctr_logit for i in words.INDUSTRIES])[accounts.industry[account]]
        + accounts.ctr[account]
        + campaigns.ctr[ads.campaign]
        + np.array(words.OBJECTIVE_CTR)[campaigns.objective[ads.campaign]]
        + np.array(words.AGE_CTR)[ads.age]
        + np.array(words.GENDER_CTR)[ads.gender]
        + creatives.quality
        + audience_match(ads, creatives)
    )
    weight = ads.weight * np.exp(0.6 * creatives.quality)
    return Ads(**{**{name: getattr(ads, name) for name in Ads.__slots__}, "ctr": ctr, "weight": weight})


def audience_match(ads: Ads, creatives: Creatives) -> Floats:
    """Return what each ad's theme does to the ctr in the ad's audience beyond what it does in all audiences."""
    effects, theme = creatives.effects, creatives.theme
    return np.asarray(effects.age_theme[ads.age, theme] + effects.gender_theme[ads.gender, theme], dtype=np.float64)


def expit(logit: Floats) -> Floats:
    """Return the logistic function.

    >>> expit(np.array([0.0]))
    array([0.5])
    """
    return np.asarray(1.0 / (1.0 + np.exp(-logit)), dtype=np.float64)
