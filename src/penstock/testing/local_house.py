"""A learner on real files: a service with the fast tier, its log on disk, and the publisher that learns from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from penstock.eventlog.interface import Entry
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Batch, Kind, Partition, encode
from penstock.gate.rule import HarmGate
from penstock.join.window import JoinWindow
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.journal import StepJournal
from penstock.learn.learner import Learner
from penstock.publish.notices.allowance import FREE, Allowance
from penstock.publish.publisher import Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.rooms import Rooms
from penstock.publish.weights.live import SharedLiveWeights
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.replies import Replies
from penstock.spec import ClassName, Feature, Gate, Label, Learn, Spec

SPEC = Spec(
    name="local",
    task="multiclass",
    features={name: Feature(type="number") for name in "abcd"},
    label=Label(wait_s=5.0),
    learn=Learn(step_max=64, step_interval_ms=1.0, checkpoint_every_s=0.2, random_features=16),
    gate=Gate(good_after_events=64),
)
ALL = 1_000_000
"""Checkpoints kept: so many that the journal keeps every step."""


def publisher_of(
    folder: Path, kept: int = ALL, spec: Spec = SPEC, allowance: Callable[[], Allowance] = lambda: FREE
) -> Publisher:
    """A publisher over the files in this folder, which keeps so many checkpoints and does what it may."""
    learner = Learner(
        spec,
        LocalLogReader(folder / "log"),
        JoinWindow.of(spec.label),
        FastModel(spec),
    )
    rooms = Rooms(
        journal=StepJournal(folder / "steps"),
        checkpoints=Checkpoints(folder / "checkpoints", kept),
        live=SharedLiveWeights(folder / "live"),
        snapshots=LocalSnapshots(folder / "snapshots", spec.name),
        receipts=SqliteReceipts(folder / "versions.sqlite", spec.name),
        allowance=allowance,
    )
    return Publisher(spec, learner, HarmGate(spec.gate), lambda block: BlockPredictor(block, spec), rooms)


class Traffic:
    """Examples, predictions and feedback in two partitions; some labels lie, so that the gate has something to do."""

    def __init__(self, folder: Path, seed: int, segment_bytes: int = 200_000, asked: int = 0) -> None:
        """``asked`` is the number with which the ids of predictions begin."""
        self._writers = [LocalLogWriter(folder / "log", Partition(p), segment_bytes=segment_bytes) for p in (0, 1)]
        self._rng = np.random.default_rng(seed)
        self._asked = asked
        self.examples = self.repeated = self.feedback = 0
        self.subjects: tuple[str, ...] = ()
        """Whose events they are, in turn; feedback never says it."""
        self.incumbent = ""
        """What another system always answers; empty while there is none. Our replies to predictions are kept then."""

    def send(self) -> None:
        n = int(self._rng.integers(1, 40))
        kind = (Kind.EXAMPLE, Kind.PREDICTION, Kind.FEEDBACK)[self._rng.integers(0, 3)]
        numbers = self._rng.normal(size=(n, 4))
        first = self._asked if kind is Kind.PREDICTION else int(self._rng.integers(0, self._asked + 20))
        labels = (numbers[:, 0] > 0).astype(int) + 2 * (self._rng.random() < 0.05)
        batch = Batch(
            kind=kind,
            times=np.zeros(n),
            ids=None if kind is Kind.EXAMPLE else [f"p{first + i}" for i in range(n)],
            sources=None,
            numbers=np.empty((n, 0)) if kind is Kind.FEEDBACK else numbers,
            vectors=(),
            strings=(),
            labels=None if kind is Kind.PREDICTION else [ClassName(str(label)) for label in labels],
            versions=np.ones(n, np.uint64) if kind is Kind.PREDICTION else None,
            subjects=[self.subjects[i % len(self.subjects)] for i in range(n)]
            if self.subjects and kind is not Kind.FEEDBACK
            else None,
            incumbents=[self.incumbent] * n if self.incumbent and kind is not Kind.PREDICTION else None,
            replies=Replies(np.abs(numbers[:, :2]).astype(np.float32), (ClassName("0"), ClassName("1")))
            if self.incumbent and kind is Kind.PREDICTION
            else None,
        )
        self._writers[int(self._rng.integers(0, 2))].append([Entry(kind=kind, count=n, payload=encode(batch))])
        self._asked += n * (kind is Kind.PREDICTION)
        self.examples += n * (kind is Kind.EXAMPLE)
        self.feedback += n * (kind is Kind.FEEDBACK)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
