"""What a base is on disk and in memory: a network in ONNX, the statistics of its inputs, and what they were made of.

A folder named after the base's id holds ``manifest.json``, ``base.onnx``, ``encoder.safetensors`` and, where it was
trained here, ``weights.safetensors`` from which the next training goes on, and ``seen.json``, what it was trained on.
Where a challenge has put other settings of the fast tier in force, ``configuration.json`` says them; without a network
to stand beside, that and the manifest are all there is.
It is written beside its place, made durable and then renamed, so that a folder that has its name is whole unless the
disk lost something.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from penstock.errors import BaseMissing
from penstock.eventlog.folders import sync_folder
from penstock.learn.checkpoint import to_safetensors, write_durably
from penstock.learn.configuration import Configuration
from penstock.learn.inputs import FORMAT as SEEN_FORMAT
from penstock.learn.inputs import Seen
from penstock.spec import ClassName, Feature, Spec, Task

FORMAT = 1
Arrays = Mapping[str, NDArray[Any]]


class BaseManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``manifest.json`` says: all that the answers depend on beside the arrays, and where the base comes from."""

    format: int = FORMAT
    kind: str
    """``mlp``, the import path of the user's module, the name of the frozen network's file, or ``none``."""
    inputs: Literal["encoded", "raw", "tokens"] = "encoded"
    """What the network reads: the encoder's columns, the numbers and vectors as they are (missing is 0), or the tokens
    of a text."""
    task: Task
    features: dict[str, Feature]
    """The service's features, in its order, by which its columns are found."""
    classes: tuple[ClassName, ...] = ()
    """In the order of the network's outputs; empty for a regression."""
    width: int
    """Features that the heads read."""
    centre: float = 0.0
    unit: float = 1.0
    """Of a regression's labels: the network answers in units of ``unit`` from ``centre`` on."""
    text: str = ""
    """The text feature that is read as tokens."""
    tokens_max: int = 0
    """Tokens of it that are read at most."""
    parent: str = ""
    """The base whose weights it was trained from; empty for a beginning."""
    seed: int = 0
    replayed: int = 0
    """Events of the past that it was trained on."""
    recent: int = 0
    """Events since the training before that it was trained on."""
    opset: int = 0
    """Of the ONNX network."""
    weights: str = ""
    """SHA-256 of ``weights.safetensors``; empty without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A base whole."""

    manifest: BaseManifest
    network: bytes
    """ONNX, from (n, inputs) float32 to ``features`` (n, width) and ``outputs`` (n, classes or 1)."""
    encoder: bytes = b""
    """Statistics of the inputs as safetensors."""
    weights: bytes = b""
    """The trained weights, and what the next training needs of this one, as safetensors; not needed for answers."""
    tokenizer: bytes = b""
    """JSON as the ``tokenizers`` library writes it, where the network reads a text."""
    seen: bytes = b""
    """What it was trained on, as JSON (`penstock.learn.inputs.Seen`); empty where it does not say."""
    configuration: bytes = b""
    """Settings of the fast tier, as JSON (`penstock.learn.configuration.Configuration`); empty where they are those of
    the service file."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        hashed = hashlib.sha256()
        parts = [msgspec.json.encode(self.manifest), self.network, self.encoder, self.tokenizer]
        if self.seen or self.configuration:
            # What was trained before these were kept keeps its name.
            parts += [self.seen, self.configuration] if self.configuration else [self.seen]
        for part in parts:
            hashed.update(len(part).to_bytes(8, "little"))
            hashed.update(part)
        object.__setattr__(self, "id", hashed.hexdigest())

    @property
    def spec(self) -> Spec:
        """A service with this base's columns and task, and with nothing else."""
        return Spec(name="base", task=self.manifest.task, features=self.manifest.features)

    def statistics(self) -> dict[str, NDArray[Any]]:
        """The encoder's statistics."""
        return unpacked(self.encoder)

    def trained_on(self) -> Seen | None:
        """What it was trained on; None where it does not say. Raises BaseMissing."""
        if not self.seen:
            return None
        try:
            seen = msgspec.json.decode(self.seen, type=Seen)
        except msgspec.MsgspecError as error:
            raise BaseMissing(id=self.id, reason=f"what it was trained on cannot be read: {error}") from error
        if seen.format != SEEN_FORMAT:
            reason = f"format {seen.format} of what it was trained on is not known, only {SEEN_FORMAT}"
            raise BaseMissing(id=self.id, reason=reason)
        return seen

    def configured(self) -> Configuration | None:
        """The settings of the fast tier on top of it; None where they are those of the service file.

        Raises BaseMissing."""
        try:
            return msgspec.json.decode(self.configuration, type=Configuration) if self.configuration else None
        except msgspec.MsgspecError as error:
            raise BaseMissing(id=self.id, reason=f"its configuration cannot be read: {error}") from error

    def parameters(self) -> dict[str, NDArray[Any]]:
        """What the next training goes on from; empty where there is nothing."""
        return unpacked(self.weights)


def sealed(
    manifest: BaseManifest,
    network: bytes,
    *,
    encoder: Arrays,
    weights: Arrays,
    tokenizer: bytes = b"",
    seen: Seen | None = None,
) -> Artifact:
    """The artifact of these parts, its manifest naming the weights."""
    packed = to_safetensors(weights) if weights else b""
    named = hashlib.sha256(packed).hexdigest() if packed else ""
    return Artifact(
        manifest=msgspec.structs.replace(manifest, weights=named),
        network=network,
        encoder=to_safetensors(encoder) if encoder else b"",
        weights=packed,
        tokenizer=tokenizer,
        seen=msgspec.json.encode(seen) if seen else b"",
    )


def with_configuration(parent: Artifact | None, spec: Spec, configuration: Configuration) -> Artifact:
    """The same base with these settings of the fast tier; without one, the settings alone."""
    content = msgspec.json.encode(configuration)
    if parent is None:
        manifest = BaseManifest(kind="none", task=spec.task, features=spec.features, width=0)
        return Artifact(manifest=manifest, network=b"", configuration=content)
    manifest = msgspec.structs.replace(parent.manifest, parent=parent.id)
    return replace(parent, manifest=manifest, configuration=content)


FILES = {
    "network": "base.onnx",
    "encoder": "encoder.safetensors",
    "weights": "weights.safetensors",
    "tokenizer": "tokenizer.json",
    "seen": "seen.json",
    "configuration": "configuration.json",
}


def write_artifact(folder: Path, artifact: Artifact) -> Path:
    """Make it durable under its id in this folder of bases; what stands there whole is left as it is."""
    place = folder / artifact.id
    if place.exists():
        try:
            if read_artifact(folder, artifact.id) == artifact:
                return place
        except BaseMissing:
            pass
        discarded = folder / f"tmp-old-{artifact.id}"
        shutil.rmtree(discarded, ignore_errors=True)
        os.rename(place, discarded)
        shutil.rmtree(discarded)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"tmp-{artifact.id}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for part, name in FILES.items():
        content: bytes = getattr(artifact, part)
        if content:
            write_durably(beside / name, content)
    write_durably(beside / "manifest.json", msgspec.json.format(msgspec.json.encode(artifact.manifest), indent=2))
    sync_folder(beside)
    os.rename(beside, place)
    sync_folder(folder)
    return place


def configuration_of(folder: Path, base_id: str) -> Configuration | None:
    """The settings that a base in this folder carries, for people: nothing is compared, and None is also where they
    cannot be read."""
    try:
        content = (folder / base_id / FILES["configuration"]).read_bytes() if base_id else b""
        return msgspec.json.decode(content, type=Configuration) if content else None
    except (OSError, msgspec.MsgspecError):
        return None


def read_artifact(folder: Path, base_id: str) -> Artifact:
    """The base of this id in a folder of bases. Raises BaseMissing where it is not there or not what was written."""
    place = folder / base_id
    parts = {}
    try:
        manifest = msgspec.json.decode((place / "manifest.json").read_bytes(), type=BaseManifest)
        for part, name in FILES.items():
            path = place / name
            parts[part] = path.read_bytes() if path.exists() else b""
    except FileNotFoundError as error:
        reason = f"{error.filename} is missing" if place.exists() else f"there is no folder {place}"
        raise BaseMissing(id=base_id, reason=reason) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise BaseMissing(id=base_id, reason=str(error)) from error
    if manifest.format != FORMAT:
        raise BaseMissing(id=base_id, reason=f"format {manifest.format} is not known, only {FORMAT}")
    artifact = Artifact(manifest=manifest, **parts)
    named = hashlib.sha256(artifact.weights).hexdigest() if artifact.weights else ""
    if artifact.id != base_id or named != manifest.weights:
        raise BaseMissing(id=base_id, reason=f"what stands in {place} is not what was written there")
    return artifact


def unpacked(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file; empty for no bytes. Raises BaseMissing."""
    try:
        arrays: dict[str, NDArray[Any]] = load(content) if content else {}
    except SafetensorError as error:
        raise BaseMissing(id="given", reason=str(error)) from error
    return arrays
