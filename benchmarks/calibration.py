"""How well calibrators repair probabilities, each fitted on the same rows in one process.

    python -m benchmarks.calibration [--seeds 20] [--splits 10] [--only SECTION]

Simulated: predictions whose log-odds are spread by .9, a true rate that is a known function of them with mean 3 %, one
click or none by row; the loss is the expected one under the truth, on 100,000 fresh predictions. Real: Adult with a
naive Bayes and with overfitted boosted trees, employment in Massachusetts with its published scores, as it is and with
clicks thinned to 3 %; and ten-class probabilities of a VGG16 on CIFAR-10. There the loss is that of the rows left out.

Peers: isotonic regression (scikit-learn), Platt scaling on the log-odds, beta calibration (Kull et al. 2017, as their
package fits it), Venn-Abers (`venn-abers`) and `splinecalib`. Where a peer says 0 or 1 it is moved in by 1e-6, which
spares isotonic regression an infinite loss.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax, xlogy

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml import metrics
from within_ml.calibration.spline import SplineCalibrator

DATA = Path(__file__).parent / "data"
CTR, SPREAD, FRESH = 0.03, 0.9, 100_000
CLOSEST = 1e-6
OURS = "spline, ours"
PAGE = "calibration.md"
Calibrate = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(predictions, outcomes, new predictions) → calibrated new predictions."""


# ---- calibrators


def spline(p, y, new):
    return SplineCalibrator().fit(p, y).transform(new)


def log_odds(p: np.ndarray) -> np.ndarray:
    return logit(np.clip(p, 1e-12, 1 - 1e-12))


def isotonic(p, y, new):
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(out_of_bounds="clip").fit(p, y).predict(new)


def platt(p, y, new):
    return unpenalised(log_odds(p)[:, None], y, log_odds(new)[:, None])


def unpenalised(columns, y, new):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1e10, max_iter=1000).fit(columns, y).predict_proba(new)[:, 1]


def beta(p, y, new):
    """Both logarithms; one whose factor comes out negative is dropped."""
    from sklearn.linear_model import LogisticRegression

    def columns(q):
        q = np.clip(q, 1e-12, 1 - 1e-12)
        return np.column_stack([np.log(q), -np.log1p(-q)])

    factors = LogisticRegression(C=1e10, max_iter=1000).fit(columns(p), y).coef_[0]
    kept = [0, 1] if (factors >= 0).all() else [int(np.argmax(factors))]
    return unpenalised(columns(p)[:, kept], y, columns(new)[:, kept])


def venn_abers(p, y, new):
    from venn_abers import VennAbers

    model = VennAbers()
    model.fit(np.column_stack([1 - p, p]), y)
    return model.predict_proba(np.column_stack([1 - new, new]))[0][:, 1]


def splinecalib(p, y, new):
    from splinecalib import SplineCalib

    model = SplineCalib()
    model.fit(p, y)
    return model.calibrate(new)


PEERS: Mapping[str, Calibrate] = {
    "raw": lambda p, y, new: new,
    "isotonic": isotonic,
    "Platt": platt,
    "beta": beta,
    "Venn-Abers": venn_abers,
    "splinecalib": splinecalib,
}
ALL: Mapping[str, Calibrate] = {**PEERS, OURS: spline}


# ---- cases

SHAPES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "wiggly": lambda x: x + 0.5 * np.sin(2 * x),
    "bent": lambda x: np.where(x < -3.8, x, -3.8 + 0.2 * (x + 3.8)),
    "too sure": lambda x: 0.5 * x,
    "too timid": lambda x: 1.6 * x,
    "level wrong": lambda x: x - 0.5,
    "calibrated": lambda x: x,
}
SIMULATED = {f"simulated, {shape}": shape for shape in SHAPES}


@dataclass(frozen=True, slots=True)
class Draw:
    """Rows to fit on, and rows to judge by: ``rate`` is the truth where it is known, else the outcome."""

    p: np.ndarray
    y: np.ndarray
    new: np.ndarray
    rate: np.ndarray


def simulated(shape: str, rows: int, seed: int) -> Draw:
    truth = SHAPES[shape]
    even = np.linspace(-5, 5, 2001)
    share = np.exp(-(even**2) / 2) / np.exp(-(even**2) / 2).sum()
    # What the predictions are wrong by is in the shape; where they lie makes the mean of the truth 3 %.
    centre = brentq(lambda m: share @ expit(truth(m + SPREAD * even)) - CTR, -12, 6)
    rng = np.random.default_rng(seed)
    x = centre + SPREAD * rng.normal(size=rows + FRESH)
    rate = expit(truth(x))
    y = (rng.random(rows) < rate[:rows]).astype(float)
    return Draw(expit(x[:rows]), y, expit(x[rows:]), rate[rows:])


@cache
def scores(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outcomes of a real model on rows it was not fitted on."""
    if name.startswith("employment"):
        rows = pd.read_parquet(DATA / "employment/employment_ma.parquet").astype(float)
        return rows["predicted_probability"].to_numpy(), rows["employed"].to_numpy()
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.naive_bayes import GaussianNB

    rows = pd.read_parquet(DATA / "adult/adult.parquet").sample(frac=1.0, random_state=0)
    y = rows["income"].str.contains(">50K").to_numpy(float)
    X = pd.get_dummies(rows.drop(columns="income")).to_numpy(float)
    # Far more leaves than 8,000 rows carry: sure of what it learned by heart.
    trees = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.2, random_state=0)
    model = GaussianNB() if "Bayes" in name else trees
    return model.fit(X[:8000], y[:8000]).predict_proba(X[8000:])[:, 1], y[8000:]


REAL = ("adult, naive Bayes", "adult, boosted trees", "employment", "employment, 3 %")


def real(name: str, rows: int, seed: int) -> Draw:
    p, y = scores(name)
    rng = np.random.default_rng(seed)
    if name.endswith("3 %"):
        misses = np.flatnonzero(y == 0)
        clicked = rng.permutation(np.flatnonzero(y == 1))[: int(len(misses) * CTR / (1 - CTR))]
        kept = np.concatenate([misses, clicked])
        p, y = p[kept], y[kept]
    order = rng.permutation(len(p))
    fit, rest = order[:rows], order[rows:]
    return Draw(p[fit], y[fit], p[rest], y[rest])


# ---- judging


def inner(p: np.ndarray) -> np.ndarray:
    return np.clip(p, CLOSEST, 1 - CLOSEST)


def loss(rate: np.ndarray, p: np.ndarray) -> float:
    return float(-(xlogy(rate, p) + xlogy(1 - rate, 1 - p)).mean())


@dataclass(frozen=True, slots=True)
class Found:
    """One calibrator on one draw; shares are of neighbouring distinct raw predictions."""

    loss: float
    ties: float
    inversions: float
    auc: float


def found(calibrate: Calibrate, draw: Draw) -> Found:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = np.asarray(calibrate(draw.p, draw.y, draw.new), dtype=float)
    order = np.argsort(draw.new, kind="stable")
    steps = np.diff(raw[order])[np.diff(draw.new[order]) > 0]
    p = raw if calibrate is spline else inner(raw)
    before, after = (metrics.auc(draw.rate, q) for q in (draw.new, np.clip(raw, 0, 1)))
    return Found(loss(draw.rate, p), float((steps == 0).mean()), float((steps < 0).mean()), abs(after - before))


def draw(name: str, rows: int, seed: int) -> Draw:
    return simulated(SIMULATED[name], rows, seed) if name in SIMULATED else real(name, rows, seed)


Losses = dict[str, dict[str, np.ndarray]]


def compared(
    rows: int, seeds: int, methods: Mapping[str, Calibrate], names: Iterable[str]
) -> tuple[Losses, dict[str, list[Found]]]:
    """Losses by case and method, shape (seeds,), and all that was found by method."""
    losses: Losses = {}
    every: dict[str, list[Found]] = {method: [] for method in methods}
    for name in names:
        draws = [draw(name, rows, seed) for seed in range(seeds)]
        results = {method: [found(calibrate, one) for one in draws] for method, calibrate in methods.items()}
        losses[name] = {method: np.array([f.loss for f in each]) for method, each in results.items()}
        for method, each in results.items():
            every[method] += each
    return losses, every


def loss_table(losses: Losses) -> str:
    methods = list(next(iter(losses.values())))
    return table(["", *methods], [[case, *(f"{v.mean():.5f}" for v in by.values())] for case, by in losses.items()])


def lead_table(losses: Losses) -> str:
    """Mean loss of the peer minus ours × 10⁵, and draws in which ours is at or below."""
    peers = [name for name in next(iter(losses.values())) if name != OURS]
    lines = []
    for case, by in losses.items():
        ahead = [by[peer] - by[OURS] for peer in peers]
        lines.append([case, *(f"{1e5 * a.mean():+.1f} ({(a >= 0).sum()} of {a.size})" for a in ahead)])
    return table(["", *peers], lines)


def order_table(every: dict[str, list[Found]]) -> str:
    def line(name: str, results: list[Found]) -> list[str]:
        ties, inversions = (100 * np.mean([getattr(f, kind) for f in results]) for kind in ("ties", "inversions"))
        return [name, f"{ties:.1f}", f"{inversions:.2f}", f"{max(f.auc for f in results):.1e}"]

    header = ["", "new ties, % of neighbours", "inversions, % of neighbours", "largest change of AUC"]
    return table(header, [line(name, results) for name, results in every.items()])


# ---- several classes


def one_vs_rest(calibrate: Calibrate) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    def run(p, y, new):
        each = [inner(calibrate(p[:, k], (y == k).astype(float), new[:, k])) for k in range(p.shape[1])]
        columns = np.column_stack(each)
        return columns / columns.sum(axis=1, keepdims=True)

    return run


def temperature(p, y, new):
    logs = np.log(np.clip(p, 1e-12, 1))
    rows = np.arange(len(y))
    best = minimize_scalar(
        lambda t: -log_softmax(logs / t, axis=1)[rows, y].mean(), bounds=(0.2, 5), method="bounded"
    ).x
    return softmax(np.log(np.clip(new, 1e-12, 1)) / best, axis=1)


def classes(rows: int, splits: int) -> Losses:
    with np.load(DATA / "cifar/vgg16_test.npz") as arrays:
        p, y = arrays["probabilities"].astype(float), arrays["labels"].astype(int)
    methods = {name: one_vs_rest(calibrate) for name, calibrate in PEERS.items() if name != "raw"}
    methods = {"raw": PEERS["raw"], "temperature": temperature, **methods, OURS: spline}
    by: dict[str, list[float]] = {name: [] for name in methods}
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(y))
        fit, rest = order[:rows], order[rows:]
        for name, calibrate in methods.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shares = calibrate(p[fit], y[fit], p[rest])
            said = np.clip(shares[np.arange(len(rest)), y[rest]], CLOSEST, 1)
            by[name].append(float(-np.log(said).mean()))
    return {f"CIFAR-10, {rows:,} rows": {name: np.array(values) for name, values in by.items()}}


# ---- page


def judged(title: str, losses: Losses, *tail: str) -> str:
    return "\n\n".join([f"## {title}", loss_table(losses), "Ahead:", lead_table(losses), *tail])


def many(title: str, rows: int, seeds: int, names: Iterable[str]) -> str:
    losses, every = compared(rows, seeds, ALL, names)
    return judged(title, losses, "What becomes of the order, over all these draws:", order_table(every))


def few(title: str, rows: int, seeds: int) -> str:
    losses, _ = compared(rows, seeds, ALL, [*SIMULATED, *REAL])
    about = (
        f"At 3 % these are about {round(rows * CTR)} clicks: `SplineCalibrator` falls back to beta calibration,\n"
        "pulled towards the identity. Its bar here is beta calibration's loss plus 50 × 10⁻⁵."
    )
    return judged(title, losses, about)


def several(title: str, rows: Iterable[int], splits: int) -> str:
    losses: Losses = {}
    for count in rows:
        losses |= classes(count, splits)
    return judged(title, losses, 'One map per class, rows divided by their sum; "temperature" is one number for all.')


def kept_sections(page: Path) -> dict[int, str]:
    """The sections of a page written before, by their number."""
    if not page.exists():
        return {}
    parts = page.read_text(encoding="utf-8").split("\n## ")[1:]
    return {int(part.split(".")[0]): f"## {part.rstrip()}" for part in parts}


def run(
    seeds: int,
    splits: int,
    *,
    large: int = 10_000,
    small: int = 1_000,
    only: int | None = None,
    results: Path = RESULTS,
) -> Path:
    """Run the benchmark, or one section of it beside those of the page that is there, and write its page."""
    logging.getLogger("within_ml").setLevel(logging.ERROR)
    makers: dict[int, Callable[[], str]] = {
        1: lambda: many(f"1. Simulated, {large:,} rows", large, seeds, SIMULATED),
        2: lambda: many(f"2. Real, {large:,} rows", large, seeds, REAL),
        3: lambda: few(f"3. {small:,} rows", small, seeds),
        4: lambda: several("4. Several classes", (large // 2, small), splits),
    }
    sections = kept_sections(results / PAGE) if only is not None else {}
    for number in makers if only is None else [only]:
        sections[number] = makers[number]()
    page = f"""# Calibrators on the same rows

Written by `python -m benchmarks.calibration --seeds {seeds} --splits {splits}`, section by section with `--only`.
{machine()}

Mean log-loss over {seeds} draws (several classes: {splits} splits). "Ahead" is the peer's loss minus that of
`SplineCalibrator()` with its defaults, × 10⁵, and in brackets the draws in which ours is at or below the peer.
Simulated losses are expectations under the known truth. Data: Adult (CC BY 4.0, UCI), employment in Massachusetts
(NannyML, Apache-2.0), VGG16 on CIFAR-10 (MIT); licences stand beside them in `benchmarks/data`.

{(chr(10) * 2).join(sections[number] for number in sorted(sections))}
"""
    return write_result(PAGE, page, folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--only", type=int, choices=[1, 2, 3, 4], help="compute one section anew")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    run(options.seeds, options.splits, only=options.only, results=options.results)


if __name__ == "__main__":
    main()
