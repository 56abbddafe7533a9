"""The feature catalog: what each feature means, as data.

A feature that is not listed here does not exist: the contracts of the feature tables, the columns a model may use and
the documentation are made of these records. How a feature is computed belongs in the other modules of this package.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass

import pyarrow as pa

from within_ml.features.performance import DEFAULT_CTR, PRIOR_CLICKS, PRIOR_IMPRESSIONS, RECENCY_WEIGHTS
from within_ml.features.temporal import WINDOWS
from within_ml.lake.contracts import AD_KEY, UNKNOWN, Column, Contract

_TYPES = {"int64": pa.int64(), "float64": pa.float64()}


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature: ``window`` is in days, 0 for what is not summed over days; ``version`` grows with the definition.

    >>> feature = Feature("ad_clicks_7d", "Clicks of the ad", "count", "date × ad", 7, 1, "within", "int64", False, 0)
    >>> feature.column.name
    'ad_clicks_7d'
    """

    name: str
    meaning: str
    unit: str
    grain: str
    window: int
    version: int
    owner: str
    dtype: str
    nullable: bool = True
    minimum: float | None = None
    maximum: float | None = None

    @property
    def column(self) -> Column:
        """The contract of the feature's column."""
        return Column(self.name, _TYPES[self.dtype], self.meaning, self.nullable, self.unit, self.minimum, self.maximum)


_OWNER = "within"
_AD_GRAIN = "date × ad"
_ACCOUNT_GRAIN = "date × account"
_CURRENCY = "account currency"


@dataclass(frozen=True, slots=True)
class _Definer:
    """Fills in what the features of one table have in common."""

    grain: str

    def count(self, name: str, meaning: str, window: int) -> Feature:
        return Feature(name, meaning, "count", self.grain, window, 1, _OWNER, "int64", False, 0)

    def value(self, name: str, meaning: str, unit: str, window: int) -> Feature:
        return Feature(name, meaning, unit, self.grain, window, 1, _OWNER, "float64", True, 0)

    def rate(self, name: str, meaning: str, window: int) -> Feature:
        return Feature(name, meaning, "fraction", self.grain, window, 1, _OWNER, "float64", False, 0, 1)

    def number(
        self, name: str, meaning: str, unit: str, window: int, *, nullable: bool, minimum: float | None = None
    ) -> Feature:
        return Feature(name, meaning, unit, self.grain, window, 1, _OWNER, "float64", nullable, minimum)


_AD = _Definer(_AD_GRAIN)
_ACCOUNT = _Definer(_ACCOUNT_GRAIN)


def _back(days: int) -> str:
    return "on the day" if days == 1 else f"in the last {days} days"


def _counts(define: _Definer, level: str, whose: str) -> list[Feature]:
    return [
        define.count(f"{level}_{measure}_{w}d", f"{measure.capitalize()} of {whose} {_back(w)}", w)
        for measure in ("impressions", "clicks")
        for w in WINDOWS
    ]


def _values(define: _Definer, level: str, whose: str) -> list[Feature]:
    units = {"spend": _CURRENCY, "conversions": "count", "revenue": _CURRENCY}
    return [
        define.value(f"{level}_{m}_{w}d", f"{m.capitalize()} of {whose} {_back(w)}; null if none is reported", unit, w)
        for m, unit in units.items()
        for w in WINDOWS
    ]


def _ratios(define: _Definer, level: str, whose: str, windows: tuple[int, ...], cvr: str) -> list[Feature]:
    return [
        feature
        for w in windows
        for feature in (
            define.value(f"{level}_cpc_{w}d", f"Spend per click of {whose} {_back(w)}", f"{_CURRENCY} per click", w),
            define.value(f"{level}_cvr_{w}d", f"Conversions per click of {whose} {_back(w)}{cvr}", "per click", w),
            define.value(f"{level}_roas_{w}d", f"Revenue per spend of {whose} {_back(w)}", "ratio", w),
        )
    ]


def _smoothed_ctrs(level: str, whose: str, parent: str) -> list[Feature]:
    k = PRIOR_IMPRESSIONS[level]
    how = f"shrunk towards the recent rate of {parent} by {k} impressions"
    return [_AD.rate(f"{level}_ctr_{w}d", f"Clicks per impression of {whose} {_back(w)}, {how}", w) for w in WINDOWS]


def _prior(name: str, level: str, whose: str, parent: str) -> Feature:
    steps = ", ".join(f"{weight:g} to {days} days back" for days, weight in RECENCY_WEIGHTS)
    k = PRIOR_IMPRESSIONS[level]
    meaning = f"Recent clicks per impression of {whose} (weights {steps}), shrunk towards {parent} by {k} impressions"
    return _AD.rate(name, meaning, 28)


def _trend(level: str, whose: str) -> Feature:
    meaning = f"Logarithm of the 7-day over the 28-day click-through rate of {whose}, shrunk towards 0"
    return _AD.number(f"{level}_ctr_trend", meaning, "log ratio", 28, nullable=False)


def _level(level: str, whose: str, parent: str, prior: str) -> list[Feature]:
    shrinkage = f", shrunk towards the level above by {PRIOR_CLICKS} clicks" if level != "account" else ""
    own = level == "ad"
    return [
        *_counts(_AD, level, whose),
        *(_values(_AD, level, whose) if own else []),
        *_smoothed_ctrs(level, whose, parent),
        *_ratios(_AD, level, whose, WINDOWS if own else (28,), shrinkage),
        _trend(level, whose),
        _prior(prior, level, whose, parent),
    ]


_PLATFORM = (
    *(
        _AD.rate(
            f"platform_ctr_{w}d",
            f"Clicks per impression of the platform over all accounts {_back(w)}, "
            f"shrunk towards {DEFAULT_CTR:g} by {PRIOR_IMPRESSIONS['platform']} impressions",
            w,
        )
        for w in (7, 28)
    ),
    _prior("platform_prior_ctr", "platform", "the platform over all accounts", f"{DEFAULT_CTR:g}"),
)

NUMERIC_AD_FEATURES: tuple[Feature, ...] = (
    *_level("ad", "the ad", "its campaign", "prior_ctr"),
    *_level("campaign", "the campaign", "its account", "campaign_prior_ctr"),
    *_level("account", "the account on the ad's platform", "the platform", "account_prior_ctr"),
    *_PLATFORM,
    _AD.number(
        "prior_impressions",
        "Impressions that prior_ctr is worth: the ad's recent ones and what the levels above can tell about it",
        "impressions",
        28,
        nullable=False,
        minimum=0,
    ),
    _AD.number("ad_vs_campaign_ctr", "ad_ctr_28d over campaign_ctr_28d", "ratio", 28, nullable=False, minimum=0),
    _AD.number(
        "campaign_vs_account_ctr", "campaign_ctr_28d over account_ctr_28d", "ratio", 28, nullable=False, minimum=0
    ),
    _AD.count("ad_days_served_28d", "Days with impressions of the ad in the last 28 days", 28),
    _AD.count("campaign_ads", "Ads of the campaign that have a row on the day", 0),
    _AD.number(
        "ad_age_days",
        "Days since the ad was created, or first known; null if not known",
        "days",
        0,
        nullable=True,
        minimum=0,
    ),
    _AD.number(
        "campaign_age_days",
        "Days since the campaign's first day, negative before it; null if not known",
        "days",
        0,
        nullable=True,
    ),
    _AD.number("day_of_week", "Weekday of the date, Monday 0 to Sunday 6", "weekday", 0, nullable=False, minimum=0),
)
"""Features of ad_features that are made of performance, ads and campaigns."""


def _text_features() -> tuple[Feature, ...]:
    """Features of the ad's text, as `content` lists them."""
    from within_ml.features.content import TEXT_FEATURES

    return tuple(Feature(t.name, t.meaning, t.unit, _AD_GRAIN, 0, t.version, _OWNER, "float64") for t in TEXT_FEATURES)


TEXT_AD_FEATURES: tuple[Feature, ...] = _text_features()


def _image_features() -> tuple[Feature, ...]:
    """Features of the ad's image, as `images` lists them."""
    from within_ml.features.images import IMAGE_FEATURES

    return tuple(Feature(i.name, i.meaning, i.unit, _AD_GRAIN, 0, i.version, _OWNER, "float64") for i in IMAGE_FEATURES)


IMAGE_AD_FEATURES: tuple[Feature, ...] = _image_features()

AD_FEATURES: tuple[Feature, ...] = (*NUMERIC_AD_FEATURES, *TEXT_AD_FEATURES, *IMAGE_AD_FEATURES)
"""All features of an ad on a day, in the order of the table's columns."""

ACCOUNT_FEATURES: tuple[Feature, ...] = (
    *_counts(_ACCOUNT, "account", "the account"),
    *_values(_ACCOUNT, "account", "the account"),
    *(
        _ACCOUNT.value(f"account_ctr_{w}d", f"Clicks per impression of the account {_back(w)}", "fraction", w)
        for w in WINDOWS
    ),
    *_ratios(_ACCOUNT, "account", "the account", WINDOWS, ""),
    *(
        _ACCOUNT.number(
            f"account_{m}_trend",
            f"Logarithm of the daily mean of {m} in the last 7 days over that of the last 28; null if either is 0",
            "log ratio",
            28,
            nullable=True,
        )
        for m in ("impressions", "clicks", "spend", "conversions", "revenue")
    ),
    _ACCOUNT.number(
        "account_ctr_trend",
        "Logarithm of the 7-day over the 28-day click-through rate; null if either is 0",
        "log ratio",
        28,
        nullable=True,
    ),
    *(
        _ACCOUNT.count(f"account_active_{plural}_{w}d", f"{plural.capitalize()} with impressions {_back(w)}", w)
        for plural in ("ads", "campaigns")
        for w in WINDOWS
    ),
    _ACCOUNT.value(
        "account_impressions_share_28d", "Share of the agency's impressions in the last 28 days", "fraction", 28
    ),
    _ACCOUNT.value(
        "account_spend_share_28d",
        "Share of the agency's spend in the last 28 days, among accounts of the same currency",
        "fraction",
        28,
    ),
    _ACCOUNT.value("account_spend_month", "Spend from the first of the month to the day", _CURRENCY, 31),
    _ACCOUNT.value(
        "account_spend_pacing",
        "account_spend_month over the share of monthly_budget that is due by the day; 1 is on plan",
        "ratio",
        31,
    ),
    _ACCOUNT.number(
        "account_age_days", "Days since the account was onboarded; null if not known", "days", 0, nullable=True
    ),
    _ACCOUNT.number(
        "day_of_week", "Weekday of the date, Monday 0 to Sunday 6", "weekday", 0, nullable=False, minimum=0
    ),
)
"""All features of an account on a day, in the order of the table's columns."""


def _version(features: tuple[Feature, ...]) -> str:
    text = "\n".join(repr(astuple(f)) for f in features)
    return f"1.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


FEATURE_VERSION = _version((*AD_FEATURES, *ACCOUNT_FEATURES))
"""Changes with any entry of the catalog; the smoothing constants stand in the meanings, so with them too."""


def _date_column() -> Column:
    return Column("date", pa.date32(), "Day as of which the features are known", unit="UTC day")


def _id_column(name: str, meaning: str) -> Column:
    return Column(name, pa.string(), meaning, identifier=True)


def ad_features_contract() -> Contract:
    """Return the contract of the lake table ``ad_features``.

    >>> ad_features_contract().key
    ('date', 'platform', 'account_id', 'ad_id')
    """
    return Contract(
        "ad_features",
        _AD_GRAIN,
        "What was known about an ad at the end of a day, for each ad that was served lately or is about to be",
        (
            _date_column(),
            _id_column("platform", "Advertising platform"),
            _id_column("account_id", "Advertising account"),
            _id_column("campaign_id", "Campaign at the ad's latest serve"),
            _id_column("ad_group_id", "Ad group at the ad's latest serve"),
            _id_column("ad_id", "Ad, unique within platform and account"),
            Column("headline", pa.string(), "Headline as of the day", nullable=True),
            Column("body", pa.string(), "Body text as of the day", nullable=True),
            Column("image_path", pa.string(), "Image file below the lake's root as of the day", nullable=True),
            Column("audience_age", pa.string(), f"Targeted age band as of the day, or {UNKNOWN!r}", nullable=True),
            Column("audience_gender", pa.string(), f"Targeted gender as of the day, or {UNKNOWN!r}", nullable=True),
            Column("interests", pa.string(), "Targeted interests as of the day, comma separated", nullable=True),
            *(f.column for f in AD_FEATURES),
        ),
        key=("date", *AD_KEY),
        partitioned=True,
        sort_by=("account_id", "campaign_id", "ad_id"),
    )


def account_features_contract() -> Contract:
    """Return the contract of the lake table ``account_features``.

    >>> account_features_contract().key
    ('date', 'account_id')
    """
    return Contract(
        "account_features",
        _ACCOUNT_GRAIN,
        "What was known about an account at the end of a day, over all its platforms",
        (_date_column(), _id_column("account_id", "Advertising account"), *(f.column for f in ACCOUNT_FEATURES)),
        key=("date", "account_id"),
        partitioned=True,
        sort_by=("account_id",),
    )
