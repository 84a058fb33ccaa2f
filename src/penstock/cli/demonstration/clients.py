"""The demo's clients: threads that send the two streams, ask for predictions, and misbehave on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.cli.demonstration.board import DIGITS, FLOW, Board
from penstock.cli.demonstration.naive import NaiveSoftmax
from penstock.cli.demonstration.streams import PHASES, Digit, FlowHour
from penstock.cli.demonstration.wire import Answer, NotAnswered, Wire
from penstock.errors import PenstockError

SCANNER = "scanner-1"
"""The client that sends digits with their right labels."""
BAD_SCANNER = "scanner-9"
"""The client that sends wrong labels."""
TICK_S = 1 / 30
"""Between two requests of a paced client; the events that are due by then travel together."""
REQUEST_MAX = 64
"""Events of one request at most, should a client have fallen behind."""
ASK_EACH = 40
"""Held-out digits of one request: all 360 within about a second."""
ASK_EVERY_S = 0.1
BASE_WAIT_S = 60.0
"""How long the last classes wait for a base at most: one that takes longer is a promise broken."""


class Client(threading.Thread):
    """A thread whose failure is told, never swallowed: the demo ends with its reason."""

    def __init__(self, name: str, wire: Wire, board: Board) -> None:
        super().__init__(name=name, daemon=True)
        self.wire = wire
        self.board = board
        self.done = False
        """Whether it did all of its work."""

    def run(self) -> None:
        try:
            self.work()
        except (PenstockError, msgspec.MsgspecError, KeyError, ValueError) as error:
            self.board.tally.fault(f"{self.name} broke off: {type(error).__name__}: {error}")

    def work(self) -> None:
        """What this client does until it is done or the board says stop."""
        raise TypeError(f"{type(self).__name__} has no work")

    def is_held(self, sent: int) -> bool:
        """Whether it waits for something before it sends the next event."""
        return False

    def ask(self, instances: Sequence[dict[str, object]]) -> Answer | None:
        """Ask once; a failure is counted, and not tried again."""
        freshness = self.board.freshness[self.wire.service]
        newest = freshness.newest()
        try:
            answer = self.wire.predict(instances)
        except NotAnswered as error:
            self.board.tally.failed(len(instances), str(error))
            return None
        self.board.tally.served(len(answer.predictions))
        freshness.predicted(answer, newest)
        return answer

    def paced(self, count: int, seconds: float) -> Iterator[slice]:
        """The events that are due, tick by tick, so that they take this long in all, and longer by what it is held."""
        began, sent = time.monotonic(), 0
        while sent < count and not self.board.stop.is_set():
            if self.is_held(sent):
                self.board.stop.wait(TICK_S)
                began = time.monotonic() - sent * seconds / count
                continue
            due = min(int((time.monotonic() - began) / seconds * count) + 1, count, sent + REQUEST_MAX)
            if due > sent:
                yield slice(sent, due)
                sent = due
                self.done = sent == count
            next_at = began + max(sent * seconds / count, (time.monotonic() - began) // TICK_S * TICK_S + TICK_S)
            self.board.stop.wait(max(min(next_at - time.monotonic(), 1.0), 0.0))


class DigitSender(Client):
    """Sends the digits class by class, and gives each to the naive learner as well once it is acknowledged."""

    def __init__(self, wire: Wire, board: Board, events: Sequence[Digit], naive: LockedNaive, seconds: float) -> None:
        super().__init__("the client of the digits", wire, board)
        self.events, self.naive, self.seconds = events, naive, seconds
        self._deadline: float | None = None

    def is_held(self, sent: int) -> bool:
        """The last classes wait for the base, which learns in shadow while they arrive: how long its training takes
        is the machine's affair."""
        board = self.board
        if board.has_trained.is_set() or self.events[sent].phase < len(PHASES) - 1:
            return False
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + BASE_WAIT_S
            board.tell("the last digits wait until a base is trained")
        return now < self._deadline

    def work(self) -> None:
        board = self.board
        arriving = -1
        for due in self.paced(len(self.events), self.seconds):
            digits = self.events[due]
            if digits[-1].phase != arriving:
                arriving = digits[-1].phase
                first, second = PHASES[arriving]
                board.tell(f"digits {first} and {second} begin to arrive")
            ack = self.wire.examples([as_event(digit) for digit in digits], SCANNER)
            board.freshness[DIGITS].acknowledged(ack)
            board.tally.acknowledge(DIGITS, ack.accepted)
            board.digits_sent = due.stop
            board.phase = digits[-1].phase
            self.naive.learn(digits)


class LockedNaive:
    """The naive learner between the thread that teaches it and the one that asks it."""

    def __init__(self, learner: NaiveSoftmax) -> None:
        self._learner = learner
        self._lock = threading.Lock()

    def learn(self, digits: Sequence[Digit]) -> None:
        with self._lock:
            for digit in digits:
                self._learner.learn(digit.pixels, digit.label)

    def predict(self, pixels: NDArray[np.float32]) -> NDArray[np.intp]:
        with self._lock:
            return self._learner.predict(pixels)


class WrongLabeller(Client):
    """Sends a burst of digits with wrong labels, under its own source."""

    def __init__(self, wire: Wire, board: Board, events: Sequence[Digit], seconds: float) -> None:
        super().__init__("the client with wrong labels", wire, board)
        self.events, self.seconds = events, seconds
        self.sent = 0

    def work(self) -> None:
        for due in self.paced(len(self.events), self.seconds):
            ack = self.wire.examples([as_event(digit) for digit in self.events[due]], BAD_SCANNER)
            self.board.freshness[DIGITS].acknowledged(ack)
            self.board.tally.acknowledge(DIGITS, ack.accepted)
            self.sent = due.stop


class HeldOutAsker(Client):
    """Keeps asking about held-out digits of all classes seen so far."""

    def __init__(self, wire: Wire, board: Board, naive: LockedNaive) -> None:
        super().__init__("the client that asks about digits", wire, board)
        self.naive = naive

    def work(self) -> None:
        at = 0
        while not self.board.stop.is_set():
            if self.board.digits_sent:
                seen = self.board.held_out.seen(self.board.phase)
                self.ask_about(np.take(seen, range(at, at + ASK_EACH), mode="wrap"))
                at = (at + ASK_EACH) % len(seen)
            self.board.stop.wait(ASK_EVERY_S)

    def ask_about(self, places: NDArray[np.intp]) -> bool:
        """Ask both learners about these held-out digits; whether ours answered."""
        held_out = self.board.held_out
        pixels = held_out.pixels[places]
        self.board.naive.answered(places, self.naive.predict(pixels))
        answer = self.ask([{"pixels": row} for row in pixels.tolist()])
        if answer is None:
            return False
        self.board.ours.answered(places, np.array([int(p["label"]) for p in answer.predictions]))
        return True

    def ask_about_all(self) -> bool:
        """Every held-out digit once more, by whichever version is served now; whether all were answered."""
        places = np.arange(len(self.board.held_out.labels))
        answered = [self.ask_about(some) for some in np.array_split(places, -(-len(places) // ASK_EACH))]
        return all(answered)


class FlowClient(Client):
    """Asks for the next hour's flow, then sends what it was as feedback to that prediction."""

    def __init__(self, wire: Wire, board: Board, hours: Sequence[FlowHour], seconds: float) -> None:
        super().__init__("the client of the flow", wire, board)
        self.hours, self.seconds = hours, seconds

    def work(self) -> None:
        board = self.board
        for due in self.paced(len(self.hours), self.seconds):
            for hour in self.hours[due]:
                answer = self.ask([dict(hour.features)])
                if answer is None:
                    continue
                prediction = answer.predictions[0]
                board.flow.predicted.append(hour.last + float(prediction["mean"]))
                board.flow.last.append(hour.last)
                board.flow.actual.append(hour.actual)
                ack = self.wire.feedback(prediction["id"], hour.change)
                board.freshness[FLOW].acknowledged(ack)
                board.tally.acknowledge(FLOW, ack.accepted)


class Prober(Client):
    """Asks again and again while an acknowledged event has not been seen in a prediction: this times freshness."""

    def __init__(self, wire: Wire, board: Board, instance: dict[str, object]) -> None:
        super().__init__(f"the prober of {wire.service}", wire, board)
        self.instance = instance

    def work(self) -> None:
        freshness = self.board.freshness[self.wire.service]
        while not self.board.stop.is_set():
            if freshness.wait(0.2) is None:
                continue
            self.ask([self.instance])
            oldest = freshness.oldest_at()
            if oldest is not None:
                # A twentieth of the age: a delay is known to 5 per cent, and a long one costs few questions.
                self.board.stop.wait(min(max((time.monotonic() - oldest) / 20, 0.001), 0.05))


def as_event(digit: Digit) -> dict[str, object]:
    return {"id": digit.id, "features": {"pixels": digit.pixels.tolist()}, "label": str(digit.label)}
