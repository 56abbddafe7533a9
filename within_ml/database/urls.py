"""Where the databases are: three URLs that name their drivers, on an embedded or on an external server.

What belongs here: composing URLs and making sure that the databases exist. What does not: tables (`base` and the model
modules) and the embedded server's life (`server`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from within_ml.errors import DatabaseError, InputError, shown

DATABASES = ("dagster", "mlflow", "within")
"""Dagster's storage, MLflow's registry, and WITHIN's own tables: separate, because each keeps its own migrations."""

CONNECT_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """The URLs of the three databases; they may hold a password and therefore stay out of `repr`.

    Dagster and MLflow speak through psycopg2, WITHIN through psycopg 3, which has the COPY it needs. Every URL names
    its driver: SQLAlchemy 2.1 otherwise takes psycopg 3, which Dagster does not install.

    >>> urls = DatabaseUrls.compose("postgresql://anna:secret@db.example:5432/postgres")
    >>> urls.within
    'postgresql+psycopg://anna:secret@db.example:5432/within'
    >>> urls
    DatabaseUrls()
    """

    dagster: str = field(repr=False)
    mlflow: str = field(repr=False)
    within: str = field(repr=False)

    @classmethod
    def compose(cls, server_url: str) -> DatabaseUrls:
        """Derive the three URLs from the URL of any database of a server; nothing is connected to.

        Raises
        ------
        DatabaseError
            If `server_url` is not a Postgres URL.
        """
        url = parse_postgres_url(server_url)
        return cls(
            dagster=_render(url, "dagster", "psycopg2"),
            mlflow=_render(url, "mlflow", "psycopg2"),
            within=_render(url, "within", "psycopg"),
        )

    @classmethod
    def from_url(cls, server_url: str) -> DatabaseUrls:
        """Derive the three URLs from one, and create the databases that are missing.

        Parameters
        ----------
        server_url
            URL of a database that exists, such as ``postgresql://user:password@host:5432/postgres``.

        Raises
        ------
        DatabaseError
            If it is not a Postgres URL, the server does not answer, or a database is missing and may not be created.
        """
        ensure_databases(server_url, DATABASES)
        return cls.compose(server_url)


def parse_postgres_url(url: str) -> URL:
    """Parse a Postgres URL with or without a driver; ``postgres://`` is understood too.

    Raises
    ------
    DatabaseError
        If it is not a Postgres URL. The message does not repeat the URL, which may hold a password.
    """
    rule = "A database URL must look like postgresql://user:password@host:5432/database"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseError(f"{rule}; the one given cannot be parsed.") from error
    if parsed.drivername.partition("+")[0] not in {"postgresql", "postgres"}:
        raise DatabaseError(f"{rule}; however, the one given begins with {parsed.drivername!r}. Give a Postgres URL.")
    return parsed


def connection_string(url: str, database: str | None = None) -> str:
    """Return the URL for psycopg itself, optionally of another database of the server."""
    parsed = parse_postgres_url(url).set(drivername="postgresql")
    return (parsed.set(database=database) if database else parsed).render_as_string(hide_password=False)


def connect(url: str, database: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
    """Open an autocommit connection of psycopg; the caller closes it.

    Raises
    ------
    DatabaseError
        If the server does not answer or refuses.
    """
    try:
        return psycopg.connect(
            connection_string(url, database), autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS
        )
    except psycopg.OperationalError as error:
        shown_url = parse_postgres_url(url).set(database=database or make_url(url).database)
        raise DatabaseError(
            f"Postgres must answer at {shown_url.render_as_string(hide_password=True)}; however: "
            f"{_first_line(error)} Start the server, or correct WITHIN_POSTGRES_URL."
        ) from error


@contextmanager
def exclusive(url: str, purpose: str) -> Iterator[None]:
    """Let one process of all that use the database do something; the others wait.

    The lock is the server's: it ends with the connection, so a killed process holds nobody up.
    """
    with connect(url) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"within: {purpose}"])
        yield


def ensure_databases(url: str, names: tuple[str, ...]) -> None:
    """Create the databases that are missing; several processes may do so at once.

    Raises
    ------
    DatabaseError
        If the server does not answer or does not allow it.
    """
    with connect(url) as connection:
        existing = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        missing = [name for name in names if name not in existing]
        for name in missing:
            _create_database(connection, name, missing)


def _create_database(connection: psycopg.Connection[tuple[object, ...]], name: str, missing: list[str]) -> None:
    if not name.isidentifier():
        raise InputError(f"A database name must be an identifier; however, it is {name!r}.")
    try:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        # Another process created it between our look and our attempt.
        return
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"The databases {shown(missing)} must exist; however, this user may not create them. "
            f"Let an administrator run `CREATE DATABASE {name} OWNER {connection.info.user}` for each of them."
        ) from error


def _render(url: URL, database: str, driver: str) -> str:
    return url.set(drivername=f"postgresql+{driver}", database=database).render_as_string(hide_password=False)


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return line if line.endswith(".") else f"{line}."
