"""Merging what a file says into the tables that are not partitioned: ad versions, campaigns, accounts, regions.

Pure functions from tables to a table; reading and committing them is the business of `store`.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from within_ml.errors import InputError
from within_ml.lake.audit import conform
from within_ml.lake.contracts import AD_KEY, ADS, UNKNOWN, Contract

AD_ATTRIBUTES = tuple(name for name in ADS.names if name not in {*AD_KEY, "valid_from", "valid_to", "created_at"})
"""What makes a version of an ad another version: all but its key and its times."""

_CONTENT = (
    "headline",
    "body",
    "call_to_action",
    "format",
    "image_id",
    "image_path",
    "audience_age",
    "audience_gender",
    "interests",
)
_LEAST = frozenset({"start_date", "onboarded_date"})


def merge_versions(existing: pa.Table | None, incoming: pa.Table) -> pa.Table:
    """Merge ad versions into the history of the ads.

    The versions of an ad are ordered by ``valid_from``; one that equals the version before it is no new version, and
    the earlier day stays. Of two versions with one ``valid_from`` the incoming one wins. ``valid_to`` is the next
    version's ``valid_from``. ``created_at`` is the earliest that this or an earlier version named: a later file
    cannot change what was known before. A version without any content (an ad that a source knows only by its numbers)
    counts only until the first version with content.

    The order in which files arrive does not matter as long as an ad does not return to a former text; one that does
    needs its files in order of time, because the repeated version was dropped when its neighbour was still unknown.

    Parameters
    ----------
    existing
        Rows of ``ads``, or None for an empty table.
    incoming
        Rows of ``ads`` that passed the audit.

    Returns
    -------
    pa.Table
        All versions, sorted by the contract's order.

    Raises
    ------
    ContractError
        If a table does not have the columns of ``ads``.

    Examples
    --------
    >>> from datetime import date
    >>> def version(day, headline):
    ...     ids = {name: ["x"] for name in ("platform", "account_id", "campaign_id", "ad_group_id", "ad_id")}
    ...     audience = {"audience_age": ["unknown"], "audience_gender": ["unknown"]}
    ...     return pa.table({**ids, **audience, "headline": [headline], "valid_from": [date(2024, 1, day)]})
    >>> merged = merge_versions(version(1, "Buy"), version(5, "Buy"))
    >>> merge_versions(merged, version(9, "Buy now")).select(["headline", "valid_from"]).to_pylist()
    [{'headline': 'Buy', 'valid_from': datetime.date(2024, 1, 1)},
     {'headline': 'Buy now', 'valid_from': datetime.date(2024, 1, 9)}]
    """
    key = ", ".join(AD_KEY)
    same = " AND ".join(f"{name} IS NOT DISTINCT FROM lag({name}) OVER w" for name in AD_ATTRIBUTES)
    full = " OR ".join(
        f"({name} IS NOT NULL AND {name} <> '{UNKNOWN}')" if name.startswith("audience_") else f"{name} IS NOT NULL"
        for name in _CONTENT
    )
    values = {
        "valid_to": f"lead(valid_from) OVER (PARTITION BY {key} ORDER BY valid_from)",
        "created_at": "created",
    }
    columns = ", ".join(f"{values[name]} AS {name}" if name in values else name for name in ADS.names)
    sql = f"""
        WITH latest AS (
            SELECT *, ({full}) AS has_content
            FROM (SELECT *, 0 AS arrival FROM existing UNION ALL SELECT *, 1 FROM incoming)
            QUALIFY row_number() OVER (PARTITION BY {key}, valid_from ORDER BY has_content DESC, arrival DESC) = 1),
        known AS (
            SELECT * FROM latest
            QUALIFY has_content OR coalesce(valid_from < min(CASE WHEN has_content THEN valid_from END)
                OVER (PARTITION BY {key}), true)),
        dated AS (
            SELECT *, min(created_at) OVER (PARTITION BY {key} ORDER BY valid_from) AS created,
                row_number() OVER w > 1 AND {same} AS repeated
            FROM known WINDOW w AS (PARTITION BY {key} ORDER BY valid_from))
        SELECT {columns} FROM dated WHERE NOT repeated ORDER BY {", ".join(ADS.sort_by)}"""
    return _run(sql, existing, incoming, ADS)


def merge_rows(existing: pa.Table | None, incoming: pa.Table, contract: Contract) -> pa.Table:
    """Merge rows of a table with one row per key: the incoming row wins, value by value.

    A value that the incoming row does not know (null or 'unknown') keeps what was known, and so does an account named
    only by its id; ``start_date`` and ``onboarded_date`` are the least of both, because a file sees only part of the
    history.

    Parameters
    ----------
    existing
        Rows of the table, or None for an empty one.
    incoming
        Rows that passed the audit.
    contract
        The table's contract: campaigns, accounts or regions.

    Raises
    ------
    InputError
        If the table is partitioned or has versions.
    ContractError
        If a table does not have the contract's columns.

    Examples
    --------
    >>> from within_ml.lake.contracts import REGIONS
    >>> old = pa.table({"region": ["CA"], "country": ["US"], "state": ["California"]})
    >>> new = pa.table({"region": ["CA"], "country": ["US"], "population": [39e6]})
    >>> merge_rows(old, new, REGIONS).select(["state", "population"]).to_pylist()
    [{'state': 'California', 'population': 39000000.0}]
    """
    if contract.partitioned or contract.table == ADS.table:
        raise InputError(
            f"merge_rows is for tables with one row per key; {contract.table} came. "
            "Replace its partition or use merge_versions."
        )
    columns = ", ".join(name if name in contract.key else f"{_merged(name)} AS {name}" for name in contract.names)
    joined = f"FROM existing AS e FULL JOIN incoming AS i USING ({', '.join(contract.key)})"
    return _run(f"SELECT {columns} {joined} ORDER BY {', '.join(contract.sort_by)}", existing, incoming, contract)


def _merged(name: str) -> str:
    if name in _LEAST:
        return f"least(e.{name}, i.{name})"
    weak = {"name": f"CASE WHEN i.{name} = account_id THEN NULL ELSE i.{name} END"}.get(name, f"i.{name}")
    kept = f"nullif(CAST({weak} AS VARCHAR), '{UNKNOWN}') IS NOT NULL"
    return f"CASE WHEN {kept} THEN i.{name} ELSE coalesce(e.{name}, i.{name}) END"


def _run(sql: str, existing: pa.Table | None, incoming: pa.Table, contract: Contract) -> pa.Table:
    with duckdb.connect() as con:
        con.register("existing", conform(existing if existing is not None else contract.schema.empty_table(), contract))
        con.register("incoming", conform(incoming, contract))
        return con.execute(sql).to_arrow_table().cast(contract.schema)
