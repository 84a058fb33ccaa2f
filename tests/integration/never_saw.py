"""The service that a service would be if it had never seen what was erased from it, for the tests of this folder.

Given a home with ``before`` and ``data`` (the same after an erasure), a service and a folder to be made: the log has
the events that are left one behind the other, with no gaps, and the journal is what the steps of before make of them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np

from penstock.control.record import recorded
from penstock.eventlog.interface import Entry, Frame
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Offset, Partition, Range
from penstock.learn.journal import StepJournal, read_steps
from penstock.learn.steps import Step
from penstock.publish.assembly import replay_of


def never_saw(home: Path, name: str, data: Path) -> None:
    """A data folder whose log has the others' events alone, and whose journal the same steps otherwise."""
    folder = data / name
    folder.mkdir(parents=True)
    shutil.copyfile(home / "before" / name / "service.json", folder / "service.json")
    # What came of a consolidation before the first of the events stays, too.
    for kept_in, inside in (("before", "environments"), ("data", "consolidation"), ("data", "bases")):
        if (home / kept_in / name / inside).is_dir():
            shutil.copytree(home / kept_in / name / inside, folder / inside)
    kept = write_log(home / "data" / name / "log", folder / "log")

    def moved(taken: Range) -> Range:
        partition, start, stop = taken
        low, high = np.searchsorted(kept[partition], (start, stop)).tolist()
        return partition, Offset(low), Offset(high)

    journal, number = StepJournal(data / "asked"), 0
    for step in read_steps(home / "before" / name / "steps"):
        ranges = tuple((p, a, b) for p, a, b in map(moved, step.ranges) if a < b)
        if ranges or not step.ranges:
            number += 1
            journal.append(msgspec.structs.replace(step, number=number, ranges=ranges, sealed=""))
    journal.close()
    spec = recorded(data, name)
    made: list[Step] = []
    with replay_of(spec, folder, steps=data / "asked", restated=lambda step: step) as replay:
        made += [repeated.entry for repeated in replay.run()]
    journal = StepJournal(folder / "steps")
    journal.append(*made)
    journal.close()
    shutil.rmtree(data / "asked")


def write_log(source: Path, target: Path) -> dict[Partition, list[int]]:
    """The frames of a log one behind the other, at their times; the offsets that they had, by partition."""
    reader = LocalLogReader(source)
    kept: dict[Partition, list[int]] = {}
    for partition, end in reader.ends().items():
        frames: list[Frame] = list(reader.read(partition, Offset(0), end))
        times = iter([frame.time for frame in frames])
        writer = LocalLogWriter(target, partition, clock=lambda times=times: next(times))
        for frame in frames:
            writer.append([Entry(kind=frame.kind, count=frame.count, payload=(frame.payload,))])
            kept.setdefault(partition, []).extend(range(frame.first, frame.first + frame.count))
        writer.close()
    reader.close()
    return kept


if __name__ == "__main__":
    never_saw(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
