"""An erasure that is killed at any action, and asked for again, ends with what one that never was ends with; and at no
moment is there neither the service as it was nor the service without the events."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.control.erase import erase, receipts_of, resume
from penstock.control.folder import erasing_folder
from penstock.control.record import record, recorded
from penstock.control.swap import unfinished
from penstock.errors import ErasureUnfinished, UnknownSubject
from penstock.eventlog.local import LocalLogReader
from penstock.events import Offset
from penstock.learn.block import digest
from penstock.learn.journal import read_steps
from penstock.learn.steps import Reached, nothing
from penstock.publish.past.erasing import Whose
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.testing.faults import FaultPoint, KillAt, Recorder, run_in_child
from penstock.testing.local_house import SPEC, Traffic, publisher_of

NAME = SPEC.name
WHOSE = Whose(subject="mine")


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a thing, since a thousand fsyncs are waited for otherwise."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="penstock-test-", dir=place) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def stopped(memory: Path) -> Path:
    """A data folder with a stopped service, which knows the subject from its first events on."""
    data = memory / "stopped"
    data.mkdir()
    record({Path("local.yaml"): SPEC}, data)
    traffic = Traffic(data / NAME, seed=1, segment_bytes=20_000)
    traffic.subjects = ("a", "mine", "b", "c")
    publisher = publisher_of(data / NAME)
    publisher.start()
    for _ in range(3):
        for _ in range(8):
            traffic.send()
        while publisher.step() or publisher.has_backlog():
            pass
        publisher.checkpoint()
    publisher.close()
    traffic.close()
    return data


def run(data: Path, reached: Reached = nothing) -> None:
    erase(data, NAME, WHOSE, lambda _: None, reached, now=lambda: 1e9)


def outcome(data: Path) -> dict[str, Any]:
    """All that can be told of a service."""
    folder = data / NAME
    receipts = SqliteReceipts(folder / "versions.sqlite", NAME, read_only=True)
    snapshots = LocalSnapshots(folder / "snapshots", NAME)
    reader = LocalLogReader(folder / "log")
    found = {
        "log": {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("log/*/*.log")},
        "read": [
            (frame.partition, frame.first, frame.count, frame.time)
            for partition, end in reader.ends().items()
            for frame in reader.read(partition, Offset(0), end)
        ],
        "steps": list(read_steps(folder / "steps")),
        "receipts": receipts.newest(10_000),
        "facts": receipts.facts(10_000),
        "snapshots": {version: digest(snapshots.get(version)) for version in snapshots.versions()},
        "checkpoints": {path.parent.name: path.read_bytes() for path in folder.glob("checkpoints/*/manifest.json")},
        "erasures": [
            (r.number, r.at, r.events, r.ranges, r.withdrawn, r.version, r.state) for r in receipts_of(folder)
        ],
    }
    reader.close()
    receipts.close()
    return found


def chosen(points: list[FaultPoint]) -> list[FaultPoint]:
    """The first and the last occurrence of each action."""
    first = {point.action: point for point in reversed(points)}
    last = {point.action: point for point in points}
    return sorted({*first.values(), *last.values()})


def test_killed_at_each_action_and_asked_for_again(memory: Path, stopped: Path) -> None:
    before = outcome(stopped)
    whole = memory / "whole"
    shutil.copytree(stopped, whole)
    recorder = Recorder()
    run(whole, recorder)
    expected = outcome(whole)
    assert expected["steps"] != before["steps"]
    actions = {point.action for point in recorder.points}
    decided = {"erase.decided", "erase.moved_away", "erase.moved_in", "erase.removed"}
    assert decided | {"erase.planned", "step.recorded", "checkpoint.renamed", "erase.built"} <= actions
    for point in chosen(recorder.points):
        data = memory / f"life-{point}"
        shutil.copytree(stopped, data)
        assert not run_in_child(lambda data=data, at=point: run(data, KillAt(at))), f"{point} was never reached"
        if point.action in decided:
            # Whoever finishes it need not know whose events they were.
            if (erasing_folder(data, NAME) / "whole").exists():
                with pytest.raises(ErasureUnfinished):
                    recorded(data, NAME)
            assert unfinished(data) == ([NAME] if point.action != "erase.removed" else unfinished(data))
            resume(data, NAME)
            with pytest.raises(UnknownSubject):
                run(data)
        else:
            assert outcome(data) == before, f"after {point} the service was changed already"
            run(data)
        found = outcome(data)
        for part, value in expected.items():
            assert found[part] == value, f"after {point}: {part}"
        assert not erasing_folder(data, NAME).exists()
        shutil.rmtree(data)
