"""The Numenta benchmark's scoring gives the benchmark's own published scores."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import erfc

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import adbench, nab
from benchmarks.nab_scoring import (
    LOW_FALSE_ALARMS,
    LOW_MISSES,
    STANDARD,
    Labelled,
    best_threshold,
    normalised,
    score_file,
    windows_of,
)

PUBLISHED = pd.read_csv(nab.DATA / "published.csv").set_index(["detector", "file"])
TOTALS = {
    "ARTime": 57.66075157860637,
    "numenta": 46.6344501971,
    "contextOSE": 46.1670000068,
    "htmjava": 36.0757902749,
    "knncad": 18.54687659285237,
    "randomCutForest": 3.98356657241,
    "windowedGaussian": -24.0131054891,
}
"""Totals of the published per-file results over all 58 files, the last rows of the benchmark's result files."""
SCOREBOARD = {"ARTime": 74.9, "contextOSE": 69.9, "knncad": 58.0, "randomCutForest": 51.7, "windowedGaussian": 39.6}
"""Standard profile on the benchmark's scoreboard."""
AD_EXCHANGE = {
    "numenta": 76.9, "ARTime": 75.1, "contextOSE": 72.0, "htmjava": 71.2, "knncad": 71.0, "randomCutForest": 62.8,
    "windowedGaussian": 56.9,
}  # fmt: skip
"""The standard scores of the ad exchange family, all six files, of the benchmark's published results."""
ALL_WINDOWS, AD_EXCHANGE_WINDOWS = 116, 14


def windowed_gaussian(x, width=6400, step=100):
    """The detector of that name: two-sided normal tail by a window that slides in steps, told with 12 digits."""
    scores = np.zeros(x.size)
    for i in range(1, x.size):
        first = max(i - width, 0) // step * step
        window = x[first : min(first + width, i)]
        deviation = window.std() or 1e-6
        scores[i] = 1 - 0.5 * erfc(abs(x[i] - window.mean()) / deviation / 1.4142)
    return np.array([float(f"{s:.12g}") for s in scores])


@pytest.fixture(scope="module")
def files():
    return {f.name: f for f in nab.load()}


@pytest.mark.parametrize(
    "name",
    [
        "realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv",
        "realAWSCloudwatch/ec2_cpu_utilization_825cc2.csv",
        "realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn.csv",
        "realAdExchange/exchange-2_cpc_results.csv",
        "realKnownCause/ec2_request_latency_system_failure.csv",
        "realKnownCause/rogue_agent_key_hold.csv",
        "realTraffic/TravelTime_387.csv",
        "realTraffic/speed_7578.csv",
    ],
)
def test_published_score_of_a_file_from_raw_scores(files, name):
    found = score_file(files[name], windowed_gaussian(files[name].values), 1.0)
    said = PUBLISHED.loc["windowedGaussian", name]
    assert found.score == pytest.approx(said["score"], abs=1e-9)
    assert (found.true_positives, found.false_positives) == (said["tp"], said["fp"])


@pytest.mark.parametrize("detector", SCOREBOARD)
def test_published_totals(detector):
    assert normalised(TOTALS[detector], ALL_WINDOWS) == pytest.approx(SCOREBOARD[detector], abs=0.06)


@pytest.mark.parametrize("detector", AD_EXCHANGE)
def test_published_family(detector):
    present = PUBLISHED.loc[detector, "score"]
    absent = TOTALS[detector] - present.sum()
    here = present[present.index.str.startswith("realAdExchange")].sum()
    assert normalised(here + absent, AD_EXCHANGE_WINDOWS) == pytest.approx(AD_EXCHANGE[detector], abs=0.06)


def test_the_profiles_are_the_published_ones():
    published = json.loads((nab.DATA / "profiles.json").read_text(encoding="utf-8"))
    for name, ours in (
        ("standard", STANDARD), ("reward_low_FP_rate", LOW_FALSE_ALARMS), ("reward_low_FN_rate", LOW_MISSES),
    ):  # fmt: skip
        costs = published[name]["CostMatrix"]
        assert (costs["tpWeight"], costs["fnWeight"], costs["fpWeight"]) == (ours.found, ours.missed, ours.false_alarm)


def made(windows, n=1000):
    return Labelled("f/x.csv", np.datetime64("2024", "s") + np.arange(n), np.zeros(n), windows)


def test_ends_of_the_scale():
    file = made(((300, 399), (700, 799)))
    alarm = np.zeros(1000)
    alarm[[300, 700]] = 1
    total = score_file(file, alarm, 1.0).score
    assert normalised(total, windows_of([file])) == pytest.approx(100)
    assert normalised(score_file(file, np.zeros(1000), 1.0).score, 2) == 0
    assert score_file(made(()), alarm, 1.0).score == pytest.approx(-0.22)


def test_probation_counts_for_nothing():
    file = made(((10, 100), (300, 399)))
    alarm = np.zeros(1000)
    alarm[:150] = 1
    assert windows_of([file]) == 1
    assert score_file(file, alarm, 1.0).score == -1


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    files = [made(((300, 399), (700, 799))), Labelled("f/y.csv", made(()).timestamps, np.zeros(1000), ((500, 560),))]
    scores = {f.name: rng.random(1000).round(2) ** 20 for f in files}
    best = best_threshold(files, scores)
    by_hand = {
        t: normalised(sum(score_file(f, scores[f.name], t).score for f in files), 3)
        for t in np.unique(np.concatenate(list(scores.values())))
    }
    assert best.score == pytest.approx(max(by_hand.values()))
    assert by_hand[best.threshold] == pytest.approx(best.score)


@pytest.mark.slow
class TestRuns:
    def test_nab(self, files, tmp_path):
        few = [f for f in files.values() if f.family in ("realAdExchange", "realTraffic")]
        page = nab.run((1.6,), results=tmp_path, files=few).read_text()
        assert "| **within** |" in page
        assert "| htmjava |" in page

    def test_adbench(self, tmp_path):
        page = adbench.run(300, results=tmp_path).read_text()
        assert "| **mean** |" in page
