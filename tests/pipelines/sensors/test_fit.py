"""What sensors request fits the code location: their jobs have these assets, and the assets take this configuration."""

import dagster as dg
import pytest

from within_pipelines.definitions import build_defs
from within_pipelines.partitions import AS_OF_MONDAYS, DAILY
from within_pipelines.sensors import (
    ALL_SENSORS,
    feature_drift_sensor,
    prediction_drift_sensor,
    restated_performance_sensor,
    retraining_sensor,
    severe_anomalies_sensor,
)

NIGHT = "2024-01-31"
HEALTH = ("ad_performance", "account_features", "anomalies", "account_health")


def fits(sensor: dg.SensorDefinition, request: dg.RunRequest) -> None:
    """Check a request the way a launched run does."""
    job = build_defs().resolve_job_def(sensor.job_name)
    if request.asset_selection:
        job = job.get_subset(asset_selection=frozenset(request.asset_selection))
        assert job.asset_layer.selected_asset_keys == set(request.asset_selection)
    dg.validate_run_config(job, request.run_config)


@pytest.mark.parametrize(("changed", "narrowed"), [("all", 0), (["a"], 3)])
def test_restated_performance(log, changed, narrowed):
    for asset in HEALTH:
        log.make(asset, NIGHT)
    log.make("ad_performance", NIGHT if narrowed else "2024-02-01", changed_accounts=changed)
    (request,) = log.tick(restated_performance_sensor).requests
    assert len(request.run_config.get("ops", {})) == narrowed
    fits(restated_performance_sensor, request)


def test_severe_anomalies(log):
    for asset in HEALTH:
        log.make(asset, NIGHT)
    log.make("anomalies", NIGHT, high_severity_accounts=["a"])
    (request,) = log.tick(severe_anomalies_sensor).requests
    fits(severe_anomalies_sensor, request)


@pytest.mark.parametrize(
    ("sensor", "cause"), [(feature_drift_sensor, "ad_features"), (prediction_drift_sensor, "ad_scores")]
)
def test_checks(log, sensor, cause):
    log.make(cause, NIGHT)
    (request,) = log.tick(sensor).requests
    fits(sensor, request)


def test_retraining_is_of_both_products(log):
    log.make("feature_drift", "2024-01-30", NIGHT, drifted=True)
    (request,) = log.tick(retraining_sensor).requests
    job = build_defs().resolve_job_def(retraining_sensor.job_name)
    made = {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
    assert {"ad_score_champion", "account_health_champion"} <= made
    assert AS_OF_MONDAYS.has_partition_key(request.partition_key)


def test_sensors_that_launch_runs_start_switched_off_and_say_what_they_do():
    for sensor in ALL_SENSORS:
        assert sensor.description, sensor.name
        launches = sensor.name != "run_failure_alert"
        assert (sensor.default_status == dg.DefaultSensorStatus.STOPPED) == launches


def test_the_assets_of_the_sensors_are_daily():
    graph = build_defs().resolve_asset_graph()
    for name in (*HEALTH, "ad_features", "ad_scores", "feature_drift", "prediction_drift", "published_health"):
        assert graph.get(dg.AssetKey(name)).partitions_def == DAILY, name
