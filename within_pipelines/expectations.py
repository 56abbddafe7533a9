"""Great Expectations suites built from the contracts: the readable report of what a partition was expected to be.

The audit before a commit is `within_ml.lake.audit`; a suite repeats its promises in words, for people. Results hold
sample values of rows and therefore stay out of logs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from within_ml.lake.contracts import ID_PATTERN, Column, Contract

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult
    from great_expectations.datasource.fluent.interfaces import Batch

MAX_ROWS = 1_000_000
"""A larger partition is judged on a fixed sample of this many rows, drawn evenly from every account."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """How a partition met the expectations of its contract.

    ``failed`` holds one sentence per expectation that was not met; ``raw`` is Great Expectations' own result.
    """

    table: str
    rows: int
    sampled: bool
    expectations: int
    failed: tuple[str, ...]
    raw: ExpectationSuiteValidationResult

    @property
    def success(self) -> bool:
        """Whether all expectations were met."""
        return not self.failed


def build_suite(contract: Contract) -> ExpectationSuite:
    """Make the suite of a contract: its columns, and for each column nullability, range, values and form."""
    import great_expectations as gx
    from great_expectations import expectations as gxe

    suite = gx.ExpectationSuite(name=contract.table)
    suite.add_expectation(gxe.ExpectTableColumnsToMatchSet(column_set=list(contract.names), exact_match=False))
    suite.add_expectation(
        gxe.ExpectCompoundColumnsToBeUnique(column_list=list(contract.key))
        if len(contract.key) > 1
        else gxe.ExpectColumnValuesToBeUnique(column=contract.key[0])
    )
    for column in contract.columns:
        for expectation in _column_expectations(column):
            suite.add_expectation(expectation)
    if {"clicks", "impressions"} <= set(contract.names):
        suite.add_expectation(
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="impressions", column_B="clicks", or_equal=True)
        )
    return suite


def _column_expectations(column: Column) -> list[Any]:
    from great_expectations import expectations as gxe

    found: list[Any] = []
    if not column.nullable:
        found.append(gxe.ExpectColumnValuesToNotBeNull(column=column.name))
    if column.minimum is not None or column.maximum is not None:
        found.append(
            gxe.ExpectColumnValuesToBeBetween(column=column.name, min_value=column.minimum, max_value=column.maximum)
        )
    if column.values:
        found.append(gxe.ExpectColumnValuesToBeInSet(column=column.name, value_set=list(column.values)))
    if column.identifier:
        found.append(gxe.ExpectColumnValuesToMatchRegex(column=column.name, regex=ID_PATTERN))
    return found


def validate(rows: pa.Table, contract: Contract, *, result_format: str = "BOOLEAN_ONLY") -> SuiteResult:
    """Judge rows by the suite of their contract."""
    sample = stratified_sample(rows, MAX_ROWS)
    batch = _batch(sample)
    result = batch.validate(build_suite(contract), result_format=result_format)
    failed = tuple(_sentence(r) for r in result.results if not r.success)
    return SuiteResult(
        contract.table, rows.num_rows, sample.num_rows < rows.num_rows, len(result.results), failed, result
    )


def report_html(rows: pa.Table, contract: Contract) -> str:
    """The suite's result as a page for people, with counts and examples of unexpected values."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    result = validate(rows, contract, result_format="SUMMARY")
    return str(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result.raw)))


def stratified_sample(rows: pa.Table, limit: int) -> pa.Table:
    """At most about `limit` rows, the same every time: of each account the share that the limit allows.

    >>> stratified_sample(pa.table({"account_id": ["a", "b"]}), 5).num_rows
    2
    """
    if rows.num_rows <= limit:
        return rows
    step = rows.num_rows / limit
    keys = [c for c in ("account_id", "campaign_id", "ad_id") if c in rows.column_names]
    ordered = rows.sort_by([(k, "ascending") for k in keys]) if keys else rows
    # Every step-th row of rows sorted by account takes the same share of every account.
    positions = pc.cast(pc.floor(pc.multiply(pa.array(range(limit)), step)), pa.int64())
    return ordered.take(positions)


def _batch(rows: pa.Table) -> Batch:
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    name = hashlib.sha256("".join(rows.column_names).encode()).hexdigest()[:8]
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    return asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": rows.to_pandas()})


def _sentence(result: Any) -> str:
    config = result.expectation_config
    arguments = {k: v for k, v in config.kwargs.items() if k != "batch_id"}
    return f"{config.type} {arguments}"
