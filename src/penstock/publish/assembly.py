"""What decides about one service's versions, put together from its folder: for the learner that goes on from there, and
for whoever takes its recorded steps once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from penstock.eventlog.interface import LogReader
from penstock.eventlog.local import LocalLogReader
from penstock.events import Position
from penstock.gate.rule import HarmGate
from penstock.join.window import JoinWindow
from penstock.learn.amended import AmendedReader, Amendments
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Block
from penstock.learn.journal import RecordedSteps, StepJournal
from penstock.learn.learner import Learner
from penstock.learn.outside.registry import outside_members
from penstock.learn.ready import shelf_bytes
from penstock.learn.slow.base import LocalBases
from penstock.learn.steps import Step
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.past.replay import Replay
from penstock.publish.records.environment import find
from penstock.publish.rooms import SlowRooms
from penstock.publish.succession import Succession
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.spec import Spec


class Parts(NamedTuple):
    """What knows nothing yet of the past."""

    learner: Learner
    gate: HarmGate
    predictor: Callable[[Block], BlockPredictor]
    slow: SlowRooms


def parts_of(spec: Spec, folder: Path, reader: LogReader, followers_reader: LogReader) -> Parts:
    """The parts of the service in this folder. A candidate is caught up by a reader of its own, so that neither loses
    its place in the log to the other. Raises LibraryMissing and SpecInvalid."""
    bases = LocalBases(folder / "bases")
    outside = outside_members(spec, folder)

    def learner_over(reader: LogReader) -> Learner:
        model = FastModel(spec, bases, outside=outside)
        return Learner(spec, reader, JoinWindow.of(spec.label), model)

    return Parts(
        learner=learner_over(reader),
        gate=HarmGate(spec.gate),
        predictor=lambda block: BlockPredictor(block, spec, bases, outside, compiled=True),
        slow=SlowRooms(
            consolidation=folder / "consolidation",
            bases=folder / "bases",
            follower=lambda: learner_over(followers_reader),
            seen=bases.seen,
        ),
    )


def is_past_whole(journal: StepJournal, log_starts: Position, folder: Path, bytes_max: int) -> bool:
    """Whether versions can still be rebuilt from the log's first event on: it is there, the steps are, and what is kept
    for it takes no more than so much."""
    first, size = journal.past()
    is_there = first == 1 and not any(log_starts.values())
    return is_there and size + shelf_bytes(folder / "consolidation") <= bytes_max


@contextmanager
def replay_of(
    spec: Spec,
    folder: Path,
    amendments: Amendments | None = None,
    *,
    steps: Path | None = None,
    restated: Callable[[Step], Step] | None = None,
) -> Iterator[Replay]:
    """The recorded past of the service in this folder, to be taken once more, whether it runs or not: nothing is
    written. Each part of it is repeated under the service file that it was recorded under; ``spec`` is today's. The
    ``steps`` may stand elsewhere and be of another log, where ``restated`` says what follows from that."""
    readers = [LocalLogReader(folder / "log"), LocalLogReader(folder / "log")]
    reader, followers = (AmendedReader(opened, amendments or {}) for opened in readers)

    def build(environment: str) -> Succession:
        recorded = find(folder, environment) if environment else None
        then = spec if recorded is None else recorded.spec
        parts = parts_of(then, folder, reader, followers)
        snapshots = LocalSnapshots(folder / "snapshots", spec.name)
        return Succession(then, parts.learner, parts.gate, parts.predictor, Shadows(parts.slow), snapshots)

    try:
        yield Replay(build, RecordedSteps(steps or folder / "steps"), amendments, restated)
    finally:
        for opened in readers:
            opened.close()
