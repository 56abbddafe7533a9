"""Reading and writing WITHIN's tables: publications of partitions, the ledger of promotions, the pins of backfills.

What belongs here: transactions, each small enough to say in one sentence what a reader sees after a crash. What does
not: how rows travel (`bulk`), and what a promotion means (`within_ml.registry`).
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from within_ml.database.analytics import (
    AccountSegmentModel,
    AdAccountHealthModel,
    AnomalyModel,
    PerformanceMetricModel,
    TrendingTopicModel,
)
from within_ml.database.base import Base, table_of
from within_ml.database.bulk import Replaced, conform, read_rows, replace_rows
from within_ml.database.campaigns import AccountModel, AdModel, CampaignModel
from within_ml.database.ml_system import AdScoreAnalysisModel, AdScoreModel, RegionFactorModel
from within_ml.database.urls import connect
from within_ml.errors import DatabaseError, InputError, shown

logger = logging.getLogger(__name__)

SCOPE_COLUMNS = ("account_id", "campaign_id")
_DIMENSIONS: Mapping[str, type[Base]] = {"accounts": AccountModel, "campaigns": CampaignModel, "ads": AdModel}

PUBLISHED: Mapping[str, type[Base]] = {
    model.__tablename__: model
    for model in (
        AdScoreModel,
        AdScoreAnalysisModel,
        RegionFactorModel,
        AdAccountHealthModel,
        AccountSegmentModel,
        AnomalyModel,
        PerformanceMetricModel,
        TrendingTopicModel,
    )
}
"""Tables that are published day by day, by name; each is that of the lake's contract of the same name."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What one publication changed.

    ``rows`` is the number of rows published; ``rows_written`` those of them that were new or different;
    ``rows_removed`` those that were there before and are no longer.
    """

    table: str
    date: dt.date
    rows: int
    rows_written: int
    rows_removed: int


class PublishedTable:
    """A table that is published day by day: its columns are those of a lake table, its key begins with ``date``.

    Parameters
    ----------
    url
        URL of the database `within`.
    name
        The table, one of `PUBLISHED`.

    Raises
    ------
    InputError
        If there is no such table.

    Examples
    --------
    >>> published = PublishedTable(getfixture("postgres_url"), "account_health")
    >>> published.read(dt.date(2014, 1, 5)).num_rows
    0
    """

    def __init__(self, url: str, name: str) -> None:
        if name not in PUBLISHED:
            raise InputError(f"A published table is one of {shown(PUBLISHED)}; however, {name!r} was asked for.")
        self.url = url
        self._table = table_of(PUBLISHED[name])

    def publish(
        self,
        rows: pa.Table,
        date: dt.date,
        *,
        lake_version: int,
        run_id: str,
        scope: Mapping[str, Collection[str]] | None = None,
    ) -> Publication:
        """Replace one day's rows, or those of some accounts and campaigns, in one transaction.

        Publishing the same rows again changes nothing: a row that differs only in ``run_id`` stays as it was. Readers
        see the old partition or the new; a publisher that is killed leaves the old. Publishers of one day wait for
        each other.

        Parameters
        ----------
        rows
            Columns of the table's contract; all rows of `date` and within `scope`.
        date
            Partition day.
        lake_version
            Version of the lake's table that the rows were read from.
        run_id
            Run that publishes.
        scope
            ``{"account_id": …, "campaign_id": …}``, either or both: only rows that match all of it are replaced.

        Raises
        ------
        InputError
            If rows lie outside the partition or the scope, repeat a key, or break the contract.
        DatabaseError
            If the server does not answer.
        """
        conformed = conform(rows, self._table)
        filters: dict[str, Collection[object]] = {"date": [date], **(scope or {})}
        _refuse_outsiders(conformed, filters)
        with connect(self.url) as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s), %s)", [self._table.name, date.toordinal()])
            replaced = replace_rows(
                connection,
                self._table,
                conformed,
                where=_where(filters),
                parameters=_parameters(filters),
                unimportant=("run_id",),
            )
            connection.execute(_INSERT_PUBLICATION, [self._table.name, date, run_id, conformed.num_rows, lake_version])
        logger.info("published %d rows of %s for %s: %s", conformed.num_rows, self._table.name, date, replaced)
        return Publication(self._table.name, date, conformed.num_rows, replaced.written, replaced.removed)

    def read(self, date: dt.date, account_id: str | None = None) -> pa.Table:
        """Return the rows of a day, of one account or of all, ordered by key.

        Raises
        ------
        DatabaseError
            If the server does not answer.
        """
        filters: dict[str, Collection[object]] = {"date": [date]}
        if account_id is not None:
            filters["account_id"] = [account_id]
        with connect(self.url) as connection:
            return read_rows(connection, self._table, where=_where(filters), parameters=_parameters(filters))


class ScoreRepository(PublishedTable):
    """The published ad scores.

    Parameters
    ----------
    url
        URL of the database `within`.

    Examples
    --------
    >>> scores = ScoreRepository(getfixture("postgres_url"))
    >>> scores.scores(dt.date(2014, 1, 5)).num_rows
    0
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, AdScoreModel.__tablename__)

    def scores(self, date: dt.date, account_id: str | None = None) -> pa.Table:
        """Return the scores of a day, of one account or of all, ordered by key."""
        return self.read(date, account_id)


class DimensionRepository:
    """Accounts, campaigns and ads in their latest state.

    Examples
    --------
    >>> DimensionRepository(getfixture("postgres_url")).replace("regions", pa.table({}))
    Traceback (most recent call last):
    ...
    within_ml.errors.InputError: A published dimension is one of 'accounts', 'campaigns', 'ads'; ... 'regions'.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def replace(self, name: str, rows: pa.Table) -> Replaced:
        """Make a table equal to the lake's, in one transaction; versions that a later one replaced are left out.

        Parameters
        ----------
        name
            ``"accounts"``, ``"campaigns"`` or ``"ads"``.
        rows
            The lake's table. Rows with ``valid_to`` set are old versions.

        Raises
        ------
        InputError
            If the name is another, or rows repeat a key or lack a column.
        """
        if name not in _DIMENSIONS:
            raise InputError(f"A published dimension is one of {shown(_DIMENSIONS)}; however, it is {name!r}.")
        table = table_of(_DIMENSIONS[name])
        if "valid_to" in rows.column_names:
            rows = rows.filter(pc.is_null(rows["valid_to"]))
        conformed = conform(rows, table)
        with connect(self.url) as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s), 0)", [name])
            return replace_rows(connection, table, conformed, where=sql.SQL("true"), parameters={})


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the ledger.

    ``action`` is ``promote``, ``refuse`` or ``rollback``; ``from_version`` the champion before it, None where there was
    none; ``report`` the gate's decision, None where a person decided.
    """

    id: int
    decided_at: dt.datetime
    model_name: str
    version: str
    action: str
    from_version: str | None
    reason: str
    decided_by: str
    run_id: str | None
    report: dict[str, object] | None


class LedgerRepository:
    """The append-only ledger of decisions about registered models.

    Parameters
    ----------
    url
        URL of the database `within`.

    Examples
    --------
    >>> ledger = LedgerRepository(getfixture("postgres_url"))
    >>> row = ledger.append("demo", "1", "refuse", reason="constant predictions", decided_by="gate")
    >>> ledger.decisions("demo")[0].reason
    'constant predictions'
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def append(
        self,
        model_name: str,
        version: str,
        action: str,
        *,
        reason: str,
        decided_by: str,
        from_version: str | None = None,
        run_id: str | None = None,
        report: Mapping[str, object] | None = None,
    ) -> Decision:
        """Add a decision and return it as the database stored it.

        Raises
        ------
        InputError
            If the action is unknown or the reason is blank.
        """
        values = (model_name, version, action, from_version, reason, decided_by, run_id)
        stored_report = None if report is None else Jsonb(_plain(report))
        with connect(self.url) as connection, connection.cursor(row_factory=class_row(Decision)) as cursor:
            try:
                cursor.execute(_INSERT_DECISION, [*values, stored_report])
            except psycopg.IntegrityError as error:
                raise InputError(
                    "A decision needs an action (promote, refuse or rollback) and a reason; "
                    f"however, they are {action!r} and {reason!r}."
                ) from error
            return _one(cursor)

    def decisions(self, model_name: str | None = None, *, limit: int = 1000) -> tuple[Decision, ...]:
        """Return decisions, the newest first, of one model or of all."""
        query = "SELECT * FROM model_promotions WHERE %s::text IS NULL OR model_name = %s ORDER BY id DESC LIMIT %s"
        with connect(self.url) as connection, connection.cursor(row_factory=class_row(Decision)) as cursor:
            return tuple(cursor.execute(query, [model_name, model_name, limit]).fetchall())


@dataclass(frozen=True, slots=True)
class Pin:
    """What a backfill's first run fixed: its selector, and from which day on which version counts."""

    selector: str
    resolved: dict[str, str]


class PinRepository:
    """The model versions that backfills are pinned to.

    Examples
    --------
    >>> pins = PinRepository(getfixture("postgres_url"))
    >>> pins.pin("backfill-1", "demo", selector="champion", resolved={"0001-01-01": "3"}).resolved
    {'0001-01-01': '3'}
    >>> pins.pin("backfill-1", "demo", selector="champion", resolved={"0001-01-01": "4"}).resolved
    {'0001-01-01': '3'}
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def pin(self, backfill_id: str, model_name: str, *, selector: str, resolved: Mapping[str, str]) -> Pin:
        """Fix a backfill's versions unless an earlier run did; return what is fixed."""
        with connect(self.url) as connection:
            connection.execute(_INSERT_PIN, [backfill_id, model_name, selector, Jsonb(dict(resolved))])
        pin = self.get(backfill_id, model_name)
        if pin is None:
            raise DatabaseError(f"The pin of {backfill_id!r} must be there once written; it was removed. Try again.")
        return pin

    def get(self, backfill_id: str, model_name: str) -> Pin | None:
        """Return a backfill's pin, None if it has none yet."""
        query = "SELECT selector, resolved FROM model_pins WHERE backfill_id = %s AND model_name = %s"
        with connect(self.url) as connection, connection.cursor(row_factory=class_row(Pin)) as cursor:
            return cursor.execute(query, [backfill_id, model_name]).fetchone()


_INSERT_PUBLICATION = """
INSERT INTO publications (table_name, date, run_id, rows, lake_version) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (table_name, date, run_id)
DO UPDATE SET rows = EXCLUDED.rows, lake_version = EXCLUDED.lake_version, published_at = now()
"""

_INSERT_DECISION = """
INSERT INTO model_promotions (model_name, version, action, from_version, reason, decided_by, run_id, report)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING *
"""

_INSERT_PIN = """
INSERT INTO model_pins (backfill_id, model_name, selector, resolved) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""


def _where(filters: Mapping[str, Collection[object]]) -> sql.Composed:
    unknown = [name for name in filters if name not in ("date", *SCOPE_COLUMNS)]
    if unknown:
        raise InputError(f"A scope is made of {shown(SCOPE_COLUMNS)}; however, it has {shown(unknown)}.")
    return sql.SQL(" AND ").join(
        sql.SQL("target.{column} = ANY({values})").format(column=sql.Identifier(name), values=sql.Placeholder(name))
        for name in filters
    )


def _parameters(filters: Mapping[str, Collection[object]]) -> dict[str, object]:
    return {name: list(values) for name, values in filters.items()}


def _refuse_outsiders(rows: pa.Table, filters: Mapping[str, Collection[object]]) -> None:
    for name, allowed in filters.items():
        values = rows[name].combine_chunks()
        inside = pc.is_in(values, value_set=pa.array(list(allowed), type=values.type))
        outside = pc.unique(values.filter(pc.invert(inside))).slice(0, 11).to_pylist()
        if outside:
            raise InputError(
                f"Rows to publish must have {name} in {shown(allowed)}; however, there are {shown(outside)}."
            )


def _plain(value: object) -> object:
    """Make a report storable as JSON, which knows no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _one(cursor: psycopg.Cursor[Decision]) -> Decision:
    row = cursor.fetchone()
    if row is None:
        raise DatabaseError("The database must return the row that it stored; it returned none.")
    return row
