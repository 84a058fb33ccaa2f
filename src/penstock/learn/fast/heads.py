"""The information of a bank of heads: one feature matrix, several memories, exact up to rounding.

A head with memory ``g`` (what an event's weight is multiplied by with each later event) is the solution of

    A_t = g A_(t-1) + (1 - g) k I + h_t x_t x_t'        A_0 = k I
    W_t = W_(t-1) + A_t^-1 (x_t e_t' - (1 - g) k W_(t-1))

with the residual ``e`` and the curvature ``h`` of the link: 1 and y - Wx for least squares, which makes W the exact
ridge solution under exponential forgetting with the prior given back at the rate at which evidence fades (so that A
never falls below k I: recursions on the inverse alone blow up where a direction is no longer excited); Newton's for the
logistic loss, an online Newton or extended Kalman step (Hazan et al. 2007; Ollivier 2018).

A step of many events adds their weighted Gram matrix and solves once. Single events update the inverse by rank one
(Sherman and Morrison), kept as the last inverse and the vectors since; after PENDING_MAX of them the information is
brought up to date and inverted anew, so rounding never piles up. For least squares the two ways agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PENDING_MAX = 32
"""Rank-one updates beside the inverse. The prior is given back only when it is renewed, so a direction without evidence
loosens meanwhile by at most 2^(32 / half-life): 4 for the shortest default memory of 16 events."""
REACH = 12.0
"""Half-lives before the end of a step beyond which its events are left out: less than 1/4096 of weight each."""
BLOCK = 128
"""Rows of one shared Gram matrix."""
SHARED_FROM = 512
"""Events in a step from which Gram matrices are shared."""
SHARED_WIDTH = 64
"""Features from which Gram matrices are shared: below, they cost next to nothing."""


class Bank:
    """Information of K heads over D features; their weights are the caller's, (D, outputs, K)."""

    def __init__(self, width: int, half_lives: tuple[float, ...], prior: float) -> None:
        self._half_lives = half_lives
        self._prior = prior
        self._decay = np.array([2.0 ** (-1.0 / half_life) for half_life in half_lives])
        self.information = np.repeat(np.eye(width)[None] * prior, len(half_lives), axis=0)
        """(K, D, D) as of the last settled event."""
        self._inverse: Array | None = None
        self._clear(width)

    def _clear(self, width: int) -> None:
        heads = len(self._half_lives)
        self._pending = 0
        self._rows = np.zeros((PENDING_MAX, width))
        self._curvature = np.zeros((PENDING_MAX, heads))
        # The inverse now is scale * (inverse - sum of factor * gain gain').
        self._gains = np.zeros((heads, PENDING_MAX, width))
        self._factors = np.zeros((heads, PENDING_MAX))
        self._scale = np.ones(heads)
        self._grams = np.empty((0, width, width))
        self._added = np.empty((0, width * width))

    @property
    def width(self) -> int:
        """Features, D."""
        return int(self.information.shape[1])

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

    def learn_one(self, row: Array, residual: Array, curvature: Array, weights: Array) -> None:
        """One event: features (D,), residual (outputs, K), curvature (K,); changes the weights in place."""
        if self._inverse is None:
            self.settle(weights)
        inverse = self._inverse
        assert inverse is not None
        heads, width = len(self._half_lives), len(row)
        i = self._pending
        gain = (inverse.reshape(heads * width, width) @ row).reshape(heads, width)
        if i:
            gains = self._gains[:, :i]
            gain -= (((gains @ row) * self._factors[:, :i])[:, None, :] @ gains)[:, 0]
        scale = self._scale
        weight = scale / (self._decay + curvature * scale * (gain @ row))
        self._rows[i] = row
        self._curvature[i] = curvature
        self._gains[:, i] = gain
        self._factors[:, i] = curvature * weight
        self._scale = scale / self._decay
        self._pending = i + 1
        weights += (gain * weight[:, None]).T[:, None, :] * residual
        # Now and not at the next event: settling moves the weights, and that event's residual is taken before.
        if self._pending == PENDING_MAX:
            self.settle(weights)

    def learn_many(self, rows: Array, residuals: Array, curvatures: Array, weights: Array, *, share: bool) -> None:
        """n events at once: (n, D), (n, outputs, K), (n, K), all taken at the same weights, which change in place.

        With ``share``, a step of SHARED_FROM events or more computes one Gram matrix a block of rows for all heads that
        remember longer than a few blocks, each weighted by the head's mean curvature in it: exact where the curvature
        is 1 and memory infinite, an approximation of the metric (never of the gradient) elsewhere.
        """
        given = self._take_pending()
        n = len(rows)
        kept = self._decay**n
        # What was given back during single events has not pulled the weights yet: it fades like everything else.
        pull = given * kept + (1.0 - kept) * self._prior
        self.information *= kept[:, None, None]
        self._give((1.0 - kept) * self._prior)
        fade = self._decay ** np.arange(n - 1, -1, -1.0)[:, None]
        faded = residuals * fade[:, None, :]
        gradient = (rows.T @ faded.reshape(n, -1)).reshape(weights.shape)
        gradient -= weights * pull
        used = [int(min(REACH * half_life, n)) for half_life in self._half_lives]
        share = share and n >= SHARED_FROM and self.width >= SHARED_WIDTH
        shared = [k for k, count in enumerate(used) if share and count > 4 * BLOCK]
        fade *= curvatures
        for k, count in enumerate(used):
            if k not in shared:
                scaled = rows[n - count :] * np.sqrt(fade[n - count :, k, None])
                self.information[k] += scaled.T @ scaled
        if shared:
            self._add_shared(rows, fade, shared)
        weights += np.linalg.solve(self.information, gradient.transpose(2, 0, 1)).transpose(1, 2, 0)
        self._inverse = None

    def _add_shared(self, rows: Array, curvatures: Array, heads: list[int]) -> None:
        """Add a Gram matrix for each block of rows to the information of these heads, by their mean curvature in it."""
        n, width = rows.shape
        starts = range(0, n, BLOCK)
        # Kept between steps: new memory of this size costs more in page faults than the products that fill it.
        if self._grams.shape[:2] != (len(starts), width):
            self._grams = np.empty((len(starts), width, width))
            self._added = np.empty((len(heads), width * width))
        means = np.empty((len(starts), len(heads)))
        for b, start in enumerate(starts):
            block = rows[start : start + BLOCK]
            np.matmul(block.T, block, out=self._grams[b])
            means[b] = curvatures[start : start + BLOCK, heads].mean(axis=0)
        np.matmul(means.T, self._grams.reshape(len(starts), -1), out=self._added)
        for k, added in zip(heads, self._added, strict=True):
            self.information[k] += added.reshape(width, width)

    def settle(self, weights: Array) -> None:
        """Bring the information up to the last event, pull the weights by the prior given back, and invert anew."""
        given = self._take_pending()
        if self._inverse is None:
            inverse = np.linalg.inv(self.information)
            # Rounding leaves the inverse a little unsymmetric, which rank-one updates would amplify.
            self._inverse = 0.5 * (inverse + inverse.transpose(0, 2, 1))
        if given.any():
            weights -= (self._inverse @ (weights.transpose(2, 0, 1) * given[:, None, None])).transpose(1, 2, 0)

    def _take_pending(self) -> Array:
        """Add the single events since the last inverse to the information; (K,) the prior given back for them."""
        i = self._pending
        if not i:
            return np.zeros(len(self._half_lives))
        kept = self._decay**i
        roots = np.sqrt(self._curvature[:i] * self._decay ** np.arange(i - 1, -1, -1.0)[:, None])
        self.information *= kept[:, None, None]
        for k in range(len(kept)):
            scaled = self._rows[:i] * roots[:, k, None]
            self.information[k] += scaled.T @ scaled
        given = (1.0 - kept) * self._prior
        self._give(given)
        self._pending = 0
        self._scale = np.ones(len(kept))
        self._inverse = None
        return given

    def _give(self, given: Array) -> None:
        self.information.reshape(len(given), -1)[:, :: self.width + 1] += given[:, None]

    # State ------------------------------------------------------------------------------------------------------------

    def save(self, name: str) -> dict[str, NDArray[Any]]:
        """Copies of everything, under names that start with this one."""
        i = self._pending
        saved = {"information": self.information.copy()}
        if self._inverse is not None:
            saved |= {
                "inverse": self._inverse.copy(),
                "rows": self._rows[:i].copy(),
                "curvature": self._curvature[:i].copy(),
                "gains": self._gains[:, :i].copy(),
                "factors": self._factors[:, :i].copy(),
                "scale": self._scale.copy(),
            }
        return {f"{name}.{key}": array for key, array in saved.items()}

    def load(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved under this name."""
        self.information = arrays[f"{name}.information"].copy()
        self._inverse = None
        self._clear(self.width)
        if f"{name}.inverse" in arrays:
            self._inverse = arrays[f"{name}.inverse"].copy()
            i = self._pending = len(arrays[f"{name}.rows"])
            self._rows[:i] = arrays[f"{name}.rows"]
            self._curvature[:i] = arrays[f"{name}.curvature"]
            self._gains[:, :i] = arrays[f"{name}.gains"]
            self._factors[:, :i] = arrays[f"{name}.factors"]
            self._scale = arrays[f"{name}.scale"].copy()
