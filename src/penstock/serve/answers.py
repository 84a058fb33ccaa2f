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
from penstock.events import Batch, Kind, Offset, Strings
from penstock.learn.interface import Block, Predictions, Predictor
from penstock.learn.outside.left_out import left_out_of
from penstock.metrics import ServiceMetrics
from penstock.publish.interface import LiveReader
from penstock.replies import CLASSES_MAX, Replies, together
from penstock.serve.canary import Answering, Trial
from penstock.serve.decode import Decoder
from penstock.serve.forms import Event
from penstock.serve.intake import ROWS_GATHERED_MAX, Intake
from penstock.serve.role import Of, Role

MakePredictor = Callable[[Block], Predictor]


class ClassAnswer(msgspec.Struct, frozen=True):
    """The answer of a classification."""

    id: str
    version: int
    label: str | None
    """The most probable class; None while a multiclass service has heard of none, so that feedback can name the
    first."""
    probabilities: dict[str, float]
    apprentice_of: Of = msgspec.UNSET
    """The system whose answer is to be used instead, while this service is its apprentice; not there otherwise."""


class SetAnswer(msgspec.Struct, frozen=True):
    """The answer of a task with several classes together."""

    id: str
    version: int
    label: list[str]
    """The classes whose probability is above the service's ``serve.threshold``, the most probable first."""
    probabilities: dict[str, float]
    """Of each class by itself."""
    apprentice_of: Of = msgspec.UNSET
    """As of one class."""


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
    apprentice_of: Of = msgspec.UNSET
    """As of one class."""


Answer = ClassAnswer | SetAnswer | NumberAnswer


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of one request, in the order of its events."""

    answers: list[Answer]
    position: str
    """Which events the answering version had learned: ``partition:offset``, separated by commas."""


@dataclass(frozen=True, slots=True)
class _Told:
    """The answers to a batch, and what the log keeps of them."""

    answers: list[Answer]
    versions: NDArray[np.uint64]
    """(n,) which version each is from."""
    position: str
    said: NDArray[np.floating] | None
    replies: Replies | None = None
    """The same as numbers, where they are to be compared with those of another system once the labels come."""


Waiting = tuple[list[Event], "asyncio.Future[Answered]", float]


class Answers:
    """Answers for one service through one server worker. Lives on the event loop."""

    def __init__(
        self,
        decoder: Decoder,
        live: LiveReader,
        make_predictor: MakePredictor,
        trial: Trial,
        intake: Intake,
        id_prefix: str,
        metrics: ServiceMetrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._decoder = decoder
        self._live = live
        self._make_predictor = make_predictor
        self._trial = trial
        self._intake = intake
        self._id_prefix = id_prefix
        """Partition and incarnation of this worker: with a counter behind it, an id is unique for ever."""
        self._count = 0
        self._metrics = metrics
        self._loop = loop
        self._record = decoder.spec.serve.record_predictions
        self._keeps_replies = decoder.spec.gate.apprentice is not None and self._record != "never"
        self._role = Role(decoder.spec, live)
        self._levels = [str(level) for level in decoder.spec.serve.quantiles]
        self._answering: Answering | None = None
        """What is served."""
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
            self._role.look()
            self._trial.look()

    def end(self) -> None:
        """Say what was counted, since nobody will be asked any more."""
        self._trial.tell()

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
        answering, share = self._newest(), self._live.share()
        ids = self._ids(batch)
        told = self._told_by_both(batch, ids, answering, share) if share else self._told_by(batch, ids, answering)
        answers, position = told.answers, told.position
        self._metrics.predictions.inc(len(batch))
        if self._record == "never":
            self._hand_out(answers, waiting, position)
            return
        record = replace(batch, ids=ids, versions=told.versions, labels=None, said=told.said, replies=told.replies)
        if self._record == "durable":
            self._intake.record(record, lambda result: self._hand_out(answers, waiting, position, result))
            return
        try:
            self._intake.record(record, None)
        except PenstockError:
            # Predictions never stop. Feedback to these will be counted as unknown, and this counter says why.
            self._metrics.unrecorded.inc(len(batch))
        self._hand_out(answers, waiting, position)

    def _told_by(self, batch: Batch, ids: Strings, answering: Answering) -> _Told:
        """All answers from one version."""
        predictions = answering.predictor.predict(batch)
        versions = np.full(len(batch), answering.version, dtype=np.uint64)
        answers, replies = self._worded(predictions, ids, answering), self._replies(predictions, answering)
        return _Told(answers, versions, answering.position, predictions.said, replies)

    def _replies(self, predictions: Predictions, by: Answering) -> Replies | None:
        """What is kept of answers with the record of their predictions."""
        if not self._keeps_replies:
            return None
        if predictions.mean is not None:
            return Replies(predictions.mean[:, None])
        if predictions.probabilities is None or not 0 < len(by.classes) <= CLASSES_MAX:
            return None
        return Replies(predictions.probabilities.astype(np.float32), by.classes)

    def _told_by_both(self, batch: Batch, ids: Strings, served: Answering, share: float) -> _Told:
        """Answers from what is served, and those of its share from what is tried out beside it."""
        trial = self._trial
        tried = trial.newest(share)
        trial.asked(len(batch))
        own = np.empty(0, np.intp) if tried is None else trial.own_rows(replace(batch, ids=ids), share)
        events = batch.rows(own) if len(own) else None
        predictions = None if events is None or tried is None else trial.predict(events, tried, served.predictor)
        if predictions is None or events is None or tried is None:
            return self._told_by(batch, ids, served)
        versions = np.full(len(batch), served.version, dtype=np.uint64)
        versions[own] = tried.version
        own_answers = self._worded(predictions, [ids[row] for row in own.tolist()], tried)
        own_replies = self._replies(predictions, tried)
        if len(own) == len(batch):
            return _Told(own_answers, versions, tried.position, None, own_replies)
        others = np.setdiff1d(np.arange(len(batch)), own)
        rest = self._told_by(batch.rows(others), [ids[row] for row in others.tolist()], served)
        answers: list[Any] = [None] * len(batch)
        for rows, part in ((own, own_answers), (others, rest.answers)):
            for row, answer in zip(rows.tolist(), part, strict=True):
                answers[row] = answer
        said = None
        if rest.said is not None:
            # What the members of the other model said is not this one's to learn from.
            said = np.full((len(batch), rest.said.shape[1]), np.nan, rest.said.dtype)
            said[others] = rest.said
        replies = together([(len(own), own_replies), (len(others), rest.replies)])
        if replies is not None:
            replies = replies.rows(np.argsort(np.concatenate((own, others))))
        # What is tried out is exposed right behind what is served, and never ahead of it.
        return _Told(answers, versions, tried.position, said, replies)

    def _newest(self) -> Answering:
        version, answering = self._live.version(), self._answering
        if answering is None or version != answering.version:
            block = self._block() if version else None
            if block is None:
                if answering is None:
                    raise NotReady(service=self._decoder.spec.name)
                return answering
            try:
                predictor = self._make_predictor(block)
            except (BaseMissing, LibraryMissing):
                # Predictions never stop: the version before answers, and health says why.
                if answering is None:
                    raise
                return answering
            self._answering = answering = Answering.of(block, predictor)
            self._role.look()
            self.left_out = left_out_of(block.arrays)
        return answering

    def _block(self) -> Block | None:
        try:
            return self._live.block()
        except LiveWeightsDamaged:
            # A learner died in the middle of writing. Its successor writes anew; until then the version before answers.
            if self._answering is None:
                raise
            return None

    def _ids(self, batch: Batch) -> Strings:
        first, self._count = self._count, self._count + len(batch)
        prefix = self._id_prefix
        if batch.ids is None:
            return [f"{prefix}{number}" for number in range(first, first + len(batch))]
        return [event_id or f"{prefix}{first + row}" for row, event_id in enumerate(batch.ids)]

    def _worded(self, predictions: Predictions, ids: Strings, by: Answering) -> list[Answer]:
        version, classes, of = int(by.version), by.classes, self._role.of
        probabilities = predictions.probabilities
        if probabilities is not None and self._decoder.schema.label_is_set:
            return self._worded_sets(probabilities, ids, by)
        if probabilities is not None and not classes:
            return [ClassAnswer(event_id or "", version, None, {}, of) for event_id in ids]
        if probabilities is not None:
            best = probabilities.argmax(axis=1).tolist()
            rows = probabilities.tolist()
            return [
                ClassAnswer(event_id or "", version, classes[label], dict(zip(classes, row, strict=True)), of)
                for event_id, label, row in zip(ids, best, rows, strict=True)
            ]
        columns: list[Any] = [predictions.mean, predictions.spread, predictions.low, predictions.high]
        quantiles: list[dict[str, float]] = [{}] * len(ids)
        if predictions.quantiles is not None:
            quantiles = [dict(zip(self._levels, row, strict=True)) for row in predictions.quantiles.tolist()]
        numbers = zip(*(column.tolist() for column in columns), quantiles, strict=True)
        return [
            NumberAnswer(event_id or "", version, mean, spread, low, high, levels, of)
            for event_id, (mean, spread, low, high, levels) in zip(ids, numbers, strict=True)
        ]

    def _worded_sets(self, probabilities: NDArray[np.float64], ids: Strings, by: Answering) -> list[Answer]:
        version, classes, threshold = int(by.version), by.classes, self._decoder.spec.serve.threshold
        answers: list[Answer] = []
        for event_id, row in zip(ids, probabilities.tolist(), strict=True):
            chances = dict(zip(classes, row, strict=True))
            chosen = [name for name, chance in chances.items() if chance > threshold]
            chosen.sort(key=chances.__getitem__, reverse=True)
            answers.append(SetAnswer(event_id or "", version, chosen, chances, self._role.of))
        return answers

    def _hand_out(
        self,
        answers: list[Answer],
        waiting: list[tuple[int, asyncio.Future[Answered], float]],
        position: str,
        result: Offset | Exception | None = None,
    ) -> None:
        now = time.perf_counter()
        first = 0
        for count, future, begun in waiting:
            self._metrics.predict_s.observe(now - begun)
            if not future.done():
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(Answered(answers[first : first + count], position))
            first += count
