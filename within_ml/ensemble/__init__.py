"""Several models of one rate as one: how their log-odds are weighed, put together and calibrated.

The door of the package. The members and what they are fitted on are the caller's.
"""

from within_ml.ensemble.calibrated import CalibratedEnsemble
from within_ml.ensemble.fitting import CalibrationMethod
from within_ml.ensemble.pooling import AggregationMethod
from within_ml.ensemble.weights import simplex_weights

__all__ = ["AggregationMethod", "CalibratedEnsemble", "CalibrationMethod", "simplex_weights"]
