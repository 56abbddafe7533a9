"""Group features: what is known of an ad and an account when a day has ended; `within_ml.features` defines it."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa

from within_ml.features.account import required_account_dates
from within_ml.features.catalog import FEATURE_VERSION, account_features_contract, ad_features_contract
from within_ml.features.image_content import IMAGE_SCHEMA, image_rows, merged_images, missing_images
from within_ml.features.runner import CONTENT_SCHEMA, compute_account_features, compute_ad_features, missing_content
from within_ml.features.temporal import required_dates
from within_ml.features.text_keys import content_rows
from within_ml.lake.landing import expected_days
from within_ml.lake.store import LakeStore, Narrowing
from within_pipelines.assets.lake import ad_performance, dimensions
from within_pipelines.metadata import arrow_schema, column_schema, committed, measured
from within_pipelines.partitions import BACKFILL_POLICY, DAILY, days
from within_pipelines.resources import FeatureResource, LakeResource

GROUP = "features"
OWNERS = ["team:ml"]
CONTENT = "ad_content"
IMAGES = "image_content"
# Pacing looks back to the first of the month, up to 30 days; everything else 27.
MONTH = dg.TimeWindowPartitionMapping(start_offset=-30, allow_nonexistent_upstream_partitions=True)
WINDOW = dg.TimeWindowPartitionMapping(start_offset=-27, allow_nonexistent_upstream_partitions=True)


class NarrowingConfig(dg.Config):
    """Which rows of each day are replaced; all where both lists are empty."""

    accounts: list[str] = []
    campaigns: list[str] = []

    def narrowing(self) -> Narrowing:
        """The library's form of it; false where it does not narrow."""
        return Narrowing(tuple(self.accounts), tuple(self.campaigns))


def reader(store: LakeStore) -> Any:
    """The feature expressions' way of reading lake tables."""

    def read(con: Any, table: str, first: date | None, last: date | None) -> str:
        return store.create_view(con, table, first=first, last=last)

    return read


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "python"},
    deps=["ads"],
    code_version=FEATURE_VERSION,
    description="Features of each distinct ad text: length, words, sentiment, readability. Computed once per text.",
    metadata={"dagster/column_schema": arrow_schema(CONTENT_SCHEMA)},
)
def ad_content(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
    """Compute the features of texts that have none yet."""
    store = lake.store
    with measured() as measurement:
        known = store.read(CONTENT) if store.exists(CONTENT) else None
        new = content_rows(missing_content(reader(store), known, last=date.max))

        def added(present: pa.Table | None) -> pa.Table:
            if present is None:
                return new
            fresh = new.join(present.select(["text_hash"]), keys="text_hash", join_type="left anti")
            return pa.concat_tables([present, fresh.select(present.column_names)], promote_options="permissive")

        commit = store.transform(CONTENT, added, run_id=context.run.run_id)
    return committed(context, commit, measurement, new_texts=new.num_rows, feature_version=FEATURE_VERSION)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "python"},
    deps=["ads"],
    code_version=FEATURE_VERSION,
    description="Features of each image file that an ad shows: colour, edges, layout. Computed once per content.",
    metadata={"dagster/column_schema": arrow_schema(IMAGE_SCHEMA)},
)
def image_content(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult[Any]:
    """Measure the images that are new or have changed."""
    store = lake.store
    with measured() as measurement:
        known = store.read(IMAGES) if store.exists(IMAGES) else None
        waiting = missing_images(store.images, store.read("ads", columns=["image_path"])["image_path"], known)
        new = image_rows(store.images, waiting)
        commit = store.transform(IMAGES, lambda present: merged_images(present, new), run_id=context.run.run_id)
    told = {"new_images": new.num_rows, "unreadable_images": new.num_rows - new["unreadable"].null_count}
    return committed(context, commit, measurement, **told, feature_version=FEATURE_VERSION)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "duckdb", "ibis"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    code_version=FEATURE_VERSION,
    pool="features",
    deps=[dg.AssetDep(ad_performance, partition_mapping=WINDOW), *dimensions, ad_content, image_content],
    description="What is known at the end of a day of each ad that served in 28 days or is about to start.",
    metadata={"dagster/column_schema": column_schema(ad_features_contract())},
)
def ad_features(
    context: dg.AssetExecutionContext, config: NarrowingConfig, lake: LakeResource, features: FeatureResource
) -> dg.MaterializeResult[Any]:
    """Compute the days in one pass over the performance that they need."""
    store, wanted = lake.store, days(context.partition_keys)
    with measured() as measurement:
        _require(store, required_dates(wanted[0], wanted[-1]))
        content = store.read(CONTENT) if store.exists(CONTENT) else None
        computed = compute_ad_features(
            reader(store),
            first=wanted[0],
            last=wanted[-1],
            content=content,
            images=store.read(IMAGES) if store.exists(IMAGES) else None,
            accounts=config.accounts,
            campaigns=config.campaigns,
            limits=features.limits(),
        )
        commit = store.replace_stream(
            "ad_features", _chosen(computed, wanted), run_id=context.run.run_id, narrowing=config.narrowing()
        )
    return committed(context, commit, measurement, feature_version=FEATURE_VERSION)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "duckdb", "ibis"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    code_version=FEATURE_VERSION,
    pool="features",
    deps=[dg.AssetDep(ad_performance, partition_mapping=MONTH), *dimensions],
    description="What is known at the end of a day of each account: volumes, rates, pacing, trend.",
    metadata={"dagster/column_schema": column_schema(account_features_contract())},
)
def account_features(
    context: dg.AssetExecutionContext, config: NarrowingConfig, lake: LakeResource, features: FeatureResource
) -> dg.MaterializeResult[Any]:
    """Compute the days in one pass over the performance that they need."""
    store, wanted = lake.store, days(context.partition_keys)
    with measured() as measurement:
        _require(store, required_account_dates(wanted[0], wanted[-1]))
        computed = compute_account_features(
            reader(store), first=wanted[0], last=wanted[-1], accounts=config.accounts, limits=features.limits()
        )
        narrowing = Narrowing(accounts=tuple(config.accounts))
        commit = store.replace_stream(
            "account_features", _chosen(computed, wanted), run_id=context.run.run_id, narrowing=narrowing
        )
    return committed(context, commit, measurement, feature_version=FEATURE_VERSION)


def _require(store: LakeStore, needed: list[date]) -> None:
    """Check that the days a window reads are there, as far as the sources' calendars expect them."""
    store.require_dates("ad_performance", expected_days(store, needed[0], needed[-1]))


def _chosen(computed: Any, wanted: list[date]) -> Iterator[tuple[date, pa.Table]]:
    chosen = set(wanted)
    return ((day.date, day.table) for day in computed if day.date in chosen)
