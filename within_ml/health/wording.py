"""How an indicator's part in an account's risk is said. Which parts there are is computed in `explanation`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from within_ml.explain.wording import meaning

_TYPICAL = "a typical account's"
_LARGEST_LOG = 3.0


class Said(StrEnum):
    """How a value is said."""

    CHANGE = "change"
    """A log ratio, as percent above or below what it is beside."""
    SHARE = "share"
    NUMBER = "number"
    RATE = "rate"
    DAYS = "days"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Phrase:
    """What an indicator says: those of one ``group`` are told as one factor.

    >>> phrase("ctr_7d_vs_28d").told(-0.26, 0.0)
    'click rate of 7 days 23% below the three weeks before'
    >>> phrase("creative_refresh").told(0.05, 0.4)
    "share of impressions on ads younger than 14 days 5% against a typical account's 40%"
    """

    group: str
    subject: str
    said: Said
    beside: str = "the weeks before"

    def told(self, value: float, usual: float) -> str:
        """Say a value beside the typical one; NaN is "not known"."""
        if math.isnan(value):
            return f"{self.subject} not known"
        if self.said is Said.CHANGE:
            change = f"{abs(math.expm1(min(value, _LARGEST_LOG))):.0%}"
            side = "above" if value > 0 else "below"
            return (
                f"{self.subject} as in {self.beside}"
                if change == "0%"
                else f"{self.subject} {change} {side} {self.beside}"
            )
        here, typical = self._value(value), "" if math.isnan(usual) else self._value(usual)
        return f"{self.subject} {here}" + (f" against {_TYPICAL} {typical}" if typical not in ("", here) else "")

    def _value(self, value: float) -> str:
        if self.said is Said.SHARE:
            return f"{value:.0%}"
        if self.said is Said.RATE:
            return f"{100 * value:.2f}%"
        return f"{value:,.0f}" if self.said is Said.DAYS or abs(value) >= 100 else f"{value:.3g}"


def phrase(feature: str) -> Phrase:
    """Return what an indicator means; one that the table does not name speaks by its own name."""
    if feature in PHRASES:
        return PHRASES[feature]
    known = meaning(feature)
    return Phrase(known.group, known.subject, Said.NUMBER)


def points_of_risk(points: float) -> str:
    """Say a change of the risk in percentage points.

    >>> points_of_risk(6.12), points_of_risk(-0.04)
    ('+6.1 points of risk', '-0.04 points of risk')
    """
    if abs(points) < 0.005:
        return "less than 0.01 points of risk"
    return f"{points:+.1f} points of risk" if abs(points) >= 0.095 else f"{points:+.2f} points of risk"


def _changes() -> dict[str, Phrase]:
    nouns = {
        "clicks": ("engagement", "clicks"), "impressions": ("volume", "impressions"), "spend": ("spend", "spend"),
        "ctr": ("engagement", "click rate"), "roas": ("efficiency", "return on spend"),
        "cpc": ("cost", "cost per click"), "cpa": ("cost", "cost per conversion"),
        "cvr": ("conversion", "conversions per click"), "frequency": ("audience", "frequency"),
    }  # fmt: skip
    found = {}
    for name, (group, noun) in nouns.items():
        for recent, longer, beside in ((7, 28, "the three weeks before"), (28, 90, "the two months before")):
            found[f"{name}_{recent}d_vs_{longer}d"] = Phrase(group, f"{noun} of {recent} days", Said.CHANGE, beside)
    return found


PHRASES: Mapping[str, Phrase] = MappingProxyType(
    {
        **_changes(),
        "engagement_trend": Phrase("engagement", "weekly clicks", Said.CHANGE, "the week before, over 28 days"),
        "spend_efficiency": Phrase("efficiency", "efficiency of 28 days", Said.CHANGE, "the two months before"),
        "ctr_28d": Phrase("engagement_level", "click rate of 28 days", Said.RATE),
        "cpc_28d": Phrase("cost_level", "cost per click of 28 days", Said.NUMBER),
        "cvr_28d": Phrase("conversion_level", "conversions per click of 28 days", Said.RATE),
        "roas_28d": Phrase("efficiency_level", "return on spend of 28 days", Said.NUMBER),
        "budget_pacing_7d": Phrase("pacing", "spend of 7 days beside the budget", Said.SHARE),
        "budget_pacing_28d": Phrase("pacing", "spend of 28 days beside the budget", Said.SHARE),
        "reach_saturation": Phrase("audience", "saturation of the audience", Said.INDEX),
        "frequency": Phrase("audience", "impressions a day per audience", Said.NUMBER),
        "fatigue": Phrase("creatives", "weekly change of the ads' own click rate", Said.RATE),
        "creative_refresh": Phrase("creatives", "share of impressions on ads younger than 14 days", Said.SHARE),
        "newest_ad_days": Phrase("creatives", "days since the newest ad", Said.DAYS),
        "active_ads": Phrase("creatives", "active ads", Said.DAYS),
        "audience_concentration": Phrase("audience", "concentration on few audiences", Said.INDEX),
        "region_concentration": Phrase("regions", "concentration on few regions", Said.INDEX),
        "audience_overlap": Phrase("audience", "overlap of the ads' audiences", Said.SHARE),
        "ctr_percentile_90d": Phrase("own_past", "click rate's place in the last 90 days", Said.SHARE),
        "ctr_percentile_180d": Phrase("own_past", "click rate's place in the last 180 days", Said.SHARE),
        "roas_percentile_90d": Phrase("own_past", "return's place in the last 90 days", Said.SHARE),
        "roas_percentile_180d": Phrase("own_past", "return's place in the last 180 days", Said.SHARE),
        "clicks_percentile_90d": Phrase("own_past", "clicks' place in the last 90 days", Said.SHARE),
        "volatility": Phrase("volume", "unrest of daily impressions", Said.INDEX),
        "days_since_served": Phrase("presence", "days since the last impression", Said.DAYS),
        "idle_share": Phrase("presence", "share of days without impressions", Said.SHARE),
        "account_days": Phrase("age", "age in days", Said.DAYS),
    }
)
"""Indicator → what it means."""
