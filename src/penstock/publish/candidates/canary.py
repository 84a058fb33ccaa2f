"""What answers a share of the traffic beside what is served: its block, the numbers under which it has answered, and
which labelled events belong to its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Position, Version
from penstock.gate.interface import ShadowVerdict
from penstock.gate.share import is_within
from penstock.learn.block import pack, unpack
from penstock.learn.interface import Block, Model
from penstock.learn.steps import CanaryCounts
from penstock.publish.interface import SlowTier

RUNS_MAX = 1024
"""Runs of numbers that are remembered; a run ends where something else is published than the two in turn."""


class _State(msgspec.Struct, kw_only=True):
    share: float = 0.0
    since: float = 0.0
    runs: list[tuple[int, int]] = []
    """First and last of the numbers under which it has answered, every second one in between."""
    heard: CanaryCounts = CanaryCounts()


class Canary:
    """Follows what becomes of one candidate's share."""

    def __init__(self) -> None:
        self.block: Block | None = None
        """What answers; None while nothing does."""
        self._state = _State()

    @property
    def share(self) -> float:
        """Of the traffic that it answers; 0 while it answers none."""
        return self._state.share

    @property
    def since(self) -> float:
        """Seconds since 1970 at which it began to answer that."""
        return self._state.since

    @property
    def version(self) -> Version:
        """The number under which it answers; 0 while it answers none."""
        return Version(0) if self.block is None else self.block.head.version

    @property
    def heard(self) -> CanaryCounts:
        """What servers have counted of its answers, as far as that was recorded."""
        return self._state.heard

    @heard.setter
    def heard(self, counts: CanaryCounts) -> None:
        self._state.heard = counts

    def widen(self, share: float) -> None:
        """It answers this share from the next version on."""
        self._state.share = share

    def began(self, time: float) -> None:
        """It has done so since then, in seconds since 1970."""
        self._state.since = time

    def told(self, slow: SlowTier, so_far: ShadowVerdict | None) -> SlowTier:
        """The same with what is told of the share."""
        if self.block is None or so_far is None or so_far.own is None:
            return slow
        return msgspec.structs.replace(
            slow,
            share=self.share,
            share_since=self.since,
            share_version=self.version,
            share_events=so_far.own.events,
            share_evidence=so_far.own_evidence,
            share_gain=so_far.own.mean,
            share_counts=self.heard,
        )

    def expose(self, model: Model, version: Version, position: Position, answered: Sequence[Version] = ()) -> Block:
        """What it has learned so far answers from here on, under this number; it has under these before an erasure."""
        self.block = model.freeze(version, dict(sorted(position.items())))
        for number in (*answered, version):
            self._note(number)
        return self.block

    def _note(self, version: Version) -> None:
        runs = self._state.runs
        # The newest runs are of the numbers before and after each erasure, side by side.
        for place in reversed(range(len(runs))):
            if runs[place][1] + 2 == version:
                runs[place] = (runs[place][0], version)
                return
        self._state.runs = [*runs, (version, version)][-RUNS_MAX:]

    def end(self) -> None:
        """It answers nothing any more."""
        self.block, self._state = None, _State()

    def own(self, batch: Batch, rows: NDArray[np.intp] | None) -> NDArray[np.bool_] | None:
        """Which of these rows of the batch (None for all) belong to its share: the predictions that it has answered,
        and of what nobody was asked what it would answer. None while it answers none."""
        if self.block is None:
            return None
        chosen = range(len(batch)) if rows is None else rows.tolist()
        versions = [0] * len(batch) if batch.versions is None else batch.versions.tolist()
        return np.array([self._is_own(batch, row, versions[row]) for row in chosen], bool)

    def _is_own(self, batch: Batch, row: int, version: int) -> bool:
        if version:
            return any(first <= version <= last and not (version - first) % 2 for first, last in self._state.runs)
        assert self.block is not None, "it answers"
        return is_within(key_of(batch, row), self.block.head.base, self._state.share)

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and the block as an array; nothing while it answers nothing."""
        if self.block is None:
            return {}, {}
        packed = np.frombuffer(b"".join(pack(self.block)), np.uint8)
        return msgspec.to_builtins(self._state), {"canary/block": packed}

    def load(self, values: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        self._state = msgspec.convert(values, _State) if values else _State()
        self.block = unpack(arrays["canary/block"].tobytes()) if values else None


def key_of(batch: Batch, row: int) -> str:
    """What decides whether an event belongs to a share: whose it is, else its id, else where it stands in the log."""
    for names in (batch.subjects, batch.ids):
        if names is not None and (name := names[row]):
            return name
    return "" if batch.places is None else ":".join(map(str, batch.places[row].tolist()))
