"""The networks that a service file names, as its data folder keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.errors import SpecChanged
from penstock.spec import Spec
from penstock.specfile.members import OnnxFile, member


def kept_name(place: int) -> str:
    """Where in a service's folder the network of its member at this place is kept."""
    return f"members/{place}.onnx"


def networks(spec: Spec, file: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each network that the service file names."""
    for place, text in enumerate(spec.learn.members):
        if isinstance(named := member(text), OnnxFile):
            yield kept_name(place), (file.parent / named.path).read_bytes()


def unlike_kept(spec: Spec, file: Path, folder: Path) -> None:
    """Raises SpecChanged where a network is another than the one that the service in this folder began with."""
    for name, content in networks(spec, file):
        kept = folder / name
        if kept.exists() and kept.read_bytes() != content:
            raise SpecChanged(file=file, folder=folder, what=f"the network of learn.members[{Path(name).stem}]")
