"""Odd rows among others: PyOD's figures where the method is PyOD's, and one answer for every matrix."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.anomalies.cross_section import METHODS, MOST_REFERENCES, CrossSection
from within_ml.errors import InputError, ModelFormatError, NotFittedError


def rows_with_odd_ones(seed=0, n=300, columns=5):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(columns, columns))
    X, y = rng.normal(size=(n, columns)) @ mixing, np.zeros(n, dtype=int)
    X[:10] += rng.normal(0, 8, (10, columns))
    y[:10] = 1
    return X, y


@parametrize_with_checks([CrossSection(), CrossSection("ecod")])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class TestPyod:
    def test_ecod_is_pyods(self):
        from pyod.models.ecod import ECOD

        X = rows_with_odd_ones()[0].round(1)
        peer = ECOD().fit(X).decision_scores_
        np.testing.assert_allclose(CrossSection("ecod").fit(X).decision_function(X), peer, rtol=1e-12)

    def test_iforest_is_pyods(self):
        from pyod.models.iforest import IForest

        X, _ = rows_with_odd_ones()
        peer = IForest(random_state=3).fit(X).decision_function(X)
        np.testing.assert_array_equal(CrossSection("iforest", random_state=3).fit(X).decision_function(X), peer)

    @pytest.mark.parametrize("columns", [3, 40])
    def test_knn_is_pyods_on_scaled_rows(self, columns):
        from pyod.models.knn import KNN

        X, _ = rows_with_odd_ones(columns=columns)
        quartiles = np.percentile(X, [25, 75], axis=0)
        scaled = (X - np.median(X, axis=0)) / ((quartiles[1] - quartiles[0]) / 1.349)
        peer = KNN(n_neighbors=5, method="mean").fit(scaled).decision_scores_
        np.testing.assert_allclose(CrossSection("knn").fit(X).decision_function(X), peer, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_odd_rows_come_first(self, method):
        X, y = rows_with_odd_ones()
        assert roc_auc_score(y, CrossSection(method).fit(X).decision_function(X)) > 0.95

    def test_a_row_does_not_depend_on_its_company(self, method):
        X, _ = rows_with_odd_ones()
        fitted = CrossSection(method).fit(X)
        alone = np.concatenate([fitted.decision_function(X[i : i + 1]) for i in range(20)])
        np.testing.assert_allclose(alone, fitted.decision_function(X)[:20], rtol=1e-9)

    def test_farther_is_odder(self, method):
        X, _ = rows_with_odd_ones()
        fitted = CrossSection(method).fit(X)
        scores = fitted.decision_function(np.array([1.0, 3.0, 6.0, 10.0, 20.0])[:, None] * X[:10].max(axis=0))
        assert scores[-1] >= scores[2] >= scores[0]
        assert scores[-1] > np.quantile(fitted.decision_function(X), 0.95)
        if method != "iforest":  # a forest sees no farther than its outermost cut
            assert (np.diff(scores) >= 0).all()

    def test_saved_and_loaded_scores_the_same(self, method, tmp_path):
        X, _ = rows_with_odd_ones()
        X[3, 1] = np.nan
        fitted = CrossSection(method).fit(X)
        fitted.save(tmp_path)
        loaded = CrossSection.load(tmp_path)
        np.testing.assert_array_equal(loaded.decision_function(X), fitted.decision_function(X))
        assert loaded.imputed_ == fitted.imputed_ == 1

    def test_constant_and_missing_columns_are_no_reason(self, method):
        X, _ = rows_with_odd_ones()
        wider = np.column_stack([X, np.full(len(X), 4.0), np.full(len(X), np.nan)])
        found = CrossSection(method).fit(wider).decision_function(wider)
        np.testing.assert_allclose(found, CrossSection(method).fit(X).decision_function(X), rtol=1e-9)

    @pytest.mark.parametrize("X", [np.ones((1, 3)), np.ones((40, 2)), np.full((5, 2), np.nan)])
    def test_where_nothing_differs_nothing_is_odd(self, method, X):
        assert (CrossSection(method).fit(X).decision_function(X) == 0).all()

    @pytest.mark.parametrize("n", [2, 3, 6])
    def test_few_rows(self, method, n):
        X = np.random.default_rng(1).normal(size=(n, 2))
        assert np.isfinite(CrossSection(method).fit(X).decision_function(X)).all()

    def test_no_rows_to_score(self, method):
        X, _ = rows_with_odd_ones()
        assert CrossSection(method).fit(X).decision_function(X[:0]).shape == (0,)

    def test_unit_and_origin_of_a_column_do_not_matter(self, method):
        X, _ = rows_with_odd_ones()
        other = X * np.array([1e3, 1e-3, 2.0, 1.0, 5.0]) + 7
        a, b = (CrossSection(method).fit(rows).decision_function(rows) for rows in (X, other))
        assert np.corrcoef(a, b)[0, 1] > 0.98


def test_of_many_rows_some_are_references():
    X, y = rows_with_odd_ones(n=MOST_REFERENCES + 2000, columns=2)
    found = CrossSection().fit(X).decision_function(X)
    np.testing.assert_array_equal(CrossSection().fit(X).decision_function(X), found)
    assert roc_auc_score(y, found) > 0.9


class TestBadInput:
    def test_unknown_method(self):
        with pytest.raises(InputError, match="method must be one of 'combined'"):
            CrossSection("lof").fit(np.ones((3, 2)))

    @pytest.mark.parametrize("X", [np.ones(3), np.full((3, 2), np.inf), np.ones((0, 2)), [["a", "b"]]])
    def test_no_table_of_numbers(self, X):
        with pytest.raises(InputError, match="X must be a table of numbers"):
            CrossSection().fit(X)

    def test_before_fit(self):
        with pytest.raises(NotFittedError, match="must be fitted"):
            CrossSection().decision_function(np.ones((3, 2)))

    def test_an_incomplete_folder(self, tmp_path):
        with pytest.raises(ModelFormatError, match="missing"):
            CrossSection.load(tmp_path)
