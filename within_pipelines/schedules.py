"""The nightly and the weekly schedule. The scheduled time gives the partition; nothing asks for today's date."""

from datetime import timedelta

import dagster as dg

from within_pipelines.jobs import nightly_job, training_job
from within_pipelines.partitions import AS_OF_MONDAYS, DAILY


@dg.schedule(
    job=nightly_job,
    cron_schedule="0 4 * * *",
    execution_timezone="UTC",
    description="Every night at 04:00 UTC, for the day that ended.",
)
def nightly_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request the partition of the day before the scheduled time."""
    day = (context.scheduled_execution_time - timedelta(days=1)).date().isoformat()
    return _request(DAILY, day)


@dg.schedule(
    job=training_job,
    cron_schedule="0 6 * * 1",
    execution_timezone="UTC",
    description="Every Monday at 06:00 UTC, as of this day, after the night's run.",
)
def training_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Request the partition of the scheduled Monday."""
    return _request(AS_OF_MONDAYS, context.scheduled_execution_time.date().isoformat())


def _request(partitions: dg.TimeWindowPartitionsDefinition, key: str) -> dg.RunRequest | dg.SkipReason:
    if not partitions.has_partition_key(key):
        return dg.SkipReason(f"{key} is outside the history set by WITHIN_START_DATE and WITHIN_END_DATE.")
    return dg.RunRequest(run_key=key, partition_key=key)


ALL_SCHEDULES = [nightly_schedule, training_schedule]
