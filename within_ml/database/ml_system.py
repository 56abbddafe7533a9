"""Tables of the machine learning system: published predictions, publications, promotions and pins.

What belongs here: columns, constraints and indexes. What does not: reading and writing (`repository`). The columns of
`AdScoreModel`, `AdScoreAnalysisModel` and `RegionFactorModel` are those of the lake's contracts `ad_scores`,
`ad_score_analysis` and `region_factors`; a test holds them equal.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import BigInteger, CheckConstraint, Date, DateTime, Double, Identity, Index, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from within_ml.database.base import Base, json_list


class AdScoreModel(Base):
    """A published ad score: one row per day and ad.

    >>> AdScoreModel.__table__.primary_key.columns.keys()
    ['date', 'platform', 'account_id', 'ad_id']
    """

    __tablename__ = "ad_scores"
    # A NaN is above every number in Postgres, so the ranges keep it out too.
    __table_args__ = (
        CheckConstraint("predicted_ctr BETWEEN 0 AND 1", name="predicted_ctr_range"),
        CheckConstraint("ctr_lower BETWEEN 0 AND 1", name="ctr_lower_range"),
        CheckConstraint("ctr_upper BETWEEN 0 AND 1", name="ctr_upper_range"),
        CheckConstraint("ctr_lower <= ctr_upper", name="interval_order"),
        CheckConstraint("interval_impressions BETWEEN 0 AND 1e15", name="interval_impressions_range"),
        CheckConstraint("ad_score BETWEEN 0 AND 100", name="ad_score_range"),
        CheckConstraint("engagement_score BETWEEN 0 AND 100", name="engagement_score_range"),
        CheckConstraint("sentiment_score BETWEEN -1 AND 1", name="sentiment_score_range"),
        CheckConstraint("complexity_score BETWEEN 0 AND 100", name="complexity_score_range"),
        CheckConstraint("confidence_score BETWEEN 0 AND 1", name="confidence_score_range"),
        CheckConstraint("target_audience_match BETWEEN 0 AND 100", name="target_audience_match_range"),
        json_list("top_reasons"),
        Index(None, "account_id", "date"),
    )

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    platform: Mapped[str] = mapped_column(Text, primary_key=True)
    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(Text)
    ad_group_id: Mapped[str] = mapped_column(Text)
    ad_id: Mapped[str] = mapped_column(Text, primary_key=True)
    predicted_ctr: Mapped[float] = mapped_column(Double)
    ctr_lower: Mapped[float | None] = mapped_column(Double)
    ctr_upper: Mapped[float | None] = mapped_column(Double)
    interval_impressions: Mapped[float | None] = mapped_column(Double)
    ad_score: Mapped[float] = mapped_column(Double)
    engagement_score: Mapped[float | None] = mapped_column(Double)
    sentiment_score: Mapped[float | None] = mapped_column(Double)
    complexity_score: Mapped[float | None] = mapped_column(Double)
    topics: Mapped[str | None] = mapped_column(Text)
    top_reasons: Mapped[str | None] = mapped_column(Text)
    target_audience_match: Mapped[float | None] = mapped_column(Double)
    confidence_score: Mapped[float] = mapped_column(Double)
    model_name: Mapped[str | None] = mapped_column(Text)
    model_version: Mapped[str | None] = mapped_column(Text)
    feature_version: Mapped[str | None] = mapped_column(Text)
    source_versions: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)


class AdScoreAnalysisModel(Base):
    """Why an ad has its published score: one row per day and ad; the three lists are JSON texts.

    >>> AdScoreAnalysisModel.__table__.primary_key.columns.keys()
    ['date', 'platform', 'account_id', 'ad_id']
    """

    __tablename__ = "ad_score_analysis"
    __table_args__ = (
        CheckConstraint("base_ctr BETWEEN 0 AND 1", name="base_ctr_range"),
        CheckConstraint("predicted_ctr BETWEEN 0 AND 1", name="predicted_ctr_range"),
        json_list("reasons"),
        json_list("similar_ads"),
        json_list("suggestions"),
        Index(None, "account_id", "date"),
    )

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    platform: Mapped[str] = mapped_column(Text, primary_key=True)
    account_id: Mapped[str] = mapped_column(Text, primary_key=True)
    campaign_id: Mapped[str] = mapped_column(Text)
    ad_group_id: Mapped[str] = mapped_column(Text)
    ad_id: Mapped[str] = mapped_column(Text, primary_key=True)
    base_ctr: Mapped[float] = mapped_column(Double)
    predicted_ctr: Mapped[float] = mapped_column(Double)
    reasons: Mapped[str] = mapped_column(Text)
    similar_ads: Mapped[str] = mapped_column(Text)
    suggestions: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)


class RegionFactorModel(Base):
    """How much more or less a region clicks than was predicted, as of a Monday: one row per Monday and region.

    ``offset`` is a word of SQL: queries write ``"offset"``.

    >>> RegionFactorModel.__table__.primary_key.columns.keys()
    ['date', 'region']
    """

    __tablename__ = "region_factors"
    __table_args__ = (
        CheckConstraint('"offset" BETWEEN -100 AND 100', name="offset_range"),
        CheckConstraint("standard_error BETWEEN 0 AND 1e15", name="standard_error_range"),
        CheckConstraint("factor > 0 AND factor < 'Infinity'", name="factor_positive"),
        CheckConstraint("clicks BETWEEN 0 AND impressions", name="clicks_range"),
        CheckConstraint("source IN ('own', 'neighbors', 'parent', 'global')", name="source_known"),
        CheckConstraint("spatial_share BETWEEN 0 AND 1", name="spatial_share_range"),
    )

    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    region: Mapped[str] = mapped_column(Text, primary_key=True)
    country: Mapped[str | None] = mapped_column(Text)
    state: Mapped[str | None] = mapped_column(Text)
    city: Mapped[str | None] = mapped_column(Text)
    offset: Mapped[float] = mapped_column(Double)
    standard_error: Mapped[float] = mapped_column(Double)
    factor: Mapped[float] = mapped_column(Double)
    impressions: Mapped[int] = mapped_column(BigInteger)
    clicks: Mapped[int] = mapped_column(BigInteger)
    predicted_clicks: Mapped[float] = mapped_column(Double)
    source: Mapped[str] = mapped_column(Text)
    level: Mapped[float] = mapped_column(Double)
    spatial_share: Mapped[float] = mapped_column(Double)
    moran_before: Mapped[float | None] = mapped_column(Double)
    moran_after: Mapped[float | None] = mapped_column(Double)
    weeks: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[str | None] = mapped_column(Text)


class PublicationModel(Base):
    """Which run published which partition of which table; a run that is repeated has one row.

    >>> PublicationModel.__table__.primary_key.columns.keys()
    ['table_name', 'date', 'run_id']
    """

    __tablename__ = "publications"

    table_name: Mapped[str] = mapped_column(Text, primary_key=True)
    date: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    run_id: Mapped[str] = mapped_column(Text, primary_key=True)
    rows: Mapped[int] = mapped_column(BigInteger)
    lake_version: Mapped[int] = mapped_column(BigInteger)
    published_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class ModelPromotionModel(Base):
    """One decision about a registered model: the append-only ledger, in which triggers forbid changes.

    ``version`` is the version decided about; ``from_version`` the champion at that moment. ``report`` is the gate's
    decision, null where a person decided.

    >>> ModelPromotionModel.__tablename__
    'model_promotions'
    """

    __tablename__ = "model_promotions"
    __table_args__ = (
        CheckConstraint("action IN ('promote', 'refuse', 'rollback')", name="action_known"),
        CheckConstraint("length(trim(reason)) > 0", name="reason_given"),
        Index(None, "model_name", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    decided_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    model_name: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    from_version: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    decided_by: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)
    report: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))


class ModelPinModel(Base):
    """Which model versions a backfill uses, fixed by its first run.

    ``resolved`` maps the first day from which a version counts to that version: the same for all runs of the backfill,
    whatever days each of them has.

    >>> ModelPinModel.__table__.primary_key.columns.keys()
    ['backfill_id', 'model_name']
    """

    __tablename__ = "model_pins"

    backfill_id: Mapped[str] = mapped_column(Text, primary_key=True)
    model_name: Mapped[str] = mapped_column(Text, primary_key=True)
    selector: Mapped[str] = mapped_column(Text)
    resolved: Mapped[dict[str, str]] = mapped_column(JSONB)
    pinned_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
