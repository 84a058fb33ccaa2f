"""Where a version comes from, and where an event went: read from what a service keeps, whether it runs or not.

Time: a version takes one pass over the receipts before it, some 10,000 for a million versions, and one over the step
journal. An id takes one pass over the log, at the speed of the disk and the checksums, and one over the journal. There
is no index of ids: it would be as large as a good part of the log and slow every request down, for a question that is
asked seldom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from penstock.errors import BaseMissing, UnknownEvent
from penstock.eventlog.interface import LogReader
from penstock.events import Kind, Offset, Partition, Position, Range, Version, decode
from penstock.learn.configuration import Configuration
from penstock.learn.slow.artifact import BaseManifest, read_artifact
from penstock.learn.steps import Step, Steps
from penstock.publish.interface import Receipt, Receipts
from penstock.publish.past.replay import published_at
from penstock.publish.records.environment import Environment, find

RECEIPTS_AT_ONCE = 1000


class WholeLog(LogReader, Protocol):
    """A reader that says where the log begins."""

    def starts(self) -> Position: ...


class BaseOf(msgspec.Struct, frozen=True, kw_only=True):
    """The base that a version reads."""

    id: str
    consolidation: int = 0
    """Its number; 0 where no receipt says it any more."""
    promoted: Version = Version(0)
    """The version that brought it."""
    trained: int = 0
    """Labelled events that it was trained on."""
    trained_until: tuple[tuple[Partition, Offset], ...] = ()
    """Of each partition, the offset before which they stand."""
    replayed: int = 0
    """Of them, events of the past, drawn alike over classes and time."""
    parent: str = ""
    """The base that it was trained on from."""
    configuration: dict[str, str] | None = None
    """The settings of ``learn`` that a challenge has put in force with it, by name; None where they are the service
    file's."""


class VersionLineage(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was made of."""

    service: str
    version: Version
    receipt: Receipt
    """That covers it; of a span of versions where it is old."""
    step: int | None
    """The step that published it; None where the journal does not say so any more."""
    learned: tuple[Range, ...]
    """Everything that its state has learned from, since the beginning."""
    withdrawn: tuple[Range, ...]
    """What rollbacks before it have taken out again."""
    base: BaseOf | None
    environment: Environment | None
    spec_hash: str = ""
    code: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One event with the id, and what became of it."""

    kind: str
    partition: Partition
    offset: Offset
    time: float
    """Seconds since 1970 at which it was appended."""
    answered_by: Version | None = None
    """The version that answered; predictions alone have it."""
    step: int | None = None
    """The step that took it; None where none has yet, or the journal does not say so any more."""
    version: Version | None = None
    """The first version after that step; None where there is none yet."""
    receipt: Version | None = None
    """The version whose receipt covers it."""
    withdrawn_by: Version | None = None
    """The rollback that took it out again."""


class EventLineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the events of an id went."""

    service: str
    id: str
    places: tuple[Place, ...]


class Archive:
    """What one service keeps, to be asked."""

    def __init__(self, service: str, folder: Path, reader: WholeLog, steps: Steps, receipts: Receipts) -> None:
        self._service = service
        self._folder = folder
        self._reader = reader
        self._steps = steps
        self._receipts = receipts

    def of_version(self, version: Version) -> VersionLineage:
        """Raises UnknownVersion."""
        receipt = self._receipts.receipt(version)
        learned, withdrawn, promotion = self._history(receipt)
        environment = find(self._folder, receipt.environment) if receipt.environment else None
        entry = published_at(self._steps, version)
        return VersionLineage(
            service=self._service,
            version=version,
            receipt=receipt,
            step=None if entry is None else entry.number,
            learned=learned,
            withdrawn=withdrawn,
            base=self._base(receipt.base, promotion) if receipt.base else None,
            environment=environment,
            spec_hash="" if environment is None else environment.spec_hash,
            code="" if environment is None else environment.code,
        )

    def of_event(self, event_id: str, progress: Callable[[int, int], None] = lambda *_: None) -> EventLineage:
        """Raises UnknownEvent where the log does not have it (any more), and LogCorrupt."""
        found = sorted(self._find(event_id, progress), key=lambda place: (place.time, place.partition, place.offset))
        if not found:
            kept = ", ".join(f"{p}: {at:,} to {self._reader.ends()[p]:,}" for p, at in self._reader.starts().items())
            raise UnknownEvent(service=self._service, id=event_id, kept=kept or "none")
        return EventLineage(service=self._service, id=event_id, places=tuple(self._followed(found)))

    def of_prediction(
        self, event_id: str, progress: Callable[[int, int], None] = lambda *_: None
    ) -> tuple[EventLineage, VersionLineage]:
        """The events of a prediction's id, and the lineage of the version that answered it.

        Raises UnknownEvent where the log has no such prediction, and LogCorrupt."""
        event = self.of_event(event_id, progress)
        answered = [place.answered_by for place in event.places if place.answered_by is not None]
        if not answered:
            raise UnknownEvent(service=self._service, id=event_id, kept="it is there, and not as a prediction")
        return event, self.of_version(answered[-1])

    # Versions ---------------------------------------------------------------------------------------------------------

    def _history(self, last: Receipt) -> tuple[tuple[Range, ...], tuple[Range, ...], Receipt | None]:
        """What was learned up to this receipt, what rollbacks took out, and the promotion of its base."""
        position: dict[Partition, Offset] = {}
        first: dict[Partition, Offset] = {}
        reached: dict[Version, dict[Partition, Offset]] = {}
        withdrawn: list[Range] = []
        promotion: Receipt | None = None
        for receipt in self._up_to(last.version):
            for partition, start, stop in receipt.ranges:
                first.setdefault(partition, start)
                position[partition] = stop
            if receipt.restores is not None and self._restores(receipt):
                back = first | reached.get(receipt.restores, {})
                withdrawn += [(p, back[p], at) for p, at in position.items() if back[p] < at]
            if receipt.cause == "promotion" and receipt.base == last.base:
                promotion = receipt
            reached[receipt.version] = dict(position)
        whole = [(partition, first[partition], stop) for partition, stop in sorted(position.items())]
        return tuple(without(whole, withdrawn)), tuple(united(withdrawn)), promotion

    def _restores(self, receipt: Receipt) -> bool:
        """Whether the rollback put the model's state back, too."""
        environment = find(self._folder, receipt.environment) if receipt.environment else None
        return environment is None or environment.spec.gate.after_rollback == "restore"

    def _up_to(self, version: Version) -> Iterator[Receipt]:
        """All receipts up to this version, ascending."""
        pages: list[list[Receipt]] = []
        before: Version | None = Version(version + 1)
        while page := self._receipts.newest(RECEIPTS_AT_ONCE, before):
            pages.append(page)
            before = page[-1].version
        for page in reversed(pages):
            yield from reversed(page)

    def _base(self, base: str, promotion: Receipt | None) -> BaseOf:
        manifest: BaseManifest | None = None
        configuration: Configuration | None = None
        try:
            artifact = read_artifact(self._folder / "bases", base)
            manifest, configuration = artifact.manifest, artifact.configured()
        except BaseMissing:
            # What receipts say of it is told all the same.
            pass
        made = promotion.consolidation if promotion is not None else None
        return BaseOf(
            id=base,
            consolidation=made.number if made else 0,
            promoted=promotion.version if promotion else Version(0),
            trained=made.trained if made else 0,
            trained_until=made.trained_until if made else (),
            replayed=manifest.replayed if manifest else 0,
            parent=manifest.parent if manifest else "",
            configuration=configuration.words() if configuration else None,
        )

    # Events -----------------------------------------------------------------------------------------------------------

    def _find(self, event_id: str, progress: Callable[[int, int], None]) -> Iterator[Place]:
        """Every event of the log with this id."""
        needle, ends, starts = event_id.encode(), self._reader.ends(), self._reader.starts()
        total, before = sum(ends[p] - starts.get(p, 0) for p in ends), 0
        for partition, end in ends.items():
            for frame in self._reader.read(partition, starts.get(partition, Offset(0)), end):
                progress(before + frame.first - starts.get(partition, 0), total)
                # Ids stand as they are in a payload, so that most frames need not be decoded.
                if needle not in frame.payload.tobytes():
                    continue
                batch = decode(frame.payload)
                for row in (row for row, one in enumerate(batch.ids or ()) if one == event_id):
                    yield Place(
                        kind=Kind(frame.kind).name.lower(),
                        partition=partition,
                        offset=Offset(frame.first + row),
                        time=frame.time,
                        answered_by=None if batch.versions is None else Version(int(batch.versions[row])),
                    )
            before += end - starts.get(partition, 0)

    def _followed(self, places: Iterable[Place]) -> Iterator[Place]:
        """The places with what became of them, by one pass over the journal; by receipts where that does not reach."""
        followed = {(place.partition, place.offset): place for place in places}
        for entry in self._steps.entries():
            for key, place in followed.items():
                if place.step is None and takes(entry.ranges, *key):
                    followed[key] = place = msgspec.structs.replace(place, step=entry.number)
                if place.step is not None and place.withdrawn_by is None:
                    followed[key] = _exposed(place, entry)
        covering = {key: self._covering(*key) for key in followed}
        for key, place in followed.items():
            receipt = covering[key]
            version = place.version
            if place.step is None and receipt is not None:
                version = receipt.version
            yield msgspec.structs.replace(place, version=version, receipt=receipt and receipt.version)

    def _covering(self, partition: Partition, offset: Offset) -> Receipt | None:
        before: Version | None = None
        while page := self._receipts.newest(RECEIPTS_AT_ONCE, before):
            found = next((receipt for receipt in page if takes(receipt.ranges, partition, offset)), None)
            if found is not None:
                return found
            before = page[-1].version
        return None


def _exposed(place: Place, entry: Step) -> Place:
    """The place after an entry at or behind the step that took it."""
    if entry.action == "roll_back" and entry.restored is not None:
        if place.version is None or place.version > entry.restored:
            return msgspec.structs.replace(place, withdrawn_by=entry.version)
    elif entry.action == "publish" and place.version is None:
        return msgspec.structs.replace(place, version=entry.version)
    return place


def takes(ranges: Iterable[Range], partition: Partition, offset: Offset) -> bool:
    """Whether the event is in these ranges."""
    return any(p == partition and start <= offset < stop for p, start, stop in ranges)


def united(ranges: Iterable[Range]) -> list[Range]:
    """The same events, each once, in order."""
    whole: list[Range] = []
    for partition, start, stop in sorted(ranges):
        if whole and whole[-1][0] == partition and start <= whole[-1][2]:
            whole[-1] = (partition, whole[-1][1], max(stop, whole[-1][2]))
        else:
            whole.append((partition, start, stop))
    return whole


def without(ranges: Iterable[Range], gone: Iterable[Range]) -> list[Range]:
    """The ranges without the events of those that are gone."""
    left = list(ranges)
    for partition, start, stop in gone:
        cut: list[Range] = []
        for p, low, high in left:
            if p != partition or stop <= low or high <= start:
                cut.append((p, low, high))
                continue
            cut += [(p, a, b) for a, b in ((low, start), (stop, high)) if a < b]
        left = cut
    return left
