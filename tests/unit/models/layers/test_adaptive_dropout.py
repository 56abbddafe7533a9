"""Adaptive dropout: the rule of its rate."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from within_ml.errors import InputError
from within_ml.models.layers import AdaptiveDropout
from within_ml.models.layers.adaptive_dropout import generalisation_gap


def test_the_rate_follows_the_rule():
    layer = AdaptiveDropout(0.2, momentum=0.5, window_size=2, adaptive_range=(0.0, 0.9), gain=1.0)
    # By hand: means 0.4, 0.2, 0.3; averages 0.2, 0.2, 0.25.
    assert [layer.update_rate(g) for g in (0.4, 0.0, 0.6)] == pytest.approx([0.4, 0.4, 0.45])
    layer.reset()
    assert layer.get_current_rate() == 0.2


@given(st.lists(st.floats(-5, 5), max_size=20))
def test_the_rate_stays_in_its_range(signals):
    layer = AdaptiveDropout(0.2, adaptive_range=(0.1, 0.4))
    for signal in signals:
        assert 0.1 <= layer.update_rate(signal) <= 0.4


def test_it_drops_at_the_current_rate_and_keeps_the_mean():
    layer, x = AdaptiveDropout(0.1, momentum=0.0, adaptive_range=(0.0, 0.5), gain=1.0), torch.ones(200, 500)
    layer.update_rate(0.4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = layer(x)

    assert float((y == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize(
    ("train", "validation", "gap"), [(0.1, 0.1, 0.0), (0.1, 0.0, 1.0), (0.1, -1.0, 1.0), (0.1, 0.15, -0.5), (0, 1, 0)]
)
def test_the_gap_is_the_share_that_did_not_carry_over(train, validation, gap):
    assert generalisation_gap(train, validation) == pytest.approx(gap)


@pytest.mark.parametrize(
    "arguments",
    [{"p": 0.7}, {"p": 0.1, "adaptive_range": (0.2, 0.4)}, {"adaptive_range": (0.0, 1.0)}, {"momentum": 1.0},
     {"window_size": 0}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(InputError, match="however"):
        AdaptiveDropout(**arguments)
    with pytest.raises(InputError, match="finite"):
        AdaptiveDropout().update_rate(float("nan"))
