"""`penstock budget`: what was spent, what may be, and what is done about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.cli.connect import data_option
from penstock.cli.show import as_json as json_option
from penstock.cli.show import moment, next_commands, say, show, show_json, show_record, value_at
from penstock.specfile.quantities import quantity

if TYPE_CHECKING:
    from penstock.control.budget.limits import Change
    from penstock.control.ledger import Ledger
    from penstock.control.statement import Scope, Statement
    from penstock.publish.notices.allowance import Limit

OVER_BUDGET = 4
WAIT_S = 15.0
LOOK_EVERY_S = 0.1
COLUMNS = (
    ("scope", "SCOPE"),
    ("rung", "RUNG"),
    ("day.spent", "TODAY"),
    ("day.limit", "OF"),
    ("day.forecast", "FORECAST"),
    ("month.spent", "MONTH"),
    ("month.limit", "OF"),
    ("month.forecast", "FORECAST"),
    ("per_hour", "AN HOUR"),
    ("per_1000_predictions", "1000 PREDICTIONS"),
    ("per_million_learned", "MILLION LEARNED"),
    ("per_point.mean", "A POINT"),
)
LINES = (
    ("scope", "scope"),
    ("rung", "rung"),
    ("today", "today"),
    ("month", "this month"),
    ("per_hour", "an hour at present"),
    ("parts", "this month by what it ran"),
    ("resources", "this month by resource"),
    ("predictions", "1,000 predictions, this month"),
    ("learned", "a million events learned, this month"),
    ("point", "a point of loss gained, this month"),
    ("changes", "changed"),
    ("alerts", "alerts"),
)
DECISIONS_SHOWN = 10
_amount = click.FloatRange(min=0)


@click.group()
def budget() -> None:
    """What was spent, what may be, and what is done about it.

    SCOPE is the name of a service, or `portfolio` for all of them together. Amounts are in the currency of the price
    list; days and months are those of UTC.
    """


@budget.command("show")
@click.argument("scope", required=False)
@json_option
@data_option
def show_(scope: str | None, as_json: bool, data: Path) -> int:
    """What was spent, what is forecast, and which rung of the ladder that leads to.

    With SCOPE, its decisions and alerts as well. Exits with 4 when a limit is spent.
    """
    from penstock.control.statement import statement

    with _ledger(data) as ledger:
        found = statement(data, ledger, scope, time.time())
    if as_json:
        show_json(found)
    else:
        for each in found.scopes:
            if each.rung not in ("free", "alert"):
                say(f"{each.scope} is held back ({each.rung.replace('_', ' ')}): {each.why}.")
        if scope is None:
            rows = [msgspec.to_builtins(each) for each in found.scopes]
            show(rows, [column for column in COLUMNS if any(value_at(row, column[0]) is not None for row in rows)])
        else:
            show_record(_readable(found, found.scopes[0]), LINES)
        bill = found.month
        say(
            f"\nThis month: {bill.total:.4g} {found.currency}, of which services {bill.workload:.4g}, "
            f"idle {bill.idle:.4g}, the house itself {bill.overhead:.4g}."
        )
        say(_counted(found))
        for decision in found.decisions[:DECISIONS_SHOWN] if scope else ():
            say(f"{moment(decision.at)}  {decision.before} -> {decision.after}: {decision.reason}")
        for change in found.waiting:
            say(f"A change by {change.by} waits for `penstock up`.")
        name = scope or "SCOPE"
        allow = f"penstock budget override {name} --per-day AMOUNT --for 2h"
        next_commands(*([] if scope else [f"penstock budget show {name}"]), allow)
    return OVER_BUDGET if any(each.is_spent for each in found.scopes) else 0


def _readable(found: Statement, scope: Scope) -> dict[str, str | None]:
    """One scope in words; what there is nothing to say of is None."""
    bill = found.month.services.get(scope.scope)
    point, unnamed = scope.per_point, "storage" if found.counted_until is None else "not said"
    owed = f", {found.owed} deliveries still to be made" if found.owed else ""
    return {
        "scope": scope.scope,
        "rung": scope.rung.replace("_", " ") + (f" since {moment(scope.since)}" if scope.since else ""),
        "today": _limit(scope.day),
        "month": _limit(scope.month),
        "per_hour": f"{scope.per_hour:.4g} {found.currency}",
        "parts": _shares({name or unnamed: cost for name, cost in bill.by_role.items()}) if bill else None,
        "resources": _shares(bill.by_resource) if bill else None,
        "predictions": None if scope.per_1000_predictions is None else f"{scope.per_1000_predictions:.4g}",
        "learned": None if scope.per_million_learned is None else f"{scope.per_million_learned:.4g}",
        "point": None if point is None else f"{point.mean:.4g} ({point.low:.4g} to {point.high:.4g})",
        "changes": "; ".join(map(_change_told, scope.changes)) or None,
        "alerts": f"{len(found.alerts)}, the newest: {found.alerts[-1].message}{owed}" if found.alerts else None,
    }


def _limit(limit: Limit) -> str:
    of = "" if limit.limit is None else f" of {limit.limit:.4g}"
    return f"{limit.spent:.4g}{of}" + ("" if limit.forecast is None else f"; {limit.forecast:.4g} are forecast")


def _shares(costs: Mapping[str, float]) -> str:
    dearest = sorted(costs.items(), key=lambda one: -one[1])
    return ", ".join(f"{name.replace('_', ' ')} {cost:.4g}" for name, cost in dearest)


def _change_told(change: Change) -> str:
    amounts = [
        f"{amount:.4g} {each}"
        for amount, each in ((change.per_day, "a day"), (change.per_month, "a month"))
        if amount is not None
    ]
    until = "" if change.until is None else f" until {moment(change.until)}"
    why = f" ({change.reason})" if change.reason else ""
    return f"{' and '.join(amounts)}{until}, by {change.by}{why}"


def _counted(found: Statement) -> str:
    """Who has counted, and up to when."""
    if found.counted_until is None:
        return f"Counted with {found.machine}."
    silent = f"; it does not say more: {found.meter_fault}" if found.meter_fault else ""
    return f"Counted by {found.machine}, up to {moment(found.counted_until)}{silent}."


def _said(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every change says."""
    command = data_option(json_option(command))
    command = click.option("--reason", default="", help="Why, in a sentence: it is kept.")(command)
    command = click.option("--by", metavar="WHO", help="Who changes it [default: user@host].")(command)
    command = click.option("--per-month", type=_amount, help="What may be spent in a month.")(command)
    command = click.option("--per-day", type=_amount, help="What may be spent on a day.")(command)
    return click.argument("scope")(command)


@budget.command("set")
@_said
@click.option("--reset", is_flag=True, help="Go back to what the service file or the budget file says.")
def set_(reset: bool, **asked: Any) -> None:
    """Change what may be spent from now on."""
    if reset == _says_an_amount(asked):
        raise click.UsageError("Say --per-day or --per-month, or --reset alone")
    _change(is_reset=reset, **asked)


@budget.command("override")
@_said
@click.option("--for", "for_", default="1h", show_default=True, metavar="TIME", help="How long, such as 30m or 2d.")
def override(for_: str, **asked: Any) -> None:
    """Allow another amount for a while, after which what was set before counts again."""
    seconds = quantity(for_, "s")
    if seconds is None or not 0 < seconds < 1e9:
        raise click.UsageError(f"--for takes a time such as 30m, 2h or 1d, not {for_!r}")
    if not _says_an_amount(asked):
        raise click.UsageError("Say --per-day or --per-month")
    _change(until=time.time() + seconds, **asked)


def _says_an_amount(asked: Mapping[str, Any]) -> bool:
    amounts = [asked[name] for name in ("per_day", "per_month") if asked[name] is not None]
    if not all(map(math.isfinite, amounts)):
        raise click.UsageError("An amount is a number; --reset goes back to no limit where the file has none")
    return bool(amounts)


def _change(*, scope: str, data: Path, by: str | None, as_json: bool, **what: Any) -> None:
    from penstock.cli.hand import me
    from penstock.control.budget.limits import PORTFOLIO, Change
    from penstock.control.changes import ask, change_id
    from penstock.control.folder import read_state
    from penstock.control.record import recorded

    if scope != PORTFOLIO:
        recorded(data, scope)
    now = time.time()
    try:
        change = msgspec.convert({"id": change_id(now), "at": now, "scope": scope, "by": by or me(), **what}, Change)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from error
    file = ask(data, change)
    until = time.monotonic() + WAIT_S
    while file.exists() and read_state(data) is not None and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
    waits = file.exists()
    if as_json:
        show_json({"change": change, "pending": waits})
        return
    say("It counts with the next `penstock up`." if waits else "It counts from now on.")
    next_commands(f"penstock budget show {scope}")


def _ledger(data: Path) -> Ledger:
    from penstock.control.ledger import Ledger, ledger_path

    return Ledger(ledger_path(data), read_only=True)
