"""The embedded server: shared by processes, survives them, starts again after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from within_ml.database.server import POSTGRES_VERSION, EmbeddedPostgres
from within_ml.database.urls import DATABASES, DatabaseUrls, connect, ensure_databases
from within_ml.errors import DatabaseError, InputError

HOLDER = """
import sys
from within_ml.database.server import EmbeddedPostgres
if "wait" in sys.argv:
    sys.stdin.read(1)
server = EmbeddedPostgres(sys.argv[1], settings={"fsync": "off"}).start()
print("started", flush=True)
sys.stdin.read()
"""


def embedded(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, settings={"fsync": "off"})


def hold(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))


def select(url: str, query: str) -> object:
    with connect(url) as connection:
        return connection.execute(query).fetchone()[0]


def test_it_brings_the_databases_and_room_for_many_connections(postgres):
    urls = postgres.urls()
    for name in DATABASES:
        assert select(getattr(urls, name), "SELECT current_database()") == name
    assert int(select(urls.within, "SHOW max_connections")) >= 200
    assert select(urls.within, "SHOW server_version").startswith(f"{POSTGRES_VERSION}.")
    assert select(urls.within, "SHOW listen_addresses") == ""
    assert [url.partition("://")[0] for url in (urls.dagster, urls.mlflow, urls.within)] == [
        "postgresql+psycopg2", "postgresql+psycopg2", "postgresql+psycopg"
    ]  # fmt: skip


def test_processes_that_start_at_once_share_one_server_until_the_last_leaves(server_folder):
    folder = server_folder / "postgres"
    holders = [hold(folder, "wait") for _ in range(4)]
    for holder in holders:
        holder.stdin.write("x")
        holder.stdin.flush()
    assert [holder.stdout.readline() for holder in holders] == ["started\n"] * 4
    server = embedded(folder).start()
    pid = postmaster(folder).pid
    # Two leave in order, two are killed: neither stops the server under the others.
    for number, holder in enumerate(holders):
        if number % 2:
            holder.kill()
        holder.communicate()
    assert select(server.url("within"), "SELECT 1") == 1
    assert postmaster(folder).pid == pid
    server.close()
    assert not server.running
    assert not (folder / "postmaster.pid").exists()


def test_a_subprocess_that_inherits_the_handle_keeps_the_server(server_folder):
    folder = server_folder / "postgres"
    server = embedded(folder).start()
    url = server.url("within")
    with subprocess.Popen(["sleep", "60"], pass_fds=[server.fileno()]) as child:
        server.close()
        assert select(url, "SELECT 1") == 1
        child.kill()
    server.start().close()
    assert not server.running


def test_it_starts_again_after_the_server_was_killed(server_folder):
    folder = server_folder / "postgres"
    with embedded(folder) as server:
        with connect(server.url("within")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
        killed = postmaster(folder)
        killed.kill()
        psutil.wait_procs([killed], timeout=10)
        assert not server.running
        server.start()
        assert select(server.url("within"), "SELECT value FROM kept") == 42


def test_a_stale_pid_file_with_a_recycled_pid_is_no_server(server_folder):
    folder = server_folder / "postgres"
    embedded(folder).start().close()
    (folder / "postmaster.pid").write_text(f"{os.getpid()}\n{folder}\n1\n5432\n{folder}\n\n1 1\nready\n")
    with embedded(folder) as server:
        assert postmaster(folder).pid != os.getpid()
        assert select(server.url("within"), "SELECT 1") == 1


def test_a_first_start_that_was_killed_leaves_no_half_made_folder(server_folder):
    folder = server_folder / "postgres"
    (server_folder / "postgres.unfinished").mkdir()
    (server_folder / "postgres.unfinished" / "PG_VERSION").write_text("18")
    with embedded(folder) as server:
        assert select(server.url("within"), "SELECT 1") == 1
    assert not (server_folder / "postgres.unfinished").exists()


@pytest.mark.parametrize("name", ["x" * 120, "space 'quote\" $HOME `id` %41 & ü, comma"], ids=["deep", "strange"])
def test_any_folder_will_do(server_folder, name):
    with embedded(server_folder / name / "postgres") as server:
        socket_dir = server.socket_dir
        assert len(str(socket_dir)) < 100
        assert select(server.url("within"), "SELECT 1") == 1
        with psycopg.connect(f"host={socket_dir} user=postgres dbname=mlflow") as connection:
            assert connection.info.dbname == "mlflow"
    socket_dir.rmdir()


def test_a_folder_of_somebody_else_is_left_alone(server_folder):
    (server_folder / "postgres").mkdir()
    (server_folder / "postgres" / "diary.txt").write_text("private")
    with pytest.raises(DatabaseError, match="holds other files"):
        EmbeddedPostgres(server_folder / "postgres").start()
    assert [path.name for path in (server_folder / "postgres").iterdir()] == ["diary.txt"]


def test_a_folder_of_another_version_is_refused(server_folder):
    (server_folder / "postgres").mkdir()
    (server_folder / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(DatabaseError, match=r"must be of PostgreSQL 18; however, it is of 16"):
        EmbeddedPostgres(server_folder / "postgres").start()


def test_a_server_that_cannot_start_says_why(server_folder):
    with pytest.raises(DatabaseError, match=r"pg_ctl must succeed .* See .*server.log"):
        EmbeddedPostgres(server_folder / "postgres", settings={"fsync": "off", "max_connections": "many"}).start()
    embedded(server_folder / "postgres").start().close()


def test_a_driver_must_be_known(postgres):
    with pytest.raises(InputError, match="driver must be"):
        postgres.url("within", "asyncpg")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_an_external_server_gives_the_same_urls(postgres, scheme):
    url = postgres.url("postgres").replace("postgresql+psycopg", scheme)
    assert DatabaseUrls.from_url(url) == postgres.urls()


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://h/d", "no url", "postgresql://u:secret@h:port/d"])
def test_what_is_no_postgres_url_is_one_sentence(url):
    with pytest.raises(DatabaseError, match="must look like postgresql://") as caught:
        DatabaseUrls.compose(url)
    assert "secret" not in str(caught.value)


def test_who_may_not_create_databases_learns_what_to_ask_for(postgres, copy_database):
    own = copy_database("template0")
    with connect(postgres.url("postgres")) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN")
    url = postgres.url(own).replace("//postgres@", "//guest@")
    with pytest.raises(DatabaseError, match="CREATE DATABASE within_elsewhere OWNER guest"):
        ensure_databases(url, ("within_elsewhere",))


def test_the_killed_process_of_a_session_does_not_hold_a_lock(server_folder):
    folder = server_folder / "postgres"
    holder = hold(folder)
    assert holder.stdout.readline() == "started\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert embedded(folder).running
    server = embedded(folder).start()
    server.close()
    assert not server.running
