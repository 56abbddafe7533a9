"""Quantum noise: the moments of each channel, checked against simulated density matrices and large samples."""

import numpy as np
import pytest
import torch

from within_ml.errors import InputError
from within_ml.models.layers import AnnealingSchedule, NoiseType, QuantumNoiseLayer

Z = torch.linspace(-0.95, 0.95, 9, dtype=torch.float64)
DRAWS = 200_000


def through_channel(z, s, kind):
    """⟨Z⟩ after the textbook's Kraus operators (Nielsen and Chuang, 8.102 and 8.108) on diag((1+z)/2, (1-z)/2)."""
    rho = np.diag([(1 + z) / 2, (1 - z) / 2])
    pauli_x, pauli_y, pauli_z = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])
    if kind == "depolarizing":
        kraus = [np.sqrt(1 - 3 * s / 4) * np.eye(2), *(np.sqrt(s / 4) * p for p in (pauli_x, pauli_y, pauli_z))]
    else:
        kraus = [np.diag([1, np.sqrt(1 - s)]), np.array([[0, np.sqrt(s)], [0, 0]])]
    out = sum(k @ rho @ k.conj().T for k in kraus)
    return float(np.trace(out @ pauli_z).real)


@pytest.mark.parametrize("s", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["depolarizing", "amplitude_damping"])
def test_the_mean_is_that_of_the_quantum_channel(kind, s):
    mean, _ = QuantumNoiseLayer(9, kind, s).moments(Z)

    assert mean.tolist() == pytest.approx([through_channel(z, s, kind) for z in Z.tolist()])


@pytest.mark.parametrize("s", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", list(NoiseType))
def test_samples_have_the_moments_of_the_formula(kind, s):
    layer = QuantumNoiseLayer(9, kind, s)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = layer.sample(Z.expand(DRAWS, 9))
    mean, variance = layer.moments(Z)

    assert drawn.abs().max() <= 1 + 1e-12
    assert (drawn.mean(0) - mean).abs().max() < 5 * (variance.max() / DRAWS).sqrt()
    assert torch.allclose(drawn.var(0), variance, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("kind", list(NoiseType))
def test_what_comes_out_is_h_and_the_noise_of_its_tanh(kind):
    h = torch.randn(4000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = QuantumNoiseLayer(5, kind, 0.2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        noisy = layer(h)
        torch.manual_seed(1)
        drawn = layer.sample(h.tanh())

    assert torch.allclose(noisy, h + drawn - h.tanh())
    assert torch.equal(layer.eval()(h), h)


def test_the_gradient_is_that_of_the_mean():
    h = torch.tensor([[0.3, -0.7]], requires_grad=True, dtype=torch.float64)
    QuantumNoiseLayer(2, "depolarizing", 0.4)(h).sum().backward()

    assert torch.allclose(h.grad, 1 - 0.4 * (1 - h.detach().tanh() ** 2))


@pytest.mark.parametrize(
    ("schedule", "half", "end"), [("constant", 0.2, 0.2), ("linear", 0.1, 0.0), ("cosine", 0.1, 0.0)]
)
def test_noise_is_annealed(schedule, half, end):
    layer = QuantumNoiseLayer(3, "shot", 0.2, schedule)
    assert layer.intensity == pytest.approx(0.2)
    layer.set_progress(0.5)
    assert layer.intensity == pytest.approx(half)
    layer.set_progress(1.0)
    assert layer.intensity == pytest.approx(end)


def test_noise_without_intensity_is_none():
    layer, h = QuantumNoiseLayer(2, "shot", 0.2, AnnealingSchedule.LINEAR), torch.ones(3, 2)
    layer.set_progress(1.0)
    assert torch.equal(layer(h), h)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels"),
        ({"channels": 2, "noise_intensity": 1.5}, "noise_intensity"),
        ({"channels": 2, "noise_type": "thermal"}, "noise_type must be one of 'depolarizing'"),
        ({"channels": 2, "annealing_schedule": "step"}, "annealing_schedule"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        QuantumNoiseLayer(**arguments)
    with pytest.raises(InputError, match="2 channels"):
        QuantumNoiseLayer(2)(torch.ones(3, 3))
