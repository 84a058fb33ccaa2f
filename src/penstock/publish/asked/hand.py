"""What was ordered by hand so far: who holds updates back, and which orders were obeyed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.events import Version
from penstock.facts import OrderRefused
from penstock.learn.steps import HandStep, Step
from penstock.publish.asked.orders import Answer, Order
from penstock.publish.interface import Hold, Snapshots
from penstock.publish.line import Kept, Line

OBEYED_KEPT = 64
"""Orders whose answers are remembered: after a crash an order is found again that was obeyed just before."""
VERSIONS_TOLD = 20
WORDS = {
    "roll_back": "Rolled back by hand to version {version}",
    "promote": "The {of} is promoted by hand",
    "hold": "Updates are held back by hand",
    "resume": "The hold by hand is ended",
}


class _Obeyed(msgspec.Struct, frozen=True, array_like=True):
    id: str
    step: int
    answer: Answer


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    hold: Hold | None
    obeyed: list[_Obeyed]


class Earlier:
    """The versions that somebody can go back to."""

    def __init__(self, line: Line, snapshots: Snapshots | None) -> None:
        self.remembered: dict[Version, Kept] = {}
        """Those that whoever repeats steps has passed, and that a later one goes back to."""
        self._line = line
        self._snapshots = snapshots

    @property
    def good(self) -> Version | None:
        """The last known good one; None before there is one."""
        return self._line.good

    def versions(self, served: Version) -> list[Version]:
        """Ascending, without the one that is served."""
        found = set(self._line.versions()) | set(self.remembered)
        if self._snapshots is not None:
            found |= set(self._snapshots.versions(with_state=True))
        return sorted(found - {served})

    def find(self, version: Version | None) -> Kept:
        """This one of them as it was, or the last known good. Raises UnknownVersion, SnapshotDamaged."""
        wanted = version or self.good
        assert wanted is not None, "there is a good version, as was looked before"
        kept = self._line.kept(wanted) or self.remembered.get(wanted)
        if kept is None:
            assert self._snapshots is not None, "it is one of them, as was looked before"
            kept = Kept(self._snapshots.get(wanted), self._snapshots.state(wanted))
        return kept


class Hand:
    """Follows the entries that obey orders."""

    def __init__(self) -> None:
        self.hold: Hold | None = None
        """Who holds updates back; None while nobody does."""
        self._obeyed: list[_Obeyed] = []

    def refusal(
        self, order: Order, served: Version, earlier: Earlier, *, has_shadow: bool, apprentice_of: str = ""
    ) -> str:
        """Why this cannot be done; empty where it can."""
        hold = self.hold
        match order.what:
            case "hold" if hold is not None:
                return f"Updates are held back by hand already, by {hold.by}"
            case "resume" if hold is None:
                return "Nobody holds updates back by hand"
            case "promote" if not has_shadow and apprentice_of:
                return (
                    f"There is no shadow that could be promoted, and an apprentice (of {apprentice_of}) graduates on "
                    "evidence alone; it is none any more where gate.apprentice is taken out of the service file"
                )
            case "promote" if not has_shadow:
                return "There is no shadow that could be promoted"
            case "promote" if hold is not None:
                return f"Updates are held back by hand, by {hold.by}: resume before anything is promoted"
            case "roll_back":
                kept, version = earlier.versions(served), order.version
                if version is None and earlier.good is None:
                    return f"No version has earned to be the last known good yet; kept are {told_versions(kept)}"
                if version == served:
                    return f"Version {version} is what is served"
                if version is not None and version not in kept:
                    return f"Version {version} is not kept; kept are {told_versions(kept)}"
        return ""

    def enter(self, entry: Step) -> None:
        """An order was obeyed by this entry."""
        hand = entry.hand
        assert hand is not None, "the entry obeys nobody"
        if hand.what == "hold":
            self.hold = Hold(by=hand.by, reason=hand.reason, since=entry.time)
        elif hand.what == "resume":
            self.hold = None
        answer = Answer(done=True, told=entry.verdict, version=entry.version, restored=entry.restored)
        self._obeyed = [*self._obeyed, _Obeyed(hand.id, entry.number, answer)][-OBEYED_KEPT:]

    def answer_to(self, order_id: str) -> Answer | None:
        """What came of an order that was obeyed; None where it was not yet."""
        return next((obeyed.answer for obeyed in self._obeyed if obeyed.id == order_id), None)

    def gone_back_to(self, after: int) -> set[Version]:
        """Versions that were gone back to by entries behind this one: whoever repeats these needs them."""
        answers = [obeyed.answer for obeyed in self._obeyed if obeyed.step > after]
        return {answer.restored for answer in answers if answer.restored is not None}

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack; none before the first order."""
        if not self._obeyed:
            return {}
        plain: dict[str, Any] = msgspec.to_builtins(_Saved(hold=self.hold, obeyed=self._obeyed))
        return plain

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        saved = msgspec.convert(state, _Saved) if state else _Saved(hold=None, obeyed=[])
        self.hold, self._obeyed = saved.hold, saved.obeyed


def words_for(order: Order, version: Version | None, of: str = "new base") -> str:
    """What was done, by whom and why, in one sentence; ``of`` is what a shadow brings."""
    done = WORDS[order.what].format(version=version, of=of)
    return f"{done} by {order.by}{': ' * bool(order.reason)}{order.reason.rstrip('.')}."


def refused(order: Order, said: Answer, service: str, at: float) -> OrderRefused:
    """What is told of an order that could not be obeyed."""
    return OrderRefused(
        at=at, service=service, what=order.what, by=order.by, why=order.reason, told=said.told, version=said.version
    )


def taken_down(id_: str, order: Order, kept: Kept | None) -> HandStep:
    """What an entry says of the order that it obeys, ``kept`` being the version that it goes back to."""
    position = () if kept is None else tuple(sorted(kept.block.head.position.items()))
    return HandStep(what=order.what, by=order.by, reason=order.reason, id=id_, version=order.version, position=position)


def again(hand: HandStep) -> Order:
    """The order that was obeyed."""
    return Order(what=hand.what, by=hand.by, reason=hand.reason, version=hand.version)


def told_versions(versions: Sequence[Version]) -> str:
    """The newest of them, for people."""
    told = ", ".join(str(version) for version in versions[-VERSIONS_TOLD:])
    return f"... {told}" if len(versions) > VERSIONS_TOLD else told or "none"
