"""Contracts of what the ad score tells: predictions, their analysis, the regions' factors."""

from __future__ import annotations

import pyarrow as pa

from within_ml.lake.contracts.schema import (
    Column,
    Contract,
    Rule,
    count,
    day,
    identifier,
    json_list,
    json_text,
    score,
    text,
)
from within_ml.lake.contracts.sources import AD_COLUMNS, AD_KEY

AD_SCORES = Contract(
    "ad_scores",
    "date × ad",
    "The prediction for the days after `date`, for each ad that runs or is about to",
    (
        day("date", "Day as of which the ad is scored; the prediction is for the seven days after it"),
        *AD_COLUMNS,
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
        score("ad_score", "Percentile of predicted_ctr among the platform's training predictions"),
        score("engagement_score", "Percentile of the text score among training ads", nullable=True),
        Column("sentiment_score", pa.float64(), "VADER compound sentiment of the text", True, "-1 to 1", -1, 1),
        score("complexity_score", "Reading difficulty: 100 minus Flesch reading ease, clipped", nullable=True),
        text("topics", "Words of the text that moved the text score most, comma separated"),
        text("top_reasons", "JSON list of sentences: what moves the prediction most, and by how many points of CTR"),
        score("target_audience_match", "How well the targeted audience fits the ad", nullable=True),
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
        text("model_name", "Registered model"),
        text("model_version", "Version in the registry"),
        text("feature_version", "Version of the feature catalog"),
        text("source_versions", "JSON: lake table → version read"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", *AD_KEY),
    partitioned=True,
    sort_by=("account_id", "campaign_id", "ad_id"),
    rules=(
        Rule("interval_upside_down", "ctr_lower > ctr_upper", "ctr_lower must be at most ctr_upper"),
        json_list("top_reasons"),
    ),
)

AD_SCORE_ANALYSIS = Contract(
    "ad_score_analysis",
    "date × ad",
    "Why an ad has its prediction, which like it did well, and what would raise it",
    (
        day("date", "Day as of which the ad is scored, as in ad_scores"),
        *AD_COLUMNS,
        Column("base_ctr", pa.float64(), "Prediction without any of the reasons", False, "fraction", 0, 1),
        Column(
            "predicted_ctr", pa.float64(), "Calibrated click-through rate, as in ad_scores", False, "fraction", 0, 1
        ),
        json_text("reasons", "What moves the prediction, the strongest first: group, text, points of CTR, log-odds"),
        json_text(
            "similar_ads", "Past ads of the nearest texts that did well: keys, text, similarity, impressions, ctr"
        ),
        json_text("suggestions", "Changes that raise the prediction, the best first: text, old and new prediction"),
        text("model_version", "Version in the registry"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", *AD_KEY),
    partitioned=True,
    sort_by=("account_id", "campaign_id", "ad_id"),
    rules=(json_list("reasons"), json_list("similar_ads"), json_list("suggestions")),
)

REGION_FACTORS = Contract(
    "region_factors",
    "as-of Monday × region",
    "Which regions click more or less than was predicted, compared within ads over the last eight complete weeks",
    (
        day("date", "Monday as of which the factors are known"),
        identifier("region", "Region, as in ad_performance"),
        text("country", "Country, null where regions does not have the region"),
        text("state", "State"),
        text("city", "City"),
        Column("offset", pa.float64(), "What the region adds to the log-odds of a prediction", unit="log-odds"),
        Column("standard_error", pa.float64(), "Standard error of the offset", unit="log-odds", minimum=0),
        Column(
            "factor", pa.float64(), "The offset as a factor of the odds, about that of the rate", unit="×", minimum=0
        ),
        count("impressions", "Times that scored ads were shown there in these weeks"),
        count("clicks", "Clicks on them"),
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
        count("weeks", "Scored days, one a week, whose outcomes were looked at"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", "region"),
    partitioned=True,
    sort_by=("region",),
)
