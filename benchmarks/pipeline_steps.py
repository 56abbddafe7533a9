"""The steps of `benchmarks.nightly` on WITHIN's side: assets materialized through Dagster, as the command line does it.

Which deployment they run on is said by the environment of the step's process.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from within_pipelines.backfills import backfill_config
from within_pipelines.definitions import defs
from within_pipelines.postgres import prepare_dagster
from within_pipelines.settings import load_settings

_MODELS = (
    "mlflow",
    "xgboost",
    "sklearn.linear_model",
    "within_ml.ad_score",
    "within_ml.calibration.spline",
    "within_ml.features.text_score",
    "within_ml.models.boosted",
    "within_ml.registry",
)
IMPORTS = {
    "ingest": ("great_expectations",),
    "content": ("vaderSentiment.vaderSentiment", "textstat"),
    "training": (*_MODELS, "matplotlib.figure", "within_ml.validation.evaluation"),
    "scoring": (*_MODELS, "great_expectations"),
    "publishing": ("psycopg", "within_ml.database.repository"),
}
IMPORTS["night"] = tuple(name for names in IMPORTS.values() for name in names)
"""Modules that a step's process imports before its clock starts."""

ASSETS = {
    "ingest": "landing_files,accounts,ads,campaigns,regions,ad_performance",
    "content": "ad_content,image_content",
    "ad_features": "ad_features",
    "account_features": "account_features",
    "training_set": "ad_training_set",
    "training": "ad_score_model,ad_score_calibration,ad_score_evaluation,ad_score_champion",
    "scoring": "ad_scores",
    "publishing": "published_scores",
}

MODEL = "1"


def runner() -> Any:
    import dagster as dg

    from within_pipelines.runs import Runner

    return Runner(defs, dg.DagsterInstance.get())


def prepare() -> None:
    """Before the clock starts: the server, its schema and the asset graph are there in a deployment, too."""
    prepare_dagster(load_settings())
    runner().select("ad_features")


def materialized(step: str, first: str, last: str) -> dict[str, Any]:
    chosen = runner()
    selection = chosen.select(ASSETS[step])
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    # The gate may refuse the only model there is; what scoring costs does not depend on its verdict.
    config = backfill_config(selection, model=MODEL, accounts=[], campaigns=[], first=begin)
    chosen.backfill(selection, begin, end, config=config)
    return {}


def step_nothing() -> dict[str, Any]:
    """Only `prepare`, and MLflow's tables."""
    from within_pipelines.resources import build_resources

    build_resources(load_settings())["models"].registry()
    return {}


def step_ingest(first: str, last: str) -> dict[str, Any]:
    """Register the landing files, merge the tables without days, make the partitions."""
    return materialized("ingest", first, last)


def step_content() -> dict[str, Any]:
    runner().materialize(ASSETS["content"].split(","))
    return {}


def step_ad_features(first: str, last: str) -> dict[str, Any]:
    return materialized("ad_features", first, last)


def step_account_features(first: str, last: str) -> dict[str, Any]:
    return materialized("account_features", first, last)


def step_training_set(as_of: str) -> dict[str, Any]:
    runner().materialize([ASSETS["training_set"]], partition=as_of)
    return {}


def step_training(as_of: str) -> dict[str, Any]:
    """Fit, calibrate, evaluate beside the baselines with report, register, ask the gate."""
    done = runner().materialize(ASSETS["training"].split(","), partition=as_of)
    told = done.metadata["ad_score_evaluation"]
    return {"log_loss": told["test_log_loss"], "test_rows": told["test_rows"]}


def step_scoring(first: str, last: str) -> dict[str, Any]:
    return materialized("scoring", first, last)


def step_publishing(first: str, last: str) -> dict[str, Any]:
    return materialized("publishing", first, last)


def step_night(day: str) -> dict[str, Any]:
    """What `within nightly` does."""
    from within_pipelines.jobs import NIGHTLY_GROUPS

    chosen = runner()
    selection = chosen.select(",".join(NIGHTLY_GROUPS))
    chosen.materialize(
        [*selection.unpartitioned, *selection.daily], partition=day, config={"ad_scores": {"model": MODEL}}
    )
    return {}
