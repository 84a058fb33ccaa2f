"""The training loop: replay with distillation, looks at held-out events, and a state that can be taken up again."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from penstock.errors import TrainingFailed
from penstock.learn.slow.artifact import sealed
from penstock.learn.slow.elastic import Elastic, fisher
from penstock.learn.slow.export import OPSET, exported
from penstock.learn.slow.network import make, merged, take_over
from penstock.learn.slow.train import Report, Rows, Task, Trained, Training

RATE_FALL = 0.3
GAIN_MIN, GAIN_MIN_NATS = 0.005, 0.001
"""Relative and absolute gain on the held-out events below which a look counts as one without. What the heads on top of
the features still gain by smaller ones is nothing, and a stream that is told apart entirely would be trained on for
ever."""
WRITE_EVERY_S = 5.0
"""Seconds between two writings of the state at least, with ``resume``."""
LOOK_ROWS = 512
WEIGHT = "weight/"
"""Begins the names of the network's own arrays in ``weights.safetensors``."""


@dataclass(slots=True)
class Progress:
    """What changes while training, beside the networks."""

    step: int = 0
    looks: int = 0
    best: float = float("inf")
    mark: float = float("inf")
    """The best loss at the last look that counted as a gain."""
    worse: int = 0
    falls: int = 0
    losses: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0


def run(
    task: Task,
    training: Training,
    *,
    max_s: float,
    device: Literal["auto", "cpu", "cuda"],
    stop: Callable[[], bool],
    resume: Path | None,
) -> Trained | None:
    """See `penstock.learn.slow.train.train_base`."""
    with one_thread():
        loop = Loop(task, training, chosen(device), resume)
        ended = loop.run(max_s, stop)
        if ended is None:
            return None
        trained = loop.finish(ended)
    if resume is not None:
        resume.unlink(missing_ok=True)
    return trained


class Loop:
    """One training."""

    def __init__(self, task: Task, training: Training, device: str, resume: Path | None) -> None:
        self._task = task
        self._training = training
        self._device = device
        self._resume = resume
        older = {} if task.champion is None else _tensors(task.champion.parameters())
        network = make(task.kind, task.inputs, task.outputs, task.seed)
        take_over(network, {n.removeprefix(WEIGHT): t for n, t in older.items() if n.startswith(WEIGHT)}, training.kept)
        self.network = network.to(device)
        self._elastic = Elastic.of(network, older, training.ewc, training.rate, device)
        self._trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trainable, lr=training.rate, weight_decay=training.decay, fused=True)
        self._best: dict[str, Tensor] = {}
        self._orders: dict[int, NDArray[np.intp]] = {}
        """By stream of events, the order of its present pass."""
        self._progress = Progress()
        self._fingerprint = _fingerprint(task, training)
        self._written_at = time.monotonic()
        if resume is not None and resume.exists():
            self._take_up(resume)

    def run(self, max_s: float, stop: Callable[[], bool]) -> Literal["converged", "steps", "time"] | None:
        """Train until it is over, and say why; None where ``stop`` did it."""
        progress, training = self._progress, self._training
        began = time.monotonic() - progress.elapsed_s
        if not progress.looks:
            self._look()
        while True:
            if progress.falls > training.falls:
                return "converged"
            if progress.step >= training.steps_max:
                return "steps"
            for _ in range(training.round_steps):
                self._step(progress.step)
                progress.step += 1
                if stop():
                    # What was done since the last look is done again; it is less than a round.
                    return None
                if time.monotonic() - began >= max_s:
                    self._look()
                    progress.elapsed_s = time.monotonic() - began
                    return "time"
            self._look()
            progress.elapsed_s = time.monotonic() - began
            self._write()

    def finish(self, ended: Literal["converged", "steps", "time"]) -> Trained:
        """The best network as a base."""
        task = self._task
        self.network.load_state_dict(self._best, strict=False)
        network = self.network.to("cpu").eval()
        weights = {WEIGHT + name: tensor.cpu().numpy() for name, tensor in self._best.items()}
        if self._training.ewc:
            weights |= fisher(network, task, self._elastic)
        if task.frozen is not None:
            last = (weights[f"{WEIGHT}last.{part}"] for part in ("weight", "bias"))
            return self._sealed(task.frozen.with_outputs(*last), task.inputs, task.frozen.opset, {}, ended)
        sample = task.held_out.inputs(np.arange(min(len(task.held_out), 64)))
        onnx, width = exported(merged(network), task.outputs, sample)
        return self._sealed(onnx, width, OPSET, weights, ended)

    def _sealed(
        self,
        network: bytes,
        width: int,
        opset: int,
        weights: dict[str, NDArray[Any]],
        ended: Literal["converged", "steps", "time"],
    ) -> Trained:
        task, progress = self._task, self._progress
        manifest = task.manifest(width=width, opset=opset)
        report = Report(
            steps=progress.step,
            replayed=manifest.replayed,
            recent=manifest.recent,
            held_out=len(task.held_out),
            loss=progress.best,
            loss_before=progress.losses[0],
            losses=progress.losses,
            seconds=progress.elapsed_s,
            ended=ended,
        )
        encoder = task.encoder.save() if manifest.inputs == "encoded" else {}
        artifact = sealed(manifest, network, encoder=encoder, weights=weights, tokenizer=task.tokenizer, seen=task.seen)
        return Trained(artifact=artifact, report=report)

    def _step(self, step: int) -> None:
        """One step down: CE(recent) + beta CE(replay) + alpha |z - z_replay|^2 + elastic penalty."""
        task, training = self._task, self._training
        self.network.train()
        # What a network draws while it trains, as dropout does, depends on the step alone.
        seed_all((task.seed << 32) + step)
        recent, replay = (self._minibatch(rows, step, stream) for stream, rows in enumerate((task.recent, task.replay)))
        with self._precision():
            _, outputs = self.network(torch.cat((recent.inputs, replay.inputs)))
        outputs = outputs.float()
        new, old = outputs[: len(recent.targets)], outputs[len(recent.targets) :]
        loss = self._loss(new, recent.targets) + training.beta * self._loss(old, replay.targets)
        known = torch.isfinite(replay.logits)
        if training.alpha and bool(known.any()):
            apart = torch.where(known, old - torch.nan_to_num(replay.logits), torch.zeros_like(old))
            loss = loss + training.alpha * apart.square().sum() / known.sum()
        loss = loss + self._elastic.penalty(self.network)
        if not bool(torch.isfinite(loss)):
            raise TrainingFailed(reason=f"its loss is no number any more after {step} steps")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trainable, 5.0)
        self._optimizer.step()

    def _look(self) -> None:
        """Judge the network by the held-out events, keep it where it is the best so far, and lower the rate where
        there is no gain any more."""
        progress, training = self._progress, self._training
        loss = self._held_out_loss()
        if not np.isfinite(loss):
            raise TrainingFailed(reason=f"its loss on held-out events is no number after {progress.step} steps")
        progress.losses.append(loss)
        progress.looks += 1
        if loss < progress.best:
            progress.best = loss
            self._best = _copied(self.network)
        if loss < progress.mark - max(GAIN_MIN * progress.mark, GAIN_MIN_NATS) or not progress.losses[1:]:
            progress.mark, progress.worse = loss, 0
            return
        progress.worse += 1
        if progress.worse >= training.patience:
            progress.worse, progress.falls = 0, progress.falls + 1
            for group in self._optimizer.param_groups:
                group["lr"] *= RATE_FALL

    def _held_out_loss(self) -> float:
        self.network.eval()
        rows, total = self._task.held_out, 0.0
        with torch.no_grad():
            for at in range(0, len(rows), LOOK_ROWS):
                places = np.arange(at, min(at + LOOK_ROWS, len(rows)))
                chosen_rows = self._moved(rows, places)
                _, outputs = self.network(chosen_rows.inputs)
                total += float(self._loss(outputs.float(), chosen_rows.targets)) * len(places)
        return total / len(rows)

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._task.is_regression:
            return functional.huber_loss(outputs[:, 0], targets)
        if self._task.is_set:
            # Of a whole set, as the others' is of a whole event.
            return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / len(outputs)
        return functional.cross_entropy(outputs, targets)

    def _minibatch(self, rows: Rows, step: int, stream: int) -> Minibatch:
        """The rows of this step: passes over all of them, each in an order of its own that its number alone decides."""
        size = min(self._training.batch, len(rows))
        per_pass = len(rows) // size
        number, place = divmod(step, per_pass)
        if place == 0 or stream not in self._orders:
            self._orders[stream] = np.random.default_rng((self._task.seed, stream, number)).permutation(len(rows))
        order = self._orders[stream]
        return self._moved(rows, order[place * size : (place + 1) * size])

    def _moved(self, rows: Rows, places: NDArray[np.intp]) -> Minibatch:
        def tensor(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

        return Minibatch(tensor(rows.inputs(places)), tensor(rows.targets[places]), tensor(rows.logits[places]))

    def _precision(self) -> Any:
        """Mixed precision on a GPU: bfloat16 needs no scaling of the loss."""
        return torch.autocast("cuda", torch.bfloat16) if self._device == "cuda" else nullcontext()

    def _write(self) -> None:
        """Make what was done so far outlive this process, every few seconds."""
        if self._resume is None or time.monotonic() - self._written_at < WRITE_EVERY_S:
            return
        buffer = io.BytesIO()
        progress = {name: getattr(self._progress, name) for name in Progress.__slots__}
        torch.save(
            {
                "fingerprint": self._fingerprint,
                "progress": progress,
                "network": _copied(self.network),
                "best": self._best,
                "optimizer": self._optimizer.state_dict(),
            },
            buffer,
        )
        self._resume.parent.mkdir(parents=True, exist_ok=True)
        beside = self._resume.with_suffix(".tmp")
        with open(beside, "wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._resume)
        self._written_at = time.monotonic()

    def _take_up(self, path: Path) -> None:
        """Go on from what was written, if it was this training; what cannot be read is begun anew."""
        try:
            saved = torch.load(path, map_location=self._device, weights_only=True)
        except Exception:  # torch raises whatever its archive's damage leads to; nothing is lost but time
            return
        if saved.get("fingerprint") != self._fingerprint:
            return
        self.network.load_state_dict(saved["network"], strict=False)
        self._best = saved["best"]
        self._optimizer.load_state_dict(saved["optimizer"])
        self._progress = Progress(**saved["progress"])


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Rows where the network is."""

    inputs: Tensor
    targets: Tensor
    logits: Tensor


def chosen(device: Literal["auto", "cpu", "cuda"]) -> str:
    """Where to train. Raises TrainingFailed where a GPU is asked for and there is none."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise TrainingFailed(reason="consolidate.device is cuda, and torch finds no GPU")
    return "cuda" if has_gpu and device != "cpu" else "cpu"


def seed_all(seed: int) -> None:
    """What `torch.manual_seed` does, without the quarter of a step that its bookkeeping costs."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, and one processor left to those who serve; torch's own random numbers are put back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    """What training changes: not the weights of a transformer beside its adapters."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    state = network.state_dict().items()
    return {name: tensor.detach().clone() for name, tensor in state if name not in frozen}


def _tensors(arrays: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _fingerprint(task: Task, training: Training) -> str:
    """What the training depends on: a state of another one is not taken up."""
    described = [
        msgspec.json.encode(training),
        task.kind,
        task.inputs,
        task.classes,
        task.centre,
        task.unit,
        task.champion.id if task.champion else "",
        task.seed,
        task.count,
    ]
    hashed = hashlib.sha256(msgspec.msgpack.encode(described))
    for rows in (task.replay, task.recent, task.held_out):
        for array in (rows.batch.times, rows.batch.numbers, rows.targets, rows.logits):
            hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()
