"""Where requests come from: a trace, or a model of one. Times are seconds from the beginning, in order."""

from __future__ import annotations

import csv
import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BadFile

Times = NDArray[np.float64]
DAY_S = 86_400.0


def steady(rps: float, duration_s: float, rng: np.random.Generator) -> Times:
    """A Poisson process of one rate."""
    count = int(rng.poisson(rps * duration_s))
    found: Times = np.sort(rng.uniform(0.0, duration_s, count))
    return found


def daily(rps: float, duration_s: float, rng: np.random.Generator, *, swing: float = 0.8) -> Times:
    """A Poisson process whose rate follows the day: ``1 − swing`` of the mean at midnight, ``1 + swing`` at noon."""
    # Thinning (Lewis and Shedler, 1979): candidates at the highest rate, kept as often as the rate is reached.
    found = steady(rps * (1.0 + swing), duration_s, rng)
    rate = 1.0 - swing * np.cos(2.0 * np.pi * found / DAY_S)
    kept: Times = found[rng.uniform(0.0, 1.0 + swing, len(found)) < rate]
    return kept


def services(count: int, mean_s: float, rng: np.random.Generator, *, shape: float = 1.0) -> Times:
    """How long each request takes: gamma-distributed; a shape of 1 is exponential, a large one nearly constant."""
    return rng.gamma(shape, mean_s / shape, count)


def read(path: Path) -> Times:
    """Times of a trace: a column of seconds, or of ISO times, in a CSV file with or without a header."""
    found: list[float] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if not row:
                    continue
                seconds = _seconds(row[0])
                if seconds is None and number > 1:
                    raise BadFile(path, f"{row[0]!r} is no time: neither seconds nor ISO 8601", row=number)
                if seconds is not None:
                    found.append(seconds)
    except (UnicodeError, csv.Error) as error:
        raise BadFile(path, f"this is no CSV: {error}") from error
    if not found:
        raise BadFile(path, "there are no times in it")
    times: Times = np.sort(np.array(found, np.float64))
    times -= times[0]
    return times


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        try:
            # Seven digits after the point, as Azure's traces have them, are one more than Python reads.
            head, point, tail = text.strip().partition(".")
            moment = datetime.datetime.fromisoformat(head + point + tail[:6])
        except ValueError:
            return None
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    return value if np.isfinite(value) else None
