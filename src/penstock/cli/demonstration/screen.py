"""The live picture of the demo for a terminal, from 80 columns by 24 lines up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from penstock.cli.demonstration.board import SERVICES, Board
from penstock.cli.demonstration.freshness import percentile
from penstock.cli.demonstration.streams import PHASES

WIDE = 112
"""Columns from which the list of happenings stands beside the streams instead of below."""
TALL = 31
"""Lines from which there is room for frames."""
BARS = "▁▂▃▄▅▆▇█"


class Screen:
    """Renders the board as it is at this moment; give it to rich's Live."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        framed = console.height >= (TALL if not wide else 24)
        width = min(options.max_width, 132)
        inner = width - (46 if wide else 0) - (4 if framed else 2)

        def section(title: str, body: RenderableType) -> RenderableType:
            if framed:
                return Panel(body, title=f"[bold]{title}[/]", title_align="left", box=box.ROUNDED, border_style="cyan")
            rule = Rule(f"[bold]{title}[/]", align="left", style="cyan")
            return Group(rule, Padding(body, (0, 1)))

        digits = section("digits: ten classes, two at a time", self._digits(inner))
        flow = section("flow: a water pipeline, one hour ahead", self._flow(inner))
        services = section("services", self._services())
        used = 2 + (8 + 5 + 5 if framed else 7 + 4 + 4)
        yield self._header(width)
        if wide:
            lines = 11 if framed else 9
            pair = Table.grid(expand=False)
            pair.add_column(width=width - 46)
            pair.add_column(width=46)
            pair.add_row(Group(digits, flow), section("what happened", self._moments(42, lines, pad=True)))
            yield Group(pair, Padding(services, (0, 0, 0, 0), expand=False) if not framed else _width(services, width))
        else:
            room = max(min(console.height - used - 3, 8), 3)
            yield Group(digits, flow, services, section("what happened", self._moments(width - 4, room, pad=False)))

    def _header(self, width: int) -> RenderableType:
        board = self.board
        line = Table.grid(expand=False)
        line.add_column(width=width - 24, no_wrap=True)
        line.add_column(width=24, justify="right", no_wrap=True)
        clock = f"{_clock(board.elapsed_s())} of about {_clock(board.planned_s)}"
        line.add_row(
            Text.assemble((" Penstock demo ", "bold reverse cyan"), f"  {board.address}"), Text(clock, style="dim")
        )
        line.add_row(Text.assemble((" now ", "bold"), (board.now, "yellow"), overflow="ellipsis"), "")
        return line

    def _digits(self, width: int) -> RenderableType:
        board = self.board
        each = max((width - 4 - 6 * len(PHASES)) // len(PHASES), 4)
        phases = Text(no_wrap=True)
        for number, (first, second) in enumerate(PHASES):
            done = board.phase_progress(number)
            full = round(done * each)
            style = "bold" if 0 < done < 1 else "" if done else "dim"
            phases.append(f"{first} {second} ", style=style)
            phases.append("━" * full, style="green" if done >= 1 else "yellow")
            phases.append("─" * (each - full), style="bright_black")
            phases.append("  ")
        table = Table.grid(padding=(0, 1))
        table.add_column(min_width=18, no_wrap=True)
        for _ in range(10):
            table.add_column(justify="right", width=4 if width >= 72 else 3)
        table.add_column(justify="right", width=6)
        table.add_row(
            Text("right, per cent", style="dim"),
            *(Text(str(digit), style="dim") for digit in range(10)),
            Text("all", style="dim"),
        )
        seen = [digit for pair in PHASES[: board.phase + 1] for digit in pair] if board.digits_sent else []
        for name, recall in (("Penstock", board.ours), ("naive online SGD", board.naive)):
            shares = [recall.of(digit) if digit in seen else None for digit in range(10)]
            table.add_row(
                Text(name, style="bold" if recall is board.ours else ""),
                *(_share(share) for share in shares),
                _share(recall.of(*seen) if seen else None, bold=True),
            )
        note = Text("on held-out digits of the classes seen so far, asked all the time", style="dim")
        return Group(phases, Text(), table, note)

    def _flow(self, width: int) -> RenderableType:
        flow = self.board.flow
        ours, baseline = flow.mae(), flow.baseline_mae()
        span = width - 22
        line = Text("litres a second      ", style="dim", no_wrap=True)
        line.append(sparkline(flow.actual[-span:], 90.0, 108.0), style="blue")
        errors = Text("our error            ", style="dim", no_wrap=True)
        count = min(len(flow.predicted), len(flow.actual))
        gaps = np.abs(np.subtract(flow.predicted[:count], flow.actual[:count]))[-span:]
        errors.append(sparkline(gaps.tolist(), 0.0, 2.0), style="magenta")
        sums = Text(no_wrap=True)
        sums.append("mean absolute error  ", style="dim")
        sums.append("Penstock ")
        sums.append(
            _number(ours, 3), style="bold green" if ours is not None and baseline and ours < baseline else "bold red"
        )
        sums.append(f"  last value {_number(baseline, 3)}  {count:,} of {self.board.hours_total:,} hours")
        return Group(line, errors, sums)

    def _services(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        heads = ("", "acknowledged", "learned", "version", "held", "rolled back", "fresh p50", "p99 ms")
        for number, head in enumerate(heads):
            table.add_column(justify="right" if number else "left", no_wrap=True, min_width=len(head))
        table.add_row(*(Text(head, style="dim") for head in heads))
        board = self.board
        for service in SERVICES:
            delays = [delay for _, delay in board.freshness[service].measured()]
            held, back = board.count(service, "model", "held"), board.count(service, "model", "rollbacks")
            holding = bool(board.status.get(service, {}).get("model", {}).get("holding"))
            table.add_row(
                Text(service, style="bold"),
                f"{board.tally.acknowledged[service]:,}",
                f"{board.count(service, 'events', 'learned'):,}",
                f"{board.count(service, 'model', 'version'):,}",
                Text(f"{held:,}", style="bold yellow" if holding else ""),
                Text(f"{back:,}", style="bold red" if back else ""),
                _number(percentile(delays, 50), 1),
                _number(percentile(delays, 99), 1),
            )
        failed = board.tally.predictions_failed
        served = Text(f"predictions {board.tally.predictions_served:,} served, ", style="dim")
        served.append(f"{failed:,} failed", style="bold red" if failed else "dim")
        return Group(table, served)

    def _moments(self, width: int, lines: int, *, pad: bool) -> RenderableType:
        rows: list[Text] = []
        for moment in reversed(self.board.moments):
            text = Text(f"{_clock(moment.at_s)} ", style="dim")
            text.append(moment.text, style="bold red" if moment.alarming else "default")
            wrapped = _wrapped(text, width)
            if len(rows) + len(wrapped) > lines:
                break
            rows = wrapped + rows
        if pad:
            rows += [Text()] * (lines - len(rows))
        return Group(*rows)


def _wrapped(text: Text, width: int) -> list[Text]:
    lines = list(text.wrap(Console(width=width, file=None), width - 5))
    return [line if not number else Text("     ") + line for number, line in enumerate(lines)]


def _width(body: RenderableType, width: int) -> RenderableType:
    grid = Table.grid()
    grid.add_column(width=width)
    grid.add_row(body)
    return grid


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A row of bars, one a value; what lies beyond the bounds is drawn at them."""
    places = np.clip((np.asarray(values, dtype=float) - low) / (high - low), 0.0, 1.0) * (len(BARS) - 1)
    return "".join(BARS[int(place)] for place in np.rint(places))


def _share(share: float | None, *, bold: bool = False) -> Text:
    if share is None:
        return Text("·", style="bright_black")
    style = "green" if share >= 0.9 else "yellow" if share >= 0.6 else "red"
    return Text(f"{share * 100:.0f}", style=f"bold {style}" if bold else style)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
