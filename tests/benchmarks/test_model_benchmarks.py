"""The benchmarks of the linear model and the ensemble run at a tiny size."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import dynamic_linear, ensemble

needs_river = pytest.mark.skipif(importlib.util.find_spec("river") is None, reason="river is not on the path")


def test_the_stream_drifts_and_is_the_same_from_run_to_run():
    first, again = dynamic_linear.make_stream(2000, 1), dynamic_linear.make_stream(2000, 1)

    assert np.array_equal(first.columns, again.columns)
    assert 0.005 < first.y.mean() < 0.2
    assert first.rows(0, 10).shape == (10, first.width)


@pytest.mark.parametrize("name", ["census income", "churn"])
def test_real_rows_are_there(name):
    rows = ensemble.SETS[name](0, 1)

    assert len(rows.X) == len(rows.y) > 7000
    assert 0.2 < rows.y.mean() < 0.3


@needs_river
def test_river_learns_what_ours_learns():
    stream = dynamic_linear.make_stream(3000, 0)
    ours, _ = dynamic_linear.run_ours(stream, 3000, alpha=0.1, regularization=1.0)
    theirs, _ = dynamic_linear.run_river(stream, 3000, alpha=0.1, l2=1.0, intercept="column")

    assert np.corrcoef(ours, theirs)[0, 1] > 0.9


@pytest.mark.slow
class TestRuns:
    def test_the_ensemble(self, tmp_path):
        page = ensemble.run(1, 4, results=tmp_path).read_text()
        assert "| simulated ads |" in page
        assert "| churn, median |" in page

    @needs_river
    def test_the_linear_model(self, tmp_path):
        page = dynamic_linear.run(2000, 1, results=tmp_path).read_text()
        assert "| river FTRLProximal |" in page
