"""Failed runs become alerts."""

import dagster as dg

from within_pipelines.resources import AlertResource


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
