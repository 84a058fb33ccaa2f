"""The apprentice: the service beside a system that was there before it, until it is better, and after that.

The two are compared on every event of which both answers are known, in races one after the other. A race ends when one
of them is shown to be better; the next begins with the event after that, so that nobody is judged for ever by how he
began. docs/design/gate.md tells why, and what the guarantees are.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from penstock.gate.interface import Interval
from penstock.gate.rivals import Array, Compared
from penstock.gate.sequential import GainProcess, HarmProcess, signed
from penstock.spec import Gate as GateSettings

Turn = Literal["graduated", "behind", "overtaken"]

SCALE_RATE = 0.001
"""Weight of the newest error in the scale of numbers at least, so that it follows the stream: a memory of 1,000."""
OUTLIER = 10.0
"""Scales beyond which an error counts no more: one that is beyond all measure must not make all others look alike."""
SETTLED = 32
"""Errors after which it is known what is beyond all measure."""
LEAST_SCALE = 1e-300
ERROR_MAX = 1e300


class ApprenticeVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a race, and what comes of it."""

    what: Turn
    """``graduated``: the service is no apprentice any more. ``behind``: it stays one, and the other system is better
    so far. ``overtaken``: it had graduated, and is an apprentice again."""
    reason: str
    """One sentence with its numbers, for people."""
    gain: Interval
    """Loss of the incumbent minus our own, an event of the race."""
    evidence: float
    """For the verdict, to 1."""


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """How a race stands."""

    number: int
    """Counted from 1."""
    is_apprentice: bool
    gain: Interval
    """Loss of the incumbent minus our own, an event of the race."""
    evidence: float
    """To 1: that we are better, or, after a graduation, that the incumbent is better again."""
    wanted: float
    """The evidence that ends the race."""
    loss: float
    """Our mean loss in the race; 0 before the first event."""
    incumbent_loss: float
    compared: int
    """Events that were compared in all races."""
    graduated: int
    """Graduations so far."""


class ApprenticeWatch:
    """What is known of one service and one incumbent."""

    def __init__(self, settings: GateSettings) -> None:
        assert settings.apprentice is not None, "there is no incumbent"
        self._settings = settings.apprentice
        self._alpha = settings.alpha
        self._harm_margin = max(settings.harm_margin, self._settings.margin)
        self.is_apprentice = True
        """Whether the incumbent is the one to be believed."""
        self._graduated = 0
        self._compared = 0
        self._scale, self._errors = 1.0, 0
        self._race = 0
        self._next_race()

    @property
    def scale(self) -> float:
        """What errors of numbers are measured against: the incumbent's usual error up to now."""
        return self._scale

    def take(self, compared: Compared) -> None:
        """The events of one step, in their order, all of them predicted before they were learned from."""
        margin = self._settings.margin
        gain = compared.incumbent - compared.own
        shifted = (gain + margin) / (1.0 + margin)
        self._better.take(shifted)
        self._worse.take(-shifted)
        if not self.is_apprentice:
            self._harm.take((-gain - self._harm_margin) / (1.0 + self._harm_margin))
        self._own_sum += float(compared.own.sum())
        self._incumbent_sum += float(compared.incumbent.sum())
        self._compared += len(gain)
        if compared.errors is not None:
            self._follow_scale(compared.errors)

    def judge(self, *, may_graduate: bool) -> ApprenticeVerdict | None:
        """Whether the race has ended with the events so far; None while it goes on."""
        if not self._better.events:
            return None
        if not self.is_apprentice:
            return self._overtaken() if self._harm.value >= self.wanted else None
        if self._better.events < self._settings.after_events:
            # Nor is it called behind before: a bad beginning would be many races, each of which asks for more.
            return None
        if self._worse.value >= self.wanted:
            return self._behind()
        return self._graduate() if may_graduate and self._better.value >= self.wanted else None

    def begin_anew(self) -> None:
        """What was compared so far in this race has turned out to be worth nothing: the next one begins."""
        self._next_race()

    @property
    def wanted(self) -> float:
        """The evidence that ends this race. The k-th has alpha / (k (k + 1)) of what may go wrong by chance, so that
        all races together, however many there are, keep to alpha."""
        return self._race * (self._race + 1) / self._alpha

    @property
    def gain(self) -> Interval:
        """Of this race; each bound holds with 1 - 1 / wanted, at every look."""
        alpha, margin = 1.0 / self.wanted, self._settings.margin

        def unshifted(shifted: float) -> float:
            return shifted * (1.0 + margin) - margin

        return Interval(
            mean=unshifted(self._better.mean) if self._better.events else 0.0,
            low=max(-1.0, unshifted(self._better.least(alpha))),
            high=min(1.0, unshifted(-self._worse.least(alpha))),
            events=self._better.events,
        )

    @property
    def race(self) -> Race:
        """How it stands."""
        events = max(1, self._better.events)
        return Race(
            number=self._race,
            is_apprentice=self.is_apprentice,
            gain=self.gain,
            evidence=self._better.value if self.is_apprentice else self._harm.value,
            wanted=self.wanted,
            loss=self._own_sum / events,
            incumbent_loss=self._incumbent_sum / events,
            compared=self._compared,
            graduated=self._graduated,
        )

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {
            "of": self._settings.of,
            "margin": self._settings.margin,
            "is_apprentice": self.is_apprentice,
            "graduated": self._graduated,
            "compared": self._compared,
            "scale": [self._scale, self._errors],
            "race": self._race,
            "sums": [self._own_sum, self._incumbent_sum],
            "better": self._better.save(),
            "worse": self._worse.save(),
            "harm": self._harm.save(),
        }

    def load(self, state: dict[str, Any]) -> bool:
        """Become what was saved, if that was of the same incumbent (True); with another one all begins anew."""
        if state["of"] != self._settings.of:
            return False
        self.is_apprentice = state["is_apprentice"]
        self._graduated = state["graduated"]
        self._compared = state["compared"]
        self._scale, self._errors = state["scale"]
        self._race = state["race"]
        self._own_sum, self._incumbent_sum = state["sums"]
        self._better.load(state["better"])
        self._worse.load(state["worse"])
        self._harm.load(state["harm"])
        if state["margin"] != self._settings.margin:
            # What was gathered speaks of another question.
            self._next_race()
        return True

    def _graduate(self) -> ApprenticeVerdict:
        of, margin = self._settings.of, self._settings.margin
        shown = f"not worse than {of} by {margin:g}" if margin else f"better than {of}"
        told = f"The service has shown itself {shown}, and is its apprentice no more: evidence {self._better.value:.3g}"
        verdict = self._verdict("graduated", told, self._better.value)
        self.is_apprentice = False
        self._graduated += 1
        self._next_race()
        return verdict

    def _behind(self) -> ApprenticeVerdict:
        told = f"{self._settings.of} is better so far, and the comparison begins anew: evidence {self._worse.value:.3g}"
        verdict = self._verdict("behind", told, self._worse.value)
        self._next_race()
        return verdict

    def _overtaken(self) -> ApprenticeVerdict:
        told = f"{self._settings.of} is better again, and the service its apprentice: evidence {self._harm.value:.3g}"
        verdict = self._verdict("overtaken", told, self._harm.value)
        self.is_apprentice = True
        self._next_race()
        return verdict

    def _verdict(self, what: Turn, told: str, evidence: float) -> ApprenticeVerdict:
        gain = self.gain
        return ApprenticeVerdict(what=what, reason=f"{told} to 1 ({signed(gain)}).", gain=gain, evidence=evidence)

    def _next_race(self) -> None:
        self._race += 1
        self._own_sum = self._incumbent_sum = 0.0
        self._better, self._worse, self._harm = GainProcess(), GainProcess(), HarmProcess()

    def _follow_scale(self, errors: Array) -> None:
        for error in np.nan_to_num(errors, nan=ERROR_MAX, posinf=ERROR_MAX).tolist():
            rate = max(1.0 / (self._errors + 1), SCALE_RATE)
            is_known = self._errors >= SETTLED and self._scale > LEAST_SCALE
            most = OUTLIER * self._scale if is_known else ERROR_MAX
            self._scale = max(LEAST_SCALE, self._scale + rate * (min(error, most) - self._scale))
            self._errors += 1
