"""How the ad score orders and predicts headlines of weeks it has not seen, beside baselines refitted each week.

    python -m benchmarks.upworthy [--weeks 21]

The sample goes through the lake and the features like in the product. Each later week is scored on the Sunday before it
by the vintage of the Monday before that, trained as the pipeline trains it: on rows whose label was mature by then,
split out of time into training, validation (early stopping and calibration) and test; the test part is not trained on.
The baselines are fitted anew for each week on the training and validation rows of that vintage. Those named "every
mature row" also get the weeks of the test part: what the newest weeks are worth. The text score's hyperparameters were
chosen on weeks before the last 21 of the sample (2014-W20 … W40). Intervals are 95 % bootstraps by test.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.agencies import mature_rows, rate, shown, upworthy_rows, upworthy_vintages
from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml import metrics
from within_ml.ad_score import AdScorePredictor
from within_ml.validation.baselines import GlobalRate, Predictor, SmoothedCampaignRate, TfidfRidge
from within_ml.validation.bootstrap import ClusterBootstrap, Interval
from within_ml.validation.evaluation import Judgement, ModelEvaluator, campaign_groups

WEEKS = 21
OURS, WHOLE, PEER = "ad_score", "ad_score, every mature row", "TF-IDF + ridge, alpha 5"
SAME_ROWS: Mapping[str, Callable[[], Predictor]] = {
    PEER: TfidfRidge,
    "TF-IDF + ridge, alpha 40": lambda: TfidfRidge(alpha=40),
    "smoothed campaign rate": SmoothedCampaignRate,
    "global rate": GlobalRate,
}
ALL_ROWS: Mapping[str, Callable[[], Predictor]] = {
    "TF-IDF + ridge, alpha 5, every mature row": TfidfRidge,
    "TF-IDF + ridge, alpha 40, every mature row": lambda: TfidfRidge(alpha=40),
}


@dataclass(frozen=True, slots=True)
class Week:
    """One later week: its rows, the vintage that scores it, and predictions by name."""

    as_of: date
    rows: pd.DataFrame
    predictions: dict[str, np.ndarray]
    seconds: float


def vintages(rows: pd.DataFrame, weeks: int) -> Iterator[Week]:
    """Train the vintage of each of the last weeks and predict with it and with the baselines."""
    for found in upworthy_vintages(rows, weeks):
        train, validation, wanted = found.train, found.validation, found.test
        mature = mature_rows(rows, found.as_of)
        start = time.process_time()
        model = AdScorePredictor()
        model.fit_model(
            train, rate(train), sample_weight=shown(train), validation=(validation, rate(validation), shown(validation))
        )
        model.fit_calibration(validation, rate(validation), sample_weight=shown(validation))
        seconds = time.process_time() - start
        seen = pd.concat([train, validation], ignore_index=True)
        whole = AdScorePredictor().fit(mature, rate(mature), sample_weight=shown(mature))
        predictions = {OURS: model.predict(wanted), WHOLE: whole.predict(wanted)}
        for kinds, known in ((SAME_ROWS, seen), (ALL_ROWS, mature)):
            for name, kind in kinds.items():
                predictions[name] = kind().fit(known, rate(known), sample_weight=shown(known)).predict(wanted)
        yield Week(found.as_of, wanted, predictions, seconds)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Per test: pairs in order and pairs, of all pairs or of the significant ones."""

    right: np.ndarray
    total: np.ndarray


def pairs(rows: pd.DataFrame, p: np.ndarray, *, significant: bool) -> Pairs:
    clicks, impressions = rows["label_clicks"].to_numpy(float), rows["label_impressions"].to_numpy(float)
    groups = campaign_groups(rows, by_day=True)
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    found = [metrics.pair_accuracy(p[i], clicks[i], impressions[i], groups[i], significant=significant) for i in parts]
    total = np.array([f.pairs for f in found], dtype=float)
    return Pairs(np.array([f.accuracy * f.pairs if f.pairs else 0.0 for f in found]), total)


def percent(interval: Interval, *, sign: str = "") -> str:
    value, low, high = (f"{100 * x:{sign}.1f}" for x in (interval.value, interval.lower, interval.upper))
    return f"{value} ({low} … {high})"


def judged(rows: pd.DataFrame, predictions: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Two tables: each predictor's figures, and the ad score's lead over each peer on the same pairs and rows."""
    found = {n: {s: pairs(rows, p, significant=s) for s in (False, True)} for n, p in predictions.items()}
    bootstrap = ClusterBootstrap(np.arange(len(found[OURS][False].total)))
    judgements: dict[str, Judgement] = {n: ModelEvaluator().judge(rows, p) for n, p in predictions.items()}
    lines, leads = [], []
    for name, by_kind in found.items():
        accuracy = [percent(bootstrap.interval(by_kind[s].right, by_kind[s].total)) for s in (False, True)]
        judgement = judgements[name]
        ratio, loss = judgement.calibration_ratio, judgement.log_loss.value
        lines.append(
            [name, *accuracy, f"{ratio.value:.3f} ({ratio.lower:.3f} … {ratio.upper:.3f})", f"{loss:.5f}",
             f"{judgement.spearman:.3f}"]
        )  # fmt: skip
        if name != OURS:
            ahead = [
                bootstrap.interval(found[OURS][s].right - by_kind[s].right, by_kind[s].total) for s in (False, True)
            ]
            leads.append([name, *(percent(a, sign="+") for a in ahead), loss_difference(rows, predictions, name)])
    header = ["", "pairs in order, %", "significant pairs, %", "predicted / actual clicks", "log-loss", "Spearman"]
    return table(header, lines), table(
        ["ad_score ahead of", "pairs, points", "significant, points", "log-loss × 10⁵"], leads
    )


def loss_difference(rows: pd.DataFrame, predictions: Mapping[str, np.ndarray], name: str) -> str:
    y, n = rate(rows), shown(rows)
    gain = (metrics.row_log_loss(y, predictions[OURS]) - metrics.row_log_loss(y, predictions[name])) * n
    found = ClusterBootstrap(campaign_groups(rows)).interval(gain, n)
    return f"{1e5 * found.value:+.1f} ({1e5 * found.lower:+.1f} … {1e5 * found.upper:+.1f})"


def by_week(weeks: list[Week]) -> str:
    lines = []
    for week in weeks:
        rows, clicks = week.rows, week.rows["label_clicks"].sum()
        ours, peer = (week.predictions[name] for name in (OURS, PEER))
        orders = [pairs(rows, p, significant=True) for p in (ours, peer)]
        monday = pd.to_datetime(rows["date"]).max().date() + timedelta(days=1)
        lines.append(
            [monday, week.as_of, rows["campaign_id"].nunique(), len(rows), int(orders[0].total.sum()),
             *(f"{100 * o.right.sum() / max(o.total.sum(), 1):.0f}" for o in orders),
             *(f"{(p * shown(rows)).sum() / clicks:.3f}" for p in (ours, peer))]
        )  # fmt: skip
    header = ["week of", "vintage", "tests", "headlines", "significant pairs", "in order, ad_score, %",
              "in order, TF-IDF, %", "predicted / actual, ad_score", "predicted / actual, TF-IDF"]  # fmt: skip
    return table(header, lines)


def page(weeks: list[Week], seconds: float) -> str:
    rows = pd.concat([w.rows for w in weeks], ignore_index=True)
    predictions = {n: np.concatenate([w.predictions[n] for w in weeks]) for n in weeks[0].predictions}
    figures, leads = judged(rows, predictions)
    ratios = np.array([(w.predictions[OURS] * shown(w.rows)).sum() / w.rows["label_clicks"].sum() for w in weeks])
    return f"""# The ad score on headlines of weeks it has not seen

Written by `python -m benchmarks.upworthy --weeks {len(weeks)}`. {machine()}

Upworthy Research Archive (CC BY 4.0), the sample in `data_lake/landing/upworthy`: {len(weeks)} weekly vintages, each
trained only on rows whose outcome was known on its Monday and used for the week that began seven days later.
{len(rows):,} headlines in {rows["campaign_id"].nunique():,} tests, {int(rows["label_clicks"].sum()):,} clicks of
{int(rows["label_impressions"].sum()):,} impressions. A pair is two headlines of one test with different click rates, a
significant pair differs at p < .05. The baselines see the same training and validation rows as the vintage; those
marked "every mature row" see the newest weeks too, which the pipeline keeps as its test: no vintage of it is like that,
they show what those weeks would be worth. Intervals: 95 %, bootstrap
by test. Log-loss is per impression.

{figures}

The ad score beside each peer, on the same pairs and rows (log-loss: below 0 is better):

{leads}

Predicted over actual clicks by week: median {np.median(ratios):.3f}, from {ratios.min():.3f} to {ratios.max():.3f};
{np.mean(np.abs(ratios - 1) <= 0.1):.0%} of the weeks within 10 %.

{by_week(weeks)}

A vintage took {np.median([w.seconds for w in weeks]):.1f} CPU seconds to train and calibrate (median), the whole run
{seconds:.0f}.
"""


def run(weeks: int, *, results: Path = RESULTS) -> Path:
    """Run the benchmark over the last weeks and write its page."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = upworthy_rows(Path(folder))
    done = list(vintages(rows, weeks))
    return write_result("upworthy.md", page(done, time.process_time()), folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=WEEKS, help="last weeks of the sample to predict")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.weeks, results=options.results)


if __name__ == "__main__":
    main()
