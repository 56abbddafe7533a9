"""The names that users of the library rely on: positions of constructor arguments, and methods."""

import inspect

import pytest

from within_ml.ad_score import AdScorePredictor
from within_ml.calibration.geospatial import GeospatialCalibrator
from within_ml.calibration.hierarchical import HierarchicalCalibrator
from within_ml.calibration.spline import SplineCalibrator
from within_ml.ensemble import CalibratedEnsemble
from within_ml.features.multimodal import MultiModalFeatureExtractor
from within_ml.health import AccountHealthPredictor
from within_ml.models.ad_nn import AdPredictorNN
from within_ml.models.dynamic_linear import DynamicLinear
from within_ml.models.layers.adaptive_dropout import AdaptiveDropout
from within_ml.models.layers.attention import CrossModalAttention
from within_ml.models.layers.quantum_noise import QuantumNoiseLayer

POSITIONS = {
    AdScorePredictor: "feature_config model_type calibration explainable uncertainty",
    AccountHealthPredictor: "indicators risk_thresholds time_window model_type",
    HierarchicalCalibrator: "hierarchy_levels calibration_method smoothing max_iter",
    GeospatialCalibrator: "geo_level smoothing_neighbors min_samples_per_region fallback_strategy",
    CalibratedEnsemble: "base_models weights calibration_method aggregation_method",
    DynamicLinear: "n_features regularization alpha time_decay",
    AdPredictorNN: "input_dim hidden_dims dropout_rate enable_quantum_noise use_cross_modal",
    CrossModalAttention: "modality_dims attention_heads attention_dim dropout",
    AdaptiveDropout: "p momentum window_size adaptive_range",
    QuantumNoiseLayer: "channels noise_type noise_intensity annealing_schedule",
    MultiModalFeatureExtractor: "text_model image_model tabular_preprocessor output_dim",
}
NAMED = {SplineCalibrator: "n_knots knot_spacing spline_order regularization monotone"}
METHODS = {
    SplineCalibrator: "fit transform get_spline_parameters plot_calibration_curve",
    HierarchicalCalibrator: "fit transform fit_transform get_calibration_mapping",
    GeospatialCalibrator: "fit transform get_region_factors plot_region_map region_map_png",
    AdScorePredictor: "fit predict predict_with_intervals explain update get_feature_importance",
    AccountHealthPredictor: "fit predict_health predict_churn_risk get_contributing_factors recommend_actions predict",
    CalibratedEnsemble: "fit predict calibrate add_model remove_model get_model_weights",
    DynamicLinear: "fit fit_incremental predict get_coefficients sparsify reset_features",
    AdPredictorNN: "forward feature_extraction attention_weights quantize fuse_bn",
    CrossModalAttention: "forward get_attention_weights encode_modality",
    AdaptiveDropout: "update_rate reset get_current_rate",
    QuantumNoiseLayer: "forward moments",
    MultiModalFeatureExtractor: "extract_features process_text process_image process_tabular",
}


@pytest.mark.parametrize("kind", POSITIONS, ids=lambda kind: kind.__name__)
def test_arguments_may_be_given_by_position(kind):
    parameters = inspect.signature(kind).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert positional == POSITIONS[kind].split()


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.__name__)
def test_arguments_may_be_given_by_name(kind):
    assert list(inspect.signature(kind).parameters)[: len(NAMED[kind].split())] == NAMED[kind].split()


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_methods_are_there_and_say_what_they_do(kind):
    for name in METHODS[kind].split():
        method = getattr(kind, name)
        assert callable(method)
        assert len(inspect.getdoc(method) or "") > 20, name
