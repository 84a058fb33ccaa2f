"""The information of a bank of heads: one feature matrix, several memories, exact up to rounding.

A head with memory ``g`` (what an event's weight is multiplied by with each later event) is the solution of

    A_t = g A_(t-1) + (1 - g) k I + h_t x_t x_t'        A_0 = k I
    W_t = W_(t-1) + A_t^-1 (x_t e_t' - (1 - g) k W_(t-1))

with the residual ``e`` and the curvature ``h`` of the link: 1 and y - Wx for least squares, which makes W the exact
ridge solution under exponential forgetting with the prior given back at the rate at which evidence fades (so that A
never falls below k I: recursions on the inverse alone blow up where a direction is no longer excited); Newton's for the
logistic loss, an online Newton or extended Kalman step (Hazan et al. 2007; Ollivier 2018).

Events in turn, each from where the one before left the weights, change the inverse by rank one (Sherman and Morrison):
it is kept as an inverse and the vectors since, which are folded into it PENDING_MAX at a time. The information A is the
truth all along. From time to time (`_period`) a head's information is brought up to date, the prior given back, and the
inverse made anew from it, so rounding never piles up. A long step learns from all its events at once: it adds their
weighted Gram matrix and solves once. For least squares the two ways agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.links import LEAST_SQUARES, ROBUST

Array = NDArray[np.float64]

PENDING_MAX = 32
"""Rank-one updates beside the inverse."""
RUN_MAX = 512
"""Events learned in turn after which every head's inverse is made anew from its information."""
HALF_LIVES_MAX = 2.0
"""As many half-lives after which it is, but not sooner than after PENDING_MAX events. The prior is given back only
then, so a direction without evidence loosens meanwhile by at most 2^2, or 2^(32 / half-life) for half-lives under 16
events."""
REACH = 12.0
"""Half-lives before the end of a step beyond which its events are left out: less than 1/4096 of weight each."""
BLOCK = 128
"""Rows of one shared Gram matrix."""
SHARED_FROM = 512
"""Events in a step from which Gram matrices are shared."""
SHARED_WIDTH = 64
"""Features from which Gram matrices are shared: below, they cost next to nothing."""


def _period(half_life: float) -> int:
    """Events in turn between two inverses made from the information: PENDING_MAX times a power of two."""
    events = min(HALF_LIVES_MAX * half_life, RUN_MAX)
    return PENDING_MAX << max(0, int(math.log2(events / PENDING_MAX)))


class Bank:
    """Information of K heads over D features; their weights are the caller's, (D, outputs, K).

    ``kinds`` says for each head what its scores mean, as in `links`; ``blocks`` that matrices may be so large that they
    are better inverted by blocks. Only who learns makes one: it loads numba."""

    def __init__(
        self, width: int, half_lives: tuple[float, ...], prior: float, kinds: Sequence[int], *, blocks: bool = False
    ) -> None:
        from penstock.learn.fast import kernels, triangles

        self._kernels = kernels
        self._invert = triangles.invert if blocks else kernels.invert_triangle
        self._substitute = triangles.solve if blocks else kernels.solve_triangle
        self._kinds = np.array(kinds, dtype=np.int64)
        self._half_lives = half_lives
        self._periods = [_period(half_life) for half_life in half_lives]
        self._prior = prior
        self._plain = set(kinds) == {LEAST_SQUARES} and set(half_lives) == {math.inf}
        """Whether every event counts as one, for ever, in all heads."""
        self._decay = np.array([2.0 ** (-1.0 / half_life) for half_life in half_lives])
        self.information = np.repeat(np.eye(width)[None] * prior, len(half_lives), axis=0)
        """(K, D, D), each as of when its inverse was last made, or of the last event where there is none."""
        self._inverse: Array | None = None
        self._clear(width)

    def _clear(self, width: int) -> None:
        heads = len(self._half_lives)
        self._run = 0
        """Events learned in turn since all inverses were made; those since a head's own are this modulo its period."""
        self._rows = np.zeros((RUN_MAX, width))
        self._curvatures = np.zeros((RUN_MAX, heads))
        # The inverse now is scale * (inverse - sum of pending pending').
        self._pending = np.zeros((heads, PENDING_MAX, width))
        self._scales = np.ones(heads)
        # Room for results, kept: new memory of these sizes costs more in page faults than what fills it.
        self._products = np.empty((heads, PENDING_MAX, width))
        self._square = np.empty((width, width))
        self._grams = np.empty((0, width, width))

    @property
    def width(self) -> int:
        """Features, D."""
        return int(self.information.shape[1])

    @property
    def room(self) -> int:
        """Events that may be learned in turn with one call."""
        return PENDING_MAX - self._run % PENDING_MAX

    def grow(self, width: int, weights: Array) -> None:
        """Take further features at the end, unknown so far; ``weights`` are those of the present width."""
        if width == self.width:
            return
        self.settle(weights)
        old = self.width
        information = np.repeat(np.eye(width)[None] * self._prior, len(self._half_lives), axis=0)
        information[:, :old, :old] = self.information
        self.information = information
        self._inverse = None
        self._clear(width)

    # In turn ----------------------------------------------------------------------------------------------------------

    def learn_one(self, row: Array, scores: Array, target: Array, deviations: Array, weights: Array) -> None:
        """One event: features (D,), (outputs, K) scores by the weights as they are, target (outputs,), deviations (K,);
        changes the weights in place."""
        self._kernels.learn_one(
            self._kinds,
            self._decay,
            self._scales,
            self._ready(weights),
            row,
            self._pending,
            self._run % PENDING_MAX,
            weights,
            scores,
            target,
            deviations,
            self._curvatures[self._run],
        )
        self._ran(row, 1, weights)

    def learn_few(self, rows: Array, scores: Array, targets: Array, deviations: Array, weights: Array) -> None:
        """m events in turn, not more than there is room for: (m, D) features, (m, outputs, K) scores by the weights as
        they are, (m, outputs) targets, (K,) deviations."""
        inverse = self._ready(weights)
        m, heads, outputs = len(rows), len(self._half_lives), scores.shape[1]
        start = self._run % PENDING_MAX
        products = np.matmul(rows, inverse, out=self._products[:, :m])
        if start:
            pending = self._pending[:, :start]
            products -= (rows @ pending.transpose(0, 2, 1)) @ pending
        gains, moves = np.empty((heads, m, m)), np.empty((heads, m, outputs))
        self._kernels.learn_in_turn(
            self._kinds,
            self._decay,
            self._scales,
            np.ascontiguousarray(scores.transpose(2, 0, 1)),
            products @ rows.T,
            targets,
            deviations,
            self._curvatures[self._run : self._run + m],
            gains,
            moves,
        )
        weights += (products.transpose(0, 2, 1) @ moves).transpose(1, 2, 0)
        np.matmul(gains, products, out=self._pending[:, start : start + m])
        self._ran(rows, m, weights)

    def _ready(self, weights: Array) -> Array:
        if self._inverse is None:
            self.settle(weights)
        assert self._inverse is not None
        return self._inverse

    def _ran(self, rows: Array, count: int, weights: Array) -> None:
        """After events in turn. What is due is done now and not at the next event: renewing moves the weights, and that
        event's residual is taken before."""
        self._rows[self._run : self._run + count] = rows
        self._run += count
        if self._run % PENDING_MAX:
            return
        assert self._inverse is not None
        for k, period in enumerate(self._periods):
            if self._run % period:
                np.matmul(self._pending[k].T, self._pending[k], out=self._square)
                self._inverse[k] -= self._square
            else:
                self._renew(k, self._catch_up(k, period), weights)
        self._run %= RUN_MAX

    def _catch_up(self, k: int, count: int) -> float:
        """Add a head's last events in turn to its information; the prior given back for them."""
        if not count:
            return 0.0
        events = slice(self._run - count, self._run)
        ages = np.arange(count - 1, -1, -1.0)
        scaled = self._rows[events] * np.sqrt(self._curvatures[events, k] * self._decay[k] ** ages)[:, None]
        given = self._fade(k, float(self._decay[k]) ** count)
        self.information[k] += np.matmul(scaled.T, scaled, out=self._square)
        return given

    def _renew(self, k: int, given: float, weights: Array) -> None:
        """Make a head's inverse from its information, and pull its weights by the prior given back."""
        assert self._inverse is not None
        try:
            factor = np.linalg.cholesky(self.information[k])
        except np.linalg.LinAlgError:
            # Not finite, or evidence so one-sided that rounding hides the prior: better any inverse than none, for
            # whoever checks the weights.
            self._inverse[k] = np.linalg.inv(self.information[k])
        else:
            triangle = self._square
            self._invert(factor, triangle)
            np.matmul(triangle.T, triangle, out=self._inverse[k])
        self._scales[k] = 1.0
        if given:
            weights[:, :, k] -= self._inverse[k] @ (weights[:, :, k] * given)

    def settle(self, weights: Array) -> None:
        """Bring all information up to the last event, and make all inverses anew."""
        if self._inverse is None:
            self._inverse = np.empty_like(self.information)
        elif not self._run:
            return
        for k, period in enumerate(self._periods):
            self._renew(k, self._catch_up(k, self._run % period), weights)
        self._run = 0

    # At once ----------------------------------------------------------------------------------------------------------

    def learn_many(self, rows: Array, scores: Array, targets: Array, deviations: Array, weights: Array) -> None:
        """n events at once: (n, D) features, (n, outputs, K) scores by the weights as they are, (n, outputs) targets,
        (K,) deviations.

        A step of SHARED_FROM events or more computes one Gram matrix a block of rows for all heads that remember it
        whole, each weighted by the head's mean curvature in it: exact where the curvature is 1 and memory infinite, an
        approximation of the metric (never of the gradient) elsewhere. Not for Huber's loss, whose curvatures say which
        outcomes are outliers: no mean of many events stands for theirs. Nor where nothing is weighted: one matrix does.
        """
        n, heads, outputs = len(rows), len(self._half_lives), scores.shape[1]
        residuals, curvatures = np.empty((heads, outputs, n)), np.empty((heads, n))
        used = [int(min(REACH * half_life, n)) for half_life in self._half_lives]
        for k, kind in enumerate(self._kinds.tolist()):
            self._kernels.pull_many(
                kind, scores[:, :, k], targets, deviations[k], self._decay[k], residuals[k], curvatures[k]
            )
            residuals[k, :, : n - used[k]] = 0.0
        gradients = (residuals.reshape(-1, n) @ rows).reshape(heads, outputs, -1)
        shares = n >= SHARED_FROM and self.width >= SHARED_WIDTH and ROBUST not in self._kinds and not self._plain
        shared = [k for k, count in enumerate(used) if shares and count == n]
        grams = dict(zip(shared, self._shared(rows, curvatures[shared]), strict=True)) if shared else {}
        for k, count in enumerate(used):
            # What was given back during events in turn has not pulled the weights yet: it fades like everything else.
            given = self._catch_up(k, self._run % self._periods[k])
            last = slice(n - count, None)
            kept = float(self._decay[k]) ** n
            self._fade(k, kept)
            if k in grams:
                self.information[k] += grams[k]
            else:
                scaled = rows if self._plain else rows[last] * np.sqrt(curvatures[k, last])[:, None]
                self.information[k] += np.matmul(scaled.T, scaled, out=self._square)
            gradients[k] -= weights[:, :, k].T * (given * kept + (1.0 - kept) * self._prior)
            weights[:, :, k] += self._solve(k, gradients[k]).T
        self._run = 0
        self._inverse = None

    def _fade(self, k: int, kept: float) -> float:
        """Let a head's information fade to this share; the prior given back for it."""
        given = (1.0 - kept) * self._prior
        self.information[k] *= kept
        self.information[k].ravel()[:: self.width + 1] += given
        return given

    def _solve(self, k: int, right: Array) -> Array:
        """(outputs, D) solutions with a head's information for (outputs, D) right-hand sides, which are overwritten."""
        try:
            factor = np.linalg.cholesky(self.information[k])
        except np.linalg.LinAlgError:
            return np.linalg.solve(self.information[k], right.T).T  # As in `_renew`.
        self._substitute(factor, right)
        return right

    def _shared(self, rows: Array, curvatures: Array) -> Array:
        """(heads, D, D) Gram matrices for (heads, n) curvatures: those of blocks of rows, each weighted by the head's
        mean curvature in it."""
        n, width = rows.shape
        starts = range(0, n, BLOCK)
        if self._grams.shape[:2] != (len(starts) + len(curvatures), width):
            self._grams = np.empty((len(starts) + len(curvatures), width, width))
        blocks, sums = self._grams[: len(starts)], self._grams[len(starts) :]
        means = np.empty((len(curvatures), len(starts)))
        for b, start in enumerate(starts):
            block = rows[start : start + BLOCK]
            np.matmul(block.T, block, out=blocks[b])
            means[:, b] = curvatures[:, start : start + BLOCK].mean(axis=1)
        np.matmul(means, blocks.reshape(len(starts), -1), out=sums.reshape(len(curvatures), -1))
        return sums

    # State ------------------------------------------------------------------------------------------------------------

    def save(self, name: str) -> dict[str, NDArray[Any]]:
        """Copies of everything, under names that start with this one."""
        saved = {"information": self.information.copy()}
        if self._inverse is not None:
            saved |= {
                "inverse": self._inverse.copy(),
                "rows": self._rows[: self._run].copy(),
                "curvatures": self._curvatures[: self._run].copy(),
                "pending": self._pending[:, : self._run % PENDING_MAX].copy(),
                "scales": self._scales.copy(),
            }
        return {f"{name}.{key}": array for key, array in saved.items()}

    def load(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved under this name."""
        self.information = arrays[f"{name}.information"].copy()
        self._inverse = None
        self._clear(self.width)
        if f"{name}.inverse" in arrays:
            self._inverse = arrays[f"{name}.inverse"].copy()
            run = self._run = len(arrays[f"{name}.rows"])
            self._rows[:run] = arrays[f"{name}.rows"]
            self._curvatures[:run] = arrays[f"{name}.curvatures"]
            self._pending[:, : run % PENDING_MAX] = arrays[f"{name}.pending"]
            self._scales = arrays[f"{name}.scales"].copy()
