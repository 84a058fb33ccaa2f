"""Penstock: models that keep learning in production.

The public names are these. Each is imported when it is first used, so that ``import penstock`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.client import Client as Client
    from penstock.errors import PenstockError as PenstockError
    from penstock.errors import Refused as Refused
    from penstock.errors import SpecInvalid as SpecInvalid
    from penstock.errors import Unreachable as Unreachable
    from penstock.spec import Feature as Feature
    from penstock.spec import Label as Label
    from penstock.spec import Spec as Spec
    from penstock.specfile.reader import Service as Service
    from penstock.specfile.reader import load as load
    from penstock.specfile.writer import dump as dump

_PLACES = {
    "Client": "client",
    "Feature": "spec",
    "Label": "spec",
    "PenstockError": "errors",
    "Refused": "errors",
    "Service": "specfile.reader",
    "Spec": "spec",
    "SpecInvalid": "errors",
    "Unreachable": "errors",
    "dump": "specfile.writer",
    "load": "specfile.reader",
}

__all__ = [
    "Client",
    "Feature",
    "Label",
    "PenstockError",
    "Refused",
    "Service",
    "Spec",
    "SpecInvalid",
    "Unreachable",
    "dump",
    "load",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(importlib.import_module(f"penstock.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
