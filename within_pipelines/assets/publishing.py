"""Group publishing: what account managers read, in Postgres, one transaction per day."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import dagster as dg

from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.store import LakeStore
from within_pipelines.assets.anomalies import anomalies, trending_topics
from within_pipelines.assets.features import NarrowingConfig
from within_pipelines.assets.health import account_health, account_segments
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
    return _published(context, config, lake.store, ["ad_scores"], postgres)


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
    return _published(context, config, lake.store, ["ad_score_analysis"], postgres)


@dg.asset(
    group_name="publishing",
    owners=["team:ml"],
    kinds={"postgres"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    deps=[account_health, account_segments],
    pool="postgres",
    description="The day's account health and segments in Postgres, tables account_health and account_segments.",
    metadata={"dagster/column_schema": column_schema(CONTRACTS["account_health"])},
)
def published_health(
    context: dg.AssetExecutionContext, config: NarrowingConfig, lake: LakeResource, postgres: PostgresResource
) -> dg.MaterializeResult[Any]:
    """Publish each day's table in its own transaction; narrowed, health alone: segments are of all accounts."""
    tables = ["account_health"] if config.narrowing() else ["account_health", "account_segments"]
    return _published(context, config, lake.store, tables, postgres)


@dg.asset(
    group_name="publishing",
    owners=["team:ml"],
    kinds={"postgres"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    deps=[anomalies, trending_topics],
    pool="postgres",
    description="The day's anomalies, metrics beside their bands and trending topics in Postgres, tables anomalies, "
    "performance_metrics and trending_topics.",
    metadata={"dagster/column_schema": column_schema(CONTRACTS["anomalies"])},
)
def published_anomalies(
    context: dg.AssetExecutionContext, lake: LakeResource, postgres: PostgresResource
) -> dg.MaterializeResult[Any]:
    """Publish each day's table in its own transaction."""
    tables = ["performance_metrics", "anomalies", "trending_topics"]
    return _published(context, NarrowingConfig(), lake.store, tables, postgres)


def _published(
    context: dg.AssetExecutionContext,
    config: NarrowingConfig,
    store: LakeStore,
    tables: Sequence[str],
    postgres: PostgresResource,
) -> dg.MaterializeResult[Any]:
    scope = config.narrowing().filters()
    counts: Counter[date] = Counter()
    with measured() as measurement:
        versions = {table: store.version(table) or 0 for table in tables}
        for table, version in versions.items():
            repository = postgres.published(table)
            for day in days(context.partition_keys):
                rows = store.read(table, {"date": day, **scope}, version=version)
                done = repository.publish(rows, day, lake_version=version, run_id=context.run.run_id, scope=scope)
                counts[day] += done.rows
    for day, count in counts.items():
        context.add_asset_metadata({"dagster/row_count": count}, partition_key=day.isoformat())
    context.log.info(f"published {counts.total()} rows of {len(counts)} days from versions {versions}")
    lake_version = versions[tables[0]] if len(tables) == 1 else dg.MetadataValue.json(versions)
    return dg.MaterializeResult(metadata={"lake_version": lake_version, **measurement.metadata})


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
