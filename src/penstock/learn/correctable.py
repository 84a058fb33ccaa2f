"""The latest steps, and the model as it was before them: so that labels which were corrected or taken back can be made
good in what the heads have learned, too.

A model cannot be told to unlearn: its heads decay, and are scaled and mixed by what came in between. So
two of its states are kept, some thousand events apart, with the steps behind the older one as places in the log. Where
labels change, the model becomes the newest state from before the first of them and learns the steps behind it again,
one by one as it had, with the labels that the events have now. What comes of it is, to the byte, what it would have
been had the labels been known at first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Offset, Partition, Position
from penstock.join.interface import Amendment
from penstock.learn.interface import Model, State
from penstock.learn.lately import FETCHED_AT_ONCE, Fetch, labelled_again
from penstock.learn.quarantine import Place

Arrays = Mapping[str, NDArray[Any]]


@dataclass(slots=True)
class _Step:
    """The events of one step that the model has learned."""

    places: NDArray[np.int64]
    origins: NDArray[np.int64]
    labels: list[Any]
    """None of an event whose label was taken back; it may have one again."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class _Mark:
    """The model as it was after so many steps."""

    count: int
    state: State


@dataclass(frozen=True, slots=True)
class Made:
    """A model that has learned its latest steps again."""

    places: tuple[Place, ...]
    """Of the events whose labels had changed, in the order of learning."""
    events: int
    """That were learned again."""
    is_finite: bool
    """Whether every weight still was a finite number after each step."""
    states: dict[int, State]
    """The model after those of the steps that were asked for."""


class Correctable:
    """What one model has learned lately: the newest ``within`` events at least, and about twice as many at most.

    Costs two copies of the model's state, one in every ``within`` events, and 60 bytes an event or so."""

    def __init__(self, within: int) -> None:
        """0 to keep nothing, so that every word comes too late."""
        self._within = within
        self._model: Model | None = None
        self._older = self._newer = _Mark(0, State({}, {}))
        self._steps: list[_Step] = []
        """Those behind the older state."""
        self._events = 0
        """In the steps behind the newer state."""
        self._wrong: set[tuple[int, int]] = set()
        """Step and row of each event whose label has changed since the model learned it."""
        self._rows: dict[tuple[int, int], tuple[int, int]] | None = None
        """Step and row by the event's origin, once somebody has asked."""

    @property
    def count(self) -> int:
        """Steps that the model has learned since this was begun."""
        return self._older.count + len(self._steps)

    @property
    def wrong(self) -> int:
        """Events whose labels are not those that the model has learned."""
        return len(self._wrong)

    def begin(self, model: Model) -> None:
        """From here on: what the model has learned so far stays as it is."""
        self._model = model
        if self._within:
            self._older = self._newer = _Mark(self.count, model.save())
        self._steps, self._events, self._wrong, self._rows = [], 0, set(), None

    def follow(self, model: Model) -> None:
        """This is the model from here on; another one has not learned these steps."""
        if model is not self._model:
            self.begin(model)

    def learned(self, batch: Batch, model: Model) -> int:
        """The model has learned these events, with which it may have taken another's place. Gives how many events were
        wrong and are too long ago now."""
        if not self._within:
            return 0
        if model is not self._model or batch.places is None or batch.origins is None:
            self._steps.append(_Step(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64), []))
            self.begin(model)
            return 0
        labels: Any = batch.labels
        told = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
        self._steps.append(_Step(batch.places, batch.origins, told))
        self._events += len(batch)
        self._rows = None
        if self._events < self._within:
            return 0
        lost = self._forget_before_newer()
        self._newer, self._events = _Mark(self.count, model.save()), 0
        return lost

    def go_back(self, count: int, model: Model) -> None:
        """The model is again what it was after so many steps."""
        if not self._within:
            return
        if count < self._older.count:
            self.begin(model)
            return
        # Numbers of steps are not given twice: a state that is kept elsewhere is known by the steps before it.
        gone = self.count - count
        del self._steps[count - self._older.count :]
        self._steps += [_Step(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64), []) for _ in range(gone)]
        if self._newer.count > count:
            self._newer = self._older
        self._events = sum(len(step) for step in self._steps[self._newer.count - self._older.count :])
        self._wrong = {at for at in self._wrong if at[0] < count}
        self._rows = None

    def hear(self, said: Iterable[Amendment]) -> int:
        """Take note of labels that take the place of others, the newest last; the model is wrong until it has learned
        again. Gives how many are of events that are too long ago, or that the model is without."""
        words = {(int(partition), int(offset)): label for partition, offset, label in said}
        beyond = 0
        rows = self._by_origin() if words else {}
        for origin, label in words.items():
            at = rows.get(origin)
            if at is None:
                beyond += 1
                continue
            step = self._steps[at[0] - self._older.count]
            if step.labels[at[1]] != label:
                step.labels[at[1]] = label
                self._wrong.add(at)
        return beyond

    def make_good(self, model: Model, fetch: Fetch, wanted: Sequence[int] = ()) -> Made:
        """Make the model what it would be if the labels had been at first what they are now; ``wanted`` are numbers of
        steps after which its state is asked for."""
        wrong = sorted(self._wrong)
        if not wrong:
            return Made((), 0, True, {})
        first = wrong[0][0]
        places = []
        for number, row in wrong:
            partition, offset = self._steps[number - self._older.count].places[row].tolist()
            places.append((Partition(partition), Offset(offset)))
        mark = self._newer if self._newer.count <= first else self._older
        # The state is copied, since the model goes on to change what it is given.
        model.load(copy.deepcopy(mark.state))
        count, events, is_finite, states = mark.count, 0, True, {}
        for batch in self._again(mark.count, fetch):
            if batch is not None:
                possible = model.takes(batch)
                batch = batch if possible is None else batch.rows(possible)
                if len(batch):
                    is_finite = model.learn(batch).finite and is_finite
                    events += len(batch)
            count += 1
            if count in wanted and count > first:
                states[count] = model.save()
            if count == self._newer.count and count > first:
                self._newer = _Mark(count, model.save())
        self._wrong = set()
        return Made(tuple(places), events, is_finite, states)

    def needed(self) -> Position:
        """The oldest offset in each partition that is read then."""
        oldest: Position = {}
        for step in self._steps:
            for partition in np.unique(step.places[:, 0]).tolist():
                first = Offset(int(step.places[step.places[:, 0] == partition, 1].min()))
                oldest[Partition(partition)] = min(first, oldest.get(Partition(partition), first))
        return oldest

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and arrays."""
        if not self._within:
            return {}, {}
        values: dict[str, Any] = {
            "steps": [
                [step.places.ravel().tolist(), step.origins.ravel().tolist(), step.labels] for step in self._steps
            ],
            "older": [self._older.count, self._older.state.values],
            "newer": [self._newer.count, self._newer.state.values],
            "wrong": [list(place) for place in sorted(self._wrong)],
        }
        arrays = {f"older/{name}": array for name, array in self._older.state.arrays.items()}
        if self._newer is not self._older:
            arrays |= {f"newer/{name}": array for name, array in self._newer.state.arrays.items()}
        return values, arrays

    def load(self, values: Mapping[str, Any], arrays: Arrays, model: Model) -> None:
        """Become what was saved, or begin anew where nothing was."""
        if not self._within or "steps" not in values:
            self.begin(model)
            return
        self._model = model
        self._older = _Mark(values["older"][0], State(values["older"][1], _inside("older/", arrays)))
        self._newer = self._older
        if values["newer"][0] != values["older"][0]:
            self._newer = _Mark(values["newer"][0], State(values["newer"][1], _inside("newer/", arrays)))
        self._steps = [
            _Step(
                np.array(places, np.int64).reshape(-1, 2),
                np.array(origins, np.int64).reshape(-1, 2),
                # A set of classes comes back as a list.
                [tuple(label) if isinstance(label, list) else label for label in labels],
            )
            for places, origins, labels in values["steps"]
        ]
        self._events = sum(len(step) for step in self._steps[self._newer.count - self._older.count :])
        self._wrong = {(number, row) for number, row in values["wrong"]}
        self._rows = None

    def _forget_before_newer(self) -> int:
        """The newer state is the older one from now on; what is still wrong before it stays so for good. Gives how many
        events that are."""
        count = self._newer.count - self._older.count
        del self._steps[:count]
        self._older = self._newer
        before = len(self._wrong)
        self._wrong = {at for at in self._wrong if at[0] >= self._older.count}
        return before - len(self._wrong)

    def _by_origin(self) -> dict[tuple[int, int], tuple[int, int]]:
        if self._rows is None:
            self._rows = {
                (partition, offset): (number, row)
                for number, step in enumerate(self._steps, self._older.count)
                for row, (partition, offset) in enumerate(step.origins.tolist())
                if partition >= 0
            }
        return self._rows

    def _again(self, count: int, fetch: Fetch) -> Iterator[Batch | None]:
        """The steps after so many, each as it was, from the log; None for one of which nothing is left."""
        run: list[_Step] = []
        for step in self._steps[count - self._older.count :]:
            run.append(step)
            if sum(map(len, run)) >= FETCHED_AT_ONCE:
                yield from _batches(run, fetch)
                run = []
        yield from _batches(run, fetch)


def _batches(steps: Sequence[_Step], fetch: Fetch) -> Iterator[Batch | None]:
    keeps = [np.array([row for row, label in enumerate(s.labels) if label is not None], np.intp) for s in steps]
    labels = [step.labels[row] for step, keep in zip(steps, keeps, strict=True) for row in keep.tolist()]
    if not labels:
        yield from [None] * len(steps)
        return
    places = np.concatenate([step.places[keep] for step, keep in zip(steps, keeps, strict=True)])
    origins = np.concatenate([step.origins[keep] for step, keep in zip(steps, keeps, strict=True)])
    whole = replace(labelled_again(places, labels, [None] * len(labels), fetch), origins=origins)
    start = 0
    for keep in keeps:
        yield whole.rows(slice(start, start + len(keep))) if len(keep) else None
        start += len(keep)


def _inside(prefix: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
