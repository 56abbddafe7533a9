"""Anomalies of accounts: what changed beyond habit and noise, and why. The door; `detector` composes the parts.

Loaded on first use, so that ``import within_ml.anomalies`` costs nothing.

>>> import within_ml.anomalies
>>> "AnomalyDetector" in dir(within_ml.anomalies)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from within_ml.anomalies.detector import AnomalyDetector
    from within_ml.anomalies.records import AnomalyExplanation, AnomalyReport

__all__ = ["AnomalyDetector", "AnomalyExplanation", "AnomalyReport"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "detector" if name == "AnomalyDetector" else "records"
    return getattr(importlib.import_module(f"within_ml.anomalies.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
