"""Intervals, reasons and audience match of the scores, and the table of their analysis."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCORE_COLUMNS = (
    ("ctr_lower", sa.Double()),
    ("ctr_upper", sa.Double()),
    ("interval_impressions", sa.Double()),
    ("top_reasons", sa.Text()),
    ("target_audience_match", sa.Double()),
)
SCORE_CHECKS = {
    "ctr_lower_range": "ctr_lower BETWEEN 0 AND 1",
    "ctr_upper_range": "ctr_upper BETWEEN 0 AND 1",
    "interval_order": "ctr_lower <= ctr_upper",
    "interval_impressions_range": "interval_impressions BETWEEN 0 AND 1e15",
    "target_audience_match_range": "target_audience_match BETWEEN 0 AND 100",
    "top_reasons_list": "jsonb_typeof(top_reasons::jsonb) = 'array'",
}


def upgrade() -> None:
    for name, kind in SCORE_COLUMNS:
        op.add_column("ad_scores", sa.Column(name, kind, nullable=True))
    for name, condition in SCORE_CHECKS.items():
        op.create_check_constraint(op.f(f"ck_ad_scores_{name}"), "ad_scores", condition)
    op.create_table(
        "ad_score_analysis",
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("ad_group_id", sa.Text(), nullable=False),
        sa.Column("ad_id", sa.Text(), nullable=False),
        sa.Column("base_ctr", sa.Double(), nullable=False),
        sa.Column("predicted_ctr", sa.Double(), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("similar_ads", sa.Text(), nullable=False),
        sa.Column("suggestions", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.CheckConstraint("base_ctr BETWEEN 0 AND 1", name=op.f("ck_ad_score_analysis_base_ctr_range")),
        sa.CheckConstraint("predicted_ctr BETWEEN 0 AND 1", name=op.f("ck_ad_score_analysis_predicted_ctr_range")),
        *(
            sa.CheckConstraint(f"jsonb_typeof({name}::jsonb) = 'array'", name=op.f(f"ck_ad_score_analysis_{name}_list"))
            for name in ("reasons", "similar_ads", "suggestions")
        ),
        sa.PrimaryKeyConstraint("date", "platform", "account_id", "ad_id", name=op.f("pk_ad_score_analysis")),
    )
    op.create_index(
        op.f("ix_ad_score_analysis_account_id_date"), "ad_score_analysis", ["account_id", "date"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_ad_score_analysis_account_id_date"), table_name="ad_score_analysis")
    op.drop_table("ad_score_analysis")
    for name in SCORE_CHECKS:
        op.drop_constraint(op.f(f"ck_ad_scores_{name}"), "ad_scores")
    for name, _ in SCORE_COLUMNS:
        op.drop_column("ad_scores", name)
