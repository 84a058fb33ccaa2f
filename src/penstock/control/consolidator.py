"""The consolidator: a light process that waits until a base is due, or other settings are to be tried, and has it done
in a child that takes its memory with it when it ends.

It shares nothing with the learner but files: it reads how far the learner is from the shared memory, and the training
leaves a candidate in ``consolidation/ready``, which the learner takes up by itself. Its end at any time loses nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.control.due import REST, after_failure, why_now
from penstock.control.supervisor import dies_with
from penstock.learn.ready import ready_numbers, release
from penstock.publish.candidates.consolidating import (
    answer,
    answer_challenge,
    ask,
    asked_challenge,
    is_asked,
    read_consolidating,
    write_consolidating,
)
from penstock.publish.interface import LiveReader, Progress
from penstock.publish.notices.allowance import SLOW_REST, AllowanceFile
from penstock.spec import Spec

LOOK_EVERY_S = 1.0
GRACE_S = 600.0
"""Beside the training itself: reading the log, rebuilding the heads and catching up."""
STOP_S = 10.0
"""For which a training that is told to stop may write down how far it is."""
LINES_KEPT = 12
"""Of what a failed training said."""
LINE_MAX = 300


class Consolidator:
    """Looks after the base of one service."""

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        live: LiveReader,
        command: Callable[[int, str], list[str]],
        *,
        now: Callable[[], float] = time.time,
        grace_s: float = GRACE_S,
    ) -> None:
        """``folder`` is the service's, and ``command`` gives the command line of a training by number and reason."""
        self._settings = spec.consolidate
        self._folder = folder / "consolidation"
        self._live = live
        self._command = command
        self._now = now
        self._allowance = AllowanceFile(folder)
        self._limit_s = spec.consolidate.max_s + grace_s
        self._state = read_consolidating(self._folder)
        self._interrupted = 0
        """The number of a challenge that was at work when a consolidator was killed; 0 for none."""

    def run(self, stop: threading.Event) -> None:
        """Look once a second, until stop is set; a training under way is told to stop, and goes on at the next
        start."""
        self._begin()
        while not stop.wait(LOOK_EVERY_S):
            self.look(stop)

    def look(self, stop: threading.Event) -> bool:
        """Train if it is due; whether it was."""
        progress = self._live.progress()
        self._settle_interrupted(progress)
        if any(number > progress.slow.settled for number in ready_numbers(self._folder)):
            # One stands ready that the learner has not taken up yet.
            return False
        if not any((self._folder.parent / "checkpoints").glob("[0-9]*")):
            # A candidate begins with a checkpoint, and the learner has not written its first yet.
            return False
        allowance = self._allowance()
        if self._is_paused():
            return False
        rest = SLOW_REST if allowance.reaches("slow_consolidation") else REST
        challenge = asked_challenge(self._folder)
        reason = why_now(
            self._settings,
            progress,
            self._state,
            asked=is_asked(self._folder),
            challenged=challenge is not None,
            now=self._now(),
            rest=rest,
        )
        if not reason:
            return False
        # The number of one that failed or was stopped is given again, so that it goes on where that ended.
        number = 1 + max([progress.slow.settled, *ready_numbers(self._folder)])
        tried = challenge.at if challenge is not None and reason == "challenge" else 0.0
        self._note(phase="training", number=number, reason=reason, challenge=tried, since=self._now())
        if reason != "challenge":
            answer(self._folder)
        began = self._now()
        failure = self._train(number, reason, stop)
        if (
            failure is None
            and number not in ready_numbers(self._folder)
            and self._live.progress().slow.settled < number
        ):
            failure = "it ended in order and left no candidate"
        if failure is None:
            answer_challenge(self._folder, tried)
            now = self._now()
            self._note(phase="waiting", since=now, took_s=now - began, failures=0, failure="", retry_at=0.0)
        elif stop.is_set():
            self._note(phase="waiting", since=self._now())
        elif self._is_paused():
            # It goes on where it was, under the same number, as soon as it may.
            self._note(phase="waiting", since=self._now(), took_s=0.0)
            if reason == "request":
                ask(self._folder, self._now())
        else:
            self._fail(number, reason, failure)
        return True

    def _fail(self, number: int, reason: str, failure: str) -> None:
        if reason == "challenge":
            # Whoever asked for it is told, and asks again: bases are not to wait for it.
            answer_challenge(self._folder, self._state.challenge)
            self._note(phase="failed", since=self._now(), failure=failure)
        else:
            self._state = after_failure(self._state, failure, self._now())
            write_consolidating(self._folder, self._state)
        what = "challenge" if reason == "challenge" else "consolidation"
        sys.stderr.write(f"{what} {number} failed: {failure.splitlines()[-1]}\n")
        sys.stderr.flush()

    def _settle_interrupted(self, progress: Progress) -> None:
        """A challenge that had left its candidate when its consolidator was killed is not to be made twice."""
        number = self._interrupted
        if number and (number in ready_numbers(self._folder) or progress.slow.settled >= number):
            answer_challenge(self._folder, self._state.challenge)
            self._interrupted = 0

    def _begin(self) -> None:
        """What a consolidator that was killed left behind: its training has died with it."""
        release(self._folder)
        if self._state.phase == "training":
            self._interrupted = self._state.number if self._state.reason == "challenge" else 0
            self._note(phase="waiting", since=self._now())

    def _train(self, number: int, reason: str, stop: threading.Event) -> str | None:
        """Run a training to its end; None where it left a candidate, else what it said last."""
        self._folder.mkdir(parents=True, exist_ok=True)
        said = self._folder / "training.log"
        try:
            with said.open("wb") as output:
                child = subprocess.Popen(
                    self._command(number, reason),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    preexec_fn=dies_with(os.getpid()),
                )
            late = _wait(child, lambda: stop.wait(0.1) or self._is_paused(), self._limit_s)
        except OSError as error:
            return f"it could not be started: {error.strerror}"
        finally:
            release(self._folder)
        if late:
            return f"it did not end within {self._limit_s:g} s (consolidate.max and a grace)"
        if child.returncode == 0:
            return None
        return _last_lines(said) or f"it ended with {child.returncode} and said nothing"

    def _is_paused(self) -> bool:
        allowance = self._allowance()
        return allowance.reaches("pause_consolidation") or allowance.stops_learning(self._now())

    def _note(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        write_consolidating(self._folder, self._state)


def _wait(child: subprocess.Popen[bytes], is_to_stop: Callable[[], bool], limit_s: float) -> bool:
    """Wait for its end, or end it when it is told to stop or takes too long; whether it took too long."""
    deadline = time.monotonic() + limit_s
    while child.poll() is None:
        late = time.monotonic() >= deadline
        if late or is_to_stop():
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            return late
    return False


def _last_lines(path: Path) -> str:
    with path.open(errors="replace") as lines:
        said = deque((line.rstrip()[:LINE_MAX] for line in lines if line.strip()), LINES_KEPT)
    return "\n".join(said)
