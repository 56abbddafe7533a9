"""From features and scores to drift checks, and from drifting nights to a retraining."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg

from within_pipelines.jobs import drift_job, training_job
from within_pipelines.partitions import AS_OF_MONDAYS
from within_pipelines.sensors.events import Made, days_made, made, newest, position, until_awaited
from within_pipelines.sensors.ranges import CAUSE_TAG, Need, Span, fingerprint, fitting, in_history, shifted, spans

FEATURE_DRIFT, PREDICTION_DRIFT = dg.AssetKey("feature_drift"), dg.AssetKey("prediction_drift")
CHECKS = (FEATURE_DRIFT, PREDICTION_DRIFT)
DRIFTED = "drifted"
"""Metadata of a drift check's materialization: whether the night drifts."""

NIGHTS, DRIFTING_NIGHTS = 5, 2
"""So many drifting nights of the last nights lead to a retraining."""


def _drift_sensor(cause: dg.AssetKey, answer: dg.AssetKey) -> dg.SensorDefinition:
    """Make the sensor that has the drift of each materialized day checked."""
    what, wanted = cause.to_user_string(), answer.to_user_string()

    @dg.sensor(
        name=f"{wanted}_sensor",
        job=drift_job,
        minimum_interval_seconds=30,
        description=f"A day of {what} that was made or made anew is checked for drift ({wanted}).",
    )
    def drift_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        after = position(context.instance, context.cursor, answer)
        events = until_awaited(context.instance, made(context.instance, cause, after=after), answer)
        if not events:
            return dg.SensorResult(skip_reason=f"No new day of {what}.", cursor=str(after))
        checked = newest(context.instance, answer, {e.day for e in events})
        unchecked = [e for e in events if in_history(e.day) and checked.get(e.day, 0) < e.storage_id]
        taken, found = fitting(unchecked, lambda part: spans(_needs(part)))
        cursor = events[-1].storage_id if taken == len(unchecked) else unchecked[taken - 1].storage_id
        requests = [_check_request(span, what, answer) for span in found]
        reason = None if requests else f"The new days of {what} are checked already or outside the history."
        return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=str(cursor))

    return drift_sensor


def _needs(events: Sequence[Made]) -> Mapping[str, Need]:
    causes: dict[str, frozenset[int]] = {}
    for event in events:
        causes[event.day] = causes.get(event.day, frozenset()) | {event.storage_id}
    return {day: Need(None, ids) for day, ids in causes.items()}


def _check_request(span: Span, what: str, answer: dg.AssetKey) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=span.run_key(answer.to_user_string()), asset_selection=[answer], tags=span.limits | {CAUSE_TAG: what}
    )


feature_drift_sensor = _drift_sensor(dg.AssetKey("ad_features"), FEATURE_DRIFT)
prediction_drift_sensor = _drift_sensor(dg.AssetKey("ad_scores"), PREDICTION_DRIFT)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the retraining sensor remembers: events seen, the newest night checked, the last night that it acted on."""

    after: int = 0
    newest: str = ""
    spent: str = ""

    @classmethod
    def parse(cls, cursor: str | None) -> "Verdict":
        """Read a cursor."""
        return cls(*json.loads(cursor)) if cursor else cls()

    def __str__(self) -> str:
        return json.dumps([self.after, self.newest, self.spent])


@dg.sensor(
    job=training_job,
    minimum_interval_seconds=30,
    description=f"{DRIFTING_NIGHTS} drifting nights of the last {NIGHTS}: one retraining, as of the newest Monday.",
)
def retraining_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request a retraining when enough of the last nights drift; a night counts for one request only."""
    seen = Verdict.parse(context.cursor)
    after = max(_newest_id(context.instance, key, seen.after) for key in CHECKS)
    nights = [night for key in CHECKS for night in days_made(context.instance, key, seen.after) if in_history(night)]
    last = max([seen.newest, *nights])
    if not nights:
        return dg.SensorResult(skip_reason="No night was checked since the last look.", cursor=context.cursor)
    window = [shifted(last, -n) for n in range(NIGHTS)]
    drifting = [night for night in _drifting(context.instance, window) if night > seen.spent]
    as_of = _as_of(last)
    if len(drifting) < DRIFTING_NIGHTS or as_of is None:
        reason = f"{len(drifting)} of the nights {window[-1]} … {last} drift and led to no retraining yet."
        return dg.SensorResult(skip_reason=reason, cursor=str(Verdict(after, last, seen.spent)))
    request = dg.RunRequest(
        run_key=f"{as_of}-{fingerprint(drifting)}",
        partition_key=as_of,
        tags={CAUSE_TAG: f"drift of {', '.join(drifting)}"},
    )
    return dg.SensorResult(run_requests=[request], cursor=str(Verdict(after, last, drifting[-1])))


def _newest_id(instance: dg.DagsterInstance, asset: dg.AssetKey, after: int) -> int:
    return max((e.storage_id for e in made(instance, asset, after=after, limit=1, newest_first=True)), default=after)


def _drifting(instance: dg.DagsterInstance, nights: Sequence[str]) -> list[str]:
    """Nights of which the newest check of the features or of the predictions found a drift, in order."""
    found: set[str] = set()
    for asset in CHECKS:
        # Of a night that was checked again and again only the last word counts.
        last = {e.day: e for e in made(instance, asset, days=nights)}
        found |= {night for night, check in last.items() if check.metadata.get(DRIFTED)}
    return sorted(found)


def _as_of(night: str) -> str | None:
    """The newest Monday that can be trained as of when a night has ended, None where there is none in the history."""
    morning = date.fromisoformat(night) + timedelta(days=1)
    monday = (morning - timedelta(days=morning.weekday())).isoformat()
    return monday if AS_OF_MONDAYS.has_partition_key(monday) else None
