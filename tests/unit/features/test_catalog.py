"""The catalog says of each feature what it is; the definitions compile for DuckDB and for Spark's SQL."""

from datetime import date

import ibis
import pytest

from within_ml.features.account import account_features
from within_ml.features.ad_features import ad_features
from within_ml.features.catalog import (
    ACCOUNT_FEATURES,
    AD_FEATURES,
    FEATURE_VERSION,
    account_features_contract,
    ad_features_contract,
)
from within_ml.features.labels import labels
from within_ml.features.runner import unbound_account_inputs, unbound_inputs
from within_ml.features.temporal import Period

NIGHT = Period(date(2024, 1, 1), date(2024, 1, 1))
RANGE = Period(date(2024, 1, 1), date(2024, 1, 9))


@pytest.mark.parametrize("features", [AD_FEATURES, ACCOUNT_FEATURES])
def test_features_are_described(features):
    names = [f.name for f in features]
    assert len(set(names)) == len(names)
    assert all(f.meaning and f.unit and f.owner and f.version >= 1 for f in features)
    assert all(
        f.window == int(f.name.split("_")[-1][:-1]) for f in features if f.name.endswith("d") and f.name[-2].isdigit()
    )


def test_names_that_models_rely_on():
    names = set(ad_features_contract().names)
    assert {"ad_ctr_7d", "ad_cpc_28d", "ad_cvr_28d", "ad_roas_28d", "account_ctr_28d", "platform_ctr_28d"} <= names
    assert {"prior_ctr", "prior_impressions", "ad_ctr_trend", "ad_vs_campaign_ctr", "day_of_week"} <= names
    assert {"text_length", "sentiment", "readability"} <= names
    assert {"account_spend_pacing", "account_active_ads_7d"} <= set(account_features_contract().names)


def test_version_is_of_the_catalog():
    assert FEATURE_VERSION.startswith("1.")
    assert len(FEATURE_VERSION) == 10


@pytest.mark.parametrize("dialect", ["duckdb", "databricks"])
@pytest.mark.parametrize("period", [NIGHT, RANGE])
def test_definitions_compile_for_engines(dialect, period):
    for expression in (
        ad_features(unbound_inputs(), period),
        account_features(unbound_account_inputs(), period),
        labels(unbound_inputs().daily, period),
    ):
        assert "SELECT" in ibis.to_sql(expression, dialect=dialect)
