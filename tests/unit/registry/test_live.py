"""MODEL_REGISTRY and the factories."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest

import within_ml
from within_ml.database.repository import LedgerRepository
from within_ml.errors import RegistryError, UnknownModelError
from within_ml.registry import MODEL_REGISTRY, ModelRegistry, configure_registry

from .test_model_registry import MONDAYS, saved


@pytest.fixture
def live(mlflow_url):
    configure_registry(mlflow_url)
    yield MODEL_REGISTRY
    configure_registry(None)


def test_the_view_follows_the_registry(live, mlflow_url, postgres_url, tmp_path):
    registry = ModelRegistry(mlflow_url, LedgerRepository(postgres_url), tmp_path / "artifacts")
    assert list(live) == []
    for rate, day in zip((0.02, 0.03), MONDAYS, strict=False):
        registry.register(saved(tmp_path, rate), name="level", metrics={"log_loss": rate}, tags={"as_of": day})
    view = live["level"]
    assert dict(view) == {"version": None, "last_trained": None, "metrics": None}
    registry.promote("level", "1", decision=None, reason="first", decided_by="anna")
    assert (view["version"], view["metrics"]) == ("1", {"log_loss": 0.02})
    registry.promote("level", "2", decision=None, reason="second", decided_by="anna")
    assert (view["version"], view["metrics"]) == ("2", {"log_loss": 0.03})
    assert view["last_trained"] == dt.datetime(2014, 3, 3, 4, tzinfo=dt.UTC)


def test_an_unknown_name_is_a_key_error_that_says_what_there_is(live):
    with pytest.raises(UnknownModelError, match="there is no 'ad_score'"):
        live["ad_score"]
    assert "ad_score" not in live
    assert live.get("ad_score") is None
    with pytest.raises(RegistryError, match="ad_score must have a 'champion'"):
        within_ml.get_ad_score_predictor()


def test_the_view_is_read_only(live):
    with pytest.raises(TypeError):
        live["ad_score"] = {}


def test_a_registry_that_was_not_named_is_one_sentence():
    code = "import within_ml; within_ml.MODEL_REGISTRY['ad_score']"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": "."}
    )
    assert "RegistryError: A registry must be named; however, MLflow has no tracking URI" in ended.stderr


def test_the_door_is_cheap():
    code = (
        "import sys, within_ml, within_ml.registry, within_ml.database.repository\n"
        "heavy = {'mlflow', 'torch', 'xgboost', 'sklearn', 'shap', 'great_expectations', 'alembic', 'dagster'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
