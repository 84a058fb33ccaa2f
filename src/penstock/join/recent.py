"""Ids seen lately: a bounded memory that tells duplicates from new events."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

LONGEST_ID = 64
"""Characters of an id that are kept as they are, which bounds the memory of each."""


class RecentIds:
    """The newest ids, between half of ``kept`` and ``kept`` of them, each remembered exactly.

    Ids are counted in the order in which they are first seen, in blocks of half of ``kept``; the block that is being
    filled and the one before it are remembered. An id longer than 64 characters is remembered by its 128-bit BLAKE2b
    digest: among n such ids two collide with a chance below n^2 / 2^129 (6e-29 for 200,000); shorter ones never do."""

    def __init__(self, kept: int) -> None:
        self._block = max(1, kept // 2)
        # Dicts rather than sets: they keep the order, so that what is saved is the same in every process.
        self._filling: dict[str, None] = {}
        self._before: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._filling or key in self._before

    def add(self, key: str) -> None:
        """Remember a key that is not remembered yet."""
        self._filling[key] = None
        if len(self._filling) == self._block:
            self._before, self._filling = self._filling, {}

    def first_seen(self, keys: Sequence[str | None]) -> list[int] | None:
        """The places of keys that are new, and of missing ones; None where that is all. They are remembered then."""
        fresh: dict[str, None] = dict.fromkeys(keys)  # type: ignore[arg-type]
        # The usual case, a batch of new ids within the block, takes no step of Python for an event.
        if (
            None not in fresh
            and len(fresh) == len(keys)
            and len(self._filling) + len(fresh) < self._block
            and self._filling.keys().isdisjoint(fresh)
            and self._before.keys().isdisjoint(fresh)
        ):
            self._filling.update(fresh)
            return None
        places = []
        for place, key in enumerate(keys):
            if key is None:
                places.append(place)
            elif key not in self:
                self.add(key)
                places.append(place)
        return None if len(places) == len(keys) else places

    def save(self) -> dict[str, Any]:
        return {"filling": list(self._filling), "before": list(self._before)}

    def load(self, state: dict[str, Any]) -> None:
        self._filling = dict.fromkeys(state["filling"])
        self._before = dict.fromkeys(state["before"])


def remembered_as(ids: Sequence[str | None]) -> Sequence[str | None]:
    """The ids as RecentIds keeps them: long ones by their digest, behind a mark that no short id has."""
    if max((len(i) for i in ids if i is not None), default=0) <= LONGEST_ID:
        return ids
    return [i if i is None or len(i) <= LONGEST_ID else _digest(i) for i in ids]


def _digest(long: str) -> str:
    # One character longer than the longest id that is kept as it is, so that the two never meet.
    digest = hashlib.blake2b(long.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return digest.ljust(LONGEST_ID + 1, "#")
