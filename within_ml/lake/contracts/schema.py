"""What a contract of a table is: columns with types, units and ranges, a key, and rules over several columns."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from within_ml.errors import InputError, shown

ID_PATTERN = r"^[^\x00-\x1f\x7f/\\]{1,200}$"
"""Ids: 1 to 200 characters, no control character, no slash or backslash (so no ``../``)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, its meaning and what its values may be.

    ``minimum`` and ``maximum`` are inclusive; floats must be finite. ``identifier`` columns follow `ID_PATTERN`.
    """

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] = ()
    identifier: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition over several columns of a row: ``sql`` is true for a row that breaks it."""

    code: str
    sql: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Contract:
    """A table's grain, columns, key and rules; ``partitioned`` tables have one partition per ``date``.

    >>> columns = (day("date", "Day"), count("visits", "Visits"))
    >>> visits = Contract("visits", "day", "How often a shop was visited", columns, ("date",), True, ())
    >>> visits.names, visits.column("visits").unit
    (('date', 'visits'), 'count')
    """

    table: str
    grain: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitioned: bool
    sort_by: tuple[str, ...]
    rules: tuple[Rule, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, in contract order."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in contract order."""
        return tuple(c.name for c in self.columns)

    def column(self, name: str) -> Column:
        """Return one column.

        Raises
        ------
        InputError
            If the table has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise InputError(f"{self.table} has the columns {shown(self.names)}; there is no {name!r}.")


def identifier(name: str, meaning: str, *, nullable: bool = False) -> Column:
    """An id of 1 to 200 characters."""
    return Column(name, pa.string(), meaning, nullable=nullable, identifier=True)


def text(name: str, meaning: str) -> Column:
    """A text that may be missing."""
    return Column(name, pa.string(), meaning, nullable=True)


def day(name: str, meaning: str, *, nullable: bool = False) -> Column:
    """A UTC day."""
    return Column(name, pa.date32(), meaning, nullable=nullable, unit="UTC day")


def count(name: str, meaning: str) -> Column:
    """A whole number from 0 on."""
    return Column(name, pa.int64(), meaning, unit="count", minimum=0)


def money(name: str, meaning: str) -> Column:
    """An amount in the account's currency, where the source has it."""
    return Column(name, pa.float64(), meaning, nullable=True, unit="account currency", minimum=0)


def score(name: str, meaning: str, *, nullable: bool = False) -> Column:
    """A score from 0 to 100."""
    return Column(name, pa.float64(), meaning, nullable, "0 to 100", 0, 100)


def json_text(name: str, meaning: str) -> Column:
    """A text that is JSON."""
    return Column(name, pa.string(), meaning, unit="JSON")


def json_list(name: str) -> Rule:
    """The rule that a column holds a JSON list."""
    # json_type of what is no JSON is an error, so that it is asked for only where it is.
    broken = f"CASE WHEN json_valid({name}) THEN json_type({name}) <> 'ARRAY' ELSE {name} IS NOT NULL END"
    return Rule(f"{name}_no_json_list", broken, f"{name} must be a JSON list")


def share(name: str, meaning: str, *, nullable: bool = False) -> Column:
    """A probability or a share."""
    return Column(name, pa.float64(), meaning, nullable, "0 to 1", 0, 1)
