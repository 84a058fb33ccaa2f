"""The stable base as the fast tier sees it: features before all others, and one member of the mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BaseMissing
from penstock.events import Batch
from penstock.learn.configuration import Configuration
from penstock.learn.interface import Base, Bases, Embedded
from penstock.spec import ClassName, Spec

Array = NDArray[np.float64]


def found(bases: Bases | None, base_id: str) -> Base | None:
    """The base of this id; None for the empty id. Raises BaseMissing."""
    if not base_id:
        return None
    if bases is None:
        raise BaseMissing(id=base_id, reason="no place was given where bases are")
    return bases(base_id)


@dataclass(frozen=True, slots=True)
class ConfigurationAlone:
    """A base without a network, which adds neither features nor a member: settings of the fast tier that stand on
    none."""

    id: str
    configuration: Configuration
    width: int = 0
    classes: tuple[ClassName, ...] = ()

    def embed(self, batch: Batch) -> Embedded:
        """Nothing, in no columns."""
        return Embedded(features=np.empty((len(batch), 0)))


@dataclass(frozen=True, slots=True)
class Stable:
    """A base or none, and what of it goes where."""

    base: Base | None = None

    @property
    def id(self) -> str:
        """Empty without a base."""
        return "" if self.base is None else self.base.id

    @property
    def width(self) -> int:
        """Features that it puts before the others."""
        return 0 if self.base is None else self.base.width

    @property
    def members(self) -> int:
        """Members that it adds to the mixture: itself alone."""
        return int(self.base is not None and not isinstance(self.base, ConfigurationAlone))

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes that it knows."""
        return () if self.base is None else self.base.classes

    def configured(self, spec: Spec) -> Spec:
        """The service with the settings that are in force on this base."""
        configuration = None if self.base is None else self.base.configuration
        return spec if configuration is None else configuration.applied(spec)

    def embed(self, batch: Batch) -> Embedded:
        """What the base makes of n events; nothing, in no columns, without one."""
        return Embedded(features=np.empty((len(batch), 0))) if self.base is None else self.base.embed(batch)

    def probabilities(self, embedded: Embedded, index: Mapping[ClassName, int], classes: int) -> Array:
        """(n, classes, members) of the base alone, in the model's order of classes; zero for those it does not know."""
        answers = np.zeros((len(embedded.features), classes, self.members))
        if self.base is not None and self.members:
            assert embedded.probabilities is not None
            answers[:, [index[name] for name in self.base.classes], 0] = embedded.probabilities
        return answers

    def rates(self, embedded: Embedded) -> Array:
        """(n, members) mean counts of the base alone, which knows nothing of counts and may say less than none."""
        if not self.members:
            return np.empty((len(embedded.features), 0))
        assert embedded.mean is not None
        rates: Array = np.maximum(embedded.mean, 0.0)[:, None]
        return rates

    def means(self, embedded: Embedded, anchors: Array, centre: float, unit: float) -> Array:
        """(n, members) of the base alone, in standard units of what is beyond the (n,) anchors."""
        if not self.members:
            return np.empty((len(anchors), 0))
        assert embedded.mean is not None
        means: Array = ((embedded.mean - anchors - centre) / unit)[:, None]
        return means
