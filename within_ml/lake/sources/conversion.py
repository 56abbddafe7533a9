"""The SQL that turns mapped values into rows of a contract: conversion, sums, versions. Text in, text out.

Nothing here runs a query; `reading` does.
"""

from __future__ import annotations

from collections.abc import Container

from within_ml.lake.contracts import AD_KEY, ID_PATTERN, Column, Contract
from within_ml.lake.sources.expressions import literal
from within_ml.lake.sources.mapping import DEFAULT_UNKNOWN
from within_ml.lake.versions import AD_ATTRIBUTES

SQL_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "date32[day]": "DATE"}
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_MEASURES = ("impressions", "clicks", "spend", "conversions", "revenue")
_FIRST = frozenset({"start_date", "onboarded_date", "created_at", "valid_from"})


def typed(sql: str, found: str, target: str) -> str:
    """Return the expression converted to the contract's type; what cannot be converted is NULL or NaN."""
    value = f"({sql}\n)"
    if target == "VARCHAR":
        return f"nullif(trim(CAST({value} AS VARCHAR)), '')"
    if target == "DATE":
        return value if found == "DATE" else f"day({value})"
    if target == "DOUBLE":
        return f"number({value})" if found == "VARCHAR" else f"TRY_CAST({value} AS DOUBLE)"
    return f"TRY_CAST({value} AS BIGINT)" if found in _INTEGERS else f"whole({value})"


def versions(rows: str) -> str:
    """Keep the first of equal rows of an ad that follow each other: a daily export repeats its text every day."""
    same = " AND ".join(f"{name} IS NOT DISTINCT FROM lag({name}) OVER w" for name in AD_ATTRIBUTES)
    order = ", ".join(("valid_from", *AD_ATTRIBUTES))
    window = f"WINDOW w AS (PARTITION BY {', '.join(AD_KEY)} ORDER BY {order})"
    return f"SELECT * FROM (SELECT DISTINCT * FROM ({rows})) {window} QUALIFY NOT (row_number() OVER w > 1 AND {same})"


def identified(contract: Contract, rows: str, day: str | None, *, own: Container[str] = ()) -> str:
    """Keep rows whose ids and day are sound; the others are rejected once, where they are performance.

    ``own`` are columns that do not come from performance: the audit of this table judges them.
    """
    ids = [c.name for c in contract.columns if c.identifier and c.name not in DEFAULT_UNKNOWN and c.name not in own]
    sound = [f"regexp_full_match({name}, {literal(ID_PATTERN)})" for name in ids]
    sound += [f"{day} IS NOT NULL"] if day and day not in own else []
    return f"SELECT * FROM ({rows}) WHERE {' AND '.join(sound or ['true'])}"


def aggregated(contract: Contract, rows: str) -> str:
    """Return one row per key: measures are summed, first days the least, other values the last that is known."""
    measures = [c for c in contract.columns if c.name in _MEASURES]
    keys = [c.name for c in contract.columns if c not in measures] if measures else list(contract.key)
    values = {c.name: _sum(c) for c in measures}
    if not measures:
        values = {c.name: _one(c) for c in contract.columns if c.name not in keys}
    columns = ", ".join(f"{values[c.name]} AS {c.name}" if c.name in values else c.name for c in contract.columns)
    return f"SELECT {columns} FROM ({rows}) GROUP BY {', '.join(keys)}"


def _sum(column: Column) -> str:
    """Sum, keeping what the audit must see: a missing count stays missing, a negative value stays negative."""
    name, kind = column.name, SQL_TYPES[str(column.type)]
    missing = "false" if column.nullable else f"count({name}) < count(*)"
    return f"CASE WHEN {missing} THEN NULL WHEN min({name}) < 0 THEN min({name}) ELSE CAST(sum({name}) AS {kind}) END"


def _one(column: Column) -> str:
    if column.name in _FIRST:
        return f"min({column.name})"
    return f"max({column.name})" if str(column.type) == "date32[day]" else f"arg_max({column.name}, file_row)"
