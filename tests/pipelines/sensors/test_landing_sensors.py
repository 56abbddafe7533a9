"""Landing files lead to their days, tick by tick; what restatements of real files tell of their accounts."""

import json
import os
from datetime import date, timedelta

import dagster as dg
import pyarrow as pa
import pytest

from within_pipelines.resources import LandingResource
from within_pipelines.sensors import landed_days_sensor, landing_sensor, restated_performance_sensor
from within_pipelines.sensors.ranges import MAX_RUNS_PER_TICK

FIRST = date(2024, 1, 1)


def day(number: int) -> str:
    return (FIRST + timedelta(days=number)).isoformat()


# Each row: days made before, registrations since the last tick (first and last changed day), ranges requested then.
TABLE = {
    "nothing at all": ([], [], []),
    "first tick": ([], [(0, 1)], [(0, 1)]),
    "first tick, days made already": ([(0, 9)], [], []),
    "nothing new in the landing zone": ([(0, 9)], [None], []),
    "a restatement of old days": ([(0, 99)], [(10, 50)], [(10, 39), (40, 50)]),
    "two registrations between two ticks": ([(0, 9)], [(10, 10), (3, 3)], [(10, 10), (3, 3)]),
    "none changed after one that did": ([(0, 9)], [(10, 10), None], [(10, 10)]),
    "the same day twice": ([], [(0, 0), (0, 0)], [(0, 0), (0, 0)]),
    "partly outside the history": ([], [(364, 500)], [(364, 365)]),
    "outside the history": ([], [(400, 500)], []),
}


class TestLandedDays:
    def register(self, log, first: int | None, last: int | None) -> None:
        ends = {"first_changed_date": "", "last_changed_date": ""}
        if first is not None and last is not None:
            ends = {"first_changed_date": day(first), "last_changed_date": day(last)}
        log.make("landing_files", None, run=log.run("landing_files"), **ends)

    @pytest.mark.parametrize(("before", "since", "asked"), TABLE.values(), ids=TABLE.keys())
    def test_a_tick(self, log, before, since, asked):
        for first, last in before:
            self.register(log, first, last)
            log.make("ad_performance", *(day(n) for n in range(first, last + 1)))
        cursor = log.tick(landed_days_sensor).cursor
        for registration in since:
            self.register(log, *(registration or (None, None)))
        tick = log.tick(landed_days_sensor, cursor)
        assert tick.asked == [(day(first), day(last), []) for first, last in asked]
        assert len(set(tick.keys)) == len(asked)
        assert log.tick(landed_days_sensor, tick.cursor).requests == []

    def test_a_cursor_of_a_number_is_the_place_in_the_event_log(self, log):
        self.register(log, 0, 0)
        cursor = log.tick(landed_days_sensor).cursor
        self.register(log, 1, 1)
        assert log.tick(landed_days_sensor, str(json.loads(cursor)[0])).asked == [(day(1), day(1), [])]

    def test_a_file_of_years_and_a_burst_of_files_are_drained_over_ticks(self, log):
        # Four years are 49 runs; then 500 files of a day each.
        log.make("landing_files", None, first_changed_date="2016-01-01", last_changed_date="2019-12-31")
        for number in range(500):
            night = (date(2021, 1, 1) + timedelta(days=number)).isoformat()
            log.make("landing_files", None, first_changed_date=night, last_changed_date=night)
        ticks = log.drain(landed_days_sensor)
        assert all(len(tick.requests) == MAX_RUNS_PER_TICK for tick in ticks[:-1])
        asked = [asked for tick in ticks for asked in tick.days]
        assert len(asked) == len(set(asked)) == 1461 + 500
        assert len({key for tick in ticks for key in tick.keys}) == 49 + 500

    def test_a_tick_that_fails_is_repeated_with_the_same_keys(self, log, monkeypatch):
        self.register(log, 0, 1)
        self.register(log, 5, 5)
        expected = log.tick(landed_days_sensor)
        storage, calls = log.instance.event_log_storage, []
        real = storage.get_latest_storage_id_by_partition

        def breaks_the_second_time(*args, **kwargs):
            calls.append(args)
            if len(calls) == 2:
                raise ConnectionError("the server closed the connection")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "get_latest_storage_id_by_partition", breaks_the_second_time)
            with pytest.raises(ConnectionError):
                log.tick(landed_days_sensor)
        again = log.tick(landed_days_sensor)
        assert (again.keys, again.cursor) == (expected.keys, expected.cursor)


def test_a_file_that_is_put_back_as_it_once_was_is_looked_at_again(tmp_path):
    path = tmp_path / "upworthy" / "a.parquet"
    path.parent.mkdir()
    keys, cursor = [], None
    for content, time in ((b"old", 1), (b"newer", 2), (b"old", 1), (b"newer", 2)):
        path.write_bytes(content)
        os.utime(path, (time, time))
        context = dg.build_sensor_context(cursor=cursor, resources={"landing": LandingResource(root=str(tmp_path))})
        keys.append(landing_sensor(context).run_key)
        cursor = context.cursor
    assert len(set(keys)) == 4


class TestChangedAccounts:
    """Real files through the real asset: what a day's materialization tells of the accounts that changed."""

    def performance(self, *days: date, **clicks: int) -> pa.Table:
        """One row per day and account, with the account's clicks."""
        keys = [(d, account) for d in days for account in clicks]
        names = {n: ["x"] * len(keys) for n in ("platform", "campaign_id", "ad_group_id", "ad_id", "region")}
        return pa.table(
            {
                "date": pa.array([d for d, _ in keys], pa.date32()),
                **names,
                "account_id": [account for _, account in keys],
                "impressions": pa.array([1000] * len(keys), pa.int64()),
                "clicks": pa.array([clicks[account] for _, account in keys], pa.int64()),
                "spend": pa.array([1.0] * len(keys)),
                "conversions": pa.array([None] * len(keys), pa.float64()),
                "revenue": pa.array([None] * len(keys), pa.float64()),
            }
        )

    def told(self, deployment) -> dict[str, object]:
        """Day → what the newest materialization says."""
        chosen = dg.AssetRecordsFilter(asset_key=dg.AssetKey("ad_performance"))
        records = deployment.instance.fetch_materializations(chosen, limit=100, ascending=True).records
        return {r.partition_key: r.asset_materialization.metadata["changed_accounts"].value for r in records}

    def test_only_accounts_with_other_rows_are_told(self, lake_only):
        days = [FIRST + timedelta(days=n) for n in range(3)]
        path = "simulation/ad_performance_1.parquet"
        lake_only.land(path, self.performance(*days, a=1, b=2, c=3))
        lake_only.ingest()
        assert self.told(lake_only) == {day(0): "all", day(1): "all", day(2): "all"}

        restated = pa.concat_tables(
            [
                self.performance(days[0], c=3, a=1, b=2),
                self.performance(days[1], a=1, b=9, d=4),
                self.performance(days[2], a=2, b=2, c=3),
            ]
        )
        lake_only.land(path, restated)
        lake_only.ingest()
        assert self.told(lake_only) == {day(0): [], day(1): ["b", "c", "d"], day(2): ["a"]}
        lake_only.backfill("ad_performance", days[0], days[2])
        assert self.told(lake_only) == {day(0): [], day(1): [], day(2): []}

    def test_a_restated_file_leads_to_requests_of_its_accounts(self, lake_only):
        days = [FIRST + timedelta(days=n) for n in range(3)]
        path = "simulation/ad_performance_1.parquet"
        lake_only.land(path, self.performance(*days, a=1, b=2))
        lake_only.ingest()
        for name in ("account_features", "account_health"):
            for d in days:
                made = dg.AssetMaterialization(asset_key=name, partition=d.isoformat())
                lake_only.instance.report_runless_asset_event(made)
        lake_only.land(
            path, pa.concat_tables([self.performance(days[0], a=1, b=2), self.performance(*days[1:], a=1, b=9)])
        )
        lake_only.ingest()
        result = restated_performance_sensor(dg.build_sensor_context(instance=lake_only.instance))
        (request,) = result.run_requests
        assert request.run_config["ops"]["account_health"] == {"config": {"accounts": ["b"]}}
        assert request.tags["dagster/asset_partition_range_start"] == day(1)
        assert request.tags["dagster/asset_partition_range_end"] == day(2)

    def test_a_run_that_repeats_a_killed_one_tells_all(self, lake_only):
        path = "simulation/ad_performance_1.parquet"
        lake_only.land(path, self.performance(FIRST, a=1, b=2))
        lake_only.ingest()
        killed = lake_only.instance.get_runs()[0].run_id
        tags = {"dagster/parent_run_id": killed, "dagster/root_run_id": killed}
        lake_only.runner.materialize(["ad_performance"], partition=day(0), tags=tags)
        assert self.told(lake_only)[day(0)] == "all"
