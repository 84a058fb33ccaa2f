"""How many classes a service has whose classes may arrive, so that one too many is refused where its sender still hears
of it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from penstock.errors import BadEvent, LogUnavailable
from penstock.publish.interface import LiveReader
from penstock.serve.forms import TEXT_MAX
from penstock.spec import ClassName, Spec

_decode = msgspec.json.Decoder(str).decode


class ClassRegister:
    """The classes that any server worker of a service has let in: a file with a JSON string a line.

    Workers that each counted for themselves would together let in more than the model can take. A class is written
    down before its first event, so one may stand there whose event was never accepted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self) -> Iterator[int]:
        """The file, with all other workers kept out. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def read(descriptor: int) -> list[ClassName]:
        """All classes; a line that a crash left unfinished is cut off. Raises OSError."""
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(descriptor, whole)
        return [ClassName(_decode(line)) for line in content[:whole].splitlines()]

    @staticmethod
    def write(descriptor: int, names: Iterable[ClassName]) -> None:
        """Add these, durably. Raises OSError; what was written in part is taken back."""
        end = os.fstat(descriptor).st_size
        lines = b"".join(msgspec.json.encode(name) + b"\n" for name in names)
        try:
            if os.pwrite(descriptor, lines, end) < len(lines):
                raise OSError("no space left")
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise


class KnownClasses:
    """The classes that the model has or will have: declared, learned, or accepted and not learned yet."""

    def __init__(self, spec: Spec, live: LiveReader, register: ClassRegister) -> None:
        self._grows = spec.task in ("multiclass", "multilabel")
        self._name = spec.name
        self._most = spec.label.classes_max
        self._live = live
        self._register = register
        self._known: set[ClassName] = set(spec.label.classes)

    def remember(self, labels: Iterable[ClassName]) -> None:
        """These were accepted before."""
        if self._grows:
            self._known.update(labels)

    def admit(self, labels: Iterable[ClassName]) -> None:
        """Make these known. Raises BadEvent where they would be more than ``label.classes_max``, and LogUnavailable
        where a new one cannot be written down."""
        if not self._grows:
            return
        asked = set(labels)
        if asked <= self._known:
            return
        # A new class is rare enough to look at what the model and the other workers know by now.
        block = self._live.block()
        if block is not None:
            self._known.update(block.head.classes)
        try:
            with self._register.held() as register:
                self._admit(asked, register)
        except OSError as error:
            raise LogUnavailable(folder=self._name, reason=f"a new class cannot be recorded: {error}") from error

    def _admit(self, asked: set[ClassName], register: int) -> None:
        written = self._register.read(register)
        self._known.update(written)
        new = asked - self._known
        if any(len(name) > TEXT_MAX for name in new):
            raise BadEvent(f"A class has at most {TEXT_MAX} characters or digits", pointer="/label")
        if len(self._known) + len(new) > self._most:
            raise BadEvent(
                f"Label {min(new)!r} is a new class, and the service has {len(self._known)} of the {self._most} that "
                "label.classes_max allows",
                pointer="/label",
            )
        if missing := sorted((self._known | new) - set(written)):
            self._register.write(register, missing)
        self._known |= new
