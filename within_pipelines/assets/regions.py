"""Group training, beside the model: which regions click more or less than the stored scores said, as of a Monday.

No score depends on it: these are findings for people who plan where ads are shown.
"""

import math
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa

from within_ml.features.labels import required_label_dates
from within_ml.features.regional_outcomes import WEEKS, outcome_days, regional_outcomes
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.landing import expected_days
from within_ml.lake.store import LakeStore
from within_pipelines.assets.features import reader
from within_pipelines.assets.lake import ad_performance
from within_pipelines.assets.scoring import ad_scores
from within_pipelines.metadata import column_schema, committed, counts_table, measured, picture
from within_pipelines.partitions import AS_OF_MONDAYS
from within_pipelines.resources import FeatureResource, LakeResource, PostgresResource

GROUP = "training"
OWNERS = ["team:ml"]
CONTRACT = CONTRACTS["region_factors"]
# Ten weeks, up to the day before the Monday: the outcomes of eight, and until the last of them is complete.
WINDOW = dg.TimeWindowPartitionMapping(
    start_offset=-(WEEKS + 2), end_offset=-1, allow_nonexistent_upstream_partitions=True
)


@dg.asset(
    name=CONTRACT.table,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "duckdb", "scikitlearn"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[
        dg.AssetDep(ad_scores, partition_mapping=WINDOW),
        dg.AssetDep(ad_performance, partition_mapping=WINDOW),
        "regions",
    ],
    description=f"{CONTRACT.meaning}. No score depends on it.",
    metadata={"dagster/column_schema": column_schema(CONTRACT)},
)
def region_factors_asset(
    context: dg.AssetExecutionContext, lake: LakeResource, features: FeatureResource
) -> dg.MaterializeResult[Any]:
    """Compare stored scores with what happened by region, as far as it is complete on the Monday."""
    from within_ml.ad_score.regional import region_factors

    store, as_of = lake.store, date.fromisoformat(context.partition_key)
    first, last = outcome_days(as_of)
    with measured() as measurement:
        _require_weeks(store, store.dates("ad_scores", first, last))
        outcomes = regional_outcomes(reader(store), first=first, last=last, limits=features.limits())
        known = store.read("regions").to_pandas()
        found = region_factors(outcomes, known, as_of=as_of, run_id=context.run.run_id)
        commit = store.replace(CONTRACT.table, {as_of: found.rows}, run_id=context.run.run_id)
        told = {"outcomes": len(outcomes), "weeks": outcomes["date"].nunique(), **_told(found.rows, found.calibrator)}
    if found.reason:
        context.log.info(f"No factors as of {as_of}: {found.reason}.")
        told["reason"] = found.reason
    return committed(context, commit, measurement, **told)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    partitions_def=AS_OF_MONDAYS,
    deps=[region_factors_asset],
    pool="postgres",
    description="The regions' factors as of the Monday in Postgres, table region_factors.",
    metadata={"dagster/column_schema": column_schema(CONTRACT)},
)
def published_regions(
    context: dg.AssetExecutionContext, lake: LakeResource, postgres: PostgresResource
) -> dg.MaterializeResult[Any]:
    """Publish the Monday's factors in one transaction."""
    store, as_of = lake.store, date.fromisoformat(context.partition_key)
    with measured() as measurement:
        version = store.version(CONTRACT.table) or 0
        rows = store.read(CONTRACT.table, {"date": as_of}, version=version)
        done = postgres.published(CONTRACT.table).publish(rows, as_of, lake_version=version, run_id=context.run.run_id)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": done.rows, "lake_version": version, **measurement.metadata}
    )


def _require_weeks(store: LakeStore, scored: tuple[date, ...]) -> None:
    """Check that what happened after the scored days is there, as far as the sources' calendars expect it."""
    if scored:
        needed = required_label_dates(scored[0], scored[-1])
        store.require_dates("ad_performance", expected_days(store, needed[0], needed[-1]))


def _told(rows: pa.Table, calibrator: Any) -> dict[str, Any]:
    """What the UI shows of a fitted calibrator."""
    if calibrator is None:
        return {}
    frame = rows.to_pandas()
    kept = [name for name, tried in calibrator.covariates_.items() if tried.kept]
    return {
        "map": picture("png", calibrator.region_map_png()),
        "kept_covariates": ", ".join(kept) or "none",
        "sources": counts_table(frame["source"].value_counts().to_dict(), name="rests on", value="regions"),
        "level": calibrator.level_,
        "spatial_share": calibrator.spatial_share_,
        **{name: moran for name, moran in _moran(calibrator).items() if math.isfinite(moran)},
    }


def _moran(calibrator: Any) -> dict[str, float]:
    return {"moran_before": calibrator.moran_before_, "moran_after": calibrator.moran_after_}
