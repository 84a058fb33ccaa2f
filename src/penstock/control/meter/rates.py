"""What this machine costs: the price of the most similar machine of the price list, or the one that its owner says.

A price is that of a whole machine. It is split over processors, memory and devices in the ratio of OpenCost's default
prices, as the simulated cluster does it.
"""

from __future__ import annotations

import math

import msgspec

from penstock.control.prices.catalogue import Catalogue, Instance
from penstock.control.prices.parts import CPU_USD_H, GPU_USD_H, MEMORY_USD_GIB_H
from penstock.errors import UnknownMachine

HOURS_A_MONTH = 730.0
"""Hours of a mean month, 8,760 / 12: what price lists count with."""
STORAGE = "storage"
"""The rate of the price list that a GiB on disk costs; nothing where the list has none."""


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine has."""

    cores: float
    memory_gib: float
    gpus: int = 0
    arch: str = "amd64"


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Prices of what is used, in one currency, and where they come from."""

    currency: str
    machine: str
    """The type of machine whose price it is; empty where the owner has said a price."""
    source: str
    """Where and when the price was read, in words."""
    core_h: float
    gib_h: float
    gpu_h: float
    storage_gib_h: float
    capacity: Capacity

    @property
    def machine_h(self) -> float:
        """What the whole machine costs an hour."""
        here = self.capacity
        return here.cores * self.core_h + here.memory_gib * self.gib_h + here.gpus * self.gpu_h


def rates_of(
    catalogue: Catalogue, here: Capacity, *, machine: str | None = None, per_hour: float | None = None
) -> Rates:
    """The rates of this machine: of a price an hour, of a type of machine, or of the type that is most like it.

    Raises UnknownMachine where the list has no such type."""
    rate = catalogue.rate(STORAGE)
    storage_gib_h = 0.0 if rate is None else rate.price / HOURS_A_MONTH
    if per_hour is not None:
        factor = per_hour / _weight(here)
        return _rates(catalogue.currency, "", "the owner's own price", factor, storage_gib_h, here)
    found = nearest(catalogue, here) if machine is None else catalogue.instance(machine)
    if found is None:
        raise UnknownMachine(machine=machine or "like this one")
    shape = Capacity(cores=found.vcpu, memory_gib=found.memory_mib / 1024.0, gpus=found.gpus)
    source = catalogue.sources[found.source]
    alike = "" if machine is not None else "the most similar machine of the price list, "
    told = f"{alike}{found.type} of {found.cloud} in {found.region}, read on {source.date}"
    return _rates(catalogue.currency, found.type, told, found.price / _weight(shape), storage_gib_h, here)


def rates_told(currency: str, source: str, here: Capacity) -> Rates:
    """No rates: somebody else says what everything costs, in this currency."""
    return Rates(
        currency=currency, machine="", source=source, core_h=0, gib_h=0, gpu_h=0, storage_gib_h=0, capacity=here
    )


def nearest(catalogue: Catalogue, here: Capacity) -> Instance | None:
    """The type that differs least in processors and memory, both as ratios; among equals the cheapest. A machine
    without devices is compared with such machines alone, and one with devices with those that have as many."""
    alike = [each for each in catalogue.instances if each.arch == here.arch and each.gpus == here.gpus]
    alike = [each for each in alike if here.gpus or each.accelerator is None]
    return min(alike, key=lambda each: (_distance(each, here), each.price, each.type), default=None)


def _distance(instance: Instance, here: Capacity) -> float:
    cores = abs(math.log(instance.vcpu / here.cores))
    return cores + abs(math.log(instance.memory_mib / 1024.0 / here.memory_gib))


def _weight(shape: Capacity) -> float:
    return shape.cores * CPU_USD_H + shape.memory_gib * MEMORY_USD_GIB_H + shape.gpus * GPU_USD_H


def _rates(currency: str, machine: str, source: str, factor: float, storage_gib_h: float, here: Capacity) -> Rates:
    return Rates(
        currency=currency,
        machine=machine,
        source=source,
        core_h=factor * CPU_USD_H,
        gib_h=factor * MEMORY_USD_GIB_H,
        gpu_h=factor * GPU_USD_H,
        storage_gib_h=storage_gib_h,
        capacity=here,
    )
