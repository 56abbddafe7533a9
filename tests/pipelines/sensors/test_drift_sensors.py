"""Made days lead to drift checks, drifting nights to one retraining, tick by tick."""

from datetime import date, timedelta

import dagster as dg
import pytest

from within_pipelines.sensors import feature_drift_sensor, prediction_drift_sensor, retraining_sensor
from within_pipelines.sensors.ranges import MAX_RUNS_PER_TICK


def day(number: int) -> str:
    """Day 0 is a Monday."""
    return (date(2024, 1, 1) + timedelta(days=number)).isoformat()


# Each row: days made before and checked, days made since the last tick, and the ranges requested then.
TABLE = {
    "nothing at all": ([], [], []),
    "first tick": ([], [0], [(0, 0)]),
    "first tick, days checked already": ([0, 1, 2], [], []),
    "nothing new": ([0, 1], [], []),
    "a new night": ([0, 1], [2], [(2, 2)]),
    "a restated old day": ([0, 1, 2], [0], [(0, 0)]),
    "a duplicate in one tick": ([0, 1], [2, 2], [(2, 2)]),
    "days in a row, out of order": ([], [4, 2, 3, 7], [(2, 4), (7, 7)]),
    "a month and more": ([], list(range(40)), [(0, 29), (30, 39)]),
    "days outside the history": ([], [-4100, 400], []),
}


class TestChecks:
    @pytest.mark.parametrize(("before", "since", "asked"), TABLE.values(), ids=TABLE.keys())
    def test_a_tick(self, log, before, since, asked):
        log.make("ad_features", *map(day, before))
        log.make("feature_drift", *map(day, before))
        cursor = log.tick(feature_drift_sensor).cursor
        log.make("ad_features", *map(day, since))
        tick = log.tick(feature_drift_sensor, cursor)
        assert tick.asked == [(day(first), day(last), []) for first, last in asked]
        assert log.tick(feature_drift_sensor, tick.cursor).requests == []

    @pytest.mark.parametrize(
        ("sensor", "cause", "answer"),
        [
            (feature_drift_sensor, "ad_features", "feature_drift"),
            (prediction_drift_sensor, "ad_scores", "prediction_drift"),
        ],
    )
    def test_features_and_scores_have_their_own_check(self, log, sensor, cause, answer):
        for made in ("ad_features", "ad_scores", "ad_performance"):
            log.make(made, day(1))
        requests = log.tick(sensor).requests
        assert [[key.to_user_string() for key in r.asset_selection] for r in requests] == [[answer]]
        log.make(answer, day(1))
        assert log.tick(sensor).requests == []

    def test_a_narrowed_day_is_checked_again(self, log):
        log.make("ad_features", day(0))
        log.make("feature_drift", day(0))
        run = log.run("ad_features", config={"ad_features": {"accounts": ["a"]}})
        log.make("ad_features", day(0), run=run)
        assert log.tick(feature_drift_sensor).asked == [(day(0), day(0), [])]

    def test_a_run_that_checks_its_own_days_is_waited_for(self, log):
        run = log.run("ad_features", "feature_drift", status=dg.DagsterRunStatus.STARTED)
        log.make("ad_features", day(0), run=run)
        log.make("ad_features", day(1))
        waiting = log.tick(feature_drift_sensor)
        assert waiting.requests == []
        log.make("feature_drift", day(0), run=run)
        log.end(run, dg.DagsterRunStatus.SUCCESS)
        assert log.tick(feature_drift_sensor, waiting.cursor).asked == [(day(1), day(1), [])]

    def test_a_day_made_again_after_its_check_has_another_key(self, log):
        keys, cursor = [], None
        for _ in range(2):
            log.make("ad_features", day(0))
            tick = log.tick(feature_drift_sensor, cursor)
            log.make("feature_drift", day(0))
            keys, cursor = keys + tick.keys, tick.cursor
        assert len(set(keys)) == 2

    def test_a_burst_is_drained_over_ticks_without_loss_or_repetition(self, log):
        days = [(date(2020, 1, 1) + timedelta(days=2 * n)).isoformat() for n in range(500)]
        log.make("ad_features", *days)
        ticks = log.drain(feature_drift_sensor)
        assert [asked for tick in ticks for asked in tick.days] == days
        assert len(ticks) == 500 // MAX_RUNS_PER_TICK
        assert len({key for tick in ticks for key in tick.keys}) == 500

    def test_a_burst_in_a_row_is_one_tick(self, log):
        log.make("ad_features", *((date(2020, 1, 1) + timedelta(days=n)).isoformat() for n in range(500)))
        (tick,) = log.drain(feature_drift_sensor)
        assert len(tick.days) == 500
        assert len(tick.requests) == 17

    def test_a_tick_that_fails_is_repeated_with_the_same_keys(self, log, monkeypatch):
        log.make("ad_features", day(0), day(2))
        expected = log.tick(feature_drift_sensor)

        def breaks(*args, **kwargs):
            raise ConnectionError("the server closed the connection")

        with monkeypatch.context() as patch:
            patch.setattr(log.instance.event_log_storage, "get_latest_storage_id_by_partition", breaks)
            with pytest.raises(ConnectionError):
                log.tick(feature_drift_sensor)
        again = log.tick(feature_drift_sensor)
        assert (again.keys, again.cursor) == (expected.keys, expected.cursor)


# Each row: the verdicts of nights 0, 1, … ("x" drifts, "." does not, " " was not checked), and the Monday as of which
# a retraining is requested, if any.
VERDICTS = {
    "no night": ("", None),
    "a quiet week": (".......", None),
    "one drifting night": ("....x", None),
    "two of five": (".x..x", "2024-01-01"),
    "two of six": ("x....x", None),
    "two of five on a Sunday": (".....xx", "2024-01-08"),
    "before the quiet nights": ("xx.....", None),
    "a night that was not checked": ("...x x", "2024-01-01"),
}


class TestRetraining:
    def verdicts(self, log, nights: str, *, start: int = 0, asset: str = "feature_drift") -> None:
        for number, verdict in enumerate(nights, start):
            if verdict != " ":
                log.make(asset, day(number), drifted=verdict == "x")

    @pytest.mark.parametrize(("nights", "monday"), VERDICTS.values(), ids=VERDICTS.keys())
    def test_a_tick(self, log, nights, monday):
        self.verdicts(log, nights)
        tick = log.tick(retraining_sensor)
        assert [request.partition_key for request in tick.requests] == ([monday] if monday else [])
        assert log.tick(retraining_sensor, tick.cursor).requests == []

    def test_the_same_nights_are_no_evidence_twice(self, log):
        self.verdicts(log, ".x.x")
        first = log.tick(retraining_sensor)
        self.verdicts(log, ".", start=4)
        quiet = log.tick(retraining_sensor, first.cursor)
        self.verdicts(log, "x", start=3)
        checked_again = log.tick(retraining_sensor, quiet.cursor)
        self.verdicts(log, "x", start=5)
        one_more = log.tick(retraining_sensor, checked_again.cursor)
        self.verdicts(log, "x", start=6)
        two_more = log.tick(retraining_sensor, one_more.cursor)
        assert [len(t.requests) for t in (first, quiet, checked_again, one_more, two_more)] == [1, 0, 0, 0, 1]
        assert first.keys != two_more.keys

    def test_a_lost_cursor_gives_the_same_key(self, log):
        self.verdicts(log, ".x.x")
        first = log.tick(retraining_sensor)
        self.verdicts(log, "x", start=1)
        assert log.tick(retraining_sensor).keys == first.keys

    def test_features_and_predictions_count_together_and_a_night_once(self, log):
        self.verdicts(log, "....x")
        self.verdicts(log, "....x", asset="prediction_drift")
        tick = log.tick(retraining_sensor)
        assert tick.requests == []
        self.verdicts(log, "..x", asset="prediction_drift")
        assert len(log.tick(retraining_sensor, tick.cursor).requests) == 1

    def test_only_the_last_word_on_a_night_counts(self, log):
        self.verdicts(log, "...xx")
        self.verdicts(log, ".", start=3)
        assert log.tick(retraining_sensor).requests == []

    def test_nights_of_long_ago_that_are_checked_late_ask_for_nothing(self, log):
        self.verdicts(log, "." * 5, start=100)
        cursor = log.tick(retraining_sensor).cursor
        self.verdicts(log, "x" * 50)
        assert log.tick(retraining_sensor, cursor).requests == []

    def test_a_burst_of_500_nights_is_one_look_at_the_last(self, log):
        for number in range(500):
            log.make("feature_drift", (date(2021, 1, 1) + timedelta(days=number)).isoformat(), drifted=number % 2 == 0)
        (tick,) = log.drain(retraining_sensor)
        assert [request.partition_key for request in tick.requests] == ["2022-05-16"]
        assert len(tick.cursor) < 60

    def test_outside_the_history_nothing_is_asked_for(self, log):
        self.verdicts(log, "xx", start=400)
        assert log.tick(retraining_sensor).requests == []
