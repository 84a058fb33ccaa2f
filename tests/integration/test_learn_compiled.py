"""The compiled part of learning: who loads it, and where its machine code is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numba import njit

from penstock.learn.fast.compiling import compiled

TOLD = "print([name in sys.modules for name in ('numba', 'penstock.learn.fast.kernels')])"


def _told(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_who_predicts_loads_no_compiler_and_who_learns_has_it_before_the_first_event() -> None:
    predicts = "import sys, penstock.learn.fast.predictor, penstock.serve.app"
    assert _told(f"{predicts}; {TOLD}") == "[False, False]"
    learns = """
import sys
from penstock.learn.fast.model import FastModel
from penstock.spec import Feature, Spec
FastModel(Spec(name="s", task="binary", features={"x": Feature(type="number")}))
"""
    assert _told(learns + TOLD) == "[True, True]"


def _twice_of(filename: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(compile("def twice(x):\n    return 2 * x", filename, "exec"), namespace)
    return namespace["twice"]


def test_code_that_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    # Numba finds no folder for a function without a file, as for a file in folders that cannot be written.
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit("f8(f8)", cache=True)(_twice_of("<nowhere>"))
    assert compiled("f8(f8)")(_twice_of("<nowhere>"))(2.0) == 4.0


def test_a_second_process_reads_what_the_first_has_compiled_and_loads_no_more_than_that(tmp_path: Path) -> None:
    (tmp_path / "adding.py").write_text(
        """
from penstock.learn.fast.compiling import compiled

@compiled("f8(f8)", part=True)
def twice(x):
    return 2 * x

@compiled("f8(f8[::1])")
def added(numbers):
    total = 0.0
    for number in numbers.copy():
        total += twice(number)
    return total
"""
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy, adding
print(adding.added(numpy.ones(3)), sum(adding.added.stats.cache_hits.values()), len(adding.twice.signatures))
print([name in sys.modules for name in ("numba.cpython.setobj", "scipy.linalg")])
"""
    assert _told(code).splitlines() == ["6.0 0 1", "[True, True]"]
    assert _told(code).splitlines() == ["6.0 1 0", "[False, False]"]


def test_who_learns_with_code_that_is_kept_loads_no_compiler_of_arrays() -> None:
    code = """
import sys, penstock.learn.fast.machine_code
print([name in sys.modules for name in ("numba.cpython.setobj", "scipy.linalg")])
"""
    _told(code)
    assert _told(code) == "[False, False]"
