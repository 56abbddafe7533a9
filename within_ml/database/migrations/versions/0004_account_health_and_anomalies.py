"""The tables of account health, segments, metrics, anomalies and trending topics."""

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RISKS = [f"churn_risk_{days}d{end}" for days in (14, 30, 90) for end in ("", "_lower", "_upper")]
INDICATORS = ["engagement_trend", "spend_efficiency", "reach_saturation", "frequency", "fatigue"]
BAND = ["value", "expected", "lower", "upper"]


def upgrade() -> None:
    create(
        "account_health",
        key={"date": sa.Date, "account_id": sa.Text},
        columns={
            "health_score": sa.Double,
            "risk_level": sa.Text,
            "bad_state_probability": sa.Double,
            **dict.fromkeys([*RISKS, *INDICATORS], sa.Double),
            "segment": sa.Text,
            "bad_anomalies_7d": sa.BigInteger,
            "early_warning": sa.Boolean,
            **dict.fromkeys(["contributing_factors", "recommended_actions", "model_version", "run_id"], sa.Text),
        },
        optional=[*RISKS, *INDICATORS, "segment", "bad_anomalies_7d", "model_version", "run_id"],
        checks={
            "health_score_range": "health_score BETWEEN 0 AND 100",
            "risk_level_known": "risk_level IN ('low', 'medium', 'high', 'critical')",
            **shares("bad_state_probability", "churn_risk_14d", "churn_risk_30d", "churn_risk_90d"),
            **lists("contributing_factors", "recommended_actions"),
        },
        index=["account_id", "date"],
    )
    create(
        "account_segments",
        key={"date": sa.Date, "entity_type": sa.Text, "entity_id": sa.Text},
        columns={
            "segment": sa.Text,
            "segment_id": sa.BigInteger,
            **dict.fromkeys(["recency_days", "frequency", "monetary", "distance"], sa.Double),
            "size": sa.BigInteger,
            "run_id": sa.Text,
        },
        optional=["segment", "recency_days", "frequency", "monetary", "distance", "run_id"],
        checks={"entity_type_known": "entity_type IN ('account', 'audience')"},
    )
    create(
        "performance_metrics",
        key={"date": sa.Date, "account_id": sa.Text, "metric": sa.Text},
        columns={
            "period": sa.Text,
            **dict.fromkeys([*BAND, "anomaly_score"], sa.Double),
            "is_anomaly": sa.Boolean,
            "context": sa.Text,
            "run_id": sa.Text,
        },
        optional=[*BAND, "anomaly_score", "run_id"],
        checks={**shares("anomaly_score"), "context_object": "jsonb_typeof(context::jsonb) = 'object'"},
        index=["account_id", "metric", "date"],
    )
    create(
        "anomalies",
        key={"date": sa.Date, "anomaly_id": sa.Text},
        columns={
            **dict.fromkeys(["account_id", "metric"], sa.Text),
            **dict.fromkeys([*BAND, "size"], sa.Double),
            **dict.fromkeys(["direction", "sign"], sa.Text),
            **dict.fromkeys(["p_value", "q_value", "anomaly_score"], sa.Double),
            "severity": sa.Text,
            "cross_section_score": sa.Double,
            **dict.fromkeys(["root_cause", "explanation", "run_id"], sa.Text),
        },
        optional=[*BAND, "size", "cross_section_score", "explanation", "run_id"],
        checks={
            "direction_known": "direction IN ('above', 'below')",
            "sign_known": "sign IN ('good', 'bad', 'neutral')",
            "severity_known": "severity IN ('low', 'medium', 'high')",
            **shares("p_value", "q_value", "anomaly_score"),
            **lists("root_cause"),
        },
        index=["account_id", "date"],
    )
    create(
        "trending_topics",
        key={"date": sa.Date, "topic": sa.Text},
        columns={
            **dict.fromkeys(["rank", "ads", "impressions", "clicks"], sa.BigInteger),
            **dict.fromkeys(["expected_clicks", "rate_ratio", "rate_ratio_lower", "rate_ratio_upper"], sa.Double),
            **dict.fromkeys(["p_value", "q_value"], sa.Double),
            **dict.fromkeys(["examples", "run_id"], sa.Text),
        },
        optional=["run_id"],
        checks={
            "rank_from_1": "rank >= 1",
            "clicks_range": "clicks BETWEEN 0 AND impressions",
            **shares("p_value", "q_value"),
            **lists("examples"),
        },
    )


def downgrade() -> None:
    for table in ("trending_topics", "anomalies", "performance_metrics", "account_segments", "account_health"):
        op.drop_table(table)


def create(
    table: str,
    *,
    key: Mapping[str, type],
    columns: Mapping[str, type],
    optional: Iterable[str],
    checks: Mapping[str, str],
    index: Iterable[str] = (),
) -> None:
    op.create_table(
        table,
        *(sa.Column(name, kind(), nullable=name in optional) for name, kind in {**key, **columns}.items()),
        *(sa.CheckConstraint(condition, name=op.f(f"ck_{table}_{name}")) for name, condition in checks.items()),
        sa.PrimaryKeyConstraint(*key, name=op.f(f"pk_{table}")),
    )
    if indexed := list(index):
        op.create_index(op.f("_".join(["ix", table, *indexed])), table, indexed)


# A NaN is above every number in Postgres, so the ranges keep it out too.
def shares(*columns: str) -> dict[str, str]:
    return {f"{column}_range": f"{column} BETWEEN 0 AND 1" for column in columns}


def lists(*columns: str) -> dict[str, str]:
    return {f"{column}_list": f"jsonb_typeof({column}::jsonb) = 'array'" for column in columns}
