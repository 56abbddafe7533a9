"""How intervals are judged."""

import numpy as np
import pytest

from within_ml.errors import InputError
from within_ml.uncertainty.coverage import Intervals, coverage_report, winkler_score

FOUND = Intervals(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.4, 0.4, 0.8]), confidence=0.8)


def test_figures_by_hand():
    report = coverage_report(FOUND, [0.15, 0.1, 0.5, 0.4], list("aabb"), calibration_rows=[300, 200, 9, 10])

    # Widths .1, .2, .1, .4; outcomes .1 below the second and .1 above the third, times 2 / .2.
    assert report.coverage == 0.5
    assert report.width == pytest.approx(0.2)
    assert report.winkler == pytest.approx((0.1 + 1.2 + 1.1 + 0.4) / 4)
    assert report.groups["below"].tolist() == [0.5, 0.0]
    assert report.groups["above"].tolist() == [0.0, 0.5]
    assert report.groups["calibration_rows"].tolist() == [200, 9]


def test_the_smallest_coverage_is_of_groups_with_enough_rows():
    report = coverage_report(FOUND, [0.15, 0.3, 0.5, 0.3], list("aabb"), calibration_rows=[300, 200, 9, 10])

    assert report.smallest_coverage() == 1.0
    assert report.smallest_coverage(min_calibration_rows=5) == 0.0
    assert np.isnan(report.smallest_coverage(min_calibration_rows=200, min_rows=3))


def test_the_true_quantiles_score_best():
    y = np.random.default_rng(0).normal(0.5, 0.1, 20_000)
    scores = [
        winkler_score(Intervals(np.full(y.size, 0.5 - h), np.full(y.size, 0.5 + h), 0.9), y).mean()
        for h in (0.12, 0.1645, 0.21)
    ]

    assert min(scores) == scores[1]


def test_misshaped_input_is_refused():
    with pytest.raises(InputError, match="one entry per interval"):
        coverage_report(FOUND, [0.1, 0.2])
