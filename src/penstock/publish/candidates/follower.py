"""A learner that goes over the recorded steps behind a candidate's, until it is as far as the one that is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from penstock.errors import StepsCorrupt, TrainingFailed
from penstock.learn.interface import Model
from penstock.learn.learner import Learner
from penstock.learn.quarantine import AsideStep, Spans
from penstock.learn.ready import Ready, ReadyManifest
from penstock.learn.steps import Step, Steps
from penstock.publish.rooms import SlowRooms


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A candidate that is as far as the journal, or that cannot be."""

    manifest: ReadyManifest
    model: Model | None
    """None where it is refused."""
    refused: str = ""


class Follower:
    """Of one candidate."""

    def __init__(self, rooms: SlowRooms, ready: Ready) -> None:
        """Raises BaseMissing, CheckpointDamaged."""
        self.manifest = ready.manifest
        self._learner: Learner = rooms.follower()
        self._learner.load(ready.learner, ready.model)
        self._step = ready.manifest.step
        self._entries: Iterator[Step] | None = None

    @property
    def model(self) -> Model:
        return self._learner.model

    def follow(self, journal: Steps, elapsed: Callable[[], float], slice_s: float, until: int | None = None) -> bool:
        """Take recorded steps for so long; whether the last of them, or ``until``, is reached.

        Raises StepsCorrupt where the journal has forgotten the first, and what reading the log raises."""
        began, end = elapsed(), journal.last if until is None else until
        while self._step < end:
            entry = None if self._entries is None else next(self._entries, None)
            if entry is None:
                # What was recorded since the last look stands behind what was read then.
                self._entries = journal.entries(self._step)
                entry = next(self._entries, None)
            if entry is None or entry.number != self._step + 1:
                raise StepsCorrupt(file=journal.folder, byte=0, reason=f"step {self._step + 1} is forgotten already")
            if entry.action == "roll_back":
                raise TrainingFailed(reason="a rollback has withdrawn events that it has learned")
            self._learn(entry)
            self._step = entry.number
            if elapsed() - began >= slice_s:
                return self._step >= end
        return True

    def _learn(self, entry: Step) -> None:
        aside = entry.aside or AsideStep()
        if aside.taken_out:
            raise TrainingFailed(reason="events that it has learned were set aside")
        if aside.released:
            self._learner.release(aside.released)
        elif entry.ranges:
            apart = Spans(len(aside.aside) + 1)
            apart.add(row.place for row in aside.aside)
            self._learner.again(entry.number, entry.ranges, apart)
