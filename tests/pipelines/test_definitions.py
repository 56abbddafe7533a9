"""The code location: what its import costs, what its schedules and sensors ask for, what a failed run tells."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest

import within_pipelines
from within_ml.errors import SettingsError
from within_pipelines.definitions import build_defs
from within_pipelines.partitions import AS_OF_MONDAYS, DAILY, MAX_PARTITIONS_PER_RUN
from within_pipelines.resources import AlertResource, LandingResource
from within_pipelines.schedules import nightly_schedule, training_schedule
from within_pipelines.sensors import RANGE_END, RANGE_START, landed_days_sensor, landing_sensor, run_failure_alert

HEAVY = ("torch", "shap", "xgboost", "pyod", "mlflow", "great_expectations")

GROUPS = {
    "lake": {"landing_files", "ad_performance", "ads", "campaigns", "accounts", "regions"},
    "features": {"ad_content", "image_content", "ad_features", "account_features"},
    "training": {
        "ad_training_set", "ad_score_model", "ad_score_calibration", "ad_score_evaluation", "ad_score_champion",
        "account_health_model", "account_health_evaluation", "account_health_champion",
    },
    "scoring": {"ad_scores", "account_health", "account_segments", "anomalies", "trending_topics"},
    "monitoring": {"feature_drift", "prediction_drift"},
    "publishing": {"published_scores", "published_health", "published_anomalies"},
}  # fmt: skip


class TestImport:
    def test_it_is_quick_and_loads_nothing_heavy(self, record_property):
        script = (
            "import sys, time, json; start = time.process_time(); import within_pipelines.definitions; "
            f"print(json.dumps([time.process_time() - start, [m for m in {HEAVY} if m in sys.modules]]))"
        )
        root = str(Path(within_pipelines.__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, heavy = json.loads(done.stdout.splitlines()[-1])
        record_property("cpu_seconds", seconds)
        assert heavy == []
        assert seconds <= 2.0

    def test_the_graph_has_the_promised_assets_each_described_and_owned(self):
        graph = build_defs().resolve_asset_graph()
        nodes = {key.to_user_string(): graph.get(key) for key in graph.materializable_asset_keys}
        for group, names in GROUPS.items():
            assert names <= {name for name, node in nodes.items() if node.group_name == group}
        for name, node in nodes.items():
            assert node.description, name
            assert node.owners, name
            assert node.kinds, name
            assert node.backfill_policy is None or (
                node.backfill_policy.max_partitions_per_run == MAX_PARTITIONS_PER_RUN
                if node.partitions_def == DAILY
                else True
            )
        checks = {(k.asset_key.to_user_string(), k.name) for k in graph.asset_check_keys}
        assert {("ad_performance", "expectations"), ("ad_performance", "rejected_share")} <= checks


class TestSchedules:
    def ask(self, schedule, *moment: int):
        context = dg.build_schedule_context(scheduled_execution_time=datetime(*moment, tzinfo=UTC))
        return schedule(context)

    def test_the_night_is_that_of_the_day_before(self):
        request = self.ask(nightly_schedule, 2024, 3, 1, 4)
        assert (request.partition_key, request.run_key) == ("2024-02-29", "2024-02-29")
        assert DAILY.has_partition_key(request.partition_key)

    def test_training_is_as_of_its_monday(self):
        request = self.ask(training_schedule, 2024, 3, 4, 6)
        assert request.partition_key == "2024-03-04"
        assert AS_OF_MONDAYS.has_partition_key("2024-03-04")

    @pytest.mark.parametrize("moment", [(2012, 12, 31, 4), (2025, 1, 2, 4)])
    def test_outside_the_history_nothing_is_asked_for(self, moment):
        skipped = self.ask(nightly_schedule, *moment)
        assert isinstance(skipped, dg.SkipReason)
        assert "WITHIN_START_DATE" in (skipped.skip_message or "")

    def test_the_last_day_of_the_history_has_its_night(self):
        assert self.ask(nightly_schedule, 2025, 1, 1, 4).partition_key == "2024-12-31"

    def test_every_monday_with_a_complete_week_before_it_has_a_partition(self):
        keys = AS_OF_MONDAYS.get_partition_keys()
        assert all(date.fromisoformat(key).weekday() == 0 for key in keys)
        assert (keys[0], keys[-1]) == ("2013-01-07", "2024-12-30")


class TestLandingSensor:
    @pytest.fixture
    def landing(self, tmp_path):
        (tmp_path / "upworthy").mkdir()
        return LandingResource(root=str(tmp_path))

    def ask(self, landing, cursor=None):
        context = dg.build_sensor_context(cursor=cursor, resources={"landing": landing})
        return landing_sensor(context), context.cursor

    def test_new_and_changed_files_are_asked_for_once(self, landing):
        nothing, _ = self.ask(landing)
        assert isinstance(nothing, dg.SkipReason)

        path = Path(landing.root) / "upworthy" / "a.parquet"
        path.write_bytes(b"PAR1")
        first, cursor = self.ask(landing)
        again, same = self.ask(landing, cursor)
        assert isinstance(first, dg.RunRequest)
        assert isinstance(again, dg.SkipReason)
        assert same == cursor

        path.write_bytes(b"PAR1 and more")
        changed, later = self.ask(landing, cursor)
        assert isinstance(changed, dg.RunRequest)
        assert changed.run_key != first.run_key
        assert later != cursor

    def test_a_new_mapping_is_a_change_and_a_file_of_no_source_is_none(self, landing):
        (Path(landing.root) / "own").mkdir()
        (Path(landing.root) / "own" / "a.csv").write_text("x\n1\n")
        assert isinstance(self.ask(landing)[0], dg.SkipReason)
        (Path(landing.root) / "own" / "source.yaml").write_text("name: own")
        assert isinstance(self.ask(landing)[0], dg.RunRequest)


class TestLandedDaysSensor:
    def ask(self, first: str, last: str) -> list:
        @dg.asset(name="landing_files")
        def landed():
            return dg.MaterializeResult(metadata={"first_changed_date": first, "last_changed_date": last})

        with dg.DagsterInstance.ephemeral() as instance:
            dg.materialize([landed], instance=instance)
            context = dg.build_sensor_context(instance=instance, definitions=build_defs())
            data = landed_days_sensor.evaluate_tick(context)
        return list(data.run_requests or [])

    def test_days_are_asked_for_in_ranges_that_one_run_handles(self):
        requests = self.ask("2024-01-01", "2024-03-05")
        ranges = [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in requests]
        assert ranges == [("2024-01-01", "2024-01-30"), ("2024-01-31", "2024-02-29"), ("2024-03-01", "2024-03-05")]
        assert len({r.run_key for r in requests}) == 3

    def test_days_outside_the_history_are_left_out(self):
        ranges = [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in self.ask("2024-12-30", "2025-02-01")]
        assert ranges == [("2024-12-30", "2024-12-31")]
        assert self.ask("", "") == []

    def test_two_registrations_of_one_day_are_two_requests(self):
        keys = {self.ask("2024-01-01", "2024-01-01")[0].run_key for _ in range(2)}
        assert len(keys) == 2


class Received(BaseHTTPRequestHandler):
    """Keeps what is posted."""

    bodies: list[dict[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server's address and what it got."""
    handler = type("Handler", (Received,), {"bodies": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/alert", handler.bodies
    server.shutdown()
    server.server_close()
    thread.join()


class TestAlerts:
    def failed_run(self, alerts: AlertResource) -> None:
        @dg.op
        def broken() -> None:
            raise dg.Failure("the disk is full")

        @dg.job
        def nightly() -> None:
            broken()

        with dg.DagsterInstance.ephemeral() as instance:
            result = nightly.execute_in_process(instance=instance, raise_on_error=False)
            context = dg.build_run_status_sensor_context(
                sensor_name="run_failure_alert",
                dagster_instance=instance,
                dagster_run=result.dagster_run,
                dagster_event=result.get_run_failure_event(),
            ).for_run_failure()
            run_failure_alert(context, alerts=alerts)

    def test_a_failed_run_is_posted(self, webhook):
        address, bodies = webhook
        self.failed_run(AlertResource(webhook=address))
        (body,) = bodies
        assert body["subject"] == "Run of nightly failed"
        assert body["job"] == "nightly"
        assert body["run_id"]

    def test_a_dead_webhook_and_none_are_survived(self, caplog):
        assert AlertResource(webhook="http://127.0.0.1:9/none").send("s", "b") is False
        assert "did not take the alert" in caplog.text
        assert AlertResource().send("s", "b") is False

    def test_an_address_that_is_none_is_refused(self):
        with pytest.raises(SettingsError, match="must be an http or https URL"):
            AlertResource(webhook="file:///etc/passwd").send("s", "b")

    def test_a_webhook_that_hangs_up_is_survived(self):
        class HangsUp(Received):
            def do_POST(self) -> None:
                self.connection.close()

        server = HTTPServer(("127.0.0.1", 0), HangsUp)
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        assert AlertResource(webhook=f"http://127.0.0.1:{server.server_port}/").send("s", "b") is False
        thread.join()
        server.server_close()
