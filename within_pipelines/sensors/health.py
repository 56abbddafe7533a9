"""From restated performance and severe anomalies to the health of the accounts and days touched, and of no others.

A restated day D touches the health of D and of each later day that was made already and whose history reaches back to
D. The run makes what health is made of first; a day that is not there yet is made whole, all others for the accounts
touched. What was made after its cause for these accounts, by a night's run for instance, is not asked for again.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import reduce

import dagster as dg

from within_pipelines.assets.health_training import HISTORY_MONTHS
from within_pipelines.jobs import health_job
from within_pipelines.partitions import history_start
from within_pipelines.sensors.events import (
    ANSWERS_PER_TICK,
    Made,
    days_made,
    made,
    narrowed_to,
    newest,
    position,
    until_awaited,
)
from within_pipelines.sensors.ranges import CAUSE_TAG, Accounts, Need, Span, fitting, in_history, spans

PERFORMANCE, ANOMALIES = dg.AssetKey("ad_performance"), dg.AssetKey("anomalies")
ACCOUNT_FEATURES, HEALTH = dg.AssetKey("account_features"), dg.AssetKey("account_health")
PUBLISHED = dg.AssetKey("published_health")

NARROWED = (ACCOUNT_FEATURES, HEALTH, PUBLISHED)
"""What can be made for single accounts; all else is made for the whole day."""

OF_PERFORMANCE = (*NARROWED, dg.AssetKey("account_segments"), ANOMALIES, dg.AssetKey("published_anomalies"))
"""What is made anew where performance has changed."""

OF_ANOMALIES = (HEALTH, PUBLISHED)
"""What is made anew where there are severe anomalies."""

CHANGED_ACCOUNTS = "changed_accounts"
"""Metadata of a day of performance: the accounts whose rows changed; "all", or none of it, where that is not known."""

SEVERE_ACCOUNTS = "high_severity_accounts"
"""Metadata of a day of anomalies: the accounts with an anomaly of high severity."""

ROWS = "dagster/row_count"

Touched = Mapping[str, Accounts]
"""Day → accounts that a cause touches."""

Touch = Callable[[dg.DagsterInstance, Sequence[Made]], Mapping[int, Touched]]


@dataclass(frozen=True, slots=True)
class Answers:
    """What is there of days: each making of their health, with the accounts it was for, and the days that are whole."""

    makings: Mapping[str, Sequence[tuple[Made, Accounts]]]
    whole: Collection[str]

    def left(self, day: str, accounts: Accounts, cause: Made) -> Accounts:
        """The accounts that were made neither after the cause nor by the same run; an empty set for none."""
        since = [
            made_for
            for making, made_for in self.makings.get(day, ())
            if making.storage_id > cause.storage_id or (making.run_id and making.run_id == cause.run_id)
        ]
        if None in since:
            return frozenset()
        return None if accounts is None else accounts.difference(*(a for a in since if a is not None))


def _answers(instance: dg.DagsterInstance, days: Collection[str]) -> Answers:
    found = made(instance, HEALTH, days=days, limit=ANSWERS_PER_TICK, newest_first=True)
    narrowed = narrowed_to(instance, {event.run_id for event in found}, HEALTH)
    makings: dict[str, list[tuple[Made, Accounts]]] = {}
    for event in found:
        makings.setdefault(event.day, []).append((event, narrowed.get(event.run_id)))
    # A day before the first model has its partition and no rows in it: one account's would make it look whole.
    filled = {day for day, events in makings.items() if events[0][0].metadata.get(ROWS) != 0}
    return Answers(makings, filled.intersection(newest(instance, ACCOUNT_FEATURES, filled)))


def _needs(events: Sequence[Made], touched: Mapping[int, Touched], answers: Answers) -> dict[str, Need]:
    """What each day needs after some causes."""
    found: dict[str, list[Need]] = {}
    for event in events:
        for day, accounts in touched.get(event.storage_id, {}).items():
            left, whole = answers.left(day, accounts, event), day in answers.whole
            if (left is None or left) and (whole or day == event.day):
                found.setdefault(day, []).append(Need(left if whole else None, frozenset({event.storage_id})))
    return {day: reduce(Need.joined, needs) for day, needs in found.items()}


def _tick(
    context: dg.SensorEvaluationContext, cause: dg.AssetKey, touch: Touch, made_anew: Sequence[dg.AssetKey]
) -> dg.SensorResult:
    """Answer the materializations of a cause since the last tick, as many as one tick may."""
    instance, what = context.instance, cause.to_user_string()
    after = position(instance, context.cursor, HEALTH)
    events = until_awaited(instance, made(instance, cause, after=after), HEALTH)
    if not events:
        return dg.SensorResult(skip_reason=f"No new day of {what}.", cursor=str(after))
    touched = touch(instance, [event for event in events if in_history(event.day)])
    answers = _answers(instance, {day for found in touched.values() for day in found})
    taken, found = fitting(events, lambda part: spans(_needs(part, touched, answers)))
    requests = [_request(span, what, made_anew) for span in found]
    reason = None if requests else f"The new days of {what} change the health of no account, or it was made since."
    return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=str(events[taken - 1].storage_id))


def _request(span: Span, what: str, made_anew: Sequence[dg.AssetKey]) -> dg.RunRequest:
    config = {"config": {"accounts": sorted(span.accounts or ())}}
    narrowed = [key.to_python_identifier() for key in made_anew if span.accounts and key in NARROWED]
    return dg.RunRequest(
        run_key=span.run_key(what),
        run_config={"ops": dict.fromkeys(narrowed, config)} if narrowed else {},
        asset_selection=list(made_anew),
        tags=span.limits | {CAUSE_TAG: what},
    )


@dg.sensor(
    job=health_job,
    minimum_interval_seconds=30,
    description="A day of performance that is new or was restated: the health of the accounts that it changed is made "
    "anew, for the day and for later days that were made already and look back to it.",
)
def restated_performance_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request account features, anomalies and health of the accounts and days that changed performance touches."""
    return _tick(context, PERFORMANCE, _restated, OF_PERFORMANCE)


def _restated(instance: dg.DagsterInstance, events: Sequence[Made]) -> dict[int, Touched]:
    changed = {event.storage_id: _changed(event) for event in events}
    events = [event for event in events if changed[event.storage_id] is None or changed[event.storage_id]]
    present = sorted(days_made(instance, HEALTH, 0)) if events else []
    return {e.storage_id: dict.fromkeys(_reached(e.day, present), changed[e.storage_id]) for e in events}


def _reached(day: str, present: Sequence[str]) -> list[str]:
    """A day, and those of the present days after it whose history has it."""
    last = history_start(date.fromisoformat(day), -HISTORY_MONTHS - 1) - timedelta(days=1)
    return [day, *present[bisect_right(present, day) : bisect_right(present, last.isoformat())]]


def _changed(event: Made) -> Accounts:
    told = event.metadata.get(CHANGED_ACCOUNTS)
    return frozenset(map(str, told)) if isinstance(told, list) else None


@dg.sensor(
    job=health_job,
    minimum_interval_seconds=30,
    description="An account that newly has an anomaly of high severity on a day: its health of that day is made anew.",
)
def severe_anomalies_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request the health of accounts with severe anomalies, unless it was made with them or after them."""
    return _tick(context, ANOMALIES, _severe, OF_ANOMALIES)


def _severe(instance: dg.DagsterInstance, events: Sequence[Made]) -> dict[int, Touched]:
    severe = [event for event in events if _severe_accounts(event)]
    if not severe:
        return {}
    # A night that is looked at again tells again what it told before; that was answered then.
    last, days = severe[-1].storage_id, {event.day for event in severe}
    told = made(instance, ANOMALIES, before=last, days=days, limit=ANSWERS_PER_TICK, newest_first=True)
    before: dict[str, list[Made]] = {}
    for event in told:
        before.setdefault(event.day, []).append(event)
    found: dict[int, Touched] = {}
    for event in severe:
        earlier = next((e for e in before.get(event.day, ()) if e.storage_id < event.storage_id), None)
        accounts = _severe_accounts(event) - (_severe_accounts(earlier) if earlier else frozenset())
        if accounts:
            found[event.storage_id] = {event.day: accounts}
    return found


def _severe_accounts(event: Made) -> frozenset[str]:
    told = event.metadata.get(SEVERE_ACCOUNTS)
    return frozenset(map(str, told)) if isinstance(told, list) else frozenset()
