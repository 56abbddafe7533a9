"""Group scoring: each ad's prediction for the days after a day, by the model that was asked for."""

import json
from collections.abc import Callable, Iterator
from datetime import date
from itertools import groupby
from operator import itemgetter
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from within_ml.base import ModelType
from within_ml.features.catalog import FEATURE_VERSION
from within_ml.lake.contracts import AD_KEY, CONTRACTS, Contract
from within_ml.lake.store import LakeStore
from within_pipelines.assets.features import NarrowingConfig, ad_features
from within_pipelines.metadata import column_schema, committed, measured
from within_pipelines.partitions import BACKFILL_POLICY, DAILY, days
from within_pipelines.resources import LakeResource, RegistryResource
from within_pipelines.rows import audited

BACKFILL_TAG = "dagster/backfill"
CONTRACT = CONTRACTS["ad_scores"]
ANALYSIS = CONTRACTS["ad_score_analysis"]
ROWS_PER_PREDICTION = 100_000
"""Days are predicted together up to about so many rows: an ad's text, the same on most of them, is looked at once."""


class ScoringConfig(NarrowingConfig):
    """Which model scores: ``champion``, ``as_of`` (the newest vintage that each day could have had), or a version."""

    model: str = "champion"
    backfill_id: str = ""
    """Days of one backfill share the models that were resolved when it started."""


@dg.asset(
    group_name="scoring",
    owners=["team:ml"],
    kinds={"deltalake", "xgboost", "mlflow"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    pool="scoring",
    deps=[ad_features, "ad_score_champion"],
    description="The calibrated click-through prediction of each ad for the seven days after the day, and its reasons.",
    metadata={"dagster/column_schema": column_schema(CONTRACT)},
)
def ad_scores(
    context: dg.AssetExecutionContext, config: ScoringConfig, lake: LakeResource, models: RegistryResource
) -> dg.MaterializeResult[Any]:
    """Score each day with the version that its selector resolves to."""
    store, wanted = lake.store, days(context.partition_keys)
    backfill_id = config.backfill_id or context.run.tags.get(BACKFILL_TAG, "")
    with measured() as measurement:
        registry = models.registry()
        store.require_dates("ad_features", wanted)
        versions = (
            registry.pin(ModelType.AD_SCORE, config.model, wanted, backfill_id=backfill_id)
            if backfill_id
            else {day: registry.resolve(ModelType.AD_SCORE, config.model, day) for day in wanted}
        )
        scored = _scored(store, config, versions, registry, context.run.run_id)
        commit = store.replace_stream("ad_scores", scored, run_id=context.run.run_id, narrowing=config.narrowing())
    used = sorted({str(v) for v in versions.values()})
    return committed(context, commit, measurement, model=config.model, model_versions=", ".join(used))


@dg.asset(
    group_name="scoring",
    owners=["team:ml"],
    kinds={"deltalake", "xgboost", "mlflow"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    pool="scoring",
    deps=[ad_scores],
    description="Why each ad has its score, which ads like it did well, and which changes would raise it.",
    metadata={"dagster/column_schema": column_schema(ANALYSIS)},
)
def ad_score_analysis(
    context: dg.AssetExecutionContext, config: NarrowingConfig, lake: LakeResource, models: RegistryResource
) -> dg.MaterializeResult[Any]:
    """Analyse each day's ads with the versions that scored them."""
    store, wanted = lake.store, days(context.partition_keys)
    with measured() as measurement:
        store.require_dates("ad_scores", wanted)
        analysed = _analysed(store, config, wanted, models.registry(), context.run.run_id)
        commit = store.replace_stream(ANALYSIS.table, analysed, run_id=context.run.run_id, narrowing=config.narrowing())
    return committed(context, commit, measurement)


def _analysed(
    store: LakeStore, config: NarrowingConfig, wanted: list[date], registry: Any, run_id: str
) -> Iterator[tuple[date, pa.Table]]:
    """Rows of a day may be of several versions: those that were scored again, narrowed, by another one."""
    scope = config.narrowing().filters()
    for day in wanted:
        scored = store.read("ad_scores", {"date": day, **scope}, columns=[*AD_KEY, "model_version"])
        features = store.read("ad_features", {"date": day, **scope})
        parts = [ANALYSIS.schema.empty_table()]
        for version in sorted(set(scored["model_version"].to_pylist())):
            keys = scored.filter(pc.equal(scored["model_version"], version)).select(AD_KEY)
            rows = features.join(keys, keys=list(AD_KEY), join_type="inner").select(features.column_names)
            predictor = registry.load(ModelType.AD_SCORE, version)
            parts.append(
                told_rows(predictor.analyse, rows, ANALYSIS, version=version, source_versions={}, run_id=run_id)
            )
        yield day, pa.concat_tables(parts)


def _scored(
    store: LakeStore, config: ScoringConfig, versions: dict[date, str], registry: Any, run_id: str
) -> Iterator[tuple[date, pa.Table]]:
    scope = config.narrowing().filters()
    sources = {"ad_features": store.version("ad_features")}
    for version, group in groupby(versions.items(), key=itemgetter(1)):
        predictor = registry.load(ModelType.AD_SCORE, version)
        for parts in _together(store, [day for day, _ in group], scope):
            features = pa.concat_tables(parts.values())
            rows = told_rows(
                predictor.score, features, CONTRACT, version=version, source_versions=sources, run_id=run_id
            )
            yield from ((day, rows.filter(pc.equal(rows["date"], day))) for day in parts)


def _together(store: LakeStore, wanted: list[date], scope: dict[str, list[str]]) -> Iterator[dict[date, pa.Table]]:
    """Read features day by day, and give some days at a time."""
    parts: dict[date, pa.Table] = {}
    for day in wanted:
        parts[day] = store.read("ad_features", {"date": day, **scope})
        if sum(rows.num_rows for rows in parts.values()) >= ROWS_PER_PREDICTION:
            yield parts
            parts = {}
    if parts:
        yield parts


def told_rows(
    tell: Callable[[pd.DataFrame], pd.DataFrame],
    features: pa.Table,
    contract: Contract,
    *,
    version: str,
    source_versions: dict[str, int | None],
    run_id: str,
) -> pa.Table:
    """Rows of a table about ads for rows of ``ad_features``, audited against its contract.

    Raises
    ------
    ContractError
        If what the model tells breaks the contract.
    """
    if not features.num_rows:
        return contract.schema.empty_table()
    told = pa.Table.from_pandas(tell(features.to_pandas()), preserve_index=False)
    lineage = {
        "model_name": ModelType.AD_SCORE.value,
        "model_version": str(version),
        "feature_version": FEATURE_VERSION,
        "source_versions": json.dumps(source_versions, sort_keys=True),
        "run_id": run_id,
    }
    columns = {name: pa.repeat(value, features.num_rows) for name, value in lineage.items()}
    columns |= {name: features[name] for name in features.column_names if name in contract.names}
    columns |= {name: told[name] for name in told.column_names}
    return audited(columns, contract, rows=features.num_rows)
