"""From torch to ONNX: the same features, made sure of before anything is built on them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from numpy.typing import NDArray
from torch import nn

from penstock.errors import TrainingFailed
from penstock.learn.slow.network import Perceptron

OPSET = 18
"""Of the exported networks: the oldest that torch's present exporter writes without converting."""
PARTS = ("weight", "bias")
DIFFERENCE_MAX = 1e-5
"""By which a feature may differ between torch and ONNX Runtime, relative to the largest where that is above 1."""
EXTREME = 8.0
"""The largest input that the encoder lets through, in deviations."""


def exported(network: nn.Module, outputs: int, sample: NDArray[Any]) -> tuple[bytes, int]:
    """The network in ONNX, and the width of its features.

    ``sample`` (n, inputs) are true inputs, numbers or tokens: on these, as on random and on extreme ones, ONNX
    Runtime's answers must be torch's. Raises TrainingFailed."""
    network = network.to("cpu").eval()
    for parameter in network.parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingFailed(reason="its weights are no numbers any more")
    written = perceptron(network) if isinstance(network, Perceptron) else _written(network, sample)
    onnx.checker.check_model(onnx.load_from_string(written))
    rng, inputs = np.random.default_rng(0), sample.shape[1]
    trials: tuple[NDArray[Any], ...]
    if sample.dtype == np.int64:
        # Any number of tokens, and padding behind them.
        random = rng.integers(0, sample.max() + 1, (16, inputs))
        random[:8, inputs // 2 :] = -1
        trials = (sample, random, random[:3, : inputs // 2], random[8:9, :1])
    else:
        trials = (
            sample,
            rng.standard_normal((16, inputs)).astype(np.float32),
            rng.choice(np.array([-EXTREME, 0.0, EXTREME], np.float32), (16, inputs)),
            np.zeros((1, inputs), np.float32),
        )
    return written, verified(written, network, trials, outputs)


def perceptron(network: Perceptron) -> bytes:
    """The default network written down node by node: torch's exporter takes seconds to begin with."""

    def named(name: str, tensor: torch.Tensor) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.ascontiguousarray(tensor.detach().numpy()), name)

    layers = {"first": network.first, "norm": network.norm, "second": network.second, "last": network.last}
    values = [named(f"{name}.{part}", getattr(layer, part)) for name, layer in layers.items() for part in PARTS]
    width, epsilon = network.second.out_features, network.norm.eps
    values += [named("plain.weight", torch.ones(width)), named("plain.bias", torch.zeros(width))]

    def node(kind: str, name: str, what: str, result: str, **settings: Any) -> onnx.NodeProto:
        weights = [] if kind == "Relu" else [f"{name}.{part}" for part in PARTS]
        return onnx.helper.make_node(kind, [what, *weights], [result], **settings)

    nodes = [
        node("Gemm", "first", "inputs", "summed", transB=1),
        node("LayerNormalization", "norm", "summed", "normal", epsilon=epsilon),
        node("Relu", "", "normal", "hidden"),
        node("Gemm", "second", "hidden", "mixed", transB=1),
        node("Relu", "", "mixed", "ramps"),
        node("LayerNormalization", "plain", "ramps", "features", epsilon=1e-5),
        node("Gemm", "last", "features", "outputs", transB=1),
    ]

    def rows(name: str, columns: int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", columns])

    graph = onnx.helper.make_graph(
        nodes,
        "perceptron",
        [rows("inputs", network.first.in_features)],
        [rows("features", width), rows("outputs", network.last.out_features)],
        values,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def verified(written: bytes, network: nn.Module, trials: tuple[NDArray[Any], ...], outputs: int) -> int:
    """Make sure that ONNX Runtime answers as torch does, for any number of rows; the width of the features."""
    import onnxruntime

    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    name, width = session.get_inputs()[0].name, 0
    for trial in trials:
        with torch.no_grad():
            wanted = [answer.numpy() for answer in network(torch.from_numpy(trial))]
        found = session.run(("features", "outputs"), {name: trial})
        width = int(found[0].shape[1])
        for what, ours, theirs in zip(("features", "outputs"), found, wanted, strict=True):
            scale = max(1.0, float(np.abs(theirs).max(initial=0.0)))
            apart = float(np.abs(ours - theirs).max(initial=0.0)) if ours.shape == theirs.shape else np.inf
            if not apart <= DIFFERENCE_MAX * scale:
                raise TrainingFailed(reason=f"ONNX Runtime's {what} differ from torch's by {apart:g}")
        if found[1].shape[1] != outputs:
            raise TrainingFailed(reason=f"the network has {found[1].shape[1]} outputs, and {outputs} are needed")
    return width


def _written(network: nn.Module, sample: NDArray[Any]) -> bytes:
    shape: dict[int, Any] = {0: torch.export.Dim("rows")}
    if sample.dtype == np.int64:
        shape[1] = torch.export.Dim("tokens", min=1, max=sample.shape[1])
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(2, sample.shape[1], dtype=torch.from_numpy(sample).dtype),),
                dynamo=True,
                input_names=["inputs"],
                output_names=["features", "outputs"],
                dynamic_shapes=(shape,),
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # the exporter's errors have no common class, and the network may be the user's
            raise TrainingFailed(reason=f"torch cannot export it to ONNX: {error}") from error
        assert program is not None
    return _plain(program.model_proto)


def _plain(model: onnx.ModelProto) -> bytes:
    """Its bytes without what the exporter notes about the code that it came from, such as the folders it stands in."""
    for holder in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        if hasattr(holder, "metadata_props"):
            del holder.metadata_props[:]
        holder.doc_string = ""
    written: bytes = model.SerializeToString(deterministic=True)
    return written


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's words about its own insides."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
