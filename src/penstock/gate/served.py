"""Guards of fast updates: what is served beside the last known good version, by faults that losses show late or never.

Whoever is as often right, and much too sure of himself, loses little by it; and a class may be rare enough for its loss
to be outweighed by all others. docs/design/gate.md tells what is promised.
"""

from __future__ import annotations

from collections import Counter
from operator import eq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.gate.guards import COLLAPSED_LABELS, COLLAPSED_TO, KNOWN_FROM, collapse_guard
from penstock.gate.interface import Answers
from penstock.gate.sequential import GainProcess
from penstock.gate.shadow import chance_of_luck
from penstock.learn.measured import Guard
from penstock.spec import Gate as GateSettings

Array = NDArray[np.float64]

LASTING = 2
"""Looks in a row that have to show it: where the stream turns, whoever was sure is too sure for a while."""
CHANCE = 0.05
"""Of calling a class lost by luck, over all classes, spans and looks together."""
SPANS = (1, 2, 4, 8)
"""The newest looks whose events are counted together for that: a rare class takes many, and what is lost now shows in
few."""
REFUSED_MAX = 2
"""Times in a row that the same is refused while the live stream gains by it."""


class ServedWatch:
    """What is served beside the last known good version, on the same events of the stream."""

    def __init__(self, settings: GateSettings) -> None:
        self._margin = settings.calibration_max
        self._enough = 1.0 / settings.alpha
        self._minds_collapse = settings.collapse == "refuse"
        self._refused, self._refusals = "", 0
        self.begin()

    def begin(self) -> None:
        """Nothing was answered yet."""
        self._oversure = GainProcess()
        """That on the mean it is surer of itself than it is right, by more than the margin."""
        self._surer = GainProcess()
        """That it is so by more than the margin than the last known good version is."""
        self._surpluses: list[tuple[float, float]] = []
        """Of the newest looks: how much surer than right it was on the mean, and how much the other."""
        self._answers = 0
        self._looks = 0
        self._windows: list[dict[str, list[int]]] = []
        """Of the newest looks, for each class: labels, answers of the good version, answers of what is served, and
        those that either alone gave."""

    def look(self, answers: Answers) -> str:
        """What is wrong with what is served, by these events and those of the looks before; empty where nothing is."""
        self._looks += 1
        self._take_chances(answers)
        self._take_classes(answers)
        return self._calibration_fault() or self._collapse_fault()

    def guards(self, fault: str) -> tuple[Guard, ...]:
        """The numbers of the look that found this fault, or none."""
        named, (own, good) = fault.partition(":")[0], self._surpluses[-1]
        calibration = Guard(
            name="calibration",
            value=own,
            most=self._margin,
            beside=good,
            evidence=min(self._oversure.value, self._surer.value),
            wanted=self._enough,
            events=self._answers,
            beyond=named == "calibration",
        )
        found = [self._totals(span) for span in self._spans]
        collapse = [collapse_guard(totals.items(), beyond=named == "collapse") for totals in found]
        least = max(
            (guard for guard in collapse if guard is not None), key=lambda guard: guard.value or 0.0, default=None
        )
        return (calibration,) if least is None else (calibration, least)

    def bears(self, fault: str, gain_low: float) -> bool:
        """Whether this fault is borne, since it was refused often enough and the stream gains by what has it."""
        name = fault.partition(":")[0]
        refusals = self._refusals if self._refused == name else 0
        # Losses count how sure an answer was, too: what is shown to lose less by them would be worse without.
        is_borne = (refusals >= REFUSED_MAX or name == "calibration") and gain_low > 0.0
        self._refused, self._refusals = ("", 0) if is_borne else (name, refusals + 1)
        self.begin()
        return is_borne

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {
            "oversure": self._oversure.save(),
            "surer": self._surer.save(),
            "surpluses": [list(both) for both in self._surpluses],
            "counts": [self._looks, self._answers],
            "windows": self._windows,
            "refused": [self._refused, self._refusals],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._oversure.load(state["oversure"])
        self._surer.load(state["surer"])
        self._surpluses = [(own, good) for own, good in state["surpluses"]]
        self._looks, self._answers = state["counts"]
        self._windows = [{name: list(counts) for name, counts in window.items()} for window in state["windows"]]
        self._refused, self._refusals = state["refused"]

    def _take_chances(self, answers: Answers) -> None:
        self._answers += len(answers.labels)
        own, good = (
            one.chances - np.fromiter(map(eq, one.said, answers.labels), np.float64, len(answers.labels))
            for one in (answers.served, answers.good)
        )
        self._oversure.take((own - self._margin) / (1.0 + self._margin))
        self._surer.take((own - good - self._margin) / (2.0 + self._margin))
        self._surpluses = [*self._surpluses, (float(own.mean()), float(good.mean()))][-LASTING:]

    def _take_classes(self, answers: Answers) -> None:
        window: dict[str, list[int]] = {}

        def count(times: int, name: str | None, *columns: int) -> None:
            if name is not None:
                counts = window.setdefault(name, [0] * 5)
                for column in columns:
                    counts[column] += times

        # Of many events few are not like one before.
        alike = Counter(zip(answers.labels, answers.good.said, answers.served.said, strict=True))
        for (label, good, own), times in alike.items():
            count(times, label, 0)
            count(times, good, 1, *([] if good == own else [3]))
            count(times, own, 2, *([] if good == own else [4]))
        self._windows = [*self._windows, window][-max(SPANS) :]

    def _calibration_fault(self) -> str:
        evidence, margin = min(self._oversure.value, self._surer.value), self._margin
        lasts = len(self._surpluses) == LASTING and all(min(o, o - g) > margin for o, g in self._surpluses)
        if margin >= 1.0 or evidence < self._enough or not lasts:
            return ""
        own, good = self._surpluses[-1]
        return (
            f"calibration: evidence {evidence:.3g} to 1, on {self._answers} events, that it is surer of itself than it "
            f"is right by more than {margin:g}, and than the last known good version is (lately by {own:+.3f} and "
            f"{good:+.3f})"
        )

    def _collapse_fault(self) -> str:
        return next(filter(None, map(self._collapsed_within, self._spans if self._minds_collapse else [])), "")

    @property
    def _spans(self) -> list[int]:
        return [span for span in SPANS if span <= len(self._windows)]

    def _totals(self, span: int) -> dict[str, list[int]]:
        """Of each class what the newest looks have counted."""
        totals: dict[str, Any] = {}
        for window in self._windows[-span:]:
            for name, counts in window.items():
                totals[name] = np.array(counts) + totals.get(name, 0)
        return {name: counts.tolist() for name, counts in totals.items()}

    def _collapsed_within(self, span: int) -> str:
        totals = self._totals(span)
        asked = {name: counts for name, counts in totals.items() if counts[0] >= COLLAPSED_LABELS}
        for name, (labels, good, own, good_alone, own_alone) in asked.items():
            if good < KNOWN_FROM * labels or own >= COLLAPSED_TO * good:
                continue
            # Over all looks the chances of 1 / (k (k + 1)) sum to 1.
            parts = len(SPANS) * len(asked) * self._looks * (self._looks + 1)
            if chance_of_luck(good_alone, own_alone) <= CHANCE / parts:
                events = sum(counts[0] for counts in totals.values())
                return (
                    f"collapse: class {name!r} came {labels} times in {events} events, the last known good version "
                    f"answered with it {good} times, and it {own} times"
                )
        return ""
