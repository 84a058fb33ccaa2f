"""The streams that learners are compared on: real ones, seeded generators, and any table with a column of classes.

Each is a `Batch` in a service's types, so that everybody gets the very same values. The service is what `penstock init`
would make of it: nothing is tuned to a stream.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import BadFile, PenstockError, SpecInvalid
from penstock.events import Batch, Kind, Strings, class_names, concatenate
from penstock.spec import ClassName, Feature, Label, Spec

EVENTS = 20_000
"""Of a stream that has more, or as many as one likes, unless a limit is given."""
NAMED_CLASSES_MAX = 20
"""With more, a service file does not name them beforehand: as `penstock init` has it."""
CLASSES_MAX = 1000
EVENT_FIELDS = ("id", "time", "source")


class NotThere(PenstockError):
    """{reason}"""


@dataclass(frozen=True, slots=True)
class Stream:
    """Labelled events in order, and the service that learns them."""

    name: str
    spec: Spec
    events: Batch
    classes: list[ClassName]
    """All that come, in order; also those that come after ``first``."""

    @property
    def labels(self) -> list[ClassName]:
        """(n,) the classes that came."""
        return list(class_names(self.events.labels))

    @property
    def codes(self) -> NDArray[np.intp]:
        """(n,) the labels as places in ``classes``."""
        places = {name: place for place, name in enumerate(self.classes)}
        return np.array([places[label] for label in self.labels], dtype=np.intp)

    def first(self, count: int) -> Stream:
        """The same stream, which ends after so many events."""
        return replace(self, events=self.events.rows(slice(0, count)))


def ordered(labels: list[ClassName]) -> list[ClassName]:
    """The classes among these, numbers by their value before names."""
    return sorted(set(labels), key=_by_number)


def _by_number(name: str) -> tuple[int, float, str]:
    return (0, float(name), "") if re.fullmatch(r"-?\d{1,15}", name) else (1, 0.0, name)


def make(
    name: str,
    features: dict[str, Feature],
    numbers: NDArray[np.float64],
    labels: list[ClassName],
    strings: tuple[Strings, ...] = (),
) -> Stream:
    """A stream of these columns; numbers in the order of the features that are no strings."""
    events = Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(labels)),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=strings,
        labels=labels,
        versions=None,
    )
    return Stream(name, service(name, features, labels), events, ordered(labels))


def service(name: str, features: dict[str, Feature], labels: list[ClassName], label: str = "label") -> Spec:
    """The service that learns these labels, all settings at their defaults."""
    classes = tuple(ordered(labels))
    named = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:63] or "stream"
    if len(classes) == 2:
        about = Label(name=label) if classes == ("0", "1") else Label(name=label, classes=classes)
        return Spec(name=named, task="binary", features=features, label=about)
    known = classes if len(classes) <= NAMED_CLASSES_MAX else ()
    return Spec(name=named, task="multiclass", features=features, label=Label(name=label, classes=known))


# Real streams on disk -------------------------------------------------------------------------------------------------


def _from_text(folder: Path | None, data: str, labels: str, name: str, count: int) -> Stream:
    """Numbers between spaces, a line an event, and the labels in a file beside."""
    if folder is None:
        raise NotThere(reason=f"its data are not part of the package; name their folder with --data (it has {data})")
    try:
        numbers = np.loadtxt(folder / data, max_rows=count, ndmin=2)
        answers = np.loadtxt(folder / labels, max_rows=count, dtype=np.str_, ndmin=1)
    except FileNotFoundError as error:
        raise NotThere(reason=f"there is no {error.filename or folder / data}") from None
    except ValueError as error:
        raise BadFile(folder / data, str(error)) from None
    if len(numbers) != len(answers) or not len(numbers):
        raise BadFile(folder / data, f"has {len(numbers)} events, and {labels} has {len(answers)} labels")
    features = {f"x{j}": Feature(type="number") for j in range(numbers.shape[1])}
    return make(name, features, numbers, [ClassName(label) for label in answers.tolist()])


# Streams of River -----------------------------------------------------------------------------------------------------

Pair = tuple[dict[str, Any], Any]


def _from_pairs(name: str, pairs: Iterable[Pair]) -> Stream:
    """Rows as River gives them: numbers, booleans, and texts as categories."""
    rows, answers = zip(*pairs, strict=True)
    features: dict[str, Feature] = {}
    for key, value in rows[0].items():
        kind = "boolean" if isinstance(value, bool) else "category" if isinstance(value, str) else "number"
        features[str(key)] = Feature(type=kind)  # type: ignore[arg-type]
    keys = dict(zip(features, rows[0], strict=True))
    texts = tuple([row[keys[f]] for row in rows] for f, about in features.items() if about.type == "category")
    plain = [keys[f] for f, about in features.items() if about.type != "category"]
    numbers = np.array([[row[key] for key in plain] for row in rows], dtype=np.float64).reshape(len(rows), len(plain))
    labels = [ClassName(str(label).lower() if isinstance(label, bool) else str(label)) for label in answers]
    return make(name, features, numbers, labels, texts)


def _bundled(dataset: str) -> Callable[[str, int], Stream]:
    def read(name: str, count: int) -> Stream:
        from river import datasets

        return _from_pairs(name, getattr(datasets, dataset)().take(count))

    return read


def _abrupt(parts: list[Any], count: int) -> Iterator[Pair]:
    """The concepts one after the other, each for as long."""
    ends = np.linspace(0, count, len(parts) + 1).astype(int)
    for part, start, end in zip(parts, ends, ends[1:], strict=False):
        yield from part.take(int(end - start))


def _passing(parts: list[Any], count: int, width: int) -> Any:
    """Three concepts that pass into each other within about ``width`` events, after an eighth and after half of it."""
    from river.datasets.synth import ConceptDriftStream

    first, second, third = parts
    soon = ConceptDriftStream(first, second, position=max(1, count // 8), width=width, seed=7)
    return ConceptDriftStream(soon, third, position=max(2, count // 2), width=width, seed=8)


def _generated(name: str, count: int) -> Stream:
    """A seeded generator of `river.datasets.synth`; where concepts change, they do at fixed shares of its length."""
    from river.datasets import synth

    made: Iterable[Pair]
    concepts: list[Any]
    match name:
        case "sea":
            made = _abrupt([synth.SEA(variant=v, noise=0.1, seed=11 + v) for v in range(4)], count)
        case "hyperplane":
            made = synth.Hyperplane(seed=21, n_features=10, n_drift_features=2, mag_change=0.001).take(count)
        case "rbf_drift":
            made = synth.RandomRBFDrift(
                seed_model=31, seed_sample=32, n_classes=4, n_features=10, change_speed=0.001
            ).take(count)
        case "agrawal":
            made = synth.Agrawal(classification_function=2, perturbation=0.05, seed=41).take(count)
        case "led_drift":
            made = _abrupt(
                [
                    synth.LEDDrift(seed=51 + n, noise_percentage=0.1, irrelevant_features=True, n_drift_features=n)
                    for n in (0, 3, 5, 7)
                ],
                count,
            )
        case "mixed":
            made = synth.Mixed(classification_function=0, seed=61).take(count)
        case "sudden_drift":
            concepts = [synth.Agrawal(classification_function=f, seed=71 + f) for f in (0, 3, 6)]
            # Over a shorter stretch River's own sigmoid overflows far from its middle: exp(4 * (n / 2) / (n / 300)).
            made = _passing(concepts, count, -(-count // 300)).take(count)
        case _:
            concepts = [synth.Sine(classification_function=f, seed=81 + f) for f in (0, 2, 3)]
            made = _passing(concepts, count, max(1, count // 20)).take(count)
    return _from_pairs(name, made)


# By name --------------------------------------------------------------------------------------------------------------

ON_DISK = {
    "electricity": ("elec2/elec2_data.dat", "elec2/elec2_label.dat", 45_312),
    "interchanging_rbf": ("drift/interchangingRBF.data", "drift/interchangingRBF.labels", EVENTS),
    "transient_chessboard": ("drift/transientChessboard.data", "drift/transientChessboard.labels", EVENTS),
}
"""Data, labels, and how many events unless a limit is given."""
BUNDLED = {"phishing": "Phishing", "bananas": "Bananas", "image_segments": "ImageSegments", "shuttle": "Shuttle"}
"""Those of River's classification streams that come with the package; the others would have to be downloaded."""
GENERATED = ("sea", "hyperplane", "rbf_drift", "agrawal", "led_drift", "mixed", "sudden_drift", "gradual_drift")
NAMES = (*ON_DISK, *BUNDLED, *GENERATED)
WITHOUT_DRIFT = (*BUNDLED, "agrawal", "mixed")
"""Those whose concept is not known to change: what is confident there should be right as often as it says."""


def load(name: str, folder: Path | None, limit: int | None) -> Stream:
    """One of NAMES. Raises NotThere where its data are not on this machine, or too short to show two classes."""
    stream = _load(name, folder, limit)
    if len(stream.classes) < 2:
        raise NotThere(reason=f"its first {len(stream.events):,} events have one class only")
    return stream


def _load(name: str, folder: Path | None, limit: int | None) -> Stream:
    if name in ON_DISK:
        data, labels, usual = ON_DISK[name]
        return _from_text(folder, data, labels, name, limit or usual)
    try:
        if name in BUNDLED:
            return _bundled(BUNDLED[name])(name, limit or EVENTS)
        return _generated(name, limit or EVENTS)
    except (ImportError, AttributeError) as error:
        raise NotThere(reason=f"it comes with River: {error}; install it with: pip install 'penstock[bench]'") from None
    except OSError as error:
        raise NotThere(reason=f"River has not brought it along: {error}") from None


# Any table ------------------------------------------------------------------------------------------------------------


def from_file(path: str, label: str | None, limit: int | None, note: Callable[[str], None]) -> Stream:
    """A CSV, Parquet or JSON lines file. Raises BadFile, with the row or the column, where it cannot be learned."""
    from penstock.cli.inference import infer
    from penstock.cli.tables import open_source, pieces
    from penstock.serve.decode import Decoder, media_of

    try:
        guessed, _ = infer(path, label=label)
        # Classes are looked for in all rows, not only in the first ones, so none are fixed while reading.
        spec, notes = infer(path, label=label, task="multiclass")
    except SpecInvalid as error:
        raise BadFile(path, f"is nothing that can be learned: {error}") from None
    column = spec.label.name
    if guessed.task == "multilabel":
        raise BadFile(path, f"column {column!r} holds several classes together, and only one is compared here")
    spec = msgspec.structs.replace(spec, label=Label(name=column, classes_max=100_000))
    unused = {*EVENT_FIELDS, "label", *(name for name in notes if name not in spec.features)} - {column}
    source = open_source(path, None)
    decoder = Decoder(spec)
    batches: list[Batch] = []
    rows = 0
    for piece in pieces(source, spec, label=column, skip=unused, rows=10_000, done=0):
        batch = decoder.decode(Kind.EXAMPLE, piece.body, media_of(piece.media), 0.0)
        batches.append(batch.rows(slice(0, None if limit is None else limit - rows)))
        rows += len(batches[-1])
        if rows == limit:
            break
    events = concatenate(batches)
    labels = [_whole(label) for label in class_names(events.labels)]
    _check_classes(path, column, labels, is_quantity=guessed.task == "regression")
    for name in unused & notes.keys():
        note(f"{path}: column {name!r} is not learned from: {notes[name]}")
    stem = Path(path).stem
    # Ids and sources are read by no learner.
    return Stream(
        stem,
        service(stem, dict(spec.features), labels, column),
        replace(events, labels=labels, ids=None, sources=None),
        ordered(labels),
    )


def _whole(label: ClassName) -> ClassName:
    """1.0 is class 1: whole numbers beside missing ones are kept with a fraction by many tools."""
    return ClassName(label.partition(".")[0]) if re.fullmatch(r"-?\d+\.0+", label) else label


def _check_classes(path: str, column: str, labels: list[ClassName], *, is_quantity: bool) -> None:
    different = set(labels)
    if len(different) == 1:
        raise BadFile(path, f"column {column!r} has one class only, {labels[0]!r}: there is nothing to learn")
    is_whole = all(re.fullmatch(r"-?\d+", label) for label in itertools.islice(different, CLASSES_MAX + 1))
    if len(different) > CLASSES_MAX or (is_quantity and (not is_whole or len(different) > len(labels) / 2)):
        said = f"column {column!r} has {len(different):,} different values in {len(labels):,} rows"
        raise BadFile(path, f"{said}, a quantity or names, not classes; name a column of classes with --label")
