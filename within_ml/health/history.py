"""From daily performance to rows of accounts: the indicators of a day, and what became of the account after it.

How indicators and states are computed is in `indicators` and `labels`; which columns a model takes, in `predictor`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from within_ml.base import ATTRIBUTION_DELAY_DAYS
from within_ml.errors import InputError, shown
from within_ml.health.daily import checked, daily_grid
from within_ml.health.hazard import Spells
from within_ml.health.indicator_names import INDICATORS
from within_ml.health.indicators import account_indicators
from within_ml.health.labels import NEVER, AccountStates, account_states, days_until
from within_ml.splits import to_days

logger = logging.getLogger(__name__)

Days = NDArray[np.datetime64]
Integers = NDArray[np.int64]

KEYS = ("account_id", "date")
GONE, NO_HISTORY, LABEL = "gone", "no_history", "label"
CONTEXT = ("industry", "country")
"""Columns of the accounts table that a model may learn from, beside those that indicators are made of."""

ACCOUNT_COLUMNS = ("onboarded_date", "churned_date", "monthly_budget", *CONTEXT)
"""Columns of the accounts table that are looked at."""

MAX_DAYS = 3_660
MONEY = ("spend", "conversions", "revenue")


@dataclass(frozen=True, slots=True, eq=False)
class AccountRows:
    """Accounts on days, with what is known of their future at the end of the data.

    ``frame`` has `KEYS`, features, and `GONE`: whether it could be seen on the day that the account had left.
    """

    frame: pd.DataFrame
    spells: Spells
    until_bad: Integers

    def labelled(self, days: int) -> tuple[pd.DataFrame, NDArray[np.float64], Integers]:
        """Return rows of accounts that are there, whether they get into a bad state within so many days, and places.

        Rows for which that is not known are left out.
        """
        known = (self.spells.could_follow >= days) & (
            (self.until_bad <= days) | (self.spells.followed >= days)
        )  # fmt: skip
        kept = np.flatnonzero(known & ~self.frame[GONE].to_numpy(dtype=bool))
        return self.frame.iloc[kept], (self.until_bad[kept] <= days).astype(np.float64), kept


def read_daily(account_data: pd.DataFrame, *, as_of: date | None = None) -> pd.DataFrame:
    """Return the checked rows of daily performance, without days after ``as_of``.

    Money in a currency that the account no longer has is taken as not known: two currencies do not add up.

    Raises
    ------
    InputError
        If a column is missing or a value is not what it should be, or the days reach over more than ten years, which is
        no history but a wrong date.
    """
    rows = checked(account_data)
    if as_of is not None:
        later = rows["date"].to_numpy() > np.datetime64(as_of, "D")
        if later.any():
            logger.info("health: %d rows are later than %s and are not read", int(later.sum()), as_of)
        rows = rows[~later]
    if len(rows):
        first, last = rows["date"].min(), rows["date"].max()
        if (last - first).days > MAX_DAYS:
            raise InputError(
                f"Daily performance must lie within {MAX_DAYS} days, however: {first:%Y-%m-%d} to {last:%Y-%m-%d}. "
                "Correct the date that is no day of this history."
            )
    return _one_currency(rows)


def _one_currency(rows: pd.DataFrame) -> pd.DataFrame:
    if "currency" not in rows.columns or not len(rows):
        return rows
    known = rows[rows["currency"].notna()].sort_values("date", kind="stable")
    latest = known.groupby("account_id")["currency"].last()
    now = rows["account_id"].map(latest)
    other = rows["currency"].notna() & (rows["currency"] != now)
    if not other.any():
        return rows
    names = rows.loc[other, "account_id"].unique()
    logger.warning("health: %s changed the currency; the money before that is not read", shown(names))
    return rows.assign(**{m: rows[m].mask(other) for m in MONEY if m != "conversions" and m in rows.columns})


def account_rows(
    account_data: pd.DataFrame,
    accounts: pd.DataFrame | None = None,
    account_features: pd.DataFrame | None = None,
    *,
    dates: Days | None = None,
    as_of: date | None = None,
    step_days: int | None = None,
    settled: bool = False,
) -> AccountRows:
    """Return a row for each account and wanted day.

    Parameters
    ----------
    account_data, accounts
        As `indicators.account_indicators` takes them; ``accounts`` may also have ``churned_date`` and `CONTEXT`.
    account_features
        Rows of the lake's table, joined by account and date.
    dates
        Wanted days; by default all days of the data, or with ``step_days`` every so many, counted back from the last.
    as_of
        Nothing later is read.
    settled
        Whether days whose conversions are not complete yet are left out, as labels must.
    """
    if settled and as_of is not None:
        as_of = as_of - timedelta(days=ATTRIBUTION_DELAY_DAYS)
    rows = read_daily(account_data, as_of=as_of)
    accounts = accounts_of(rows, accounts)
    if rows.empty:
        frame = pd.DataFrame(columns=[*KEYS, *INDICATORS, GONE])
        nothing = np.zeros(0, dtype=np.int64)
        return AccountRows(frame, Spells(np.zeros(0, dtype=object), nothing, nothing, nothing), nothing)
    last = _last_day(rows, dates)
    grid = daily_grid(rows, last=last)
    states = account_states(grid, accounts)
    found = account_indicators(rows, accounts, last=pd.Timestamp(last).date())
    day = (found["date"].to_numpy().astype("datetime64[D]") - grid.first).astype(np.int64)
    if step_days is not None:
        chosen = (grid.shape[1] - 1 - day) % step_days == 0
    else:
        chosen = np.ones(len(found), dtype=bool) if dates is None else np.isin(grid.dates[day], dates)
    found, day = found[chosen].reset_index(drop=True), day[chosen]
    account = pd.Index(grid.accounts).get_indexer(found["account_id"])
    found[GONE] = states.seen_gone[account, day]
    found = _with_context(found, accounts)
    found = _with_features(found, account_features)
    return AccountRows(found, *_futures(states, account, day, found["account_id"].to_numpy(dtype=object)))


def _last_day(rows: pd.DataFrame, dates: Days | None) -> np.datetime64:
    days = rows["date"].to_numpy().astype("datetime64[D]")
    last = days.max() if dates is None or not len(dates) else max(days.max(), dates.max())
    if (last - days.min()).astype(int) > MAX_DAYS:
        raise InputError(
            f"The wanted dates must lie within {MAX_DAYS} days of the first performance, {days.min()}, however: {last}."
        )
    return np.datetime64(last, "D")


def _futures(
    states: AccountStates, account: Integers, day: Integers, names: NDArray[np.object_]
) -> tuple[Spells, Integers]:
    until_gone, until_bad = days_until(states.gone)[account, day], days_until(states.bad)[account, day]
    followed = np.maximum(states.known_until[account] - day, 0)
    could_follow = states.gone.shape[1] - 1 - day
    spells = Spells(names, np.minimum(until_gone, NEVER), followed, could_follow)
    return spells, until_bad


def accounts_of(rows: pd.DataFrame, accounts: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return the accounts table as it is, if it is one; without one what the daily rows tell of their accounts.

    Rows may have the columns of the accounts table joined to them; the latest value that is there counts.

    Raises
    ------
    InputError
        If it has no ``account_id``, or an account twice.
    """
    if accounts is None:
        told = [name for name in ACCOUNT_COLUMNS if name in rows.columns]
        if not told or rows.empty:
            return None
        return rows.sort_values("date", kind="stable").groupby("account_id")[told].last().reset_index()
    if not isinstance(accounts, pd.DataFrame) or "account_id" not in accounts.columns:
        raise InputError("accounts must be a DataFrame with one row per account_id, however: there is no such column.")
    twice = accounts.loc[accounts["account_id"].duplicated(), "account_id"]
    if len(twice):
        raise InputError(f"accounts must have one row per account_id, however: {shown(twice.unique())} several times.")
    return accounts


def _with_context(rows: pd.DataFrame, accounts: pd.DataFrame | None) -> pd.DataFrame:
    if accounts is None:
        return rows
    table = accounts.set_index("account_id").reindex(rows["account_id"])
    told = {name: table[name].to_numpy(dtype=object, na_value=None) for name in CONTEXT if name in table.columns}
    return rows.assign(**told)


def _with_features(rows: pd.DataFrame, account_features: pd.DataFrame | None) -> pd.DataFrame:
    if account_features is None:
        return rows
    for key in KEYS:
        if key not in account_features.columns:
            raise InputError(f"account_features must have the columns {', '.join(KEYS)}, however: {key} is missing.")
    numbers = [
        str(name)
        for name in account_features.columns
        if name not in rows.columns and pd.api.types.is_numeric_dtype(account_features[name])
    ]
    table = account_features[[*KEYS, *numbers]].assign(date=to_days(account_features["date"]).astype("datetime64[us]"))
    if table.duplicated(list(KEYS)).any():
        raise InputError("account_features must have one row per account and date, however: some are there twice.")
    return rows.merge(table, on=list(KEYS), how="left", validate="many_to_one")


def without_rows(
    accounts: pd.DataFrame | None, rows: pd.DataFrame, dates: Days, account_data: pd.DataFrame
) -> pd.DataFrame:
    """Return `KEYS` and flags of accounts that are clients on the days and have no row.

    There is no performance of them yet, or none for so long that they have left.
    """
    if accounts is None or not len(dates):
        return pd.DataFrame({"account_id": [], "date": [], GONE: [], NO_HISTORY: []}).astype(
            {"account_id": object, "date": "datetime64[us]", GONE: bool, NO_HISTORY: bool}
        )
    table = accounts[["account_id"]].assign(
        begin=_dates(accounts, "onboarded_date", np.datetime64("1900-01-01")),
        end=_dates(accounts, "churned_date", np.datetime64("2900-01-01")),
    )
    wanted = table.merge(pd.DataFrame({"date": dates.astype("datetime64[us]")}), how="cross")
    wanted = wanted[(wanted["begin"] <= wanted["date"]) & (wanted["date"] < wanted["end"])]
    known = pd.MultiIndex.from_frame(rows[list(KEYS)]) if len(rows) else pd.MultiIndex.from_arrays([[], []])
    there = pd.MultiIndex.from_frame(wanted[list(KEYS)]).isin(known)
    found = wanted.loc[~there, list(KEYS)].reset_index(drop=True)
    first = account_data.groupby("account_id")["date"].min()
    begun = pd.to_datetime(found["account_id"].map(first)) <= found["date"]
    return found.assign(**{GONE: begun, NO_HISTORY: ~begun})


def _dates(accounts: pd.DataFrame, column: str, otherwise: np.datetime64) -> Any:
    if column not in accounts.columns:
        return otherwise.astype("datetime64[us]")
    days = pd.to_datetime(accounts[column]).to_numpy().astype("datetime64[us]")
    return np.where(np.isnat(days), otherwise.astype("datetime64[us]"), days)


def wanted_dates(dates: ArrayLike | str | date | None, rows: pd.DataFrame) -> Days | None:
    """Return the days asked for: the last one of the rows if None, every one (None) if ``"all"``."""
    if isinstance(dates, str) and dates == "all":
        return None
    if dates is None:
        return rows["date"].to_numpy().astype("datetime64[D]").max(keepdims=True) if len(rows) else to_days([])
    one: Sequence[Any] = [dates] if isinstance(dates, str | date) else list(dates)  # type: ignore[arg-type]
    return np.unique(to_days(one))
