"""Group scoring: what changed in accounts on a day beyond their habits and noise, and which topics of ads rise."""

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from within_ml.features.daily_sums import daily_sums
from within_ml.lake.contracts import AD_KEY, CONTRACTS
from within_ml.lake.store import LakeStore, days_between
from within_pipelines.assets.features import reader
from within_pipelines.assets.lake import ad_performance
from within_pipelines.files import write_whole
from within_pipelines.metadata import column_schema, committed, counts_table, measured, picture
from within_pipelines.partitions import BACKFILL_POLICY, DAILY, by_history, days, history_mapping
from within_pipelines.resources import FeatureResource, LakeResource, ReportResource
from within_pipelines.rows import contracted

if TYPE_CHECKING:
    from within_ml.anomalies import AnomalyReport

GROUP = "scoring"
OWNERS = ["team:ml"]
ANOMALIES, METRICS, TOPICS = (CONTRACTS[name] for name in ("anomalies", "performance_metrics", "trending_topics"))

HISTORY_MONTHS = 4
"""Months before that of a day whose performance makes its baseline."""

DIMENSIONS = ("platform", "campaign_id", "ad_group_id", "ad_id", "region", "audience_age", "audience_gender")
"""Where causes are looked for."""

TOPIC_DAYS = 38
"""Last days of which topics are told: 7, the 28 that they are compared with, and 3 between them."""
RECENT = dg.TimeWindowPartitionMapping(start_offset=1 - TOPIC_DAYS, allow_nonexistent_upstream_partitions=True)
PICTURE_DAYS = 60
SEVERITIES = ("low", "medium", "high")


class PictureConfig(dg.Config):
    """How many of a day's accounts with anomalies are drawn, the most severe first."""

    most_pictures: int = 10


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "python"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    pool="scoring",
    deps=[dg.AssetDep(ad_performance, partition_mapping=history_mapping(HISTORY_MONTHS)), "ads", "accounts"],
    description="What changed in an account on a day beyond its own habits and its noise, good or bad, and where it "
    "comes from. Each metric of each account beside its expected band stands in the table performance_metrics.",
    metadata={"dagster/column_schema": column_schema(ANOMALIES)},
)
def anomalies(
    context: dg.AssetExecutionContext,
    config: PictureConfig,
    lake: LakeResource,
    features: FeatureResource,
    reports: ReportResource,
) -> dg.MaterializeResult[Any]:
    """Judge each day by the days before it."""
    store, wanted, run_id = lake.store, days(context.partition_keys), context.run.run_id
    found: dict[date, pa.Table] = {}
    told: dict[date, pa.Table] = {}
    with measured() as measurement:
        for first, together in by_history(wanted, HISTORY_MONTHS):
            performance = _performance(store, features, first, together[-1])
            report = _detected(performance, together)
            # A report of no anomalies has a length of 0, and still tells all metrics.
            metrics = pd.DataFrame(columns=METRICS.names) if report is None else report.metrics
            rows = pd.DataFrame(columns=ANOMALIES.names) if report is None else report.anomalies
            for day in together:
                told[day] = contracted(on(metrics, day), METRICS, run_id=run_id)
                found[day] = contracted(on(rows, day), ANOMALIES, run_id=run_id)
        store.replace(METRICS.table, told, run_id=run_id)
        commit = store.replace(ANOMALIES.table, found, run_id=run_id)
        for day in wanted:
            drawn = _draw(store, found[day], told[day], day, reports, config.most_pictures)
            # A picture of each day of a long backfill would swell the event log; all are in the folder.
            shown = drawn if day == wanted[-1] else {}
            context.add_asset_metadata({**_told(found[day]), **shown}, partition_key=day.isoformat())
    return committed(context, commit, measurement)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "python"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    pool="scoring",
    deps=[dg.AssetDep(ad_performance, partition_mapping=RECENT), "ads"],
    description="Topics of ads whose click rates rise beyond chance: the last 7 days beside 28 before them.",
    metadata={"dagster/column_schema": column_schema(TOPICS)},
)
def trending_topics(
    context: dg.AssetExecutionContext, lake: LakeResource, features: FeatureResource
) -> dg.MaterializeResult[Any]:
    """Compare each day's recent clicks with those expected by what was usual."""
    from within_ml.anomalies.trending import trending_topics as rising

    store, wanted = lake.store, days(context.partition_keys)
    with measured() as measurement:
        clicks = daily_sums(
            reader(store),
            first=wanted[0] - timedelta(days=TOPIC_DAYS - 1),
            last=wanted[-1],
            by=["platform", "campaign_id", "ad_id"],
            limits=features.limits(),
        )
        ads = store.read("ads", columns=[*AD_KEY, "headline", "valid_from"]).to_pandas()
        found = {
            day: contracted(rising(ads, clicks, day).assign(date=day), TOPICS, run_id=context.run.run_id)
            for day in wanted
        }
        commit = store.replace(TOPICS.table, found, run_id=context.run.run_id)
    newest = found[wanted[-1]].to_pandas()
    ratios = dict(zip(newest["topic"], newest["rate_ratio"].round(2), strict=True))
    return committed(context, commit, measurement, newest=counts_table(ratios, name="topic", value="× expected clicks"))


def on(frame: pd.DataFrame, day: date) -> pd.DataFrame:
    """The rows of a day."""
    return frame[pd.to_datetime(frame["date"]) == pd.Timestamp(day)].reset_index(drop=True)


def _performance(store: LakeStore, features: FeatureResource, first: date, last: date) -> pd.DataFrame:
    performance = daily_sums(reader(store), first=first, last=last, by=DIMENSIONS, limits=features.limits())
    accounts = store.read("accounts", columns=["account_id", "currency"]).to_pandas()
    return performance.merge(accounts, on="account_id", how="left")


def _detected(performance: pd.DataFrame, together: list[date]) -> "AnomalyReport | None":
    """What is found on those of the days that have performance; None where none has any."""
    from within_ml.anomalies import AnomalyDetector

    there = set(performance["date"].dt.date)
    judged = [pd.Timestamp(day) for day in together if day in there]
    return AnomalyDetector().detect_anomalies(performance, dates=judged) if judged else None


def _told(rows: pa.Table) -> dict[str, Any]:
    """What a day's materialization tells; sensors read the accounts with anomalies of high severity."""
    frame = rows.to_pandas()
    counts = frame["severity"].value_counts().reindex(SEVERITIES[::-1], fill_value=0)
    high = sorted(frame.loc[frame["severity"] == SEVERITIES[-1], "account_id"].unique())
    return {
        "anomalies": counts_table(counts.to_dict(), name="severity", value="anomalies"),
        "high_severity_accounts": high,
        "explanations": dg.MetadataValue.md("\n".join(f"- {text}" for text in frame["explanation"][:20]) or "none"),
    }


def _draw(
    store: LakeStore, found: pa.Table, told: pa.Table, day: date, reports: ReportResource, most: int
) -> dict[str, Any]:
    """Draw the accounts with anomalies into the report's folder; return the picture of the worst one."""
    from within_ml.anomalies.plots import account_plot

    rows = found.to_pandas()
    rank = [-SEVERITIES.index(severity) for severity in rows["severity"]]
    worst = list(dict.fromkeys(rows.assign(rank=rank).sort_values(["rank", "p_value"])["account_id"]))[:most]
    if not worst:
        return {}
    before = list(days_between(day - timedelta(days=PICTURE_DAYS), day - timedelta(days=1)))
    past = store.read(METRICS.table, {"date": before, "account_id": worst})
    history = pd.concat([past.to_pandas(), told.to_pandas()])
    folder = reports.folder(ANOMALIES.table, day)
    pictures = [account_plot(history, account) for account in worst]
    for account, content in zip(worst, pictures, strict=True):
        write_whole(folder / f"{account}.png", content)
    return {
        "worst_account": worst[0],
        "picture": picture("png", pictures[0]),
        "pictures": dg.MetadataValue.path(str(folder)),
    }
