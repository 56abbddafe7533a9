"""Random intercepts of nested groups on the log-odds scale: variances by level, shrunken intercepts by group.

Rows, nodes and arrays only. Which rows belong to which node is settled in `group_tree`, what is added to the
intercepts in `hierarchical`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from within_ml.calibration.group_tree import ROOT, GroupTree, IntArray

FloatArray = NDArray[np.float64]

EVIDENCE = 6.635
"""A level counts when leaving it out costs this much of 2 · log-likelihood (the 1 % point of χ² with one degree)."""

_START_VARIANCE = 0.1
_SMALLEST_VARIANCE = 1e-7
_LONGEST_STEP = 1.0
_TOLERANCE = 1e-3
_INNER = 5
_ALONE = 25
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Intercepts:
    """What the rows say of each group.

    ``own`` is the intercept of the node itself, ``offset`` the sum from the root down to it and ``standard_error`` that
    of the sum; all of shape (nodes,), on the log-odds scale. ``variances`` has shape (levels,), 0 where a level is not
    needed. ``dispersion`` is the variance of rows in units of the binomial one, at least 1.
    """

    own: FloatArray
    offset: FloatArray
    standard_error: FloatArray
    variances: FloatArray
    dispersion: float

    def lasting(self, tree: GroupTree, persistence: FloatArray) -> Intercepts:
        """Return the intercepts that can be expected of later rows: each level's own times its share, (levels,).

        The overall level, which is not a group's, counts as the level that lasts longest.
        """
        own = self.own * np.append(persistence.max(initial=0.0), np.repeat(persistence, np.diff(tree.starts)))
        offset = own.copy()
        for level in range(len(tree.levels)):
            span = tree.nodes(level)
            offset[span] += offset[tree.parent[span]]
        return replace(self, own=own, offset=offset)


def estimate_intercepts(
    margin: FloatArray,
    y: FloatArray,
    w: FloatArray,
    node: IntArray,
    tree: GroupTree,
    *,
    smoothing: float = 1.0,
    max_iter: int = 50,
    evidence: float = EVIDENCE,
) -> Intercepts:
    """Estimate ``logit p = margin + Σ intercepts of the row's groups``.

    Parameters
    ----------
    margin, y, w : shape (n,)
        Log-odds to start from, observed rates, impressions.
    node : shape (n,)
        Deepest node of each row.
    tree : GroupTree
        The nested groups; a level's intercepts are normal with mean 0 and one variance.
    smoothing : float
        Divides the variances when the groups are shrunk: 2 shrinks as if groups differed by half as much.
    max_iter : int
        Most linearisations of the likelihood.
    evidence : float
        See `EVIDENCE`; 0 keeps every level.

    Notes
    -----
    Penalised quasi-likelihood (Breslow and Clayton 1993): the likelihood is linearised at the current mode, where the
    model is a linear one with normal intercepts. That one is solved exactly by one pass up the tree and one down, in
    time proportional to the nodes. Variances are restricted maximum likelihood by the fixed point
    ``Σ u² / Σ (1 - var u / σ²)`` (Harville 1977; MacKay 1992). The overall level is estimated beside them.
    Without any level of the tree that counts, all is 0.
    """
    rows = _Rows(margin, y, w, node, tree)
    active = np.diff(tree.starts) > 0
    offset, variances, dispersion = np.zeros(tree.size), np.where(active, _START_VARIANCE, 0.0), 1.0
    while active.any():
        offset, variances, dispersion = rows.iterate(offset, variances, dispersion, max_iter)
        information = rows.linearised(offset, dispersion)
        weakest, loss = _weakest_level(tree, *information, variances)
        if loss >= evidence:
            own, offset, error = _posterior(tree, *information, variances / smoothing)
            return Intercepts(own, offset, error, variances, dispersion)
        active[weakest], variances[weakest] = False, 0.0
    zero = np.zeros(tree.size)
    return Intercepts(zero, zero, zero, np.zeros(len(tree.levels)), rows.dispersion(zero, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    margin: FloatArray
    y: FloatArray
    w: FloatArray
    node: IntArray
    tree: GroupTree

    def iterate(
        self, offset: FloatArray, variances: FloatArray, dispersion: float, max_iter: int
    ) -> tuple[FloatArray, FloatArray, float]:
        """Linearise, estimate, move, until nothing moves."""
        for _ in range(max_iter):
            precision, pull = self.linearised(offset, dispersion)
            before = variances
            for _ in range(_INNER):
                variances = _updated(self.tree, precision, pull, variances)
            _, wanted, error = _posterior(self.tree, precision, pull, variances)
            step = np.clip(wanted - offset, -_LONGEST_STEP, _LONGEST_STEP)
            offset = offset + step
            old, dispersion = dispersion, self.dispersion(offset, float(precision @ error**2))
            still = np.abs(step).max() < _TOLERANCE and abs(dispersion - old) < _TOLERANCE * old
            if still and (np.abs(variances - before) <= _TOLERANCE * before + _SMALLEST_VARIANCE).all():
                break
        return offset, variances, dispersion

    def linearised(self, offset: FloatArray, dispersion: float) -> tuple[FloatArray, FloatArray]:
        """Precision and precision · mean of what each node's own rows say of its offset, shape (nodes,) each."""
        p = expit(self.margin + offset[self.node])
        size = offset.size
        precision = np.bincount(self.node, weights=self.w * p * (1 - p), minlength=size) / dispersion
        residual = np.bincount(self.node, weights=self.w * (self.y - p), minlength=size) / dispersion
        return precision, residual + precision * offset

    def dispersion(self, offset: FloatArray, degrees: float) -> float:
        p = expit(self.margin + offset[self.node])
        spread = self.w * (self.y - p) ** 2 / np.maximum(p * (1 - p), _FLOOR)
        return max(1.0, float(spread.sum()) / max(np.count_nonzero(self.w) - degrees, 1.0))


def _upward(
    tree: GroupTree, precision: FloatArray, pull: FloatArray, variances: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Collect at each node what all rows below it say of its offset, and the restricted log-likelihood."""
    a, b, likelihood = precision.copy(), pull.copy(), 0.0
    for level in reversed(range(len(tree.levels))):
        span, start = tree.nodes(level), int(tree.starts[level])
        d = 1 + a[span] * variances[level]
        a[:start] += np.bincount(tree.parent[span], weights=a[span] / d, minlength=start)
        likelihood += float((b[span] ** 2 / d).sum() * variances[level] - np.log(d).sum()) / 2
        b[:start] += np.bincount(tree.parent[span], weights=b[span] / d, minlength=start)
    top = max(float(a[ROOT]), _FLOOR)
    return a, b, likelihood + (float(b[ROOT]) ** 2 / top - np.log(top)) / 2


def _posterior(
    tree: GroupTree, precision: FloatArray, pull: FloatArray, variances: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Own intercept, offset and standard error of the offset, of each node."""
    a, b, _ = _upward(tree, precision, pull, variances)
    offset, variance = np.zeros(tree.size), np.zeros(tree.size)
    variance[ROOT] = 1 / max(float(a[ROOT]), _FLOOR)
    offset[ROOT] = b[ROOT] * variance[ROOT]
    for level in range(len(tree.levels)):
        span, above = tree.nodes(level), tree.parent[tree.nodes(level)]
        d = 1 + a[span] * variances[level]
        offset[span] = (variances[level] * b[span] + offset[above]) / d
        variance[span] = variances[level] / d + variance[above] / d**2
    own = offset - offset[tree.parent]
    own[ROOT] = offset[ROOT]
    return own, offset, np.sqrt(variance)


def _updated(tree: GroupTree, precision: FloatArray, pull: FloatArray, variances: FloatArray) -> FloatArray:
    """One step of the fixed point for the variances."""
    a, b, _ = _upward(tree, precision, pull, variances)
    offset, variance = np.zeros(tree.size), np.zeros(tree.size)
    variance[ROOT] = 1 / max(float(a[ROOT]), _FLOOR)
    offset[ROOT] = b[ROOT] * variance[ROOT]
    result = np.zeros(variances.size)
    for level, old in enumerate(variances):
        span, above = tree.nodes(level), tree.parent[tree.nodes(level)]
        d = 1 + a[span] * old
        per_unit = (b[span] - a[span] * offset[above]) / d
        freedom = (a[span] / d - (a[span] / d) ** 2 * variance[above]).sum()
        if old > 0 and freedom > 0:
            result[level] = max(old * float(per_unit @ per_unit) / float(freedom), _SMALLEST_VARIANCE)
        offset[span] = offset[above] + old * per_unit
        variance[span] = old / d + variance[above] / d**2
    return result


def _weakest_level(
    tree: GroupTree, precision: FloatArray, pull: FloatArray, variances: FloatArray
) -> tuple[int, float]:
    """Return the level that is missed least and how much of 2 · log-likelihood goes with it."""
    full = _upward(tree, precision, pull, variances)[2]
    losses = np.full(variances.size, np.inf)
    for level in np.flatnonzero(variances > 0):
        others = variances.copy()
        others[level] = 0.0
        for _ in range(_ALONE):
            before, others = others, _updated(tree, precision, pull, others)
            if (np.abs(others - before) <= _TOLERANCE * before + _SMALLEST_VARIANCE).all():
                break
        losses[level] = 2 * (full - _upward(tree, precision, pull, others)[2])
    weakest = int(np.argmin(losses))
    return weakest, float(losses[weakest])
