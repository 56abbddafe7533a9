"""Whether intervals of the observed click-through rate hold, and how wide they are, beside plain conformal ones.

    python -m benchmarks.intervals [--seeds 1 2 3] [--accounts 40] [--days 364] [--weeks 26] [--upworthy-weeks 52]

The ad score predicts the last weeks out of time by `within_ml.ad_score.backtest`, with a new model for every two weeks
of the simulated agency and for every week of Upworthy. Each week then gets intervals calibrated on the predictions of
the eight weeks before it whose labels were mature on its first day: what a weekly training has. All methods calibrate
on the same rows. The simulated agency is judged on every row as scored night by night, and on one random night of each
ad and week; Upworthy by month.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from crepes import ConformalRegressor

from benchmarks.agencies import agency_rows, rate, shown, upworthy_rows
from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.ad_score import AdScorePredictor
from within_ml.ad_score.backtest import ExpectedImpressions, backtest
from within_ml.base import LABEL_MATURITY_DAYS
from within_ml.lake.simulation import SimulationConfig, simulate
from within_ml.uncertainty.coverage import CoverageReport, Intervals, coverage_report
from within_ml.uncertainty.intervals import RateIntervals
from within_ml.uncertainty.scale import history_difficulty

CALIBRATION_DAYS = 56
CONFIDENCE, MIN_ROWS = 0.9, 200
OURS, PLAIN = "RateIntervals", "split conformal, absolute residual"
Method = Callable[[pd.DataFrame, pd.DataFrame], Intervals]


class CalibratedAdScore:
    """The ad score with its calibrator, which `AdScorePredictor.fit_model` leaves to others."""

    def fit_model(self, X, y, *, sample_weight=None):
        self.model = AdScorePredictor(feature_config={"n_threads": 1}).fit(X, y, sample_weight=sample_weight)

    def predict(self, X):
        return self.model.predict(X)


def predicted(rows: pd.DataFrame, weeks: int, block_days: int) -> pd.DataFrame:
    """Rows of the last weeks and of the calibration before them, with prediction and block."""
    days = weeks * 7 + CALIBRATION_DAYS + 14
    found = backtest(CalibratedAdScore, rows, rate(rows), shown(rows), days=days, block_days=block_days)
    late = rows.iloc[found["row"]].reset_index(drop=True)
    late = late.assign(p=found["prediction"], block=found["block"], y=rate(late), date=pd.to_datetime(late["date"]))
    late["account"] = late["platform"] + "/" + late["account_id"]
    late["hard"] = history_difficulty(late["prior_ctr"], late["prior_impressions"])
    late["week"] = (late["date"].max() - late["date"]).dt.days // 7
    late["expected"] = 1.0
    for block in late["block"].unique():
        mine = late["block"] == block
        known = pd.to_datetime(rows["date"]) + pd.Timedelta(days=LABEL_MATURITY_DAYS) <= late.loc[mine, "date"].min()
        usual = ExpectedImpressions.fit(rows[known], shown(rows)[known])
        late.loc[mine, "expected"] = usual.predict(late[mine])
    return late


def plain(calibration: pd.DataFrame, wanted: pd.DataFrame) -> Intervals:
    return _absolute(calibration, wanted, None, None)


def plain_per_account(calibration: pd.DataFrame, wanted: pd.DataFrame) -> Intervals:
    rows = calibration["account"].value_counts()
    large = set(rows.index[rows >= MIN_ROWS])
    bins = [f["account"].where(f["account"].isin(large), "").to_numpy(str) for f in (calibration, wanted)]
    found = _absolute(calibration, wanted, *bins)
    small = bins[1] == ""
    pooled = plain(calibration, wanted)
    lower, upper = (np.where(small, a, b) for a, b in ((pooled.lower, found.lower), (pooled.upper, found.upper)))
    return Intervals(lower, upper, CONFIDENCE)


def _absolute(calibration, wanted, bins, wanted_bins) -> Intervals:
    regressor = ConformalRegressor().fit((calibration["y"] - calibration["p"]).to_numpy(), bins=bins)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = regressor.predict_int(
            wanted["p"].to_numpy(), bins=wanted_bins, confidence=CONFIDENCE, y_min=0.0, y_max=1.0
        )
    return Intervals(found[:, 0], found[:, 1], CONFIDENCE)


def ours(*, impressions: str = "label_impressions", difficulty: bool = True, accounts: bool = True) -> Method:
    def method(calibration: pd.DataFrame, wanted: pd.DataFrame) -> Intervals:
        def told(rows):
            return rows["hard"] if difficulty else None

        groups = (calibration["account"], wanted["account"]) if accounts else (None, None)
        fitted = RateIntervals(CONFIDENCE, MIN_ROWS).fit(
            calibration["p"], calibration["y"], calibration[impressions], groups[0],
            periods=-calibration["week"], difficulty=told(calibration),
        )  # fmt: skip
        return fitted.predict(wanted["p"], wanted[impressions], groups[1], difficulty=told(wanted))

    return method


METHODS: dict[str, Method] = {
    OURS: ours(),
    "RateIntervals, impressions expected instead of served": ours(impressions="expected"),
    "RateIntervals without accounts": ours(accounts=False),
    "RateIntervals without difficulty": ours(difficulty=False),
    PLAIN: plain,
    "split conformal, absolute residual, per account": plain_per_account,
}


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows that were judged, each method's intervals of them, and calibration rows of each row's account."""

    rows: pd.DataFrame
    intervals: dict[str, Intervals]
    calibration_rows: np.ndarray

    def report(self, method: str, groups: pd.Series, chosen: np.ndarray | None = None) -> CoverageReport:
        kept = np.ones(len(self.rows), bool) if chosen is None else chosen
        found = self.intervals[method]
        part = Intervals(found.lower[kept], found.upper[kept], CONFIDENCE)
        rows = self.rows[kept]
        return coverage_report(part, rows["y"], groups[kept], calibration_rows=self.calibration_rows[kept])

    def one_night_per_ad_and_week(self) -> np.ndarray:
        order = np.random.default_rng(0).permutation(len(self.rows))
        key = ["account", "ad_id", "week"]
        first = self.rows.iloc[order].drop_duplicates(key).index
        return self.rows.index.isin(first)


def rolling(late: pd.DataFrame, weeks: int) -> Judged:
    """Intervals of the last weeks, calibrated anew for each."""
    start_of_judging = late["date"].max() - pd.Timedelta(days=7 * weeks - 1)
    blocks: list[pd.DataFrame] = []
    counts: list[np.ndarray] = []
    found: dict[str, list[Intervals]] = {name: [] for name in METHODS}
    for _, wanted in late[late["date"] >= start_of_judging].groupby("week", sort=True):
        start = late["date"].max() - pd.Timedelta(days=7 * int(wanted["week"].iloc[0]) + 6)
        mature = late["date"] + pd.Timedelta(days=LABEL_MATURITY_DAYS) <= start
        recent = late["date"] >= start - pd.Timedelta(days=CALIBRATION_DAYS + LABEL_MATURITY_DAYS)
        calibration = late[mature & recent]
        blocks.append(wanted)
        counts.append(wanted["account"].map(calibration["account"].value_counts()).fillna(0).to_numpy(int))
        for name, method in METHODS.items():
            found[name].append(method(calibration, wanted))
    joined = {
        name: Intervals(*(np.concatenate([getattr(f, side) for f in parts]) for side in ("lower", "upper")), CONFIDENCE)
        for name, parts in found.items()
    }
    return Judged(pd.concat(blocks, ignore_index=True), joined, np.concatenate(counts))


def agency_section(agencies: list[Judged]) -> Iterator[str]:
    yield from (
        f"{title}\n\n{table(HEADER, [line(name, agencies, pick) for name in METHODS])}\n"
        for title, pick in (
            ("Every row, night by night:", lambda a: np.ones(len(a.rows), bool)),
            ("One random night of each ad and week:", lambda a: a.one_night_per_ad_and_week()),
        )
    )


HEADER = [
    "", "inside, % (least … most of the agencies)", "worst account, %", "accounts below 80 %",
    "of those judged on 200 nightly rows", "width × 10⁴", "Winkler × 10⁴",
]  # fmt: skip


def line(name: str, agencies: list[Judged], pick: Callable[[Judged], np.ndarray]) -> list[str]:
    """One method over several agencies: means over all rows, and accounts on rows with 200 in calibration."""
    reports, groups = [], []
    for agency in agencies:
        chosen, large = pick(agency), agency.calibration_rows >= MIN_ROWS
        reports.append(agency.report(name, agency.rows["account"], chosen))
        accounts = agency.report(name, agency.rows["account"], chosen & large).groups.set_index("group")
        nightly = agency.rows["account"][large].value_counts()
        groups.append(accounts.assign(nightly=nightly.reindex(accounts.index)))
    coverage, width, score = (np.array([getattr(r, k) for r in reports]) for k in ("coverage", "width", "winkler"))
    found = pd.concat(groups)
    long = found[found["nightly"] >= MIN_ROWS]
    return [
        name, f"{100 * coverage.mean():.1f} ({100 * coverage.min():.1f} … {100 * coverage.max():.1f})",
        f"{100 * found['coverage'].min():.1f}", f"{(found['coverage'] < 0.8).sum()} of {len(found)}",
        f"{(long['coverage'] < 0.8).sum()} of {len(long)}, worst {100 * long['coverage'].min():.1f}",
        f"{1e4 * width.mean():.1f}", f"{1e4 * score.mean():.1f}",
    ]  # fmt: skip


def month_section(judged: Judged) -> str:
    months = judged.rows["date"].dt.strftime("%Y-%m")
    reports = {name: judged.report(name, months) for name in METHODS}
    lines = [
        [name, f"{100 * r.coverage:.1f}", f"{100 * r.groups['coverage'].min():.1f}",
         f"{(r.groups['coverage'] < 0.8).sum()} of {len(r.groups)}", f"{1e4 * r.width:.1f}", f"{1e4 * r.winkler:.1f}"]
        for name, r in reports.items()
    ]  # fmt: skip
    header = ["", "inside, %", "worst month, %", "months below 80 %", "width × 10⁴", "Winkler × 10⁴"]
    by_month = [
        [month, int(rows), *(f"{100 * reports[m].groups['coverage'].iloc[i]:.0f}" for m in (OURS, PLAIN))]
        for i, (month, rows) in enumerate(reports[OURS].groups[["group", "rows"]].itertuples(index=False))
    ]
    return f"{table(header, lines)}\n\n{table(['month', 'rows', f'{OURS}, %', f'{PLAIN}, %'], by_month)}\n"


def page(agencies: list[Judged], months: Judged, arguments: argparse.Namespace) -> str:
    nights = "\n".join(agency_section(agencies))
    return f"""# Intervals of the observed click-through rate

Written by `python -m benchmarks.intervals --seeds {" ".join(map(str, arguments.seeds))} --accounts {arguments.accounts}
--days {arguments.days} --weeks {arguments.weeks} --upworthy-weeks {arguments.upworthy_weeks}`. {machine()}

An interval says where clicks / impressions of the next seven days will lie, nominally with 90 %. Predictions are the ad
score's, out of time; intervals are calibrated on the eight weeks before whose labels were mature, all methods on the
same rows. Winkler is the interval score: width plus 20 times the distance of an outcome outside, lower is better.

## The simulated agency

Agencies: {len(agencies)} of {arguments.accounts} accounts and {arguments.days} days, the last {arguments.weeks} weeks
judged, {sum(len(a.rows) for a in agencies):,} rows. In each, one platform and the appeal of all themes
change after two thirds of the days, and some accounts decline and leave. Accounts are judged on the rows that had at
least {MIN_ROWS} of the same account in calibration.

{nights}
## Upworthy by month

One account, {len(months.rows):,} headlines of {arguments.upworthy_weeks} weeks, a new model each week.

{month_section(months)}"""


def judged_agency(config: SimulationConfig, weeks: int) -> Judged:
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = agency_rows(simulate(config), Path(folder), unlabelled=LABEL_MATURITY_DAYS)
    return rolling(predicted(rows, weeks, 14), weeks)


def run(arguments: argparse.Namespace) -> Path:
    """Run the benchmark and write its page."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    configs = [
        SimulationConfig(accounts=arguments.accounts, days=arguments.days, seed=seed, max_images=1)
        for seed in arguments.seeds
    ]
    agencies = [judged_agency(config, arguments.weeks) for config in configs]
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = upworthy_rows(Path(folder))
    months = rolling(predicted(rows, arguments.upworthy_weeks, 7), arguments.upworthy_weeks)
    text = page(agencies, months, arguments)
    return write_result("intervals.md", text, folder=arguments.results)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one agency for each")
    options.add_argument("--accounts", type=int, default=40)
    options.add_argument("--days", type=int, default=364)
    options.add_argument("--weeks", type=int, default=26, help="last weeks of the agencies to judge")
    options.add_argument("--upworthy-weeks", type=int, default=52)
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    return options


if __name__ == "__main__":
    run(parser().parse_args())
