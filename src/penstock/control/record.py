"""The service as its data folder has it: written by `penstock up`, read by every process of the house."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.control.folder import erasing_folder, replace_file
from penstock.errors import ErasureUnfinished, SpecChanged, UnknownService
from penstock.learn.outside.networks import networks, unlike_kept
from penstock.spec import Spec
from penstock.specfile.reader import load
from penstock.specfile.writer import settings, spec_hash

MAY_CHANGE = {
    *("consolidate", "gate", "serve", "budget", "lineage", "subject"),
    *("learn.checkpoint_every", "learn.checkpoints_kept"),
}
"""Settings that what was learned does not depend on, and sections of such."""


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


def record(specs: Mapping[Path, Spec], data: Path) -> None:
    """Write the services into their folders. Raises SpecChanged, with nothing written, where one of them would not
    continue what its folder holds."""
    for file, spec in specs.items():
        path = recorded_path(data, spec.name)
        before = load(path) if path.exists() else spec
        if spec_hash(before) != spec_hash(spec) and (changed := _changed(before, spec)):
            raise SpecChanged(file=file, folder=path.parent, what=", ".join(changed))
        unlike_kept(spec, file, path.parent)
    for file, spec in specs.items():
        path = recorded_path(data, spec.name)
        path.parent.mkdir(exist_ok=True)
        for name, content in networks(spec, file):
            # Relative paths mean nothing in the data folder, and files elsewhere may change.
            (path.parent / name).parent.mkdir(exist_ok=True)
            replace_file(path.parent / name, content)
        replace_file(path, msgspec.json.format(msgspec.json.encode(settings(spec))) + b"\n")


def _changed(before: Spec, after: Spec) -> list[str]:
    """What differs of all that must not."""
    old, new = _flat(settings(before)), _flat(settings(after))
    if list(before.features) != list(after.features) and set(before.features) == set(after.features):
        return ["the order of features"]
    return [path for path in old | new if old.get(path) != new.get(path)]


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    sections = {name: value for name, value in values.items() if isinstance(value, dict) and name not in MAY_CHANGE}
    whole = {name: value for name, value in values.items() if not isinstance(value, dict) and name not in MAY_CHANGE}
    inside = {f"{name}.{field}": value for name, section in sections.items() for field, value in section.items()}
    return whole | {path: value for path, value in inside.items() if path not in MAY_CHANGE}
