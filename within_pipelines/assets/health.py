"""Group scoring: how healthy each account is on a day, and groups of accounts and audiences that are alike."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import pandas as pd
import pyarrow as pa

from within_ml.features.daily_sums import daily_sums
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.store import LakeStore
from within_pipelines.assets.anomalies import anomalies, on
from within_pipelines.assets.features import account_features, reader
from within_pipelines.assets.health_training import DETAIL, HISTORY_MONTHS, NAME, OWNERS, account_health_champion
from within_pipelines.assets.lake import ad_performance
from within_pipelines.assets.scoring import BACKFILL_TAG, ScoringConfig
from within_pipelines.files import write_whole
from within_pipelines.metadata import column_schema, committed, counts_table, measured, picture
from within_pipelines.partitions import (
    BACKFILL_POLICY,
    DAILY,
    days,
    history_mapping,
    history_start,
)
from within_pipelines.resources import (
    FeatureResource,
    LakeResource,
    RegistryResource,
    ReportResource,
)
from within_pipelines.rows import contracted

if TYPE_CHECKING:
    from within_ml.health import AccountHealthPredictor
    from within_ml.registry import ModelRegistry

HEALTH, SEGMENTS = CONTRACTS["account_health"], CONTRACTS["account_segments"]
MOST_PICTURES = 5

SEGMENT_DAYS = 90
AUDIENCE = ("audience_age", "audience_gender")
ANOMALY_DAYS = 7
WEEK = dg.TimeWindowPartitionMapping(start_offset=1 - ANOMALY_DAYS, allow_nonexistent_upstream_partitions=True)
SEGMENT_WINDOW = dg.TimeWindowPartitionMapping(
    start_offset=1 - SEGMENT_DAYS, allow_nonexistent_upstream_partitions=True
)


@dg.asset(
    group_name="scoring",
    owners=OWNERS,
    kinds={"deltalake", "scikitlearn"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    pool="scoring",
    deps=[dg.AssetDep(ad_performance, partition_mapping=SEGMENT_WINDOW), "ads"],
    description="Groups of accounts, and of audiences, that are alike in recency, frequency, value, growth and click "
    "rate; a group keeps its number from night to night.",
    metadata={"dagster/column_schema": column_schema(SEGMENTS)},
)
def account_segments(
    context: dg.AssetExecutionContext, lake: LakeResource, features: FeatureResource
) -> dg.MaterializeResult[Any]:
    """Group the entities of each day, beginning with the groups of the day before."""
    from within_ml.health.recency import ENTITY_TYPES, segment_features
    from within_ml.health.segments import Segmentation

    store, wanted = lake.store, days(context.partition_keys)
    found: dict[date, pa.Table] = {}
    with measured() as measurement:
        performance = daily_sums(
            reader(store),
            first=wanted[0] - timedelta(days=SEGMENT_DAYS - 1),
            last=wanted[-1],
            by=AUDIENCE,
            limits=features.limits(),
        )
        before = store.read(SEGMENTS.table, {"date": wanted[0] - timedelta(days=1)}).to_pandas()
        for day in wanted:
            parts = []
            for entity_type in ENTITY_TYPES:
                entities = segment_features(performance, as_of=day, entity_type=entity_type)
                parts.append(Segmentation(entity_type).fit(entities, previous=before).rows(day))
            before = pd.concat(parts)
            found[day] = contracted(before, SEGMENTS, run_id=context.run.run_id)
        commit = store.replace(SEGMENTS.table, found, run_id=context.run.run_id)
    names = (before["entity_type"] + ": " + before["segment"]).value_counts().to_dict()
    return committed(context, commit, measurement, newest=counts_table(names, name="segment", value="members"))


@dg.asset(
    group_name="scoring",
    owners=OWNERS,
    kinds={"deltalake", "xgboost", "mlflow"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    pool="scoring",
    deps=[
        dg.AssetDep(ad_performance, partition_mapping=history_mapping(HISTORY_MONTHS)),
        account_features,
        account_segments,
        dg.AssetDep(anomalies, partition_mapping=WEEK),
        account_health_champion,
        "accounts",
    ],
    description="How healthy each account is, how likely it is to leave within 14, 30 and 90 days, what moves that, "
    "and which changes would lower the risk.",
    metadata={"dagster/column_schema": column_schema(HEALTH)},
)
def account_health(
    context: dg.AssetExecutionContext,
    config: ScoringConfig,
    lake: LakeResource,
    features: FeatureResource,
    models: RegistryResource,
    reports: ReportResource,
) -> dg.MaterializeResult[Any]:
    """Judge each day's accounts by the version that its selector resolves to."""
    store, wanted = lake.store, days(context.partition_keys)
    with measured() as measurement:
        store.require_dates("account_features", wanted)
        registry = models.registry()
        versions = _versions(registry, config, wanted, context.run.tags.get(BACKFILL_TAG, ""))
        found = {day: HEALTH.schema.empty_table() for day in wanted if day not in versions}
        for (version, first), together in _alike(versions):
            predictor = cast("AccountHealthPredictor", registry.load(NAME, version))
            scored = _scored(store, features, predictor, first, together, config.accounts)
            for day in together:
                rows = on(scored, day)
                rows["bad_anomalies_7d"] = _bad_anomalies(store, rows["account_id"], day)
                found[day] = contracted(rows, HEALTH, model_version=version, run_id=context.run.run_id)
                drawn = _waterfalls(predictor, rows, reports, day) if day == wanted[-1] else {}
                context.add_asset_metadata({**_told(rows), **drawn}, partition_key=day.isoformat())
        commit = store.replace(HEALTH.table, found, run_id=context.run.run_id, narrowing=config.narrowing())
    if len(versions) < len(wanted):
        context.log.warning(f"{len(wanted) - len(versions)} of the days have no model of account health yet: no rows.")
    used = ", ".join(sorted(set(versions.values()))) or "none yet"
    return committed(context, commit, measurement, model=config.model, model_versions=used)


def _versions(
    registry: "ModelRegistry", config: ScoringConfig, wanted: Sequence[date], backfill: str
) -> dict[date, str]:
    """The version for each day; a day before the first model has none."""
    backfill_id = config.backfill_id or backfill
    if not registry.aliases(NAME).get("champion") and config.model == "champion":
        return {}
    if config.model == "as_of":
        oldest = min((record.as_of for record in registry.versions(NAME) if record.as_of), default=date.max)
        wanted = [day for day in wanted if day >= oldest]
    if not wanted:
        return {}
    if backfill_id:
        return registry.pin(NAME, config.model, wanted, backfill_id=backfill_id)
    return {day: registry.resolve(NAME, config.model, day) for day in wanted}


def _alike(versions: dict[date, str]) -> Iterator[tuple[tuple[str, date], list[date]]]:
    """Days of one version and one beginning of history, with both."""
    keyed = [((version, history_start(day, HISTORY_MONTHS)), day) for day, version in sorted(versions.items())]
    for key, group in groupby(keyed, itemgetter(0)):
        yield key, [day for _, day in group]


def _scored(
    store: LakeStore,
    features: FeatureResource,
    predictor: "AccountHealthPredictor",
    first: date,
    together: Sequence[date],
    accounts: Sequence[str],
) -> pd.DataFrame:
    """Rows of ``account_health`` of some days, of some accounts or of all."""
    scope = {"account_id": list(accounts)} if accounts else {}
    performance = daily_sums(
        reader(store), first=first, last=together[-1], by=DETAIL, accounts=accounts, limits=features.limits()
    )
    known = store.read("account_features", {"date": list(together), **scope}).to_pandas()
    clients = store.read("accounts", scope).to_pandas()
    rows = predictor.features(performance, accounts=clients, account_features=known, dates=list(together))
    segments = store.read(SEGMENTS.table, {"date": list(together), "entity_type": "account"}).to_pandas()
    segments = segments.rename(columns={"entity_id": "account_id"})[["date", "account_id", "segment"]]
    segments["date"] = pd.to_datetime(segments["date"])
    return predictor.score(rows.merge(segments, on=["date", "account_id"], how="left"))


def _bad_anomalies(store: LakeStore, accounts: pd.Series, day: date) -> Any:
    """The bad anomalies of a day and the six before it per account; null where the day's were not looked for."""
    from within_ml.anomalies.records import bad_anomalies

    if day not in store.dates("anomalies", day, day):
        return pd.Series(pd.NA, index=accounts.index, dtype="Int64")
    week = {"date": [day - timedelta(days=n) for n in range(ANOMALY_DAYS)]}
    found = store.read("anomalies", week, columns=["account_id", "anomaly_id", "sign"]).to_pandas()
    return bad_anomalies(found, accounts)


def _told(rows: pd.DataFrame) -> dict[str, Any]:
    levels = rows["risk_level"].value_counts().to_dict()
    return {
        "risk_levels": counts_table(levels, name="risk level", value="accounts"),
        "early_warnings": sorted(rows.loc[rows["early_warning"], "account_id"]),
    }


def _waterfalls(
    predictor: "AccountHealthPredictor", rows: pd.DataFrame, reports: ReportResource, day: date
) -> dict[str, Any]:
    """Draw what moved the scores of the accounts that are worst off; return the picture of the first one."""
    judged = rows[rows["bad_state_probability"] < 1].sort_values("health_score")
    worst = judged["account_id"].head(MOST_PICTURES).tolist()
    if not worst:
        return {}
    folder = reports.folder(HEALTH.table, day)
    pictures = [predictor.health_waterfall(account) for account in worst]
    for account, content in zip(worst, pictures, strict=True):
        write_whole(folder / f"{account}.png", content)
    shown = picture("png", pictures[0])
    return {"lowest_health": worst[0], "waterfall": shown, "pictures": dg.MetadataValue.path(str(folder))}
