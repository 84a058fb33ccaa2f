"""The apprentice among all that decides a service's versions: what of a step is compared, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from penstock.gate.apprentice import ApprenticeVerdict, ApprenticeWatch
from penstock.gate.interface import Verdict
from penstock.gate.rivals import Compared, compared_classes, compared_numbers, compared_sets
from penstock.learn.learner import Taken
from penstock.learn.steps import ApprenticeStep, Step
from penstock.publish.entries import numbers_of
from penstock.publish.interface import ApprenticeProgress
from penstock.publish.line import Line
from penstock.replies import Incumbent, Replies
from penstock.spec import Spec


class Apprenticeship:
    """Follows one service beside the system that was there before, if its file names one."""

    def __init__(self, spec: Spec, line: Line) -> None:
        self._spec = spec
        self._line = line
        self._watch = None if spec.gate.apprentice is None else ApprenticeWatch(spec.gate)
        self._since = 0.0
        self._outcome = ""
        self._told: ApprenticeProgress | None = None
        """What is told of it, as long as nothing changes."""

    @property
    def of(self) -> str:
        """The system whose apprentice it is; empty where it is nobody's."""
        settings = self._spec.gate.apprentice
        return settings.of if settings is not None and self._watch is not None and self._watch.is_apprentice else ""

    def compare(self, taken: Taken) -> None:
        """Take note of those of the step's events of which it is known what both have answered."""
        if self._watch is None or taken.batch is None or taken.batch.incumbents is None:
            return
        rows = [row for row, said in enumerate(taken.batch.incumbents) if said is not None]
        if not rows:
            return
        keep = np.array(rows, np.intp)
        own, labels = self._replies(taken).rows(keep), cast(Any, taken.batch.labels)
        incumbents = [taken.batch.incumbents[row] for row in rows]
        told = labels[keep] if isinstance(labels, np.ndarray) else [labels[row] for row in rows]
        self._watch.take(self._compared(told, own, incumbents))
        self._told = None

    def turn(self, verdict: Verdict | None) -> ApprenticeStep | None:
        """What becomes of it with the step that the gate has judged so, where something does."""
        if self._watch is None or verdict is None:
            return None
        if verdict.take_out:
            # Labels of somebody who lies have been compared with, too.
            self._watch.begin_anew()
            self._told = None
            return None
        found = self._watch.judge(may_graduate=verdict.action == "publish")
        if found is None:
            return None
        self._outcome, self._told = found.reason, None
        return self._told_of(found)

    def note(self, entry: Step) -> None:
        """The entry that says so is this one."""
        if entry.apprentice is not None and entry.apprentice.what != "behind":
            self._since, self._told = entry.time, None

    @property
    def progress(self) -> ApprenticeProgress | None:
        """What is told of it; None where the service's file names no such system."""
        settings = self._spec.gate.apprentice
        if settings is None or self._watch is None:
            return None
        if self._told is None:
            race = self._watch.race
            self._told = ApprenticeProgress(
                of=settings.of,
                is_apprentice=race.is_apprentice,
                since=self._since,
                race=race.number,
                events=race.gain.events,
                events_wanted=settings.after_events if race.is_apprentice else 0,
                gain=race.gain,
                evidence=race.evidence,
                evidence_wanted=race.wanted,
                loss=race.loss,
                incumbent_loss=race.incumbent_loss,
                compared=race.compared,
                graduated=race.graduated,
                outcome=self._outcome,
            )
        return self._told

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack; none where there is nothing to be saved."""
        if self._watch is None:
            return {}
        return {"watch": self._watch.save(), "since": self._since, "outcome": self._outcome}

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved, as far as it speaks of the same system."""
        self._told = None
        if self._watch is not None and state and self._watch.load(state["watch"]):
            self._since, self._outcome = state["since"], state["outcome"]

    def _replies(self, taken: Taken) -> Replies:
        """What we answered to each event: to a prediction, what its record says; to all else, what the version that is
        served says of it before it is learned from."""
        batch, answers = taken.batch, taken.answers
        assert batch is not None, "nothing was learned"
        assert answers is not None, "what is learned is predicted before"
        if answers.mean is not None:
            now = Replies(answers.mean[:, None])
        else:
            chances = answers.probabilities
            assert chances is not None, "answers are numbers or chances"
            now = Replies(chances, self._columns(taken)[: chances.shape[1]])
        return now if batch.replies is None else batch.replies.or_else(now)

    def _columns(self, taken: Taken) -> Any:
        assert taken.learned is not None, "nothing was learned"
        if taken.answers is taken.learned.predictions:
            return self._line.classes_before(taken.learned)
        return self._line.block.head.classes

    def _compared(self, labels: Any, own: Replies, incumbents: Sequence[Incumbent | None]) -> Compared:
        assert self._watch is not None, "there is an incumbent"
        if self._spec.task == "multilabel":
            return compared_sets(labels, own, incumbents, self._spec.serve.threshold)
        if isinstance(labels, np.ndarray):
            return compared_numbers(labels, own, incumbents, self._watch.scale)
        return compared_classes(labels, own, incumbents)

    def _told_of(self, verdict: ApprenticeVerdict) -> ApprenticeStep:
        settings, gain = self._spec.gate.apprentice, numbers_of(verdict.gain)
        assert settings is not None, "there is an incumbent"
        assert gain is not None, "a race has a gain"
        return ApprenticeStep(
            what=verdict.what, of=settings.of, reason=verdict.reason, gain=gain, evidence=verdict.evidence
        )
