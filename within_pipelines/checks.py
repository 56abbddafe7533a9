"""Asset checks, made by one factory from the contracts: they show what the audit before the commit enforced.

A check judges the partitions of its run together, and the newest day where it is launched alone. It has no partitions
of its own: a run of several days evaluates it once, and Dagster would show each of the days as skipped.
"""

from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa

from within_ml.lake.contracts import CONTRACTS, MAX_REJECTED_SHARE, Contract
from within_ml.lake.landing import expected_days
from within_ml.lake.quarantine import TABLE as QUARANTINE
from within_pipelines.partitions import DAILY, days
from within_pipelines.resources import LakeResource

CHECKED_TABLES = ("ad_performance", "ads", "campaigns", "accounts", "regions", "ad_scores")


def build_checks() -> list[dg.AssetChecksDefinition]:
    """The checks of all tables that have a contract."""
    checks = [_expectations(CONTRACTS[table]) for table in CHECKED_TABLES]
    return [*checks, _rejected_share(), _latest_partition()]


def _expectations(contract: Contract) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=contract.table,
        name="expectations",
        description=f"The rows meet the Great Expectations suite of the contract of {contract.table}.",
    )
    def expectations(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        from within_pipelines.expectations import validate

        result = validate(_rows(context, lake, contract), contract)
        return dg.AssetCheckResult(
            passed=result.success,
            metadata={
                "rows": result.rows,
                "sampled": result.sampled,
                "expectations": result.expectations,
                "failed": "; ".join(result.failed) or "none",
            },
        )

    return expectations


def _rejected_share() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="ad_performance",
        description=f"At most {MAX_REJECTED_SHARE:.0%} of the rows went to quarantine; none is best.",
    )
    def rejected_share(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> dg.AssetCheckResult:
        wanted_days = _days(context, lake, "ad_performance")
        wanted = {"date": wanted_days, "table": "ad_performance"}
        rejected = lake.store.read(QUARANTINE, wanted).num_rows if lake.store.exists(QUARANTINE) else 0
        accepted = lake.store.read("ad_performance", {"date": wanted_days}, columns=["date"]).num_rows
        share = rejected / max(rejected + accepted, 1)
        return dg.AssetCheckResult(
            passed=share <= MAX_REJECTED_SHARE,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={"rejected": rejected, "accepted": accepted, "share": share},
        )

    return rejected_share


def _latest_partition() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="ad_performance",
        description="Every day that the sources cover has its partition, the latest one too.",
    )
    def latest_partition(lake: LakeResource) -> dg.AssetCheckResult:
        first, last = DAILY.get_first_partition_key(), DAILY.get_last_partition_key()
        if first is None or last is None:
            return dg.AssetCheckResult(passed=True, metadata={"reason": "the history has no day yet"})
        expected = expected_days(lake.store, date.fromisoformat(first), date.fromisoformat(last))
        missing = sorted(set(expected) - set(lake.store.dates("ad_performance")))
        return dg.AssetCheckResult(
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "latest_expected": expected[-1].isoformat() if expected else "",
                "missing_days": len(missing),
                "first_missing": missing[0].isoformat() if missing else "",
            },
        )

    return latest_partition


def _days(context: dg.AssetCheckExecutionContext, lake: LakeResource, table: str) -> list[date]:
    """The days of the run; the table's newest where the check runs without any."""
    run = context.op_execution_context
    if run.has_partition_key or run.has_partition_key_range:
        return days(list(run.partition_keys))
    return list(lake.store.dates(table)[-1:])


def _rows(context: dg.AssetCheckExecutionContext, lake: LakeResource, contract: Contract) -> pa.Table:
    filters: dict[str, Any] = {"date": _days(context, lake, contract.table)} if contract.partitioned else {}
    return lake.store.read(contract.table, filters)
