"""The shadow: a candidate with a new base, or with new settings, learns beside what is served, and on evidence alone it
answers a share of the traffic (`gate.canary`) and is promoted, or is given up.

docs/design/gate.md tells why, and what the guarantees are.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.gate.canary import CanaryWatch
from penstock.gate.guards import AnswersWatch, inputs_fault, inputs_guard
from penstock.gate.interface import Interval, Opinions, ShadowVerdict
from penstock.gate.sequential import GainProcess, signed
from penstock.learn.inputs import Departed
from penstock.learn.interface import HeldOut
from penstock.learn.measured import Guard
from penstock.learn.steps import CanaryCounts
from penstock.spec import Gate as GateSettings

Array = NDArray[np.float64]

MARGIN = 0.02
"""Loss an event by which a shadow may seem worse on the live stream and still be promoted, if it has won elsewhere:
"not worse at all" cannot be shown in finite time."""


class ShadowWatch:
    """What is known of the shadow, against what is served, on live events; and what held-out old events say of it."""

    def __init__(self, settings: GateSettings) -> None:
        self._alpha = settings.alpha
        self._forgetting_max = settings.forgetting_max
        self._events_max = settings.shadow_events_max
        self._claim: HeldOut | None = None
        self._labelled = 0
        """Labelled events since it began, those included on which it was not compared."""
        self._better = GainProcess()
        self._worse = GainProcess()
        self._not_worse = GainProcess()
        self._canary = CanaryWatch(settings)
        self._answers = AnswersWatch(settings.calibration_max, collapse=settings.collapse == "refuse")
        self._drift_max = settings.drift_max
        self._departed: Departed | None = None
        """How far the inputs were from what its base was trained on, at the last look."""

    @property
    def is_on(self) -> bool:
        """Whether there is a shadow."""
        return self._claim is not None

    def begin(self, claim: HeldOut) -> ShadowVerdict | None:
        """A new shadow, by what held-out events say: a verdict where it is refused at once, and None where it may
        begin."""
        self.end()
        self._claim = claim
        if claim.forgotten > self._forgetting_max:
            of = f"class {claim.forgotten_class!r}" if claim.forgotten_class else "the held-out old events"
            told = f"it lost {claim.forgotten:.4f} on {of} (at most {self._forgetting_max:g})"
            refused = self._given_up(f"{told}, of {claim.events} held-out old events")
            self.end()
            return msgspec.structs.replace(refused, guards=(self._forgetting(claim),))
        return None

    def end(self) -> None:
        """There is no shadow any more."""
        self._claim = None
        self._labelled = 0
        self._better, self._worse, self._not_worse = GainProcess(), GainProcess(), GainProcess()
        self._canary.end()
        self._answers.begin()
        self._departed = None

    def look(self, departed: Departed) -> None:
        """How far the inputs are from what its base was trained on."""
        self._departed = departed

    def take(
        self,
        served: Array,
        shadow: Array,
        own: NDArray[np.bool_] | None = None,
        opinions: Opinions | None = None,
    ) -> None:
        """(n,) losses in [0, 1] of what is served and of the shadow on events that neither has learned, which of them
        belong to the share that it answers, and what both answered."""
        gain = served - shadow
        self._better.take(gain)
        self._worse.take(-gain)
        self._not_worse.take((gain + MARGIN) / (1.0 + MARGIN))
        if own is not None:
            self._canary.take(served[own], shadow[own])
        if opinions is not None:
            self._answers.take(opinions.labels, opinions.served, opinions.shadow)

    def hear(self, counts: CanaryCounts) -> ShadowVerdict | None:
        """What servers have counted of its answers, and its end where they cannot live with it. Its share becomes wider
        with a step alone."""
        if not self._canary.is_on:
            return None
        self._canary.hear(counts)
        return self._judge_canary(0, may_widen=False)

    @property
    def is_answering(self) -> bool:
        """Whether it answers a share of the traffic."""
        return self._canary.is_on

    def judge(self, labelled: int, *, fault: str, may_promote: bool) -> ShadowVerdict | None:
        """What becomes of it after ``labelled`` more labelled events; None where it stays as it is."""
        assert self._claim is not None, "there is no shadow"
        self._labelled += labelled
        enough = 1.0 / self._alpha
        if fault:
            return self._given_up(fault)
        if self._worse.value >= enough:
            return self._given_up(
                f"evidence {self._worse.value:.3g} to 1 that it is worse than what is served ({self._told})"
            )
        if self._canary.is_on:
            # It is known to be better; what is open is what comes of its being served.
            return self._judge_canary(labelled, may_widen=may_promote)
        if may_promote and self._better.value >= enough:
            return self._proved(
                f"evidence {self._better.value:.3g} to 1 that it is better than what was served ({self._told})"
            )
        if may_promote and self._not_worse.value >= enough and self._worse.value < 1.0 and self._has_won_elsewhere:
            claim = self._claim
            chance = chance_of_luck(claim.gained, claim.lost)
            return self._proved(
                f"of {claim.events} held-out old events it answers {claim.gained} better and {claim.lost} worse, which "
                f"luck would give with a chance of {chance:.2g}, and it is not worse by {MARGIN:g} than what was "
                f"served, with evidence {self._not_worse.value:.3g} to 1 ({self._told})"
            )
        if self._labelled >= self._events_max:
            return self._given_up(
                f"after {self._labelled} events there is evidence of {self._better.value:.3g} to 1 that it is better, "
                f"and {enough:g} is asked for ({self._told})"
            )
        return None

    @property
    def so_far(self) -> ShadowVerdict:
        """The numbers as they are, with an empty reason."""
        return msgspec.structs.replace(self._numbers("give_up", ""), share=self._canary.share)

    @property
    def guards(self) -> tuple[Guard, ...]:
        """What its guards have measured until now."""
        forgetting = None if self._claim is None else self._forgetting(self._claim)
        found = (*self._answers.guards, inputs_guard(self._departed, self._drift_max), forgetting, self._canary.guard)
        return tuple(guard for guard in found if guard is not None)

    @property
    def gain(self) -> Interval:
        """Loss of what is served minus loss of the shadow; each bound holds with 1 - alpha, and says the same as the
        evidence on its side."""
        better = self._better
        low, high = better.least(self._alpha), -self._worse.least(self._alpha)
        return Interval(mean=better.mean, low=low, high=high, events=better.events)

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {
            "claim": None if self._claim is None else _plain(self._claim),
            "labelled": self._labelled,
            "better": self._better.save(),
            "worse": self._worse.save(),
            "not_worse": self._not_worse.save(),
            "canary": self._canary.save(),
            "answers": self._answers.save(),
            "departed": None if self._departed is None else msgspec.structs.asdict(self._departed),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._claim = None if state["claim"] is None else HeldOut(**state["claim"])
        self._labelled = state["labelled"]
        self._better.load(state["better"])
        self._worse.load(state["worse"])
        self._not_worse.load(state["not_worse"])
        if "canary" in state:
            # A state of before there were any has none.
            self._canary.load(state["canary"])
            self._answers.load(state["answers"])
        departed = state.get("departed")
        self._departed = None if departed is None else Departed(**departed)

    @property
    def _has_won_elsewhere(self) -> bool:
        return self._claim is not None and chance_of_luck(self._claim.gained, self._claim.lost) <= self._alpha

    @property
    def _told(self) -> str:
        return signed(self.gain)

    @property
    def _new(self) -> str:
        """What it brings, in words."""
        assert self._claim is not None, "there is no shadow"
        return self._claim.of

    def _proved(self, told: str) -> ShadowVerdict:
        """It is better: its first share of the traffic, or all, unless a guard trips."""
        if fault := self._guards_fault():
            return self._given_up(f"{fault}; and {told}")
        if not self._canary.is_wanted:
            return self._verdict("promote", f"The {self._new} is promoted: {told}.")
        self._canary.begin()
        return self._verdict("widen", f"The {self._new} answers {self._canary.share:.4g} of the traffic: {told}.")

    def _judge_canary(self, labelled: int, *, may_widen: bool) -> ShadowVerdict | None:
        move = self._canary.judge(labelled, may_widen=may_widen)
        if move is None:
            return None
        if move.to != "nothing" and (fault := self._guards_fault()):
            return self._given_up(f"{fault}; and {move.reason}")
        match move.to:
            case "nothing":
                return self._given_up(move.reason)
            case "widen":
                return self._verdict(
                    "widen", f"The {self._new} answers {self._canary.share:.4g} of the traffic: {move.reason}."
                )
            case "everywhere":
                return self._verdict("promote", f"The {self._new} is promoted: {move.reason}.")

    def _guards_fault(self) -> str:
        return self._answers.fault() or inputs_fault(self._departed, self._drift_max)

    def _given_up(self, reason: str) -> ShadowVerdict:
        return self._verdict("give_up", f"The {self._new} is given up: {reason}.")

    def _forgetting(self, claim: HeldOut) -> Guard:
        return Guard(
            name="forgetting",
            value=claim.forgotten,
            most=self._forgetting_max,
            of=claim.forgotten_class,
            events=claim.events,
            beyond=claim.forgotten > self._forgetting_max,
        )

    def _verdict(self, action: Any, reason: str) -> ShadowVerdict:
        return msgspec.structs.replace(self._numbers(action, reason), guards=self.guards)

    def _numbers(self, action: Any, reason: str) -> ShadowVerdict:
        return ShadowVerdict(
            action=action,
            reason=reason,
            gain=self.gain,
            evidence=self._better.value,
            events=self._labelled,
            share=self._canary.share if action == "widen" else 0.0,
            own=self._canary.gain if self._canary.is_on else None,
            own_evidence=self._canary.evidence if self._canary.is_on else 0.0,
        )


def _plain(claim: HeldOut) -> dict[str, Any]:
    """As it is saved: of a new base it says no more than it did before there were other candidates, so that states of
    then keep their hash."""
    values = msgspec.structs.asdict(claim)
    return values if claim.of != "new base" else {name: value for name, value in values.items() if name != "of"}


def chance_of_luck(gained: int, lost: int) -> float:
    """The chance that of ``gained + lost`` fair coins at least ``gained`` fall on the winner's side: the one-sided sign
    test of two answers to the same events (McNemar 1947, exact)."""
    n = gained + lost
    if gained <= lost:
        return 1.0
    # The terms from the largest down, each from the one before; the sum of all of them is 2^n.
    log_term = math.lgamma(n + 1) - math.lgamma(gained + 1) - math.lgamma(lost + 1) - n * math.log(2.0)
    term = total = 1.0
    for won in range(gained, n):
        term *= (n - won) / (won + 1)
        total += term
    return min(1.0, math.exp(log_term + math.log(total)))
