"""`penstock bench stream`: the whole path under load, from the first byte sent to a model that has learned from it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec

from penstock.cli.benchmarks import floors, synthetic
from penstock.cli.benchmarks.load import Flood, Flooded, Form, Pace, Paced
from penstock.cli.benchmarks.machine import describe
from penstock.cli.benchmarks.report import Freshness, Report, Throughput, ratios
from penstock.cli.benchmarks.running import Running, running
from penstock.errors import PenstockError
from penstock.specfile.writer import settings as written

BATCH = 1000
SINGLE_CONNECTIONS = 32
BATCH_CONNECTIONS = 8
PACED_REQUESTS_PER_S = 100.0
PACED_CONNECTIONS = 8
PACED_RATES = (5_000, 20_000)
PREDICTIONS_PER_S = 500.0
WARM_UP_S = 1.0

Outcome = TypeVar("Outcome")
Note = Callable[[str], None]


class BenchmarkFailed(PenstockError):
    """The benchmark's {part} ended with exit code {code}; what it said stands above"""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured. The defaults take two to three minutes on two cores."""

    events: int = 300_000
    """Sent as JSON batches in each repeat; four times as many as Arrow, a sixth of them one by one."""
    repeats: int = 3
    paced_s: float = 8.0
    """Seconds of each paced stretch, beside a second of warming up."""
    peers: bool = True
    url: str = ""
    """A service that runs already; empty to run one."""
    folder: Path = Path(tempfile.gettempdir())
    """Where the data of the service lie meanwhile: the disk that is measured."""
    seed: int = 0


QUICK = Settings(events=60_000, repeats=1, paced_s=3.0)
"""About half a minute."""


def measure(settings: Settings, command: str, note: Note) -> Report:
    """Run everything and report. Raises BenchmarkFailed, or DidNotStart when the service cannot be started."""
    started = time.perf_counter()
    machine = describe(settings.folder)
    service = floors.spec()
    if settings.url:
        house = nullcontext(Running(url=settings.url.rstrip("/"), pid=None))
    else:
        note("starting penstock up")
        house = running(service, settings.folder)  # type: ignore[assignment]
    with house as where:
        load = Load(where, settings, note)
        load.warm_up()
        throughput = {
            "json_single": load.flood("json_single", 1, SINGLE_CONNECTIONS, max(1, settings.events // 6)),
            f"json_batch_{BATCH}": load.flood("json_batch", BATCH, BATCH_CONNECTIONS, settings.events),
            f"arrow_batch_{BATCH}": load.flood("arrow_batch", BATCH, BATCH_CONNECTIONS, 4 * settings.events),
        }
        paced = {str(rate): load.pace(rate) for rate in PACED_RATES}
        accuracy = load.accuracy()
    alone = _floors(settings, note)
    learned_per_s = {name: found.learned_per_s for name, found in throughput.items()}
    return Report(
        benchmark="stream",
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        penstock=version("penstock"),
        machine=machine,
        service={
            "features": synthetic.FEATURES,
            "task": service.task,
            "learn": written(service.learn),
            "consolidate": {"when": service.consolidate.when},
        },
        stream={
            "seed": settings.seed,
            "turn_events": synthetic.TURN_EVENTS,
            "bayes_accuracy": round(synthetic.generate(synthetic.TURN_EVENTS, seed=settings.seed).bayes_accuracy, 4),
        },
        events_per_s=learned_per_s,
        accepted_per_s={name: found.accepted_per_s for name, found in throughput.items()},
        freshness_ms={rate: found.freshness_ms for rate, found in paced.items()},
        predict_ms={rate: found.predict_ms for rate, found in paced.items()},
        floors=alone,
        ratios=ratios(learned_per_s, alone),
        throughput=throughput,
        paced=paced,
        accuracy=accuracy,
        seconds=round(time.perf_counter() - started, 1),
    )


class Load:
    """Sends one stretch of the stream after the other to one service, each from a process of its own."""

    def __init__(self, where: Running, settings: Settings, note: Note) -> None:
        self._where, self._settings, self._note = where, settings, note
        self._sent = 0

    def warm_up(self) -> None:
        """A little of each form, so that nothing measured imports a module or is the first of its kind."""
        self._note("warming up")
        for form, batch, connections in (("json_single", 1, 4), ("json_batch", BATCH, 4), ("arrow_batch", BATCH, 4)):
            self._flood(form, batch, connections, 4 * batch)  # type: ignore[arg-type]

    def flood(self, form: Form, batch: int, connections: int, events: int) -> Throughput:
        """This form as fast as it is taken, the median of the repeats."""
        runs, cores = [], []
        for repeat in range(self._settings.repeats):
            before = self._where.cpu_s()
            run = self._flood(form, batch, connections, events)
            after = self._where.cpu_s()
            used = {name: (after[name] - before.get(name, 0.0)) / run.learned_s for name in after}
            runs.append(run)
            cores.append({**used, "load": run.load_cpu_share})
            rate = run.events / run.learned_s
            self._note(f"{form}, {repeat + 1} of {self._settings.repeats}: {rate:,.0f} events/s learned")
        learned = [round(run.events / run.learned_s, 1) for run in runs]
        return Throughput(
            events=runs[0].events,
            events_per_request=batch,
            connections=connections,
            bytes_per_event=runs[0].bytes_per_event,
            learned_per_s=median(learned),
            accepted_per_s=round(median(run.events / run.accepted_s for run in runs), 1),
            learned_per_s_runs=learned,
            requests_retried=sum(run.requests_retried for run in runs),
            cores_used={name: round(median(used.get(name, 0.0) for used in cores), 2) for name in cores[-1]},
        )

    def _flood(self, form: Form, batch: int, connections: int, events: int) -> Flooded:
        plan = Flood(
            url=self._where.url,
            form=form,
            batch=batch,
            start=self._sent,
            seed=self._settings.seed,
            events=max(batch, events - events % batch),
            connections=connections,
        )
        self._sent += plan.events
        return in_child("load", plan, Flooded)

    def pace(self, events_per_s: int) -> Freshness:
        """JSON at this rate while predictions are asked for, the median of the repeats."""
        settings = self._settings
        batch = round(events_per_s / PACED_REQUESTS_PER_S)
        runs = []
        for repeat in range(settings.repeats):
            plan = Pace(
                url=self._where.url,
                form="json_batch",
                batch=batch,
                start=self._sent,
                seed=settings.seed,
                requests_per_s=PACED_REQUESTS_PER_S,
                connections=PACED_CONNECTIONS,
                predictions_per_s=PREDICTIONS_PER_S,
                warm_up_s=min(WARM_UP_S, settings.paced_s),
                duration_s=settings.paced_s,
            )
            self._sent += round((plan.warm_up_s + plan.duration_s) * PACED_REQUESTS_PER_S) * batch
            run = in_child("load", plan, Paced)
            runs.append(run)
            fresh = run.freshness_ms
            self._note(
                f"paced {events_per_s:,} events/s, {repeat + 1} of {settings.repeats}: "
                f"freshness p50 {fresh['p50']:.1f} ms, p99 {fresh['p99']:.1f} ms"
            )
        return Freshness(
            asked_events_per_s=events_per_s,
            events_per_s=median(run.events_per_s for run in runs),
            events_per_request=batch,
            requests_per_s=PACED_REQUESTS_PER_S,
            predictions_per_s=PREDICTIONS_PER_S,
            freshness_ms=_medians([run.freshness_ms for run in runs]),
            predict_ms=_medians([run.predict_ms for run in runs]),
            acknowledge_ms=_medians([run.acknowledge_ms for run in runs]),
            predictions=sum(run.predictions for run in runs),
            predictions_failed=sum(run.failed for run in runs),
            behind_schedule_ms=_medians([run.behind_schedule_ms for run in runs]),
            load_cpu_share=median(run.load_cpu_share for run in runs),
        )

    def accuracy(self) -> float | None:
        """What the service itself says, or None when it says nothing of it."""
        model = self._where.status().get("model")
        value = model.get("accuracy") if isinstance(model, dict) else None
        return round(value, 4) if isinstance(value, float) else None


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of the runs in which anything was measured; empty where that is none of them."""
    measured = [run for run in runs if run]
    return {name: round(median(run[name] for run in measured), 3) for name in (measured[0] if measured else ())}


def _floors(settings: Settings, note: Note) -> floors.Floors:
    note("floors and peers")
    events = settings.events
    plan = floors.Plan(
        folder=str(settings.folder),
        groups=max(10, events // 1000),
        decode_events=max(BATCH, events // 6),
        learn_events={1024: events, 256: events // 2, 32: events // 8, 1: events // 60},
        peer_events=events // 3 if settings.peers else 0,
        seed=settings.seed,
    )
    return in_child("floors", plan, floors.Floors)


def in_child(module: str, plan: msgspec.Struct, outcome: type[Outcome]) -> Outcome:
    """Carry out a plan in a process of its own, with one thread for linear algebra as the learner has."""
    done = subprocess.run(
        [sys.executable, "-m", f"penstock.cli.benchmarks.{module}"],
        input=msgspec.json.encode(plan),
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise BenchmarkFailed(part=module, code=done.returncode)
    return msgspec.json.decode(done.stdout, type=outcome)
