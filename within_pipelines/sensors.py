"""Sensors: they notice and request, and compute nothing."""

import hashlib
from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg

from within_ml.lake.landing import MAPPING_FILE
from within_pipelines.assets.lake import landing_files
from within_pipelines.jobs import landing_job, performance_job
from within_pipelines.partitions import DAILY, MAX_PARTITIONS_PER_RUN
from within_pipelines.resources import AlertResource, LandingResource

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"


@dg.sensor(
    job=landing_job,
    minimum_interval_seconds=60,
    description="A new or changed file in the landing zone is registered.",
)
def landing_sensor(context: dg.SensorEvaluationContext, landing: LandingResource) -> dg.RunRequest | dg.SkipReason:
    """Request a look at the landing zone when its listing has changed."""
    mappings = sorted(landing.zone.root.glob(f"*/{MAPPING_FILE}"))
    listing = [(p.as_posix(), p.stat()) for p in (*(p for p, _ in landing.zone.discover()), *mappings)]
    text = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in listing)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]
    if not listing or fingerprint == context.cursor:
        return dg.SkipReason("Nothing has changed in the landing zone.")
    context.update_cursor(fingerprint)
    return dg.RunRequest(run_key=fingerprint)


@dg.asset_sensor(
    asset_key=landing_files.key,
    job=performance_job,
    minimum_interval_seconds=30,
    description="Newly registered files: the performance of the days they cover is made or made anew.",
)
def landed_days_sensor(
    context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Request the changed days in ranges that one run handles."""
    materialization = asset_event.asset_materialization
    metadata = materialization.metadata if materialization else {}
    first, last = (str(metadata[k].value) if k in metadata else "" for k in ("first_changed_date", "last_changed_date"))
    ranges = list(partition_ranges(first, last)) if first and last else []
    if not ranges:
        yield dg.SkipReason("The newly registered files cover no day of the history.")
    for begin, end in ranges:
        yield dg.RunRequest(run_key=f"{asset_event.run_id}-{begin}", tags={RANGE_START: begin, RANGE_END: end})


def partition_ranges(first: str, last: str) -> Iterator[tuple[str, str]]:
    """Cut first … last into ranges that one run handles, leaving out days outside the history."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    known_first, known_last = DAILY.get_first_partition_key(), DAILY.get_last_partition_key()
    if known_first is None or known_last is None:
        return
    begin, end = max(begin, date.fromisoformat(known_first)), min(end, date.fromisoformat(known_last))
    while begin <= end:
        stop = min(begin + timedelta(days=MAX_PARTITIONS_PER_RUN - 1), end)
        yield begin.isoformat(), stop.isoformat()
        begin = stop + timedelta(days=1)


@dg.run_failure_sensor(
    monitor_all_code_locations=True,
    description="Any failed run goes to the alert sink: the log, and the webhook if one is set.",
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def run_failure_alert(context: dg.RunFailureSensorContext, alerts: AlertResource) -> None:
    """Send one alert for a failed run."""
    run = context.dagster_run
    alerts.send(
        f"Run of {run.job_name} failed",
        context.failure_event.message or "no message",
        run_id=run.run_id,
        job=run.job_name,
        partition=run.tags.get("dagster/partition", ""),
    )


ALL_SENSORS = [landing_sensor, landed_days_sensor, run_failure_alert]
