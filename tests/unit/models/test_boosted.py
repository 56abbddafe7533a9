"""Boosted rates: binomial by weights, on top of a margin, stopped in time, saved natively."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from within_ml.errors import InputError, ModelFormatError
from within_ml.metrics import log_loss
from within_ml.models.boosted import BoostedRate


def sample(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.normal(size=n), "b": rng.integers(0, 3, n).astype(float), "noise": rng.normal(size=n)})
    rate = expit(-4 + 0.6 * X["a"].to_numpy() + 0.5 * (X["b"].to_numpy() == 2))
    w = rng.integers(200, 4000, n)
    return X, rng.binomial(w, rate) / w, w, rate


@pytest.fixture(scope="module")
def fitted():
    X, y, w, _ = sample()
    return BoostedRate(n_estimators=150).fit(X, y, w)


def test_it_finds_the_true_rates(fitted):
    X, y, w, rate = sample(seed=1)
    p = fitted.predict(X)

    assert log_loss(y, p, sample_weight=w) < log_loss(y, rate, sample_weight=w) * 1.003
    assert w @ p == pytest.approx(w @ y, rel=0.02)


def test_a_row_of_n_impressions_is_n_rows_of_one():
    X, y, w, _ = sample(400)
    model = BoostedRate(n_estimators=30, subsample=1.0, colsample_bytree=1.0)
    split = model.fit(X, y, w).predict(X)
    doubled = pd.concat([X, X], ignore_index=True)
    clicked = clone(model).fit(doubled, np.repeat([1.0, 0.0], 400), np.concatenate([w * y, w * (1 - y)])).predict(X)

    assert split == pytest.approx(clicked, rel=1e-3)


def test_importance_is_of_what_matters(fitted):
    importance = fitted.feature_importance()

    assert list(importance)[:2] == ["a", "b"]
    assert sum(importance.values()) == pytest.approx(1.0)


def test_it_starts_from_the_margin_it_is_given():
    X, y, w, _ = sample()
    margin = -4 + 0.6 * X["a"].to_numpy()
    model = BoostedRate(n_estimators=60).fit(X[["b"]], y, w, base_margin=margin)

    p = model.predict(X[["b"]], base_margin=margin)
    assert logit(p[X["b"] == 2]).mean() - margin[X["b"] == 2].mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(InputError, match="base_margin"):
        model.predict(X[["b"]])


def test_a_feature_may_be_held_to_rise():
    X, y, w, _ = sample()
    falling = BoostedRate(n_estimators=40, monotone_constraints={"a": -1}).fit(X[["a"]], y, w)
    rising = BoostedRate(n_estimators=40, monotone_constraints={"a": 1}).fit(X[["a"]], y, w)

    grid = pd.DataFrame({"a": np.linspace(-2, 2, 200)})
    assert (np.diff(rising.predict(grid)) >= 0).all()
    assert np.ptp(falling.predict(grid)) < 1e-3 * np.ptp(rising.predict(grid)) + 1e-9


def test_noise_is_stopped_at_no_tree_at_all():
    rng = np.random.default_rng(0)
    X, w = pd.DataFrame(rng.normal(size=(400, 3)), columns=list("abc")), np.full(400, 1000)
    y = rng.binomial(w, 0.02) / w
    half = slice(0, 200), slice(200, 400)
    held = (X[half[1]], y[half[1]], w[half[1]], np.full(200, logit(0.02)))
    model = BoostedRate(min_child_weight=1, reg_lambda=1).fit(
        X[half[0]], y[half[0]], w[half[0]], base_margin=np.full(200, logit(0.02)), validation=held
    )

    assert model.n_trees_ < 10
    if model.n_trees_ == 0:
        assert model.predict(X, base_margin=np.full(400, -3.0)) == pytest.approx(expit(-3.0))


def test_signal_is_not_stopped():
    X, y, w, _ = sample()
    model = BoostedRate().fit(X[:2000], y[:2000], w[:2000], validation=(X[2000:], y[2000:], w[2000:], None))

    assert model.n_trees_ > 30


def test_a_missing_value_is_a_value():
    X, y, w, _ = sample()
    X = X.assign(a=np.where(np.arange(len(X)) % 3 == 0, np.nan, X["a"]), empty=np.nan)
    model = BoostedRate(n_estimators=50).fit(X, y, w)

    assert np.isfinite(model.predict(X)).all()
    assert model.feature_importance()["empty"] == 0


def test_the_same_rows_give_the_same_trees():
    X, y, w, _ = sample(1000)
    first, second = (BoostedRate(n_estimators=40, random_state=3).fit(X, y, w).predict(X) for _ in range(2))

    assert np.array_equal(first, second)


def test_the_order_of_columns_is_irrelevant(fitted):
    X = sample(50)[0]

    assert np.array_equal(fitted.predict(X[["noise", "b", "a"]]), fitted.predict(X))
    with pytest.raises(InputError, match="'b'"):
        fitted.predict(X[["a", "noise"]])


def test_it_survives_saving(fitted, tmp_path):
    X = sample(200)[0]
    fitted.save(tmp_path)
    again = BoostedRate.load(tmp_path)

    assert np.array_equal(again.predict(X), fitted.predict(X))
    assert again.feature_importance() == fitted.feature_importance()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".ubj"]


@pytest.mark.parametrize("damage", ["booster.ubj", "boosted.json"])
def test_a_damaged_file_is_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    (tmp_path / damage).write_bytes(b"{")

    with pytest.raises(ModelFormatError):
        BoostedRate.load(tmp_path)


def test_an_empty_day_has_no_predictions(fitted):
    assert fitted.predict(sample(5)[0][:0]).shape == (0,)


@pytest.mark.parametrize(
    ("y", "w", "message"),
    [([0.1, 1.5], None, r"\[0, 1\]"), ([0.1, 0.2], [0, 0], "impressions"), ([0.1, -0.1], None, r"\[0, 1\]")],
)
def test_what_is_no_rate_is_refused(y, w, message):
    with pytest.raises(InputError, match=message):
        BoostedRate().fit([[0.0], [1.0]], y, w)


def test_misuse_is_refused():
    with pytest.raises(InputError, match="monotone_constraints"):
        BoostedRate(monotone_constraints={"nope": 1}).fit(pd.DataFrame({"a": [0.0, 1.0]}), [0.1, 0.2])
    with pytest.raises(InputError, match="finite with shape"):
        BoostedRate().fit([[0.0], [1.0]], [0.1, 0.2], base_margin=[0.0])
    with pytest.raises(NotFittedError):  # scikit-learn's own, as for all its estimators
        BoostedRate().predict_margin([[0.0]])


class UnitTarget(BoostedRate):
    """Squeezes any number into [0, 1], since scikit-learn's checks use targets that are no rates."""

    def fit(self, X, y, sample_weight=None):
        if y is not None and np.asarray(y).dtype.kind in "fiuO":
            numbers = np.asarray(y).astype(float)
            y = expit(numbers) if np.isfinite(numbers).all() else numbers
        return super().fit(X, y, sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


@pytest.mark.filterwarnings("ignore")
def test_it_is_a_scikit_learn_estimator():
    # Sampling off: xgboost draws rows, and a row of weight 2 is not two rows for it.
    exact = {"n_estimators": 5, "subsample": 1.0, "colsample_bytree": 1.0, "min_child_weight": 0.0}
    results = check_estimator(UnitTarget(**exact), on_fail=None, on_skip=None)

    failed = {result["check_name"]: str(result["exception"]) for result in results if result["status"] == "failed"}
    assert not failed, json.dumps(failed, indent=2)
    assert len(results) > 40
