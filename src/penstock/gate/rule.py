"""The rule: publish every update, unless it is broken or does harm; then hold back until one has proved itself.

Three versions are compared on the events that all of them predicted before learning: what is served with the last known
good one, the version on probation with the last known good one, and, while updates are held back, the candidate with
what is served. docs/design/gate.md tells why, and what the guarantees are.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.gate.forgetting import ForgettingWatch
from penstock.gate.guards import weights_fault, weights_guard
from penstock.gate.interface import Answers, Evidence, Interval, Order, ShadowVerdict, Verdict
from penstock.gate.losses import Losses, bounded
from penstock.gate.sequential import HarmProcess, MeanInterval
from penstock.gate.sequential import signed as _signed
from penstock.gate.served import ServedWatch
from penstock.gate.shadow import ShadowWatch
from penstock.gate.sources import SourceWatch
from penstock.learn.interface import Forgotten, Heard, HeldOut
from penstock.learn.measured import Guard
from penstock.learn.steps import CanaryCounts
from penstock.spec import Gate as GateSettings

Array = NDArray[np.float64]

RESUME_MARGIN = 0.05
"""Loss an event by which a held candidate may be worse than what is served and still be let through: to show that it
is not worse at all would take for ever, and once it is served harm is watched for without a margin."""
RESUME_EVENTS = 64
"""Events on which a held candidate is scored at least before it is let through."""
PROBATION_STEPS = 32
"""Steps of a probation at least: each begins with a copy of the model's state, too dear at every step of a backlog."""
BROKEN_STEPS = 2
"""Steps with broken weights in a row after which they will not mend, and the model is put back."""
WITHDRAWN = "it has learned the events that are withdrawn with what was served"
PATIENCE = 2
"""Probations' lengths for which a flood of labels is not believed; after that it is a change that must be learned."""


class HarmGate:
    """Implements Gate for one service."""

    def __init__(self, settings: GateSettings) -> None:
        self._alpha = settings.alpha
        self._margin = settings.harm_margin
        self._good_after = settings.good_after_events
        self._restore = settings.after_rollback == "restore"
        self._watch = SourceWatch(settings.alpha, PATIENCE * settings.good_after_events)
        self._resume_margin = max(settings.harm_margin, RESUME_MARGIN)
        self._forgetting = ForgettingWatch(settings)
        self._served = ServedWatch(settings)
        self._apart: list[str | None] = []
        """Floods whose events are set aside. One that is found before any version is good only holds updates back."""
        self._holding = ""
        """Why updates are held back; empty while they are published."""
        self._by_hand = ""
        """Who wants them held back whatever the evidence, and why; empty while nobody does."""
        self._broken_steps = 0
        self._harm = HarmProcess()
        self._gain = MeanInterval(settings.alpha)
        """Of the good version's loss minus the served one's, since the former became good."""
        self._on_probation = False
        self._probation_events = 0
        self._probation_steps = 0
        self._probation_harm = HarmProcess()
        self._held_events = 0
        self._held_gain = MeanInterval(settings.alpha)
        """Of the served version's loss minus the candidate's, since updates have been held back."""
        self._candidate_harm = HarmProcess()
        self._candidate_worth = HarmProcess()
        self._shadow = ShadowWatch(settings)
        self._guards: list[Guard] = []
        """What was measured of the step that is judged."""

    def judge(self, evidence: Evidence) -> Verdict:
        """Look at one more step and decide."""
        self._guards = [weights_guard(evidence.finite, evidence.jump)]
        losses = self._believed(evidence)
        # While updates are held back, what is served stands still, and to be better than that would prove nothing.
        if losses.shadow is not None and not self._holding:
            self._shadow.take(losses.served, losses.shadow, losses.own, losses.opinions)
        if evidence.departed is not None:
            self._shadow.look(evidence.departed)
        verdict = self._judge_update(evidence, losses)
        verdict = verdict if evidence.shadow is None else self._judge_shadow(verdict, evidence)
        return msgspec.structs.replace(verdict, guards=tuple(self._guards))

    @property
    def doubted(self) -> tuple[str | None, ...]:
        """Sources whose events are to be set aside from now on."""
        return tuple(self._apart)

    def hear(self, heard: Heard | CanaryCounts) -> ShadowVerdict | None:
        """The events of a step that were all set aside: whether their sources are to be believed again. Or what servers
        have counted of a shadow that answers a share of the traffic, and what becomes of it."""
        if isinstance(heard, CanaryCounts):
            return self._ended(self._shadow.hear(heard))
        self._watch.take(heard.sources, bounded(heard.losses), None if heard.good is None else bounded(heard.good))
        self._forget_quiet()
        return None

    def begin_shadow(self, claim: HeldOut) -> ShadowVerdict | None:
        """A candidate with a new base is in shadow from here on (None), or is refused (its verdict)."""
        return self._shadow.begin(claim)

    def shadow_so_far(self) -> ShadowVerdict | None:
        """The numbers of the shadow as they are, with an empty reason; None where there is none."""
        return self._shadow.so_far if self._shadow.is_on else None

    def obey(self, order: Order, told: str) -> Verdict | None:
        """Decide as somebody has ordered, ``told`` being the reason; None where there is no shadow to promote."""
        match order:
            case "hold":
                self._by_hand = told
                return Verdict(action="hold", reason=told) if self._holding else self._begin_holding(told)
            case "resume":
                return self._resume(told)
            case "promote":
                so_far = self.shadow_so_far()
                if so_far is None:
                    return None
                guards = self._shadow.guards
                self._shadow.end()
                self._holding = ""
                found = msgspec.structs.replace(so_far, action="promote", reason=told, share=0.0, guards=guards)
                return self._begin_probation(Verdict(action="publish", reason=told, gain=found.gain, shadow=found))
        verdict = self._roll_back(told, None)
        # Whoever goes back by hand wants what is new to go, and nothing is newer than what answers a share.
        if not self._shadow.is_on or not (self._restore or self._shadow.is_answering):
            return verdict
        fault = WITHDRAWN if self._restore else "what is served was rolled back by hand"
        gone = self._shadow.judge(0, fault=fault, may_promote=False)
        return msgspec.structs.replace(verdict, shadow=self._ended(gone))

    def _resume(self, told: str) -> Verdict:
        """Nobody holds updates back by hand any more; where nothing else does either, they are published at once."""
        by_hand, self._by_hand = self._by_hand, ""
        if self._holding != by_hand:
            return Verdict(action="hold", reason=f"{told} Still held back: {self._holding}")
        own = self._watch.described(self._apart)
        if self._broken_steps:
            own = "its weights are not finite"
        elif not own and self._candidate_harm.value >= 1.0 / self._alpha:
            own = f"it is worse than what is served ({_signed(self._held_gain.interval)})"
        if own:
            self._holding = f"The update is held back: {own}."
            return Verdict(action="hold", reason=f"{told} {self._holding}")
        self._holding = ""
        return self._begin_probation(Verdict(action="publish", reason=told))

    def _judge_shadow(self, verdict: Verdict, evidence: Evidence) -> Verdict:
        # Without a last known good version there would be nothing to go back to, and nobody to notice harm.
        may_promote = verdict.action == "publish" and evidence.good is not None
        labelled = evidence.labelled or len(evidence.served)
        # Where weights broke, the shadow has learned the same events with weights of its own.
        withdrawn = (verdict.action == "roll_back" and self._restore and evidence.finite) or bool(verdict.take_out)
        fault = evidence.shadow_fault or (WITHDRAWN if withdrawn else "")
        found = self._shadow.judge(labelled, fault=fault, may_promote=may_promote)
        self._ended(found)
        if found is None:
            return verdict
        if found.action != "promote":
            return msgspec.structs.replace(verdict, shadow=found)
        # The shadow takes the place of the update, and earns the right to be gone back to like any other version. The
        # last known good stays of the old line.
        promoted = Verdict(action="publish", reason=found.reason, gain=found.gain, shadow=found)
        return self._begin_probation(promoted, good=verdict.good)

    def _ended(self, found: ShadowVerdict | None) -> ShadowVerdict | None:
        """The same; there is no shadow any more, if it says so."""
        if found is not None and found.action != "widen":
            self._shadow.end()
        return found

    def _judge_update(self, evidence: Evidence, losses: Losses) -> Verdict:
        if losses.good is not None:
            difference = losses.served - losses.good
            self._harm.take((difference - self._margin) / (1.0 + self._margin))
            self._gain.take(-difference)
        fault = weights_fault(evidence.finite, evidence.jump)
        self._broken_steps = self._broken_steps + 1 if not evidence.finite else 0
        fresh = [source for source in self._watch.floods if source not in self._apart]
        if fresh and losses.good is not None and self._restore and not fault and not self._by_hand:
            return self._set_apart(fresh)
        if losses.good is not None and self._harm.value >= 1.0 / self._alpha:
            gain = self._gain.interval
            told = f"evidence {self._harm.value:.3g} to 1 that it is worse than the last known good ({_signed(gain)})"
            return self._roll_back(f"What is served does harm: {told}.", gain)
        if self._holding:
            return self._keep_holding(losses, fault)
        flood = self._watch.described(self._apart)
        if fault or flood:
            return self._begin_holding(f"The update is held back: {fault or flood}.")
        if (faulty := self._judge_answers(evidence.answers, has_good=losses.good is not None)) is not None:
            return faulty
        if evidence.forgotten is not None:
            return self._judge_forgetting(evidence.forgotten, losses)
        return self._publish(losses)

    def _judge_answers(self, answers: Answers | None, *, has_good: bool) -> Verdict | None:
        """What the answers of what is served say of it, where they have a fault that the last known good's have not."""
        if answers is None or not has_good:
            return None
        fault = self._served.look(answers)
        self._guards += self._served.guards(fault)
        if not fault:
            return None
        gain = self._gain.interval
        if self._served.bears(fault, gain.low):
            return None
        return self._roll_back(f"What is served has a fault: {fault}.", gain)

    def _judge_forgetting(self, forgotten: Forgotten, losses: Losses) -> Verdict:
        """What the anchors say of the update, which does no harm on the live stream."""
        gain = self._gain.interval
        found = self._forgetting.judge(forgotten, gain, has_good=losses.good is not None)
        if found.what == "refuse":
            return self._roll_back(f"What is served has forgotten: {found.told}.", gain)
        verdict = self._publish(losses)
        accepts = forgotten.of if found.what == "accept" else None
        return msgspec.structs.replace(verdict, reason=f"{verdict.reason[:-1]}; {found.told}.", accepts=accepts)

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {
            "watch": self._watch.save(),
            "apart": list(self._apart),
            "holding": self._holding,
            "by_hand": self._by_hand,
            "broken_steps": self._broken_steps,
            "forgetting": self._forgetting.save(),
            "served": self._served.save(),
            "harm": self._harm.save(),
            "gain": self._gain.save(),
            "on_probation": self._on_probation,
            "probation": [self._probation_events, self._probation_steps],
            "probation_harm": self._probation_harm.save(),
            "held_events": self._held_events,
            "held_gain": self._held_gain.save(),
            "candidate_harm": self._candidate_harm.save(),
            "candidate_worth": self._candidate_worth.save(),
            "shadow": self._shadow.save(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._watch.load(state["watch"])
        self._apart = list(state.get("apart", ()))
        self._holding = state["holding"]
        self._by_hand = state.get("by_hand", "")
        self._broken_steps = state["broken_steps"]
        if "forgetting" in state:
            # Nor was it looked at what is forgotten.
            self._forgetting.load(state["forgetting"])
        if "served" in state:
            self._served.load(state["served"])
        self._harm.load(state["harm"])
        self._gain.load(state["gain"])
        self._on_probation = state["on_probation"]
        self._probation_events, self._probation_steps = state["probation"]
        self._probation_harm.load(state["probation_harm"])
        self._held_events = state["held_events"]
        self._held_gain.load(state["held_gain"])
        self._candidate_harm.load(state["candidate_harm"])
        self._candidate_worth.load(state["candidate_worth"])
        if "shadow" in state:
            # A state of before there were shadows has none.
            self._shadow.load(state["shadow"])

    def _believed(self, evidence: Evidence) -> Losses:
        losses = Losses.of(evidence)
        believed = self._look_at_sources(evidence, losses)
        return losses if believed is None else losses.rows(believed)

    def _look_at_sources(self, evidence: Evidence, losses: Losses) -> NDArray[np.bool_] | None:
        """(n,) which events are believed, or None for all of them."""
        if evidence.released:
            return None
        n, sources = len(losses.served), evidence.sources
        served, good, expected = losses.served, losses.good, evidence.expected
        if (doubted := evidence.doubted) is not None:
            sources = [*(sources or [None] * n), *doubted.sources]
            more = bounded(doubted.losses)
            served = np.concatenate([served, more])
            good = None if good is None else np.concatenate([good, more if doubted.good is None else doubted.good])
            expected = None if expected is None else np.concatenate([expected, np.zeros(len(more))])
        believed = self._watch.take(sources, served, good, expected)
        if self._watch.guard is not None:
            self._guards.append(self._watch.guard)
        self._forget_quiet()
        return None if believed is None else believed[:n]

    def _forget_quiet(self) -> None:
        self._apart = [source for source in self._apart if source in self._watch.floods]

    def _set_apart(self, fresh: list[str | None]) -> Verdict:
        """These sources contradict all others: what they sent goes, what the others sent is learned again."""
        told = self._watch.described(self._apart)
        self._apart += fresh
        self._holding = ""
        self._broken_steps = 0
        self._harm = HarmProcess()
        self._gain = MeanInterval(self._alpha)
        reason = f"Published without events that are set aside: {told}."
        return self._begin_probation(Verdict(action="publish", reason=reason, take_out=tuple(fresh)))

    def _publish(self, losses: Losses) -> Verdict:
        gain = None if losses.good is None else self._gain.interval
        if gain is None:
            told = "Published: no version has earned to be the last known good yet"
        else:
            told = f"Published: no evidence of harm against the last known good ({_signed(gain)})"
        verdict = Verdict(action="publish", reason=told + ".", gain=gain)
        if not self._on_probation:
            return self._begin_probation(verdict)
        return self._pass_probation(verdict, losses)

    def _begin_probation(self, verdict: Verdict, *, good: bool = False) -> Verdict:
        self._on_probation = True
        self._probation_events = self._probation_steps = 0
        self._forgetting.begin_probation()
        self._probation_harm = HarmProcess()
        if good:
            # The comparison with the old good version ends here. Evidence of harm goes on: which version it is measured
            # by is known before each event, which is all that its guarantee needs.
            self._gain = MeanInterval(self._alpha)
        return msgspec.structs.replace(verdict, good=good, probation=True)

    def _pass_probation(self, verdict: Verdict, losses: Losses) -> Verdict:
        self._probation_events += len(losses.served)
        self._probation_steps += 1
        if losses.good is not None and losses.probation is not None:
            worse = losses.probation - losses.good - self._margin
            if self._probation_harm.take(worse / (1.0 + self._margin)) >= 1.0 / self._alpha:
                return self._begin_probation(verdict)
        long_enough = self._probation_events >= self._good_after and self._probation_steps >= PROBATION_STEPS
        # Half of the evidence that would show harm, counted in nats, is waited for until it has gone or harm is shown.
        doubt = self._alpha**-0.5
        long_enough = long_enough and self._forgetting.may_become_good
        if long_enough and self._probation_harm.value < doubt and self._harm.value < doubt:
            return self._begin_probation(verdict, good=True)
        return verdict

    def _begin_holding(self, reason: str) -> Verdict:
        self._holding = reason
        self._on_probation = False
        self._compare_afresh()
        return Verdict(action="hold", reason=reason)

    def _roll_back(self, reason: str, gain: Interval | None) -> Verdict:
        self._begin_holding(reason)
        self._served.begin()
        self._broken_steps = 0
        self._harm = HarmProcess()
        self._gain = MeanInterval(self._alpha)
        return Verdict(action="roll_back", reason=reason, gain=gain)

    def _compare_afresh(self) -> None:
        self._held_events = 0
        self._held_gain = MeanInterval(self._alpha)
        self._candidate_harm = HarmProcess()
        self._candidate_worth = HarmProcess()

    def _keep_holding(self, losses: Losses, fault: str | None) -> Verdict:
        margin = self._resume_margin
        difference = losses.candidate - losses.served
        self._held_events += len(difference)
        self._held_gain.take(-difference)
        harm = self._candidate_harm.take((difference - margin) / (1.0 + margin))
        worth = self._candidate_worth.take((margin - difference) / (1.0 + margin))
        gain = self._held_gain.interval
        if self._by_hand:
            return Verdict(action="hold", reason=self._by_hand, gain=gain)
        if self._broken_steps >= BROKEN_STEPS and self._restore:
            return self._roll_back("The model is put back to the last known good: its weights are not finite.", None)
        flood = self._watch.described(self._apart)
        if fault or flood:
            return Verdict(action="hold", reason=f"Still held back: {fault or flood}.", gain=gain)
        if harm >= 1.0 / self._alpha and self._restore and losses.good is not None:
            told = f"after {self._held_events} events the held candidate is worse than what is served ({_signed(gain)})"
            return self._roll_back(f"The model is put back to the last known good: {told}.", gain)
        if self._held_events >= self._resume_events and worth >= 1.0 / self._alpha and harm < 1.0:
            self._holding = ""
            told = f"on {self._held_events} events it is not worse than what was served ({_signed(gain)})"
            verdict = Verdict(action="publish", reason=f"Published again: {told}.", gain=gain)
            return self._begin_probation(verdict)
        told = (
            f"the candidate has to show on more than {self._held_events} events that it is not worse ({_signed(gain)})"
        )
        return Verdict(action="hold", reason=f"Still held back: {told}.", gain=gain)

    @property
    def _resume_events(self) -> int:
        return min(RESUME_EVENTS, self._good_after)
