"""Mappings: what a real export looks like and how its columns become lake tables, read from YAML.

A mapping is data. It is checked when it is loaded, before any file is opened; that a file has the columns the mapping
names is checked in `reading`. Names of shipped mappings are the files in ``within_ml/lake/mappings``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from within_ml.errors import SourceError, shown
from within_ml.lake.contracts import CONTRACTS, UNKNOWN, Contract
from within_ml.lake.sources.expressions import DEFAULT_NULLS, Expression, literal, parse

SOURCE_TABLES = ("ad_performance", "ads", "campaigns", "accounts", "regions")
"""The lake tables that a source can fill."""

REQUIRED = ("date", "account_id", "campaign_id", "ad_id", "impressions", "clicks")
"""Columns of ``ad_performance`` that every mapping of it has to give, as an expression or as a constant."""

DEFAULT_UNKNOWN = frozenset({"region", "audience_age", "audience_gender", "objective", "industry", "country"})
"""Columns that are 'unknown' where a source does not tell."""

FILE_FACTS = ("file_name", "file_folder", "file_row")
"""Columns that every file has beside its own: its name, its folder's name, the number of the row from 0 on."""

_FOLDER = Path(__file__).parent.parent / "mappings"
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
_TOP = frozenset({"name", "description", "format", "cadence", "options", "constants", "where", "tables"})
_TABLE = frozenset({"columns", "constants", "where", "files", "aggregate"})

Alternatives = tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a file; ``auto`` means: found from the file and from the columns that the mapping names.

    Parameters
    ----------
    encoding
        A Python codec, or ``auto``: by byte order mark, else UTF-8.
    delimiter
        One character, or ``auto``: comma, semicolon, tab or bar.
    quote
        The quoting character.
    skip
        Lines above the header, or ``auto``: the header is the first line that names the most columns.
    header
        Names for the columns of a file without a header; empty where it has one.
    decimal
        ``.`` or ``,``: the decimal sign that `number` and `money` expect.
    null_values
        Texts that mean "no value", beside the usual ones.
    rename
        Pattern → name: a header that matches the whole pattern gets the name.
    """

    encoding: str = "auto"
    delimiter: str = "auto"
    quote: str = '"'
    skip: int | None = None
    header: tuple[str, ...] = ()
    decimal: str = "."
    null_values: tuple[str, ...] = DEFAULT_NULLS
    rename: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TableMapping:
    """How one lake table is made from the rows of a file.

    Parameters
    ----------
    columns
        Column → alternatives: the first whose file columns are all there is used.
    where
        Condition that a row has to fulfil, or None.
    files
        Pattern of the names of the files that feed this table; None: all.
    aggregate
        Rows with one key become one: counts and money are summed, first dates are the least, other values the last.
    inherits
        Whether columns that are not mapped come from the mapping of ``ad_performance`` (the same files feed it).
    """

    columns: Mapping[str, Alternatives]
    where: Expression | None = None
    files: str | None = None
    aggregate: bool = False
    inherits: bool = False


@dataclass(frozen=True, slots=True)
class SourceMapping:
    """A checked mapping of one kind of export.

    ``derived`` names the tables that are made from the rows of ``ad_performance`` because the mapping says nothing
    about them.

    >>> load_mapping("google_ads").cadence
    'daily'
    """

    name: str
    description: str
    format: str
    cadence: str
    options: ReadOptions
    where: Expression | None
    tables: Mapping[str, TableMapping]
    origin: str = field(compare=False, default="")

    @property
    def derived(self) -> tuple[str, ...]:
        """Tables that no part of the mapping defines and that ad_performance can give."""
        if "ad_performance" not in self.tables:
            return ()
        return tuple(t for t in ("ads", "campaigns", "accounts") if t not in self.tables)

    @property
    def file_columns(self) -> tuple[str, ...]:
        """All file columns that any expression names, alternatives included."""
        found: dict[str, None] = {}
        for table in self.tables.values():
            for alternatives in table.columns.values():
                found.update(dict.fromkeys(c for e in alternatives for c in e.columns))
            found.update(dict.fromkeys(table.where.columns if table.where else ()))
        found.update(dict.fromkeys(self.where.columns if self.where else ()))
        return tuple(name for name in found if name not in FILE_FACTS)

    def with_constants(self, **constants: str) -> SourceMapping:
        """Return the mapping with some columns fixed, such as the account that a file does not name.

        Raises
        ------
        SourceError
            If no table of the mapping has the column.

        Examples
        --------
        >>> load_mapping("google_ads").with_constants(account_id="acme").tables["ad_performance"].columns["account_id"]
        (Expression(sql="'acme'", columns=()),)
        """
        fixed = {name: (Expression(literal(value)),) for name, value in constants.items()}
        tables = {name: _with(name, table, fixed) for name, table in self.tables.items()}
        useless = [name for name in fixed if not any(name in CONTRACTS[t].names for t in self.tables)]
        if useless:
            raise SourceError(f"{self.name}: constants must be columns of its tables; {shown(useless)} came.")
        return replace(self, tables=tables)


def shipped_mappings() -> tuple[str, ...]:
    """Return the names of the mappings that come with WITHIN.

    >>> "upworthy" in shipped_mappings()
    True
    """
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_mapping(name_or_path: str | Path) -> SourceMapping:
    """Load and check a mapping, by the name of a shipped one or by the path of a YAML file.

    Raises
    ------
    SourceError
        If there is no such mapping, or the file is not a mapping: the message names file and key.
    """
    text = str(name_or_path)
    path = _FOLDER / f"{text}.yaml" if text in shipped_mappings() else Path(text)
    if not path.is_file():
        raise SourceError(
            f"A mapping is one of {shown(shipped_mappings())} or the path of a YAML file; {text!r} is neither. "
            "Check the spelling or write the file."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{path}: a YAML file in UTF-8 is required; it cannot be read: {reason}.") from error
    return mapping_from(content, origin=str(path))


def mapping_from(content: Any, *, origin: str) -> SourceMapping:
    """Check a mapping given as plain data; ``origin`` stands in the messages.

    Raises
    ------
    SourceError
        If a key is unknown, missing or has an impossible value, or an expression is not SQL.
    """
    top = _keys(content, _TOP, f"{origin}", required=("name", "format", "tables"))
    name = str(top["name"])
    if not _NAME.match(name):
        raise SourceError(
            f"{origin}: name must be lower-case letters, digits and underscores, starting with a letter; "
            f"{name!r} came. Rename it."
        )
    tables = _tables(top, origin)
    return SourceMapping(
        name=name,
        description=" ".join(str(top.get("description") or "").split()),
        format=_choice(top["format"], ("csv", "parquet"), f"{origin}: format"),
        cadence=_choice(top.get("cadence", "daily"), ("daily", "weekly"), f"{origin}: cadence"),
        options=_options(top.get("options") or {}, f"{origin}: options"),
        where=_condition(top.get("where"), f"{origin}: where"),
        tables=tables,
        origin=origin,
    )


def _tables(top: dict[str, Any], origin: str) -> dict[str, TableMapping]:
    given = _keys(top["tables"], frozenset(SOURCE_TABLES), f"{origin}: tables")
    if not given:
        raise SourceError(f"{origin}: tables must hold at least one of {shown(SOURCE_TABLES)}; it is empty.")
    shared = top.get("constants") or {}
    every = {column for t in given for column in CONTRACTS[t].names}
    _keys(shared, frozenset(every), f"{origin}: constants")
    default = {"platform": str(top["name"])} | shared
    files = (given.get("ad_performance") or {}).get("files")
    tables = {}
    for table in SOURCE_TABLES:
        if table in given:
            with_performance = "ad_performance" in given and (given[table] or {}).get("files") == files
            tables[table] = _table(table, given[table], default, f"{origin}: tables.{table}", with_performance)
    _complete(tables, origin)
    return tables


def _table(table: str, given: Any, shared: dict[str, Any], where: str, with_performance: bool) -> TableMapping:
    contract = CONTRACTS[table]
    content = _keys(given or {}, _TABLE, where)
    known = frozenset(contract.names) - {"source_file"}
    columns = _keys(content.get("columns") or {}, known, f"{where}.columns")
    own = _keys(content.get("constants") or {}, known, f"{where}.constants")
    constants = {k: v for k, v in shared.items() if k in known} | own
    both = sorted(set(own) & set(columns))
    if both:
        raise SourceError(f"{where}: a column is an expression or a constant, not both; {shown(both)}.")
    parsed = {name: _alternatives(value, f"{where}.columns.{name}") for name, value in columns.items()}
    fixed = {name: _constant(v, f"{where}.constants.{name}") for name, v in constants.items() if name not in columns}
    grain_is_finer = with_performance and table in {"campaigns", "accounts", "regions"}
    return TableMapping(
        columns=fixed | parsed,
        where=_condition(content.get("where"), f"{where}.where"),
        files=None if content.get("files") is None else str(content["files"]),
        aggregate=_flag(content.get("aggregate", grain_is_finer), f"{where}.aggregate"),
        inherits=with_performance and table != "ad_performance",
    )


def _complete(tables: Mapping[str, TableMapping], origin: str) -> None:
    """Every column that has no default must be mapped."""
    for table, mapping in tables.items():
        required = REQUIRED if table == "ad_performance" else _required(CONTRACTS[table])
        missing = [name for name in required if name not in mapping.columns and not mapping.inherits]
        if missing:
            raise SourceError(
                f"{origin}: tables.{table} must give {shown(required)}; {shown(missing)} missing. "
                "Add an expression under columns or a fixed value under constants."
            )


def _required(contract: Contract) -> tuple[str, ...]:
    optional = DEFAULT_UNKNOWN - {"region", "country"} if contract.table == "regions" else DEFAULT_UNKNOWN
    return tuple(
        c.name for c in contract.columns if not c.nullable and c.name not in optional | {"platform", "ad_group_id"}
    )


def _with(table: str, mapping: TableMapping, fixed: Mapping[str, Alternatives]) -> TableMapping:
    own = {name: value for name, value in fixed.items() if name in CONTRACTS[table].names}
    return replace(mapping, columns={**mapping.columns, **own})


def _alternatives(value: Any, where: str) -> Alternatives:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise SourceError(f"{where}: an SQL expression or a list of alternatives is required; the list is empty.")
    return tuple(parse(_sql(item, where), where=where) for item in items)


def _sql(item: Any, where: str) -> str:
    if item is None:
        return "NULL"
    if isinstance(item, str):
        return item.strip()
    if isinstance(item, (int, float, date)) and not isinstance(item, bool):
        return literal(item)
    raise SourceError(f"{where}: an SQL expression as text is required; {item!r} came. Put it in quotes.")


def _constant(value: Any, where: str) -> Alternatives:
    if isinstance(value, (str, int, float, date)) and not isinstance(value, bool):
        return (Expression(literal(value)),)
    raise SourceError(f"{where}: a text, a number or a date is required; {value!r} came.")


def _condition(value: Any, where: str) -> Expression | None:
    return None if value is None else parse(_sql(value, where), where=where)


def _options(given: Any, where: str) -> ReadOptions:
    known = frozenset(ReadOptions.__dataclass_fields__)
    options = _keys(given, known, where)
    values: dict[str, Any] = {k: str(options[k]) for k in ("encoding", "delimiter", "quote") if k in options}
    values["delimiter"] = {"\\t": "\t", "tab": "\t"}.get(
        values.get("delimiter", "auto"), values.get("delimiter", "auto")
    )
    if values["delimiter"] != "auto" and len(values["delimiter"]) != 1:
        raise SourceError(f"{where}.delimiter: one character or auto is required; {values['delimiter']!r} came.")
    skip = options.get("skip", "auto")
    if skip != "auto" and (not isinstance(skip, int) or isinstance(skip, bool) or skip < 0):
        raise SourceError(f"{where}.skip: a number of lines from 0 on, or auto, is required; {skip!r} came.")
    values["skip"] = None if skip == "auto" else skip
    header = options.get("header", [])
    if header is not True:
        values["header"] = _texts(header, f"{where}.header")
    values["decimal"] = _choice(options.get("decimal", "."), (".", ","), f"{where}.decimal")
    values["null_values"] = DEFAULT_NULLS + _texts(options.get("null_values", []), f"{where}.null_values")
    values["rename"] = _renames(options.get("rename") or {}, f"{where}.rename")
    _codec(values.get("encoding", "auto"), f"{where}.encoding")
    return ReadOptions(**values)


def _renames(given: Any, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, dict):
        raise SourceError(f"{where}: pattern: name pairs are required; {given!r} came.")
    for pattern in given:
        try:
            re.compile(str(pattern))
        except re.error as error:
            raise SourceError(f"{where}: a regular expression is required; {pattern!r} is none: {error}.") from error
    return tuple((str(pattern), str(name)) for pattern, name in given.items())


def _codec(encoding: str, where: str) -> None:
    try:
        "".encode("utf-8" if encoding == "auto" else encoding)
    except LookupError as error:
        raise SourceError(
            f"{where}: a text encoding such as utf-8, utf-16 or cp1252 is required; {encoding!r} came."
        ) from error


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, (str, int, float)) for item in value):
        raise SourceError(f"{where}: a list of texts is required; {value!r} came.")
    return tuple(str(item) for item in value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise SourceError(f"{where}: true or false is required; {value!r} came.")
    return value


def _choice(value: Any, allowed: tuple[str, ...], where: str) -> str:
    if value not in allowed:
        raise SourceError(f"{where}: one of {shown(allowed)} is required; {value!r} came.")
    return str(value)


def _keys(value: Any, known: frozenset[str], where: str, *, required: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"{where}: keys and values are required (of {shown(sorted(known))}); {value!r} came.")
    unknown = [key for key in value if key not in known]
    if unknown:
        raise SourceError(
            f"{where}: the keys can be {shown(sorted(known))}; {shown(unknown)} came. Correct or remove it."
        )
    missing = [key for key in required if value.get(key) is None]
    if missing:
        raise SourceError(f"{where}: the keys {shown(required)} are required; {shown(missing)} missing.")
    return value


__all__ = [
    "REQUIRED",
    "SOURCE_TABLES",
    "UNKNOWN",
    "Alternatives",
    "ReadOptions",
    "SourceMapping",
    "TableMapping",
    "load_mapping",
    "mapping_from",
    "shipped_mappings",
]
