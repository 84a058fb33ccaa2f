"""How scores become predictions, and what a label says of a score: its residual and its curvature.

Arrays of scores have the shape (n, outputs, heads): reductions over classes then run along contiguous heads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEEP = 30.0
"""Scores are cut here before exponentials: exp(-30) is far below what the mixture tells apart."""
CURVATURE_FLOOR = 0.02
"""A head that is certain would otherwise take nothing into its information, and then jump at its first mistake."""
HUBER = 1.0
"""Deviations beyond which an outcome's pull on a regression no longer grows (Huber 1964). Measured deviations are
widened by the very outliers, hence the low figure."""


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
        np.divide(1.0, difference, out=probabilities[:, 1])
        np.subtract(1.0, probabilities[:, 1], out=probabilities[:, 0])
        return probabilities
    if not scores.shape[1]:
        return scores
    powers: Array = scores - scores.max(axis=1, keepdims=True)
    np.maximum(powers, -2 * STEEP, out=powers)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def classification_pull(scores: Array, probabilities: Array, targets: Array) -> tuple[Array, Array]:
    """Residuals (n, classes, heads) and curvatures (n, heads) of heads with a softmax, for one-hot targets (n,
    classes).

    One curvature stands for all classes, sum p(1-p) / (classes - 1), so that they share one matrix; with two classes
    this is Newton's step exactly. Where a head is confidently wrong, that curvature is nearly nothing and the step
    would overshoot without bound; there it is raised to what a quadratic bound of the logistic loss allows (Jaakkola
    and Jordan 2000: tanh(z/2) / 2z, here |residual| / (2 + 2|z|), which agrees at zero and far out).
    """
    residuals = targets[:, :, None] - probabilities
    if scores.shape[1] == 2:
        certain = probabilities[:, 1] * probabilities[:, 0]
        margin = np.abs(scores[:, 1] - scores[:, 0])
        bound = np.abs(residuals[:, 1]) / (2.0 + 2.0 * margin)
        curvature = 2.0 * np.maximum(certain, bound)
    else:
        classes = max(scores.shape[1] - 1, 1)
        curvature = (1.0 - (probabilities * probabilities).sum(axis=1)) / classes
        np.maximum(curvature, 0.05 * np.abs(residuals).sum(axis=1), out=curvature)
    np.maximum(curvature, CURVATURE_FLOOR, out=curvature)
    return residuals, curvature


def huber_weights(errors: Array, deviations: Array) -> Array:
    """Weights in (0, 1] of errors (n, heads), by each head's own standard deviation (heads,)."""
    weights: Array = np.minimum(1.0, HUBER * deviations / np.maximum(np.abs(errors), 1e-300))
    return weights
