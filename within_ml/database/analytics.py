"""Tables of what is found out about accounts: health, segments, metrics beside their bands, anomalies, trending topics.

What belongs here: columns, constraints and indexes. What does not: reading and writing (`repository`). The columns are
those of the lake's contracts of the same names; a test holds them equal.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Date, Double, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from within_ml.database.base import Base, json_list


def _share(column: str) -> CheckConstraint:
    # A NaN is above every number in Postgres, so the range keeps it out too.
    return CheckConstraint(f"{column} BETWEEN 0 AND 1", name=f"{column}_range")


class AdAccountHealthModel(Base):
    """The health of an account on a day: score, risks, what moves them and what to do; the two lists are JSON texts.

    >>> AdAccountHealthModel.__table__.primary_key.columns.keys()
    ['date', 'account_id']
    """

    __tablename__ = "account_health"
    __table_args__ = (
        CheckConstraint("health_score BETWEEN 0 AND 100", name="health_score_range"),
        CheckConstraint("risk_level IN ('low', 'medium', 'high', 'critical')", name="risk_level_known"),
        _share("bad_state_probability"),
        _share("churn_risk_14d"),
        _share("churn_risk_30d"),
        _share("churn_risk_90d"),
        json_list("contributing_factors"),
        json_list("recommended_actions"),
        Index(None, "account_id", "date"),
    )

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    health_score: Mapped[float] = mapped_column(Double)
    risk_level: Mapped[str] = mapped_column(Text)
    bad_state_probability: Mapped[float] = mapped_column(Double)
    churn_risk_14d: Mapped[float | None] = mapped_column(Double)
    churn_risk_14d_lower: Mapped[float | None] = mapped_column(Double)
    churn_risk_14d_upper: Mapped[float | None] = mapped_column(Double)
    churn_risk_30d: Mapped[float | None] = mapped_column(Double)
    churn_risk_30d_lower: Mapped[float | None] = mapped_column(Double)
    churn_risk_30d_upper: Mapped[float | None] = mapped_column(Double)
    churn_risk_90d: Mapped[float | None] = mapped_column(Double)
    churn_risk_90d_lower: Mapped[float | None] = mapped_column(Double)
    churn_risk_90d_upper: Mapped[float | None] = mapped_column(Double)
    engagement_trend: Mapped[float | None] = mapped_column(Double)
    spend_efficiency: Mapped[float | None] = mapped_column(Double)
    reach_saturation: Mapped[float | None] = mapped_column(Double)
    frequency: Mapped[float | None] = mapped_column(Double)
    fatigue: Mapped[float | None] = mapped_column(Double)
    segment: Mapped[str | None] = mapped_column(Text)
    bad_anomalies_7d: Mapped[int | None] = mapped_column(BigInteger)
    early_warning: Mapped[bool] = mapped_column(Boolean)
    contributing_factors: Mapped[str] = mapped_column(Text)
    recommended_actions: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)


class AccountSegmentModel(Base):
    """The segment of an account or of a targeted audience on a day.

    >>> AccountSegmentModel.__table__.primary_key.columns.keys()
    ['date', 'entity_type', 'entity_id']
    """

    __tablename__ = "account_segments"
    __table_args__ = (CheckConstraint("entity_type IN ('account', 'audience')", name="entity_type_known"),)

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    entity_type: Mapped[str] = mapped_column(Text, primary_key=True)
    entity_id: Mapped[str] = mapped_column(Text, primary_key=True)
    segment: Mapped[str | None] = mapped_column(Text)
    segment_id: Mapped[int] = mapped_column(BigInteger)
    recency_days: Mapped[float | None] = mapped_column(Double)
    frequency: Mapped[float | None] = mapped_column(Double)
    monetary: Mapped[float | None] = mapped_column(Double)
    distance: Mapped[float | None] = mapped_column(Double)
    size: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[str | None] = mapped_column(Text)


class PerformanceMetricModel(Base):
    """A metric of an account in a period, beside what was expected; ``context`` is a JSON text.

    >>> PerformanceMetricModel.__table__.primary_key.columns.keys()
    ['date', 'account_id', 'metric']
    """

    __tablename__ = "performance_metrics"
    __table_args__ = (
        _share("anomaly_score"),
        CheckConstraint("jsonb_typeof(context::jsonb) = 'object'", name="context_object"),
        Index(None, "account_id", "metric", "date"),
    )

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    metric: Mapped[str] = mapped_column(Text, primary_key=True)
    period: Mapped[str] = mapped_column(Text)
    value: Mapped[float | None] = mapped_column(Double)
    expected: Mapped[float | None] = mapped_column(Double)
    lower: Mapped[float | None] = mapped_column(Double)
    upper: Mapped[float | None] = mapped_column(Double)
    anomaly_score: Mapped[float | None] = mapped_column(Double)
    is_anomaly: Mapped[bool] = mapped_column(Boolean)
    context: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)


class AnomalyModel(Base):
    """An anomaly on one of its days; ``root_cause`` is a JSON text.

    >>> AnomalyModel.__table__.primary_key.columns.keys()
    ['date', 'anomaly_id']
    """

    __tablename__ = "anomalies"
    __table_args__ = (
        CheckConstraint("direction IN ('above', 'below')", name="direction_known"),
        CheckConstraint("sign IN ('good', 'bad', 'neutral')", name="sign_known"),
        CheckConstraint("severity IN ('low', 'medium', 'high')", name="severity_known"),
        _share("p_value"),
        _share("q_value"),
        _share("anomaly_score"),
        json_list("root_cause"),
        Index(None, "account_id", "date"),
    )

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    anomaly_id: Mapped[str] = mapped_column(Text, primary_key=True)
    account_id: Mapped[str] = mapped_column(Text)
    metric: Mapped[str] = mapped_column(Text)
    value: Mapped[float | None] = mapped_column(Double)
    expected: Mapped[float | None] = mapped_column(Double)
    lower: Mapped[float | None] = mapped_column(Double)
    upper: Mapped[float | None] = mapped_column(Double)
    size: Mapped[float | None] = mapped_column(Double)
    direction: Mapped[str] = mapped_column(Text)
    sign: Mapped[str] = mapped_column(Text)
    p_value: Mapped[float] = mapped_column(Double)
    q_value: Mapped[float] = mapped_column(Double)
    anomaly_score: Mapped[float] = mapped_column(Double)
    severity: Mapped[str] = mapped_column(Text)
    cross_section_score: Mapped[float | None] = mapped_column(Double)
    root_cause: Mapped[str] = mapped_column(Text)
    explanation: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)


class TrendingTopicModel(Base):
    """A topic of ads whose click rate rises beyond chance; ``examples`` is a JSON text.

    >>> TrendingTopicModel.__table__.primary_key.columns.keys()
    ['date', 'topic']
    """

    __tablename__ = "trending_topics"
    __table_args__ = (
        CheckConstraint("rank >= 1", name="rank_from_1"),
        CheckConstraint("clicks BETWEEN 0 AND impressions", name="clicks_range"),
        _share("p_value"),
        _share("q_value"),
        json_list("examples"),
    )

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    topic: Mapped[str] = mapped_column(Text, primary_key=True)
    rank: Mapped[int] = mapped_column(BigInteger)
    ads: Mapped[int] = mapped_column(BigInteger)
    impressions: Mapped[int] = mapped_column(BigInteger)
    clicks: Mapped[int] = mapped_column(BigInteger)
    expected_clicks: Mapped[float] = mapped_column(Double)
    rate_ratio: Mapped[float] = mapped_column(Double)
    rate_ratio_lower: Mapped[float] = mapped_column(Double)
    rate_ratio_upper: Mapped[float] = mapped_column(Double)
    p_value: Mapped[float] = mapped_column(Double)
    q_value: Mapped[float] = mapped_column(Double)
    examples: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)
