"""From what a model tells to rows of a lake table: contract order, types, nothing that breaks the contract."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from within_ml.lake.audit import audit, check_share
from within_ml.lake.contracts import Contract


def contracted(frame: pd.DataFrame, contract: Contract, **constants: str | None) -> pa.Table:
    """Rows of a frame as rows of a table; columns that the table does not have are left out.

    Raises
    ------
    ContractError
        If a row breaks the contract.
    """
    columns: dict[str, Any] = {
        name: pa.array(frame[name], from_pandas=True) for name in contract.names if name in frame.columns
    }
    fixed = {name: pa.repeat(pa.scalar(value, pa.string()), len(frame)) for name, value in constants.items()}
    return audited(columns | fixed, contract, rows=len(frame))


def audited(columns: Mapping[str, Any], contract: Contract, *, rows: int) -> pa.Table:
    """Columns as a table that keeps its contract to the last row; a nullable column that is not given is null.

    Raises
    ------
    ContractError
        If a row breaks the contract.
    """
    # What a model does not tell it leaves out.
    known = {c.name: pa.nulls(rows, c.type) for c in contract.columns if c.nullable} | dict(columns)
    result = audit(pa.table({c.name: pc.cast(known[c.name], c.type) for c in contract.columns}), contract)
    check_share(result, contract, maximum=0.0)
    return result.accepted
