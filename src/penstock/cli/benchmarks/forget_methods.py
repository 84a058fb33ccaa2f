"""All methods of `penstock bench forget` by name, behind one small door, and one run of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from penstock.cli.benchmarks.forget_data import Amount, Codes, Suite, Task, load
from penstock.cli.benchmarks.forget_metrics import Scores, scores
from penstock.events import Batch
from penstock.learn.fast.encode import Encoder

if TYPE_CHECKING:
    from penstock.cli.benchmarks.forget_ours import Events
    from penstock.cli.benchmarks.forget_peers import Inputs, Naive

PEER_STEP = 32
WIDE = 256
"""Inputs beyond which our steps are long: a step costs as much as several hundred events then, whatever it holds."""
STEP, WIDE_STEP = 32, 256
CONSOLIDATIONS = 12
"""In a stream by schedule, as the default of one every 20,000 events makes in 240,000; they do not fall together with
the ends of tasks. A drift that is noticed brings further ones, as in a running service."""
LOOKS = 4
"""Moments within each task at which all tasks' samples are answered."""
SAMPLED = 200
"""Events of each test that are answered at those moments."""


class Method(Protocol):
    """What learns the tasks."""

    def learn(self, batch: Batch) -> None:
        """One step of events, each seen once."""
        ...

    def end_task(self) -> None:
        """A task is over; what is not a reference from the literature does nothing about it."""
        ...

    def answers(self, batch: Batch) -> Codes:
        """(n,) the codes that it would answer now; -1 for none."""
        ...


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A method's name, what it is, and whether it runs unless something else is asked for."""

    how: str
    is_ours: bool = True
    is_ablation: bool = False
    tier: str = ""
    variant: dict[str, object] = {}
    """Fields of `forget_ours.Variant`."""


def _ablation(how: str, **variant: object) -> About:
    return About(how=how, is_ablation=True, tier="both", variant=variant)


_NETWORK = "perceptron with two hidden layers of 256, plain gradient descent at 0.05"
METHODS: dict[str, About] = {
    "naive": About(how=f"{_NETWORK}; nothing against forgetting", is_ours=False),
    "ewc": About(
        how="the same with online elastic weight consolidation, weight 100, told where tasks end", is_ours=False
    ),
    "replay": About(how="the same with a reservoir of 5,000 events, as many replayed as learned", is_ours=False),
    "der_plus_plus": About(how="the same with DER++: a reservoir of 2,000, labels and logits, each 0.5", is_ours=False),
    "penstock_fast": About(how="the fast tier alone", tier="fast"),
    "penstock_slow": About(how="the slow tier alone: what the newest base answers", tier="slow"),
    "penstock": About(how="both tiers with the gate between them, the default", tier="both"),
    "penstock_no_gate": _ablation("every new base is promoted at once", gate=False),
    "penstock_no_replay": _ablation("bases are trained on recent events alone", training={"alpha": 0.0, "beta": 0.0}),
    "penstock_no_distillation": _ablation("replay without logits", training={"alpha": 0.0}),
    "penstock_ewc": _ablation("replay, logits, and elastic weight consolidation of weight 1", ewc=1.0),
    "penstock_ewc_alone": _ablation(
        "elastic weight consolidation of weight 1 and no replay", ewc=1.0, training={"alpha": 0.0, "beta": 0.0}
    ),
    "penstock_no_base_features": _ablation("heads do not read the base; its answers are mixed in", base_features=False),
    "penstock_no_random_features": _ablation("heads read inputs and base alone", random_features=0),
}
OURS = "penstock"
USUAL = tuple(METHODS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One run: what a process is told to do."""

    method: str
    suite: str
    folder: Path | None
    amount: Amount
    seed: int
    every: int | None
    """Events from one consolidation to the next; None for so many that there are ``consolidations``."""
    consolidations: int = CONSOLIDATIONS


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    name: str
    """Of the suite, as it turned out to be."""
    about: str
    scores: Scores
    matrix: list[list[float]]
    """R[i][j]: accuracy on the test of task j after task i."""
    seconds: float
    """In learning, consolidations included; answering and preparing events are not."""
    events: int
    step: int
    every: int = 0
    consolidations: int = 0
    promoted: int = 0
    given_up: int = 0
    training_s: float = 0.0
    rebuilding_s: float = 0.0
    said: list[str] = []


class _Peer:
    """A network from the literature, fed the numbers that our encoder makes of a text, and images as they are."""

    def __init__(self, suite: Suite, build: Callable[[int, int, int], Naive], seed: int) -> None:
        self._suite = suite
        self._encoder = Encoder(suite.spec)
        width = suite.spec.features["pixels"].width if "pixels" in suite.spec.features else self._encoder.width
        assert width is not None
        self._scale = 1.0 if "pixels" in suite.spec.features else float(np.sqrt(width))
        """Rows of n-grams have length 1; networks learn from numbers of the order of 1 each."""
        self._network = build(width, len(suite.classes), seed)

    def _inputs(self, batch: Batch) -> Inputs:
        if batch.vectors:
            return batch.vectors[0]
        return (self._encoder.encode(batch) * self._scale).astype(np.float32)

    def learn(self, batch: Batch) -> None:
        inputs, codes = self._inputs(batch), self._suite.codes(batch.labels)  # type: ignore[arg-type]
        for at in range(0, len(codes), PEER_STEP):
            self._network.learn(inputs[at : at + PEER_STEP], codes[at : at + PEER_STEP])

    def end_task(self) -> None:
        self._network.end_task()

    def answers(self, batch: Batch) -> Codes:
        return self._network.answers(self._inputs(batch))


def once(order: Order) -> Run:
    """Learn one suite with one method in this process."""
    suite = load(order.suite, order.folder, order.amount, order.seed)
    about = METHODS[order.method]
    total = sum(len(task.train) for task in suite.tasks)
    every = order.every or max(1, round(total / order.consolidations))
    width = suite.spec.features["pixels"].width if "pixels" in suite.spec.features else 0
    step = PEER_STEP if not about.is_ours else WIDE_STEP if (width or 0) > WIDE else STEP
    method, events = _made(order, suite, about, every)
    matrix, looks, seconds = follow(method, suite, step)
    happened = {} if events is None else {name: getattr(events, name) for name in events.__struct_fields__}
    return Run(
        name=suite.name,
        about=suite.about,
        scores=scores(matrix, 1.0 / len(suite.classes), looks),
        matrix=matrix.tolist(),
        seconds=seconds,
        events=total,
        step=step,
        every=every if about.tier in ("slow", "both") else 0,
        **happened,
    )


def _made(order: Order, suite: Suite, about: About, every: int) -> tuple[Method, Events | None]:
    if not about.is_ours:
        from penstock.cli.benchmarks.forget_peers import PEERS

        return _Peer(suite, PEERS[order.method], order.seed), None
    from penstock.cli.benchmarks.forget_ours import BothTiers, FastTier, SlowTier, Variant, specified

    variant = msgspec.convert(about.variant, Variant)
    spec = specified(suite, variant, every=every, seed=order.seed)
    match about.tier:
        case "fast":
            fast = FastTier(suite, spec)
            return fast, fast.events
        case "slow":
            slow = SlowTier(suite, spec, variant)
            return slow, slow.events
    both = BothTiers(suite, spec, variant)
    return both, both.events


def follow(
    method: Method, suite: Suite, step: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], np.ndarray[tuple[int, int], np.dtype[np.float64]], float]:
    """Learn all tasks in their order: (T, T) accuracies after each, those at other moments (`forget_metrics.scores`),
    and the seconds spent on learning."""
    tasks = suite.tasks
    samples = [Task(task.name, task.train, task.test.rows(slice(0, SAMPLED))) for task in tasks]
    matrix, looks, spent = np.zeros((len(tasks), len(tasks))), [], 0.0
    for number, task in enumerate(tasks):
        steps = [task.train.rows(slice(at, at + step)) for at in range(0, len(task.train), step)]
        moments = {len(steps) * part // (LOOKS + 1) for part in range(1, LOOKS + 1)}
        for done, batch in enumerate(steps):
            if done in moments and number:
                looks.append([float(number), *(_accuracy(method, suite, other.test) for other in samples)])
            began = time.perf_counter()
            method.learn(batch)
            spent += time.perf_counter() - began
        began = time.perf_counter()
        method.end_task()
        spent += time.perf_counter() - began
        matrix[number] = [_accuracy(method, suite, other.test) for other in tasks]
    return matrix, np.array(looks).reshape(len(looks), len(tasks) + 1), spent


def _accuracy(method: Method, suite: Suite, test: Batch) -> float:
    return float((method.answers(test) == suite.codes(test.labels)).mean())  # type: ignore[arg-type]
