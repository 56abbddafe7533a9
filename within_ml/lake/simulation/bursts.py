"""Topics that burst in the simulated agency: for some weeks, ads with a phrase in their headline are clicked more.

What a headline says is in `creatives`; everything else that befalls ads in `events`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from within_ml.lake.simulation import vocabulary as words
from within_ml.lake.simulation.config import stream
from within_ml.lake.simulation.world import World

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

logger = logging.getLogger(__name__)

BURST_SCHEMA = pa.schema(
    [
        ("topic", pa.string()),
        ("kind", pa.string()),
        ("start_date", pa.date32()),
        ("end_date", pa.date32()),
        ("effect", pa.float64()),
        ("ads", pa.int64()),
    ]
)
"""Planted bursts: the phrase of the headlines, its kind (hook, adjective, product), both dates inclusive, the effect on
the logit of the ctr, and the ads with it that run on the first day."""

MIN_ADS, MIN_ACCOUNTS = 5, 3
"""A topic bursts only where so many ads with it, of so many accounts, run on the first day."""

WARM_UP, LENGTH, EFFECT = 36, (10, 21), (0.3, 0.6)
"""Days before the first burst; days of one; effect on the logit."""


@dataclass(frozen=True, slots=True, eq=False)
class Burst:
    """A burst, first and last day inclusive; ``ads`` is true for the ads with the topic."""

    topic: str
    kind: str
    start: int
    end: int
    effect: float
    ads: Mask
    running: int


def plan_bursts(world: World) -> tuple[Burst, ...]:
    """Plant bursts at random times; a topic bursts once at most."""
    config = world.config
    if config.bursts == 0 or config.days <= WARM_UP + LENGTH[0]:
        return ()
    rng = stream(config.seed, "bursts")
    topics = list(_topics(world))
    planted: list[Burst] = []
    for place in rng.permutation(len(topics)).tolist():
        if len(planted) == config.bursts:
            break
        kind, topic, ads = topics[place]
        length = int(rng.integers(*LENGTH))
        start = int(rng.integers(WARM_UP, config.days - LENGTH[0]))
        effect = round(float(rng.uniform(*EFFECT)), 3)
        live = ads & (world.ads.start <= start) & (start <= world.ads.end)
        accounts = np.unique(world.campaigns.account[world.ads.campaign[live]])
        if live.sum() >= MIN_ADS and accounts.size >= MIN_ACCOUNTS:
            end = min(start + length, config.days) - 1
            planted.append(Burst(topic, kind, start, end, effect, ads, int(live.sum())))
    if len(planted) < config.bursts:
        logger.info("planted %d of %d bursts: no other topic has enough ads", len(planted), config.bursts)
    return tuple(sorted(planted, key=lambda b: (b.start, b.topic)))


def _topics(world: World) -> Iterator[tuple[str, str, Mask]]:
    """Yield kind, phrase and ads of what a headline can say."""
    creatives = world.creatives
    industry = world.accounts.industry[world.campaigns.account[world.ads.campaign]]
    for number, adjective in enumerate(words.ADJECTIVES):
        if adjective:
            yield "adjective", adjective, creatives.adjective == number
    for theme_number, theme in enumerate(words.THEMES):
        for number, hook in enumerate(theme.hooks):
            yield "hook", hook, (creatives.theme == theme_number) & (creatives.hook == number)
    for industry_number, kind in enumerate(words.INDUSTRIES):
        for number, product in enumerate(kind.products):
            yield "product", product, (industry == industry_number) & (creatives.product == number)


def burst_effect(bursts: tuple[Burst, ...], live: Ints, day: int) -> Floats:
    """Return what the day's bursts add to the logit of each live ad's ctr."""
    effect = np.zeros(live.size)
    for burst in bursts:
        if burst.start <= day <= burst.end:
            effect += burst.effect * burst.ads[live]
    return effect


def bursts_table(bursts: tuple[Burst, ...], dates: Callable[[Ints], pa.Array]) -> pa.Table:
    """Return the planted bursts, `BURST_SCHEMA`."""
    return pa.table(
        [
            pa.array([b.topic for b in bursts], pa.string()),
            pa.array([b.kind for b in bursts], pa.string()),
            dates(np.array([b.start for b in bursts], dtype=np.int64)),
            dates(np.array([b.end for b in bursts], dtype=np.int64)),
            pa.array([b.effect for b in bursts], pa.float64()),
            pa.array([b.running for b in bursts], pa.int64()),
        ],
        schema=BURST_SCHEMA,
    )
