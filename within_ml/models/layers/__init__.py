"""Layers of the ad score's network: attention, adaptive dropout, quantum noise. All of them need torch.

The names are looked up when they are asked for, so that importing the package alone does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from within_ml.models.layers.adaptive_dropout import AdaptiveDropout
    from within_ml.models.layers.attention import CrossModalAttention, FeatureAttention
    from within_ml.models.layers.quantum_noise import AnnealingSchedule, NoiseType, QuantumNoiseLayer

__all__ = [
    "AdaptiveDropout",
    "AnnealingSchedule",
    "CrossModalAttention",
    "FeatureAttention",
    "NoiseType",
    "QuantumNoiseLayer",
]

_MODULES = {
    "AdaptiveDropout": "adaptive_dropout",
    "AnnealingSchedule": "quantum_noise",
    "CrossModalAttention": "attention",
    "FeatureAttention": "attention",
    "NoiseType": "quantum_noise",
    "QuantumNoiseLayer": "quantum_noise",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
