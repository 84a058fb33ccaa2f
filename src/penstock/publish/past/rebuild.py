"""A service's folder built anew beside the old one, from its log without some events: steps, states, versions.

The recorded steps are taken once more over the rewritten log, by the code that took them first
(`publish/past/replay.py`). What comes of them is written down as the new history: it is to the byte what `penstock
verify` makes of the new log. Nothing of the old folder is changed. A build that was interrupted goes on at its newest
checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.errors import BaseMissing, CheckpointDamaged, NotErasable, OffsetGone, StepsCorrupt
from penstock.eventlog.folders import sync_folder
from penstock.eventlog.local import LocalLogReader
from penstock.eventlog.rewriting import rewrite_partition
from penstock.events import Offset, Partition, Position, Version
from penstock.learn.amended import Amendments
from penstock.learn.checkpoint import Checkpoint, Checkpoints
from penstock.learn.journal import RecordedSteps, StepJournal, begin_journal
from penstock.learn.outside.networks import kept_name
from penstock.learn.ready import read_ready_manifest, ready_numbers, shelved_numbers
from penstock.learn.steps import Erasure, Reached, ShadowStep, Step, nothing
from penstock.publish.assembly import replay_of
from penstock.publish.interface import Receipt
from penstock.publish.past.erasing import Erasing, Found
from penstock.publish.past.replay import Replay, nearest
from penstock.publish.records.environment import find as find_environment
from penstock.publish.records.environment import keep, this_environment
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.restarts import PAST_FILE_BYTES
from penstock.publish.weights.snapshots import LocalSnapshots, thin
from penstock.spec import Spec

FACTS_OF_MACHINES = ("restarted", "tail_cut", "checkpoint_unreadable", "order_refused")
"""Facts that do not follow from the journal, and say nothing of events."""
CARRIED_OVER = ("service.json", "environments", "erasures", "quarantine", "canary")
"""What says nothing of single events, and stays as it is."""
STARTS_ANEW = "It is withdrawn by an erasure, since it may have learned from the events that are gone."
MERGED = "The receipt of these versions was merged with later ones, which an erasure has withdrawn, and went with them."

Taken = Callable[[int, int], None]
"""Told the number of a step that was taken once more, and the last one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where is built, and what."""

    old: Path
    new: Path
    spec: Spec
    found: Found
    erasure: Erasure
    reached: Reached = nothing


class Start:
    """From where the past is taken once more: a state that has not learned any of the events, or nothing at all."""

    def __init__(self, folder: Path, spec: Spec, found: Found) -> None:
        """Raises NotErasable where there is no such state left of the service in this folder."""
        steps = RecordedSteps(folder / "steps")
        self.last = steps.last
        first = next(iter(steps.entries()), None)
        self.journal_from = 1 if first is None else first.number
        self.first_taken = first_taken(steps.entries(), found)
        """The first step that took one of the events; beyond the last where none did."""
        self.checkpointed = {entry.number - 1 for entry in steps.entries() if entry.sealed} | {self.last}
        """Steps behind which a checkpoint was written, and the last one, behind which one shall be."""
        checkpoints = Checkpoints(folder / "checkpoints", spec.learn.checkpoints_kept)
        gone: Amendments = dict.fromkeys(places(found))
        self.checkpoint = nearest(checkpoints, self.last, gone)[0] if self.last else None
        if self.checkpoint is None and self.journal_from > 1:
            reason = (
                "every checkpoint that is kept has learned from them, and steps of the beginning, from which the model "
                "could be built without them, are forgotten"
            )
            raise NotErasable(reason=reason)

    @property
    def step(self) -> int:
        """The last step that stays as it was."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def version(self) -> Version:
        """What was served then."""
        return Version(0) if self.checkpoint is None else self.checkpoint.version


def places(found: Found) -> Iterator[tuple[Partition, Offset]]:
    """Partition and offset of each event."""
    return ((partition, offset) for partition, offsets in found.offsets.items() for offset in offsets)


def first_taken(entries: Iterable[Step], found: Found) -> int:
    """The number of the first entry that took any of these events; one beyond the last where none did."""
    firsts: Position = {partition: offsets[0] for partition, offsets in found.offsets.items()}
    number = 0
    for entry in entries:
        number = entry.number
        if any(partition in firsts and stop > firsts[partition] for partition, _, stop in entry.ranges):
            return number
    return number + 1


def highest_version(folder: Path, service: str) -> Version:
    """The newest number that a version of the service in this folder has had."""
    receipts = SqliteReceipts(folder / "versions.sqlite", service, read_only=True)
    try:
        highest = receipts.highest()
    finally:
        receipts.close()
    for entry in RecordedSteps(folder / "steps").entries():
        highest = max(highest, entry.version, entry.tried, entry.erasure.withdrawn if entry.erasure else Version(0))
    return highest


# Before the steps -----------------------------------------------------------------------------------------------------


def prepare(site: Site, start: Start) -> None:
    """Write the log without the events, and carry over what never knew of them."""
    shutil.rmtree(site.new, ignore_errors=True)
    site.new.mkdir(parents=True)
    erasing = Erasing(site.found, {} if start.checkpoint is None else start.checkpoint.position)
    reader = LocalLogReader(site.old / "log")
    partitions = list(reader.ends())
    reader.close()
    for partition in partitions:
        rewrite_partition(site.old / "log" / str(partition), site.new / "log" / str(partition), partition, erasing)
        site.reached("erase.partition")
    for name in CARRIED_OVER:
        _carry_over(site.old / name, site.new / name)
    for place in range(len(site.spec.learn.members)):
        _carry_over(site.old / kept_name(place), site.new / kept_name(place))
    site.reached("erase.carried_over")
    _begin_journal(site, start)
    _begin_receipts(site, start)
    bases = set() if start.checkpoint is None else set(start.checkpoint.bases)
    for number in _candidates(site, start):
        _carry_over(*(folder / "consolidation" / "past" / f"{number:08d}" for folder in (site.old, site.new)))
        _carry_over(*(folder / "consolidation" / "ready" / f"{number:08d}" for folder in (site.old, site.new)))
        bases.add(read_ready_manifest(site.old / "consolidation", number).base)
    if start.checkpoint is not None:
        name = f"{start.step:020d}"
        _carry_over(site.old / "checkpoints" / name, site.new / "checkpoints" / name)
        old = LocalSnapshots(site.old / "snapshots", site.spec.name)
        new = LocalSnapshots(site.new / "snapshots", site.spec.name)
        for version in (version for version in old.versions() if version <= start.version):
            _carry_over(old.place(version), new.place(version))
        bases |= old.bases() & new.bases()
    for base in bases - {""}:
        _carry_over(site.old / "bases" / base, site.new / "bases" / base)
    site.reached("erase.prepared")


def _candidates(site: Site, start: Start) -> list[int]:
    """Consolidations whose candidates were put in shadow before any of the events was taken, and that are still
    there."""
    return sorted(_settled_before(site, start) & _standing(site))


def withdrawn_consolidations(site: Site, start: Start) -> list[int]:
    """Those that were put in shadow or refused since then, or wait for that."""
    steps = RecordedSteps(site.old / "steps").entries()
    settled = {entry.shadow.number for entry in steps if entry.shadow is not None}
    return sorted((settled | _standing(site)) - _settled_before(site, start))


def _settled_before(site: Site, start: Start) -> set[int]:
    steps = RecordedSteps(site.old / "steps").entries()
    return {entry.shadow.number for entry in steps if entry.shadow is not None and entry.number < start.first_taken}


def _standing(site: Site) -> set[int]:
    return {*ready_numbers(site.old / "consolidation"), *shelved_numbers(site.old / "consolidation")}


def _begin_journal(site: Site, start: Start) -> None:
    begin_journal(site.new / "steps", start.journal_from)
    journal = StepJournal(site.new / "steps")
    for entry in RecordedSteps(site.old / "steps").entries():
        if entry.number <= start.step:
            journal.append(entry)
    journal.close()


def _begin_receipts(site: Site, start: Start) -> None:
    """Receipts of versions that stay as they were, and facts of what machines did."""
    old = SqliteReceipts(site.old / "versions.sqlite", site.spec.name, read_only=True)
    new = SqliteReceipts(site.new / "versions.sqlite", site.spec.name)
    before = 0.0 if start.checkpoint is None else float(start.checkpoint.values["time"])
    machines = old.facts(1 << 62, FACTS_OF_MACHINES)
    others = [fact for fact in old.facts(1 << 62) if fact.at <= before and fact not in machines]
    receipts = old.newest(1 << 62, Version(start.version + 1))[::-1]
    covered = receipts[-1].version if receipts else Version(0)
    if covered < start.version:
        # Merged with later ones, it says what was learned of the events.
        gone = Receipt(
            version=start.version,
            parent=covered,
            cause="erasure",
            ranges=(),
            events=0,
            verdict=MERGED,
            time=before,
            cpu_s=0.0,
        )
        receipts.append(gone)
    new.write(receipts, [*machines, *others])
    new.flush(durably=True)
    new.close()
    old.close()


def _carry_over(source: Path, target: Path) -> None:
    """The file or the folder under its name in the new folder, durably; nothing where it is not there."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for inside in source.iterdir():
            if not inside.name.startswith(("tmp-", ".")) and not inside.name.endswith(".damaged"):
                _carry_over(inside, target / inside.name)
        sync_folder(target)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        with target.open("rb+") as file:
            os.fsync(file.fileno())
        sync_folder(target.parent)


# The steps ------------------------------------------------------------------------------------------------------------


class Rebuild:
    """Takes the recorded steps once more over the log that was prepared, and writes down what comes of them."""

    def __init__(self, site: Site, start: Start) -> None:
        self._site = site
        self._start = start
        self._served: dict[Version, Version] = {}
        """By each version of before, what takes its place."""
        self._here: dict[str, str] = {}
        """Names of what the steps of each recorded environment are taken on now."""

    def run(self, taken: Taken = lambda *_: None) -> Version:
        """To the last step; the version that is served then.

        Raises NotErasable where something that the steps need is gone."""
        site = self._site
        try:
            with replay_of(site.spec, site.new, steps=site.old / "steps", restated=self._restated) as replay:
                self._replay = replay
                return self._run(replay, taken)
        except (BaseMissing, CheckpointDamaged, OffsetGone, StepsCorrupt) as error:
            raise NotErasable(reason=f"what is built from them cannot be built without them: {error}") from error

    def _run(self, replay: Replay, taken: Taken) -> Version:
        site = self._site
        journal = StepJournal(site.new / "steps", site.reached)
        receipts = SqliteReceipts(site.new / "versions.sqlite", site.spec.name)
        checkpoints = Checkpoints(site.new / "checkpoints", site.spec.learn.checkpoints_kept, site.reached)
        snapshots = LocalSnapshots(site.new / "snapshots", site.spec.name, site.reached)
        try:
            replay.begin(self._resumed(checkpoints))
            for old, new in zip(replay.steps.entries(), RecordedSteps(journal.folder).entries(), strict=False):
                self._served[old.version] = new.version
            # After an interruption entries behind the newest checkpoint stand there already.
            for repeated in replay.run():
                self._served[repeated.recorded.version] = replay.succession.account.version
                if repeated.entry.number > journal.last:
                    journal.append(repeated.entry)
                receipts.write(repeated.receipts, repeated.facts)
                if repeated.entry.checkpoint_due or replay.step in self._start.checkpointed:
                    receipts.flush(durably=True)
                    snapshots.put(replay.succession.line.block, replay.succession.line.state)
                    checkpoints.write(replay.state())
                    journal.rotate(PAST_FILE_BYTES)
                    thin(snapshots, replay.succession.hand.gone_back_to(checkpoints.replay_from()))
                    site.reached("erase.checkpoint")
                taken(replay.step, self._start.last)
            receipts.flush(durably=True)
            return replay.succession.account.version
        finally:
            receipts.close()
            journal.close()

    def _resumed(self, checkpoints: Checkpoints) -> Checkpoint | None:
        """The state to go on from after an interruption. Where somebody went back to a version by hand, that has to be
        passed once more."""
        behind = RecordedSteps(self._site.old / "steps").entries(self._start.step)
        if any(entry.hand is not None and entry.hand.version is not None for entry in behind):
            return self._start.checkpoint
        return checkpoints.newest()[0]

    def _restated(self, recorded: Step) -> Step:
        """What of an entry does not follow from the log, as it is said of the new history."""
        replay = self._replay
        shadow, hand = recorded.shadow, recorded.hand
        if hand is not None and hand.version is not None:
            hand = msgspec.structs.replace(hand, version=self._served.get(hand.version, hand.version))
        adopts = shadow is not None and hand is None and recorded.heard is None and not recorded.ranges
        if shadow is not None and adopts and recorded.number >= self._start.first_taken:
            shadow = ShadowStep(what="given_up", number=shadow.number, base="", reason=STARTS_ANEW)
        here = self._environment(recorded.environment or replay.environment)
        return msgspec.structs.replace(
            recorded,
            sealed=replay.state_hash() if recorded.sealed else "",
            environment=here if here != replay.succession.account.environment else "",
            shadow=shadow,
            hand=hand,
            erasure=self._site.erasure if recorded.number == self._start.step + 1 else None,
            # Predictions that others got from what answered a share say the number that it had then.
            answered=(*recorded.answered, recorded.tried) if recorded.tried else (),
        )

    def _environment(self, recorded: str) -> str:
        """The name of what is here, under the service file of the recorded one."""
        if recorded not in self._here:
            then = find_environment(self._site.new, recorded) if recorded else None
            spec = self._site.spec if then is None else then.spec
            self._here[recorded] = keep(self._site.new, this_environment(spec))
        return self._here[recorded]
