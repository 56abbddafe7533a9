"""Parts of a network's output: gradients along the straight path from the average row to the row.

Integrated gradients (Sundararajan, Taly and Yan 2017), which are the Aumann-Shapley values of the straight path. They
add up to the distance of the two outputs, as SHAP values do, at the cost of a few gradients instead of a power set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STEPS = 16
"""Points of the Gauss-Legendre quadrature."""


@dataclass(frozen=True, slots=True)
class PathParts:
    """Parts of n outputs: ``x``, shape (n, width), by input column; ``modalities``, shape (n,) each; ``base``, (n,)."""

    x: Tensor
    modalities: dict[str, Tensor]
    base: Tensor


def path_parts(
    network: Callable[[Tensor, dict[str, Tensor]], Tensor],
    x: Tensor,
    modalities: Mapping[str, Tensor],
    *,
    steps: int = STEPS,
) -> PathParts:
    """Return the parts of ``network(x, modalities)``, shape (n,), beside the output at 0.

    Zero is the average of scaled inputs. A modality that a row does not have (NaN) is not had by its base either. What
    the quadrature leaves over is spread by size, so that parts and base add up exactly.

    >>> parts = path_parts(lambda x, _: 2 * x[:, 0] + x[:, 1] ** 2, torch.tensor([[1.0, 3.0]]), {})
    >>> parts.x.round(decimals=4).tolist(), parts.base.tolist()
    ([[2.0, 9.0]], [0.0])
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    sums = {"": torch.zeros_like(x), **{name: torch.zeros_like(values) for name, values in modalities.items()}}
    with torch.enable_grad():
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            point = {"": x * node, **{name: values * node for name, values in modalities.items()}}
            point = {name: values.detach().requires_grad_() for name, values in point.items()}
            out = network(point[""], {name: values for name, values in point.items() if name})
            slopes = torch.autograd.grad(out.sum(), list(point.values()), allow_unused=True)
            for (name, values), slope in zip(point.items(), slopes, strict=True):
                if slope is not None:
                    sums[name] += weight * torch.where(torch.isnan(values), 0.0, slope)
    with torch.no_grad():
        whole = network(x, dict(modalities))
        base = network(torch.zeros_like(x), {name: values * 0 for name, values in modalities.items()})
        parts = {"": sums[""] * x}
        for name, values in modalities.items():
            parts[name] = (sums[name] * torch.nan_to_num(values)).sum(1, keepdim=True)
        every = torch.column_stack(list(parts.values()))
        left = (whole - base - every.sum(1)) / torch.clamp(every.abs().sum(1), min=1e-12)
        parts = {name: values + values.abs() * left[:, None] for name, values in parts.items()}
    return PathParts(parts[""], {name: values[:, 0] for name, values in parts.items() if name}, base)
