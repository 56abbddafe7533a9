"""The declarative base of WITHIN's tables, engines, and the migration to the newest version.

What belongs here: what every table shares. What does not: tables (`campaigns`, `ml_system`, `analytics`) and queries
(`repository`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import NullPool

from within_ml.database.urls import connect, exclusive, parse_postgres_url
from within_ml.errors import DatabaseError, InputError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

logger = logging.getLogger(__name__)

VERSION_TABLE = "within_alembic_version"

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
}

_ARROW_TYPES: tuple[tuple[type[Any], pa.DataType], ...] = (
    (sa.Date, pa.date32()),
    (sa.Double, pa.float64()),
    (sa.BigInteger, pa.int64()),
    (sa.Text, pa.string()),
    (sa.Boolean, pa.bool_()),
)


class Base(DeclarativeBase):
    """Base of all tables of the database `within`; constraints have predictable names.

    >>> Base.metadata.naming_convention["pk"]
    'pk_%(table_name)s'
    """

    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)


def json_list(column: str) -> sa.CheckConstraint:
    """Return the constraint that a text column holds a JSON list."""
    return sa.CheckConstraint(f"jsonb_typeof({column}::jsonb) = 'array'", name=f"{column}_list")


def table_of(model: type[Base]) -> sa.Table:
    """Return the Core table of a model."""
    table = model.__table__
    if not isinstance(table, sa.Table):
        raise InputError(f"A model must be mapped to a table; however, {model.__name__} is not.")
    return table


def arrow_schema(table: sa.Table) -> pa.Schema:
    """Return the Arrow schema of a table's columns, in their order.

    Raises
    ------
    InputError
        If a column's type has no Arrow type here.
    """
    return pa.schema([pa.field(column.name, _arrow_type(column), nullable=column.nullable) for column in table.columns])


def make_engine(url: str) -> sa.Engine:
    """Make an engine without a pool: the processes are many and short, and a kept connection outlives a restart badly.

    Raises
    ------
    DatabaseError
        If `url` is not a Postgres URL.
    """
    parse_postgres_url(url)
    return sa.create_engine(url, poolclass=NullPool)


def migrate(url: str) -> str:
    """Bring the database to the newest version and return it; processes that race wait for the first.

    Raises
    ------
    DatabaseError
        If the server does not answer, or the database is newer than this code.
    """
    from alembic import command

    with exclusive(url, "migrate"):
        newest = _newest_version()
        if _current_version(url) != newest:
            _refuse_unknown_version(url)
            with make_engine(url).connect() as connection:
                config = _alembic_config()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            logger.info("migrated the database to version %s", newest)
    return newest


def check_migrated(url: str) -> None:
    """Check that the database has the version that this code needs.

    Raises
    ------
    DatabaseError
        If the server does not answer, or the database has another version.
    """
    current, newest = _current_version(url), _newest_version()
    if current != newest:
        raise DatabaseError(
            f"The database must have version {newest}; however, it has {current or 'no tables yet'}. "
            "Run `within doctor`, or call within_ml.database.base.migrate(url)."
        )


def _arrow_type(column: sa.Column[object]) -> pa.DataType:
    for sql_type, arrow_type in _ARROW_TYPES:
        if isinstance(column.type, sql_type):
            return arrow_type
    raise InputError(f"A published column must be a date, number or text; however, {column} is {column.type!r}.")


def _alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_alembic_config())


def _newest_version() -> str:
    newest = _scripts().get_current_head()
    if newest is None:
        raise DatabaseError("The package must contain its migrations; however, there are none. Install it again.")
    return newest


def _refuse_unknown_version(url: str) -> None:
    current = _current_version(url)
    known = {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise DatabaseError(
            f"The database must have a version that this code knows; however, it has {current}, made by newer code. "
            "Install that version of WITHIN."
        )


def _current_version(url: str) -> str | None:
    with connect(url) as connection:
        found = connection.execute("SELECT to_regclass(%s)", [VERSION_TABLE]).fetchone()
        if found is None or found[0] is None:
            return None
        row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
        return None if row is None else str(row[0])
