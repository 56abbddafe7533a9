"""Feature tables from lake tables: what the pipelines call.

Each function takes ``read``, which registers a view of a lake table on a DuckDB connection, and gives Arrow tables.
What a feature is stands in `ad_features`, `account` and `labels`; how it is run in bounded memory in `execution`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from functools import lru_cache

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from within_ml.errors import InputError, shown
from within_ml.features.account import AccountInputs, account_features, agency_daily, required_account_dates
from within_ml.features.ad_features import FeatureInputs, ad_features
from within_ml.features.catalog import (
    IMAGE_AD_FEATURES,
    TEXT_AD_FEATURES,
    account_features_contract,
    ad_features_contract,
)
from within_ml.features.execution import (
    FeatureDay,
    Limits,
    Reader,
    Script,
    copy_table,
    cut_days,
    pack,
    run_buckets,
    to_sql,
    unbound,
    workspace,
)
from within_ml.features.labels import LABEL_COLUMNS, labels, required_label_dates, training_rows
from within_ml.features.performance import ad_daily, daily_totals, platform_daily
from within_ml.features.temporal import Period, required_dates
from within_ml.features.text_keys import distinct_texts
from within_ml.lake.contracts import AD_KEY, CONTRACTS

CONTENT_SCHEMA = pa.schema(
    [pa.field("text_hash", pa.string(), nullable=False), *(pa.field(f.name, pa.float64()) for f in TEXT_AD_FEATURES)]
)
"""Columns of the table ``ad_content``: one row per distinct text."""

_KNOWN_IMAGES = pa.schema(
    [pa.field("image_path", pa.string(), nullable=False), *(pa.field(f.name, pa.float64()) for f in IMAGE_AD_FEATURES)]
)

_LABEL_SCHEMA = pa.schema(
    [("date", pa.date32()), *((k, pa.string()) for k in AD_KEY), *((c, pa.int64()) for c in LABEL_COLUMNS)]
)


def compute_ad_features(
    read: Reader,
    *,
    first: date,
    last: date,
    content: pa.Table | None = None,
    images: pa.Table | None = None,
    accounts: Sequence[str] = (),
    campaigns: Sequence[str] = (),
    limits: Limits | None = None,
) -> Iterator[FeatureDay]:
    """Compute ``ad_features`` day by day.

    Parameters
    ----------
    read
        Gives ad_performance, ads and campaigns. Performance is read for `required_dates`, once.
    first, last
        The wanted days, both included. Any cut of a range gives the same rows.
    content
        The table ``ad_content`` (`CONTENT_SCHEMA`); texts that are not in it have null text features.
    images
        The table ``image_content`` (`image_content.IMAGE_SCHEMA`); images that are not in it have null features.
    accounts, campaigns
        Only rows of these, if any are named; their values are the same as in a full run.
    limits
        What the run may use.

    Yields
    ------
    FeatureDay
        Each day of the range in order, also one without rows.

    Raises
    ------
    InputError
        If ``last`` is before ``first``, or ``content`` or ``images`` lacks a column.
    """
    period, limits, contract = Period(first, last), limits or Limits(), ad_features_contract()
    content = _checked_content(content)
    images = _checked(images, _KNOWN_IMAGES, "images")
    with workspace(limits) as (con, folder):
        performance = _view(read, con, "ad_performance", required_dates(first, last))
        ads, starts = _view(read, con, "ads"), _view(read, con, "campaigns")
        daily = _copy_daily(con, performance, accounts)
        # A narrowed run still needs the platforms' rates over all accounts.
        platforms = platform_daily(performance) if accounts else daily_totals(daily, ["platform"])
        copy_table(con, "platforms", platforms.select("platform", "day", "impressions", "clicks"))
        copy_table(con, "all_ads", _of(ads, accounts), sharded=True)
        copy_table(con, "known_campaigns", starts)
        con.register("known_content", content)
        con.register("known_images", images)
        script = _ad_script(period, tuple(campaigns))
        buckets = pack(con, ["all_daily", "all_ads"], period, limits)
        results = run_buckets(con, folder, script, buckets, tables=["daily", "ads"])
        yield from cut_days(results, period, contract)


def compute_account_features(
    read: Reader, *, first: date, last: date, accounts: Sequence[str] = (), limits: Limits | None = None
) -> Iterator[FeatureDay]:
    """Compute ``account_features`` day by day.

    Parameters
    ----------
    read
        Gives ad_performance and accounts. Performance is read for `required_account_dates`, once.
    first, last
        The wanted days, both included. Any cut of a range gives the same rows.
    accounts
        Only rows of these, if any are named; their values are the same as in a full run.
    limits
        What the run may use.

    Yields
    ------
    FeatureDay
        Each day of the range in order, also one without rows.
    """
    period, limits, contract = Period(first, last), limits or Limits(), account_features_contract()
    with workspace(limits) as (con, folder):
        performance = _view(read, con, "ad_performance", required_account_dates(first, last))
        daily = _copy_daily(con, performance, ())
        known = _view(read, con, "accounts")
        copy_table(con, "agency", agency_daily(daily, known))
        copy_table(con, "all_accounts", known.mutate(ad_id=known.account_id), sharded=True)
        script = _account_script(period, tuple(accounts))
        buckets = pack(con, ["all_daily", "all_accounts"], period, limits)
        results = run_buckets(con, folder, script, buckets, tables=["daily", "accounts"])
        yield from cut_days(results, period, contract)


# Compiling costs a third of a second, as much as a small night itself.
@lru_cache(maxsize=8)
def _ad_script(period: Period, campaigns: tuple[str, ...]) -> Script:
    script = Script()
    rows = ad_features(unbound_inputs(), period, checkpoint=script)
    rows = rows.filter(rows.campaign_id.isin(list(campaigns))) if campaigns else rows
    script.finish(rows, order_by=["date", *ad_features_contract().sort_by])
    return script


@lru_cache(maxsize=8)
def _account_script(period: Period, accounts: tuple[str, ...]) -> Script:
    script = Script()
    rows = _of(account_features(unbound_account_inputs(), period, checkpoint=script), accounts)
    script.finish(rows, order_by=["date", *account_features_contract().sort_by])
    return script


def compute_training_rows(
    read: Reader, *, first: date, last: date, max_rows: int | None = None, limits: Limits | None = None
) -> pa.Table:
    """Join the feature rows of a range of days with their labels.

    Parameters
    ----------
    read
        Gives ad_features of the range and ad_performance of `labels.required_label_dates`. The caller chooses ``last``
        so that its label is mature (`labels.last_trainable`).
    first, last
        Days of the features, both included.
    max_rows
        About so many rows are kept, chosen by a hash of ad and day, the same in every run; by default all.
    limits
        What the run may use.

    Returns
    -------
    pyarrow.Table
        Columns of ``ad_features``, label_impressions (> 0), label_clicks; sorted by date, account, campaign, ad.
    """
    period, limits = Period(first, last), limits or Limits()
    with workspace(limits) as (con, folder):
        _copy_daily(con, _view(read, con, "ad_performance", required_label_dates(first, last)), ())
        script = Script()
        script.finish(labels(unbound_inputs().daily, period), order_by=["date"])
        buckets = pack(con, ["all_daily"], period, limits)
        results = run_buckets(con, folder, script, buckets, tables=["daily"])
        found = [_LABEL_SCHEMA.empty_table(), *(result.all().cast(_LABEL_SCHEMA) for result in results)]
        con.register("labels", pa.concat_tables(found))
        features = _view(read, con, "ad_features", period.days)
        rows = training_rows(features, _sampled(con, max_rows))
        order = ", ".join(["date", *ad_features_contract().sort_by])
        return con.execute(f"FROM ({to_sql(rows)}) ORDER BY {order}").to_arrow_table()


def _sampled(con: duckdb.DuckDBPyConnection, max_rows: int | None) -> ir.Table:
    """Keep about so many labels, each by its own hash: more history never changes whether a row was drawn by chance."""
    labelled = unbound(_LABEL_SCHEMA, "labels")
    ((count,),) = con.execute("SELECT count(*) FROM labels").fetchall()
    if max_rows is None or count <= max_rows:
        return labelled
    key = labelled.date.cast("string")
    for column in AD_KEY:
        key = key + "\x1f" + labelled[column]
    return labelled.filter(key.hexdigest("md5") < f"{max_rows * 16**8 // count:08x}")


def missing_content(read: Reader, content: pa.Table | None, *, last: date) -> pa.Table:
    """Return the distinct texts of ads known by ``last`` that ``content`` does not hold yet.

    Returns
    -------
    pyarrow.Table, shape (n_texts, 3)
        text_hash, headline, body: what `text_keys.content_rows` turns into rows of ``ad_content``.
    """
    with duckdb.connect() as con:
        ads = _view(read, con, "ads")
        con.register("known_content", _checked_content(content))
        texts = distinct_texts(ads.filter(ads.valid_from <= ibis.date(last.isoformat())))
        absent = texts.anti_join(unbound(CONTENT_SCHEMA, "known_content"), "text_hash").order_by("text_hash")
        return con.execute(to_sql(absent)).to_arrow_table()


def unbound_inputs() -> FeatureInputs:
    """Return the inputs of `ad_features` as tables that are only named and typed."""
    performance = unbound(CONTRACTS["ad_performance"].schema, "ad_performance")
    return FeatureInputs(
        daily=ibis.table(ad_daily(performance).schema(), name="bucket_daily"),
        platforms=ibis.table(platform_daily(performance).schema(), name="platforms"),
        ads=unbound(CONTRACTS["ads"].schema, "bucket_ads"),
        campaigns=unbound(CONTRACTS["campaigns"].schema, "known_campaigns"),
        content=unbound(CONTENT_SCHEMA, "known_content"),
        images=unbound(_KNOWN_IMAGES, "known_images"),
    )


def unbound_account_inputs() -> AccountInputs:
    """Return the inputs of `account_features` as tables that are only named and typed."""
    daily, accounts = unbound_inputs().daily, unbound(CONTRACTS["accounts"].schema, "bucket_accounts")
    return AccountInputs(
        daily=daily, agency=ibis.table(agency_daily(daily, accounts).schema(), name="agency"), accounts=accounts
    )


def _view(read: Reader, con: duckdb.DuckDBPyConnection, table: str, days: Sequence[date] = ()) -> ir.Table:
    """Register a lake table, limited to the days if any, and return it as an expression."""
    contract = ad_features_contract() if table == "ad_features" else CONTRACTS[table]
    first, last = (days[0], days[-1]) if days else (None, None)
    return unbound(contract.schema, read(con, table, first, last))


def _of(table: ir.Table, accounts: Sequence[str]) -> ir.Table:
    return table.filter(table.account_id.isin(list(accounts))) if accounts else table


def _copy_daily(con: duckdb.DuckDBPyConnection, performance: ir.Table, accounts: Sequence[str]) -> ir.Table:
    """Store the performance of ads by day, with shards, and return it without them."""
    daily = ad_daily(_of(performance, accounts))
    copy_table(con, "all_daily", daily, sharded=True)
    return ibis.table(daily.schema(), name="all_daily")


def _checked_content(content: pa.Table | None) -> pa.Table:
    return _checked(content, CONTENT_SCHEMA, "content")


def _checked(table: pa.Table | None, schema: pa.Schema, name: str) -> pa.Table:
    if table is None:
        return schema.empty_table()
    absent = [column for column in schema.names if column not in table.column_names]
    if absent:
        raise InputError(
            f"{name} must have the columns {schema.names[0]} and all {name} features; {shown(absent)} are missing. "
            f"Compute {'ad_content' if name == 'content' else 'image_content'} again with this version."
        )
    return table.select(schema.names)
