"""The composed ad score: its model types, what each modality adds, and whether its intervals hold.

    python -m benchmarks.ad_score [--weeks 20] [--step 2] [--seeds 1 2 3] [--only upworthy | agencies]

Every vintage is trained as the pipeline trains it: on the training part of the rows whose label was mature on its day,
with the validation part to stop, weigh and calibrate on, and judged on later rows. "ad_score" is the product's default:
calibrator and intervals learn from ten weeks of backtested outcomes and the validation part. The variants of
`within_ml.ad_score.variants` have no intervals, and their calibrators learn from the validation part alone; "ensemble"
is the default of them that the others are set beside. Predictions of all vintages are pooled and judged by
`within_ml.validation.comparison`, with 95 % bootstraps by campaign.

Upworthy: every second of the last 20 weeks. Simulated agencies: three, with images, of few accounts with many ads, so
that there are accounts with 200 outcomes; in each, one platform and the appeal of all themes change after two thirds of
the days: most of the training rows are older than that, and all that is judged is newer.

Split conformal intervals get the outcomes that the ad score's get, calibrated out of their weeks, and put the quantile
of the absolute residual around the same predictions.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.agencies import (
    FloatArray,
    Vintage,
    agency_rows,
    agency_vintages,
    rate,
    shown,
    upworthy_rows,
    upworthy_vintages,
)
from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.ad_score import AdScorePredictor, terms
from within_ml.ad_score.calibrating import cross_calibrated
from within_ml.ad_score.config import AdScoreConfig
from within_ml.ad_score.variants import predictions_of_variants
from within_ml.lake.simulation import SimulationConfig, simulate
from within_ml.uncertainty.coverage import Intervals, coverage_report
from within_ml.validation.comparison import compare

PAGE = "ad_score.md"
CONFIDENCE, MIN_ROWS = 0.9, 200
WARM_UP_DAYS = 27
DEFAULT, LEVEL = "ad_score", "prior_ctr alone"
EXPECTED, SERVED, PLAIN = "ad_score", "ad_score, at the impressions served", "split conformal, absolute residual"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One vintage's rows with what was predicted; ``calibration_rows`` are those of each row's account."""

    rows: pd.DataFrame
    predictions: dict[str, FloatArray]
    intervals: dict[str, Intervals]
    calibration_rows: FloatArray


def outcome(found: Vintage, config: AdScoreConfig) -> Outcome:
    """Predictions of the default and of the variants, and the default's intervals beside plain ones."""
    train, validation, test = found.train, found.validation, found.test
    held = (validation, rate(validation), shown(validation))
    model = AdScorePredictor(config)
    model.fit_model(train, rate(train), sample_weight=shown(train), validation=held)
    model.fit_calibration(held[0], held[1], sample_weight=held[2])
    predicted = model.predict(test)
    others = dict(predictions_of_variants(found.frames(), config))
    predictions = {**others, DEFAULT: predicted, LEVEL: test["prior_ctr"].to_numpy(np.float64)}
    rows_of_account = model.outcomes_.groups["account"].value_counts()
    counts = pd.Series(terms.account_names(test)).map(rows_of_account).fillna(0).to_numpy(np.float64)
    return Outcome(test, predictions, intervals(model, test, predicted), counts)


def intervals(model: AdScorePredictor, test: pd.DataFrame, predicted: FloatArray) -> dict[str, Intervals]:
    """Intervals of the observed rate, nominally with 90 %."""

    def told(impressions: FloatArray | None) -> Intervals:
        found = model.predict_with_intervals(test, impressions=impressions)
        return Intervals(found["ctr_lower"].to_numpy(), found["ctr_upper"].to_numpy(), CONFIDENCE)

    outcomes = model.outcomes_
    calibrated = cross_calibrated(outcomes, model.calibrator_.persistence_, model.base_.period_sd_)
    residuals = np.sort(np.abs(outcomes.y - calibrated))
    half = residuals[min(int(np.ceil((residuals.size + 1) * CONFIDENCE)), residuals.size) - 1]
    plain = Intervals(np.maximum(predicted - half, 0.0), np.minimum(predicted + half, 1.0), CONFIDENCE)
    return {EXPECTED: told(None), SERVED: told(shown(test)), PLAIN: plain}


def comparison(outcomes: list[Outcome]) -> str:
    """Table of all predictors on the pooled rows."""
    rows = pd.concat([o.rows for o in outcomes], ignore_index=True)
    names = outcomes[0].predictions
    return compare({n: np.concatenate([o.predictions[n] for o in outcomes]) for n in names}, rows).to_markdown()


def coverage(outcomes: list[Outcome], groups: Iterable[str], group: str) -> str:
    """Table of all intervals on the pooled rows, overall and by group."""
    y = np.concatenate([rate(o.rows) for o in outcomes])
    known = np.concatenate([o.calibration_rows for o in outcomes])
    lines = []
    for name in outcomes[0].intervals:
        ends = (np.concatenate([getattr(o.intervals[name], side) for o in outcomes]) for side in ("lower", "upper"))
        report = coverage_report(Intervals(*ends, CONFIDENCE), y, np.asarray(groups), calibration_rows=known)
        large = report.groups[report.groups["calibration_rows"] >= MIN_ROWS]
        worst = large.loc[large["coverage"].idxmin()] if len(large) else None
        lines.append(
            [name, f"{100 * report.coverage:.1f}",
             "" if worst is None else f"{100 * worst['coverage']:.1f} of {int(worst['rows']):,} rows",
             f"{(large['coverage'] < 0.8).sum()} of {len(large)}",
             f"{1e4 * report.width:.1f}", f"{1e4 * report.winkler:.1f}"]
        )  # fmt: skip
    header = ["", "inside, %", f"worst {group}, %", f"{group}s below 80 %", "width × 10⁴", "Winkler × 10⁴"]
    return table(header, lines)


def section(title: str, outcomes: list[Outcome], groups: Iterable[str], group: str, seconds: float) -> str:
    rows = sum(len(o.rows) for o in outcomes)
    clicks = sum(int(o.rows["label_clicks"].sum()) for o in outcomes)
    ratios = [(o.predictions[DEFAULT] @ shown(o.rows)) / o.rows["label_clicks"].sum() for o in outcomes]
    return f"""## {title}

{rows:,} rows of {len(outcomes)} vintages, {clicks:,} clicks; {seconds:.0f} CPU seconds. Predicted over actual clicks of
ad_score by vintage: median {np.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}.

{comparison(outcomes)}

Intervals of the observed rate, 90 %; {group}s with at least {MIN_ROWS} outcomes of the same account to calibrate on:

{coverage(outcomes, groups, group)}
"""


def upworthy_section(options: argparse.Namespace, config: AdScoreConfig) -> str:
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = upworthy_rows(Path(folder))
    outcomes = [outcome(found, config) for found in upworthy_vintages(rows, options.weeks, step=options.step)]
    months = np.concatenate([pd.to_datetime(o.rows["date"]).dt.strftime("%Y-%m") for o in outcomes])
    title = f"Upworthy, every {options.step}. of the last {options.weeks} weeks"
    return section(title, outcomes, months, "month", time.process_time() - start)


def agencies_section(options: argparse.Namespace, config: AdScoreConfig) -> str:
    start = time.process_time()
    outcomes = [found for seed in options.seeds for found in agency_outcomes(seed, options, config)]
    accounts = np.concatenate([terms.account_names(o.rows) for o in outcomes])
    title = f"{len(options.seeds)} simulated agencies of {options.accounts} accounts and {options.days} days"
    return section(title, outcomes, accounts, "account", time.process_time() - start)


def agency_outcomes(seed: int, options: argparse.Namespace, config: AdScoreConfig) -> list[Outcome]:
    agency = simulate(
        SimulationConfig(
            accounts=options.accounts, days=options.days, seed=seed, max_images=options.images,
            campaigns_per_account=options.campaigns,
        )
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = agency_rows(agency, Path(folder), warm_up=min(WARM_UP_DAYS, options.days // 4), images=True)
        found = [outcome(vintage, config) for vintage in agency_vintages(rows, options.vintages)]
    for part in found:
        # The agencies share ids; pooled, they are different accounts.
        part.rows["account_id"] = f"{seed}:" + part.rows["account_id"].astype(str)
    return found


SECTIONS = {"upworthy": upworthy_section, "agencies": agencies_section}


def run(options: argparse.Namespace) -> Path:
    """Run the benchmark, or one section of it beside the other of the page that is there, and write its page."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("within_ml").setLevel(logging.ERROR)
    config = AdScoreConfig(max_rows=options.rows, n_threads=1)
    chosen = [options.only] if options.only else list(SECTIONS)
    parts = kept(options.results / PAGE) | {name: SECTIONS[name](options, config) for name in chosen}
    sections = "\n".join(parts[name].rstrip() + "\n" for name in SECTIONS if name in parts)
    text = f"""# The composed ad score

Written by `python -m benchmarks.ad_score --weeks {options.weeks} --step {options.step} --seeds
{" ".join(map(str, options.seeds))} --accounts {options.accounts} --campaigns {options.campaigns} --days {options.days}
--vintages {options.vintages} --rows {options.rows}`. {machine()}

{__doc__.split(chr(10) * 2, 2)[2].strip()}

{sections}"""
    return write_result(PAGE, text, folder=options.results)


def kept(page: Path) -> dict[str, str]:
    """The sections of a page written before."""
    parts = page.read_text(encoding="utf-8").split("\n## ")[1:] if page.exists() else []
    return {"upworthy" if part.startswith("Upworthy") else "agencies": f"## {part}" for part in parts}


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--weeks", type=int, default=20, help="last weeks of the Upworthy sample")
    options.add_argument("--step", type=int, default=2, help="judge every so manieth of them")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one simulated agency for each")
    options.add_argument("--accounts", type=int, default=8)
    options.add_argument("--campaigns", type=int, default=8, help="of an account at a time")
    options.add_argument("--days", type=int, default=210)
    options.add_argument("--images", type=int, default=200, help="distinct images of an agency")
    options.add_argument("--vintages", type=int, default=1, help="of each agency, four weeks apart")
    options.add_argument("--rows", type=int, default=30_000, help="training rows of a vintage at most")
    options.add_argument("--only", choices=list(SECTIONS), help="compute one section anew")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    return options


if __name__ == "__main__":
    run(parser().parse_args())
