"""Contracts of what the anomaly detector tells: metrics beside their band, anomalies with causes, trending topics."""

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
    share,
    text,
)

_BAND = (
    Column("value", pa.float64(), "What came", True),
    Column("expected", pa.float64(), "What the account's own history expects", True),
    Column("lower", pa.float64(), "Lower end of the expected band", True),
    Column("upper", pa.float64(), "Upper end of the expected band", True),
)
_BAND_RULE = Rule("band_upside_down", "lower > upper", "lower must be at most upper")

PERFORMANCE_METRICS = Contract(
    "performance_metrics",
    "date × account × metric",
    "Each metric of each account beside what was expected of it",
    (
        day("date", "Last day of the period"),
        identifier("account_id", "Advertising account"),
        identifier("metric", "Metric, such as ctr"),
        Column("period", pa.string(), "Length of the period", values=("day",)),
        *_BAND,
        share("anomaly_score", "1 minus the share of past nights' values at least as far off", nullable=True),
        Column("is_anomaly", pa.bool_(), "Whether it is one of the night's anomalies"),
        json_text("context", "What else is known of the value, such as its noise and the anomaly it belongs to"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", "account_id", "metric"),
    partitioned=True,
    sort_by=("account_id", "metric"),
    rules=(
        _BAND_RULE,
        Rule(
            "context_no_json_object",
            "CASE WHEN json_valid(context) THEN json_type(context) <> 'OBJECT' ELSE context IS NOT NULL END",
            "context must be a JSON object",
        ),
    ),
)

ANOMALIES = Contract(
    "anomalies",
    "date × anomaly",
    "What changed in an account beyond its own habits and its noise, for better or worse, and where it comes from",
    (
        day("date", "Day of the anomaly"),
        identifier("anomaly_id", "Its id, the same on each day that it lasts and after each rerun"),
        identifier("account_id", "Advertising account"),
        identifier("metric", "Metric that shows it; 'joint' where only several together are odd"),
        *_BAND,
        Column("size", pa.float64(), "value / expected - 1", True, "fraction"),
        Column("direction", pa.string(), "Side of the band", values=("above", "below")),
        Column("sign", pa.string(), "Whether it is good for the advertiser", values=("good", "bad", "neutral")),
        share("p_value", "Share of past nights' values at least as far off"),
        share("q_value", "Share of false discoveries among the night's anomalies up to this one"),
        share("anomaly_score", "1 - p_value"),
        Column("severity", pa.string(), "How much it matters", values=("low", "medium", "high")),
        Column("cross_section_score", pa.float64(), "How odd the account is beside the other accounts", True),
        json_text("root_cause", "The smallest set of campaigns, ads, regions, … that explains it, the best first"),
        text("explanation", "What happened, in a sentence"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", "anomaly_id"),
    partitioned=True,
    sort_by=("account_id", "metric", "anomaly_id"),
    rules=(_BAND_RULE, json_list("root_cause")),
)

TRENDING_TOPICS = Contract(
    "trending_topics",
    "date × topic",
    "Topics of ads whose click rates rise beyond chance",
    (
        day("date", "Last of the days that are compared with those before"),
        identifier("topic", "Words that the ads share"),
        count("rank", "Place, from 1"),
        count("ads", "Ads of the topic in the recent days"),
        count("impressions", "Times they were shown"),
        count("clicks", "Clicks on them"),
        Column("expected_clicks", pa.float64(), "Clicks expected by what was usual before", False, "count", 0),
        Column("rate_ratio", pa.float64(), "Clicks beside what was expected, shrunk", False, "×", 0),
        Column("rate_ratio_lower", pa.float64(), "Lower end of its interval", False, "×", 0),
        Column("rate_ratio_upper", pa.float64(), "Upper end of its interval", False, "×", 0),
        share("p_value", "Probability of such a rise by chance"),
        share("q_value", "Share of false discoveries among the topics up to this one"),
        json_text("examples", "Headlines of the topic"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", "topic"),
    partitioned=True,
    sort_by=("rank", "topic"),
    rules=(json_list("examples"),),
)
