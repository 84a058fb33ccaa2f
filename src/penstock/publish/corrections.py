"""Labels that are corrected or taken back after they were learned: what becomes of each, and how many they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.events import Batch, Version
from penstock.join.interface import Amendment, Told
from penstock.learn.interface import Block
from penstock.learn.quarantine import AsideStep, Quarantine
from penstock.learn.steps import CorrectedStep
from penstock.publish.interface import CorrectionCounts
from penstock.publish.line import Line
from penstock.spec import Label

PLACES_TOLD = 8


class Corrections:
    """Takes what feedback says of events that had come before to where they are: set aside, learned lately, or beyond
    what can be learned again."""

    def __init__(self, label: Label, line: Line, quarantine: Quarantine) -> None:
        self._label = label
        self._line = line
        self._quarantine = quarantine
        self._counts = CorrectionCounts()

    @property
    def counts(self) -> CorrectionCounts:
        return msgspec.structs.replace(self._counts, waiting=self._line.wrong)

    @property
    def are_due(self) -> bool:
        """Whether the model has learned labels that are other ones now."""
        return self._line.wrong > 0

    def learned(self, batch: Batch, *, vouched: bool) -> None:
        """These events were learned with the step that is judged now."""
        lost = self._line.learned(batch, vouched=vouched)
        if lost:
            self._count(beyond=lost)

    def hear(self, said: Sequence[Amendment], aside: AsideStep | None) -> AsideStep | None:
        """Take note of these words, the newest last, and say in the step's own what becomes of events set aside."""
        if not said:
            return aside
        words = {(one.partition, one.offset): self._possible(one.label) for one in said}
        moved = self._quarantine.amended(words)
        there = {row.origin for row in self._quarantine.kept} & words.keys()
        beyond = self._line.hear([Amendment(*origin, label) for origin, label in words.items() if origin not in there])
        self._count(beyond=beyond, aside=len(there))
        if not there:
            return aside
        aside = aside or AsideStep()
        return msgspec.structs.replace(aside, relabelled=moved.relabelled, retracted=moved.retracted)

    def make_good(self, version: Version) -> tuple[CorrectedStep, Block | None]:
        """Correct the model, ``version`` being the newest: what the journal says of it, and the block to publish."""
        made, block = self._line.correct(version)
        self._count(applied=len(made.places), again=made.events)
        return CorrectedStep(places=made.places, again=made.events), block

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        plain: dict[str, Any] = msgspec.to_builtins(self._counts)
        return plain

    def load(self, values: dict[str, Any]) -> None:
        """Become what was saved."""
        self._counts = msgspec.convert(values, CorrectionCounts)

    def _possible(self, label: Told | None) -> Told | None:
        """An event whose label cannot be is not learned, so one that gets such a label is let go of."""
        low, high = self._label.min, self._label.max
        if isinstance(label, float) and ((low is not None and label < low) or (high is not None and label > high)):
            return None
        return label

    def _count(self, **more: int) -> None:
        counts = {name: getattr(self._counts, name) + n for name, n in more.items()}
        self._counts = msgspec.structs.replace(self._counts, **counts)


def told(corrected: CorrectedStep) -> str:
    """What was made good, in words."""
    named = ", ".join(f"{partition}:{offset}" for partition, offset in corrected.places[:PLACES_TOLD])
    more = f" and {len(corrected.places) - PLACES_TOLD:,} more" if len(corrected.places) > PLACES_TOLD else ""
    return (
        f"Labels of {counted(len(corrected.places))} learned before are corrected or taken back ({named}{more}), and "
        f"{counted(corrected.again)} learned again with the labels that they have now."
    )


def counted(events: int) -> str:
    """So many events, in words."""
    return f"{events:,} event{'s' * (events != 1)}"
