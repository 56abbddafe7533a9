"""What neighbours are worth: offsets of the US states with a known truth, with and without a prior along the map.

    python -m benchmarks.geospatial_calibration [--seeds 40]

Traffic by population, five states without rows. The true offsets are normal with standard deviation .4: correlated over
800 km (exponentially; only seeds whose Moran's I is above .3), or independent. Judged by the divergence of each state's
rate from the true one, weighted by the states' population and also with all states counting the same.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from benchmarks.measuring import RESULTS, machine, table, write_result
from within_ml.calibration.geospatial import GeospatialCalibrator
from within_ml.calibration.group_tree import GroupTree
from within_ml.calibration.neighbours import morans_i, neighbour_weights, on_sphere
from within_ml.calibration.random_intercepts import estimate_intercepts
from within_ml.lake.simulation.tables import regions_table

SEEDS, FIRST_SEED = 40, 1000
"""The calibrator's constants were chosen on seeds below 40; these are others."""

IMPRESSIONS = (30_000, 100_000, 1_000_000)
SD, SCALE_KM, MORAN, EMPTY, CELLS = 0.4, 800.0, 0.3, 5, 20
STATES = regions_table().to_pandas()
POINTS = on_sphere(STATES["latitude"].to_numpy(), STATES["longitude"].to_numpy())
WEIGHTS = neighbour_weights(POINTS, 5)
TYPICAL = -4.0


@dataclass(frozen=True, slots=True)
class World:
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    place: np.ndarray
    offset: np.ndarray
    empty: np.ndarray


def world(seed: int, correlated: bool, impressions: int) -> World:
    rng = np.random.default_rng(seed)
    size = len(STATES)
    distance = 2 * 6371 * np.arcsin(np.minimum(np.linalg.norm(POINTS[:, None] - POINTS, axis=2) / 2, 1))
    root = np.linalg.cholesky(np.exp(-distance / SCALE_KM) + 1e-9 * np.eye(size)) if correlated else np.eye(size)
    offset = SD * root @ rng.normal(size=size)
    share = (STATES["population"] / STATES["population"].sum()).to_numpy()
    cells = rng.poisson(rng.gamma(1, 1, (size, CELLS)) * share[:, None] * impressions / CELLS)
    empty = rng.choice(size, EMPTY, replace=False)
    cells[empty] = 0
    place, w = np.repeat(np.arange(size), CELLS), cells.ravel()
    x = rng.normal(TYPICAL, 0.5, place.size)
    y = rng.binomial(w, expit(x + offset[place])) / np.maximum(w, 1)
    return World(x, y, w.astype(float), place, offset, empty)


def shrinkage(seen: World) -> np.ndarray:
    """Random intercepts without neighbours, variance by restricted maximum likelihood; without rows the level."""
    kept = seen.w > 0
    names = STATES["region"].to_numpy(dtype=object)
    tree, node = GroupTree.grow(names[seen.place], ("region",))
    found = estimate_intercepts(seen.x[kept], seen.y[kept], seen.w[kept], node[kept], tree, evidence=0.0)
    return found.offset[tree.find(names)]


def divergences(seen: World, offset: np.ndarray) -> np.ndarray:
    """Weighted by population, with equal weights, and on the states without rows."""
    t, p = expit(TYPICAL + seen.offset), expit(TYPICAL + offset)
    each = t * np.log(t / p) + (1 - t) * np.log((1 - t) / (1 - p))
    return np.array([np.average(each, weights=STATES["population"]), each.mean(), each[seen.empty].mean()])


def measured(correlated: bool, impressions: int, seeds: int) -> list[object]:
    ours, theirs, told, seconds = [], [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        seen = world(seed, correlated, impressions)
        if correlated and morans_i(seen.offset, WEIGHTS) <= MORAN:
            continue
        start = time.process_time()
        names = STATES["region"].to_numpy(dtype=object)[seen.place]
        calibrator = GeospatialCalibrator().fit(expit(seen.x), seen.y, names, seen.w, region_table=STATES)
        seconds.append(time.process_time() - start)
        # Both have the regions in rising order of name.
        ours.append(divergences(seen, calibrator.get_region_factors()["offset"].to_numpy()))
        theirs.append(divergences(seen, shrinkage(seen)))
        told.append([calibrator.spatial_share_, calibrator.moran_before_, calibrator.moran_after_])
    if not ours:
        return []
    mine, other, shown = np.mean(ours, axis=0), np.mean(theirs, axis=0), np.mean(told, axis=0)
    kind = "correlated" if correlated else "independent"
    figures = [f"{1e4 * v:.3f}" for pair in zip(mine[:2], other[:2], strict=True) for v in pair]
    ratios = [f"{v:.3f}" for v in mine / other]
    return [f"{kind}, {impressions:,} impressions", len(ours), *figures[:2], ratios[0], *figures[2:], *ratios[1:],
            f"{shown[0]:.2f}", f"{shown[1]:.2f} → {shown[2]:.2f}", f"{np.mean(seconds):.2f}"]  # fmt: skip


def page(seeds: int, impressions: tuple[int, ...]) -> str:
    lines = [line for c in (True, False) for n in impressions if (line := measured(c, n, seeds))]
    header = ["offsets", "seeds", "ours", "without neighbours", "ratio", "ours, equal weights",
              "without neighbours, equal", "ratio, equal", "ratio, empty states", "spatial share",
              "Moran's I before → after", "CPU s"]  # fmt: skip
    return f"""# Offsets of regions, truth known

Written by `python -m benchmarks.geospatial_calibration --seeds {seeds}
--impressions {" ".join(map(str, impressions))}`. {machine()}

50 US states at their capitals, traffic by population, {EMPTY} of them without rows. True offsets: standard deviation
{SD}, correlated over {SCALE_KM:.0f} km (seeds with Moran's I above {MORAN}) or independent. Kullback-Leibler
divergence of the states' rates from the true ones, per impression, × 10⁴, weighted by population or equally; the peer
is shrinkage by random intercepts without neighbours, on the same rows. Ratios of means below 1 are better. CPU seconds
are those of one fit. Seeds from {FIRST_SEED} on; the calibrator's constants were chosen on seeds
below 40.

{table(header, lines)}
"""


def run(seeds: int, impressions: tuple[int, ...] = IMPRESSIONS, *, results: Path = RESULTS) -> Path:
    return write_result("geospatial_calibration.md", page(seeds, impressions), folder=results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--impressions", type=int, nargs="+", default=IMPRESSIONS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    options = parser.parse_args()
    run(options.seeds, tuple(options.impressions), results=options.results)


if __name__ == "__main__":
    main()
