"""The data files of a lake table: rows made to fit the stored columns, sorted, and written as one Parquet file.

Nothing here commits: a file exists for readers only when `store` has put it into the table's log.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from within_ml.errors import InputError, LakeError
from within_ml.lake.contracts import CONTRACTS

SORT_COLUMNS = ("platform", "account_id", "campaign_id", "ad_id")
"""Order of the rows of tables without a contract, so that readers of one account skip row groups."""

ROWS_PER_GROUP = 131_072


def without_date(rows: pa.Table, day: date, table: str) -> pa.Table:
    """Rows without their column ``date``, which a partition holds in its path.

    Raises
    ------
    InputError
        If a row has another date than the partition's.
    """
    if "date" not in rows.column_names:
        return rows
    others = [d for d in pc.unique(rows["date"]).to_pylist() if d != day]
    if others:
        raise InputError(f"{table}: all rows of the partition {day} must have this date, however there is {others[0]}.")
    return rows.drop_columns(["date"])


def common_schema(table: str, tables: Iterable[pa.Table]) -> pa.Schema:
    """The schema that the partitions of one commit share.

    Raises
    ------
    InputError
        If they have different columns.
    """
    schemas = [t.schema.remove_metadata() for t in tables]
    for schema in schemas[1:]:
        if schema.names != schemas[0].names or schema.types != schemas[0].types:
            raise InputError(
                f"{table}: partitions of one commit must have the same columns, however: {schemas[0]} and {schema}."
            )
    return schemas[0]


def joined(kept: pa.Table, incoming: pa.Table) -> pa.Table:
    """A partition's rows that stay, and the new ones."""
    return pa.concat_tables([kept.drop_columns(["date"]), incoming], promote_options="permissive")


def fitted(table: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows in the stored schema's column order and types, missing columns as null.

    Raises
    ------
    LakeError
        If a column's values do not fit its stored type.
    """
    arrays = []
    for field in schema:
        if field.name not in rows.column_names:
            arrays.append(pa.nulls(rows.num_rows, field.type))
            continue
        try:
            arrays.append(rows[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise LakeError(
                f"{table}.{field.name} is stored as {field.type}, however {rows[field.name].type} came: {error}; "
                "a column may be added but not change its type."
            ) from error
    return pa.table(arrays, schema=schema)


def write_file(filesystem: pa_fs.FileSystem, rows: pa.Table, day: date | None, table: str) -> AddAction:
    """Write rows as one sorted file under a new name, and return what the log will say of it."""
    keys = [k for k in _sort_columns(table) if k in rows.column_names]
    if keys and rows.num_rows:
        rows = rows.sort_by([(k, "ascending") for k in keys])
    folder = f"date={day.isoformat()}/" if day else ""
    path = f"{folder}part-{uuid.uuid4()}.parquet"
    filesystem.create_dir(folder or ".", recursive=True)
    with filesystem.open_output_stream(path) as sink:
        pq.write_table(rows, sink, compression="zstd", row_group_size=ROWS_PER_GROUP)
    info = filesystem.get_file_info(path)
    values = {"date": day.isoformat()} if day else {}
    # Row counts only: with smallest and largest values of some columns but not of all, deltalake's Arrow reader takes
    # the others for null and drops every row that a filter on them should keep. Parquet's row group statistics remain.
    statistics = json.dumps({"numRecords": rows.num_rows})
    written_ms = (info.mtime_ns or 0) // 1_000_000
    return AddAction(path, info.size, values, written_ms, True, statistics)


def _sort_columns(table: str) -> tuple[str, ...]:
    return CONTRACTS[table].sort_by if table in CONTRACTS else SORT_COLUMNS
