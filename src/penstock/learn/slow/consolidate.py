"""One consolidation of a service, from its folder: read, train, rebuild, compare, catch up, hand over.

It writes nothing that anybody else writes, and what it reads is held against being forgotten. If it is stopped at any
point the same call goes on later: what it read stands in ``consolidation/replay.safetensors``, and how far the training
was in ``consolidation/training.pt``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from penstock.errors import CheckpointDamaged, StepsCorrupt, TrainingFailed
from penstock.eventlog.local import LocalLogReader
from penstock.events import Batch, Offset, Partition, Position
from penstock.join.window import JoinWindow
from penstock.learn.block import unpack
from penstock.learn.checkpoint import Checkpoint, Checkpoints, to_safetensors, write_durably
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import State
from penstock.learn.journal import read_steps
from penstock.learn.learner import Learner
from penstock.learn.outside.registry import outside_members
from penstock.learn.quarantine import NEVER_MAX, AsideStep, Quarantine, Spans
from penstock.learn.ready import (
    Ready,
    ReadyManifest,
    hold,
    read_ready_manifest,
    ready_numbers,
    release,
    write_ready,
)
from penstock.learn.slow.artifact import Artifact
from penstock.learn.slow.base import LocalBases
from penstock.learn.slow.history import History
from penstock.learn.slow.judge import Judged, judge
from penstock.learn.slow.rebuild import rebuild
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.train import Trained, Training, never, train_base
from penstock.learn.steps import Reached, Step, nothing
from penstock.learn.withdrawn import Withdrawn, from_values, parts
from penstock.spec import Spec

NEARLY = 64
"""Steps that may still be missing when a candidate is handed over: who adopts it takes these in no time."""
_VALUES = "values"


def consolidate(
    spec: Spec,
    folder: Path,
    *,
    number: int,
    reason: str,
    stop: Callable[[], bool] = never,
    now: Callable[[], float] = time.time,
    training: Training | None = None,
    reached: Reached = nothing,
) -> ReadyManifest | None:
    """Train a new base for the service in this folder, and leave a caught-up candidate under ``ready/<number>``.

    None where ``stop`` said so; the same call, with the same number, goes on later. A number that stands ready already
    is left as it is. Raises LibraryMissing, TrainingFailed (also where nothing was learned yet), BaseMissing,
    CheckpointDamaged, and whatever reading the log and the journal raises."""
    place = folder / "consolidation"
    if number in ready_numbers(place):
        return read_ready_manifest(place, number)
    with at_work(spec, folder, stop) as work:
        # 1. Keep what is read from being forgotten, then read what is new into the reservoir.
        work.begin()
        kept = work.read(number)
        reached("consolidation.read")
        if kept is None:
            return None
        # 2. Train; a stop leaves what was done so far for the next call.
        parent = work.parent(work.begin())
        trained = work.train(kept.reservoir, training, parent)
        if trained is None:
            return None
        # What a challenge has put in force stays in force on the new base.
        in_force = b"" if parent is None else parent.configuration
        base = work.bases.put(replace(trained.artifact, configuration=in_force))
        reached("consolidation.trained")
        # 3. Rebuild the heads on the new features, up to the newest checkpoint, from which little is left to catch up.
        checkpoint = work.begin()
        model = work.rebuild(checkpoint, base.id, kept)
        if model is None:
            return None
        reached("consolidation.rebuilt")
        # 4. Ask the events that no base was ever trained on who knows the past better.
        held_out = kept.reservoir.held_out
        assert held_out is not None, "training needs it, too"
        model.hear(held_out.batch)
        judged = judge(spec, work.model_of(checkpoint), model, held_out.batch, work.bases, work.outside)
        # 5. Catch up with the steps since the checkpoint, and hand it over.
        is_left = work.leave(
            checkpoint,
            model,
            reached,
            number=number,
            reason=reason,
            base=base.id,
            held_out=judged.held_out,
            events=_distinct(kept.reservoir),
            trained_until=tuple(sorted(kept.position.items())),
            made_at=now(),
            details=_details(trained, judged, work.relearned),
        )
        if not is_left:
            return None
        # 6. What was recent is the past now. A crash before this only makes it recent once more.
        kept.reservoir.trained(base)
        kept.number = 0
        kept.write(work.kept_path)
        reached("consolidation.end")
        return read_ready_manifest(place, number)


@dataclass(slots=True, kw_only=True)
class Kept:
    """The reservoir between two consolidations, and how far it was filled."""

    reservoir: Reservoir
    position: Position = field(default_factory=dict)
    number: int = 0
    """The consolidation whose training it was filled for; 0 between two."""
    gone: int = 0
    """Labelled events that the log does not hold any more."""

    def write(self, path: Path) -> None:
        """Make it durable in one piece."""
        state = self.reservoir.save()
        values = {
            "reservoir": state.values,
            "position": sorted(self.position.items()),
            "number": self.number,
            "gone": self.gone,
        }
        content = to_safetensors({_VALUES: np.frombuffer(msgspec.msgpack.encode(values), np.uint8), **state.arrays})
        beside = path.with_suffix(".tmp")
        beside.unlink(missing_ok=True)
        write_durably(beside, content)
        os.replace(beside, path)

    @classmethod
    def read(cls, path: Path, spec: Spec) -> Kept:
        """What was written; nothing where there is nothing, or nothing that can be read: the log has it still."""
        empty = cls(reservoir=Reservoir(spec))
        try:
            arrays = load(path.read_bytes())
            values: dict[str, Any] = msgspec.msgpack.decode(arrays.pop(_VALUES).tobytes())
            reservoir = Reservoir(spec)
            reservoir.load(State(values["reservoir"], {name: array.copy() for name, array in arrays.items()}))
        except (OSError, SafetensorError, KeyError, msgspec.MsgspecError, CheckpointDamaged):
            return empty
        position = {Partition(partition): Offset(offset) for partition, offset in values["position"]}
        return cls(reservoir=reservoir, position=position, number=values["number"], gone=values["gone"])


@contextmanager
def at_work(spec: Spec, folder: Path, stop: Callable[[], bool]) -> Iterator[Work]:
    """The steps over the service in this folder; behind them nothing is held any more."""
    reader = LocalLogReader(folder / "log")
    try:
        yield Work(spec, folder, reader, stop)
    finally:
        release(folder / "consolidation")
        reader.close()


class Work:
    """The steps of a consolidation, and of a challenge, each given what it needs."""

    def __init__(self, spec: Spec, folder: Path, reader: LocalLogReader, stop: Callable[[], bool]) -> None:
        self._spec = spec
        self._folder = folder
        self._reader = reader
        self._stop = stop
        self._began, self._cpu = time.monotonic(), time.process_time()
        self.bases = LocalBases(folder / "bases")
        self.outside = outside_members(spec, folder)
        self.kept_path = folder / "consolidation" / "replay.safetensors"
        self._withdrawn: list[Withdrawn] = []
        """What the learner's rollbacks have taken out of its model, and is not to come back by a candidate."""
        self._apart = Spans(NEVER_MAX)
        """What is set aside, and is not to be learned by a candidate either."""
        self.relearned = 0
        """Labelled events that the heads learned again."""

    def begin(self) -> Checkpoint:
        """The newest checkpoint, with what comes after it and the whole log held."""
        checkpoints = Checkpoints(self._folder / "checkpoints", self._spec.learn.checkpoints_kept)
        checkpoint, _ = checkpoints.newest()
        if checkpoint is None:
            raise TrainingFailed(reason="the learner has not written a checkpoint yet")
        hold(self._folder / "consolidation", checkpoint.step, self._reader.starts())
        self._withdrawn = self._withdrawn_until_now(checkpoint)
        self._apart = self._apart_until_now(checkpoint)
        return checkpoint

    def _withdrawn_until_now(self, checkpoint: Checkpoint) -> list[Withdrawn]:
        """What the checkpoint and the steps since then say of rollbacks."""
        withdrawn = from_values(checkpoint.values.get("line", {}).get("withdrawn", ()))
        if self._spec.gate.after_rollback != "restore":
            return withdrawn
        at = dict(checkpoint.position)
        reached = _positions(checkpoint)
        for entry in read_steps(self._folder / "steps", checkpoint.step):
            at = at | {partition: stop for partition, _, stop in entry.ranges}
            if entry.action == "roll_back" and entry.restored is not None:
                start = reached.get(entry.restored, dict(checkpoint.position))
                withdrawn.append((start if entry.hand is None else dict(entry.hand.position), at))
            reached.setdefault(entry.version, at)
        return withdrawn

    def _apart_until_now(self, checkpoint: Checkpoint) -> Spans:
        """What the checkpoint and the steps since then have set aside, and nobody has released."""
        quarantine = Quarantine()
        if "quarantine" in checkpoint.values:
            quarantine.load(checkpoint.values["quarantine"])
        for entry in read_steps(self._folder / "steps", checkpoint.step):
            if entry.aside is not None:
                quarantine.enter(entry.aside)
        return quarantine.apart()

    def read(self, number: int) -> Kept | None:
        """The reservoir filled up to the log's end, or as it was when this consolidation began before; None where it
        was stopped."""
        kept = Kept.read(self.kept_path, self._spec)
        if kept.number == number:
            return kept
        history = History(self._spec, self._reader, self._withdrawn, self._apart)
        # What was read the last time is read again, for the sake of predictions that had no answer yet then, and of
        # events that were withdrawn since.
        for _ in history.until(kept.position):
            if self._stop():
                return None
        kept.gone = max(0, kept.reservoir.count - history.count)
        for before, count in history.withdrawn:
            kept.reservoir.withdraw(kept.gone + before, count)
        history.withdrawn.clear()
        for batch in history.until(self._reader.ends()):
            if self._stop():
                return None
            kept.reservoir.pass_over(history.take_withdrawn())
            kept.reservoir.add(batch)
        kept.reservoir.pass_over(history.take_withdrawn())
        kept.reservoir.amend(history.amended)
        kept.position, kept.number = dict(history.position), number
        kept.write(self.kept_path)
        return kept

    def parent(self, checkpoint: Checkpoint) -> Artifact | None:
        """What the learner's base was made of at the checkpoint; None where it had none."""
        base = model_state(checkpoint).values.get("base", "")
        return self.bases.artifact(base) if base else None

    def train(self, reservoir: Reservoir, training: Training | None, parent: Artifact | None) -> Trained | None:
        """A base from the one that the learner is on; None where it was stopped."""
        return train_base(
            self._spec,
            reservoir,
            champion=parent if parent is not None and parent.network else None,
            training=training,
            stop=self._stop,
            resume=self._folder / "consolidation" / "training.pt",
        )

    def rebuild(self, checkpoint: Checkpoint, base_id: str, kept: Kept) -> FastModel | None:
        """Heads that have learned everything up to the checkpoint, with the labels that it has by then; None where it
        was stopped."""
        said = History(self._spec, self._reader, self._withdrawn, self._apart)
        for _ in said.until(checkpoint.position):
            if self._stop():
                return None
        # What was taken back or corrected since is learned as it is now known to have been.
        history = History(self._spec, self._reader, self._withdrawn, self._apart, said.amended)

        def past() -> Iterator[Batch]:
            oldest = kept.reservoir.before(kept.gone)
            if oldest is not None:
                self.relearned += len(oldest)
                yield oldest
            yield from history.until(checkpoint.position)

        model = rebuild(self._spec, base_id, self.bases, past(), self._stop, self.outside)
        self.relearned += history.count
        return model

    def model_of(self, checkpoint: Checkpoint) -> FastModel:
        """The learner's model as it was at the checkpoint."""
        model = FastModel(self._spec, bases=self.bases, outside=self.outside)
        model.load(model_state(checkpoint))
        return model

    def leave(self, checkpoint: Checkpoint, model: FastModel, reached: Reached, **told: Any) -> bool:
        """Leave a candidate with this model, caught up with the steps since the checkpoint, and so much in its
        manifest; False where it was stopped."""
        caught_up = self.catch_up(checkpoint, model)
        if caught_up is None:
            return False
        learner, step = caught_up
        values, state = learner.save()
        manifest = ReadyManifest(
            step=step,
            needed=learner.needed(),
            seconds=time.monotonic() - self._began,
            cpu_s=time.process_time() - self._cpu,
            **told,
        )
        place = self._folder / "consolidation"
        write_ready(place, Ready(manifest=manifest, learner=values, model=state), reached)
        return True

    def catch_up(self, checkpoint: Checkpoint, model: FastModel) -> tuple[Learner, int] | None:
        """A learner with this model that has taken the journal's steps since the checkpoint, and the last of them; None
        where it was stopped."""
        spec = self._spec
        learner = Learner(spec, self._reader, JoinWindow.of(spec.label), model)
        learner.load(checkpoint.values["learner"], model.save())
        step = checkpoint.step
        while True:
            taken = 0
            for entry in read_steps(self._folder / "steps", step):
                if self._stop():
                    return None
                if entry.number != step + 1:
                    raise StepsCorrupt(
                        file=self._folder / "steps", byte=0, reason=f"step {step + 1} is missing behind a checkpoint"
                    )
                self._learn(learner, entry)
                step, taken = entry.number, taken + 1
            if taken <= NEARLY:
                return learner, step

    def _learn(self, learner: Learner, entry: Step) -> None:
        """One recorded step, if no rollback has withdrawn it, without what is set aside; what is known to have been
        released since was learned in its place."""
        aside = entry.aside or AsideStep()
        if not all(row.place in self._apart for row in aside.taken_out):
            raise TrainingFailed(reason="events that it has learned were set aside")
        self._apart.add(row.place for row in aside.aside)
        late = [row for row in aside.released if self._apart.discard(row.place)]
        if late:
            learner.release(late)
        if not entry.ranges:
            return
        partition, first, last = entry.ranges[0]
        if any(is_withdrawn for *_, is_withdrawn in parts(self._withdrawn, partition, first, last)):
            learner.pass_over(entry.number, entry.ranges)
        else:
            learner.again(entry.number, entry.ranges, self._apart)


def _positions(checkpoint: Checkpoint) -> dict[int, Position]:
    """The versions that the learner could go back to at the checkpoint, and where they stood."""
    packed = (array for name, array in checkpoint.arrays.items() if name.endswith("/block"))
    heads = [unpack(array.tobytes()).head for array in packed]
    return {head.version: dict(head.position) for head in heads}


def _details(trained: Trained, judged: Judged, relearned: int) -> dict[str, Any]:
    """What else is told of a candidate."""
    report = trained.report
    return {
        "loss": report.loss,
        "loss_before": report.loss_before,
        "steps": report.steps,
        "ended": report.ended,
        "replayed": report.replayed,
        "recent": report.recent,
        "relearned": relearned,
        "parent_base": trained.artifact.manifest.parent,
        "before": judged.before,
        "after": judged.after,
    }


def model_state(checkpoint: Checkpoint) -> State:
    """The model's part of a checkpoint."""
    prefix = "model/"
    arrays = {name.removeprefix(prefix): a for name, a in checkpoint.arrays.items() if name.startswith(prefix)}
    return State(checkpoint.values["model"], arrays)


def _distinct(reservoir: Reservoir) -> int:
    """Events that a base was trained on, each counted once."""
    places = [kept.places for kept in (reservoir.replay, reservoir.recent) if kept is not None]
    return len(np.unique(np.concatenate(places)))
