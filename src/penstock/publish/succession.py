"""Which version follows which: all that decides it, in memory, and as a function of the log and the steps alone.

The learner, the gate, the line of versions, the shadow and the account of it all go from step to step together. A live
publisher has a step decided and then records it; a restart, and whoever rebuilds a version, has a recorded step decided
once more. Both run this, so that what was rebuilt is what was served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from penstock.errors import BaseMissing, LibraryMissing, SnapshotDamaged, UnknownVersion
from penstock.events import Version
from penstock.facts import Fact
from penstock.gate.interface import Gate, ShadowVerdict, Verdict
from penstock.gate.sieve import Sieve
from penstock.learn.anchors import Anchors
from penstock.learn.checkpoint import Checkpoint
from penstock.learn.drift import Drift, DriftDetector
from penstock.learn.interface import Block, Predictor
from penstock.learn.learner import Learner, Taken
from penstock.learn.measured import NOTHING
from penstock.learn.prequential import Prequential
from penstock.learn.quarantine import Aside, AsideStep, Quarantine
from penstock.learn.steps import CanaryCounts, ShadowStep, Step
from penstock.publish.asked.hand import Earlier, Hand, taken_down, words_for
from penstock.publish.asked.orders import Order
from penstock.publish.asked.wishes import Wish
from penstock.publish.candidates.apprentice import Apprenticeship
from penstock.publish.candidates.canary import Canary
from penstock.publish.candidates.follower import CaughtUp
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.candidates.shadow_entries import adoption
from penstock.publish.corrections import Corrections, told
from penstock.publish.entries import Stamp, Stamps, measured_of, measured_with, said_by
from penstock.publish.evidence import Looked, evidence_of, opinions_of
from penstock.publish.interface import Progress, Receipt, Snapshots
from penstock.publish.line import Kept, Line
from penstock.publish.looks import Looks
from penstock.publish.progress import progress_of
from penstock.publish.records.account import Account
from penstock.publish.state import Saved, oldest
from penstock.spec import Spec

AGAIN_PROBATIONS = 4
"""Lengths of a probation that are learned again at most when a source is taken out: what is good began its own with
the one before, which two lengths cover unless there was doubt."""
BEGINNING = "The empty model, so that predictions can be answered before anything was learned."


class Succession:
    """One service's learner with all that decides what is served of it."""

    def __init__(
        self,
        spec: Spec,
        learner: Learner,
        gate: Gate,
        predictor: Callable[[Block], Predictor],
        shadows: Shadows,
        snapshots: Snapshots | None = None,
    ) -> None:
        """``snapshots`` are what somebody may go back to, beside what is held in memory."""
        self.learner = learner
        self.gate = gate
        self.sieve = Sieve(spec)
        learner.sieve = self.sieve
        self.anchors = Anchors(spec)
        learner.anchors = self.anchors
        self.quarantine = Quarantine()
        lately_max = AGAIN_PROBATIONS * spec.gate.good_after_events
        self.line = Line(
            learner,
            predictor,
            restore=spec.gate.after_rollback == "restore",
            lately_max=lately_max,
            corrected_within=spec.learn.corrections_within if spec.learn.corrections == "at_once" else 0,
        )
        self.corrections = Corrections(spec.label, self.line, self.quarantine)
        self.apprenticeship = Apprenticeship(spec, self.line)
        self.hand = Hand()
        self.earlier = Earlier(self.line, snapshots)
        self._looks = Looks(spec, self.anchors, self.line, shadows, learner, predictor)
        self._predictor = predictor
        self._step_max = spec.learn.step_max
        self._forgetting_max = spec.gate.forgetting_max
        self._trains_for_answers = spec.gate.predictions_drift == "train"
        self.shadows = shadows
        self.canary = Canary()
        self.account = Account(spec.name)
        self.time = 0.0
        """Seconds since 1970 of the newest entry."""
        self._prequential = Prequential(spec.serve.threshold)
        self._drift = DriftDetector()

    # Entries ----------------------------------------------------------------------------------------------------------

    def begin(self, stamp: Stamp) -> tuple[Step, Block]:
        """The first entry, and the empty model as the first version."""
        block = self.line.begin(Version(self.account.highest + 1))
        return self.entry(stamp, block, action="start", verdict=BEGINNING, base=""), block

    def decide(self, taken: Taken, stamps: Stamps) -> tuple[Step, Block | None]:
        """The entry for a step that was taken, and the block that it publishes."""
        drift = self._measure(taken)
        verdict, looked = self._judge(taken)
        left, moved = looked.left, looked.moved
        self.apprenticeship.compare(taken)
        apprentice = self.apprenticeship.turn(verdict)
        shadow = None if verdict is None else self._follow_shadow(verdict.shadow)
        aside = self._settle_events(taken, verdict)
        block, restored = None, None
        if verdict is not None:
            block, restored = self.line.follow(verdict, self.account.highest)
            if verdict.action != "publish" or verdict.take_out:
                self._looks.begin_anew()
        elif taken.doubted is not None:
            self.gate.hear(taken.doubted)
        stamp = stamps(shadow is not None or apprentice is not None)
        tried = self._try_out(block, stamp.answered)
        self._tell_learner()
        if aside is not None:
            aside = self.quarantine.enter(aside)
        entry = self.entry(
            stamp,
            block,
            **said_by(verdict),
            ranges=taken.ranges,
            restored=restored,
            taken=taken.events,
            events=0 if taken.batch is None else len(taken.batch),
            loss_sum=0.0 if taken.learned is None else float(taken.learned.losses.sum()),
            served_sum=0.0 if taken.served is None else float(taken.served.sum()),
            log_time=taken.log_time,
            shadow=shadow,
            drifted=None if drift is None else (drift.before, drift.after, drift.events),
            departed=None if left is None else (left.feature, left.index, left.events),
            aside=aside,
            tried=tried,
            answered=stamp.answered if tried else (),
            apprentice=apprentice,
            measured=measured_with(looked, verdict, self._forgetting_max),
            answers_moved=None if moved is None else (moved.column, moved.index, moved.events),
        )
        self._note_shadow(entry)
        self.apprenticeship.note(entry)
        if drift is not None or left is not None or (moved is not None and self._trains_for_answers):
            self.shadows.drifted(self.progress.labelled)
        return entry, block

    def _measure(self, taken: Taken) -> Drift | None:
        """How well the learner answered before it learned, and whether that has become worse for good."""
        if taken.learned is None:
            return None
        if taken.batch is not None:
            self._prequential.add(taken.learned, taken.batch, self.line.classes_before(taken.learned))
        drift = self._drift.take(taken.learned.losses)
        if drift is not None:
            self.anchors.change(drift.events)
        return drift

    def _judge(self, taken: Taken) -> tuple[Verdict | None, Looked]:
        """What the gate says of the step, None where there is nothing to be said; and what was looked at for that."""
        own = None if taken.batch is None else self.canary.own(taken.batch, taken.compared)
        beside = self.shadows.learn(taken)
        columns = () if beside is None or taken.learned is None else self.line.classes_before(taken.learned)
        opinions = opinions_of(taken, columns, beside)
        looked = self._looks.look(taken)
        evidence = evidence_of(taken, beside, looked, own, opinions)
        return None if evidence is None else self.gate.judge(evidence), looked

    def _settle_events(self, taken: Taken, verdict: Verdict | None) -> AsideStep | None:
        """What becomes of the step's events, of those whose labels it changes, and of those that the verdict has no
        belief in any more."""
        aside = taken.aside
        if taken.batch is not None:
            self.corrections.learned(taken.batch, vouched=aside is not None and bool(aside.released))
        aside = self.corrections.hear(self.learner.take_amended(), aside)
        if verdict is not None and verdict.take_out:
            aside = msgspec.structs.replace(aside or AsideStep(), taken_out=self.line.take_out(verdict))
            self.anchors.without(verdict.take_out)
        if verdict is not None and verdict.accepts is not None:
            self.anchors.accept(verdict.accepts)
        return aside

    def entry(self, stamp: Stamp, block: Block | None = None, **said: Any) -> Step:
        """An entry that says this, and beside it what every entry says: its number and times, and what is served from
        then on, which is this block where there is one."""
        self.time = stamp.time
        usual: dict[str, Any] = {
            "action": "advance",
            "ranges": (),
            "version": self.account.version if block is None else block.head.version,
            "weights": stamp.weights(block),
            "log_time": self.learner.log_time,
            "base": self.line.base,
            "measured": NOTHING,
        }
        return Step(
            number=stamp.number,
            time=stamp.time,
            cpu_s=stamp.cpu_s,
            checkpoint_due=stamp.checkpoint_due,
            sealed=stamp.sealed,
            environment=stamp.environment,
            erasure=stamp.erasure,
            **(usual | said),
        )

    def _follow_shadow(self, verdict: ShadowVerdict | None) -> ShadowStep | None:
        """Do what the verdict says of the shadow, and what the journal says of that."""
        if verdict is None:
            return None
        if verdict.action == "widen":
            self.canary.widen(verdict.share)
            return self.shadows.widened(verdict, self.line.base)
        self.canary.end()
        shadow, promoted = self.shadows.end(verdict, self.line.base)
        self.learner.model = promoted or self.learner.model
        return shadow

    def _try_out(self, block: Block | None, answered: Sequence[Version]) -> Version:
        """Have the shadow answer its share with all that it has learned, beside this block; the number under which it
        does, or 0 where it answers nothing, or nothing new is published. It has ``answered`` under other ones, too."""
        if block is None or not self.canary.share or self.shadows.model is None:
            return Version(0)
        version = Version(block.head.version + 1)
        self.canary.expose(self.shadows.model, version, self.learner.position, answered)
        return version

    def _tell_learner(self) -> None:
        self.learner.doubted = self.gate.doubted
        self.learner.keeps_versions = self.canary.share > 0.0

    def _note_shadow(self, entry: Step) -> None:
        """Something has become of a candidate with this entry."""
        if entry.shadow is None:
            return
        self.shadows.ended(entry, self.progress.labelled)
        if entry.shadow.what == "widened":
            self.canary.began(entry.time)

    def hear(self, counts: CanaryCounts, stamps: Stamps) -> Step:
        """The entry that says what servers have counted of a candidate that answers a share of the traffic, and what
        becomes of it."""
        if self.canary.block is not None:
            # Of another log, it may have been given up before.
            self.canary.heard = counts
        verdict = self.gate.hear(counts)
        shadow = self._follow_shadow(verdict)
        self._tell_learner()
        measured = measured_of(verdict)
        entry = self.entry(stamps(shadow is not None), shadow=shadow, heard=counts, measured=measured)
        self._note_shadow(entry)
        return entry

    def adopt(self, caught_up: CaughtUp, stamp: Stamp) -> Step:
        """The entry that puts a candidate in shadow, or refuses it for what it has forgotten."""
        refusal = None if caught_up.refused else self.gate.begin_shadow(caught_up.manifest.held_out)
        shadow = adoption(caught_up, refusal, self.line.base)
        entry = self.entry(stamp, shadow=shadow, measured=measured_of(refusal))
        self.shadows.adopt(caught_up, entry)
        self.shadows.ended(entry, self.progress.labelled)
        return entry

    def settle(self, wish: Wish, stamps: Stamps) -> tuple[Step, Block | None] | None:
        """The entry that releases or drops these events, as far as they are set aside and a step may be long; None
        where none is. Those that are released are learned like any others, and what comes of it is judged."""
        rows = self.quarantine.find(wish.places)[: self._step_max]
        if not rows:
            return None
        if wish.release:
            return self.decide(self.learner.release(rows), stamps)
        return self.drop(rows, stamps(False)), None

    def drop(self, rows: Sequence[Aside], stamp: Stamp) -> Step:
        """The entry after which these events, which are set aside, will never be learned."""
        dropped = AsideStep(dropped=tuple(row.place for row in rows))
        self.quarantine.enter(dropped)
        return self.entry(stamp, aside=dropped)

    def correct(self, stamps: Stamps) -> tuple[Step, Block | None]:
        """The entry that makes good what was learned with labels that are other ones now, and the block that comes of
        it, unless updates are held."""
        corrected, block = self.corrections.make_good(self.account.highest)
        action = "advance" if block is None else "publish"
        entry = self.entry(stamps(False), block, action=action, verdict=told(corrected), corrected=corrected)
        return entry, block

    def obey(self, id_: str, order: Order, stamps: Stamps) -> tuple[Step, Block | None] | str:
        """The entry that obeys this order, and the block that it publishes; or why it cannot be obeyed, and nothing
        changed."""
        kept = None
        refusal = self.hand.refusal(
            order,
            self.account.version,
            self.earlier,
            has_shadow=self.shadows.current is not None,
            apprentice_of=self.apprenticeship.of,
        )
        if order.what == "roll_back" and not refusal:
            try:
                kept = self.earlier.find(order.version)
                # What it predicts with is looked for before anything is changed.
                self._predictor(kept.block)
            except (UnknownVersion, SnapshotDamaged, BaseMissing, LibraryMissing) as error:
                refusal = str(error)
        if refusal:
            return refusal
        in_shadow = self.shadows.current
        of = "new base" if in_shadow is None else in_shadow.held_out.of
        told = words_for(order, None if kept is None else kept.block.head.version, of)
        if kept is not None:
            self.line.vouch(kept)
        verdict = self.gate.obey(order.what, told)
        assert verdict is not None, "the shadow is there, as was looked before"
        shadow = self._follow_shadow(verdict.shadow)
        block, restored = self.line.follow(verdict, self.account.highest)
        self._tell_learner()
        said = said_by(verdict) | ({} if block is not None else {"action": "advance"})
        hand = taken_down(id_, order, kept)
        measured = measured_of(verdict.shadow)
        entry = self.entry(stamps(True), block, **said, restored=restored, shadow=shadow, hand=hand, measured=measured)
        self._note_shadow(entry)
        self.hand.enter(entry)
        return entry, block

    def enter(self, entry: Step) -> tuple[list[Receipt], list[Fact]]:
        """Account for an entry, in the order of their numbers."""
        return self.account.enter(entry)

    # The state --------------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """How far the learner is, what is not recorded yet included."""
        slow = self.canary.told(self.shadows.progress(self.line.base, so_far := self.gate.shadow_so_far()), so_far)
        progress = progress_of(self.learner, self.account, self._prequential, slow, self.quarantine.counts, self.time)
        return msgspec.structs.replace(
            progress,
            hold=self.hand.hold,
            corrections=self.corrections.counts,
            forgotten=self.anchors.newest,
            departed=self._looks.departed,
            moved=self._looks.answered.newest,
            apprentice=self.apprenticeship.progress,
        )

    @property
    def _rooms(self) -> dict[str, Saved]:
        """What is saved as plain values alone, by its name in a checkpoint."""
        return {
            "gate": self.gate,
            "account": self.account,
            "prequential": self._prequential,
            "drift": self._drift,
            "sieve": self.sieve,
            "quarantine": self.quarantine,
            "corrections": self.corrections,
            "looks": self._looks,
        }

    def checkpoint(self, step: int) -> Checkpoint:
        """Everything that decides what happens next, as it is after this step."""
        learner, model = self.learner.save()
        line, arrays = self.line.save()
        shadow, more = self.shadows.save()
        canary, answering = self.canary.save()
        anchors, kept = self.anchors.save()
        bases = {*self.line.bases(), self.shadows.base, str(model.values.get("base", ""))} - {""}
        values: dict[str, Any] = {
            "learner": learner,
            "model": model.values,
            "line": line,
            "shadow": shadow,
            "anchors": anchors,
            "time": self.time,
            **{name: room.save() for name, room in self._rooms.items()},
            **({"hand": hand} if (hand := self.hand.save()) else {}),
            **({"canary": canary} if canary else {}),
            **({"answered": answered} if (answered := self._looks.answered.save()) else {}),
            **({"apprentice": beside} if (beside := self.apprenticeship.save()) else {}),
        }
        model_arrays = {f"model/{name}": array for name, array in model.arrays.items()}
        return Checkpoint(
            step=step,
            version=self.account.version,
            position=dict(self.learner.position),
            needed=oldest(self.learner.needed(), self.line.needed(), self.quarantine.needed()),
            values=values,
            arrays={**model_arrays, **arrays, **more, **kept, **answering},
            bases=tuple(sorted(bases)),
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Become what was saved. Raises BaseMissing."""
        values = checkpoint.values
        self.learner.load(values["learner"], Kept.state("model", values["model"], checkpoint.arrays))
        self.line.load(values["line"], checkpoint.arrays)
        self.time = values["time"]
        if "shadow" in values:
            # A checkpoint of before there were bases has none.
            self.shadows.load(values["shadow"], checkpoint.arrays)
        for name, room in self._rooms.items():
            # Nor has an older one what nobody did or counted then.
            if name in values:
                room.load(values[name])
        self.hand.load(values.get("hand", {}))
        if "anchors" in values:
            self.anchors.load(values["anchors"], checkpoint.arrays)
        self.canary.load(values.get("canary", {}), checkpoint.arrays)
        self._looks.answered.load(values.get("answered", {}))
        self.apprenticeship.load(values.get("apprentice", {}))
        self._tell_learner()
