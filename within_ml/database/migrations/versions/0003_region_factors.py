"""The table of the regions' factors."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A NaN is above every number in Postgres, so the ranges keep it out too.
CHECKS = {
    "offset_range": '"offset" BETWEEN -100 AND 100',
    "standard_error_range": "standard_error BETWEEN 0 AND 1e15",
    "factor_positive": "factor > 0 AND factor < 'Infinity'",
    "clicks_range": "clicks BETWEEN 0 AND impressions",
    "source_known": "source IN ('own', 'neighbors', 'parent', 'global')",
    "spatial_share_range": "spatial_share BETWEEN 0 AND 1",
}


def upgrade() -> None:
    op.create_table(
        "region_factors",
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("country", "state", "city")),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("offset", "standard_error", "factor")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("impressions", "clicks")),
        sa.Column("predicted_clicks", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in ("level", "spatial_share")),
        *(sa.Column(name, sa.Double(), nullable=True) for name in ("moran_before", "moran_after")),
        sa.Column("weeks", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        *(sa.CheckConstraint(condition, name=op.f(f"ck_region_factors_{name}")) for name, condition in CHECKS.items()),
        sa.PrimaryKeyConstraint("date", "region", name=op.f("pk_region_factors")),
    )


def downgrade() -> None:
    op.drop_table("region_factors")
