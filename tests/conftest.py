"""What all tests share: Hypothesis never judges by the clock, since nothing here depends on how busy the machine is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import penstock.learn.fast.machine_code  # noqa: F401 - compiled here once, and not by each process that a test starts

settings.register_profile("penstock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penstock")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what is generated now as what is expected")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of its name in the folder ``golden`` beside the test, or writes it there."""
    folder = Path(request.path).parent / "golden"

    def compare(name: str, text: str) -> None:
        if request.config.getoption("--update-golden"):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        assert text == (folder / name).read_text()

    return compare
