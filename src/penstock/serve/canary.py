"""A candidate that answers a share of the traffic, as one server worker sees it: which requests are its own, what it
answers, and whether it can be lived with. Where it cannot answer, what is served does: predictions never stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import LiveWeightsDamaged
from penstock.eventlog.doorbell import call
from penstock.events import Batch, Partition, Version
from penstock.gate.share import is_within
from penstock.learn.interface import Block, Predictions, Predictor
from penstock.learn.steps import CanaryCounts
from penstock.publish.candidates.canary import key_of
from penstock.publish.candidates.canary_counts import Counted, counts_of, write_counts
from penstock.publish.interface import LiveReader
from penstock.spec import ClassName

logger = logging.getLogger(__name__)

COMPARED_EVERY = 16
"""Of so many of its evaluations one is timed beside what is served, on the same rows."""
NOTICED_S = 0.001
"""What is slower by less is not slower for whoever asks over a network."""
FAILURE_MAX = 300
"""Characters of a failure that are told."""


@dataclass(frozen=True, slots=True)
class Answering:
    """One version, ready to answer."""

    predictor: Predictor
    version: Version
    classes: tuple[ClassName, ...]
    position: str
    """Which events it had learned: ``partition:offset``, separated by commas."""

    @classmethod
    def of(cls, block: Block, predictor: Predictor) -> Answering:
        """The version of this block."""
        position = ",".join(f"{p}:{offset}" for p, offset in sorted(block.head.position.items()))
        return cls(predictor, block.head.version, block.head.classes, position)


class Trial:
    """What a worker does with the candidate of one service, if there is one."""

    def __init__(
        self,
        live: LiveReader,
        make_predictor: Callable[[Block], Predictor],
        folder: Path,
        partition: Partition,
        slower_max: float,
    ) -> None:
        """``folder`` is the service's; in its ``canary`` it is said what was counted."""
        self._live = live
        self._make_predictor = make_predictor
        self._folder = folder
        self._partition = partition
        self._slower_max = slower_max
        self._answering: Answering | None = None
        self._base: str | None = None
        self._failed = Version(0)
        """The version of which no predictor could be made."""
        self._counts = self._written = CanaryCounts()
        self._evaluations = 0

    def own_rows(self, batch: Batch, share: float) -> NDArray[np.intp]:
        """The places of the events that belong to its share, all of them having ids."""
        own = [row for row in range(len(batch)) if is_within(key_of(batch, row), self._base or "", share)]
        return np.array(own, np.intp)

    def newest(self, share: float) -> Answering | None:
        """The candidate, ready to answer; None where there is none, or it cannot be made ready."""
        reader = self._live.beside()
        version = reader.version()
        if self._answering is not None and version == self._answering.version:
            return self._handing_out(self._answering, share)
        if version == self._failed:
            return None
        try:
            block = reader.block()
            if block is None:
                return None
            self._begin(block.head.base)
            self._answering = Answering.of(block, self._make_predictor(block))
        except LiveWeightsDamaged:
            # A learner died in the middle of writing; its successor writes anew.
            return None
        except Exception as error:
            # Whatever is wrong with what is tried out must not reach whoever asks.
            self._answering, self._failed = None, version
            self._fail(error)
            return None
        return self._handing_out(self._answering, share)

    def predict(self, batch: Batch, answering: Answering, served: Predictor) -> Predictions | None:
        """Its predictions of its own events; None where it has none, or none that can be told to anybody."""
        self._evaluations += 1
        compares = self._evaluations % COMPARED_EVERY == 1
        began = time.perf_counter()
        try:
            found = answering.predictor.predict(batch)
        except Exception as error:
            self._fail(error)
            return None
        if compares:
            between = time.perf_counter()
            served.predict(batch)
            self._compare(between - began, time.perf_counter() - between)
        numbers = found.probabilities if found.probabilities is not None else found.mean
        if numbers is not None and not np.isfinite(numbers).all():
            self._count(not_finite=len(batch))
            self.tell()
            call(self._folder / "log")
            return None
        self._count(answered=len(batch))
        return found

    def asked(self, events: int) -> None:
        """So many events were to be predicted, by whatever version."""
        self._count(asked=events)

    def look(self) -> None:
        """Get ready to answer, say what was counted, and let go of what answers no more."""
        share = self._live.share()
        if share:
            self.newest(share)
            self.tell()
        else:
            self._answering = None

    def tell(self) -> None:
        """Leave what was counted for the learner."""
        if self._base is not None and self._counts != self._written:
            write_counts(self._folder / "canary", self._partition, Counted(base=self._base, counts=self._counts))
            self._written = self._counts

    def _handing_out(self, answering: Answering, share: float) -> Answering:
        if share > self._counts.share:
            self._count(share=share)
        return answering

    def _begin(self, base: str) -> None:
        if base != self._base:
            self._base = base
            self._counts = counts_of(self._folder / "canary", self._partition, base)

    def _compare(self, own_s: float, served_s: float) -> None:
        is_slow = own_s > self._slower_max * served_s and own_s > served_s + NOTICED_S
        self._count(timed=1, slow=int(is_slow))

    def _fail(self, error: Exception) -> None:
        logger.warning("a candidate cannot answer its share of the traffic", extra={"error": repr(error)})
        self._count(failed=1, failure=str(error)[:FAILURE_MAX] or type(error).__name__)
        self.tell()
        call(self._folder / "log")

    def _count(
        self,
        *,
        share: float | None = None,
        asked: int = 0,
        answered: int = 0,
        failed: int = 0,
        not_finite: int = 0,
        timed: int = 0,
        slow: int = 0,
        failure: str = "",
    ) -> None:
        counts = self._counts
        self._counts = msgspec.structs.replace(
            counts,
            share=counts.share if share is None else share,
            asked=counts.asked + asked,
            answered=counts.answered + answered,
            failed=counts.failed + failed,
            not_finite=counts.not_finite + not_finite,
            timed=counts.timed + timed,
            slow=counts.slow + slow,
            failure=failure or counts.failure,
        )
