"""An event log that tests write by hand, and ticks that are read as tables: days, accounts, keys, cursor."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, StepMaterializationData

from within_pipelines.sensors.ranges import RANGE_END, RANGE_START

Asked = list[tuple[str, str, list[str]]]
"""What a tick requests: first day, last day, accounts; no accounts for all."""


@dataclass
class Tick:
    """What one look of a sensor brought."""

    requests: list[dg.RunRequest]
    cursor: str | None

    @property
    def keys(self) -> list[str]:
        return [str(request.run_key) for request in self.requests]

    @property
    def asked(self) -> Asked:
        return [(r.tags[RANGE_START], r.tags[RANGE_END], accounts_of(r)) for r in self.requests]

    @property
    def days(self) -> list[str]:
        """Days in the order of the requests, each as often as it is requested."""
        found: list[str] = []
        for request in self.requests:
            found += dg.DailyPartitionsDefinition("2000-01-01").get_partition_keys_in_range(
                dg.PartitionKeyRange(request.tags[RANGE_START], request.tags[RANGE_END])
            )
        return found


def accounts_of(request: dg.RunRequest) -> list[str]:
    """Accounts of all ops of a request, which must be the same."""
    lists = [op["config"]["accounts"] for op in request.run_config.get("ops", {}).values()]
    assert all(accounts == lists[0] for accounts in lists)
    return lists[0] if lists else []


@dataclass
class Log:
    """A Dagster instance, and short ways to write what runs have made into it."""

    instance: dg.DagsterInstance
    runs: dict[str, dg.DagsterRun] = field(default_factory=dict)

    def run(
        self,
        *makes: str,
        status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS,
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Enter a run that makes some assets, with the configuration of each."""
        run = dg.DagsterRun(
            job_name="nightly",
            run_id=str(uuid.uuid4()),
            run_config={"ops": {name: {"config": values} for name, values in (config or {}).items()}},
            asset_selection=frozenset(dg.AssetKey(name) for name in makes),
            status=status,
        )
        self.instance.add_run(run)
        return run.run_id

    def end(self, run_id: str, status: dg.DagsterRunStatus) -> None:
        """Enter that a run has ended."""
        kind = {
            dg.DagsterRunStatus.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
            dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
        }[status]
        self.instance.report_dagster_event(DagsterEvent(kind.value, "nightly"), run_id=run_id)

    def make(self, asset: str, *days: str | None, run: str = "", **metadata: Any) -> None:
        """Enter that days of an asset were made, by a run or by hand."""
        for day in days:
            made = dg.AssetMaterialization(asset_key=asset, partition=day, metadata=metadata)
            if run:
                kind = dg.DagsterEventType.ASSET_MATERIALIZATION.value
                event = DagsterEvent(kind, "nightly", event_specific_data=StepMaterializationData(made))
                self.instance.report_dagster_event(event, run_id=run)
            else:
                self.instance.report_runless_asset_event(made)

    def tick(self, sensor: dg.SensorDefinition, cursor: str | None = None) -> Tick:
        """Let a sensor look once."""
        context = dg.build_sensor_context(instance=self.instance, cursor=cursor)
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        assert bool(result.run_requests) != bool(result.skip_reason)
        return Tick(list(result.run_requests or []), result.cursor)

    def drain(self, sensor: dg.SensorDefinition, *, ticks: int = 100) -> list[Tick]:
        """Let a sensor look until it has nothing to request any more; its requests are not carried out."""
        found = [self.tick(sensor)]
        while found[-1].requests:
            assert len(found) < ticks
            found.append(self.tick(sensor, found[-1].cursor))
        return found[:-1]


@pytest.fixture
def log() -> Iterator[Log]:
    """An empty event log."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Log(instance)
