"""The hall: what each process of the house is made of, its stages wired to each other.

What `penstock up` starts (`penstock.control.house`) are processes that call these. Each imports its own stages only: a
server needs no gate, a learner no HTTP, and nobody but a training torch.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from penstock.control.house import PENSTOCK
from penstock.control.record import recorded_path
from penstock.errors import PenstockError
from penstock.publish.live import SharedLiveReader, live_path
from penstock.specfile.reader import load

if TYPE_CHECKING:
    from penstock.eventlog.interface import LogReader
    from penstock.gate.rule import HarmGate
    from penstock.learn.amended import Amendments
    from penstock.learn.fast.predictor import BlockPredictor
    from penstock.learn.interface import Block
    from penstock.learn.learner import Learner
    from penstock.publish.replay import Replay
    from penstock.publish.rooms import SlowRooms
    from penstock.spec import Spec

COMPILING = "compiling what learns, once for this installation: some twenty seconds\n"
TELL_AFTER_S = 2.0
"""After which it is told; reading what is compiled takes less."""


def run_server(services: Sequence[str], data: Path, *, worker: int, fd: int) -> None:
    """Answer for these services on an inherited listening socket until SIGTERM or SIGINT."""
    from penstock.serve.worker import WorkerConfig, run_worker

    files = tuple(str(recorded_path(data, service)) for service in services)
    run_worker(WorkerConfig(data=str(data), services=files, partition=worker, fd=fd))


def run_learner(service: str, data: Path) -> None:
    """Learn, judge and publish for one service until SIGTERM or SIGINT."""
    from penstock.eventlog.local import LocalLogReader
    from penstock.learn.checkpoint import Checkpoints
    from penstock.learn.steps import StepJournal
    from penstock.publish.environment import keep, this_environment
    from penstock.publish.last_words import leave
    from penstock.publish.live import SharedLiveWeights
    from penstock.publish.publisher import Publisher
    from penstock.publish.receipts import SqliteReceipts
    from penstock.publish.rooms import Rooms
    from penstock.publish.snapshots import LocalSnapshots

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _load_machine_code(data)
    folder = data / service
    spec = load(recorded_path(data, service))
    readers = (LocalLogReader(folder / "log"), LocalLogReader(folder / "log"))
    rooms = Rooms(
        journal=StepJournal(folder / "steps"),
        checkpoints=Checkpoints(folder / "checkpoints", spec.learn.checkpoints_kept),
        live=SharedLiveWeights(live_path(data, service)),
        snapshots=LocalSnapshots(folder / "snapshots", service),
        receipts=SqliteReceipts(folder / "versions.sqlite", service),
    )
    parts = _parts(spec, folder, readers)
    publisher = Publisher(
        spec,
        parts.learner,
        parts.gate,
        parts.predictor,
        rooms,
        slow=parts.slow,
        environment=keep(folder, this_environment(spec)),
    )
    try:
        publisher.run(stop)
    except PenstockError as error:
        leave(folder, error)
        raise
    for reader in readers:
        reader.close()


class _Parts(NamedTuple):
    """What decides about the versions of one service, knowing nothing yet."""

    learner: Learner
    gate: HarmGate
    predictor: Callable[[Block], BlockPredictor]
    slow: SlowRooms


def _parts(spec: Spec, folder: Path, readers: tuple[LogReader, LogReader]) -> _Parts:
    from penstock.gate.rule import HarmGate
    from penstock.join.window import JoinWindow
    from penstock.learn.fast.model import FastModel
    from penstock.learn.fast.predictor import BlockPredictor
    from penstock.learn.learner import Learner
    from penstock.learn.outside.registry import outside_members
    from penstock.learn.slow.base import LocalBases
    from penstock.publish.rooms import SlowRooms

    bases = LocalBases(folder / "bases")
    outside = outside_members(spec, folder)

    def learner_over(reader: LogReader) -> Learner:
        model = FastModel(spec, bases, outside=outside)
        return Learner(spec, reader, JoinWindow(spec.label.wait_s, spec.label.waiting_max), model)

    return _Parts(
        learner=learner_over(readers[0]),
        gate=HarmGate(spec.gate),
        predictor=lambda block: BlockPredictor(block, spec, bases, outside),
        # A candidate is caught up by a reader of its own, so that neither loses its place in the log to the other.
        slow=SlowRooms(
            consolidation=folder / "consolidation", bases=folder / "bases", follower=lambda: learner_over(readers[1])
        ),
    )


@contextmanager
def replay_of(service: str, data: Path, amendments: Amendments | None = None) -> Iterator[Replay]:
    """The recorded past of a service in this folder, to be taken once more: whether it runs or not, nothing is written.

    Each part of the past is repeated under the service file that it was recorded under."""
    from penstock.eventlog.local import LocalLogReader
    from penstock.learn.amended import AmendedReader
    from penstock.learn.steps import RecordedSteps
    from penstock.publish.environment import find
    from penstock.publish.replay import Replay
    from penstock.publish.shadow import Shadows
    from penstock.publish.succession import Succession

    folder = data / service
    now = load(recorded_path(data, service))
    opened = (LocalLogReader(folder / "log"), LocalLogReader(folder / "log"))
    amended = {} if amendments is None else amendments
    readers = (AmendedReader(opened[0], amended), AmendedReader(opened[1], amended))

    def build(environment: str) -> Succession:
        recorded = find(folder, environment) if environment else None
        spec = now if recorded is None else recorded.spec
        parts = _parts(spec, folder, readers)
        return Succession(spec, parts.learner, parts.gate, parts.predictor, Shadows(parts.slow))

    try:
        yield Replay(build, RecordedSteps(folder / "steps"), amendments)
    finally:
        for reader in opened:
            reader.close()


def run_consolidator(service: str, data: Path) -> None:
    """Train the service's base whenever it is due, until SIGTERM or SIGINT."""
    from penstock.control.consolidator import Consolidator

    os.nice(19)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    spec = load(recorded_path(data, service))

    def command(number: int, reason: str) -> list[str]:
        arguments = ["--data", str(data), service, "--number", str(number), "--reason", reason]
        return [*PENSTOCK, "_consolidate", *arguments]

    live = SharedLiveReader(live_path(data, service))
    Consolidator(spec, data / service, live, command).run(stop)
    live.close()


def run_consolidation(service: str, data: Path, *, number: int, reason: str) -> int:
    """Train a base and leave a candidate on it, or stop at SIGTERM; the exit code."""
    from penstock.learn.slow.consolidate import consolidate

    stop = threading.Event()
    for caught in (signal.SIGTERM, signal.SIGINT):
        signal.signal(caught, lambda *_: stop.set())
    spec = load(recorded_path(data, service))
    made = consolidate(spec, data / service, number=number, reason=reason, stop=stop.is_set)
    return 0 if made is not None else 1


def _load_machine_code(data: Path) -> None:
    """One learner compiles what is not compiled yet, the others wait and read what it kept."""
    turn = data / "run" / "compiling"
    turn.parent.mkdir(exist_ok=True)
    with turn.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        told = threading.Timer(TELL_AFTER_S, sys.stderr.write, (COMPILING,))
        told.daemon = True
        told.start()
        import penstock.learn.fast.machine_code  # noqa: F401

        told.cancel()
