"""A small model and a gate that follows a script: real enough to be replayed to the byte, small enough to be read at
once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Offset, Partition, Version
from penstock.gate.interface import Evidence, Interval, Order, ShadowVerdict, Verdict
from penstock.learn.interface import Block, BlockHead, Heard, HeldOut, Learned, Predictions, State
from penstock.learn.steps import CanaryCounts
from penstock.spec import ClassName


class SmallPredictor:
    """Softmax over linear scores of the number columns."""

    def __init__(self, block: Block) -> None:
        self._weights: NDArray[np.float64] = block.arrays["weights"]
        self._classes = block.head.classes

    def predict(self, batch: Batch) -> Predictions:
        return Predictions(probabilities=_softmax(_columns(batch) @ self._weights))

    def losses(self, predictions: Predictions, batch: Batch, scale: float | None = None) -> NDArray[np.float64]:
        return _losses(predictions, _targets(batch, list(self._classes)))


class SmallModel:
    """Softmax regression by gradient descent on each step's mean; classes are added as they come. A state says its rate
    and the id of its base, which is a name and nothing else."""

    def __init__(self, columns: int, rate: float = 0.5) -> None:
        self._rate = rate
        self._base = ""
        self._classes: list[ClassName] = []
        self._weights = np.zeros((columns + 1, 0))
        self._steps = 0

    def takes(self, batch: Batch) -> NDArray[np.intp] | None:
        """All of them."""
        return None

    def learn(self, batch: Batch) -> Learned:
        columns = _columns(batch)
        predictions = Predictions(probabilities=_softmax(columns @ self._weights))
        losses = _losses(predictions, _targets(batch, self._classes))
        labels: Any = batch.labels
        fresh = [name for name in dict.fromkeys(labels) if name not in self._classes]
        self._classes += fresh
        self._weights = np.hstack([self._weights, np.zeros((len(self._weights), len(fresh)))])
        wanted = np.eye(len(self._classes))[_targets(batch, self._classes)]
        change = self._rate * columns.T @ (wanted - _softmax(columns @ self._weights)) / len(batch)
        jump = float(np.abs(change).max() / max(1.0, np.abs(self._weights).max(initial=0.0)))
        self._weights = self._weights + change
        self._steps += 1
        return Learned(predictions, losses, bool(np.isfinite(self._weights).all()), jump)

    def freeze(self, version: Version, position: dict[Partition, Offset]) -> Block:
        head = BlockHead(
            version=version,
            position=position,
            task="multiclass",
            schema="small",
            classes=tuple(self._classes),
            base=self._base,
        )
        return Block(head, {"weights": self._weights.copy()})

    def save(self) -> State:
        values = {"classes": list(self._classes), "steps": self._steps, "rate": self._rate, "base": self._base}
        return State(values, {"weights": self._weights.copy()})

    def load(self, state: State) -> None:
        self._classes = list(state.values["classes"])
        self._steps = state.values["steps"]
        self._rate, self._base = state.values["rate"], state.values["base"]
        self._weights = state.arrays["weights"].copy()


class ScriptedGate:
    """Says what its script says, over and over, whatever the evidence: ``publish``, ``probation`` (publish, and go on
    probation), ``good`` (publish; who is on probation becomes good), ``hold`` or ``roll_back``; ``promote``,
    ``widen`` and ``give_up`` (publish, where there is no shadow). A shadow that forgot more than a tenth is refused,
    and one that servers could not answer with is given up. ``apart`` (probation, and take out what source ``b`` sent)
    sets it aside until the script says ``believe`` (publish)."""

    def __init__(self, script: Sequence[str]) -> None:
        self._script = tuple(script)
        self._looks = 0
        self._total = 0.0
        self._shadow_events = -1
        """-1 while there is no shadow."""
        self._doubted: tuple[str | None, ...] = ()
        self._by_hand = ""

    def judge(self, evidence: Evidence) -> Verdict:
        word = self._script[self._looks % len(self._script)]
        word = "hold" if self._by_hand else word
        self._looks += 1
        for losses in (evidence.candidate, evidence.served, evidence.good, evidence.probation, evidence.shadow):
            self._total += 0.0 if losses is None else float(losses.sum())
        n = len(evidence.candidate)
        gain = float((evidence.served - evidence.candidate).mean())
        shadow = self._judge_shadow(word, evidence)
        if word in ("apart", "believe"):
            self._doubted = ("b",) if word == "apart" else ()
        return Verdict(
            action=word if word in ("hold", "roll_back") else "publish",  # type: ignore[arg-type]
            reason=f"look {self._looks} says {word}; all losses so far are {self._total!r}",
            gain=Interval(mean=gain, low=gain - 1.0, high=gain + 1.0, events=n),
            good=word == "good",
            probation=word in ("probation", "apart") or (shadow is not None and shadow.action == "promote"),
            shadow=shadow,
            take_out=("b",) if word == "apart" else (),
        )

    @property
    def doubted(self) -> tuple[str | None, ...]:
        return self._doubted

    def hear(self, heard: Heard | CanaryCounts) -> ShadowVerdict | None:
        if isinstance(heard, Heard):
            self._total += float(heard.losses.sum())
            return None
        self._total += heard.asked
        if self._shadow_events < 0 or not heard.failed:
            return None
        told = self._told_of_shadow("give_up")
        self._shadow_events = -1
        return told

    def obey(self, order: Order, told: str) -> Verdict | None:
        self._total += len(told)
        if order in ("hold", "resume"):
            self._by_hand = told if order == "hold" else ""
            return Verdict(action="hold" if self._by_hand else "publish", reason=told, probation=not self._by_hand)
        if self._shadow_events < 0:
            return Verdict(action="roll_back", reason=told) if order == "roll_back" else None
        shadow = self._told_of_shadow("give_up" if order == "roll_back" else "promote")
        self._shadow_events = -1
        action: Any = "roll_back" if order == "roll_back" else "publish"
        return Verdict(action=action, reason=told, probation=action == "publish", shadow=shadow)

    def begin_shadow(self, claim: HeldOut) -> ShadowVerdict | None:
        if claim.forgotten > 0.1:
            return self._told_of_shadow("give_up")
        self._shadow_events = 0
        return None

    def shadow_so_far(self) -> ShadowVerdict | None:
        return None if self._shadow_events < 0 else self._told_of_shadow("give_up")

    def _judge_shadow(self, word: str, evidence: Evidence) -> ShadowVerdict | None:
        if evidence.shadow is None:
            return None
        self._shadow_events += len(evidence.shadow)
        if word not in ("promote", "give_up", "widen"):
            return None
        told = self._told_of_shadow(word)
        if word == "widen":
            own = 0 if evidence.own is None else int(evidence.own.sum())
            return ShadowVerdict(
                action="widen",
                reason=told.reason,
                gain=told.gain,
                evidence=1.0,
                events=told.events,
                share=0.25 + own / 1024,
                own=told.gain,
            )
        self._shadow_events = -1
        return told

    def _told_of_shadow(self, action: Any) -> ShadowVerdict:
        events = max(0, self._shadow_events)
        interval = Interval(mean=0.0, low=-1.0, high=1.0, events=events)
        return ShadowVerdict(
            action=action, reason=f"The script says {action}.", gain=interval, evidence=1.0, events=events
        )

    def save(self) -> dict[str, Any]:
        return {
            "looks": self._looks,
            "total": self._total,
            "shadow_events": self._shadow_events,
            "doubted": list(self._doubted),
            "by_hand": self._by_hand,
        }

    def load(self, state: dict[str, Any]) -> None:
        self._looks, self._total, self._shadow_events = state["looks"], state["total"], state["shadow_events"]
        self._doubted, self._by_hand = tuple(state["doubted"]), state["by_hand"]


def _columns(batch: Batch) -> NDArray[np.float64]:
    return np.hstack([np.nan_to_num(batch.numbers), np.ones((len(batch), 1))])


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if not scores.shape[1]:
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _targets(batch: Batch, classes: Sequence[ClassName]) -> NDArray[np.intp]:
    """(n,) column of each label, -1 for a class without one."""
    places = {name: place for place, name in enumerate(classes)}
    labels: Any = batch.labels
    return np.array([places.get(label, -1) for label in labels], np.intp)


def _losses(predictions: Predictions, targets: NDArray[np.intp]) -> NDArray[np.float64]:
    """(n,) one minus the probability of the label."""
    assert predictions.probabilities is not None
    losses = np.ones(len(targets))
    known = targets >= 0
    losses[known] -= predictions.probabilities[np.flatnonzero(known), targets[known]]
    return losses
