"""Where a restart begins: when a checkpoint is due, how one is written, and how the newest is taken up again."""

from __future__ import annotations

import logging
from pathlib import Path

from penstock.errors import StepsCorrupt
from penstock.facts import CheckpointUnreadable, Fact
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.journal import read_steps
from penstock.learn.steps import Reached, Step
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.records.account import refill_receipts
from penstock.publish.records.environment import find, has_other_settings
from penstock.publish.rooms import Clocks, Rooms
from penstock.publish.state import state_hash
from penstock.publish.succession import Succession
from penstock.publish.weights.snapshots import thin
from penstock.spec import Spec

REPLAY_CPU_MAX_S = 1.0
"""Processor time after which a checkpoint is due even if it is not time yet, since a restart would have to spend it
again. A checkpoint costs some 15 ms."""
PAST_FILE_BYTES = 4 * 1024 * 1024
"""Size of the journal's files while it is kept whole: a restart reads the newest, a year has a few thousand."""
logger = logging.getLogger(__name__)


def settings_behind(spec: Spec, folder: Path, checkpoints: Checkpoints) -> Spec | None:
    """The service as it was when the steps since the newest checkpoint were taken, where it was another one; None
    where no step would be repeated under other settings than it was taken under."""
    if not has_other_settings(folder, spec):
        return None
    checkpoint, _ = checkpoints.peek()
    name, after, is_behind = "", 0, False
    if checkpoint is not None:
        name, after = str(checkpoint.values["account"].get("environment", "")), checkpoint.step
    for entry in read_steps(folder / "steps", after, strict=True):
        name, is_behind = entry.environment or name, True
    then = find(folder, name) if is_behind else None
    return None if then is None or then.spec == spec else then.spec


class Restarts:
    """The checkpoints of one service's learner, and what has been done since the newest."""

    def __init__(self, spec: Spec, succession: Succession, shadows: Shadows, rooms: Rooms, clocks: Clocks) -> None:
        self._spec = spec
        self._succession = succession
        self._shadows = shadows
        self._rooms = rooms
        self._clocks = clocks
        self.step = 0
        """The last one before the newest checkpoint."""
        self._at = 0.0
        self._cpu_at = 0.0
        self._cpu_s = 0.0
        """Processor time since the checkpoint, that of steps which were repeated included."""
        self._sealed = ""
        """The hash of the newest checkpoint's state, until an entry says it."""

    @property
    def is_due(self) -> bool:
        """Whether it is time for another checkpoint."""
        due_s = self._spec.learn.checkpoint_every_s
        return self._clocks.elapsed() - self._at >= due_s or self._cpu_s >= REPLAY_CPU_MAX_S

    def count_cpu(self) -> None:
        """Processor time counts from here on."""
        self._cpu_at = self._clocks.cpu()

    def spent_cpu_s(self) -> float:
        """Processor time since it was asked for before."""
        before = self._cpu_at
        self.count_cpu()
        self._cpu_s += self._cpu_at - before
        return self._cpu_at - before

    def seal(self) -> str:
        """The hash of the newest checkpoint's state for the first entry behind it; empty for those that follow."""
        sealed, self._sealed = self._sealed, ""
        return sealed

    def repeated(self, recorded: Step) -> None:
        """A recorded entry was taken once more."""
        self._sealed = ""
        self._cpu_s += recorded.cpu_s

    def write(self, reached: Reached) -> None:
        """Make a restart begin here: receipts first, since the journal forgets what is older than the oldest
        checkpoint. Nothing may be pending."""
        step = self._rooms.journal.last
        if step == self.step:
            self._at = self._clocks.elapsed()
            return
        reached("checkpoint.due")
        # 1. Receipts and facts up to here are on disk for good.
        self._rooms.receipts.flush(durably=True)
        reached("checkpoint.accounted")
        # 2. What is served is materialised.
        line = self._succession.line
        self._rooms.snapshots.put(line.block, line.state)
        reached("checkpoint.snapshot")
        # 3. The state of every stage, together. The oldest checkpoint goes, and with it what it needed of the log.
        made = self._succession.checkpoint(step)
        self._rooms.checkpoints.write(made)
        self._sealed = state_hash(made)
        if self._rooms.witness is not None:
            self._rooms.witness.checkpointed(made.version, self._sealed)
        reached("checkpoint.written")
        # 4. The journal forgets what no kept checkpoint needs for a replay, nor a consolidation, and settled candidates
        # go; but not while the log has its first event still, and every version can be rebuilt from there.
        keeps_past = self._rooms.keeps_past()
        self._rooms.journal.rotate(PAST_FILE_BYTES if keeps_past else 0)
        self._shadows.tidy(self._rooms, self._rooms.checkpoints.replay_from(), keeps_past)
        reached("checkpoint.forgotten")
        # 5. Old snapshots go, but for those that a restart would go back to again.
        thin(self._rooms.snapshots, self._succession.hand.gone_back_to(self._rooms.checkpoints.replay_from()))
        self.step = step
        self._at = self._clocks.elapsed()
        self._cpu_s = 0.0
        reached("checkpoint.end")

    def restore(self) -> list[Fact]:
        """Become the newest readable checkpoint; what was wrong with newer ones, as facts."""
        checkpoint, damaged = self._rooms.checkpoints.newest()
        after = 0 if checkpoint is None else checkpoint.step
        first = next(iter(self._rooms.journal.entries(after)), None)
        if self._rooms.journal.last < after or (first is not None and first.number != after + 1):
            if damaged:
                raise damaged[0]
            raise StepsCorrupt(
                file=self._rooms.journal.folder, byte=0, reason=f"the steps that follow step {after} are missing"
            )
        if first is None and checkpoint is None and damaged:
            raise damaged[0]
        for error in damaged:
            logger.warning("a checkpoint cannot be read, an older one is restored", extra={"error": str(error)})
        if checkpoint is not None:
            refill_receipts(self._rooms, self._spec.name, checkpoint)
            self._succession.load(checkpoint)
            self._sealed = state_hash(checkpoint)
        self.step = after
        self._at = self._clocks.elapsed()
        now, service = self._clocks.now(), self._spec.name
        return [
            CheckpointUnreadable(at=now, service=service, folder=str(found["folder"]), reason=str(found["reason"]))
            for found in (error.details for error in damaged)
        ]
