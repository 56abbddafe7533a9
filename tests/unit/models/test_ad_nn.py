"""The network of the ad score: shapes, starting point, folding of normalisations, int8."""

import pytest
import torch

from within_ml.errors import InputError
from within_ml.models.ad_nn import AdPredictorNN
from within_ml.models.layers import AdaptiveDropout

DIMS = {"text": 4, "image": 3}


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def rows(n=64):
    return torch.randn(n, 5), {"text": torch.randn(n, 4), "image": torch.randn(n, 3)}


def trained(**options):
    """A network whose weights and normalisations are no longer those it started with."""
    network = AdPredictorNN(5, (16, 8), modality_dims=DIMS, **options)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(20):
        x, modalities = rows()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x, modalities), (x[:, 0] - 2).sigmoid())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("cross", [True, False])
def test_an_untrained_network_answers_the_margin(cross):
    x, modalities = rows()
    margin = torch.randn(64)
    network = AdPredictorNN(5, use_cross_modal=cross, enable_quantum_noise=True, modality_dims=DIMS)

    assert torch.equal(network(x, modalities, margin), margin)
    assert torch.equal(network.eval()(x, None, margin), margin)


def test_parts_can_be_looked_at():
    network, (x, modalities) = trained(), rows()
    extracted, weights = network.feature_extraction(x, modalities), network.attention_weights(x)

    assert extracted.shape == (64, 8)
    assert torch.allclose(network.head(extracted)[:, 0], network(x, modalities))
    assert weights.shape == (64, 4, 5)
    assert torch.allclose(weights.sum(-1), torch.ones(64, 4))


@pytest.mark.parametrize("cross", [True, False])
def test_a_missing_modality_is_one_that_is_not_there(cross):
    network, (x, modalities) = trained(use_cross_modal=cross), rows()
    empty = {**modalities, "image": torch.full((64, 3), torch.nan)}

    assert torch.allclose(network(x, empty), network(x, {"text": modalities["text"]}))
    assert not torch.allclose(network(x, empty), network(x, modalities))


@pytest.mark.parametrize("options", [{}, {"enable_quantum_noise": True, "adaptive_dropout": True}])
def test_folded_normalisations_give_the_same_answer(options):
    network, (x, modalities) = trained(**options), rows(500)
    fused = network.fuse_bn()

    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in fused.modules())
    assert any(isinstance(m, torch.nn.BatchNorm1d) for m in network.modules())
    assert (fused(x, modalities) - network(x, modalities)).abs().max() < 1e-5


def test_int8_is_close_and_its_use_is_decided_by_measuring():
    network, (x, modalities) = trained(), rows(2000)
    found = network.quantize(x, modalities, torch.full((2000,), -2.0))
    p = found.network(x, modalities, torch.full((2000,), -2.0)).sigmoid()
    exact = network(x, modalities, torch.full((2000,), -2.0)).sigmoid()

    assert 0 < found.max_difference < 0.01
    assert (p - exact).abs().max() < 0.01
    assert found.enabled == (found.speedup > 1)
    assert found.reason.startswith("on" if found.enabled else "off")


def test_int8_stays_off_where_it_is_too_coarse():
    network, (x, modalities) = trained(), rows(200)
    found = network.quantize(x, modalities, tolerance=1e-9)

    assert not found.enabled
    assert "|Δp|" in found.reason
    assert (found.network(x, modalities) - network(x, modalities)).abs().max() < 1e-5


def test_a_wide_trunk_is_where_int8_differs_most_and_is_still_close():
    network = AdPredictorNN(60, (256, 128))
    torch.nn.init.normal_(network.head.weight, std=0.1)
    found = network.quantize(torch.randn(1000, 60))

    assert found.max_difference < 0.01


@pytest.mark.parametrize("noise_type", ["depolarizing", "amplitude_damping", "shot"])
def test_it_trains_in_mixed_precision(noise_type):
    """bfloat16 on the CPU stands for that of a GPU."""
    network, (x, modalities) = trained(enable_quantum_noise=True, noise_type=noise_type, adaptive_dropout=True), rows()
    modalities["image"][:9] = torch.nan
    exact = network(x, modalities)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x, modalities)
        network.train()(x, modalities).float().sum().backward()

    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.1
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_noise_and_dropout_are_told_about_the_training():
    network = AdPredictorNN(5, (8, 8), 0.2, True, adaptive_dropout=True)
    network.set_progress(1.0)
    network.update_dropout(1.0)

    assert [block.noise.intensity for block in network.blocks()] == [0.0, 0.0]
    assert network.dropout_rate() > 0.2
    assert all(isinstance(block.dropout, AdaptiveDropout) for block in network.blocks())
    assert AdPredictorNN(5).dropout_rate() is None


def test_misuse_is_refused():
    with pytest.raises(InputError, match="hidden_dims"):
        AdPredictorNN(5, (8, 0))
    with pytest.raises(InputError, match="dropout_rate"):
        AdPredictorNN(5, dropout_rate=1.0)
    with pytest.raises(InputError, match="'features'"):
        AdPredictorNN(5, modality_dims={"features": 2})
    with pytest.raises(InputError, match=r"\(n, 5\), however: \(2, 4\)"):
        AdPredictorNN(5)(torch.ones(2, 4))
    with pytest.raises(InputError, match="'sound'"):
        AdPredictorNN(5, modality_dims=DIMS)(torch.ones(2, 5), {"sound": torch.ones(2, 1)})
