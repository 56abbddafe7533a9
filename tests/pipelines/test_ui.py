"""`within ui` as a person meets it: two addresses, the asset graph, a partition page, and nothing left after Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from docs.make_pictures import BROWSERS, GROUPS, browser_page, browser_path, open_asset_graph, unfold
from within_ml.errors import SettingsError
from within_pipelines.postgres import project_root
from within_pipelines.settings import Settings
from within_pipelines.ui import serve

EXPORT = Path(__file__).parents[1] / "data" / "sources" / "google_ads.csv"
WITHIN = [sys.executable, "-m", "within_pipelines.cli"]
WHAT_THE_GRAPH_SHOWS = ("ad_performance", "ad_features", "ad_scores", "account_health", "feature_drift")
TROUBLE = ("An error occurred", "Failed to load", "Unexpected error", "not found", "PythonError")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def within_ui(environment, port, mlflow_port):
    command = [*WITHIN, "ui", "--port", str(port), "--mlflow-port", str(mlflow_port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.fixture
def environment(server_folder):
    """A deployment of its own, with one small export in its lake."""
    own = {
        "WITHIN_STATE_DIR": str(server_folder / "state"),
        "WITHIN_LAKE_ROOT": str(server_folder / "lake"),
        "WITHIN_END_DATE": "2024-01-03",
        "PYTHONPATH": str(project_root()),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WITHIN_", "DAGSTER_HOME"))}
    environment = {**kept, **own}
    subprocess.run([*WITHIN, "ingest", str(EXPORT), "--copy", "--source", "google_ads"], env=environment, check=True)
    return environment


def trouble_on(page):
    return [words for words in TROUBLE if page.get_by_text(words).count()]


@pytest.mark.skipif(browser_path() is None, reason=f"needs one of {', '.join(BROWSERS)}, and none is installed")
def test_the_asset_graph_and_a_partition_page(environment, server_folder):
    port, mlflow_port = free_port(), free_port()
    with within_ui(environment, port, mlflow_port) as process:
        dagster, mlflow = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{mlflow_port}"
        assert [process.stdout.readline().split() for _ in range(2)] == [["Dagster", dagster], ["MLflow", mlflow]]
        children = psutil.Process(process.pid).children(recursive=True)
        with browser_page() as page:
            open_asset_graph(page, dagster)
            unfold(page)
            for text in (*GROUPS, *WHAT_THE_GRAPH_SHOWS):
                page.get_by_text(text, exact=True).first.wait_for()
            assert not trouble_on(page)

            page.goto(f"{dagster}/assets/ad_performance?view=partitions")
            page.get_by_text("2024-01-02", exact=True).first.click()
            page.get_by_text("dagster/row_count").wait_for()
            page.get_by_text("rejected_rows").wait_for()
            assert not trouble_on(page)

            page.goto(mlflow)
            page.get_by_text("Experiments").first.wait_for()
    assert process.returncode == 0
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert not (server_folder / "state" / "postgres" / "postmaster.pid").exists()


def test_a_taken_port_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(state_dir=tmp_path / "state")
        with pytest.raises(SettingsError, match=f"Port {port} on 127.0.0.1 must be free"):
            serve(None, settings, host="127.0.0.1", port=port, mlflow_port=free_port())
    assert not (tmp_path / "state").exists()
