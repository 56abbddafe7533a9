"""How near nested groups' calibration comes to a known truth, beside maps for all and maps per group.

    python -m benchmarks.hierarchical_calibration [--seeds 10]

20 accounts × 6 campaigns × 5 ad groups; traffic of the ad groups by Zipf's law in random order; the log-odds of the
truth are a bent function of the raw prediction's plus a normal intercept per account, campaign and ad group. Every
method sees the same rows and is judged by the divergence of its rates from the true ones on fresh rows, per impression.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.calibration.hierarchical import HierarchicalCalibrator
from within_ml.calibration.spline import SplineCalibrator

ACCOUNTS, CAMPAIGNS, AD_GROUPS = 20, 6, 5
LEVELS = ("account_id", "campaign_id", "ad_group_id")
EFFECTS = {"strong (.5, .3, .2)": (0.5, 0.3, 0.2), "weak (.2, .1, .1)": (0.2, 0.1, 0.1), "none": (0.0, 0.0, 0.0)}
SEEDS, ROWS, IMPRESSIONS = 10, 6_000, (1_000_000, 20_000_000)
OURS = "HierarchicalCalibrator"


@dataclass(frozen=True, slots=True)
class Rows:
    p: np.ndarray
    y: np.ndarray
    w: np.ndarray
    truth: np.ndarray
    groups: pd.DataFrame
    group: np.ndarray


def world(seed: int, sd: tuple[float, float, float], rows: int, impressions: int) -> tuple[Rows, Rows]:
    """Rows to calibrate on and fresh rows of the same groups."""
    rng = np.random.default_rng(seed)
    shape = (ACCOUNTS, CAMPAIGNS, AD_GROUPS)
    size = int(np.prod(shape))
    offset = sum(s * rng.normal(size=shape[: k + 1] + (1,) * (2 - k)) for k, s in enumerate(sd))
    offset = np.broadcast_to(offset, shape).ravel()
    share = 1 / np.arange(1, size + 1)
    share = rng.permutation(share / share.sum())
    path = np.column_stack(np.unravel_index(np.arange(size), shape))

    def draw() -> Rows:
        group = rng.choice(size, rows, p=share)
        x = rng.normal(-4, 0.7, rows)
        truth = expit(-0.5 + 0.9 * x + 0.15 * np.sin(2 * x) + offset[group])
        w = rng.poisson(impressions / rows * rng.gamma(1, 1, rows)) + 1
        frame = pd.DataFrame(path[group], columns=list(LEVELS))
        return Rows(expit(x), rng.binomial(w, truth) / w, w.astype(float), truth, frame, group)

    return draw(), draw()


def divergence(rows: Rows, p: np.ndarray) -> float:
    p, t = np.clip(p, 1e-6, 1 - 1e-6), rows.truth
    return float(np.average(t * np.log(t / p) + (1 - t) * np.log((1 - t) / (1 - p)), weights=rows.w))


def spline(seen: Rows, new: Rows) -> np.ndarray:
    return SplineCalibrator().fit(seen.p, seen.y, seen.w).transform(new.p)


def isotonic(seen: Rows, new: Rows) -> np.ndarray:
    return IsotonicRegression(out_of_bounds="clip").fit(seen.p, seen.y, seen.w).predict(new.p)


def platt(seen: Rows, new: Rows) -> np.ndarray:
    x = np.tile(logit(seen.p), 2)[:, None]
    w = np.concatenate([seen.w * seen.y, seen.w * (1 - seen.y)])
    labels = np.repeat([1, 0], seen.p.size)
    if not 0 < seen.w @ seen.y < seen.w.sum():
        return np.full(new.p.size, np.average(seen.y, weights=seen.w))
    return (
        LogisticRegression(C=1.0, max_iter=200)
        .fit(x, labels, sample_weight=w)
        .predict_proba(logit(new.p)[:, None])[:, 1]
    )


def per_group(method: Callable[[Rows, Rows], np.ndarray], *, ad_groups: int = 1) -> Callable[[Rows, Rows], np.ndarray]:
    """The method on each ``ad_groups`` neighbouring ad groups alone; one that was not seen gets the map for all."""

    def predict(seen: Rows, new: Rows) -> np.ndarray:
        p = method(seen, new)
        for group in np.unique(new.group // ad_groups):
            there, asked = seen.group // ad_groups == group, new.group // ad_groups == group
            if there.any():
                p[asked] = method(_of(seen, there), _of(new, asked))
        return p

    return predict


def _of(rows: Rows, there: np.ndarray) -> Rows:
    return Rows(rows.p[there], rows.y[there], rows.w[there], rows.truth[there], rows.groups[there], rows.group[there])


def hierarchical(seen: Rows, new: Rows) -> np.ndarray:
    return (
        HierarchicalCalibrator(hierarchy_levels=LEVELS)
        .fit(seen.p, seen.y, seen.groups, seen.w)
        .transform(new.p, new.groups)
    )


METHODS: dict[str, Callable[[Rows, Rows], np.ndarray]] = {
    OURS: hierarchical,
    "global spline": spline,
    "global isotonic": isotonic,
    "isotonic per account": per_group(isotonic, ad_groups=CAMPAIGNS * AD_GROUPS),
    "Platt per account": per_group(platt, ad_groups=CAMPAIGNS * AD_GROUPS),
    "isotonic per ad group": per_group(isotonic),
    "Platt per ad group": per_group(platt),
}


def ordered(seen: Rows, new: Rows) -> int:
    """Pairs of neighbouring predictions within a group that the calibrator puts the other way round, or ties."""
    p = hierarchical(seen, new)
    frame = pd.DataFrame({"group": new.group, "raw": new.p, "p": p}).sort_values(["group", "raw"])
    steps = frame.groupby("group")[["raw", "p"]].diff()
    return int(((steps["raw"] > 0) & (steps["p"] <= 0)).sum())


def scale(rows: int) -> tuple[float, float, dict[str, float]]:
    """CPU seconds to fit and to transform rows of 4 levels with a fifth as many ads, and the variances found."""
    rng = np.random.default_rng(0)
    ads = max(rows // 5, 1)
    account, campaign, ad_group = rng.integers(0, 200, ads), rng.integers(0, 20, ads), rng.integers(0, 10, ads)
    offset = 0.4 * rng.normal(size=200)[account] + 0.3 * rng.normal(size=(200, 20))[account, campaign]
    offset += 0.2 * rng.normal(size=(200, 20, 10))[account, campaign, ad_group] + 0.3 * rng.normal(size=ads)
    ad = rng.integers(0, ads, rows)
    x = rng.normal(-4, 0.6, rows)
    w = rng.poisson(300 * rng.gamma(1, 1, rows)) + 1
    y = rng.binomial(w, expit(x + offset[ad])) / w
    ids = {"account_id": account[ad], "campaign_id": campaign[ad], "ad_group_id": ad_group[ad], "ad_id": ad}
    groups = "id-" + pd.DataFrame(ids).astype(str)
    start = time.process_time()
    calibrator = HierarchicalCalibrator().fit(expit(x), y, groups, w)
    fitted = time.process_time()
    calibrator.transform(expit(x), groups)
    return fitted - start, time.process_time() - fitted, calibrator.variances_


def page(seeds: int, rows: int, impressions: tuple[int, ...], scale_rows: int) -> str:
    lines, wrong = [], 0
    for (name, sd), shown in product(EFFECTS.items(), impressions):
        found: dict[str, list[float]] = {method: [] for method in METHODS}
        for seed in range(seeds):
            seen, new = world(seed, sd, rows, shown)
            for method, predict in METHODS.items():
                found[method].append(divergence(new, predict(seen, new)))
            wrong += ordered(seen, new)
        mean = {method: float(np.mean(values)) for method, values in found.items()}
        best = np.min([found[m] for m in METHODS if m != OURS], axis=0)
        ratio, worst = (
            mean[OURS] / min(v for m, v in mean.items() if m != OURS),
            float(np.max(np.array(found[OURS]) / best)),
        )
        against = np.array(found[OURS]) / np.array(found["global spline"])
        lines.append(
            [
                f"{name}, {shown:,} impressions",
                *(f"{1e4 * v:.3f}" for v in mean.values()),
                f"{ratio:.3f}",
                f"{worst:.3f}",
                f"{against.max():.3f}",
            ]
        )
    header = [
        "effects (standard deviations)",
        *METHODS,
        "ours / best other",
        "worst seed",
        "worst seed / global spline",
    ]
    seconds, transform, variances = scale(scale_rows)
    estimates = ", ".join(f"{name} {v:.3f}" for name, v in variances.items())
    return f"""# Calibration by nested groups, truth known

Written by `python -m benchmarks.hierarchical_calibration --seeds {seeds} --rows {rows} --impressions
{" ".join(map(str, impressions))} --scale {scale_rows}`. {machine()}

{ACCOUNTS} accounts × {CAMPAIGNS} campaigns × {AD_GROUPS} ad groups, {rows:,} rows,
ad groups' traffic by Zipf's law. Kullback-Leibler divergence of the rates from the true ones on fresh rows, per
impression, × 10⁴; mean of {seeds} seeds. "ours / best other" compares the means, "worst seed" the worst seed with the
best other method of that seed.

{table(header, lines)}

Neighbouring predictions within an ad group put in the wrong order or tied, all seeds together: {wrong}.

{scale_rows:,} rows of 4 levels with {scale_rows // 5:,} ads: {seconds:.1f} CPU seconds to fit, {transform:.1f} to
transform. Variances found: {estimates}
(true: .160, .090, .040, .090).
"""


def run(seeds: int, rows: int, impressions: tuple[int, ...], scale_rows: int, *, results: Path = RESULTS) -> Path:
    return write_result("hierarchical_calibration.md", page(seeds, rows, impressions, scale_rows), folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to calibrate on")
    parser.add_argument("--impressions", type=int, nargs="+", default=IMPRESSIONS, help="impressions of these rows")
    parser.add_argument("--scale", type=int, default=1_000_000, help="rows of the timing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.seeds, options.rows, tuple(options.impressions), options.scale, results=options.results)


if __name__ == "__main__":
    main()
