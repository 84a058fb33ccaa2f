"""The compiled part of learning: who loads it, and where its machine code is kept."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from numba import njit

from penstock.learn.fast.kernels import compiled

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


def test_a_second_process_reads_what_the_first_has_compiled() -> None:
    code = """
import sys
from penstock.learn.fast import kernels
stats = [f.stats for f in vars(kernels).values() if hasattr(f, "stats")]
print(len(stats), sum(sum(s.cache_hits.values()) for s in stats), sum(sum(s.cache_misses.values()) for s in stats))
"""
    _told(code)
    made, hits, misses = map(int, _told(code).split())
    assert made > 4
    assert hits == made
    assert misses == 0
