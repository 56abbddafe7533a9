"""Launching runs from the command line: the same jobs and assets as in the UI, executed here and recorded there."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg

from within_ml.errors import InputError, WithinError, shown
from within_pipelines.partitions import AS_OF_MONDAYS, DAILY, MAX_PARTITIONS_PER_RUN
from within_pipelines.sensors import RANGE_END, RANGE_START

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many parts are done, and how many there are."""


class RunFailedError(WithinError):
    """A run failed for a reason that is not bad input; the message names the step and where to read on."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Assets of a backfill, split by their partitions."""

    unpartitioned: tuple[str, ...]
    daily: tuple[str, ...]
    weekly: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A run that succeeded, and what its materializations told: asset → name → value."""

    run_id: str
    metadata: Mapping[str, Mapping[str, Any]]


class Runner:
    """Executes jobs of a code location in this process, on the instance that the UI shows.

    Parameters
    ----------
    definitions
        The code location.
    instance
        The Dagster instance that records the runs.
    """

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions = definitions
        self.instance = instance

    def select(self, selection: str) -> Selection:
        """Resolve names of groups and assets, comma separated.

        Raises
        ------
        InputError
            If a name is neither.
        """
        graph = self.definitions.resolve_asset_graph()
        groups: dict[str, set[str]] = {}
        names = {key.to_user_string(): graph.get(key) for key in graph.materializable_asset_keys}
        for name, node in names.items():
            groups.setdefault(node.group_name or "", set()).add(name)
        wanted = [part.strip() for part in selection.split(",") if part.strip()]
        unknown = [w for w in wanted if w not in groups and w not in names]
        if unknown or not wanted:
            raise InputError(
                f"--select needs names of groups ({', '.join(sorted(groups))}) or assets ({', '.join(sorted(names))}), "
                f"comma separated; {shown(unknown) if unknown else 'nothing'} came."
            )
        chosen = {name for w in wanted for name in groups.get(w, {w})}
        kinds = {name: names[name].partitions_def for name in sorted(chosen)}
        return Selection(
            tuple(n for n, k in kinds.items() if k is None),
            tuple(n for n, k in kinds.items() if k == DAILY),
            tuple(n for n, k in kinds.items() if k == AS_OF_MONDAYS),
        )

    def materialize(
        self,
        assets: Sequence[str],
        *,
        partition: str | None = None,
        first: date | None = None,
        last: date | None = None,
        config: dict[str, dict[str, Any]] | None = None,
        tags: dict[str, str] | None = None,
    ) -> Run:
        """Materialize assets in one run, for one partition or for the days first … last.

        Raises
        ------
        WithinError
            What the asset raised, or `RunFailedError` for anything else.
        """
        limits = {RANGE_START: first.isoformat(), RANGE_END: last.isoformat()} if first and last else {}
        run_id = str(uuid.uuid4())
        ops = {name: {"config": values} for name, values in (config or {}).items() if name in set(assets)}
        # The job of all assets, narrowed: the UI then shows the run as what it made, as it does its own.
        result = self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            partition_key=partition,
            tags={**limits, **(tags or {})},
            run_id=run_id,
            run_config={"ops": ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        if not result.success:
            raise _failure(result)
        told = {
            event.materialization.asset_key.to_user_string(): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
        }
        return Run(run_id, told)

    def backfill(
        self,
        selection: Selection,
        first: date,
        last: date,
        *,
        config: dict[str, dict[str, Any]] | None = None,
        tags: dict[str, str] | None = None,
        progress: Progress = lambda what, done, total: None,
    ) -> list[Run]:
        """Materialize a selection over days: first what has no partitions, then the days, then the as-of Mondays."""
        check_days(first, last)
        parts: list[tuple[str, tuple[str, ...], dict[str, Any]]] = []
        if selection.unpartitioned:
            parts.append((", ".join(selection.unpartitioned), selection.unpartitioned, {}))
        if selection.daily:
            parts += [
                (f"{begin} … {end}", selection.daily, {"first": begin, "last": end})
                for begin, end in chunks(first, last)
            ]
        if selection.weekly:
            parts += [(f"as of {monday}", selection.weekly, {"partition": monday}) for monday in mondays(first, last)]
        runs = []
        for number, (what, assets, span) in enumerate(parts):
            progress(what, number, len(parts))
            runs.append(self.materialize(assets, config=config, tags=tags, **span))
        progress("done", len(parts), len(parts))
        return runs


def chunks(first: date, last: date) -> Iterator[tuple[date, date]]:
    """Cut days into parts that one run handles.

    >>> [(a.isoformat(), b.isoformat()) for a, b in chunks(date(2024, 1, 1), date(2024, 2, 5))]
    [('2024-01-01', '2024-01-30'), ('2024-01-31', '2024-02-05')]
    """
    day = first.toordinal()
    while day <= last.toordinal():
        end = min(day + MAX_PARTITIONS_PER_RUN - 1, last.toordinal())
        yield date.fromordinal(day), date.fromordinal(end)
        day = end + 1


def mondays(first: date, last: date) -> list[str]:
    """As-of Mondays between two days, as partition keys."""
    keys = AS_OF_MONDAYS.get_partition_keys()
    return [key for key in keys if first.isoformat() <= key <= last.isoformat()]


def check_days(first: date, last: date) -> None:
    """Check that days are in order and within the history.

    Raises
    ------
    InputError
        If they are not.
    """
    known_first, known_last = DAILY.get_first_partition_key(), DAILY.get_last_partition_key()
    if first > last:
        raise InputError(f"--from must not be after --to, however: {first} and {last}.")
    if not known_first or not known_last or first.isoformat() < known_first or last.isoformat() > known_last:
        raise InputError(
            f"Days must lie in the history {known_first} … {known_last}, however: {first} … {last}; set "
            "WITHIN_START_DATE and WITHIN_END_DATE."
        )


def _failure(result: dg.ExecuteInProcessResult) -> WithinError:
    """The error that the first failed step was raised by: our own as it is, any other named with its step."""
    events = [event for event in result.all_events if event.is_step_failure]
    chains = [list(_chain(event.step_failure_data.error)) for event in events]
    for error in (error for chain in chains for error in chain):
        if error.cls_name and _is_within_error(error.cls_name):
            return _named(error.cls_name, error.message.split(":", 1)[-1].strip())
    steps = ", ".join(sorted({event.step_key or "" for event in events})) or "no step"
    what = chains[0][-1].message.strip() if chains and chains[0] else "no step reported why"
    return RunFailedError(f"Run {result.run_id} failed in {steps}: {what} (its log is in the Dagster UI: within ui).")


def _chain(error: Any) -> Iterator[Any]:
    """An error and what caused it, the cause last; our own errors stand before the library's that they explain."""
    while error is not None:
        yield error
        error = error.cause


def _is_within_error(name: str) -> bool:
    return name in {cls.__name__ for cls in _subclasses(WithinError)}


def _named(name: str, message: str) -> WithinError:
    return next(cls for cls in _subclasses(WithinError) if cls.__name__ == name)(message)


def _subclasses(cls: type[WithinError]) -> Iterator[type[WithinError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _subclasses(sub)
