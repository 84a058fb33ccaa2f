"""Compiled inner loops of learning from events in turn. Only what learns imports this, since it loads numba.

Arrays are C-contiguous unless said otherwise; H heads, m events, C outputs, D features. All of it is plain arithmetic
in the order written, so the same machine always makes the same bytes. Machine code is kept beside this file, in the
user's cache folder where that cannot be written, and nowhere where neither can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.compiling import compiled

# The compiler takes their values as they are: after a change of these, this file must change as well, or the code kept
# from before is used.
from penstock.learn.fast.links import (
    EVIDENCE_MAX,
    FARTHEST,
    LEAST_SQUARES,
    LOG_LEAST,
    LOG_MOST,
    RATE,
    SIGMOID,
    SOFTMAX,
    STEEP,
)

Array = NDArray[np.float64]

CURVATURE_FLOOR = 0.02
"""A head that is certain would otherwise take nothing into its information, and then jump at its first mistake."""
HUBER = 1.0
"""Deviations beyond which an outcome's pull on a regression no longer grows (Huber 1964). Measured deviations are
widened by the very outliers, hence the low figure."""


@compiled("UniTuple(f8, 2)(f8, f8)", part=True)
def _pull_of_two(margin: float, target: float) -> Any:
    """The second class's residual and the curvature, for the second score less the first; the first's is opposite."""
    second = 1.0 / (1.0 + np.exp(-min(max(margin, -STEEP), STEEP)))
    residual = target - second
    bound = abs(residual) / (2.0 + 2.0 * abs(margin))
    return residual, max(2.0 * max((1.0 - second) * second, bound), CURVATURE_FLOOR)


@compiled("f8(i8, f8[::1], f8[::1], f8, f8[::1])")
def pull(kind: int, scores: Array, target: Array, deviation: float, residual: Array) -> Any:
    """One event and head: writes the residual (C,) of scores (C,) and returns the curvature.

    For a softmax one curvature stands for all classes, sum p(1-p) / (classes - 1), so that they share one matrix; with
    two classes this is Newton's step exactly. Where a head is confidently wrong, that curvature is nearly nothing and
    the step would overshoot without bound; there it is raised to what a quadratic bound of the logistic loss allows
    (Jaakkola and Jordan 2000: tanh(z/2) / 2z, here |residual| / (2 + 2|z|), which agrees at zero and far out).
    """
    outputs = len(scores)
    if kind == SOFTMAX:
        if outputs == 2:
            residual[1], curvature = _pull_of_two(scores[1] - scores[0], target[1])
            residual[0] = -residual[1]
            return curvature
        top = scores[0]
        for c in range(1, outputs):
            top = max(top, scores[c])
        total = 0.0
        for c in range(outputs):
            residual[c] = np.exp(max(scores[c] - top, -2.0 * STEEP))
            total += residual[c]
        squares = 0.0
        wrong = 0.0
        for c in range(outputs):
            probability = residual[c] / total
            squares += probability * probability
            residual[c] = target[c] - probability
            wrong += abs(residual[c])
        return max(max((1.0 - squares) / max(outputs - 1, 1), 0.05 * wrong), CURVATURE_FLOOR)
    if kind == LEAST_SQUARES:
        for c in range(outputs):
            residual[c] = target[c] - scores[c]
        return 1.0
    if kind == SIGMOID:
        # The mean over the classes of what each would have alone, as `_pull_of_two` has it.
        total = 0.0
        for c in range(outputs):
            probability = 1.0 / (1.0 + np.exp(-min(max(scores[c], -STEEP), STEEP)))
            residual[c] = target[c] - probability
            total += max((1.0 - probability) * probability, abs(residual[c]) / (2.0 + 2.0 * abs(scores[c])))
        return max(total / max(outputs, 1), CURVATURE_FLOOR)
    if kind == RATE:
        log = min(max(scores[0], LOG_LEAST), LOG_MOST)
        rate = np.exp(log)
        curvature = rate
        if target[0] > rate * 1.001:
            # Newton's step for an exponential overshoots where the outcome is far above; with the slope of the chord
            # up to the outcome, the logarithmic mean of the two, it never passes it.
            curvature = (target[0] - rate) / (np.log(target[0]) - log)
        evidence = deviation * min(1.0, EVIDENCE_MAX / max(curvature * deviation, 1e-300))
        residual[0] = (target[0] - rate) * evidence
        return max(curvature * evidence, 1e-12)
    error = target[0] - min(max(scores[0], -FARTHEST), FARTHEST)
    weight = min(1.0, HUBER * deviation / max(abs(error), 1e-300))
    residual[0] = error * weight
    return weight


@compiled("void(i8, f8[:, :], f8[:, ::1], f8, f8, f8[:, ::1], f8[::1])")
def pull_many(
    kind: int, scores: Array, targets: Array, deviation: float, decay: float, residuals: Array, curvatures: Array
) -> None:
    """n events of one head at the same weights: residuals (C, n) and curvatures (n,), each faded by the events after
    it. Scores (n, C) may be strided."""
    events, outputs = scores.shape
    if kind == SOFTMAX and outputs == 2:
        # The common case apart: without a row at a time it is several times as fast.
        fade = 1.0
        for i in range(events - 1, -1, -1):
            of_second, curvature = _pull_of_two(scores[i, 1] - scores[i, 0], targets[i, 1])
            curvatures[i] = fade * curvature
            residuals[1, i] = fade * of_second
            residuals[0, i] = -fade * of_second
            fade *= decay
        return
    row = np.empty(outputs)
    residual = np.empty(outputs)
    fade = 1.0
    for i in range(events - 1, -1, -1):
        for c in range(outputs):
            row[c] = scores[i, c]
        curvatures[i] = fade * pull(kind, row, targets[i], deviation, residual)
        for c in range(outputs):
            residuals[c, i] = fade * residual[c]
        fade *= decay


@compiled(
    "void(i8[::1], f8[::1], f8[::1], f8[:, :, ::1], f8[:, :, ::1], f8[:, ::1], f8[::1], f8[:, ::1], f8[:, :, ::1],"
    "f8[:, :, ::1])"
)
def learn_in_turn(
    kinds: NDArray[np.int64],
    decays: Array,
    scales: Array,
    scores: Array,
    inner: Array,
    targets: Array,
    deviations: Array,
    curvatures: Array,
    gains: Array,
    moves: Array,
) -> None:
    """m events in turn, each from where the one before left the weights, without touching weights or inverse.

    Let scale * B be the inverse of a head's information before the events, and U = B X'. All that an event changes for
    the later ones lies in the span of U's columns, so that the recursion runs in m dimensions instead of D: ``inner``
    (H, m, m) is X B X' and ``scores`` (H, m, C) are X W, both overwritten. Afterwards B has become
    B - (U gains')(U gains')' for ``gains`` (H, m, m), and W has moved by U ``moves`` (H, m, C); ``scales`` (H,) and
    ``curvatures`` (m, H) are written. ``targets`` are (m, C); ``deviations`` (H,) are for Huber's loss; of
    rates, how much an event counts.
    """
    heads, events, outputs = scores.shape
    residual = np.empty(outputs)
    column = np.empty(events)
    for k in range(heads):
        scale = scales[k]
        reached = gains[k]
        reached[:] = 0.0
        moves[k] = 0.0
        for i in range(events):
            reached[i, i] = 1.0
        for i in range(events):
            curvature = pull(kinds[k], scores[k, i], targets[i], deviations[k], residual)
            curvatures[i, k] = curvature
            weight = scale / (decays[k] + curvature * scale * max(inner[k, i, i], 0.0))
            factor = curvature * weight
            scale /= decays[k]
            for c in range(outputs):
                residual[c] *= weight
            for j in range(i + 1):
                for c in range(outputs):
                    moves[k, j, c] += reached[i, j] * residual[c]
            for j in range(i + 1, events):
                column[j] = inner[k, j, i]
            for j in range(i + 1, events):
                shared = column[j]
                for c in range(outputs):
                    scores[k, j, c] += shared * residual[c]
                shared *= factor
                for other in range(i + 1, j + 1):
                    inner[k, j, other] -= shared * column[other]
                for other in range(i + 1):
                    reached[j, other] -= shared * reached[i, other]
            root = np.sqrt(factor)
            for j in range(i + 1):
                reached[i, j] *= root
        scales[k] = scale


@compiled("void(f8[:, ::1], f8[::1], f8[::1])", sums=True)
def multiply(matrix: Array, vector: Array, product: Array) -> None:
    """The product (n,) of a symmetric matrix (n, n), of which the lower half is read, and a vector (n,): four rows at a
    time, each for what it is and for the column that it stands for."""
    n = len(vector)
    for j in range(n):
        product[j] = 0.0
    i = 0
    while i + 4 <= n:
        a0, a1, a2, a3 = matrix[i], matrix[i + 1], matrix[i + 2], matrix[i + 3]
        x0, x1, x2, x3 = vector[i], vector[i + 1], vector[i + 2], vector[i + 3]
        s0 = s1 = s2 = s3 = 0.0
        for j in range(i):
            x = vector[j]
            product[j] += (x0 * a0[j] + x1 * a1[j]) + (x2 * a2[j] + x3 * a3[j])
            s0 += a0[j] * x
            s1 += a1[j] * x
            s2 += a2[j] * x
            s3 += a3[j] * x
        product[i] += s0 + a0[i] * x0 + a1[i] * x1 + a2[i] * x2 + a3[i] * x3
        product[i + 1] += s1 + a1[i] * x0 + a1[i + 1] * x1 + a2[i + 1] * x2 + a3[i + 1] * x3
        product[i + 2] += s2 + a2[i] * x0 + a2[i + 1] * x1 + a2[i + 2] * x2 + a3[i + 2] * x3
        product[i + 3] += s3 + a3[i] * x0 + a3[i + 1] * x1 + a3[i + 2] * x2 + a3[i + 3] * x3
        i += 4
    while i < n:
        s0 = 0.0
        for j in range(i):
            product[j] += vector[i] * matrix[i, j]
            s0 += matrix[i, j] * vector[j]
        product[i] += s0 + matrix[i, i] * vector[i]
        i += 1


@compiled("void(f8[:, ::1], i8, f8[::1], f8[::1])", sums=True, part=True)
def _take_off(pending: Array, count: int, row: Array, gain: Array) -> None:
    """Takes what the first ``count`` vectors pending make of ``row`` off its product with the inverse."""
    width = len(row)
    for j in range(count):
        shared = 0.0
        for d in range(width):
            shared += pending[j, d] * row[d]
        for d in range(width):
            gain[d] -= shared * pending[j, d]


@compiled("f8(f8[::1], f8[::1])", sums=True, part=True)
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled(
    "void(i8[::1], f8[::1], f8[::1], f8[:, :, ::1], f8[::1], f8[:, :, ::1], i8, f8[:, :, :], f8[:, :], f8[::1],"
    "f8[::1], f8[::1])"
)
def learn_one(
    kinds: NDArray[np.int64],
    decays: Array,
    scales: Array,
    inverse: Array,
    row: Array,
    pending: Array,
    count: int,
    weights: Array,
    scores: Array,
    target: Array,
    deviations: Array,
    curvatures: Array,
) -> None:
    """One event, of features ``row`` (D,) and ``scores`` (C, H) by the weights as they are, all of it.

    The inverse now is ``scales`` times ``inverse`` (H, D, D) less ``count`` vectors ``pending`` (H, places, D); the
    event's own vector is written after those. ``weights`` (D, C, H) may be strided and change in place; ``scales`` and
    ``curvatures`` (H,) are written.
    """
    heads, width = len(kinds), len(row)
    outputs = weights.shape[1]
    gains = np.empty((heads, width))
    residuals = np.empty((heads, outputs))
    of_head = np.empty(outputs)
    for k in range(heads):
        gain, residual = gains[k], residuals[k]
        multiply(inverse[k], row, gain)
        _take_off(pending[k], count, row, gain)
        for c in range(outputs):
            of_head[c] = scores[c, k]
        curvature = pull(kinds[k], of_head, target, deviations[k], residual)
        curvatures[k] = curvature
        weight = scales[k] / (decays[k] + curvature * scales[k] * max(_dot(gain, row), 0.0))
        scales[k] /= decays[k]
        root = np.sqrt(curvature * weight)
        for c in range(outputs):
            residual[c] *= weight
        vector = pending[k, count]
        for d in range(width):
            vector[d] = root * gain[d]
    for d in range(width):
        for c in range(outputs):
            for k in range(heads):
                weights[d, c, k] += gains[k, d] * residuals[k, c]


@compiled("void(f8[:, ::1], f8[:, ::1])")
def invert_triangle(lower: Array, inverse: Array) -> None:
    """The inverse (n, n) of a lower triangular matrix (n, n), four rows at a time."""
    for i in range(len(lower)):
        row = inverse[i]
        row[:] = 0.0
        j = 0
        while j + 4 <= i:
            f0, f1, f2, f3 = lower[i, j], lower[i, j + 1], lower[i, j + 2], lower[i, j + 3]
            r0, r1, r2, r3 = inverse[j], inverse[j + 1], inverse[j + 2], inverse[j + 3]
            for other in range(j + 4):
                row[other] -= (f0 * r0[other] + f1 * r1[other]) + (f2 * r2[other] + f3 * r3[other])
            j += 4
        while j < i:
            factor = lower[i, j]
            above = inverse[j]
            for other in range(j + 1):
                row[other] -= factor * above[other]
            j += 1
        pivot = 1.0 / lower[i, i]
        for other in range(i):
            row[other] *= pivot
        row[i] = pivot


@compiled("void(f8[:, ::1], f8[:, ::1])")
def solve_triangle(lower: Array, right: Array) -> None:
    """Solves L L' x = b in place for each row b of ``right`` (C, n), with L (n, n) lower triangular."""
    outputs, n = right.shape
    for c in range(outputs):
        found = right[c]
        for i in range(n):
            found[i] = (found[i] - _dot(lower[i, :i], found[:i])) / lower[i, i]
        for i in range(n - 1, -1, -1):
            found[i] /= lower[i, i]
            for j in range(i):
                found[j] -= lower[i, j] * found[i]
