"""The plan as one page of HTML: the table, and cost against traffic as a drawing."""

from __future__ import annotations

import html
import math
from pathlib import Path

from penstock.cli.planning.report import Plan, columns, rows, words
from penstock.control.plan.options import OPTIONS, Option

WIDTH, HEIGHT, LEFT, BOTTOM = 860, 420, 70, 50
COLORS: dict[Option, str] = {
    "one machine": "#1b6ca8",
    "kubernetes": "#c4472b",
    "kubernetes gpu": "#7b4ea3",
    "kubernetes spot": "#d9912b",
    "serverless": "#2e8b57",
    "hybrid": "#5a5a5a",
}


def written(plan: Plan, file: Path) -> str:
    """The page."""
    named = columns(plan.currency)
    head = "".join(f"<th>{html.escape(title)}</th>" for _, title in named)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(row[name]))}</td>" for name, _ in named) + "</tr>" for row in rows(plan)
    )
    said = "".join(f"<p>{html.escape(each)}</p>" for each in words(plan, file) if each)
    return (
        f"<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>Plan for {html.escape(plan.service)}</title>\n"
        "<style>body{font:15px system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
        "table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd}</style>\n"
        f"<h1>Plan for {html.escape(plan.service)}</h1>\n{drawing(plan)}\n"
        f"<table><tr>{head}</tr>{body}</table>\n{said}</html>\n"
    )


def drawing(plan: Plan) -> str:
    """Cost a month over predictions a second, both by powers of ten, as the formulas have it."""
    rates = [rps for rps, _ in plan.curves]
    usd = [cost for _, costs in plan.curves for cost in costs.values()]
    if not usd:
        return "<p>Nothing holds what is wanted at any traffic.</p>"
    across = (math.log10(min(rates)), math.log10(max(rates)))
    up = (math.floor(math.log10(max(min(usd), 0.01))), math.ceil(math.log10(max(usd))))
    up = (up[0], max(up[1], up[0] + 1))

    def place(rps: float, cost: float) -> tuple[float, float]:
        x = LEFT + (math.log10(rps) - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - 150)
        y = HEIGHT - BOTTOM - (math.log10(max(cost, 0.01)) - up[0]) / (up[1] - up[0]) * (HEIGHT - BOTTOM - 20)
        return round(x, 1), round(y, 1)

    parts = []
    for power in range(up[0], up[1] + 1):
        x, y = place(min(rates), 10.0**power)
        parts.append(f"<line x1='{x}' y1='{y}' x2='{WIDTH - 150}' y2='{y}' stroke='#ddd'/>")
        parts.append(f"<text x='{x - 8}' y='{y + 4}' text-anchor='end'>{10.0**power:,g}</text>")
    for power in range(math.ceil(across[0]), math.floor(across[1]) + 1):
        x, y = place(10.0**power, 10.0 ** up[0])
        parts.append(f"<text x='{x}' y='{y + 20}' text-anchor='middle'>{10.0**power:,g}</text>")
    now = place(plan.workload.traffic.mean_rps, 10.0 ** up[0])[0]
    parts.append(f"<line x1='{now}' y1='20' x2='{now}' y2='{HEIGHT - BOTTOM}' stroke='#999' stroke-dasharray='4'/>")
    parts.append(f"<text x='{now + 5}' y='32'>now</text>")
    shown = [option for option in OPTIONS if any(option in costs for _, costs in plan.curves)]
    for number, option in enumerate(shown):
        # A stretch in which an option does not hold is a gap in its line.
        runs: list[list[str]] = [[]]
        for rps, costs in plan.curves:
            if option in costs:
                runs[-1].append("{},{}".format(*place(rps, costs[option])))
            elif runs[-1]:
                runs.append([])
        color, width = COLORS[option], 3.5 if option == plan.chosen else 1.8
        parts += [
            f"<polyline points='{' '.join(run)}' fill='none' stroke='{color}' stroke-width='{width}'/>"
            for run in runs
            if run
        ]
        parts.append(f"<text x='{WIDTH - 140}' y='{40 + 20 * number}' fill='{color}'>{option}</text>")
    parts.append(f"<text x='{LEFT}' y='14'>{html.escape(plan.currency)} a month</text>")
    parts.append(f"<text x='{WIDTH - 150}' y='{HEIGHT - 8}' text-anchor='end'>predictions a second</text>")
    inner = "\n".join(parts)
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' font-size='12' role='img'>\n{inner}\n</svg>"
