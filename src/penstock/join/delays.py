"""How long answers took, counted in buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.join.interface import DELAY_EDGES_S, FeedbackDelays

EARLIER_EDGES_S = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0)
"""The buckets of checkpoints from before there were as many; each ends where a present one does."""


class Delays:
    """Counts delays."""

    def __init__(self) -> None:
        self._counts = [0] * (len(DELAY_EDGES_S) + 1)
        self._total_s = 0.0
        self._longest_s = 0.0

    @property
    def so_far(self) -> FeedbackDelays:
        return FeedbackDelays(counts=tuple(self._counts), total_s=self._total_s, longest_s=self._longest_s)

    def count(self, delays_s: NDArray[np.float64]) -> None:
        """(n,) seconds from each prediction to its answer."""
        for bucket, more in enumerate(np.bincount(np.searchsorted(DELAY_EDGES_S, delays_s)).tolist()):
            self._counts[bucket] += more
        self._total_s += float(delays_s.sum())
        self._longest_s = max(self._longest_s, float(delays_s.max(initial=0.0)))

    def save(self) -> list[Any]:
        return [list(self._counts), self._total_s, self._longest_s]

    def load(self, state: Sequence[Any]) -> None:
        counts, self._total_s, self._longest_s = state
        if len(counts) == len(self._counts):
            self._counts = list(counts)
            return
        self._counts = [0] * len(self._counts)
        places = [*map(DELAY_EDGES_S.index, EARLIER_EDGES_S), len(DELAY_EDGES_S)]
        for place, count in zip(places, counts, strict=True):
            self._counts[place] = count
