"""How scores become predictions. What a label says of a score, its residual and its curvature, stands in `kernels`.

Arrays of scores have the shape (n, outputs, heads): reductions over classes then run along contiguous heads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEEP = 30.0
"""Scores are cut here before exponentials: exp(-30) is far below what the mixture tells apart."""
FARTHEST = 16.0
"""Standard deviations of the label beyond which no member's mean goes."""
LOG_LEAST, LOG_MOST = -40.0, 12.0
"""How far the logarithm of a rate goes from that of the mean count: 160,000 times as much at most."""
EVIDENCE_MAX = 1e4
"""What one count can say of its rate at most, as a curvature: that of ten thousand, which tells it to a hundredth."""
SOFTMAX, LEAST_SQUARES, ROBUST, RATE, SIGMOID = 0, 1, 2, 3, 4
"""What a head makes of its scores: probabilities of classes; one-hot targets themselves; a number, with Huber's
loss; the logarithm of a rate, with Poisson's; probabilities of several classes together, each by itself."""


def softmax(scores: Array) -> Array:
    """(n, classes, heads) probabilities over the classes."""
    if scores.shape[1] == 2:
        difference = scores[:, 1] - scores[:, 0]
        np.minimum(difference, STEEP, out=difference)
        np.maximum(difference, -STEEP, out=difference)
        np.negative(difference, out=difference)
        np.exp(difference, out=difference)
        difference += 1.0
        probabilities = np.empty_like(scores)
        second = probabilities[:, 1]
        np.divide(1.0, difference, out=second)
        np.subtract(1.0, second, out=probabilities[:, 0])
        return probabilities
    if not scores.shape[1]:
        return scores
    powers: Array = scores - scores.max(axis=1, keepdims=True)
    np.maximum(powers, -2 * STEEP, out=powers)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def sigmoid(scores: Array) -> Array:
    """Probabilities of yes, whatever the shape."""
    powers: Array = np.minimum(scores, STEEP)
    np.maximum(powers, -STEEP, out=powers)
    np.negative(powers, out=powers)
    np.exp(powers, out=powers)
    powers += 1.0
    np.divide(1.0, powers, out=powers)
    return powers


def log_odds(probabilities: Array) -> Array:
    """The scores of which these are the probabilities of yes."""
    odds: Array = np.log(probabilities / (1.0 - probabilities))
    return odds
