"""The price list: ``catalogue.yaml`` beside this file, and what a user's file says instead."""

from __future__ import annotations

import datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from penstock.errors import BadFile

LARGEST = 1e12
"""Of any number in a price list: YAML has a word for infinity, which is no price."""
Price = Annotated[float, msgspec.Meta(ge=0, le=LARGEST)]


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where prices were read, and when."""

    where: str
    date: datetime.date
    confirmed: bool = True
    """Whether it is the seller's own list, and not what somebody else says of it."""


class Instance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One type of machine. Prices are an hour's."""

    cloud: str
    region: str
    type: str
    price: Price
    spot: Price | None = None
    """While the seller has machines to spare; None where it is not known."""
    vcpu: Annotated[float, msgspec.Meta(gt=0, le=LARGEST)]
    memory_mib: Annotated[int, msgspec.Meta(gt=0)]
    accelerator: str | None = None
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    arch: str = "amd64"
    source: str


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price of something that is no machine."""

    name: str
    cloud: str
    price: Price
    per: Literal["hour", "million requests", "GB-second", "vCPU-hour", "GB-hour", "GB-month"]
    source: str


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price list. All its prices are in its currency."""

    currency: str = "USD"
    per_usd: Annotated[float, msgspec.Meta(gt=0, le=LARGEST)] | None = None
    """What a dollar costs in the currency; needed where that is another one."""
    valid_days: Annotated[int, msgspec.Meta(gt=0)] = 180
    """A price that was read longer ago is warned of."""
    sources: dict[str, Source] = {}
    instances: tuple[Instance, ...] = ()
    rates: tuple[Rate, ...] = ()

    def instance(self, kind: str) -> Instance | None:
        """The machine of this type."""
        return next((each for each in self.instances if each.type == kind), None)

    def rate(self, name: str) -> Rate | None:
        """The price of this name."""
        return next((each for each in self.rates if each.name == name), None)


def builtin() -> Catalogue:
    """The list that comes with this package."""
    file = resources.files("penstock.control.prices") / "catalogue.yaml"
    return _decode(file.read_bytes(), "catalogue.yaml")


def load(override: Path | None = None) -> Catalogue:
    """The price list, with what the user's file says instead, in the currency of that file."""
    if override is None:
        return builtin()
    try:
        content = override.read_bytes()
    except OSError as error:
        raise BadFile(override, error.strerror or str(error)) from error
    return merge(builtin(), _decode(content, override))


def merge(listed: Catalogue, own: Catalogue) -> Catalogue:
    """One list in the user's currency, where what the user names replaces what is listed."""
    factor = own.per_usd or 1.0
    named = {_place(each) for each in own.instances}
    rated = {each.name for each in own.rates}
    kept = (_converted(each, factor) for each in listed.instances if _place(each) not in named)
    rates = (
        msgspec.structs.replace(each, price=each.price * factor) for each in listed.rates if each.name not in rated
    )
    return Catalogue(
        currency=own.currency,
        per_usd=own.per_usd,
        valid_days=own.valid_days,
        sources={**listed.sources, **own.sources},
        instances=(*own.instances, *kept),
        rates=(*own.rates, *rates),
    )


def warnings(catalogue: Catalogue, today: datetime.date) -> list[str]:
    """What to know before the prices are believed: those that are old, dated in the future, or second-hand."""
    found = []
    for name in dict.fromkeys(_sources(catalogue)):
        source = catalogue.sources[name]
        age = (today - source.date).days
        if age < 0:
            found.append(f"the prices of {name} are dated {source.date}, which is still to come")
        elif age > catalogue.valid_days:
            found.append(f"the prices of {name} were read {age} days ago, on {source.date}; look them up again")
        if not source.confirmed:
            found.append(f"the prices of {name} are second-hand: {source.where}")
    return found


def _sources(catalogue: Catalogue) -> list[str]:
    """The source of every price."""
    return [each.source for each in catalogue.instances] + [each.source for each in catalogue.rates]


def _place(instance: Instance) -> tuple[str, str, str]:
    return instance.cloud, instance.region, instance.type


def _converted(instance: Instance, factor: float) -> Instance:
    spot = None if instance.spot is None else instance.spot * factor
    return msgspec.structs.replace(instance, price=instance.price * factor, spot=spot)


def _decode(content: bytes, file: object) -> Catalogue:
    try:
        found = msgspec.convert(yaml.safe_load(content), Catalogue)
    except (yaml.YAMLError, UnicodeError) as error:
        raise BadFile(file, f"this is no YAML: {' '.join(str(error).split())}") from error
    except msgspec.ValidationError as error:
        raise BadFile(file, f"this is no price list: {error}") from error
    if found.currency != "USD" and found.per_usd is None:
        raise BadFile(file, f"it is in {found.currency}: say with `per_usd` how much of it a dollar costs")
    if found.currency == "USD" and found.per_usd not in (None, 1.0):
        raise BadFile(file, f"a dollar costs one dollar, and not `per_usd: {found.per_usd}`")
    known = found.sources.keys() | (() if file == "catalogue.yaml" else builtin().sources.keys())
    for name in _sources(found):
        if name not in known:
            raise BadFile(file, f"`sources` says nothing of {name!r}: where its prices were read, and when")
    places = [_place(each) for each in found.instances]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise BadFile(file, f"{' '.join(twice)} is there twice")
    return found
