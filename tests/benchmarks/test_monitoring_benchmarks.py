"""The benchmarks of root causes, drift and trending topics run at a tiny size."""

import sys
from pathlib import Path

import pytest

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import drift, root_causes, trending


def test_root_causes(tmp_path):
    sizes = ["--seeds", "1", "--accounts", "4", "--days", "60", "--anomalies", "4"]
    page = root_causes.run(root_causes.parsed([*sizes, "--results", str(tmp_path)])).read_text()
    assert "| all |" in page
    assert "ms per explanation" in page


def test_trending(tmp_path):
    sizes = ["--seeds", "1", "--accounts", "12", "--days", "60", "--bursts", "1"]
    page = trending.run(trending.parsed([*sizes, "--results", str(tmp_path)])).read_text()
    assert "| without drift, day 7 | 1 |" in page


def test_a_survey_that_must_not_alarm():
    assert "| its prediction |" in drift.employment_section()


@pytest.mark.slow
def test_drift(tmp_path):
    sizes = ["--seeds", "1", "--accounts", "3", "--days", "60"]
    page = drift.run(drift.parsed([*sizes, "--results", str(tmp_path)])).read_text()
    assert "drift of 0.6" in page
