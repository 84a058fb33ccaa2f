"""The plan as one page of HTML: the table, and cost against traffic as a drawing."""

from __future__ import annotations

import html
import math
from pathlib import Path

from penstock.cli.planning.report import Plan, columns, rows, words
from penstock.control.plan.options import OPTIONS, Option

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 90, 16, 34, 56
COLORS: dict[Option, str] = {
    "one machine": "#1b6ca8",
    "kubernetes": "#c4472b",
    "kubernetes gpu": "#7b4ea3",
    "kubernetes spot": "#d9912b",
    "serverless": "#2e8b57",
    "hybrid": "#808080",
}
STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:1.5em auto;max-width:80em;padding:0 1em}
h1{font-size:1.5em}
svg{display:block;width:100%;max-width:60em}
svg text{font-size:13px;fill:currentColor}
polyline{stroke-width:2}
polyline.chosen{stroke-width:4}
.grid{stroke:currentColor;opacity:.15}
.now{stroke:currentColor;opacity:.6;stroke-dasharray:4}
ul{list-style:none;display:flex;flex-wrap:wrap;gap:.3em 1.5em;margin:.5em 0 1.5em;padding:0}
li i{display:inline-block;width:1.6em;height:.25em;margin-right:.5em;vertical-align:middle}
.wide{overflow-x:auto}
table{border-collapse:collapse}
td,th{padding:.4em 1em .4em 0;text-align:left;vertical-align:top;border-bottom:1px solid #8886;white-space:nowrap}
th{font-size:.75em}
td:nth-child(3),td:last-child{white-space:normal;min-width:14em}
.chosen{font-weight:600}
.broken{opacity:.6}
code{font-size:.95em;overflow-wrap:anywhere}
@media(max-width:40em){svg text{font-size:22px}polyline{stroke-width:4}polyline.chosen{stroke-width:7}}
"""


def written(plan: Plan, file: Path) -> str:
    """The page."""
    named = columns(plan.currency)
    head = "".join(f"<th>{html.escape(title)}</th>" for _, title in named)
    body = "".join(
        f"<tr{' class=chosen' if line.chosen else ' class=broken' if line.limit else ''}>"
        + "".join(f"<td>{html.escape(str(row[name]))}</td>" for name, _ in named)
        + "</tr>\n"
        for line, row in zip(plan.lines, rows(plan), strict=True)
    )
    said = "".join(f"<p>{_sentence(each)}</p>\n" for each in words(plan, file) if each)
    return (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>Plan for {html.escape(plan.service)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>Plan for {html.escape(plan.service)}</h1>\n{drawing(plan)}\n"
        f"<div class='wide'><table>\n<tr>{head}</tr>\n{body}</table></div>\n{said}</body></html>\n"
    )


def _sentence(text: str) -> str:
    """A line of words, or a command, which begins with spaces."""
    shown = html.escape(text.strip())
    return f"<code>{shown}</code>" if text.startswith(" ") else shown


def drawing(plan: Plan) -> str:
    """Cost a month over predictions a second, both by powers of ten, as the formulas have it; and what each line is."""
    rates = [rps for rps, _ in plan.curves]
    usd = [cost for _, costs in plan.curves for cost in costs.values()]
    if not usd:
        return "<p>Nothing holds what is wanted at any traffic.</p>"
    across = (math.log10(min(rates)), math.log10(max(rates)))
    up = (math.floor(math.log10(max(min(usd), 0.01))), math.ceil(math.log10(max(usd))))
    up = (up[0], max(up[1], up[0] + 1))

    def place(rps: float, cost: float) -> tuple[float, float]:
        x = LEFT + (math.log10(rps) - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (math.log10(max(cost, 0.01)) - up[0]) / (up[1] - up[0]) * (HEIGHT - BOTTOM - TOP)
        return round(x, 1), round(y, 1)

    floor = HEIGHT - BOTTOM
    parts = []
    for power in range(up[0], up[1] + 1):
        x, y = place(min(rates), 10.0**power)
        parts.append(f"<line class='grid' x1='{x}' y1='{y}' x2='{WIDTH - RIGHT}' y2='{y}'/>")
        parts.append(f"<text x='{x - 8}' y='{y + 5}' text-anchor='end'>{10.0**power:,g}</text>")
    for power in range(math.ceil(across[0]), math.floor(across[1]) + 1):
        x, _ = place(10.0**power, 1.0)
        parts.append(f"<line class='grid' x1='{x}' y1='{TOP}' x2='{x}' y2='{floor}'/>")
        parts.append(f"<text x='{x}' y='{floor + 22}' text-anchor='middle'>{10.0**power:,g}</text>")
    now = place(plan.workload.traffic.mean_rps, 1.0)[0]
    parts.append(f"<line class='now' x1='{now}' y1='{TOP}' x2='{now}' y2='{floor}'/>")
    parts.append(f"<text x='{now + 6}' y='{TOP + 16}'>now</text>")
    shown = [option for option in OPTIONS if any(option in costs for _, costs in plan.curves)]
    # The chosen one last, and so above the others.
    for option in sorted(shown, key=lambda each: each == plan.chosen):
        places = [(place(rps, costs[option]) if option in costs else None) for rps, costs in plan.curves]
        parts += _line(places, COLORS[option], chosen=option == plan.chosen)
    parts.append(f"<text x='{LEFT}' y='{TOP - 12}'>{html.escape(plan.currency)} a month</text>")
    parts.append(f"<text x='{WIDTH - RIGHT}' y='{HEIGHT - 8}' text-anchor='end'>predictions a second</text>")
    title = "What each option costs a month, over predictions a second"
    inner = "\n".join(parts)
    svg = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{title}'>\n{inner}\n</svg>"
    legend = "".join(
        f"<li{' class=chosen' if option == plan.chosen else ''}>"
        f"<i style='background:{COLORS[option]}'></i>{option}{', chosen' if option == plan.chosen else ''}</li>"
        for option in shown
    )
    return f"{svg}\n<ul>{legend}</ul>"


def _line(places: list[tuple[float, float] | None], color: str, *, chosen: bool) -> list[str]:
    """The line of an option. A stretch in which it does not hold is a gap; one traffic alone is a dot."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at in places:
        if at is not None:
            runs[-1].append(at)
        elif runs[-1]:
            runs.append([])
    mark = " class='chosen'" if chosen else ""
    points = [" ".join(f"{x},{y}" for x, y in (run if len(run) > 1 else 2 * run)) for run in runs if run]
    return [f"<polyline{mark} points='{each}' fill='none' stroke='{color}' stroke-linecap='round'/>" for each in points]
