"""The hall: a service is recorded in its data folder, its doors are opened, and the stages are wired to each other.

What `penstock up` starts are processes that call `run_server` and `run_learner`. They read the recorded service, not
the file it came from, so that an edit takes effect at the next `up` and never by an accidental restart.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from penstock.control.folder import State, locked, state_path, write_state
from penstock.control.record import record, recorded_path
from penstock.control.supervisor import Child, Supervisor
from penstock.errors import CannotListen
from penstock.publish.live import live_path, remove_live
from penstock.spec import Spec
from penstock.specfile.reader import load

BACKLOG = 2048
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Results must not depend on how many threads add numbers up, and two busy ones on two cores are slower than one."""


# The house ------------------------------------------------------------------------------------------------------------


def run_house(
    specs: Mapping[Path, Spec],
    data: Path,
    *,
    host: str,
    port: int,
    workers: int,
    announce: Callable[[str], None],
) -> int:
    """Run these services until SIGTERM or SIGINT; the exit code. ``announce`` is told the address when all answer.

    Raises FolderInUse, FolderUnusable, SpecChanged and CannotListen before anything is started."""
    with locked(data) as lock:
        record(specs, data)
        counted = data / "run" / "metrics"
        shutil.rmtree(counted, ignore_errors=True)
        counted.mkdir()
        with _listening(host, port) as listener:
            address = _address(listener)
            state = State(
                pid=os.getpid(),
                address=f"http://{address}",
                started=time.time(),
                services=[spec.name for spec in specs.values()],
            )

            def note(supervisor: Supervisor) -> None:
                state.ready = supervisor.ready
                state.servers, state.learners = supervisor.pids("servers"), supervisor.pids("learners")
                state.restarts = supervisor.restarts()
                try:
                    write_state(data, state)
                except OSError as error:
                    # As on a full disk: what runs must go on running, and the next change is written again.
                    supervisor.say("up", f"{state_path(data)} cannot be written: {error.strerror}")

            supervisor = Supervisor(
                _children(state.services, data, workers, listener.fileno(), lock, counted),
                is_ready=lambda: _is_ready(address),
                on_ready=lambda: announce(state.address),
                on_change=note,
                on_stop=listener.close,
            )
            try:
                return supervisor.run()
            finally:
                state_path(data).unlink(missing_ok=True)
                for service in state.services:
                    # Checkpoints have all that is in there, and memory is not for stopped services to keep.
                    remove_live(live_path(data, service))


def _children(services: Sequence[str], data: Path, workers: int, fd: int, lock: int, counted: Path) -> list[Child]:
    penstock = (sys.executable, "-P", "-m", "penstock")
    env = {**ONE_THREAD, "PROMETHEUS_MULTIPROC_DIR": str(counted), "PYTHONUNBUFFERED": "1"}
    learners = [
        Child(
            name=f"learner {service}",
            argv=(*penstock, "_learner", "--data", str(data), service),
            group="learners",
            key=service,
            drain=1,
            env=env,
            descriptors=(lock,),
        )
        for service in services
    ]
    servers = [
        Child(
            name=f"server {worker}",
            argv=(*penstock, "_server", "--data", str(data), "--worker", str(worker), "--fd", str(fd), *services),
            group="servers",
            key=str(worker),
            drain=0,
            env=env,
            descriptors=(lock, fd),
        )
        for worker in range(workers)
    ]
    return [*learners, *servers]


def _listening(host: str, port: int) -> socket.socket:
    """The one listening socket: a worker that is started again finds the connections that came meanwhile."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        # Python adds to the system's words what it was doing; for a host without an address there are only its own.
        number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
        reason = os.strerror(number).lower() if number else str(getattr(error, "strerror", None) or error)
        raise CannotListen(address=f"{host}:{port}", reason=reason) from error


def _address(listener: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=1.0)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# The processes --------------------------------------------------------------------------------------------------------
# Each imports its own stages only: a server needs no gate and a learner no HTTP.


def run_server(services: Sequence[str], data: Path, *, worker: int, fd: int) -> None:
    """Answer for these services on an inherited listening socket until SIGTERM or SIGINT."""
    from penstock.serve.worker import WorkerConfig, run_worker

    files = tuple(str(recorded_path(data, service)) for service in services)
    run_worker(WorkerConfig(data=str(data), services=files, partition=worker, fd=fd))


def run_learner(service: str, data: Path) -> None:
    """Learn, judge and publish for one service until SIGTERM or SIGINT."""
    from penstock.eventlog.local import LocalLogReader
    from penstock.gate.rule import HarmGate
    from penstock.join.window import JoinWindow
    from penstock.learn.checkpoint import Checkpoints
    from penstock.learn.fast.model import FastModel
    from penstock.learn.fast.predictor import BlockPredictor
    from penstock.learn.learner import Learner
    from penstock.learn.steps import StepJournal
    from penstock.publish.live import SharedLiveWeights
    from penstock.publish.publisher import Publisher
    from penstock.publish.receipts import SqliteReceipts
    from penstock.publish.rooms import Rooms
    from penstock.publish.snapshots import LocalSnapshots

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    folder = data / service
    spec = load(recorded_path(data, service))
    reader = LocalLogReader(folder / "log")
    window = JoinWindow(spec.label.wait_s, spec.label.waiting_max)
    rooms = Rooms(
        journal=StepJournal(folder / "steps"),
        checkpoints=Checkpoints(folder / "checkpoints", spec.learn.checkpoints_kept),
        live=SharedLiveWeights(live_path(data, service)),
        snapshots=LocalSnapshots(folder / "snapshots", service),
        receipts=SqliteReceipts(folder / "versions.sqlite", service),
    )
    learner = Learner(spec, reader, window, FastModel(spec))
    Publisher(spec, learner, HarmGate(spec.gate), lambda block: BlockPredictor(block, spec), rooms).run(stop)
    reader.close()
