"""Rejected rows: kept as they came, with the reasons, and audited again when asked.

The quarantine is a lake table with one partition per day of the rejected rows. Rows of a table without days, or whose
own day cannot be read, stand under the first day of their landing file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from within_ml.errors import LakeError
from within_ml.lake.audit import audit, rows_from_json
from within_ml.lake.contracts import CONTRACTS
from within_ml.lake.store import LakeStore

TABLE = "quarantine"

SCHEMA = pa.schema(
    [
        pa.field("table", pa.string()),
        pa.field("source_file", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("reasons", pa.string()),
        pa.field("row", pa.string()),
    ]
)
"""Columns of a quarantine partition: reason codes are comma separated, the row is JSON as it was mapped."""


def quarantine(
    store: LakeStore, table: str, rejected: Mapping[date, pa.Table], *, files: tuple[str, ...] | None, run_id: str
) -> int:
    """Keep the rejected rows of these days in place of those that the same table and files had there before.

    Parameters
    ----------
    rejected
        Day → rows with ``reasons``, ``row`` and ``source_file``; a day of no rows clears what was there.
    files
        Landing files whose earlier rejected rows are replaced; of all files where None.

    Returns
    -------
    int
        Rows now in quarantine of this call.
    """
    present = set(store.dates(TABLE))
    # Clean days that never had a rejected row need no partition.
    days = {day: rows for day, rows in rejected.items() if rows.num_rows or day in present}
    if not days:
        return 0
    columns = {
        day: pa.table(
            {
                "table": pa.array([table] * rows.num_rows, pa.string()),
                "source_file": rows["source_file"].cast(pa.string()),
                "run_id": pa.array([run_id] * rows.num_rows, pa.string()),
                "reasons": rows["reasons"].cast(pa.string()),
                "row": rows["row"].cast(pa.string()),
            },
            schema=SCHEMA,
        )
        for day, rows in days.items()
    }

    def others(rows: pa.Table) -> pa.Table:
        same = pc.equal(rows["table"], table)
        if files is not None:
            same = pc.and_(same, pc.is_in(rows["source_file"], pa.array(list(files), pa.string())))
        return rows.filter(pc.invert(pc.fill_null(same, False)))

    store.replace(TABLE, columns, run_id=run_id, keep=others)
    return sum(rows.num_rows for rows in columns.values())


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of auditing quarantined rows again."""

    table: str
    date: date
    accepted: int
    still_rejected: int


def replay(store: LakeStore, table: str, day: date, *, run_id: str) -> Replay:
    """Audit the quarantined rows of a table's day again and publish those that pass now.

    Rows that pass are added to the partition, where they replace rows of the same key, and leave the quarantine.

    Raises
    ------
    LakeError
        If the table has no partitions by day; its landing file must be ingested again instead.
    """
    contract = CONTRACTS[table]
    if not contract.partitioned:
        raise LakeError(
            f"Replay needs a table with one partition per day, however {table} has none; ingest its file again."
        )
    held = store.read(TABLE, {"date": day, "table": table}) if store.exists(TABLE) else None
    if held is None or held.num_rows == 0:
        return Replay(table, day, 0, 0)
    result = audit(rows_from_json(held["row"].to_pylist(), contract), contract)
    passed = result.accepted.filter(pc.equal(result.accepted["date"], day))
    if passed.num_rows:
        store.replace(table, {day: passed}, run_id=run_id, keep=lambda rows: without_keys(rows, passed, contract.key))
    still = result.rejected.append_column("source_file", _files_of(result.rejected))
    quarantine(store, table, {day: still}, files=None, run_id=run_id)
    return Replay(table, day, passed.num_rows, result.rejected.num_rows)


def without_keys(rows: pa.Table, newer: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Rows whose key does not stand in the newer ones."""
    if not rows.num_rows or not newer.num_rows:
        return rows
    kept = rows.join(newer.select(list(key)), keys=list(key), join_type="left anti")
    return kept.select(rows.column_names).cast(rows.schema)


def _files_of(rejected: pa.Table) -> pa.Array:
    """The landing file that each rejected row names."""
    return pa.array([json.loads(text).get("source_file") for text in rejected["row"].to_pylist()], pa.string())
