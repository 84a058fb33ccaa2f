"""Whether a service answers as the apprentice of another system, which every answer says."""

from __future__ import annotations

import msgspec

from penstock.publish.interface import LiveReader
from penstock.spec import Spec

Of = str | msgspec.UnsetType


class Role:
    """What one service is, as the learner has reported it last."""

    def __init__(self, spec: Spec, live: LiveReader) -> None:
        self._settings = spec.gate.apprentice
        self._live = live
        self.of: Of = msgspec.UNSET if self._settings is None else self._settings.of
        """The system whose answers are to be used; not set where it is the service's own."""

    def look(self) -> None:
        """Read it again. Until a learner has said otherwise of this system, it is an apprentice."""
        if self._settings is None:
            return
        told = self._live.progress().apprentice
        has_graduated = told is not None and told.of == self._settings.of and not told.is_apprentice
        self.of = msgspec.UNSET if has_graduated else self._settings.of
