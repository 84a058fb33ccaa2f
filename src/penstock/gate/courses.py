"""Compiled inner loops of evidence that goes on event by event: `sequential` says what they compute.

Arrays are contiguous; those that are changed are named first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.compiling import compiled

Array = NDArray[np.float64]


@compiled("void(f8[::1], f8[::1], f8[::1], f8[::1], i8, f8, f8)")
def harm(bets: Array, values: Array, stakes: Array, x: Array, events: int, scale: float, most: float) -> None:
    """After each difference, where the capital of the start at it comes in before: the (n,) means of all bets, none of
    which grows beyond ``most``."""
    for i in range(len(x)):
        before = 1.0 + np.log1p((events + i) / scale)
        step = np.log1p(1.0 / (scale + events + i))
        weight = step / (before * (before + step))
        total = 0.0
        for k in range(len(stakes)):
            bets[k] = min((bets[k] + weight) * (1.0 + stakes[k] * x[i]), most)
            total += bets[k]
        values[i] = total / len(stakes)


@compiled("f8(f8[::1], f8[::1], f8[::1], f8)")
def alarm(bets: Array, stakes: Array, ratios: Array, most: float) -> float:
    """The largest mean of all bets after any of the events."""
    largest = 0.0
    for i in range(len(ratios)):
        total = 0.0
        for k in range(len(stakes)):
            bets[k] = min((bets[k] + 1.0) * (1.0 + stakes[k] * (ratios[i] - 1.0)), most)
            total += bets[k]
        largest = max(largest, total / len(stakes))
    return largest


@compiled("void(f8[::1], f8[::1], i8)")
def spread(sums: Array, x: Array, events: int) -> None:
    """Adds to the sum of differences, and to a quarter of the squares of each minus the mean of those before it, where
    one of difference 0 is counted before the first."""
    for i in range(len(x)):
        sums[1] += (x[i] - sums[0] / (events + i + 1)) ** 2 / 4.0
        sums[0] += x[i]


@compiled("b1(f8[:])")
def are_bounded(losses: Array) -> bool:
    """Whether all lie in [0, 1], which a NaN does not."""
    in_order = True
    for i in range(len(losses)):
        in_order &= (losses[i] >= 0.0) & (losses[i] <= 1.0)
    return in_order


@compiled("f8(f8[::1], f8[::1], f8, f8)")
def radius(tilts: Array, penalties: Array, squares: float, bound: float) -> float:
    """Where the logarithm of sum over l of exp(l r - psi(l) squares) reaches the bound: Newton from the right."""
    # One l alone reaches the bound at or beyond the root; the function is convex and increasing, so that the steps from
    # there go down to the root without passing it, and stopping early only widens the interval.
    r = (bound + penalties[0] * squares) / tilts[0]
    for k in range(1, len(tilts)):
        r = min(r, (bound + penalties[k] * squares) / tilts[k])
    for _ in range(20):
        top = tilts[0] * r - penalties[0] * squares
        for k in range(1, len(tilts)):
            top = max(top, tilts[k] * r - penalties[k] * squares)
        total = slope = 0.0
        for k in range(len(tilts)):
            part = np.exp(tilts[k] * r - penalties[k] * squares - top)
            total += part
            slope += tilts[k] * part
        step = (top + np.log(total) - bound) * total / slope
        r -= step
        if step < 1e-4 * r:
            break
    return float(r)
