"""A process that is ready before it is needed: what takes long to load is loaded once, and whoever does the work is a
fork of it, so that the next one begins at once when the work was killed.

Loading what learns takes a second and more; a restart that had to do it again would be that much longer without fresh
predictions. The memory is shared until one of the two writes to it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from types import FrameType

from penstock.control.supervisor import dies_with, end_with_supervisor

SOON_S = 1.0
"""Who is killed sooner than that would be killed again: the supervisor waits longer each time."""
LOADED_OBJECTS = 300_000
"""Loading makes some 90,000 objects that stay, among which the collector would look for garbage over and over, for a
tenth of the time. So it begins where far more is made, as by whoever has to compile."""
_OBJECTS = gc.get_threshold()[0]
_STOPPING = (signal.SIGTERM, signal.SIGINT)


def begin_loading() -> None:
    """To be called before anything is loaded: the collector stays away until there is a fork."""
    gc.set_threshold(LOADED_OBJECTS)


def go_on_in_fork() -> threading.Event:
    """Returns in a fork of this process, with an event that is set by SIGTERM and SIGINT. This process itself waits for
    the fork, makes another when it was killed, and ends with its exit code otherwise. No other thread may run."""
    # What was loaded is not looked at by the collector, which would write to all of it. Loading leaves next to no
    # garbage, and looking for it would take a twentieth of its time. Where the collector began, by compiling, there is
    # more.
    if gc.get_count()[1]:
        gc.collect()
    gc.freeze()
    asked_to_stop: list[int] = []
    worker = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked_to_stop.append(number)
        os.kill(worker, number)

    while True:
        # Signals wait until either side has its own handlers, so that none is taken by the wrong one or lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        keeper, began = os.getpid(), time.monotonic()
        worker = os.fork()
        if worker == 0:
            return _begin(keeper)
        for number in _STOPPING:
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        was_killed = code == -signal.SIGKILL and not asked_to_stop
        if not was_killed or time.monotonic() - began < SOON_S:
            sys.exit(code if code >= 0 else 128 - code)
        sys.stderr.write("was ended by SIGKILL; it goes on at once\n")
        sys.stderr.flush()


def _begin(keeper: int) -> threading.Event:
    die = dies_with(keeper)
    if die is not None:
        die()
    end_with_supervisor(keeper)
    stop = threading.Event()
    for number in _STOPPING:
        signal.signal(number, lambda *_: stop.set())
    gc.set_threshold(_OBJECTS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    return stop
