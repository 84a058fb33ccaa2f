"""Training a base: what goes in, what comes out, and what bounds it. The loop itself needs torch, and is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import LibraryMissing, TrainingFailed
from penstock.events import Batch, concatenate
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.multilabel import targets_of
from penstock.learn.inputs import Seen, seen_of
from penstock.learn.slow.artifact import Artifact, BaseManifest
from penstock.learn.slow.pool import Kept
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.tokens import PREFIX, Tokens
from penstock.spec import NUMBER_TASKS, ClassName, Spec

if TYPE_CHECKING:
    from penstock.learn.slow.frozen import Frozen

Array32 = NDArray[np.float32]

STEP = 1024
"""Events whose statistics are taken in at once."""
ROWS_MAX_BYTES = 512 * 1024**2
"""Inputs that are kept encoded while training; what is larger is encoded again for each step."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How a base is trained. The defaults are those of the ablations in the documentation."""

    batch: int = 64
    """Recent events in a step, and as many replayed ones."""
    rate: float = 1e-3
    """Of AdamW (Loshchilov and Hutter 2019) at the beginning."""
    decay: float = 1e-2
    """Of the weights, in AdamW's sense."""
    round_steps: int = 100
    """Steps between two looks at the held-out events."""
    patience: int = 3
    """Looks without a gain after which the rate falls."""
    falls: int = 1
    """How often the rate falls, to three tenths of itself, before training is over."""
    steps_max: int = 6_000
    alpha: float = 0.1
    """Weight of the squared distance to the logits kept with replayed events (DER++, Buzzega et al. 2020)."""
    beta: float = 2.0
    """Weight of the replayed events' own labels."""
    ewc: float = 0.0
    """Weight of online elastic weight consolidation (Schwarz et al. 2018)."""
    kept: float = 1.0
    """Share of the champion's weights that training begins with; the rest is a fresh beginning."""

    @classmethod
    def of(cls, spec: Spec) -> Training:
        """As the service file says."""
        return cls(ewc=spec.consolidate.ewc)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a training went."""

    steps: int
    replayed: int
    recent: int
    held_out: int
    loss: float
    """Of the best network on the held-out events: cross-entropy, or Huber's loss of standardised labels."""
    loss_before: float
    """Of the network that training began with."""
    losses: list[float] = field(default_factory=list)
    """At each look."""
    seconds: float
    ended: str
    """``converged``, ``steps`` or ``time``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A new base."""

    artifact: Artifact
    report: Report


def never() -> bool:
    """The default for what may stop a training."""
    return False


def train_base(
    spec: Spec,
    reservoir: Reservoir,
    *,
    champion: Artifact | None = None,
    training: Training | None = None,
    seed: int | None = None,
    max_s: float | None = None,
    stop: Callable[[], bool] = never,
    resume: Path | None = None,
) -> Trained | None:
    """Train a base on what the reservoir holds, from the champion's weights where there is one.

    It ends when the held-out events say so, at the latest after ``max_s`` seconds (``consolidate.max_s`` by default;
    the best network so far is what counts then). None where ``stop`` said so before: with ``resume``, a file, the same
    call goes on from there later. On a CPU the same call gives the same bytes, unless time ended it. The reservoir is
    not changed: tell it afterwards (`Reservoir.trained`).

    Raises LibraryMissing without torch, onnx or ONNX Runtime, and TrainingFailed."""
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401

        from penstock.learn.slow import loop
    except ImportError as error:
        raise LibraryMissing(purpose="Training a base", library=error.name or "torch", extra="learn") from error
    task = prepare(spec, reservoir, champion=champion, seed=seed)
    return loop.run(
        task,
        training or Training.of(spec),
        max_s=spec.consolidate.max_s if max_s is None else max_s,
        device=spec.consolidate.device,
        stop=stop,
        resume=resume,
    )


@dataclass(slots=True, kw_only=True)
class Rows:
    """n events as the network reads them, with their answers."""

    batch: Batch
    read: Callable[[Batch], NDArray[Any]]
    width: int
    targets: NDArray[np.int64] | Array32
    """(n,) places of the classes, or standardised labels; (n, classes) 0 and 1 where events have several together."""
    logits: Array32
    """(n, outputs) what an earlier base answered; NaN where none did."""
    _encoded: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.batch)

    def inputs(self, places: NDArray[np.intp]) -> NDArray[Any]:
        """(m, width) inputs of the events at these places."""
        if self._encoded is None and 4 * len(self) * self.width <= ROWS_MAX_BYTES:
            parts = [self.read(self.batch.rows(slice(at, at + STEP))) for at in range(0, len(self), STEP)]
            self._encoded = np.concatenate(parts)
        return self.read(self.batch.rows(places)) if self._encoded is None else self._encoded[places]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One training, all but how it is done."""

    spec: Spec
    kind: str
    inputs: int
    classes: tuple[ClassName, ...]
    centre: float
    unit: float
    encoder: Encoder
    champion: Artifact | None
    seed: int
    replay: Rows
    recent: Rows
    """The replayed ones again where there are no others."""
    held_out: Rows
    frozen: Frozen | None = None
    """The network that is not trained, where only its output layer is."""
    tokenizer: bytes = b""
    """Of the text that is read, where the network is a transformer."""
    seen: Seen | None = None
    """What of its inputs the base is to say that it was trained on."""
    count: int
    """Labelled events that came so far."""

    @property
    def outputs(self) -> int:
        return len(self.classes) or 1

    @property
    def is_regression(self) -> bool:
        return self.spec.task in NUMBER_TASKS

    @property
    def is_set(self) -> bool:
        """Whether each class is a question by itself."""
        return self.spec.task == "multilabel"

    def manifest(self, *, width: int, opset: int) -> BaseManifest:
        """What the new base says of itself."""
        return BaseManifest(
            kind=self.kind,
            inputs="tokens" if self.tokenizer else "encoded" if self.frozen is None else "raw",
            text=first_text(self.spec) if self.tokenizer else "",
            tokens_max=self.inputs if self.tokenizer else 0,
            task=self.spec.task,
            features=self.spec.features,
            classes=self.classes,
            width=width,
            centre=self.centre,
            unit=self.unit,
            parent=self.champion.id if self.champion else "",
            seed=self.seed,
            replayed=len(self.replay),
            recent=0 if self.recent is self.replay else len(self.recent),
            opset=opset,
        )


def prepare(spec: Spec, reservoir: Reservoir, *, champion: Artifact | None, seed: int | None) -> Task:
    """The events encoded, the statistics of their inputs frozen, and the classes put in order. Raises TrainingFailed
    where there is nothing to train on."""
    replay, recent, held_out = reservoir.replay, reservoir.recent, reservoir.held_out
    if replay is None or held_out is None:
        raise TrainingFailed(reason="too few labelled events were kept for replay")
    fitting = champion is not None and (champion.manifest.task, champion.manifest.features) == (
        spec.task,
        spec.features,
    )
    reads = "tokens" if spec.consolidate.base.startswith(PREFIX) else "encoded"
    champion = champion if fitting and champion is not None and champion.manifest.inputs == reads else None
    classes: tuple[ClassName, ...] = ()
    if spec.task not in NUMBER_TASKS:
        before = champion.manifest.classes if champion else ()
        classes = tuple(dict.fromkeys((*before, *spec.label.classes, *reservoir.classes)))
        if len(set(replay.batch.labels or ())) < 2:
            raise TrainingFailed(reason="labelled events of one class alone were seen")
    network = None
    if spec.consolidate.base.endswith(".onnx"):
        from penstock.learn.slow.frozen import frozen

        # Its output layer is all that is trained, and depends on features that are measured anew.
        champion, network = None, frozen(spec, replay.batch)
    encoder = _encoder(spec, champion, replay, recent)
    centre, unit = _scale(spec, champion, replay.batch)
    tokenizer = b""
    if reads == "tokens":
        read, width, tokenizer = _tokens(spec)
    elif network is not None:
        read, width = network.read, len(network.shift)
    else:
        read, width = (lambda batch: encoder.encode(batch).astype(np.float32)), encoder.width

    def rows(kept: Kept) -> Rows:
        targets: NDArray[np.int64] | Array32
        if spec.task in NUMBER_TASKS:
            targets, logits = _measured(kept, centre, unit)
        else:
            targets, logits = _placed(kept, spec, classes, reservoir.classes)
        return Rows(batch=kept.batch, read=read, width=width, targets=targets, logits=logits)

    replayed = rows(replay)
    return Task(
        spec=spec,
        kind=spec.consolidate.base,
        inputs=width,
        frozen=network,
        tokenizer=tokenizer,
        classes=classes,
        centre=centre,
        unit=unit,
        encoder=encoder,
        champion=champion,
        seed=spec.learn.seed if seed is None else seed,
        replay=replayed,
        recent=replayed if recent is None else rows(recent),
        held_out=rows(held_out),
        seen=seen_of(spec, None if recent is None else recent.batch, replay.batch),
        count=reservoir.count,
    )


def _tokens(spec: Spec) -> tuple[Callable[[Batch], NDArray[Any]], int, bytes]:
    """What reads a text for a transformer, how many tokens of it, and the tokenizer."""
    from penstock.learn.slow.lora import tokenizer_of

    tokenizer, width = tokenizer_of(spec.consolidate.base.removeprefix(PREFIX))
    tokens = Tokens(spec, first_text(spec), tokenizer, width)
    return (lambda batch: tokens.matrix(batch, width)), width, tokenizer


def _measured(kept: Kept, centre: float, unit: float) -> tuple[Array32, Array32]:
    """Labels that are numbers, and what was answered then, from the centre and in units."""
    labels = np.clip((np.asarray(kept.batch.labels) - centre) / unit, -1e3, 1e3)
    return labels.astype(np.float32), ((kept.logits.astype(np.float64) - centre) / unit).astype(np.float32)


def _placed(
    kept: Kept, spec: Spec, classes: tuple[ClassName, ...], seen: Sequence[ClassName]
) -> tuple[NDArray[np.int64] | Array32, Array32]:
    """Labels by their places among all, and the (n, classes) logits then, NaN where a class was not ``seen``."""
    index = {name: place for place, name in enumerate(classes)}
    labels: Any = kept.batch.labels
    logits = np.full((len(kept), len(classes)), np.nan, np.float32)
    logits[:, [index[name] for name in seen]] = kept.logits
    if spec.task == "multilabel":
        return targets_of(labels, index, len(classes)).astype(np.float32), logits
    return np.array([index[name] for name in labels], np.int64), logits


def first_text(spec: Spec) -> str:
    """The text feature that a transformer reads. Raises TrainingFailed."""
    for name, feature in spec.features.items():
        if feature.type == "text":
            return name
    raise TrainingFailed(reason=f"{spec.consolidate.base} reads a text, and the service has no text feature")


def _encoder(spec: Spec, champion: Artifact | None, replay: Kept, recent: Kept | None) -> Encoder:
    """The champion's statistics with the recent events taken in; of all events at the beginning."""
    encoder = Encoder(spec)
    if champion is not None and champion.encoder:
        encoder.load(champion.statistics())
    parts = [kept.batch for kept in ((recent,) if champion is not None else (replay, recent)) if kept is not None]
    if parts:
        whole = concatenate(parts)
        for at in range(0, len(whole), STEP):
            encoder.absorb(whole.rows(slice(at, at + STEP)))
    return encoder


SCALE_CHANGE = 4.0
"""Times by which a label's spread, or spreads by which its centre, must have changed for the network's answers to be
measured anew: it has to learn its last layer again then."""


def _scale(spec: Spec, champion: Artifact | None, batch: Batch) -> tuple[float, float]:
    """What a regression's labels are measured from, and in: their median, and the quartiles' distance as that of a
    normal distribution, which a few wild labels do not move."""
    if spec.task not in NUMBER_TASKS:
        return 0.0, 1.0
    low, centre, high = np.quantile(np.asarray(batch.labels), (0.25, 0.5, 0.75)).tolist()
    unit = (high - low) / 1.349 or float(np.std(np.clip(np.asarray(batch.labels), -1e100, 1e100))) or 1.0
    if champion is not None:
        before = champion.manifest
        ratio = unit / before.unit
        if 1 / SCALE_CHANGE < ratio < SCALE_CHANGE and abs(centre - before.centre) < SCALE_CHANGE * before.unit:
            return before.centre, before.unit
    return centre, unit
