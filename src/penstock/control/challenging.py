"""Which settings of a service are in force, and which of a changed service file can be tried beside them.

What a service began with stays recorded as it was, for versions of then; what a challenge has put in force stands with
the base of what is served (`penstock.learn.configuration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.errors import NotChallenging, SettingsUntried, SpecChanged
from penstock.learn.configuration import CHALLENGED, Configuration
from penstock.publish.candidates.consolidating import Challenge
from penstock.spec import Spec
from penstock.specfile.writer import settings

MAY_CHANGE = {
    *("consolidate", "gate", "serve", "budget", "lineage", "subject"),
    *("learn.checkpoint_every", "learn.checkpoints_kept"),
}
"""Settings that what was learned does not depend on, and sections of such: they count from the next start."""
TRIED = tuple(f"learn.{name}" for name in CHALLENGED)
"""Settings that can be tried in shadow."""


def changed(before: Spec, after: Spec) -> list[str]:
    """What differs of all that what was learned depends on."""
    old, new = _flat(settings(before)), _flat(settings(after))
    if list(before.features) != list(after.features) and set(before.features) == set(after.features):
        return ["the order of features"]
    return [path for path in old | new if old.get(path) != new.get(path)]


def in_force(folder: Path, spec: Spec) -> Configuration:
    """The settings by which the service in this folder answers, ``spec`` being what it began with.

    Raises BaseMissing, StepsCorrupt."""
    if not any((folder / "bases").glob("*/configuration.json")):
        return Configuration.of(spec)
    # Here, since it loads what reads arrays, and few services ever had other settings than those of their file.
    from penstock.learn.journal import RecordedSteps
    from penstock.learn.slow.artifact import read_artifact

    steps = RecordedSteps(folder / "steps")
    newest = next(iter(steps.entries(steps.last - 1)), None)
    base = "" if newest is None else newest.base
    found = read_artifact(folder / "bases", base).configured() if base else None
    return Configuration.of(spec) if found is None else msgspec.structs.replace(found, number=0)


def continued(file: Path, spec: Spec, before: Spec, folder: Path) -> tuple[Spec, str]:
    """How the service goes on to be recorded that began as ``before``, when it is started with this file; and what is
    to be said where the file has not the settings in force.

    Raises SpecChanged where the file would not continue what the folder holds, SettingsUntried where it might once its
    settings were tried, and what `in_force` raises."""
    differs = changed(before, spec)
    now, asked = in_force(folder, before), Configuration.of(spec)
    if others := [path for path in differs if path not in TRIED]:
        raise SpecChanged(file=file, folder=folder, what=", ".join(others if asked == now else differs))
    if asked == now:
        return Configuration.of(before).applied(spec), ""
    if differs:
        raise SettingsUntried(
            file=file, folder=folder, data=folder.parent, what=_said(asked, now), in_force=_said(now, asked)
        )
    return spec, (
        f"{spec.name} answers with {_said(now, asked)}, as a challenge has put in force, and {file} has "
        f"{_said(asked, now)}: write what is in force into the file"
    )


def challenge_of(file: Path, spec: Spec, before: Spec, folder: Path, now: float) -> tuple[Challenge, list[str]]:
    """What is to be tried of this file, and the sections that differ as well and count from the next start alone;
    ``before`` is what the service began with.

    Raises NotChallenging where something differs that cannot be tried, or nothing does."""
    others = [path for path in changed(before, spec) if path not in TRIED]
    asked, present = Configuration.of(spec), in_force(folder, before)
    reason = f"{', '.join(others)} changed" if others else "it has the settings in force" if asked == present else ""
    if reason:
        raise NotChallenging(file=file, folder=folder, reason=reason, settings=", ".join(TRIED))
    old, new = _words(present), _words(asked)
    changes = tuple(f"{path} {new[path]} instead of {old[path]}" for path in TRIED if old[path] != new[path])
    then, there = settings(before), settings(spec)
    later = [name for name in MAY_CHANGE if then.get(name) != there.get(name)]
    return Challenge(at=now, configuration=asked, changes=changes), sorted(later)


def _said(these: Configuration, others: Configuration) -> str:
    """Those of these settings that the others have otherwise."""
    mine, theirs = _words(these), _words(others)
    return ", ".join(f"{path} {mine[path]}" for path in TRIED if mine[path] != theirs[path])


def _words(configuration: Configuration) -> dict[str, str]:
    return {f"learn.{name}": value for name, value in configuration.words().items()}


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    sections = {name: value for name, value in values.items() if isinstance(value, dict) and name not in MAY_CHANGE}
    whole = {name: value for name, value in values.items() if not isinstance(value, dict) and name not in MAY_CHANGE}
    inside = {f"{name}.{field}": value for name, section in sections.items() for field, value in section.items()}
    return whole | {path: value for path, value in inside.items() if path not in MAY_CHANGE}
