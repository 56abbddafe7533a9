"""Rates by a network: it learns, starts at the margin, stops in time, bears what is missing, saves natively."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.errors import InputError, ModelFormatError
from within_ml.metrics import log_loss
from within_ml.model_folder import NATIVE_SUFFIXES
from within_ml.models.network_rate import NetworkRate

SMALL = {"hidden_dims": (16,), "attention_dim": 8, "attention_heads": 2, "epochs": 8, "batch_size": 256}


def sample(n=2500, seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.normal(size=n), "b": rng.integers(0, 3, n).astype(float), "noise": rng.normal(size=n)})
    text = rng.normal(size=(n, 4))
    text[rng.random(n) < 0.2] = np.nan
    said = np.nan_to_num(text[:, 0])
    rate = expit(-3 + 0.6 * X["a"].to_numpy() + 0.5 * (X["b"].to_numpy() == 2) + 0.5 * said)
    w = rng.integers(200, 2000, n)
    return X, {"text": text}, rng.binomial(w, rate) / w, w, rate


@pytest.fixture(scope="module")
def fitted():
    X, modalities, y, w, _ = sample()
    return NetworkRate(**{**SMALL, "epochs": 20}).fit(X, y, w, modalities=modalities)


def test_it_finds_the_true_rates(fitted):
    X, modalities, y, w, rate = sample(seed=1)
    p = fitted.predict(X, modalities=modalities)

    assert log_loss(y, p, sample_weight=w) < log_loss(y, rate, sample_weight=w) * 1.01
    assert w @ p == pytest.approx(w @ y, rel=0.03)
    assert log_loss(y, p, sample_weight=w) < log_loss(y, fitted.predict(X), sample_weight=w)


def test_importance_is_of_what_matters(fitted):
    importance = fitted.feature_importance()

    assert list(importance)[-1] == "noise"
    assert sum(importance.values()) == pytest.approx(1)


def test_attention_is_per_column(fitted):
    weights = fitted.attention_weights(sample(50)[0])
    assert weights.shape == (50, 2, 3)
    assert weights.sum(-1) == pytest.approx(np.ones((50, 2)))


def test_without_an_epoch_it_is_the_base_margin():
    X, _, y, w, _ = sample(100)
    margin = np.linspace(-5, -2, 100)

    model = NetworkRate(epochs=0).fit(X, y, w, base_margin=margin)
    assert np.array_equal(model.predict_margin(X, base_margin=margin), margin)
    level = NetworkRate(epochs=0).fit(X, y, w).predict(X)
    assert level == pytest.approx(np.average(y, weights=w))
    with pytest.raises(InputError, match="base_margin"):
        model.predict(X)


def test_it_adds_to_the_margin_it_is_given():
    X, _, y, w, _ = sample()
    margin = -3 + 0.6 * X["a"].to_numpy()
    p = NetworkRate(**SMALL).fit(X[["b"]], y, w, base_margin=margin).predict(X[["b"]], base_margin=margin)

    added = logit(p) - margin
    assert added[X["b"] == 2].mean() - added[X["b"] == 0].mean() == pytest.approx(0.5, abs=0.15)


def test_noise_is_stopped_and_the_best_epoch_is_kept():
    rng = np.random.default_rng(0)
    X, w = rng.normal(size=(400, 5)), np.full(400, 1000)
    y = rng.binomial(w, 0.02) / w
    margin = np.full(200, logit(0.02))
    held = (X[200:], y[200:], w[200:], None, margin)
    model = NetworkRate(epochs=40, patience=3, batch_size=64)
    model.fit(X[:200], y[:200], w[:200], base_margin=margin, validation=held)
    curve = model.training_curve_
    best = curve[model.best_epoch_]

    assert len(curve) - 1 == model.best_epoch_ + 3 < 40
    assert best.validation == min(record.validation for record in curve)
    assert best.validation <= curve[0].validation
    p = model.predict(X[200:], base_margin=margin)
    assert log_loss(y[200:], p, sample_weight=w[200:]) == pytest.approx(best.validation, rel=1e-4)


def test_the_curve_begins_before_training_and_falls(fitted):
    curve = fitted.training_curve_
    assert [record.epoch for record in curve] == list(range(21))
    assert curve[-1].train < curve[0].train
    assert curve[0].validation is None


def test_adaptive_dropout_and_noise_take_part():
    X, _, y, w, _ = sample(600)
    held = (X[400:], y[400:], w[400:], None, None)
    model = NetworkRate(**SMALL, adaptive_dropout=True, enable_quantum_noise=True, dropout_rate=0.2)
    rates = [record.dropout_rate for record in model.fit(X[:400], y[:400], w[:400], validation=held).training_curve_]

    assert rates[0] == 0.2
    assert len(set(rates)) > 1


def test_a_row_of_no_impressions_teaches_nothing():
    X, modalities, y, w, _ = sample(400)
    w = np.where(np.arange(400) < 100, 0, w)
    some = NetworkRate(**SMALL).fit(X, y, w, modalities=modalities).predict(X)
    rest = NetworkRate(**SMALL).fit(X[100:], y[100:], w[100:], modalities={"text": modalities["text"][100:]}).predict(X)

    assert np.array_equal(some, rest)


def test_it_is_deterministic_and_leaves_the_global_generator_and_the_inputs_alone():
    X, modalities, y, w, _ = sample(400)
    copies = X.copy(), modalities["text"].copy(), y.copy(), w.copy()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second = (NetworkRate(**SMALL, random_state=3).fit(X, y, w, modalities=modalities) for _ in range(2))
    other = NetworkRate(**SMALL, random_state=4).fit(X, y, w, modalities=modalities)

    assert np.array_equal(first.predict(X, modalities=modalities), second.predict(X, modalities=modalities))
    assert not np.array_equal(first.predict(X), other.predict(X))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    pd.testing.assert_frame_equal(X, copies[0])
    for mine, copy in zip((modalities["text"], y, w), copies[1:], strict=True):
        np.testing.assert_array_equal(mine, copy)


def test_the_order_of_columns_is_irrelevant(fitted):
    X, modalities, *_ = sample(50)
    assert np.array_equal(
        fitted.predict(X[["noise", "b", "a"]], modalities=modalities), fitted.predict(X, modalities=modalities)
    )
    with pytest.raises(InputError, match="'b'"):
        fitted.predict(X[["a", "noise"]])


def test_few_rows_and_missing_columns(fitted):
    X, modalities, y, w, _ = sample(300)
    assert fitted.predict(X[:0]).shape == (0,)
    assert fitted.predict(X[:0], modalities={"text": np.empty((0, 4))}).shape == (0,)
    one = fitted.predict(X[:1], modalities={"text": modalities["text"][:1]})
    assert one == pytest.approx(fitted.predict(X, modalities=modalities)[:1], abs=1e-12)
    assert np.isfinite(fitted.predict(X.assign(a=np.nan), modalities=modalities)).all()
    empty = NetworkRate(**SMALL).fit(X.assign(b=np.nan), y, w, modalities={"text": np.full((300, 4), np.nan)})
    assert np.isfinite(empty.predict(X)).all()
    assert NetworkRate(**SMALL).fit(X[:1], [0.02]).predict(X[:1]) == pytest.approx([0.02])


@pytest.mark.parametrize("cross", [True, False])
def test_a_modality_that_is_missing_everywhere_is_like_none(cross):
    X, modalities, y, w, _ = sample()
    model = NetworkRate(**SMALL, use_cross_modal=cross).fit(
        X, y, w, modalities={**modalities, "image": np.full((2500, 3), np.nan)}
    )
    without = NetworkRate(**SMALL, use_cross_modal=cross).fit(X, y, w, modalities=modalities)

    losses = [log_loss(y, m.predict(X, modalities=modalities), sample_weight=w) for m in (model, without)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_it_survives_saving(fitted, tmp_path):
    X, modalities, *_ = sample(200)
    fitted.save(tmp_path)
    again = NetworkRate.load(tmp_path)

    assert np.array_equal(again.predict(X, modalities=modalities), fitted.predict(X, modalities=modalities))
    assert again.feature_importance() == fitted.feature_importance()
    assert (again.training_curve_, again.best_epoch_) == (fitted.training_curve_, fitted.best_epoch_)
    assert again.get_params() == fitted.get_params()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"} <= NATIVE_SUFFIXES


def test_a_fresh_process_predicts_the_same_bits(fitted, tmp_path):
    X, modalities, *_ = sample(100)
    fitted.save(tmp_path)
    np.savez(tmp_path / "rows.npz", X=X.to_numpy(), text=modalities["text"])
    code = (
        "import sys, pathlib, numpy as np, pandas as pd\n"
        "from within_ml.models.network_rate import NetworkRate\n"
        "folder = pathlib.Path(sys.argv[1]); rows = np.load(folder / 'rows.npz')\n"
        "X = pd.DataFrame(rows['X'], columns=['a', 'b', 'noise'])\n"
        "np.save(folder / 'p.npy', NetworkRate.load(folder).predict(X, modalities={'text': rows['text']}))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)

    assert np.array_equal(np.load(tmp_path / "p.npy"), fitted.predict(X, modalities=modalities))


@pytest.mark.parametrize("damage", ["network.safetensors", "network.json"])
def test_a_damaged_file_is_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    (tmp_path / damage).write_bytes(b"{")

    with pytest.raises(ModelFormatError):
        NetworkRate.load(tmp_path)


def test_settings_that_do_not_match_the_weights_are_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    state = (tmp_path / "network.json").read_text()
    (tmp_path / "network.json").write_text(state.replace('"attention_dim": 8', '"attention_dim": 16'))

    with pytest.raises(ModelFormatError, match="NetworkRate"):
        NetworkRate.load(tmp_path)


@pytest.mark.parametrize(
    ("y", "w", "message"),
    [([0.1, 1.5], None, r"\[0, 1\]"), ([0.1, 0.2], [0, 0], "impressions"), ([0.1, -0.1], None, r"\[0, 1\]")],
)
def test_what_is_no_rate_is_refused(y, w, message):
    with pytest.raises(InputError, match=message):
        NetworkRate().fit([[0.0], [1.0]], y, w)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0, however: -1"),
        ({"batch_size": 1}, "batch_size"),
        ({"patience": 0}, "patience"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"attention_heads": 3}, "multiple of attention_heads"),
        ({"device": "abacus"}, "device"),
        ({"noise_type": "thermal", "enable_quantum_noise": True}, "noise_type"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        NetworkRate(**options).fit([[0.0], [1.0]], [0.1, 0.2])


def test_misuse_is_refused(fitted):
    X, modalities, y, w, _ = sample(20)
    with pytest.raises(InputError, match="finite with shape"):
        NetworkRate().fit(X, y, base_margin=[0.0])
    with pytest.raises(InputError, match=r"'text' must have shape \(20, size\), however: \(19, 4\)"):
        NetworkRate().fit(X, y, modalities={"text": modalities["text"][1:]})
    with pytest.raises(InputError, match="infinite"):
        NetworkRate().fit(X, y, modalities={"text": np.full((20, 2), np.inf)})
    with pytest.raises(InputError, match="'sound' is none"):
        fitted.predict(X, modalities={"sound": np.ones((20, 2))})
    with pytest.raises(InputError, match=r"\(20, 4\), however: \(20, 2\)"):
        fitted.predict(X, modalities={"text": np.ones((20, 2))})
    with pytest.raises(InputError, match="validation needs rows with impressions"):
        NetworkRate().fit(X, y, w, validation=(X, y, 0 * w, None, None))
    with pytest.raises(InputError, match="exactly if the training rows do"):
        NetworkRate().fit(X, y, w, validation=(X, y, w, None, np.zeros(20)))
    with pytest.raises(InputError, match="modalities, base_margin"):
        NetworkRate().fit(X, y, w, validation=(X, y, w))
    with pytest.raises(NotFittedError):  # scikit-learn's own, as for all its estimators
        clone(fitted).predict(X)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_nearly_the_same_rates():
    X, modalities, y, w, _ = sample()
    on_cpu, on_gpu = (
        NetworkRate(**SMALL, device=device).fit(X, y, w, modalities=modalities) for device in ("cpu", "cuda")
    )
    losses = [log_loss(y, m.predict(X, modalities=modalities), sample_weight=w) for m in (on_cpu, on_gpu)]
    assert losses[0] == pytest.approx(losses[1], rel=0.005)


class UnitTarget(NetworkRate):
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


TWO_ROWS = "mini-batches: a row of weight 2 is not two rows, which fall into different batches and normalisations"


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [UnitTarget(hidden_dims=(8,), attention_dim=4, attention_heads=2, epochs=2)],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": TWO_ROWS},
)
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
