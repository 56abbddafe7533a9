"""The small regression against scikit-learn's."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from within_ml.errors import InputError
from within_ml.models.binomial import fit_binomial


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(300, 2))
    w = rng.integers(1, 50, 300).astype(float)
    y = rng.binomial(w.astype(int), expit(-1 + terms @ [0.5, -0.3])) / w
    return terms, y, w


def test_coefficients_are_those_of_logistic_regression(data):
    terms, y, w = data
    columns = np.column_stack([np.ones(300), terms])
    fit = fit_binomial(columns, y, w, offset=np.zeros(300), ridge=np.zeros(3))

    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(
        np.vstack([terms, terms]), np.repeat([1, 0], 300), sample_weight=np.concatenate([w * y, w * (1 - y)])
    )
    assert fit.coefficients == pytest.approx([*peer.intercept_, *peer.coef_[0]], abs=1e-4)
    assert fit.dispersion == pytest.approx(1.0, abs=0.2)


def test_an_offset_is_taken_as_known(data):
    terms, y, w = data
    fit = fit_binomial(terms[:, 1:], y, w, offset=-1 + 0.5 * terms[:, 0], ridge=np.zeros(1))

    assert fit.coefficients == pytest.approx([-0.3], abs=0.05)


def test_ads_that_differ_more_than_chance_are_dispersed(data):
    terms, y, w = data
    shaken = np.clip(y * np.random.default_rng(1).uniform(0, 2, 300), 0, 1)
    fit = fit_binomial(terms, shaken, w, offset=np.full(300, -1.0), ridge=np.ones(2))

    assert fit.dispersion > 2


def test_a_term_without_evidence_is_zero():
    fit = fit_binomial(np.zeros((5, 1)), np.full(5, 0.1), np.ones(5), offset=np.zeros(5), ridge=np.ones(1))

    assert fit.coefficients == pytest.approx([0.0])


def test_shapes_are_checked():
    with pytest.raises(InputError, match="shape"):
        fit_binomial(np.zeros((5, 1)), np.zeros(4), np.zeros(5), offset=np.zeros(5), ridge=np.ones(1))
