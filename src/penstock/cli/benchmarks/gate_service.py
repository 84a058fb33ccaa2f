"""One service's learner with all that decides what is served of it, in this process and over a log on disk.

It runs what a running service runs, but for journal, checkpoints and shared memory; without its gate every update is
published. Steps have a fixed length, so that a run does not depend on how fast the machine is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.eventlog.interface import Entry
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Batch, Partition, encode
from penstock.gate.interface import Evidence, Gate, Order, ShadowVerdict, Verdict
from penstock.learn.interface import Block, Heard, HeldOut, Predictor
from penstock.learn.steps import CanaryCounts
from penstock.publish.assembly import parts_of
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.entries import Stamp
from penstock.publish.succession import Succession
from penstock.spec import Spec

STEP = 32
"""Events of a step."""
FRAME = 1024
"""Events that are appended to the log at once."""


class Ungated:
    """Publishes every update, whatever it does; implements `penstock.gate.interface.Gate`."""

    def judge(self, evidence: Evidence) -> Verdict:
        return Verdict(action="publish", reason="There is no gate.")

    @property
    def doubted(self) -> tuple[str | None, ...]:
        return ()

    def hear(self, heard: Heard | CanaryCounts) -> ShadowVerdict | None:
        return None

    def begin_shadow(self, claim: HeldOut) -> ShadowVerdict | None:
        return None

    def shadow_so_far(self) -> ShadowVerdict | None:
        return None

    def obey(self, order: Order, told: str) -> Verdict | None:
        return None

    def save(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """It has no state."""


class Followed(msgspec.Struct, kw_only=True):
    """What came of a run."""

    losses: list[float] = []
    """Of what was served, summed over the events of each step, also of those that are not learned."""
    events: list[int] = []
    """Labelled events of each step."""
    seconds: list[float] = []
    """Processor time from an event's being taken to the block that has learned it, of each step."""
    rollbacks: list[int] = []
    """Events before each rollback."""
    verdicts: list[str] = []
    """What was said of each rollback, and of what was taken out."""
    aside: dict[str, int] = {}
    """Events that were set aside or taken out, by their source."""
    taken_out: list[tuple[int, set[str]]] = []
    """Events before what some sources had taught was taken out, and these sources."""

    @property
    def mean_loss(self) -> float:
        """Of what was served, an event."""
        return sum(self.losses) / max(sum(self.events), 1)


Look = Callable[[int, Block, Callable[[Block], Predictor], Succession], None]
"""Told after each step: the events so far, what is served, how it answers, and all that decides."""


def follow(
    spec: Spec, batches: Sequence[Batch], *, gated: bool, step: int = STEP, look: Look | None = None
) -> Followed:
    """Learn these events in steps of so many; without a gate also those that would be its anchors."""
    learn = msgspec.structs.replace(spec.learn, step_max=step, catch_up_s=0.0)
    gate_settings = spec.gate if gated else msgspec.structs.replace(spec.gate, source_share_max=1.0, anchors=0)
    spec = msgspec.structs.replace(spec, learn=learn, gate=gate_settings)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        writer = LocalLogWriter(folder / "log", Partition(0))
        for batch in batches:
            for at in range(0, len(batch), FRAME):
                part = batch.rows(slice(at, at + FRAME))
                writer.append([Entry(kind=part.kind, count=len(part), payload=encode(part))])
        writer.close()
        readers = LocalLogReader(folder / "log"), LocalLogReader(folder / "log")
        try:
            parts = parts_of(spec, folder, *readers)
            gate: Gate = parts.gate if gated else Ungated()
            succession = Succession(spec, parts.learner, gate, parts.predictor, Shadows(None))
            return _followed(succession, parts.predictor, look)
        finally:
            for reader in readers:
                reader.close()


def _followed(succession: Succession, predictor: Callable[[Block], Predictor], look: Look | None) -> Followed:
    found = Followed()
    first, _ = succession.begin(Stamp(number=1, time=0.0))
    succession.enter(first)
    number, done, learner = 1, 0, succession.learner
    while True:
        began = time.process_time()
        taken = learner.take()
        if taken is None:
            break
        number += 1
        entry, _ = succession.decide(taken, lambda _, number=number: Stamp(number=number, time=0.0))  # type: ignore[misc]
        found.seconds.append(time.process_time() - began)
        succession.enter(entry)
        done += taken.events
        found.events.append(entry.events)
        found.losses.append(entry.served_sum)
        if entry.action == "roll_back":
            found.rollbacks.append(done)
        if entry.action == "roll_back" or (entry.aside is not None and entry.aside.taken_out):
            found.verdicts.append(f"after {done:,} events: {entry.verdict}")
        if entry.aside is not None and entry.aside.taken_out:
            found.taken_out.append((done, {row.source or "" for row in entry.aside.taken_out}))
        if entry.aside is not None:
            for row in (*entry.aside.aside, *entry.aside.taken_out):
                found.aside[row.source or ""] = found.aside.get(row.source or "", 0) + 1
        if look is not None:
            look(done, succession.line.block, predictor, succession)
    return found


def losses_of(block: Block, predictor: Callable[[Block], Predictor], events: Batch) -> NDArray[np.float64]:
    """(n,) losses of one version."""
    version = predictor(block)
    parts = [events.rows(slice(at, at + FRAME)) for at in range(0, len(events), FRAME)]
    return np.concatenate([version.losses(version.predict(part), part) for part in parts])


def right_of(block: Block, predictor: Callable[[Block], Predictor], events: Batch) -> NDArray[np.bool_]:
    """(n,) of which events the most probable class is right."""
    version, right = predictor(block), np.zeros(len(events), np.bool_)
    names = np.array(block.head.classes)
    for at in range(0, len(events), FRAME):
        part = events.rows(slice(at, at + FRAME))
        said = version.predict(part).probabilities
        if said is not None and len(names):
            right[at : at + FRAME] = names[said.argmax(axis=1)] == np.array(part.labels)
    return right
