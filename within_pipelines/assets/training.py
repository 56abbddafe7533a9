"""Group training: the ad score's model as of a Monday, from its training set to the decision of the gate."""

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pandas as pd

from within_ml.base import ModelType
from within_ml.errors import MissingPartitionsError, PromotionRefusedError
from within_ml.features.catalog import FEATURE_VERSION
from within_ml.features.labels import last_trainable, observed_rates, required_label_dates
from within_ml.features.runner import compute_training_rows
from within_ml.lake.landing import expected_days
from within_ml.lake.store import LakeStore, days_between
from within_ml.splits import OutOfTimeSplit
from within_pipelines.assets.features import ad_features, reader
from within_pipelines.assets.lake import ad_performance
from within_pipelines.files import write_whole
from within_pipelines.metadata import Measured, arrow_schema, committed, counts_table, measured, picture
from within_pipelines.partitions import AS_OF_MONDAYS
from within_pipelines.resources import FeatureResource, LakeResource, RegistryResource, TrainingResource

if TYPE_CHECKING:
    from within_ml.ad_score import AdScorePredictor
    from within_ml.registry import ModelRegistry
    from within_ml.validation.evaluation import EvaluationReport
    from within_ml.validation.gate import GateDecision

GROUP = "training"
OWNERS = ["team:ml"]
TRAINING_SET = "ad_training_set"
FEATURE_DATE = "feature_date"
MODEL, CALIBRATED, REPORT = "model", "calibrated", "report"
SUMMARY = "reasons.png"
PICTURED_ROWS = 1_000
HISTORY = dg.TimeWindowPartitionMapping(start_offset=-52, allow_nonexistent_upstream_partitions=True)


class ModelConfig(dg.Config):
    """Which model is trained: ``ensemble``, ``linear`` or ``nn``."""

    model_type: str = "ensemble"


class ComparisonConfig(dg.Config):
    """How many training rows each variant of a comparison gets."""

    max_rows: int = 50_000


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"deltalake", "duckdb"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[
        dg.AssetDep(ad_features, partition_mapping=HISTORY),
        dg.AssetDep(ad_performance, partition_mapping=HISTORY),
    ],
    description="Features of past days with what happened in the week after, as far as it is complete on the Monday.",
)
def ad_training_set(
    context: dg.AssetExecutionContext, lake: LakeResource, features: FeatureResource, training: TrainingResource
) -> dg.MaterializeResult[Any]:
    """Join features and mature labels of the days before the as-of Monday."""
    store, as_of = lake.store, date.fromisoformat(context.partition_key)
    with measured() as measurement:
        first, last = _history(store, as_of, training.days)
        needed = required_label_dates(first, last)
        store.require_dates("ad_performance", expected_days(store, needed[0], needed[-1]))
        store.require_dates("ad_features", days_between(first, last))
        rows = compute_training_rows(
            reader(store), first=first, last=last, max_rows=training.max_rows, limits=features.limits()
        )
        # The partition's own date is the as-of day; the day of the features becomes a column beside it.
        rows = rows.rename_columns([FEATURE_DATE if c == "date" else c for c in rows.column_names])
        commit = store.replace(TRAINING_SET, {as_of: rows}, run_id=context.run.run_id)
    return committed(
        context,
        commit,
        measurement,
        first_date=first.isoformat(),
        last_date=last.isoformat(),
        **{"dagster/column_schema": arrow_schema(rows.schema)},
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"xgboost", "scikitlearn"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[ad_training_set],
    description="The ad score's parts, fitted on all but the last weeks: level, text score, boosted trees.",
)
def ad_score_model(
    context: dg.AssetExecutionContext, config: ModelConfig, lake: LakeResource, models: RegistryResource
) -> dg.MaterializeResult[Any]:
    """Fit the model on the training part; the validation part says when to stop."""
    from within_ml.ad_score import AdScorePredictor

    with measured() as measurement:
        frames, version = _frames(lake.store, context.partition_key)
        train, validation = frames["train"], frames["validation"]
        predictor = AdScorePredictor(
            model_type=config.model_type,
            model_version=context.partition_key,
            metadata={
                "trained_at": context.partition_key,
                "lake_versions": {TRAINING_SET: version},
                "feature_version": FEATURE_VERSION,
            },
        )
        rates, impressions = observed_rates(train)
        held = (validation, *observed_rates(validation))
        predictor.fit_model(train, rates, sample_weight=impressions, validation=held)
        predictor.save(models.vintage(ModelType.AD_SCORE, context.partition_key) / MODEL)
    return dg.MaterializeResult(
        metadata={
            "training_rows": len(train),
            "validation_rows": len(validation),
            "model_type": config.model_type,
            "weights": dg.MetadataValue.json(predictor.corrections_.weights_),
            "feature_importance": counts_table(most(predictor.get_feature_importance()), name="feature", value="share"),
            **measurement.metadata,
        }
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"scikitlearn"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[ad_score_model],
    description="The model with its calibrator, fitted on weeks later than the model's own.",
)
def ad_score_calibration(
    context: dg.AssetExecutionContext, lake: LakeResource, models: RegistryResource
) -> dg.MaterializeResult[Any]:
    """Fit the monotone calibrator on the validation part."""
    from within_ml.ad_score import AdScorePredictor

    folder = models.vintage(ModelType.AD_SCORE, context.partition_key)
    with measured() as measurement:
        frames, _ = _frames(lake.store, context.partition_key)
        predictor = AdScorePredictor.load(folder / MODEL)
        rates, impressions = observed_rates(frames["validation"])
        predictor.fit_calibration(frames["validation"], rates, sample_weight=impressions)
        predictor.save(folder / CALIBRATED)
    method = predictor.calibrator_.global_calibrator_.method_ if predictor.calibrator_ else "none"
    return dg.MaterializeResult(
        metadata={"method": str(method), "calibration_rows": len(frames["validation"]), **measurement.metadata}
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"mlflow", "scikitlearn"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[ad_score_calibration],
    description="How good the model is on weeks it has not seen, beside three baselines; registered as challenger.",
)
def ad_score_evaluation(
    context: dg.AssetExecutionContext, lake: LakeResource, models: RegistryResource
) -> dg.MaterializeResult[Any]:
    """Evaluate out of time, write the report, register the version."""
    from within_ml.ad_score import AdScorePredictor
    from within_ml.validation.evaluation import ModelEvaluator
    from within_ml.validation.report import reliability_figure_png, reliability_thumbnail_svg

    folder = models.vintage(ModelType.AD_SCORE, context.partition_key)
    with measured() as measurement:
        frames, lake_version = _frames(lake.store, context.partition_key)
        predictor = AdScorePredictor.load(folder / CALIBRATED)
        report = ModelEvaluator().evaluate(predictor, frames)
        test = frames["test"]
        files = _write_report(report, folder / REPORT)
        files += _write_pictures(predictor, test, folder / REPORT)
        version = models.registry().register(
            folder / CALIBRATED,
            name=ModelType.AD_SCORE,
            metrics=report.metrics(),
            tags={
                "as_of": context.partition_key,
                "trained_through": str(frames["validation"]["date"].max())[:10],
                "feature_version": FEATURE_VERSION,
                f"lake_version_{TRAINING_SET}": lake_version,
                "dagster_run_id": context.run.run_id,
            },
            parameters=predictor.hyperparameters(),
            report_files=files,
            signature=(test.head(5), predictor.predict(test.head(5))),
        )
    judged = report.part("test").judgement
    context.log.info(f"ad_score version {version} as of {context.partition_key}: log-loss {judged.log_loss.value:.5f}")
    return dg.MaterializeResult(
        metadata={
            "model_version": version,
            "reliability_curve": picture("svg+xml", reliability_thumbnail_svg(report.reliability).encode()),
            "reliability_curve_large": picture("png", reliability_figure_png(report.reliability)),
            "beside_baselines": dg.MetadataValue.md(comparison_table(report)),
            "reasons": picture("png", (folder / REPORT / SUMMARY).read_bytes()),
            "intervals": _interval_metadata(report),
            "test_rows": len(test),
            "report": dg.MetadataValue.path(str(folder / REPORT / "report.html")),
            "test_log_loss": judged.log_loss.value,
            "test_calibration_ratio": judged.calibration_ratio.value,
            "test_pair_accuracy": judged.pair_accuracy.accuracy,
            **measurement.metadata,
        }
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"xgboost", "pytorch", "scikitlearn"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[ad_training_set],
    description="What each model type and modality is worth: all fitted alike and judged on the same unseen weeks.",
)
def ad_score_comparison(
    context: dg.AssetExecutionContext, config: ComparisonConfig, lake: LakeResource
) -> dg.MaterializeResult[Any]:
    """Fit each variant on the training set, or a sample of a large one, and compare their predictions."""
    from within_ml.ad_score.config import AdScoreConfig
    from within_ml.ad_score.variants import predictions_of_variants
    from within_ml.validation.comparison import compare

    with measured() as measurement:
        frames, version = _frames(lake.store, context.partition_key)
        predictions = {}
        for name, p in predictions_of_variants(frames, AdScoreConfig(max_rows=config.max_rows)):
            predictions[name] = p
            context.log.info(f"{name} fitted and asked for {len(p)} predictions")
        comparison = compare(predictions, frames["test"])
    return dg.MaterializeResult(
        metadata={
            "comparison": dg.MetadataValue.md(comparison.to_markdown()),
            "test_rows": comparison.n_rows,
            f"lake_version_{TRAINING_SET}": version,
            **measurement.metadata,
        }
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"mlflow"},
    partitions_def=AS_OF_MONDAYS,
    pool="training",
    deps=[ad_score_evaluation],
    description="The gate's decision: the challenger becomes champion if it beats champion and baselines, else not.",
)
def ad_score_champion(
    context: dg.AssetExecutionContext, lake: LakeResource, models: RegistryResource
) -> dg.MaterializeResult[Any]:
    """Compare challenger, champion and baselines on the same unseen rows; write the decision into the ledger."""
    from within_ml.validation.baselines import fit_baselines
    from within_ml.validation.evaluation import campaign_groups
    from within_ml.validation.gate import PromotionGate

    registry, name = models.registry(), ModelType.AD_SCORE
    with measured() as measurement:
        frames, _ = _frames(lake.store, context.partition_key)
        test = frames["test"]
        version = registry.resolve(name, "as_of", date.fromisoformat(context.partition_key))
        champion = registry.aliases(name).get("champion")
        seen = pd.concat([frames["train"], frames["validation"]])
        baselines = fit_baselines(seen, observed_rates(seen)[0], sample_weight=seen["label_impressions"])
        rates, weights = observed_rates(test)
        decision = PromotionGate().decide(
            registry.load(name, version).predict(test),
            registry.load(name, champion).predict(test) if champion and champion != version else None,
            {key: baseline.predict(test) for key, baseline in baselines.items()},
            rates,
            weights,
            campaign_groups(test),
        )
        verdict = decide(context, registry, name, version, decision)
    return verdict_result(registry, name, version, decision, verdict, measurement)


def decide(
    context: dg.AssetExecutionContext, registry: "ModelRegistry", name: str, version: str, decision: "GateDecision"
) -> str:
    """Write the gate's decision into the ledger and follow it; return what became of the challenger."""
    try:
        registry.promote(
            name, version, decision=decision, reason="weekly training", decided_by="gate", run_id=context.run.run_id
        )
    except PromotionRefusedError as refusal:
        # A refusal is a result, not a failure: it stands in the ledger and the champion goes on.
        context.log.info(str(refusal))
        return "refused"
    return "promoted"


def verdict_result(
    registry: "ModelRegistry",
    name: str,
    version: str,
    decision: "GateDecision",
    verdict: str,
    measurement: Measured,
) -> dg.MaterializeResult[Any]:
    """What the UI shows of a decision."""
    return dg.MaterializeResult(
        metadata={
            "verdict": verdict,
            "model_version": version,
            "champion": registry.aliases(name).get("champion", "none"),
            "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in decision.reasons)),
            "decision": dg.MetadataValue.json(decision.to_dict()),
            **measurement.metadata,
        }
    )


def _history(store: LakeStore, as_of: date, training_days: int) -> tuple[date, date]:
    """First and last day of the features that a model as of a day may be trained on."""
    last = last_trainable(as_of)
    there = store.dates("ad_features", last=last)
    if not there:
        raise MissingPartitionsError(
            f"A model as of {as_of} is trained on ad_features up to {last}, however there is no such partition; "
            "backfill the groups lake and features first."
        )
    return max(last - timedelta(days=training_days - 1), there[0]), last


def training_frame(store: LakeStore, as_of: str) -> tuple[pd.DataFrame, int]:
    """The training set of an as-of day, with the features' day as ``date``, and the table version it was read from."""
    version = store.version(TRAINING_SET) or 0
    rows = store.read(TRAINING_SET, {"date": as_of}, version=version).drop_columns(["date"])
    return rows.rename_columns(["date" if c == FEATURE_DATE else c for c in rows.column_names]).to_pandas(), version


def _frames(store: LakeStore, as_of: str) -> tuple[dict[str, pd.DataFrame], int]:
    """The training set of an as-of day, split out of time, and the table version it was read from."""
    frame, version = training_frame(store, as_of)
    split = OutOfTimeSplit().split(frame["date"])
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {name: frame[mask].reset_index(drop=True) for name, mask in parts.items()}, version


def _write_report(report: "EvaluationReport", folder: Path) -> list[Path]:
    files = {"report.json": report.to_json(), "report.html": report.to_html()}
    for name, text in files.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in files]


def _write_pictures(predictor: "AdScorePredictor", test: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw what moves the predictions of the test rows, one of them in full, and how a network learned."""
    from within_ml.explain.plots import summary_plot, waterfall_plot

    rows = test[:PICTURED_ROWS]
    parts = predictor.explain(rows)
    highest = int(np.argmax(parts.margin))
    files = {SUMMARY: summary_plot(parts, rows), "waterfall.png": waterfall_plot(parts, rows, highest)}
    curve = predictor.training_curve()
    if len(curve):
        files["training_curve.json"] = curve.to_json(orient="records", indent=2).encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def _interval_metadata(report: "EvaluationReport") -> dg.MetadataValue[Any]:
    if report.intervals is None:
        return dg.MetadataValue.text("none: the history is too short")
    found = report.intervals
    return dg.MetadataValue.text(
        f"{found.coverage:.1%} of {found.n_rows:,} observed rates inside their {found.confidence:.0%} interval"
    )


def most(importance: dict[str, float], count: int = 15) -> dict[str, float]:
    """The most important features."""
    first = sorted(importance.items(), key=lambda item: -item[1])[:count]
    return {name: round(share, 4) for name, share in first}


def comparison_table(report: "EvaluationReport") -> str:
    """Model and baselines on the test rows, as Markdown."""
    rows = [("ad_score", report.part("test").judgement), *((b.baseline, b.judgement) for b in report.baselines)]
    lines = ["| | log-loss | predicted / actual clicks | pairs in order | significant pairs |", "|---|---|---|---|---|"]
    for name, judged in rows:
        lines.append(
            f"| {name} | {judged.log_loss.value:.5f} | {judged.calibration_ratio.value:.3f} | "
            f"{judged.pair_accuracy.accuracy:.3f} | {judged.pair_accuracy_significant.accuracy:.3f} |"
        )
    return "\n".join(lines)
