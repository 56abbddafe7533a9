"""First tables: scores, publications, promotions, pins, and the latest state of what is advertised."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FORBID_CHANGES = """
CREATE FUNCTION forbid_ledger_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'The ledger % is append-only: add a row that corrects the earlier one.', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("industry", sa.Text(), nullable=False),
        sa.Column("country", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("monthly_budget", sa.Double(), nullable=True),
        sa.Column("onboarded_date", sa.Date(), nullable=False),
        sa.Column("churned_date", sa.Date(), nullable=True),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "ad_scores",
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("ad_group_id", sa.Text(), nullable=False),
        sa.Column("ad_id", sa.Text(), nullable=False),
        sa.Column("predicted_ctr", sa.Double(), nullable=False),
        sa.Column("ad_score", sa.Double(), nullable=False),
        sa.Column("engagement_score", sa.Double(), nullable=True),
        sa.Column("sentiment_score", sa.Double(), nullable=True),
        sa.Column("complexity_score", sa.Double(), nullable=True),
        sa.Column("topics", sa.Text(), nullable=True),
        sa.Column("confidence_score", sa.Double(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=True),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("feature_version", sa.Text(), nullable=True),
        sa.Column("source_versions", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.CheckConstraint("ad_score BETWEEN 0 AND 100", name=op.f("ck_ad_scores_ad_score_range")),
        sa.CheckConstraint("complexity_score BETWEEN 0 AND 100", name=op.f("ck_ad_scores_complexity_score_range")),
        sa.CheckConstraint("confidence_score BETWEEN 0 AND 1", name=op.f("ck_ad_scores_confidence_score_range")),
        sa.CheckConstraint("engagement_score BETWEEN 0 AND 100", name=op.f("ck_ad_scores_engagement_score_range")),
        sa.CheckConstraint("predicted_ctr BETWEEN 0 AND 1", name=op.f("ck_ad_scores_predicted_ctr_range")),
        sa.CheckConstraint("sentiment_score BETWEEN -1 AND 1", name=op.f("ck_ad_scores_sentiment_score_range")),
        sa.PrimaryKeyConstraint("date", "platform", "account_id", "ad_id", name=op.f("pk_ad_scores")),
    )
    op.create_index(op.f("ix_ad_scores_account_id_date"), "ad_scores", ["account_id", "date"], unique=False)
    op.create_table(
        "ads",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("ad_group_id", sa.Text(), nullable=False),
        sa.Column("ad_id", sa.Text(), nullable=False),
        sa.Column("headline", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("call_to_action", sa.Text(), nullable=True),
        sa.Column("format", sa.Text(), nullable=True),
        sa.Column("image_id", sa.Text(), nullable=True),
        sa.Column("image_path", sa.Text(), nullable=True),
        sa.Column("audience_age", sa.Text(), nullable=False),
        sa.Column("audience_gender", sa.Text(), nullable=False),
        sa.Column("interests", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Date(), nullable=True),
        sa.Column("valid_from", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "account_id", "ad_id", name=op.f("pk_ads")),
    )
    op.create_index(
        op.f("ix_ads_platform_account_id_campaign_id"), "ads", ["platform", "account_id", "campaign_id"], unique=False
    )
    op.create_table(
        "campaigns",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("objective", sa.Text(), nullable=False),
        sa.Column("daily_budget", sa.Double(), nullable=True),
        sa.Column("start_date", sa.Date(), nullable=False),
        sa.Column("end_date", sa.Date(), nullable=True),
        sa.PrimaryKeyConstraint("platform", "account_id", "campaign_id", name=op.f("pk_campaigns")),
    )
    op.create_table(
        "model_pins",
        sa.Column("backfill_id", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("resolved", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("pinned_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("backfill_id", "model_name", name=op.f("pk_model_pins")),
    )
    op.create_table(
        "model_promotions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("from_version", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("report", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "action IN ('promote', 'refuse', 'rollback')", name=op.f("ck_model_promotions_action_known")
        ),
        sa.CheckConstraint("length(trim(reason)) > 0", name=op.f("ck_model_promotions_reason_given")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_promotions")),
    )
    op.create_index(op.f("ix_model_promotions_model_name_id"), "model_promotions", ["model_name", "id"], unique=False)
    op.create_table(
        "publications",
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("lake_version", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("table_name", "date", "run_id", name=op.f("pk_publications")),
    )
    op.execute(FORBID_CHANGES)
    for event, level in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        name = f"model_promotions_forbid_{level.lower()}_changes"
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {event} ON model_promotions "
            f"FOR EACH {level} EXECUTE FUNCTION forbid_ledger_changes()"
        )


def downgrade() -> None:
    op.drop_table("publications")
    op.drop_index(op.f("ix_model_promotions_model_name_id"), table_name="model_promotions")
    op.drop_table("model_promotions")
    op.drop_table("model_pins")
    op.drop_table("campaigns")
    op.drop_index(op.f("ix_ads_platform_account_id_campaign_id"), table_name="ads")
    op.drop_table("ads")
    op.drop_index(op.f("ix_ad_scores_account_id_date"), table_name="ad_scores")
    op.drop_table("ad_scores")
    op.drop_table("accounts")
    op.execute("DROP FUNCTION forbid_ledger_changes()")
