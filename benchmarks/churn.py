"""Account health on a table of customers and whether they left, beside what one would write with scikit-learn.

    python -m benchmarks.churn [--repeats 5]

Each repeat deals the rows anew into five stratified folds. Every predictor is fitted on four of them as it comes, with
its defaults, and predicts the fifth; figures are of all rows' predictions together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.health import AccountHealthPredictor

DATA = Path(__file__).parent / "data" / "telco_churn" / "telco_churn.parquet"
OURS = "AccountHealthPredictor"
BARS = {"AUC": 0.846, "AP": 0.661, "Brier": 0.135}
Fit = Callable[[pd.DataFrame, np.ndarray, pd.DataFrame], np.ndarray]


def customers() -> tuple[pd.DataFrame, np.ndarray]:
    """The table as it comes, its id included, and 1 for a customer who left."""
    rows = pd.read_parquet(DATA)
    return rows.drop(columns="Churn"), (rows["Churn"] == "Yes").to_numpy(dtype=float)


def _health(model_type: str) -> Fit:
    def fit(X: pd.DataFrame, y: np.ndarray, wanted: pd.DataFrame) -> np.ndarray:
        return AccountHealthPredictor(model_type=model_type).fit(X, y).predict_churn_risk(wanted).to_numpy()

    return fit


def _scikit(make: Callable[[], object]) -> Fit:
    """The usual pipeline: medians for gaps, one flag by category; the id is taken out by hand."""

    def fit(X: pd.DataFrame, y: np.ndarray, wanted: pd.DataFrame) -> np.ndarray:
        numbers, others = make_column_selector(dtype_include="number"), make_column_selector(dtype_exclude="number")
        columns = make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            (OneHotEncoder(handle_unknown="ignore"), others),
        )
        model = make_pipeline(columns, make()).fit(X.drop(columns="customerID"), y)
        return model.predict_proba(wanted.drop(columns="customerID"))[:, 1]

    return fit


PREDICTORS: dict[str, Fit] = {
    OURS: _health("boosted"),
    f'{OURS}(model_type="logistic")': _health("logistic"),
    "gradient boosting (scikit-learn)": _scikit(lambda: GradientBoostingClassifier(random_state=0)),
    "logistic regression (scikit-learn)": _scikit(lambda: LogisticRegression(max_iter=2000)),
}


def slope(y: np.ndarray, p: np.ndarray) -> float:
    """Slope of a logistic regression of the outcome on the predicted log-odds: 1 if neither too sure nor too timid."""
    x = logit(np.clip(p, 1e-6, 1 - 1e-6))[:, None]
    return float(LogisticRegression(C=1e9).fit(x, y).coef_[0, 0])


def figures(X: pd.DataFrame, y: np.ndarray, fit: Fit, seed: int) -> list[float]:
    p, start = np.zeros(len(y)), time.process_time()
    for inside, outside in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y):
        p[outside] = fit(X.iloc[inside], y[inside], X.iloc[outside])
    seconds = (time.process_time() - start) / 5
    return [roc_auc_score(y, p), average_precision_score(y, p), brier_score_loss(y, p), slope(y, p), seconds]


def page(X: pd.DataFrame, y: np.ndarray, repeats: int) -> str:
    found = {name: np.array([figures(X, y, fit, seed) for seed in range(repeats)]) for name, fit in PREDICTORS.items()}
    lines = []
    for name, values in found.items():
        mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
        cells = [f"{mean[i]:.4f} ({low[i]:.4f} … {high[i]:.4f})" for i in range(3)]
        lines.append([name, *cells, f"{mean[3]:.3f}", f"{mean[4]:.1f}"])
    header = ["", "AUC", "average precision", "Brier score", "calibration slope", "CPU seconds a fit"]
    return f"""# Churn of customers, from a table as it comes

Written by `python -m benchmarks.churn --repeats {repeats}`. {machine()}

Telco customer churn (Apache-2.0): {len(y):,} customers, {int(y.sum()):,} of whom left; five stratified folds, {repeats}
times dealt anew: mean and range. To be reached: AUC {BARS["AUC"]}, average precision {BARS["AP"]}, Brier score at most
{BARS["Brier"]}, calibration slope from 0.9 to 1.1.

{table(header, lines)}
"""


def main(arguments: list[str] | None = None, *, folder: Path = RESULTS) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    write_result("churn.md", page(*customers(), options.repeats), folder=folder)


if __name__ == "__main__":
    main()
