"""Predictions: from the newest version that the learner published, many concurrent requests at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import BaseMissing, LibraryMissing, LiveWeightsDamaged, NotReady, PenstockError
from penstock.events import Batch, Kind, Offset, Version
from penstock.learn.interface import Block, Predictions, Predictor
from penstock.learn.outside.left_out import left_out_of
from penstock.metrics import ServiceMetrics
from penstock.publish.interface import LiveReader
from penstock.serve.decode import Decoder
from penstock.serve.forms import Event
from penstock.serve.intake import ROWS_GATHERED_MAX, Intake

MakePredictor = Callable[[Block], Predictor]


class ClassAnswer(msgspec.Struct, frozen=True):
    """The answer of a classification."""

    id: str
    version: int
    label: str | None
    """The most probable class; None while a multiclass service has heard of none, so that feedback can name the
    first."""
    probabilities: dict[str, float]


class SetAnswer(msgspec.Struct, frozen=True):
    """The answer of a task with several classes together."""

    id: str
    version: int
    label: list[str]
    """The classes whose probability is above the service's ``serve.threshold``, the most probable first."""
    probabilities: dict[str, float]
    """Of each class by itself."""


class NumberAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of a regression, in the label's unit, or of counts, whose interval and quantiles are counts."""

    id: str
    version: int
    mean: float
    spread: float
    low: float
    high: float
    quantiles: dict[str, float] = {}
    """By their levels, as the service file names them in ``serve.quantiles``; not there where it names none."""


Answer = ClassAnswer | SetAnswer | NumberAnswer


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of one request, in the order of its events."""

    answers: list[Answer]
    position: str
    """Which events the answering version had learned: ``partition:offset``, separated by commas."""


Waiting = tuple[list[Event], "asyncio.Future[Answered]", float]


class Answers:
    """Answers for one service through one server worker. Lives on the event loop."""

    def __init__(
        self,
        decoder: Decoder,
        live: LiveReader,
        make_predictor: MakePredictor,
        intake: Intake,
        id_prefix: str,
        metrics: ServiceMetrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._decoder = decoder
        self._live = live
        self._make_predictor = make_predictor
        self._intake = intake
        self._id_prefix = id_prefix
        """Partition and incarnation of this worker: with a counter behind it, an id is unique for ever."""
        self._count = 0
        self._metrics = metrics
        self._loop = loop
        self._record = decoder.spec.serve.record_predictions
        self._levels = [str(level) for level in decoder.spec.serve.quantiles]
        self._version = Version(0)
        self._position = ""
        self._classes: tuple[str, ...] = ()
        self._predictor: Predictor | None = None
        self.left_out: dict[str, str] = {}
        """Members from outside that the version which answers does without, and why."""
        self._pending: list[Waiting] = []

    async def ask(self, events: list[Event], source: str | None) -> Answered:
        """Answer checked events together with those of all requests that arrived in the same turn of the event loop.

        Raises NotReady before the first version."""
        if source is not None:
            for event in events:
                event.source = event.source or source
        if len(events) > ROWS_GATHERED_MAX:
            return await self.ask_batch(self._decoder.batch(Kind.PREDICTION, events, time.time()))
        future: asyncio.Future[Answered] = self._loop.create_future()
        if not self._pending:
            self._loop.call_soon(self._answer_pending)
        self._pending.append((events, future, time.perf_counter()))
        return await future

    async def ask_batch(self, batch: Batch) -> Answered:
        """Answer columns."""
        future: asyncio.Future[Answered] = self._loop.create_future()
        self._answer(batch, [(len(batch), future, time.perf_counter())])
        return await future

    def look(self) -> None:
        """Get ready to answer from the newest version, whether anybody asks or not."""
        with contextlib.suppress(PenstockError):
            self._newest()

    def _answer_pending(self) -> None:
        pending, self._pending = self._pending, []
        # One evaluation for many rows costs little more than for one; the answers are then handed out by row.
        try:
            events = [event for asked, _, _ in pending for event in asked] if len(pending) > 1 else pending[0][0]
            batch = self._decoder.batch(Kind.PREDICTION, events, time.time())
            self._answer(batch, [(len(asked), future, begun) for asked, future, begun in pending])
        except Exception as error:
            for _, future, _ in pending:
                if not future.done():
                    future.set_exception(error)

    def _answer(self, batch: Batch, waiting: list[tuple[int, asyncio.Future[Answered], float]]) -> None:
        predictor = self._newest()
        predictions = predictor.predict(batch)
        answers = self._worded(predictions, ids := self._ids(batch))
        self._metrics.predictions.inc(len(batch))
        if self._record == "never":
            self._hand_out(answers, waiting)
            return
        versions = np.full(len(batch), self._version, dtype=np.uint64)
        record = replace(batch, ids=ids, versions=versions, labels=None, said=predictions.said)
        if self._record == "durable":
            position = self._position
            self._intake.record(record, lambda result: self._hand_out(answers, waiting, result, position))
            return
        try:
            self._intake.record(record, None)
        except PenstockError:
            # Predictions never stop. Feedback to these will be counted as unknown, and this counter says why.
            self._metrics.unrecorded.inc(len(batch))
        self._hand_out(answers, waiting)

    def _newest(self) -> Predictor:
        version = self._live.version()
        if version != self._version or self._predictor is None:
            block = self._block() if version else None
            if block is None:
                if self._predictor is None:
                    raise NotReady(service=self._decoder.spec.name)
                return self._predictor
            try:
                predictor = self._make_predictor(block)
            except (BaseMissing, LibraryMissing):
                # Predictions never stop: the version before answers, and health says why.
                if self._predictor is None:
                    raise
                return self._predictor
            self._predictor = predictor
            self._version = block.head.version
            self._classes = block.head.classes
            self.left_out = left_out_of(block.arrays)
            self._position = ",".join(f"{p}:{offset}" for p, offset in sorted(block.head.position.items()))
        return self._predictor

    def _block(self) -> Block | None:
        try:
            return self._live.block()
        except LiveWeightsDamaged:
            # A learner died in the middle of writing. Its successor writes anew; until then the version before answers.
            if self._predictor is None:
                raise
            return None

    def _ids(self, batch: Batch) -> list[str | None]:
        first, self._count = self._count, self._count + len(batch)
        prefix = self._id_prefix
        if batch.ids is None:
            return [f"{prefix}{number}" for number in range(first, first + len(batch))]
        return [event_id or f"{prefix}{first + row}" for row, event_id in enumerate(batch.ids)]

    def _worded(self, predictions: Predictions, ids: list[str | None]) -> list[Answer]:
        version, classes = int(self._version), self._classes
        probabilities = predictions.probabilities
        if probabilities is not None and self._decoder.schema.label_is_set:
            return self._worded_sets(probabilities, ids)
        if probabilities is not None and not classes:
            return [ClassAnswer(event_id or "", version, None, {}) for event_id in ids]
        if probabilities is not None:
            best = probabilities.argmax(axis=1).tolist()
            rows = probabilities.tolist()
            return [
                ClassAnswer(event_id or "", version, classes[label], dict(zip(classes, row, strict=True)))
                for event_id, label, row in zip(ids, best, rows, strict=True)
            ]
        columns: list[Any] = [predictions.mean, predictions.spread, predictions.low, predictions.high]
        quantiles: list[dict[str, float]] = [{}] * len(ids)
        if predictions.quantiles is not None:
            quantiles = [dict(zip(self._levels, row, strict=True)) for row in predictions.quantiles.tolist()]
        numbers = zip(*(column.tolist() for column in columns), quantiles, strict=True)
        return [NumberAnswer(event_id or "", version, *row) for event_id, row in zip(ids, numbers, strict=True)]

    def _worded_sets(self, probabilities: NDArray[np.float64], ids: list[str | None]) -> list[Answer]:
        version, classes, threshold = int(self._version), self._classes, self._decoder.spec.serve.threshold
        answers: list[Answer] = []
        for event_id, row in zip(ids, probabilities.tolist(), strict=True):
            chances = dict(zip(classes, row, strict=True))
            chosen = [name for name, chance in chances.items() if chance > threshold]
            chosen.sort(key=chances.__getitem__, reverse=True)
            answers.append(SetAnswer(event_id or "", version, chosen, chances))
        return answers

    def _hand_out(
        self,
        answers: list[Answer],
        waiting: list[tuple[int, asyncio.Future[Answered], float]],
        result: Offset | Exception | None = None,
        position: str | None = None,
    ) -> None:
        now = time.perf_counter()
        first = 0
        position = self._position if position is None else position
        for count, future, begun in waiting:
            self._metrics.predict_s.observe(now - begun)
            if not future.done():
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(Answered(answers[first : first + count], position))
            first += count
