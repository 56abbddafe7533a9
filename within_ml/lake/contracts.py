"""Contracts of the lake's tables as data: columns, types, units, ranges, keys.

A contract is written once, here, and used by the mapping of sources, the audit before a commit, the Great Expectations
suites, the column schemas in the UI and the README. What checks rows against a contract is `audit`; what stores them is
`store`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

from within_ml.errors import InputError, shown

MAX_REJECTED_SHARE = 0.05
"""A partition with a larger share of rejected rows is blocked."""

ID_PATTERN = r"^[^\x00-\x1f\x7f/\\]{1,200}$"
"""Ids: 1 to 200 characters, no control character, no slash or backslash (so no ``../``)."""

AD_KEY = ("platform", "account_id", "ad_id")
CAMPAIGN_KEY = ("platform", "account_id", "campaign_id")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, its meaning and what its values may be.

    ``minimum`` and ``maximum`` are inclusive; floats must be finite. ``identifier`` columns follow `ID_PATTERN`.
    """

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] = ()
    identifier: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition over several columns of a row: ``sql`` is true for a row that breaks it."""

    code: str
    sql: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Contract:
    """A table's grain, columns, key and rules; ``partitioned`` tables have one partition per ``date``.

    >>> CONTRACTS["ad_performance"].key
    ('date', 'platform', 'account_id', 'ad_id', 'region')
    """

    table: str
    grain: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitioned: bool
    sort_by: tuple[str, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, in contract order."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in contract order."""
        return tuple(c.name for c in self.columns)

    def column(self, name: str) -> Column:
        """Return one column.

        Raises
        ------
        InputError
            If the table has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise InputError(f"{self.table} has the columns {shown(self.names)}; there is no {name!r}.")


def _id(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, pa.string(), meaning, nullable=nullable, identifier=True)


def _text(name: str, meaning: str) -> Column:
    return Column(name, pa.string(), meaning, nullable=True)


def _date(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, pa.date32(), meaning, nullable=nullable, unit="UTC day")


def _count(name: str, meaning: str) -> Column:
    return Column(name, pa.int64(), meaning, unit="count", minimum=0)


def _money(name: str, meaning: str) -> Column:
    return Column(name, pa.float64(), meaning, nullable=True, unit="account currency", minimum=0)


UNKNOWN = "unknown"
"""The value of a region or an audience that the source does not tell."""

_AD = (
    _id("platform", "Advertising platform, such as google or meta"),
    _id("account_id", "Advertising account"),
    _id("campaign_id", "Campaign"),
    _id("ad_group_id", "Ad group or ad set"),
    _id("ad_id", "Ad, unique within platform and account"),
)

AD_PERFORMANCE = Contract(
    "ad_performance",
    "date × ad × region",
    "What each ad was shown, clicked and earned on one day",
    (
        _date("date", "Day of the performance"),
        *_AD,
        _id("region", f"Region as in regions, or {UNKNOWN!r}"),
        _count("impressions", "Times shown"),
        _count("clicks", "Clicks, at most impressions"),
        _money("spend", "Cost"),
        Column("conversions", pa.float64(), "Attributed conversions; platforms report fractions", True, "count", 0),
        _money("revenue", "Value of the conversions"),
        _text("source_file", "Landing file the row came from"),
    ),
    key=("date", *AD_KEY, "region"),
    partitioned=True,
    sort_by=("account_id", "campaign_id", "ad_id", "region"),
    rules=(Rule("clicks_above_impressions", "clicks > impressions", "clicks must be at most impressions"),),
)

ADS = Contract(
    "ads",
    "ad version (valid_from, valid_to)",
    "What an ad is; a change of its content is a new version",
    (
        *_AD,
        _text("headline", "Headline"),
        _text("body", "Body text"),
        _text("call_to_action", "Call to action"),
        _text("format", "Format, such as image or video"),
        _text("image_id", "The platform's id of the image or thumbnail"),
        _text("image_path", "Path of the image file below the lake's root"),
        _id("audience_age", f"Targeted age band, or {UNKNOWN!r}"),
        _id("audience_gender", f"Targeted gender, or {UNKNOWN!r}"),
        _text("interests", "Targeted interests, comma separated"),
        _date("created_at", "Day the ad was created", nullable=True),
        _date("valid_from", "First day on which this version is known"),
        _date("valid_to", "Day on which a later version replaced it", nullable=True),
    ),
    key=(*AD_KEY, "valid_from"),
    partitioned=False,
    sort_by=("account_id", "campaign_id", "ad_id", "valid_from"),
    rules=(Rule("valid_to_before_valid_from", "valid_to <= valid_from", "valid_to must be after valid_from"),),
)

CAMPAIGNS = Contract(
    "campaigns",
    "campaign",
    "Objective, budget and flight of a campaign",
    (
        _id("platform", "Advertising platform"),
        _id("account_id", "Advertising account"),
        _id("campaign_id", "Campaign, unique within platform and account"),
        _id("objective", f"Objective, or {UNKNOWN!r}"),
        _money("daily_budget", "Daily budget"),
        _date("start_date", "First day of the flight"),
        _date("end_date", "Last day of the flight", nullable=True),
    ),
    key=CAMPAIGN_KEY,
    partitioned=False,
    sort_by=("account_id", "campaign_id"),
    rules=(Rule("end_before_start", "end_date < start_date", "end_date must not be before start_date"),),
)

ACCOUNTS = Contract(
    "accounts",
    "account",
    "A client account of the agency",
    (
        _id("account_id", "Advertising account"),
        _text("name", "Name"),
        _id("industry", f"Industry, or {UNKNOWN!r}"),
        _id("country", f"ISO 3166 country, or {UNKNOWN!r}"),
        _text("timezone", "IANA time zone"),
        _text("currency", "ISO 4217 currency of its money columns"),
        _money("monthly_budget", "Agreed monthly budget"),
        _date("onboarded_date", "First day as a client"),
        _date("churned_date", "Day the client left", nullable=True),
    ),
    key=("account_id",),
    partitioned=False,
    sort_by=("account_id",),
    rules=(Rule("churned_before_onboarded", "churned_date < onboarded_date", "churned_date must be later"),),
)

REGIONS = Contract(
    "regions",
    "region",
    "Where ads are shown",
    (
        _id("region", "Region"),
        _id("country", "ISO 3166 country"),
        _text("state", "State"),
        _text("city", "City, here the state's capital"),
        Column("latitude", pa.float64(), "Latitude", True, "degrees", -90, 90),
        Column("longitude", pa.float64(), "Longitude", True, "degrees", -180, 180),
        Column("population", pa.float64(), "Inhabitants", True, "count", 0),
    ),
    key=("region",),
    partitioned=False,
    sort_by=("region",),
)


def _score(name: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, pa.float64(), meaning, nullable, "0 to 100", 0, 100)


def _json(name: str, meaning: str) -> Column:
    return Column(name, pa.string(), meaning, unit="JSON list")


def _json_list(name: str) -> Rule:
    # json_type of what is no JSON is an error, so that it is asked for only where it is.
    broken = f"CASE WHEN json_valid({name}) THEN json_type({name}) <> 'ARRAY' ELSE {name} IS NOT NULL END"
    return Rule(f"{name}_no_json_list", broken, f"{name} must be a JSON list")


AD_SCORES = Contract(
    "ad_scores",
    "date × ad",
    "The prediction for the days after `date`, for each ad that runs or is about to",
    (
        _date("date", "Day as of which the ad is scored; the prediction is for the seven days after it"),
        *_AD,
        Column("predicted_ctr", pa.float64(), "Calibrated click-through rate", False, "fraction", 0, 1),
        Column("ctr_lower", pa.float64(), "Lower end of the prediction's interval", True, "fraction", 0, 1),
        Column("ctr_upper", pa.float64(), "Upper end of the prediction's interval", True, "fraction", 0, 1),
        Column(
            "interval_impressions",
            pa.float64(),
            "Impressions over which the interval is to hold the observed rate; null where it is for the rate itself",
            True,
            "impressions",
            0,
        ),
        _score("ad_score", "Percentile of predicted_ctr among the platform's training predictions"),
        _score("engagement_score", "Percentile of the text score among training ads", nullable=True),
        Column("sentiment_score", pa.float64(), "VADER compound sentiment of the text", True, "-1 to 1", -1, 1),
        _score("complexity_score", "Reading difficulty: 100 minus Flesch reading ease, clipped", nullable=True),
        _text("topics", "Words of the text that moved the text score most, comma separated"),
        _text("top_reasons", "JSON list of sentences: what moves the prediction most, and by how many points of CTR"),
        _score("target_audience_match", "How well the targeted audience fits the ad", nullable=True),
        Column(
            "confidence_score",
            pa.float64(),
            "Share of the prediction that rests on the ad's own and its campaign's "
            "impressions: n / (n + prior impressions)",
            False,
            "0 to 1",
            0,
            1,
        ),
        _text("model_name", "Registered model"),
        _text("model_version", "Version in the registry"),
        _text("feature_version", "Version of the feature catalog"),
        _text("source_versions", "JSON: lake table → version read"),
        _text("run_id", "Run that wrote the row"),
    ),
    key=("date", *AD_KEY),
    partitioned=True,
    sort_by=("account_id", "campaign_id", "ad_id"),
    rules=(
        Rule("interval_upside_down", "ctr_lower > ctr_upper", "ctr_lower must be at most ctr_upper"),
        _json_list("top_reasons"),
    ),
)

AD_SCORE_ANALYSIS = Contract(
    "ad_score_analysis",
    "date × ad",
    "Why an ad has its prediction, which like it did well, and what would raise it",
    (
        _date("date", "Day as of which the ad is scored, as in ad_scores"),
        *_AD,
        Column("base_ctr", pa.float64(), "Prediction without any of the reasons", False, "fraction", 0, 1),
        Column(
            "predicted_ctr", pa.float64(), "Calibrated click-through rate, as in ad_scores", False, "fraction", 0, 1
        ),
        _json("reasons", "What moves the prediction, the strongest first: group, text, points of CTR, log-odds"),
        _json("similar_ads", "Past ads of the nearest texts that did well: keys, text, similarity, impressions, ctr"),
        _json("suggestions", "Changes that raise the prediction, the best first: text, old and new prediction"),
        _text("model_version", "Version in the registry"),
        _text("run_id", "Run that wrote the row"),
    ),
    key=("date", *AD_KEY),
    partitioned=True,
    sort_by=("account_id", "campaign_id", "ad_id"),
    rules=(_json_list("reasons"), _json_list("similar_ads"), _json_list("suggestions")),
)

REGION_FACTORS = Contract(
    "region_factors",
    "as-of Monday × region",
    "Which regions click more or less than was predicted, compared within ads over the last eight complete weeks",
    (
        _date("date", "Monday as of which the factors are known"),
        _id("region", "Region, as in ad_performance"),
        _text("country", "Country, null where regions does not have the region"),
        _text("state", "State"),
        _text("city", "City"),
        Column("offset", pa.float64(), "What the region adds to the log-odds of a prediction", unit="log-odds"),
        Column("standard_error", pa.float64(), "Standard error of the offset", unit="log-odds", minimum=0),
        Column(
            "factor", pa.float64(), "The offset as a factor of the odds, about that of the rate", unit="×", minimum=0
        ),
        _count("impressions", "Times that scored ads were shown there in these weeks"),
        _count("clicks", "Clicks on them"),
        Column("predicted_clicks", pa.float64(), "Impressions × predicted rate", unit="count", minimum=0),
        Column(
            "source",
            pa.string(),
            "What the offset rests on: own rows, or for want of them neighbors, the parent, or the level of all",
            values=("own", "neighbors", "parent", "global"),
        ),
        Column("level", pa.float64(), "The part of the offset that all regions share", unit="log-odds"),
        Column("spatial_share", pa.float64(), "Share of the regions' variance that neighbours share", False, "", 0, 1),
        Column("moran_before", pa.float64(), "Moran's I of the regions' residuals without the offsets", True),
        Column("moran_after", pa.float64(), "Moran's I of the regions' residuals with the offsets", True),
        _count("weeks", "Scored days, one a week, whose outcomes were looked at"),
        _text("run_id", "Run that wrote the row"),
    ),
    key=("date", "region"),
    partitioned=True,
    sort_by=("region",),
)

CONTRACTS: Mapping[str, Contract] = MappingProxyType(
    {
        c.table: c
        for c in (AD_PERFORMANCE, ADS, CAMPAIGNS, ACCOUNTS, REGIONS, AD_SCORES, AD_SCORE_ANALYSIS, REGION_FACTORS)
    }
)
"""Contracts of the source and the published tables; feature tables have theirs beside their definition."""
