"""The past once more: recorded steps taken one after the other from a checkpoint or from the log's beginning.

It reads and never writes, so it may run beside the learner whose steps it repeats. The same log, steps and software
give the same bytes, and then every entry is the recorded one; what comes of another log (`penstock.learn.amended`) is
what the learner would have become if the log had said so from the start and it had taken the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from penstock.errors import CheckpointDamaged, ReplayDiverged, StepsCorrupt
from penstock.events import Position, Version
from penstock.facts import Fact
from penstock.learn.amended import Amendments
from penstock.learn.checkpoint import Checkpoint, Checkpoints
from penstock.learn.interface import Block
from penstock.learn.steps import Step, Steps
from penstock.publish.entries import as_old_as, demand_same
from penstock.publish.interface import Receipt
from penstock.publish.line import Kept
from penstock.publish.repeating import repeat
from penstock.publish.state import state_hash
from penstock.publish.succession import Succession

Build = Callable[[str], Succession]
"""Makes what knows nothing yet, by the settings that the service had in the environment of this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A recorded step that was taken once more."""

    recorded: Step
    entry: Step
    """What came of it; with amendments it may decide otherwise, and count versions otherwise, than the recorded one."""
    block: Block | None
    """What it published."""
    tried: Block | None
    """What it had answer a share of the traffic beside that."""
    receipts: list[Receipt]
    facts: list[Fact]


class Replay:
    """One pass over the recorded steps of a service."""

    def __init__(
        self,
        build: Build,
        steps: Steps,
        amendments: Amendments | None = None,
        restated: Callable[[Step], Step] | None = None,
    ) -> None:
        """What is built reads the log with these amendments, for its learner and for that of its shadows. Where the
        log itself is another, ``restated`` says of an entry anew what does not follow from the log, once all steps
        before it were taken. Without either, every entry and every recorded hash of a state is compared."""
        self.succession = build("")
        self.environment = ""
        """The name of what the learner ran on when it took the last step."""
        self.step = 0
        """The last step that was taken."""
        self.sealed = 0
        """Recorded hashes of states that were compared, and found equal."""
        self.carried: list[int] = []
        """Consolidations whose candidates had learned amended events as they stood before they were adopted: from
        there on the state is not free of them, since a base is trained only once."""
        self._build = build
        self.steps = steps
        self._amendments = amendments or {}
        self._wanted: set[Version] = set()
        self._remembered: dict[Version, Kept] = {}
        self._restated = restated
        self._compares = restated is None and not self._amendments
        self._first_amended: int | None = None
        """The first step that took an amended event."""

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Stand where this checkpoint does, or before the first step. Raises ValueError for a checkpoint that has
        learned an amended event as it stood, BaseMissing, and what reading the log raises."""
        if checkpoint is None:
            return
        if not is_before(checkpoint.position, self._amendments):
            raise ValueError(f"the checkpoint of step {checkpoint.step} has learned amended events")
        self.environment = str(checkpoint.values["account"].get("environment", ""))
        self._build_here()
        self.succession.load(checkpoint)
        self.step = checkpoint.step

    def run(self, until: int | None = None) -> Iterator[Repeated]:
        """Take the recorded steps up to this number, or all of them, each when the one before was looked at.

        Raises ReplayDiverged at the first entry that comes out otherwise than it was recorded (without amendments
        only), StepsCorrupt where an entry is missing or damaged, LogCorrupt, OffsetGone, CheckpointDamaged and
        BaseMissing where what it needs is damaged or gone."""
        orders = [entry.hand for entry in self.steps.entries(self.step) if entry.hand is not None]
        self._wanted = {order.version for order in orders if order.version is not None}
        self.succession.earlier.remembered = self._remembered
        for recorded in self.steps.entries(self.step):
            if until is not None and recorded.number > until:
                return
            if recorded.number != self.step + 1:
                raise StepsCorrupt(file=self.steps.folder, byte=0, reason=f"step {self.step + 1} is missing")
            yield self._repeat(recorded)

    def state(self) -> Checkpoint:
        """Everything that decides what happens next, as it is after the last step."""
        return self.succession.checkpoint(self.step)

    def state_hash(self) -> str:
        """Equal to `Publisher.state_hash` of the learner that took the same steps."""
        return state_hash(self.state())

    def _repeat(self, recorded: Step) -> Repeated:
        if recorded.sealed and self._compares:
            found = self.state_hash()
            if found != recorded.sealed:
                what = f"the state before it has the hash {found}, and {recorded.sealed} was recorded"
                raise ReplayDiverged(step=recorded.number, what=what)
            self.sealed += 1
        if recorded.environment:
            self._move(recorded.environment)
        asked = recorded if self._restated is None else self._restated(recorded)
        entry, block = repeat(self.succession, asked, self.steps)
        if self._compares:
            demand_same(recorded, entry)
        # Otherwise the account would know more than it did when the states behind this entry were recorded.
        entry = as_old_as(recorded, entry)
        self._note(recorded)
        self._remember(recorded)
        receipts, facts = self.succession.enter(entry)
        self.step = recorded.number
        tried = self.succession.canary.block if entry.tried else None
        return Repeated(recorded=recorded, entry=entry, block=block, tried=tried, receipts=receipts, facts=facts)

    def _move(self, environment: str) -> None:
        """Do what the process did that began here: load what there was, under the settings of its service file."""
        state = self.state() if self.step else None
        self.environment = environment
        self._build_here()
        if state is not None:
            self.succession.load(state)

    def _build_here(self) -> None:
        self.succession = self._build(self.environment)
        self.succession.earlier.remembered = self._remembered

    def _remember(self, recorded: Step) -> None:
        """Keep a version that a later step goes back to, as it is here."""
        if recorded.version in self._wanted and publishes(recorded, recorded.version):
            line = self.succession.line
            kept = Kept(line.block, self.succession.learner.model.save())
            # Under both of its numbers: they differ where versions are counted anew.
            self._remembered[recorded.version] = self._remembered[line.block.head.version] = kept

    def _note(self, recorded: Step) -> None:
        """Notice an adopted candidate that had learned amended events before."""
        if self._first_amended is None and any(
            start <= offset < stop
            for partition, start, stop in recorded.ranges
            for at, offset in self._amendments
            if at == partition
        ):
            self._first_amended = recorded.number
        adopted = recorded.shadow is not None and recorded.shadow.what == "adopted"
        manifest = self.succession.shadows.current if adopted else None
        if manifest is not None and self._first_amended is not None and self._first_amended <= manifest.step:
            self.carried.append(manifest.number)


def nearest(
    checkpoints: Checkpoints, step: int, amendments: Amendments | None = None
) -> tuple[Checkpoint | None, list[CheckpointDamaged]]:
    """The newest readable checkpoint of this step or before it that has learned no amended event, and why others were
    passed over; None where only the log's beginning is left."""
    damaged: list[CheckpointDamaged] = []
    for at in reversed(checkpoints.steps()):
        if at > step:
            continue
        try:
            found = checkpoints.read(at)
        except CheckpointDamaged as error:
            damaged.append(error)
            continue
        if is_before(found.position, amendments or {}):
            return found, damaged
    return None, damaged


def is_before(position: Position, amendments: Amendments) -> bool:
    """Whether no amended event was taken yet at this position."""
    return all(offset >= position.get(partition, 0) for partition, offset in amendments)


def publishes(entry: Step, version: Version) -> bool:
    """Whether this entry made the version."""
    return entry.tried == version or (entry.version == version and entry.action in ("start", "publish", "roll_back"))


def published_at(steps: Steps, version: Version) -> Step | None:
    """The recorded step that published this version; None where the journal does not say so (any more)."""
    for entry in steps.entries():
        if publishes(entry, version):
            return entry
        if entry.version > version:
            return None
    return None
