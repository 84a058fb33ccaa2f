"""Every code block of the README and the docs runs, in order, the way a reader would type it.

A ``yaml`` block with ``title="service.yaml"`` is written to that file, ``bash`` and ``python`` blocks run in the same
folder, and anything else (``text``, ``json``) only shows what to expect. Servers that a page starts in the background
are stopped when it ends.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^```(?P<kind>\w+)(?: title=\"(?P<title>[\w./-]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
RUN = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}


class Block(NamedTuple):
    kind: str
    title: str | None
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m["kind"], m["title"], m["text"], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


def runnable(page: Path) -> bool:
    return any(block.kind in RUN for block in blocks_of(page))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A reader's environment: an empty folder, the installed commands, and a port that nobody else uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yield os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PENSTOCK_PORT": str(port),
        "PENSTOCK_URL": f"http://127.0.0.1:{port}",
    }
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = (process / "cwd").resolve() == tmp_path and b"penstock" in (process / "cmdline").read_bytes()
        except OSError:
            continue  # It ended in the meantime, or is somebody else's.
        if ours:
            os.kill(int(process.name), signal.SIGTERM)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path, reader: dict[str, str]) -> None:
    for block in blocks_of(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        if block.kind not in RUN:
            continue
        # Output goes to a file: a server left running in the background would keep a pipe open for ever.
        printed = tmp_path / "printed.txt"
        with printed.open("w") as out:
            done = subprocess.run([*RUN[block.kind], block.text], cwd=tmp_path, env=reader, stdout=out, stderr=out)
        assert done.returncode == 0, f"{page.name}:{block.line} ended with {done.returncode}:\n{printed.read_text()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
