"""What all services of a house may spend together, and what its machine costs: the budget file of `penstock up`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import Meta

from penstock.control.budget.limits import AMOUNT_MAX, Limits
from penstock.control.folder import replace_file
from penstock.control.meter.rates import Capacity, Rates, rates_of, rates_told
from penstock.control.meter.reading import owner
from penstock.control.prices.catalogue import load
from penstock.errors import BadFile
from penstock.spec import ALERTS_AT, Spec

Amount = Annotated[float, Meta(ge=0, le=AMOUNT_MAX)]


class OpenCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where OpenCost or Kubecost say what a cluster has cost."""

    url: str
    """The allocation API: ``http://opencost:9003/allocation`` (``/allocation/compute`` of older ones), or Kubecost's
    ``http://kubecost:9090/model/allocation``. A token for it is read from the variable ``PENSTOCK_METER_TOKEN``."""
    aggregate: str = "label:app"
    """What allocations are named by: a label, ``controller``, ``namespace``, or several with commas between them, such
    as ``label:app,label:role``; a role is ``server``, ``learner`` or ``consolidator``."""
    filter: str = ""
    """Which of them to look at, in the API's own words, such as ``namespace:"shop"``."""
    idle: Literal["apart", "shared"] = "apart"
    """What nobody has of the cluster: told by itself (``apart``), or split over all, as ``shareIdle`` does it."""
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 30.0


class Meters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another system that counts in place of what Penstock sees itself."""

    opencost: OpenCost
    names: dict[str, str] = {}
    """The service, or ``service/role``, of allocations whose name does not say it."""
    currency: str = "USD"
    """In which it counts; where it says another, nothing is believed."""
    every_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    """Seconds between two readings."""
    blind_after_s: Annotated[float, Meta(gt=0, le=31 * 86_400)] = 7200.0
    """For so long a service may have gone uncounted before its learning pauses, where there is a limit."""

    @property
    def source(self) -> str:
        """Who counts, in words."""
        return f"OpenCost at {self.opencost.url}"


class Portfolio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget file. All amounts are in the currency of its price list."""

    per_day: Amount | None = None
    per_month: Amount | None = None
    alert_at: Annotated[tuple[Annotated[float, Meta(gt=0, le=1000)], ...], Meta(max_length=16)] = ALERTS_AT
    """Shares of a limit at which somebody is told, when they are spent or forecast."""
    alert_webhook: str = ""
    alert_file: str = ""
    alert_command: str = ""
    at_limit: Literal["serve", "stop"] = "serve"
    machine: str | None = None
    """The type of machine whose price counts; by default the one of the price list that is most like this one."""
    per_hour: Amount | None = None
    """What this machine costs an hour; then no price list is looked at for it."""
    prices: str = ""
    """A price list of your own, relative to this file."""
    meter: Meters | None = None
    """Another system that counts; by default what the processes here use is."""

    @property
    def limits(self) -> Limits:
        return Limits(per_day=self.per_day, per_month=self.per_month)


class House(msgspec.Struct, frozen=True, kw_only=True):
    """What ``.money/house.json`` says: the budget file as it was at the last start, and what the machine costs."""

    portfolio: Portfolio
    rates: Rates


def read_portfolio(file: Path | None, here: Capacity) -> House:
    """The budget file, and the rates that it leads to. Raises BadFile and UnknownMachine."""
    portfolio = Portfolio() if file is None else _decoded(file)
    if file is not None and portfolio.alert_webhook and not portfolio.alert_webhook.startswith(("http://", "https://")):
        raise BadFile(file, f"alert_webhook is an address such as https://server/path, not {portfolio.alert_webhook!r}")
    if file is not None and portfolio.meter is not None:
        for fault in _meter_faults(portfolio, portfolio.meter.opencost):
            raise BadFile(file, fault)
        return House(portfolio=portfolio, rates=rates_told(portfolio.meter.currency, portfolio.meter.source, here))
    own = None if file is None or not portfolio.prices else file.parent / portfolio.prices
    rates = rates_of(load(own), here, machine=portfolio.machine, per_hour=portfolio.per_hour)
    return House(portfolio=portfolio, rates=rates)


def check_names(file: Path, portfolio: Portfolio, services: Collection[str]) -> None:
    """Raises BadFile where an allocation is said to belong to a service that there is not."""
    for name, told in portfolio.meter.names.items() if portfolio.meter is not None else ():
        if not owner(told, services, {})[0]:
            known = ", ".join(services)
            raise BadFile(file, f"meter.names says that {name!r} belongs to {told!r}; the services here: {known}")


def _meter_faults(portfolio: Portfolio, opencost: OpenCost) -> Iterator[str]:
    url = urlsplit(opencost.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        yield f"meter.opencost.url is an address such as http://opencost:9003/allocation, not {opencost.url!r}"
    if url.username or url.password:
        yield "meter.opencost.url has a name or a password in it; a token belongs into PENSTOCK_METER_TOKEN"
    if not url.path.rstrip("/").endswith(("/allocation", "/allocation/compute")) or url.query:
        yield f"meter.opencost.url ends with /allocation or /allocation/compute, unlike {opencost.url!r}"
    if not opencost.aggregate.strip():
        yield "meter.opencost.aggregate names what allocations are called by, such as label:app"
    unused = [name for name in ("machine", "per_hour", "prices") if getattr(portfolio, name) not in (None, "")]
    if unused:
        yield f"{', '.join(unused)} would count for nothing, since meter.opencost says what is spent; leave one out"


def write_house(data: Path, house: House) -> None:
    """Keep it for the governor."""
    place = data / ".money"
    place.mkdir(exist_ok=True)
    replace_file(place / "house.json", msgspec.json.format(msgspec.json.encode(house)) + b"\n")


def read_house(data: Path) -> House:
    """What the last start has kept. Raises BadFile where there was none."""
    file = data / ".money" / "house.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=House)
    except FileNotFoundError as error:
        raise BadFile(file, "nothing was ever started on this folder") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise BadFile(file, str(error)) from error


def limits_of(spec: Spec) -> Limits:
    """What the service file says."""
    return Limits(per_day=spec.budget.per_day, per_month=spec.budget.per_month)


def _decoded(file: Path) -> Portfolio:
    try:
        found = yaml.safe_load(file.read_bytes())
        # A file in which everything is a comment says nothing, and that is allowed.
        return msgspec.convert({} if found is None else found, Portfolio)
    except OSError as error:
        raise BadFile(file, error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise BadFile(file, f"this is no YAML: {' '.join(str(error).split())}") from error
    except msgspec.ValidationError as error:
        raise BadFile(file, f"this is no budget file: {error}") from error
