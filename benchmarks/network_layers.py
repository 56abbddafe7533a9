"""Do adaptive dropout and quantum noise help, beside dropout whose constant rate is tuned?

    python -m benchmarks.network_layers [--seeds 10] [--rows 1000]

The same backbone, the same training and the same number of trials for each: every layer is tried at the same rates of
dropout, the rate with the smallest validation loss is kept, and its loss on test rows counts. Each seed has rows and
initial weights of its own: parts of the pool that do not overlap where it is large enough (adult), otherwise drawn
anew. Where draws overlap (telco churn, Upworthy) seeds are not independent and the p of the paired t-test is too
small, if anything. Holm's correction is made over all rows of the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import ttest_1samp

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.metrics import log_loss
from within_ml.models.network_rate import NetworkRate

DATA = Path(__file__).parent / "data"
UPWORTHY = Path(__file__).parents[1] / "data_lake/landing/upworthy/upworthy_2013_2014w40.parquet"
SEEDS, ROWS, TEST_ROWS = 10, 1000, 1500
RATES = (0.0, 0.15, 0.3, 0.5)
BACKBONE = {"hidden_dims": (48, 24), "epochs": 20, "batch_size": 100, "patience": 4, "learning_rate": 0.005,
            "attention_dim": 8, "attention_heads": 2, "device": "cpu"}  # fmt: skip
COMPRESSED = ("widths", "fuse_bn, difference", "int8, difference of p", "int8, times as fast", "int8 is")
WIDTHS = ((64, 32), (256, 128), (1024, 512))
PLAIN = "dropout"
LAYERS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "adaptive dropout": {"adaptive_dropout": True},
    "noise, depolarizing": {"enable_quantum_noise": True, "noise_type": "depolarizing"},
    "noise, amplitude damping": {"enable_quantum_noise": True, "noise_type": "amplitude_damping"},
    "noise, shot": {"enable_quantum_noise": True, "noise_type": "shot"},
}


@dataclass(frozen=True, slots=True)
class Sample:
    X: np.ndarray
    y: np.ndarray
    w: np.ndarray

    def part(self, rows: Any) -> Sample:
        return Sample(self.X[rows], self.y[rows], self.w[rows])


@cache
def adult() -> Sample:
    rows = pd.read_parquet(DATA / "adult/adult.parquet").drop(columns=["fnlwgt", "education"])
    return encoded(rows.drop(columns="income"), rows["income"].str.contains(">50K"))


@cache
def telco() -> Sample:
    rows = pd.read_parquet(DATA / "telco_churn/telco_churn.parquet").drop(columns="customerID")
    return encoded(rows.drop(columns="Churn"), rows["Churn"] == "Yes")


def encoded(rows: pd.DataFrame, y: pd.Series) -> Sample:
    """Numbers, and a column for each value that 2 % of the rows have."""
    text = rows.select_dtypes(exclude="number").columns
    common = {c: rows[c].where(rows.groupby(c)[c].transform("size") >= 0.02 * len(rows)) for c in text}
    X = pd.get_dummies(rows.assign(**common), columns=list(text), dtype=float)
    return Sample(X.to_numpy(float), y.to_numpy(float), np.ones(len(X)))


@cache
def upworthy() -> Sample:
    """Words of headlines (24 components) and four figures of style."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = pd.read_parquet(UPWORTHY, columns=["headline", "impressions", "clicks"]).dropna()
    rows = rows[rows["impressions"] > 0]
    words = TfidfVectorizer(min_df=10, sublinear_tf=True).fit_transform(rows["headline"])
    said = rows["headline"].str
    style = np.column_stack([said.len(), said.count(" "), said.count(r"[A-Z]"), said.count(r"[?!]")]).astype(float)
    X = np.hstack([TruncatedSVD(24, random_state=0).fit_transform(words), style])
    shown = rows["impressions"].to_numpy(float)
    return Sample(X, rows["clicks"].to_numpy(float) / shown, shown)


def from_pool(pool: Callable[[], Sample], seed: int, rows: int) -> Sample:
    everything = pool()
    n = len(everything.y)
    if (seed + 1) * rows <= n and SEEDS * rows <= n:
        return everything.part(np.random.default_rng(0).permutation(n)[seed * rows : (seed + 1) * rows])
    return everything.part(np.random.default_rng(seed).permutation(n)[:rows])


def simulated(seed: int, rows: int) -> Sample:
    """Ads with 20 features, of which five and two products count; 100 to 3,000 impressions."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 20))
    margin = -3.5 + X[:, :5] @ rng.normal(0, 0.2, 5) + 0.2 * X[:, 0] * X[:, 1] - 0.2 * np.abs(X[:, 2])
    shown = np.exp(rng.uniform(np.log(100), np.log(3000), rows)).round()
    rate = expit(margin + rng.normal(0, 0.2, rows))
    return Sample(X, rng.binomial(shown.astype(int), rate) / shown, shown)


DATA_SETS: Mapping[str, Callable[[int, int], Sample]] = {
    "adult": lambda seed, rows: from_pool(adult, seed, rows),
    "telco churn": lambda seed, rows: from_pool(telco, seed, rows),
    "Upworthy": lambda seed, rows: from_pool(upworthy, seed, rows),
    "simulated CTR": simulated,
}


@dataclass(frozen=True, slots=True)
class Tuned:
    """Of one layer on one seed: the rate of dropout that was best on the validation rows, and the test loss with it."""

    rate: float
    loss: float


def seed_result(data_set: str, seed: int, rows: int) -> dict[str, Tuned]:
    half = rows // 2
    sample = DATA_SETS[data_set](seed, rows + half + TEST_ROWS)
    train, held, test = (sample.part(slice(*ends)) for ends in ((0, rows), (rows, rows + half), (rows + half, None)))
    return {name: tuned(options, train, held, test, seed) for name, options in LAYERS.items()}


def tuned(options: Mapping[str, Any], train: Sample, held: Sample, test: Sample, seed: int) -> Tuned:
    best, found = np.inf, Tuned(np.nan, np.nan)
    for rate in RATES:
        model = NetworkRate(**BACKBONE, **options, dropout_rate=rate, random_state=seed)
        model.fit(train.X, train.y, train.w, validation=(held.X, held.y, held.w, None, None))
        loss = model.training_curve_[model.best_epoch_].validation
        if loss is not None and loss < best:
            best, found = loss, Tuned(rate, log_loss(test.y, model.predict(test.X), sample_weight=test.w))
    return found


def p_value(differences: np.ndarray) -> float:
    """Two-sided p of the paired t-test; 1 where all differences are 0."""
    return float(ttest_1samp(differences, 0).pvalue) if differences.any() else 1.0


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p values; those at most α are significant at α for the whole family.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def compressed(widths: tuple[int, ...]) -> list[str]:
    """Of a network of these widths, fitted to simulated ads: int8 and folded normalisations, on 4,096 rows."""
    import torch

    sample = simulated(0, 8192)
    fitted, new = sample.part(slice(0, 4096)), sample.part(slice(4096, None))
    model = NetworkRate(hidden_dims=widths, epochs=5, device="cpu").fit(fitted.X, fitted.y, fitted.w)
    network = model.network_.float()
    x = torch.from_numpy(model.scaling_.transform(new.X)).float()
    base = torch.full((len(x),), model.base_logit_)
    found = network.quantize(x, None, base)
    with torch.inference_mode():
        apart = float((network.fuse_bn()(x) - network(x)).abs().max())
    return [
        str(widths),
        f"{apart:.1e}",
        f"{found.max_difference:.5f}",
        f"{found.speedup:.2f}",
        "on" if found.enabled else "off",
    ]


def page(found: Mapping[str, list[dict[str, Tuned]]], rows: int, seconds: float) -> str:
    seeds = len(next(iter(found.values())))
    lines: list[list[Any]] = []
    raw = []
    for data_set, results in found.items():
        plain = np.array([r[PLAIN].loss for r in results])
        for name in list(LAYERS)[1:]:
            difference = np.array([r[name].loss for r in results]) - plain
            raw.append(p_value(difference))
            lines.append([data_set, name, f"{1e4 * difference.mean():+.1f}", f"{1e4 * difference.std(ddof=1):.1f}",
                          f"{(difference < 0).sum()} of {seeds}", f"{raw[-1]:.3f}"])  # fmt: skip
    adjusted = holm(np.array(raw))
    verdicts = {name: [] for name in list(LAYERS)[1:]}
    for line, p in zip(lines, adjusted, strict=True):
        line.append(f"{p:.3f}")
        if p < 0.05:
            verdicts[line[1]].append(f"{'better' if line[2].startswith('-') else 'worse'} on {line[0]}")
    told = [
        f"- {name}: {', '.join(v) if v else 'no better and no worse on any data set'}" for name, v in verdicts.items()
    ]
    gains = any("better on" in line for v in verdicts.values() for line in v)
    verdict = "Both are off by default." if gains else "No better than tuned dropout anywhere: both are off by default."
    levels = [
        [data_set, *(f"{np.mean([r[name].loss for r in results]):.5f}" for name in LAYERS),
         " ".join(f"{r[PLAIN].rate:g}" for r in results)]
        for data_set, results in found.items()
    ]  # fmt: skip
    return f"""# Adaptive dropout and quantum noise beside tuned dropout

Written by `python -m benchmarks.network_layers --seeds {seeds} --rows {rows}`. {machine()}

{seeds} seeds, {len(found)} data sets; per seed {rows:,} rows to train, half as many to stop and choose on,
{TEST_ROWS:,} to test.
`NetworkRate` with hidden layers {BACKBONE["hidden_dims"]}; each layer is tried with dropout at
{", ".join(map(str, RATES))} (adaptive dropout: as the rate it starts from; noise of intensity 0.1, cosine annealing:
beside dropout of that rate) and tested with the one of smallest validation loss: as many trials for each.

At 5 % over the whole family:

{chr(10).join(told)}

{verdict} Log-loss minus that of tuned dropout, × 10⁴ (below 0: better), paired by seed:

{table(["data set", "layer", "mean", "sd over seeds", "better", "p", "p, Holm"], lines)}

Mean log-loss on the test rows, and the rates that were chosen for plain dropout:

{table(["data set", *LAYERS, "rates"], levels)}

## Folding the normalisations, and int8

Networks fitted to simulated ads, on 4,096 rows not seen in training: the largest difference that `fuse_bn` makes to the
log-odds; the largest |Δp| of int8, its speed beside the float network (both with folded normalisations), and what
`quantize` decides.

{table(COMPRESSED, map(compressed, WIDTHS))}

{seconds:.0f} CPU seconds.
"""


def run(seeds: int, rows: int, *, results: Path = RESULTS) -> Path:
    """Run all seeds on all data sets and write the page."""
    start = time.process_time()
    found = {name: [seed_result(name, seed, rows) for seed in range(seeds)] for name in DATA_SETS}
    return write_result("network_layers.md", page(found, rows, time.process_time() - start), folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to train on, per seed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.seeds, options.rows, results=options.results)


if __name__ == "__main__":
    main()
