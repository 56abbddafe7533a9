"""The benchmarks of the network run at a tiny size, and their statistics are right."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

# The benchmarks are no installed package: they run from the repository's root, which pytest does not put on the path.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import cross_modal, network_layers


def test_holm_by_hand():
    # Sorted .01, .03, .04: times 3, 2, 1, and never falling.
    assert network_layers.holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert network_layers.holm(np.array([0.6, 0.9])).max() == 1


def test_differences_are_paired():
    a, b = np.array([0.31, 0.29, 0.33]), np.array([0.30, 0.28, 0.31])
    assert network_layers.p_value(a - b) == pytest.approx(ttest_rel(a, b).pvalue)
    assert network_layers.p_value(np.zeros(3)) == 1


def test_the_planted_interaction_is_there():
    clicks = cross_modal.simulated(0, 4000)
    alone = np.column_stack([clicks.X, *clicks.modalities.values()])
    together = np.einsum("ni,nj->nij", *clicks.modalities.values()).reshape(4000, -1)
    margin = np.log(clicks.rate / (1 - clicks.rate))

    def explained(columns):
        design = np.column_stack([np.ones(4000), columns])
        return 1 - np.var(margin - design @ np.linalg.lstsq(design, margin, rcond=None)[0]) / np.var(margin)

    assert explained(alone) < 0.35
    assert explained(np.column_stack([alone, together])) > 0.999


def test_seeds_of_a_large_pool_share_no_rows():
    first, second = (network_layers.from_pool(network_layers.adult, seed, 3000).X for seed in (0, 1))
    assert first.shape == second.shape == (3000, first.shape[1])
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_both_write_their_page(tmp_path):
    page = cross_modal.run(1, 300, results=tmp_path).read_text()
    assert "| image missing everywhere |" in page
    page = network_layers.run(2, 60, results=tmp_path).read_text()
    assert page.count("| Upworthy |") == 5
    assert "- adaptive dropout: " in page
    assert "| (64, 32) |" in page
