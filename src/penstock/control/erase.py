"""An erasure, from whose events are meant to the receipt: find, build beside, decide, swap.

Nothing of the service is changed before it is decided, which is one rename; what a crash leaves is gone on with by the
next call, from the newest state that was built before, and after it by `control.swap`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from penstock.control.folder import erasing_folder, locked, replace_file
from penstock.control.record import recorded
from penstock.control.swap import finish
from penstock.errors import NotErasable, UnknownSubject
from penstock.eventlog.folders import sync_folder
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Offset, Partition, Range, Version
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.journal import RecordedSteps, StepJournal
from penstock.learn.steps import Erasure, Reached, nothing
from penstock.publish.past.erasing import Found, Whose, find
from penstock.publish.past.rebuild import Rebuild, Site, Start, highest_version, prepare, withdrawn_consolidations
from penstock.publish.records.environment import this_environment
from penstock.publish.state import state_hash
from penstock.spec import Spec

BEGINNING_GONE = (
    "retention has removed the log's first events. Some may have been of the same subject, and what those taught "
    "cannot be taken out of the model"
)

Told = Callable[[str], None]
"""Told in words how far it is."""


class ErasureReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased, without saying whose it was to who does not know."""

    number: int
    """Of the service's erasures, counted from 1."""
    service: str
    at: float
    """Seconds since 1970 at which it began."""
    named_by: str
    """``subject`` or ``id``."""
    name: str
    """Scrypt of that and the name, salted: `publish.past.erasing.Whose.hashed`."""
    salt: str
    events: dict[str, int]
    """How many of each kind were erased."""
    ranges: list[Range]
    """Where they stood."""
    withdrawn: tuple[Version, Version] | None
    """The first and the last version that are no more; None where none may have known of the events."""
    rebuilt_from: int
    """The last step that stayed as it was; 0 where all were taken once more."""
    steps: int
    """The last step that there is."""
    version: Version
    """What is served now."""
    state: str
    """SHA-256 of everything that decides what happens next, as in the first entry behind a checkpoint."""
    consolidations: list[int]
    """Those whose bases or candidates were withdrawn, since they may have been trained on the events."""
    seconds: float


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an interrupted call was about, so that another one may go on with what it has built."""

    erasure: Erasure
    name: str
    salt: str
    ends: dict[Partition, Offset]
    last: int
    """The newest step."""
    environment: str


def receipts_of(folder: Path) -> list[ErasureReceipt]:
    """The receipts of all erasures of the service in this folder, the oldest first."""
    files = sorted((folder / "erasures").glob("*.json"))
    return [msgspec.json.decode(file.read_bytes(), type=ErasureReceipt) for file in files]


def resume(data: Path, service: str) -> bool:
    """Finish an erasure that was decided; whether there was one. Raises FolderInUse."""
    with locked(data):
        return finish(data, service)


def erase(
    data: Path,
    service: str,
    whose: Whose,
    told: Told,
    reached: Reached = nothing,
    now: Callable[[], float] = time.time,
) -> ErasureReceipt:
    """Remove these events from a service that does not run, and all that was made of them.

    Raises UnknownService, UnknownSubject where there are none, NotErasable with the reason, FolderInUse while anybody
    works in the folder, LogCorrupt and StepsCorrupt."""
    began = time.monotonic()
    with locked(data):
        finish(data, service, reached)
        spec, folder = recorded(data, service), data / service
        with _held(folder):
            # 1. Where they stand, and from where the past can be built without them.
            reader = LocalLogReader(folder / "log")
            found, ends = _find(reader, spec, whose, told), reader.ends()
            reader.close()
            start = Start(folder, spec, found)
            plan, is_prepared = _plan(data, spec, whose, ends, start, now())
            work = erasing_folder(data, service)
            site = Site(old=folder, new=work / "new", spec=spec, found=found, erasure=plan.erasure, reached=reached)
            # 2. The log without them, and what never knew of them.
            if not is_prepared:
                told(f"writing the log without {len(found):,} events")
                prepare(site, start)
                _write(work / "plan.json", msgspec.json.encode(plan))
                reached("erase.planned")
            # 3. The steps behind that once more.
            version = Rebuild(site, start).run(_Telling(told))
            # 4. The receipt. It counts from the next rename on.
            receipt = _receipt(site, start, plan, whose, version, time.monotonic() - began)
            (site.new / "erasures").mkdir(exist_ok=True)
            _write(site.new / "erasures" / f"{receipt.number:08d}.json", _formatted(receipt))
            sync_folder(site.new)
            reached("erase.built")
            os.rename(site.new, work / "whole")
            sync_folder(work)
            reached("erase.decided")
        # 5. It takes the place of the service.
        finish(data, service, reached)
    return receipt


def look(data: Path, service: str, whose: Whose, told: Told) -> tuple[Found, int, int]:
    """What an erasure would remove, the last step that would stay as it is, and the last one; nothing is changed.

    Raises what `erase` raises before it changes anything."""
    with locked(data):
        spec, folder = recorded(data, service), data / service
        with _held(folder):
            reader = LocalLogReader(folder / "log")
            found = _find(reader, spec, whose, told)
            reader.close()
            start = Start(folder, spec, found)
    return found, start.step, start.last


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep every writer out of a service's folder, its log and its journal opened as after a crash."""
    with contextlib.ExitStack() as held:
        for place in sorted((folder / "log").iterdir()) if (folder / "log").is_dir() else []:
            if place.name.isdigit():
                held.callback(LocalLogWriter(folder / "log", Partition(int(place.name))).close)
        held.callback(StepJournal(folder / "steps").close)
        yield


def _find(reader: LocalLogReader, spec: Spec, whose: Whose, told: Told) -> Found:
    looked = _Telling(told, "{done:,} of {total:,} events looked through")
    found = find(reader, spec, whose, looked)
    if not found:
        raise UnknownSubject(service=spec.name, what="subject" if whose.subject is not None else "id")
    if any(reader.starts().values()):
        raise NotErasable(reason=BEGINNING_GONE)
    return found


def _plan(
    data: Path, spec: Spec, whose: Whose, ends: dict[Partition, Offset], start: Start, at: float
) -> tuple[_Plan, bool]:
    """What is to be built, and whether an interrupted call was about the very same and has prepared it."""
    folder, work = data / spec.name, erasing_folder(data, spec.name)
    environment = this_environment(spec).name
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        before = msgspec.json.decode((work / "plan.json").read_bytes(), type=_Plan)
        is_same = (before.ends, before.last, before.environment) == (ends, start.last, environment)
        if is_same and before.name == whose.hashed(bytes.fromhex(before.salt)):
            return before, True
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sync_folder(data)
    salt = secrets.token_bytes(16)
    number = 1 + max([0, *(receipt.number for receipt in receipts_of(folder))])
    erasure = Erasure(number=number, at=at, withdrawn=highest_version(folder, spec.name))
    name = whose.hashed(salt)
    plan = _Plan(erasure=erasure, name=name, salt=salt.hex(), ends=ends, last=start.last, environment=environment)
    return plan, False


def _receipt(site: Site, start: Start, plan: _Plan, whose: Whose, version: Version, seconds: float) -> ErasureReceipt:
    state = Checkpoints(site.new / "checkpoints", site.spec.learn.checkpoints_kept).newest()[0]
    behind = [entry for entry in RecordedSteps(site.old / "steps").entries() if entry.number > start.step]
    first = Version(start.version + 1)
    return ErasureReceipt(
        number=plan.erasure.number,
        service=site.spec.name,
        at=plan.erasure.at,
        named_by="subject" if whose.subject is not None else "id",
        name=plan.name,
        salt=plan.salt,
        events=site.found.counts,
        ranges=site.found.ranges,
        withdrawn=(first, plan.erasure.withdrawn) if behind and first <= plan.erasure.withdrawn else None,
        rebuilt_from=start.step,
        steps=start.last,
        version=version,
        state="" if state is None else state_hash(state),
        consolidations=withdrawn_consolidations(site, start),
        seconds=round(seconds, 3),
    )


def _write(path: Path, content: bytes) -> None:
    replace_file(path, content)
    sync_folder(path.parent)


def _formatted(receipt: ErasureReceipt) -> bytes:
    return msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"


class _Telling:
    """Says how far something is, where it takes long."""

    EVERY_S = 2.0

    def __init__(self, told: Told, words: str = "step {done:,} of {total:,} taken once more") -> None:
        self._told, self._words, self._at = told, words, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._at >= self.EVERY_S:
            self._at = now
            self._told(self._words.format(done=done, total=total))
