"""What is looked at after so many labelled events: what the updated model has forgotten, before it is published, and
how far inputs are from what bases were trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.gate.answered import Moved
from penstock.gate.guards import inputs_fault, inputs_guard
from penstock.learn.anchors import Anchors, scores_of
from penstock.learn.inputs import Departed
from penstock.learn.interface import Block, Forgotten, Predictor
from penstock.learn.learner import Learner, Taken
from penstock.learn.watched import Inputs
from penstock.publish.answered import Answered
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.evidence import Looked
from penstock.publish.line import Line
from penstock.publish.said import Said
from penstock.spec import Spec


class Looks:
    """Looks at one service's anchors and inputs, at the rhythm that they ask for."""

    def __init__(
        self,
        spec: Spec,
        anchors: Anchors,
        line: Line,
        shadows: Shadows,
        learner: Learner,
        predictor: Callable[[Block], Predictor],
    ) -> None:
        self._anchors = anchors
        self._inputs = Inputs(spec, shadows.seen)
        self._said = Said()
        self.answered = Answered(spec.gate.drift_max, is_on=spec.gate.predictions_drift != "off")
        self._drift_max = spec.gate.drift_max
        self._line = line
        self._shadows = shadows
        self._learner = learner
        self._predictor = predictor

    @property
    def departed(self) -> Departed | None:
        """How far the inputs are from what the base of what is served was trained on, as the last look saw it."""
        return self._inputs.newest(self._line.base)

    def look(self, taken: Taken) -> Looked:
        """What is to be seen with this step."""
        if taken.batch is None or taken.learned is None:
            return Looked()
        before, shadow = self.departed, self._shadows.base
        is_time = self._inputs.take(taken.batch, taken.compared, (self._line.base, shadow))
        now = self.departed
        return Looked(
            forgotten=self._forgotten(taken),
            of_shadow=self._inputs.newest(shadow) if is_time else None,
            answers=self._said.take(taken, self._line),
            left=now if self._is_beyond(now) and not self._is_beyond(before) else None,
            inputs=inputs_guard(now, self._drift_max) if is_time else None,
            moved=self._moved(taken) if self.answered.is_on else None,
        )

    def _moved(self, taken: Taken) -> Moved | None:
        """How far answers are from those before, where they have moved with this step."""
        assert taken.learned is not None, "nothing was learned"
        assert taken.answers is not None, "something was answered"
        held = self._learner.served is not None
        classes = self._line.block.head.classes if held else self._line.classes_before(taken.learned)
        return self.answered.take(taken.answers, classes)

    def begin_anew(self) -> None:
        """What was answered until now is of a version that is served no more."""
        self._said.clear()

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {**self._inputs.save(), "said": self._said.save()}

    def load(self, values: dict[str, Any]) -> None:
        """Become what was saved. Raises BaseMissing."""
        self._inputs.load(values)
        self._said.load(values.get("said", []))

    def _is_beyond(self, departed: Departed | None) -> bool:
        return bool(inputs_fault(departed, self._drift_max))

    def _forgotten(self, taken: Taken) -> Forgotten | None:
        """What the updated model has lost, where it is time to ask it; None otherwise."""
        learner, events = self._learner, self._anchors.kept
        assert taken.learned is not None, "nothing was learned"
        assert taken.batch is not None, "nothing was learned"
        is_time = self._anchors.learned(len(taken.batch))
        if events is None:
            return None
        if taken.good is not None and taken.served is not None:
            few = taken.batch if taken.compared is None else taken.batch.rows(taken.compared)
            served = taken.served if taken.compared is None else taken.served[taken.compared]
            self._anchors.compared(few, taken.good - served)
        if not is_time:
            return None
        if learner.served is not None or not taken.learned.finite:
            # While updates are held back, nobody is answered by what is learned.
            return None
        scale = taken.learned.scale

        def of_good() -> NDArray[np.float64] | None:
            good = self._line.good_block
            if good is None or learner.good is None:
                return None
            return scores_of(learner.good, good.head.classes, events, scale)

        block = learner.model.freeze(self._line.block.head.version, {})
        return self._anchors.look(scores_of(self._predictor(block), block.head.classes, events, scale), of_good)
