"""Contributions add up to the margin, agree with xgboost's and shap's own, and are repaired where they would not."""

import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from within_ml.errors import InputError
from within_ml.explain import contributions
from within_ml.explain.contributions import (
    TOLERANCE,
    Contributions,
    combined,
    linear_contributions,
    tree_contributions,
)


def rows(n=3_000, d=8, seed=0):
    """Numbers, few different values, missing values, a column without any value, a constant."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X[:, 1] = np.round(X[:, 1])
    X[rng.random((n, d)) < 0.2] = np.nan
    X[:, 5], X[:, 6] = np.nan, 1.0
    return X


def booster(X, *, depth=4, trees=30, base=None, seed=0, names=None, **parameters):
    known = np.nan_to_num(X)
    signal = known[:, 0] + known[:, 1] * known[:, 2]
    y = np.random.default_rng(seed).random(len(X)) < 1 / (1 + np.exp(-signal + 1))
    data = xgboost.DMatrix(X, label=y, base_margin=base, feature_names=names)
    settings = {"objective": "binary:logistic", "max_depth": depth, "nthread": 1, "seed": seed} | parameters
    return xgboost.train(settings, data, trees)


@pytest.fixture(scope="module")
def X():
    return rows()


@pytest.fixture(scope="module")
def trees(X):
    return booster(X, base=np.linspace(-3, 1, len(X)), base_score=0.5)


class TestTrees:
    @pytest.mark.parametrize("depth", [1, 4, 7])
    @pytest.mark.parametrize("min_batch", [0, 10**9], ids=["batched", "one by one"])
    def test_values_are_those_of_shap(self, X, depth, min_batch):
        import shap

        model = booster(X, depth=depth, trees=10)
        ours = tree_contributions(model, X, uses_base_margin=False, min_batch=min_batch)
        explainer = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
        theirs = explainer.shap_values(X[:200].astype(np.float32), check_additivity=True)
        np.testing.assert_allclose(ours.values[:200], theirs, atol=1e-5)
        assert ours.expected == pytest.approx(float(np.ravel(explainer.expected_value)[0]), abs=1e-5)
        assert ours.n_batched == (0 if min_batch else len(X))

    @pytest.mark.parametrize("min_batch", [0, 10**9], ids=["batched", "one by one"])
    @pytest.mark.parametrize("n_trees", [None, 1, 17])
    def test_they_add_up_to_the_margin_of_the_trees_that_count(self, X, trees, n_trees, min_batch):
        found = tree_contributions(trees, X, n_trees=n_trees, min_batch=min_batch)
        margin = trees.predict(
            xgboost.DMatrix(X, base_margin=np.zeros(len(X))), output_margin=True, iteration_range=(0, n_trees or 0)
        )
        np.testing.assert_allclose(found.values.sum(axis=1) + found.expected, margin, atol=TOLERANCE)
        np.testing.assert_allclose(found.margin, margin, atol=1e-6)
        assert (found.values[:, 5] == 0).all()

    @pytest.mark.parametrize("n_trees", [0, 30])
    def test_without_a_base_margin_the_expected_value_has_the_base_score(self, X, n_trees):
        model = booster(X, base_score=0.1)
        found = tree_contributions(model, X[:50], n_trees=n_trees, uses_base_margin=False)
        alone = tree_contributions(model, X[:50], n_trees=n_trees)
        assert found.expected - alone.expected == pytest.approx(np.log(1 / 9), abs=1e-5)
        np.testing.assert_array_equal(found.values, alone.values)

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 10_000), depth=st.integers(1, 6), missing=st.booleans())
    def test_both_ways_agree_on_any_trees(self, seed, depth, missing):
        data = rows(400, 7 + seed % 3, seed)
        model = booster(data if missing else np.nan_to_num(data), depth=depth, trees=5, seed=seed)
        fast, slow = (tree_contributions(model, data, min_batch=size) for size in (0, 10**9))
        np.testing.assert_allclose(fast.values, slow.values, atol=1e-5)
        assert fast.n_batched == 400

    def test_a_value_at_a_threshold_goes_the_way_that_xgboost_goes(self):
        data = np.repeat([0.1, 0.2, 0.30000001, 0.3], 100)[:, None]
        model = booster(np.hstack([data, np.zeros((400, 2))]), depth=2, trees=5, min_child_weight=0)
        exact = np.hstack([np.nextafter(data, 1), np.zeros((400, 2))])
        fast, slow = (tree_contributions(model, exact, min_batch=size) for size in (0, 10**9))
        np.testing.assert_allclose(fast.values, slow.values, atol=1e-5)

    @pytest.mark.parametrize("n", [0, 1, 2])
    def test_few_rows(self, X, trees, n):
        found = tree_contributions(trees, X[:n])
        whole = tree_contributions(trees, X)
        assert found.values.shape == (n, 8)
        np.testing.assert_allclose(found.values, whole.values[:n], atol=1e-5)
        assert found.expected == pytest.approx(whole.expected, abs=1e-5)

    def test_the_size_of_the_chunks_does_not_matter(self, X, trees, monkeypatch):
        whole = tree_contributions(trees, X, min_batch=0)
        monkeypatch.setattr(contributions, "ROWS_PER_CHUNK", 700)
        np.testing.assert_array_equal(tree_contributions(trees, X, min_batch=0).values, whole.values)

    def test_a_frame_with_names_and_trees_that_never_split(self, X):
        names = [f"feature {i}" for i in range(8)]
        frame, before = pd.DataFrame(X, columns=names), X.copy()
        model = booster(X, names=names, min_child_weight=1e9)
        found = tree_contributions(model, frame, min_batch=0)
        assert not found.values.any()
        np.testing.assert_array_equal(frame.to_numpy(), before)

    def test_wrong_fast_values_are_noticed_and_replaced(self, X, trees, monkeypatch, caplog):
        right = tree_contributions(trees, X, min_batch=10**9)
        monkeypatch.setattr(contributions, "_batched", lambda booster, data: np.full(data.shape, 0.1))
        with caplog.at_level(logging.WARNING):
            found = tree_contributions(trees, X, min_batch=0)
        np.testing.assert_array_equal(found.values, right.values)
        assert "xgboost explains all" in caplog.text
        assert found.n_batched == 0

    def test_a_wrong_row_outside_the_sample_is_repaired(self, X, trees, monkeypatch, caplog):
        real = contributions._batched

        def one_wrong(booster, data):
            values = real(booster, data)
            values[7, 0] += 0.01
            return values

        monkeypatch.setattr(contributions, "_batched", one_wrong)
        with caplog.at_level(logging.INFO):
            found = tree_contributions(trees, X, min_batch=0)
        assert "1 of 3000 rows did not add up" in caplog.text
        np.testing.assert_allclose(found.values.sum(axis=1) + found.expected, found.margin, atol=TOLERANCE)
        assert found.n_batched == len(X) - 1

    @pytest.mark.parametrize(
        ("data", "options", "message"),
        [
            (np.zeros((3, 2)), {}, r"X must have shape \(n, 8\)"),
            (np.zeros(8), {}, r"X must have shape \(n, 8\)"),
            (np.full((3, 8), np.inf), {}, "infinities"),
            (np.zeros((3, 8)), {"n_trees": 31}, "between 0 and the booster's 30, however: 31"),
        ],
    )
    def test_bad_input(self, trees, data, options, message):
        with pytest.raises(InputError, match=message):
            tree_contributions(trees, data, **options)

    def test_a_model_that_is_not_of_trees_is_refused(self, X):
        linear = xgboost.train({"booster": "gblinear"}, xgboost.DMatrix(X, label=np.zeros(len(X))), 1)
        with pytest.raises(InputError, match="gblinear"):
            tree_contributions(linear, X)


def test_importing_the_package_is_cheap():
    code = (
        "import sys, within_ml.explain.contributions, within_ml.explain.plots, within_ml.explain.reasons, "
        "within_ml.explain.similar, within_ml.explain.suggestions; "
        "assert not {'xgboost', 'woodelf', 'shap', 'sklearn', 'matplotlib', 'treelite'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestSums:
    def test_linear_parts_are_the_distance_from_the_centre_times_the_coefficient(self):
        found = linear_contributions(["a", "b"], [2.0, -1.0], [[1.0, 3.0], [np.nan, 3.0]], [0.5, 1.0], intercept=10)
        assert found.values.tolist() == [[1.0, -2.0], [0.0, -2.0]]
        assert found.base.tolist() == [10.0, 10.0]
        assert found.margin.tolist() == [9.0, 8.0]

    def test_a_centre_of_each_row_is_that_row_s_base(self):
        found = linear_contributions(["a"], [2.0], [[1.0], [1.0]], [[1.0], [0.0]])
        assert found.values.ravel().tolist() == [0.0, 2.0]
        assert found.base.tolist() == [2.0, 0.0]

    def test_an_ensemble_s_parts_add_up_to_its_margin(self, X, trees):
        members = [
            tree_contributions(trees, X).named([f"f{i}" for i in range(8)]),
            linear_contributions(["f0", "level"], [0.3, 1.0], np.nan_to_num(X[:, :2])),
        ]
        whole = combined(members, [0.25, 0.75])
        np.testing.assert_allclose(whole.margin, 0.25 * members[0].margin + 0.75 * members[1].margin)
        assert whole.error < TOLERANCE
        assert whole.names == (*members[0].names, "level")

    def test_groups_are_sums_of_their_columns(self):
        parts = Contributions.of(["a", "b", "c"], [[1.0, 2.0, 4.0]], base=0.5)
        found = parts.grouped({"a": "x", "c": "x"})
        assert dict(zip(found.names, found.values[0], strict=True)) == {"x": 5.0, "b": 2.0}
        assert found.margin.tolist() == [7.5]

    def test_beside_a_usual_row_everything_still_adds_up(self):
        parts = Contributions.of(["a", "b"], [[1.0, 2.0], [3.0, 0.0]], base=-4.0)
        usual = Contributions.of(["a", "b"], [[1.0, 2.0]], base=-4.0)
        found = parts.beside(usual, [0, 0])
        assert found.values.tolist() == [[0.0, 0.0], [2.0, -2.0]]
        assert found.base.tolist() == [-1.0, -1.0]
        assert found.margin.tolist() == parts.margin.tolist()
        assert found.error == 0

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: Contributions.of(["a"], [[1.0, 2.0]], base=0), "one column for each"),
            (lambda: Contributions.of(["a", "a"], [[1.0, 2.0]], base=0), "different names"),
            (lambda: Contributions.of(["a"], [[1.0]], base=0, margin=[1.1]), "add up to the margin"),
            (lambda: Contributions.of(["a"], [[np.nan]], base=0, margin=[1.1]), "add up to the margin"),
            (lambda: Contributions.of(["a"], [[1.0]], base=[0, 0]), "base must be a number or have shape"),
            (lambda: Contributions.of(["a"], [[1.0]], base=0, margin=[1.0, 2.0]), "margin must have shape"),
            (lambda: linear_contributions(["a"], [1.0, 2.0], [[1.0]]), "one value per column"),
            (lambda: linear_contributions(["a"], [1.0], [[1.0]], [1.0, 2.0]), "centre must be a number or fit"),
            (lambda: combined([]), "parts must be at least one"),
            (lambda: combined([Contributions.of(["a"], [[1.0]], base=0)], [1, 2]), "weights of shape"),
            (
                lambda: Contributions.of(["a"], [[1.0]], base=0).beside(Contributions.of(["a"], [[1.0]], base=0), [1]),
                "row must be between 0 and 0",
            ),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(InputError, match=message):
            call()
