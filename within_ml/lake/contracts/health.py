"""Contracts of what account health tells: health and churn risk, and the segments of accounts and audiences."""

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
    share,
    text,
)

RISK_LEVELS = ("low", "medium", "high", "critical")
CHURN_HORIZONS = (14, 30, 90)
"""Days within which the risk of churn is told."""


def _churn_risk(horizon: int) -> tuple[Column, ...]:
    name, within = f"churn_risk_{horizon}d", f"that the account leaves within {horizon} days"
    return (
        share(name, f"Probability {within}", nullable=True),
        share(f"{name}_lower", f"Lower end of the interval of the probability {within}", nullable=True),
        share(f"{name}_upper", f"Upper end of the interval of the probability {within}", nullable=True),
    )


ACCOUNT_HEALTH = Contract(
    "account_health",
    "date × account",
    "How healthy an account is, how likely it is to leave, what moves that and what to do about it",
    (
        day("date", "Day as of which the account is judged"),
        identifier("account_id", "Advertising account"),
        score("health_score", "100 · (1 - bad_state_probability)"),
        Column("risk_level", pa.string(), "The score's level by the model's thresholds", values=RISK_LEVELS),
        share("bad_state_probability", "Probability that the account leaves or its efficiency falls within the window"),
        *(column for horizon in CHURN_HORIZONS for column in _churn_risk(horizon)),
        Column("engagement_trend", pa.float64(), "How the account's clicks and click rate move", True),
        Column("spend_efficiency", pa.float64(), "What its spend buys beside its own history", True),
        Column("reach_saturation", pa.float64(), "How little more impressions add", True),
        Column("frequency", pa.float64(), "Impressions per unit of audience that is reached", True),
        Column("fatigue", pa.float64(), "How fast its ads' click rates fall as they age", True),
        text("segment", "Segment of the account on that day"),
        Column(
            "bad_anomalies_7d",
            pa.int64(),
            "Anomalies of the last 7 days that are bad for the advertiser; null where the day's were not looked for",
            True,
            "count",
            0,
        ),
        Column("early_warning", pa.bool_(), "Whether the risk of leaving is above the warning threshold"),
        json_text(
            "contributing_factors", "What moves the score, the strongest first: feature, value, points, sentence"
        ),
        json_text("recommended_actions", "Changes that lower the risk, the best first: action, old and new risk"),
        text("model_version", "Version in the registry"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", "account_id"),
    partitioned=True,
    sort_by=("account_id",),
    rules=(
        *(
            Rule(f"{name}_upside_down", f"{name}_lower > {name}_upper", f"{name}_lower must be at most {name}_upper")
            for name in (f"churn_risk_{horizon}d" for horizon in CHURN_HORIZONS)
        ),
        json_list("contributing_factors"),
        json_list("recommended_actions"),
    ),
)

ACCOUNT_SEGMENTS = Contract(
    "account_segments",
    "date × account or audience",
    "Which segment an account or a targeted audience belongs to; labels stay the same from night to night",
    (
        day("date", "Day as of which the segments hold"),
        Column("entity_type", pa.string(), "What is grouped", values=("account", "audience")),
        identifier("entity_id", "The account, or the audience as age and gender"),
        text("segment", "The segment's label"),
        count("segment_id", "The segment's number, the same as on the night before"),
        Column("recency_days", pa.float64(), "Days since it was last served", True, "days", 0),
        Column("frequency", pa.float64(), "Share of the days on which it was served", True, "fraction", 0),
        Column("monetary", pa.float64(), "Spend, or impressions where money is unknown", True, "account currency", 0),
        Column("distance", pa.float64(), "Distance to the segment's centre", True, "", 0),
        count("size", "Members of the segment"),
        text("run_id", "Run that wrote the row"),
    ),
    key=("date", "entity_type", "entity_id"),
    partitioned=True,
    sort_by=("entity_type", "entity_id"),
)
