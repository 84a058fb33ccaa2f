"""The doors of learning: what a model of the fast tier does, and the frozen block of it that servers predict from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Offset, Partition, Strings, Version
from penstock.learn.configuration import Configuration
from penstock.learn.quarantine import Reason
from penstock.spec import ClassName, Task


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is to become of n labelled events."""

    kept: NDArray[np.intp]
    """Ascending rows of those that are to be learned."""
    aside: tuple[tuple[int, Reason, str], ...]
    """The row of each of the others, why it is set aside, and the same in words."""


@dataclass(frozen=True, slots=True)
class Heard:
    """k labelled events from which nothing is learned, and what others have made of them."""

    sources: Strings
    losses: NDArray[np.float64]
    """(k,) in [0, 1], of what was served."""
    good: NDArray[np.float64] | None = None
    """(k,) of the last known good version; None while there is none."""


class Sieve(Protocol):
    """Says before they are learned which events are not to be. Pure."""

    def look(self, batch: Batch, doubted: Collection[str | None]) -> Sifted | None:
        """What is to be set aside of these events, ``doubted`` being the sources that are not believed; None for
        nothing."""
        ...

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        ...


class BlockHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a block says of itself, beside its arrays."""

    version: Version
    position: dict[Partition, Offset]
    """The events that it has learned: everything before these offsets."""
    task: Task
    schema: str
    """Fingerprint of the columns that it reads."""
    classes: tuple[ClassName, ...] = ()
    base: str = ""
    """Id of the base whose features the heads read; empty without one."""
    settings: dict[str, int | float | str | list[int | float | str]] = {}
    """Plain values that the predictor needs and that are no arrays."""


@dataclass(frozen=True, slots=True)
class Block:
    """Everything that a server needs to predict, frozen: encoder statistics, feature maps, heads, mixture, classes."""

    head: BlockHead
    arrays: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Answers for n events: probabilities for a classification, or mean and spread for a regression."""

    probabilities: NDArray[np.float64] | None = None
    """(n, number of classes), rows sum to 1; of several classes together, each is a probability by itself."""
    mean: NDArray[np.float64] | None = None
    """(n,) in the label's unit."""
    spread: NDArray[np.float64] | None = None
    """(n,) predictive standard deviation in the label's unit."""
    low: NDArray[np.float64] | None = None
    """(n,) lower end of the predictive interval."""
    high: NDArray[np.float64] | None = None
    """(n,) upper end of the predictive interval."""
    quantiles: NDArray[np.float64] | None = None
    """(n, levels) in the label's unit, for the levels of the service's ``serve.quantiles``, ascending in every row;
    None where it names none."""
    said: NDArray[np.floating] | None = None
    """(n, w) what each member said, to be kept with the prediction's record until its label comes; None where nothing
    is to be kept."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a base says of n events."""

    features: NDArray[np.float64]
    """(n, width) what the heads read of it, of the order of 1."""
    probabilities: NDArray[np.float64] | None = None
    """(n, number of the base's classes), rows sum to 1 or each by itself, as for `Predictions`; None for a
    regression."""
    mean: NDArray[np.float64] | None = None
    """(n,) in the label's unit; None for a classification."""


class Base(Protocol):
    """The stable base, frozen: never changed by learning, only replaced by another one."""

    @property
    def id(self) -> str:
        """SHA-256 of all that its answers depend on, in hexadecimal: equal ids, equal answers."""
        ...

    @property
    def width(self) -> int:
        """Features that the heads read."""
        ...

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes that it was trained on, in the order of its probabilities; empty for a regression."""
        ...

    @property
    def configuration(self) -> Configuration | None:
        """The settings of the fast tier on top of it; None where they are those of the service file."""
        ...

    def embed(self, batch: Batch) -> Embedded:
        """What it makes of each event. A row's answer does not depend on the other rows, to the byte."""
        ...


Bases = Callable[[str], Base]
"""Finds a base by its id. Raises BaseMissing when it is not there."""


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """What old events say of a candidate, none of which its base has seen in training: answered by it and by the model
    before it."""

    events: int
    gained: int
    """Events that it answers better (right where the other is wrong; with less loss, of a regression)."""
    lost: int
    """Events that it answers worse."""
    forgotten: float
    """What it lost on the class on which it lost most: of its accuracy, or the mean loss's rise of a regression."""
    forgotten_class: str = ""
    of: Literal["new base", "new configuration"] = "new base"
    """What the candidate brings, as verdicts call it. Heads have learned these events, so that they say of a new
    configuration what it has forgotten and not what it has gained: nothing is ``gained`` and ``lost`` then."""


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What a model has lost of what it once knew, by anchors: events that nobody learns."""

    anchors: int
    lost: float = 0.0
    """Accuracy (or, of numbers and sets of classes, loss) on the class, slice or regime that it lost most of, and whose
    loss is shown where any is."""
    of: str = ""
    """Which that is, in words, such as ``class 'b'``; empty for all anchors together."""
    of_anchors: int = 0
    """Its anchors that had been answered before."""
    is_shown: bool = False
    """Whether luck would lose as much with a chance of at most 0.05, over all ``groups`` and looks."""
    groups: int = 0
    """Classes, slices and regimes that were looked at."""
    than_good: float | None = None
    """What the last known good version is right on more of them, where there is one."""
    live_events: int = 0
    """Such events in the stream since the last look; of a regime, events of its classes."""
    live_gain: float = 0.0
    """Loss of the last known good version on them minus that of what is served, an event."""


class Predictor(Protocol):
    """Answers from one frozen block."""

    def predict(self, batch: Batch) -> Predictions:
        """One answer a row; labels in the batch are not looked at. A batch of one row is the fast path."""
        ...

    def losses(self, predictions: Predictions, batch: Batch, scale: float | None = None) -> NDArray[np.float64]:
        """(n,) loss in [0, 1] of each answer against the batch's labels, comparable between versions of one service
        when ``scale`` is the same (`Learned.scale`); without it the version's own."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """A model's whole state: what it needs to go on learning as if it had never stopped, to the byte."""

    values: dict[str, Any]
    """Plain values (str, int, float, bool, list, dict) that survive MessagePack."""
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Learned:
    """What one step did, beside changing the model."""

    predictions: Predictions
    """What the model said of each event before it learned from the step."""
    losses: NDArray[np.float64]
    """(n,) bounded loss of those predictions, in [0, 1]."""
    finite: bool
    """Whether every weight is still a finite number."""
    jump: float
    """The largest change of any weight in this step, in multiples of the largest weight before (1 at least)."""
    scale: float = 1.0
    """What the losses of a regression were measured against: the label's deviation before the step, in its unit. Of
    sets of classes, what sums of squared errors were divided by."""


class Model(Protocol):
    """The fast tier: learns from labelled events in steps, predicting each before it learns from it.

    Deterministic: the same steps give the same bytes. It reads neither clocks nor files."""

    def takes(self, batch: Batch) -> NDArray[np.intp] | None:
        """Places of the events that it can learn from, given what it knows now; None where it takes them all."""
        ...

    def learn(self, batch: Batch) -> Learned:
        """Predict every event of the step, score the predictions, then learn from all of them at once."""
        ...

    def freeze(self, version: Version, position: dict[Partition, Offset]) -> Block:
        """A block that later learning does not touch."""
        ...

    def save(self) -> State:
        """A copy of the whole state."""
        ...

    def load(self, state: State) -> None:
        """Become what was saved."""
        ...
