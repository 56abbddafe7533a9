"""What happens to all series on a day: holidays, a platform's drift, conversions that have not arrived yet.

Such a day is nobody's anomaly. Expectations of single series belong in `baseline`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from within_ml.anomalies.metrics import NAMES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PEERS = 8
"""Series that it takes to say what happens to all of them on a day."""

_PEER_PRIOR = 1.0
_LATE = tuple(NAMES.index(name) for name in ("conversions", "cvr", "roas"))


def common_factor(value: Floats, mean: Floats, unit: Floats, peers: Ints) -> Floats:
    """Return what happens to all series of a group tonight, as a factor, shape (M, n).

    It is the median ratio of value and mean among the group's series with enough counts, shrunk to 1: holidays, a
    platform's drift, and conversions that have not arrived yet are nobody's anomaly.
    """
    factor = np.ones_like(mean)
    enough = mean / unit >= 5.0
    ratio = np.log(np.maximum(value, 0.5 * unit) / np.where(enough, mean, 1.0), where=enough, out=np.zeros_like(mean))
    for group in np.unique(peers):
        mine = peers == group
        for row in range(len(mean)):
            chosen = ratio[row, mine & enough[row]]
            if chosen.size >= PEERS:
                shrunk = np.median(chosen) * chosen.size / (chosen.size + _PEER_PRIOR)
                factor[row, mine] = np.exp(shrunk)
    for row in _LATE:
        # Groups that had too few counts for a median share the one of all.
        factor[row] = np.where(factor[row] == 1.0, _arrived(value[row], mean[row], unit[row]), factor[row])
    return factor


def _arrived(value: Floats, mean: Floats, unit: Floats) -> float:
    """Return the share of all conversions that has arrived, where single series have too few to tell; else 1.

    Each series speaks for at most a tenth of the total, and only a shortfall beyond three standard deviations counts.
    """
    judged = mean > 0
    if judged.sum() < PEERS:
        return 1.0
    counts = mean[judged] / unit[judged]
    weight = np.minimum(1.0, 0.1 * counts.sum() / counts)
    total = float((weight * counts).sum())
    came = float((weight * np.minimum(value[judged] / unit[judged], 3 * counts + 1)).sum())
    return max(came, 1.0) / total if came < total - 3.0 * np.sqrt(total) - 0.1 * total else 1.0
