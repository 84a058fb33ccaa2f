"""Networks to be trained: the default one, the user's own, and how a new one takes over what an older one learned.

A user's network is named by an import path, ``package.module:name``: something that is called with two integers, the
number of inputs (the encoder's columns) and of outputs (classes, or 1 for a regression), and returns a
``torch.nn.Module``. Its ``forward`` takes a float32 tensor (n, inputs) and returns either a pair ``(features,
outputs)`` of (n, any width) and (n, outputs), or the outputs alone, which then are its features as well. Outputs are
scores before the softmax, or the standardised label. It is called again, with more outputs, when classes have arrived;
parameters of the same name go over as far as they have a place there.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.errors import TrainingFailed
from penstock.learn.slow.tokens import PREFIX

HIDDEN_MIN, HIDDEN_MAX = 128, 512
"""The first layer of the default network is twice as wide as the inputs within these."""
FEATURES_MIN, FEATURES_MAX = 32, 128
"""Its features are a quarter as many within these: the heads' cost grows with their square."""
WIDE = 128
"""Inputs from which on they say much the same, as pixels and buckets do: DROPPED of them are left out of each step."""
DROPPED = 0.2
REACH = 8.0
"""Features that are the outputs of a user's network are cut here, to be of the order of 1."""


class Perceptron(nn.Module):
    """Two hidden layers; the second, normalised, is the features, of which the outputs are linear.

    Features are normalised row by row without parameters (Ba, Kiros and Hinton 2016): they have mean 0 and variance 1
    whatever the weights have become, which is what the heads' priors are made for."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = min(max(16 * ((2 * inputs + 15) // 16), HIDDEN_MIN), HIDDEN_MAX)
        features = min(max(16 * ((hidden + 32) // 64), FEATURES_MIN), FEATURES_MAX)
        self.drop = nn.Dropout(DROPPED if inputs >= WIDE else 0.0)
        self.first = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.second = nn.Linear(hidden, features)
        self.last = nn.Linear(features, outputs)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = functional.relu(self.norm(self.first(self.drop(inputs))))
        features = functional.layer_norm(functional.relu(self.second(hidden)), (self.second.out_features,))
        return features, self.last(features)


class Readout(nn.Module):
    """An output layer alone, on the features of a frozen network."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(inputs, outputs)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, self.last(inputs)


class Uniform(nn.Module):
    """A user's network, made to answer with features and outputs whatever it answers with."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.inner(inputs)
        if isinstance(answer, Tensor):
            return torch.clamp(answer, -REACH, REACH), answer
        features, outputs = answer
        return functional.layer_norm(features, features.shape[1:]), outputs


def make(kind: str, inputs: int, outputs: int, seed: int) -> nn.Module:
    """The network that ``consolidate.base`` names, with the weights that the seed gives. Raises TrainingFailed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            return Perceptron(inputs, outputs)
        if kind.startswith(PREFIX):
            from penstock.learn.slow.lora import text_network

            return text_network(kind.removeprefix(PREFIX), outputs)
        return Readout(inputs, outputs) if kind.endswith(".onnx") else Uniform(_users(kind, inputs, outputs))


def _users(path: str, inputs: int, outputs: int) -> nn.Module:
    module, _, name = path.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), name)(inputs, outputs)
    except Exception as error:  # it is the user's code: whatever it raises is why there is no network
        raise TrainingFailed(reason=f"{path} made no network: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise TrainingFailed(reason=f"{path} returned {type(made).__name__}, not a torch.nn.Module")
    return made


def merged(network: nn.Module) -> nn.Module:
    """The network without what is there for training alone."""
    merge = getattr(network, "merged", None)
    return merge() if callable(merge) and not isinstance(network, Uniform) else network


def take_over(network: nn.Module, weights: Mapping[str, Tensor], share: float = 1.0) -> None:
    """Put older weights where there is room for them: ``share`` of them and the rest of what was there, new classes and
    inputs being the last rows and columns (for a share below 1: shrink and perturb, Ash and Adams 2020)."""
    with torch.no_grad():
        for name, own in network.state_dict().items():
            older = weights.get(name)
            if (
                older is None
                or older.ndim != own.ndim
                or any(a > b for a, b in zip(older.shape, own.shape, strict=True))
            ):
                continue
            place = own[tuple(slice(0, length) for length in older.shape)]
            if own.is_floating_point():
                place.mul_(1.0 - share).add_(older.to(own.dtype), alpha=share)
            else:
                place.copy_(older)
