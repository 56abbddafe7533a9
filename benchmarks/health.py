"""Account health on simulated agencies whose accounts leave by a hazard that is not linear, beside Cox's model.

    pip install --target .peers_lifelines lifelines==0.30.3
    python -m benchmarks.health [--seeds 5] [--accounts 400] [--days 365] [--lifelines .peers_lifelines]

Both learn from what was known on one day and are judged on the 18 weeks after it. lifelines runs in a process of its
own with the libraries that it wants.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import RESULTS, machine, table, write_result
from benchmarks.survival import auc, brier, calibration_line, integrated
from within_ml.health import AccountHealthPredictor
from within_ml.health.hazard import Spells
from within_ml.health.labels import NEVER
from within_ml.health.warnings import warning_report
from within_ml.lake.simulation import Agency, SimulationConfig, simulate

GRID = np.array([7, 14, 21, 30, 45, 60, 75, 90], dtype=np.float64)
TOLD = (14, 30, 90)
TEST_DAYS = 126
STEP = 7
NOT_FEATURES = ("account_id", "date", "gone", "no_history", "country")
FALSE_ALARMS = 0.10
PEER = Path(__file__).with_name("cox_peer.py")


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """An agency's days by account, ad, audience and region, its accounts, and the day that divides past and future."""

    agency: Agency
    performance: pd.DataFrame
    accounts: pd.DataFrame
    as_of: date

    @property
    def last(self) -> date:
        return self.agency.config.last_date

    def known(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Performance and accounts as they were known on the dividing day."""
        accounts = self.agency.dimensions(as_of=self.as_of)["accounts"].to_pandas()
        return self.performance[self.performance["date"] <= self.as_of], accounts

    def outcomes(self, rows: pd.DataFrame, end: date) -> tuple[np.ndarray, np.ndarray]:
        """Days until the account left, or until ``end`` if it had not by then, and whether it had."""
        day = pd.to_datetime(rows["date"])
        left = pd.to_datetime(rows["account_id"].map(self.accounts.set_index("account_id")["churned_date"]))
        event = (left <= pd.Timestamp(end)).to_numpy()
        until = left.where(event, pd.Timestamp(end))
        return (until - day).dt.days.to_numpy().astype(float), event


def history(seed: int, accounts: int, days: int, churn_model: str = "hazard") -> History:
    """Draw an agency."""
    config = SimulationConfig(
        accounts=accounts,
        days=days,
        seed=seed,
        campaigns_per_account=2,
        ads_per_campaign=2,
        regions_per_campaign=1,
        max_images=1,
        anomalies=accounts // 10,
        churn_model=churn_model,
    )
    agency = simulate(config)
    rows = pa.concat_tables(agency.performance(days_per_chunk=30)).to_pandas()
    ads = agency.ads.select(["platform", "account_id", "ad_id", "audience_age", "audience_gender"]).to_pandas()
    rows = rows.merge(ads, on=["platform", "account_id", "ad_id"])
    as_of = config.last_date - timedelta(days=TEST_DAYS)
    return History(agency, rows, agency.accounts.to_pandas(), as_of)


def landmarks(first: date, last: date, step: int = STEP) -> list[date]:
    """Days from the last one back."""
    return [last - timedelta(days=back) for back in range(0, (last - first).days + 1, step)][::-1]


def rows_at(model: AccountHealthPredictor, past: History, dates: list[date]) -> pd.DataFrame:
    """Features of the accounts that were there on those days; when they leave is not told."""
    told = past.accounts.drop(columns="churned_date")
    performance = past.performance[past.performance["date"] <= max(dates)]
    rows = model.features(performance, accounts=told, dates=dates)
    left = pd.to_datetime(rows["account_id"].map(past.accounts.set_index("account_id")["churned_date"]))
    there = ~rows["no_history"] & ~(left <= rows["date"]).to_numpy()
    return rows[there].reset_index(drop=True)


# ---- the peer


def cox_risk(folder: Path, library: Path, past: History, train: pd.DataFrame, test: pd.DataFrame) -> tuple:
    """Cox's P(left by day) of the test rows, shape (n, len(GRID)), and what the peer told."""
    time_, event = past.outcomes(train, past.as_of)
    beyond = time_ > GRID[-1]
    columns = numbers(pd.concat([train, test], ignore_index=True))
    group = pd.factorize(train["account_id"])[0]
    known = {"group": group, "time": np.where(beyond, GRID[-1], time_), "event": event & ~beyond}
    # A day that ends on the day itself says nothing.
    use = known["time"] > 0
    learned = pd.DataFrame(known).join(columns.iloc[: len(train)].reset_index(drop=True))[use]
    pq.write_table(pa.Table.from_pandas(learned, preserve_index=False), folder / "train.parquet")
    pq.write_table(pa.Table.from_pandas(columns.iloc[len(train) :], preserve_index=False), folder / "test.parquet")
    (folder / "days.json").write_text(json.dumps(GRID.tolist()))
    env = {**os.environ, "PYTHONPATH": str(library.resolve())}
    subprocess.run([sys.executable, str(PEER), str(folder)], env=env, check=True)
    risk = pq.read_table(folder / "risk.parquet").to_pandas().to_numpy()
    return risk, json.loads((folder / "told.json").read_text())


def numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """The features as numbers: categories as one column each."""
    features = rows.drop(columns=[c for c in NOT_FEATURES if c in rows.columns])
    words = [c for c in features.columns if not pd.api.types.is_numeric_dtype(features[c])]
    return pd.get_dummies(features, columns=words, dtype=float).astype(float)


# ---- what is told of a seed


def seed_figures(seed: int, accounts: int, days: int, library: Path) -> dict:
    """Everything that one agency tells."""
    past = history(seed, accounts, days)
    performance, known = past.known()
    begin = time.perf_counter()
    model = AccountHealthPredictor().fit(performance, accounts=known, as_of=past.as_of)
    seconds = time.perf_counter() - begin
    config = past.agency.config
    train = rows_at(model, past, landmarks(config.start_date + timedelta(days=28), past.as_of - timedelta(days=STEP)))
    test = rows_at(model, past, landmarks(past.as_of, past.last - timedelta(days=TEST_DAYS - 98)))
    time_, event = past.outcomes(test, past.last)
    ours = model.churn_curve(test, GRID)
    with tempfile.TemporaryDirectory() as folder:
        cox, told = cox_risk(Path(folder), library, past, train, test)
    figures = {
        "seed": seed,
        "left": int((pd.to_datetime(past.accounts["churned_date"]) > pd.Timestamp(past.as_of)).sum()),
        "left_before": int((pd.to_datetime(past.accounts["churned_date"]) <= pd.Timestamp(past.as_of)).sum()),
        "rows": len(test),
        "seconds": seconds,
        "cox": told,
        "scores": {name: scores(time_, event, risk) for name, risk in (("ours", ours), ("cox", cox))},
        "base": base_brier(time_, event),
        "line": {},
        "pairs": {},
    }
    for place, day in ((1, 14), (3, 30), (7, 90)):
        followed = (time_ >= day) | event
        figures["pairs"][day] = {
            "y": (event & (time_ <= day))[followed].tolist(),
            "ours": ours[followed, place].tolist(),
            "cox": cox[followed, place].tolist(),
        }
    figures["warnings"] = warnings_told(model, past)
    figures["actions"] = actions_told(model, test)
    return figures


def scores(time_: np.ndarray, event: np.ndarray, risk: np.ndarray) -> dict:
    """Integrated and single scores of one model."""
    briers = np.array([brier(time_, event, risk[:, k], day) for k, day in enumerate(GRID)])
    aucs = np.array([auc(time_, event, risk[:, k], day) for k, day in enumerate(GRID)])
    at = {day: int(np.flatnonzero(day == GRID)[0]) for day in TOLD}
    return {
        "ibs": integrated(briers, GRID),
        "auc": integrated(aucs, GRID),
        **{f"brier_{day}": briers[k] for day, k in at.items()},
        **{f"auc_{day}": aucs[k] for day, k in at.items()},
    }


def base_brier(time_: np.ndarray, event: np.ndarray) -> float:
    """Integrated Brier score of the best constant risk at each day, which knows the answer's mean."""
    best = []
    for day in GRID:
        shares = np.linspace(0, 1, 401)
        best.append(min(brier(time_, event, np.full(time_.size, share), day) for share in shares))
    return integrated(np.array(best), GRID)


def warnings_told(model: AccountHealthPredictor, past: History) -> dict:
    """Early warnings from the dividing day on, daily, with the model's own threshold and at exactly 10 % false alarms.

    Accounts that left in the first 30 days are left out: nobody could be warned of them in time.
    """
    days = landmarks(past.as_of + timedelta(days=1), past.last, step=1)
    rows = rows_at(model, past, days)
    time_, event = past.outcomes(rows, past.last)
    left = pd.to_datetime(rows["account_id"].map(past.accounts.set_index("account_id")["churned_date"]))
    kept = ~(left <= pd.Timestamp(past.as_of + timedelta(days=30))).to_numpy()
    rows, time_, event = rows[kept].reset_index(drop=True), time_[kept], event[kept]
    risk = model.churn_curve(rows, [30.0])[:, 0]
    told = warned(risk, rows, time_, event, past.last, {"own": model.threshold_})
    if past.agency.hazards.num_rows:
        told["truth"] = warned(true_hazard(past, rows), rows, time_, event, past.last, {})
    return told


def true_hazard(past: History, rows: pd.DataFrame) -> np.ndarray:
    """The hazard that was true in the week of each row; 0 where there was none yet, the last one under notice."""
    told = past.agency.hazards.to_pandas()[["date", "account_id", "hazard"]]
    told["date"] = pd.to_datetime(told["date"]).astype("datetime64[us]")
    asked = rows[["account_id", "date"]].assign(place=np.arange(len(rows)))
    found = pd.merge_asof(asked.sort_values("date"), told.sort_values("date"), on="date", by="account_id")
    return found.sort_values("place")["hazard"].fillna(0.0).to_numpy()


def warned(
    risk: np.ndarray, rows: pd.DataFrame, time_: np.ndarray, event: np.ndarray, last: date, thresholds: dict
) -> dict:
    """Warnings of a risk by account and day, from given thresholds on and at exactly 10 % false alarms.

    False alarms are counted in two ways: accounts that stayed and were ever warned of, and the days of such accounts
    that are under a warning.
    """
    until = np.where(event, time_, NEVER).astype(np.int64)
    follow = (pd.Timestamp(last) - pd.to_datetime(rows["date"])).dt.days.to_numpy()
    spells = Spells(rows["account_id"].to_numpy(dtype=object), until, np.minimum(time_, follow).astype(int), follow)
    stays = until == NEVER
    highest = pd.Series(risk[stays]).groupby(rows["account_id"].to_numpy()[stays]).max()
    tenth = [np.nextafter(np.quantile(v, 1 - FALSE_ALARMS, method="higher"), np.inf) for v in (highest, risk[stays])]
    told = {}
    for name, threshold in {**thresholds, "account": tenth[0], "day": tenth[1]}.items():
        report = warning_report(risk, spells, rows["date"], float(threshold))
        told[name] = {
            "threshold": float(threshold),
            "false_accounts": report.false_alarm_rate,
            "false_days": float((risk[stays] >= threshold).mean()),
            "detected": report.detected,
            "leads": report.leads["lead_days"].tolist(),
        }
    return told


def actions_told(model: AccountHealthPredictor, test: pd.DataFrame) -> dict:
    """Recommended actions of the newest test day, each predicted again with the changes that it names."""
    rows = test[test["date"] == test["date"].max()]
    model.score(rows)
    lowered, offered, with_any = 0, 0, 0
    for account in rows["account_id"]:
        own = rows[rows["account_id"] == account]
        now = float(model.predict(own)[0])
        found = model.recommend_actions(account)
        with_any += bool(found)
        for action in found:
            changed = own.assign(**{name: float(then) for name, (_, then) in action.changes.items()})
            offered += 1
            lowered += float(model.predict(changed)[0]) < now
    return {"accounts": len(rows), "with_any": with_any, "offered": offered, "lowered": lowered}
