"""What every product's model promises, whatever it predicts: one suite over all implementations."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from within_ml.ad_score import AdScorePredictor
from within_ml.base import BaseMLModel, ModelType
from within_ml.errors import InputError, ModelFormatError, NotFittedError
from within_ml.health import AccountHealthPredictor
from within_ml.model_folder import NATIVE_SUFFIXES, read_metadata


def ad_rows(n=240):
    rng = np.random.default_rng(0)
    good = rng.random(n) < 0.5
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=n // 4).repeat(4),
            "platform": rng.choice(["meta", "google"], n),
            "account_id": rng.choice(["a", "b"], n),
            "campaign_id": np.arange(n) // 4,
            "ad_id": np.arange(n).astype(str),
            "headline": [f"{'Great' if g else 'Dull'} thing number {i}" for i, g in enumerate(good)],
            "body": None,
            "prior_ctr": rng.uniform(0.01, 0.03, n),
            "prior_impressions": rng.integers(0, 5000, n),
            "ad_impressions_28d": rng.integers(0, 5000, n),
            "sentiment": rng.normal(size=n),
        }
    ).astype({"campaign_id": str})
    impressions = rng.integers(500, 3000, n)
    rate = frame["prior_ctr"] * np.where(good, 1.3, 0.7)
    return frame, rng.binomial(impressions, rate) / impressions, impressions


def account_rows(n=240):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "account_id": np.repeat([f"a{i}" for i in range(n // 6)], 6),
            "date": np.tile(pd.date_range("2024-01-07", periods=6, freq="7D"), n // 6),
            "industry": rng.choice(["retail", "travel"], n),
            "ctr_7d_vs_28d": rng.normal(0, 0.3, n),
            "creative_refresh": np.where(rng.random(n) < 0.2, np.nan, rng.random(n)),
        }
    )
    y = (rng.random(n) < 1 / (1 + np.exp(1 + 4 * frame["ctr_7d_vs_28d"]))).astype(float)
    return frame, y.to_numpy(), rng.integers(1, 3, n).astype(float)


MODELS = {
    ModelType.AD_SCORE: (lambda: AdScorePredictor({"n_estimators": 20, "n_threads": 1}), ad_rows),
    ModelType.ACCOUNT_HEALTH: (
        lambda: AccountHealthPredictor(config={"n_estimators": 20, "n_threads": 1}), account_rows,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(MODELS))
def case(request):
    make, rows = MODELS[request.param]
    X, y, w = rows()
    return make, X, y, w, make().fit(X, y, sample_weight=w)


def test_it_is_a_model(case):
    _, X, _, _, model = case

    assert isinstance(model, BaseMLModel)
    assert model.model_type in list(ModelType)
    assert model.predict(X).shape == (len(X),)
    assert model.predict(X).dtype == np.float64


def test_inputs_are_left_as_they_were(case):
    make, X, y, w, _ = case
    before = X.copy(deep=True), y.copy(), w.copy()
    make().fit(X, y, sample_weight=w).predict(X)

    pd.testing.assert_frame_equal(X, before[0])
    assert np.array_equal(y, before[1])
    assert np.array_equal(w, before[2])


def test_columns_may_come_in_any_order_and_number(case):
    _, X, _, _, model = case

    assert np.array_equal(model.predict(X[sorted(X.columns)].assign(surprise=1)), model.predict(X))


def test_each_row_is_predicted_by_itself(case):
    _, X, _, _, model = case
    whole = model.predict(X)

    assert model.predict(X[::-1]) == pytest.approx(whole[::-1], rel=1e-9)
    assert model.predict(X[7:8]) == pytest.approx(whole[7:8], rel=1e-9)
    assert model.predict(X[:0]).shape == (0,)


def test_two_fits_are_one(case):
    make, X, y, w, model = case

    assert np.array_equal(make().fit(X, y, sample_weight=w).predict(X), model.predict(X))


def test_lists_do_as_well_as_arrays(case):
    make, X, y, w, model = case

    assert np.array_equal(make().fit(X, list(y), sample_weight=list(w)).predict(X), model.predict(X))


def test_another_process_loads_the_same_model(case, tmp_path):
    _, X, _, _, model = case
    model.save(tmp_path / "model")
    X.to_parquet(tmp_path / "rows.parquet")
    code = (
        "import sys, numpy as np, pandas as pd\n"
        "from within_ml.registry.loading import load_model_folder\n"
        "folder, rows, out = sys.argv[1:]\n"
        "np.save(out, load_model_folder(__import__('pathlib').Path(folder)).predict(pd.read_parquet(rows)))\n"
    )
    arguments = [str(tmp_path / name) for name in ("model", "rows.parquet", "p.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=Path(__file__).parents[2])

    assert np.array_equal(np.load(tmp_path / "p.npy"), model.predict(X))


def test_the_folder_is_native_and_says_what_it_is(case, tmp_path):
    _, _, _, _, model = case
    model.save(tmp_path / "model")
    metadata = read_metadata(tmp_path / "model")

    assert metadata.type == model.model_type
    assert list(metadata.feature_columns) == model.feature_names
    assert {Path(name).suffix for name in metadata.files} <= NATIVE_SUFFIXES


def test_any_altered_byte_is_noticed(case, tmp_path):
    _, _, _, _, model = case
    model.save(tmp_path / "model")
    for file in [path for path in (tmp_path / "model").rglob("*") if path.is_file()]:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelFormatError):
            type(model).load(tmp_path / "model")
        file.write_bytes(content)
    assert type(model).load(tmp_path / "model").is_fitted


def test_saving_twice_gives_the_same_bytes(case, tmp_path):
    _, _, _, _, model = case
    for name in ("first", "second"):
        model.save(tmp_path / name)

    assert read_metadata(tmp_path / "first").files == read_metadata(tmp_path / "second").files


def test_unfitted_it_neither_predicts_nor_saves(case, tmp_path):
    make, X, *_ = case
    with pytest.raises(NotFittedError):
        make().predict(X)
    with pytest.raises(NotFittedError):
        make().save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_shapes_that_do_not_fit_are_refused(case):
    make, X, y, w, _ = case
    with pytest.raises(InputError):
        make().fit(X, y[:-1], sample_weight=w)
    with pytest.raises(InputError):
        make().fit(X, y, sample_weight=w[:-1])


def test_validate_gives_finite_metrics(case):
    _, X, y, w, model = case

    assert np.isfinite(list(model.validate(X, y, sample_weight=w).values())).all()
