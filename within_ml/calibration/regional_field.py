"""Offsets of regions as one normal field: what the regions' rows say, and a prior along groups and neighbours.

Arrays only; where the prior's parts come from and which rows belong to a region is in `geospatial`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

FloatArray = NDArray[np.float64]

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99)
"""Spatial shares of the variance that are weighed against each other."""

BELIEFS = (0.75, 0.05, 0.05, 0.05, 0.05, 0.05)
"""How likely each share is before the rows speak: neighbours are alike, or they are not at all."""

_BOUNDS = (np.log(1e-7), np.log(30.0))


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Covariance of the regions' offsets as a sum of parts, each of shape (regions, regions).

    ``fixed`` parts count as they are (level, covariates); ``free`` ones are multiplied by a variance to be estimated.
    The spatial part is variance · (share · ``structured`` + (1 - share) · ``unstructured``): the BYM2 of Riebler,
    Sørbye, Simpson and Rue 2016.
    """

    fixed: Mapping[str, FloatArray]
    free: Mapping[str, FloatArray]
    structured: FloatArray
    unstructured: FloatArray

    def parts(self, share: float) -> list[FloatArray]:
        """Return the parts that have a variance, the spatial one last."""
        spatial = share * self.structured + (1 - share) * self.unstructured
        return [*self.free.values(), spatial]


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The offsets given the rows.

    ``mean`` and ``standard_error`` have shape (regions,); ``parts`` is the mean by part of the prior and adds up to
    ``mean``, the spatial part under the name "spatial". ``variances`` (shares, free parts + 1) are the estimates at
    each of `SHARES`, ``weights`` (shares,) what the rows think of these; they sum to 1.
    """

    mean: FloatArray
    standard_error: FloatArray
    parts: Mapping[str, FloatArray]
    variances: FloatArray
    weights: FloatArray

    @property
    def share(self) -> float:
        """Spatial share of the regions' variance."""
        return float(self.weights @ np.array(SHARES))

    @property
    def free_variances(self) -> FloatArray:
        """Variances of the free parts and, last, of the spatial one; shape (free parts + 1,)."""
        result: FloatArray = self.weights @ self.variances
        return result


def estimate_field(
    precision: FloatArray, pull: FloatArray, prior: Prior, *, start: FloatArray | None = None, free: bool = True
) -> Field:
    """Estimate variances by marginal likelihood, and average over the spatial share.

    Parameters
    ----------
    precision, pull : shape (regions,)
        What each region's own rows say of its offset: precision, and precision · mean; 0 without rows.
    prior : Prior
        What is known before.
    start : shape (shares, free parts + 1), optional
        Variances to start from.
    free : bool
        False takes ``start`` as it is.

    Notes
    -----
    The average over `SHARES` is weighted by `BELIEFS` and marginal likelihood: with few regions the likelihood hardly
    knows the share, and its best value alone would be too sure. Time grows with the cube of the number of regions.
    """
    variances = np.full((len(SHARES), len(prior.free) + 1), 0.1) if start is None else start.copy()
    solved = []
    for k, share in enumerate(SHARES):
        system = _System(
            precision, pull, sum(prior.fixed.values(), np.zeros_like(prior.structured)), prior.parts(share)
        )
        if free:
            variances[k] = system.best(variances[k])
        solved.append((system, system.solve(variances[k])))
    likelihood = np.array([solution.likelihood for _, solution in solved])
    weights = np.array(BELIEFS) * np.exp(likelihood - likelihood.max())
    weights /= weights.sum()
    mean = sum(w * s.mean for w, (_, s) in zip(weights, solved, strict=True))
    square = sum(w * (s.variance + s.mean**2) for w, (_, s) in zip(weights, solved, strict=True))
    parts = {
        name: sum(w * (matrix @ s.alpha) for w, (_, s) in zip(weights, solved, strict=True))
        for name, matrix in prior.fixed.items()
    }
    for i, name in enumerate([*prior.free, "spatial"]):
        parts[name] = sum(
            w * v[i] * (system.free[i] @ s.alpha) for w, v, (system, s) in zip(weights, variances, solved, strict=True)
        )
    return Field(np.asarray(mean), np.sqrt(np.maximum(square - np.asarray(mean) ** 2, 0.0)), parts, variances, weights)


@dataclass(frozen=True, slots=True, eq=False)
class _Solution:
    alpha: FloatArray
    mean: FloatArray
    variance: FloatArray
    likelihood: float


@dataclass(frozen=True, slots=True, eq=False)
class _System:
    precision: FloatArray
    pull: FloatArray
    fixed: FloatArray
    free: list[FloatArray]

    def solve(self, variances: FloatArray) -> _Solution:
        covariance = self.fixed + sum(v * part for v, part in zip(variances, self.free, strict=True))
        alpha, factor, root, seen, likelihood = self._weights(covariance)
        across = root[:, None] * covariance[seen]
        variance = np.diag(covariance) - np.einsum("ij,ij->j", across, cho_solve(factor, across))
        return _Solution(alpha, covariance @ alpha, np.maximum(variance, 0.0), likelihood)

    def best(self, start: FloatArray) -> FloatArray:
        """Variances of the largest marginal likelihood."""
        seen = self.precision > 0
        inside = [part[np.ix_(seen, seen)] for part in self.free]

        def objective(log_variances: FloatArray) -> tuple[float, FloatArray]:
            variances = np.exp(log_variances)
            covariance = self.fixed + sum(v * part for v, part in zip(variances, self.free, strict=True))
            alpha, factor, root, _, likelihood = self._weights(covariance)
            inverse = root[:, None] * cho_solve(factor, np.diag(root))
            a = alpha[seen]
            gradient = [
                v * (a @ part @ a - (inverse * part).sum()) / 2 for v, part in zip(variances, inside, strict=True)
            ]
            return -likelihood, -np.array(gradient)

        bounds = [_BOUNDS] * start.size
        result = minimize(objective, np.clip(np.log(start), *_BOUNDS), jac=True, method="L-BFGS-B", bounds=bounds)
        best: FloatArray = np.exp(result.x)
        return best

    def _weights(
        self, covariance: FloatArray
    ) -> tuple[FloatArray, tuple[FloatArray, bool], FloatArray, NDArray[np.bool_], float]:
        """Return alpha with mean = covariance @ alpha, and what led to it (Rasmussen, Williams 2006, algorithm 3.1)."""
        seen = self.precision > 0
        root, pull = np.sqrt(self.precision[seen]), self.pull[seen]
        inside = covariance[np.ix_(seen, seen)]
        factor = cho_factor(np.eye(root.size) + root[:, None] * inside * root, lower=True)
        prior_mean = inside @ pull
        alpha = np.zeros(self.precision.size)
        alpha[seen] = pull - root * cho_solve(factor, root * prior_mean)
        log_root = float(np.log(np.diag(factor[0])).sum())
        return alpha, factor, root, seen, float(pull @ (inside @ alpha[seen])) / 2 - log_root
