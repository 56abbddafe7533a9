"""The detector's plain matrix is a scikit-learn estimator."""

from __future__ import annotations

from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from within_ml.anomalies import AnomalyDetector

EXPECTED = {
    "check_do_not_raise_errors_in_init_or_set_params": "feature_names must be names, as every model's",
    "check_sample_weight_equivalence_on_dense_data": "weights are accepted as every model does, and not used",
}


@parametrize_with_checks([AnomalyDetector("ecod")], expected_failed_checks=lambda _: EXPECTED)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_a_clone_has_the_arguments_and_nothing_learnt():
    detector = AnomalyDetector("knn", 0.7, ("campaign_id",), 14).fit([[0.0], [1.0], [2.0]])

    copy = clone(detector)

    assert copy.get_params() == detector.get_params()
    assert not copy.is_fitted
