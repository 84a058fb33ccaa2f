"""Which event ids were seen lately, so that a sender who asks again does not send twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class SeenIds:
    """The last ``size`` to twice ``size`` ids. Two sets that take turns cost less than one set with an order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._young: set[str] = set()
        self._old: set[str] = set()

    def add(self, event_id: str) -> bool:
        """Remember an id; False where it was known."""
        if event_id in self._young or event_id in self._old:
            return False
        self._young.add(event_id)
        if len(self._young) >= self._size:
            self._old, self._young = self._young, set()
        return True

    def add_all(self, ids: Sequence[str | None]) -> list[int] | None:
        """Remember these; the places of those that were not known, and of missing ones, None where that is all."""
        fresh = set(ids)
        # The usual case, a batch of new ids, takes no step of Python for an event.
        if (
            None not in fresh
            and len(fresh) == len(ids)
            and len(self._young) + len(fresh) < self._size
            and self._young.isdisjoint(fresh)
            and self._old.isdisjoint(fresh)
        ):
            self._young.update(fresh)  # type: ignore[arg-type]
            return None
        places = [place for place, event_id in enumerate(ids) if event_id is None or self.add(event_id)]
        return None if len(places) == len(ids) else places

    def forget(self, ids: Iterable[str]) -> None:
        """These were not accepted after all."""
        self._young.difference_update(ids)
        self._old.difference_update(ids)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
