"""From restated performance and severe anomalies to the health of the accounts and days touched, and of no others.

A restated day D touches the health of D and of every later day that was made already and whose features look back to D.
The run makes what health is made of first; days that are not whole yet are made whole, all others for the accounts
touched. What was made after its cause for these accounts, by a night's run for instance, is not asked for again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import dagster as dg

from within_pipelines.jobs import health_job
from within_pipelines.sensors.events import ANSWERS_PER_TICK, Made, made, narrowed_to, newest, position, until_awaited
from within_pipelines.sensors.ranges import CAUSE_TAG, Accounts, Need, Span, fitting, in_history, shifted, spans

PERFORMANCE, ANOMALIES = dg.AssetKey("ad_performance"), dg.AssetKey("anomalies")
ACCOUNT_FEATURES, HEALTH = dg.AssetKey("account_features"), dg.AssetKey("account_health")
PUBLISHED = {HEALTH: dg.AssetKey("published_health"), ANOMALIES: dg.AssetKey("published_anomalies")}
"""What people read is made with what it is published from."""

CHANGED_ACCOUNTS = "changed_accounts"
"""Metadata of a day of performance: the accounts whose rows changed; "all", or none of it, where that is not known."""

SEVERE_ACCOUNTS = "high_severity_accounts"
"""Metadata of a day of anomalies: the accounts with an anomaly of high severity."""

REACH_DAYS = 30
"""So many days after a day its performance is looked back to."""

Touched = Mapping[str, Accounts]
"""Day → accounts that a cause touches."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What is there of the health of days: what was made when and for whom, and which days are whole."""

    since: Mapping[str, Sequence[tuple[int, Accounts]]]
    whole: frozenset[str]

    def open_accounts(self, day: str, accounts: Accounts, cause: int) -> Accounts:
        """The accounts of which nothing was made after the cause; an empty set for none."""
        later = [made_for for storage_id, made_for in self.since.get(day, ()) if storage_id > cause]
        if None in later:
            return frozenset()
        return None if accounts is None else accounts.difference(*(a for a in later if a is not None))


def _answers(instance: dg.DagsterInstance, days: set[str], after: int, needed: Sequence[dg.AssetKey]) -> Answers:
    found = made(instance, HEALTH, after=after, days=days, limit=ANSWERS_PER_TICK)
    narrowed = narrowed_to(instance, {event.run_id for event in found}, HEALTH)
    since: dict[str, list[tuple[int, Accounts]]] = {}
    for event in found:
        since.setdefault(event.day, []).append((event.storage_id, narrowed.get(event.run_id)))
    whole = frozenset.intersection(*(frozenset(newest(instance, key, days)) for key in needed))
    return Answers(since, whole)


def _needs(touched: Mapping[int, Touched], answers: Answers) -> dict[str, Need]:
    """What each day needs after some causes."""
    found: dict[str, list[Need]] = {}
    for cause, days in touched.items():
        for day, accounts in days.items():
            left = answers.open_accounts(day, accounts, cause)
            if left is None or left:
                whole = day in answers.whole
                found.setdefault(day, []).append(Need(left if whole else None, frozenset({cause})))
    return {day: reduce(Need.joined, needs) for day, needs in found.items()}


def _tick(
    context: dg.SensorEvaluationContext,
    cause: dg.AssetKey,
    touch: Callable[[dg.DagsterInstance, Sequence[Made]], dict[int, Touched]],
    made_anew: Sequence[dg.AssetKey],
) -> dg.SensorResult:
    """Answer the materializations of a cause since the last tick, as many as one tick may."""
    instance, what = context.instance, cause.to_user_string()
    after = position(instance, context.cursor, HEALTH)
    events = until_awaited(instance, made(instance, cause, after=after), HEALTH)
    if not events:
        return dg.SensorResult(skip_reason=f"No new day of {what}.", cursor=str(after))
    touched = touch(instance, [event for event in events if in_history(event.day)])
    days = {day for found in touched.values() for day in found}
    needed = [key for key in made_anew if key != ANOMALIES]
    answers = _answers(instance, days, events[0].storage_id, needed)
    taken, found = fitting(
        events, lambda part: spans(_needs({e.storage_id: touched.get(e.storage_id, {}) for e in part}, answers))
    )
    requests = [_request(span, what, made_anew) for span in found]
    reason = None if requests else f"The new days of {what} change the health of no account, or it was made since."
    return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=str(events[taken - 1].storage_id))


def _request(span: Span, what: str, made_anew: Sequence[dg.AssetKey]) -> dg.RunRequest:
    accounts = sorted(span.accounts or ())
    selection = [*made_anew, *(PUBLISHED[key] for key in made_anew if key in PUBLISHED)]
    # Anomalies of a day are told beside all accounts of the night: they are made whole.
    narrowed = [key for key in selection if key not in (ANOMALIES, PUBLISHED[ANOMALIES])] if accounts else []
    ops = {key.to_python_identifier(): {"config": {"accounts": accounts}} for key in narrowed}
    return dg.RunRequest(
        run_key=span.run_key(what),
        run_config={"ops": ops} if ops else {},
        asset_selection=selection,
        tags=span.limits | {CAUSE_TAG: what},
    )


@dg.sensor(
    job=health_job,
    minimum_interval_seconds=30,
    description="A day of performance that is new or was restated: the health of the accounts that it changed is made "
    f"anew, for the day and the days up to {REACH_DAYS} later that were made already.",
)
def restated_performance_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request account features, anomalies and health of the accounts and days that changed performance touches."""
    return _tick(context, PERFORMANCE, _restated, (ACCOUNT_FEATURES, ANOMALIES, HEALTH))


def _restated(instance: dg.DagsterInstance, events: Sequence[Made]) -> dict[int, Touched]:
    changed = {event.storage_id: _changed(event) for event in events}
    events = [event for event in events if changed[event.storage_id] is None or changed[event.storage_id]]
    present = newest(instance, HEALTH, {day for event in events for day in _reached(event.day)})
    return {
        event.storage_id: {
            day: changed[event.storage_id] for day in _reached(event.day) if day == event.day or day in present
        }
        for event in events
    }


def _reached(day: str) -> Iterator[str]:
    return (shifted(day, n) for n in range(REACH_DAYS + 1))


def _changed(event: Made) -> Accounts:
    told = event.metadata.get(CHANGED_ACCOUNTS)
    return frozenset(map(str, told)) if isinstance(told, list) else None


@dg.sensor(
    job=health_job,
    minimum_interval_seconds=30,
    description="An account that newly has an anomaly of high severity on a day: its health of that day is made anew.",
)
def severe_anomalies_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request the health of accounts with severe anomalies, unless it was made after them."""
    return _tick(context, ANOMALIES, _severe, (HEALTH,))


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
