"""What was learned since the last known good version: it can be learned again from there without some of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Offset, Partition, Position, Strings, concatenate
from penstock.join.interface import Told
from penstock.learn.quarantine import Aside, Place, Reason, origin_of

Fetch = Callable[[Partition, Sequence[Offset]], Batch]
"""Reads events of one partition at ascending offsets again from the log, as examples without a label."""

AGAIN_EVENTS = 16
"""Events of one step when steps are learned again: many of one event each would take ten times as long."""
FETCHED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class _Step:
    """The events of one step that were learned."""

    places: NDArray[np.int64]
    labels: list[Any]
    sources: Strings | None
    origins: NDArray[np.int64]
    """(n, 2) of what gave each its label."""
    vouched: bool = False
    """Whether somebody has vouched for them: they are not taken out with their source."""

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, keep: list[int]) -> _Step:
        """The events in these rows."""
        sources = self.sources and [self.sources[row] for row in keep]
        labels = [self.labels[row] for row in keep]
        return _Step(self.places[keep], labels, sources, self.origins[keep], self.vouched)


class LearnedLately:
    """Steps since the version that is known to be good, at most so many events of them: the oldest go first.

    Which version that is follows the line of versions: one goes on probation, and may become good."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._steps: list[_Step] = []
        self._events = 0
        self._first = 0
        """Number of the first step that is kept."""
        self._good = 0
        """Number of the first step that the good version has not learned."""
        self._probation = 0
        self._withdrawn = 0
        """Steps before this number, as far as they are kept, were withdrawn by a rollback."""

    def add(self, batch: Batch, *, vouched: bool = False) -> None:
        """One more step was learned; with ``vouched`` it stays whatever its sources do."""
        if batch.places is None:
            return
        labels: Any = batch.labels
        told = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
        origins = np.full((len(batch), 2), -1, np.int64) if batch.origins is None else batch.origins
        self._steps.append(_Step(batch.places, told, batch.sources, origins, vouched))
        self._events += len(batch)
        while self._events > self._events_max:
            self._forget_until(self._first + 1)

    def begin_probation(self) -> None:
        """The version after the newest step is on probation."""
        self._probation = self._first + len(self._steps)

    def become_good(self) -> None:
        """The version on probation is good."""
        self._good = self._probation
        self._forget_until(self._good)

    def roll_back(self) -> None:
        """The model is the good version again."""
        self._withdrawn = self._first + len(self._steps)

    def begin_anew(self) -> None:
        """Nothing that was learned so far is ever learned again: somebody has withdrawn it by hand."""
        self._good = self._probation = self._withdrawn = self._first + len(self._steps)
        self._forget_until(self._good)

    def resume(self) -> None:
        """What was learned after a rollback is published: what was withdrawn by it stays out."""
        self._forget_until(self._withdrawn)

    def relabel(self, said: Mapping[Place, Told | None]) -> None:
        """Events have other labels than those with which they were learned, or none, by what had given them theirs."""
        for number, step in enumerate(self._steps):
            origins = [(Partition(p), Offset(o)) for p, o in step.origins.tolist()]
            if said.keys().isdisjoint(origins):
                continue
            labels = [said.get(origin, label) for origin, label in zip(origins, step.labels, strict=True)]
            self._steps[number] = replace(step, labels=labels).rows([r for r, n in enumerate(labels) if n is not None])
        self._events = sum(map(len, self._steps))

    def without(self, sources: Collection[str | None], told: str, time: float) -> tuple[Aside, ...]:
        """Forget what these sources sent; returns it as rows of the quarantine."""
        gone: list[Aside] = []
        kept: list[_Step] = []
        reason: Reason = "suspicious"
        for step in self._steps:
            said = step.sources or [None] * len(step)
            out = np.array([source in sources and not step.vouched for source in said], np.bool_)
            for row in np.flatnonzero(out).tolist():
                partition, offset = step.places[row].tolist()
                origin = origin_of(step.origins[row].tolist())
                gone.append(
                    Aside(Partition(partition), Offset(offset), reason, told, said[row], step.labels[row], time, origin)
                )
            kept.append(step.rows(np.flatnonzero(~out).tolist()))
        self._steps, self._events = kept, sum(map(len, kept))
        return tuple(gone)

    def again(self, fetch: Fetch) -> Iterator[Batch]:
        """The steps that are kept, from the log, neighbours together where they are short."""
        self._forget_until(self._good)
        run: list[_Step] = []
        for step in self._steps:
            run.append(step)
            if sum(map(len, run)) >= FETCHED_AT_ONCE:
                yield from _batches(run, fetch)
                run = []
        yield from _batches(run, fetch)

    def needed(self) -> Position:
        """The oldest offset in each partition that is read then."""
        oldest: Position = {}
        for step in self._steps:
            for partition in np.unique(step.places[:, 0]).tolist():
                first = Offset(int(step.places[step.places[:, 0] == partition, 1].min()))
                oldest[Partition(partition)] = min(first, oldest.get(Partition(partition), first))
        return oldest

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        steps = [
            [step.places.ravel().tolist(), step.labels, step.sources, step.vouched, step.origins.ravel().tolist()]
            for step in self._steps
        ]
        return {"steps": steps, "marks": [self._first, self._good, self._probation, self._withdrawn]}

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._steps = [
            # A set of classes comes back as a list.
            _Step(
                np.array(flat, np.int64).reshape(-1, 2),
                [tuple(label) if isinstance(label, list) else label for label in labels],
                sources,
                # A checkpoint of before labels were corrected does not say what had given them.
                np.array(origins[0] if origins else [-1, -1] * len(labels), np.int64).reshape(-1, 2),
                vouched,
            )
            for flat, labels, sources, vouched, *origins in state["steps"]
        ]
        self._events = sum(map(len, self._steps))
        self._first, self._good, self._probation, self._withdrawn = state["marks"]

    def _forget_until(self, number: int) -> None:
        count = max(0, min(number - self._first, len(self._steps)))
        self._events -= sum(map(len, self._steps[:count]))
        del self._steps[:count]
        self._first += count


def _batches(steps: Sequence[_Step], fetch: Fetch) -> Iterator[Batch]:
    """These steps, none shorter than AGAIN_EVENTS but the last."""
    if not any(map(len, steps)):
        return
    places = np.concatenate([step.places for step in steps])
    labels = [label for step in steps for label in step.labels]
    sources = [source for step in steps for source in step.sources or [None] * len(step)]
    whole = labelled_again(places, labels, sources, fetch)
    start = end = 0
    for step in steps:
        end += len(step)
        if end - start >= AGAIN_EVENTS:
            yield whole.rows(slice(start, end))
            start = end
    if end > start:
        yield whole.rows(slice(start, end))


def labelled_again(places: NDArray[np.int64], labels: Sequence[Any], sources: Strings, fetch: Fetch) -> Batch:
    """The events at these places of the log with these labels, in this order."""
    order = np.lexsort((places[:, 1], places[:, 0]))
    parts = []
    for partition in np.unique(places[:, 0]).tolist():
        offsets = places[order][places[order][:, 0] == partition][:, 1]
        distinct, inverse = np.unique(offsets, return_inverse=True)
        parts.append(fetch(Partition(partition), [Offset(o) for o in distinct.tolist()]).rows(inverse))
    back = np.empty(len(order), np.intp)
    back[order] = np.arange(len(order))
    asked = concatenate(parts).rows(back)
    told: Any = np.array(labels, np.float64) if isinstance(labels[0], float) else list(labels)
    return replace(asked, labels=told, sources=sources if any(s is not None for s in sources) else None)
