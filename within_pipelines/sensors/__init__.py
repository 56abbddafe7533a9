"""Sensors: they notice and request, and compute nothing."""

from within_pipelines.sensors.alerts import run_failure_alert
from within_pipelines.sensors.drift import feature_drift_sensor, prediction_drift_sensor, retraining_sensor
from within_pipelines.sensors.health import restated_performance_sensor, severe_anomalies_sensor
from within_pipelines.sensors.landing import landed_days_sensor, landing_sensor
from within_pipelines.sensors.ranges import RANGE_END, RANGE_START, partition_ranges

ALL_SENSORS = [
    landing_sensor,
    landed_days_sensor,
    restated_performance_sensor,
    severe_anomalies_sensor,
    feature_drift_sensor,
    prediction_drift_sensor,
    retraining_sensor,
    run_failure_alert,
]

__all__ = [
    "ALL_SENSORS",
    "RANGE_END",
    "RANGE_START",
    "feature_drift_sensor",
    "landed_days_sensor",
    "landing_sensor",
    "partition_ranges",
    "prediction_drift_sensor",
    "restated_performance_sensor",
    "retraining_sensor",
    "run_failure_alert",
    "severe_anomalies_sensor",
]
