"""What most people would deploy: a linear softmax learned by plain stochastic gradient descent, one event at a time.

It is given the same events as the digits service, on running-standardised pixels as well, and forgets: the gradients of
the newest classes overwrite the weights of the oldest. (McCloskey and Cohen 1989, "catastrophic interference".)"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 0.01
"""Step size. All from 0.003 to 0.1 end below 0.4 on the first classes; this one is among the best on the newest."""
CLIP = 5.0
"""Standard deviations; a pixel that has always been empty would otherwise be worth thousands when it is first used."""
VARIANCE_FLOOR = 0.01


class NaiveSoftmax:
    """Learns from each event once; keeps its weights and the running mean and variance of each column, no more."""

    def __init__(self, columns: int, classes: int) -> None:
        self._weights = np.zeros((classes, columns + 1))
        self._mean = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._events = 0
        self._seen = np.zeros(classes, dtype=bool)

    def learn(self, columns: NDArray[np.float32], label: int) -> None:
        """One step down the gradient of the log loss; columns (d,)."""
        self._seen[label] = True
        encoded = self._encode(columns[None])[0]
        error = self._probabilities(encoded[None])[0]
        error[label] -= 1.0
        self._weights -= RATE * np.outer(error, encoded)
        # Welford's update, after the event was used, so that encoding never looks ahead.
        self._events += 1
        deviation = columns - self._mean
        self._mean += deviation / self._events
        self._squares += deviation * (columns - self._mean)

    def predict(self, columns: NDArray[np.float32]) -> NDArray[np.intp]:
        """(n,) the likeliest class of each row of (n, d), among those seen."""
        likeliest: NDArray[np.intp] = self._probabilities(self._encode(columns)).argmax(axis=1)
        return likeliest

    def _encode(self, columns: NDArray[np.float32]) -> NDArray[np.float64]:
        deviation = np.sqrt(np.maximum(self._squares / max(self._events, 1), VARIANCE_FLOOR))
        standard = np.clip((columns - self._mean) / deviation, -CLIP, CLIP)
        return np.concatenate([standard, np.ones((len(columns), 1))], axis=1)

    def _probabilities(self, encoded: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = np.where(self._seen, encoded @ self._weights.T, -np.inf)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        normal: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return normal
