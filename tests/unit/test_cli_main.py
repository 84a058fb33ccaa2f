"""The front door: what it imports, what it says, and the codes with which it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock.cli.main import COMMANDS, run
from penstock.specfile.reader import load

HEAVY = ("numpy", "pyarrow", "rich", "urllib3", "yaml", "uvicorn", "asyncio")


@pytest.mark.parametrize(
    "program",
    [
        "import penstock",
        "from penstock.cli.main import run; run(['--help'])",
        "from penstock.cli.main import run; run([])",
    ],
)
def test_asking_for_help_imports_nothing_heavy(program: str) -> None:
    code = f"import sys\n{program}\nprint('heavy:', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_what_starts_all_others_loads_nothing_that_only_they_need() -> None:
    supervisor = "import penstock.control.house, penstock.control.portfolio, penstock.control.sensor"
    governor = "import penstock.control.governor, penstock.control.statement"
    for program, heavy in (
        (supervisor, ("numpy", "pyarrow", "http.client", "numba")),
        (governor, ("numba", "pyarrow")),
    ):
        code = f"import sys\n{program}\nprint('heavy:', *[name for name in {heavy} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_help_lists_every_command_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line.strip()] == list(COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_itself_as_the_list_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: penstock {command} ")
    if command not in ("demo", "bench"):
        assert COMMANDS[command][1] in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["up"], "Missing argument 'PATHS...'"),
        (["up", "x.yaml", "--port", "99999"], "99999 is not in the range"),
        (["ingest", "s"], "Missing argument 'FILE|-'"),
        (["why", "s", "one"], "Give a service and the number of one of its versions"),
        (["predict", "s", "{not json"], "These features are not JSON"),
        (["predict", "s", "[1, 2]"], "Features are JSON objects"),
        (["check", "/nowhere/s.yaml"], "/nowhere/s.yaml: there is no such file"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_nobody_answering_ends_with_three_and_the_command_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["status"], ["predict", "s", "{}"], ["feedback", "s", "i", "1"], ["versions"], ["why", "1"]):
        assert run([*arguments, "--url", "127.0.0.1:1"]) == 3
        assert capsys.readouterr().err == (
            "Error: No server answers at http://127.0.0.1:1: connection refused\n"
            "Hint: Start one with: penstock up service.yaml\n"
        )


def test_init_writes_a_file_that_check_accepts_and_keeps_one_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "service.yaml")
    assert run(["init", "--name", "fraud", "--label", "stolen", "--out", out]) == 0
    assert load(out).label.name == "stolen"
    assert run(["check", out]) == 0
    assert "fraud, binary of 'stolen' from 3 features" in capsys.readouterr().out
    Path(out).write_text("mine")
    assert run(["init", "--out", out]) == 1
    assert Path(out).read_text() == "mine"
    assert "--force replaces it" in capsys.readouterr().err
    assert run(["init", "--out", "-", "--task", "regression"]) == 0
    assert "\ntask: regression\n" in capsys.readouterr().out


def test_check_prints_every_fault_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("name: s\ntask: binary\nfeatures: {x: number}\nlearn:\n  half_lifes: [1]\n  sed: 3\n")
    assert run(["check", str(file)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {file}:5:3: learn.half_lifes: unknown field (did you mean 'half_lives'?)",
        f"{file}:6:3: learn.sed: unknown field (did you mean 'seed'?)",
        f"Hint: Correct what is named above, then run: penstock check {file}",
    ]
    assert run(["check", "--json", str(file)]) == 2
    said = json.loads(capsys.readouterr().out)
    assert not said["valid"]
    assert [(fault["line"], fault["path"]) for fault in said["faults"]] == [(5, "learn.half_lifes"), (6, "learn.sed")]


def test_the_public_names_are_few_and_there() -> None:
    assert len(penstock.__all__) <= 15
    assert sorted(penstock.__all__) == penstock.__all__
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        penstock.nothing  # noqa: B018


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which $P is the command line; the exit code is that of its pipe's first command."""
    script = f"P='{sys.executable} -m penstock'; {line}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)


def test_output_that_nobody_reads_on_is_no_failure(tmp_path: Path) -> None:
    for number in range(3_000):
        (tmp_path / f"{number}.yaml").write_text(f"name: s{number}\ntask: binary\nfeatures: {{a: number}}\n")
    done = shell(f"$P check {tmp_path} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_output_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: s\ntask: binary\nfeatures: {a: number}\n")
    done = shell(f"$P check {tmp_path} >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_not_text_is_said_so() -> None:
    done = shell("printf '\\xff\\xfe{' | $P predict orders")
    assert done.returncode != 0
    assert "not valid UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
