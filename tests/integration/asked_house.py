"""A service's learner on real files, and who asks it, as servers do: a share of the traffic included."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.eventlog.interface import Entry
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Batch, Kind, Partition, Version, encode
from penstock.gate.share import is_within
from penstock.join.window import JoinWindow
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import HeldOut
from penstock.learn.journal import StepJournal, read_steps
from penstock.learn.learner import Learner
from penstock.learn.slow.artifact import Artifact
from penstock.learn.slow.base import LocalBases
from penstock.learn.steps import CanaryCounts
from penstock.publish.assembly import parts_of
from penstock.publish.candidates.canary_counts import Counted, write_counts
from penstock.publish.publisher import Publisher
from penstock.publish.records.environment import keep, this_environment
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.rooms import Clocks, Rooms
from penstock.publish.weights.live import SharedLiveWeights
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.spec import ClassName, Spec
from penstock.testing.small_house import leave_learner

ROWS = 8


class House:
    """The service's learner, and who asks it, as servers do."""

    def __init__(self, data: Path, seed: int, spec: Spec) -> None:
        self.spec = spec
        self.folder = data / spec.name
        self._rng = np.random.default_rng(seed)
        self._log = LocalLogWriter(self.folder / "log", Partition(0))
        self._asked = 1_000 * seed
        self._elapsed_s = 0.0
        parts = parts_of(spec, self.folder, *(LocalLogReader(self.folder / "log") for _ in range(2)))
        rooms = Rooms(
            journal=StepJournal(self.folder / "steps"),
            checkpoints=Checkpoints(self.folder / "checkpoints", 1000),
            live=SharedLiveWeights(self.folder / "live"),
            snapshots=LocalSnapshots(self.folder / "snapshots", spec.name),
            receipts=SqliteReceipts(self.folder / "versions.sqlite", spec.name, flush_every_s=threading.TIMEOUT_MAX),
            canary=self.folder / "canary",
            keeps_past=lambda: True,
        )
        clocks = Clocks(elapsed=lambda: self._elapsed_s)
        self.publisher = Publisher(
            spec,
            parts.learner,
            parts.gate,
            parts.predictor,
            rooms,
            clocks,
            slow=parts.slow,
            environment=keep(self.folder, this_environment(spec)),
        )
        self.publisher.start()

    def __enter__(self) -> House:
        return self

    def __exit__(self, *_: object) -> None:
        self.publisher.checkpoint()
        self.publisher.close()
        self._log.close()

    def ask(self, subjects: tuple[str, ...]) -> None:
        """Predictions of these subjects in turn, and what came of them, a step later; learned as they come."""
        n, slow = ROWS, self.publisher.progress.slow
        ids = [f"p{self._asked + i}" for i in range(n)]
        self._asked += n
        numbers = self._rng.normal(size=(n, 2))
        whose = [subjects[i % len(subjects)] for i in range(n)]
        versions = [
            slow.share_version if slow.share and is_within(who, slow.shadow_base, slow.share) else self.version
            for who in whose
        ]
        asked = self._batch(Kind.PREDICTION, ids, numbers)
        self._send(replace(asked, versions=np.array(versions, np.uint64), subjects=whose))
        labels = [ClassName(str(int(label))) for label in numbers.prod(axis=1) > 0]
        self._send(replace(self._batch(Kind.FEEDBACK, ids, np.empty((n, 0))), labels=labels))
        while self.publisher.step() or self.publisher.has_backlog():
            pass

    def until_share(self, share: float) -> None:
        """Ask until it answers this."""
        for _ in range(100):
            self.ask(("a", "b", "c", "d"))
            if self.publisher.progress.slow.share == share:
                return
        raise AssertionError(f"it never answered {share}: {self.publisher.progress.slow.outcome}")

    @property
    def version(self) -> Version:
        return self.publisher.progress.version

    def say(self, answered: int) -> None:
        """Count, as servers do, and have the learner hear it."""
        slow = self.publisher.progress.slow
        counts = CanaryCounts(share=slow.share, asked=2 * answered, answered=answered)
        write_counts(self.folder / "canary", Partition(0), Counted(base=slow.shadow_base, counts=counts))
        self.pass_time()
        assert self.publisher.listen()

    def pass_time(self) -> None:
        """Until the learner listens again."""
        self._elapsed_s += 1.0

    def adopt(self, number: int, artifact: Artifact) -> None:
        """Leave a candidate with this base, as a consolidation does, and put it in shadow."""
        bases = LocalBases(self.folder / "bases")
        model = FastModel(self.spec, bases, bases.put(artifact))
        learner = Learner(self.spec, LocalLogReader(self.folder / "log"), JoinWindow.of(self.spec.label), model)
        leave_learner(
            self.folder,
            learner,
            read_steps(self.folder / "steps"),
            number=number,
            reason="request",
            base=artifact.id,
            held_out=HeldOut(events=0, gained=0, lost=0, forgotten=0.0),
        )
        self.take_up()

    def take_up(self) -> None:
        """Put the candidate that stands ready in shadow."""
        while not self.publisher.take_up():
            pass

    @staticmethod
    def _batch(kind: Kind, ids: list[str | None], numbers: Any) -> Batch:
        return Batch(
            kind=kind,
            times=np.zeros(len(ids)),
            ids=ids,
            sources=None,
            numbers=numbers,
            vectors=(),
            strings=(),
            labels=None,
            versions=None,
        )

    def _send(self, batch: Batch) -> None:
        self._log.append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])
