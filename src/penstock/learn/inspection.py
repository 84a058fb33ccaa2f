"""Looking through what a learner keeps, while no learner runs: the step journal against the log, checkpoints, bases and
candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from penstock.errors import BaseMissing, CheckpointDamaged, StepsCorrupt
from penstock.eventlog.findings import Found, cut_tail, found, put_aside
from penstock.eventlog.inspection import Inspected
from penstock.events import Offset, Partition, Position
from penstock.learn.checkpoint import Checkpoint, Checkpoints
from penstock.learn.journal import read_steps, torn_tail
from penstock.learn.ready import read_ready, ready_folder, ready_numbers
from penstock.learn.slow.artifact import read_artifact

Log = Mapping[Partition, Inspected]

NO_START = "Nothing else is left from which the learner could start and come to the same state."


@dataclass(slots=True)
class InspectedJournal:
    """What the step journal says, as far as it can be read."""

    first: int = 0
    """The number of its first entry; 0 for an empty one."""
    last: int = 0
    positions: dict[int, Position] = field(default_factory=dict)
    """Behind each entry, of those partitions that the journal names."""
    adopted: dict[int, int] = field(default_factory=dict)
    """For each candidate that was put in shadow, the entry that did it: a replay from before it reads the candidate."""
    findings: list[Found] = field(default_factory=list)


def inspect_journal(folder: Path, log: Log) -> InspectedJournal:
    """Every entry: whole, in order, and of events that the log holds."""
    seen = InspectedJournal()
    try:
        torn = torn_tail(folder)
        for step in read_steps(folder, strict=True):
            seen.first = seen.first or step.number
            position = dict(seen.positions.get(seen.last, {}))
            for partition, start, stop in step.ranges:
                at = position.get(partition, start if seen.first > 1 else Offset(0))
                if start != at:
                    what = f"step {step.number} takes partition {partition} from offset {start}, and {at} is next"
                    seen.findings.append(_of_journal(folder, what, partition, at))
                position[partition] = stop
            seen.last = step.number
            seen.positions[step.number] = position
            if step.shadow is not None and step.shadow.what == "adopted":
                seen.adopted[step.shadow.number] = step.number
    except StepsCorrupt as error:
        what = f"at byte {error.details['byte']}: {error.details['reason']}"
        seen.findings.append(_of_journal(Path(str(error.details["file"])), what))
        torn = None
    if torn is not None:
        seen.findings.append(_torn_entry(*torn))
    for partition, stop in seen.positions.get(seen.last, {}).items():
        end = log[partition].end if partition in log else Offset(0)
        if stop > end:
            what = f"it has taken partition {partition} up to offset {stop}, and the log ends at {end}"
            seen.findings.append(_of_journal(folder, what, partition, end))
    return seen


def inspect_checkpoints(folder: Path, bases: Path, journal: InspectedJournal, log: Log) -> list[Found]:
    """Every checkpoint: readable, of what the journal says, and with all that a start from it would read."""
    checkpoints = Checkpoints(folder, 1)
    damaged: list[CheckpointDamaged] = []
    faults: dict[int, str] = {}
    for step in checkpoints.steps():
        try:
            fault = _fault_of(checkpoints.read(step), bases, journal, log)
        except CheckpointDamaged as error:
            damaged.append(error)
            fault = str(error.details["reason"])
        if fault:
            faults[step] = fault
    sound = set(checkpoints.steps()) - set(faults)
    from_nothing = journal.first == 1 and not any(inspected.first for inspected in log.values())
    is_new = not checkpoints.steps() and not journal.last
    can_start = bool(sound) or from_nothing or is_new
    found_so_far = []
    for step, fault in faults.items():
        place = folder / f"{step:020d}"
        found_so_far.append(
            found(
                (lambda place=place: put_aside(place)) if can_start else None,  # type: ignore[misc]
                part="checkpoint",
                file=str(place),
                what=fault,
                means=(
                    f"The learner starts from {_other_start(sound)} and repeats the steps behind it, to the same bytes."
                    if can_start
                    else NO_START
                ),
                remedy="--repair puts it aside." if can_start else "Restore the folder from a copy.",
            )
        )
    if not can_start and not faults:
        what = f"there is no checkpoint, and the journal begins with step {journal.first}"
        found_so_far.append(
            found(part="checkpoint", file=str(folder), what=what, means=NO_START, remedy="Restore it from a copy.")
        )
    return found_so_far


def inspect_bases(folder: Path, needed: Iterable[str]) -> list[Found]:
    """Every base that somebody needs."""
    findings = []
    for base in sorted(set(needed) - {""}):
        try:
            read_artifact(folder, base)
        except BaseMissing as error:
            findings.append(
                found(
                    part="base",
                    file=str(folder / base),
                    what=str(error.details["reason"]),
                    means="A checkpoint or a snapshot reads its features; without it neither can be used.",
                    remedy="Restore the folder from a copy.",
                )
            )
    return findings


def inspect_candidates(folder: Path, journal: InspectedJournal, newest_checkpoint: int) -> list[Found]:
    """Every candidate that a consolidation has left. One that no replay will read again can be put aside."""
    findings = []
    for number in ready_numbers(folder):
        try:
            read_ready(folder, number)
        except CheckpointDamaged as error:
            place = ready_folder(folder, number)
            is_needed = journal.adopted.get(number, 0) > newest_checkpoint
            findings.append(
                found(
                    None if is_needed else (lambda place=place: put_aside(place)),  # type: ignore[misc]
                    part="candidate",
                    file=str(place),
                    what=str(error.details["reason"]),
                    means=(
                        "A step that a start repeats put it in shadow; the learner stops there."
                        if is_needed
                        else "It is not tried. What is served does not depend on it."
                    ),
                    remedy="Restore the folder from a copy." if is_needed else "--repair puts it aside.",
                )
            )
    return findings


def _fault_of(checkpoint: Checkpoint, bases: Path, journal: InspectedJournal, log: Log) -> str:
    """Why a start from this readable checkpoint would not work; empty where it would."""
    step = checkpoint.step
    if journal.last < step or (journal.last > step and journal.first > step + 1):
        return f"the journal holds steps {journal.first} to {journal.last}, and not the one behind step {step}"
    for partition, offset in journal.positions.get(step, {}).items():
        if checkpoint.position.get(partition) != offset:
            return (
                f"it has taken partition {partition} up to {checkpoint.position.get(partition)}, its step to {offset}"
            )
    for partition, offset in checkpoint.position.items():
        end = log[partition].end if partition in log else Offset(0)
        if offset > end:
            return f"it has taken partition {partition} up to offset {offset}, and the log ends at {end}"
    for partition, offset in checkpoint.needed.items():
        if partition in log and offset < log[partition].first:
            return f"it needs partition {partition} from offset {offset}, and the log begins at {log[partition].first}"
    for base in checkpoint.bases:
        try:
            read_artifact(bases, base)
        except BaseMissing as error:
            return f"its base {base} cannot be used: {error.details['reason']}"
    return ""


def _other_start(sound: set[int]) -> str:
    return f"the checkpoint of step {max(sound)}" if sound else "the first step"


def _of_journal(file: Path, what: str, partition: int | None = None, offset: int | None = None) -> Found:
    return found(
        part="journal",
        file=str(file),
        partition=partition,
        offset=offset,
        what=what,
        means="The learner cannot repeat the steps from here on, and does not start.",
        remedy="Restore the journal, and the log with it, from one copy.",
    )


def _torn_entry(path: Path, byte: int, size: int) -> Found:
    return found(
        lambda: cut_tail(path, byte),
        part="journal",
        file=str(path),
        byte=byte,
        what=f"{size} bytes of an entry that was not finished stand at the end",
        means="It was being written when its process ended, and nothing of it was seen. The events are taken again.",
        remedy="The next start cuts it off by itself, and so does --repair.",
    )
