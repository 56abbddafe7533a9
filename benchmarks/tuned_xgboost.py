"""The ad score beside an xgboost that optuna has tuned, on weeks that neither has seen.

    python -m benchmarks.tuned_xgboost [--weeks 12] [--seeds 3] [--trials 12] [--only NUMBER]

Both see the same vintages, split like in the pipeline: training rows, then validation rows, then the week (Upworthy) or
four weeks (simulated agency) that begin on the vintage's Monday or later. The peer gets every numeric feature of the
catalog, `prior_ctr` included, and in a second variant 30 SVD components of the headline's TF-IDF as well. Its
hyperparameters are chosen for each vintage anew by optuna's TPE (seeded) on the log-loss of the validation rows, on
which each trial also stops early; the best trial's trees are used as they are. Raw, isotonic and Platt-scaled
predictions are judged; the two calibrations are fitted on the validation rows too. The ad score is not tuned. Its CPU
seconds contain intervals and explanations; each variant of the peer gets at least as many, and at least the trials.

Weights are impressions. AUC is over rows of all vintages of a data set pooled, and the mean over its weeks (a week's
own level, which no model can know, is in the first and not in the second). Intervals: 95 %, bootstrap by campaign.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from benchmarks.agencies import Vintage, agency_rows, agency_vintages, rate, shown, upworthy_rows, upworthy_vintages
from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml import metrics
from within_ml.ad_score import AdScorePredictor, terms
from within_ml.lake.simulation import SimulationConfig, simulate
from within_ml.validation.evaluation import campaign_groups

WEEKS, SEEDS, TRIALS = 12, 3, 12
ACCOUNTS, DAYS, SIMULATED_VINTAGES, TEST_DAYS = 24, 240, 2, 28
COMPONENTS, MAX_TREES, PATIENCE = 30, 500, 30
BOOTSTRAPS = 500
OURS, PAGE = "ad_score", "tuned_xgboost.md"
FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Predictions of the test rows by name, and CPU seconds of what made them."""

    rows: pd.DataFrame
    predictions: dict[str, FloatArray]
    seconds: dict[str, float]


def simulated_rows(seed: int, folder: Path, *, accounts: int = ACCOUNTS, days: int = DAYS) -> pd.DataFrame:
    """Features and labels of one agency, without the first four weeks."""
    agency = simulate(SimulationConfig(accounts=accounts, days=days, seed=seed, max_images=accounts))
    return agency_rows(agency, folder, warm_up=min(27, days // 4))


# ---- the peer


def numeric(rows: pd.DataFrame, columns: list[str]) -> FloatArray:
    return rows[columns].astype(np.float64).to_numpy()


def designs(found: Vintage, *, text: bool) -> list[FloatArray]:
    """Features of training, validation and test rows."""
    parts = (found.train, found.validation, found.test)
    columns = terms.numeric_columns(found.train)
    matrices = [numeric(part, columns) for part in parts]
    if not text:
        return matrices
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    texts = [part["headline"].fillna("").astype(str) for part in parts]
    words.fit(texts[0].drop_duplicates())
    size = min(COMPONENTS, len(words.vocabulary_) - 1)
    svd = TruncatedSVD(size, random_state=0).fit(words.transform(texts[0].drop_duplicates()))
    return [np.column_stack([m, svd.transform(words.transform(t))]) for m, t in zip(matrices, texts, strict=True)]


def tuned(found: Vintage, *, text: bool, trials: int, seconds: float) -> tuple[FloatArray, FloatArray]:
    """Predictions of the validation and the test rows by the best of so many trials, and of more until the time is up.

    ``seconds`` are CPU seconds, those of the features included.
    """
    import optuna
    import xgboost

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start = time.process_time()
    X_train, X_validation, X_test = designs(found, text=text)
    train = xgboost.QuantileDMatrix(X_train, label=rate(found.train), weight=shown(found.train))
    held = xgboost.QuantileDMatrix(
        X_validation, label=rate(found.validation), weight=shown(found.validation), ref=train
    )
    best: dict[str, Any] = {"loss": np.inf}

    def objective(trial: optuna.Trial) -> float:
        clicks = float(shown(found.train) @ rate(found.train))
        parameters = {
            "objective": "binary:logistic", "eval_metric": "logloss", "tree_method": "hist", "seed": 0,
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True),
            "max_depth": trial.suggest_int("max_depth", 2, 8),
            "min_child_weight": trial.suggest_float("min_child_weight", 1.0, clicks / 20, log=True),
            "reg_lambda": trial.suggest_float("reg_lambda", 1e-2, clicks / 20, log=True),
            "gamma": trial.suggest_float("gamma", 1e-3, 100.0, log=True),
            "subsample": trial.suggest_float("subsample", 0.4, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.3, 1.0),
        }  # fmt: skip
        booster = xgboost.train(
            parameters, train, MAX_TREES, evals=[(held, "held")], early_stopping_rounds=PATIENCE, verbose_eval=False
        )
        loss = float(booster.best_score)
        if loss < best["loss"]:
            best.update(loss=loss, booster=booster)
        return loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=trials)
    while time.process_time() - start < seconds:
        study.optimize(objective, n_trials=1)
    booster = best["booster"]
    rounds = (0, booster.best_iteration + 1)
    return tuple(booster.inplace_predict(X, iteration_range=rounds).astype(np.float64) for X in (X_validation, X_test))


def calibrated(found: Vintage, p_validation: FloatArray, p: FloatArray) -> dict[str, FloatArray]:
    """The predictions as they are, and mapped by what the validation rows say."""
    y, w = rate(found.validation), shown(found.validation)
    # No rate is certain: a step of isotonic regression at 0 would cost an infinite loss on one click.
    isotonic = IsotonicRegression(y_min=1e-5, y_max=1 - 1e-5, out_of_bounds="clip").fit(p_validation, y, w)
    x = logit(p_validation)[:, None]
    clicks = np.repeat([1, 0], len(y))
    platt = LogisticRegression(C=1e6).fit(np.vstack([x, x]), clicks, np.concatenate([w * y, w * (1 - y)]))
    return {
        "raw": p,
        "isotonic": isotonic.predict(p),
        "Platt": expit(platt.intercept_ + platt.coef_[0] * logit(p)),
    }


# ---- both


def ours(found: Vintage) -> FloatArray:
    train, validation = found.train, found.validation
    model = AdScorePredictor()
    model.fit_model(
        train, rate(train), sample_weight=shown(train), validation=(validation, rate(validation), shown(validation))
    )
    model.fit_calibration(validation, rate(validation), sample_weight=shown(validation))
    return model.predict(found.test)


def outcome(found: Vintage, trials: int) -> Outcome:
    start = time.process_time()
    predictions, seconds = {OURS: ours(found)}, {}
    seconds[OURS] = time.process_time() - start
    for name, text in (("xgboost", False), ("xgboost + text SVD", True)):
        start = time.process_time()
        p_validation, p = tuned(found, text=text, trials=trials, seconds=seconds[OURS])
        seconds[name] = time.process_time() - start
        predictions |= {f"{name}, {how}": q for how, q in calibrated(found, p_validation, p).items()}
    predictions["prior_ctr"] = found.test["prior_ctr"].to_numpy(np.float64)
    return Outcome(found.test, predictions, seconds)


# ---- figures


@dataclass(frozen=True, slots=True)
class Judged:
    """Rows of one data set with their predictions; measures of any weighting of the rows."""

    rows: pd.DataFrame
    predictions: Mapping[str, FloatArray]

    @classmethod
    def of(cls, outcomes: list[Outcome]) -> Judged:
        rows = pd.concat([o.rows for o in outcomes], ignore_index=True)
        names = outcomes[0].predictions
        return cls(rows, {name: np.concatenate([o.predictions[name] for o in outcomes]) for name in names})

    def measures(self) -> Mapping[str, Callable[[FloatArray, FloatArray], float]]:
        y = rate(self.rows)
        days = pd.to_datetime(self.rows["date"]).to_numpy().astype("datetime64[D]")
        week = (days - days.min()).astype(np.int64) // 7

        def by_week(p: FloatArray, w: FloatArray) -> float:
            weeks = [metrics.auc(y[at], p[at], sample_weight=w[at]) for at in (week == k for k in np.unique(week))]
            return float(np.nanmean(weeks))

        return {
            "AUC": lambda p, w: metrics.auc(y, p, sample_weight=w),
            "AUC within weeks": by_week,
            "log-loss": lambda p, w: metrics.log_loss(y, p, sample_weight=w),
        }

    def figures(self, draws: int) -> dict[str, dict[str, tuple[float, float, float, float]]]:
        """By predictor and measure: its value, ours minus its, and the interval of that difference."""
        groups = np.unique(campaign_groups(self.rows), return_inverse=True)[1]
        rng, w = np.random.default_rng(0), shown(self.rows)
        counts = rng.multinomial(groups.max() + 1, np.full(groups.max() + 1, 1 / (groups.max() + 1)), size=draws)
        weights = [w, *(w * c[groups] for c in counts)]
        found: dict[str, dict[str, tuple[float, float, float, float]]] = {name: {} for name in self.predictions}
        for measure, value in self.measures().items():
            mine = np.array([value(self.predictions[OURS], v) for v in weights])
            for name, p in self.predictions.items():
                theirs = np.array([value(p, v) for v in weights])
                low, high = np.quantile((mine - theirs)[1:], [0.025, 0.975])
                found[name][measure] = (theirs[0], mine[0] - theirs[0], float(low), float(high))
        return found


def section(title: str, outcomes: list[Outcome], draws: int) -> str:
    judged = Judged.of(outcomes)
    figures = judged.figures(draws)
    lines = []
    for name, by_measure in figures.items():
        cells = []
        for measure, (value, difference, low, high) in by_measure.items():
            unit, digits = (1e5, 1) if measure == "log-loss" else (1.0, 4)
            cells.append(f"{value:.5f}" if measure == "log-loss" else f"{value:.4f}")
            told = f"{unit * difference:+.{digits}f} ({unit * low:+.{digits}f} … {unit * high:+.{digits}f})"
            cells.append("" if name == OURS else told)
        lines.append([name, *cells])
    header = ["", "AUC", "ad_score ahead by", "AUC within weeks", "ad_score ahead by", "log-loss",
              "ad_score's minus it, × 10⁵"]  # fmt: skip
    seconds = {name: np.median([o.seconds[name] for o in outcomes]) for name in outcomes[0].seconds}
    cost = ", ".join(f"{name} {s:.1f}" for name, s in seconds.items())
    return f"""## {title}

{len(judged.rows):,} rows of {len(np.unique(campaign_groups(judged.rows))):,} campaigns, {len(outcomes)} vintages,
{int(judged.rows["label_clicks"].sum()):,} clicks. Median CPU seconds of a vintage: {cost}.

{table(header, lines)}
"""


def upworthy_section(weeks: int, trials: int, draws: int) -> str:
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = upworthy_rows(Path(folder))
    outcomes = [outcome(found, trials) for found in upworthy_vintages(rows, weeks)]
    return section(f"0. Upworthy, {weeks} weeks", outcomes, draws)


def simulated_section(seed: int, trials: int, days: int, draws: int) -> str:
    with tempfile.TemporaryDirectory(prefix="within-bench-") as folder:
        rows = simulated_rows(seed, Path(folder), days=days)
    outcomes = [outcome(found, trials) for found in agency_vintages(rows, SIMULATED_VINTAGES, TEST_DAYS)]
    return section(f"{seed}. Simulated agency, seed {seed}", outcomes, draws)


def kept_sections(page: Path) -> dict[int, str]:
    """The sections of a page written before, by their number."""
    parts = page.read_text(encoding="utf-8").split("\n## ")[1:] if page.exists() else []
    return {int(part.split(".")[0]): f"## {part}" for part in parts}


def run(
    weeks: int,
    seeds: int,
    trials: int,
    *,
    only: int | None = None,
    results: Path = RESULTS,
    days: int = DAYS,
    draws: int = BOOTSTRAPS,
) -> Path:
    """Run the benchmark, or one section of it beside those of the page that is there, and write its page."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    sections = kept_sections(results / PAGE) if only is not None else {}
    for number in range(seeds + 1) if only is None else [only]:
        if number == 0 and weeks:
            sections[0] = upworthy_section(weeks, trials, draws)
        elif number:
            sections[number] = simulated_section(number, trials, days, draws)
    page = f"""# The ad score beside an xgboost tuned by optuna

Written by `python -m benchmarks.tuned_xgboost --weeks {weeks} --seeds {seeds} --trials {trials}`. {machine()}

{__doc__.split(chr(10) * 2, 2)[2].strip()}

{chr(10).join(sections[number].rstrip() + chr(10) for number in sorted(sections))}"""
    return write_result(PAGE, page, folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=WEEKS, help="last weeks of the Upworthy sample; 0 for none")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="simulated agencies")
    parser.add_argument("--trials", type=int, default=TRIALS, help="fewest optuna trials of a vintage and variant")
    parser.add_argument("--only", type=int, help="compute one section anew: 0 for Upworthy, else the seed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.weeks, options.seeds, options.trials, only=options.only, results=options.results)


if __name__ == "__main__":
    main()
