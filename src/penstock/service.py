"""The hall: what each process of the house is made of, its stages wired to each other.

What `penstock up` starts (`penstock.control.house`) are processes that call these. Each imports its own stages only: a
server needs no gate, a learner no HTTP, and nobody but a training torch.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.control.house import PENSTOCK
from penstock.control.record import recorded, recorded_path
from penstock.control.spare import go_on_in_fork
from penstock.errors import PenstockError
from penstock.publish.weights.live import SharedLiveReader
from penstock.publish.weights.live_files import live_path
from penstock.specfile.reader import load

if TYPE_CHECKING:
    from penstock.events import Version
    from penstock.learn.checkpoint import Checkpoints
    from penstock.publish.interface import Witness
    from penstock.publish.past.lineage import Archive
    from penstock.publish.past.verify import Verification
    from penstock.publish.publisher import Publisher
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
    from penstock.learn.checkpoint import Checkpoints
    from penstock.publish.notices.last_words import leave
    from penstock.publish.records.environment import keep, this_environment
    from penstock.publish.restarts import settings_behind

    _load_machine_code(data)
    _load_for_the_fork()
    spec, folder = load(recorded_path(data, service)), data / service
    environment = keep(folder, this_environment(spec))
    stop = go_on_in_fork()
    try:
        checkpoints = Checkpoints(folder / "checkpoints", spec.learn.checkpoints_kept)
        before = settings_behind(spec, folder, checkpoints)
        if before is not None:
            old = Checkpoints(folder / "checkpoints", before.learn.checkpoints_kept)
            with _publisher(before, data, old) as publisher:
                publisher.settle()
        with _publisher(spec, data, checkpoints, environment) as publisher:
            publisher.run(stop)
    except PenstockError as error:
        leave(folder, error)
        raise


@contextmanager
def _publisher(spec: Spec, data: Path, checkpoints: Checkpoints, environment: str = "") -> Iterator[Publisher]:
    """Who decides about the versions of this service, and writes into its folder."""
    from penstock.eventlog.local import LocalLogReader
    from penstock.learn.journal import StepJournal
    from penstock.publish.assembly import is_past_whole, parts_of
    from penstock.publish.notices.allowance import AllowanceFile
    from penstock.publish.publisher import Publisher
    from penstock.publish.records.receipts import SqliteReceipts
    from penstock.publish.rooms import Rooms
    from penstock.publish.weights.live import SharedLiveWeights
    from penstock.publish.weights.snapshots import LocalSnapshots

    service, folder = spec.name, data / spec.name
    readers = (LocalLogReader(folder / "log"), LocalLogReader(folder / "log"))
    journal = StepJournal(folder / "steps")
    rooms = Rooms(
        journal=journal,
        checkpoints=checkpoints,
        live=SharedLiveWeights(live_path(data, service)),
        snapshots=LocalSnapshots(folder / "snapshots", service),
        receipts=SqliteReceipts(folder / "versions.sqlite", service),
        witness=_witness(spec),
        wishes=folder / "quarantine",
        orders=folder / "orders",
        canary=folder / "canary",
        allowance=AllowanceFile(folder),
        keeps_past=lambda: is_past_whole(journal, readers[0].starts(), folder, spec.budget.past_max_bytes),
        corrected=lambda cpu_s: _spent_correcting(service, cpu_s),
    )
    parts = parts_of(spec, folder, *readers)
    yield Publisher(spec, parts.learner, parts.gate, parts.predictor, rooms, slow=parts.slow, environment=environment)
    for reader in readers:
        reader.close()


def _spent_correcting(service: str, cpu_s: float) -> None:
    # What counts takes a while to load, and many services are never corrected.
    from penstock.metrics import spent_correcting

    spent_correcting(service, cpu_s)


def _witness(spec: Spec) -> Witness | None:
    """Who is told of versions beside the receipts; an adapter is found by its name, since the hall knows no vendor.
    Raises ExtraMissing."""
    if not spec.lineage.openlineage:
        return None
    adapter = importlib.import_module("penstock.integrations.openlineage")
    told: Witness = adapter.OpenLineageWitness(spec)
    return told


def run_verification(
    service: str, data: Path, version: int, *, from_start: bool, progress: Callable[[int, int, int], None]
) -> Verification:
    """Rebuild a version of a service, which may be running or not, and compare; nothing is written.

    Raises UnknownService and UnknownVersion."""
    from penstock.events import Version
    from penstock.learn.checkpoint import Checkpoints
    from penstock.publish.assembly import replay_of
    from penstock.publish.past.verify import Past, Verifier
    from penstock.publish.records.environment import this_environment
    from penstock.publish.records.receipts import SqliteReceipts
    from penstock.publish.weights.snapshots import LocalSnapshots

    spec, folder = recorded(data, service), data / service
    receipts = SqliteReceipts(folder / "versions.sqlite", service, read_only=True)
    with replay_of(spec, folder) as replay:
        past = Past(
            folder=folder,
            replay=replay,
            checkpoints=Checkpoints(folder / "checkpoints", spec.learn.checkpoints_kept),
            snapshots=LocalSnapshots(folder / "snapshots", service),
            receipts=receipts,
            here=this_environment(spec),
        )
        found = Verifier(service, past, Version(version), from_start=from_start, progress=progress).verify()
    receipts.close()
    return found


def versions_kept(service: str, data: Path) -> list[Version]:
    """Versions of a service that does not run which can be gone back to."""
    from penstock.learn.block import unpack
    from penstock.learn.checkpoint import Checkpoints
    from penstock.publish.weights.snapshots import LocalSnapshots

    folder = data / service
    kept = set(LocalSnapshots(folder / "snapshots", service).versions(with_state=True))
    checkpoint = Checkpoints(folder / "checkpoints", kept=1).newest()[0]
    if checkpoint is not None:
        held = [name for name in ("beginning/block", "good/block", "probation/block") if name in checkpoint.arrays]
        kept |= {unpack(checkpoint.arrays[name].tobytes()).head.version for name in held}
        kept.discard(checkpoint.version)
    return sorted(kept)


@contextmanager
def archive_of(service: str, data: Path) -> Iterator[Archive]:
    """What a service keeps, which may be running or not, to be asked where versions come from and events went.

    Raises UnknownService."""
    from penstock.eventlog.local import LocalLogReader
    from penstock.learn.journal import RecordedSteps
    from penstock.publish.past.lineage import Archive
    from penstock.publish.records.receipts import SqliteReceipts

    recorded(data, service)
    folder = data / service
    receipts = SqliteReceipts(folder / "versions.sqlite", service, read_only=True)
    reader = LocalLogReader(folder / "log")
    try:
        yield Archive(service, folder, reader, RecordedSteps(folder / "steps"), receipts)
    finally:
        reader.close()
        receipts.close()


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
    """Train a base, or have other settings learn the log, and leave a candidate, or stop at SIGTERM; the exit code."""
    from penstock.learn.slow.challenge import challenge
    from penstock.learn.slow.consolidate import consolidate
    from penstock.publish.candidates.consolidating import asked_challenge

    stop = threading.Event()
    for caught in (signal.SIGTERM, signal.SIGINT):
        signal.signal(caught, lambda *_: stop.set())
    spec, folder = load(recorded_path(data, service)), data / service
    if reason != "challenge":
        made = consolidate(spec, folder, number=number, reason=reason, stop=stop.is_set)
    elif (asked := asked_challenge(folder / "consolidation")) is not None:
        made = challenge(
            spec, folder, asked.configuration, asked.changes, number=number, reason=reason, stop=stop.is_set
        )
    else:
        sys.stderr.write("what was to be tried is not asked for any more\n")
        return 1
    return 0 if made is not None else 1


def run_governor(services: Sequence[str], data: Path) -> None:
    """Watch what these services cost, and hold learning back by their budgets, until SIGTERM or SIGINT."""
    from penstock.control.changes import wait_for_change
    from penstock.control.courier import Courier
    from penstock.control.governor import Governor
    from penstock.control.ledger import Ledger, ledger_path
    from penstock.control.local_actuator import LocalActuator
    from penstock.control.meter_reader import MeterReader
    from penstock.control.portfolio import read_house
    from penstock.control.sensor import Sensor

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ledger = Ledger(ledger_path(data))
    courier = Courier(lambda: Ledger(ledger_path(data)), data)
    live = {service: SharedLiveReader(live_path(data, service)) for service in services}
    house = read_house(data)
    meters = house.portfolio.meter
    readings = None
    if meters is not None:
        # Found by its name, as every adapter is: the hall knows no vendor.
        adapter = importlib.import_module("penstock.integrations.opencost")
        readings = MeterReader(partial(adapter.OpenCostMeter, meters), meters.every_s, ledger.metered().outside)
    governor = Governor(
        [load(recorded_path(data, service)) for service in services],
        data,
        house,
        sensor=Sensor(os.getppid(), services),
        live=live,
        actuator=LocalActuator(data),
        ledger=ledger,
        heard=None if readings is None else readings.take,
    )
    courier.start()
    if readings is not None:
        readings.start()
    while not stop.is_set():
        wait_for_change(data, stop, governor.look(), has_heard=readings.has_heard if readings else lambda: False)
    governor.look()
    if readings is not None:
        readings.close()
    courier.close()
    ledger.close()
    for reader in live.values():
        reader.close()


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
        told.join()


def _load_for_the_fork() -> None:
    """What is first used by who works is there when he begins, and no restart waits for it."""
    import penstock.learn.fast.triangles
    import penstock.publish.assembly
    import penstock.publish.publisher
    import penstock.publish.records.receipts  # noqa: F401
