"""Members of the mixture that are no heads: the door that they come through, and all of a model's side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch
from penstock.learn.fast.anchor import Anchor
from penstock.learn.fast.encode import Encoder
from penstock.spec import Spec

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


class Answering(Protocol):
    """One or more members as servers have them. Neither clocks nor files, and no randomness but from counters."""

    @property
    def members(self) -> int:
        """How many it is."""
        ...

    def answer(self, batch: Batch, classes: int | None) -> Array:
        """(n, classes, members) probabilities. Of numbers, where there are no classes at all (None), (n, members)
        means, in the label's unit and counted from where the anchor is."""
        ...

    def thaw(self, arrays: Arrays) -> None:
        """Answer as the one did whose `frozen` arrays are among these."""
        ...


class Expert(Answering, Protocol):
    """The same members as the learner has them: the same events in the same steps give the same bytes."""

    def learn(self, batch: Batch, targets: NDArray[Any]) -> None:
        """From a step's events, after they were answered: (n,) places of their classes, or outcomes from where the
        anchor is."""
        ...

    def frozen(self) -> dict[str, NDArray[Any]]:
        """What answering needs, as later learning does not change it."""
        ...

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The whole state: plain values and arrays."""
        ...

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Become what was saved."""
        ...


class Outside(Protocol):
    """Members that a service names and that nobody here knows. Both are handed how events are encoded, and what
    outcomes are measured from; both of which change as the model learns."""

    def learning(self, stage: tuple[Encoder, Anchor]) -> Sequence[Expert]:
        """As the learner has them, knowing nothing yet."""
        ...

    def answering(self, stage: tuple[Encoder, Anchor]) -> Sequence[Answering]:
        """As servers have them."""
        ...


def named_outside(spec: Spec, outside: Outside | None) -> Outside | None:
    """What the service names, where it names any. Raises ValueError where that was not given."""
    if spec.learn.members and outside is None:
        raise ValueError(f"service {spec.name!r} names members that were not handed to its model")
    return outside if spec.learn.members else None


def answers(experts: Sequence[Answering], batch: Batch, classes: int | None, first: Array) -> Array:
    """What all of them say, behind what another has said already: (n, classes, members) or (n, members)."""
    if not experts:
        return first
    if len(experts) == 1 and not first.shape[-1]:
        return experts[0].answer(batch, classes)
    return np.concatenate((first, *(expert.answer(batch, classes) for expert in experts)), axis=-1)
