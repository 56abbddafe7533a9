"""Jobs: what is launched together. A job is a selection of assets; it holds no code."""

import dagster as dg

from within_pipelines.assets import (
    anomalies,
    features,
    health,
    health_training,
    lake,
    monitoring,
    publishing,
    regions,
    scoring,
    training,
)

NIGHTLY_GROUPS = ("lake", "features", "scoring", "monitoring", "publishing")

landing_job = dg.define_asset_job(
    "landing",
    selection=dg.AssetSelection.assets(lake.landing_files, *lake.dimensions),
    description="Register what has landed and merge it into the tables without days.",
)

performance_job = dg.define_asset_job(
    "performance",
    selection=dg.AssetSelection.assets(lake.ad_performance),
    description="Make the performance partitions of the days that landed or were restated.",
)

nightly_job = dg.define_asset_job(
    "nightly",
    selection=dg.AssetSelection.groups(*NIGHTLY_GROUPS),
    description="Everything for the day that ended: ingest, features, scores, anomalies, health, drift, publication.",
)

training_job = dg.define_asset_job(
    "training",
    selection=dg.AssetSelection.groups("training"),
    description="Train, calibrate, evaluate and register the models as of a Monday, ask the gate; factors of regions.",
)

drift_job = dg.define_asset_job(
    "drift",
    selection=dg.AssetSelection.assets(monitoring.feature_drift, monitoring.prediction_drift),
    description="Check days that were made for drift.",
)

health_job = dg.define_asset_job(
    "health",
    selection=dg.AssetSelection.assets(
        features.account_features,
        anomalies.anomalies,
        health.account_segments,
        health.account_health,
        publishing.published_anomalies,
        publishing.published_health,
    ),
    description="Make the health of accounts and days anew, with what it is made of, and publish it.",
)

ALL_JOBS = [landing_job, performance_job, nightly_job, training_job, drift_job, health_job]
ASSETS = [anomalies, features, health, health_training, lake, monitoring, publishing, regions, scoring, training]
