"""A whole learner in small: a service, a log with everything in it, and the publisher that learns from it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from penstock.eventlog.interface import Entry, LogReader
from penstock.events import Batch, Kind, Partition, encode
from penstock.join.window import JoinWindow
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.interface import HeldOut, State
from penstock.learn.journal import StepJournal
from penstock.learn.learner import Learner
from penstock.learn.ready import Ready, ReadyManifest, write_ready
from penstock.learn.steps import Reached, Step, nothing
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.interface import Witness
from penstock.publish.publisher import Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.rooms import Clocks, Rooms, SlowRooms
from penstock.publish.succession import Succession
from penstock.publish.weights.live import SharedLiveWeights
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.replies import Incumbent, Replies
from penstock.spec import ClassName, Feature, Label, Learn, Spec
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_learner import ScriptedGate, SmallModel, SmallPredictor

SPEC = Spec(
    name="small",
    task="multiclass",
    features={"x": Feature(type="number"), "y": Feature(type="number")},
    label=Label(wait_s=30.0),
    learn=Learn(step_max=7, checkpoint_every_s=3.0, checkpoints_kept=2, step_interval_ms=0.0),
)
NEVER_S = threading.TIMEOUT_MAX
"""Receipts are written when a step asks for it and at no other time, or how often would depend on the machine."""
SCRIPT = ("publish", "probation", "publish", "good", "hold", "hold", "publish", "probation", "roll_back", "publish")


def small_events(
    kind: Kind, rng: np.random.Generator, n: int, first_id: int, sources: Sequence[str | None] = (None,)
) -> Batch:
    """Rows in which the label follows the numbers; a third class appears late in the stream. The sources take turns."""
    numbers = rng.normal(size=(n, 2))
    labels = [ClassName(str(int(x > 0) + int(y > 1.2))) for x, y in numbers]
    return Batch(
        kind=kind,
        times=np.zeros(n),
        ids=[f"{'e' if kind is Kind.EXAMPLE else 'p'}{first_id + i}" for i in range(n)],
        sources=None if sources == (None,) else [sources[i % len(sources)] for i in range(n)],
        numbers=np.empty((n, 0)) if kind is Kind.FEEDBACK else numbers,
        vectors=(),
        strings=(),
        labels=None if kind is Kind.PREDICTION else labels,
        versions=np.ones(n, np.uint64) if kind is Kind.PREDICTION else None,
    )


def with_incumbent(batch: Batch, *, is_right: bool) -> Batch:
    """The same where another system has answered, always right or always wrong, once with the chances of classes, twice
    with a class, and then not at all; and where our own replies to predictions are kept."""
    if batch.kind is Kind.PREDICTION:
        chances = np.tile(np.array([[0.1, 0.7, 0.2]], np.float32), (len(batch), 1))
        return replace(batch, replies=Replies(chances, (ClassName("1"), ClassName("0"), ClassName("never"))))
    said: list[Incumbent | None] = []
    for row, label in enumerate(cast("list[ClassName | None]", batch.labels)):
        answer: Incumbent = str(label) if is_right else "none of them"
        said.append(({str(answer): 1.0}, answer, answer, None)[row % 4])
    return replace(batch, incumbents=said)


def filled_log(
    rounds: int, sources: Sequence[str | None] = (None,), *, corrected: bool = False, has_incumbent: bool = False
) -> MemoryLog:
    """Two partitions with frames of all kinds: answered, unanswered and repeated predictions, answers that come before
    their question in the other partition, examples that are sent twice, and long runs without a label. Answers are sent
    by the sources. Where it is ``corrected``, they and examples get other labels later, or are taken back, some of them
    after many others. With an incumbent, that is right in the first and the last fifth, and wrong between."""
    ticks = itertools.count()
    log = MemoryLog(clock=lambda: 1000.0 + 0.1 * next(ticks))
    writers = [log.writer(Partition(0)), log.writer(Partition(1))]
    rng = np.random.default_rng(5)

    def append(writer: int, batch: Batch) -> None:
        if has_incumbent:
            batch = with_incumbent(batch, is_right=not rounds <= 5 * i < 4 * rounds)
        writers[writer].append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])

    for i in range(rounds):
        append(0, small_events(Kind.EXAMPLE, rng, 1 + i % 5, 10 * i))
        append(1, small_events(Kind.PREDICTION, rng, 9, 20 * i))
        append(0, small_events(Kind.FEEDBACK, rng, 4, 20 * i + (i % 3), sources))
        append(1, small_events(Kind.EXAMPLE, rng, 3, 10 * i))
        append(1, small_events(Kind.FEEDBACK, rng, 3, 20 * i + 7, sources))
        if corrected and i:
            append(i % 2, second_thoughts(rng, [f"p{20 * i + 1}", f"p{20 * (i - 1) + 2}", f"e{10 * (i // 2)}"]))
    return log


def second_thoughts(rng: np.random.Generator, ids: Sequence[str]) -> Batch:
    """Other labels for what has these ids, or none."""
    labels: Any = [ClassName(str(n)) if n < 3 else None for n in rng.integers(0, 4, len(ids))]
    told = small_events(Kind.FEEDBACK, rng, len(ids), 0)
    return replace(told, ids=list(ids), labels=labels)


def build_publisher(
    folder: Path,
    log: MemoryLog,
    reached: Reached = nothing,
    *,
    kept: int = SPEC.learn.checkpoints_kept,
    script: Sequence[str] = SCRIPT,
    keeps_past: bool = False,
    witness: Witness | None = None,
    spec: Spec = SPEC,
    clocks: Clocks | None = None,
) -> Publisher:
    """A publisher over files in the folder, whose clocks are the log's time, so that nothing depends on when it
    runs."""
    learner = learner_over(log.reader(), spec)
    rooms = Rooms(
        journal=StepJournal(folder / "steps", reached),
        checkpoints=Checkpoints(folder / "checkpoints", kept, reached),
        live=SharedLiveWeights(folder / "live", reached),
        snapshots=LocalSnapshots(folder / "snapshots", SPEC.name, reached),
        receipts=SqliteReceipts(folder / "versions.sqlite", SPEC.name, reached=reached, flush_every_s=NEVER_S),
        witness=witness,
        wishes=folder / "quarantine",
        orders=folder / "orders",
        canary=folder / "canary",
        keeps_past=lambda: keeps_past,
    )
    clocks = clocks or Clocks(now=lambda: learner.log_time, elapsed=lambda: learner.log_time, cpu=lambda: 0.0)
    slow = SlowRooms(
        consolidation=folder / "consolidation", bases=folder / "bases", follower=lambda: small_learner(log)
    )
    return Publisher(spec, learner, ScriptedGate(script), SmallPredictor, rooms, clocks, reached, slow)


def build_succession(
    folder: Path, reader: LogReader, *, script: Sequence[str] = SCRIPT, spec: Spec = SPEC
) -> Succession:
    """What a publisher over this folder decides with, over another reader: for whoever repeats its steps."""
    slow = SlowRooms(
        consolidation=folder / "consolidation", bases=folder / "bases", follower=lambda: learner_over(reader)
    )
    gate = ScriptedGate(script)
    snapshots = LocalSnapshots(folder / "snapshots", SPEC.name)
    return Succession(spec, learner_over(reader, spec), gate, SmallPredictor, Shadows(slow), snapshots)


def small_learner(log: MemoryLog) -> Learner:
    """A learner that knows nothing yet."""
    return learner_over(log.reader())


def learner_over(reader: LogReader, spec: Spec = SPEC) -> Learner:
    """The same over any reader."""
    return Learner(spec, reader, JoinWindow.of(spec.label), SmallModel(columns=2))


def leave_candidate(
    folder: Path,
    log: MemoryLog,
    entries: Iterable[Step],
    number: int,
    *,
    step: int,
    forgotten: float = 0.0,
    shift: int = 0,
) -> str:
    """What a consolidation leaves: a learner after this step of the recorded ones, whose model has another base and
    learns at another rate; ``shift`` is how much higher the step's number is where it will be adopted. The id of the
    base."""
    base = f"{number:064x}"
    (folder / "bases" / base).mkdir(parents=True)
    leave_learner(
        folder,
        small_learner(log),
        (entry for entry in entries if entry.number <= step),
        shift=shift,
        other={"rate": 0.5 / number, "base": base},
        number=number,
        base=base,
        held_out=HeldOut(events=10, gained=3, lost=1, forgotten=forgotten),
    )
    return base


def leave_learner(
    folder: Path,
    learner: Learner,
    entries: Iterable[Step],
    *,
    shift: int = 0,
    reason: str = "schedule",
    other: Mapping[str, object] = MappingProxyType({}),
    **told: Any,
) -> None:
    """Leave this learner, once it has learned the recorded steps, as a consolidation does that tells so much of itself
    in its manifest. Some values of the model may be other ones then."""
    step = 0
    for entry in entries:
        if entry.ranges:
            learner.again(entry.number, entry.ranges)
        step = entry.number
    values, model = learner.save()
    manifest = ReadyManifest(step=step + shift, reason=reason, needed=learner.needed(), **told)
    model = State({**model.values, **other}, model.arrays)
    write_ready(folder / "consolidation", Ready(manifest=manifest, learner=values, model=model))
