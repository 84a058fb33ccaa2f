"""Whether a version is what its steps make of the log: it is rebuilt and compared, in a process that knew nothing.

What is compared, for every step on the way: the recorded entry, to the byte (ranges, decisions with their reasons, the
sums of losses to the last bit), and the hash of the whole state where one was recorded, which is after each checkpoint.
Of the version itself: its weights with the hash in its receipt and with its snapshot, where it was materialised; and
the steps behind it up to the next recorded hash of a state, since the first of them scored it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from penstock.errors import (
    BaseMissing,
    CheckpointDamaged,
    LogCorrupt,
    OffsetGone,
    PenstockError,
    ReplayDiverged,
    SnapshotDamaged,
    StepsCorrupt,
    UnknownVersion,
)
from penstock.events import PayloadDamaged, Version
from penstock.learn.block import digest
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.interface import Block
from penstock.learn.steps import Step
from penstock.publish.interface import Receipts, Snapshots
from penstock.publish.past.replay import Replay, nearest, published_at
from penstock.publish.records.environment import Environment, differences, find

Outcome = Literal["equal", "different", "corrupt", "impossible"]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where something is not what was written."""

    file: str
    byte: int | None = None
    partition: int | None = None
    offset: int | None = None
    """The first event that cannot be read."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What came of rebuilding a version."""

    service: str
    version: Version
    outcome: Outcome
    """``impossible`` where it cannot be rebuilt here: something that it takes is gone, or it was made elsewhere."""
    reason: str
    step: int = 0
    """The step that published it."""
    from_step: int = 0
    """The checkpoint that was begun with; 0 for the beginning of the log."""
    diverged_step: int | None = None
    place: Place | None = None
    steps: int = 0
    """Steps that were repeated, and came out as recorded."""
    events: int = 0
    """Events that they took."""
    learned: int = 0
    """Labelled events that they learned from."""
    states: int = 0
    """Recorded hashes of whole states that were compared, and equal."""
    weights: str = ""
    """SHA-256 of the rebuilt version's weights."""
    compared: tuple[str, ...] = ()
    """What its weights were compared with, beside the steps: ``receipt``, ``snapshot``."""
    seconds: float = 0.0
    memory_bytes: int = 0
    """The most that the process needed."""
    environment: str = ""
    """Name of what it was made on."""
    elsewhere: tuple[str, ...] = ()
    """What is not here as it was where the steps were first taken."""


Progress = Callable[[int, int, int], None]
"""Told after each step: its number, the last one's, and the events taken so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a service keeps, to read."""

    folder: Path
    replay: Replay
    checkpoints: Checkpoints
    snapshots: Snapshots
    receipts: Receipts
    here: Environment


class _Different(PenstockError):
    """{message}"""


class Verifier:
    """Rebuilds one version."""

    def __init__(self, service: str, past: Past, version: Version, *, from_start: bool, progress: Progress) -> None:
        self._service = service
        self._past = past
        self._version = version
        self._from_start = from_start
        self._progress = progress
        self._began = time.monotonic()
        self._entry: Step | None = None
        self._from_step = 0
        self._steps = self._events = self._learned = 0
        self._weights = ""
        self._compared: tuple[str, ...] = ()
        self._remark = ""
        self._elsewhere: dict[str, None] = {}

    def verify(self) -> Verification:
        """Raises UnknownVersion where there never was such a version."""
        try:
            return self._rebuild()
        except ReplayDiverged as error:
            return self._differs(str(error), int(str(error.details["step"])))
        except _Different as error:
            return self._differs(str(error), None)
        except LogCorrupt as error:
            place = Place(
                file=str(error.details["file"]), byte=error.byte, partition=error.partition, offset=error.offset
            )
            return self._result("corrupt", str(error), place=place)
        except StepsCorrupt as error:
            place = Place(file=str(error.details["file"]), byte=int(str(error.details["byte"])))
            return self._result("corrupt", str(error), place=place)
        except PayloadDamaged as error:
            return self._result("corrupt", str(error))
        except (OffsetGone, CheckpointDamaged, BaseMissing) as error:
            return self._result("impossible", str(error))

    def _rebuild(self) -> Verification:
        past, replay = self._past, self._past.replay
        self._entry = entry = published_at(replay.steps, self._version)
        if entry is None:
            receipt = past.receipts.receipt(self._version)
            if receipt.cause == "erasure":
                return self._result("impossible", receipt.verdict)
            return self._result("impossible", "The step journal does not hold the step that made it any more.")
        # The checkpoint of the very step holds the version: nothing would be rebuilt from it.
        start = None if self._from_start else nearest(past.checkpoints, entry.number - 1)[0]
        first = next(replay.steps.entries()).number
        if start is None and first > 1:
            what = "no checkpoint is older than it" if not self._from_start else "steps of the beginning are forgotten"
            reason = f"The step journal begins with step {first:,}, and {what}."
            return self._result("impossible", reason)
        replay.begin(start)
        self._from_step = 0 if start is None else start.step
        self._look_around(replay.environment)
        for repeated in replay.run():
            self._look_around(repeated.recorded.environment)
            if repeated.recorded.number == entry.number:
                block = repeated.tried if entry.tried == self._version else repeated.block
                assert block is not None, "the step published the version"
                self._compare(block, entry)
            self._steps += 1
            self._events += repeated.recorded.taken
            self._learned += repeated.recorded.events
            self._progress(replay.step, max(entry.number, replay.step), self._events)
            if replay.step > entry.number and repeated.recorded.sealed:
                break
        return self._result("equal", f"Every step came out as it was recorded.{self._remark}")

    def _compare(self, block: Block, entry: Step) -> None:
        """The rebuilt weights with all that says what they were."""
        self._weights = digest(block)
        said: dict[str, str] = {"receipt": entry.weights} if entry.weights and entry.version == self._version else {}
        try:
            said["snapshot"] = digest(self._past.snapshots.get(self._version))
        except SnapshotDamaged as error:
            self._remark = f" Its snapshot is damaged: {error}."
        except UnknownVersion:
            # It was never materialised, or so long ago that its snapshot is gone.
            pass
        for where, weights in said.items():
            if weights != self._weights:
                raise _Different(f"the weights have the SHA-256 {self._weights}, and those of the {where} {weights}")
        self._compared = tuple(said)

    def _look_around(self, environment: str) -> None:
        recorded = find(self._past.folder, environment) if environment else None
        if recorded is not None:
            self._elsewhere |= dict.fromkeys(differences(recorded, self._past.here))

    def _differs(self, reason: str, step: int | None) -> Verification:
        if self._elsewhere:
            told = f"{reason}. It was made elsewhere, so that says nothing: {'; '.join(self._elsewhere)}."
            return self._result("impossible", told, diverged_step=step)
        return self._result("different", reason, diverged_step=step)

    def _result(
        self, outcome: Outcome, reason: str, *, place: Place | None = None, diverged_step: int | None = None
    ) -> Verification:
        replay = self._past.replay
        return Verification(
            service=self._service,
            version=self._version,
            outcome=outcome,
            reason=reason,
            step=0 if self._entry is None else self._entry.number,
            from_step=self._from_step,
            diverged_step=diverged_step,
            place=place,
            steps=self._steps,
            events=self._events,
            learned=self._learned,
            states=replay.sealed,
            weights=self._weights,
            compared=self._compared,
            seconds=time.monotonic() - self._began,
            memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            environment=replay.environment,
            elsewhere=tuple(self._elsewhere),
        )
