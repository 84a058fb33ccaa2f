"""A real `penstock up` in a child process: the demo's two services, started, looked at and stopped like anyone's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from penstock.control.folder import read_state
from penstock.errors import PenstockError
from penstock.facts import Consolidated, Fact, GivenUp, Held, Promoted, RolledBack, TakenOut
from penstock.publish.records.receipts import SqliteReceipts

SERVICE_FILES = {
    "digits.yaml": """\
# Handwritten digits, 8 by 8 pixels: ten classes that arrive two at a time.
name: digits
task: multiclass
features:
  pixels: vector[64]
label:
  name: digit
  classes: ["0", "1"] # known from the start; the others are added when they arrive
learn:
  random_features: 0 # a light fast tier that draws straight lines; the base finds the curves
  checkpoint_every: 10s
consolidate:
  when: schedule
  every_events: 2900 # a first base when six classes have arrived, wrong labels among them
gate:
  good_after_events: 128 # classes arrive fast here: what is known to be good must not be older than the newest of them
  canary: [] # two minutes are too short for a share of the traffic to show anything
serve:
  record_predictions: never # the labels come with their pixels, as examples
""",
    "flow.yaml": """\
# The flow of a water pipeline, one hour ahead: how much it will change, in litres a second.
name: flow
task: regression
features:
  hour: {type: category, buckets: 64} # of the day, 00 to 23
  day_sin: number
  day_cos: number
  last_change: number      # of the last hour
  change_before: number    # of the hour before
  above_yesterday: number  # the last value less that of the same hour a day ago
  change_yesterday: number # how it went on from there
label:
  name: change
  wait: 1h # the answers come as feedback to predictions
""",
}
START_S = 60.0
"""Until every service answers; seconds on a slow disk."""
STOP_S = 30.0
"""Until the processes have drained after SIGTERM; then they are killed."""


class DidNotStart(PenstockError):
    """`penstock up` did not get ready: {reason}"""

    hint = "Its output:\n{output}"


class FolderNotEmpty(PenstockError):
    """{folder} is not empty, and the demo counts from nothing"""

    hint = "Choose a new folder with --data."
    exit_code = 2


class House:
    """The supervisor's process and what can be asked of it."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise FolderNotEmpty(folder=folder)
        self.files = folder / "services"
        self.data = folder / "data"
        self.files.mkdir(parents=True)
        for name, content in SERVICE_FILES.items():
            (self.files / name).write_text(content)
        self._output = folder / "up.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""
        """Where it answers, once it has started."""

    def start(self) -> None:
        """Start it and wait until every service answers. Raises DidNotStart."""
        command = [sys.executable, "-m", "penstock", "up", str(self.files), "--data", str(self.data), "--port", "0"]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self._output.open("wb") as output:
            # A session of its own: Ctrl-C reaches the demo alone, which then stops the child in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | one_thread,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None:
                raise DidNotStart(reason=f"it ended with {self._process.returncode}", output=self.output())
            if time.monotonic() > deadline:
                raise DidNotStart(reason=f"no answer within {START_S:g} s", output=self.output())
            time.sleep(0.05)

    def __enter__(self) -> House:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def learner_pid(self, service: str) -> int | None:
        """The process that learns for a service now, from the supervisor's state; None between two of them."""
        state = read_state(self.data)
        return None if state is None else state.learners.get(service)

    def kill_learner(self, service: str) -> int:
        """SIGKILL to the service's learner; its process id. Raises ProcessLookupError when it is not there."""
        pid = self.learner_pid(service)
        if pid is None:
            raise ProcessLookupError(f"no learner of {service} is running")
        os.kill(pid, signal.SIGKILL)
        return pid

    def verdicts(self, service: str, since: float) -> list[Held | RolledBack | TakenOut]:
        """What the gate refused, withdrew and took out since then (seconds since 1970), oldest first."""
        facts = self._facts(service, ("held", "rolled_back", "taken_out"))
        return [fact for fact in facts if isinstance(fact, Held | RolledBack | TakenOut) and fact.at >= since]

    def consolidations(self, service: str) -> list[Consolidated | Promoted | GivenUp]:
        """What became of the bases that were trained, oldest first."""
        facts = self._facts(service, ("consolidated", "promoted", "given_up"))
        return [fact for fact in facts if isinstance(fact, Consolidated | Promoted | GivenUp)]

    def _facts(self, service: str, kinds: Sequence[str]) -> list[Fact]:
        receipts = SqliteReceipts(self.data / service / "versions.sqlite", service, read_only=True)
        try:
            return sorted(receipts.facts(100, kinds), key=lambda fact: fact.at)
        finally:
            receipts.close()

    def output(self) -> str:
        """The last lines that the processes wrote."""
        try:
            return "\n".join(self._output.read_text(errors="replace").splitlines()[-20:])
        except OSError:
            return ""

    def stop(self) -> int | None:
        """Drain and end every process; the supervisor's exit code, or None where it had to be killed."""
        process = self._process
        if process is None:
            return 0
        self._process = None
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Whatever the supervisor left behind is in its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _ready(self) -> bool:
        state = read_state(self.data)
        if state is None or not state.ready:
            return False
        self.address = state.address
        return True
