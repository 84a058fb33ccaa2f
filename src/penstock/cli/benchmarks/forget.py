"""`penstock bench forget`: what is left of each task after the ones that came later, learned in one pass.

Every method gets the same events in the same order, once. None is told which task an event belongs to, and only those
that need it and say so are told where one ends. Each run has a process of its own, and runs come one after the other
unless more are asked for at once.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

from penstock.cli.benchmarks.apart import Failed, apart
from penstock.cli.benchmarks.forget_data import NAMES, Amount, load
from penstock.cli.benchmarks.forget_data import NotThere as SuiteNotThere
from penstock.cli.benchmarks.forget_methods import CONSOLIDATIONS, METHODS, USUAL, Order, Run, once
from penstock.cli.benchmarks.forget_report import Benchmark, LeftOut, Report, row
from penstock.cli.benchmarks.machine import describe
from penstock.errors import PenstockError

PRELOADED = (
    "penstock.cli.benchmarks.forget_methods",
    "penstock.cli.benchmarks.forget_ours",
    "penstock.cli.benchmarks.forget_peers",
    "penstock.learn.slow.loop",
    "scipy.ndimage",
    "sklearn.datasets",
    "torch",
)


class NothingToMeasure(PenstockError):
    """None of the benchmarks can be had: {reasons}"""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure."""

    benchmarks: tuple[str, ...] = NAMES
    methods: tuple[str, ...] = USUAL
    folder: Path | None = None
    """Where data lie; the usual folders are looked through without."""
    seeds: int = 1
    """Runs of each method, each with an order, a choice of events, permutations and first weights of its own."""
    amount: Amount = Amount()
    every: int | None = None
    """Events from one consolidation to the next; so many that there are ``consolidations`` without."""
    consolidations: int = CONSOLIDATIONS
    run_s: float = 4 * 3600.0
    """Seconds that one run may take: many times what any takes on a core of its own, so that only a hang is ended."""
    jobs: int = 1
    """Runs at once, a core each."""


QUICK = Settings(
    benchmarks=("split_mnist", "permuted_mnist", "clinc150"),
    methods=("naive", "ewc", "replay", "penstock_fast", "penstock_slow", "penstock"),
    amount=Amount(train=600, test=200, tasks=4),
    consolidations=3,
    run_s=1200.0,
)
"""One to two minutes on two free cores."""

Note = Callable[[str], None]
Started = Callable[[str, str, int, int], None]
"""Told before each run: benchmark, method, how many runs are over, and how many there will be."""


def measure(settings: Settings, command: str, note: Note, started: Started) -> Report:
    """Every method on every benchmark. Raises BadFile, and NothingToMeasure where no data are to be had."""
    begun, load_before = time.monotonic(), os.getloadavg()[0]
    names, left_out = _there(settings, note)
    if not names:
        raise NothingToMeasure(reasons="; ".join(f"{found.name}: {found.reason}" for found in left_out))
    benchmarks = []
    with _running(settings, [(name, called) for name, called, _ in names], started) as runs:
        for _, called, about in names:
            rows = []
            for method in settings.methods:
                found = [next(runs).result() for _ in range(settings.seeds)]
                failures = [run for run in found if isinstance(run, str)]
                rows.append(
                    row(method, [run for run in found if isinstance(run, Run)], failures[-1] if failures else "")
                )
                note(f"{called}: {method} {rows[-1].said}")
            benchmarks.append(Benchmark(name=called, rows=rows, about=about))
    return Report(
        benchmarks=benchmarks,
        machine=describe(Path(tempfile.gettempdir()), probes=20),
        methods={name: METHODS[name].how for name in settings.methods},
        left_out=left_out,
        seeds=settings.seeds,
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        penstock=metadata.version("penstock"),
        load_average=[round(load_before, 2), round(os.getloadavg()[0], 2)],
        seconds=round(time.monotonic() - begun, 1),
    )


def _there(settings: Settings, note: Note) -> tuple[list[tuple[str, str, str]], list[LeftOut]]:
    """The benchmarks whose data can be had: by which name, how the suite is called then, and what it is."""
    found, left_out = [], []
    for name in settings.benchmarks:
        try:
            suite = load(name, settings.folder, settings.amount, seed=0)
        except SuiteNotThere as error:
            note(f"{name} is left out: {error}")
            left_out.append(LeftOut(name=name, reason=str(error)))
            continue
        note(f"{suite.name}: {suite.about}")
        found.append((name, suite.name, suite.about))
    return found, left_out


@contextmanager
def _running(
    settings: Settings, names: list[tuple[str, str]], started: Started
) -> Iterator[Iterator[Future[Run | str]]]:
    """All runs in the order of the report, each a promise of what came of it or of the words for why nothing did. When
    the block is left early, runs under way are ended and others do not begin."""
    total = len(names) * len(settings.methods) * settings.seeds
    begun = itertools.count()

    def run(name: str, called: str, method: str, seed: int) -> Run | str:
        started(called, method, max(0, next(begun) - settings.jobs + 1), total)
        try:
            return _run(settings, name, method, seed)
        except Failed as failure:
            return str(failure)

    with ThreadPoolExecutor(settings.jobs) as pool:
        promised = [
            pool.submit(run, name, called, method, seed)
            for name, called in names
            for method in settings.methods
            for seed in range(settings.seeds)
        ]
        try:
            yield iter(promised)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _run(settings: Settings, name: str, method: str, seed: int) -> Run:
    order = Order(
        method=method,
        suite=name,
        folder=settings.folder,
        amount=settings.amount,
        seed=seed,
        every=settings.every,
        consolidations=settings.consolidations,
    )
    answer = apart(once, order, preload=PRELOADED, time_s=settings.run_s)
    return msgspec.msgpack.decode(answer, type=Run)
