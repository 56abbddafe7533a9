"""Which regions are neighbours on the globe, and what that says about values on them.

Coordinates and weights only; the calibration of regions is in `geospatial`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

FloatArray = NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0
_NEAREST_KM = 1.0


def on_sphere(latitude: FloatArray, longitude: FloatArray) -> FloatArray:
    """Return points of the unit sphere, shape (n, 3), for degrees; NaN stays NaN."""
    phi, lam = np.radians(latitude), np.radians(longitude)
    return np.column_stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])


def neighbour_weights(points: FloatArray, neighbours: int) -> FloatArray:
    """Weigh the edges of the graph of nearest neighbours.

    Parameters
    ----------
    points : shape (n, 3)
        Points of the unit sphere; a point with NaN has no neighbours.
    neighbours : int
        Each point is joined with this many nearest ones; an edge counts in both directions. The shortest edges that
        make the whole graph hang together (its minimum spanning tree) come on top, since two clusters without any edge
        between them would be held to have the same mean.

    Returns
    -------
    array, shape (n, n)
        Symmetric; 0 without an edge, else 1 / great-circle distance in km (at least 1 km).

    Examples
    --------
    >>> places = on_sphere(np.array([0.0, 0.0, 0.0]), np.array([0.0, 1.0, 3.0]))
    >>> (1 / neighbour_weights(places, 1)[[0, 1], [1, 2]]).round()
    array([111., 222.])
    """
    weights = np.zeros((len(points), len(points)))
    placed = np.flatnonzero(np.isfinite(points).all(axis=1))
    k = min(neighbours, placed.size - 1)
    if k < 1:
        return weights
    distance = _great_circle(points[placed])
    # Each point is its own nearest one, except that of points at one place any may come first.
    np.fill_diagonal(distance, -1.0)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, 1 : k + 1]
    np.fill_diagonal(distance, 0.0)
    joined = minimum_spanning_tree(np.maximum(distance, _NEAREST_KM)).toarray() > 0
    joined[np.arange(placed.size)[:, None], nearest] = True
    near = np.where(joined | joined.T, 1 / np.maximum(distance, _NEAREST_KM), 0.0)
    weights[np.ix_(placed, placed)] = near
    return weights


def _great_circle(points: FloatArray) -> FloatArray:
    """Distances in km, shape (n, n)."""
    chord = np.sqrt(np.maximum(2 - 2 * points @ points.T, 0.0))
    distance: FloatArray = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1.0))
    return distance


def structured_covariance(weights: FloatArray) -> FloatArray:
    """Return the covariance of an intrinsic autoregression on a graph, scaled to a typical variance of 1.

    Each value is normal around the weighted mean of its neighbours (Besag 1974). As Freni-Sterrantino, Ventrucci and
    Rue 2018 advise, every connected part sums to 0 and is scaled on its own (geometric mean of the variances 1), and a
    point without neighbours is independent.
    """
    size = len(weights)
    result = np.zeros((size, size))
    parts, label = connected_components(csr_array(weights > 0), directed=False)
    for part in range(parts):
        members = np.flatnonzero(label == part)
        if members.size == 1:
            result[members, members] = 1.0
            continue
        within = weights[np.ix_(members, members)]
        laplacian = np.diag(within.sum(axis=1)) - within
        # A constant added makes it regular; taken away again, what is left sums to 0.
        constant = np.full_like(laplacian, np.mean(np.diag(laplacian)) / members.size)
        inverse = np.linalg.inv(laplacian + constant)
        inverse -= 1 / (constant[0, 0] * members.size**2)
        result[np.ix_(members, members)] = inverse / np.exp(np.mean(np.log(np.diag(inverse))))
    return result


def morans_i(values: FloatArray, weights: FloatArray) -> float:
    """Return Moran's I: correlation of values with those of their neighbours, about -1 / (n - 1) where there is none.

    NaN where no two points are neighbours or all values are equal.

    >>> chain = np.diag([1.0, 1.0, 1.0], 1) + np.diag([1.0, 1.0, 1.0], -1)
    >>> round(morans_i(np.array([1.0, 1.0, -1.0, -1.0]), chain), 3)
    0.333
    """
    centred = values - values.mean() if values.size else values
    total, variance = float(weights.sum()), float(centred @ centred)
    if total <= 0 or variance <= 0:
        return float("nan")
    return float(centred @ weights @ centred) / variance * values.size / total
