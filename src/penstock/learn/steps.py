"""The step journal: what the learner took and what was decided, on disk before anybody sees the result.

A file is a magic number and then frames: a mark, the payload's length, its CRC-32 and the payload, an array of entries
(MessagePack) that became durable together. Every frame is followed by fdatasync, so that only the last one can be torn
by a crash; it is cut when the journal is opened. A bad frame that has a good one behind it is damage, and an error.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from penstock.errors import StepsCorrupt, StepsUnavailable
from penstock.eventlog.folders import lock_folder, sync_folder
from penstock.events import Offset, Partition, Range, Version
from penstock.learn.quarantine import AsideStep, Place

StepAction = Literal["start", "publish", "hold", "roll_back", "advance"]

MAGIC = b"PENSTEP\x02"
MARK = b"\xf1STP"
_FRAME = struct.Struct("<4sII")
PAYLOAD_MAX_BYTES = 1 << 24
"""No step is near 16 MiB; a length beyond it is damage and not a reason to allocate memory."""

Reached = Callable[[str], None]


def nothing(action: str) -> None:
    """The default for the hook that is told each durable action by name: crash tests stop a process there."""


class ShadowStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What became of a candidate with a new base."""

    what: Literal["adopted", "widened", "promoted", "given_up"]
    """``adopted`` put it in shadow: from the next step on it learns what the learner learns. ``widened``: from then on
    it answers ``share`` of the traffic."""
    number: int
    """Of the consolidation."""
    base: str
    """Id of the new base."""
    parent_base: str = ""
    """Id of the base of what was served; empty where there was none."""
    cause: str = ""
    """Why the consolidation was begun."""
    reason: str = ""
    """The gate's words."""
    content: str = ""
    """SHA-256 of the candidate's state when it was adopted."""
    events: int = 0
    """Labelled events for which it was in shadow."""
    gain: tuple[float, float, float, int] | None = None
    """Mean, low, high and events of the gate's interval: the loss of what was served minus its own."""
    evidence: float = 0.0
    """That it is better than what was served, to 1."""
    trained: int = 0
    """Labelled events that the base was trained on."""
    seconds: float = 0.0
    """What the consolidation took."""
    cpu_s: float = 0.0
    trained_until: tuple[tuple[Partition, Offset], ...] = ()
    """Of each partition, the offset before which those events stand."""
    share: float = 0.0
    """Of the traffic that it answers after this; 0 where it answers none, or all."""
    own: tuple[float, float, float, int] | None = None
    """The interval on the share that it answered until then; None where it answered none."""


class CanaryCounts(msgspec.Struct, frozen=True, array_like=True):
    """What servers have counted of a candidate that answers a share of the traffic, since it began."""

    share: float = 0.0
    """The largest share that a server has handed out."""
    asked: int = 0
    """Events that were to be predicted, by whatever version."""
    answered: int = 0
    """Those that the candidate has answered."""
    failed: int = 0
    """Times that it could not, and what was served answered instead."""
    not_finite: int = 0
    """Answers that were not finite; what was served answered instead."""
    timed: int = 0
    """Comparisons of the time for an answer with that of what was served, on the same rows."""
    slow: int = 0
    """Those in which the candidate took longer than it may."""
    failure: str = ""
    """Why it could not answer, the newest time."""


OrderName = Literal["roll_back", "promote", "hold", "resume"]


class HandStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What somebody has ordered by hand, and was done."""

    what: OrderName
    by: str
    """Who."""
    reason: str = ""
    """Why, in their words."""
    id: str
    """Of the order, so that it is not obeyed twice."""
    version: Version | None = None
    """The one that a rollback was asked to go back to; None for the last known good."""
    position: tuple[tuple[Partition, Offset], ...] = ()
    """Where that version stood: what a rollback withdraws begins there."""


class Erasure(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Events were erased that steps from here on had taken: what they say is what they make of the log without."""

    number: int
    """Of the service's erasures, counted from 1."""
    at: float
    """Seconds since 1970."""
    withdrawn: Version
    """Versions up to this one, but for those before the entry, knew of the events and are no more; the numbers of those
    that take their place follow it."""


class CorrectedStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What an entry of the step journal says of labels that were made good in what had been learned."""

    places: tuple[Place, ...]
    """The events that have other labels now than those with which they were learned, or none."""
    again: int
    """Events that were learned again for it."""


class ApprenticeStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What became of the service as the apprentice of the system that was there before."""

    what: Literal["graduated", "behind", "overtaken"]
    """``graduated``: it is no apprentice any more; ``behind``: it stays one, and the comparison begins anew;
    ``overtaken``: it is one again."""
    of: str
    """What that system is called."""
    reason: str
    gain: tuple[float, float, float, int]
    """Mean, low, high and events of the interval: the loss of the system minus our own."""
    evidence: float
    """For what it says, to 1."""


class Step(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One entry of the journal. Replaying the ranges of all entries in order gives every number in it again."""

    number: int
    """Counted from 1 without gaps."""
    action: StepAction
    """``start`` published the empty model; ``advance`` only took events in which nothing was to be learned."""
    ranges: tuple[Range, ...]
    """In the order in which they were taken, each to be read as it stands: joining them may differ at frames'
    boundaries."""
    version: Version
    """What is served after the step."""
    restored: Version | None = None
    """The version that a rollback went back to."""
    good: bool = False
    """Whether the version on probation became the last known good."""
    probation: bool = False
    """Whether the version that the step published went on probation."""
    taken: int = 0
    """Events in the ranges, of any kind."""
    events: int = 0
    """Labelled events that were learned."""
    loss_sum: float = 0.0
    """Sum of the bounded losses of the learner's own predictions."""
    served_sum: float = 0.0
    """The same of the version that was served."""
    gain: tuple[float, float, float, int] | None = None
    """Mean, low, high and events of the gate's interval."""
    verdict: str = ""
    checkpoint_due: bool = False
    """Whether a checkpoint follows the step; a restart that finds none makes up for it."""
    weights: str = ""
    """SHA-256 of the published weights where they are materialised with that checkpoint."""
    cpu_s: float = 0.0
    """Processor time since the entry before."""
    log_time: float = 0.0
    """Seconds since 1970 at which the newest of the frames was appended."""
    time: float = 0.0
    """Seconds since 1970 at which the entry was made."""
    base: str = ""
    """Id of the base of what is served after the step; empty without one."""
    shadow: ShadowStep | None = None
    """What became of a candidate with this entry: it was adopted or refused by an entry without ranges, and promoted or
    given up by one that learned."""
    drifted: tuple[float, float, int] | None = None
    """The learner's mean loss before and after a drift that was noticed with this step, and the events after it."""
    sealed: str = ""
    """SHA-256 of everything that decided what happens next before this step, in the first entry behind a checkpoint."""
    environment: str = ""
    """Name of what the learner's process runs on, in the first entry of a process where that is not what it was."""
    aside: AsideStep | None = None
    """What was set aside instead of learned, and what became of such events. An entry without ranges releases or drops
    some."""
    hand: HandStep | None = None
    """The order that this entry obeys; it has no ranges then."""
    erasure: Erasure | None = None
    """In the first entry that is not what was first recorded there."""
    corrected: CorrectedStep | None = None
    """What an entry without ranges has made good."""
    tried: Version = Version(0)
    """The number under which a candidate answers a share of the traffic, as it is after the step; 0 where the step did
    not expose one."""
    heard: CanaryCounts | None = None
    """What servers said of that candidate, in an entry without ranges."""
    apprentice: ApprenticeStep | None = None
    """What became of the service as an apprentice with this entry."""
    departed: tuple[str, float, int] | None = None
    """The feature whose inputs were noticed with this step to have left what the base was trained on, its population
    stability index, and the events that were compared."""
    answered: tuple[Version, ...] = ()
    """Numbers under which that candidate had answered before an erasure gave it the one that it was ``tried`` under:
    predictions that others got from it say these."""


def difference(recorded: Step, repeated: Step) -> str:
    """Which fields of two entries differ, and how."""
    return "; ".join(
        f"{name} was {getattr(recorded, name)!r} and is {getattr(repeated, name)!r}"
        for name in Step.__struct_fields__
        if getattr(recorded, name) != getattr(repeated, name)
    )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Step]).decode


class Steps(Protocol):
    """Entries that were recorded."""

    @property
    def folder(self) -> Path:
        """Where they stand."""
        ...

    @property
    def last(self) -> int:
        """The number of the last one; 0 before the first."""
        ...

    def entries(self, after: int = 0) -> Iterator[Step]:
        """The entries with higher numbers, in order."""
        ...


class StepJournal:
    """The one writer of a service's journal; also what holds the learner's folder against a second learner."""

    def __init__(self, folder: Path, reached: Reached = nothing) -> None:
        """Raises FolderInUse while another process writes here, and StepsCorrupt."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.bytes_cut = 0
        """What was cut from the end when the journal was opened."""
        self._reached = reached
        self._broken = False
        self._fd = -1
        self._lock = lock_folder(folder)
        try:
            self.last = self._open()
            """The number of the last entry; 0 before the first."""
        except BaseException:
            self.close()
            raise

    def append(self, *steps: Step) -> None:
        """Make the entries durable, all or none. Raises StepsUnavailable, and then every later call does, too."""
        if self._broken:
            raise StepsUnavailable(folder=self.folder, reason="an earlier write failed")
        for before, step in enumerate(steps, self.last):
            if step.number != before + 1:
                raise ValueError(f"step {step.number} cannot follow step {before}")
        payload = _encode(steps)
        frame = _FRAME.pack(MARK, len(payload), zlib.crc32(payload)) + payload
        self._reached("step.record")
        try:
            written = os.write(self._fd, frame)
            if written != len(frame):
                raise OSError(f"only {written} of {len(frame)} bytes were written")
            self._reached("step.written")
            os.fdatasync(self._fd)
        except OSError as error:
            self._broken = True
            raise StepsUnavailable(folder=self.folder, reason=str(error)) from error
        self.last += len(steps)
        self._reached("step.recorded")

    def rotate(self, bytes_min: int = 0) -> None:
        """Begin a new file with the next entry, so that older ones can be removed whole; not while the newest has fewer
        bytes than these."""
        path = self.folder / _name(self.last + 1)
        if not path.exists() and os.fstat(self._fd).st_size >= bytes_min:
            try:
                self._create(path)
            except OSError as error:
                self._broken = True
                raise StepsUnavailable(folder=self.folder, reason=str(error)) from error

    def past(self) -> tuple[int, int]:
        """The number of the first entry that is kept, and the bytes of all."""
        files = _files(self.folder)
        return _first(files[0]), sum(path.stat().st_size for path in files)

    def forget(self, through: int) -> None:
        """Remove the files in which no entry has a number above ``through``; the newest file always stays."""
        files = _files(self.folder)
        for path, following in pairwise(files):
            if _first(following) - 1 <= through:
                self._reached("steps.forget")
                path.unlink()

    def entries(self, after: int = 0) -> Iterator[Step]:
        """The entries with higher numbers, in order."""
        return read_steps(self.folder, after)

    def close(self) -> None:
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def _open(self) -> int:
        """Cut a torn tail, open the newest file for appending, and say which entry is the last."""
        files = _files(self.folder)
        if not files:
            self._create(self.folder / _name(1))
            return 0
        newest = files[-1]
        data = newest.read_bytes()
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise StepsCorrupt(file=newest, byte=0, reason="it does not begin like a step journal")
        if len(data) < len(MAGIC):
            # The process ended while it created the file, before anything could be appended to it.
            newest.unlink()
            self._create(newest)
            return _first(newest) - 1
        last, end = _first(newest) - 1, len(MAGIC)
        for steps, after in _frames(newest, data, strict=True):
            last, end = steps[-1].number, after
        self._fd = os.open(newest, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if end < len(data):
            self.bytes_cut = len(data) - end
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
        return last

    def _create(self, path: Path) -> None:
        self._reached("steps.create")
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        os.write(fd, MAGIC)
        self._reached("steps.created")
        os.fsync(fd)
        sync_folder(self.folder)


def begin_journal(folder: Path, first: int) -> None:
    """Make an empty journal whose first entry will have this number."""
    folder.mkdir(parents=True)
    path = folder / _name(first)
    with path.open("xb") as file:
        file.write(MAGIC)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


class RecordedSteps:
    """A journal that somebody else may be writing to, as far as it goes now."""

    def __init__(self, folder: Path) -> None:
        """Raises StepsCorrupt."""
        self.folder = folder
        files = _files(folder)
        newest = _first(files[-1]) - 1 if files else 0
        self.last = max([newest, *(step.number for step in read_steps(folder, newest, strict=True))])

    def entries(self, after: int = 0) -> Iterator[Step]:
        """The entries with higher numbers, in order. Raises StepsCorrupt."""
        for step in read_steps(self.folder, after, strict=True):
            if step.number > self.last:
                return
            yield step


def read_steps(folder: Path, after: int = 0, *, strict: bool = False) -> Iterator[Step]:
    """The durable entries with numbers above ``after``, in order, in whatever process; a torn tail is not looked at.

    Raises StepsCorrupt where bytes are not what was written or an entry is missing. ``strict`` looks behind a bad frame
    at the end for a whole one, which makes it damage; while somebody writes, a frame is bad before it is whole."""
    files = _files(folder)
    wanted = None
    for index, path in enumerate(files):
        newest = index == len(files) - 1
        if not newest and _first(files[index + 1]) <= after + 1:
            continue
        data = path.read_bytes()
        if data[: len(MAGIC)] != MAGIC and not (newest and len(data) < len(MAGIC)):
            raise StepsCorrupt(file=path, byte=0, reason="it does not begin like a step journal")
        for steps, end in _frames(path, data, strict=strict):
            for step in steps:
                if wanted is not None and step.number != wanted:
                    raise StepsCorrupt(file=path, byte=end, reason=f"step {step.number} stands where {wanted} should")
                wanted = step.number + 1
                if step.number > after:
                    yield step
        if not newest and wanted != _first(files[index + 1]):
            raise StepsCorrupt(file=path, byte=len(data), reason=f"it ends before step {_first(files[index + 1]) - 1}")


def torn_tail(folder: Path) -> tuple[Path, int, int] | None:
    """Where an entry that was not finished stands in the newest file, and how long it is; None where there is none.

    Raises StepsCorrupt."""
    files = _files(folder)
    if not files:
        return None
    data = files[-1].read_bytes()
    end = min(len(MAGIC), len(data))
    if len(data) >= len(MAGIC):
        for _, after in _frames(files[-1], data, strict=True):
            end = after
    return (files[-1], end, len(data) - end) if end < len(data) else None


def _frames(path: Path, data: bytes, strict: bool) -> Iterator[tuple[list[Step], int]]:
    """Each frame's entries with the byte behind them, up to a torn tail. ``strict`` looks behind the first bad frame
    for a good one."""
    at = len(MAGIC)
    while at < len(data):
        found = _frame_at(data, at)
        if found is None:
            behind = data.find(MARK, at + 1)
            while strict and behind >= 0:
                if _frame_at(data, behind) is not None:
                    raise StepsCorrupt(file=path, byte=at, reason="an entry is broken and whole ones follow it")
                behind = data.find(MARK, behind + 1)
            return
        steps, at = found
        yield steps, at


def _frame_at(data: bytes, at: int) -> tuple[list[Step], int] | None:
    start = at + _FRAME.size
    if start > len(data):
        return None
    mark, length, checksum = _FRAME.unpack_from(data, at)
    if mark != MARK or length > PAYLOAD_MAX_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload) != checksum:
        return None
    try:
        steps = _decode(payload)
    except msgspec.MsgspecError:
        return None
    return (steps, start + length) if steps else None


def _name(first: int) -> str:
    return f"{first:020d}.steps"


def _first(path: Path) -> int:
    return int(path.stem)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.steps"))
