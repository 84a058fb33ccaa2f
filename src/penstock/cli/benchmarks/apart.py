"""Work in a process of its own: its memory is its own, and its crash or hang is its result and nobody else's.

Children are forked from a server that has imported the libraries, so that one starts in a moment. They have one thread
for linear algebra.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import numpy as np

_STARTING = threading.Lock()
"""The environment is everybody's, so one at a time changes it."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Failed(Exception):
    """What became of a process that has no result."""


def apart(work: Callable[..., Any], *arguments: Any, preload: Sequence[str], time_s: float) -> bytes:
    """What ``work`` answers to these arguments, as MessagePack. Raises Failed, with the reason in words.

    Modules to ``preload`` that are not installed are passed over; those of the first call count for all."""
    context = multiprocessing.get_context("forkserver")
    with _STARTING, _one_thread():
        context.set_forkserver_preload(list(preload))
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(sender, work, arguments), daemon=True)
        child.start()
    sender.close()
    try:
        if not receiver.poll(time_s):
            raise Failed(f"timed out: no result within {time_s:.0f} s")
        reason, answer = msgspec.msgpack.decode(receiver.recv_bytes(), type=tuple[str, bytes])
    except (EOFError, ConnectionResetError):
        child.join()
        raise Failed(f"crashed: its process ended with {child.exitcode}") from None
    finally:
        receiver.close()
        child.kill()
        child.join()
        child.close()
    if reason:
        raise Failed(reason)
    return answer


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The environment that the server of children is started with, once: libraries look at it when they are loaded."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _child(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.dup2(2, 1)  # what a library prints is no result
    warnings.simplefilter("ignore")  # of a peer's own dependencies
    np.seterr(all="ignore")
    reason, answer = "", b""
    try:
        answer = msgspec.msgpack.encode(work(*arguments))
    except ImportError as error:
        reason = f"left out: {error}; install it with: pip install 'penstock[bench]'"
    except MemoryError:
        reason = "crashed: it ran out of memory"
    except Exception as error:
        # Whatever a library raises on somebody's data belongs into the table, not in place of it.
        said = " ".join(str(error).split())[:200]
        reason = f"crashed: {type(error).__name__}: {said}"
    sender.send_bytes(msgspec.msgpack.encode((reason, answer)))
    sender.close()
