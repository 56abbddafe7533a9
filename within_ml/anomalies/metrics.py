"""The metrics that are judged: what they are made of, and which direction is good for the advertiser.

| metric | is | above | below |
|---|---|---|---|
| impressions | count | good | bad |
| clicks | count | good, bad where they do not convert | bad |
| spend | money | neutral | neutral |
| conversions | count | good | bad |
| ctr | clicks / impressions | good, bad where the clicks do not convert | bad |
| cpc | spend / clicks | bad | good |
| cvr | conversions / clicks | good | bad |
| roas | revenue / spend | good | bad |

Spend has no direction: it is what the rest is bought with. "Do not convert": clicks rise and conversions stay where
they were (`signs.clicks_without_conversions`), as under click fraud.
"""

from __future__ import annotations

from dataclasses import dataclass

FACTS = ("impressions", "clicks", "spend", "conversions", "revenue")
"""What a row of performance brings; everything else is made of it."""

JOINT = "joint"
"""Stands as the metric of an account that is odd in several metrics together and in none of them alone."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A judged metric: ``value / base``, or ``value`` where base is None; ``good`` is the sign of a good change.

    ``driver`` says that it is no product of the others: a change of clicks is one of impressions or of ctr.
    """

    name: str
    value: str
    base: str | None
    good: int
    driver: bool


METRICS = (
    Metric("impressions", "impressions", None, 1, driver=True),
    Metric("clicks", "clicks", None, 1, driver=False),
    Metric("spend", "spend", None, 0, driver=False),
    Metric("conversions", "conversions", None, 1, driver=False),
    Metric("ctr", "clicks", "impressions", 1, driver=True),
    Metric("cpc", "spend", "clicks", -1, driver=True),
    Metric("cvr", "conversions", "clicks", 1, driver=True),
    Metric("roas", "revenue", "spend", 1, driver=False),
)
NAMES = tuple(metric.name for metric in METRICS)
VALUE = tuple(FACTS.index(metric.value) for metric in METRICS)
BASE = tuple(None if metric.base is None else FACTS.index(metric.base) for metric in METRICS)


def sign_of(metric: str, direction: str) -> str:
    """Return what a change means for the advertiser: good, bad or neutral.

    >>> sign_of("cpc", "above"), sign_of("conversions", "above"), sign_of("spend", "below")
    ('bad', 'good', 'neutral')
    """
    if metric not in NAMES:
        return "neutral"
    good = METRICS[NAMES.index(metric)].good * (1 if direction == "above" else -1)
    return {1: "good", 0: "neutral", -1: "bad"}[good]
