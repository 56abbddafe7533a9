"""From the landing zone to the days of performance: new files are registered, the days they cover are made."""

import hashlib
import json
from dataclasses import dataclass

import dagster as dg

from within_ml.lake.landing import MAPPING_FILE
from within_pipelines.assets.lake import ad_performance, landing_files
from within_pipelines.jobs import landing_job, performance_job
from within_pipelines.resources import LandingResource
from within_pipelines.sensors.events import Made, made, newest, until_awaited
from within_pipelines.sensors.ranges import CAUSE_TAG, MAX_RUNS_PER_TICK, Need, Span, history_days, spans

FIRST, LAST = "first_changed_date", "last_changed_date"


@dg.sensor(
    job=landing_job,
    minimum_interval_seconds=60,
    description="A new or changed file in the landing zone is registered.",
)
def landing_sensor(context: dg.SensorEvaluationContext, landing: LandingResource) -> dg.RunRequest | dg.SkipReason:
    """Request a look at the landing zone when its listing has changed.

    The cursor is the listing's hash and the last run key. A key is made of the one before it and of the listing, so
    that a file which is put back as it once was is looked at again.
    """
    mappings = sorted(landing.zone.root.glob(f"*/{MAPPING_FILE}"))
    listing = [(p.as_posix(), p.stat()) for p in (*(p for p, _ in landing.zone.discover()), *mappings)]
    text = "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in listing)
    seen, _, last_key = (context.cursor or "").partition(":")
    state = _hash(text)
    if not listing or state == seen:
        return dg.SkipReason("Nothing has changed in the landing zone.")
    key = _hash(f"{last_key} {state}")
    context.update_cursor(f"{state}:{key}")
    return dg.RunRequest(run_key=key)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Position:
    """How far the registrations were answered: all up to one, and of the next one the days before ``day``."""

    after: int = 0
    day: str = ""

    @classmethod
    def parse(cls, cursor: str | None) -> "Position":
        """Read a cursor; a bare number is one that was written before a registration could be answered in parts."""
        told = json.loads(cursor) if cursor else 0
        return cls(*told) if isinstance(told, list) else cls(told)

    def __str__(self) -> str:
        return json.dumps([self.after, self.day])


@dg.sensor(
    job=performance_job,
    minimum_interval_seconds=30,
    description="Newly registered files: the performance of the days they cover is made or made anew.",
)
def landed_days_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request the changed days of each registration in ranges that one run handles; days made since are left out."""
    position = Position.parse(context.cursor)
    events = made(context.instance, landing_files.key, after=position.after, limit=MAX_RUNS_PER_TICK)
    events = until_awaited(context.instance, events, ad_performance.key)
    requests: list[dg.RunRequest] = []
    for event in events:
        found = _landed(context.instance, event, since=position.day)
        room = MAX_RUNS_PER_TICK - len(requests)
        requests += [_request(event, span) for span in found[:room]]
        if len(found) > room:
            position = Position(position.after, found[room].first)
            break
        position = Position(event.storage_id)
    reason = None if requests else "No newly registered file covers a day of the history that was not made since."
    return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=str(position))


def _landed(instance: dg.DagsterInstance, event: Made, *, since: str) -> list[Span]:
    first, last = (str(event.metadata.get(name, "")) for name in (FIRST, LAST))
    days = history_days(max(first, since), last) if first and last else []
    since_made = newest(instance, ad_performance.key, days)
    need = Need(None, frozenset({event.storage_id}))
    return spans({day: need for day in days if since_made.get(day, 0) < event.storage_id})


def _request(event: Made, span: Span) -> dg.RunRequest:
    tags = span.limits | {CAUSE_TAG: f"files registered by run {event.run_id}"}
    return dg.RunRequest(run_key=span.run_key(event.run_id), tags=tags)
