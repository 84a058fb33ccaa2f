"""From the service file's words to members: libraries are imported here, classes looked up, and faults found."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Fault, LibraryMissing, SpecInvalid
from penstock.events import Schema
from penstock.learn.fast.encode import Encoder
from penstock.learn.outside import river, sklearn
from penstock.learn.outside.interface import Adapter, Stage
from penstock.learn.outside.members import Answerers, Members
from penstock.learn.outside.networks import kept_name
from penstock.learn.outside.onnx import OnnxMember
from penstock.learn.outside.pickles import digest_of, unpacked
from penstock.learn.outside.river import RiverMember
from penstock.learn.outside.sklearn import SklearnMember
from penstock.learn.outside.surroundings import quiet
from penstock.spec import Spec
from penstock.specfile.members import Joined, Made, OnnxFile, member, places

COLUMNS_MAX = 4096
"""Columns of the encoder's matrix that scikit-learn's models are given at most: checkpoints keep their events."""
SEEDS = ("seed", "random_state")
OPENED = 4
"""Packed models kept open a member: those of the served version, of the last known good one, and two to spare."""
LIBRARY_NAMES = {"river": "river", "sklearn": "scikit-learn", "onnxruntime": "onnxruntime"}


class OutsideMembers:
    """The members that a service names (`fast.experts.Outside`), for one process."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        """``folder`` is the service's, where `keep_files` has put its networks. Raises LibraryMissing and
        SpecInvalid."""
        self._spec = spec
        self._adapters: list[Adapter] = []
        self._open: list[dict[bytes, Any]] = []
        faults = []
        for place in range(len(spec.learn.members)):
            try:
                self._adapters.append(adapter(spec, place, folder / kept_name(place)))
                self._open.append({})
            except ValueError as error:
                path = f"learn.members[{place}]"
                faults.append(Fault(file=str(folder), path=path, message=str(error)))
        if faults:
            raise SpecInvalid(faults)

    def learning(self, stage: Stage) -> list[Members]:
        """As the learner has them."""
        return [Members(self._spec, stage, self._adapters, self._opened)] if self._adapters else []

    def answering(self, stage: Stage) -> list[Answerers]:
        """As servers have them."""
        return [Answerers(self._spec, stage, self._adapters, self._opened)] if self._adapters else []

    def _opened(self, place: int, content: NDArray[np.uint8]) -> Any:
        """What was packed; versions come many times a second, and most carry the same models as the one before."""
        kept, digest = self._open[place], digest_of(content)
        model = kept.pop(digest, None)
        if model is None:
            with quiet():
                model = unpacked(content, self._adapters[place].libraries)
        kept[digest] = model
        while len(kept) > OPENED:
            del kept[next(iter(kept))]
        return model


def outside_members(spec: Spec, folder: Path) -> OutsideMembers | None:
    """The members that a service names, where it names any. Raises LibraryMissing and SpecInvalid."""
    return OutsideMembers(spec, folder) if spec.learn.members else None


def adapter(spec: Spec, place: int, network: Path) -> Adapter:
    """One member. Raises ValueError with what is wrong with it, and LibraryMissing."""
    text = spec.learn.members[place]
    named = member(text)
    try:
        if isinstance(named, OnnxFile):
            return _network(spec, text, network)
        model = build(named, spec.learn.seed + place)
        is_river = named.library == "river"
        if why := (river if is_river else sklearn).unsuited(model, spec.task):
            raise ValueError(why)
    except ImportError as error:
        if named.library in (error.name or named.library):
            library = LIBRARY_NAMES[named.library]
            raise LibraryMissing(purpose=f"The member {text}", library=library, extra="members") from error
        raise ValueError(f"cannot be imported: {error}") from error
    make = partial(build, named, spec.learn.seed + place)
    if is_river:
        return RiverMember(text, make)
    if (columns := Encoder(spec).fixed) > COLUMNS_MAX:
        raise ValueError(f"would read {columns} columns, and scikit-learn's models are given {COLUMNS_MAX} at most")
    return SklearnMember(text, make, numeric=spec.task == "regression")


def _network(spec: Spec, text: str, file: Path) -> OnnxMember:
    unread = [name for name, feature in spec.features.items() if feature.type in ("category", "text")]
    if unread:
        raise ValueError(f"reads numbers, and {unread[0]!r} is a {spec.features[unread[0]].type}")
    if spec.task == "multiclass" and not spec.label.classes:
        raise ValueError("answers with classes in the order of label.classes, which names none")
    if not file.is_file():
        raise ValueError(f"names a file that is not there: {file}")
    schema = Schema.of(spec)
    columns = len(schema.numbers) + sum(width for _, width in schema.vectors)
    classes = {"binary": 2, "multiclass": len(spec.label.classes)}.get(spec.task)
    return OnnxMember(text, file, classes, columns)


def build(named: Any, seed: int) -> Any:
    """The object that this names, with seeds where it takes some and none is given. Raises ValueError and
    ImportError."""
    if isinstance(named, Joined):
        from river import compose

        return compose.Pipeline(*(build(part, seed) for part in named.parts))
    if isinstance(named, list | tuple):
        return type(named)(build(element, seed) for element in named)
    if isinstance(named, dict):
        return {key: build(value, seed) for key, value in named.items()}
    if not isinstance(named, Made):
        return named
    made = _class(named.name)
    positional = [build(value, seed) for value in named.positional]
    settings = {name: build(value, seed) for name, value in named.named}
    try:
        signature = inspect.signature(made)
        given = signature.bind_partial(*positional, **settings).arguments
        settings |= {name: seed for name in SEEDS if name in signature.parameters and name not in given}
        return made(*positional, **settings)
    except Exception as error:  # what a class makes of its arguments is its own
        raise ValueError(f"{named.name} does not take these arguments: {' '.join(str(error).split())}") from error


def _class(name: str) -> type:
    module, _, last = name.rpartition(".")
    importlib.import_module(name.partition(".")[0])
    try:
        found = getattr(importlib.import_module(module), last, None)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ValueError(f"names the module {module}, which is not there") from error
    if not isinstance(found, type):
        raise ValueError(f"names {name}, which is no class")
    return found


# The service file's side ----------------------------------------------------------------------------------------------


def check_members(specs: Mapping[Path, Spec]) -> None:
    """Make every member of these services once, from the files that name them. Raises SpecInvalid with all that is
    wrong, and LibraryMissing."""
    faults = []
    for file, spec in specs.items():
        where = places(file) if spec.learn.members else []
        for place, text in enumerate(spec.learn.members):
            try:
                adapter(spec, place, file.parent / text.strip())
            except ValueError as error:
                line, column = where[place] if place < len(where) else (0, 0)
                path = f"learn.members[{place}]"
                faults.append(Fault(file=str(file), line=line, column=column, path=path, message=str(error)))
    if faults:
        raise SpecInvalid(faults)
