"""The simulated agency's arrays as Arrow tables: ids, dates, texts.

Everything here is a change of form; effects are drawn in `world`, `creatives` and `events`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.simulation import vocabulary as words
from within_ml.lake.simulation.creatives import bodies, headlines
from within_ml.lake.simulation.events import Anomaly, Drift
from within_ml.lake.simulation.process import Cells, Facts, TrueRates
from within_ml.lake.simulation.world import NEVER, World, audience_match, us_states

Ints = npt.NDArray[np.int64]

TRUE_CTR_SCHEMA = pa.schema(
    [
        ("date", pa.date32()),
        ("platform", pa.string()),
        ("account_id", pa.string()),
        ("ad_id", pa.string()),
        ("true_ctr", pa.float64()),
        ("true_cvr", pa.float64()),
        ("impressions", pa.int64()),
    ]
)
"""True rates per date × ad, for the rows that `ad_performance` has."""

ANOMALY_SCHEMA = pa.schema(
    [
        ("account_id", pa.string()),
        ("platform", pa.string()),
        ("campaign_id", pa.string()),
        ("start_date", pa.date32()),
        ("end_date", pa.date32()),
        ("metric", pa.string()),
        ("cause", pa.string()),
        ("factor", pa.float64()),
    ]
)
"""Planted anomalies; platform and campaign are null where a whole account is hit, both dates are inclusive."""

CHURN_SCHEMA = pa.schema(
    [
        ("account_id", pa.string()),
        ("decline_start", pa.date32()),
        ("lowest_date", pa.date32()),
        ("churned_date", pa.date32()),
        ("recovered_date", pa.date32()),
    ]
)
"""Accounts that decline; they have either a churned_date (no rows from that day on) or a recovered_date.

Accounts that leave without a planned decline have nothing but a churned_date.
"""

EFFECT_SCHEMA = pa.schema([("kind", pa.string()), ("key", pa.string()), ("effect", pa.float64())])
"""Effects on the logit of the true ctr, by kind and key; ``drift_…`` kinds hold from the drift day on."""


def ids(prefix: str, count: int, digits: int) -> list[str]:
    """Return readable ids that sort in order.

    >>> ids("acc", 2, 4)
    ['acc-0001', 'acc-0002']
    """
    width = max(digits, len(str(count)))
    return [f"{prefix}-{number:0{width}d}" for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """The ids of everything, each once per ad so that rows are made by one take."""

    account: list[str]
    campaign: list[str]
    ad: pa.Array
    ad_account: pa.Array
    ad_campaign: pa.Array
    ad_group: pa.Array
    ad_platform: pa.Array
    region: pa.Array


def name_everything(world: World) -> Names:
    """Give ids to accounts, campaigns, ad groups, ads and regions."""
    account = ids("acc", world.config.accounts, 4)
    campaign = ids("cmp", world.campaigns.account.size, 6)
    of = world.ads.campaign
    group = [f"grp-{campaign[c][4:]}-{g + 1}" for c, g in zip(of.tolist(), world.ads.group.tolist(), strict=True)]
    return Names(
        account=account,
        campaign=campaign,
        ad=pa.array(ids("ad", of.size, 7), pa.string()),
        ad_account=_take(account, world.campaigns.account[of]),
        ad_campaign=_take(campaign, of),
        ad_group=pa.array(group, pa.string()),
        ad_platform=_take(world.config.platforms, world.campaigns.platform[of]),
        region=pa.array([s.region for s in us_states()], pa.string()),
    )


def _take(values: Iterable[str], codes: Ints) -> pa.Array:
    return pa.array(list(values), pa.string()).take(pa.array(codes))


def dates(world: World, days: Ints) -> pa.Array:
    """Return day indices as dates, null for `NEVER`."""
    first = (world.config.start_date - date(1970, 1, 1)).days
    return pa.array((days + first).astype(np.int32), mask=days >= NEVER).cast(pa.date32())


def _table(name: str, columns: dict[str, pa.Array]) -> pa.Table:
    schema = CONTRACTS[name].schema
    size = len(next(iter(columns.values())))
    return pa.Table.from_arrays(
        [columns.get(f.name, pa.nulls(size, f.type)).cast(f.type) for f in schema], schema=schema
    )


def regions_table() -> pa.Table:
    """Return the contract table ``regions``: the 50 states at their capitals."""
    states = us_states()
    return _table(
        "regions",
        {
            "region": pa.array([s.region for s in states]),
            "country": pa.array(["US"] * len(states)),
            "state": pa.array([s.state for s in states]),
            "city": pa.array([s.city for s in states]),
            "latitude": pa.array([s.latitude for s in states]),
            "longitude": pa.array([s.longitude for s in states]),
            "population": pa.array([float(s.population) for s in states]),
        },
    )


def accounts_table(world: World, names: Names) -> pa.Table:
    """Return the contract table ``accounts``, in its final state: ``churned_date`` is knowledge of the last day."""
    accounts, n = world.accounts, world.config.accounts
    industry = accounts.industry.tolist()
    titles = [
        f"{words.NAMES[k]} {words.INDUSTRIES[i].suffix}" for k, i in zip(accounts.name.tolist(), industry, strict=True)
    ]
    return _table(
        "accounts",
        {
            "account_id": pa.array(names.account),
            "name": pa.array(titles),
            "industry": _take([i.name for i in words.INDUSTRIES], accounts.industry),
            "country": pa.array(["US"] * n),
            "timezone": _take(words.TIMEZONES, accounts.timezone),
            "currency": pa.array(["USD"] * n),
            "monthly_budget": pa.array(accounts.monthly_budget),
            "onboarded_date": dates(world, accounts.onboarded),
            "churned_date": dates(world, accounts.churned),
        },
    )


def campaigns_table(world: World, names: Names) -> pa.Table:
    """Return the contract table ``campaigns``; ``end_date`` is as planned, also where the account leaves before."""
    campaigns = world.campaigns
    return _table(
        "campaigns",
        {
            "platform": _take(world.config.platforms, campaigns.platform),
            "account_id": _take(names.account, campaigns.account),
            "campaign_id": pa.array(names.campaign),
            "objective": _take(words.OBJECTIVES, campaigns.objective),
            "daily_budget": pa.array(campaigns.daily_budget),
            "start_date": dates(world, campaigns.start),
            "end_date": dates(world, campaigns.end),
        },
    )


def ads_table(world: World, names: Names) -> pa.Table:
    """Return the contract table ``ads``: one version per ad, known one to three days before it starts."""
    ads, creatives = world.ads, world.creatives
    industry = world.accounts.industry[world.campaigns.account[ads.campaign]]
    image = image_ids(world)
    created = dates(world, ads.created)
    return _table(
        "ads",
        {
            "platform": names.ad_platform,
            "account_id": names.ad_account,
            "campaign_id": names.ad_campaign,
            "ad_group_id": names.ad_group,
            "ad_id": names.ad,
            "headline": pa.array(headlines(creatives, industry), pa.string()),
            "body": pa.array(bodies(creatives, industry), pa.string()),
            "call_to_action": _take(words.CALLS_TO_ACTION, creatives.call_to_action),
            "format": _take(words.FORMATS, creatives.format),
            "image_id": _take(image, creatives.image),
            "image_path": _take([image_path(i) for i in image], creatives.image),
            "audience_age": _take(words.AGES, ads.age),
            "audience_gender": _take(words.GENDERS, ads.gender),
            "interests": _take([i.interests for i in words.INDUSTRIES], industry),
            "created_at": created,
            "valid_from": created,
        },
    )


def image_ids(world: World) -> list[str]:
    """Return the ids of all images, in order."""
    return ids("img", len(world.creatives.looks), 5)


def image_path(image_id: str) -> str:
    """Return an image's path below the landing folder.

    >>> image_path("img-00001")
    'images/img-00001.png'
    """
    return f"images/{image_id}.png"


def performance_table(world: World, names: Names, day: int, cells: Cells, facts: Facts) -> pa.Table:
    """Return one day of the contract table ``ad_performance``, in its sort order."""
    ad = pa.array(cells.ad)
    return _table(
        "ad_performance",
        {
            "date": dates(world, np.full(cells.ad.size, day)),
            "platform": names.ad_platform.take(ad),
            "account_id": names.ad_account.take(ad),
            "campaign_id": names.ad_campaign.take(ad),
            "ad_group_id": names.ad_group.take(ad),
            "ad_id": names.ad.take(ad),
            "region": names.region.take(pa.array(cells.region)),
            "impressions": pa.array(cells.impressions),
            "clicks": pa.array(facts.clicks),
            "spend": pa.array(facts.spend),
            "conversions": pa.array(facts.conversions),
            "revenue": pa.array(facts.revenue),
        },
    )


def true_ctr_table(world: World, names: Names, day: int, rates: TrueRates) -> pa.Table:
    """Return one day of true rates, `TRUE_CTR_SCHEMA`."""
    ad = pa.array(rates.ad)
    return pa.table(
        [
            dates(world, np.full(rates.ad.size, day)),
            names.ad_platform.take(ad),
            names.ad_account.take(ad),
            names.ad.take(ad),
            pa.array(rates.ctr),
            pa.array(rates.cvr),
            pa.array(rates.impressions),
        ],
        schema=TRUE_CTR_SCHEMA,
    )


def anomalies_table(world: World, names: Names, anomalies: tuple[Anomaly, ...]) -> pa.Table:
    """Return the planted anomalies, `ANOMALY_SCHEMA`."""
    narrow = [not a.cause.whole_account for a in anomalies]
    platform = [world.config.platforms[world.campaigns.platform[a.campaign]] for a in anomalies]
    return pa.table(
        [
            pa.array([names.account[a.account] for a in anomalies], pa.string()),
            pa.array([p if only else None for p, only in zip(platform, narrow, strict=True)], pa.string()),
            pa.array(
                [names.campaign[a.campaign] if only else None for a, only in zip(anomalies, narrow, strict=True)],
                pa.string(),
            ),
            dates(world, np.array([a.start for a in anomalies], dtype=np.int64)),
            dates(world, np.array([a.end for a in anomalies], dtype=np.int64)),
            pa.array([a.cause.metric for a in anomalies], pa.string()),
            pa.array([a.cause.name for a in anomalies], pa.string()),
            pa.array([a.factor for a in anomalies], pa.float64()),
        ],
        schema=ANOMALY_SCHEMA,
    )


def churn_table(world: World, names: Names) -> pa.Table:
    """Return the accounts that decline, `CHURN_SCHEMA`."""
    accounts = world.accounts
    chosen = np.flatnonzero((accounts.decline_start < NEVER) | (accounts.churned < NEVER))
    start, end, churned = accounts.decline_start[chosen], accounts.decline_end[chosen], accounts.churned[chosen]
    leaves = churned < NEVER
    return pa.table(
        [
            _take(names.account, chosen),
            dates(world, start),
            dates(world, np.where(start >= NEVER, NEVER, np.where(leaves, end - 1, (start + end) // 2))),
            dates(world, churned),
            dates(world, np.where(leaves, NEVER, end)),
        ],
        schema=CHURN_SCHEMA,
    )


def effects_table(world: World, names: Names, drift: Drift) -> pa.Table:
    """Return the effects behind the true ctr, `EFFECT_SCHEMA`."""
    rows = list(_effects(world, names, drift))
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(column) for column in columns], schema=EFFECT_SCHEMA)


def _effects(world: World, names: Names, drift: Drift) -> Iterator[tuple[str, str, float]]:
    config, effects = world.config, world.creatives.effects
    strength = config.weekday_strength
    themes = [t.name for t in words.THEMES]
    keyed: dict[str, tuple[Iterable[str], Iterable[float]]] = {
        "platform": (config.platforms, [words.PLATFORMS[p].ctr_logit for p in config.platforms]),
        "industry": ([i.name for i in words.INDUSTRIES], [i.ctr_logit for i in words.INDUSTRIES]),
        "region": ([s.region for s in us_states()], world.region_ctr.tolist()),
        "account": (names.account, world.accounts.ctr.tolist()),
        "campaign": (names.campaign, world.campaigns.ctr.tolist()),
        "creative": (names.ad.to_pylist(), world.creatives.quality.tolist()),
        "text": (names.ad.to_pylist(), world.creatives.text_effect.tolist()),
        "audience_match": (names.ad.to_pylist(), audience_match(world.ads, world.creatives).tolist()),
        "theme": (themes, effects.theme.tolist()),
        "adjective": (words.ADJECTIVES, effects.adjective.tolist()),
        "drift_platform": (config.platforms, drift.platform.tolist()),
        "drift_theme": (themes, drift.theme.tolist()),
    }
    for kind, (keys, values) in keyed.items():
        yield from ((kind, key, value) for key, value in zip(keys, values, strict=True))
    for segments, table in ((words.AGES, effects.age_theme), (words.GENDERS, effects.gender_theme)):
        for segment, row in zip(segments, table.tolist(), strict=True):
            yield from (("audience_theme", f"{segment}/{t}", value) for t, value in zip(themes, row, strict=True))
    for industry in words.INDUSTRIES:
        for weekday, effect in enumerate(words.WEEKDAY_CTR[industry.rhythm], start=1):
            yield "weekday", f"{industry.name}/{weekday}", strength * effect
