"""When the updated model is asked what it has forgotten, and what it answers: by anchors, before it is published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.anchors import Anchors, scores_of
from penstock.learn.interface import Block, Forgotten, Predictor
from penstock.learn.learner import Learner, Taken
from penstock.publish.line import Line


class Looks:
    """Looks at one service's anchors, at the rhythm that they ask for."""

    def __init__(self, anchors: Anchors, line: Line, learner: Learner, predictor: Callable[[Block], Predictor]) -> None:
        self._anchors = anchors
        self._line = line
        self._learner = learner
        self._predictor = predictor

    def look(self, taken: Taken) -> Forgotten | None:
        """What the updated model has lost of what it knew, where it is time to look; None otherwise."""
        learner, events = self._learner, self._anchors.kept
        if taken.learned is None or taken.batch is None or events is None:
            return None
        if taken.good is not None and taken.served is not None:
            rows = slice(None) if taken.compared is None else taken.compared
            labels: Any = taken.batch.labels
            told = labels if taken.compared is None else [labels[row] for row in taken.compared.tolist()]
            self._anchors.compared(told, taken.good - taken.served[rows])
        if not self._anchors.learned(len(taken.batch)):
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
