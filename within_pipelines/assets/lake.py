"""Group lake: landing files become audited tables. What a row must look like stands in `within_ml.lake.contracts`."""

from typing import Any

import dagster as dg

from within_ml.errors import SourceError
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.landing import DIMENSIONS, ingest_days, ingest_dimension, register
from within_pipelines.metadata import column_schema, committed, counts_table, measured
from within_pipelines.partitions import BACKFILL_POLICY, DAILY, days
from within_pipelines.resources import LakeResource, LandingResource

GROUP = "lake"
OWNERS = ["team:data-platform"]
SETTLED = dg.DataVersion("1")
"""Data version of tables without days: a night adds to them what no earlier day may use, so that days made before are
not stale. Days that a file restates are requested by the sensor of landed days, and what depends on them is stale."""

PARENT_RUN = "dagster/parent_run_id"
MOST_ACCOUNTS = 200
"""Changed accounts of a day that its materialization names; for more, and for a new day, it says "all"."""


class LandingConfig(dg.Config):
    """Which landing files to look at."""

    paths: list[str] = []
    """Paths below the landing zone; everything in it where empty."""
    source: str = ""
    """Name of the source that the paths belong to."""


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"file", "deltalake"},
    description="Ledger of the exports that have landed: each content once, with its source and the days it covers.",
)
def landing_files(
    context: dg.AssetExecutionContext, config: LandingConfig, lake: LakeResource, landing: LandingResource
) -> dg.MaterializeResult[Any]:
    """Register what has landed since the last look."""
    chosen = [(landing.path(p), config.source) for p in config.paths] if config.paths else None
    with measured() as measurement:
        found = register(lake.store, landing.zone, chosen, run_id=context.run.run_id)
    for path, sentence in found.refused.items():
        context.log.error(f"{path} was refused: {sentence}")
    if config.paths and found.refused:
        raise SourceError(" ".join(found.refused.values()))
    changed = found.days
    return dg.MaterializeResult(
        data_version=SETTLED,
        metadata={
            "new_files": len(found.new),
            "new_rows": sum(file.rows for file in found.new),
            "refused_files": len(found.refused),
            "first_changed_date": changed[0].isoformat() if changed else "",
            "last_changed_date": changed[-1].isoformat() if changed else "",
            "rows_by_source": counts_table(_rows_by_source(found.new), name="source", value="rows"),
            **measurement.metadata,
        },
    )


def _rows_by_source(files: Any) -> dict[str, int]:
    sums: dict[str, int] = {}
    for file in files:
        sums[file.source] = sums.get(file.source, 0) + file.rows
    return sums


def _dimension(table: str) -> dg.AssetsDefinition:
    contract = CONTRACTS[table]

    @dg.asset(
        name=table,
        group_name=GROUP,
        owners=OWNERS,
        kinds={"deltalake"},
        deps=[landing_files],
        description=f"{contract.meaning}. Grain: {contract.grain}.",
        metadata={"dagster/column_schema": column_schema(contract), "dagster/table_name": table},
    )
    def dimension(context: dg.AssetExecutionContext, lake: LakeResource, landing: LandingResource) -> Any:
        with measured() as measurement:
            done = ingest_dimension(lake.store, landing.zone, table, run_id=context.run.run_id)
        if done is None:
            return dg.MaterializeResult(metadata={"new_files": 0, **measurement.metadata}, data_version=SETTLED)
        reasons = counts_table(done.reasons, name="reason", value="rejected rows")
        told = {"new_files": len(done.files), "rejected_rows": done.rejected, "reasons": reasons}
        return committed(context, done.commit, measurement, **told)._replace(data_version=SETTLED)

    return dimension


dimensions = [_dimension(table) for table in DIMENSIONS]


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    deps=[landing_files],
    pool="lake",
    description="What each ad was shown, clicked and earned on one day in one region, audited row by row.",
    metadata={"dagster/column_schema": column_schema(CONTRACTS["ad_performance"])},
)
def ad_performance(
    context: dg.AssetExecutionContext, lake: LakeResource, landing: LandingResource
) -> dg.MaterializeResult[Any]:
    """Make the partitions of these days from the landing files that cover them."""
    with measured() as measurement:
        done = ingest_days(lake.store, landing.zone, days(context.partition_keys), run_id=context.run.run_id)
    # A run that repeats a killed one may find the rows that the latter has committed and told nobody of.
    known = {} if PARENT_RUN in context.run.tags else done.changed
    for day in done.commit.rows_by_date:
        accounts = known.get(day)
        told = list(accounts) if accounts is not None and len(accounts) <= MOST_ACCOUNTS else "all"
        context.add_asset_metadata({"changed_accounts": told}, partition_key=day.isoformat())
    reasons = counts_table(done.reasons, name="reason", value="rejected rows")
    return committed(context, done.commit, measurement, rejected_rows=done.rejected, reasons=reasons)
