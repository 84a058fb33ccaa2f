"""The demo's course: two streams at once, a burst of wrong labels in the middle, a killed learner, and the figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from penstock.cli.demonstration.board import DIGITS, FLOW, SERVICES, Board
from penstock.cli.demonstration.clients import (
    BAD_SCANNER,
    Client,
    DigitSender,
    FlowClient,
    HeldOutAsker,
    LockedNaive,
    Prober,
    WrongLabeller,
)
from penstock.cli.demonstration.freshness import percentile
from penstock.cli.demonstration.house import House
from penstock.cli.demonstration.naive import NaiveSoftmax
from penstock.cli.demonstration.streams import PHASES, PIXELS, digit_stream, flow_stream
from penstock.cli.demonstration.summary import (
    FIRST_CLASSES,
    BaseFigures,
    BurstFigures,
    Delays,
    DigitsFigures,
    Figures,
    FlowFigures,
    RestartFigures,
    Services,
    broken_promises,
    what_the_gate_did,
)
from penstock.cli.demonstration.wire import Wire
from penstock.errors import Refused, Unreachable
from penstock.facts import Consolidated, GivenUp, Promoted, RolledBack, TakenOut

WRONG = 240
BURST_AT, BURST_SHARE = 0.48, 0.03
"""When the burst begins and how long it takes, as shares of the digits sent: amid the middle phase, from 1/3 to 2/3,
when what is known to be good knows its classes, with time to judge it before others arrive."""
KILL_AT, KILL_LATEST = 0.70, 0.78
"""The learner is killed in the phase after, once the burst's account is closed; at the latest, whether it is or not."""
LOOK_EVERY_S = 0.1
STATUS_EVERY_S = 0.4
SETTLE_SHARE = 0.07
"""Share of the digits' time after the gate has done with the burst until its account is closed: what was learned of
wrong labels behind the rollback fades only with the events that follow."""
CATCH_UP_S = 60.0
"""How long the end waits until everything acknowledged has been learned and seen in a prediction."""


@dataclass(slots=True)
class Burst:
    """The account of the wrong labels while they are dealt with."""

    client: WrongLabeller
    began: float
    """Seconds of the monotonic clock."""
    began_wall: float
    """Seconds since 1970."""
    classes: tuple[int, ...]
    held: int
    rolled_back: int
    set_aside: int
    accuracy_before: float | None
    accuracy_lowest: float | None
    quiet_since: float | None = None
    ended: float | None = None
    accuracy_after: float | None = None
    verdicts: list[str] = field(default_factory=list)


class Demonstration:
    """One run; ``look`` is called about ten times a second with the board, to show it."""

    def __init__(self, house: House, *, seconds: float, seed: int, look: Callable[[Board], None]) -> None:
        self.house = house
        self._seconds = seconds
        self._look = look
        self._stream = digit_stream(seed=seed, wrong=WRONG)
        self._hours = flow_stream()
        self.board = Board(self._stream.held_out, self._stream.phases(), len(self._hours), seconds)
        self._wires: dict[str, Wire] = {}
        self._clients: list[Client] = []
        self._burst: Burst | None = None
        self._consolidations_told = 0
        self._kills: list[tuple[str, int, float]] = []
        self._told_recovery = False
        self._complete = False
        self._status_at = 0.0
        self._unseen = 0

    def run(self) -> None:
        """Everything from the first event to the last figure. The house must be up."""
        board, stream = self.board, self._stream
        board.address = self.house.address
        wires = self._wires = {service: Wire(self.house.address, service) for service in SERVICES}
        naive = LockedNaive(NaiveSoftmax(PIXELS, 10))
        asker = HeldOutAsker(wires[DIGITS], board, naive)
        digits = DigitSender(wires[DIGITS], board, stream.events, naive, self._seconds)
        flow = FlowClient(wires[FLOW], board, self._hours, self._seconds)
        empty: dict[str, object] = {"pixels": [0] * PIXELS}
        probers = [Prober(wires[DIGITS], board, empty), Prober(wires[FLOW], board, dict(self._hours[0].features))]
        senders: list[Client] = [digits, flow]
        board.begin()
        self._clients = [*senders, asker, *probers]
        for client in self._clients:
            client.start()
        # 1. Both streams flow; what is done to them is due by how far the digits are, not by the clock.
        while any(client.is_alive() for client in senders) and not board.tally.faults:
            self._course()
            self._watch()
        # 2. Whatever was acknowledged must be learned, and be seen in a prediction.
        board.now = "the streams have ended; waiting until everything is learned"
        deadline = time.monotonic() + CATCH_UP_S
        while not self._caught_up() and time.monotonic() < deadline and not board.tally.faults:
            self._watch()
        self._unseen = sum(board.freshness[service].unseen() for service in SERVICES)
        # 3. The last questions are asked when nothing else is going on.
        self.quiet()
        board.now = "asking about every held-out digit once more"
        self._look(board)
        asker.ask_about_all()
        self._read_status()
        self._complete = digits.done and flow.done and not board.tally.faults

    def quiet(self) -> None:
        """Tell every client to end, and wait for them."""
        self.board.stop.set()
        for freshness in self.board.freshness.values():
            freshness.close()
        for client in self._clients:
            client.join(20)

    def figures(self) -> Figures:
        """As measured until now; what was not measured is None."""
        board, tally = self.board, self.board.tally
        self._read_status()
        held = sum(board.count(service, "model", "held") for service in SERVICES)
        back = sum(board.count(service, "model", "rollbacks") for service in SERVICES)
        sent = {event.pixels.tobytes() for event in (*self._stream.events, *self._stream.wrong)}
        flow = board.flow
        figures = Figures(
            complete=self._complete,
            broken=[],
            seconds=round(board.elapsed_s(), 2),
            events_acknowledged=sum(tally.acknowledged.values()),
            events_accepted=sum(board.count(service, "events", "accepted") for service in SERVICES),
            events_learned=sum(board.count(service, "events", "learned") for service in SERVICES),
            events_set_aside=sum(board.count(service, "events", "set_aside") for service in SERVICES),
            predictions_served=tally.predictions_served,
            predictions_failed=tally.predictions_failed,
            learner_kills=len(self._kills),
            versions_published=sum(board.count(service, "model", "published") for service in SERVICES),
            versions_refused_or_rolled_back=held + back,
            freshness_ms=self._delays(),
            services=Services(
                digits=DigitsFigures(
                    accuracy_first_classes=board.ours.of(*FIRST_CLASSES),
                    naive_accuracy_first_classes=board.naive.of(*FIRST_CLASSES),
                    accuracy_all=board.ours.of(),
                    naive_accuracy_all=board.naive.of(),
                    held_out=len(board.held_out.labels),
                    held_out_sent=sum(row.tobytes() in sent for row in board.held_out.pixels),
                ),
                flow=FlowFigures(mae=flow.mae(), baseline_mae=flow.baseline_mae(), hours=len(flow.actual)),
            ),
            burst=self._burst_figures(),
            base=self._base_figures(),
            restarts=[
                RestartFigures(
                    service=service, killed_pid=pid, caught_up_ms=self.board.freshness[service].caught_up_ms()
                )
                for service, pid, _ in self._kills
            ],
        )
        broken = list(tally.faults)
        if self._complete:
            broken += broken_promises(figures, tally.failures, self._unseen)
        return msgspec.structs.replace(figures, broken=broken)

    # The course ------------------------------------------------------------------------------------------------------

    def _course(self) -> None:
        """Start what is due, and say what is going on."""
        board = self.board
        done = board.digits_sent / board.digits_total
        if self._burst is None and done >= BURST_AT:
            self._begin_burst()
        settled = self._burst is not None and self._burst.ended is not None
        if not self._kills and done >= (KILL_AT if settled else KILL_LATEST):
            self._kill()
        first, second = PHASES[board.phase]
        doing = [f"digits {first} and {second} arrive"]
        if self._burst is not None and self._burst.ended is None:
            doing.append("wrong labels from one client are being dealt with")
        if self._kills and not self._told_recovery:
            doing.append("the learner of digits is dead, predictions go on")
        board.now = "; ".join(doing)

    def _begin_burst(self) -> None:
        board = self.board
        self._read_status()
        classes = tuple(label for pair in PHASES[: board.phase] for label in pair)
        accuracy = board.ours.of(*classes)
        client = WrongLabeller(self._wires[DIGITS], board, self._stream.wrong, BURST_SHARE * self._seconds)
        self._burst = Burst(
            client=client,
            began=time.monotonic(),
            began_wall=time.time(),
            classes=classes,
            held=board.count(DIGITS, "model", "held"),
            rolled_back=board.count(DIGITS, "model", "rollbacks"),
            set_aside=board.count(DIGITS, "events", "set_aside"),
            accuracy_before=accuracy,
            accuracy_lowest=accuracy,
        )
        board.tell(f"{BAD_SCANNER} sends {len(self._stream.wrong)} digits with wrong labels", alarming=True)
        self._clients.append(client)
        client.start()

    def _follow_burst(self) -> None:
        """Keep the lowest accuracy, and close the account once the gate has been done with it for a while."""
        burst, board = self._burst, self.board
        if burst is None or burst.ended is not None:
            return
        accuracy = board.ours.of(*burst.classes)
        if accuracy is not None:
            before = burst.accuracy_lowest
            burst.accuracy_lowest = accuracy if before is None else min(accuracy, before)
        busy = burst.client.is_alive() or board.status.get(DIGITS, {}).get("model", {}).get("holding")
        now = time.monotonic()
        burst.quiet_since = None if busy else burst.quiet_since or now
        if burst.quiet_since is None or now < burst.quiet_since + SETTLE_SHARE * self._seconds:
            return
        self._close_burst(burst)

    def _close_burst(self, burst: Burst) -> None:
        burst.ended = time.monotonic()
        burst.accuracy_after = self.board.ours.of(*burst.classes)
        self._tell_verdicts(burst)
        figures = self._burst_figures()
        done = what_the_gate_did(figures)
        self.board.tell(f"over: the gate {done or 'let the wrong labels through'}", alarming=not done)

    def _tell_verdicts(self, burst: Burst) -> None:
        """What the gate has decided since it was looked at last, in its own words."""
        for fact in self.house.verdicts(DIGITS, burst.began_wall)[len(burst.verdicts) :]:
            burst.verdicts.append(fact.reason)
            if isinstance(fact, RolledBack):
                self.board.tell(f"the gate withdraws version {fact.withdrawn:,}, {fact.restored:,} is served again")
            elif isinstance(fact, TakenOut):
                self.board.tell(f"the gate sets {fact.source} aside; {fact.events:,} of its digits are unlearned")
            elif not fact.reason.startswith("Still"):
                self.board.tell(f"the gate holds: {fact.reason.partition(': ')[2] or fact.reason}")

    def _tell_consolidations(self) -> None:
        """What has become of bases since they were looked at last."""
        facts = self.house.consolidations(DIGITS)
        for fact in facts[self._consolidations_told :]:
            if isinstance(fact, Consolidated):
                self.board.has_trained.set()
                self.board.tell(
                    f"a base was trained on {fact.trained:,} events in {fact.seconds:.0f} s; it learns in shadow now"
                )
            elif isinstance(fact, Promoted):
                self.board.tell(f"the base is promoted as version {fact.version:,} after {fact.events:,} events")
            else:
                self.board.tell(f"the base is given up: {fact.reason.partition(': ')[2] or fact.reason}")
        self._consolidations_told = len(facts)

    def _kill(self) -> None:
        pid = self.house.kill_learner(DIGITS)
        now = time.monotonic()
        self.board.freshness[DIGITS].killed(now)
        self._kills.append((DIGITS, pid, now))
        self.board.tell(f"SIGKILL to the learner of digits (process {pid})", alarming=True)

    # What is seen ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """A tenth of a second: read the status, tell what has changed, show the board."""
        if time.monotonic() > self._status_at + STATUS_EVERY_S:
            self._read_status()
            self._tell_consolidations()
            if self._burst is not None and self._burst.ended is None:
                self._tell_verdicts(self._burst)
        self._follow_burst()
        recovered = self.board.freshness[DIGITS].caught_up_ms()
        if recovered is not None and not self._told_recovery:
            self._told_recovery = True
            self.board.tell(f"the learner of digits is back and has caught up, {recovered:,.0f} ms after the kill")
        if not self.house.running():
            self.board.tally.fault(f"the supervisor ended by itself: {self.house.output()}")
        self._look(self.board)
        time.sleep(LOOK_EVERY_S)

    def _read_status(self) -> None:
        self._status_at = time.monotonic()
        for service, wire in self._wires.items():
            try:
                self.board.status[service] = wire.status()
            except (Unreachable, Refused):
                continue  # the last frame stays; a server that is gone shows in the predictions that fail

    def _caught_up(self) -> bool:
        board = self.board
        return all(
            board.count(service, "events", "learned") + board.count(service, "events", "set_aside")
            == board.count(service, "events", "accepted")
            >= board.tally.acknowledged[service]
            and not board.freshness[service].unseen()
            for service in SERVICES
        ) and (self._burst is None or self._burst.ended is not None)

    def _delays(self) -> Delays:
        disturbed = [(at, self._recovered_at(service, at)) for service, _, at in self._kills]
        if self._burst is not None:
            disturbed.append((self._burst.began, self._burst.ended or float("inf")))
        every, calm = [], []
        for service in SERVICES:
            for at, delay in self.board.freshness[service].measured():
                every.append(delay)
                if not any(begin <= at + delay / 1000 and at <= end for begin, end in disturbed):
                    calm.append(delay)
        return Delays(
            p50=_rounded(percentile(every, 50)),
            p99=_rounded(percentile(every, 99)),
            p99_undisturbed=_rounded(percentile(calm, 99)),
            measured=len(every),
        )

    def _recovered_at(self, service: str, killed_at: float) -> float:
        caught_up_ms = self.board.freshness[service].caught_up_ms()
        return float("inf") if caught_up_ms is None else killed_at + caught_up_ms / 1000

    def _base_figures(self) -> BaseFigures:
        facts = self.house.consolidations(DIGITS)
        trained = {fact.number: fact for fact in facts if isinstance(fact, Consolidated)}
        promoted = [fact for fact in facts if isinstance(fact, Promoted)]
        given_up = [fact for fact in facts if isinstance(fact, GivenUp)]
        shown = trained.get(promoted[-1].number if promoted else max(trained, default=0))
        return BaseFigures(
            trained=len(trained),
            promoted=len(promoted),
            given_up=len(given_up),
            events=shown.trained if shown else 0,
            seconds=round(shown.seconds, 2) if shown else 0.0,
            shadow_events=promoted[-1].events if promoted else 0,
            reasons=[*(fact.reason for fact in promoted), *(fact.reason for fact in given_up)],
        )

    def _burst_figures(self) -> BurstFigures:
        burst = self._burst
        if burst is None:
            return BurstFigures(
                source=BAD_SCANNER,
                events=0,
                held=0,
                rolled_back=0,
                set_aside=0,
                accuracy_before=None,
                accuracy_lowest=None,
                accuracy_after=None,
                verdicts=[],
            )
        return BurstFigures(
            source=BAD_SCANNER,
            events=burst.client.sent,
            held=self.board.count(DIGITS, "model", "held") - burst.held,
            rolled_back=self.board.count(DIGITS, "model", "rollbacks") - burst.rolled_back,
            set_aside=self.board.count(DIGITS, "events", "set_aside") - burst.set_aside,
            accuracy_before=burst.accuracy_before,
            accuracy_lowest=burst.accuracy_lowest,
            accuracy_after=burst.accuracy_after,
            verdicts=burst.verdicts,
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
