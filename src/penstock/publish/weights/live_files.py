"""Where the live weights of a service are: for those who only find or remove them, such as the house, which starts
faster without the libraries that reading them takes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def live_path(data: Path, service: str) -> Path:
    """Where the control file of a service of this data folder is; the data files' names begin with it."""
    key = f"{data.resolve()}\0{service}".encode()
    name = f"penstock-{hashlib.blake2b(key, digest_size=8).hexdigest()}"
    memory = Path("/dev/shm")
    return memory / name if memory.is_dir() and os.access(memory, os.W_OK) else data / "run" / name


def remove_live(path: Path) -> None:
    """Remove the files when the service was shut down; processes that still map them keep what they see."""
    for control in (path, beside_path(path)):
        control.unlink(missing_ok=True)
        for data in data_files(control):
            data.unlink(missing_ok=True)


def beside_path(path: Path) -> Path:
    """The control file of what answers a share of the traffic beside it."""
    return path.with_name(f"{path.name}-beside")


def data_file(path: Path, generation: int) -> Path:
    """The data file of this generation."""
    return path.with_name(f"{path.name}.{generation}")


def data_files(path: Path) -> list[Path]:
    """All that there are."""
    return [found for found in path.parent.glob(f"{path.name}.*") if found.suffix[1:].isdigit()]
