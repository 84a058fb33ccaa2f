"""Small files by which the processes of a service tell each other how things stand."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


def put_up(path: Path, told: object) -> None:
    """Say this in JSON in the place of what the file said: whoever reads it sees all of the old one or all of the new
    one. It need not survive the machine."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(msgspec.json.encode(told))
    beside.replace(path)
