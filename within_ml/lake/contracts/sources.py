"""Contracts of what the sources deliver: performance, ads, campaigns, accounts, regions."""

from __future__ import annotations

import pyarrow as pa

from within_ml.lake.contracts.schema import Column, Contract, Rule, count, day, identifier, money, text

AD_KEY = ("platform", "account_id", "ad_id")
CAMPAIGN_KEY = ("platform", "account_id", "campaign_id")

UNKNOWN = "unknown"
"""The value of a region or an audience that the source does not tell."""

AD_COLUMNS = (
    identifier("platform", "Advertising platform, such as google or meta"),
    identifier("account_id", "Advertising account"),
    identifier("campaign_id", "Campaign"),
    identifier("ad_group_id", "Ad group or ad set"),
    identifier("ad_id", "Ad, unique within platform and account"),
)

AD_PERFORMANCE = Contract(
    "ad_performance",
    "date × ad × region",
    "What each ad was shown, clicked and earned on one day",
    (
        day("date", "Day of the performance"),
        *AD_COLUMNS,
        identifier("region", f"Region as in regions, or {UNKNOWN!r}"),
        count("impressions", "Times shown"),
        count("clicks", "Clicks, at most impressions"),
        money("spend", "Cost"),
        Column("conversions", pa.float64(), "Attributed conversions; platforms report fractions", True, "count", 0),
        money("revenue", "Value of the conversions"),
        text("source_file", "Landing file the row came from"),
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
        *AD_COLUMNS,
        text("headline", "Headline"),
        text("body", "Body text"),
        text("call_to_action", "Call to action"),
        text("format", "Format, such as image or video"),
        text("image_id", "The platform's id of the image or thumbnail"),
        text("image_path", "Path of the image file below the lake's root"),
        identifier("audience_age", f"Targeted age band, or {UNKNOWN!r}"),
        identifier("audience_gender", f"Targeted gender, or {UNKNOWN!r}"),
        text("interests", "Targeted interests, comma separated"),
        day("created_at", "Day the ad was created", nullable=True),
        day("valid_from", "First day on which this version is known"),
        day("valid_to", "Day on which a later version replaced it", nullable=True),
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
        identifier("platform", "Advertising platform"),
        identifier("account_id", "Advertising account"),
        identifier("campaign_id", "Campaign, unique within platform and account"),
        identifier("objective", f"Objective, or {UNKNOWN!r}"),
        money("daily_budget", "Daily budget"),
        day("start_date", "First day of the flight"),
        day("end_date", "Last day of the flight", nullable=True),
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
        identifier("account_id", "Advertising account"),
        text("name", "Name"),
        identifier("industry", f"Industry, or {UNKNOWN!r}"),
        identifier("country", f"ISO 3166 country, or {UNKNOWN!r}"),
        text("timezone", "IANA time zone"),
        text("currency", "ISO 4217 currency of its money columns"),
        money("monthly_budget", "Agreed monthly budget"),
        day("onboarded_date", "First day as a client"),
        day("churned_date", "Day the client left", nullable=True),
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
        identifier("region", "Region"),
        identifier("country", "ISO 3166 country"),
        text("state", "State"),
        text("city", "City, here the state's capital"),
        Column("latitude", pa.float64(), "Latitude", True, "degrees", -90, 90),
        Column("longitude", pa.float64(), "Longitude", True, "degrees", -180, 180),
        Column("population", pa.float64(), "Inhabitants", True, "count", 0),
    ),
    key=("region",),
    partitioned=False,
    sort_by=("region",),
)
