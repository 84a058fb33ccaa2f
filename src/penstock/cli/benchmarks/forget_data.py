"""What `penstock bench forget` learns: tasks that come one after the other and do not come back.

Nobody is told to which task an event belongs. Images are learned as the shares of ink in their pixels, texts as hashed
n-grams. Where the folder has no MNIST, scikit-learn's bundled digits take its place, under a name that says so.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import BadFile, PenstockError
from penstock.events import Batch, Kind
from penstock.spec import ClassName, Feature, Spec

Images = NDArray[np.float32]
"""(n, side * side) shares of ink from 0 to 1."""
Codes = NDArray[np.intp]

NAMES = ("split_mnist", "permuted_mnist", "rotated_mnist", "clinc150")
TASKS = 10
"""Of the permuted and the rotated images."""
DEGREES = 10.0
"""By which each task's images are turned further than those of the task before: 0 to 90 in all."""
FOLDERS = (Path("data"), Path("../shared/data"))
"""Where data are looked for unless a folder is named."""


class NotThere(PenstockError):
    """{reason}"""


@dataclass(frozen=True, slots=True)
class Task:
    """What arrives in one stretch of the stream, and what is asked of it ever after."""

    name: str
    train: Batch
    test: Batch


@dataclass(frozen=True)
class Suite:
    """Tasks in the order in which they come, and the service that learns them."""

    name: str
    spec: Spec
    tasks: tuple[Task, ...]
    classes: tuple[ClassName, ...]
    """All that come, in the order of the codes."""
    about: str
    """What the events are, and how many, in words."""

    @cached_property
    def _places(self) -> dict[ClassName, int]:
        return {name: place for place, name in enumerate(self.classes)}

    def codes(self, names: Sequence[ClassName]) -> Codes:
        """(n,) the places of these classes; -1 for one that never comes."""
        return np.array([self._places.get(name, -1) for name in names], dtype=np.intp)


class Amount(msgspec.Struct, frozen=True, kw_only=True):
    """How much of each suite is learned."""

    train: int | None = None
    """Events of each task at most; None for as many as is usual for the suite."""
    test: int | None = None
    """The same of those that it is tested on."""
    tasks: int | None = None
    """Tasks at most."""


def load(name: str, folder: Path | None, amount: Amount, seed: int) -> Suite:
    """One of NAMES; the seed decides order, choice and permutations. Raises NotThere and BadFile."""
    random = np.random.default_rng([seed, NAMES.index(name)])
    if name == "clinc150":
        return _intents(_found("clinc150/data_full.json", folder), amount, random)
    digits = _digits(folder)
    kind = name.removesuffix("_mnist")
    return _split(digits, amount, random) if kind == "split" else _changed(digits, kind, amount, random)


def _found(file: str, folder: Path | None) -> Path | None:
    """Where the file lies, if it does: in the folder that was named, or in one of the usual ones if none was."""
    looked = FOLDERS if folder is None else (folder,)
    return next((at / file for at in looked if (at / file).is_file()), None)


# Images ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Digits:
    name: str
    side: int
    train: tuple[Images, Codes]
    test: tuple[Images, Codes]


def _digits(folder: Path | None) -> _Digits:
    first = _found("mnist/train-images-idx3-ubyte.gz", folder)
    if first is None:
        return _bundled_digits()
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(first.parent / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(first.parent / f"{part}-labels-idx1-ubyte.gz")
        if len(images) != len(labels):
            raise BadFile(first.parent, f"has {len(images)} images and {len(labels)} labels")
        parts.append(((images.reshape(len(images), -1) / np.float32(255)).astype(np.float32), labels.astype(np.intp)))
    return _Digits("mnist", images.shape[1], parts[0], parts[1])


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in LeCun's idx format, compressed. Raises BadFile."""
    try:
        data = gzip.decompress(path.read_bytes())
        zero, kind, rank = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{rank}I", data, 4)
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
        if zero or kind != 8 or values.size != int(np.prod(shape)):
            raise ValueError("it is no array of bytes")
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise BadFile(path, f"cannot be read as idx: {error}") from error
    return values.reshape(shape)


def _bundled_digits() -> _Digits:
    """1,797 images of 8 x 8, every fifth for tests."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NotThere(
            reason=f"there are no images: no mnist/ in the data folder, and {error}; install the bundled digits with: "
            "pip install 'penstock[bench]'"
        ) from None
    found = load_digits()
    images = (found.data / 16.0).astype(np.float32)
    codes = found.target.astype(np.intp)
    is_test = np.arange(len(codes)) % 5 == 4
    return _Digits("digits", 8, (images[~is_test], codes[~is_test]), (images[is_test], codes[is_test]))


def _split(digits: _Digits, amount: Amount, random: np.random.Generator) -> Suite:
    """Two new classes a task, one head for all of them: van de Ven, Tuytelaars and Tolias (2022), class-incremental."""
    tasks = []
    for first in range(0, 10, 2)[: amount.tasks]:
        pair = (first, first + 1)
        parts = []
        for (images, codes), most in ((digits.train, amount.train), (digits.test, amount.test)):
            rows = _some(np.flatnonzero(np.isin(codes, pair)), most, random)
            parts.append(_images(images[rows], codes[rows]))
        tasks.append(Task(f"{pair[0]} and {pair[1]}", *parts))
    return _of_images("split", digits, tuple(tasks), f"{len(tasks)} tasks of two new classes each")


def _changed(digits: _Digits, kind: str, amount: Amount, random: np.random.Generator) -> Suite:
    """The same ten classes in every task, their pixels moved: shuffled (Goodfellow et al. 2013) or turned (Lopez-Paz
    and Ranzato 2017). The first task has them as they are."""
    usual = (10_000 if kind == "permuted" else 6_000, 2_000) if digits.name == "mnist" else (None, None)
    tasks = []
    for number in range(min(TASKS, amount.tasks or TASKS)):
        order = random.permutation(digits.side**2) if number else np.arange(digits.side**2)
        parts = []
        for (images, codes), most in (
            (digits.train, amount.train or usual[0]),
            (digits.test, amount.test or usual[1]),
        ):
            rows = _some(np.arange(len(codes)), most, random)
            chosen = images[rows]
            moved = chosen[:, order] if kind == "permuted" else turned(chosen, digits.side, DEGREES * number)
            parts.append(_images(moved, codes[rows]))
        name = f"permutation {number + 1}" if kind == "permuted" else f"{DEGREES * number:g} degrees"
        tasks.append(Task(name, *parts))
    change = "each with its own order of the pixels" if kind == "permuted" else f"each {DEGREES:g} degrees further"
    return _of_images(kind, digits, tuple(tasks), f"{len(tasks)} tasks of all ten classes, {change}")


def turned(images: Images, side: int, degrees: float) -> Images:
    """The images turned about their middle, with values between pixels interpolated."""
    if not degrees:
        return images
    from scipy import ndimage  # type: ignore[import-untyped]

    square = images.reshape(-1, side, side)
    moved: Any = ndimage.rotate(square, degrees, axes=(1, 2), reshape=False, order=1, mode="constant")
    found: Images = np.clip(moved.reshape(len(images), -1), 0.0, 1.0).astype(np.float32)
    return found


def _some(rows: Codes, most: int | None, random: np.random.Generator) -> Codes:
    """So many of them, in a random order."""
    chosen: Codes = random.permutation(rows)[:most]
    return chosen


def _images(images: Images, codes: Codes) -> Batch:
    return _batch(len(codes), (np.ascontiguousarray(images),), (), [ClassName(str(code)) for code in codes.tolist()])


def _batch(
    count: int, vectors: tuple[Images, ...], strings: tuple[list[str | None], ...], labels: list[ClassName]
) -> Batch:
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(count),
        ids=None,
        sources=None,
        numbers=np.zeros((count, 0)),
        vectors=vectors,
        strings=strings,
        labels=labels,
        versions=None,
    )


def _of_images(kind: str, digits: _Digits, tasks: tuple[Task, ...], said: str) -> Suite:
    spec = Spec(
        name=f"{kind}-{digits.name}",
        task="multiclass",
        features={"pixels": Feature(type="vector", width=digits.side**2)},
    )
    classes = tuple(ClassName(str(code)) for code in range(2 * len(tasks) if kind == "split" else 10))
    pixels = f"{digits.side} x {digits.side} pixels"
    instead = "" if digits.name == "mnist" else "; scikit-learn's digits, since there is no mnist/ in the data folder"
    return Suite(spec.name, spec, tasks, classes, f"{said}, {pixels}, {_sizes(tasks)}{instead}")


def _sizes(tasks: Sequence[Task]) -> str:
    trained, tested = sum(len(task.train) for task in tasks), sum(len(task.test) for task in tasks)
    return f"{trained:,} events learned, {tested:,} for tests"


# Texts ----------------------------------------------------------------------------------------------------------------


def _intents(file: Path | None, amount: Amount, random: np.random.Generator) -> Suite:
    """CLINC150 (Larson et al. 2019): what people ask an assistant for, 15 intents of one domain a task."""
    if file is None:
        raise NotThere(reason="its data are not part of the package; name their folder with --data (it has clinc150/)")
    domains_file = file.with_name("domains.json")
    try:
        said = msgspec.json.decode(file.read_bytes(), type=dict[str, list[tuple[str, str]]])
        domains = msgspec.json.decode(domains_file.read_bytes(), type=dict[str, list[str]])
    except OSError as error:
        raise BadFile(domains_file, str(error)) from None
    except msgspec.MsgspecError as error:
        raise BadFile(file, f"is not as expected: {error}") from None
    tasks = []
    for domain, intents in list(domains.items())[: amount.tasks]:
        parts = []
        for part, most in (("train", amount.train), ("test", amount.test)):
            pairs = [pair for pair in said.get(part, []) if pair[1] in intents]
            rows = _some(np.arange(len(pairs)), most, random)
            texts: list[str | None] = [pairs[row][0] for row in rows]
            parts.append(_batch(len(rows), (), (texts,), [ClassName(pairs[row][1]) for row in rows]))
        tasks.append(Task(domain, *parts))
    spec = Spec(name="clinc150", task="multiclass", features={"text": Feature(type="text")})
    classes = tuple(ClassName(intent) for intents in list(domains.values())[: amount.tasks] for intent in intents)
    about = f"{len(tasks)} domains of {len(classes) // len(tasks)} new intents each, {_sizes(tasks)}"
    return Suite(spec.name, spec, tuple(tasks), classes, about)
