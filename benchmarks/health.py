"""Account health on simulated agencies whose accounts leave by a hazard that is not linear, beside Cox's model.

    pip install --target .peers_lifelines lifelines==0.30.3
    python -m benchmarks.health [--seeds 5] [--accounts 400] [--days 365] [--figures FOLDER]

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
from collections.abc import Callable
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
WARM_UP = 120
"""First days of an agency that nobody gets to see: discontent needs weeks to build up, and histories have a before."""
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
    first: date
    as_of: date

    @property
    def last(self) -> date:
        return self.agency.config.last_date

    def known(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Performance and accounts as they were known on the dividing day."""
        accounts = self.agency.dimensions(as_of=self.as_of)["accounts"].to_pandas()
        accounts = accounts[accounts["account_id"].isin(self.accounts["account_id"])]
        return self.performance[self.performance["date"] <= self.as_of], accounts

    def outcomes(self, rows: pd.DataFrame, end: date) -> tuple[np.ndarray, np.ndarray]:
        """Days until the account left, or until ``end`` if it had not by then, and whether it had."""
        day = pd.to_datetime(rows["date"])
        left = pd.to_datetime(rows["account_id"].map(self.accounts.set_index("account_id")["churned_date"]))
        event = (left <= pd.Timestamp(end)).to_numpy()
        until = left.where(event, pd.Timestamp(end))
        return (until - day).dt.days.to_numpy().astype(float), event


def history(seed: int, accounts: int, days: int, churn_model: str = "hazard") -> History:
    """Draw an agency and take the days after the warm-up; accounts that left in it are nobody's."""
    config = SimulationConfig(
        accounts=accounts,
        days=WARM_UP + days,
        seed=seed,
        campaigns_per_account=2,
        ads_per_campaign=2,
        regions_per_campaign=1,
        max_images=1,
        anomalies=accounts // 10,
        drift_size=0.0,
        churn_model=churn_model,
    )
    agency = simulate(config)
    first = config.start_date + timedelta(days=WARM_UP)
    rows = pa.concat_tables(agency.performance(first=first, days_per_chunk=30)).to_pandas()
    ads = agency.ads.select(["platform", "account_id", "ad_id", "audience_age", "audience_gender"]).to_pandas()
    rows = rows.merge(ads, on=["platform", "account_id", "ad_id"])
    table = agency.accounts.to_pandas()
    there = table["churned_date"].isna() | (pd.to_datetime(table["churned_date"]) > pd.Timestamp(first))
    as_of = config.last_date - timedelta(days=TEST_DAYS)
    return History(agency, rows, table[there].reset_index(drop=True), first, as_of)


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
    train = rows_at(model, past, landmarks(past.first + timedelta(days=28), past.as_of - timedelta(days=STEP)))
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
        # Only landmarks from which everyone could be followed: of others those who left would be seen, the others not.
        followed = (pd.Timestamp(past.last) - pd.to_datetime(test["date"])).dt.days.to_numpy() >= day
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

    False alarms are counted in two ways: days of accounts that stayed on which there was a warning (``day``, as the
    model counts them), and such accounts that had one on any of 18 weeks' days (``account``).
    """
    until = np.where(event, time_, NEVER).astype(np.int64)
    follow = (pd.Timestamp(last) - pd.to_datetime(rows["date"])).dt.days.to_numpy()
    account = rows["account_id"].to_numpy(dtype=object)
    spells = Spells(account, until, np.minimum(time_, follow).astype(int), follow)
    stays = until == NEVER
    days = pd.Series(account[stays]).map(pd.Series(account[stays]).value_counts()).to_numpy()
    by_day = np.quantile(risk[stays], 1 - FALSE_ALARMS, weights=1 / days, method="inverted_cdf")
    by_account = pd.Series(risk[stays]).groupby(account[stays]).max().quantile(1 - FALSE_ALARMS, "higher")
    exact = {"day": np.nextafter(by_day, np.inf), "account": np.nextafter(by_account, np.inf)}
    return {name: lookback(risk, spells, rows, value) for name, value in {**thresholds, **exact}.items()}


def lookback(risk: np.ndarray, spells: Spells, rows: pd.DataFrame, threshold: float) -> dict:
    """What warnings from a threshold on were worth."""
    report = warning_report(risk, spells, rows["date"], float(threshold))
    return {
        "threshold": float(threshold),
        "false_days": report.false_alarm_rate,
        "false_accounts": report.ever_alarmed,
        "detected": report.detected,
        "leads": report.leads["lead_days"].tolist(),
    }


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


def planned_figures(seed: int, accounts: int, days: int) -> dict:
    """Warnings where accounts decline for 4 to 8 weeks before they leave, and others decline and recover."""
    past = history(seed, accounts, days, churn_model="planned")
    performance, known = past.known()
    model = AccountHealthPredictor().fit(performance, accounts=known, as_of=past.as_of)
    return {"seed": seed, "warnings": warnings_told(model, past)}


# ---- the page


def page(seeds: list[dict], planned: list[dict], command: str) -> str:
    """The result page."""
    version = seeds[0]["cox"]["version"]
    return f"""# Account health beside Cox's proportional hazards

{len(seeds)} simulated agencies whose accounts leave by a hazard with thresholds, U-shapes and interactions
(`churn_model="hazard"`, see `within_ml.lake.simulation.leaving`). Models see all but the last {TEST_DAYS} days of the
history, and are judged on accounts that were there on {STEP}-day landmarks of the {98 // STEP} weeks after that;
outcomes that the end of the history hides are weighed for (IPCW). Cox is lifelines {version} on the same rows and
features (scaled, cut at the 1st and 99th percentile, flags for missing values, ridge penalty by accounts left out), in
an environment of its own. Brier scores and AUCs are integrated over 7 to 90 days. "Constant" is the best constant risk
for each day, which knows the outcomes.

{score_table(seeds)}

Mean over the agencies, by horizon:

{horizon_table(seeds)}

## Calibration

Slope and intercept of the outcome's logistic regression on the log-odds, all agencies together, and the range of the
single agencies' slopes.

{calibration_table(seeds)}

## Early warnings

From the day of training on, every day, a warning where the risk of leaving within 30 days is at least the threshold;
accounts that left in the first 30 days are left out. The lead is counted from the first warning in the last 90 days
until the account left, 0 where there was none. False alarms by day: share of days on which accounts that stayed had a
warning; by account: share of those accounts that had one on any day of the {TEST_DAYS // 7} weeks. For comparison, a
warning by the true hazard of the week, which nobody can know better.

{warning_table(seeds, planned)}

## Actions

{action_text(seeds)}

Written by `{command}`. {machine()}
"""


def score_table(seeds: list[dict]) -> str:
    """One row per agency."""
    lines = []
    for f in seeds:
        ours, cox = f["scores"]["ours"], f["scores"]["cox"]
        lines.append(
            [f["seed"], f["left_before"], f["left"], f"{ours['ibs']:.4f}", f"{cox['ibs']:.4f}", f"{f['base']:.4f}",
             f"{ours['auc']:.3f}", f"{cox['auc']:.3f}"]
        )  # fmt: skip
    means = [np.mean([f["scores"][who][what] for f in seeds]) for what in ("ibs", "auc") for who in ("ours", "cox")]
    base = np.mean([f["base"] for f in seeds])
    lines.append(
        ["mean", "", "", f"{means[0]:.4f}", f"{means[1]:.4f}", f"{base:.4f}", f"{means[2]:.3f}", f"{means[3]:.3f}"]
    )
    head = [
        "agency",
        "left before",
        "left after",
        "Brier: account health",
        "Cox",
        "constant",
        "AUC: account health",
        "Cox",
    ]
    return table(head, lines)


def horizon_table(seeds: list[dict]) -> str:
    """Scores at the horizons that the product tells."""
    lines = []
    for day in TOLD:
        cells = [
            np.mean([f["scores"][who][f"{what}_{day}"] for f in seeds])
            for what in ("brier", "auc")
            for who in ("ours", "cox")
        ]
        lines.append([f"{day} days", f"{cells[0]:.4f}", f"{cells[1]:.4f}", f"{cells[2]:.3f}", f"{cells[3]:.3f}"])
    return table(["within", "Brier: account health", "Cox", "AUC: account health", "Cox"], lines)


def calibration_table(seeds: list[dict]) -> str:
    """Slopes of both models."""
    lines = []
    for day in TOLD:
        for who, name in (("ours", "account health"), ("cox", "Cox")):
            pairs = [(np.array(f["pairs"][str(day)]["y"], float), np.array(f["pairs"][str(day)][who])) for f in seeds]
            single = [calibration_line(*pair)[0] for pair in pairs]
            slope, intercept = calibration_line(*(np.concatenate(part) for part in zip(*pairs, strict=True)))
            lines.append(
                [f"{name}, {day} days", f"{slope:.2f}", f"{intercept:+.2f}", f"{min(single):.2f} to {max(single):.2f}"]
            )
    return table(["", "slope", "intercept", "slopes of single agencies"], lines)


def warning_table(seeds: list[dict], planned: list[dict]) -> str:
    """Warnings of all agencies together."""
    own, exact = "the model's own threshold", "exactly 10 % of days"
    true, of_days, of_accounts = "the true hazard", "10 % of days", "10 % of accounts"
    wanted = [
        (own, seeds, ("own",)), (exact, seeds, ("day",)), ("exactly 10 % of accounts", seeds, ("account",)),
        (f"{true}, {of_days}", seeds, ("truth", "day")), (f"{true}, {of_accounts}", seeds, ("truth", "account")),
        (f"planned decline: {own}", planned, ("own",)), (f"planned decline: {exact}", planned, ("day",)),
        ("planned decline: exactly 10 % of accounts", planned, ("account",)),
    ]  # fmt: skip
    lines = []
    for name, figures, path in wanted:
        told = [f["warnings"] for f in figures]
        if not told:
            continue
        for key in path:
            told = [t[key] for t in told]
        leads = np.concatenate([t["leads"] for t in told])
        rates = [np.mean([t[what] for t in told]) for what in ("false_days", "false_accounts")]
        caught = np.mean(leads > 0)
        lines.append([name, *(f"{r:.1%}" for r in rates), leads.size, f"{caught:.0%}", f"{np.median(leads):.0f}"])
    head = ["threshold", "false alarms by day", "by account", "accounts that left", "warned of", "median lead, days"]
    return table(head, lines)


def action_text(seeds: list[dict]) -> str:
    """What recommended actions do to the predicted risk."""
    sums = {name: sum(f["actions"][name] for f in seeds) for name in ("accounts", "with_any", "offered", "lowered")}
    return (
        f"On the newest test day {sums['with_any']} of {sums['accounts']} accounts got recommendations, "
        f"{sums['offered']} in all. Predicted again with the changes that each names, {sums['lowered']} of them lower "
        f"the risk of a bad state ({sums['lowered'] / max(sums['offered'], 1):.1%})."
    )


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """Figures of one agency, made once."""
    if not path.exists():
        path.write_text(json.dumps(make(), default=float), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=101)
    parser.add_argument("--planned", type=int, default=3, help="agencies with planned declines")
    parser.add_argument("--accounts", type=int, default=400)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--lifelines", type=Path, default=Path(".peers_lifelines"))
    parser.add_argument("--figures", type=Path, help="folder for single agencies' figures, so that a run can go on")
    parser.add_argument("--results", type=Path, default=RESULTS)
    told = parser.parse_args(arguments)
    if not (told.lifelines / "lifelines").is_dir():
        parser.exit(1, "lifelines is missing; benchmarks/peers.txt says how to install it beside the project.\n")
    with tempfile.TemporaryDirectory() as folder:
        figures = told.figures or Path(folder)
        figures.mkdir(parents=True, exist_ok=True)
        size, first = (told.accounts, told.days), told.first_seed
        seeds = [
            kept(figures / f"hazard_{s}.json", lambda s=s: seed_figures(s, *size, told.lifelines))
            for s in range(first, first + told.seeds)
        ]
        planned = [
            kept(figures / f"planned_{s}.json", lambda s=s: planned_figures(s, *size))
            for s in range(first, first + told.planned)
        ]
    command = f"python -m benchmarks.health --seeds {told.seeds} --planned {told.planned}"
    command += f" --accounts {told.accounts} --days {told.days}"
    write_result("health.md", page(seeds, planned, command), folder=told.results)


if __name__ == "__main__":
    main()
