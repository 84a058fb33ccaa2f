"""The service as its data folder has it: written by `penstock up`, read by every process of the house."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.control.challenging import continued
from penstock.control.folder import erasing_folder, replace_file
from penstock.errors import ErasureUnfinished, UnknownService
from penstock.learn.outside.networks import networks, unlike_kept
from penstock.spec import Spec
from penstock.specfile.reader import load
from penstock.specfile.writer import settings


def recorded_path(data: Path, service: str) -> Path:
    """Where a service is recorded: as JSON, which is YAML as well, so it reads like any service file."""
    return data / service / "service.json"


def recorded(data: Path, service: str) -> Spec:
    """The service as it was last started. Raises UnknownService, with those that the folder has, and
    ErasureUnfinished."""
    path = recorded_path(data, service)
    if (erasing_folder(data, service) / "whole").exists():
        raise ErasureUnfinished(service=service, data=data)
    if not path.exists():
        known = sorted(found.parent.name for found in data.glob("*/service.json"))
        raise UnknownService(name=service, known=", ".join(known) or f"none in {data}; say with --data where else")
    return load(path)


def record(specs: Mapping[Path, Spec], data: Path) -> list[str]:
    """Write the services into their folders, and give what is to be said about it. Raises SpecChanged or
    SettingsUntried, with nothing written, where one of them would not continue what its folder holds."""
    said = []
    written: dict[Path, Spec] = {}
    for file, spec in specs.items():
        path = recorded_path(data, spec.name)
        before = load(path) if path.exists() else spec
        written[file], notice = continued(file, spec, before, path.parent)
        said += [notice] if notice else []
        unlike_kept(spec, file, path.parent)
    for file, spec in written.items():
        path = recorded_path(data, spec.name)
        path.parent.mkdir(exist_ok=True)
        for name, content in networks(spec, file):
            # Relative paths mean nothing in the data folder, and files elsewhere may change.
            (path.parent / name).parent.mkdir(exist_ok=True)
            replace_file(path.parent / name, content)
        replace_file(path, msgspec.json.format(msgspec.json.encode(settings(spec))) + b"\n")
    return said
