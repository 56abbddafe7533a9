"""What the event log says: which days were made, by which runs, for which accounts. Reads little at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

EVENTS_PER_TICK = 1_000
"""Materializations that one tick looks at."""

ANSWERS_PER_TICK = 10_000
"""Materializations of what was asked for that one tick looks at; one that is not seen is requested again."""

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_GOING_ON = [status for status in dg.DagsterRunStatus if status not in _ENDED]


@dataclass(frozen=True, slots=True)
class Made:
    """A materialization: its place in the event log, its day (empty without partitions), its run and metadata."""

    storage_id: int
    day: str
    run_id: str
    metadata: Mapping[str, Any]


def made(
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    *,
    after: int | None = None,
    before: int | None = None,
    days: Collection[str] | None = None,
    limit: int = EVENTS_PER_TICK,
    newest_first: bool = False,
) -> list[Made]:
    """Read materializations of an asset between two places of the event log, of all days or of some."""
    if days is not None and not days:
        return []
    chosen = dg.AssetRecordsFilter(
        asset_key=asset,
        asset_partitions=sorted(days) if days is not None else None,
        after_storage_id=after,
        before_storage_id=before,
    )
    records = instance.fetch_materializations(chosen, limit=limit, ascending=not newest_first).records
    return [_made(record) for record in records]


def _made(record: dg.EventLogRecord) -> Made:
    materialization = record.asset_materialization
    values = materialization.metadata if materialization else {}
    told = {name: value.value for name, value in values.items()}
    return Made(record.storage_id, record.partition_key or "", record.event_log_entry.run_id, told)


def newest(instance: dg.DagsterInstance, asset: dg.AssetKey, days: Collection[str]) -> Mapping[str, int]:
    """Days that were made, with the place of each one's newest materialization in the event log."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    return instance.event_log_storage.get_latest_storage_id_by_partition(asset, kind, set(days)) if days else {}


def position(instance: dg.DagsterInstance, cursor: str | None, answer: dg.AssetKey) -> int:
    """Read a cursor: the place in the event log up to which causes were answered.

    Without one, it is the first answer that was ever made: of what came before, each day was either answered by it or
    by a later one, or belongs to a past that nobody asked for and that is left to a backfill.
    """
    if cursor:
        return int(cursor)
    return next((event.storage_id for event in made(instance, answer, limit=1)), 0)


def days_made(instance: dg.DagsterInstance, asset: dg.AssetKey, after: int) -> set[str]:
    """Days that were made since a place in the event log."""
    return instance.event_log_storage.get_materialized_partitions(asset, after_cursor=after)


def until_awaited(instance: dg.DagsterInstance, events: Sequence[Made], answer: dg.AssetKey) -> list[Made]:
    """Leave out the events from the first one on whose run goes on and is going to make the answer itself.

    When that run has ended, its own answer counts, or, if it failed, the event is answered like any other.
    """
    waiting = _making(instance, {event.run_id for event in events if event.run_id}, answer)
    first = next((n for n, event in enumerate(events) if event.run_id in waiting), len(events))
    return list(events[:first])


def _making(instance: dg.DagsterInstance, run_ids: Collection[str], asset: dg.AssetKey) -> set[str]:
    if not run_ids:
        return set()
    going_on = instance.get_run_records(dg.RunsFilter(run_ids=sorted(run_ids), statuses=_GOING_ON))
    return {r.dagster_run.run_id for r in going_on if asset in _planned(instance, r.dagster_run)}


def _planned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Collection[dg.AssetKey]:
    """Assets that a run makes: those it was narrowed to, else those that it announced when it was created."""
    if run.asset_selection is not None:
        return run.asset_selection
    announced = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    return {
        entry.dagster_event.asset_key for entry in announced if entry.dagster_event and entry.dagster_event.asset_key
    }


def narrowed_to(instance: dg.DagsterInstance, run_ids: Iterable[str], asset: dg.AssetKey) -> dict[str, frozenset[str]]:
    """Runs that made only some rows of an asset, and the accounts that they made whole, by their configuration."""
    ids = sorted({run_id for run_id in run_ids if run_id})
    records = instance.get_run_records(dg.RunsFilter(run_ids=ids)) if ids else []
    found: dict[str, frozenset[str]] = {}
    for run in (record.dagster_run for record in records):
        ops: Mapping[str, Any] = dict(run.run_config).get("ops", {})  # type: ignore[assignment]
        config = ops.get(asset.to_python_identifier(), {}).get("config", {})
        accounts, campaigns = config.get("accounts", ()), config.get("campaigns", ())
        if accounts or campaigns:
            found[run.run_id] = frozenset() if campaigns else frozenset(accounts)
    return found
