"""Penstock's learner and its peers behind one small door: predict the events of a step, then learn from them.

Everybody has the settings that it comes with. Events are brought into the form that a learner takes fastest before the
clock starts. In a step every event is predicted before any of them is learned, so that labels come as late for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.cli.benchmarks.learn_streams import Stream
from penstock.cli.benchmarks.learner_forms import dictionaries, hashed, vowpal_lines
from penstock.cli.benchmarks.scores import Floats

HASHED_DENSE = 256
"""Columns for the categories and words that the network gets: its first layer has a weight for each column and unit."""


class Learner(Protocol):
    """One model on one stream, whose events it was made with."""

    def step(self, start: int, stop: int) -> Any:
        """Predict these events, then learn from them. What it answers may have any form; this is what is timed."""
        ...

    def probabilities(self, answer: Any) -> Floats:
        """(m, classes) of such an answer, in the order of the stream's classes; zeros where it said nothing."""
        ...

    def state_bytes(self) -> int:
        """Of what it has learned, where the library tells; 0 otherwise. Events and code are not meant."""
        ...


class Penstock:
    """The fast tier's model out of the box, through its public interface."""

    def __init__(self, stream: Stream, step: int) -> None:
        from penstock.learn.fast.model import FastModel

        self._model = FastModel(stream.spec)
        self._places = {name: place for place, name in enumerate(stream.classes)}
        events = stream.events
        self._steps = [events.rows(slice(at, at + step)) for at in range(0, len(events), step)]
        self._size = step
        # Machine code is loaded, or made if it never was, as other libraries' is when they are imported.
        FastModel(stream.spec).learn(self._steps[0])

    def step(self, start: int, stop: int) -> Any:
        return self._model.learn(self._steps[start // self._size]).predictions.probabilities

    def probabilities(self, answer: Any) -> Floats:
        found: Floats = np.zeros((len(answer), len(self._places)))
        # Classes that came within the step have no column in its answers.
        for column, name in enumerate(self._model.classes[: answer.shape[1]]):
            if name in self._places:
                found[:, self._places[name]] = answer[:, column]
        return found

    def state_bytes(self) -> int:
        return sum(array.nbytes for array in self._model.save().arrays.values())


class NoChange:
    """Says the last label that it was told, for certain."""

    def __init__(self, stream: Stream, step: int) -> None:
        self._codes = stream.codes
        self._count = len(stream.classes)
        self._last = 0

    def step(self, start: int, stop: int) -> int:
        answer, self._last = self._last, int(self._codes[stop - 1])
        self._rows = stop - start
        return answer

    def probabilities(self, answer: int) -> Floats:
        found: Floats = np.zeros((self._rows, self._count))
        found[:, answer] = 1.0
        return found

    def state_bytes(self) -> int:
        return 0


# River ----------------------------------------------------------------------------------------------------------------


class River:
    """An estimator of River, fed dictionaries one by one."""

    def __init__(self, stream: Stream, build: Callable[[Stream], Any]) -> None:
        self._model = build(stream)
        self._rows = dictionaries(stream)
        self._labels = stream.codes.tolist()
        self._count = len(stream.classes)

    def step(self, start: int, stop: int) -> list[dict[int, float]]:
        predict, learn = self._model.predict_proba_one, self._model.learn_one
        rows = self._rows[start:stop]
        answers = [predict(row) for row in rows]
        for row, label in zip(rows, self._labels[start:stop], strict=True):
            learn(row, label)
        return answers

    def probabilities(self, answer: list[dict[int, float]]) -> Floats:
        found: Floats = np.zeros((len(answer), self._count))
        for row, chances in enumerate(answer):
            for label, chance in (chances or {}).items():
                found[row, int(label)] = chance
        return found

    def state_bytes(self) -> int:
        # Some of River's estimators hold what its own count cannot walk through.
        with contextlib.suppress(Exception):
            return int(self._model._raw_memory_usage)
        return 0


def _logistic(stream: Stream) -> Any:
    from river import compose, linear_model, preprocessing

    scaled = preprocessing.StandardScaler()
    if any(about.type == "category" for about in stream.spec.features.values()):
        numbers = compose.SelectType(int, float) | scaled
        scaled = numbers + (compose.SelectType(str) | preprocessing.OneHotEncoder())
    two = len(stream.classes) == 2
    return scaled | (linear_model.LogisticRegression() if two else linear_model.SoftmaxRegression())


def _adaptive_tree(stream: Stream) -> Any:
    from river import tree

    return tree.HoeffdingAdaptiveTreeClassifier(seed=0)


def _forest(stream: Stream) -> Any:
    from river import forest

    return forest.ARFClassifier(seed=0)


def _patches(stream: Stream) -> Any:
    from river import ensemble

    return ensemble.SRPClassifier(seed=0)


def _leveraging(stream: Stream) -> Any:
    from river import ensemble, tree

    return ensemble.LeveragingBaggingClassifier(model=tree.HoeffdingTreeClassifier(), seed=0)


# Vowpal Wabbit, scikit-learn and torch --------------------------------------------------------------------------------


class VowpalWabbit:
    """Logistic, one against all for many classes, fed examples that were parsed beforehand."""

    def __init__(self, stream: Stream, step: int) -> None:
        from vowpalwabbit import Workspace, pyvw

        self._count = len(stream.classes)
        many = f"--oaa {self._count} --probabilities" if self._count > 2 else "--link logistic"
        self._workspace = Workspace(f"--loss_function logistic {many} --quiet")
        self._examples = [self._workspace.example(line) for line in vowpal_lines(stream)]
        self._kind = self._workspace.get_prediction_type()
        self._prediction = pyvw.get_prediction

    def step(self, start: int, stop: int) -> list[Any]:
        workspace, examples = self._workspace, self._examples
        if stop - start == 1:
            workspace.learn(examples[start])  # which predicts first: progressive validation
            return [self._prediction(examples[start], self._kind)]
        answers = [workspace.predict(example) for example in examples[start:stop]]
        for example in examples[start:stop]:
            workspace.learn(example)
        return answers

    def probabilities(self, answer: list[Any]) -> Floats:
        found: Floats = np.array(answer, dtype=np.float64)
        return found if self._count > 2 else np.stack([1.0 - found, found], axis=1)

    def state_bytes(self) -> int:
        return 0


class StochasticGradient:
    """scikit-learn's StandardScaler and SGDClassifier with log loss, partial_fit a step at a time."""

    def __init__(self, stream: Stream, step: int) -> None:
        from sklearn.linear_model import SGDClassifier
        from sklearn.preprocessing import StandardScaler

        self._scaler = StandardScaler()
        self._model = SGDClassifier(loss="log_loss", random_state=0)
        self._codes = stream.codes
        self._count = len(stream.classes)
        events = stream.events
        self._numbers: NDArray[Any] = np.concatenate([events.numbers, *events.vectors], axis=1)
        self._hashed = hashed(stream)
        self._is_fitted = False

    def step(self, start: int, stop: int) -> Floats:
        answer: Floats = np.zeros((stop - start, self._count))
        if self._is_fitted:
            answer = self._model.predict_proba(self._scaled(start, stop))
        if self._numbers.shape[1]:
            self._scaler.partial_fit(self._numbers[start:stop])
        self._model.partial_fit(self._scaled(start, stop), self._codes[start:stop], classes=np.arange(self._count))
        self._is_fitted = True
        return answer

    def _scaled(self, start: int, stop: int) -> Any:
        """The events as the model takes them; what is missing is at the mean of what came before."""
        numbers = self._numbers[start:stop]
        if numbers.shape[1]:
            numbers = np.nan_to_num(self._scaler.transform(numbers), copy=False, nan=0.0)
        if self._hashed is None:
            return numbers
        from scipy import sparse  # type: ignore[import-untyped]

        return sparse.hstack([sparse.csr_matrix(numbers), self._hashed[start:stop]], format="csr")

    def probabilities(self, answer: Floats) -> Floats:
        return answer

    def state_bytes(self) -> int:
        learned = (*vars(self._model).values(), *vars(self._scaler).values())
        return sum(value.nbytes for value in learned if isinstance(value, np.ndarray))


class Perceptron:
    """torch: two hidden layers of 64 ReLU units, Adam with its own settings, a step of events at a time. Numbers are
    standardised by what came before; categories and words are
    hashed."""

    def __init__(self, stream: Stream, step: int) -> None:
        import torch
        from sklearn.preprocessing import StandardScaler
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._torch = torch
        self._scaler = StandardScaler()
        self._count = len(stream.classes)
        self._codes = torch.from_numpy(stream.codes)
        events = stream.events
        self._numbers: NDArray[Any] = np.concatenate([events.numbers, *events.vectors], axis=1)
        sparse = hashed(stream, HASHED_DENSE)
        self._hashed: NDArray[Any] = np.zeros((len(events), 0)) if sparse is None else sparse.toarray()
        width = self._numbers.shape[1] + self._hashed.shape[1]
        self._network = nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, self._count)
        )
        self._adam = torch.optim.Adam(self._network.parameters())
        self._is_fitted = False

    def step(self, start: int, stop: int) -> Any:
        torch = self._torch
        numbers = self._numbers[start:stop]
        answer = None
        if self._is_fitted:
            with torch.no_grad():
                answer = torch.softmax(self._network(self._inputs(start, stop)), dim=1)
        if numbers.shape[1]:
            self._scaler.partial_fit(numbers)
        self._is_fitted = True
        self._adam.zero_grad()
        scores = self._network(self._inputs(start, stop))
        torch.nn.functional.cross_entropy(scores, self._codes[start:stop]).backward()
        self._adam.step()
        return np.zeros((stop - start, self._count)) if answer is None else answer.numpy()

    def _inputs(self, start: int, stop: int) -> Any:
        numbers = self._numbers[start:stop]
        if numbers.shape[1]:
            numbers = np.nan_to_num(self._scaler.transform(numbers), copy=False, nan=0.0)
        both = np.concatenate([numbers, self._hashed[start:stop]], axis=1)
        return self._torch.from_numpy(both.astype(np.float32))

    def probabilities(self, answer: Any) -> Floats:
        found: Floats = np.asarray(answer, dtype=np.float64)
        return found

    def state_bytes(self) -> int:
        # Adam keeps two moments of each weight.
        return 3 * sum(weight.numel() * weight.element_size() for weight in self._network.parameters())


# By name --------------------------------------------------------------------------------------------------------------


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """What a learner is called, what was run, and how much of a stream it gets."""

    how: str
    build: Callable[[Stream, int], Learner]
    is_slow: bool = False
    """Whether it gets a prefix only: minutes for a stream otherwise."""
    is_bounded: bool = False
    """Whether it has the slow ones' time, but the whole stream if that is enough."""


def _river(build: Callable[[Stream], Any]) -> Callable[[Stream, int], Learner]:
    return lambda stream, step: River(stream, build)


OURS = "penstock"
NO_CHANGE = "no_change"
LEARNERS: dict[str, Peer] = {
    OURS: Peer(how="the fast tier, all settings at their defaults", build=Penstock),
    "river_logistic": Peer(
        how="River: StandardScaler | LogisticRegression, SoftmaxRegression for more than two classes",
        build=_river(_logistic),
    ),
    "river_hoeffding_adaptive_tree": Peer(
        how="River: HoeffdingAdaptiveTreeClassifier", build=_river(_adaptive_tree), is_bounded=True
    ),
    "river_adaptive_random_forest": Peer(how="River: ARFClassifier, 10 trees", build=_river(_forest), is_slow=True),
    "river_streaming_random_patches": Peer(
        how="River: SRPClassifier, 10 Hoeffding trees", build=_river(_patches), is_slow=True
    ),
    "river_leveraging_bagging": Peer(
        how="River: LeveragingBaggingClassifier, 10 Hoeffding trees",
        build=_river(_leveraging),
        is_slow=True,
    ),
    "vowpal_wabbit": Peer(
        how="Vowpal Wabbit: logistic, --oaa with --probabilities for more than two classes; it is told how many",
        build=VowpalWabbit,
    ),
    "sklearn_sgd": Peer(
        how="scikit-learn: StandardScaler, SGDClassifier with log loss; it is told the classes",
        build=StochasticGradient,
        is_bounded=True,
    ),
    "torch_mlp": Peer(
        how="torch: StandardScaler, two hidden layers of 64 ReLU units, Adam; it is told the classes",
        build=Perceptron,
        is_bounded=True,
    ),
    NO_CHANGE: Peer(how="the last label of the step before, for certain", build=NoChange),
}
PEERS = tuple(name for name in LEARNERS if name != OURS)
