"""Training noise with the exact moments of channels that act on a qubit.

Noise only: whether a network uses it, and when the training calls `set_progress`, is decided elsewhere.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TypeVar

import torch
from torch import Tensor, nn

from within_ml.errors import InputError, shown

E = TypeVar("E", bound=StrEnum)


class NoiseType(StrEnum):
    """The channel of a `QuantumNoiseLayer`."""

    DEPOLARIZING = "depolarizing"
    AMPLITUDE_DAMPING = "amplitude_damping"
    SHOT = "shot"


class AnnealingSchedule(StrEnum):
    """How the noise falls with the progress t of training, from 0 to 1: the factor on its intensity."""

    CONSTANT = "constant"
    """1"""
    LINEAR = "linear"
    """1 - t"""
    COSINE = "cosine"
    """(1 + cos πt) / 2"""
    EXPONENTIAL = "exponential"
    """exp(-5t)"""


_EXPONENTIAL_RATE = 5.0


class QuantumNoiseLayer(nn.Module):
    """Training noise: ``z = tanh(h)``, read as the expectation ⟨Z⟩ of a qubit, goes through a noisy channel.

    In training the layer returns ``h + (z' - z)``, in evaluation ``h`` itself. With s the intensity of the moment
    (`intensity`), z' is one trajectory of the channel, drawn anew for each element:

    ``depolarizing``
        A random Pauli operator with probability s, of which half turn ⟨Z⟩ over: z' = -z with probability s/2, else z.
        Mean (1 - s) z, variance s (2 - s) z².
    ``amplitude_damping``
        The excited state, which has probability (1 - z)/2, decays with probability s. A jump, with probability
        q = s (1 - z)/2, gives z' = 1; no jump gives z' = 1 - (1 - s)(1 - z)/(1 - q).
        Mean s + (1 - s) z, variance q (1 - s)² (1 - z)² / (1 - q).
    ``shot``
        z is estimated from N = max(1, round(1/s)) measurements: z' = 2 Binomial(N, (1 + z)/2) / N - 1.
        Mean z, variance (1 - z²)/N.

    The gradient is that of the mean: jumps and counts have none of their own.

    Parameters
    ----------
    channels : int
        Size of the last dimension.
    noise_type : NoiseType or str
    noise_intensity : float
        s before annealing, in [0, 1]; 0 is the identity.
    annealing_schedule : AnnealingSchedule or str
        How s falls with `set_progress`.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    Nielsen and Chuang 2010, "Quantum Computation and Quantum Information", sections 8.3.4 and 8.3.5, for the channels;
    nothing here needs or simulates a quantum computer. It is off by default, because it is no better than tuned
    dropout: see ``benchmarks/results/network_layers.md``.

    Examples
    --------
    >>> layer = QuantumNoiseLayer(2, "depolarizing", 0.2)
    >>> h = torch.tensor([[0.5, -1.0]])
    >>> torch.equal(layer.eval()(h), h)
    True
    >>> mean, variance = layer.moments(h.tanh())
    >>> bool(torch.allclose(mean, 0.8 * h.tanh()))
    True
    """

    def __init__(
        self,
        channels: int,
        noise_type: NoiseType | str = NoiseType.DEPOLARIZING,
        noise_intensity: float = 0.1,
        annealing_schedule: AnnealingSchedule | str = AnnealingSchedule.CONSTANT,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise InputError(f"channels must be at least 1, however: {channels}.")
        if not 0 <= noise_intensity <= 1:
            raise InputError(f"noise_intensity must be in [0, 1], however: {noise_intensity}.")
        self.channels = channels
        self.noise_type = _member(NoiseType, noise_type, "noise_type")
        self.noise_intensity = noise_intensity
        self.annealing_schedule = _member(AnnealingSchedule, annealing_schedule, "annealing_schedule")
        self.progress = 0.0

    def set_progress(self, progress: float) -> None:
        """Tell how much of the training is done, from 0 to 1."""
        self.progress = min(max(progress, 0.0), 1.0)

    @property
    def intensity(self) -> float:
        """Intensity s at the progress of the moment."""
        t = self.progress
        factor = {
            AnnealingSchedule.CONSTANT: 1.0,
            AnnealingSchedule.LINEAR: 1 - t,
            AnnealingSchedule.COSINE: (1 + math.cos(math.pi * t)) / 2,
            AnnealingSchedule.EXPONENTIAL: math.exp(-_EXPONENTIAL_RATE * t),
        }[self.annealing_schedule]
        return self.noise_intensity * factor

    @property
    def shots(self) -> int:
        """Measurements N of the ``shot`` channel."""
        return max(1, round(1 / max(self.intensity, 1e-9)))

    def forward(self, h: Tensor) -> Tensor:
        """Return the noisy ``h``, of the same shape (…, channels)."""
        if h.shape[-1] != self.channels:
            raise InputError(f"h must have {self.channels} channels in its last dimension, however: {tuple(h.shape)}.")
        if not self.training or self.intensity == 0:
            return h
        z = torch.tanh(h)
        mean, _ = self.moments(z)
        return h + (mean - z) + (self.sample(z.detach()) - mean.detach())

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of z' by the formulas above."""
        s = self.intensity
        if self.noise_type is NoiseType.DEPOLARIZING:
            return (1 - s) * z, s * (2 - s) * z**2
        if self.noise_type is NoiseType.AMPLITUDE_DAMPING:
            q = s * (1 - z) / 2
            spread = q * ((1 - s) * (1 - z)) ** 2 / (1 - q).clamp(min=torch.finfo(z.dtype).tiny)
            return s + (1 - s) * z, spread
        return z, (1 - z**2) / self.shots

    def sample(self, z: Tensor) -> Tensor:
        """Draw z' for each element of ``z``, which lies in [-1, 1]; torch's global generator is used."""
        s = self.intensity
        if self.noise_type is NoiseType.DEPOLARIZING:
            return torch.where(torch.rand_like(z) < s / 2, -z, z)
        if self.noise_type is NoiseType.AMPLITUDE_DAMPING:
            q = s * (1 - z) / 2
            stays = 1 - (1 - s) * (1 - z) / (1 - q).clamp(min=torch.finfo(z.dtype).tiny)
            return torch.where(torch.rand_like(z) < q, torch.ones_like(z), stays)
        probability = ((1 + z.float()) / 2).clamp(0, 1)  # in float32: bfloat16 has no binomial
        counts = torch.binomial(torch.full_like(probability, self.shots), probability).to(z.dtype)
        return 2 * counts / self.shots - 1


def _member(kind: type[E], value: str, name: str) -> E:
    if value not in list(kind):
        raise InputError(f"{name} must be one of {shown(member.value for member in kind)}, however: {value!r}.")
    return kind(value)
