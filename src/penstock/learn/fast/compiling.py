"""Functions as machine code, made once and kept. Only what learns imports this, since it loads numba.

Machine code is kept beside the file of its function, in the user's cache folder where that cannot be written, and
nowhere where neither can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys

Code = TypeVar("Code", bound=Callable[..., Any])

SIDE_BY_SIDE = {"reassoc", "contract", "nsz"}
"""What the compiler may do where a sum's order does not matter. It decides once, so results stay the same; what is
infinite or no number stays that, too."""


_parts: list[Callable[[], None]] = []
"""Make each part that nobody needed yet, in the order in which they stand."""


class _Kept(FunctionCache):
    """Reads machine code without loading what numba knows of Python's and NumPy's functions: that takes as long as all
    the code. The compiler loads it by itself when there is something to compile."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # What allocates arrays is all that running code needs of it.
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)  # type: ignore[no-untyped-call]


class _KeptWhole(_Kept):
    """The same for a function that has parts: they are made before it is compiled."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            _make_parts()
        return found


def compiled(
    signature: str, error_model: Literal["python", "numpy"] = "python", *, sums: bool = False, part: bool = False
) -> Callable[[Code], Code]:
    """Machine code for arguments of these types, made at once or read from where an earlier process kept it. With the
    error model "numpy" a division by zero raises nothing, and loops of divisions take several side by side; with
    ``sums`` so do loops of sums. A ``part`` is called by compiled functions alone: it is in their code, and has none of
    its own before one of them is compiled."""
    fastmath = SIDE_BY_SIDE if sums else False
    cache: Any = _Kept if part else _KeptWhole

    def made(code: Code) -> Code:
        dispatcher: Any = njit(error_model=error_model, fastmath=fastmath)(code)

        def make() -> None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()

        try:
            dispatcher._cache = cache(code)
        except RuntimeError:
            # That is what numba raises where no folder can be written.
            _make_parts()
        if part:
            _parts.append(make)
        else:
            make()
        return cast(Code, dispatcher)

    return made


def _make_parts() -> None:
    while _parts:
        _parts.pop(0)()
