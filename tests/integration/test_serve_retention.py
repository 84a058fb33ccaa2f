"""Retention: bounded by size and age over all partitions, and never past what something still needs."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Offset, Partition, Position, Version
from penstock.learn.checkpoint import Checkpoint, Checkpoints
from penstock.learn.ready import hold, release
from penstock.serve.retention import log_sizes, retain
from penstock.spec import Budget, Feature, Learn, Spec
from penstock.testing.log_conformance import entry

KEPT = 2
SEGMENT_BYTES = 2000
MOST = 1024**2
SPEC = Spec(
    name="kept",
    task="binary",
    features={"x": Feature(type="number")},
    learn=Learn(checkpoints_kept=KEPT),
    budget=Budget(log_max_bytes=MOST, log_max_age_s=1000.0),
)
SMALL = msgspec.structs.replace(SPEC, budget=msgspec.structs.replace(SPEC.budget, log_max_bytes=9000))
"""A limit below what a service file may say, so that few events are too many."""
PARTITIONS = tuple(map(Partition, range(3)))
QUICK_DISK = "/dev/shm" if os.path.isdir("/dev/shm") else None


class RetentionStates(RuleBasedStateMachine):
    """Appends by any partition, checkpoints that need any older offsets, a consolidation that holds some, writers that
    come and go, a clock that jumps; and retention at any time."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-retention-", dir=QUICK_DISK))
        self.now = 1000.0
        self.writers: dict[Partition, LocalLogWriter] = {}
        self.ends: dict[Partition, int] = {}
        self.needs: list[Position] = []
        self.held: Position | None = None
        self.step = 0
        self.checkpoints = Checkpoints(self.folder / "checkpoints", KEPT)
        self.open(Partition(0))

    def open(self, partition: Partition) -> None:
        if partition not in self.writers:
            self.writers[partition] = LocalLogWriter(
                self.folder / "log", partition, segment_bytes=SEGMENT_BYTES, clock=lambda: self.now
            )
            self.ends[partition] = self.writers[partition].end()

    @rule(partition=st.sampled_from(PARTITIONS), counts=st.lists(st.integers(1, 5), min_size=1, max_size=8))
    def append(self, partition: Partition, counts: list[int]) -> None:
        self.open(partition)
        for count in counts:
            self.writers[partition].append([entry(b"x" * 300, count=count)])
        self.ends[partition] = self.writers[partition].end()

    @rule(partition=st.sampled_from(PARTITIONS[1:]))
    def leave(self, partition: Partition) -> None:
        """The worker ends, and its partition has no writer."""
        if partition in self.writers:
            self.writers.pop(partition).close()

    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        """The learner has taken some of each partition; what waits for feedback may be older."""
        starts = self.starts()
        known = data.draw(st.sets(st.sampled_from(sorted(self.ends))), label="partitions read")
        needed = {p: Offset(data.draw(st.integers(starts.get(p, 0), self.ends[p]))) for p in sorted(known)}
        self.step += 1
        self.checkpoints.write(
            Checkpoint(step=self.step, version=Version(1), position=needed, needed=needed, values={}, arrays={})
        )
        self.needs = [*self.needs, needed][-KEPT:]

    @rule(data=st.data())
    def consolidate(self, data: st.DataObject) -> None:
        starts = self.starts()
        self.held = {p: Offset(data.draw(st.integers(starts.get(p, 0), self.ends[p]))) for p in sorted(self.ends)}
        hold(self.folder / "consolidation", 1, self.held)

    @rule()
    def end_consolidation(self) -> None:
        release(self.folder / "consolidation")
        self.held = None

    @rule(seconds=st.floats(-500.0, 2000.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def retain(self) -> None:
        for writer in self.writers.values():
            retain(SMALL, self.folder, writer, self.now)

    def starts(self) -> Position:
        reader = LocalLogReader(self.folder / "log")
        try:
            return reader.starts()
        finally:
            reader.close()

    @invariant()
    def everything_that_is_needed_can_be_read(self) -> None:
        if not hasattr(self, "folder"):
            return
        needs = [*self.needs, *([self.held] if self.held is not None else [])]
        reader = LocalLogReader(self.folder / "log")
        try:
            starts = reader.starts()
            for partition, end in self.ends.items():
                oldest = min((need.get(partition, Offset(0)) for need in needs), default=Offset(0))
                if len(self.needs) < KEPT:
                    oldest = Offset(0)
                assert starts.get(partition, 0) <= oldest
                frames = list(reader.read(partition, Offset(max(oldest, starts[partition])), Offset(end)))
                assert sum(frame.count for frame in frames) >= end - max(oldest, starts[partition])
        finally:
            reader.close()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for writer in self.writers.values():
                writer.close()
            shutil.rmtree(self.folder)


RetentionStates.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRetentionStates = RetentionStates.TestCase


def filled(folder: Path, appends: dict[int, int]) -> dict[Partition, LocalLogWriter]:
    """Partitions with so many frames, and checkpoints that need none of them any more."""
    writers = {
        Partition(p): LocalLogWriter(folder / "log", Partition(p), segment_bytes=SEGMENT_BYTES, clock=lambda: 100.0)
        for p in appends
    }
    for partition, writer in writers.items():
        for _ in range(appends[partition]):
            writer.append([entry(b"x" * 300)])
    checkpoints = Checkpoints(folder / "checkpoints", KEPT)
    position = {partition: writer.end() for partition, writer in writers.items()}
    for step in range(1, KEPT + 1):
        checkpoints.write(Checkpoint(step=step, version=Version(1), position=position, needed=position, values={}))
    return writers


@pytest.mark.parametrize("abandoned", [False, True])
def test_the_limit_is_that_of_all_partitions_together_with_or_without_a_writer(tmp_path: Path, abandoned: bool) -> None:
    writers = filled(tmp_path, {0: 40, 1: 10, 2: 60})
    if abandoned:
        for partition in PARTITIONS[1:]:
            writers.pop(partition).close()
    assert sum(log_sizes(tmp_path / "log").values()) > 30_000
    for _ in range(4):
        for writer in writers.values():
            retain(SMALL, tmp_path, writer, 100.0)
    sizes = log_sizes(tmp_path / "log")
    assert sum(sizes.values()) <= 9000 + len(sizes) * SEGMENT_BYTES
    assert min(sizes.values()) > 0, "the last segment of each stays"
    for writer in writers.values():
        writer.close()


def test_what_is_within_the_limits_stays(tmp_path: Path) -> None:
    writers = filled(tmp_path, {0: 40, 1: 40})
    before = log_sizes(tmp_path / "log")
    for now in (100.0, 1100.0, -5.0):
        for writer in writers.values():
            retain(SPEC, tmp_path, writer, now)
    assert log_sizes(tmp_path / "log") == before
    for writer in writers.values():
        retain(SPEC, tmp_path, writer, 1200.0)
    assert sum(log_sizes(tmp_path / "log").values()) < sum(before.values()) / 4, "older than a thousand seconds"
    for writer in writers.values():
        writer.close()


def test_a_checkpoint_that_was_put_aside_does_not_count(tmp_path: Path) -> None:
    writers = filled(tmp_path, {0: 40})
    newest = max((tmp_path / "checkpoints").iterdir())
    newest.rename(newest.with_name(newest.name + ".damaged"))
    before = log_sizes(tmp_path / "log")
    retain(SMALL, tmp_path, writers[Partition(0)], 1e9)
    assert log_sizes(tmp_path / "log") == before
    writers[Partition(0)].close()


def test_what_a_consolidation_still_reads_stays(tmp_path: Path) -> None:
    writers = filled(tmp_path, {0: 40})
    writer = writers[Partition(0)]
    hold(tmp_path / "consolidation", 1, {Partition(0): Offset(7)})
    retain(SMALL, tmp_path, writer, 1e9)
    assert next(iter(writer.recent(100))).first <= 7
    release(tmp_path / "consolidation")
    retain(SMALL, tmp_path, writer, 1e9)
    assert next(iter(writer.recent(100))).first > 7
    writer.close()
