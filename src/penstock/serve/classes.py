"""How many classes a multiclass service has, so that one too many is refused where its sender still hears of it."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.errors import BadEvent
from penstock.publish.interface import LiveReader
from penstock.serve.forms import TEXT_MAX
from penstock.spec import ClassName, Spec


class KnownClasses:
    """The classes that the model has or will have: declared, learned, or accepted and not learned yet."""

    def __init__(self, spec: Spec, live: LiveReader) -> None:
        self._grows = spec.task == "multiclass"
        self._most = spec.label.classes_max
        self._live = live
        self._known: set[ClassName] = set(spec.label.classes)

    def remember(self, labels: Iterable[ClassName]) -> None:
        """These were accepted before."""
        if self._grows:
            self._known.update(labels)

    def admit(self, labels: Iterable[ClassName]) -> None:
        """Make these known. Raises BadEvent where they would be more than ``label.classes_max``."""
        if not self._grows:
            return
        asked = set(labels)
        if asked <= self._known:
            return
        # Another worker may have accepted what the model knows by now. A new class is rare enough to look.
        block = self._live.block()
        if block is not None:
            self._known.update(block.head.classes)
        new = asked - self._known
        if any(len(name) > TEXT_MAX for name in new):
            raise BadEvent(f"A class has at most {TEXT_MAX} characters or digits", pointer="/label")
        if len(self._known) + len(new) > self._most:
            raise BadEvent(
                f"Label {min(new)!r} is a new class, and the service has {len(self._known)} of the {self._most} that "
                "label.classes_max allows",
                pointer="/label",
            )
        self._known |= new
