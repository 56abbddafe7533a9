"""One outcome per row: the additive model, the two members together, and what few rows allow."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from within_ml.errors import ModelFormatError, NotFittedError
from within_ml.health.additive import AdditiveLogit
from within_ml.health.config import HealthConfig, HealthModelType
from within_ml.health.risk import Evidence, RiskModel, grouped_folds, jackknife, thinned

CONFIG = HealthConfig(n_estimators=40, folds=3, n_threads=1, max_depth=2)


def rows(n=600, seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"x": rng.normal(size=n), "kind": rng.choice(["a", "b"], n), "noise": rng.normal(size=n)})
    truth = expit(-1.5 + 1.2 * X["x"] + np.where(X["kind"] == "b", 1.0, 0.0)).to_numpy()
    return X, (rng.random(n) < truth).astype(float), truth


@pytest.fixture(scope="module")
def fitted():
    X, y, _ = rows(1500)
    return RiskModel(config=CONFIG).fit(X, y), X


class TestAdditive:
    def test_without_bends_it_is_ridge_logistic_regression(self):
        X, y, _ = rows()
        numbers = X[["x", "noise"]].to_numpy()
        ours = AdditiveLogit(ridge=2.0, bends=False).fit(numbers, y)
        scaled = ours.design_.terms(numbers)
        # C is the inverse of twice the penalty's strength in ½‖β‖²/C + Σ loss, so ridge 2 is C = 1/2.
        peer = LogisticRegression(C=1 / 2.0, tol=1e-10, max_iter=10_000).fit(scaled, y)

        assert np.allclose(ours.coefficients_, peer.coef_[0], atol=1e-4)
        assert ours.intercept_ == pytest.approx(peer.intercept_[0], abs=1e-4)

    def test_it_bends(self):
        x = np.linspace(-3, 3, 3000)
        y = (np.random.default_rng(0).random(3000) < expit(3 * np.abs(x) - 3)).astype(float)
        bent = AdditiveLogit(ridge=1.0).fit(x[:, None], y)
        straight = AdditiveLogit(ridge=1.0, bends=False).fit(x[:, None], y)

        assert np.corrcoef(bent.margin(x[:, None]), np.abs(x))[0, 1] > 0.95
        assert np.ptp(straight.margin(x[:, None])) < 1

    def test_outcomes_that_are_told_apart_do_not_lead_it_away(self):
        rng = np.random.default_rng(0)
        numbers = rng.normal(size=(2500, 6))
        numbers[:, 1] = numbers[:, 0] + rng.normal(0, 0.01, 2500)
        y = (numbers[:, 0] > 2.0).astype(float)
        model = AdditiveLogit(ridge=0.5).fit(numbers, y)
        p = expit(model.margin(numbers))

        assert p @ (1 - y) / (1 - y).sum() < 0.01
        assert p @ y / y.sum() > 0.75
        assert p.sum() == pytest.approx(y.sum(), rel=1e-3)  # the free intercept makes them equal

    def test_beyond_the_rows_of_the_fit_it_says_no_more(self):
        X, y, _ = rows()
        model = AdditiveLogit(ridge=1.0).fit(X[["x"]].to_numpy(), y)

        assert model.margin(np.array([[50.0]])) == model.margin(np.array([[500.0]]))

    def test_parts_add_up(self):
        X, y, _ = rows()
        numbers = np.column_stack([X["x"], X["noise"], X["kind"] == "b"]).astype(float)
        numbers[::7, 1] = np.nan
        model = AdditiveLogit().fit(numbers, y)
        parts = model.contributions(numbers, ["x", "noise", "b"])

        assert np.allclose(parts.base + parts.values.sum(axis=1), model.margin(numbers))
        assert np.allclose(parts.values.mean(axis=0), 0, atol=1e-9)

    def test_starting_elsewhere_ends_at_the_same(self):
        X, y, _ = rows()
        numbers = X[["x", "noise"]].to_numpy()
        *_, last = AdditiveLogit.path(numbers, y, ridges=[50.0, 10.0, 1.0])
        assert np.allclose(last.coefficients_, AdditiveLogit(ridge=1.0).fit(numbers, y).coefficients_, atol=1e-4)

    def test_many_rows_end_at_the_same(self, monkeypatch):
        X, y, _ = rows(3000)
        numbers = X[["x", "noise"]].to_numpy()
        quick = AdditiveLogit().fit(numbers, y)
        monkeypatch.setattr("within_ml.health.additive._MANY_ROWS", 10**9)

        assert np.allclose(quick.coefficients_, AdditiveLogit().fit(numbers, y).coefficients_, atol=1e-5)


class TestRiskModel:
    def test_it_finds_the_truth_and_is_calibrated(self, fitted):
        model, _ = fitted
        X, y, truth = rows(4000, seed=1)
        p = model.predict(X)

        assert np.corrcoef(logit(p), logit(truth))[0, 1] > 0.95
        assert abs(p.mean() - y.mean()) < 0.02
        slope = LogisticRegression(C=1e9).fit(logit(p)[:, None], y).coef_[0, 0]
        assert 0.85 < slope < 1.15

    def test_contributions_are_exact(self, fitted):
        model, X = fitted
        parts = model.explain(X[:50])

        assert parts.names == ("kind", "noise", "x")
        assert np.allclose(parts.base + parts.values.sum(axis=1), model.margin(X[:50]), atol=1e-4)

    def test_importance_sums_to_one(self, fitted):
        found = fitted[0].importance()

        assert sum(found.values()) == pytest.approx(1.0)
        assert list(found) == ["x", "kind", "noise"]

    def test_rows_of_a_group_stay_together(self):
        group = np.repeat(np.arange(40), 5)
        fold = grouped_folds((group % 4 == 0).astype(float), group, 5, 0)

        assert all(np.unique(fold[group == g]).size == 1 for g in range(40))
        assert [np.unique(group[(fold == k) & (group % 4 == 0)]).size for k in range(5)] == [2] * 5

    def test_few_outcomes_give_the_level(self, tmp_path):
        X, _, _ = rows(50)
        y = np.zeros(50)
        y[:2] = 1
        model = RiskModel(config=CONFIG).fit(X, y)
        model.save(tmp_path)

        assert model.evidence_ is Evidence.LEVEL
        assert np.allclose(model.predict(X), 2.5 / 51)
        assert np.array_equal(RiskModel.load(tmp_path, CONFIG).predict(X), model.predict(X))
        assert np.allclose(model.explain(X).values, 0)

    def test_outcomes_in_few_groups_are_few(self):
        X, _, _ = rows(400)
        group = np.repeat(np.arange(20), 20)
        model = RiskModel(config=CONFIG).fit(X, (group < 3).astype(float), groups=group)

        assert model.evidence_ is Evidence.LEVEL

    def test_weights_count_as_rows_do(self):
        X, y, _ = rows(300)
        twice = RiskModel(HealthModelType.LOGISTIC, CONFIG).fit(X, y, np.full(300, 2.0))
        zero = pd.concat([X, X.assign(x=5.0)], ignore_index=True)
        w = np.r_[np.full(300, 2.0), np.zeros(300)]
        ignoring = RiskModel(HealthModelType.LOGISTIC, CONFIG).fit(zero, np.r_[y, 1 - y], w, np.r_[:300, :300])

        assert abs(ignoring.predict(X).mean() - twice.predict(X).mean()) < 0.03

    def test_thinning_keeps_outcomes_and_the_level(self):
        y = (np.arange(1000) % 100 == 0).astype(float)
        kept, share = thinned(y, np.arange(1000), 200, 0)

        assert y[kept].sum() == y.sum()
        assert len(kept) == 200
        assert share @ (1 - y[kept]) == pytest.approx(990)

    def test_out_of_fold_is_of_every_row_and_honest(self):
        X, y, truth = rows(600)
        whole = RiskModel(config=CONFIG).fit(X, y)
        few = RiskModel(config=HealthConfig(n_estimators=40, folds=3, n_threads=1, max_depth=2, max_rows=400)).fit(X, y)

        for model in (whole, few):
            assert model.out_of_fold_.shape == (600,)
            assert np.corrcoef(model.out_of_fold_, logit(truth))[0, 1] > 0.8
        assert not np.allclose(whole.out_of_fold_, whole.margin(X))

    def test_the_jackknife_is_that_of_a_mean(self):
        # Of a mean of k groups' values the delete-one estimates are the means of the others.
        values = np.array([1.0, 2.0, 4.0, 9.0])
        without = np.array([[np.delete(values, i).mean() for i in range(4)]])

        assert jackknife(without)[0] == pytest.approx(values.std(ddof=1) / 2)

    def test_an_unfitted_or_foreign_one_is_refused(self, tmp_path):
        with pytest.raises(NotFittedError):
            RiskModel().predict(rows(5)[0])
        with pytest.raises(ModelFormatError):
            RiskModel.load(tmp_path, CONFIG)
