"""`penstock ingest` against a running house: every format, interruptions, and files that are not right."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from up_process import PENSTOCK, Up, all_learned, environment, penstock, running, until, write_services

from penstock.cli.main import run
from penstock.client import Client

ROWS = 3000


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("house")
    with running(write_services(home / "services"), home / "data") as up:
        yield up


@pytest.fixture
def client(house: Up) -> Iterator[Client]:
    with house.client() as client:
        yield client


def accepted(client: Client, service: str) -> int:
    return int(client.status(service)["events"]["accepted"])


def ingest(house: Up, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[str]:
    return penstock("ingest", *arguments, home=house.data.parent, url=house.state.address, given=given)


def test_every_format_is_sent_learned_and_answered(house: Up, client: Client, tmp_path: Path) -> None:
    draw = random.Random(0)
    amounts = [draw.uniform(-1, 1) for _ in range(ROWS)]
    csv = tmp_path / "fraud.csv"
    lines = [f"{a:.5f},{'' if i % 7 else 'bonn'},{int(a > 0)}" for i, a in enumerate(amounts)]
    csv.write_text("\n".join(["amount,city,is_fraud", *lines]) + "\n")
    parquet = tmp_path / "price.parquet"
    columns = {"area": amounts, "view": [[a, 1.0] for a in amounts], "price": [3 * a for a in amounts]}
    pyarrow.parquet.write_table(pa.table(columns), parquet)
    jsonl = tmp_path / "kind.jsonl"
    flat = [json.dumps({"a": a, "b": -a, "kind": "up" if a > 0 else "down"}) for a in amounts]
    jsonl.write_text("\n".join(flat))
    before = {service: accepted(client, service) for service in ("fraud", "price", "kind")}
    for service, file in {"fraud": csv, "price": parquet, "kind": jsonl}.items():
        done = ingest(house, service, str(file), "--batch", "700")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"3,000 events of {file} are on the server's disk: ")
    events = all_learned(client)
    assert events == {service: count + ROWS for service, count in before.items()}
    assert client.predict("fraud", {"amount": 0.8})["label"] == "1"
    assert client.predict("fraud", {"amount": -0.8})["label"] == "0"
    assert abs(client.predict("price", {"area": 0.5, "view": [0.5, 1.0]})["mean"] - 1.5) < 0.5
    assert client.predict("kind", {"a": 0.8, "b": -0.8})["label"] == "up"
    again = ingest(house, "fraud", str(csv))
    assert again.returncode == 0
    assert "was sent to fraud before, all 3,000 rows" in again.stderr
    assert accepted(client, "fraud") == events["fraud"]


def test_an_interrupted_run_goes_on_where_it_was(house: Up, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "kind.jsonl"
    file.write_text("".join(f'{{"a": {i}, "b": 1, "kind": "x"}}\n' for i in range(ROWS)))
    before = accepted(client, "kind")
    env = environment(house.data.parent, PENSTOCK_URL=house.state.address)
    command = [*PENSTOCK, "ingest", "kind", str(file), "--rate", "2000", "--batch", "100"]
    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until(lambda: accepted(client, "kind") >= before + 300, "nothing was sent")
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=30)
    assert first.returncode == 130
    assert said.decode().strip() == "Error: interrupted"
    part = accepted(client, "kind")
    assert before < part < before + ROWS
    second = ingest(house, "kind", str(file), "--json")
    assert "Going on behind row " in second.stderr
    sent = json.loads(second.stdout)
    assert sent["rows"] == ROWS
    assert sent["done"]
    assert accepted(client, "kind") == before + ROWS
    # Sent again on purpose: the server knows the rows' ids and keeps none of them twice.
    third = ingest(house, "kind", str(file), "--no-resume", "--json")
    assert json.loads(third.stdout)["duplicates"] == ROWS
    assert accepted(client, "kind") == before + ROWS


def test_a_server_that_is_killed_meanwhile_loses_and_doubles_nothing(house: Up, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "fraud.csv"
    file.write_text("amount,is_fraud\n" + "".join(f"{i},{i % 2}\n" for i in range(ROWS)))
    before = accepted(client, "fraud")
    env = environment(house.data.parent, PENSTOCK_URL=house.state.address)
    command = [*PENSTOCK, "ingest", "fraud", str(file), "--rate", "3000", "--batch", "50"]
    sender = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: accepted(client, "fraud") >= before + 200, "nothing was sent")
    house.kill(house.state.servers["0"])
    out, err = sender.communicate(timeout=60)
    assert sender.returncode == 0, err
    assert b"3,000 events of" in out
    assert all_learned(client)["fraud"] == before + ROWS


def test_rows_come_through_a_pipe(house: Up, client: Client) -> None:
    before = accepted(client, "kind")
    rows = b'{"a": 1, "kind": "x"}\n{"features": {"a": 2}, "label": "y", "id": "mine"}\n'
    done = ingest(house, "kind", "-", given=rows)
    assert done.returncode == 0, done.stderr
    table = ingest(house, "kind", "-", "--format", "csv", given=b"a,b,kind\n1,2,x\n1,,y\n")
    assert table.returncode == 0, table.stderr
    assert accepted(client, "kind") == before + 4


BAD = {
    "conversion.csv": (b"amount,is_fraud\n1,0\nmuch,1\n", ", row 2: column 'amount' should hold a number, not 'much'"),
    "ragged.csv": (b"amount,is_fraud\n1,0\n2,1,3\n", ", row 2: has 3 values where the header has 2"),
    "unknown.csv": (b"amuont,is_fraud\n1,0\n", ": column 'amuont' is no feature of 'fraud' (did you mean 'amount'?)"),
    "spare.csv": (b"amount,zzz,is_fraud\n1,1,0\n", "column 'zzz' is no feature of 'fraud'; leave it out with --skip"),
    "twice.csv": (b"amount,amount,is_fraud\n1,1,0\n", ": column 'amount' is there twice"),
    "nolabel.csv": (b"amount,city\n1,rome\n", ": there is no column 'is_fraud' with the label; name it with --label"),
    "missing.csv": (b"amount,is_fraud\n1,0\n2,\n", ", row 2: the label, column 'is_fraud', is missing"),
    "infinite.csv": (b"amount,is_fraud\n1,0\ninf,1\n", ", row 2: column 'amount' is infinite"),
    "quote.csv": (b'city,is_fraud\n"k,1\n' + b"a,1\n" * 2_200_000, ": a row of more than 8 MiB is no event"),
    "class.csv": (b"amount,is_fraud\n1,0\n2,maybe\n", ", row 2: "),
    "latin.csv": (b"city,is_fraud\nrome,0\nk\xf6ln,1\n", ", row 2: column 'city' is not UTF-8"),
    "empty.csv": (b"", ": the file is empty"),
    "header.csv": (b"amount,is_fraud\n", ": the file has no rows"),
    "cut.parquet": (b"PAR1 and then nothing", ": is no whole Parquet file: "),
    "text.jsonl": (b'{"amount": 1, "is_fraud": 0}\nnot json\n', ", row 2: is no JSON object: "),
    "latin.jsonl": (b'{"city": "k\xf6ln", "is_fraud": 0}\n', ", row 1: is no JSON object: "),
    "type.jsonl": (b'{"amount": 1, "is_fraud": 0}\n{"amount": "1", "is_fraud": 0}\n', ", row 2: "),
    "nolabel.jsonl": (b'{"amount": 1}\n', ", row 1: "),
    "table.xlsx": (b"PK", ": what a .xlsx holds is not known; say --format"),
}


def test_a_bad_file_is_refused_with_its_name_and_row_and_nothing_of_its_request_is_kept(
    house: Up,
    client: Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = accepted(client, "fraud")
    for name, (content, reason) in BAD.items():
        file = tmp_path / name
        file.write_bytes(content)
        assert run(["ingest", "fraud", str(file), "--url", client.url]) == 1, name
        said = capsys.readouterr()
        assert said.out == "", name
        assert said.err.startswith(f"Error: {file}")
        assert reason in said.err, name
    assert accepted(client, "fraud") == before
    skipped = ingest(house, "fraud", str(tmp_path / "spare.csv"), "--skip", "zzz")
    assert skipped.returncode == 0, skipped.stderr
    assert accepted(client, "fraud") == before + 1
    gone = ingest(house, "fraud", str(tmp_path / "gone.csv"))
    assert gone.returncode == 1
    assert gone.stderr == f"Error: {tmp_path / 'gone.csv'}: No such file or directory\n"
    assert os.listdir(tmp_path).count("gone.csv") == 0


def test_a_request_too_large_for_the_server_says_what_to_do(house: Up, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join(json.dumps({"city": letter * 5_000_000, "is_fraud": 0}) for letter in "xy"))
    done = ingest(house, "fraud", str(file))
    assert done.returncode == 1
    assert "rows 1 to 2: " in done.stderr
    assert "try a smaller --batch" in done.stderr
