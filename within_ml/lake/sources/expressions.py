"""The SQL of a mapping: the helper macros, what an expression may contain, which file columns it names.

An expression is parsed by DuckDB itself and accepted when it is one scalar expression: no statement, no subquery, no
table function, nothing that depends on the clock or on chance. Reading files and running the expressions is `files`
and `reading`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any

import duckdb

from within_ml.errors import SourceError

DEFAULT_NULLS = ("", "-", "--", "—", "n/a", "na", "null", "none", "(not set)", "#n/a")
"""Texts that mean "no value", compared without case and outer blanks."""

HELPERS: Mapping[str, str] = {
    "clean(x)": "the text without outer blanks; NULL for a null text such as '--'",
    "number(x)": "a number with or without thousands separators; NULL for a null text, NaN for an unreadable one",
    "money(x)": "as number(x), with a currency sign or code before or after it; (12.50) is negative",
    "whole(x)": "a whole number; NULL for anything else, which a count column rejects",
    "day(x)": "a day from an ISO date or timestamp, 20240131, 'Jan 31, 2024' or '31 Jan 2024'; NULL otherwise",
    "day(x, format)": "a day from a text in a strptime format such as '%d.%m.%Y'; NULL otherwise",
    "monday(x)": "the Monday of an ISO week written 202407, 2024-07 or 2024-W07; week 00 is the week before week 01",
    "fraction(x)": "a percentage such as '12.5%' or '< 10%' as a fraction",
}
"""The macros that a mapping can use beside every scalar function of DuckDB, with their meaning."""

_BLANKS = " \t\r\n\u00a0\u202f\u2009\ufeff"
# A currency: a sign, perhaps with letters (US$), or two to four letters, perhaps with a dot (kr., CHF).
_CURRENCY = r"[^\d\s.,'()+\-<>%=/*#_:;|\\\\]{1,4}\.?"
_DAY_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y")
_CLOCK = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
_FORBIDDEN = _CLOCK | {
    *("now", "today", "get_current_timestamp", "get_current_time", "transaction_timestamp"),
    *("random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "setseed"),
    *("current_setting", "getvariable", "nextval", "currval", "getenv", "query", "query_table"),
}
_QUOTING = "Correct it; a column name with blanks, dots or signs stands in double quotes inside the expression."
_REPEATABLE = "its value would not be the same on every run, or comes from outside the file"


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked scalar SQL expression and the file columns it names."""

    sql: str
    columns: tuple[str, ...] = ()


def literal(value: str | int | float | date) -> str:
    """Return a constant as SQL.

    >>> literal("O'Hara")
    "'O''Hara'"
    """
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def quoted(name: str) -> str:
    """Return a column name as a SQL identifier.

    >>> quoted("Impr.")
    '"Impr."'
    """
    return '"' + name.replace('"', '""') + '"'


def parse(sql: str, *, where: str) -> Expression:
    """Check one expression; ``where`` names the mapping and the key, for the message.

    Raises
    ------
    SourceError
        If it is not exactly one scalar expression, or uses something that an expression may not.

    Examples
    --------
    >>> parse('whole("Impr.") + 1', where="google.yaml: impressions").columns
    ('Impr.',)
    """
    text, params = "SELECT " + sql, []
    with _parser().cursor() as con:
        answer = json.loads(con.execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0][0])
    if answer["error"]:
        raise SourceError(
            f"{where}: one SQL expression over the file's columns is required; {sql!r} is none: "
            f"{answer['error_message']}. {_QUOTING}"
        )
    tree = _only_expression(answer["statements"], sql, where)
    columns: dict[str, None] = {}
    for node in _walk(tree):
        _refuse(node, sql, where)
        params += _lambda_parameters(node)
        if node.get("class") == "COLUMN_REF":
            names = node["column_names"]
            columns[names[1] if len(names) > 1 and names[0] == "file" else names[0]] = None
    return Expression(sql, tuple(name for name in columns if name not in params))


def macros(*, decimal: str = ".", null_values: Sequence[str] = DEFAULT_NULLS) -> list[str]:
    """Return the statements that create the helpers for one mapping's decimal sign and null texts.

    A macro's argument is pasted wherever it stands, so each body names it as rarely as it can.
    """
    nulls = ", ".join(literal(text.strip().lower()) for text in {"": None, **dict.fromkeys(null_values)})
    group = ("[," if decimal == "." else "[.") + "'\u2019\u00a0\u202f\u2009 ]"
    digits = f"[+-]?(?:\\d+|\\d{{1,3}}(?:{group}\\d{{2,3}})*{group}\\d{{3}})"
    number = f"^(?:{digits}(?:[{decimal}]\\d*)?|[+-]?[{decimal}]\\d+)(?:[eE][+-]?\\d+)?$"
    bare = f"regexp_replace({{}}, {literal(group)}, '', 'g')"
    matched = bare.format(f"regexp_extract(x, {literal(number)})")
    counted = bare.format(f"regexp_extract(_plain(x), {literal(f'^({digits})(?:[{decimal}]0*)?$')}, 1)")
    before, after = rf"^([+-]?)\s*{_CURRENCY}\s*", rf"\s*{_CURRENCY}$"
    trimmed = f"trim(CAST(x AS VARCHAR), {literal(_BLANKS)})"
    iso = f"TRY_STRPTIME(clean(x), [{', '.join(literal(text) for text in _DAY_FORMATS)}])"
    year, week = (f"TRY_CAST(regexp_extract(clean(x), '^(\\d{{4}})-?W?(\\d{{2}})$', {i}) AS INTEGER)" for i in (1, 2))
    bodies = {
        "clean(x)": f"CASE WHEN lower({trimmed}) NOT IN ({nulls}) THEN {trimmed} END",
        "_plain(x)": "replace(clean(x), chr(8722), '-')",
        "_read(x)": f"""coalesce(TRY_CAST(replace({matched}, {literal(decimal)}, '.') AS DOUBLE),
            CASE WHEN x IS NOT NULL THEN CAST('NaN' AS DOUBLE) END)""",
        "number(x)": "_read(_plain(x))",
        "money(x)": f"""_read(regexp_replace(regexp_replace(regexp_replace(_plain(x), '^\\((.*)\\)$', '-\\1'),
            {literal(before)}, '\\1'), {literal(after)}, ''))""",
        "whole(x)": f"TRY_CAST({counted} AS BIGINT)",
        "fraction(x)": "_read(regexp_replace(_plain(x), '^[<>≤≥]?\\s*|\\s*%$', '', 'g')) / 100",
        "_sane(x)": "CASE WHEN x BETWEEN DATE '1990-01-01' AND DATE '2199-12-31' THEN x END",
        "day(x)": f"""_sane(CAST(coalesce({iso}, TRY_CAST(clean(x) AS TIMESTAMP)) AS DATE)),
            (x, format) AS _sane(CAST(TRY_STRPTIME(clean(x), format) AS DATE))""",
        "monday(x)": f"""CASE WHEN {week} <= 53 THEN
            _sane(CAST(date_trunc('week', make_date({year}, 1, 4)) AS DATE) + 7 * ({week} - 1)) END""",
    }
    return [f"CREATE MACRO {name} AS {body}" for name, body in bodies.items()]


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1, "enable_external_access": "false"})


def _only_expression(statements: list[dict[str, Any]], sql: str, where: str) -> dict[str, Any]:
    node = statements[0]["node"] if len(statements) == 1 else {}
    extras = ("modifiers", "where_clause", "group_expressions", "having", "qualify", "sample")
    plain = (
        node.get("type") == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not any(node[extra] for extra in extras)
        and not node["cte_map"]["map"]
        and not node["select_list"][0].get("alias")
    )
    if not plain:
        raise SourceError(
            f"{where}: exactly one SQL expression is required, without alias, FROM or a second statement; "
            f"{sql!r} came. {_QUOTING}"
        )
    found: dict[str, Any] = node["select_list"][0]
    return found


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


def _refuse(node: dict[str, Any], sql: str, where: str) -> None:
    kind = node.get("class")
    if kind in {"SUBQUERY", "STAR", "PARAMETER"}:
        what = {"SUBQUERY": "a subquery", "STAR": "a star", "PARAMETER": "a parameter"}[kind]
        raise SourceError(f"{where}: an expression over one row is required; {sql!r} contains {what}. Leave it out.")
    name = str(node.get("function_name") or "").lower()
    names = [str(part).lower() for part in node.get("column_names") or []]
    if name in _FORBIDDEN or (len(names) == 1 and names[0] in _CLOCK):
        raise SourceError(f"{where}: {name or names[0]} may not stand in {sql!r}, because {_REPEATABLE}. Leave it out.")


def _lambda_parameters(node: dict[str, Any]) -> list[str]:
    if node.get("class") != "LAMBDA":
        return []
    return [name for part in _walk(node["lhs"]) for name in part.get("column_names") or []]
