"""WITHIN: calibrated advertising scores from a data lake.

The door to the library: the registry's live view and one factory per product, loaded on first use, so that
``import within_ml`` costs nothing.

>>> import within_ml
>>> "MODEL_REGISTRY" in dir(within_ml)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from within_ml.registry import (
        MODEL_REGISTRY,
        configure_registry,
        get_ad_score_predictor,
        get_anomaly_detector,
        get_health_predictor,
    )

__all__ = [
    "MODEL_REGISTRY",
    "configure_registry",
    "get_ad_score_predictor",
    "get_anomaly_detector",
    "get_health_predictor",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("within_ml.registry"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
