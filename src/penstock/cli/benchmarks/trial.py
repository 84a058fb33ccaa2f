"""One learner on one stream in a process of its own: its speed, its memory, its scores, and its end if it comes early.

Trials run one after the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from penstock.cli.benchmarks.apart import Failed, apart
from penstock.cli.benchmarks.learn_streams import Stream
from penstock.cli.benchmarks.learners import LEARNERS
from penstock.cli.benchmarks.scores import Hits, Scorer, Scores

PRELOADED = (
    "penstock.cli.benchmarks.trial",
    "penstock.learn.fast.model",
    "river.compose",
    "river.ensemble",
    "river.forest",
    "river.linear_model",
    "river.preprocessing",
    "river.tree",
    "sklearn.linear_model",
    "sklearn.preprocessing",
    "sklearn.feature_extraction",
    "torch",
    "vowpalwabbit",
)
"""Those that are not installed are passed over, and their learners say so."""
LOOK_EVERY_S = 0.05
"""Seconds of learning between two looks at the memory."""
PREPARING_S = 60.0
"""Seconds beyond the time for learning after which a trial is ended from outside: for bringing events into a learner's
form, and for scoring."""
PREPARING_EVENT_S = 5e-4
"""The same for each event: about ten times what it takes."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much one learner may do on one stream."""

    events: int
    seconds: float
    """Of predicting and learning; the step in which they run out is the last one."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    events: int
    """Predicted and learned: the first ones of the stream."""
    scores: Scores | None
    events_per_s: float | None
    memory_mb: float | None
    """In 10^6 bytes: how much the process grew while it learned, in anonymous memory, or what the learner's state
    comes to, where that is more because some of it was there before the first event."""
    right: bytes
    """A bit an event, which answers were right."""
    ended: str = ""
    """Why there is no result, or less than the whole stream."""

    @property
    def hits(self) -> Hits:
        """(events,) which answers were right."""
        bits = np.unpackbits(np.frombuffer(self.right, dtype=np.uint8), count=self.events)
        return bits.astype(np.bool_)


Work = Callable[[str, Stream, int, Bounds], Trial]


def failed(reason: str) -> Trial:
    """A trial without a result."""
    return Trial(events=0, scores=None, events_per_s=None, memory_mb=None, right=b"", ended=reason)


def run(model: str, stream: Stream, step: int, bounds: Bounds, work: Work | None = None) -> Trial:
    """``work``, which is `learn`, in a process of its own. A crash or a hang is its result, nobody else's."""
    stream = _within(stream, step, bounds)
    time_s = 2 * bounds.seconds + PREPARING_S + PREPARING_EVENT_S * len(stream.events)
    try:
        answer = apart(work or learn, model, stream, step, bounds, preload=PRELOADED, time_s=time_s)
    except Failed as failure:
        return failed(str(failure))
    return msgspec.msgpack.decode(answer, type=Trial)


def learn(model: str, stream: Stream, step: int, bounds: Bounds) -> Trial:
    """Predict and learn the stream in this process; only predicting and learning are timed."""
    stream = _within(stream, step, bounds)
    total = len(stream.events)
    learner = LEARNERS[model].build(stream, step)
    scorer = Scorer(stream.codes, step)
    before = largest = settled_bytes()
    spent = looked = 0.0
    done = 0
    while done < total and spent < bounds.seconds:
        stop = min(done + step, total)
        started = time.perf_counter()
        answer = learner.step(done, stop)
        spent += time.perf_counter() - started
        scorer.add(learner.probabilities(answer))
        done = stop
        if spent - looked >= LOOK_EVERY_S or done == total:
            largest, looked = max(largest, resident_bytes()), spent
    is_out_of_time = done < total
    return Trial(
        events=done,
        scores=scorer.scores(),
        events_per_s=done / spent,
        memory_mb=max(largest - before, learner.state_bytes()) / 1e6,
        right=np.packbits(scorer.hits).tobytes(),
        ended=f"stopped after {bounds.seconds:g} s" if is_out_of_time else "",
    )


def _within(stream: Stream, step: int, bounds: Bounds) -> Stream:
    """What a learner may have of it, in whole steps."""
    events = -(-bounds.events // step) * step
    return stream if events >= len(stream.events) else stream.first(events)


def settled_bytes() -> int:
    """The same after everything that is not needed has gone back to the system, so that what is needed next is seen."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # of the C library of GNU alone
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


def resident_bytes() -> int:
    """Anonymous memory of this process; where the system does not tell it, the most that it ever had of any kind."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
