"""Arrow tables in and out of Postgres by COPY.

What belongs here: moving many rows at once, inside the caller's transaction. What does not: which rows of which table
(`repository`). Rows travel as CSV made and parsed by pyarrow: every valid value is quoted, so that an empty text and a
null stay two things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import sqlalchemy as sa
from psycopg import sql

from within_ml.database.base import arrow_schema
from within_ml.errors import InputError, shown

CHUNK_ROWS = 20_000

PgConnection = psycopg.Connection[tuple[object, ...]]

_WRITE = pacsv.WriteOptions(include_header=False, quoting_style="all_valid")
_READ = pacsv.ParseOptions(newlines_in_values=True)


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a replacement changed: rows inserted or updated, and rows removed; equal rows count for neither."""

    written: int
    removed: int


def conform(rows: pa.Table, table: sa.Table) -> pa.Table:
    """Bring rows into a table's column order and types; a nullable column that they do not have is null.

    Raises
    ------
    InputError
        If a required column is missing or one does not fit, or two rows have one key.
    """
    schema = arrow_schema(table)
    # A partition of the lake that was written before a column came has none of it.
    for field in schema:
        if field.nullable and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing:
        raise InputError(
            f"Rows of {table.name} must have the columns {shown(schema.names)}; however, {shown(missing)} are missing."
        )
    try:
        conformed = rows.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(f"Rows of {table.name} must fit the table's types; however: {error}.") from error
    _refuse_duplicates(conformed, table)
    return conformed


def replace_rows(
    connection: PgConnection,
    table: sa.Table,
    rows: pa.Table,
    *,
    where: sql.Composable,
    parameters: Mapping[str, object],
    unimportant: Sequence[str] = (),
) -> Replaced:
    """Make the rows of a table that match `where` equal to `rows`, in the caller's transaction.

    Parameters
    ----------
    connection
        Connection in a transaction.
    table
        Table to change.
    rows
        Its new rows, as `conform` returns them; all of them match `where`.
    where
        Condition on the table, which is named ``target`` in it, with named placeholders.
    parameters
        Their values.
    unimportant
        Columns that alone do not make a row different: a row that differs only there is left as it was.

    Raises
    ------
    InputError
        If a row breaks a constraint of the table.
    """
    try:
        if not _has_rows(connection, table, where, parameters):
            # Straight into the table: three times faster than by way of a staging table.
            return Replaced(written=_copy_in(connection, table.name, table, rows), removed=0)
        connection.execute(_sql("CREATE TEMP TABLE staging (LIKE {table}) ON COMMIT DROP", table))
        _copy_in(connection, "staging", table, rows)
        connection.execute("ANALYZE staging")
        removed = connection.execute(
            _sql(
                "DELETE FROM {table} AS target WHERE {where} AND NOT EXISTS "
                "(SELECT FROM staging WHERE ({keys_of_staging}) = ({keys_of_target}))",
                table,
                where=where,
            ),
            parameters,
        ).rowcount
        written = connection.execute(_upsert(table, unimportant)).rowcount
        connection.execute("DROP TABLE staging")
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"Rows of {table.name} must keep the table's constraints; however: {said}.") from error
    return Replaced(written=written, removed=removed)


def read_rows(
    connection: PgConnection, table: sa.Table, *, where: sql.Composable, parameters: Mapping[str, object]
) -> pa.Table:
    """Read the rows that match `where`, ordered by the table's key."""
    schema = arrow_schema(table)
    query = _sql(
        "COPY (SELECT {columns} FROM {table} AS target WHERE {where} ORDER BY {key}) TO STDOUT (FORMAT csv)",
        table,
        where=where,
    )
    buffer = pa.BufferOutputStream()
    with connection.cursor() as cursor, cursor.copy(query, parameters) as copy:
        for chunk in copy:
            buffer.write(chunk)
    data = buffer.getvalue()
    if data.size == 0:
        return schema.empty_table()
    return pacsv.read_csv(
        pa.BufferReader(data),
        read_options=pacsv.ReadOptions(column_names=schema.names),
        parse_options=_READ,
        convert_options=pacsv.ConvertOptions(
            column_types=schema,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
    ).cast(schema)


def _refuse_duplicates(rows: pa.Table, table: sa.Table) -> None:
    key = [column.name for column in table.primary_key.columns]
    counts = rows.group_by(key).aggregate([([], "count_all")])
    if counts.num_rows < rows.num_rows:
        repeated = counts.filter(pc.greater(counts["count_all"], 1)).select(key).slice(0, 10)
        raise InputError(
            f"Rows of {table.name} must differ in {shown(key)}; however, these repeat: "
            f"{shown(tuple(row.values()) for row in repeated.to_pylist())}."
        )


def _has_rows(
    connection: PgConnection, table: sa.Table, where: sql.Composable, parameters: Mapping[str, object]
) -> bool:
    query = _sql("SELECT EXISTS (SELECT FROM {table} AS target WHERE {where})", table, where=where)
    row = connection.execute(query, parameters).fetchone()
    return row is not None and bool(row[0])


def _copy_in(connection: PgConnection, destination: str, table: sa.Table, rows: pa.Table) -> int:
    query = _sql(
        "COPY {destination} ({columns}) FROM STDIN (FORMAT csv)", table, destination=sql.Identifier(destination)
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for batch in rows.to_batches(max_chunksize=CHUNK_ROWS):
            buffer = pa.BufferOutputStream()
            pacsv.write_csv(batch, buffer, _WRITE)
            copy.write(memoryview(buffer.getvalue()))
    return int(rows.num_rows)


def _upsert(table: sa.Table, unimportant: Sequence[str]) -> sql.Composed:
    key = {column.name for column in table.primary_key.columns}
    others = [column.name for column in table.columns if column.name not in key]
    compared = [name for name in others if name not in unimportant]
    return _sql(
        "INSERT INTO {table} AS target ({columns}) SELECT {columns} FROM staging ON CONFLICT ({key}) "
        "DO UPDATE SET {sets} WHERE ({old}) IS DISTINCT FROM ({new})",
        table,
        sets=_joined("{name} = EXCLUDED.{name}", others),
        old=_joined("target.{name}", compared),
        new=_joined("EXCLUDED.{name}", compared),
    )


def _sql(template: str, table: sa.Table, **parts: sql.Composable) -> sql.Composed:
    """Fill in a statement; identifiers come from the table's own definition."""
    names = [column.name for column in table.columns]
    key = [column.name for column in table.primary_key.columns]
    known = {
        "table": sql.Identifier(table.name),
        "columns": _joined("{name}", names),
        "key": _joined("{name}", key),
        "keys_of_staging": _joined("staging.{name}", key),
        "keys_of_target": _joined("target.{name}", key),
    }
    return sql.SQL(template).format(**known, **parts)


def _joined(template: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(template).format(name=sql.Identifier(name)) for name in names)
