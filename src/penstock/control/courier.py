"""Sends what the ledger owes: alerts to a webhook, a file or a command.

An alert is written down before it is sent and ticked off afterwards. A crash between the two means that nobody knows
whether it arrived, and it is sent again: with the same id, in the body and as ``Idempotency-Key``, by which a receiver
knows it. A file is looked through for the id first, so that it has each alert once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import urllib3

from penstock.control.budget.alerts import Alert
from penstock.control.ledger import Ledger
from penstock.errors import LedgerUnavailable
from penstock.learn.steps import Reached, nothing

LOOK_EVERY_S = 0.5
WAIT_S = 10.0
"""For an answer, or for a command to end."""
LAST_S = 5.0
"""For what is owed when all is to end; what is sent then is not waited for any longer."""
LOOK_AT_COMMAND_S = 0.25
AGAIN_S = 30.0
"""Until the ledger is tried again."""
RETRY_S, RETRY_MAX_S = 1.0, 300.0
CHANNELS = ("webhook", "file", "command")


class NotSent(Exception):
    """Why an alert could not be sent for now."""


def channel(kind: str, target: str) -> str:
    """A channel as the ledger names it."""
    return f"{kind} {target}"


class Courier:
    """Sends from a thread, so that nothing waits for it; what fails is tried again, ever more seldom."""

    def __init__(self, open_ledger: Callable[[], Ledger], data: Path, reached: Reached = nothing) -> None:
        self._open = open_ledger
        self._reached = reached
        self._data = data
        self._failures: dict[tuple[str, str], int] = {}
        self._again_at: dict[tuple[str, str], float] = {}
        self._stop = threading.Event()
        self._at_once = threading.Event()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End, and send what is owed once more; what is not sent then is sent at the next start."""
        self._stop.set()
        self._thread.join(LAST_S)
        # A command is not left behind: nobody would end it.
        self._at_once.set()
        self._thread.join(WAIT_S + 1.0)

    def _run(self) -> None:
        while not self._send_until_stopped():
            if self._stop.wait(AGAIN_S):
                return

    def _send_until_stopped(self) -> bool:
        """Send what comes; False where the ledger could not be read or written, which a full or busy disk does."""
        try:
            with self._open() as ledger:
                while True:
                    last = self._stop.wait(LOOK_EVERY_S)
                    self.send(ledger, time.monotonic())
                    if last:
                        return True
        except LedgerUnavailable as error:
            sys.stderr.write(f"alerts are not sent for now: {error}\n")
            sys.stderr.flush()
            return False

    def send(self, ledger: Ledger, now: float) -> None:
        """Try everything that is owed and due at this time of a clock that does not jump."""
        for alert, name in ledger.owed():
            owed = alert.id, name
            if self._at_once.is_set():
                return
            if now < self._again_at.get(owed, now):
                continue
            try:
                deliver(alert, name, self._data, self._at_once.is_set)
            except NotSent as error:
                failures = self._failures[owed] = self._failures.get(owed, 0) + 1
                self._again_at[owed] = now + min(RETRY_MAX_S, RETRY_S * 2.0 ** min(failures - 1, 16))
                sys.stderr.write(f"alert {alert.id} could not be sent by {name}: {error}; it is tried again\n")
                sys.stderr.flush()
            else:
                self._reached("alert.sent")
                ledger.sent(alert.id, name, time.time())


def deliver(alert: Alert, name: str, data: Path, is_over: Callable[[], bool] = bool) -> None:
    """Send one alert by one channel. Raises NotSent; a command that has not ended when it is over is ended."""
    kind, _, target = name.partition(" ")
    content = msgspec.json.encode(alert)
    if kind == "webhook":
        _post(target, content, alert.id)
    elif kind == "file":
        _append(data / target, content, alert.id)
    else:
        _run(target, content, alert.id, is_over)


def _post(url: str, content: bytes, key: str) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    try:
        # What it says beside its status is not waited for: it may have no end.
        answer = urllib3.request(
            "POST", url, body=content, headers=headers, retries=False, timeout=WAIT_S, preload_content=False
        )
        answer.close()
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise NotSent(str(error)) from error
    if not 200 <= answer.status < 300:
        raise NotSent(f"it answers {answer.status}")


def _append(file: Path, content: bytes, key: str) -> None:
    try:
        with file.open("a+b") as sink:
            sink.seek(0)
            before = sink.read()
            if any(_id(line) == key for line in before.splitlines()):
                return
            # A line that a crash has cut is ended, so that this one stands by itself.
            sink.write((b"\n" if before and not before.endswith(b"\n") else b"") + content + b"\n")
            sink.flush()
            os.fsync(sink.fileno())
    except (OSError, ValueError) as error:
        raise NotSent(getattr(error, "strerror", None) or str(error)) from error


def _id(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=Alert).id
    except msgspec.MsgspecError:
        return ""


def _run(command: str, content: bytes, key: str, is_over: Callable[[], bool]) -> None:
    env = {**os.environ, "PENSTOCK_ALERT_ID": key}
    pipe = subprocess.PIPE
    try:
        # In a session of its own, so that all that it has started ends with it when it takes too long.
        running = subprocess.Popen(
            command, shell=True, env=env, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise NotSent(str(error)) from error
    given: bytes | None = content
    until = time.monotonic() + WAIT_S
    with running:
        while True:
            try:
                _, said = running.communicate(given, timeout=LOOK_AT_COMMAND_S)
                break
            except subprocess.TimeoutExpired as error:
                given = None
                if time.monotonic() < until and not is_over():
                    continue
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                raise NotSent("it had not ended in time, and was ended") from error
    if running.returncode:
        raise NotSent(f"it ends with {running.returncode}: {said.decode(errors='replace').strip()[-200:]}")
