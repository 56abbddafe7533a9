"""What a feature means in a sentence: its group, its subject, and how its value stands beside the account's usual one.

One table says which features tell of one thing (clicks of 1, 7 and 28 days, say) and are one reason. A feature that it
does not name speaks by its own name. Which features are reasons is in `reasons`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType

USUAL = "the account's usual"
_LARGEST_TREND = 9.0


class Kind(StrEnum):
    """How a value is said."""

    RATE = "rate"
    """A fraction, in percent."""
    SHARE = "share"
    """A fraction of something, in percent."""
    NUMBER = "number"
    """A count or an amount."""
    DIFFERENCE = "difference"
    """A small count: how many more or fewer."""
    SIZE = "size"
    """A count of a text: how much longer or shorter."""
    FLAG = "flag"
    """0 or 1: the subject as it is, or its denial."""
    TREND = "trend"
    """A logarithm of a ratio, in percent of change."""
    RATIO = "ratio"
    """A ratio beside 1."""
    TONE = "tone"
    """A score: more or less of the subject."""
    WEEKDAY = "weekday"
    WORDING = "wording"
    """All the words of a text; the strongest are named."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a feature says: features of one ``group`` are one reason.

    >>> meaning("campaign_ctr_7d").said(0.018, 0.012)
    "campaign's click rate over 7 days 1.8 % against the account's usual 1.2 %"
    >>> meaning("text_words").said(8, 20)
    "headline 12 words shorter than the account's usual"
    """

    group: str
    subject: str
    kind: Kind
    other: str = ""
    """The unit of a size, the denial of a flag, the less of a tone."""
    usual: str = USUAL

    def said(self, value: float, usual: float, words: str = "") -> str:
        """Say a value beside the usual one; NaN is "not known", and a usual one that is not known is not spoken of."""
        if self.kind is Kind.WORDING:
            return f"{self.subject} ({words})" if words else self.subject
        if math.isnan(value):
            return f"{self.subject.removesuffix(' 1')} not known"
        return _SAYERS[self.kind](self, value, usual)


def meaning(feature: str) -> Meaning:
    """Return what a feature means; one that the table does not name is a group of its own.

    >>> meaning("ad_ctr_28d").group == meaning("prior_ctr").group
    True
    >>> meaning("format=video").said(1, 0), meaning("shoe_size").said(44.0, 42.5)
    ('format is video', "shoe size 44 against the account's usual 42.5")
    """
    return _meaning(feature)


@cache
def _meaning(feature: str) -> Meaning:
    if feature in MEANINGS:
        return MEANINGS[feature]
    for pattern, group, subject in _FAMILIES:
        if re.match(pattern, feature):
            said = subject or f"image's {feature.removeprefix('image_').replace('_', ' ')}"
            return Meaning(group, said, Kind.WORDING if subject else Kind.NUMBER)
    name, equals, category = feature.partition("=")
    if equals:
        plain = name.replace("_", " ")
        return Meaning(name, f"{plain} is {category}", Kind.FLAG, f"{plain} is not {category}")
    return Meaning(feature, feature.replace("_", " "), Kind.NUMBER)


# ---- the table

_LEVELS = {
    "ad": ("ad's", USUAL),
    "campaign": ("campaign's", USUAL),
    "account": ("account's", "its usual"),
    "platform": ("platform's", USUAL),
}
_MEASURES: Mapping[str, tuple[str, str, Kind]] = {
    "impressions": ("volume", "impressions", Kind.NUMBER),
    "clicks": ("volume", "clicks", Kind.NUMBER),
    "ctr": ("ctr", "click rate", Kind.RATE),
    "spend": ("cost", "spend", Kind.NUMBER),
    "cpc": ("cost", "cost per click", Kind.NUMBER),
    "conversions": ("conversions", "conversions", Kind.NUMBER),
    "revenue": ("conversions", "revenue", Kind.NUMBER),
    "cvr": ("conversions", "conversions per click", Kind.NUMBER),
    "roas": ("conversions", "return on spend", Kind.NUMBER),
}


def _performance() -> dict[str, Meaning]:
    found = {}
    for level, (whose, usual) in _LEVELS.items():
        for measure, (group, noun, kind) in _MEASURES.items():
            for days in (1, 7, 28):
                over = "on the day" if days == 1 else f"over {days} days"
                subject = f"{whose} {noun} {over}"
                found[f"{level}_{measure}_{days}d"] = Meaning(f"{level}_{group}", subject, kind, usual=usual)
        recent = Meaning(f"{level}_ctr", f"{whose} recent click rate", Kind.RATE, usual=usual)
        found["prior_ctr" if level == "ad" else f"{level}_prior_ctr"] = recent
        found[f"{level}_ctr_trend"] = Meaning(f"{level}_ctr", f"{whose} click rate", Kind.TREND)
    return found


_HEADLINE = "headline"
_TEXT: Mapping[str, Meaning] = {
    "text_length": Meaning("length", _HEADLINE, Kind.SIZE, "character"),
    "text_words": Meaning("length", _HEADLINE, Kind.SIZE, "word"),
    "text_body_words": Meaning("body_length", "body", Kind.SIZE, "word"),
    "text_mean_word_length": Meaning("readability", "letters per word of the headline", Kind.NUMBER),
    "readability": Meaning("readability", "text easier to read", Kind.TONE, "text harder to read"),
    "text_sentences": Meaning("punctuation", "sentence end", Kind.DIFFERENCE),
    "text_punctuation": Meaning("punctuation", "punctuation mark", Kind.DIFFERENCE),
    "text_exclamations": Meaning("punctuation", "exclamation mark", Kind.DIFFERENCE),
    "text_quotes": Meaning("punctuation", "quotation", Kind.DIFFERENCE),
    "text_ellipses": Meaning("punctuation", "ellips", Kind.DIFFERENCE),
    "text_dashes": Meaning("punctuation", "dash", Kind.DIFFERENCE),
    "text_colons": Meaning("punctuation", "colon", Kind.DIFFERENCE),
    "text_commas": Meaning("punctuation", "comma", Kind.DIFFERENCE),
    "text_questions": Meaning("question", "question mark", Kind.DIFFERENCE),
    "text_question_words": Meaning("question", "question word", Kind.DIFFERENCE),
    "text_ends_with_question": Meaning(
        "question", "headline ends with a question", Kind.FLAG, "headline does not end with a question"
    ),
    "text_capitals_share": Meaning("capitals", "capitals among the headline's letters", Kind.SHARE),
    "text_capitalized_share": Meaning("capitals", "capitalized words of the headline", Kind.SHARE),
    "text_shouted_words": Meaning("capitals", "word in capitals only", Kind.DIFFERENCE),
    "text_numbers": Meaning("numbers", "number", Kind.DIFFERENCE),
    "text_starts_with_number": Meaning(
        "numbers", "headline starts with a number", Kind.FLAG, "headline does not start with a number"
    ),
    "text_first_person": Meaning("address", "word like I and we", Kind.DIFFERENCE),
    "text_second_person": Meaning("address", "word like you", Kind.DIFFERENCE),
    "text_third_person_male": Meaning("address", "word like he", Kind.DIFFERENCE),
    "text_third_person_female": Meaning("address", "word like she", Kind.DIFFERENCE),
    "text_third_person_plural": Meaning("address", "word like they", Kind.DIFFERENCE),
    "text_demonstratives": Meaning("address", "word like this", Kind.DIFFERENCE),
    "text_negations": Meaning("negations", "negation", Kind.DIFFERENCE),
    "sentiment": Meaning("sentiment", "headline more positive", Kind.TONE, "headline more negative"),
    "account_id": Meaning("account_ctr", "account's own level", Kind.WORDING),
    "platform": Meaning("platform_ctr", "platform's own level", Kind.WORDING),
    "text_wording": Meaning("wording", "wording of the ad", Kind.WORDING),
    "text_score": Meaning("wording", "wording of the ad", Kind.WORDING),
}
_OTHERS: Mapping[str, Meaning] = {
    "prior_impressions": Meaning("ad_volume", "impressions behind the ad's recent click rate", Kind.NUMBER),
    "ad_days_served_28d": Meaning("ad_volume", "days the ad ran in the last 28", Kind.NUMBER),
    "ad_vs_campaign_ctr": Meaning("ad_ctr", "ad's click rate beside its campaign's", Kind.RATIO),
    "campaign_vs_account_ctr": Meaning("campaign_ctr", "campaign's click rate beside its account's", Kind.RATIO),
    "campaign_ads": Meaning("campaign_ads", "ads of the campaign", Kind.NUMBER),
    "ad_age_days": Meaning("age", "ad's age in days", Kind.NUMBER),
    "campaign_age_days": Meaning("age", "campaign's age in days", Kind.NUMBER),
    "day_of_week": Meaning("day_of_week", "scored on a", Kind.WEEKDAY),
}
_FAMILIES = (
    ("text_svd_|text_embedding_", "wording", "wording of the ad"),
    ("image_network|image_embedding_", "image", "look of the image"),
    ("image_(width|height|aspect)", "image_size", ""),
    ("image_(red|green|blue|warmth|saturation|colour)", "image_colour", ""),
    ("image_(brightness|contrast|luma)", "image_light", ""),
    ("image_", "image_layout", ""),
)
"""Patterns of names, the group they are, and what is said; without that, the name after ``image_`` with its value."""

MEANINGS: Mapping[str, Meaning] = MappingProxyType({**_performance(), **_TEXT, **_OTHERS})
"""Feature → what it means."""


# ---- saying


_MORE_DECIMALS = 3


def _percent(value: float, more: int = 0) -> str:
    size = abs(value)
    decimals = 1 if size >= 0.01 or size == 0 else 2 if size >= 0.001 else 3
    return f"{100 * value:.{decimals + more}f} %"


def _number(value: float) -> str:
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _beside(subject: str, value: str, usual: str, whose: str) -> str:
    if not usual:
        return f"{subject} {value}"
    return f"{subject} {value}, as usual" if value == usual else f"{subject} {value} against {whose} {usual}"


def _rate(told: Meaning, value: float, usual: float) -> str:
    if math.isnan(usual):
        return _beside(told.subject, _percent(value), "", told.usual)
    # Rates that are told as a reason differ: as many decimals as show it, within reason.
    more = next((more for more in range(_MORE_DECIMALS) if _percent(value, more) != _percent(usual, more)), 0)
    return _beside(told.subject, _percent(value, more), _percent(usual, more), told.usual)


def _share(told: Meaning, value: float, usual: float) -> str:
    return _beside(told.subject, f"{value:.0%}", "" if math.isnan(usual) else f"{usual:.0%}", told.usual)


def _amount(told: Meaning, value: float, usual: float) -> str:
    return _beside(told.subject, _number(value), "" if math.isnan(usual) else _number(usual), told.usual)


def _plural(noun: str, count: str) -> str:
    if noun == "ellips":
        return "ellipsis" if count == "1" else "ellipses"
    if count == "1":
        return noun
    return (
        f"{noun}es"
        if noun.endswith("sh")
        else re.sub(r"^(\w+)", r"\1s", noun)
        if noun.startswith("word ")
        else noun + "s"
    )


def _size(told: Meaning, value: float, usual: float) -> str:
    if math.isnan(usual):
        return f"{told.subject} of {_number(value)} {_plural(told.other, _number(value))}"
    distance = _number(abs(round(value - usual, 1)))
    if distance == "0":
        return f"{told.subject} as long as usual ({_number(value)} {_plural(told.other, _number(value))})"
    how = "shorter" if value < usual else "longer"
    return f"{told.subject} {distance} {_plural(told.other, distance)} {how} than {told.usual}"


def _difference(told: Meaning, value: float, usual: float) -> str:
    count = "no" if value == 0 else _number(value)
    here = f"{count} {_plural(told.subject, count)} in the headline"
    if math.isnan(usual) or _number(usual) == _number(value):
        return f"{here}, as usual" if not math.isnan(usual) else here
    return f"{here} against {told.usual} {_number(usual)}"


def _flag(told: Meaning, value: float, usual: float) -> str:
    return told.subject if value >= 0.5 else told.other


def _trend(told: Meaning, value: float, usual: float) -> str:
    change = f"{abs(math.expm1(min(value, _LARGEST_TREND))):.0%}"
    if change == "0%":
        return f"{told.subject} steady over 28 days"
    return f"{told.subject} of 7 days {change} {'above' if value > 0 else 'below'} that of 28 days"


def _ratio(told: Meaning, value: float, usual: float) -> str:
    change = f"{abs(value - 1):.0%}"
    if change == "0%":
        return f"{told.subject}: the same"
    return f"{told.subject}: {change} {'higher' if value > 1 else 'lower'}"


def _tone(told: Meaning, value: float, usual: float) -> str:
    middle = 0.0 if math.isnan(usual) else usual
    if _number(value) == _number(middle) and not math.isnan(usual):
        return f"{told.subject.split(' ', maxsplit=1)[0]} in the usual tone ({_number(value)})"
    how = told.subject if value >= middle else told.other
    return f"{how} ({_number(value)})" + ("" if math.isnan(usual) else f" than {told.usual} ({_number(usual)})")


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _weekday(told: Meaning, value: float, usual: float) -> str:
    return f"{told.subject} {_DAYS[int(value) % 7]}"


_SAYERS: Mapping[Kind, Callable[[Meaning, float, float], str]] = {
    Kind.RATE: _rate,
    Kind.SHARE: _share,
    Kind.NUMBER: _amount,
    Kind.DIFFERENCE: _difference,
    Kind.SIZE: _size,
    Kind.FLAG: _flag,
    Kind.TREND: _trend,
    Kind.RATIO: _ratio,
    Kind.TONE: _tone,
    Kind.WEEKDAY: _weekday,
}


def points_said(points: float) -> str:
    """Say a change of the click rate in percentage points, with the digits that its size deserves.

    >>> points_said(0.42), points_said(-0.031), points_said(0.0001)
    ('+0.4 points of CTR', '-0.03 points of CTR', 'less than 0.001 points of CTR')
    """
    size = abs(points)
    if size < 0.0005:
        return "less than 0.001 points of CTR"
    decimals = 1 if size >= 0.095 else 2 if size >= 0.0095 else 3
    return f"{points:+.{decimals}f} points of CTR"
