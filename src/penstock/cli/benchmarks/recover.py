"""`penstock bench recover`: a real service under live traffic, whose processes are killed over and over; what was
acknowledged must be learned, once, and the state must be that of a learner that nobody killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import gettempdir

import msgspec
import numpy as np

from penstock.cli.benchmarks import floors
from penstock.cli.benchmarks.load import Flood, Flooded, Form
from penstock.cli.benchmarks.machine import Machine, describe
from penstock.cli.benchmarks.recover_traffic import Kill, Killer, Target, Traffic, Witness
from penstock.cli.benchmarks.recover_verify import Plan, Verified
from penstock.cli.benchmarks.running import House, descendants, housed
from penstock.cli.benchmarks.stream import in_child
from penstock.control.folder import read_state
from penstock.spec import Spec

Note = Callable[[str], None]
BATCH = 1000
CONNECTIONS = 8
AT_A_LENGTH: tuple[Target, ...] = ("learner", "learner", "learner", "loader", "loader")
"""What is killed, one after the other, for the restart times at one length of the log."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much is done. The defaults take some seven minutes on two cores."""

    kills: int = 100
    lengths: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Events in the log at which memory and restart times are measured, ascending; the kills follow at the last."""
    clients: int = 3
    events_per_s: float = 600.0
    """Sent by all clients together while processes are killed."""
    ids_events: int = 200_000
    """Events of each of the runs that are compared for what ids cost; 0 leaves them out."""
    ids_pairs: int = 3
    folder: Path = Path(gettempdir())
    seed: int = 0


QUICK = Settings(kills=12, lengths=(10_000, 100_000), ids_events=50_000, ids_pairs=2)
"""About a minute and a half."""


class AtLength(msgspec.Struct, frozen=True, kw_only=True):
    """The learner with so many events in the log."""

    events: int
    learner_mb: float
    """Memory of the process that learns: its own and its share of what it has in common with others, in 10^6 bytes."""
    loader_mb: float
    """The same of the process that it is a fork of."""
    restart_s: float
    """Median, after the learner was killed."""
    cold_restart_s: float
    """Median, after the process that it is a fork of was killed as well."""


class IdsCost(msgspec.Struct, frozen=True, kw_only=True):
    """What ids cost: the same events with and without, in turns."""

    without_per_s: float
    """Median events a second, accepted durably and learned."""
    with_per_s: float
    cost: float
    """Median over pairs of the share of the speed that ids take away; negative where they took none."""
    pairs: list[float]


class RecoverReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in the order in which it is read."""

    benchmark: str
    command: str
    date: str
    penstock: str
    machine: Machine
    kills: int
    kills_of: dict[Target, int]
    acknowledged: int
    """Events with ids that clients were told were accepted while processes were killed."""
    learned: int
    """Events that the recorded steps learned, those that filled the log included."""
    lost: int
    duplicated: int
    torn_versions: int
    versions_seen: int
    repeated_requests: int
    """Requests that were not answered, or refused, and were sent again."""
    restart_to_learning_s: dict[str, float]
    """p50, p99 and the largest, from a kill until an event that was sent after it had been learned."""
    restart_of_s: dict[Target, dict[str, float]]
    state_hash_equal: bool
    state_hash: str
    steps: int
    lengths: list[AtLength]
    ids_cost: dict[str, IdsCost]
    seconds: float

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost, learned twice, torn or computed otherwise."""
        return not (self.lost or self.duplicated or self.torn_versions) and self.state_hash_equal


def measure(settings: Settings, command: str, note: Note) -> RecoverReport:
    """Run everything and report. Raises DidNotStart, DidNotComeBack, BenchmarkFailed and ReplayDiverged."""
    started = time.perf_counter()
    machine = describe(settings.folder)
    ids_cost = _ids_cost(settings, note) if settings.ids_events else {}
    spec = floors.spec(name="recover")
    with housed(spec, settings.folder) as house:
        lengths = []
        filled = 0
        for events in settings.lengths:
            note(f"filling the log to {events:,} events")
            _flood(house, "arrow_batch", filled, events - filled, settings.seed, "")
            filled = events
            lengths.append(_at_length(house, spec, events, settings))
            note(f"restart {lengths[-1].restart_s:.2f} s, cold {lengths[-1].cold_restart_s:.2f} s")
        traffic = Traffic(house.address, spec.name, settings.clients, settings.events_per_s, settings.seed)
        witness = Witness(house.data, spec.name)
        traffic.start()
        killer = Killer(house, spec.name, traffic, settings.seed)
        killer.recovered(time.monotonic(), "nobody")
        kills = killer.kill(settings.kills, note)
        traffic.stop()
        house.wait_until_ready()
        witness.stop()
        note("stopping the service, and taking every step again")
        house.stop()
        verified = _verified(house, spec.name, traffic.acknowledged)
    times = [kill.restart_s for kill in kills if kill.restart_s is not None]
    return RecoverReport(
        benchmark="recover",
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        penstock=version("penstock"),
        machine=machine,
        kills=len(kills),
        kills_of={target: sum(kill.target == target for kill in kills) for target in _targets(kills)},
        acknowledged=len(traffic.acknowledged),
        learned=verified.learned,
        lost=verified.lost,
        duplicated=verified.duplicated,
        torn_versions=len(witness.torn),
        versions_seen=len(witness.contents),
        repeated_requests=traffic.refused,
        restart_to_learning_s=_quantiles(times),
        restart_of_s={
            target: _quantiles([k.restart_s for k in kills if k.target == target and k.restart_s is not None])
            for target in _targets(kills)
        },
        state_hash_equal=verified.state_hash == verified.left_hash,
        state_hash=verified.left_hash,
        steps=verified.steps,
        lengths=lengths,
        ids_cost=ids_cost,
        seconds=round(time.perf_counter() - started, 1),
    )


def _at_length(house: House, spec: Spec, events: int, settings: Settings) -> AtLength:
    state = read_state(house.data)
    assert state is not None, "the house runs"
    loader = state.learners[spec.name]
    learner = descendants(loader)[0]
    memory = {pid: _memory_mb(pid) for pid in (loader, learner)}
    traffic = Traffic(house.address, spec.name, 1, 200.0, settings.seed + events)
    traffic.start()
    killer = Killer(house, spec.name, traffic, settings.seed)
    killer.recovered(time.monotonic(), "nobody")
    times: dict[Target, list[float]] = {"learner": [], "loader": []}
    for target in AT_A_LENGTH:
        at = None
        while at is None:
            # What was killed before has come back, and is not in the supervisor's file yet.
            time.sleep(0.05)
            at = killer.send_signal(target)
        times[target].append(killer.recovered(at, target))
    traffic.stop()
    return AtLength(
        events=events,
        learner_mb=memory[learner],
        loader_mb=memory[loader],
        restart_s=round(median(times["learner"]), 3),
        cold_restart_s=round(median(times["loader"]), 3),
    )


def _ids_cost(settings: Settings, note: Note) -> dict[str, IdsCost]:
    """The same stream with ids and without, in turns, so that what the machine does meanwhile strikes both."""
    found: dict[str, IdsCost] = {}
    with housed(floors.spec(name="recover"), settings.folder) as house:
        sent = 0
        forms: dict[Form, int] = {"json_batch": 1, "arrow_batch": 3}
        for form in forms:
            _flood(house, form, sent, 4 * BATCH, settings.seed, "warm-")
            sent += 4 * BATCH
        for form, times in forms.items():
            speeds: dict[str, list[float]] = {"": [], "event-": []}
            for pair in range(settings.ids_pairs):
                # Who goes first changes, so that neither always finds the warmer machine.
                for ids in ("", "event-") if pair % 2 else ("event-", ""):
                    events = times * settings.ids_events
                    run = _flood(house, form, sent, events, settings.seed, ids)
                    sent += events
                    speeds[ids].append(run.events / run.learned_s)
            shares = [1.0 - named / plain for plain, named in zip(speeds[""], speeds["event-"], strict=True)]
            found[form] = IdsCost(
                without_per_s=round(median(speeds[""])),
                with_per_s=round(median(speeds["event-"])),
                cost=round(median(shares), 3),
                pairs=[round(share, 3) for share in shares],
            )
            note(f"ids cost {found[form].cost:.1%} of {found[form].without_per_s:,.0f} events/s ({form})")
    return found


def _flood(house: House, form: Form, start: int, events: int, seed: int, ids: str) -> Flooded:
    plan = Flood(
        url=house.running.url,
        form=form,
        batch=BATCH,
        start=start,
        seed=seed,
        ids=ids,
        events=max(BATCH, events - events % BATCH),
        connections=CONNECTIONS,
    )
    return in_child("load", plan, Flooded)


def _verified(house: House, service: str, acknowledged: list[str]) -> Verified:
    ids = house.home / "acknowledged.json"
    ids.write_bytes(msgspec.json.encode(acknowledged))
    plan = Plan(data=str(house.data), service=service, acknowledged=str(ids))
    return in_child("recover_verify", plan, Verified)


def _memory_mb(pid: int) -> float:
    """The process's proportional share of memory."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(kilobytes * 1024 / 1e6, 1)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(max(seconds), 3)}


def _targets(kills: list[Kill]) -> list[Target]:
    return sorted({kill.target for kill in kills})


def words(report: RecoverReport) -> list[str]:
    """What was found, as sentences for people."""
    of = ", ".join(f"{count} of the {target}" for target, count in report.kills_of.items())
    p50, p99, longest = (report.restart_to_learning_s.get(name, float("nan")) for name in ("p50", "p99", "max"))
    machine = report.machine
    return [
        f"{report.kills} kills ({of}): {report.acknowledged:,} events acknowledged meanwhile, {report.lost} lost, "
        f"{report.duplicated} learned twice, {report.torn_versions} of {report.versions_seen:,} versions torn.",
        f"From a kill to new events learned: p50 {p50:.2f} s, p99 {p99:.2f} s, at most {longest:.2f} s.",
        "The state that was left is "
        + ("" if report.state_hash_equal else "NOT ")
        + f"that of one learner which took the same {report.steps:,} steps in one go.",
        f"{machine.cpu}, {machine.cores} cores, {machine.kernel}, Python {machine.python}; fdatasync on "
        f"{machine.filesystem} {machine.fdatasync_ms['p50']:.2f} / {machine.fdatasync_ms['p99']:.2f} ms (p50 / p99).",
        f"Ran {report.command} on {report.date}, in {report.seconds:.0f} s.",
    ]


def tables(report: RecoverReport) -> dict[str, list[dict[str, object]]]:
    """The rest, by title."""
    found: dict[str, list[dict[str, object]]] = {
        "From a kill to new events learned, s": [
            {"killed": target, "kills": report.kills_of[target], **times}
            for target, times in report.restart_of_s.items()
        ],
        "By length of the log": [
            {
                "events": at.events,
                "learner MB": at.learner_mb,
                "loaded beside, MB": at.loader_mb,
                "restart s": at.restart_s,
                "cold restart s": at.cold_restart_s,
            }
            for at in report.lengths
        ],
        "What ids cost": [
            {"sent as": form, "without, events/s": c.without_per_s, "with": c.with_per_s, "cost": f"{c.cost:.1%}"}
            for form, c in report.ids_cost.items()
        ],
    }
    return {title: rows for title, rows in found.items() if rows}
