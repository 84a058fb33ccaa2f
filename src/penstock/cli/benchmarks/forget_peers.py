"""Methods against forgetting from the literature, all on the same network: naive, online EWC, replay, DER++.

A perceptron with two hidden layers of 256 ReLU units and one output a class, told the classes beforehand; stochastic
gradient descent without momentum at 0.05, steps of 32 events, each event once, one thread.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.cli.benchmarks.forget_data import Codes

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN = (256, 256)
RATE = 0.05
BATCH = 32
STIFFEST = 1.0
"""Step size times penalty times information at most: from 2 on, descent on the penalty itself diverges."""

Inputs = NDArray[np.float32]


class Naive:
    """Learns what arrives, and nothing else."""

    def __init__(self, width: int, classes: int, seed: int) -> None:
        import torch
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        sizes = (width, *HIDDEN)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
        self._descent = torch.optim.SGD(self.network.parameters(), lr=RATE)
        self._choice = np.random.default_rng(seed)

    def learn(self, inputs: Inputs, codes: Codes) -> None:
        """One step: (n, width) inputs and (n,) codes."""
        import torch

        x, y = torch.from_numpy(inputs), torch.from_numpy(codes)
        self._descent.zero_grad()
        logits = self.network(x)
        loss = torch.nn.functional.cross_entropy(logits, y) + self._against_forgetting()
        loss.backward()  # type: ignore[no-untyped-call]
        self._descent.step()
        self._keep(x, y, logits.detach())

    def end_task(self) -> None:
        """What arrives from now on is another task; only those who need to know are changed by it."""

    def answers(self, inputs: Inputs) -> Codes:
        """(n,) the most probable codes."""
        import torch

        with torch.no_grad():
            found: Codes = self.network(torch.from_numpy(inputs)).argmax(dim=1).numpy().astype(np.intp)
        return found

    def _against_forgetting(self) -> Tensor | float:
        return 0.0

    def _keep(self, inputs: Tensor, codes: Tensor, logits: Tensor) -> None:
        """Remember what may be needed of a step that was learned."""


class OnlineEwc(Naive):
    """Holds weights back by how much the tasks before depend on them: the quadratic penalty of Kirkpatrick et al.
    (2017) with one running diagonal Fisher information (Schwarz et al. 2018), estimated with labels that are drawn from
    the network's own answers. It is told where tasks end."""

    strength = 100.0
    fading = 1.0
    samples = 512

    def __init__(self, width: int, classes: int, seed: int) -> None:
        super().__init__(width, classes, seed)
        self._information: list[Tensor] = []
        self._anchor: list[Tensor] = []
        self._latest: list[Tensor] = []

    def _against_forgetting(self) -> Tensor | float:
        held: Any = 0.0
        for weight, centre, information in zip(
            self.network.parameters(), self._anchor, self._information, strict=False
        ):
            held = held + (information * (weight - centre) ** 2).sum()
        return 0.5 * self.strength * held  # type: ignore[no-any-return]

    def _keep(self, inputs: Tensor, codes: Tensor, logits: Tensor) -> None:
        self._latest = [*self._latest, inputs][-(self.samples // BATCH) :]

    def end_task(self) -> None:
        import torch

        weights = list(self.network.parameters())
        found = [torch.zeros_like(weight) for weight in weights]
        rows = torch.cat(self._latest)
        for row in rows:
            logs = torch.log_softmax(self.network(row[None]), dim=1)
            label = int(self._choice.choice(logs.shape[1], p=_shares(logs)))
            self.network.zero_grad()
            logs[0, label].backward()  # type: ignore[no-untyped-call]
            for total, weight in zip(found, weights, strict=True):
                assert weight.grad is not None
                total += weight.grad**2 / len(rows)
        before = self._information or [torch.zeros_like(total) for total in found]
        most = STIFFEST / (self.strength * RATE)
        self._information = [
            torch.clamp(self.fading * old + new, max=most) for old, new in zip(before, found, strict=True)
        ]
        self._anchor = [weight.detach().clone() for weight in weights]


def _shares(logs: Tensor) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.exp(logs.detach().numpy()[0].astype(np.float64))
    shares /= shares.sum()
    return shares


class Replay(Naive):
    """Learns as many kept events beside each step's own (Chaudhry et al. 2019, "On tiny episodic memories"); what is
    kept is a reservoir sample of all that arrived (Vitter 1985, Algorithm R)."""

    room = 5_000

    def __init__(self, width: int, classes: int, seed: int) -> None:
        super().__init__(width, classes, seed)
        import torch

        self._inputs = torch.zeros(self.room, width)
        self._codes = torch.zeros(self.room, dtype=torch.int64)
        self._logits = torch.zeros(self.room, classes)
        self._arrived = 0

    def _sample(self) -> Tensor | None:
        import torch

        kept = min(self._arrived, self.room)
        return torch.from_numpy(self._choice.integers(kept, size=min(BATCH, kept))) if kept else None

    def _against_forgetting(self) -> Tensor | float:
        import torch

        rows = self._sample()
        if rows is None:
            return 0.0
        return torch.nn.functional.cross_entropy(self.network(self._inputs[rows]), self._codes[rows])

    def _keep(self, inputs: Tensor, codes: Tensor, logits: Tensor) -> None:
        for row in range(len(inputs)):
            place = self._arrived
            if place >= self.room:
                place = int(self._choice.integers(self._arrived + 1))
            self._arrived += 1
            if place < self.room:
                self._inputs[place], self._codes[place], self._logits[place] = inputs[row], codes[row], logits[row]


class DarkReplay(Replay):
    """DER++ (Buzzega, Boschini, Porrello, Abati and Calderara 2020): beside replayed labels, the logits that the
    network gave when an event arrived are asked for again; both with weight 0.5."""

    room = 2_000
    label_weight = 0.5
    logit_weight = 0.5

    def _against_forgetting(self) -> Tensor | float:
        import torch

        one, other = self._sample(), self._sample()
        if one is None or other is None:
            return 0.0
        moved = torch.nn.functional.mse_loss(self.network(self._inputs[one]), self._logits[one])
        wrong = torch.nn.functional.cross_entropy(self.network(self._inputs[other]), self._codes[other])
        return self.logit_weight * moved + self.label_weight * wrong


PEERS: dict[str, type[Naive]] = {"naive": Naive, "ewc": OnlineEwc, "replay": Replay, "der_plus_plus": DarkReplay}
