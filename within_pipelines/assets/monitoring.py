"""Group monitoring: how far a night's features and predictions are from what the champion was trained on.

A night is judged by how far past nights were: by themselves rows of a night differ from training rows on any night.
"""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from within_ml.base import ModelType
from within_ml.features.catalog import NUMERIC_AD_FEATURES, TEXT_AD_FEATURES
from within_ml.lake.contracts import CONTRACTS, Contract
from within_ml.lake.store import LakeStore, days_between
from within_pipelines.assets.features import ad_features
from within_pipelines.assets.scoring import ad_scores
from within_pipelines.assets.training import training_frame
from within_pipelines.files import write_whole
from within_pipelines.metadata import column_schema, committed, measured, picture
from within_pipelines.partitions import BACKFILL_POLICY, DAILY, days
from within_pipelines.resources import LakeResource, RegistryResource, ReportResource
from within_pipelines.rows import contracted

if TYPE_CHECKING:
    from within_ml.monitoring.drift import DriftReference
    from within_ml.registry import ModelRegistry

GROUP = "monitoring"
OWNERS = ["team:ml"]
FEATURES, PREDICTIONS = CONTRACTS["feature_drift"], CONTRACTS["prediction_drift"]
SAME_ALL_NIGHT = ("day_of_week",)
WATCHED = [f.name for f in (*NUMERIC_AD_FEATURES, *TEXT_AD_FEATURES) if f.name not in SAME_ALL_NIGHT]
PREDICTION = "predicted_ctr"
REFERENCE_ROWS = 50_000
"""Training rows that a reference is made of, every n-th of more."""

PAST_NIGHTS = 28
PAST = dg.TimeWindowPartitionMapping(start_offset=-PAST_NIGHTS, allow_nonexistent_upstream_partitions=True)


class DriftConfig(dg.Config):
    """Whose training rows are the reference: ``champion``, or a version of the ad score."""

    model: str = "champion"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "python"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    deps=[dg.AssetDep(ad_features, partition_mapping=PAST), "ad_score_champion"],
    pool="scoring",
    description="How far each feature of a night is from the champion's training rows, judged by how far the features "
    f"of the {PAST_NIGHTS} nights before were.",
    metadata={"dagster/column_schema": column_schema(FEATURES)},
)
def feature_drift(
    context: dg.AssetExecutionContext,
    config: DriftConfig,
    lake: LakeResource,
    models: RegistryResource,
    reports: ReportResource,
) -> dg.MaterializeResult[Any]:
    """Count each night's features in the bins of the training rows."""
    from within_ml.monitoring.drift import DriftReference

    store = lake.store
    store.require_dates("ad_features", days(context.partition_keys))
    with measured() as measurement:
        version, training = _reference_rows(store, models.registry(), config.model)
        names = [name for name in WATCHED if name in training.columns]
        reference = DriftReference.from_frame(training, names)

        def night(day: date) -> pd.DataFrame:
            return store.read("ad_features", {"date": day}, columns=names).to_pandas()

        watch = _Watch(store, FEATURES, version, reference, night, frozenset(store.dates("ad_features")))
        found = _checked(context, watch, reports)
        commit = store.replace(FEATURES.table, found, run_id=context.run.run_id)
    return committed(context, commit, measurement, model_version=version)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "python"},
    partitions_def=DAILY,
    backfill_policy=BACKFILL_POLICY,
    deps=[dg.AssetDep(ad_scores, partition_mapping=PAST), "ad_score_champion"],
    pool="scoring",
    description="How far the champion's predictions of a night are from those for its training rows, judged by how far "
    f"those of the {PAST_NIGHTS} nights before were.",
    metadata={"dagster/column_schema": column_schema(PREDICTIONS)},
)
def prediction_drift(
    context: dg.AssetExecutionContext,
    config: DriftConfig,
    lake: LakeResource,
    models: RegistryResource,
    reports: ReportResource,
) -> dg.MaterializeResult[Any]:
    """Count each night's predictions in the bins of the training rows'."""
    from within_ml.monitoring.drift import DriftReference

    store, registry = lake.store, models.registry()
    store.require_dates("ad_scores", days(context.partition_keys))
    with measured() as measurement:
        version, training = _reference_rows(store, registry, config.model)
        predictor = registry.load(ModelType.AD_SCORE, version)
        reference = DriftReference.from_frame(pd.DataFrame({PREDICTION: predictor.predict(training)}), [PREDICTION])

        def night(day: date) -> pd.DataFrame:
            scored = store.read("ad_scores", {"date": day}, columns=[PREDICTION, "model_version"]).to_pandas()
            if (scored["model_version"] == version).all():
                return scored
            # Predictions of another version have another distribution, whatever the night is like.
            return pd.DataFrame({PREDICTION: predictor.predict(store.read("ad_features", {"date": day}).to_pandas())})

        watch = _Watch(store, PREDICTIONS, version, reference, night, frozenset(store.dates("ad_scores")))
        found = _checked(context, watch, reports)
        commit = store.replace(PREDICTIONS.table, found, run_id=context.run.run_id)
    return committed(context, commit, measurement, model_version=version)


def _reference_rows(store: LakeStore, registry: "ModelRegistry", selector: str) -> tuple[str, pd.DataFrame]:
    """A version and the rows that it was trained on, as they were then."""
    record = registry.version(ModelType.AD_SCORE, selector)
    frame, _ = training_frame(store, str(record.as_of))
    return record.version, frame.iloc[:: max(1, -(-len(frame) // REFERENCE_ROWS))].reset_index(drop=True)


class _Watch:
    """Nights against one reference: those that are stored, and those that are counted for want of a stored one."""

    def __init__(
        self,
        store: LakeStore,
        contract: Contract,
        version: str,
        reference: "DriftReference",
        night: Callable[[date], pd.DataFrame],
        there: frozenset[date],
    ) -> None:
        self.contract, self.version, self._store = contract, version, store
        self._reference, self._night, self._there = reference, night, there
        self._told: dict[date, pd.DataFrame] = {}

    def told(self, day: date, past: pd.DataFrame | None = None) -> pd.DataFrame:
        """A night's distances, judged by past nights where they are given."""
        from within_ml.monitoring.drift import drift_of

        rows = drift_of(self._reference.sketch(self._night(day)), self._reference, past)
        self._told[day] = rows
        return rows

    def past(self, day: date) -> pd.DataFrame:
        """The distances of the nights before a night, as far as they are there."""
        before = [
            d for d in days_between(day - timedelta(days=PAST_NIGHTS), day - timedelta(days=1)) if d in self._there
        ]
        self._load([d for d in before if d not in self._told])
        nights = [self._told[d] if d in self._told else self.told(d) for d in before]
        return pd.concat(nights, ignore_index=True) if nights else pd.DataFrame(columns=["feature", "ks", "psi"])

    def _load(self, wanted: Sequence[date]) -> None:
        stored = self._store.read(self.contract.table, {"date": list(wanted)}).to_pandas()
        same = stored[stored["model_version"] == self.version]
        self._told |= {d: rows for d, rows in same.groupby(same["date"]) if len(rows) == len(self._reference.names)}


def _checked(context: dg.AssetExecutionContext, watch: _Watch, reports: ReportResource) -> dict[date, pa.Table]:
    """Judge the run's nights one after another; each one's verdict is metadata of its partition."""
    from within_ml.monitoring.drift import drift_chart, night_drifted

    wanted, found = days(context.partition_keys), {}
    for day in wanted:
        rows = watch.told(day, watch.past(day))
        found[day] = contracted(
            rows.assign(date=day), watch.contract, model_version=watch.version, run_id=context.run.run_id
        )
        chart = drift_chart(rows)
        write_whole(reports.folder(watch.contract.table, day) / "drift.png", chart)
        context.add_asset_metadata(
            {
                "drifted": night_drifted(rows),
                "drifted_features": ", ".join(rows.loc[rows["drifted"], "feature"]) or "none",
                "past_nights": int(rows["nights"].max()),
                **({"drift": picture("png", chart)} if day == wanted[-1] else {}),
            },
            partition_key=day.isoformat(),
        )
    return found
