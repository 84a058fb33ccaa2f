"""The house: services are recorded in the data folder, the listening socket is opened, and processes are kept running.

What it starts are processes that read the recorded service, not the file it came from, so that an edit takes effect at
the next `up` and never by an accidental restart.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from penstock.control.folder import State, locked, state_path, write_state
from penstock.control.local_actuator import wanted
from penstock.control.record import record
from penstock.control.supervisor import Child, Supervisor
from penstock.control.swap import finish, unfinished
from penstock.errors import CannotListen
from penstock.publish.candidates.consolidating import asked_challenge
from penstock.publish.weights.live_files import live_path, remove_live
from penstock.spec import Spec

PENSTOCK = (sys.executable, "-P", "-m", "penstock")
BACKLOG = 2048
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Results must not depend on how many threads add numbers up, and two busy ones on two cores are slower than one."""

BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Who is started again finds what Python has translated, even where the environment says not to keep that: a start
would take a third longer without. It stands beside the machine code of what learns."""


def run_house(
    specs: Mapping[Path, Spec],
    data: Path,
    *,
    host: str,
    port: int,
    workers: int,
    budget: Path | None = None,
    announce: Callable[[str], None],
) -> int:
    """Run these services until SIGTERM or SIGINT; the exit code. ``announce`` is told the address when all answer.

    Raises FolderInUse, FolderUnusable, SpecChanged, SettingsUntried, CannotListen and what reading the budget file
    raises before anything is started."""
    # Here, since every process of the house imports this module, and prices are for this one alone.
    from penstock.control.portfolio import check_names, read_portfolio, write_house
    from penstock.control.sensor import capacity

    money = read_portfolio(budget, capacity())
    if budget is not None:
        check_names(budget, money.portfolio, [spec.name for spec in specs.values()])
    with locked(data) as lock:
        for service in unfinished(data):
            finish(data, service)
        for notice in record(specs, data):
            sys.stderr.write(f"{notice}\n")
        write_house(data, money)
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
                state.consolidators = supervisor.pids("consolidators")
                state.restarts = supervisor.restarts()
                try:
                    write_state(data, state)
                except OSError as error:
                    # As on a full disk: what runs must go on running, and the next change is written again.
                    supervisor.say("up", f"{state_path(data)} cannot be written: {error.strerror}")

            supervisor = Supervisor(
                _children(list(specs.values()), data, workers, listener.fileno(), lock, counted),
                is_ready=lambda: _is_ready(address),
                on_ready=lambda: announce(state.address),
                on_change=note,
                on_stop=listener.close,
                resting=_resting(list(specs.values()), data, workers),
            )
            try:
                return supervisor.run()
            finally:
                state_path(data).unlink(missing_ok=True)
                for service in state.services:
                    # Checkpoints have all that is in there, and memory is not for stopped services to keep.
                    remove_live(live_path(data, service))


def _children(specs: Sequence[Spec], data: Path, workers: int, fd: int, lock: int, counted: Path) -> list[Child]:
    services = [spec.name for spec in specs]
    env = {**ONE_THREAD, **BYTECODE, "PROMETHEUS_MULTIPROC_DIR": str(counted), "PYTHONUNBUFFERED": "1"}
    fixed = {spec.name: learner_environment(spec) for spec in specs}
    learners = [
        Child(
            name=f"learner {service}",
            argv=(*PENSTOCK, "_learner", "--data", str(data), service),
            group="learners",
            key=service,
            drain=1,
            env=env | fixed[service],
            descriptors=(lock,),
        )
        for service in services
    ]
    servers = [
        Child(
            name=f"server {worker}",
            argv=(*PENSTOCK, "_server", "--data", str(data), "--worker", str(worker), "--fd", str(fd), *services),
            group="servers",
            key=str(worker),
            drain=0,
            env=env,
            descriptors=(lock, fd),
        )
        for worker in range(workers)
    ]
    consolidators = [
        Child(
            name=f"consolidator {spec.name}",
            argv=(*PENSTOCK, "_consolidator", "--data", str(data), spec.name),
            group="consolidators",
            key=spec.name,
            drain=0,
            env=env | fixed[spec.name],
            descriptors=(lock,),
            waits=True,
        )
        for spec in specs
    ]
    governor = Child(
        name="governor",
        argv=(*PENSTOCK, "_governor", "--data", str(data), *services),
        group="governors",
        key="governor",
        # The last, so that it counts what the others used until their end.
        drain=2,
        env={**ONE_THREAD, "PYTHONUNBUFFERED": "1"},
        descriptors=(lock,),
        # What others use before it looks is counted as well: the system keeps their processor time.
        waits=True,
    )
    return [*learners, *servers, *consolidators, governor]


def _resting(specs: Sequence[Spec], data: Path, workers: int) -> Callable[[], set[str]] | None:
    """Says who is not wanted for now: server workers (the first always is), and consolidators that train no base and
    are not asked to try other settings. None where all always are."""
    missing = missing_for_bases()
    idle = [spec.name for spec in specs if spec.consolidate.when == "never" or missing]
    if workers == 1 and not idle:
        return None

    def resting() -> set[str]:
        kept = wanted(data).workers
        servers = () if kept is None else range(max(1, kept), workers)
        unasked = [name for name in idle if asked_challenge(data / name / "consolidation") is None]
        return {f"server {worker}" for worker in servers} | {f"consolidator {name}" for name in unasked}

    return resting


def learner_environment(spec: Spec) -> dict[str, str]:
    """Variables without which the same steps need not give the same bytes."""
    # Python's own hashes of texts differ from process to process, and with them the order of sets, which models of
    # other libraries may depend on. What answers requests from anywhere keeps them secret.
    fixed = {"PYTHONHASHSEED": str(spec.learn.seed)} if spec.learn.members else {}
    return ONE_THREAD | fixed


def missing_for_bases() -> list[str]:
    """The libraries that training a base needs and that are not installed; they are not imported."""
    return [name for name in ("torch", "onnxruntime") if find_spec(name) is None]


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
    # Here, since it takes as long to load as a tenth of a start, and is first needed when all else has begun.
    import http.client

    connection = http.client.HTTPConnection(address, timeout=1.0)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
