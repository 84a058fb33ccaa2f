"""Elastic weight consolidation, online: weights on which the past depends are held back where they are.

The penalty is (lambda / 2) sum_i F_i (theta_i - theta*_i)^2 around the weights that the last training ended with
(Kirkpatrick et al. 2017), with one running Fisher information for all of the past, F <- GAMMA F + F_new (Schwarz et al.
2018). The information is the true one, with labels drawn from the network's own answers, and not the empirical one
(Kunstner et al. 2019); it is divided by its mean, so that lambda means the same for every network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from penstock.learn.slow.train import Task

GAMMA = 0.9
SAMPLES = 512
"""Replayed events that the information is estimated from."""
STABLE = 0.5
"""What lambda times rate times the largest information may come to at most: a step would overshoot at 2."""
FISHER = "fisher/"
"""Begins the names of the information's arrays in ``weights.safetensors``."""


@dataclass(slots=True)
class Elastic:
    """The penalty of one training; none where there is no past or no weight for it."""

    strength: float = 0.0
    information: dict[str, Tensor] = field(default_factory=dict)
    anchors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, older: Mapping[str, Tensor], weight: float, rate: float, device: str) -> Elastic:
        """From what stands in a champion's ``weights.safetensors``."""
        found = {n.removeprefix(FISHER): t for n, t in older.items() if n.startswith(FISHER)}
        if not weight or not found:
            return cls()
        largest = max(float(tensor.max()) for tensor in found.values())
        parameters = dict(network.named_parameters())
        information, anchors = {}, {}
        for name, tensor in found.items():
            own = parameters.get(name)
            if own is not None and own.ndim == tensor.ndim:
                # New rows and columns have no past.
                wide = torch.zeros_like(own, device=device)
                wide[tuple(slice(0, length) for length in tensor.shape)] = tensor.to(device)
                information[name], anchors[name] = wide, own.detach().clone().to(device)
        return cls(min(weight, STABLE / (rate * max(largest, 1e-12))), information, anchors)

    def penalty(self, network: nn.Module) -> Tensor:
        """A number to be added to the loss."""
        total = torch.zeros((), device=next(network.parameters()).device)
        if self.strength:
            for name, parameter in network.named_parameters():
                if name in self.information:
                    total = total + (self.information[name] * (parameter - self.anchors[name]).square()).sum()
        return 0.5 * self.strength * total


def fisher(network: nn.Module, task: Task, before: Elastic) -> dict[str, NDArray[Any]]:
    """The running information after a training, of mean 1."""
    rng = np.random.default_rng((task.seed, 7))
    rows = task.replay
    places = rng.permutation(len(rows))[:SAMPLES]
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    total = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    network.eval()
    for place in places:
        _, outputs = network(torch.from_numpy(rows.inputs(places=np.array([place]))))
        if task.is_regression:
            drawn = outputs[0, 0].detach() + float(rng.standard_normal())
            loss = 0.5 * (outputs[0, 0] - drawn).square()
        elif task.is_set:
            chances = torch.sigmoid(outputs[0].detach().double()).numpy()
            came = torch.from_numpy((rng.random(len(chances)) < chances).astype(np.float32))
            loss = functional.binary_cross_entropy_with_logits(outputs[0], came, reduction="sum")
        else:
            chances = torch.softmax(outputs[0].detach().double(), dim=0).numpy()
            label = int(np.searchsorted(np.cumsum(chances), rng.random() * chances.sum()).clip(0, len(chances) - 1))
            loss = -torch.log_softmax(outputs[0], dim=0)[label]
        network.zero_grad(set_to_none=True)
        loss.backward()
        for name, parameter in trained.items():
            if parameter.grad is not None:
                total[name] += parameter.grad.detach().square()
    for name, tensor in total.items():
        tensor /= len(places)
        if name in before.information:
            tensor += GAMMA * before.information[name].cpu()
    mean = sum(float(t.sum()) for t in total.values()) / sum(t.numel() for t in total.values())
    return {FISHER + name: (tensor / max(mean, 1e-30)).numpy() for name, tensor in total.items()}
