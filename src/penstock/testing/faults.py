"""Faults for crash tests: a process that is killed at a named action, and a child process to do it to.

The stages tell a hook each durable action by name before or after it happens. `Recorder` writes the names down, so that
a test can enumerate them; `KillAt` ends the process there as SIGKILL does: nothing is flushed, closed or cleaned up.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class FaultPoint:
    """The ``occurrence``-th time (from 1) that an action is reached."""

    action: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.action}:{self.occurrence}"


@dataclass(slots=True)
class Recorder:
    """A hook that notes every action in order."""

    points: list[FaultPoint] = field(default_factory=list)
    _counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, action: str) -> None:
        self._counts[action] += 1
        self.points.append(FaultPoint(action, self._counts[action]))


@dataclass(slots=True)
class KillAt:
    """A hook that kills its own process when the point is reached."""

    point: FaultPoint
    _left: int = field(init=False)

    def __post_init__(self) -> None:
        self._left = self.point.occurrence

    def __call__(self, action: str) -> None:
        if action == self.point.action:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class ChildFailed(AssertionError):
    """A child process ended with an error of its own, which stands on its standard error."""


def run_in_child(do: Callable[[], None]) -> bool:
    """Run this in a forked process and wait for its end: True when it returned, False when it was killed.

    Raises ChildFailed when it raised."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            do()
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status) != 0:
        raise ChildFailed(f"child process {pid} failed")
    return True
