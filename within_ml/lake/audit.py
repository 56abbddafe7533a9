"""The audit: one vectorised pass over all rows of a partition against its table's contract, before the commit.

Each rejected row carries the codes of all its reasons and stays replayable as JSON. Whether too many rows are rejected
is `check_share`; storing either part is the business of `store`. The codes:

=================================  ==================================================================
``<column>_missing_or_unreadable``  no value where one is required, or one that could not be read
``<column>_not_finite``             NaN or infinity, also a number that could not be read
``<column>_below_minimum``          below the contract's minimum, such as a negative count
``<column>_above_maximum``          above the contract's maximum
``<column>_not_allowed``            not one of the contract's values
``<column>_not_an_identifier``      an id with a slash, a control character, or more than 200 characters
``duplicate_key``                   several different rows with one key: which one is right cannot be told
``repeated_row``                    an exact copy of an earlier row, which is kept
=================================  ==================================================================

and the codes of the contract's own rules, such as ``clicks_above_impressions``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa

from within_ml.errors import MAX_EXAMPLES, ContractError, InputError, shown
from within_ml.lake.contracts import MAX_REJECTED_SHARE, Column, Contract

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("date", pa.date32()),
        pa.field("reasons", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),
    ]
)
"""Rejected rows: the table they were meant for, their day if readable, comma-separated codes, the row as JSON."""

_NOT_IN_IDS = r"[\x00-\x1f\x7f/\\]"
_LABELS = frozenset({"source_file"})
"""Columns that say where a row came from and do not make it another row."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The outcome of one audit.

    Parameters
    ----------
    accepted
        Rows that keep the contract, in the order in which they came, with the contract's schema.
    rejected
        Rows that do not, in the shape of `REJECTED_SCHEMA`.
    reasons
        Rejected rows by code, the most frequent first; a row counts under each of its codes.

    Examples
    --------
    >>> from within_ml.lake.contracts import CONTRACTS
    >>> regions = CONTRACTS["regions"]
    >>> rows = pa.table({"region": ["CA", "C/A"], "country": ["US", "US"], "latitude": [36.7, 136.7]})
    >>> audit(rows, regions).reasons
    {'region_not_an_identifier': 1, 'latitude_above_maximum': 1}
    """

    accepted: pa.Table
    rejected: pa.Table
    reasons: Mapping[str, int]

    @property
    def rejected_share(self) -> float:
        """Rejected rows of all rows, a fraction; 0 where there are no rows."""
        total = self.accepted.num_rows + self.rejected.num_rows
        return self.rejected.num_rows / total if total else 0.0


def audit(rows: pa.Table, contract: Contract) -> Audit:
    """Split rows into those that keep the contract and those that do not.

    Parameters
    ----------
    rows
        Rows of one table; nullable columns may be absent, the others must be there in the contract's types.

    Raises
    ------
    ContractError
        If a required column is missing, a column is narrowed or of another type, or there is an unknown column.
    """
    table = conform(rows, contract)
    checks = _checks(contract)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("arrow_rows", table.append_column("__row", pa.array(np.arange(table.num_rows))))
        bad = con.execute(f"SELECT __row FROM arrow_rows WHERE {_suspect(contract, checks)}").fetchnumpy()["__row"]
        codes = _reasons(con, checks, bad) if len(bad) else {}
        _add_duplicates(con, contract, codes)
        rejected = _rejected(con, contract, codes)
    mask = np.ones(table.num_rows, dtype=bool)
    mask[list(codes)] = False
    accepted = table if not codes else table.filter(pa.array(mask))
    counts = Counter(code for row in codes.values() for code in row)
    return Audit(_strict(accepted, contract), rejected, dict(counts.most_common()))


def check_share(result: Audit, contract: Contract, *, maximum: float = MAX_REJECTED_SHARE, what: str = "") -> None:
    """Block a partition of which too large a share is rejected; ``what`` names it in the message.

    Raises
    ------
    ContractError
        If more than ``maximum`` of the rows are rejected; the message counts them by code.
    """
    if result.rejected_share <= maximum:
        return
    counts = ", ".join(f"{code} {count}" for code, count in list(result.reasons.items())[:MAX_EXAMPLES])
    sentences = {rule.code: rule.sentence for rule in contract.rules}
    rules = "".join(f"; {sentences[code]}" for code in result.reasons if code in sentences)
    raise ContractError(
        f"{what or contract.table}: at most {maximum:.0%} of the rows may break the contract; "
        f"{result.rejected.num_rows} of {result.accepted.num_rows + result.rejected.num_rows} do ({counts}){rules}. "
        "Nothing was published; correct the source file or its mapping and ingest it again." + _hints(result.reasons)
    )


def _hints(reasons: Mapping[str, int]) -> str:
    hints = ""
    if {"duplicate_key", "repeated_row"} & set(reasons):
        hints += " Where several lines of the export make one row, set aggregate: true in its mapping."
    if any(code.endswith("_not_an_identifier") for code in reasons):
        hints += (
            " Ids have 1 to 200 characters, no slash and no control character; where names serve as ids, replace()."
        )
    return hints


def conform(rows: pa.Table, contract: Contract) -> pa.Table:
    """Return the rows with the contract's columns in its order and types, all nullable; absent nullable ones are null.

    Raises
    ------
    ContractError
        If a required column is missing, of another type or narrower, or a column is unknown.
    """
    unknown = [name for name in rows.column_names if name not in contract.names]
    missing = [c.name for c in contract.columns if not c.nullable and c.name not in rows.column_names]
    twice = [name for name, count in Counter(rows.column_names).items() if count > 1]
    for problem, names in (("missing", missing), ("unknown", unknown), ("there twice", twice)):
        if names:
            raise ContractError(
                f"{contract.table}: the columns {', '.join(contract.names)} are required; {shown(names)} "
                f"{'is' if len(names) == 1 else 'are'} {problem}. Correct the mapping or the writer."
            )
    arrays = [_array(rows, column, contract) for column in contract.columns]
    return pa.Table.from_arrays(arrays, schema=pa.schema([pa.field(c.name, c.type) for c in contract.columns]))


def rows_from_json(texts: Sequence[str], contract: Contract) -> pa.Table:
    """Return rejected rows as a table again, so that they can be audited anew.

    Columns that the contract no longer has are left out.

    Raises
    ------
    InputError
        If a text is not a row of the table as JSON.
    """
    try:
        rows = [json.loads(text) for text in texts]
        values = {c.name: [_value(row.get(c.name), c) for row in rows] for c in contract.columns}
        schema = pa.schema([pa.field(c.name, c.type) for c in contract.columns])
        return pa.table(values, schema=schema)
    except (ValueError, AttributeError, TypeError, pa.ArrowException) as error:
        raise InputError(
            f"Rejected rows of {contract.table} are JSON objects with the columns {shown(contract.names)}; "
            f"one is not: {error}. Replay only what the audit wrote."
        ) from error


def _value(value: object, column: Column) -> object:
    if isinstance(value, str) and pa.types.is_date(column.type):
        return date.fromisoformat(value)
    return float(value) if isinstance(value, str) and pa.types.is_floating(column.type) else value


def _array(rows: pa.Table, column: Column, contract: Contract) -> pa.ChunkedArray:
    if column.name not in rows.column_names:
        return pa.chunked_array([pa.nulls(rows.num_rows, column.type)])
    found = rows.column(column.name)
    encoded = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    same_text = pa.types.is_string(column.type) and any(is_text(encoded) for is_text in texts)
    if found.type == column.type or same_text or pa.types.is_null(encoded):
        return found.cast(column.type)
    raise ContractError(
        f"{contract.table}.{column.name} must be {column.type}; {found.type} came. "
        "Convert it where it is made; the audit neither narrows nor guesses."
    )


def _checks(contract: Contract) -> dict[str, str]:
    """Return reason code → condition that is true for a row that breaks it, and never null."""
    checks: dict[str, str] = {}
    for column in contract.columns:
        name = f'"{column.name}"'
        if not column.nullable:
            checks[f"{column.name}_missing_or_unreadable"] = f"{name} IS NULL"
        if pa.types.is_floating(column.type):
            checks[f"{column.name}_not_finite"] = f"coalesce(NOT isfinite({name}), false)"
        if column.minimum is not None:
            checks[f"{column.name}_below_minimum"] = f"coalesce({name} < {column.minimum}, false)"
        if column.maximum is not None:
            checks[f"{column.name}_above_maximum"] = f"coalesce({name} > {column.maximum} AND {_finite(column)}, false)"
        if column.values:
            allowed = ", ".join("'" + value.replace("'", "''") + "'" for value in column.values)
            checks[f"{column.name}_not_allowed"] = f"coalesce({name} NOT IN ({allowed}), false)"
        if column.identifier:
            checks[f"{column.name}_not_an_identifier"] = f"coalesce({_no_identifier(name)}, false)"
    checks |= {rule.code: f"coalesce({rule.sql}, false)" for rule in contract.rules}
    return checks


def _finite(column: Column) -> str:
    return f'isfinite("{column.name}")' if pa.types.is_floating(column.type) else "true"


def _no_identifier(name: str) -> str:
    # The same as ID_PATTERN, several times faster than one regular expression with a length.
    return f"length({name}) NOT BETWEEN 1 AND 200 OR regexp_matches({name}, '{_NOT_IN_IDS}')"


def _suspect(contract: Contract, checks: Mapping[str, str]) -> str:
    """Return a cheap condition that holds for every row that breaks a check, and for few others.

    The ids of a row are searched together and measured in bytes: that halves the time of the whole audit.
    """
    ids = [f'"{c.name}"' for c in contract.columns if c.identifier]
    conditions = [condition for code, condition in checks.items() if not code.endswith("_not_an_identifier")]
    conditions += [f"coalesce(strlen({name}) NOT BETWEEN 1 AND 200, false)" for name in ids]
    conditions += [f"regexp_matches(concat({', '.join(ids)}), '{_NOT_IN_IDS}')"] if ids else []
    return " OR ".join(conditions)


def _reasons(con: duckdb.DuckDBPyConnection, checks: Mapping[str, str], bad: np.ndarray) -> dict[int, list[str]]:
    con.register("bad_rows", pa.table({"__row": bad}))
    columns = ", ".join(f"({condition}) AS c{i}" for i, condition in enumerate(checks.values()))
    table = con.execute(f"SELECT __row, {columns} FROM arrow_rows SEMI JOIN bad_rows USING (__row) ORDER BY __row")
    values = table.fetchnumpy()
    codes: dict[int, list[str]] = {int(row): [] for row in values["__row"]}
    for i, code in enumerate(checks):
        for row in values["__row"][np.asarray(values[f"c{i}"], dtype=bool)]:
            codes[int(row)].append(code)
    return {row: found for row, found in codes.items() if found}


def _add_duplicates(con: duckdb.DuckDBPyConnection, contract: Contract, codes: dict[int, list[str]]) -> None:
    """Find rows that share a key: first by a hash of it, which is cheap, then exactly among those."""
    key = ", ".join(f'"{name}"' for name in contract.key)
    other = ", ".join(f'"{c.name}"' for c in contract.columns if c.name not in _LABELS)
    suspects = f"SELECT hash({key}) AS h FROM arrow_rows GROUP BY h HAVING count(*) > 1"
    if not con.execute(f"SELECT 1 FROM ({suspects}) LIMIT 1").fetchall():
        return
    complete = " AND ".join(f'"{name}" IS NOT NULL' for name in contract.key)
    found = con.execute(
        f"""WITH same AS (
            SELECT *, count(*) OVER (PARTITION BY {key}) AS n,
                count(*) OVER (PARTITION BY {other}) AS copies,
                row_number() OVER (PARTITION BY {other} ORDER BY __row) AS copy
            FROM arrow_rows WHERE {complete} AND hash({key}) IN ({suspects}))
        SELECT __row, n > copies AS differ FROM same WHERE n > 1 AND (n > copies OR copy > 1) ORDER BY __row"""
    ).fetchall()
    for row, differ in found:
        codes.setdefault(row, []).append("duplicate_key" if differ else "repeated_row")


def _rejected(con: duckdb.DuckDBPyConnection, contract: Contract, codes: Mapping[int, list[str]]) -> pa.Table:
    order = sorted(codes)
    if not order:
        return REJECTED_SCHEMA.empty_table()
    reasons = [",".join(codes[row]) for row in order]
    con.register("rejects", pa.table({"__row": order, "__reasons": reasons}))
    # JSON has no NaN: such numbers are written as text and read back by rows_from_json.
    fields = ", ".join(f"'{c.name}', {_json(c)}" for c in contract.columns)
    day = '"date"' if contract.partitioned else "CAST(NULL AS DATE)"
    return (
        con.execute(
            f"""SELECT '{contract.table}' AS "table", {day} AS date, __reasons AS reasons,
                CAST(json_object({fields}) AS VARCHAR) AS row
            FROM arrow_rows JOIN rejects USING (__row) ORDER BY __row"""
        )
        .to_arrow_table()
        .cast(REJECTED_SCHEMA)
    )


def _json(column: Column) -> str:
    name = f'"{column.name}"'
    if not pa.types.is_floating(column.type):
        return name
    return f"CASE WHEN isfinite({name}) THEN to_json({name}) ELSE to_json(CAST({name} AS VARCHAR)) END"


def _strict(table: pa.Table, contract: Contract) -> pa.Table:
    return table.cast(contract.schema)
