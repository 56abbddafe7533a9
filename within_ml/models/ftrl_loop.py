"""The inner loop of `dynamic_linear`, compiled by numba, which is imported with this module.

Arrays and numbers only; every argument was checked by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_SMALLEST_SCALE = 1e-100
_NEWTON_STEPS = 50

Function = TypeVar("Function", bound=Callable[..., float])


def _compiled(function: Function) -> Function:
    """Compile a function for the types it is called with; to a reader and a type checker it stays what it was."""
    return cast("Function", njit(function))


@_compiled
def _sigmoid(x: float) -> float:
    if x >= 0:
        return float(1.0 / (1.0 + np.exp(-x)))
    grown = np.exp(x)
    return float(grown / (1.0 + grown))


@_compiled
def _implicit_rate(margin: float, y: float, reach: float) -> float:
    """Return the rate at the end of a step: σ(m') where ``m' = margin + reach·(y - σ(m'))``."""
    explicit = margin + reach * (y - _sigmoid(margin))
    low, high = min(margin, explicit), max(margin, explicit)
    end = margin
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(end)
        gap = end - margin + reach * (p - y)
        if abs(gap) < 1e-12 * (1.0 + abs(end)):
            break
        if gap > 0:
            high = min(high, end)
        else:
            low = max(low, end)
        end -= gap / (1.0 + reach * p * (1.0 - p))
        if not low <= end <= high:
            end = 0.5 * (low + high)
    return _sigmoid(end)


@_compiled
def learn_rows(  # noqa: C901, PLR0912, PLR0913, PLR0917 - one loop; numba compiles it as a whole
    data: FloatArray,
    indices: NDArray[np.int64],
    indptr: NDArray[np.int64],
    y: FloatArray,
    weight: FloatArray,
    offset: FloatArray,
    fade: FloatArray,
    state: FloatArray,
    scale: float,
    penalties: tuple[float, float, float, float],
    fit_intercept: bool,
    margins: FloatArray,
) -> float:
    """Learn rows in order: ``state`` is changed, ``margins`` filled, the new scale returned.

    ``state · scale`` holds z and √n of each column and, last, of the intercept: to fade all of them is to change one
    number, and only the columns of a row are touched.
    """
    inverse_alpha, beta, l1, l2 = penalties
    bias = state.shape[0] - 1
    widest = 0
    for i in range(y.size):
        widest = max(widest, indptr[i + 1] - indptr[i])
    w = np.empty(widest)
    for i in range(y.size):
        scale *= fade[i]
        if scale < _SMALLEST_SCALE:
            state *= scale
            scale = 1.0
        first, last = indptr[i], indptr[i + 1]
        margin = offset[i]
        bias_root = state[bias, 1] * scale
        bias_w = 0.0
        if fit_intercept:
            bias_w = -state[bias, 0] * scale / ((beta + bias_root) * inverse_alpha)
            margin += bias_w
        for k in range(first, last):
            z = state[indices[k], 0] * scale
            size = abs(z) - l1
            w[k - first] = 0.0
            if size > 0:
                value = size / ((beta + state[indices[k], 1] * scale) * inverse_alpha + l2)
                w[k - first] = -value if z > 0 else value
                margin += w[k - first] * data[k]
        margins[i] = margin
        n = weight[i]
        if n == 0:
            continue
        p = _sigmoid(margin)
        # n impressions of rate y: the sum of their squared gradients, and of their gradients.
        squares = n * (y[i] * (1 - p) ** 2 + (1 - y[i]) * p**2)
        if n > 1:
            # Twice: the second time with the evidence as it looks from where the first step ended.
            for _ in range(2):
                reach = 0.0
                if fit_intercept:
                    reach += 1.0 / ((beta + np.sqrt(bias_root**2 + squares)) * inverse_alpha)
                for k in range(first, last):
                    x2 = data[k] ** 2
                    root = np.sqrt((state[indices[k], 1] * scale) ** 2 + squares * x2)
                    reach += x2 / ((beta + root) * inverse_alpha + l2)
                p = _implicit_rate(margin, y[i], n * reach)
                squares = n * (y[i] * (1 - p) ** 2 + (1 - y[i]) * p**2)
        gradient = n * (p - y[i])
        grown = 1.0 / scale
        if fit_intercept:
            root = np.sqrt(bias_root**2 + squares)
            state[bias, 0] += (gradient - (root - bias_root) * inverse_alpha * bias_w) * grown
            state[bias, 1] = root * grown
        for k in range(first, last):
            j = indices[k]
            old = state[j, 1] * scale
            root = np.sqrt(old * old + squares * data[k] * data[k])
            state[j, 0] += (gradient * data[k] - (root - old) * inverse_alpha * w[k - first]) * grown
            state[j, 1] = root * grown
    return scale
