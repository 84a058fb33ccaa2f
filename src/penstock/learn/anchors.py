"""Anchors: labelled events that are never learned, by which it is seen what fast updates forget. Pure.

Some events, by a hash of their place in the log, are kept back from whoever learns the stream: the fast tier, the heads
that are rebuilt on a new base, and bases themselves. Of those a bounded sample stays, alike over classes and slices,
over regimes and over time (`penstock.learn.slow.pool`). A regime is what lies between two drifts: it begins where the
drift detector places the change. After so many labelled events the model answers all anchors. What it has lost of a
class, a slice or a regime is how much less often it is right on their anchors than it used to be: of each anchor the
mean over all looks since it came, so that nobody is held to his luckiest day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch
from penstock.learn.amendments import Amendments
from penstock.learn.groups import Groups, Key, Numbers, has_classes, named
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
GROUP_MIN = 8
"""Anchors of a class, a slice or a regime from which on it is looked at by itself."""
CHANCE = 0.05
"""Of calling anything forgotten by luck, over all classes, slices and regimes and all looks together."""
REGIMES_MAX = 8
"""Regimes that are told apart; where there are more, the oldest are one."""
ARRIVALS_MAX = 256
"""The newest anchors, of which it is known when they came: a change is noticed some time after it."""
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
    labelled: int = 0
    """Labelled events that were learned so far."""
    groups: list[Key] = []
    """Classes and slices, in the order in which they came."""
    came: list[int] = []
    """How many anchors of each came so far."""
    classes: list[str] = []
    """The same of a state of before there were slices."""
    regime: int = 0
    """Changes of the stream that were noticed."""
    arrivals: list[int] = []
    """Labelled events before each of the newest anchors."""
    live: dict[str, tuple[int, float]] = {}
    """Of each group in the stream since the last look, by its name: events, and the sum of what what is served gained
    on them. Of all events under an empty name."""
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
        self._groups = Groups(spec)
        self._waiting: list[tuple[Batch, Array]] = []
        """Events of the stream, and what was gained on each, that are not counted yet."""

    def take(self, batch: Batch) -> None:
        """These events are anchors from now on, as far as there is room."""
        self._count()
        batch, state = as_example(batch), self._state
        places = np.arange(state.count, state.count + len(batch), dtype=np.int64)
        state.count += len(batch)
        state.arrivals = [*state.arrivals, *[state.labelled] * len(batch)][-ARRIVALS_MAX:]
        # Of each anchor: how often it was answered right since it came, at how many looks, and its regime.
        history = np.tile(np.array([np.nan, 0.0, state.regime], np.float32), (len(batch), 1))
        strata = self._rarest(batch) * REGIMES_MAX + self._slot(history[:, 2])
        self._pool.add(Kept(batch, places, history), strata, hashed(_SALT, places), self._span)
        self._pool.settle(self._span, 3)

    def change(self, events: int) -> None:
        """The stream has changed so many labelled events ago: another regime began then."""
        state, kept = self._state, self._pool.kept()
        state.regime += 1
        if kept is None or not len(kept):
            return
        came = [place for place, at in enumerate(state.arrivals) if at >= state.labelled - events]
        first = state.count - len(state.arrivals) + came[0] if came else state.count
        history = kept.logits.copy()
        history[kept.places >= first, 2] = state.regime
        self._pool.note(history)
        # Regimes that are not told apart any more are one stratum.
        self._pool.sort_anew(lambda strata: strata // REGIMES_MAX * REGIMES_MAX + self._slot(history[:, 2]))

    def learned(self, events: int) -> bool:
        """So many labelled events were learned; whether it is time to look."""
        self._state.labelled += events
        self._state.since += events
        if self._state.since < LOOK_EVENTS:
            return False
        self._state.since = 0
        return True

    def compared(self, batch: Batch, gains: Array) -> None:
        """(n,) loss of the last known good version minus that of what is served, on these events of the stream."""
        self._waiting.append((batch, gains))

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
        self._count()
        kept, state = self._pool.kept(), self._state
        assert kept is not None, "there is no anchor"
        usual, looks = kept.logits[:, 0].astype(np.float64), kept.logits[:, 1]
        state.looks += 1
        groups = self._places(kept)
        # Over all looks the chances of 1 / (k (k + 1)) sum to 1.
        nats = math.log(state.looks * (state.looks + 1) * max(len(groups), 1) / CHANCE)
        found = Forgotten(anchors=len(kept), groups=len(groups))
        for name, places in groups.items():
            known = places[looks[places] >= KNOWN_LOOKS]
            lost = usual[known] - scores[known]
            mean = float(lost.mean()) if len(known) >= GROUP_MIN else 0.0
            if mean > found.lost:
                shown = evidence(float(usual[known].mean()), float(scores[known].mean()), len(known)) > nats
                if shown or not found.is_shown:
                    events, gained = self._lived(name, kept.batch.rows(places))
                    found = msgspec.structs.replace(
                        found,
                        lost=mean,
                        of=name,
                        of_anchors=len(known),
                        is_shown=shown,
                        live_events=events,
                        live_gain=gained / max(events, 1),
                    )
        fresh = looks + 1.0
        means = np.where(looks > 0, np.nan_to_num(usual) + (scores - np.nan_to_num(usual)) / fresh, scores)
        history = np.column_stack([means, fresh, kept.logits[:, 2]]).astype(np.float32)
        if found.is_shown:
            # What is refused, or accepted as lost, is no usual answer.
            places = groups[found.of]
            history[places] = kept.logits[places]
            known, of_good = places[looks[places] >= KNOWN_LOOKS], good()
            if of_good is not None:
                found = msgspec.structs.replace(found, than_good=float((of_good[known] - scores[known]).mean()))
        self._pool.note(history)
        state.forgotten, state.live = found, {}
        return found

    def accept(self, of: str) -> None:
        """What is lost of this class, slice or regime stays lost: how often its anchors are answered right is known
        anew from here."""
        kept = self._pool.kept()
        if kept is not None:
            history = kept.logits.copy()
            history[self._places(kept).get(of, np.empty(0, np.intp)), :2] = np.nan, 0.0
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
        self._count()
        values: dict[str, Any] = msgspec.to_builtins(self._state)
        return values, self._pool.save("anchors") if self.kept is not None else {}

    def load(self, values: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        self._state = msgspec.convert(values, _State)
        groups = self._state.groups or [("", name) for name in self._state.classes]
        self._state.groups, self._state.classes = groups, []
        self._state.came += [0] * (len(groups) - len(self._state.came))
        self._groups.load(groups)
        self._waiting = []
        self._pool.load("anchors", arrays)
        # Anchors of before there were regimes are of the first.
        self._pool.settle(self._span, 3)

    @property
    def _span(self) -> int:
        """Spans grow with the stream, so that there are always between eight and sixteen."""
        return SPAN_EVENTS * max(1, 1 << max(0, (self._state.count // SPAN_EVENTS).bit_length() - 4))

    def _count(self) -> None:
        """Count what was gained on events that wait for it: many are counted for the price of a few. It does not depend
        on when this is done, as long as no group comes in between."""
        waiting, self._waiting = self._waiting, []
        keys, live = self._groups.keys, self._state.live
        for batch, gains in waiting:
            numbers = self._groups.of(batch)
            known = np.unique(numbers[numbers >= 0]).tolist()
            parts = [(named(keys[number]), (numbers == number).any(axis=1)) for number in known]
            for name, inside in [*parts, ("", np.ones(len(batch), bool))]:
                events, gained = live.get(name, (0, 0.0))
                live[name] = events + int(inside.sum()), gained + float(gains[inside].sum())

    def _rarest(self, batch: Batch) -> Numbers:
        """(n,) of the groups of each event the one that the fewest anchors had so far, counted from 1; 0 of none."""
        state, numbers = self._state, self._groups.of(batch, fresh=True)
        state.groups = self._groups.keys
        state.came += [0] * (len(state.groups) - len(state.came))
        found = np.zeros(len(batch), np.int64)
        for row, own in enumerate(numbers.tolist()):
            known = [number for number in own if number >= 0]
            found[row] = min(known, key=lambda number: (state.came[number], number)) + 1 if known else 0
            for number in known:
                state.came[number] += 1
        return found

    def _slot(self, regimes: NDArray[np.float32]) -> Numbers:
        """(n,) the place among those told apart of each regime."""
        oldest = max(0, self._state.regime - REGIMES_MAX + 1)
        return np.maximum(np.nan_to_num(regimes).astype(np.int64) - oldest, 0)

    def _places(self, kept: Kept) -> dict[str, NDArray[np.intp]]:
        """Places of the anchors of each class, slice and regime that has enough of them; of all under an empty name
        where there are no classes."""
        found = {} if has_classes(kept.batch) else {"": np.arange(len(kept))}
        columns = self._groups.of(kept.batch).T
        for number, key in enumerate(self._groups.keys):
            found[named(key)] = np.flatnonzero((columns == number).any(axis=0))
        if self._state.regime:
            slots, newest = self._slot(kept.logits[:, 2]), self._state.regime
            for slot in range(min(newest, REGIMES_MAX - 1) + 1):
                number = newest - min(newest, REGIMES_MAX - 1) + slot
                name = f"regimes up to {number + 1}" if slot == 0 and number > 0 else f"regime {number + 1}"
                found[name] = np.flatnonzero(slots == slot)
        return {name: places for name, places in found.items() if len(places) >= GROUP_MIN or not name}

    def _lived(self, of: str, anchors: Batch) -> tuple[int, float]:
        """Events of a group that came since the last look, and what was gained on them. Of a regime, which is over,
        those of the classes that its anchors have."""
        live = self._state.live
        if not of.startswith("regime"):
            return live.get(of, (0, 0.0))
        if not has_classes(anchors):
            return live.get("", (0, 0.0))
        found = [live.get(named(("", name)), (0, 0.0)) for name in dict.fromkeys(cast("list[str]", anchors.labels))]
        return sum(events for events, _ in found), sum(gained for _, gained in found)


def evidence(usual: float, now: float, anchors: int) -> float:
    """Nats against a mean score of ``now`` being luck where ``usual`` is what is expected: the chance is at most
    exp(-n KL(now, usual)) for scores in [0, 1] (Hoeffding 1963, theorem 1)."""
    expected = (usual * anchors + 0.5) / (anchors + 1.0)
    if now >= expected:
        return 0.0
    parts = ((now, expected), (1.0 - now, 1.0 - expected))
    return anchors * sum(share * math.log(share / of) for share, of in parts if share > 0.0)


def scores_of(predictor: Predictor, classes: tuple[ClassName, ...], events: Batch, scale: float | None) -> Array:
    """(n,) 1 where the class is right and 0 where not; of numbers and sets of classes one minus the loss."""
    parts = []
    for at in range(0, len(events), _ASK):
        part = events.rows(slice(at, at + _ASK))
        said = predictor.predict(part)
        if has_classes(part):
            parts.append(right(said, cast("list[ClassName]", part.labels), classes))
        else:
            parts.append(1.0 - predictor.losses(said, part, scale))
    return np.concatenate(parts)
