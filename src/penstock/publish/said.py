"""What the last known good version and what is served have answered since both were looked at."""

from __future__ import annotations

from itertools import groupby
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.gate.guards import Opinion
from penstock.gate.interface import Answers
from penstock.learn.groups import has_classes
from penstock.learn.learner import Taken
from penstock.publish.evidence import opinion_of
from penstock.publish.line import Line
from penstock.spec import ClassName

LOOK_EVENTS = 512
"""Events that both have answered between two looks."""

Probabilities = tuple[NDArray[np.float64], tuple[ClassName, ...]]
"""(n, classes), and the names of the columns."""
Raw = tuple[list[ClassName], list[Probabilities]]


class Said:
    """Gathers answers, which cost nothing to keep, and reads them when it is time to look."""

    def __init__(self) -> None:
        self._waiting: list[Raw] = []
        self._read: list[list[Any]] = [[], [], [], [], []]
        """Labels, and of the good version and of what is served the classes and the chances."""
        self._events = 0

    def take(self, taken: Taken, line: Line) -> Answers | None:
        """Both have answered a step; everything since the last look, where it is time to look."""
        learned, batch, good = taken.learned, taken.batch, line.good_block
        if learned is None or batch is None or taken.good_said is None or good is None:
            return None
        own, other = learned.predictions.probabilities, taken.good_said.probabilities
        if taken.served is not learned.losses or own is None or other is None or not has_classes(batch):
            # While updates are held back what is served stands still.
            return None
        labels = cast("list[ClassName]", batch.labels)
        if taken.compared is not None:
            labels, own = [labels[row] for row in taken.compared.tolist()], own[taken.compared]
        self._waiting.append((labels, [(other, good.head.classes), (own, line.classes_before(learned))]))
        self._events += len(labels)
        if self._events < LOOK_EVENTS:
            return None
        self._read_waiting()
        labels, good_said, good_chances, own_said, own_chances = self._read
        self.clear()
        return Answers(labels, Opinion(good_said, np.array(good_chances)), Opinion(own_said, np.array(own_chances)))

    def clear(self) -> None:
        """Nothing was answered yet."""
        self._waiting, self._read, self._events = [], [[], [], [], [], []], 0

    def save(self) -> list[list[Any]]:
        """Plain values that survive MessagePack."""
        self._read_waiting()
        return [list(column) for column in self._read]

    def load(self, values: list[list[Any]]) -> None:
        """Become what was saved."""
        self.clear()
        if values:
            self._read = [list(column) for column in values]
            self._events = len(self._read[0])

    def _read_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for labels, _ in waiting:
            self._read[0].extend(labels)
        for version in (0, 1):
            said, chances = self._read[1 + 2 * version : 3 + 2 * version]
            # Those with the same columns, which most steps have, are read at once.
            for (classes, _), alike in groupby((both[version] for _, both in waiting), _columns):
                opinion = opinion_of(np.concatenate([probabilities for probabilities, _ in alike]), classes)
                said.extend(opinion.said)
                chances.extend(opinion.chances.tolist())


def _columns(one: Probabilities) -> tuple[tuple[ClassName, ...], int]:
    """What the columns are called, and how many of the names there are yet."""
    probabilities, classes = one
    return classes, probabilities.shape[1]
