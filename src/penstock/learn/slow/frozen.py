"""A network that somebody else trained, as a base: its features as they are, with an output layer trained on them.

The file is ONNX. Its one input is a float32 matrix (n, columns): the service's numbers, then its vectors, in the order
of the service file, not standardised, with 0 for what is missing. Its first output is the features (n, anything). They
are centred and brought to unit deviation, or, where they are more than FEATURES_MAX, to as many principal components.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from penstock.errors import TrainingFailed
from penstock.events import Batch
from penstock.learn.slow.base import raw_inputs
from penstock.spec import Spec

FEATURES_MAX = 128
ROWS = 64
PREFIX = "frozen/"

Array32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Frozen:
    """The network, and what makes its features the base's."""

    model: onnx.ModelProto
    session: Any
    matrix: Array32
    """(features of the network, width of the base)."""
    shift: Array32
    """(width,) added after the matrix."""
    opset: int

    def read(self, batch: Batch) -> Array32:
        """(n, width) the base's features of these events."""
        return _features(self.session, batch) @ self.matrix + self.shift

    def with_outputs(self, weight: Array32, bias: Array32) -> bytes:
        """The base's network: features, and outputs that are linear in them by (outputs, width) weights."""
        prefixed: onnx.ModelProto = onnx.compose.add_prefix(self.model, PREFIX)
        graph = prefixed.graph
        constants = {"matrix": self.matrix, "shift": self.shift, "weight": weight, "bias": bias}
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        graph.node.extend(
            (
                helper.make_node("Flatten", [graph.output[0].name], ["flat"], axis=1),
                helper.make_node("Gemm", ["flat", "matrix", "shift"], ["features"]),
                helper.make_node("Gemm", ["features", "weight", "bias"], ["outputs"], transB=1),
            )
        )
        del graph.output[:]
        graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
            for name, width in (("features", len(self.shift)), ("outputs", len(bias)))
        )
        written: bytes = prefixed.SerializeToString(deterministic=True)
        return written


def frozen(spec: Spec, batch: Batch) -> Frozen:
    """The network that the service file names, its features measured on these events. Raises TrainingFailed."""
    import onnxruntime

    path = Path(spec.consolidate.base)
    unread = [name for name, feature in spec.features.items() if feature.type in ("category", "text")]
    if unread:
        raise TrainingFailed(reason=f"{path} reads numbers, and {unread[0]!r} is a {spec.features[unread[0]].type}")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        raw = _features(session, batch).astype(np.float64)
    except Exception as error:  # onnx and ONNX Runtime have a class of error for each way in which a file can be bad
        raise TrainingFailed(reason=f"{path} cannot be used: {error}") from error
    if not np.isfinite(raw).all():
        raise TrainingFailed(reason=f"{path} answers with values that are no numbers")
    centre = raw.mean(axis=0)
    if raw.shape[1] <= FEATURES_MAX:
        deviations = raw.std(axis=0)
        matrix = np.diag(np.where(deviations > 1e-12, 1.0 / np.maximum(deviations, 1e-12), 0.0))
    else:
        values, vectors = np.linalg.eigh(np.cov(raw, rowvar=False))
        largest = np.argsort(values)[::-1][:FEATURES_MAX]
        largest = largest[values[largest] > 1e-12 * max(float(values.max()), 1e-300)]
        matrix = vectors[:, largest] / np.sqrt(values[largest])
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return Frozen(model, session, matrix.astype(np.float32), (-centre @ matrix).astype(np.float32), int(opset))


def _features(session: Any, batch: Batch) -> Array32:
    inputs, name = raw_inputs(batch), session.get_inputs()[0].name
    output = session.get_outputs()[0].name
    rows = ROWS if isinstance(session.get_inputs()[0].shape[0], str | None) else 1
    parts = [session.run((output,), {name: inputs[at : at + rows]})[0] for at in range(0, len(inputs), rows)]
    return np.concatenate([np.asarray(part, np.float32).reshape(len(part), -1) for part in parts])
