"""A server worker: one process that answers for all services on one port and writes one partition of each log."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import uvicorn
import uvloop

from penstock.errors import LogUnavailable
from penstock.eventlog.commit import GroupCommit
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Partition
from penstock.learn.fast.predictor import NewestPredictor
from penstock.learn.outside.registry import outside_members
from penstock.learn.slow.base import LocalBases
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.weights.live import SharedLiveReader
from penstock.publish.weights.live_files import live_path
from penstock.serve.app import Application
from penstock.serve.http import Patience
from penstock.serve.protocol import Protocol
from penstock.serve.retention import retain
from penstock.serve.served import Service, Thaw, assemble, recent_events
from penstock.spec import Spec
from penstock.specfile.reader import load

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may hold the interpreter while another wants it. The commit thread comes back from the disk
needing it for some 50 microseconds; by Python's default it may wait 5 ms for a busy loop, as long as the disk took."""

LAME_DUCK_S = 0.25
"""For so long after a signal connections are still taken, and for so long again requests on them, each answered with
``Connection: close``: a client with a request under way when the signal came is served, and learns to go elsewhere."""

LOOK_EVERY_S = 2.0

SEGMENT_BYTES_MAX = 64 * 1024 * 1024
SEGMENTS_IN_BUDGET = 8
"""Retention removes whole segments, so a log has at least so many within its budget and overshoots it by an eighth."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server worker is told by whoever starts it."""

    data: str
    """The data folder."""
    services: tuple[str, ...]
    """Service files."""
    partition: int = 0
    """The worker's number, and with it the partition that it writes."""
    host: str = "127.0.0.1"
    port: int = 7717
    """0 takes a free one."""
    fd: int | None = None
    """A listening socket that was inherited; host and port are not looked at then."""
    body_timeout_s: float = 30.0
    """Seconds for a request's body to arrive."""
    keep_alive_s: int = 75
    """Seconds for which an idle connection stays open: longer than the 60 of common load balancers, which otherwise
    send requests into connections that are just being closed."""
    drain_s: int = 10
    """Seconds for requests in flight to finish after a signal."""
    retain_every_s: float = 10.0
    """Seconds between two looks at what the logs may give up."""


Started = Callable[[str, int], None]


def run_worker(config: WorkerConfig, started: Started | None = None) -> None:
    """Open everything, serve until SIGTERM or SIGINT, finish what is in flight, close everything.

    ``started`` is told the address as soon as requests are answered. Raises what opening raises: SpecInvalid,
    FolderInUse, LogCorrupt, LogUnavailable, OSError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    specs = [load(path) for path in config.services]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, specs, started))


async def _serve(config: WorkerConfig, specs: Sequence[Spec], started: Started | None) -> None:
    with _listening(config) as listener, contextlib.ExitStack() as opened:
        rooms = [_open(spec, config, opened) for spec in specs]
        services = {service.spec.name: service for service, _ in rooms}
        patience = Patience(config.body_timeout_s)
        application = Application(services, patience=patience)
        server = _Server(_settings(application, config))
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        beside = [
            loop.create_task(_drain_after(stopping, application, server)),
            loop.create_task(patience.watch()),
            loop.create_task(_keep_retaining(rooms, config.retain_every_s)),
            loop.create_task(_keep_looking(list(services.values()))),
        ]
        if started is not None:
            host, port = listener.getsockname()[:2]
            loop.call_soon(started, host, port)
        # What was made so far lives as long as the process: the garbage collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        try:
            await server.serve(sockets=[listener])
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            for service in services.values():
                service.answers.end()
                await service.intake.settled()


class _Server(uvicorn.Server):
    """Signals are handled here, not by uvicorn, which raises them anew when it is done and so would not exit with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _drain_after(stopping: asyncio.Event, application: Application, server: uvicorn.Server) -> None:
    """Stop such that no request fails that was sent before its client could know."""
    await stopping.wait()
    # 1. Clients on open connections are told to go elsewhere, each with its next answer.
    application.draining = True
    await asyncio.sleep(LAME_DUCK_S)
    # 2. New connections are no longer taken; on an inherited socket they wait for the next worker.
    for listening in server.servers:
        listening.close()
    # 3. Whoever connected until then is answered as well.
    await asyncio.sleep(LAME_DUCK_S)
    # 4. Idle connections are closed; requests that are still being worked on have `drain_s` to finish.
    server.should_exit = True


def _settings(application: Application, config: WorkerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=config.keep_alive_s,
        timeout_graceful_shutdown=config.drain_s,
    )


@contextlib.contextmanager
def _listening(config: WorkerConfig) -> Iterator[socket.socket]:
    if config.fd is not None:
        listener = socket.socket(fileno=config.fd)
    else:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.create_server((config.host, config.port), family=family, backlog=2048)
    with listener:
        listener.setblocking(False)
        yield listener


def _open(spec: Spec, config: WorkerConfig, opened: contextlib.ExitStack) -> tuple[Service, LocalLogWriter]:
    """The parts of one service, closed again in the reverse order."""
    data = Path(config.data)
    folder = data / spec.name
    segment_bytes = min(SEGMENT_BYTES_MAX, spec.budget.log_max_bytes // SEGMENTS_IN_BUDGET)
    writer = LocalLogWriter(folder / "log", Partition(config.partition), segment_bytes=segment_bytes)
    opened.callback(writer.close)
    if writer.tail_cut_bytes:
        logger.warning(
            "an unfinished frame was cut from the log; it had not been acknowledged",
            extra={"service": spec.name, "partition": config.partition, "bytes": writer.tail_cut_bytes},
        )
    commits = GroupCommit(writer, max_pending_bytes=spec.budget.memory_max_bytes)
    opened.callback(commits.close)
    log = LocalLogReader(folder / "log")
    opened.callback(log.close)
    live = SharedLiveReader(live_path(data, spec.name))
    opened.callback(live.close)
    receipts = SqliteReceipts(folder / "versions.sqlite", spec.name, read_only=True)
    opened.callback(receipts.close)
    bases = LocalBases(folder / "bases")
    outside = outside_members(spec, folder)
    service = assemble(
        spec,
        partition=Partition(config.partition),
        incarnation=writer.incarnation,
        end=writer.end(),
        recent=writer.recent(recent_events(spec)),
        commits=commits,
        log=log,
        live=live,
        receipts=receipts,
        thaw=Thaw(NewestPredictor(spec, bases, outside), bases),
        beside=NewestPredictor(spec, bases, outside),
        folder=folder,
        loop=asyncio.get_running_loop(),
    )
    return service, writer


async def _keep_looking(services: Sequence[Service]) -> None:
    """How long events wait is counted from a look, and must not depend on whether somebody asks."""
    while True:
        for service in services:
            service.look()
            if base := service.live.progress().slow.shadow_base:
                # The shadow may be promoted at any step, and opening a base takes tens of milliseconds.
                await asyncio.to_thread(service.thaw.prepare, base)
        await asyncio.sleep(LOOK_EVERY_S)


async def _keep_retaining(rooms: Sequence[tuple[Service, LocalLogWriter]], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        for service, writer in rooms:
            with contextlib.suppress(LogUnavailable):
                # Where it is raised, appends fail for the same reason, and readiness says so.
                await asyncio.to_thread(retain, service.spec, service.folder, writer, time.time())


def main(arguments: Sequence[str]) -> None:
    """``python -m penstock.serve.worker CONFIG``: a `WorkerConfig` as JSON; the address is printed as one JSON line."""
    config = msgspec.json.decode(arguments[0], type=WorkerConfig)

    def started(host: str, port: int) -> None:
        sys.stdout.write(msgspec.json.encode({"host": host, "port": port}).decode() + "\n")
        sys.stdout.flush()

    run_worker(config, started)


if __name__ == "__main__":
    main(sys.argv[1:])
