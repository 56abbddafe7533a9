"""Restated performance and severe anomalies lead to the health of the accounts and days touched, tick by tick."""

from datetime import date, timedelta

import dagster as dg
import pytest

from within_pipelines.partitions import DAILY, MAX_PARTITIONS_PER_RUN
from within_pipelines.sensors import RANGE_END, RANGE_START, restated_performance_sensor, severe_anomalies_sensor
from within_pipelines.sensors.ranges import MAX_RUNS_PER_TICK

REMADE = ("account_features", "anomalies", "account_health")
NARROWED = ("account_features", "account_health", "published_health")
WHOLE = ("account_segments", "anomalies", "published_anomalies")


def day(number: int) -> str:
    return (date(2024, 1, 1) + timedelta(days=number)).isoformat()


def span(first: int, last: int) -> list[str]:
    return [day(n) for n in range(first, last + 1)]


def a_night(log, *days: str) -> None:
    """Days as the nightly run makes them, anomalies before health."""
    run = log.run("ad_performance", *REMADE)
    log.make("ad_performance", *days, run=run, changed_accounts="all")
    for asset in REMADE:
        log.make(asset, *days, run=run)


# Each row: what happened before, what happens since the last tick, and what is requested then.
# An event: days first … last, accounts changed ("all" for a new day).
TABLE = {
    "nothing at all": ([], [], []),
    "first tick, a new day": ([], [(0, 0, "all")], [(day(0), day(0), [])]),
    "nothing new": ([(0, 5)], [], []),
    "a day made again as it was": ([(0, 5)], [(3, 3, [])], []),
    "a new day after others": ([(0, 5)], [(6, 6, "all")], [(day(6), day(6), [])]),
    "a gap filled": ([(0, 2), (4, 5)], [(3, 3, "all")], [(day(3), day(5), [])]),
    # Histories begin on the first of a month, seven months before: January's days are in those until the end of August.
    "a restated old day": ([(200, 270)], [(30, 30, ["a"])], [(day(30), day(30), []), (day(200), day(229), ["a"]), (day(230), day(243), ["a"])]),
    "the next day, of the next month": ([(200, 270)], [(31, 31, ["a"])], [(day(31), day(31), []), (day(200), day(229), ["a"]), (day(230), day(259), ["a"]), (day(260), day(270), ["a"])]),
    "a restated newest day": ([(0, 5)], [(5, 5, ["b", "a"])], [(day(5), day(5), ["a", "b"])]),
    "a duplicate in one tick": ([(0, 5)], [(5, 5, ["a"]), (5, 5, ["a"])], [(day(5), day(5), ["a"])]),
    "two accounts on two days": ([(0, 5)], [(3, 3, ["a"]), (5, 5, ["b"])], [(day(3), day(4), ["a"]), (day(5), day(5), ["a", "b"])]),
    "one account and all": ([(0, 5)], [(4, 4, "all"), (5, 5, ["b"])], [(day(4), day(5), [])]),
    "more accounts than are named": ([(0, 5)], [(5, 5, "all")], [(day(5), day(5), [])]),
    "days outside the history": ([], [(-4100, -4100, "all"), (400, 400, "all")], []),
}  # fmt: skip


class TestRestatedPerformance:
    @pytest.mark.parametrize(("before", "since", "asked"), TABLE.values(), ids=TABLE.keys())
    def test_a_tick(self, log, before, since, asked):
        for first, last in before:
            a_night(log, *span(first, last))
        cursor = log.tick(restated_performance_sensor).cursor
        for first, last, accounts in since:
            log.make("ad_performance", *span(first, last), changed_accounts=accounts)
        tick = log.tick(restated_performance_sensor, cursor)
        assert tick.asked == asked
        assert len(set(tick.keys)) == len(asked)
        assert log.tick(restated_performance_sensor, tick.cursor).requests == []

    def test_a_request_names_what_is_made_anew_and_narrows_what_can_be(self, log):
        a_night(log, *span(0, 3))
        log.make("ad_performance", day(3), changed_accounts=["a"])
        log.make("ad_performance", day(4), changed_accounts="all")
        narrowed, whole = log.tick(restated_performance_sensor).requests
        for request in (narrowed, whole):
            assert {key.to_user_string() for key in request.asset_selection} == {*NARROWED, *WHOLE}
        assert narrowed.run_config == {"ops": {name: {"config": {"accounts": ["a"]}} for name in NARROWED}}
        assert (whole.run_config, whole.tags[RANGE_START], whole.tags[RANGE_END]) == ({}, day(4), day(4))

    def test_days_before_the_first_model_have_no_health_to_be_made_anew_but_the_day_itself_is_tried(self, log):
        log.make("ad_performance", *span(0, 9), changed_accounts="all")
        log.make("account_features", *span(0, 9))
        for n in range(10):
            log.make("account_health", day(n), **{"dagster/row_count": 0 if n < 5 else 12})
        log.make("ad_performance", day(2), changed_accounts=["a"])
        assert log.tick(restated_performance_sensor).asked == [(day(2), day(2), []), (day(5), day(9), ["a"])]

    def test_the_first_tick_leaves_the_past_that_nobody_asked_for_to_a_backfill(self, log):
        log.make("ad_performance", *span(0, 99), changed_accounts="all")
        for asset in REMADE:
            log.make(asset, *span(90, 99))
        log.make("ad_performance", day(95), changed_accounts=["a"])
        tick = log.tick(restated_performance_sensor)
        assert tick.asked == [(day(95), day(99), ["a"])]
        log.make("ad_performance", day(50), changed_accounts="all")
        assert log.tick(restated_performance_sensor, tick.cursor).asked == [
            (day(50), day(50), []),
            (day(90), day(99), []),
        ]

    def test_nothing_is_lost_between_a_first_tick_without_events_and_the_second(self, log):
        tick = log.tick(restated_performance_sensor)
        log.make("ad_performance", day(0), changed_accounts="all")
        log.make("account_health", day(7))
        assert log.tick(restated_performance_sensor, tick.cursor).asked == [(day(0), day(0), [])]

    def test_performance_of_another_deployment_concerns_all_accounts(self, log):
        a_night(log, *span(0, 3))
        log.make("ad_performance", day(3))
        assert log.tick(restated_performance_sensor).asked == [(day(3), day(3), [])]

    def test_a_second_restatement_of_a_day_has_another_key(self, log):
        a_night(log, day(0))
        keys, cursor = [], log.tick(restated_performance_sensor).cursor
        for _ in range(2):
            log.make("ad_performance", day(0), changed_accounts=["a"])
            tick = log.tick(restated_performance_sensor, cursor)
            keys, cursor = keys + tick.keys, tick.cursor
        assert len(set(keys)) == 2

    def test_a_day_without_whole_health_is_made_whole(self, log):
        log.make("ad_performance", day(0), changed_accounts="all")
        log.make("account_features", day(0))
        log.make("ad_performance", day(0), changed_accounts=["a"])
        assert log.tick(restated_performance_sensor).asked == [(day(0), day(0), [])]

    def test_a_night_that_goes_on_is_waited_for_and_what_it_made_is_not_asked_for(self, log):
        night = log.run("ad_performance", *REMADE, status=dg.DagsterRunStatus.STARTED)
        log.make("ad_performance", day(0), run=night, changed_accounts="all")
        waiting = log.tick(restated_performance_sensor)
        assert waiting.requests == []
        for asset in REMADE:
            log.make(asset, day(0), run=night)
        log.end(night, dg.DagsterRunStatus.SUCCESS)
        assert log.tick(restated_performance_sensor, waiting.cursor).requests == []

    @pytest.mark.parametrize(
        ("made", "waits"), [(("ad_performance", "account_health"), True), (("ad_performance",), False)]
    )
    def test_a_run_of_a_job_is_known_by_what_it_announced(self, log, made, waits):
        @dg.multi_asset(specs=[dg.AssetSpec(name, partitions_def=DAILY) for name in made])
        def stand_ins(): ...

        job = dg.define_asset_job("nightly", selection=dg.AssetSelection.all())
        night = log.instance.create_run_for_job(
            dg.Definitions([stand_ins], jobs=[job]).resolve_job_def("nightly"),
            tags={"dagster/partition": day(0)},
            status=dg.DagsterRunStatus.STARTED,
        )
        assert night.asset_selection is None
        log.make("ad_performance", day(0), run=night.run_id, changed_accounts="all")
        assert len(log.tick(restated_performance_sensor).requests) == (0 if waits else 1)

    def test_a_night_that_fails_before_its_health_is_answered(self, log):
        night = log.run("ad_performance", *REMADE, status=dg.DagsterRunStatus.STARTED)
        log.make("ad_performance", day(0), run=night, changed_accounts="all")
        waiting = log.tick(restated_performance_sensor)
        log.end(night, dg.DagsterRunStatus.FAILURE)
        assert log.tick(restated_performance_sensor, waiting.cursor).asked == [(day(0), day(0), [])]

    def test_health_made_since_for_other_accounts_is_no_answer(self, log):
        a_night(log, *span(0, 3))
        log.make("ad_performance", day(3), changed_accounts=["a", "b", "c"])
        narrowed = log.run("account_health", config={"account_health": {"accounts": ["b", "x"]}})
        log.make("account_health", day(3), run=narrowed)
        campaign = log.run("account_health", config={"account_health": {"accounts": ["c"], "campaigns": ["c1"]}})
        log.make("account_health", day(3), run=campaign)
        assert log.tick(restated_performance_sensor).asked == [(day(3), day(3), ["a", "c"])]

    def test_a_burst_in_a_row_is_packed_into_runs_of_a_month(self, log):
        log.make("ad_performance", *span(0, 364), changed_accounts="all")
        (tick,) = log.drain(restated_performance_sensor)
        assert tick.days == span(0, 364)
        assert len(tick.requests) == -(-365 // MAX_PARTITIONS_PER_RUN)

    def test_a_burst_of_scattered_days_is_drained_over_ticks_without_loss_or_repetition(self, log):
        days = [(date(2020, 1, 1) + timedelta(days=3 * n)).isoformat() for n in range(500)]
        log.make("ad_performance", *reversed(days), changed_accounts="all")
        ticks = log.drain(restated_performance_sensor)
        assert max(len(tick.requests) for tick in ticks) == MAX_RUNS_PER_TICK
        assert sorted(asked for tick in ticks for asked in tick.days) == days
        assert len({key for tick in ticks for key in tick.keys}) == 500
        assert all(len(tick.cursor or "") < 20 for tick in ticks)

    @pytest.mark.parametrize(
        ("query", "nth"),
        [("fetch_materializations", 1), ("fetch_materializations", 2), ("get_latest_storage_id_by_partition", 1)],
    )
    def test_a_tick_that_fails_is_repeated_with_the_same_keys(self, log, monkeypatch, query, nth):
        a_night(log, *span(0, 9))
        cursor = log.tick(restated_performance_sensor).cursor
        log.make("ad_performance", *span(2, 4), changed_accounts=["a"])
        expected = log.tick(restated_performance_sensor, cursor)
        storage, calls = log.instance.event_log_storage, []
        real = getattr(storage, query)

        def breaks_once(*args, **kwargs):
            calls.append(args)
            if len(calls) == nth:
                raise ConnectionError("the server closed the connection")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(storage, query, breaks_once)
            with pytest.raises(ConnectionError):
                log.tick(restated_performance_sensor, cursor)
        again = log.tick(restated_performance_sensor, cursor)
        assert (again.keys, again.cursor) == (expected.keys, expected.cursor)
        assert len(calls) == nth


class TestSevereAnomalies:
    def restated(self, log, *, health_of: list[str]) -> None:
        """Enter a run that makes anomalies and then the health of some accounts."""
        run = log.run(*REMADE, config={"account_health": {"accounts": health_of}})
        log.make("anomalies", day(3), run=run, high_severity_accounts=["a", "b"])
        log.make("account_health", day(3), run=run)

    def test_accounts_are_asked_for_on_the_day_and_only_their_health(self, log):
        a_night(log, *span(0, 5))
        log.make("anomalies", day(3), high_severity_accounts=["b", "a"])
        tick = log.tick(severe_anomalies_sensor)
        assert tick.asked == [(day(3), day(3), ["a", "b"])]
        assert [key.to_user_string() for key in tick.requests[0].asset_selection] == [
            "account_health",
            "published_health",
        ]
        assert log.tick(severe_anomalies_sensor, tick.cursor).requests == []

    @pytest.mark.parametrize("metadata", [{}, {"high_severity_accounts": []}])
    def test_a_quiet_night_asks_for_nothing(self, log, metadata):
        a_night(log, day(0))
        log.make("anomalies", day(0), **metadata)
        assert log.tick(severe_anomalies_sensor).requests == []

    @pytest.mark.parametrize("order", [("anomalies", "account_health"), ("account_health", "anomalies")])
    def test_what_a_run_makes_with_its_anomalies_is_not_asked_for(self, log, order):
        a_night(log, day(3))
        cursor = log.tick(severe_anomalies_sensor).cursor
        run = log.run(*REMADE)
        for asset in order:
            log.make(asset, day(3), run=run, high_severity_accounts=["a"])
        assert log.tick(severe_anomalies_sensor, cursor).requests == []

    def test_what_was_made_after_the_anomalies_is_not_asked_for(self, log):
        a_night(log, day(3))
        self.restated(log, health_of=[])
        assert log.tick(severe_anomalies_sensor).requests == []
        assert log.tick(restated_performance_sensor).requests == []

    def test_accounts_that_were_severe_before_are_not_asked_for_again(self, log):
        a_night(log, day(3))
        log.make("anomalies", day(3), high_severity_accounts=["b"])
        cursor = log.tick(severe_anomalies_sensor).cursor
        self.restated(log, health_of=["x"])
        tick = log.tick(severe_anomalies_sensor, cursor)
        assert tick.asked == [(day(3), day(3), ["a"])]

    def test_health_leads_to_no_anomalies(self, log):
        a_night(log, day(3))
        log.make("anomalies", day(3), high_severity_accounts=["a"])
        tick = log.tick(severe_anomalies_sensor)
        run = log.run("account_health", config={"account_health": {"accounts": ["a"]}})
        log.make("account_health", day(3), run=run)
        assert log.tick(severe_anomalies_sensor, tick.cursor).requests == []
        assert log.tick(restated_performance_sensor).requests == []

    def test_a_burst_of_nights_is_drained(self, log):
        days = [(date(2022, 1, 1) + timedelta(days=n)).isoformat() for n in range(500)]
        for asset in ("account_features", "account_health"):
            log.make(asset, *days)
        for number, night in enumerate(days):
            log.make("anomalies", night, high_severity_accounts=[f"account {number % 2}"])
        ticks = log.drain(severe_anomalies_sensor)
        assert sorted(asked for tick in ticks for asked in tick.days) == days
        assert len({key for tick in ticks for key in tick.keys}) == 500
        assert len(ticks) == 500 // MAX_RUNS_PER_TICK
