"""Penstock's tiers in one process, as the running system puts them together: learn, consolidate, shadow, promote.

Events are learned in steps. After so many a base is trained on what the reservoir kept, heads are rebuilt on it from
all events so far, and the candidate learns every step beside what is served until the gate promotes it or gives it up.
A consolidation takes no time in the stream: it is over before the next event comes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import numpy as np

from penstock.cli.benchmarks.forget_data import Codes, Suite
from penstock.control.due import AFTER_DRIFT_MAX, AFTER_DRIFT_SHARE
from penstock.errors import BaseMissing
from penstock.events import Batch, Version
from penstock.gate.interface import ShadowVerdict
from penstock.gate.shadow import ShadowWatch
from penstock.learn.drift import DriftDetector
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Base, Bases, Embedded
from penstock.learn.slow.base import OnnxBase
from penstock.learn.slow.judge import judge
from penstock.learn.slow.rebuild import rebuild
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.train import Training, train_base
from penstock.spec import Spec

ANSWERED = 1024
"""Events that are answered at once."""


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from the default in an ablation."""

    training: dict[str, float] = {}
    """Fields of `Training`."""
    ewc: float = 0.0
    base_features: bool = True
    """Whether heads read the base's features; without, the base's own answers are mixed in all the same."""
    random_features: int | None = None
    gate: bool = True
    """Whether a new base has to earn its promotion."""


class Events(msgspec.Struct, kw_only=True):
    """What happened in a run."""

    consolidations: int = 0
    promoted: int = 0
    given_up: int = 0
    training_s: float = 0.0
    rebuilding_s: float = 0.0
    said: list[str] = []
    """The gate's reasons."""


def specified(suite: Suite, variant: Variant, *, every: int, seed: int) -> Spec:
    """The service, all settings at their defaults but these."""
    spec = suite.spec
    learn = msgspec.structs.replace(spec.learn, seed=seed)
    if variant.random_features is not None:
        learn = msgspec.structs.replace(learn, random_features=variant.random_features)
    consolidate = msgspec.structs.replace(spec.consolidate, every_events=every, ewc=variant.ewc, device="cpu")
    # As the defaults have it: a candidate that has shown nothing by the time of the next one makes room for it.
    gate = msgspec.structs.replace(spec.gate, shadow_events_max=every)
    return msgspec.structs.replace(spec, learn=learn, consolidate=consolidate, gate=gate)


class FastTier:
    """The fast tier alone."""

    def __init__(self, suite: Suite, spec: Spec) -> None:
        self._suite, self._spec = suite, spec
        self._model = FastModel(spec)
        self.events = Events()

    def learn(self, batch: Batch) -> None:
        """One step."""
        self._model.learn(batch)

    def end_task(self) -> None:
        """Nobody tells it that a task has ended."""

    def answers(self, batch: Batch) -> Codes:
        """(n,) the most probable codes; -1 before anything was learned."""
        return answered(self._suite, self._model, self._spec, None, batch)


class SlowTier:
    """The slow tier alone: what the newest base answers by itself. It needs no heads, and so no gate between them."""

    def __init__(self, suite: Suite, spec: Spec, variant: Variant) -> None:
        self._suite, self._spec, self._variant = suite, spec, variant
        self._reservoir = Reservoir(spec)
        self._since = 0
        self.base: OnnxBase | None = None
        self.events = Events()

    def learn(self, batch: Batch) -> None:
        """Keep what is to be kept of a step; train when it is time."""
        self.keep(batch)
        self._since += len(batch)
        if self._since >= self._spec.consolidate.every_events:
            self.consolidate()

    def keep(self, batch: Batch) -> None:
        """A step's events are for the next training."""
        self._reservoir.add(batch)

    def consolidate(self) -> OnnxBase:
        """A new base from what was kept."""
        self._since = 0
        began = time.perf_counter()
        settings = msgspec.structs.replace(Training.of(self._spec), **self._variant.training)
        champion = None if self.base is None else self.base.artifact
        trained = train_base(self._spec, self._reservoir, champion=champion, training=settings)
        assert trained is not None, "nothing stops it"
        self.base = OnnxBase(trained.artifact)
        self._reservoir.trained(self.base)
        self.events.consolidations += 1
        self.events.training_s += time.perf_counter() - began
        return self.base

    @property
    def held_out(self) -> Batch | None:
        """Old events that no base is trained on."""
        kept = self._reservoir.held_out
        return None if kept is None else kept.batch

    def end_task(self) -> None:
        """Nobody tells it that a task has ended."""

    def answers(self, batch: Batch) -> Codes:
        """(n,) the most probable codes; -1 before there is a base."""
        if self.base is None:
            return np.full(len(batch), -1)
        shares = self.base.embed(batch).probabilities
        assert shares is not None
        codes: Codes = self._suite.codes(self.base.classes)[shares.argmax(axis=1)]
        return codes


@dataclass
class _Line:
    """A model and the base under it."""

    model: FastModel
    base: Base | None = None


class BothTiers:
    """The default: both tiers, and the gate between them."""

    def __init__(self, suite: Suite, spec: Spec, variant: Variant) -> None:
        self._suite, self._spec, self._variant = suite, spec, variant
        self._slow = SlowTier(suite, spec, variant)
        self._served = _Line(FastModel(spec))
        self._shadow: _Line | None = None
        self._watch = ShadowWatch(msgspec.structs.replace(spec.gate, canary=()))
        self._drifts = DriftDetector()
        self._log: list[Batch] = []
        self._labelled = self._drifted = self._settled = 0
        self.events = self._slow.events

    def learn(self, batch: Batch) -> None:
        """One step: learned by what is served and by its shadow, judged by what both had said before."""
        learned = self._served.model.learn(batch)
        self._log.append(batch)
        self._slow.keep(batch)
        self._labelled += len(batch)
        if self._drifts.take(learned.losses) is not None:
            self._drifted = self._labelled
        shadow = self._shadow
        if shadow is not None:
            beside = shadow.model.learn(batch)
            self._watch.take(learned.losses, beside.losses)
            fault = "" if beside.finite else "its weights are not finite"
            verdict = self._watch.judge(len(batch), fault=fault, may_promote=True)
            if verdict is not None:
                self._settle(verdict)
        elif self._is_due():
            self._consolidate()

    def end_task(self) -> None:
        """Nobody tells it that a task has ended."""

    def answers(self, batch: Batch) -> Codes:
        """(n,) the most probable codes of what is served."""
        return answered(self._suite, self._served.model, self._spec, self._served.base, batch)

    def _is_due(self) -> bool:
        """As `penstock.control.due` decides for a service: by schedule, or when enough has come since a drift."""
        every = self._spec.consolidate.every_events
        enough = min(AFTER_DRIFT_MAX, AFTER_DRIFT_SHARE * every)
        changed = self._drifted > self._settled and self._labelled - self._drifted >= enough
        return changed or self._labelled - self._settled >= every

    def _consolidate(self) -> None:
        """1. Train a base. 2. Rebuild heads on it. 3. Ask held-out events. 4. Put the candidate into shadow."""
        trained = self._slow.consolidate()
        base: Base = trained if self._variant.base_features else AnswersAlone(trained)
        began = time.perf_counter()
        model = rebuild(self._spec, base.id, _only(base), self._log)
        assert model is not None, "nothing stops it"
        held_out = self._slow.held_out
        assert held_out is not None, "training needs it, too"
        model.hear(held_out)
        candidate = _Line(model, base)
        self.events.rebuilding_s += time.perf_counter() - began
        self._shadow = candidate
        if not self._variant.gate:
            self._settle(None)
            return
        judged = judge(self._spec, self._served.model, model, held_out, _only(base, self._served.base))
        refused = self._watch.begin(judged.held_out)
        if refused is not None:
            self._settle(refused)

    def _settle(self, verdict: ShadowVerdict | None) -> None:
        """The shadow is promoted, as without a verdict, or given up."""
        assert self._shadow is not None
        if verdict is None or verdict.action == "promote":
            self._served = self._shadow
            # What the other model lost says nothing of this one.
            self._drifts = DriftDetector()
            self.events.promoted += 1
        else:
            self.events.given_up += 1
        if verdict is not None:
            self.events.said.append(verdict.reason)
        self._shadow, self._settled = None, self._labelled
        self._watch.end()


class AnswersAlone:
    """A base without its features: one more opinion, and nothing for the heads to read."""

    def __init__(self, base: OnnxBase) -> None:
        self._base = base
        self.id, self.width, self.classes = f"{base.id}-answers", 0, base.classes
        self.configuration = base.configuration

    def embed(self, batch: Batch) -> Embedded:
        """Its answers to n events."""
        found = self._base.embed(batch)
        return Embedded(features=found.features[:, :0], probabilities=found.probabilities, mean=found.mean)


def _only(*bases: Base | None) -> Bases:
    """A finder that knows these."""
    known = {base.id: base for base in bases if base is not None}

    def find(base_id: str) -> Base:
        try:
            return known[base_id]
        except KeyError:
            raise BaseMissing(id=base_id, reason="it is under none of the models") from None

    return find


def answered(suite: Suite, model: FastModel, spec: Spec, base: Base | None, batch: Batch) -> Codes:
    """(n,) the most probable codes by the block that a server would get; -1 where the model knows no class."""

    if not model.classes:
        return np.full(len(batch), -1)
    predictor = BlockPredictor(model.freeze(Version(1), {}), spec, _only(base))
    found = []
    for at in range(0, len(batch), ANSWERED):
        shares = predictor.predict(batch.rows(slice(at, at + ANSWERED))).probabilities
        assert shares is not None
        found.append(shares.argmax(axis=1))
    codes: Codes = suite.codes(model.classes)[np.concatenate(found)]
    return codes
