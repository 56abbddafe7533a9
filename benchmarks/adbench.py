"""How the cross-section orders odd rows on sets of ADBench, beside PyOD's ECOD and isolation forest.

    python -m benchmarks.adbench [--rows 100000]

Unsupervised: fitted to X without y, and X is scored. The peers run in the same process on the same rows with PyOD's
defaults (the forest with the same seed). The figure is the area under the ROC curve.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.anomalies.cross_section import CrossSection

DATA = Path(__file__).parent / "data" / "adbench"
OURS, ROWS, SEED = "combined", 100_000, 0


@dataclass(frozen=True, slots=True)
class Rows:
    """A set: its name, X of shape (rows, columns) and y, 1 for an anomaly."""

    name: str
    X: np.ndarray
    y: np.ndarray


def sets(most: int, folder: Path = DATA) -> Iterator[Rows]:
    """Yield the sets, of larger ones so many rows drawn at random."""
    for path in sorted(folder.glob("*.npz"), key=lambda p: int(p.stem.split("_")[0])):
        with np.load(path, allow_pickle=False) as arrays:
            X, y = arrays["X"].astype(float), arrays["y"].astype(int).ravel()
        if len(X) > most:
            drawn = np.random.default_rng(SEED).choice(len(X), most, replace=False)
            X, y = X[drawn], y[drawn]
        if 0 < y.sum() < len(y):
            yield Rows(path.stem.split("_", 1)[1], X, y)


def _ours(method: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda X: CrossSection(method, random_state=SEED).fit(X).decision_function(X)  # type: ignore[arg-type]


def _pyod_ecod(X: np.ndarray) -> np.ndarray:
    from pyod.models.ecod import ECOD

    return ECOD().fit(X).decision_function(X)


def _pyod_forest(X: np.ndarray) -> np.ndarray:
    from pyod.models.iforest import IForest

    return IForest(random_state=SEED).fit(X).decision_function(X)


PEERS = {"PyOD ECOD": _pyod_ecod, "PyOD isolation forest": _pyod_forest}
SCORERS = {OURS: _ours(OURS), "knn": _ours("knn"), **PEERS}


def run(most: int = ROWS, *, results: Path = RESULTS, folder: Path = DATA) -> Path:
    """Score the sets and write the page."""
    from sklearn.metrics import roc_auc_score

    warnings.filterwarnings("ignore", category=FutureWarning)
    found: list[tuple[Rows, dict[str, float]]] = []
    seconds = dict.fromkeys(SCORERS, 0.0)
    for rows in sets(most, folder):
        areas = {}
        for name, scorer in SCORERS.items():
            begin = time.perf_counter()
            areas[name] = float(roc_auc_score(rows.y, scorer(rows.X)))
            seconds[name] += time.perf_counter() - begin
        found.append((rows, areas))
    lines = [
        [rows.name, f"{len(rows.X):,}", rows.X.shape[1], int(rows.y.sum()), *(f"{areas[n]:.3f}" for n in SCORERS)]
        for rows, areas in found
    ]
    means = {n: float(np.mean([areas[n] for _, areas in found])) for n in SCORERS}
    best_peer = max(PEERS, key=lambda n: means[n])
    gains = np.array([areas[OURS] - areas[best_peer] for _, areas in found])
    lines.append(["**mean**", "", "", "", *(f"**{means[n]:.4f}**" for n in SCORERS)])
    lines.append(["seconds", "", "", "", *(f"{seconds[n]:.0f}" for n in SCORERS)])
    text = f"""# Odd rows of ADBench's sets

Written by `python -m benchmarks.adbench --rows {most}`. {machine()}

Area under the ROC curve, fitted to X without labels and judged on X, {len(found)} sets. `combined` is the default of
`CrossSection`; it was chosen once for all sets.

{table(["set", "rows", "columns", "anomalies", *SCORERS], lines)}

`combined` less {best_peer}, the better peer: {gains.mean():+.4f} in the mean, ahead on {int((gains > 0).sum())} of
{len(gains)} sets, from {gains.min():+.3f} to {gains.max():+.3f}; standard error of the mean
{gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else float("nan"):.4f}.
"""
    return write_result("adbench.md", text, folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows at most per set")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.rows, results=options.results)


if __name__ == "__main__":
    main()
