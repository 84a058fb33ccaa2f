"""The shadow: a candidate that a consolidation left is caught up, learns beside what is served, and takes its place or
goes.

Nothing of a candidate is seen or recorded until it has caught up with the journal; a restart begins that again. From
the entry that adopts it on, the journal and the checkpoints hold its life like everything else: an entry that adopts is
repeated from the same folder, which therefore stays until no checkpoint is older than the entry.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import BaseMissing, CheckpointDamaged, PenstockError, SnapshotDamaged, StepsCorrupt
from penstock.events import Version
from penstock.gate.interface import ShadowVerdict
from penstock.learn.fast.predictor import number_losses
from penstock.learn.inputs import Seen
from penstock.learn.interface import Learned, Model, State
from penstock.learn.learner import Taken
from penstock.learn.ready import (
    ReadyManifest,
    clear_shelf,
    holds,
    read_ready,
    read_ready_manifest,
    ready_folder,
    ready_numbers,
    remove_ready,
    shelve,
    shelved_numbers,
)
from penstock.learn.steps import Reached, ShadowStep, Step, Steps, nothing
from penstock.publish.candidates.follower import CaughtUp, Follower
from penstock.publish.candidates.shadow_entries import adopts, lost, manifest_of, shadow_step
from penstock.publish.evidence import ShadowLosses
from penstock.publish.interface import SlowTier
from penstock.publish.rooms import Rooms, SlowRooms
from penstock.spec import ClassName

SLICE_S = 0.02
"""How long catching up may take between two rounds of steps."""
SETTLED_KEPT = 16
"""Settled candidates whose entries are remembered, so that their folders can be removed when nothing needs them."""
RETIRED_MAX = 64

logger = logging.getLogger(__name__)


class _State(msgspec.Struct, kw_only=True):
    """What a checkpoint holds beside the model."""

    current: ReadyManifest | None = None
    """The candidate in shadow."""
    since: float = 0.0
    settled: list[tuple[int, int]] = []
    """Numbers of consolidations and the journal's entries that adopted or refused them, the newest last."""
    settled_events: int = 0
    outcome: str = ""
    promoted: int = 0
    promoted_at: float = 0.0
    drifted_events: int = 0
    retired: list[str] = []
    """Bases that were given up or replaced: removed when nothing refers to them any more."""


class Shadows:
    """What becomes of the candidates of one service."""

    def __init__(self, rooms: SlowRooms | None, reached: Reached = nothing) -> None:
        self._rooms = rooms
        self._reached = reached
        self._state = _State()
        self._model: Model | None = None
        self._follower: Follower | None = None
        self._classes: tuple[ClassName, ...] = ()
        """Of the shadow's model, as far as they were looked up."""

    # Adoption ---------------------------------------------------------------------------------------------------------

    @property
    def is_catching_up(self) -> bool:
        """Whether a candidate is on its way."""
        return self._follower is not None

    def catch_up(self, journal: Steps, elapsed: Callable[[], float]) -> CaughtUp | None:
        """Bring the next candidate a little further; gives it when it has reached the journal's end."""
        if self._rooms is None or self._model is not None:
            return None
        number = self._next(journal.last) if self._follower is None else self._follower.manifest.number
        if number is None:
            return None
        try:
            if self._follower is None:
                self._reached("shadow.found")
                self._follower = Follower(self._rooms, read_ready(self._rooms.consolidation, number))
            if not self._follower.follow(journal, elapsed, SLICE_S):
                return None
            caught_up = CaughtUp(self._follower.manifest, self._follower.model)
        except PenstockError as error:
            known = self._as_far_as_known(number)
            reason = f"The {known.held_out.of} is given up: it cannot be put in shadow: {error}."
            caught_up = CaughtUp(known, None, reason)
        self._follower = None
        self._reached("shadow.caught_up")
        return caught_up

    def adopt(self, caught_up: CaughtUp, entry: Step) -> None:
        """Put it in shadow, or forget it: what its entry says."""
        told = entry.shadow
        assert told is not None, "the entry adopts nobody"
        self._settle(told.number, entry.number)
        if told.what == "adopted":
            self._state.current, self._model, self._state.since = caught_up.manifest, caught_up.model, entry.time
            self._state.outcome = ""
            self._classes = ()
        else:
            self._retire(told.base)
            self._state.outcome = told.reason

    def adopt_again(self, entry: Step, journal: Steps) -> ReadyManifest | None:
        """Repeat a recorded adoption from the candidate's folder; gives its manifest, or None where it was refused.

        Raises CheckpointDamaged, saying what to do, where the folder is not what it was."""
        told = entry.shadow
        assert told is not None, "the entry adopts nobody"
        if told.what == "given_up":
            self.adopt(CaughtUp(manifest_of(told), None), entry)
            return None
        if self._rooms is None:
            raise CheckpointDamaged(folder="consolidation", reason=lost(entry, "this learner was given no such folder"))
        try:
            ready = read_ready(self._rooms.consolidation, told.number)
            if ready.manifest.content != told.content:
                raise CheckpointDamaged(folder="", reason="it holds another candidate than the one adopted")
            follower = Follower(self._rooms, ready)
            follower.follow(journal, lambda: 0.0, 1.0, until=entry.number - 1)
        except (CheckpointDamaged, BaseMissing, StepsCorrupt) as error:
            folder = ready_folder(self._rooms.consolidation, told.number)
            reason = str(error.details.get("reason", error))
            raise CheckpointDamaged(folder=folder, reason=lost(entry, reason)) from error
        self.adopt(CaughtUp(follower.manifest, follower.model), entry)
        return follower.manifest

    # In shadow --------------------------------------------------------------------------------------------------------

    def learn(self, taken: Taken) -> ShadowLosses | None:
        """Predict and learn what the learner has learned; None without a shadow or a labelled event."""
        if self._model is None or taken.batch is None or taken.learned is None:
            return None
        if self._model.takes(taken.batch) is not None:
            return ShadowLosses(np.ones(len(taken.batch)), fault="it has no room for a class that came")
        learned = self._model.learn(taken.batch)
        losses, scale = learned.losses, taken.learned.scale
        # Where losses are measured against a scale, both are by the same. Those of counts have none.
        if learned.scale != scale and learned.predictions.mean is not None:
            losses = number_losses(learned.predictions.mean, np.asarray(taken.batch.labels), scale)
        elif learned.scale != scale:
            losses = np.minimum(losses * (learned.scale / scale), 1.0)
        fault = "" if learned.finite else "its weights are not finite"
        return ShadowLosses(losses, learned, self._columns(learned), fault)

    def _columns(self, learned: Learned) -> tuple[ClassName, ...]:
        """The names of the columns of what it said. Classes are only ever added, so that names which came with the step
        itself do no harm."""
        probabilities = learned.predictions.probabilities
        assert self._model is not None, "there is a shadow"
        if probabilities is not None and probabilities.shape[1] > len(self._classes):
            self._classes = self._model.freeze(Version(0), {}).head.classes
        return self._classes

    def end(self, verdict: ShadowVerdict, parent_base: str) -> tuple[ShadowStep, Model | None]:
        """What the journal says of the shadow's end, and the model that takes over, if it does."""
        manifest, model = self._state.current, self._model
        assert manifest is not None, "there is no shadow"
        promoted = verdict.action == "promote"
        told = shadow_step(manifest, "promoted" if promoted else "given_up", verdict, parent_base)
        self._state.current, self._model = None, None
        self._retire(parent_base if promoted else manifest.base)
        self._state.outcome = verdict.reason
        return told, model if promoted else None

    def widened(self, verdict: ShadowVerdict, parent_base: str) -> ShadowStep:
        """What the journal says of a shadow that answers a share of the traffic from here on."""
        assert self._state.current is not None, "there is no shadow"
        return shadow_step(self._state.current, "widened", verdict, parent_base)

    def ended(self, entry: Step, labelled: int) -> None:
        """Note the entry and the labelled events at which a shadow ended, or a candidate was refused."""
        assert entry.shadow is not None, "no shadow ended"
        if entry.shadow.what in ("adopted", "widened"):
            return
        self._state.settled_events = labelled
        if entry.shadow.what == "promoted":
            self._state.promoted, self._state.promoted_at = entry.version, entry.time
            self._state.retired = [base for base in self._state.retired if base != entry.shadow.base]

    def drifted(self, labelled: int) -> None:
        """Note that the stream has changed after so many labelled events."""
        self._state.drifted_events = labelled

    def progress(self, base: str, so_far: ShadowVerdict | None) -> SlowTier:
        """What is told of it."""
        state, current = self._state, self._state.current
        return SlowTier(
            base=base,
            promoted=state.promoted,  # type: ignore[arg-type]
            promoted_at=state.promoted_at,
            catching_up=0 if self._follower is None else self._follower.manifest.number,
            shadow=0 if current is None else current.number,
            shadow_base=self.base,
            shadow_changes=() if current is None else current.changes,
            shadow_since=0.0 if current is None else state.since,
            shadow_events=so_far.events if so_far else 0,
            evidence=so_far.evidence if so_far else 0.0,
            gain=so_far.gain.mean if so_far else 0.0,
            settled=state.settled[-1][0] if state.settled else 0,
            settled_events=state.settled_events,
            outcome=state.outcome,
            drifted_events=state.drifted_events,
        )

    # Checkpoints ------------------------------------------------------------------------------------------------------

    @property
    def current(self) -> ReadyManifest | None:
        """The candidate in shadow, as its consolidation described it."""
        return self._state.current

    @property
    def model(self) -> Model | None:
        """What the candidate in shadow has learned so far."""
        return self._model

    @property
    def base(self) -> str:
        """Id of the base of the candidate in shadow; empty without one."""
        return self._state.current.base if self._state.current else ""

    def seen(self, base: str) -> Seen | None:
        """What a base was trained on; None where it does not say. Raises BaseMissing."""
        return None if self._rooms is None else self._rooms.seen(base)

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and arrays whose names begin with ``shadow/``."""
        values: dict[str, Any] = {"state": msgspec.to_builtins(self._state)}
        if self._model is None:
            return values, {}
        state = self._model.save()
        return {**values, "model": state.values}, {f"shadow/{name}": array for name, array in state.arrays.items()}

    def load(self, values: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved. Raises BaseMissing."""
        self._state = msgspec.convert(values["state"], _State)
        self._model = self._follower = None
        self._classes = ()
        if "model" in values:
            if self._rooms is None:
                raise CheckpointDamaged(
                    folder="consolidation", reason="a shadow is in it, and no room for one is given"
                )
            inside = {name.removeprefix("shadow/"): a for name, a in arrays.items() if name.startswith("shadow/")}
            self._model = self._rooms.follower().model
            self._model.load(State(values["model"], inside))

    def tidy(self, rooms: Rooms, replay_from: int, keeps_past: bool) -> None:
        """Let the journal, the folder of candidates and that of bases forget what nothing needs any more: a restart, a
        consolidation, or, with ``keeps_past``, whoever takes all steps since the first once more."""
        if self._rooms is None:
            if not keeps_past:
                rooms.journal.forget(replay_from)
            return
        folder, known = self._rooms.consolidation, dict(self._state.settled)
        oldest = min(known, default=0)
        for number in ready_numbers(folder):
            # A restart from an older checkpoint than its entry would adopt it once more.
            if known[number] <= replay_from if number in known else number < oldest:
                self._reached("shadow.remove")
                if keeps_past and number in known and adopts(rooms.journal, known[number]):
                    shelve(folder, number)
                else:
                    remove_ready(folder, number)
        if not keeps_past:
            clear_shelf(folder)
            rooms.journal.forget(min([replay_from, *(hold.step for hold in holds(folder))]))
        self._remove_bases(rooms, self._rooms)

    def _remove_bases(self, rooms: Rooms, slow: SlowRooms) -> None:
        retired = [base for base in self._state.retired if (slow.bases / base).is_dir()]
        if not retired:
            return
        try:
            needed = rooms.checkpoints.bases() | rooms.snapshots.bases()
            numbers = [*ready_numbers(slow.consolidation), *shelved_numbers(slow.consolidation)]
            needed |= {read_ready_manifest(slow.consolidation, number).base for number in numbers}
        except (CheckpointDamaged, SnapshotDamaged) as error:
            logger.warning("no base is removed, since not all that may need one can be read", extra={"why": str(error)})
            return
        for base in retired:
            if base not in needed:
                self._reached("shadow.remove_base")
                aside = slow.bases / f"tmp-old-{base}"
                shutil.rmtree(aside, ignore_errors=True)
                (slow.bases / base).rename(aside)
                shutil.rmtree(aside)

    # The parts --------------------------------------------------------------------------------------------------------

    def _next(self, last: int) -> int | None:
        """The oldest candidate that was not looked at yet and comes from before the journal's end."""
        assert self._rooms is not None, "there is no folder of candidates"
        newest = self._state.settled[-1][0] if self._state.settled else 0
        for number in ready_numbers(self._rooms.consolidation):
            if number > newest:
                try:
                    return number if read_ready_manifest(self._rooms.consolidation, number).step <= last else None
                except CheckpointDamaged:
                    return number
        return None

    def _as_far_as_known(self, number: int) -> ReadyManifest:
        assert self._rooms is not None, "there is no folder of candidates"
        try:
            return read_ready_manifest(self._rooms.consolidation, number)
        except CheckpointDamaged:
            return manifest_of(ShadowStep(what="given_up", number=number, base=""))

    def _settle(self, number: int, entry: int) -> None:
        self._state.settled = [*self._state.settled, (number, entry)][-SETTLED_KEPT:]

    def _retire(self, base: str) -> None:
        if base and base not in self._state.retired:
            self._state.retired = [*self._state.retired, base][-RETIRED_MAX:]
