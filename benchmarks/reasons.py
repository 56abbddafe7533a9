"""How fast and how exactly the ad score's predictions are explained, and what a larger model would be worth.

    OMP_NUM_THREADS=1 python -m benchmarks.reasons [--accounts 60] [--days 150] [--rows 100000]

A simulated agency goes through the lake and the features like in the product. Trees of the champion's size (300 of
depth 4, on top of the log-odds of `prior_ctr`) are fitted on the earlier days; a batch of ads of the later days is
explained on one core. Larger trees, stopped early, say what the small size costs in log-loss on those days.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from benchmarks.agencies import agency_rows
from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml import metrics
from within_ml.base import LABEL_MATURITY_DAYS
from within_ml.explain.contributions import Contributions, combined, linear_contributions, tree_contributions
from within_ml.explain.reasons import Reasons, UsualValues, reasons, reasons_json
from within_ml.explain.wording import meaning
from within_ml.features.catalog import AD_FEATURES
from within_ml.features.text_score import TextScore
from within_ml.lake.simulation import SimulationConfig, simulate
from within_ml.models.boosted import BoostedRate

START = date(2024, 1, 1)
WARM_UP_DAYS = 28
TEST_SHARE = 0.3
BATCHES = (500, 1_000, 2_000, 5_000, 20_000, 100_000)
CHECKED = 2_000
CHECKED_BY_SHAP = 200
CHAMPION = {"n_estimators": 300, "max_depth": 4}
LARGER = (
    {"n_estimators": 1_000, "max_depth": 4},
    {"n_estimators": 1_000, "max_depth": 6},
    {"n_estimators": 2_000, "max_depth": 6, "learning_rate": 0.02},
    {"n_estimators": 1_000, "max_depth": 8},
)
FEATURES = [feature.name for feature in AD_FEATURES]
MIN_ROWS_PER_SECOND = 10_000


def training_rows(folder: str, accounts: int, days: int) -> pd.DataFrame:
    """Features and labels of a simulated agency, by day."""
    agency = simulate(SimulationConfig(accounts=accounts, days=days, start_date=START, max_images=1))
    return agency_rows(agency, Path(folder), warm_up=WARM_UP_DAYS, unlabelled=LABEL_MATURITY_DAYS)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of some days: frame, rates, impressions, the level that the trees start from."""

    frame: pd.DataFrame
    y: np.ndarray
    w: np.ndarray
    level: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Part:
        w = rows["label_impressions"].to_numpy(np.float64)
        return replace(
            cls.of_features(rows.reset_index(drop=True)), y=rows["label_clicks"].to_numpy(np.float64) / w, w=w
        )

    @classmethod
    def of_features(cls, rows: pd.DataFrame) -> Part:
        """Rows without labels."""
        level = logit(np.clip(rows["prior_ctr"].to_numpy(np.float64), 1e-6, 1 - 1e-6))
        return cls(rows, np.zeros(len(rows)), np.ones(len(rows)), level)

    @property
    def features(self) -> pd.DataFrame:
        return self.frame[FEATURES].astype(np.float64)

    def take(self, n: int) -> Part:
        rows = np.resize(np.arange(len(self.y)), n)
        return Part(self.frame.iloc[rows].reset_index(drop=True), self.y[rows], self.w[rows], self.level[rows])


def split(rows: pd.DataFrame) -> tuple[Part, Part, Part]:
    """Earlier days, the fortnight before the later ones, later days."""
    days = np.sort(rows["date"].unique())
    cut = days[int(len(days) * (1 - TEST_SHARE))]
    stop = cut - pd.Timedelta(days=14)
    date_ = pd.to_datetime(rows["date"])
    cut, stop = pd.Timestamp(cut), pd.Timestamp(stop)
    parts = (rows[date_ < stop], rows[(date_ >= stop) & (date_ < cut)], rows[date_ >= cut])
    return tuple(Part.of(part) for part in parts)


def fitted(train: Part, validation: Part | None, **parameters: Any) -> BoostedRate:
    held = None if validation is None else (validation.features, validation.y, validation.w, validation.level)
    model = BoostedRate(n_threads=1, **parameters)
    return model.fit(train.features, train.y, train.w, base_margin=train.level, validation=held)


def losses(train: Part, validation: Part, test: Part) -> Iterator[tuple[str, int, float]]:
    for parameters in (CHAMPION, *LARGER):
        model = fitted(train, validation, **parameters)
        p = model.predict(test.features, base_margin=test.level)
        name = ", ".join(f"{key.removeprefix('n_')} {value}" for key, value in parameters.items())
        yield name, model.n_trees_, metrics.log_loss(test.y, p, sample_weight=test.w)


def best_of(runs: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU of the best run, so that others on the machine do not count, and its result."""
    best, result = np.inf, None
    for _ in range(runs):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def whole(model: BoostedRate, batch: Part, **options: Any) -> Contributions:
    """Level and trees, whose sum is the ad score's margin but for the text."""
    level = linear_contributions(["prior_ctr"], [1.0], batch.level[:, None])
    return combined([level, tree_contributions(model.booster_, batch.features, **options).named(FEATURES)])


def explain_all(model: BoostedRate, batch: Part, usual: UsualValues, text_score: TextScore | None) -> list[str]:
    normal = Part.of_features(pd.DataFrame(usual.table, columns=[*usual.features]))
    parts, words = whole(model, batch).beside(whole(model, normal), usual.rows(batch.frame["account_id"])), None
    if text_score is not None:
        text = text_score.contributions(batch.frame[["headline", "body"]])
        parts, words = combined([parts, Contributions.of(text.names, text.values, base=0.0)]), text.words
    return reasons_json(found(parts, batch, usual, words))


def found(contributions: Contributions, batch: Part, usual: UsualValues, words: Any = None) -> Reasons:
    return reasons(contributions, batch.frame, batch.frame["account_id"], usual, expit, words=words)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; rows per second of CPU on one core."""

    rows: int
    texts: int
    trees: float
    full: float
    with_text: float
    slow: float
    by_size: dict[int, tuple[float, float]]
    error: float
    agreement: float
    shap_difference: float
    peak: float
    example: str


def measure(train: Part, test: Part, rows: int) -> Figures:
    model = fitted(train, None, **CHAMPION)
    batch = test.take(rows)
    X, booster = batch.features.to_numpy(), model.booster_
    usual = UsualValues.fit(train.features, train.frame["account_id"])
    seconds, values = best_of(3, lambda: tree_contributions(booster, X))
    full, _ = best_of(2, lambda: explain_all(model, batch, usual, None))
    text_score = TextScore().fit(
        train.frame[["headline", "body"]], train.y, sample_weight=train.w, groups=train.frame["campaign_id"]
    )
    with_text, told = best_of(2, lambda: explain_all(model, batch, usual, text_score))
    n = min(CHECKED, rows)
    slow, _ = best_of(1, lambda: tree_contributions(booster, X[:n], min_batch=rows + 1))
    few = batch.take(n)
    tops = [found(whole(model, few, min_batch=size), few, usual).group[:, 0] for size in (0, rows + 1)]
    by_size = {}
    for size in (size for size in BATCHES if size <= rows):
        ways = [best_of(1, lambda m=m, s=size: tree_contributions(booster, X[:s], min_batch=m))[0] for m in (0, 10**9)]
        by_size[size] = (size / ways[0], size / ways[1]) if size <= 5_000 else (size / ways[0], float("nan"))
        if size >= 5_000:
            break
    for size in (size for size in BATCHES if 5_000 < size <= rows):
        by_size[size] = (size / best_of(1, lambda s=size: tree_contributions(booster, X[:s]))[0], float("nan"))
    return Figures(
        rows, len(batch.frame[["headline", "body"]].drop_duplicates()), rows / seconds, rows / full, rows / with_text,
        n / slow, by_size, float(np.abs(values.values.sum(axis=1) + values.expected - values.margin).max()),
        float((tops[0] == tops[1]).mean()), shap_difference(booster, X[:CHECKED_BY_SHAP], values),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, told[0],
    )  # fmt: skip


def shap_difference(booster: Any, X: np.ndarray, values: Any) -> float:
    """The largest difference from shap's own explainer, which checks that its values add up."""
    import shap

    explainer = shap.TreeExplainer(booster, feature_perturbation="tree_path_dependent")
    theirs = explainer.shap_values(X.astype(np.float32), check_additivity=True)
    return float(np.abs(theirs - values.values[: len(X)]).max())


def page(figures: Figures, models: list[tuple[str, int, float]], options: argparse.Namespace, n_train: int) -> str:
    sizes = [
        [f"{size:,}", f"{ours:,.0f}", "" if np.isnan(theirs) else f"{theirs:,.0f}"]
        for size, (ours, theirs) in figures.by_size.items()
    ]
    champion = models[0][2]
    lines = [[name, n, f"{loss:.5f}", f"{loss - champion:+.5f}"] for name, n, loss in models]
    lost = champion - min(loss for _, _, loss in models)
    groups = len({meaning(name).group for name in FEATURES})
    bars = [
        ["exact contributions of the trees, rows/s of one core", f"≥ {MIN_ROWS_PER_SECOND:,}", f"{figures.trees:,.0f}"],
        ["with level, top 3 reasons worded, as JSON", f"≥ {MIN_ROWS_PER_SECOND:,}", f"{figures.full:,.0f}"],
        [
            f"the same with the text's parts and words ({figures.texts:,} different texts)",
            f"≥ {MIN_ROWS_PER_SECOND:,}",
            f"{figures.with_text:,.0f}",
        ],
        ["xgboost's pred_contribs, rows/s", "", f"{figures.slow:,.0f}"],
        ["largest distance of the sum from the margin, log-odds", "≤ 1e-4", f"{figures.error:.1e}"],
        [f"same top reason as by pred_contribs, {CHECKED:,} rows", "100 %", f"{figures.agreement:.2%}"],
        [f"difference from shap's TreeExplainer, {CHECKED_BY_SHAP} rows", "≤ 1e-4", f"{figures.shap_difference:.0e}"],
        ["log-loss lost against the best larger model", "< .0005", f"{lost:.5f}"],
    ]  # fmt: skip
    return f"""# Reasons for every scored ad

Written by `OMP_NUM_THREADS=1 python -m benchmarks.reasons --accounts {options.accounts} --days {options.days} --rows
{options.rows}`. {machine()} Woodelf-explainer and shap as locked.

{figures.rows:,} rows of a simulated agency with the {len(FEATURES)} features of the catalog in {groups} groups; trees
fitted on {n_train:,} rows. Peak memory of the whole benchmark: {figures.peak:,.0f} MiB.

{table(["", "bar", "measured"], bars)}

The first row's reasons: `{figures.example}`

Rows per second by size of the batch; below 2,000 rows the product asks xgboost itself:

{table(["rows", "woodelf", "pred_contribs"], sizes)}

What larger trees are worth on the later days (all stopped early on the fortnight before them):

{table(["trees", "kept", "log-loss", "beside the champion"], lines)}
"""


def run(options: argparse.Namespace, *, results: Path = RESULTS) -> Path:
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = training_rows(folder, options.accounts, options.days)
    train, validation, test = split(rows)
    figures = measure(train, test, options.rows)
    return write_result(
        "reasons.md", page(figures, list(losses(train, validation, test)), options, len(train.y)), folder=results
    )


def parser() -> argparse.ArgumentParser:
    """Make the parser of the size."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--accounts", type=int, default=60)
    made.add_argument("--days", type=int, default=150)
    made.add_argument("--rows", type=int, default=100_000)
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    return made


def main() -> None:
    options = parser().parse_args()
    run(options, results=options.results)


if __name__ == "__main__":
    main()
