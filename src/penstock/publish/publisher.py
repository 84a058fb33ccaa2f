"""The protocol of a step: take and learn, judge, record, expose, account, checkpoint; and how a restart takes it up
again.

A step has happened when its entry stands in the step journal. Before that nothing of it can be seen from outside, and a
crash means that the events are taken again; after that a restart repeats it from the log, to the byte, and exposes it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np

from penstock.errors import ReplayDiverged, StepsCorrupt
from penstock.events import Version
from penstock.facts import CheckpointUnreadable, Fact, Restarted
from penstock.gate.interface import Evidence, Gate, Verdict
from penstock.learn.block import digest
from penstock.learn.checkpoint import Checkpoint
from penstock.learn.interface import Block, Predictor
from penstock.learn.learner import Learner, Taken
from penstock.learn.prequential import Prequential
from penstock.learn.steps import Reached, Step, StepAction, nothing
from penstock.publish.account import Account
from penstock.publish.interface import Progress, Receipt
from penstock.publish.line import Kept, Line
from penstock.publish.rooms import SYSTEM, Clocks, Rooms
from penstock.spec import Spec

IDLE_S = 0.2
"""How long the loop sleeps without an event before it looks whether it should stop."""
REPLAY_CPU_MAX_S = 1.0
"""Processor time after which a checkpoint is due even if it is not time yet, since a restart would have to spend it
again. A checkpoint costs some 15 ms."""
ROUND_S = 0.02
"""How long steps of a backlog are gathered before they are recorded and exposed: each on its own would wait for the
disk as long as it takes to learn."""
ROUND_STEPS = 64
SNAPSHOTS_KEPT = 100
"""Materialised versions that are kept; older ones can be rebuilt from the log as far as it reaches back."""

logger = logging.getLogger(__name__)


class Stop(Protocol):
    """What ends the loop, such as a `threading.Event`."""

    def is_set(self) -> bool: ...


class Publisher:
    """Makes versions of what one service's learner learns."""

    def __init__(
        self,
        spec: Spec,
        learner: Learner,
        gate: Gate,
        predictor: Callable[[Block], Predictor],
        rooms: Rooms,
        clocks: Clocks = SYSTEM,
        reached: Reached = nothing,
    ) -> None:
        self._spec = spec
        self._learner = learner
        self._gate = gate
        self._line = Line(learner, predictor, restore=spec.gate.after_rollback == "restore")
        self._rooms = rooms
        self._clocks = clocks
        self._reached = reached
        self._account = Account(spec.name)
        self._prequential = Prequential()
        self._time = 0.0
        self._checkpoint_step = 0
        self._checkpoint_at = 0.0
        self._cpu_at = 0.0
        self._cpu_since_checkpoint_s = 0.0

    # The protocol of a step ------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one step, and the ones behind it while events were left behind, for ROUND_S at most: they are recorded
        and exposed together. Returns whether something was recorded. Whatever it raises leaves a state that a restart
        takes up."""
        self._reached("step.begin")
        began = self._clocks.elapsed()
        entries: list[Step] = []
        block: Block | None = None
        receipts: list[Receipt] = []
        facts: list[Fact] = []
        while True:
            at = self._clocks.elapsed()
            # 1. Take the next events and learn from them. The learner, what it serves, the last known good version and
            # the one on probation each predict them first. Events from which nothing can be learned wait to be recorded
            # with later ones.
            taken = self._learner.take()
            if taken is None:
                break
            self._reached("step.learned")
            # 2. Judge the update, and make the version that results, in memory.
            entry, made = self._decide(taken, number=self._rooms.journal.last + 1 + len(entries))
            entries.append(entry)
            block = made or block
            more_receipts, more_facts = self._account.enter(entry)
            receipts += more_receipts
            facts += more_facts
            self._reached("step.judged")
            now = self._clocks.elapsed()
            self._learner.pace.cost(taken.events, now - at)
            ordinary = entry.action == "publish" and not entry.checkpoint_due
            if not (ordinary and self._learner.behind and now - began < ROUND_S and len(entries) < ROUND_STEPS):
                break
        if not entries:
            return False
        # 3. Record what was taken and decided. From here on the steps have happened.
        self._rooms.journal.append(*entries)
        # 4. Expose the result.
        if block is None:
            self._rooms.live.report(self.progress)
        else:
            self._rooms.live.publish(block, self.progress)
        self._reached("step.exposed")
        # 5. Account for it. The journal is the truth, so this may lag behind and be lost.
        self._rooms.receipts.write(receipts, facts)
        self._reached("step.accounted")
        # 6. Write a checkpoint when one is due.
        if entries[-1].checkpoint_due:
            self.checkpoint()
        return True

    def checkpoint(self) -> None:
        """Make a restart begin here: receipts first, since the journal forgets what is older than the oldest
        checkpoint."""
        taken = self._learner.flush()
        if taken is not None:
            # Nothing may be pending in a checkpoint, so that the next entry begins where it ends.
            entry, _ = self._decide(taken)
            self._rooms.journal.append(entry)
            self._rooms.receipts.write(*self._account.enter(entry))
        step = self._rooms.journal.last
        if step == self._checkpoint_step:
            self._checkpoint_at = self._clocks.elapsed()
            return
        self._reached("checkpoint.due")
        # 1. Receipts and facts up to here are on disk for good.
        self._rooms.receipts.flush(durably=True)
        self._reached("checkpoint.accounted")
        # 2. What is served is materialised.
        self._rooms.snapshots.put(self._line.block)
        self._reached("checkpoint.snapshot")
        # 3. The state of every stage, together. The oldest checkpoint goes, and with it what it needed of the log.
        self._rooms.checkpoints.write(self._checkpoint(step))
        self._reached("checkpoint.written")
        # 4. The journal forgets what no kept checkpoint needs for a replay.
        self._rooms.journal.rotate()
        self._rooms.journal.forget(self._rooms.checkpoints.replay_from())
        self._reached("checkpoint.forgotten")
        # 5. Old snapshots go.
        for version in self._rooms.snapshots.versions()[:-SNAPSHOTS_KEPT]:
            self._rooms.snapshots.remove(version)
        self._checkpoint_step = step
        self._checkpoint_at = self._clocks.elapsed()
        self._cpu_since_checkpoint_s = 0.0
        self._reached("checkpoint.end")

    # The life of a learner -------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Restore the newest checkpoint, repeat the recorded steps behind it, and expose the current version again,
        with the same number and bytes; at the very first start publish the empty model as version 1. Returns the events
        replayed.

        Raises ReplayDiverged when a repeated step does not give what was recorded."""
        self._reached("start.begin")
        facts = self._restore()
        self._reached("start.restored")
        replayed, owed = 0, False
        for entry in self._rooms.journal.entries(after=self._checkpoint_step):
            self._repeat(entry)
            replayed += entry.taken
            owed = owed or entry.checkpoint_due
        self._reached("start.replayed")
        self._cpu_at = self._clocks.cpu()
        if self._account.version == 0:
            block = self._line.begin()
            entry = Step(
                number=1, action="start", ranges=(), version=Version(1), verdict=BEGINNING, time=self._clocks.now()
            )
            self._rooms.journal.append(entry)
            self._time = entry.time
            self._rooms.live.publish(block, self._enter(entry))
        else:
            restarted = Restarted(
                at=self._clocks.now(), service=self._spec.name, process="learner", replayed_events=replayed
            )
            self._rooms.receipts.write([], [*facts, restarted])
            self._rooms.live.publish(self._line.block, self.progress)
        self._reached("start.exposed")
        if owed:
            # The receipt of a version may say that it is materialised, and the process ended before it was.
            self.checkpoint()
        return replayed

    def run(self, stop: Stop) -> None:
        """Start, do steps until stop is set, and end with a checkpoint, so that the next start has nothing to
        replay."""
        self.start()
        while not stop.is_set():
            if self._learner.wait(IDLE_S):
                while not self.step() and self.has_backlog() and not stop.is_set():
                    # Events without a label need no record each, so they are taken as fast as they can be read.
                    self._rooms.live.report(self.progress)
            elif self._is_checkpoint_due():
                self.checkpoint()
            else:
                self._rooms.live.report(self.progress)
        self.checkpoint()
        self.close()

    def close(self) -> None:
        """Let go of files; what is shared stays for those who read it."""
        self._rooms.receipts.close()
        self._rooms.live.close()
        self._rooms.journal.close()

    def has_backlog(self) -> bool:
        """Whether durable events were not taken yet."""
        return self._learner.backlog() > 0

    @property
    def progress(self) -> Progress:
        """How far the learner is, what it has not recorded yet included."""
        counts = self._learner.join.counts
        return Progress(
            position=dict(self._learner.position),
            examples_learned=counts.examples,
            feedback_learned=counts.matched,
            feedback_unknown=counts.unknown,
            feedback_waiting=counts.early,
            feedback_duplicate=counts.feedback_duplicate,
            duplicates=counts.duplicates,
            set_aside=self._learner.set_aside,
            predictions_waiting=counts.waiting,
            predictions_expired=counts.expired,
            version=self._account.version,
            versions_published=int(self._account.version),
            updates_held=self._account.held,
            rollbacks=self._account.rollbacks,
            loss=self._prequential.loss.mean,
            accuracy=self._prequential.accuracy.mean,
            error=self._prequential.error.mean,
            holding=self._account.holding,
            time=self._time,
        )

    def state_hash(self) -> str:
        """SHA-256 of everything that decides what happens next: equal for equal events in equal steps, whatever
        crashed."""
        state = self._checkpoint(0)
        decides = {name: value for name, value in state.values.items() if name not in ("account", "time")}
        hashed = hashlib.sha256(msgspec.msgpack.encode([state.version, decides], order="sorted"))
        for name, array in sorted(state.arrays.items()):
            hashed.update(f"{name}{array.dtype}{array.shape}".encode())
            hashed.update(np.asarray(array, order="C").tobytes())
        return hashed.hexdigest()

    # The parts -------------------------------------------------------------------------------------------------------

    def _decide(
        self, taken: Taken, recorded: Step | None = None, *, number: int | None = None
    ) -> tuple[Step, Block | None]:
        """The journal's entry for a step and the block that it publishes; number and times come from the record when it
        is repeated."""
        if taken.learned is not None and taken.batch is not None:
            self._prequential.add(taken.learned, taken.batch, self._line.classes_before(taken.learned))
        verdict = self._judge(taken)
        action: StepAction = "advance" if verdict is None else verdict.action
        version, block, restored = self._account.version, None, None
        if verdict is not None:
            block, restored = self._line.follow(verdict, version)
        if block is not None:
            version = block.head.version
        due = recorded.checkpoint_due if recorded else self._is_checkpoint_due()
        self._time = recorded.time if recorded else self._clocks.now()
        gain = verdict.gain if verdict else None
        entry = Step(
            number=recorded.number if recorded else number or self._rooms.journal.last + 1,
            action=action,
            ranges=taken.ranges,
            version=version,
            restored=restored,
            good=verdict is not None and verdict.good,
            probation=verdict is not None and verdict.probation,
            taken=taken.events,
            events=0 if taken.batch is None else len(taken.batch),
            loss_sum=0.0 if taken.learned is None else float(taken.learned.losses.sum()),
            served_sum=0.0 if taken.served is None else float(taken.served.sum()),
            gain=None if gain is None else (gain.mean, gain.low, gain.high, gain.events),
            verdict=verdict.reason if verdict else "",
            checkpoint_due=due,
            weights=digest(block) if due and block is not None else "",
            cpu_s=recorded.cpu_s if recorded else self._spent_cpu(),
            log_time=taken.log_time,
            time=self._time,
        )
        return entry, block

    def _judge(self, taken: Taken) -> Verdict | None:
        if taken.learned is None or taken.batch is None or taken.served is None:
            return None
        candidate, served, sources = taken.learned.losses, taken.served, taken.batch.sources
        if taken.compared is not None:
            same, candidate = served is candidate, candidate[taken.compared]
            served = candidate if same else served[taken.compared]
            sources = sources and [sources[place] for place in taken.compared]
        return self._gate.judge(
            Evidence(
                candidate=candidate,
                served=served,
                good=taken.good,
                probation=taken.probation,
                sources=sources,
                finite=taken.learned.finite,
                jump=taken.learned.jump,
            )
        )

    def _repeat(self, recorded: Step) -> None:
        """Do a recorded step again, all but what others can see."""
        if recorded.action == "start":
            self._line.begin()
            self._time = recorded.time
        else:
            taken = self._learner.again(recorded.number, recorded.ranges)
            entry, _ = self._decide(taken, recorded)
            if msgspec.msgpack.encode(entry) != msgspec.msgpack.encode(recorded):
                raise ReplayDiverged(step=recorded.number, what=_difference(recorded, entry))
        self._cpu_since_checkpoint_s += recorded.cpu_s
        self._enter(recorded)

    def _enter(self, entry: Step) -> Progress:
        self._rooms.receipts.write(*self._account.enter(entry))
        return self.progress

    def _is_checkpoint_due(self) -> bool:
        due_s = self._spec.learn.checkpoint_every_s
        return self._clocks.elapsed() - self._checkpoint_at >= due_s or self._cpu_since_checkpoint_s >= REPLAY_CPU_MAX_S

    def _spent_cpu(self) -> float:
        before, self._cpu_at = self._cpu_at, self._clocks.cpu()
        self._cpu_since_checkpoint_s += self._cpu_at - before
        return self._cpu_at - before

    def _checkpoint(self, step: int) -> Checkpoint:
        learner, model = self._learner.save()
        line, arrays = self._line.save()
        return Checkpoint(
            step=step,
            version=self._account.version,
            position=dict(self._learner.position),
            needed=self._learner.needed(),
            values={
                "learner": learner,
                "model": model.values,
                "line": line,
                "gate": self._gate.save(),
                "account": self._account.save(),
                "prequential": self._prequential.save(),
                "time": self._time,
            },
            arrays={**{f"model/{name}": array for name, array in model.arrays.items()}, **arrays},
        )

    def _restore(self) -> list[Fact]:
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
            self._refill_receipts(checkpoint)
            self._load(checkpoint)
        self._checkpoint_step = after
        self._checkpoint_at = self._clocks.elapsed()
        now, service = self._clocks.now(), self._spec.name
        return [
            CheckpointUnreadable(at=now, service=service, folder=str(found["folder"]), reason=str(found["reason"]))
            for found in (error.details for error in damaged)
        ]

    def _load(self, checkpoint: Checkpoint) -> None:
        values = checkpoint.values
        self._learner.load(values["learner"], Kept.state("model", values["model"], checkpoint.arrays))
        self._line.load(values["line"], checkpoint.arrays)
        self._gate.load(values["gate"])
        self._account.load(values["account"])
        self._prequential.load(values["prequential"])
        self._time = values["time"]

    def _refill_receipts(self, newest: Checkpoint) -> None:
        """Enter the recorded steps before the checkpoint again when receipts are missing, as when their file was
        removed."""
        checkpoints, receipts = self._rooms.checkpoints, self._rooms.receipts
        if receipts.highest() >= newest.version:
            return
        account, after = Account(self._spec.name), 0
        oldest = next(iter(self._rooms.journal.entries()), None)
        if oldest is None or oldest.number > 1:
            older = [step for step in checkpoints.steps() if oldest is not None and step >= oldest.number - 1]
            start = checkpoints.read(older[0]) if older else newest
            account.load(start.values["account"])
            after = start.step
        for entry in self._rooms.journal.entries(after):
            if entry.number <= newest.step:
                receipts.write(*account.enter(entry))


BEGINNING = "The empty model, so that predictions can be answered before anything was learned."


def _difference(recorded: Step, repeated: Step) -> str:
    """Which fields of two entries differ, and how."""
    return "; ".join(
        f"{name} was {getattr(recorded, name)!r} and is {getattr(repeated, name)!r}"
        for name in Step.__struct_fields__
        if getattr(recorded, name) != getattr(repeated, name)
    )
