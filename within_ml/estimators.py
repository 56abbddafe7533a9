"""What every estimator asks of its input and its own state: scikit-learn's checks with messages of this project.

A message names the argument, the rule and what came. Checks that only one estimator needs stand beside it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, NotFittedError, shown

FloatArray = NDArray[np.float64]

_EXAMPLES = 3


def require_fitted(estimator: Any, attribute: str | None = None) -> None:
    """Check that `fit` or `load` has set the attribute, or any that ends in an underscore.

    Raises
    ------
    NotFittedError
        Otherwise; the error is scikit-learn's of that name too.
    """
    from sklearn.exceptions import NotFittedError as SklearnNotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator, attribute)
    except SklearnNotFittedError as error:
        name = type(estimator).__name__
        raise _unfitted()(f"{name} must be fitted before it is used; call fit, or load a fitted one.") from error


@cache
def _unfitted() -> type[NotFittedError]:
    from sklearn.exceptions import NotFittedError as SklearnNotFittedError

    class UnfittedError(NotFittedError, SklearnNotFittedError):  # type: ignore[misc]
        pass

    return UnfittedError


def checked_rows(estimator: Any, X: Any, **options: Any) -> Any:
    """Return X as scikit-learn's `validate_data` does, with its options.

    Raises
    ------
    InputError
        If X has not two dimensions, the columns of fit, or finite numbers where they are asked for.
    """
    from sklearn.utils.validation import validate_data

    try:
        return validate_data(estimator, X, **options)
    except ValueError as error:
        # The first line is the message; of a misshaped X the whole X would come after it.
        said = str(error)
        if np.ndim(X) == 1 and "Reshape your data" in said:
            said = f"shape {np.shape(X)}. Reshape your data."
        raise InputError(
            f"X must be a table of numbers, as {type(estimator).__name__} says, however: {said}"
        ) from error


def checked_rates(y: ArrayLike, rows: int, *, name: str = "y") -> FloatArray:
    """Return rates as float64, shape (rows,).

    Raises
    ------
    InputError
        If the length is another, or a rate is outside [0, 1].

    >>> checked_rates([0.5, 1], 2)
    array([0.5, 1. ])
    """
    from sklearn.utils import check_array, column_or_1d

    try:
        values = check_array(column_or_1d(y, warn=True), ensure_2d=False, dtype=np.float64, input_name=name)
    except ValueError as error:
        raise InputError(f"{name} must hold rates in [0, 1], one for each row of X, however: {error}") from error
    if values.shape != (rows,):
        raise InputError(f"{name} must have one rate for each of {rows} rows of X, however: shape {values.shape}.")
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise InputError(f"{name} must hold rates in [0, 1], however: {_told(values, wrong)}.")
    return np.asarray(values, dtype=np.float64)


def checked_weight(sample_weight: ArrayLike | None, rows: int, *, may_be_zero: bool = False) -> FloatArray:
    """Return weights as float64, shape (rows,); None is 1 for each row.

    ``may_be_zero`` leaves it to the caller to say that rows without any weight are too few.

    Raises
    ------
    InputError
        If the length is another, a weight is negative or not finite, or none is above 0 though one must be.

    >>> checked_weight([0, 2], 2)
    array([0., 2.])
    """
    if sample_weight is None:
        return np.ones(rows)
    weight = np.array(sample_weight, dtype=np.float64)
    if weight.shape != (rows,):
        raise InputError(
            f"sample_weight must have one weight for each of {rows} rows of X, however: shape {weight.shape}."
        )
    wrong = ~(np.isfinite(weight) & (weight >= 0))
    if wrong.any():
        raise InputError(
            f"sample_weight must be finite and not negative, however: {_told(weight, wrong)}; give the impressions."
        )
    if not may_be_zero and not weight.any():
        raise InputError(f"sample_weight must be above 0 in at least one row, however: zero in all {rows} rows.")
    return weight


def _told(values: FloatArray, wrong: NDArray[np.bool_]) -> str:
    count = int(wrong.sum())
    return f"{shown(values[wrong][:_EXAMPLES].tolist())} ({count} row{'s' * (count > 1)})"
