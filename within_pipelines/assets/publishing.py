"""Group publishing: what account managers read, in Postgres, one transaction per day."""

from typing import Any

import dagster as dg

from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.store import LakeStore
from within_pipelines.assets.features import NarrowingConfig
from within_pipelines.assets.scoring import ad_score_analysis, ad_scores
from within_pipelines.metadata import column_schema, counts_table, measured
from within_pipelines.partitions import BACKFILL_POLICY, DAILY, days
from within_pipelines.resources import LakeResource, PostgresResource

PUBLISHED_DIMENSIONS = ("accounts", "campaigns", "ads")


@dg.asset(
    group_name="publishing",
    owners=["team:ml"],
    kinds={"postgres"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    deps=[ad_scores],
    pool="postgres",
    description="The day's ad scores in Postgres, table ad_scores; publishing twice leaves the same rows.",
    metadata={"dagster/column_schema": column_schema(CONTRACTS["ad_scores"])},
)
def published_scores(
    context: dg.AssetExecutionContext, config: NarrowingConfig, lake: LakeResource, postgres: PostgresResource
) -> dg.MaterializeResult[Any]:
    """Publish each day in its own transaction, so that one that failed leaves the others published."""
    return _published(context, config, lake.store, "ad_scores", postgres)


@dg.asset(
    group_name="publishing",
    owners=["team:ml"],
    kinds={"postgres"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    deps=[ad_score_analysis],
    pool="postgres",
    description="The day's reasons, similar ads and suggestions in Postgres, table ad_score_analysis.",
    metadata={"dagster/column_schema": column_schema(CONTRACTS["ad_score_analysis"])},
)
def published_analysis(
    context: dg.AssetExecutionContext, config: NarrowingConfig, lake: LakeResource, postgres: PostgresResource
) -> dg.MaterializeResult[Any]:
    """Publish each day in its own transaction, so that one that failed leaves the others published."""
    return _published(context, config, lake.store, "ad_score_analysis", postgres)


def _published(
    context: dg.AssetExecutionContext,
    config: NarrowingConfig,
    store: LakeStore,
    table: str,
    postgres: PostgresResource,
) -> dg.MaterializeResult[Any]:
    scope = config.narrowing().filters()
    total = 0
    with measured() as measurement:
        version = store.version(table) or 0
        repository = postgres.published(table)
        for day in days(context.partition_keys):
            rows = store.read(table, {"date": day, **scope}, version=version)
            done = repository.publish(rows, day, lake_version=version, run_id=context.run.run_id, scope=scope)
            context.add_asset_metadata({"dagster/row_count": done.rows}, partition_key=day.isoformat())
            total += done.rows
    context.log.info(f"published {total} rows of {len(context.partition_keys)} days from version {version}")
    return dg.MaterializeResult(metadata={"lake_version": version, **measurement.metadata})


@dg.asset(
    group_name="publishing",
    owners=["team:ml"],
    kinds={"postgres"},
    deps=list(PUBLISHED_DIMENSIONS),
    pool="postgres",
    description="The newest state of accounts, campaigns and ads in Postgres, for joining with the scores.",
)
def published_dimensions(
    context: dg.AssetExecutionContext, lake: LakeResource, postgres: PostgresResource
) -> dg.MaterializeResult[Any]:
    """Make each table equal to the lake's, in its own transaction."""
    repository = postgres.dimensions()
    with measured() as measurement:
        rows = {name: lake.store.read(name) for name in PUBLISHED_DIMENSIONS}
        for name, table in rows.items():
            repository.replace(name, table)
    counts = counts_table(
        {name: table.num_rows for name, table in rows.items()}, name="table", value="rows in the lake"
    )
    return dg.MaterializeResult(metadata={"rows": counts, **measurement.metadata})
