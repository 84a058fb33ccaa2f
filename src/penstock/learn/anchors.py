"""Anchors: labelled events that are never learned, by which it is seen what fast updates forget. Pure.

Some events, by a hash of their place in the log, are kept back from whoever learns the stream: the fast tier, the heads
that are rebuilt on a new base, and bases themselves. Of those a bounded sample stays, alike over classes and over
time (`penstock.learn.slow.pool`). After so many labelled events the model answers all of them. What it has lost of a
class is how much less often it is right on the class's anchors than it used to be: of each anchor the mean over all
looks since it came, so that nobody is held to his luckiest day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch
from penstock.learn.amendments import Amendments
from penstock.learn.interface import Forgotten, Predictor
from penstock.learn.prequential import right
from penstock.learn.slow.pool import Kept, Pool
from penstock.learn.slow.reservoir import as_example, hashed
from penstock.spec import ClassName, Spec

Array = NDArray[np.float64]

SHARE_FIRST, SHARE_LAST = 1.0 / 32.0, 1.0 / 256.0
"""Of the events that are kept back: the first 8,192 of a partition, and from its 65,536th on."""
FIRST_EVENTS = 256.0
"""Between them the share falls as so many divided by the offset."""
LOOK_EVENTS = 512
"""Labelled events between two looks: no version becomes good without one, so they are no rarer than a probation."""
KNOWN_LOOKS = 3
"""Looks after which it is known how often an anchor is answered right."""
CLASS_MIN = 8
"""Anchors of a class from which on it is looked at by itself."""
CHANCE = 0.05
"""Of calling anything forgotten by luck, over all classes and all looks together."""
SPAN_EVENTS = 64
"""Anchors of a span of time: as many are kept of each."""
_ASK = 512
_SALT = 0x616E63686F72
"""Anchors are not the events that are held out from bases."""


class _State(msgspec.Struct, kw_only=True):
    """What is kept beside the anchors themselves."""

    count: int = 0
    """Anchors that came so far."""
    since: int = 0
    """Labelled events since the last look."""
    looks: int = 0
    classes: list[str] = []
    live: dict[str, tuple[int, float]] = {}
    """Of each class in the stream since the last look: events, and the sum of what what is served gained on them."""
    forgotten: Forgotten | None = None
    """What the last look saw."""


def kept_back(spec: Spec, batch: Batch) -> NDArray[np.bool_] | None:
    """(n,) which events are not to be learned by anybody, since they may be anchors; None for none."""
    if not spec.gate.anchors or batch.places is None:
        return None
    partitions, offsets = batch.places[:, 0].astype(np.int64), batch.places[:, 1]
    share = np.clip(FIRST_EVENTS / (offsets + 1.0), SHARE_LAST, SHARE_FIRST)
    keys = hashed(spec.learn.seed ^ _SALT, offsets + (partitions << 48))
    found: NDArray[np.bool_] = keys.astype(np.float64) * 2.0**-64 < share
    return found if found.any() else None


class Anchors:
    """The anchors of one service."""

    def __init__(self, spec: Spec) -> None:
        self._pool = Pool(max(spec.gate.anchors, 1))
        self._state = _State()
        self._numbers: dict[str, int] = {}

    def take(self, batch: Batch) -> None:
        """These events are anchors from now on, as far as there is room."""
        batch, state = as_example(batch), self._state
        places = np.arange(state.count, state.count + len(batch), dtype=np.int64)
        state.count += len(batch)
        # Of each anchor: how often it was answered right since it came, and at how many looks.
        history = np.tile(np.array([np.nan, 0.0], np.float32), (len(batch), 1))
        self._pool.add(Kept(batch, places, history), self._strata(batch), hashed(_SALT, places), self._span)
        self._pool.settle(self._span, 2)

    def learned(self, events: int) -> bool:
        """So many labelled events were learned; whether it is time to look."""
        self._state.since += events
        if self._state.since < LOOK_EVENTS:
            return False
        self._state.since = 0
        return True

    def compared(self, labels: Sequence[Any], gains: Array) -> None:
        """(n,) loss of the last known good version minus that of what is served, on events of the stream."""
        for label, gain in zip(labels, gains.tolist(), strict=True):
            name = label if isinstance(label, str) else ""
            events, total = self._state.live.get(name, (0, 0.0))
            self._state.live[name] = events + 1, total + gain

    @property
    def kept(self) -> Batch | None:
        """The anchors, the oldest first; None without any."""
        kept = self._pool.kept()
        return kept.batch if kept is not None and len(kept) else None

    @property
    def newest(self) -> Forgotten | None:
        """What the last look saw."""
        return self._state.forgotten

    def look(self, scores: Array, good: Callable[[], Array | None]) -> Forgotten:
        """(n,) what the model scores on the anchors, and what says the same of the last known good version, which is
        asked where something is lost; says what was lost, and takes note of the scores that are in order."""
        kept, state = self._pool.kept(), self._state
        assert kept is not None, "there is no anchor"
        usual, looks = kept.logits[:, 0].astype(np.float64), kept.logits[:, 1]
        state.looks += 1
        groups = self._groups(kept.batch)
        # Over all looks the chances of 1 / (k (k + 1)) sum to 1.
        nats = math.log(state.looks * (state.looks + 1) * max(len(groups), 1) / CHANCE)
        found = Forgotten(anchors=len(kept))
        for name, places in groups.items():
            known = places[looks[places] >= KNOWN_LOOKS]
            lost = usual[known] - scores[known]
            mean = float(lost.mean()) if len(known) >= CLASS_MIN else 0.0
            if mean > found.lost:
                shown = evidence(float(usual[known].mean()), float(scores[known].mean()), len(known)) > nats
                events, gained = state.live.get(name, (0, 0.0))
                if shown or not found.is_shown:
                    found = Forgotten(
                        anchors=len(kept),
                        lost=mean,
                        of_class=name,
                        of_anchors=len(known),
                        is_shown=shown,
                        live_events=events,
                        live_gain=gained / max(events, 1),
                    )
        fresh = looks + 1.0
        means = np.where(looks > 0, np.nan_to_num(usual) + (scores - np.nan_to_num(usual)) / fresh, scores)
        history = np.column_stack([means, fresh]).astype(np.float32)
        if found.is_shown:
            # What is refused, or accepted as lost, is no usual answer.
            places = groups[found.of_class]
            history[places] = kept.logits[places]
            known, of_good = places[looks[places] >= KNOWN_LOOKS], good()
            if of_good is not None:
                found = msgspec.structs.replace(found, than_good=float((of_good[known] - scores[known]).mean()))
        self._pool.note(history)
        state.forgotten, state.live = found, {}
        return found

    def accept(self, of_class: str) -> None:
        """What is lost of this class stays lost: how often its anchors are answered right is known anew from here."""
        kept = self._pool.kept()
        if kept is not None:
            history = kept.logits.copy()
            history[self._groups(kept.batch).get(of_class, np.empty(0, np.intp))] = np.nan, 0.0
            self._pool.note(history)

    def without(self, sources: Collection[str | None]) -> None:
        """What these sources sent is an anchor no more."""
        kept = self._pool.kept()
        if kept is not None:
            said = kept.batch.sources or [None] * len(kept)
            self._pool.erase(np.flatnonzero([source in sources for source in said]))

    def amend(self, amendments: Amendments) -> None:
        """Let go of anchors whose labels were corrected or taken back: what they were scored by is not so."""
        kept = self._pool.kept()
        places = [] if kept is None else amendments.places(kept.batch)
        if places:
            self._pool.erase(np.array(places, np.intp))

    def erase(self, ids: Collection[str]) -> int:
        """Let go of the anchors with these ids; how many there were."""
        kept = self._pool.kept()
        names = () if kept is None else kept.batch.ids or ()
        places = np.array([place for place, name in enumerate(names) if name in ids], np.intp)
        if len(places):
            self._pool.erase(places)
        return len(places)

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values that survive MessagePack, and arrays whose names begin with ``anchors.``."""
        values: dict[str, Any] = msgspec.to_builtins(self._state)
        return values, self._pool.save("anchors") if self.kept is not None else {}

    def load(self, values: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        self._state = msgspec.convert(values, _State)
        self._numbers = {name: number for number, name in enumerate(self._state.classes)}
        self._pool.load("anchors", arrays)

    @property
    def _span(self) -> int:
        """Spans grow with the stream, so that there are always between eight and sixteen."""
        return SPAN_EVENTS * max(1, 1 << max(0, (self._state.count // SPAN_EVENTS).bit_length() - 4))

    def _strata(self, batch: Batch) -> NDArray[np.int64]:
        if not _has_classes(batch):
            return np.zeros(len(batch), np.int64)
        for name in cast("list[ClassName]", batch.labels):
            if name not in self._numbers:
                self._numbers[name] = len(self._numbers)
                self._state.classes.append(name)
        labels = cast("list[ClassName]", batch.labels)
        return np.fromiter((self._numbers[name] for name in labels), np.int64, len(batch))

    def _groups(self, batch: Batch) -> dict[str, NDArray[np.intp]]:
        """Places of the anchors of each class that has enough; of all under an empty name where there are no
        classes."""
        if not _has_classes(batch):
            return {"": np.arange(len(batch))}
        labels = np.array(batch.labels)
        groups = {name: np.flatnonzero(labels == name) for name in self._numbers}
        return {name: places for name, places in groups.items() if len(places) >= CLASS_MIN}


def evidence(usual: float, now: float, anchors: int) -> float:
    """Nats against a mean score of ``now`` being luck where ``usual`` is what is expected: the chance is at most
    exp(-n KL(now, usual)) for scores in [0, 1] (Hoeffding 1963, theorem 1)."""
    expected = (usual * anchors + 0.5) / (anchors + 1.0)
    if now >= expected:
        return 0.0
    parts = ((now, expected), (1.0 - now, 1.0 - expected))
    return anchors * sum(share * math.log(share / of) for share, of in parts if share > 0.0)


def _has_classes(batch: Batch) -> bool:
    return isinstance(batch.labels, list) and bool(batch.labels) and isinstance(batch.labels[0], str)


def scores_of(predictor: Predictor, classes: tuple[ClassName, ...], events: Batch, scale: float | None) -> Array:
    """(n,) 1 where the class is right and 0 where not; of numbers and sets of classes one minus the loss."""
    parts = []
    for at in range(0, len(events), _ASK):
        part = events.rows(slice(at, at + _ASK))
        said = predictor.predict(part)
        if _has_classes(part):
            parts.append(right(said, cast("list[ClassName]", part.labels), classes))
        else:
            parts.append(1.0 - predictor.losses(said, part, scale))
    return np.concatenate(parts)
