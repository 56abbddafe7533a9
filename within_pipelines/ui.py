"""Serving the user interfaces: a code server, Dagster's webserver and daemon, and MLflow's server, as one command."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from os import killpg
from pathlib import Path

import yaml
from rich.console import Console

from within_ml.database.urls import connect
from within_ml.errors import SettingsError
from within_pipelines.postgres import databases, prepare_dagster, project_root
from within_pipelines.settings import Settings

START_SECONDS = 180
STOP_SECONDS = 20
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 3600
"""The code server's own process outlives any load of the machine; it is stopped with the others."""


def serve(out: Console, settings: Settings, *, host: str, port: int, mlflow_port: int) -> None:
    """Start the processes, print the addresses when they answer, stop all when one ends, on Ctrl-C or SIGTERM.

    This process holds the handle on the embedded Postgres, and gives it back when the others have ended.

    Raises
    ------
    SettingsError
        If a port is taken, or one of the processes does not start or ends.
    """
    for number in (port, mlflow_port):
        _require_free(host, number)
    prepare_dagster(settings)
    logs = settings.state_dir.resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    # Not below the state folder: the path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="within-ui-") as folder, _processes(logs) as processes:
        try:
            _start(processes, settings, Path(folder), host=host, port=port, mlflow_port=mlflow_port)
            out.print(f"Dagster  http://{host}:{port}", highlight=False)
            out.print(f"MLflow   http://{host}:{mlflow_port}", highlight=False)
            out.print(f"Logs in {logs}. Ctrl-C stops all.", highlight=False, soft_wrap=True)
            while True:
                processes.require_alive()
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            out.print("Stopping.")


class Processes:
    """The processes of this command, each with a log of its own.

    Parameters
    ----------
    logs
        Folder of the logs.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start a tool of this Python's environment."""
        command = [str(Path(sys.executable).parent / name), *arguments]
        with (self.logs / f"{name}.log").open("ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, and what a child started can be found.
            self._started[name] = subprocess.Popen(  # noqa: S603
                command, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, what: str, answers: Callable[[], bool]) -> None:
        """Wait until something answers, as long as all processes live."""
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            self.require_alive()
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"{what} must answer within {START_SECONDS} s, however it did not; see the logs in {self.logs}."
                )
            time.sleep(POLL_SECONDS)

    def require_alive(self) -> None:
        """Check that no process has ended."""
        for name, process in self._started.items():
            if process.poll() is not None:
                log = self.logs / f"{name}.log"
                raise SettingsError(
                    f"{name} must run on, however it ended with status {process.returncode}; see {log}."
                )

    def stop(self) -> None:
        """Ask all to end, wait, and end by force what is left, with the runs that they started."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._started.values():
            process.terminate()
        for process in self._started.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
            with suppress(ProcessLookupError):
                killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _processes(logs: Path) -> Iterator[Processes]:
    processes = Processes(logs)
    try:
        yield processes
    finally:
        processes.stop()


def _start(processes: Processes, settings: Settings, folder: Path, *, host: str, port: int, mlflow_port: int) -> None:
    """Start all; the webserver and the daemon share one code server, which spares a second import of everything."""
    code_socket, workspace = folder / "code.sock", folder / "workspace.yaml"
    location = _location()
    processes.start(
        "dagster", "code-server", "start", "--socket", str(code_socket), "--location-name", location["location_name"],
        "--module-name", location["module_name"], "--heartbeat-ttl", str(HEARTBEAT_SECONDS),
    )  # fmt: skip
    _start_mlflow(processes, settings, host, mlflow_port)
    processes.wait_for("The code server", lambda: _serves(code_socket))
    server = {"socket": str(code_socket), "location_name": location["location_name"]}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
    processes.start("dagster-webserver", "-w", str(workspace), "-h", host, "-p", str(port))
    processes.start("dagster-daemon", "run", "-w", str(workspace))
    for address in (f"http://{host}:{port}", f"http://{host}:{mlflow_port}"):
        processes.wait_for(address, partial(_answers, address))


def _location() -> dict[str, str]:
    """Name and module of the code location, from workspace.yaml."""
    workspace = yaml.safe_load((project_root() / "workspace.yaml").read_text(encoding="utf-8"))
    location: dict[str, str] = workspace["load_from"][0]["python_module"]
    return location


def _start_mlflow(processes: Processes, settings: Settings, host: str, port: int) -> None:
    urls = databases(settings.postgres_url, settings.state_dir.resolve())
    with connect(urls.mlflow) as connection:
        made = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
    if made is None or made[0] is None:
        from within_pipelines.resources import build_resources

        # Its tables are made here, under a lock, and not by the server in a race with a run that registers a model.
        build_resources(settings)["models"].registry()
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    processes.start(
        "mlflow", "server", "--backend-store-uri", urls.mlflow, "--default-artifact-root", str(settings.artifacts),
        "--host", host, "--port", str(port), "--workers", "1",
    )  # fmt: skip


def _serves(code_socket: Path) -> bool:
    from dagster._grpc.client import DagsterGrpcClient

    if not code_socket.exists():
        return False
    client = DagsterGrpcClient(socket=str(code_socket))
    return bool(client.health_check_query() == "SERVING")  # type: ignore[no-untyped-call]


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own http address
            return True
    except (urllib.error.URLError, OSError):
        return False


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
