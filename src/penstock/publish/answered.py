"""What is answered to the events that are learned, gathered until it is time to look whether it has moved."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.gate.answered import LOOK_EVENTS, AnsweredWatch, Moved
from penstock.learn.interface import Predictions
from penstock.publish.evidence import opinion_of
from penstock.spec import ClassName

Columns = dict[str, NDArray[np.float64] | list[str]]


class Answered:
    """Of one service; counts nothing where nobody asks."""

    def __init__(self, most: float, *, is_on: bool) -> None:
        self.is_on = is_on
        self._watch = AnsweredWatch(most)
        self._waiting: list[tuple[Predictions, tuple[ClassName, ...]]] = []
        """Answers that are not read yet: many are read at once for the price of a few."""
        self._read: dict[str, list[Any]] = {}
        self._since = 0
        self.newest: Moved | None = None
        """What the last look saw that had anything to compare; None before there was one."""

    def take(self, said: Predictions, classes: tuple[ClassName, ...]) -> Moved | None:
        """What was answered to a step's events, ``classes`` being the names of its columns; the drift that shows with
        it, if one does."""
        self._waiting.append((said, classes))
        values = said.mean if said.probabilities is None else said.probabilities
        self._since += 0 if values is None else len(values)
        if self._since < LOOK_EVENTS:
            return None
        self._count()
        columns: Columns = {
            name: values if name == "classes" else np.array(values, np.float64) for name, values in self._read.items()
        }
        self._read, self._since = {}, 0
        found = self._watch.look(columns) if columns else None
        self.newest = found or self.newest
        return found if found is not None and found.is_shown else None

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack; none where nobody asks."""
        if not self.is_on:
            return {}
        self._count()
        newest = None if self.newest is None else msgspec.structs.asdict(self.newest)
        read = {name: list(values) for name, values in self._read.items()}
        return {"watch": self._watch.save(), "read": read, "since": self._since, "newest": newest}

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved, where something was and somebody asks."""
        if not state or not self.is_on:
            return
        self._watch.load(state["watch"])
        self._waiting, self._read = [], {name: list(values) for name, values in state["read"].items()}
        self._since = state["since"]
        self.newest = None if state["newest"] is None else Moved(**state["newest"])

    def _count(self) -> None:
        """Read what waits: the most probable class and its chance, or the number."""
        waiting, self._waiting = self._waiting, []
        numbers = [said.mean for said, _ in waiting if said.probabilities is None and said.mean is not None]
        if numbers:
            self._read.setdefault("numbers", []).extend(np.nan_to_num(np.concatenate(numbers)).tolist())
        spoken = [(said.probabilities, classes) for said, classes in waiting if said.probabilities is not None]
        for (classes, width), alike in groupby(spoken, key=lambda one: (one[1], one[0].shape[1])):
            if width:
                opinion = opinion_of(np.concatenate([probabilities for probabilities, _ in alike]), classes)
                self._read.setdefault("classes", []).extend(name for name in opinion.said if name is not None)
                self._read.setdefault("chances", []).extend(opinion.chances.tolist())
