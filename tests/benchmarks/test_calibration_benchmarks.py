"""The benchmarks of calibration by groups and by region run at a tiny size and show what they promise."""

import sys
from pathlib import Path

import pytest

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import geospatial_calibration, hierarchical_calibration


@pytest.mark.slow
class TestRuns:
    def test_nested_groups(self, tmp_path):
        page = hierarchical_calibration.run(1, 1500, (500_000,), 2000, results=tmp_path).read_text()
        assert "| strong (.5, .3, .2), 500,000 impressions |" in page
        assert "all seeds together: 0." in page

    def test_regions(self, tmp_path):
        page = geospatial_calibration.run(2, (50_000,), results=tmp_path).read_text()
        assert "| independent, 50,000 impressions |" in page
