"""DynamicLinear: the paper's algorithm, weighted by impressions, forgetting, saved natively."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import expit, logit
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.errors import InputError, ModelFormatError
from within_ml.metrics import log_loss
from within_ml.models.dynamic_linear import DynamicLinear


def stream(n=4000, width=60, fields=5, seed=0, drift=0.0):
    """Rows with one column of each field; effects that turn into others as time goes by."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, width // fields, (n, fields)) + np.arange(fields) * (width // fields)
    first, then = rng.normal(0, 0.7, (2, width))
    share = np.linspace(0, drift, n)[:, None]
    margin = -2 + ((1 - share) * first[level] + share * then[level]).sum(axis=1)
    X = sparse.csr_array((np.ones(n * fields), level.ravel(), np.arange(0, n * fields + 1, fields)), shape=(n, width))
    return X, (rng.random(n) < expit(margin)).astype(float), expit(margin)


def as_in_the_paper(X, y, alpha, beta, l1, l2):
    """Algorithm 1 of McMahan et al. 2013, line by line; a bias column without penalties is the last."""
    X = np.column_stack([X.toarray(), np.ones(X.shape[0])])
    z, n = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    lambda1, lambda2 = np.full(z.size, l1), np.full(z.size, l2)
    lambda1[-1] = lambda2[-1] = 0
    predicted = []
    for x, label in zip(X, y, strict=True):
        used = np.flatnonzero(x)
        w = np.zeros(z.size)
        for i in used:
            if abs(z[i]) > lambda1[i]:
                w[i] = -(z[i] - np.sign(z[i]) * lambda1[i]) / ((beta + np.sqrt(n[i])) / alpha + lambda2[i])
        p = expit(x @ w)
        predicted.append(p)
        for i in used:
            g = (p - label) * x[i]
            sigma = (np.sqrt(n[i] + g**2) - np.sqrt(n[i])) / alpha
            z[i] += g - sigma * w[i]
            n[i] += g**2
    return np.array(predicted)


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.0, 2.0), (0.5, 1.0)])
def test_it_is_the_algorithm_of_the_paper(l1, l2):
    X, y, _ = stream(300)
    X = X * sparse.csr_array(np.random.default_rng(1).normal(1, 0.3, X.shape))
    model = DynamicLinear(alpha=0.3, beta=0.7, l1=l1, regularization=l2)

    assert model.predict_then_fit(X, y) == pytest.approx(as_in_the_paper(X, y, 0.3, 0.7, l1, l2), abs=1e-10)


def test_it_finds_the_true_rates():
    X, y, truth = stream(60_000)
    model = DynamicLinear().fit(X[:50_000], y[:50_000])
    p, floor = model.predict(X[50_000:]), log_loss(y[50_000:], truth[50_000:])

    assert log_loss(y[50_000:], p) < floor + 0.003
    assert log_loss(y[50_000:], np.full(10_000, y.mean())) > floor + 0.05


def test_what_is_forgotten_makes_room_for_what_is_true_now():
    X, y, _ = stream(40_000, drift=1.0)
    kept, faded = (DynamicLinear(time_decay=decay).predict_then_fit(X, y) for decay in (0.0, 2e-4))
    late = slice(30_000, None)

    assert log_loss(y[late], faded[late]) < log_loss(y[late], kept[late]) - 0.005


def test_time_is_counted_in_the_unit_of_times():
    X, y, _ = stream(2000)
    by_row = DynamicLinear(time_decay=0.01).fit(X, y)
    by_hour = DynamicLinear(time_decay=1 - 0.99**24).fit(X, y, times=np.arange(1, 2001) / 24)

    assert by_hour.predict(X) == pytest.approx(by_row.predict(X), abs=1e-9)
    assert by_hour.clock_ == pytest.approx(2000 / 24)


def test_without_news_a_weight_is_drawn_to_zero():
    X, y, _ = stream(2000)
    model = DynamicLinear(time_decay=0.5).fit(X, y, times=np.zeros(2000))
    before = model.get_coefficients()
    model.fit_incremental(X[:1] * 0, [model.predict(X[:1] * 0)[0]], times=[8.0])
    after = model.get_coefficients()

    assert after.evidence == pytest.approx(before.evidence * 0.5**16)
    assert np.abs(after.values).max() < 0.2 * np.abs(before.values).max()


def test_a_very_long_silence_forgets_everything():
    X, y, _ = stream(500)
    model = DynamicLinear(time_decay=0.9).fit(X, y, times=np.zeros(500))
    model.fit_incremental(X[:1], [0.0], times=[1e6])

    assert np.isfinite(model.predict(X)).all()
    assert np.abs(model.get_coefficients().values).max() < 0.5


def test_rows_may_come_in_parts():
    X, y, _ = stream(3000)
    once = DynamicLinear(time_decay=1e-3).fit(X, y)
    parts = DynamicLinear(time_decay=1e-3)
    parts.predict_then_fit(X[:1], y[:1])
    whole = DynamicLinear(time_decay=1e-3)
    whole.predict_then_fit(X, y)
    for rows in (slice(1, 10), slice(10, 11), slice(11, None)):
        parts.fit_incremental(X[rows], y[rows])

    assert parts.predict(X) == pytest.approx(whole.predict(X), abs=1e-12)
    assert once.predict(X) == pytest.approx(whole.predict(X), abs=0.05)


class TestImpressions:
    @settings(max_examples=60, deadline=None)
    @given(
        weight=st.floats(1.0, 1e7),
        rate=st.floats(0.0, 1.0),
        start=st.floats(-8, 8),
        alpha=st.floats(0.01, 10),
    )
    def test_a_step_never_passes_the_rate_of_its_row(self, weight, rate, start, alpha):
        model = DynamicLinear(alpha=alpha, fit_intercept=False)
        before, X = expit(start), [[1.0, 2.0, 0.0]]
        after = model.fit(X, [rate], [weight], offset=[start]).predict(X, offset=[start])[0]

        assert min(before, rate) - 1e-9 <= after <= max(before, rate) + 1e-9

    def test_a_row_of_n_impressions_is_evidence_of_n_rows(self):
        rng = np.random.default_rng(0)
        X, _, truth = stream(400)
        w = rng.integers(200, 3000, 400)
        clicks = rng.binomial(w, truth)
        row = np.repeat(np.arange(400), w)
        clicked = np.concatenate([np.r_[np.ones(c), np.zeros(n - c)] for c, n in zip(clicks, w, strict=True)])
        shuffled = rng.permutation(row.size)
        one_by_one = DynamicLinear().fit(X[row[shuffled]], clicked[shuffled]).get_coefficients()
        at_once = DynamicLinear().fit(X, clicks / w, w).get_coefficients()

        seen = one_by_one.evidence > 100
        assert at_once.evidence[seen] == pytest.approx(one_by_one.evidence[seen], rel=0.1)
        assert np.corrcoef(at_once.values[seen], one_by_one.values[seen])[0, 1] > 0.97

    def test_thousands_of_impressions_do_not_blow_up(self):
        rng = np.random.default_rng(0)
        X, _, truth = stream(3000)
        w = rng.integers(1000, 100_000, 3000)
        y = rng.binomial(w, truth) / w
        model = DynamicLinear().fit(X[:2000], y[:2000], w[:2000])
        late = slice(2000, None)

        excess = log_loss(y[late], model.predict(X[late]), sample_weight=w[late])
        excess -= log_loss(y[late], truth[late], sample_weight=w[late])
        assert excess < 1e-3

    def test_rows_of_weight_zero_are_not_seen(self):
        X, y, _ = stream(600)
        w = (np.arange(600) % 2).astype(float)
        with_them, without = DynamicLinear().fit(X, y, w), DynamicLinear().fit(X[1::2], y[1::2])

        assert np.array_equal(with_them.predict(X), without.predict(X))


class TestCoefficients:
    @pytest.fixture
    def fitted(self):
        X, y, _ = stream(3000)
        return DynamicLinear().fit(X, y), X

    def test_the_margin_is_their_sum(self, fitted):
        model, X = fitted
        told = model.get_coefficients()

        assert model.predict_margin(X) == pytest.approx(told.intercept + X @ told.values)
        assert model.predict(X) == pytest.approx(expit(model.predict_margin(X)))

    def test_few_rows_of_a_wide_model_are_predicted_like_many(self, fitted):
        model, X = fitted
        assert np.array_equal(model.predict(X[:3]), model.predict(X)[:3])

    def test_small_ones_are_set_to_zero(self, fitted):
        model, _ = fitted
        before = model.get_coefficients()
        after = model.sparsify(0.3).get_coefficients()

        small = np.abs(before.values) < 0.3
        assert 0 < small.sum() < small.size
        assert np.array_equal(after.values, np.where(small, 0.0, before.values))
        assert np.array_equal(after.evidence, before.evidence)

    def test_columns_are_forgotten(self, fitted):
        model, _ = fitted
        before = model.get_coefficients()
        after = model.reset_features([0, 7]).get_coefficients()

        assert after.values[[0, 7]].tolist() == after.evidence[[0, 7]].tolist() == [0.0, 0.0]
        assert np.array_equal(np.delete(after.values, [0, 7]), np.delete(before.values, [0, 7]))

    @pytest.mark.parametrize("indices", [[60], [-1], [0.5], [[1]], [True]])
    def test_what_is_no_column_is_refused(self, fitted, indices):
        with pytest.raises(InputError, match="indices"):
            fitted[0].reset_features(indices)

    def test_l1_leaves_out_what_says_little(self):
        X, y, _ = stream(3000)
        zeros = [np.sum(DynamicLinear(l1=l1).fit(X, y).get_coefficients().values == 0) for l1 in (0.0, 5.0, 30.0)]

        assert zeros[0] == 0
        assert zeros[0] < zeros[1] < zeros[2] <= 60


def test_an_offset_is_the_level_that_weights_are_added_to():
    X, y, _ = stream(20_000)
    offset = np.where(np.arange(20_000) % 2, 1.0, -1.0)
    shifted = (np.random.default_rng(0).random(20_000) < expit(logit(0.1) + offset)).astype(float)
    model = DynamicLinear().fit(X, shifted, offset=offset)

    p = model.predict(X, offset=offset)
    assert [p[::2].mean(), p[1::2].mean()] == pytest.approx(expit(logit(0.1) + offset[:2]), rel=0.1)
    with pytest.raises(InputError, match="offset"):
        model.predict(X)
    with pytest.raises(InputError, match="offset"):
        model.fit_incremental(X, y)


def test_it_survives_saving_into_a_fresh_process(tmp_path):
    X, y, _ = stream(2000)
    model = DynamicLinear(time_decay=1e-3, l1=0.1).fit(X, y)
    model.save(tmp_path)
    sparse.save_npz(tmp_path / "X.npz", X)
    np.save(tmp_path / "p.npy", model.predict(X))
    script = f"""
import numpy as np, pathlib, sys
from scipy import sparse
from within_ml.models.dynamic_linear import DynamicLinear
folder = pathlib.Path({str(tmp_path)!r})
again = DynamicLinear.load(folder)
assert np.array_equal(again.predict(sparse.load_npz(folder / "X.npz")), np.load(folder / "p.npy"))
assert "numba" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    again = DynamicLinear.load(tmp_path)
    assert np.array_equal(
        again.fit_incremental(X[:50], y[:50]).predict(X), model.fit_incremental(X[:50], y[:50]).predict(X)
    )


@pytest.mark.parametrize("damage", ["dynamic_linear.npz", "dynamic_linear.json"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    X, y, _ = stream(50)
    DynamicLinear().fit(X, y).save(tmp_path)
    (tmp_path / damage).write_bytes(b"{")

    with pytest.raises(ModelFormatError, match="DynamicLinear"):
        DynamicLinear.load(tmp_path)


def test_frames_are_taken_by_name():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 3)), columns=list("abc"))
    y = (rng.random(300) < expit(X["a"])).astype(float)
    before = X.copy()
    model = DynamicLinear().fit(X, y)

    assert np.array_equal(model.predict(X[["c", "a", "b"]].assign(more=1)), model.predict(X))
    pd.testing.assert_frame_equal(X, before)
    with pytest.raises(InputError, match="'b'"):
        model.predict(X[["a", "c"]])


def test_an_empty_day_has_no_predictions_and_one_row_has_one():
    X, y, _ = stream(100)
    model = DynamicLinear(n_features=60).fit(X, y)

    assert model.predict(X[:0]).shape == (0,)
    assert model.predict(X[:1]).shape == (1,)
    assert np.isfinite(DynamicLinear().fit(X[:1], y[:1]).predict(X)).all()


def test_a_single_class_is_a_rate_like_others():
    p = DynamicLinear().fit([[1.0], [0.0]] * 50, np.zeros(100)).predict([[1.0]])

    assert 0 < p[0] < 0.05


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"y": [0.1, 1.5]}, r"y must hold rates in \[0, 1\]"),
        ({"sample_weight": [0, 0]}, "sum of sample_weight is zero"),
        ({"sample_weight": [1, -1]}, "not negative"),
        ({"sample_weight": [1, np.nan]}, "nan"),
        ({"sample_weight": [1, 1, 1]}, "shape"),
        ({"offset": [0.0]}, "offset must be finite with shape"),
        ({"offset": [0.0, np.inf]}, "offset must be finite with shape"),
        ({"times": [2.0, 1.0]}, "times must never fall"),
        ({"times": [1.0]}, "times must be finite numbers of shape"),
        ({"y": None}, "y to be passed"),
        ({"X": [[1.0], [np.inf]]}, "infinity"),
        ({"X": [[1.0]]}, "one rate for each of"),
    ],
)
def test_bad_input_is_refused(told, message):
    with pytest.raises(ValueError, match=message):
        DynamicLinear().fit(**{"X": [[0.0], [1.0]], "y": [0.1, 0.2], **told})


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0}, {"beta": 0}, {"regularization": -1}, {"l1": -1}, {"time_decay": 1.0}, {"n_epochs": 0}],
)
def test_bad_parameters_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DynamicLinear(**wrong).fit([[0.0], [1.0]], [0.1, 0.2])


def test_misuse_is_refused():
    with pytest.raises(InputError, match="n_features=5"):
        DynamicLinear(n_features=5).fit([[0.0], [1.0]], [0.1, 0.2])
    with pytest.raises(NotFittedError):
        DynamicLinear().predict([[0.0]])
    model = DynamicLinear().fit([[0.0], [1.0]], [0.1, 0.2], times=[0, 5])
    with pytest.raises(InputError, match="begin before the last row"):
        model.fit_incremental([[0.0]], [0.1], times=[4])
    with pytest.raises(InputError, match="threshold"):
        model.sparsify(-1)


class UnitTarget(DynamicLinear):
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


ORDERED = "a row of weight 2 is one step of two impressions, not two steps: the weights depend on the order of the rows"
EXCEPTIONS = {
    "check_sample_weight_equivalence_on_dense_data": ORDERED,
    "check_sample_weight_equivalence_on_sparse_data": ORDERED,
    "check_sparsify_coefficients": "sparsify(threshold) sets weights to zero; it does not change how they are stored",
}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([UnitTarget()], expected_failed_checks=lambda estimator: EXCEPTIONS)
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
