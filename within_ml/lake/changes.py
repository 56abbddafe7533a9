"""What a restatement of a partition has changed: the accounts of which a row came, went or got another value.

Pure functions of two tables; which of them is stored is the business of `store`.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from within_ml.lake.contracts import Contract

LINEAGE = frozenset({"date", "source_file"})
"""Columns that say where a row came from and not what happened; they change nothing for an account."""


def changed_accounts(before: pa.Table, after: pa.Table, contract: Contract) -> tuple[str, ...]:
    """Return the accounts whose rows differ between two states of one partition, in order.

    Rows are compared as a multiset of their contents: their order and the file they came from do not count.

    Parameters
    ----------
    before, after
        Rows with the contract's columns, at least those that are not lineage.
    contract
        A contract with the column ``account_id``.

    Returns
    -------
    tuple of str
        Account ids; none where nothing has changed.

    Examples
    --------
    >>> from within_ml.lake.contracts import AD_PERFORMANCE
    >>> empty = AD_PERFORMANCE.schema.empty_table().to_pandas()
    >>> def rows(**clicks):
    ...     rows = empty.reindex(range(len(clicks))).assign(account_id=list(clicks), clicks=list(clicks.values()))
    ...     return pa.Table.from_pandas(rows, preserve_index=False)
    >>> changed_accounts(rows(a=1, b=2), rows(c=1, b=3, a=1), AD_PERFORMANCE)
    ('b', 'c')
    """
    columns = [name for name in contract.names if name not in LINEAGE]
    types = pa.schema([(name, contract.column(name).type) for name in columns])
    # A sum of hashes and a count tell two multisets of rows apart without sorting either.
    state = (
        f"SELECT account_id, count(*) AS n, sum(hash({', '.join(columns)})) AS content FROM {{}} GROUP BY account_id"
    )
    sql = f"""
        SELECT account_id FROM ({state.format("earlier")}) e FULL JOIN ({state.format("later")}) l USING (account_id)
        WHERE e.n IS DISTINCT FROM l.n OR e.content IS DISTINCT FROM l.content ORDER BY account_id"""
    with duckdb.connect() as con:
        con.register("earlier", before.select(columns).cast(types))
        con.register("later", after.select(columns).cast(types))
        return tuple(account for (account,) in con.execute(sql).fetchall())
