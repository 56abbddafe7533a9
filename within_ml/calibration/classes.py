"""Labels of several classes as one rate by class; what is fitted to each of them is the calibrators'."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from within_ml.errors import InputError, shown

FloatArray = NDArray[np.float64]


def one_hot(y_true: ArrayLike, shape: tuple[int, ...]) -> tuple[NDArray[Any], FloatArray]:
    """Return the labels of the columns, shape (k,), and the rate of each class in each row, ``shape`` (n, k).

    Labels that are numbers of the columns are taken as such, whichever are present; others follow their sorted order.

    Raises
    ------
    InputError
        If labels are neither, or the shape does not fit.

    >>> one_hot(["dog", "cat"], (2, 2))
    (array(['cat', 'dog'], dtype='<U3'), array([[0., 1.],
           [1., 0.]]))
    """
    rows, count = shape
    y = np.asarray(y_true)
    if y.shape == shape:
        return np.arange(count), y.astype(np.float64)
    if y.shape != (rows,):
        raise InputError(f"y_true must be labels of shape ({rows},) or rates of shape {shape}, however: {y.shape}.")
    numbered = y.dtype.kind in "iub" or (y.dtype.kind == "f" and bool((y == np.floor(y)).all()))
    if numbered and y.size and (y.min() < 0 or y.max() >= count):
        numbered = False
    classes = np.arange(count) if numbered else np.unique(y)
    if classes.size != count:
        raise InputError(
            f"y_true must hold numbers of the {count} columns of y_pred, or {count} different labels, however: "
            f"{shown(classes.tolist())}."
        )
    return classes, (y[:, None] == classes[None, :]).astype(np.float64)
