"""The protocol of a step: take and learn, judge, record, expose, account, checkpoint; and how a restart takes it up
again.

A step has happened when its entry stands in the step journal. Before that nothing of it can be seen from outside, and a
crash means that the events are taken again; after that a restart repeats it from the log, to the byte, and exposes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from penstock.events import Version
from penstock.facts import Fact, Restarted
from penstock.gate.interface import Gate
from penstock.learn.interface import Block, Predictor
from penstock.learn.learner import Learner, Taken
from penstock.learn.steps import Reached, Step, nothing
from penstock.publish.asked.hand import refused
from penstock.publish.asked.orders import Answer, answer, next_order
from penstock.publish.asked.wishes import granted, next_wish
from penstock.publish.candidates.canary_counts import read_counts
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.entries import Stamp, demand_same
from penstock.publish.interface import Progress, Receipt
from penstock.publish.notices.allowance import LEARN_LESS_REST_S
from penstock.publish.repeating import repeat
from penstock.publish.restarts import Restarts
from penstock.publish.rooms import SYSTEM, Clocks, Rooms, SlowRooms
from penstock.publish.state import state_hash
from penstock.publish.succession import Succession
from penstock.spec import Spec

IDLE_S = 0.2
"""How long the loop sleeps without an event before it looks whether it should stop."""
RESTING_S = 0.1
"""How long the loop sleeps while the budget lets nothing be learned: orders by hand are still obeyed."""
ROUND_S = 0.02
"""How long steps of a backlog are gathered before they are recorded and exposed: each on its own would wait for the
disk as long as it takes to learn."""
ROUND_STEPS = 64
LISTEN_EVERY_S = 0.25
"""Between two looks at what servers say of a candidate that answers a share of the traffic."""
CORRECTING_SHARE = 0.2
"""Of the time, for learning again what was learned with labels that are other ones now: a flood of corrections leaves
four fifths of it to what is new."""
logger = logging.getLogger(__name__)


class Stop(Protocol):
    """What ends the loop, such as a `threading.Event`."""

    def is_set(self) -> bool: ...


class Publisher:
    """Makes versions of what one service's learner learns."""

    def __init__(
        self,
        spec: Spec,
        learner: Learner,
        gate: Gate,
        predictor: Callable[[Block], Predictor],
        rooms: Rooms,
        clocks: Clocks = SYSTEM,
        reached: Reached = nothing,
        slow: SlowRooms | None = None,
        environment: str = "",
    ) -> None:
        """``environment`` is the name of what this process runs on."""
        self._spec = spec
        self._learner = learner
        self._shadows = Shadows(slow, reached)
        self._succession = Succession(spec, learner, gate, predictor, self._shadows, rooms.snapshots)
        self._rooms = rooms
        self._clocks = clocks
        self._reached = reached
        self._restarts = Restarts(spec, self._succession, self._shadows, rooms, clocks)
        self._correct_after = 0.0
        """When corrections are made good again."""
        self._is_resting = False
        """Whether the budget has paused learning, and the checkpoint for it is written."""
        self._environment = environment
        self._shown: tuple[Version, float] | None = None
        """Under which number a candidate answers which share, as servers were told last; None before they were."""
        self._listen_after = 0.0

    # The protocol of a step ------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do one step, and the ones behind it while events were left behind, for ROUND_S at most: they are recorded
        and exposed together. Returns whether something was recorded. Whatever it raises leaves a state that a restart
        takes up."""
        self._reached("step.begin")
        began = self._clocks.elapsed()
        entries: list[Step] = []
        block: Block | None = None
        receipts: list[Receipt] = []
        facts: list[Fact] = []
        while True:
            at = self._clocks.elapsed()
            # 1. Take the next events and learn from them. The learner, what it serves, the last known good version and
            # the one on probation each predict them first. Events from which nothing can be learned wait to be recorded
            # with later ones.
            taken = self._learner.take()
            if taken is None:
                break
            self._reached("step.learned")
            # 2. Judge the update, and make the version that results, in memory.
            entry, made = self._decide(taken, ahead=len(entries))
            entries.append(entry)
            block = made or block
            more_receipts, more_facts = self._succession.enter(entry)
            receipts += more_receipts
            facts += more_facts
            self._reached("step.judged")
            now = self._clocks.elapsed()
            self._learner.pace.cost(taken.events, now - at)
            ordinary = (
                entry.action == "publish" and not entry.checkpoint_due and not self._succession.corrections.are_due
            )
            if not (ordinary and self._learner.behind and now - began < ROUND_S and len(entries) < ROUND_STEPS):
                break
        if not entries:
            return False
        # 3. Record what was taken and decided. From here on the steps have happened.
        self._rooms.journal.append(*entries)
        # 4. Expose the result.
        self._expose(block, self.progress)
        self._reached("step.exposed")
        # 5. Account for it. The journal is the truth, so this may lag behind and be lost.
        self._tell(receipts, facts)
        self._reached("step.accounted")
        # 6. Write a checkpoint when one is due.
        if entries[-1].checkpoint_due:
            self.checkpoint()
        return True

    def take_up(self) -> bool:
        """Bring a candidate with a new base that stands ready a little nearer to the journal's end; there it goes in
        shadow, or is refused. Returns whether that was recorded."""
        # Repeat recorded steps with it. Nothing of this is seen, and a restart begins it again.
        caught_up = self._shadows.catch_up(self._rooms.journal, self._clocks.elapsed)
        if caught_up is None:
            return False
        # Refuse it for what it has forgotten, or put it in shadow.
        self._make("shadow", self._succession.adopt(caught_up, self._stamp(due=True)), None)
        # With a checkpoint, so that a restart need not catch it up again.
        self.checkpoint()
        self._reached("shadow.taken_up")
        return True

    def correct(self) -> bool:
        """Make good what was learned with labels that are other ones now. Returns whether there was something to do and
        it was time for it: of all time this takes at most CORRECTING_SHARE, however many corrections come."""
        began, cpu_s = self._clocks.elapsed(), self._clocks.cpu()
        if not self._succession.corrections.are_due or began < self._correct_after:
            return False
        self._record_pending()
        entry, block = self._succession.correct(lambda _: self._stamp(due=self._restarts.is_due))
        self._make("correction", entry, block)
        self._rooms.corrected(self._clocks.cpu() - cpu_s)
        if entry.checkpoint_due:
            self.checkpoint()
        now = self._clocks.elapsed()
        self._correct_after = now + (now - began) * (1.0 / CORRECTING_SHARE - 1.0)
        return True

    def grant(self) -> bool:
        """Release or drop events that are set aside, as the oldest wish says. Returns whether there was one."""
        asked = None if self._rooms.wishes is None else next_wish(self._rooms.wishes)
        if asked is None:
            return False
        file, wish = asked
        self._record_pending()
        # Learn those that are released and judge that, or drop the others: these events are not set aside any more.
        while (settled := self._succession.settle(wish, lambda ended: self._stamp(due=ended))) is not None:
            self._make("wish", *settled)
            if settled[0].checkpoint_due:
                self.checkpoint()
        # Nothing is left of the wish. After a crash before this nothing is found of what it names.
        granted(file)
        self._reached("wish.granted")
        return True

    def obey(self) -> bool:
        """Do what somebody has ordered by hand, the oldest order first. Returns whether there was one."""
        asked = None if self._rooms.orders is None else next_order(self._rooms.orders)
        if asked is None:
            return False
        file, order = asked
        said, checkpoint_due = self._succession.hand.answer_to(file.stem), False
        if said is None:
            self._record_pending()
            obeyed = self._succession.obey(file.stem, order, lambda _: self._stamp(due=True))
            if isinstance(obeyed, str):
                logger.warning("an order was refused", extra={"order": order.what, "by": order.by, "why": obeyed})
                said = Answer(done=False, told=obeyed, version=self.progress.version)
                # Whoever ordered it while nothing ran is not there to be answered. The journal does not say it, so it
                # is written before the order goes, with a time that is the same when a crash makes it found again.
                self._rooms.receipts.write([], [refused(order, said, self._spec.name, file.stat().st_mtime)])
                self._rooms.receipts.flush()
            else:
                self._make("order", *obeyed)
                said, checkpoint_due = self._succession.hand.answer_to(file.stem), True
        # After a crash before this the order is found again, and answered as it was obeyed.
        assert said is not None, "what was obeyed has an answer"
        answer(file, said)
        self._reached("order.answered")
        # With a checkpoint, so that a restart need not go back once more.
        if checkpoint_due:
            self.checkpoint()
        return True

    def listen(self) -> bool:
        """Hear what servers say of a candidate that answers a share of the traffic. Returns whether that was
        recorded."""
        canary, now = self._succession.canary, self._clocks.elapsed()
        if canary.block is None or self._rooms.canary is None or now < self._listen_after:
            return False
        self._listen_after = now + LISTEN_EVERY_S
        counts = read_counts(self._rooms.canary, canary.block.head.base)
        if counts == canary.heard:
            return False
        self._record_pending()
        entry = self._succession.hear(counts, lambda ended: self._stamp(due=ended))
        self._make("canary", entry, None)
        if entry.checkpoint_due:
            self.checkpoint()
        return True

    def _make(self, what: str, entry: Step, block: Block | None) -> None:
        """Make happen what was decided in memory beside the steps; all that was taken stands before it already."""
        self._reached(f"{what}.decided")
        # 1. Record it. From here on it has happened.
        self._rooms.journal.append(entry)
        self._reached(f"{what}.recorded")
        # 2. Account for it, and expose the result.
        self._tell(*self._succession.enter(entry))
        self._expose(block, self.progress)
        self._reached(f"{what}.exposed")

    def checkpoint(self) -> None:
        """Make a restart begin here."""
        # Nothing may be pending in a checkpoint, so that the next entry begins where it ends.
        self._record_pending()
        self._restarts.write(self._reached)

    # The life of a learner -------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Restore the newest checkpoint, repeat the recorded steps behind it, and expose the current version again,
        with the same number and bytes; at the very first start publish the empty model as version 1. Returns the events
        replayed.

        Raises ReplayDiverged when a repeated step does not give what was recorded."""
        self._reached("start.begin")
        facts = self._restarts.restore()
        self._reached("start.restored")
        replayed, owed = self._repeat_recorded()
        self._reached("start.replayed")
        self._restarts.count_cpu()
        if self._succession.account.version == 0:
            self._make("beginning", *self._succession.begin(self._stamp(due=False)))
        else:
            restarted = Restarted(
                at=self._clocks.now(), service=self._spec.name, process="learner", replayed_events=replayed
            )
            self._rooms.receipts.write([], [*facts, restarted])
            # What was ordered meanwhile comes first: what somebody wants to have withdrawn is not served again.
            while self.obey():
                pass
            self._expose(self._succession.line.block, self.progress)
        self._reached("start.exposed")
        if owed:
            # The receipt of a version may say that it is materialised, and the process ended before it was.
            self.checkpoint()
        return replayed

    def settle(self) -> None:
        """Repeat what was recorded since the newest checkpoint, and end with another one. So whoever starts next, under
        other settings, has nothing to repeat that was done under these. Nothing is exposed, and it may be broken off
        anywhere.

        Raises what `start` raises."""
        self._restarts.restore()
        self._repeat_recorded()
        self.checkpoint()
        self._reached("settings.settled")
        self.close()

    def run(self, stop: Stop) -> None:
        """Start, do steps until stop is set, and end with a checkpoint, so that the next start has nothing to
        replay."""
        self.start()
        while not stop.is_set():
            self.obey()
            self.listen()
            if self._rests():
                continue
            self.take_up()
            self.grant()
            self.correct()
            if self._learner.wait(0.0 if self._shadows.is_catching_up else IDLE_S):
                while not self.step() and self.has_backlog() and not (stop.is_set() or self._is_paused()):
                    # Events without a label need no record each, so they are taken as fast as they can be read.
                    self._rooms.live.report(self.progress)
                    self.obey()
            elif self._restarts.is_due:
                self.checkpoint()
            else:
                self._rooms.live.report(self.progress)
        self.checkpoint()
        self.close()

    def _rests(self) -> bool:
        """Follow what the budget allows: whether nothing is learned for now. What was learned is safe then: a rest
        begins with a checkpoint."""
        allowance = self._rooms.allowance()
        self._learner.rest_s = LEARN_LESS_REST_S if allowance.reaches("learn_less") else 0.0
        if not self._is_paused():
            self._is_resting = False
            return False
        if not self._is_resting:
            self.checkpoint()
            self._is_resting = True
            self._reached("budget.paused")
        self._rooms.live.report(self.progress)
        time.sleep(RESTING_S)
        return True

    def _is_paused(self) -> bool:
        return self._rooms.allowance().stops_learning(self._clocks.now())

    def close(self) -> None:
        """Let go of files; what is shared stays for those who read it."""
        if self._rooms.witness is not None:
            self._rooms.witness.close()
        self._rooms.receipts.close()
        self._rooms.live.close()
        self._rooms.journal.close()

    def has_backlog(self) -> bool:
        """Whether durable events were not taken yet."""
        return self._learner.backlog() > 0

    @property
    def progress(self) -> Progress:
        """How far the learner is, what it has not recorded yet included."""
        return self._succession.progress

    def state_hash(self) -> str:
        """SHA-256 of everything that decides what happens next: equal for equal events in equal steps, whatever
        crashed."""
        return state_hash(self._succession.checkpoint(0))

    # The parts -------------------------------------------------------------------------------------------------------

    def _decide(self, taken: Taken, ahead: int = 0) -> tuple[Step, Block | None]:
        """The journal's entry for a step and the block that it publishes, ``ahead`` entries being decided and not
        recorded yet."""
        return self._succession.decide(taken, lambda ended: self._stamp(ahead, due=ended or self._restarts.is_due))

    def _record_pending(self) -> None:
        """What was taken, and nothing was learned from, stands before what follows."""
        taken = self._learner.flush()
        if taken is not None:
            entry, _ = self._decide(taken)
            self._rooms.journal.append(entry)
            self._tell(*self._succession.enter(entry))

    def _stamp(self, ahead: int = 0, *, due: bool) -> Stamp:
        changed = self._environment and self._environment != self._succession.account.environment
        return Stamp(
            number=self._rooms.journal.last + 1 + ahead,
            time=self._clocks.now(),
            cpu_s=self._restarts.spent_cpu_s(),
            checkpoint_due=due,
            sealed=self._restarts.seal(),
            environment=self._environment if changed else "",
        )

    def _expose(self, block: Block | None, progress: Progress) -> None:
        """Let servers answer with this block, if there is a new one, and a share of the traffic with what is tried out
        beside it."""
        if block is None:
            self._rooms.live.report(progress)
        else:
            self._rooms.live.publish(block, progress)
        canary = self._succession.canary
        if self._shown != (canary.version, canary.share):
            self._rooms.live.try_out(canary.block, canary.share)
            self._shown = canary.version, canary.share

    def _tell(self, receipts: list[Receipt], facts: list[Fact]) -> None:
        self._rooms.receipts.write(receipts, facts)
        if self._rooms.witness is not None:
            self._rooms.witness.published(receipts, facts)

    def _repeat_recorded(self) -> tuple[int, bool]:
        """Do all recorded steps behind the checkpoint again: the events that they took, and whether a checkpoint was
        due behind one of them."""
        replayed, owed = 0, False
        for entry in self._rooms.journal.entries(after=self._restarts.step):
            self._repeat(entry)
            replayed += entry.taken
            owed = owed or entry.checkpoint_due
        return replayed, owed

    def _repeat(self, recorded: Step) -> None:
        """Do a recorded step again, all but what others can see."""
        repeated, _ = repeat(self._succession, recorded, self._rooms.journal)
        demand_same(recorded, repeated)
        self._restarts.repeated(recorded)
        self._rooms.receipts.write(*self._succession.enter(recorded))
