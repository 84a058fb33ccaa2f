"""What others make of the same stream: libraries that learn online, with no durability, no server and no network.

Each predicts every event before it learns from it, has its default settings and gets the events in the form that it
takes fastest, prepared before the clock starts. One that is not installed is left out, with the reason.
"""

from __future__ import annotations

import importlib
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from penstock.cli.benchmarks.synthetic import FEATURES, NAMES, Stream

SGD_BATCH = 1000


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer's result."""

    name: str
    how: str
    """What was run, and what the clock includes."""
    events: int
    events_per_s: float | None = None
    accuracy: float | None = None
    """The share of events whose label was predicted, before learning from them."""
    left_out: str = ""
    """Why there is no result."""


Timed = tuple[float, float]
"""Seconds and accuracy."""


def river_logistic(stream: Stream) -> Timed:
    """River's StandardScaler | LogisticRegression, fed dictionaries."""
    from river import linear_model, preprocessing

    rows = [dict(zip(NAMES, row, strict=True)) for row in stream.numbers.tolist()]
    labels = [bool(label) for label in stream.labels]
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    right = 0
    started = time.perf_counter()
    for row, label in zip(rows, labels, strict=True):
        right += model.predict_one(row) == label
        model.learn_one(row, label)
    return time.perf_counter() - started, right / len(rows)


def _vowpal_lines(stream: Stream) -> list[str]:
    layout = " | " + " ".join(f"{name}:%.4f" for name in NAMES)
    signs = np.where(stream.labels == 1, "1", "-1").tolist()
    return [sign + layout % tuple(row) for sign, row in zip(signs, stream.numbers.tolist(), strict=True)]


def vowpal_examples(stream: Stream) -> Timed:
    """Vowpal Wabbit fed examples that were parsed beforehand: learning alone."""
    from vowpalwabbit import Workspace

    workspace = Workspace("--loss_function logistic --quiet")
    examples = [workspace.example(line) for line in _vowpal_lines(stream)]
    scores = []
    started = time.perf_counter()
    for example in examples:
        workspace.learn(example)  # which predicts first: progressive validation
        scores.append(example.get_simplelabel_prediction())
    taken = time.perf_counter() - started
    for example in examples:
        workspace.finish_example(example)
    workspace.finish()
    return taken, float(((np.array(scores) > 0) == (stream.labels == 1)).mean())


def vowpal_file(stream: Stream) -> Timed:
    """Vowpal Wabbit's own driver over a text file: parsing in one thread, learning in another, all of it in C++."""
    from vowpalwabbit import Workspace

    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        data, predictions = Path(folder, "events.txt"), Path(folder, "predictions.txt")
        data.write_text("\n".join(_vowpal_lines(stream)) + "\n", encoding="ascii")
        started = time.perf_counter()
        workspace = Workspace(f"--loss_function logistic --quiet -d {data} -p {predictions}")
        workspace.finish()
        taken = time.perf_counter() - started
        scores = np.array(predictions.read_text(encoding="ascii").split(), dtype=np.float64)
    return taken, float(((scores > 0) == (stream.labels == 1)).mean())


def sklearn_sgd(stream: Stream) -> Timed:
    """scikit-learn's StandardScaler and SGDClassifier, partial_fit on 1,000 events at a time."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.preprocessing import StandardScaler

    scaler, model = StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)
    classes = np.array([0, 1])
    model.partial_fit(np.zeros((1, FEATURES)), [0], classes=classes)
    scaler.partial_fit(stream.numbers[:1])
    right = 0
    started = time.perf_counter()
    for at in range(0, len(stream), SGD_BATCH):
        numbers, labels = stream.numbers[at : at + SGD_BATCH], stream.labels[at : at + SGD_BATCH]
        right += int((model.predict(scaler.transform(numbers)) == labels).sum())
        scaler.partial_fit(numbers)
        model.partial_fit(scaler.transform(numbers), labels)
    return time.perf_counter() - started, right / len(stream)


PEERS: list[tuple[str, str, str, Callable[[Stream], Timed]]] = [
    ("river", "river", "River: StandardScaler | LogisticRegression, by 1, from dictionaries", river_logistic),
    ("vowpal_wabbit", "vowpalwabbit", "Vowpal Wabbit: logistic, by 1, from parsed examples", vowpal_examples),
    ("vowpal_wabbit_file", "vowpalwabbit", "Vowpal Wabbit: logistic, its driver over a text file", vowpal_file),
    ("sklearn_sgd", "sklearn", "scikit-learn: StandardScaler, SGDClassifier, by 1,000, from arrays", sklearn_sgd),
]
"""Name, module needed, what is run, and the run."""


def run(stream: Stream, note: Callable[[str], None]) -> list[Peer]:
    """Every peer on this stream, one after the other."""
    results = []
    for name, module, how, learn in PEERS:
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing = f"{error}; install it with: pip install 'penstock[bench]'"
            results.append(Peer(name=name, how=how, events=0, left_out=missing))
            continue
        note(f"peer: {name}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a peer's own dependencies
            seconds, accuracy = learn(stream)
        results.append(
            Peer(
                name=name,
                how=how,
                events=len(stream),
                events_per_s=round(len(stream) / seconds, 1),
                accuracy=round(accuracy, 4),
            )
        )
    return results
