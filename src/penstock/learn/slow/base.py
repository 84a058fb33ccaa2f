"""Frozen bases, evaluated by ONNX Runtime on one thread: what learners and servers read their features from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BaseMissing, LibraryMissing
from penstock.events import Batch, Schema
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.links import sigmoid
from penstock.learn.fast.stable import ConfigurationAlone
from penstock.learn.inputs import Seen
from penstock.learn.interface import Embedded
from penstock.learn.slow.artifact import Artifact, read_artifact, write_artifact
from penstock.learn.slow.tokens import Tokens
from penstock.spec import NUMBER_TASKS, ClassName

Array32 = NDArray[np.float32]

SHAPES = (64, 8, 1)
"""Rows that are evaluated at once, the largest first. A matrix product may take another kernel for another number of
rows, and round otherwise: with three shapes it can be made sure of, when a base is opened, that each gives every row
what the row gets alone. What remains of a batch is not padded, since eight rows alone cost less than 64 at once."""
CACHED = 4
"""Bases kept open: the served one, the one in its shadow, and the last known good one, with one to spare."""


class OnnxBase:
    """A base as `penstock.learn.interface.Base` describes it."""

    def __init__(self, artifact: Artifact) -> None:
        """Raises LibraryMissing without ONNX Runtime, and BaseMissing where it cannot read the network."""
        self.artifact = artifact
        manifest = artifact.manifest
        spec = artifact.spec
        self._is_regression = manifest.task in NUMBER_TASKS
        self._session = _session(artifact)
        self._input = self._session.get_inputs()[0].name
        self._encoder = Encoder(spec)
        if manifest.inputs == "encoded":
            try:
                self._encoder.load(artifact.statistics())
            except KeyError as missing:
                raise BaseMissing(id=artifact.id, reason=f"its encoder lacks {missing}") from missing
        self._texts: Tokens | None = None
        if manifest.inputs == "tokens":
            self._texts = Tokens(spec, manifest.text, artifact.tokenizer, manifest.tokens_max)
        self._shapes = self._sound_shapes()
        self.configuration = artifact.configured()

    @property
    def id(self) -> str:
        return self.artifact.id

    @property
    def width(self) -> int:
        return self.artifact.manifest.width

    @property
    def classes(self) -> tuple[ClassName, ...]:
        return self.artifact.manifest.classes

    @property
    def encoder(self) -> Encoder:
        """The statistics of its inputs; not to be changed."""
        return self._encoder

    @property
    def _columns(self) -> int:
        if self.artifact.manifest.inputs == "encoded":
            return self._encoder.width
        schema = Schema.of(self.artifact.spec)
        return len(schema.numbers) + sum(width for _, width in schema.vectors)

    def inputs(self, batch: Batch) -> Array32:
        """(n, inputs) what the network reads of each event."""
        if self.artifact.manifest.inputs == "raw":
            return raw_inputs(batch)
        return self._encoder.encode(batch).astype(np.float32)

    def embed(self, batch: Batch) -> Embedded:
        """Features, and probabilities or means, of n events; a row's answer does not depend on the other rows."""
        features, outputs = self.run(batch)
        if self._is_regression:
            manifest = self.artifact.manifest
            return Embedded(features=features, mean=outputs[:, 0] * manifest.unit + manifest.centre)
        of = sigmoid if self.artifact.manifest.task == "multilabel" else _softmax
        return Embedded(features=features, probabilities=of(outputs))

    def run(self, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, width) features and (n, classes or 1) outputs before they become probabilities."""
        parts: list[list[Array32]] = []
        if self._texts is not None:
            # One text at a time, without padding, so that it does not matter how long the others are.
            return self._whole([self._answer(ids[None]) for ids in self._texts.each(batch)])
        inputs = self.inputs(batch)
        at = 0
        for shape in self._shapes:
            while len(inputs) - at >= shape:
                parts.append(self._answer(inputs[at : at + shape]))
                at += shape
        return self._whole(parts)

    def _answer(self, inputs: NDArray[Any]) -> list[Array32]:
        answer: list[Array32] = self._session.run(("features", "outputs"), {self._input: inputs})
        return answer

    def _whole(self, parts: list[list[Array32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if not parts:
            return np.empty((0, self.width)), np.empty((0, len(self.classes) or 1))
        features, outputs = (np.concatenate(pieces).astype(np.float64) for pieces in zip(*parts, strict=True))
        return features, outputs

    def _sound_shapes(self) -> tuple[int, ...]:
        """The shapes that give every row, to the byte, what it gets alone; one row alone always does."""
        # A network of somebody else's may take one row at a time alone.
        if self._texts is not None or not isinstance(self._session.get_inputs()[0].shape[0], str | None):
            return (1,)
        rows = np.random.default_rng(0).standard_normal((SHAPES[0], self._columns)).astype(np.float32)

        def answers(shape: int) -> list[bytes]:
            runs = [self._answer(rows[at : at + shape]) for at in range(0, len(rows), shape)]
            return [np.concatenate(pieces).tobytes() for pieces in zip(*runs, strict=True)]

        alone = answers(1)
        return (*(shape for shape in SHAPES[:-1] if answers(shape) == alone), 1)


class LocalBases:
    """The bases in a folder, opened once each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, OnnxBase | ConfigurationAlone] = {}

    def __call__(self, base_id: str) -> OnnxBase | ConfigurationAlone:
        """The base of this id. Raises BaseMissing and LibraryMissing."""
        base = self._open.pop(base_id, None) or _opened(self.artifact(base_id))
        # The last that was asked for is the last to be let go of.
        self._open[base_id] = base
        while len(self._open) > CACHED:
            del self._open[next(iter(self._open))]
        return base

    def artifact(self, base_id: str) -> Artifact:
        """What the base is made of. Raises BaseMissing."""
        return read_artifact(self.folder, base_id)

    def seen(self, base_id: str) -> Seen | None:
        """What the base was trained on; None where it does not say. Raises BaseMissing and LibraryMissing."""
        base = self(base_id)
        return base.artifact.trained_on() if isinstance(base, OnnxBase) else None

    def put(self, artifact: Artifact) -> OnnxBase | ConfigurationAlone:
        """Make it durable, and open it."""
        write_artifact(self.folder, artifact)
        return self(artifact.id)

    def ids(self) -> list[str]:
        """The bases that stand in the folder."""
        if not self.folder.exists():
            return []
        return sorted(path.name for path in self.folder.iterdir() if len(path.name) == 64)


class MemoryBases:
    """Bases that stand in no folder, for one process alone."""

    def __init__(self) -> None:
        self._open: dict[str, OnnxBase] = {}

    def __call__(self, base_id: str) -> OnnxBase:
        try:
            return self._open[base_id]
        except KeyError:
            raise BaseMissing(id=base_id, reason="it was never put here") from None

    def put(self, artifact: Artifact) -> OnnxBase:
        """Keep it, open."""
        return self._open.setdefault(artifact.id, OnnxBase(artifact))


def raw_inputs(batch: Batch) -> Array32:
    """(n, numbers and entries of vectors) values as they are; a missing one is 0."""
    columns = np.concatenate((batch.numbers, *batch.vectors), axis=1)
    return np.nan_to_num(columns, nan=0.0).astype(np.float32)


def _opened(artifact: Artifact) -> OnnxBase | ConfigurationAlone:
    configuration = artifact.configured()
    if configuration is not None and not artifact.network:
        return ConfigurationAlone(artifact.id, configuration)
    return OnnxBase(artifact)


def _session(artifact: Artifact) -> Any:
    """The network, opened for one thread."""
    try:
        import onnxruntime
    except ImportError as error:
        raise LibraryMissing(purpose="Evaluating a base", library="onnxruntime", extra="learn") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(artifact.network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of damage
        raise BaseMissing(id=artifact.id, reason=f"ONNX Runtime cannot read its network: {error}") from error


def _softmax(outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    if not outputs.shape[1]:
        return outputs
    powers: NDArray[np.float64] = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
