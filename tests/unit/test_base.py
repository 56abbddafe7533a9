"""The protocol of a model: what it says of itself, and what `load` does not believe."""

import json

import numpy as np
import pytest

from within_ml.base import BaseMLModel
from within_ml.errors import InputError, ModelFormatError, NotFittedError


class Level(BaseMLModel):
    """The mean rate."""

    model_type = "level"

    def __init__(self, model_name="level", feature_names=(), model_version=None, metadata=None, *, floor=0.0):
        super().__init__(model_name, feature_names, model_version, metadata)
        self.floor = floor

    def fit(self, X, y, *, sample_weight=None):
        self.require_columns(X, self.feature_names)
        self.rate_ = max(self.floor, float(np.average(y, weights=sample_weight)))
        return self

    def predict(self, X):
        return np.full(len(X), self.rate_)

    def validate(self, X, y, *, sample_weight=None):
        return {"bias": float(np.mean(self.predict(X) - y))}

    def hyperparameters(self):
        return {"floor": self.floor}

    def _write_state(self, folder):
        (folder / "level.json").write_text(json.dumps(self.rate_))

    def _read_state(self, folder, metadata):
        self.rate_ = json.loads((folder / "level.json").read_text())


@pytest.fixture
def rows():
    import pandas as pd

    return pd.DataFrame({"x": [1.0, 2.0]})


def test_what_the_trainer_knows_travels_with_the_model(rows, tmp_path):
    details = {"trained_at": "2024-01-08", "lake_versions": {"ad_features": 3}, "as_of": "2024-01-08"}
    model = Level("agency", ["x"], "4", details, floor=0.2).fit(rows, [0.1, 0.1])
    model.save(tmp_path / "model")
    again = Level.load(tmp_path / "model")

    assert (again.model_name, again.model_version, again.feature_names) == ("agency", "4", ["x"])
    assert again.metadata == details
    assert again.floor == 0.2
    assert again.predict(rows).tolist() == [0.2, 0.2]


def test_a_hyperparameter_that_is_gone_is_named(rows, tmp_path):
    class Changed(Level):
        def __init__(self, model_name, feature_names, model_version=None, metadata=None):
            super().__init__(model_name, feature_names, model_version, metadata)

    Level().fit(rows, [0.1, 0.1]).save(tmp_path / "model")
    with pytest.raises(ModelFormatError, match="floor"):
        Changed.load(tmp_path / "model")


def test_missing_columns_are_named(rows):
    with pytest.raises(InputError, match="lacks 'y'"):
        Level(feature_names=["x", "y"]).fit(rows, [0.1, 0.1])


def test_only_a_fitted_model_is_saved(tmp_path):
    with pytest.raises(NotFittedError, match="call fit first"):
        Level().save(tmp_path / "model")
    assert not Level().is_fitted


def test_a_protocol_is_no_model():
    with pytest.raises(TypeError):
        BaseMLModel("x", [])
