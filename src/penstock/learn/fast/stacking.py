"""Learning the powers of stacks: the compiled loop. Only what learns imports this, since it loads numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.compiling import compiled

Array = NDArray[np.float64]

UNLIKELY = 1e-4
"""Classes below this probability add next to nothing to the curvature."""


@compiled("void(f8[:,::1], f8[::1])")
def solve(matrix: Array, right: Array) -> None:
    """``right`` (M,) becomes the solution of the symmetric, positive (M, M) system, by Cholesky's factors, which take
    the lower half's place."""
    size = len(right)
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i == j:
                matrix[i, i] = np.sqrt(max(total, 1e-12))
            else:
                matrix[i, j] = total / matrix[j, j]
    for i in range(size):
        for k in range(i):
            right[i] -= matrix[i, k] * right[k]
        right[i] /= matrix[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            right[i] -= matrix[k, i] * right[k]
        right[i] /= matrix[i, i]


@compiled("f8(f8[:,:,::1], i8[::1], f8[::1], f8, f8, f8[:,::1], f8[:,:,::1])")
def learn(
    members: Array,
    classes: NDArray[np.intp],
    decays: Array,
    prior: float,
    floor: float,
    powers: Array,
    information: Array,
) -> float:
    """One Newton step of each stack on n events: (n, C, M + S) what members and, last, stacks answered, (n,) classes,
    (S,) decays; (S, M) powers and (S, M, M) information change in place. Returns the largest change of a power.

    A <- g^n A + (1 - g^n) k I + sum of g^age cov(logs),   w <- w + A^-1 (sum of g^age (log_y - mean) - (1 - g^n) k
    (w - 1 / M)), with means and covariances over classes under what the stack answered.
    """
    n, outputs = members.shape[:2]
    stacks, below = powers.shape
    slope = np.empty(below)
    mean = np.empty(below)
    factor = np.empty((below, below))
    logs = np.empty((outputs, below))
    slopes = np.zeros((stacks, below))
    for s in range(stacks):
        kept = decays[s] ** n
        for a in range(below):
            for b in range(a + 1):
                information[s, a, b] *= kept
            information[s, a, a] += (1.0 - kept) * prior
            slopes[s, a] = -(1.0 - kept) * prior * (powers[s, a] - 1.0 / below)
    for i in range(n):
        y = classes[i]
        for c in range(outputs):
            for a in range(below):
                logs[c, a] = np.log(max(members[i, c, a], floor))
        for s in range(stacks):
            weight = decays[s] ** (n - 1 - i)
            matrix = information[s]
            came = members[i, y, below + s]
            rest = 0.0
            mean[:] = 0.0
            for c in range(outputs):
                p = members[i, c, below + s]
                if c != y:
                    rest = max(rest, p)
                for a in range(below):
                    mean[a] += p * logs[c, a]
            for a in range(below):
                mean[a] = logs[y, a] - mean[a]
                slopes[s, a] += weight * mean[a]
            # Where a stack is confidently wrong its curvature vanishes, and the step would go far beyond: at least as
            # much as leads to even odds.
            along = weight * (1.0 - came) / (1.0 + max(np.log((rest + 1e-12) / (came + 1e-12)), 0.0))
            if outputs == 2:
                # What came lies (1 - p) of the way from the mean: one direction is all there is.
                along += weight * came / max(1.0 - came, 1e-9)
            for a in range(below):
                scaled = along * mean[a]
                for b in range(a + 1):
                    matrix[a, b] += scaled * mean[b]
            if outputs > 2:
                for c in range(outputs):
                    p = members[i, c, below + s]
                    if p < UNLIKELY:
                        continue
                    for a in range(below):
                        # ``mean`` holds the distance of what came from the mean by now.
                        slope[a] = logs[c, a] - logs[y, a] + mean[a]
                    for a in range(below):
                        scaled = weight * p * slope[a]
                        for b in range(a + 1):
                            matrix[a, b] += scaled * slope[b]
    largest = 0.0
    for s in range(stacks):
        for a in range(below):
            slope[a] = slopes[s, a]
            for b in range(a + 1):
                factor[a, b] = information[s, a, b]
        solve(factor, slope)
        for a in range(below):
            if np.isfinite(slope[a]):
                powers[s, a] += slope[a]
                largest = max(largest, abs(slope[a]))
    return largest


@compiled("void(f8[:,::1], i8[::1], f8[::1], f8, f8[:,::1])")
def calibrate(sharp: Array, classes: NDArray[np.intp], knots: Array, decay: float, counts: Array) -> None:
    """Take into the (2, knots) counts, of events and of how much more often than was said they were right, the largest
    of (n, C) probabilities, shared between the knots on both sides of its log odds."""
    n, outputs = sharp.shape
    counts *= decay**n
    for i in range(n):
        best = 0
        for c in range(1, outputs):
            if sharp[i, c] > sharp[i, best]:
                best = c
        top = min(sharp[i, best], 1.0 - 1e-9)
        error = (1.0 if classes[i] == best else 0.0) - top
        place = (np.log(top / (1.0 - top)) - knots[0]) / (knots[1] - knots[0])
        place = min(max(place, 0.0), len(knots) - 1.001)
        below = int(place)
        for at in range(2):
            weight = place - below if at else 1.0 - (place - below)
            counts[0, below + at] += weight
            counts[1, below + at] += weight * error


@compiled("f8(f8[:,::1], i8[::1], f8, f8, f8, f8[::1])")
def sharpen(
    mixed: Array, classes: NDArray[np.intp], sharpness: float, decay: float, prior: float, information: Array
) -> float:
    """Newton's step for the power that (n, C) answers were taken to, from the (n,) classes that came: the new power.
    (1,) information changes in place."""
    n, outputs = mixed.shape
    slope, curvature = 0.0, 0.0
    for i in range(n):
        mean, square = 0.0, 0.0
        came = 0.0
        for c in range(outputs):
            p = mixed[i, c]
            score = np.log(max(p, 1e-12)) / sharpness
            mean += p * score
            square += p * score * score
            if c == classes[i]:
                came = score
        slope += came - mean
        curvature += square - mean * mean
    kept = decay**n
    information[0] = kept * information[0] + (1.0 - kept) * prior + max(curvature, 0.0)
    moved: float = sharpness + (slope - (1.0 - kept) * prior * (sharpness - 1.0)) / information[0]
    return moved


@compiled(
    "f8(f8[:,:,::1], f8[:,::1], i8[::1], f8[::1], f8, f8, f8[:,::1], f8[:,:,::1], f8, f8, f8, f8[::1], f8[::1], f8,"
    "f8[:,::1], f8, f8[::1])"
)
def teach(
    members: Array,
    sharp: Array,
    classes: NDArray[np.intp],
    decays: Array,
    prior: float,
    floor: float,
    powers: Array,
    information: Array,
    sharpness: float,
    sharp_decay: float,
    sharp_prior: float,
    sharp_information: Array,
    knots: Array,
    knot_decay: float,
    counts: Array,
    knot_prior: float,
    shifts: Array,
) -> Any:
    """All of the above, from the same events; writes the (knots,) shifts and returns the new sharpness."""
    learn(members, classes, decays, prior, floor, powers, information)
    moved = sharpen(sharp, classes, sharpness, sharp_decay, sharp_prior, sharp_information)
    calibrate(sharp, classes, knots, knot_decay, counts)
    for place in range(len(shifts)):
        shifts[place] = counts[1, place] / (counts[0, place] + knot_prior)
    return moved
