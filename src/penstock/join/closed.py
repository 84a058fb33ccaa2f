"""Predictions that stopped waiting without a label: what tells late feedback from feedback to nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from penstock.events import Offset, Partition
from penstock.join.waiting import Stopped


class Closed(NamedTuple):
    """Where a prediction stands in the log; its features are there and nowhere else."""

    partition: Partition
    offset: Offset
    since: float
    """When it was taken, in seconds since 1970."""
    stopped: float
    """When it stopped waiting."""


class ClosedPredictions:
    """Predictions by id, those that stopped first going first: kept for ``kept_s`` of log time, at most ``kept_max``.

    A row costs some 300 bytes, and none of its features."""

    def __init__(self, kept_s: float, kept_max: int) -> None:
        self._kept_s = kept_s
        self._kept_max = kept_max
        self._closed: OrderedDict[str, Closed] = OrderedDict()

    def add(self, stopped: Stopped, now: float) -> None:
        """Remember these, whose ids are not remembered."""
        partition, since = stopped.partition, stopped.since
        for key, offset in zip(stopped.ids, stopped.offsets, strict=True):
            self._closed[key] = Closed(partition, Offset(offset), since, now)
        for _ in range(len(self._closed) - self._kept_max):
            self._closed.popitem(last=False)

    def __contains__(self, key: str) -> bool:
        return key in self._closed

    def pop(self, key: str) -> Closed:
        """One that is remembered, which is forgotten then."""
        return self._closed.pop(key)

    def since(self, key: str) -> float:
        """When one that is remembered was taken."""
        return self._closed[key].since

    def forget(self, keys: Iterable[str]) -> None:
        """Without these, if they are remembered."""
        if not self._closed.keys().isdisjoint(keys):
            for key in keys:
                self._closed.pop(key, None)

    def expire(self, now: float) -> None:
        """Forget what stopped waiting too long ago."""
        while self._closed:
            key, oldest = next(iter(self._closed.items()))
            if oldest.stopped >= now - self._kept_s:
                return
            del self._closed[key]

    def needed(self) -> dict[Partition, Offset]:
        """The oldest offset of one that is remembered, for each partition that has one."""
        oldest: dict[Partition, Offset] = {}
        for one in self._closed.values():
            oldest[one.partition] = min(one.offset, oldest.get(one.partition, one.offset))
        return oldest

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack, as columns."""
        rows = list(self._closed.values())
        return {
            "ids": list(self._closed),
            "partitions": np.array([row.partition for row in rows], np.int32).tobytes(),
            "offsets": np.array([row.offset for row in rows], np.int64).tobytes(),
            "since": np.array([row.since for row in rows], np.float64).tobytes(),
            "stopped": np.array([row.stopped for row in rows], np.float64).tobytes(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        partitions = np.frombuffer(state["partitions"], np.int32).tolist()
        offsets = np.frombuffer(state["offsets"], np.int64).tolist()
        since = np.frombuffer(state["since"], np.float64).tolist()
        stopped = np.frombuffer(state["stopped"], np.float64).tolist()
        self._closed = OrderedDict(zip(state["ids"], map(Closed, partitions, offsets, since, stopped), strict=True))
