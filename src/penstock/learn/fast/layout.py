"""Which heads there are: the columns of the one weight array, and what each column remembers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.afford import COUNTS, affordable
from penstock.learn.fast.stack import HALF_LIVES
from penstock.spec import NUMBER_TASKS, Spec

BASES = 2
"""Members before the heads: what is usual lately, and what was usual ever."""
WIDE = 256
"""Inputs (pixels, an embedding's entries, a text's buckets) from which a service is wide: what a head learns by second
order costs the square of what it reads for each event, and the cube for each solution. Heads that forget then read the
inputs and what is made of them apart, and only what forgets nothing reads all."""
SCARCE = 4
"""Random features, for each event of a half-life, beyond which a head that remembers no longer does not read them: it
has too few events for so many weights, and the linear one of the same memory follows as quickly."""
VERY_WIDE = 512
"""Inputs from which heads that forget leave them out: evidence for so many weights comes more slowly than it fades.
What changes quickly is left to the first-order head there, and to what a base and the random features make of it."""
LONGEST = 2
"""Memories that read VERY_WIDE inputs for numbers, which have no first-order head: the longest."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Heads in the order of their columns: linear ones, those of all features, and for classes the first-order one."""

    memories: tuple[float, ...]
    """Half-lives told apart; the last is infinite."""
    linear: tuple[float, ...]
    """Half-lives of the heads that read the inputs alone; empty where there are no random features (and fewer than WIDE
    inputs, so that others read them), or VERY_WIDE inputs."""
    brief: tuple[float, ...]
    """Half-lives of the heads that read all features but the inputs, where there are WIDE of these."""
    rich: tuple[float, ...]
    """Half-lives of the heads that read all features."""
    exact: int | None
    """The column of the ridge head on one-hot targets with infinite memory, the last of the rich; None in
    regression."""
    first_order: int | None
    """The column of the AdaGrad head; None in regression."""
    random_features: int = 0
    """Random features beside the inputs."""
    counts: bool = False
    """Whether heads say logarithms of rates."""
    sets: bool = False
    """Whether heads say of each class by itself whether it is there."""
    others: int = 0
    """Members that are no columns: the stable base alone, where there is one, and experts."""
    stable: int = 0
    """How many of these, the first ones, are the stable base."""
    above: int = 0
    """Members made of those, the last ones: their mixture, and stacks of them and it; none where the answer
    is not one class."""

    @classmethod
    def of(cls, spec: Spec, others: int = 0, inputs: int = 0, stable: int = 0) -> Layout:
        """What a service's settings describe, with so many members beside it, of whom so many are the stable base, and
        so many inputs."""
        asked = spec.learn.random_features
        if asked != "auto":
            return cls._with(asked, spec, others, inputs, stable)
        every = [cls._with(count, spec, others, inputs, stable) for count in (0, *COUNTS)]
        return affordable(spec, every[0], every[1:], inputs)

    @classmethod
    def _with(cls, random_features: int, spec: Spec, others: int, inputs: int, stable: int) -> Layout:
        infinite = float("inf")
        half_lives = tuple(spec.learn.half_lives)
        linear = half_lives if random_features else ()
        brief: tuple[float, ...] = ()
        rich = tuple(h for h in half_lives if SCARCE * h >= random_features)
        if not rich and spec.task in NUMBER_TASKS:
            rich = (max(half_lives),)
        if inputs >= WIDE:
            very = inputs >= VERY_WIDE
            linear = () if very else half_lives
            brief = half_lives
            rich = tuple(sorted(half_lives)[-(LONGEST if very else 1) :]) if spec.task in NUMBER_TASKS else ()
        memories = (*(h for h in half_lives if h != infinite), infinite)
        if spec.task in NUMBER_TASKS:
            return cls(
                memories=memories,
                linear=linear,
                brief=brief,
                rich=rich,
                exact=None,
                first_order=None,
                random_features=random_features,
                counts=spec.task == "counts",
                others=others,
            )
        rich = (*rich, infinite)
        columns = len(linear) + len(brief) + len(rich)
        return cls(
            memories=memories,
            linear=linear,
            brief=brief,
            rich=rich,
            exact=columns - 1,
            first_order=columns,
            sets=spec.task == "multilabel",
            random_features=random_features,
            others=others,
            stable=stable,
            above=0 if spec.task == "multilabel" else 1 + len(HALF_LIVES),
        )

    @property
    def heads(self) -> int:
        """Columns."""
        return self.columns + (self.first_order is not None)

    @property
    def below(self) -> int:
        """Members that know something of their own: two bases, the heads, and the others."""
        return BASES + self.heads + self.others

    @property
    def members(self) -> int:
        """Those, and what is made of them."""
        return self.below + self.above

    @property
    def columns(self) -> int:
        """Columns that learn by second order: all but the first-order one."""
        return len(self.linear) + len(self.brief) + len(self.rich)

    @property
    def decays(self) -> NDArray[np.float64]:
        """(memories,) what an event's weight is multiplied by with each later event."""
        return np.array([2.0 ** (-1.0 / half_life) for half_life in self.memories])
