"""What several classes together do not share, learned in compiled loops: with few events in a step as many calls of
NumPy cost more than all that they compute. Only what learns imports this, since it loads numba.

n events, C classes, M members.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.compiling import compiled

# The compiler takes its value as it is: after a change of it, this file must change as well.
from penstock.learn.fast.links import STEEP

Array = NDArray[np.float64]


@compiled("void(f8[:, :], f8[:, :], f8, f8, f8[:, ::1], f8[:, :, ::1])")
def bend(odds: Array, targets: Array, decay: float, prior: float, lines: Array, information: Array) -> None:
    """One Newton step on log loss of each of C lines, from (n, C) log odds, NaN where nothing was said, and (n, C) what
    came: (C, 2) slopes and shifts, and (C, 2, 2) their information, change in place.

    Where a line is confidently wrong the curvature is raised as the heads' is, or the step would overshoot."""
    n, classes = odds.shape
    kept = decay**n
    given = (1.0 - kept) * prior
    for c in range(classes):
        slope, shift = lines[c, 0], lines[c, 1]
        to_slope, to_shift = -given * (slope - 1.0), -given * shift
        square, cross, plain = kept * information[c, 0, 0], kept * information[c, 0, 1], kept * information[c, 1, 1]
        square += given
        plain += given
        fade = 1.0
        for i in range(n - 1, -1, -1):
            x = odds[i, c]
            if x == x:
                score = min(max(slope * x + shift, -STEEP), STEEP)
                chance = 1.0 / (1.0 + np.exp(-score))
                residual = targets[i, c] - chance
                curvature = fade * max(chance * (1.0 - chance), abs(residual) / (2.0 + 2.0 * abs(score)))
                to_slope += fade * residual * x
                to_shift += fade * residual
                square += curvature * x * x
                cross += curvature * x
                plain += curvature
            fade *= decay
        information[c, 0, 0], information[c, 1, 1] = square, plain
        information[c, 0, 1] = information[c, 1, 0] = cross
        determinant = square * plain - cross * cross
        lines[c, 0] += (plain * to_slope - cross * to_shift) / determinant
        lines[c, 1] += (square * to_shift - cross * to_slope) / determinant


@compiled("void(f8[:, :, :], f8[:, :], f8, f8, i8, f8[:, ::1])")
def share(then: Array, targets: Array, floor: float, rate: float, block: int, mixture: Array) -> None:
    """`mixture.fixed_share` of each of C classes by what (n, C, M) members said of (n, C) targets; NaN where they said
    nothing, which changes nothing but what is given back. (C, M) weights change in place.

    Probabilities are multiplied: ``block`` of them, none below ``floor``, must be more than the least number."""
    n, classes, members = then.shape
    product = np.empty(members)
    for c in range(classes):
        for start in range(0, n, block):
            stop = min(n, start + block)
            product[:] = 1.0
            for i in range(start, stop):
                if then[i, c, 0] == then[i, c, 0]:
                    for m in range(members):
                        chance = then[i, c, m] if targets[i, c] > 0.0 else 1.0 - then[i, c, m]
                        product[m] *= max(chance, floor)
            total = 0.0
            for m in range(members):
                product[m] *= mixture[c, m]
                total += product[m]
            kept = (1.0 - rate) ** (stop - start)
            for m in range(members):
                mixture[c, m] = kept * product[m] / total + (1.0 - kept) / members


@compiled("void(f8[:, :], f8[::1], f8[:, ::1], f8[:, ::1])")
def count(targets: Array, decays: Array, counts: Array, asked: Array) -> None:
    """Take (n, k) targets into how often the first k classes came and were asked for, (memories, C) each, in place."""
    n, known = targets.shape
    for memory in range(len(decays)):
        decay = decays[memory]
        kept, fade, weight = decay**n, 1.0, 0.0
        for c in range(known):
            counts[memory, c] *= kept
        for i in range(n - 1, -1, -1):
            for c in range(known):
                counts[memory, c] += fade * targets[i, c]
            weight += fade
            fade *= decay
        for c in range(known):
            asked[memory, c] = kept * asked[memory, c] + weight
