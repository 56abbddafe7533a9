"""Contracts of the lake's tables as data: columns, types, units, ranges, keys.

A contract is written once, here, and used by the mapping of sources, the audit before a commit, the Great Expectations
suites, the column schemas in the UI and the README. What checks rows against a contract is `audit`; what stores them is
`store`.

>>> CONTRACTS["ad_performance"].key
('date', 'platform', 'account_id', 'ad_id', 'region')
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from within_ml.lake.contracts.anomalies import ANOMALIES, PERFORMANCE_METRICS, TRENDING_TOPICS
from within_ml.lake.contracts.health import ACCOUNT_HEALTH, ACCOUNT_SEGMENTS
from within_ml.lake.contracts.monitoring import FEATURE_DRIFT, PREDICTION_DRIFT
from within_ml.lake.contracts.schema import ID_PATTERN, Column, Contract, Rule
from within_ml.lake.contracts.scores import AD_SCORE_ANALYSIS, AD_SCORES, REGION_FACTORS
from within_ml.lake.contracts.sources import (
    ACCOUNTS,
    AD_KEY,
    AD_PERFORMANCE,
    ADS,
    CAMPAIGN_KEY,
    CAMPAIGNS,
    REGIONS,
    UNKNOWN,
)

MAX_REJECTED_SHARE = 0.05
"""A partition with a larger share of rejected rows is blocked."""

_SOURCES = (AD_PERFORMANCE, ADS, CAMPAIGNS, ACCOUNTS, REGIONS)
_PRODUCTS = (
    AD_SCORES,
    AD_SCORE_ANALYSIS,
    REGION_FACTORS,
    ACCOUNT_HEALTH,
    ACCOUNT_SEGMENTS,
    ANOMALIES,
    PERFORMANCE_METRICS,
    TRENDING_TOPICS,
    FEATURE_DRIFT,
    PREDICTION_DRIFT,
)

CONTRACTS: Mapping[str, Contract] = MappingProxyType({c.table: c for c in (*_SOURCES, *_PRODUCTS)})
"""Contracts of the source and the published tables; feature tables have theirs beside their definition."""

__all__ = [
    "ACCOUNTS",
    "ACCOUNT_HEALTH",
    "ACCOUNT_SEGMENTS",
    "ADS",
    "AD_KEY",
    "AD_PERFORMANCE",
    "AD_SCORES",
    "AD_SCORE_ANALYSIS",
    "ANOMALIES",
    "CAMPAIGNS",
    "CAMPAIGN_KEY",
    "CONTRACTS",
    "FEATURE_DRIFT",
    "ID_PATTERN",
    "MAX_REJECTED_SHARE",
    "PERFORMANCE_METRICS",
    "PREDICTION_DRIFT",
    "REGIONS",
    "REGION_FACTORS",
    "TRENDING_TOPICS",
    "UNKNOWN",
    "Column",
    "Contract",
    "Rule",
]
