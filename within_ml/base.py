"""What every layer agrees on: the time constants, the products' names, and later the model protocol.

Nothing here reads data or computes a number.
"""

from __future__ import annotations

from enum import StrEnum

HORIZON_DAYS = 7
"""The label of day D is what happened in D+1 … D+HORIZON_DAYS."""

ATTRIBUTION_DELAY_DAYS = 2
"""Clicks and conversions of a day are complete this many days later."""

LABEL_MATURITY_DAYS = HORIZON_DAYS + ATTRIBUTION_DELAY_DAYS
"""The label of day D may be used from day D+LABEL_MATURITY_DAYS on, not before."""


class ModelType(StrEnum):
    """The products of WITHIN; the value is the registered model's name."""

    AD_SCORE = "ad_score"
    ACCOUNT_HEALTH = "account_health"
    ANOMALY_DETECTOR = "anomaly_detector"
