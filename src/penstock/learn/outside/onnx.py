"""Networks in ONNX files, as they are: evaluated, and never changed.

The one input is a float32 matrix (n, columns): the service's numbers, then its vectors, in the order of the service
file, not standardised, with 0 for what is missing. For classes the last output that is a matrix of floats counts: their
probabilities in the order of ``label.classes``, or of two classes the second one's alone. For numbers the first output
counts: one number an event, in the label's unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FLOATS = ("tensor(float)", "tensor(double)")


class OnnxMember:
    """A network, opened for one thread. Its model is itself."""

    libraries: tuple[str, ...] = ()
    reads = "raw"

    def __init__(self, name: str, file: Path, classes: int | None, columns: int) -> None:
        """Raises ValueError where the file holds no network that could be asked, and ImportError without the
        library."""
        import onnxruntime

        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of error for each way in which a file can be bad
            raise ValueError(f"cannot be opened: {' '.join(str(error).split())}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        floats = [output.name for output in outputs if output.type in FLOATS]
        if len(inputs) != 1 or inputs[0].type != FLOATS[0] or len(inputs[0].shape) != 2:
            raise ValueError("must have one input, a matrix of float32")
        if not floats:
            raise ValueError("has no output that is a tensor of floats (skl2onnx: options={'zipmap': False})")
        self._input, self._output = inputs[0].name, floats[0] if classes is None else floats[-1]
        try:
            self.answer(None, np.zeros((1, columns), np.float32), classes, np.zeros(1))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"cannot answer an event of {columns} numbers: {reason}") from error

    def fresh(self) -> Any:
        return self

    def learn(self, model: Any, inputs: NDArray[np.float32], targets: Array) -> None:
        """What is frozen learns nothing."""

    def answer(self, model: Any, inputs: NDArray[np.float32], classes: int | None, anchors: Array) -> Array | None:
        # One event at a time: another number of rows may be rounded otherwise, and servers mostly answer one.
        runs = [self._session.run((self._output,), {self._input: row[None]})[0] for row in inputs]
        outputs = np.asarray(runs, np.float64).reshape(len(inputs), -1)
        if classes is None:
            if outputs.shape[1] != 1:
                raise ValueError(f"answers an event with {outputs.shape[1]} numbers instead of one")
            means: Array = outputs[:, 0] - anchors
            return means
        if outputs.shape[1] == 1 and classes == 2:
            outputs = np.concatenate((1.0 - outputs, outputs), axis=1)
        if outputs.shape[1] > classes or (outputs < -1e-3).any() or (outputs.sum(axis=1) > 1.0 + 1e-3).any():
            raise ValueError(f"answers with {outputs.shape[1]} numbers that are no probabilities of {classes} classes")
        found = np.zeros((len(inputs), classes))
        found[:, : outputs.shape[1]] = np.maximum(outputs, 0.0)
        return found
