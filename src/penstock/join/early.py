"""Answers that come before the record of their question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from penstock.events import Batch, Offset, Partition
from penstock.join.interface import Told
from penstock.join.labelled import labels_of
from penstock.join.recent import told_as
from penstock.replies import Incumbent

BEFORE: tuple[Any, ...] = (Partition(-1), Offset(-1), None)
"""What a checkpoint does not say of an answer that was saved when less was kept of each."""


class Answer(NamedTuple):
    """One event of feedback."""

    label: Told | None
    source: str | None
    since: float
    partition: Partition
    offset: Offset
    incumbent: Incumbent | None = None

    @classmethod
    def of(cls, saved: Sequence[Any]) -> Answer:
        """As it was saved."""
        label, source, since, *more = saved
        partition, offset, incumbent = [*more, *BEFORE[len(more) :]]
        return cls(told_as(label), source, since, partition, offset, told_as(incumbent))

    def corrected_by(self, newer: Answer) -> Answer:
        """The same with what was said of it since: the newest word counts, as far as it goes."""
        incumbent = self.incumbent if newer.incumbent is None else newer.incumbent
        return self._replace(label=newer.label, source=newer.source, incumbent=incumbent)


def told_with(asked: Batch, answers: Sequence[Answer]) -> Batch:
    """These questions with their answers, as feedback that comes later is to `labelled`."""
    incumbents = [answer.incumbent for answer in answers]
    return replace(
        asked,
        labels=labels_of([answer.label for answer in answers]),
        sources=[answer.source for answer in answers],
        incumbents=None if incumbents == [None] * len(answers) else incumbents,
    )
