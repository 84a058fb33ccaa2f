"""What made a version, beside the log: this software, that service file, this machine. Kept in the service's folder,
one file for each that ever was, and named by its contents in the receipts.

Bytes are the same where all of this is the same. Another build of NumPy or another processor may round otherwise, and
then a rebuilt version differs in its last digits without anything being wrong.
"""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from penstock.eventlog.folders import sync_folder
from penstock.learn.checkpoint import write_durably
from penstock.spec import Spec
from penstock.specfile.reader import loads
from penstock.specfile.writer import dump

LIBRARIES = ("numpy", "numba", "onnxruntime", "river", "scikit-learn")
"""What computes something that versions depend on, where it is installed."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
NAME_LENGTH = 16
"""Hexadecimal digits of a name: 64 bits tell the few environments of one service apart."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of a learner ran on."""

    penstock: str
    code: str
    """SHA-256 of Penstock's own source files."""
    python: str
    libraries: dict[str, str]
    blas: str
    processor: str
    instructions: str
    """Extensions of the processor that NumPy uses."""
    threads: dict[str, str]
    """Variables that say how many threads may add numbers up."""
    service: str
    """The service file, every setting written out."""

    @property
    def name(self) -> str:
        """Equal for equal environments."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:NAME_LENGTH]

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the service file, as `penstock.specfile.writer.spec_hash` has it."""
        return hashlib.sha256(self.service.encode()).hexdigest()

    @property
    def spec(self) -> Spec:
        """The service as it was."""
        return loads(self.service)


def this_environment(spec: Spec) -> Environment:
    """What a learner of this service would run on here and now."""
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return Environment(
        penstock=metadata.version("penstock"),
        code=_code(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries=dict(_libraries()),
        blas=f"{built.get('name')} {built.get('version')}",
        processor=f"{platform.machine()} {_processor()}".strip(),
        instructions=" ".join(_instructions()),
        threads={name: os.environ[name] for name in THREADS if name in os.environ},
        service=dump(spec),
    )


def differences(recorded: Environment, here: Environment) -> list[str]:
    """What of all that results depend on is not the same, in words; service files are not compared."""
    names = ("code", "python", "blas", "processor", "instructions")
    found = [
        f"{name} was {_short(getattr(recorded, name))} and is {_short(getattr(here, name))}"
        for name in names
        if getattr(recorded, name) != getattr(here, name)
    ]
    for what in ("libraries", "threads"):
        then, now = getattr(recorded, what), getattr(here, what)
        found += [
            f"{name} was {then.get(name, 'not there')} and is {now.get(name, 'not there')}"
            for name in sorted(then | now)
            if then.get(name) != now.get(name)
        ]
    return found


def keep(folder: Path, environment: Environment) -> str:
    """Make it durable in the service's folder, and return its name."""
    place = _place(folder, environment.name)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f"tmp-{os.getpid()}")
        beside.unlink(missing_ok=True)
        write_durably(beside, msgspec.json.format(msgspec.json.encode(environment), indent=2))
        beside.replace(place)
        sync_folder(place.parent)
    return environment.name


def find(folder: Path, name: str) -> Environment | None:
    """The environment of this name; None where it was not kept, or cannot be read."""
    try:
        found = msgspec.json.decode(_place(folder, name).read_bytes(), type=Environment)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.name == name else None


def has_other_settings(folder: Path, spec: Spec) -> bool:
    """Whether the service was ever started under other settings than these."""
    kept, service = (find(folder, file.stem) for file in (folder / "environments").glob("*.json")), dump(spec)
    return any(environment is not None and environment.service != service for environment in kept)


def _place(folder: Path, name: str) -> Path:
    return folder / "environments" / f"{name}.json"


@lru_cache(maxsize=1)
def _code() -> str:
    root = Path(__file__).parents[2]
    hashed = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        hashed.update(f"{path.relative_to(root)}\0{len(content)}\0".encode())
        hashed.update(content)
    return hashed.hexdigest()


def _libraries() -> list[tuple[str, str]]:
    found = []
    for name in LIBRARIES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The name that the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, platform.processor())


def _instructions() -> list[str]:
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return [*simd.get("baseline", []), *simd.get("found", [])]


def _short(text: str) -> str:
    return f"{text[:12]}..." if len(text) == 64 else text or "unknown"
