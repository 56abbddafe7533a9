"""Serving the user interfaces: Dagster's webserver and daemon and MLflow's server, as processes of one command."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console

from within_ml.errors import SettingsError
from within_pipelines.postgres import databases, prepare_dagster, project_root
from within_pipelines.settings import Settings

START_SECONDS = 120
POLL_SECONDS = 0.5


def serve(out: Console, settings: Settings, *, host: str, port: int, mlflow_port: int) -> None:
    """Start the three processes, print the addresses when they answer, stop all when one ends or on Ctrl-C.

    Raises
    ------
    SettingsError
        If a port is taken.
    """
    for number in (port, mlflow_port):
        _require_free(host, number)
    prepare_dagster(settings)
    state = settings.state_dir.resolve()
    urls = databases(settings.postgres_url, state)
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    logs = state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    workspace = str(project_root() / "workspace.yaml")
    tools = Path(sys.executable).parent
    commands = {
        "dagster-webserver": [str(tools / "dagster-webserver"), "-w", workspace, "-h", host, "-p", str(port)],
        "dagster-daemon": [str(tools / "dagster-daemon"), "run", "-w", workspace],
        "mlflow": [
            str(tools / "mlflow"), "server", "--backend-store-uri", urls.mlflow, "--default-artifact-root",
            str(settings.artifacts), "--host", host, "--port", str(mlflow_port), "--workers", "1",
        ],
    }  # fmt: skip
    signal.signal(signal.SIGTERM, _interrupt)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            log = (logs / f"{name}.log").open("ab")
            processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)  # noqa: S603
        addresses = {"Dagster": f"http://{host}:{port}", "MLflow": f"http://{host}:{mlflow_port}"}
        for address in addresses.values():
            _wait_for(address, processes, logs)
        for name, address in addresses.items():
            out.print(f"{name:8} {address}")
        out.print(f"Logs in {logs}. Ctrl-C stops all.")
        _wait_for_end(processes, logs)
    except KeyboardInterrupt:
        out.print("Stopping.")
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"Port {port} on {host} must be free, however: {error}; choose another port."
            ) from error


def _wait_for(address: str, processes: dict[str, "subprocess.Popen[bytes]"], logs: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        _require_alive(processes, logs)
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own http address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise SettingsError(f"{address} must answer within {START_SECONDS} s, however it did not; see the logs in {logs}.")


def _wait_for_end(processes: dict[str, "subprocess.Popen[bytes]"], logs: Path) -> None:
    while True:
        _require_alive(processes, logs)
        time.sleep(POLL_SECONDS)


def _require_alive(processes: dict[str, "subprocess.Popen[bytes]"], logs: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise SettingsError(f"{name} ended with status {process.returncode}; see {logs / f'{name}.log'}.")
