"""Reading a landing file through its mapping: rows in the columns and types of the lake's contracts.

Values that cannot be read become NULL (counts, dates, ids) or NaN (money), never an error: the audit then rejects those
rows with a reason. What is raised here concerns the file as a whole: a missing column, an expression that does not fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from within_ml.errors import InputError, SourceError, shown
from within_ml.lake.contracts import AD_PERFORMANCE, CONTRACTS, UNKNOWN, Column, Contract
from within_ml.lake.sources.conversion import SQL_TYPES, aggregated, identified, typed, versions
from within_ml.lake.sources.expressions import Expression, literal, quoted
from within_ml.lake.sources.files import connected, first_line, sha256_of
from within_ml.lake.sources.mapping import DEFAULT_UNKNOWN, FILE_FACTS, Alternatives, SourceMapping, TableMapping

logger = logging.getLogger(__name__)

Dates = tuple[date, date]

_FIRST_DAY = {"ads": "valid_from", "campaigns": "start_date", "accounts": "onboarded_date"}
_INHERITED_DAY = {"ads": ("valid_from", "created_at"), "campaigns": ("start_date",), "accounts": ("onboarded_date",)}


@dataclass(frozen=True, slots=True)
class LandingFile:
    """What the registration of a landing file stores.

    Parameters
    ----------
    path
        As given; the caller stores it relative to the landing folder.
    source
        Name of the mapping.
    sha256
        Hash of the bytes: a file is ingested once per content.
    size
        Bytes.
    tables
        Lake tables that the file feeds, derived ones included.
    first_date, last_date, dates
        Days of performance in the file; None and empty where it holds none.
    rows
        Rows by table, before the audit.
    left_out
        Rows of the file that ``where`` leaves out, such as totals.
    undated
        Rows of performance without a readable date; they are read with the first day of the file.
    """

    path: str
    source: str
    sha256: str
    size: int
    tables: tuple[str, ...]
    first_date: date | None
    last_date: date | None
    dates: tuple[date, ...]
    rows: Mapping[str, int]
    left_out: int
    undated: int


class SourceReader:
    """An opened landing file; made by `open_source`.

    >>> from within_ml.lake.sources import load_mapping, open_source
    >>> path = "data_lake/landing/upworthy/upworthy_2013_2014w40.parquet"
    >>> with open_source(load_mapping("upworthy"), path) as source:
    ...     source.read("ads", limit=1)["platform"].to_pylist()
    ['upworthy']
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, mapping: SourceMapping, path: Path, label: str) -> None:
        self.mapping = mapping
        self.path = path
        self._con = con
        self._label = label
        self._columns = [row[0] for row in con.execute("DESCRIBE file").fetchall()]
        self._shown = [name for name in self._columns if name not in FILE_FACTS]
        self._fed = _fed(mapping, path)
        self._selects = {table: self._select(table) for table in self._fed}
        derived = mapping.derived if "ad_performance" in self._fed else ()
        self._selects |= {table: self._derived(table) for table in derived}

    @property
    def tables(self) -> tuple[str, ...]:
        """Lake tables that this file feeds, derived ones included."""
        return tuple(self._selects)

    @cached_property
    def days(self) -> Mapping[date | None, int]:
        """Rows of performance by day in order of time; None counts rows without a readable date."""
        if "ad_performance" not in self._fed:
            return {}
        found = self._fetch(f"SELECT date, count(*) FROM ({self._selects['ad_performance']}) GROUP BY date")
        return dict(sorted(found, key=lambda row: row[0] or date.min))

    def read(self, table: str, *, dates: Dates | None = None, limit: int | None = None) -> pa.Table:
        """Return the mapped rows of one table, in the contract's columns and types, not yet audited.

        Parameters
        ----------
        table
            One of `tables`.
        dates
            First and last day, inclusive; only performance is narrowed. Rows without a readable date come with the
            file's first day, so that reading day by day loses none.
        limit
            At most so many rows.
        """
        return pa.Table.from_batches(self.batches(table, dates=dates, limit=limit), _nullable(CONTRACTS[table]))

    def batches(
        self, table: str, *, dates: Dates | None = None, limit: int | None = None, rows: int = 100_000
    ) -> Iterator[pa.RecordBatch]:
        """Yield the same rows in batches, with flat memory."""
        if table not in self._selects:
            raise InputError(f"{self.path.name} feeds {shown(self.tables)}; {table!r} was asked for.")
        schema = _nullable(CONTRACTS[table])
        sql = f"SELECT * FROM ({self._selects[table]}){self._narrowed(table, dates)}"
        try:
            reader = self._con.execute(sql + (f" LIMIT {limit}" if limit else "")).to_arrow_reader(rows)
            for batch in reader:
                yield batch.cast(schema)
        except duckdb.Error as error:
            raise self._broken(error) from error

    def left_out(self) -> int:
        """Count the file's rows that the mapping's ``where`` leaves out of every table."""
        kept = f"SELECT count(*) FROM file WHERE {_condition(self.mapping.where)}"
        return self._count("SELECT count(*) FROM file") - self._count(kept)

    def count(self, table: str) -> int:
        """Count the mapped rows of one table."""
        return self._count(f"SELECT count(*) FROM ({self._selects[table]})")

    def samples(self, table: str, column: str) -> list[str]:
        """Return up to three distinct raw values of the file columns behind a mapped column, for a message."""
        expression = self._chosen(table, column)
        names = ", ".join(quoted(name) for name in expression.columns) if expression else ""
        if not names:
            return []
        return [str(row[0]) for row in self._fetch(f"SELECT DISTINCT concat_ws(' | ', {names}) FROM file LIMIT 3")]

    def _narrowed(self, table: str, dates: Dates | None) -> str:
        if dates is None or table != "ad_performance":
            return ""
        first, last = dates
        undated = None in self.days and first <= next((d for d in self.days if d), first) <= last
        return f" WHERE date BETWEEN {literal(first)} AND {literal(last)}" + (" OR date IS NULL" if undated else "")

    def _select(self, table: str) -> str:
        contract, mapping = CONTRACTS[table], self.mapping.tables[table]
        columns = ", ".join(f"{self._value(table, column)} AS {column.name}" for column in contract.columns)
        conditions = [_condition(self.mapping.where), _condition(mapping.where)]
        for condition in (self.mapping.where, mapping.where):
            if condition is not None:
                self._bound(condition, f"{table}.where")
        rows = f"SELECT {columns} FROM file WHERE {' AND '.join(conditions)}"
        if mapping.aggregate and table != "ad_performance":
            rows = rows.replace("SELECT ", "SELECT file_row, ", 1)
        if mapping.inherits:
            rows = identified(contract, rows, _FIRST_DAY.get(table), own=mapping.columns)
        if mapping.aggregate:
            return aggregated(contract, rows)
        if table == "ad_performance":
            return rows
        return versions(rows) if table == "ads" else f"SELECT DISTINCT * FROM ({rows})"

    def _value(self, table: str, column: Column) -> str:
        target = SQL_TYPES[str(column.type)]
        expression = self._chosen(table, column.name)
        if expression is None:
            value = self._default(table, column)
        else:
            value = typed(expression.sql, self._bound(expression, f"{table}.{column.name}"), target)
        if column.name in DEFAULT_UNKNOWN and table != "regions":
            value = f"coalesce({value}, {literal(UNKNOWN)})"
        return f"CAST({value} AS {target})"

    def _default(self, table: str, column: Column) -> str:
        if column.name == "source_file":
            return literal(self._label)
        if column.name == "ad_group_id":
            return self._value(table, CONTRACTS[table].column("campaign_id"))
        return "NULL"

    def _chosen(self, table: str, column: str) -> Expression | None:
        """Return the expression of a column: its own, or the one that performance gives."""
        mapping = self.mapping.tables[table]
        alternatives = mapping.columns.get(column)
        if alternatives is None and mapping.inherits:
            alternatives = _inherited(self.mapping.tables["ad_performance"], mapping, table, column)
        return None if alternatives is None else self._available(alternatives, f"{table}.{column}")

    def _available(self, alternatives: Alternatives, key: str) -> Expression:
        have = {name.casefold() for name in self._columns}
        for expression in alternatives:
            if all(name.casefold() in have for name in expression.columns):
                return expression
        missing = dict.fromkeys(n for e in alternatives for n in e.columns if n.casefold() not in have)
        raise SourceError(
            f"{self.path.name}: the mapping {self.mapping.name} needs the column {' or '.join(map(repr, missing))} "
            f"for {key}; the file has {shown(self._shown)}. Use the mapping of this export, adapt the "
            "expression, or put a fixed text in quotes."
        )

    def _bound(self, expression: Expression, key: str) -> str:
        """Return the SQL type of an expression over this file."""
        self._available((expression,), key)
        try:
            found = self._con.execute(f"DESCRIBE SELECT ({expression.sql}\n) AS x FROM file").fetchall()
        except duckdb.Error as error:
            raise SourceError(
                f"{self.mapping.origin or self.mapping.name}: {key} must be an SQL expression over the columns of "
                f"{self.path.name}; {expression.sql!r} is not: {first_line(error)}. Correct the expression."
            ) from error
        return str(found[0][1])

    def _derived(self, table: str) -> str:
        ids = [c.name for c in AD_PERFORMANCE.columns if c.identifier and c.name in CONTRACTS[table].names]
        values = {name: name for name in ids} | {_FIRST_DAY[table]: "min(date)"}
        values |= {"created_at": "min(date)"} if table == "ads" else {}
        values |= {"name": "account_id"} if table == "accounts" else {}
        columns = ", ".join(
            f"CAST({values.get(c.name, literal(UNKNOWN) if c.name in DEFAULT_UNKNOWN else 'NULL')} "
            f"AS {SQL_TYPES[str(c.type)]}) AS {c.name}"
            for c in CONTRACTS[table].columns
        )
        performance = identified(AD_PERFORMANCE, self._selects["ad_performance"], "date")
        return f"SELECT {columns} FROM ({performance}) GROUP BY {', '.join(ids)}"

    def _count(self, sql: str) -> int:
        return int(self._fetch(sql)[0][0])

    def _fetch(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._con.execute(sql).fetchall()
        except duckdb.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: duckdb.Error) -> SourceError:
        return SourceError(
            f"{self.path.name}: rows that the mapping {self.mapping.name} can read are required; reading stopped: "
            f"{first_line(error)}. If the file is complete, use number(), whole(), day() or TRY_CAST in the "
            "expression, so that one bad value does not stop the file."
        )


@contextmanager
def open_source(mapping: SourceMapping, path: str | Path, *, label: str | None = None) -> Iterator[SourceReader]:
    """Open a landing file; every expression is bound against its columns before a row is read.

    Parameters
    ----------
    mapping
        How to read it.
    path
        The file.
    label
        What ``source_file`` says; the file's name if None.

    Raises
    ------
    SourceError
        If the file cannot be read, lacks a column, or an expression does not fit it.
    """
    file = Path(path)
    _fed(mapping, file)
    with connected(mapping, file) as con:
        yield SourceReader(con, mapping, file, label or file.name)


def read_source(
    mapping: SourceMapping,
    path: str | Path,
    *,
    dates: Dates | None = None,
    tables: Sequence[str] | None = None,
    label: str | None = None,
) -> dict[str, pa.Table]:
    """Return the mapped rows of a landing file by lake table, in contract columns and types, not yet audited."""
    with open_source(mapping, path, label=label) as source:
        return {table: source.read(table, dates=dates) for table in tables or source.tables}


def inspect_file(mapping: SourceMapping, path: str | Path) -> LandingFile:
    """Open a landing file once and say what it holds.

    Raises
    ------
    SourceError
        As `open_source`, and if it has no rows or no readable date at all.
    """
    file = Path(path)
    with open_source(mapping, file) as source:
        days = [day for day in source.days if day is not None]
        rows = {table: source.count(table) for table in source.tables}
        left_out = source.left_out()
        if not any(rows.values()):
            raise SourceError(
                f"{file.name}: a file with rows is required; it has a header and {left_out} rows that the mapping "
                f"{mapping.name} leaves out, and no others. Export it again, or correct where in the mapping."
            )
        if rows.get("ad_performance") and not days:
            raise SourceError(
                f"{file.name}: readable dates are required; the values are like "
                f"{shown(source.samples('ad_performance', 'date'))}. Give their format in the mapping, as in "
                "day(\"Day\", '%d.%m.%Y')."
            )
        logger.info("inspected %s as %s: rows %s, left out %d", file.name, mapping.name, rows, left_out)
        return LandingFile(
            path=str(path),
            source=mapping.name,
            sha256=sha256_of(file),
            size=file.stat().st_size,
            tables=source.tables,
            first_date=days[0] if days else None,
            last_date=days[-1] if days else None,
            dates=tuple(days),
            rows=rows,
            left_out=left_out,
            undated=source.days.get(None, 0),
        )


def _nullable(contract: Contract) -> pa.Schema:
    return pa.schema([pa.field(column.name, column.type) for column in contract.columns])


def _fed(mapping: SourceMapping, path: Path) -> tuple[str, ...]:
    fed = tuple(t for t, m in mapping.tables.items() if m.files is None or fnmatch(path.name, m.files))
    if not fed:
        patterns = [m.files for m in mapping.tables.values()]
        raise SourceError(
            f"{path.name}: the mapping {mapping.name} reads files named like {shown(patterns)}. "
            "Rename the file or adapt files in the mapping."
        )
    return fed


def _inherited(performance: TableMapping, own: TableMapping, table: str, column: str) -> Alternatives | None:
    if column in _INHERITED_DAY.get(table, ()):
        return own.columns.get("valid_from") or performance.columns["date"]
    return performance.columns.get(column)


def _condition(expression: Expression | None) -> str:
    return "true" if expression is None else f"({expression.sql}\n)"
