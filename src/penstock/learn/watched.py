"""The inputs of the newest labelled events beside what the bases in use were trained on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from penstock.events import Batch, Strings
from penstock.learn.inputs import Columns, Counts, Departed, Seen, binned, departed
from penstock.spec import Spec

LOOK_EVENTS = 512
"""Labelled events between two looks; what is compared are those since the look before the last."""
EVENTS_MIN = 512
"""With fewer nothing is said."""

Column = np.ndarray[Any, np.dtype[np.float64]] | Strings


@dataclass(slots=True)
class _Watch:
    """One base's."""

    seen: Seen
    older: list[Counts]
    newer: list[Counts]
    """(bins,) a column: of the events before the last look, and since."""
    looks: int = 0
    newest: Departed | None = None


class Inputs:
    """Of the base of what is served, and of that of the shadow, where they say what they were trained on."""

    def __init__(self, spec: Spec, seen: Callable[[str], Seen | None]) -> None:
        """``seen`` is told a base's id."""
        self._columns = Columns(spec)
        self._seen = seen
        self._watches: dict[str, _Watch] = {}
        self._silent: set[str] = {""}
        """Bases that do not say what they were trained on."""
        self._waiting: list[dict[str, Column]] = []
        """Columns that are not counted yet: many events are counted at once for the price of a few."""
        self._since = 0
        """Events since the last look."""

    def newest(self, base: str) -> Departed | None:
        """What the last look at this base's inputs saw; None before there was one."""
        watch = self._watches.get(base)
        return None if watch is None else watch.newest

    def take(self, batch: Batch, rows: np.ndarray[Any, np.dtype[np.intp]] | None, bases: Iterable[str]) -> bool:
        """These rows of a batch (None for all) were learned while these bases were in use; whether it was time to
        look."""
        self._follow(set(bases))
        if not self._watches:
            return False
        part = batch if rows is None else batch.rows(rows)
        self._waiting.append(dict(self._columns.read(part)))
        self._since += len(batch)
        if self._since < LOOK_EVENTS:
            return False
        self._since = 0
        self._count()
        for watch in self._watches.values():
            both = [older + newer for older, newer in zip(watch.older, watch.newer, strict=True)]
            events = max(int(counts.sum()) for counts in both)
            watch.looks += 1
            if events >= EVENTS_MIN:
                watch.newest = departed(watch.seen, both, events, watch.looks)
            watch.older, watch.newer = watch.newer, _nothing(watch.seen)
        return True

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        self._count()
        return {
            "since": self._since,
            "bases": {
                base: {
                    "older": [counts.tolist() for counts in watch.older],
                    "newer": [counts.tolist() for counts in watch.newer],
                    "looks": watch.looks,
                    "newest": None if watch.newest is None else msgspec.structs.asdict(watch.newest),
                }
                for base, watch in self._watches.items()
            },
        }

    def load(self, values: dict[str, Any]) -> None:
        """Become what was saved. Raises BaseMissing."""
        self._watches, self._waiting, self._silent = {}, [], {""}
        self._since = values.get("since", 0)
        for base, saved in values.get("bases", {}).items():
            seen = self._seen(base)
            if seen is not None:
                older, newer = ([np.array(c, np.int64) for c in saved[name]] for name in ("older", "newer"))
                newest = None if saved["newest"] is None else Departed(**saved["newest"])
                self._watches[base] = _Watch(seen, older, newer, saved["looks"], newest)

    def _follow(self, bases: set[str]) -> None:
        """Begin with bases that have come, and let go of those that are not in use any more."""
        if self._watches.keys() == bases - self._silent:
            return
        self._count()
        self._watches = {base: watch for base, watch in self._watches.items() if base in bases}
        for base in sorted(bases - self._watches.keys() - self._silent):
            seen = self._seen(base)
            if seen is None:
                self._silent.add(base)
            else:
                self._watches[base] = _Watch(seen, _nothing(seen), _nothing(seen))

    def _count(self) -> None:
        """Count what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        whole = {name: _together([columns[name] for columns in waiting]) for name in waiting[0]}
        for watch in self._watches.values():
            for place, column in enumerate(watch.seen.columns):
                if column.name in whole:
                    watch.newer[place] = watch.newer[place] + binned(column, whole[column.name])


def _nothing(seen: Seen) -> list[Counts]:
    return [np.zeros(len(column.recent), np.int64) for column in seen.columns]


def _together(parts: list[Column]) -> Column:
    strings = [part for part in parts if isinstance(part, list)]
    if strings:
        return [value for part in strings for value in part]
    return np.concatenate([part for part in parts if not isinstance(part, list)])
