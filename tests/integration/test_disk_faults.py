"""What the machine may do to a running service: a failing fsync, a clock that goes back, a second process, a log that
cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from up_process import PENSTOCK, environment, running, until, write_services

from penstock.client import NDJSON
from penstock.errors import LogCorrupt
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Offset
from penstock.publish.notices import last_words
from penstock.serve.intake import FAILURE_SHOWN_S
from penstock.spec import Feature, Spec
from penstock.testing.log_conformance import P0, entry
from penstock.testing.server import ServerProcess

ANSWERED = b"".join(b'{"features": {"a": %d, "b": 0}, "label": "%s"}\n' % (n, b"xy"[n % 2 :][:1]) for n in range(4))
SPEC = Spec(name="two", task="binary", features={"x": Feature(type="number")})


def example(number: int) -> dict[str, object]:
    return {"id": f"e{number}", "features": {"x": float(number)}, "label": number % 2}


def test_after_a_failed_fsync_nothing_is_acknowledged_or_retried_and_status_says_so_until_a_restart(
    tmp_path: Path,
) -> None:
    fault = tmp_path / "fault"
    with ServerProcess(tmp_path, SPEC, failing_while=fault) as server:
        server.publish("two", 1)
        assert server.post("/v1/two/examples", example(0)).status == 201
        assert server.request("GET", "/health/ready").status == 200

        fault.touch()
        assert server.post("/v1/two/examples", example(1)).status == 503
        synced = fault.read_text()
        assert synced == "x"
        # The disk is well again, but what the failed fsync left behind is not known: nothing is tried.
        fault.unlink()
        for number in (1, 2):
            refused = server.post("/v1/two/examples", example(number))
            assert refused.status == 503
            assert "fsync failed" in refused.json()["detail"]
        time.sleep(FAILURE_SHOWN_S + 0.5)
        assert not fault.exists()
        health = server.get("/v1/two")["health"]
        assert health["status"] == "degraded"
        assert "fsync failed (Input/output error); nothing is written until it is opened again" in health["worst"]
        ready = server.request("GET", "/health/ready")
        assert ready.status == 503
        assert "fsync failed" in ready.json()["worst"]
        assert server.get("/v1/two")["events"]["accepted"] == 1
        # Predictions go on.
        assert server.post("/v1/two/predict", {"features": {"x": 1.0}}).status == 200

        server.kill()
        server.start()
        server.publish("two", 2)
        answers = [server.post("/v1/two/examples", example(number)).json() for number in (0, 1, 2)]
        # The first was acknowledged. The second may have survived, unacknowledged; its id makes it one event.
        assert answers[0]["duplicates"] == 1
        assert answers[1]["accepted"] + answers[1]["duplicates"] == 1
        assert [i for batch in server.logged("two") for i in batch.ids or ()] == ["e0", "e1", "e2"]
        assert server.request("GET", "/health/ready").status == 200


def test_a_clock_that_goes_back_stops_the_logs_time_and_nothing_else(tmp_path: Path) -> None:
    now = [5000.0]
    writer = LocalLogWriter(tmp_path, P0, segment_bytes=300, clock=lambda: now[0])
    for at in (5000.0, 4000.0, 10.0, 5001.0):
        now[0] = at
        writer.append([entry(b"x" * 100)])
    # By a clock of long ago nothing is old; by the right one only what is.
    assert writer.retain(Offset(4), 10**9, 100.0, now=10.0).segments == 0
    assert writer.retain(Offset(4), 10**9, 100.0, now=5050.0).segments == 0
    assert writer.retain(Offset(4), 10**9, 100.0, now=5200.0).segments > 0
    reader = LocalLogReader(tmp_path)
    first = reader.starts()[P0]
    assert [frame.time for frame in reader.read(P0, first, Offset(4))] == [5000.0, 5000.0, 5000.0, 5001.0][first:]
    reader.close()
    writer.close()


def test_a_learner_that_cannot_read_the_log_says_where_and_status_repeats_it(tmp_path: Path) -> None:
    files = write_services(tmp_path / "services")
    one = files / "kind.yaml"
    data = tmp_path / "data"
    with running(one, data) as up:
        client = up.client()
        client.examples("kind", ANSWERED, media=NDJSON)
        until(lambda: client.status("kind")["events"]["learned"] == 4, "the events were not learned")
        assert up.stop() == 0
    # A whole append behind what the learner has taken, with one bit of it flipped and another one behind it.
    log = data / "kind" / "log"
    writer = LocalLogWriter(log, P0)
    (at,) = writer.append([entry(b"a" * 200)])
    writer.append([entry(b"b" * 200)])
    writer.close()
    segment = max((log / "0").glob("*.log"))
    content = bytearray(segment.read_bytes())
    byte = content.find(b"PFRM", content.find(b"a" * 200) - 60)
    content[byte + 50] ^= 1
    segment.write_bytes(content)
    told = f"{segment} at byte {byte}: the frame's checksum does not match its bytes (partition 0, offset {at})"

    with running(one, data) as up:
        client = up.client()
        until(lambda: told in client.status("kind")["health"]["worst"], "status does not say what is wrong")
        assert client.status("kind")["health"]["status"] == "degraded"
        # Nothing was skipped: the learner stands in front of the broken frame, and says so each time.
        until(lambda: up.state.restarts.get("learner kind", 0) >= 2, "the learner went on")
        assert client.status("kind")["position"] == {"0": at}
        assert told in up.output.read_text()


def test_last_words_are_heard_until_a_learner_reports_again(tmp_path: Path) -> None:
    assert last_words.heard(tmp_path, 1e9) == ""
    last_words.leave(tmp_path, LogCorrupt(file="f", byte=3, reason="it is broken"))
    assert "damaged in f at byte 3" in last_words.heard(tmp_path, 0.0)
    os.utime(tmp_path / last_words.FILE_NAME, (time.time() - 60.0,) * 2)
    assert last_words.heard(tmp_path, 59.0) == ""
    assert "damaged in f at byte 3" in last_words.heard(tmp_path, 61.0)


def test_a_second_house_on_the_same_folder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    files = write_services(tmp_path / "services")
    with running(files / "kind.yaml", tmp_path / "data") as up:
        second = subprocess.run(
            [*PENSTOCK, "up", str(files / "kind.yaml"), "--data", str(tmp_path / "data"), "--port", "0"],
            capture_output=True,
            text=True,
            env=environment(tmp_path),
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        assert f"is in use by process {up.process.pid}" in second.stderr
        worker = subprocess.run(
            [sys.executable, "-m", "penstock", "fsck", str(tmp_path / "data")],
            capture_output=True,
            text=True,
            env=environment(tmp_path),
            timeout=60,
            check=False,
        )
        assert worker.returncode == 1
        assert f"is in use by process {up.process.pid}" in worker.stderr
        assert up.client().status("kind")["health"]["status"] in ("ok", "starting")


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_passes_and_a_failed_fsync_does_not(tmp_path: Path, lasting: bool) -> None:
    import errno

    writer = LocalLogWriter(tmp_path, P0)
    error = OSError(errno.EIO if lasting else errno.ENOSPC, "broken")

    def fail(*_: object) -> int:
        raise error

    real = os.pwritev
    os.pwritev = fail  # type: ignore[assignment]
    try:
        with pytest.raises(Exception, match="broken") as caught:
            writer.append([entry(b"x")])
    finally:
        os.pwritev = real
    assert caught.value.lasting is lasting  # type: ignore[attr-defined]
    writer.close()
