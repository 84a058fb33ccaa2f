"""Members' probabilities multiplied, each to a power that is learned: further members of the mixture.

A weighted sum of probabilities follows the best member. A product of powers, as in logarithmic opinion pools and in
the mixers of compressors (Mahoney 2005), adds up evidence where members know different things, and sharpens or softens
it; the powers are learned online by Newton's step (Hazan et al. 2007) at several memories, with a prior that says that
all members count alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.links import softmax

Array = NDArray[np.float64]

HALF_LIVES = (256.0, float("inf"))
"""Events after which what a stack has seen counts half."""
PRIOR = 4.0
"""Curvature that says that all powers are alike."""
FLOOR = 1e-2
"""Probabilities below count as this: what is said for certain is soon wrong where labels are noisy, and no member
alone is to rule a class out."""
SHARP_DECAY = 2.0 ** (-1.0 / 4096.0)
SHARP_PRIOR = 100.0
"""Curvature that says that the mixture is as sure as it should be."""
SHARP_RANGE = (0.5, 2.0)
KNOTS = np.arange(-2.0, 7.1, 0.75)
"""Log odds of the largest probability, between which its calibration is a straight line."""
FIRST_KNOT, KNOT_STEP, LAST_KNOT = float(KNOTS[0]), float(KNOTS[1] - KNOTS[0]), float(len(KNOTS) - 1)
KNOT_DECAY = 2.0 ** (-1.0 / 4096.0)
KNOT_PRIOR = 30.0
"""Events at a knot that say that nothing is to be moved."""
TINY = 1e-9
AHEAD = 1e-6
"""What the largest probability stays ahead by, well above rounding."""


class Stacks:
    """What answering needs: a power for each member below and for their mixture, by stack; the weights of that mixture
    and of the stacks; and the calibration of what comes out of all."""

    def __init__(self, below: int) -> None:
        self.powers = np.full((len(HALF_LIVES), below + 1), 1.0 / (below + 1))
        self.weights = np.full(1 + len(HALF_LIVES), 1.0 / (1 + len(HALF_LIVES)))
        """(1 + stacks,) of the members' mixture and of each stack in the end."""
        self.sharpness = 1.0
        """The power that the mixture's own probabilities are taken to."""
        self.shifts = np.zeros(len(KNOTS))
        """What the largest of them is moved by in the end, between these log odds."""

    def answer(self, members: Array, mixture: Array) -> Array:
        """(n, classes) probabilities, not calibrated yet, from (n, classes, members) of which those that know something
        of their own are given, and the (below,) weights of these. Fills in their mixture and the stacks behind them."""
        n, classes, below = *members.shape[:2], len(mixture)
        # Rows of two dimensions are multiplied at once, those of three one matrix after the other.
        rows = members.reshape(n * classes, -1)
        mixed = (rows[:, :below] @ mixture).reshape(n, classes)
        mixed /= np.add.reduce(mixed, axis=1, keepdims=True)
        members[:, :, below] = mixed
        logs = np.maximum(rows[:, : below + 1], FLOOR)
        np.log(logs, out=logs)
        members[:, :, below + 1 :] = softmax((logs @ self.powers.T).reshape(n, classes, -1))
        return self.sharpened((rows[:, below:] @ self.weights).reshape(n, classes))

    def sharpened(self, mixed: Array) -> Array:
        """(n, classes) probabilities to the power that has suited those before them."""
        powered: Array = np.maximum(mixed, TINY)
        powered **= self.sharpness
        powered /= np.add.reduce(powered, axis=1, keepdims=True)
        return powered

    def calibrated(self, sharp: Array) -> Array:
        """(n, classes) probabilities whose largest is moved to what became of such before; the others share the rest as
        they did. The largest stays the largest."""
        if sharp.shape == (1, 2):
            return self._calibrated_one(*sharp[0].tolist())
        rows, tops = np.arange(len(sharp)), sharp.argmax(axis=1)
        top = np.minimum(sharp[rows, tops], 1.0 - TINY)
        rest = 1.0 - top
        moved = top + np.interp(np.log(top / rest), KNOTS, self.shifts)
        if sharp.shape[1] == 2:
            moved = np.maximum(moved, 0.5 + AHEAD)
        elif sharp.shape[1] > 2:
            others = sharp.copy()
            others[rows, tops] = 0.0
            second = others.max(axis=1)
            moved = np.maximum(moved, second / (second + rest) + AHEAD)
        moved = np.minimum(moved, 1.0 - TINY)
        answered: Array = sharp * ((1.0 - moved) / rest)[:, None]
        answered[rows, tops] = moved
        return answered

    def _calibrated_one(self, first: float, second: float) -> Array:
        """The same of one event of two classes, for which arrays are slow."""
        top = min(max(first, second), 1.0 - TINY)
        rest = 1.0 - top
        place = (math.log(top / rest) - FIRST_KNOT) / KNOT_STEP if top == top else 0.0
        below = int(min(max(place, 0.0), LAST_KNOT - 1.0))
        share = min(max(place - below, 0.0), 1.0)
        moved = top + (1.0 - share) * float(self.shifts[below]) + share * float(self.shifts[below + 1])
        moved = min(max(moved, 0.5 + AHEAD), 1.0 - TINY)
        other = min(first, second) * ((1.0 - moved) / rest)
        return np.array([[other, moved] if second > first else [moved, other]])

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return {
            "stack.powers": self.powers.copy(),
            "stack.weights": self.weights.copy(),
            "stack.sharpness": np.array([self.sharpness]),
            "stack.shifts": self.shifts.copy(),
        }

    def thaw(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was frozen."""
        self.powers = arrays["stack.powers"].copy()
        self.weights = arrays["stack.weights"].copy()
        self.sharpness = float(arrays["stack.sharpness"][0])
        self.shifts = arrays["stack.shifts"].copy()


class StackLearner:
    """What learning needs beside: how sure the powers are."""

    def __init__(self, stacks: Stacks) -> None:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast import stacking

        self._stacking = stacking
        self._stacks = stacks
        below = stacks.powers.shape[1]
        self._information = np.repeat(np.eye(below)[None] * PRIOR, len(HALF_LIVES), axis=0)
        self._decays = np.array([2.0 ** (-1.0 / half_life) for half_life in HALF_LIVES])
        self._sharp_information = np.array([SHARP_PRIOR])
        self._knots = np.zeros((2, len(KNOTS)))
        """(2, knots) events, and by how much more often than it was said their largest probability was right."""

    def learn(self, members: Array, sharp: Array, classes: NDArray[np.intp]) -> None:
        """From what (n, classes, members) were answered, stacks last, and (n, classes) what came of them before it was
        calibrated; (n,) the classes that came, all of them known then."""
        stacks = self._stacks
        moved = self._stacking.teach(
            members, sharp, classes, self._decays, PRIOR, FLOOR, stacks.powers, self._information, stacks.sharpness,
            SHARP_DECAY, SHARP_PRIOR, self._sharp_information, KNOTS, KNOT_DECAY, self._knots, KNOT_PRIOR,
            stacks.shifts,
        )  # fmt: skip
        low, high = SHARP_RANGE
        if moved == moved:
            stacks.sharpness = min(max(moved, low), high)

    def save(self) -> dict[str, NDArray[Any]]:
        """Copies of everything but what is frozen."""
        return {
            "stack.information": self._information.copy(),
            "stack.sharp_information": self._sharp_information.copy(),
            "stack.knots": self._knots.copy(),
        }

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved; the stacks themselves are thawed apart."""
        self._information = arrays["stack.information"].copy()
        self._sharp_information = arrays["stack.sharp_information"].copy()
        self._knots = arrays["stack.knots"].copy()
