"""Dropout whose rate follows the generalisation gap.

The rule of the rate only: losses are measured and told by what trains the network.
"""

from __future__ import annotations

import math
from collections import deque

from torch import Tensor, nn
from torch.nn import functional

from within_ml.errors import InputError


class AdaptiveDropout(nn.Module):
    """Dropout whose rate follows how much of what the network learns does not carry over to later rows.

    After each epoch `update_rate` takes a signal g, the generalisation gap (`generalisation_gap`): the share of the
    training loss's fall that the validation loss did not follow. 0: all of it carries over; 1: nothing does::

        m_t = mean of the last ``window_size`` signals
        e_t = momentum · e_{t-1} + (1 - momentum) · m_t,   e_0 = 0
        rate = clip(p + gain · e_t, adaptive_range)

    Parameters
    ----------
    p : float
        Rate at the start, in [0, 1).
    momentum : float
        Memory of the moving average, in [0, 1).
    window_size : int
        Signals that one step of the average sees.
    adaptive_range : tuple of float
        Smallest and largest rate.
    gain : float
        k in the rule above: how far a gap of 1 moves the rate. 0 is plain dropout.

    Raises
    ------
    InputError
        If an argument is outside its range.

    Notes
    -----
    It is no better than dropout with a tuned constant rate: see ``benchmarks/results/network_layers.md``. Off by
    default for that reason.

    Examples
    --------
    >>> layer = AdaptiveDropout(p=0.1, momentum=0.5, window_size=1, adaptive_range=(0.0, 0.4))
    >>> [round(layer.update_rate(gap), 3) for gap in (0.2, 1.0, 1.0, 1.0)]
    [0.15, 0.375, 0.4, 0.4]
    >>> layer.reset()
    >>> layer.get_current_rate()
    0.1
    """

    def __init__(
        self,
        p: float = 0.1,
        momentum: float = 0.7,
        window_size: int = 3,
        adaptive_range: tuple[float, float] = (0.0, 0.6),
        *,
        gain: float = 0.5,
    ) -> None:
        super().__init__()
        low, high = adaptive_range
        if not 0 <= low <= p <= high < 1:
            raise InputError(f"adaptive_range must hold p, within [0, 1), however: p={p}, {adaptive_range}.")
        if not 0 <= momentum < 1 or window_size < 1:
            raise InputError(
                f"momentum must be in [0, 1) and window_size at least 1, however: {momentum}, {window_size}."
            )
        self.p, self.momentum, self.gain = p, momentum, gain
        self.window_size, self.adaptive_range = window_size, (low, high)
        self.reset()

    def reset(self) -> None:
        """Forget all signals; the rate is p again."""
        self._signals: deque[float] = deque(maxlen=self.window_size)
        self._average = 0.0

    def update_rate(self, signal: float) -> float:
        """Take one signal and return the new rate.

        Raises
        ------
        InputError
            If the signal is not finite.
        """
        if not math.isfinite(signal):
            raise InputError(f"signal must be finite, however: {signal}.")
        self._signals.append(signal)
        recent = sum(self._signals) / len(self._signals)
        self._average = self.momentum * self._average + (1 - self.momentum) * recent
        return self.get_current_rate()

    def get_current_rate(self) -> float:
        """Return the rate that training uses now."""
        low, high = self.adaptive_range
        return min(max(self.p + self.gain * self._average, low), high)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with a share of its elements dropped and the others scaled up; ``x`` itself in evaluation."""
        return functional.dropout(x, self.get_current_rate(), self.training)


def generalisation_gap(train_gain: float, validation_gain: float) -> float:
    """Share of the fall of the training loss that the validation loss did not follow, clipped to [-1, 1].

    >>> generalisation_gap(0.10, 0.04)
    0.6
    >>> generalisation_gap(0.0, 0.0)
    0.0
    """
    if train_gain <= 0:
        return 0.0
    return min(max((train_gain - validation_gain) / train_gain, -1.0), 1.0)
