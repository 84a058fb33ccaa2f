"""Keeps processes running: starts them, starts them again when they die, and drains them in order at the end.

One thread and one loop: it sleeps until a child writes a line, dies, is due for a restart, or a signal arrives.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TextIO

FIRST_DELAY_S = 0.1
DELAY_MAX_S = 30.0
STABLE_S = 10.0
"""A child that ran for so long has its next failure treated as its first."""
KILLED_STABLE_S = 2.0
"""The same for one that was killed: nobody does that to himself, so the next need not fail for the same reason."""
DRAIN_S = 30.0
"""For each stage of the drain; what has not ended by then is killed, which loses nothing that was acknowledged."""
WAIT_MAX_S = 10.0
"""For so long those who wait for the others do."""
LOOK_S = 0.05
"""How often readiness is asked for until it is there."""
LOOK_AT_REST_S = 1.0
"""How often it is asked who should be at rest."""
LINE_MAX_BYTES = 64 * 1024
USAGE_ERROR = 2
"""The exit code of a child that would fail in the same way for ever. Once everything has run, it may be due to what
somebody is just changing, and the child is tried again like any other."""
_PR_SET_PDEATHSIG = 1
_PARENT = "PENSTOCK_SUPERVISOR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process to be kept running."""

    name: str
    argv: Sequence[str]
    group: str
    """``servers``, ``learners`` or ``consolidators``."""
    key: str
    """Its name within the group."""
    drain: int
    """Its place in the order in which processes are told to stop: 0 first."""
    env: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()
    """Open files that it inherits under the same numbers."""
    waits: bool = False
    """Whether it is started when all others are ready, or ``WAIT_MAX_S`` later, so that it takes nothing away
    from their start."""


@dataclass(slots=True)
class _Kept:
    child: Child
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float | None = 0.0
    """When it is to be started; None while it runs or is given up."""
    failures: int = 0
    restarts: int = 0
    rest: bytes = b""
    """The beginning of a line whose end has not been written yet."""
    is_at_rest: bool = False
    """Whether it was told to stop and is not to be started until it is wanted again."""


class Supervisor:
    """Runs children until it is told to stop."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        is_ready: Callable[[], bool] = lambda: True,
        on_ready: Callable[[], None] = lambda: None,
        on_change: Callable[[Supervisor], None] = lambda _: None,
        on_stop: Callable[[], None] = lambda: None,
        resting: Callable[[], Collection[str]] | None = None,
        output: TextIO | None = None,
    ) -> None:
        self._kept = [_Kept(child) for child in children]
        self._is_ready, self._on_ready, self._on_change, self._on_stop = is_ready, on_ready, on_change, on_stop
        self._resting = resting
        """Names of children that are not wanted for now."""
        self._output = output if output is not None else sys.stderr
        self._width = max(len(child.name) for child in children)
        self._selector = selectors.DefaultSelector()
        self._signals = 0
        self._stages: list[int] | None = None
        """The stages of the drain that are still to come; None while nothing is drained."""
        self._stage_deadline = 0.0
        self._exit_code = 0
        self._waits_until = math.inf
        self.ready = False
        """Whether everything has been ready once."""

    def pids(self, group: str) -> dict[str, int]:
        """The processes of a group that run now."""
        return {k.child.key: k.process.pid for k in self._kept if k.child.group == group and k.process is not None}

    def restarts(self) -> dict[str, int]:
        """How often each child was started again, where it was."""
        return {k.child.name: k.restarts for k in self._kept if k.restarts}

    def run(self) -> int:
        """Keep everything running until SIGTERM or SIGINT, then drain; the exit code.

        0 when everything ended in order, 1 when something had to be killed, 2 when a child ended with a usage error
        before everything was ready."""
        self._waits_until = time.monotonic() + WAIT_MAX_S
        with self._signals_caught():
            try:
                while not self._is_over():
                    self._let_rest()
                    self._start_due()
                    self._look_whether_ready()
                    self._wait()
                    self._reap()
                    self._heed_signals()
                    self._advance_drain()
            finally:
                self._kill_all()
                self._selector.close()
        return self._exit_code

    def say(self, name: str, line: str) -> None:
        """A line on stderr with the name of who says it; a closed stderr must not stop the house."""
        with contextlib.suppress(OSError, ValueError):
            self._output.write(f"{time.strftime('%H:%M:%S')} {name:<{self._width}} | {line}\n")
            self._output.flush()

    # Starting ---------------------------------------------------------------------------------------------------------

    def _let_rest(self) -> None:
        """Drain those that are not wanted for now, and start those that are again."""
        if self._resting is None or self._stages is not None:
            return
        resting = self._resting()
        for kept in self._kept:
            if kept.child.name in resting and not kept.is_at_rest:
                kept.is_at_rest, kept.due_at = True, None
                self._send(kept, signal.SIGTERM)
            elif kept.child.name not in resting and kept.is_at_rest:
                kept.is_at_rest = False
                kept.due_at = time.monotonic() if kept.process is None else None

    def _start_due(self) -> None:
        now = time.monotonic()
        for kept in self._kept:
            if self._may_start(kept) and kept.due_at is not None and now >= kept.due_at:
                try:
                    self._start(kept)
                except OSError as error:
                    self.say(kept.child.name, f"could not be started: {error.strerror}")
                    self._died(kept, 1)

    def _may_start(self, kept: _Kept) -> bool:
        return self._stages is None and (not kept.child.waits or self.ready or time.monotonic() >= self._waits_until)

    def _start(self, kept: _Kept) -> None:
        child = kept.child
        kept.process = subprocess.Popen(
            list(child.argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **child.env, _PARENT: str(os.getpid())},
            pass_fds=child.descriptors,
            # Not our group: Ctrl-C reaches the supervisor alone, which then stops the others in their order.
            process_group=0,
            preexec_fn=dies_with(os.getpid()),
        )
        kept.started_at, kept.due_at = time.monotonic(), None
        assert kept.process.stdout is not None
        os.set_blocking(kept.process.stdout.fileno(), False)
        self._selector.register(kept.process.stdout, selectors.EVENT_READ, kept)
        self._on_change(self)

    def _look_whether_ready(self) -> None:
        if not self.ready and self._stages is None and self._is_ready():
            self.ready = True
            self._start_due()
            self._on_change(self)
            self._on_ready()

    # Waiting ----------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        for key, _ in self._selector.select(self._sleep_s()):
            if isinstance(key.data, _Kept):
                self._relay(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    key.fileobj.recv(4096)  # type: ignore[union-attr]

    def _sleep_s(self) -> float | None:
        now = time.monotonic()
        times = [kept.due_at for kept in self._kept if kept.due_at is not None and self._may_start(kept)]
        if self._stages is not None:
            times.append(self._stage_deadline)
        elif not self.ready:
            times.append(now + LOOK_S)
        elif self._resting is not None:
            times.append(now + LOOK_AT_REST_S)
        return max(0.0, min(times) - now) if times else None

    def _relay(self, kept: _Kept) -> bool:
        """Pass on what a child wrote, line by line; whether there was anything."""
        assert kept.process is not None
        assert kept.process.stdout is not None
        try:
            data = os.read(kept.process.stdout.fileno(), LINE_MAX_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(kept.process.stdout)
        *lines, kept.rest = (kept.rest + data).split(b"\n")
        if not data or len(kept.rest) >= LINE_MAX_BYTES:
            lines, kept.rest = [*lines, kept.rest], b""
        for line in lines:
            if line.strip():
                self.say(kept.child.name, line.decode(errors="replace").rstrip())
        return bool(data)

    # Ends -------------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for kept in self._kept:
            if kept.process is None or kept.process.poll() is None:
                continue
            code = kept.process.returncode
            self._finish_output(kept)
            kept.process = None
            if kept.is_at_rest and self._stages is None:
                self.say(kept.child.name, "rests until it is wanted again")
            elif self._stages is None:
                self._died(kept, code)
            elif code not in (0, -signal.SIGTERM):  # One that had not begun yet has no handler, and nothing to finish.
                self._exit_code = self._exit_code or 1
                self.say(kept.child.name, f"{_cause(code)} while it was drained")
            self._on_change(self)

    def _finish_output(self, kept: _Kept) -> None:
        assert kept.process is not None
        assert kept.process.stdout is not None
        with kept.process.stdout as pipe:
            while pipe in self._selector.get_map() and self._relay(kept):
                pass
            # A grandchild may hold the other end; nothing more is owed to it.
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
            kept.rest = b""

    def _died(self, kept: _Kept, code: int) -> None:
        if code == USAGE_ERROR and not self.ready:
            self.say(kept.child.name, "ended with a usage error and is not started again")
            self._exit_code = USAGE_ERROR
            self._begin_drain()
            return
        now = time.monotonic()
        stable_s = KILLED_STABLE_S if code == -signal.SIGKILL else STABLE_S
        kept.failures = 1 if now - kept.started_at >= stable_s else kept.failures + 1
        delay_s = min(DELAY_MAX_S, FIRST_DELAY_S * 2.0 ** min(kept.failures - 1, 16))
        kept.due_at = now + delay_s
        kept.restarts += 1
        self.say(kept.child.name, f"{_cause(code)}; it starts again in {delay_s:.1f} s")

    def _is_over(self) -> bool:
        return self._stages == [] and all(kept.process is None for kept in self._kept)

    # Stopping ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        """Signals wake the loop through a socket, so that none is missed between looking and sleeping."""
        waker, woken = socket.socketpair()
        with waker, woken:
            waker.setblocking(False)
            woken.setblocking(False)
            self._selector.register(woken, selectors.EVENT_READ, None)
            handlers = {
                signal.SIGTERM: self._count_signal,
                signal.SIGINT: self._count_signal,
                signal.SIGCHLD: lambda *_: None,
            }
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                # Where it is ignored, somebody said `nohup`, and means to go.
                handlers[signal.SIGHUP] = self._count_signal
            before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
            waking_before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(waking_before)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _count_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _heed_signals(self) -> None:
        if self._signals and self._stages is None:
            self.say("up", "stopping: requests in flight are answered first; a second signal kills")
            self._begin_drain()
        elif self._signals > 1 and self._exit_code == 0:
            self._exit_code = 1
            self.say("up", "killing what is left")
            self._kill_all()

    def _begin_drain(self) -> None:
        self._on_stop()
        self._stages = sorted({kept.child.drain for kept in self._kept})
        self._signal_stage()

    def _signal_stage(self) -> None:
        assert self._stages
        self._stage_deadline = time.monotonic() + DRAIN_S
        for kept in self._in_stage(self._stages[0]):
            self._send(kept, signal.SIGTERM)

    def _in_stage(self, stage: int) -> list[_Kept]:
        return [kept for kept in self._kept if kept.child.drain == stage]

    def _advance_drain(self) -> None:
        while self._stages:
            running = [kept for kept in self._in_stage(self._stages[0]) if kept.process is not None]
            if running:
                if time.monotonic() >= self._stage_deadline:
                    self._stage_deadline = time.monotonic() + DRAIN_S
                    for kept in running:
                        self.say(kept.child.name, f"did not stop within {DRAIN_S:g} s and is killed")
                        self._send(kept, signal.SIGKILL)
                return
            self._stages.pop(0)
            if self._stages:
                self._signal_stage()

    def _kill_all(self) -> None:
        for kept in self._kept:
            self._send(kept, signal.SIGKILL)

    @staticmethod
    def _send(kept: _Kept, number: signal.Signals) -> None:
        if kept.process is not None:
            with contextlib.suppress(ProcessLookupError):
                kept.process.send_signal(number)


def _cause(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def dies_with(parent: int) -> Callable[[], None] | None:
    """What a child does between fork and exec so that the kernel kills it when its supervisor is gone.

    Without it, a supervisor that was killed would leave writers behind, and the next one could not take the folder. The
    second look closes the gap in which the parent died before the kernel was asked."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # Looked up before the fork: afterwards, little is safe to call.

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


def end_with_supervisor(parent: int = 0) -> None:
    """What a child calls where the kernel does not do it: ends the process soon after its supervisor, or this parent,
    has gone."""
    if sys.platform != "linux":
        parent = parent or int(os.environ.get(_PARENT, os.getppid()))

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(0.2)
            os._exit(1)

        threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
