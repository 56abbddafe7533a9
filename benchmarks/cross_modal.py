"""Does attention between modalities find an interaction between them that concatenation misses, and bear a lost one?

    python -m benchmarks.cross_modal [--seeds 10] [--rows 10000]

Clicks are simulated: the log-odds of a click are a little of the text, a little of the image, and mostly of how well
the two go together (a bilinear form of both vectors). Each seed has a form, rows and initial weights of its own.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.metrics import log_loss
from within_ml.models.network_rate import NetworkRate

SEEDS, ROWS = 10, 10_000
SIZE, RANK, FEATURES = 12, 3, 6
SETTINGS = {
    "hidden_dims": (64, 32),
    "dropout_rate": 0.3,
    "epochs": 20,
    "batch_size": 256,
    "patience": 6,
    "device": "cpu",
}


@dataclass(frozen=True, slots=True)
class Clicks:
    X: np.ndarray
    modalities: dict[str, np.ndarray]
    y: np.ndarray
    rate: np.ndarray

    def part(self, rows: slice) -> Clicks:
        return Clicks(self.X[rows], {n: v[rows] for n, v in self.modalities.items()}, self.y[rows], self.rate[rows])

    def with_modalities(self, *names: str, lost: str | None = None) -> Clicks:
        kept = {n: np.full_like(v, np.nan) if n == lost else v for n, v in self.modalities.items() if n in names}
        return Clicks(self.X, kept, self.y, self.rate)


def simulated(seed: int, rows: int) -> Clicks:
    """Rows of one seed; the planted interaction has rank 3 and 1.2 of standard deviation on the log-odds."""
    rng = np.random.default_rng(seed)
    X, text, image = (rng.normal(size=(rows, d)) for d in (FEATURES, SIZE, SIZE))
    left, right = rng.normal(size=(2, SIZE, RANK)) / np.sqrt(SIZE)
    together = ((text @ left) * (image @ right)).sum(1) / np.sqrt(RANK)
    alone = (text @ rng.normal(size=SIZE) + image @ rng.normal(size=SIZE)) / np.sqrt(2 * SIZE)
    margin = -2 + 0.4 * X[:, 0] + 0.5 * alone + 1.2 * together / together.std()
    rate = expit(margin)
    return Clicks(X, {"text": text, "image": image}, rng.binomial(1, rate).astype(float), rate)


def auc(y: np.ndarray, p: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, p))


def fitted(train: Clicks, held: Clicks, seed: int, **settings: object) -> NetworkRate:
    model = NetworkRate(**{**SETTINGS, "random_state": seed, **settings})
    return model.fit(
        train.X, train.y, modalities=train.modalities, validation=(held.X, held.y, None, held.modalities, None)
    )


def scores(model: NetworkRate, test: Clicks) -> tuple[float, float]:
    p = model.predict(test.X, modalities=test.modalities)
    return auc(test.y, p), log_loss(test.y, p)


def seed_result(seed: int, rows: int) -> dict[str, tuple[float, float]]:
    """AUC and log-loss on the test rows by model."""
    data = simulated(seed, 2 * rows)
    train, held, test = (
        data.part(slice(0, int(0.8 * rows))),
        data.part(slice(int(0.8 * rows), rows)),
        data.part(slice(rows, None)),
    )
    found = {"truth": (auc(test.y, test.rate), log_loss(test.y, test.rate))}
    attention = fitted(train, held, seed)
    found["attention"] = scores(attention, test)
    found["concatenation"] = scores(fitted(train, held, seed, use_cross_modal=False), test)
    alone = [part.with_modalities("text") for part in (train, held, test)]
    found["text only"] = scores(fitted(*alone[:2], seed), alone[2])
    lost = [part.with_modalities("text", "image", lost="image") for part in (train, held, test)]
    found["image missing everywhere"] = scores(fitted(*lost[:2], seed), lost[2])
    found["image missing when predicting"] = scores(attention, lost[2])
    return found


def page(found: list[dict[str, tuple[float, float]]], rows: int, seconds: float) -> str:
    def column(name: str, which: int = 0) -> np.ndarray:
        return np.array([f[name][which] for f in found])

    wins = int((column("attention", 1) < column("concatenation", 1)).sum())
    auc_wins = int((column("attention") > column("concatenation")).sum())
    lines = [[name, f"{column(name).mean():.4f}", f"{column(name, 1).mean():.4f}"] for name in found[0]]
    each = [[seed, *(f"{f[name][0]:.4f}" for name in f)] for seed, f in enumerate(found)]
    gaps = {n: column(n) - column("text only") for n in ("image missing everywhere", "image missing when predicting")}
    told = [[name, f"{gap.mean():+.4f}", f"{gap.min():+.4f}", f"{gap.max():+.4f}"] for name, gap in gaps.items()]
    return f"""# Attention between modalities

Written by `python -m benchmarks.cross_modal --seeds {len(found)} --rows {rows}`. {machine()}

Simulated clicks whose log-odds depend mostly on how text and image go together. Per seed {rows:,} rows to train
and stop on, as many to test on. `NetworkRate` with the same trunk, the same encoders and the same training; only what
joins the modalities differs.

Attention beats concatenation in **{wins} of {len(found)}** seeds by log-loss and in {auc_wins} by AUC (sign test on
log-loss: p = {binomtest(wins, len(found)).pvalue:.4f}).

{table(["means over the seeds", "AUC", "log-loss"], lines)}

AUC by seed:

{table(["seed", *found[0]], each)}

AUC beside the model that was trained on the text only:

{table(["", "mean", "smallest", "largest"], told)}

"Missing everywhere": in training and in the test. "Missing when predicting": in the test only, with the model that
learned from both. {seconds:.0f} CPU seconds.
"""


def run(seeds: int, rows: int, *, results: Path = RESULTS) -> Path:
    """Run all seeds and write the page."""
    start = time.process_time()
    found = [seed_result(seed, rows) for seed in range(seeds)]
    return write_result("cross_modal.md", page(found, rows, time.process_time() - start), folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to train and stop on, per seed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.seeds, options.rows, results=options.results)


if __name__ == "__main__":
    main()
