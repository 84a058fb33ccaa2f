"""The canary: what has shown a gain in shadow answers a share of the traffic, which widens by evidence or ends.

docs/design/gate.md tells why, and what the guarantees are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.gate.interface import Interval
from penstock.gate.sequential import EXPONENT_MAX, GainProcess, signed
from penstock.learn.measured import Guard
from penstock.learn.steps import CanaryCounts
from penstock.spec import Gate as GateSettings

Array = NDArray[np.float64]

MARGIN = 0.05
"""Loss an event by which the newcomer may seem worse on its own share, and the share is widened: that it gains was
shown in shadow, and here it is looked for what being served changes. "Not worse at all" would take for ever."""
ANSWERS_MIN = 32
"""Answers of the newcomer at a stage without which nobody knows whether servers can live with it."""
SLOW_MOST = 0.5
"""Share of the comparisons in which the newcomer may be slow."""
SLOW_RATES = (0.6, 0.75, 0.9, 0.99)
"""Shares of slow answers that are betted on, against one half."""


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of the share, and why."""

    to: Literal["widen", "everywhere", "nothing"]
    reason: str


class CanaryWatch:
    """What is known of a newcomer that answers a share of the traffic."""

    def __init__(self, settings: GateSettings) -> None:
        self._stages = settings.canary
        self._alpha = settings.alpha
        self._events_max = settings.shadow_events_max
        self._share = 0.0
        self._labelled = 0
        """Labelled events of the whole stream since it began."""
        self._better, self._worse = GainProcess(), GainProcess()
        """On its own share, since it began."""
        self._not_worse = GainProcess()
        """On its own share, at this stage."""
        self._counts = CanaryCounts()
        self._before = CanaryCounts()
        """What servers had counted when the stage began."""

    @property
    def is_wanted(self) -> bool:
        """Whether there is any stage between the shadow and everywhere."""
        return bool(self._stages)

    @property
    def is_on(self) -> bool:
        """Whether there is one."""
        return self._share > 0.0

    @property
    def share(self) -> float:
        """What it answers; 0 while there is none."""
        return self._share

    def begin(self) -> None:
        """It answers the first stage's share from here on."""
        self.end()
        self._share = self._stages[0]

    def end(self) -> None:
        """It answers nothing any more."""
        self._share, self._labelled = 0.0, 0
        self._better, self._worse, self._not_worse = GainProcess(), GainProcess(), GainProcess()
        self._counts = self._before = CanaryCounts()

    def take(self, served: Array, newcomer: Array) -> None:
        """(n,) losses in [0, 1] of what is served and of the newcomer, on events of its own share."""
        gain = served - newcomer
        self._better.take(gain)
        self._worse.take(-gain)
        self._not_worse.take((gain + MARGIN) / (1.0 + MARGIN))

    def hear(self, counts: CanaryCounts) -> None:
        """What servers have counted since it began."""
        self._counts = counts

    def judge(self, labelled: int, *, may_widen: bool) -> Move | None:
        """What becomes of its share after ``labelled`` more labelled events; None where it stays."""
        assert self.is_on, "there is no canary"
        self._labelled += labelled
        enough = 1.0 / self._alpha
        if fault := self._fault():
            return Move("nothing", f"{fault}, at {self.share:.4g} of the traffic")
        if self._worse.value >= enough:
            told = f"evidence {self._worse.value:.3g} to 1 that it is worse than what is served"
            return Move("nothing", f"{told} where it answers, {self.share:.4g} of the traffic ({self._told})")
        # Half of the evidence that would end it, counted in nats, is waited for until it has gone or harm is shown.
        calm = self._worse.value < self._alpha**-0.5
        if may_widen and calm and self._not_worse.value >= enough and self._is_answering:
            return self._widened()
        if self._labelled >= self._events_max:
            told = f"after {self._labelled} events its share of {self.share:.4g} does not show that it is not worse"
            return Move("nothing", f"{told} by {MARGIN:g}, with evidence {self._not_worse.value:.3g} to 1")
        return None

    @property
    def evidence(self) -> float:
        """That it is not worse by the margin on its own share at this stage, to 1."""
        return self._not_worse.value

    @property
    def gain(self) -> Interval:
        """Loss of what is served minus that of the newcomer on its own share, since it began."""
        better = self._better
        low, high = better.least(self._alpha), -self._worse.least(self._alpha)
        return Interval(mean=better.mean, low=low, high=high, events=better.events)

    @property
    def counts(self) -> CanaryCounts:
        """What servers have counted since it began."""
        return self._counts

    @property
    def guard(self) -> Guard | None:
        """How slow its answers are, in numbers; None where nobody has compared."""
        slow, timed = self._counts.slow, self._counts.timed
        if not timed:
            return None
        evidence, wanted = slowness(slow, timed), 1.0 / self._alpha
        return Guard(
            name="latency",
            value=slow / timed,
            most=SLOW_MOST,
            evidence=evidence,
            wanted=wanted,
            events=timed,
            beyond=evidence >= wanted,
        )

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {
            "share": self._share,
            "labelled": self._labelled,
            "better": self._better.save(),
            "worse": self._worse.save(),
            "not_worse": self._not_worse.save(),
            "counts": list(msgspec.structs.astuple(self._counts)),
            "before": list(msgspec.structs.astuple(self._before)),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._share, self._labelled = state["share"], state["labelled"]
        self._better.load(state["better"])
        self._worse.load(state["worse"])
        self._not_worse.load(state["not_worse"])
        self._counts, self._before = CanaryCounts(*state["counts"]), CanaryCounts(*state["before"])

    @property
    def _is_answering(self) -> bool:
        """Whether servers have said that they hand out the share, and answered enough with it, if anybody asks."""
        here, before = self._counts, self._before
        if here.share < self.share:
            return False
        return here.asked == before.asked or here.answered - before.answered >= ANSWERS_MIN

    def _fault(self) -> str:
        counts = self._counts
        if counts.failed:
            return f"servers could not answer with it, {counts.failed} times ({counts.failure or 'no reason is known'})"
        if counts.not_finite:
            return f"{counts.not_finite} of its answers were not finite"
        evidence = slowness(counts.slow, counts.timed)
        if evidence >= 1.0 / self._alpha:
            told = f"it was too slow in {counts.slow} of {counts.timed} comparisons on the same rows"
            return f"{told} (evidence {evidence:.3g} to 1)"
        return ""

    def _widened(self) -> Move:
        before, evidence = self.share, self._not_worse.value
        told = f"where it answered, {before:.4g} of the traffic, it is not worse by {MARGIN:g} than what was served"
        told = f"{told}, with evidence {evidence:.3g} to 1 ({self._told})"
        # By its share and not by its place: the service file may have other stages by now.
        wider = next((share for share in self._stages if share > self._share), None)
        if wider is None:
            return Move("everywhere", told)
        self._share = wider
        self._not_worse, self._before = GainProcess(), self._counts
        return Move("widen", told)

    @property
    def _told(self) -> str:
        return signed(self.gain)


def slowness(slow: int, timed: int) -> float:
    """Evidence that more than half of the comparisons are slow, to 1, valid at every look: the mean over rates p of the
    likelihood of p over that of one half. While the chance of a slow one is at most one half, whatever came before,
    each is a supermartingale, since p is larger."""
    logs = [slow * math.log(2.0 * p) + (timed - slow) * math.log(2.0 * (1.0 - p)) for p in SLOW_RATES]
    return math.fsum(math.exp(min(log, EXPONENT_MAX)) for log in logs) / len(logs)
